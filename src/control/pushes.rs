//! Answers to pushes that had an idempotency key, for those who repeat them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::hub::limits::IDEMPOTENCY_KEY_TTL;
use crate::record::{PART_BYTES, PushKeyRecord, PushKeysPart};

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

    /// Every outcome that is known, the oldest first.
    pub fn to_records(&self, now: Instant) -> Vec<PushKeysPart> {
        let keys = self.0.lock();
        let (mut parts, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (since, key, weight) in &keys.order {
            let Some(outcome) = keys.cells.get(key).and_then(|cell| cell.get()) else { continue };
            records.push(PushKeyRecord {
                key: (&**key).into(),
                age_ms: now.duration_since(*since).as_millis() as u64,
                connections: outcome.connections,
                users: outcome.users,
                absent: outcome.absent.iter().map(|user| user.as_str().into()).collect(),
            });
            bytes += weight;
            if bytes > PART_BYTES {
                bytes = 0;
                parts.push(PushKeysPart { keys: std::mem::take(&mut records) });
            }
        }
        if !records.is_empty() {
            parts.push(PushKeysPart { keys: records });
        }
        parts
    }

    /// Adds the outcomes of another process.
    pub fn restore(&self, part: PushKeysPart, now: Instant) {
        for PushKeyRecord { key, age_ms, connections, users, absent } in part.keys {
            let since = now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now);
            let weight = absent.iter().map(|user| user.len()).sum();
            let absent = absent.into_iter().map(String::from).collect();
            let _ = self.cell(&key, weight, since).set(PushOutcome { connections, users, absent });
        }
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
    fn outcomes_go_on_in_another_process() {
        let (old, new) = (PushKeys::default(), PushKeys::default());
        let now = Instant::now() + Duration::from_secs(3600);
        let outcome = PushOutcome { connections: 1, users: 2, absent: vec!["x".into()] };
        for number in 0..5000 {
            let cell = old.cell(&format!("key {number}"), 1, now);
            if number != 7 {
                cell.set(outcome.clone()).unwrap();
            }
        }
        let later = now + Duration::from_secs(100);
        let parts = old.to_records(later);
        assert!(parts.len() > 1, "parts are short");
        parts.into_iter().for_each(|part| new.restore(part, later));
        assert_eq!(new.cell("key 4", 0, later).get(), Some(&outcome));
        assert_eq!(new.cell("key 7", 0, later).get(), None, "it was under way");
        // They are forgotten when the old process would have forgotten them.
        let end = now + IDEMPOTENCY_KEY_TTL;
        assert_eq!(new.cell("key 3", 0, end - Duration::from_secs(1)).get(), Some(&outcome));
        assert_eq!(new.cell("key 3", 0, end).get(), None);
    }

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
