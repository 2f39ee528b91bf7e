//! Idempotency keys: a publication that a backend sends twice is delivered once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use crate::base::ids::Position;
use crate::base::time::Time;

/// The keys of all channels of one owner. All live equally long, so the oldest is always the first to go.
pub struct IdempotencyKeys {
    /// Channel life and key → what the first publication was answered.
    answers: HashMap<Arc<[u8]>, KeptAnswer, RandomState>,
    /// Bound: `idempotency_keys_max`.
    order: VecDeque<Issued>,
    keys_max: usize,
    /// How many have gone.
    dropped: u64,
    /// For lookups without an allocation.
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct KeptAnswer {
    position: Position,
    expires: Time,
}

struct Issued {
    owner: KeyOwner,
    key: Arc<[u8]>,
    expires: Time,
}

/// One life of a channel: its slot in the owner's table, and the number that tells the uses of the slot apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOwner {
    pub slot: u32,
    pub life: u64,
}

impl IdempotencyKeys {
    pub fn new(keys_max: usize, hash: RandomState) -> IdempotencyKeys {
        IdempotencyKeys {
            answers: HashMap::with_hasher(hash),
            order: VecDeque::new(),
            keys_max,
            dropped: 0,
            scratch: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// What the publication that brought this key first was answered.
    pub fn get(&mut self, owner: KeyOwner, key: &str, now: Time) -> Option<Position> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&owner.life.to_le_bytes());
        self.scratch.extend_from_slice(key.as_bytes());
        self.answers
            .get(&self.scratch[..])
            .filter(|answer| answer.expires > now)
            .map(|answer| answer.position)
    }

    /// True when one more key needs [`IdempotencyKeys::drop_oldest`] first.
    pub fn is_full(&self) -> bool {
        self.order.len() >= self.keys_max
    }

    /// Remembers the answer to a key that [`IdempotencyKeys::get`] did not find. False when keys are not kept at all.
    pub fn insert(&mut self, owner: KeyOwner, key: &str, position: Position, expires: Time) -> bool {
        if self.keys_max == 0 {
            return false;
        }
        assert!(!self.is_full());
        let key: Arc<[u8]> = owner.life.to_le_bytes().into_iter().chain(key.bytes()).collect();
        // An expired answer that is still there is replaced; its place in `order` goes by without effect.
        self.answers.insert(key.clone(), KeptAnswer { position, expires });
        self.order.push_back(Issued { owner, key, expires });
        true
    }

    /// From the key at `from` on, oldest first: whose it is, the key, the answer if it is still given, when it is over.
    pub fn from(&self, from: usize) -> impl Iterator<Item = (KeyOwner, &str, Option<Position>, Time)> {
        self.order.range(from.min(self.order.len())..).map(|issued| {
            let key = issued.key.get(size_of::<u64>()..).and_then(|key| std::str::from_utf8(key).ok());
            let answer = self.answers.get(&issued.key).filter(|answer| answer.expires == issued.expires);
            (issued.owner, key.unwrap_or_default(), answer.map(|answer| answer.position), issued.expires)
        })
    }

    /// The number of the oldest, counted from the first there ever was.
    pub fn first(&self) -> u64 {
        self.dropped
    }

    /// Puts keys that came from several places in their order.
    pub fn sort(&mut self) {
        self.order.make_contiguous().sort_by_key(|issued| issued.expires);
    }

    /// Drops the oldest key if its time is over. Returns whose it was.
    pub fn drop_expired(&mut self, now: Time) -> Option<KeyOwner> {
        if self.order.front()?.expires > now {
            return None;
        }
        self.drop_oldest()
    }

    /// Drops the oldest key. Returns whose it was.
    pub fn drop_oldest(&mut self) -> Option<KeyOwner> {
        let issued = self.order.pop_front()?;
        self.dropped += 1;
        if self.answers.get(&issued.key).is_some_and(|answer| answer.expires <= issued.expires) {
            self.answers.remove(&issued.key);
        }
        if self.order.is_empty() {
            // What a burst of keys took is given back when the last of them is over.
            self.order = VecDeque::new();
            self.answers.shrink_to_fit();
        }
        Some(issued.owner)
    }

    /// Whether the oldest key would still be recognised at `now`.
    pub fn oldest_is_live(&self, now: Time) -> bool {
        self.order.front().is_some_and(|issued| issued.expires > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Epoch, Offset};
    use crate::hub::limits::IDEMPOTENCY_KEY_TTL;

    const OWNER: KeyOwner = KeyOwner { slot: 3, life: 9 };
    const TTL: Time = Time(IDEMPOTENCY_KEY_TTL.as_nanos() as u64);

    fn keys(max: usize) -> IdempotencyKeys {
        IdempotencyKeys::new(max, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn at(offset: u64) -> Position {
        Position { offset: Offset(offset), epoch: Epoch(1) }
    }

    #[test]
    fn a_key_lives_five_minutes_to_the_nanosecond() {
        let mut keys = keys(10);
        assert!(keys.insert(OWNER, "a", at(1), TTL));
        assert_eq!(keys.get(OWNER, "a", Time(TTL.0 - 1)), Some(at(1)));
        assert_eq!(keys.get(OWNER, "a", TTL), None);
        assert_eq!(keys.drop_expired(Time(TTL.0 - 1)), None);
        assert_eq!(keys.drop_expired(TTL), Some(OWNER));
        assert_eq!((keys.len(), keys.answers.len()), (0, 0));
    }

    #[test]
    fn channels_and_lives_do_not_share_keys() {
        let mut keys = keys(10);
        keys.insert(OWNER, "a", at(1), TTL);
        assert_eq!(keys.get(KeyOwner { life: 10, ..OWNER }, "a", Time(0)), None);
        assert_eq!(keys.get(OWNER, "b", Time(0)), None);
        assert_eq!(keys.get(OWNER, "", Time(0)), None);
    }

    /// The sweep may come long after a key is over and used again: the old place in the order must not take the new
    /// answer with it.
    #[test]
    fn a_key_used_again_before_the_sweep_keeps_its_new_answer() {
        let mut keys = keys(10);
        keys.insert(OWNER, "a", at(1), TTL);
        keys.insert(OWNER, "a", at(2), Time(2 * TTL.0));
        assert_eq!(keys.drop_expired(TTL), Some(OWNER));
        assert_eq!(keys.get(OWNER, "a", TTL), Some(at(2)));
        assert_eq!(keys.drop_expired(TTL), None);
        assert_eq!(keys.drop_oldest(), Some(OWNER));
        assert_eq!(keys.answers.len(), 0);
    }

    #[test]
    fn a_bound_of_none_keeps_none() {
        let mut keys = keys(0);
        assert!(!keys.insert(OWNER, "a", at(1), TTL));
        assert_eq!(keys.len(), 0);
    }
}
