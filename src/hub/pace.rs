//! When deliveries that do not go out at once are due: functions of time and of how many are left.

use crate::base::time::Time;
use crate::hub::limits::{BULK_WAIT_MAX, SPREAD_STEP};
use crate::hub::requests::Pace;
use crate::hub::stream::Seq;
use crate::hub::waiting::WaitingValues;
use std::time::Duration;

/// What of one channel is held back.
#[derive(Debug, Default)]
pub struct Pacing {
    /// Over which the running batch is spread.
    pub window: Option<Window>,
    /// Items that no batch has taken yet.
    pub held: Option<Hold>,
    /// Of a value channel: what no batch has taken yet.
    pub waiting: Option<Box<WaitingValues>>,
}

/// The items from `from` on are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Once it is their turn, they are spread until then.
    Spread { from: Seq, until: Time },
    /// They wait for a moment without other deliveries, until then.
    Bulk { from: Seq, until: Time },
}

impl Hold {
    pub fn from(self) -> Seq {
        match self {
            Hold::Spread { from, .. } | Hold::Bulk { from, .. } => from,
        }
    }
}

impl Pacing {
    /// The item at `at`, the newest, is to be held back.
    pub fn hold(&mut self, at: Seq, pace: Pace, now: Time) {
        let behind_spread = self.window.is_some() || matches!(self.held, Some(Hold::Spread { .. }));
        let over = match pace.spread_ms {
            0 if behind_spread => BULK_WAIT_MAX,
            0 => {
                let (from, until) = match self.held {
                    Some(Hold::Bulk { from, until }) => (from, until),
                    _ => (at, now + BULK_WAIT_MAX),
                };
                self.held = Some(Hold::Bulk { from, until });
                return;
            }
            spread_ms => Duration::from_millis(spread_ms.into()),
        };
        if let Some(window) = &mut self.window
            && window.until > now + over / 2
        {
            // From now on faster, and not as if it had been faster before.
            *window = Window { last: now, until: now + over / 2 };
        }
        let until = now + over;
        self.held = Some(match self.held {
            // One batch of both, in time for both.
            Some(Hold::Spread { from, until: earlier }) => Hold::Spread { from, until: until.min(earlier) },
            // What waits for a quiet moment keeps its place before this, as a batch of its own.
            Some(Hold::Bulk { .. }) | None => Hold::Spread { from: at, until },
        });
    }

    /// What is held back from `batched` on, the next item to be taken into a batch.
    pub fn due_from(&mut self, batched: Seq) -> Option<Hold> {
        self.held.filter(|hold| hold.from() <= batched)
    }
}

/// A stretch of time over which the rest of a batch is delivered evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Everything due before this has been delivered.
    pub last: Time,
    pub until: Time,
}

impl Window {
    /// How many of `remaining` deliveries are due at `now`, `slice` at most. They are taken as made. Whoever leaves the
    /// batch meanwhile leaves its share of the time to the others.
    pub fn take(&mut self, remaining: u32, now: Time, slice: u32) -> u32 {
        if now >= self.until || remaining == 0 {
            return remaining.min(slice);
        }
        let (whole, gone) = (self.until.0.saturating_sub(self.last.0), now.0.saturating_sub(self.last.0));
        let due = u128::from(remaining) * u128::from(gone) / u128::from(whole.max(1));
        let taken = (due as u32).min(slice);
        // The time of those taken, not all that has gone: no fraction of a delivery is lost.
        self.last.0 += (u128::from(whole) * u128::from(taken) / u128::from(remaining)) as u64;
        taken
    }

