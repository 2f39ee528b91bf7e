//! What more than one part of an engine needs.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::engine::nodes::Others;
use crate::hub::Namespaces;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub history_read_max: usize,
    pub recovery_max: usize,
    /// Names of channels must be subjects.
    pub subjects: bool,
}

/// What more than one thread reads.
pub struct Shared {
    pub namespaces: RwLock<Arc<Namespaces>>,
    pub others: Others,
}
