//! What more than one part of an engine needs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::base::blocks::Blocks;
use crate::base::histogram::Histogram;
use crate::engine::asked::AskedOfServer;
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
    /// What other nodes were asked.
    pub asked: AskedOfServer,
    pub blocks: Arc<Blocks>,
    /// Jobs that were given to servers and are not finished.
    pub under_way: AtomicU64,
    /// How long publishes took.
    pub publishes: Mutex<Histogram>,
    /// For an answer of a server.
    pub timeout: Duration,
}
