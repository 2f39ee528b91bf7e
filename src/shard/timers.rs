//! One timer a connection, without a timer object: a hashed wheel whose lists run through the connections themselves.
//!
//! A connection has one next moment at which something is due; what it is, its state knows. Setting it again moves it.

use crate::base::slots::Slots;
use crate::base::time::Time;

/// Resolution. Pings, pongs and head deadlines are seconds; a tenth of the shortest interval anyone sets in a test.
pub const TICK_MS: u64 = 20;
/// Lists in the wheel: 82 s at 20 ms, so that the usual ping interval fits in one turn.
const BUCKETS: usize = 4096;

const NONE: u32 = u32::MAX;

/// Ticks since the driver's clock began.
pub type TimerTick = u32;

pub fn tick_of(time: Time) -> TimerTick {
    (time.as_millis() / TICK_MS) as TimerTick
}

/// The tick at which at least `ms` from `now` have passed.
pub fn tick_after(now: Time, ms: u64) -> TimerTick {
    (now.as_millis() + ms).div_ceil(TICK_MS) as TimerTick
}

/// The wheel's part of a connection: 12 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    next: u32,
    previous: u32,
    /// `NONE` while the connection waits for nothing.
    due: TimerTick,
}

impl Default for Link {
    fn default() -> Self {
        Link { next: NONE, previous: NONE, due: NONE }
    }
}

/// What is linked into a wheel.
pub trait Linked {
    fn link(&mut self) -> &mut Link;
}

pub struct Wheel {
    heads: Box<[u32]>,
    /// Which lists are not empty, a bit each.
    occupied: [u64; BUCKETS / 64],
    /// Every tick before this has been looked at.
    now: TimerTick,
}

impl Wheel {
    pub fn new(now: Time) -> Wheel {
        Wheel { heads: vec![NONE; BUCKETS].into(), occupied: [0; BUCKETS / 64], now: tick_of(now) }
    }

    /// Makes `slot` due at `due`, instead of whenever it was before.
    pub fn set<T: Linked>(&mut self, entries: &mut Slots<T>, slot: u32, due: TimerTick) {
        self.cancel(entries, slot);
        let due = due.max(self.now);
        let bucket = due as usize % BUCKETS;
        let head = self.heads[bucket];
        *link(entries, slot) = Link { next: head, previous: NONE, due };
        if head != NONE {
            link(entries, head).previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// `slot` waits for nothing any more.
    pub fn cancel<T: Linked>(&mut self, entries: &mut Slots<T>, slot: u32) {
        let Link { next, previous, due } = std::mem::take(link(entries, slot));
        if due == NONE {
            return;
        }
        let bucket = due as usize % BUCKETS;
        match previous {
            NONE => {
                self.heads[bucket] = next;
                if next == NONE {
                    self.occupied[bucket / 64] &= !(1 << (bucket % 64));
                }
            }
            previous => link(entries, previous).next = next,
        }
        if next != NONE {
            link(entries, next).previous = previous;
        }
    }

    /// Takes out everything that is due at `now` and appends it to `fired`.
    pub fn advance<T: Linked>(&mut self, entries: &mut Slots<T>, now: Time, fired: &mut Vec<u32>) {
        let now = tick_of(now);
        let until = now.min(self.now.saturating_add(BUCKETS as u32 - 1));
        for tick in self.now..=until {
            let bucket = tick as usize % BUCKETS;
            if self.occupied[bucket / 64] & (1 << (bucket % 64)) == 0 {
                continue;
            }
            let mut slot = self.heads[bucket];
            while slot != NONE {
                let Link { next, due, .. } = *link(entries, slot);
                if due <= now {
                    self.cancel(entries, slot);
                    fired.push(slot);
                }
                slot = next;
            }
        }
        // `now` itself is looked at again: something may still be set for it.
        self.now = now;
    }

    /// When to look again: not later than the next thing that is due.
    pub fn next(&self) -> Option<Time> {
        let start = self.now as usize % BUCKETS;
        let (word, bit) = (start / 64, start % 64);
        let first = self.occupied[word] >> bit;
        let ahead = if first != 0 {
            first.trailing_zeros() as usize
        } else {
            let words = BUCKETS / 64;
            let step = (1..=words).find(|step| self.occupied[(word + step) % words] != 0)?;
            step * 64 - bit + self.occupied[(word + step) % words].trailing_zeros() as usize
        };
        // After a whole turn the word of the start itself is found again, from its first bit.
        let ahead = ahead % BUCKETS;
        Some(Time::from_millis((u64::from(self.now) + ahead as u64) * TICK_MS))
    }
}

fn link<T: Linked>(entries: &mut Slots<T>, slot: u32) -> &mut Link {
    entries.get_mut(slot).expect("timers link only slots in use").link()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    impl Linked for Link {
        fn link(&mut self) -> &mut Link {
            self
        }
    }

    #[test]
    fn fires_what_a_sorted_map_would() {
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let mut entries = Slots::default();
            let mut wheel = Wheel::new(Time::ZERO);
            let mut model: BTreeMap<u32, TimerTick> = BTreeMap::new();
            let mut now = Time::ZERO;
            for slot in 0..50 {
                entries.insert(slot, Link::default());
            }
            for _ in 0..300 {
                let slot = prng.u32(0..50);
                match prng.u32(0..10) {
                    0..6 => {
                        let due = tick_after(now, prng.u64(0..200_000));
                        wheel.set(&mut entries, slot, due);
                        model.insert(slot, due);
                    }
                    6 => {
                        wheel.cancel(&mut entries, slot);
                        model.remove(&slot);
                    }
                    _ => {
                        let step = if prng.bool() { prng.u64(0..50) } else { prng.u64(0..150_000) };
                        now = Time::from_millis(now.as_millis() + step);
                        let mut fired = Vec::new();
                        wheel.advance(&mut entries, now, &mut fired);
                        fired.sort_unstable();
                        let due: Vec<u32> = model
                            .iter()
                            .filter(|(_, due)| **due <= tick_of(now))
                            .map(|(slot, _)| *slot)
                            .collect();
                        assert_eq!(fired, due, "seed {seed}");
                        model.retain(|_, due| *due > tick_of(now));
                    }
                }
                match (model.values().min(), wheel.next()) {
                    (None, next) => assert_eq!(next, None, "seed {seed}"),
                    (Some(&due), next) => {
                        let next = next.expect("something is due");
                        assert!(tick_of(next) <= due, "seed {seed}: {next:?} is later than {due}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_moment_is_never_early() {
        let now = Time(5_000_001);
        assert!(u64::from(tick_after(now, 100)) * TICK_MS >= 105);
    }
}
