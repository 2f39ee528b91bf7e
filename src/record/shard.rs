//! Records of a shard itself.

use crate::record::envelope::{Record, RecordKind};
use crate::record::field::record;

record! {
    pub struct ShardRecord {
        /// Its own numbers, then those of peers that came when there were more shards.
        books: Vec<BookRecord>,
    }

    /// Numbers of peers that have the same shard in them.
    pub struct BookRecord {
        label: u16,
        /// How many were given.
        given: u32,
        /// No number was given with this generation or a later one.
        generation: u32,
    }
}

impl Record for ShardRecord {
    const KIND: RecordKind = RecordKind::Shard;
}
