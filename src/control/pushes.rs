//! Answers to pushes that had an idempotency key, for those who repeat them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::hub::limits::IDEMPOTENCY_KEY_TTL;

/// Keys remembered: 33 pushes with a key a second for the five minutes. At the bound the oldest is forgotten early.
const KEYS_MAX: usize = 10_000;
/// Bytes of all keys and remembered answers: names of absent users are most of it.
const BYTES_MAX: usize = 16 << 20;
/// What an entry costs beside its key and answer.
const ENTRY_BYTES: usize = 200;

/// What a push came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    pub connections: u64,
    pub users: u64,
    pub absent: Vec<String>,
}

type Cell = Arc<OnceCell<PushOutcome>>;

/// Outcomes by key. One push under a key is under way at a time; a repeat meanwhile waits for its outcome.
#[derive(Default)]
pub struct PushKeys(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    cells: HashMap<Arc<str>, Cell>,
    /// The oldest first, and how many bytes each counts for.
    /// Bound: the bytes of all keys.
    order: VecDeque<(Instant, Arc<str>, usize)>,
    bytes: usize,
}

impl PushKeys {
    /// Where the outcome of the push with this key is, or goes. An outcome that is not reached (the push failed) leaves
    /// the place empty for the next one who tries. `users_bytes` bounds what the outcome can weigh.
    pub fn cell(&self, key: &str, users_bytes: usize, now: Instant) -> Cell {
        let mut keys = self.0.lock();
        keys.forget(now);
        if let Some(cell) = keys.cells.get(key) {
            return Arc::clone(cell);
        }
        let (cell, key) = (Cell::default(), Arc::<str>::from(key));
        let bytes = key.len() + users_bytes + ENTRY_BYTES;
        keys.bytes += bytes;
        keys.cells.insert(Arc::clone(&key), Arc::clone(&cell));
        keys.order.push_back((now, key, bytes));
        keys.forget(now);
        cell
    }
}

impl Keys {
    fn forget(&mut self, now: Instant) {
        while let Some((since, ..)) = self.order.front()
            && (now.duration_since(*since) >= IDEMPOTENCY_KEY_TTL
                || self.order.len() > KEYS_MAX
                || self.bytes > BYTES_MAX && self.order.len() > 1)
            && let Some((_, key, bytes)) = self.order.pop_front()
        {
            self.cells.remove(&key);
            self.bytes -= bytes;
        }
    }
}

const _: () =
    assert!(IDEMPOTENCY_KEY_TTL.as_secs() == Duration::from_secs(300).as_secs(), "as the documents say");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_for_its_time_and_within_the_bounds() {
        let keys = PushKeys::default();
        let now = Instant::now();
        let first = keys.cell("a", 0, now);
        assert!(Arc::ptr_eq(&first, &keys.cell("a", 0, now + Duration::from_secs(299))));
        assert!(!Arc::ptr_eq(&first, &keys.cell("a", 0, now + Duration::from_secs(300))));

        for number in 0..KEYS_MAX * 2 {
            keys.cell(&number.to_string(), 0, now);
        }
        assert_eq!(keys.0.lock().cells.len(), KEYS_MAX);
        for number in 0..100 {
            keys.cell(&format!("large {number}"), BYTES_MAX / 10, now);
        }
        let inner = keys.0.lock();
        assert!(inner.bytes <= BYTES_MAX && inner.cells.len() <= 10);
        assert_eq!(inner.cells.len(), inner.order.len());
    }
}
