//! What is said between an owner and who reads or writes its store.

use crate::base::ids::Offset;
use crate::base::time::Time;
use crate::hub::cursors::CursorKey;
use crate::record::StoredRecord;

/// By how much the offsets of a channel jump when what was published last may not have been written: more than can be on its
/// way to a disk, and a hundred-millionth of what there is.
pub const OFFSET_JUMP: u64 = 1 << 28;

/// The clock of a process that reads a store.
#[derive(Clone, Copy, Debug)]
pub struct StoredMoment {
    pub now: Time,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// What became of an entry that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// It does not follow what was read of its channel before: what is between these offsets is missing.
    After(Offset, Offset),
    /// This configuration has no durable channel of that name.
    NotWanted,
    /// It contradicts what was read before.
    Wrong,
}

/// How far a copy has come.
pub(super) struct Copying {
    pub number: u64,
    pub slot: u32,
    /// Of the channel at `slot`, everything from this offset on was given.
    pub below: Option<Offset>,
    /// Of the channel at `slot` the log was given, and the cursors up to this one.
    pub cursors: Option<CursorKey>,
    /// The next key by its number, and the first that is younger than the copy.
    pub keys: Option<(u64, u64)>,
    /// There was no room for it.
    pub unsent: Option<StoredRecord>,
}
