//! What an inbox is made of.

pub use std::sync::atomic::{AtomicBool, Ordering};
pub use std::sync::{Arc, OnceLock};

pub use crossbeam::queue::ArrayQueue;
