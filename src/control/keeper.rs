//! Where what the control plane knows is kept beyond this process.

use crate::record::StoredRecord;

pub trait Keeper: Send {
    /// There is something to keep: from now on it wants copies.
    fn begin(&mut self);

    /// What is new. `copies`: a part of a copy of everything. False when there is no room for it now: nothing of it is kept.
    #[must_use]
    fn keep(&mut self, record: StoredRecord, copies: bool) -> bool;

    /// The number of the copy that it wants; 0: none.
    fn wants_copy(&mut self) -> u64;

    fn copied(&mut self, number: u64);
}
