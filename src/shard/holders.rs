//! The connections of a shard whose input is kept: see `input.rs`.

use crate::base::ids::Sock;

/// Below this many the list of holders is not cleaned: it costs nothing.
pub const CLEAN_AT_LEAST: usize = 64;

/// Of the largest, how many a tick looks for: more are not ended in one.
pub const WORST_MAX: usize = 256;

/// Connections of a shard whose input is kept. Some hold none any more: they go when the list has doubled, or is looked at.
/// Bound: each connection once, and as many that are gone.
#[derive(Default)]
pub(in crate::shard) struct Holders {
    pub all: Vec<Sock>,
    pub clean_at: usize,
    /// The largest of them in this tick, the largest last; empty until somebody finds no room.
    pub worst: Vec<(u64, Sock)>,
    pub looked: bool,
}

impl Holders {
    /// A tick begins: what was found in the last one is old.
    pub fn begin(&mut self) {
        self.worst.clear();
        self.looked = false;
    }
}
