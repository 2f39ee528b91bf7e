//! What is counted of a store.

use std::sync::atomic::{AtomicU8, AtomicU64};

/// Whether the store takes anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    #[default]
    Good = 0,
    /// No room on the disk.
    DiskFull = 1,
    /// No room within `bytes_max`.
    BytesMax = 2,
    /// Read-only until the process ends.
    Failed = 3,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct StoreStats {
    pub(super) appended_bytes: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) copies: AtomicU64,
    /// Publications that were refused.
    pub(super) refused: AtomicU64,
    /// Publications that are in memory alone.
    pub(super) unwritten: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) health: AtomicU8,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsView {
    pub appended_bytes: u64,
    pub records: u64,
    pub batches: u64,
    pub errors: u64,
    pub copies: u64,
    pub refused: u64,
    pub unwritten: u64,
    pub disk_bytes: u64,
    pub segments: u64,
    pub queue_bytes: u64,
    pub health: Health,
}
