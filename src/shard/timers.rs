//! One timer a connection, without a timer object: a hashed wheel whose lists run through the connections themselves.
//!
//! A connection has one next moment at which something is due; what it is, its state knows. Setting it again moves it.

use crate::base::slots::Slots;
use crate::base::time::Time;

/// Resolution. Pings, pongs and head deadlines are seconds; a tenth of the shortest interval anyone sets in a test.
pub const TICK_MS: u64 = 20;
/// Lists in the wheel: 82 s at 20 ms, so that the usual ping interval fits in one turn.
const BUCKETS: usize = 4096;

/// No slot: slots are fewer than 2^24.
const NONE: u32 = u32::MAX;
const HEAD: u32 = u32::MAX - 1;

/// Ticks since the driver's clock began, which on a host is its boot: 64 bits, so that no uptime wraps them.
pub type TimerTick = u64;

/// Furthest that a timer is set ahead, 248 days. What is due later fires then for nothing and is set again. Half of what
/// [`ShortTick`] tells apart, so that one that fires late is still taken for past.
const AHEAD_MAX: TimerTick = 1 << 30;

pub fn tick_of(time: Time) -> TimerTick {
    time.as_millis() / TICK_MS
}

/// The tick at which at least `ms` from `now` have passed.
pub fn tick_after(now: Time, ms: u64) -> TimerTick {
    now.as_millis().saturating_add(ms).div_ceil(TICK_MS)
}

/// Milliseconds until the wall clock shows `unix_s`, for [`tick_after`]: as many as there are for a date without end.
pub fn ms_until(unix_s: u64, now_unix_s: u64) -> u64 {
    unix_s.saturating_sub(now_unix_s).saturating_mul(1000)
}

/// The low half of a tick, as connections keep it: it means the tick nearest to the one it is read at. No order of its
/// own, so that it cannot be compared without that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortTick(u32);

impl ShortTick {
    /// Of a tick not much before `now`; what lies further ahead than [`AHEAD_MAX`] is brought to there.
    pub fn new(tick: TimerTick, now: TimerTick) -> ShortTick {
        ShortTick(tick.min(now.saturating_add(AHEAD_MAX)) as u32)
    }

    pub fn near(self, now: TimerTick) -> TimerTick {
        let ahead = self.0.wrapping_sub(now as u32) as i32;
        now.saturating_add_signed(ahead.into())
    }
}

/// The wheel's part of a connection: 12 bytes.
#[derive(Clone, Copy, Debug)]
pub struct TimerEntry {
    next: u32,
    /// `HEAD` for the first of a list, `NONE` while the connection waits for nothing.
    previous: u32,
    due: ShortTick,
}

impl Default for TimerEntry {
    fn default() -> Self {
        TimerEntry { next: NONE, previous: NONE, due: ShortTick::default() }
    }
}

impl TimerEntry {
    /// When it is due; `None` while it waits for nothing.
    pub fn due(&self, now: TimerTick) -> Option<TimerTick> {
        (self.previous != NONE).then(|| self.due.near(now))
    }
}

/// What is linked into a wheel.
pub trait TimedSlot {
    fn timer(&mut self) -> &mut TimerEntry;
}

pub struct Wheel {
    heads: Box<[u32]>,
    /// Which lists are not empty, a bit each.
    occupied: [u64; BUCKETS / 64],
    /// Every tick up to this has been looked at.
    now: TimerTick,
    /// Something was made due at once since then.
    is_due: bool,
}

impl Wheel {
    pub fn new(now: Time) -> Wheel {
        Wheel {
            heads: vec![NONE; BUCKETS].into(),
            occupied: [0; BUCKETS / 64],
            now: tick_of(now),
            is_due: false,
        }
    }

