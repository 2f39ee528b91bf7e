//! How many taps there are.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[derive(Clone, Debug, Default)]
pub struct Taps(pub Arc<AtomicUsize>);