    /// When to look again with `remaining` to deliver: when the next is due, or a step later, so that several are told
    /// in one turn. At once when some are due already.
    pub fn next(&self, remaining: u32, now: Time) -> Time {
        let whole = self.until.0.saturating_sub(self.last.0);
        let due = Time(self.last.0 + whole.div_ceil(u64::from(remaining.max(1))));
        if now >= self.until || now >= due + SPREAD_STEP {
            return now;
        }
        due.max(now + SPREAD_STEP).min(self.until.max(now + Duration::from_nanos(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    const SECOND: u64 = 1_000_000_000;

    /// Plays a window; gives how many were delivered in each tenth of it.
    fn play(count: u32, window: Duration, mut leaves: impl FnMut(u32) -> u32) -> Vec<u32> {
        let end = Time::ZERO + window;
        let mut spread = Window { last: Time::ZERO, until: end };
        let mut now = spread.next(count, Time::ZERO);
        let (mut remaining, mut tenths) = (count, vec![0; 10]);
        let mut turns = 0;
        while remaining > 0 {
            let taken = spread.take(remaining, now, u32::MAX);
            remaining -= taken;
            let tenth = (u128::from(now.0) * 10 / u128::from(end.0)) as usize;
            tenths[tenth.min(9)] += taken;
            remaining -= leaves(remaining).min(remaining);
            now = spread.next(remaining, now);
            turns += 1;
            assert!(now <= end && turns < 1_000_000, "the last one is told when the window ends");
        }
        tenths
    }

    #[test]
    fn deliveries_are_even_over_the_window() {
        for count in [10, 1_000, 9_000, 100_000] {
            for window in [Duration::from_millis(500), Duration::from_secs(5), Duration::from_secs(3600)] {
                let tenths = play(count, window, |_| 0);
                assert_eq!(tenths.iter().sum::<u32>(), count);
                for tenth in tenths {
                    let mean = count / 10;
                    assert!(tenth.abs_diff(mean) <= mean / 10 + 1, "{count} over {window:?}: {tenth}");
                }
            }
        }
    }

    #[test]
    fn those_who_leave_do_not_hurry_the_others() {
        let mut prng = Prng::with_seed(1);
        let tenths = play(10_000, Duration::from_secs(10), |_| prng.u32(..4));
        let mean = tenths.iter().sum::<u32>() / 10;
        assert!(mean < 1_000);
        for pair in tenths.windows(2) {
            assert!(pair[0].abs_diff(pair[1]) < mean / 2, "{tenths:?}");
        }
    }

    #[test]
    fn few_over_long_are_waited_for_and_not_polled() {
        let hour = Window { last: Time::ZERO, until: Time(3600 * SECOND) };
        assert_eq!(hour.next(4, Time::ZERO), Time(900 * SECOND));
        let mut window = hour;
        assert_eq!(window.take(4, Time(900 * SECOND - 1), 9), 0);
        assert_eq!(window.take(4, Time(900 * SECOND), 9), 1);
        assert_eq!(window.take(3, Time(3600 * SECOND), 2), 2);
    }

    #[test]
    fn a_slice_leaves_the_rest_due() {
        let mut window = Window { last: Time::ZERO, until: Time(SECOND) };
        let now = Time(SECOND / 2);
        assert_eq!(window.take(1_000, now, 128), 128);
        assert_eq!(window.next(872, now), now);
        assert_eq!(window.take(872, now, u32::MAX), 372);
        assert!(window.next(500, now) > now);
    }

    #[test]
    fn a_later_hold_ends_an_earlier_one_in_time() {
        let spread = |spread_ms| Pace { spread_ms, bulk: false };
        let bulk = Pace { spread_ms: 0, bulk: true };
        let now = Time(7 * SECOND);

        let window = Some(Window { last: Time::ZERO, until: Time(100 * SECOND) });
        let mut pacing = Pacing { window, ..Pacing::default() };
        pacing.hold(5, spread(10_000), now);
        assert_eq!(pacing.window.map(|window| window.until), Some(Time(12 * SECOND)));
        assert_eq!(pacing.held, Some(Hold::Spread { from: 5, until: Time(17 * SECOND) }));
        pacing.hold(6, spread(60_000), now);
        assert_eq!(pacing.held, Some(Hold::Spread { from: 5, until: Time(17 * SECOND) }));
        pacing.hold(7, bulk, now);
        assert_eq!(pacing.held, Some(Hold::Spread { from: 5, until: now + BULK_WAIT_MAX }));

        let mut pacing = Pacing::default();
        pacing.hold(1, bulk, now);
        pacing.hold(2, bulk, Time(8 * SECOND));
        assert_eq!(pacing.held, Some(Hold::Bulk { from: 1, until: now + BULK_WAIT_MAX }));
        pacing.hold(3, spread(1_000), Time(8 * SECOND));
        assert_eq!(pacing.held, Some(Hold::Spread { from: 3, until: Time(9 * SECOND) }));
        assert_eq!((pacing.due_from(1), pacing.due_from(3).is_some()), (None, true));
    }
}