    /// Makes `slot` due at `due`, instead of whenever it was before.
    pub fn set<T: TimedSlot>(&mut self, entries: &mut Slots<T>, slot: u32, due: TimerTick) {
        self.cancel(entries, slot);
        self.is_due |= due <= self.now;
        let due = ShortTick::new(due.max(self.now), self.now);
        let bucket = bucket_of(due);
        let head = self.heads[bucket];
        *entry(entries, slot) = TimerEntry { next: head, previous: HEAD, due };
        if head != NONE {
            entry(entries, head).previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// `slot` waits for nothing any more.
    pub fn cancel<T: TimedSlot>(&mut self, entries: &mut Slots<T>, slot: u32) {
        let TimerEntry { next, previous, due } = std::mem::take(entry(entries, slot));
        let bucket = bucket_of(due);
        match previous {
            NONE => return,
            HEAD => {
                self.heads[bucket] = next;
                if next == NONE {
                    self.occupied[bucket / 64] &= !(1 << (bucket % 64));
                }
            }
            previous => entry(entries, previous).next = next,
        }
        if next != NONE {
            entry(entries, next).previous = previous;
        }
    }

    /// Takes out what is due at `now`, at most `max` of it, and appends it to `fired`. Of the rest [`Wheel::next`] says that it
    /// is due at once.
    pub fn advance<T: TimedSlot>(
        &mut self,
        entries: &mut Slots<T>,
        now: Time,
        max: usize,
        fired: &mut Vec<u32>,
    ) {
        let now = tick_of(now);
        let until = now.min(self.now.saturating_add(BUCKETS as TimerTick - 1));
        let mut room = max;
        for tick in self.now..=until {
            let bucket = tick as usize % BUCKETS;
            if self.occupied[bucket / 64] & (1 << (bucket % 64)) == 0 {
                continue;
            }
            let mut slot = self.heads[bucket];
            while slot != NONE {
                let TimerEntry { next, due, .. } = *entry(entries, slot);
                if due.near(now) <= now {
                    let Some(left) = room.checked_sub(1) else {
                        (self.now, self.is_due) = (tick, true);
                        return;
                    };
                    room = left;
                    self.cancel(entries, slot);
                    fired.push(slot);
                }
                slot = next;
            }
        }
        self.now = now;
        self.is_due = false;
    }

    /// When to look again: not later than the next thing that is due. What is left in the list of `now` is due a turn of the
    /// wheel later, or more: to look at it again would be to look without end.
    pub fn next(&self) -> Option<Time> {
        let bucket = self.now as usize % BUCKETS;
        if self.is_due && self.heads[bucket] != NONE {
            return Some(Time::from_millis(self.now * TICK_MS));
        }
        let start = (self.now + 1) as usize % BUCKETS;
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
        Some(Time::from_millis((self.now + 1 + ahead as TimerTick) * TICK_MS))
    }
}

fn bucket_of(due: ShortTick) -> usize {
    // 2^32 is a multiple of the number of lists: the low half of a tick finds the list of the whole.
    const { assert!((1_u64 << 32).is_multiple_of(BUCKETS as u64)) };
    due.0 as usize % BUCKETS
}

fn entry<T: TimedSlot>(entries: &mut Slots<T>, slot: u32) -> &mut TimerEntry {
    entries.get_mut(slot).expect("timers link only slots in use").timer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    impl TimedSlot for TimerEntry {
        fn timer(&mut self) -> &mut TimerEntry {
            self
        }
    }

    /// Where a narrower count of ticks or milliseconds would wrap, and where none is near. Ticks.
    const BORDERS: [u64; 8] =
        [0, 1 << 31, 1 << 32, (1 << 32) / TICK_MS, (1 << 33) - 1, 3 << 32, 1 << 36, 1 << 39];

    /// A host that was up for so many ticks, less some that the run passes.
    fn uptime(border: u64, prng: &mut Prng) -> Time {
        Time::from_millis(border.saturating_sub(prng.u64(..2_000)) * TICK_MS + prng.u64(..TICK_MS))
    }

    #[test]
    fn fires_what_a_sorted_map_would_at_every_uptime() {
        for seed in 0..400 {
            let mut prng = Prng::with_seed(seed);
            let mut entries = Slots::default();
            let mut now = uptime(BORDERS[seed as usize % BORDERS.len()], &mut prng);
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, TimerTick> = BTreeMap::new();
            for slot in 0..50 {
                entries.insert(slot, TimerEntry::default());
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
                        let max = if prng.bool() { usize::MAX } else { prng.usize(1..4) };
                        loop {
                            let before = fired.len();
                            wheel.advance(&mut entries, now, max, &mut fired);
                            if fired.len() - before < max {
                                break;
                            }
                            // What was left is due at once, and nothing else.
                            let is_left =
                                model.values().filter(|due| **due <= tick_of(now)).count() > fired.len();
                            let next = wheel.next().is_some_and(|next| next <= now);
                            assert_eq!(next, is_left, "seed {seed}");
                        }
                        fired.sort_unstable();
                        let due: Vec<u32> = model
                            .iter()
                            .filter(|(_, due)| **due <= tick_of(now))
                            .map(|(slot, _)| *slot)
                            .collect();
                        assert_eq!(fired, due, "seed {seed}");
                        // Nor is there reason to look at once.
                        assert!(wheel.next().is_none_or(|next| next > now), "seed {seed}");
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
    fn a_far_date_neither_spins_nor_comes_soon() {
        let days = |days: u64| days * 86_400_000;
        for border in BORDERS {
            for ms in [days(100), days(2 * 994), days(8 * 365), 1 << 53, u64::MAX / 2, u64::MAX - 1, u64::MAX]
            {
                let mut now = Time::from_millis(border.saturating_sub(5) * TICK_MS);
                let due = tick_after(now, ms).min(tick_of(now) + AHEAD_MAX);
                let mut entries = Slots::default();
                entries.insert(7, TimerEntry::default());
                let (mut wheel, mut fired) = (Wheel::new(now), Vec::new());
                wheel.set(&mut entries, 7, tick_after(now, ms));
                // A shard that sleeps as the wheel says wakes once a turn.
                for turn in 0..3 {
                    let next = wheel.next().expect("the timer is set");
                    let least = if turn == 0 { 1 } else { BUCKETS as u64 };
                    assert!(tick_of(next) >= tick_of(now) + least, "{border} {ms}: {now:?} {next:?}");
                    now = next;
                    wheel.advance(&mut entries, now, usize::MAX, &mut fired);
                    assert!(fired.is_empty(), "{border} {ms}: fired at {now:?}");
                }
                wheel.advance(&mut entries, Time::from_millis((due - 1) * TICK_MS), usize::MAX, &mut fired);
                assert!(fired.is_empty(), "{border} {ms}: before it was due");
                assert_eq!(wheel.next().map(tick_of), Some(due), "{border} {ms}");
                wheel.advance(&mut entries, Time::from_millis(due * TICK_MS), usize::MAX, &mut fired);
                assert_eq!(fired, [7], "{border} {ms}");
                assert_eq!(wheel.next(), None);
            }
        }
    }

    #[test]
    fn a_short_tick_means_the_nearest() {
        for border in BORDERS {
            let now = border + 1_000;
            for tick in [now - 1_000, now - 1, now, now + 1, now + 5_000, now + AHEAD_MAX] {
                assert_eq!(ShortTick::new(tick, now).near(now), tick);
                // Still, when it is looked at late.
                assert_eq!(ShortTick::new(tick, now).near(now + AHEAD_MAX / 2), tick);
            }
            assert_eq!(ShortTick::new(TimerTick::MAX, now).near(now), now + AHEAD_MAX);
        }
    }

    #[test]
    fn a_date_without_end_is_as_far_as_there_is() {
        assert_eq!(ms_until(1_000, 990), 10_000);
        assert_eq!(ms_until(990, 1_000), 0);
        for far in [1 << 55, i64::MAX as u64, u64::MAX] {
            assert!(ms_until(far, 1_700_000_000) > 1 << 62);
        }
    }

    #[test]
    fn a_moment_is_never_early() {
        let now = Time(5_000_001);
        assert!(tick_after(now, 100) * TICK_MS >= 105);
    }
}
