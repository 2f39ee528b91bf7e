//! One entry of a log.

use std::sync::Arc;

use crate::base::publication::Publication;
use crate::base::time::Time;

/// What an entry costs beside its payload, info and tags, in bytes: the publication, its reference counts and its place
/// in the ring. Without it a log of small payloads would take several times its bound.
pub const ENTRY_BYTES: usize = size_of::<Publication>() + 2 * size_of::<usize>() + size_of::<Entry>();

/// Bytes that `publication` counts for in [`HubLimits::history_bytes_max`](crate::hub::HubLimits).
pub fn entry_bytes(publication: &Publication) -> usize {
    ENTRY_BYTES + publication.weight()
}

#[derive(Debug)]
pub(super) struct Entry {
    pub publication: Arc<Publication>,
    /// From this instant on it is gone.
    pub expires: Time,
}
