//! How much in how long: the generic cell rate algorithm (ITU-T I.371), which needs one moment for each thing it limits.
//!
//! The moment says until when everything taken so far is paid for. It moves on with each taking and is never reset: one
//! that has passed means the same as none at all, so that it may be forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::Time;

const SECOND_NS: u128 = 1_000_000_000;

/// So many units a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    /// Time that a whole burst pays for.
    burst: Duration,
}

impl Rate {
    /// `None` for a `per_second` of 0, which means that nothing is limited. A burst is one unit at least.
    pub fn new(per_second: u64, burst: u64) -> Option<Rate> {
        let ns = (u128::from(burst.max(1)) * SECOND_NS).div_ceil(u128::from(per_second.max(1)));
        let burst = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        (per_second > 0).then_some(Rate { per_second, burst })
    }

    /// How many units may be taken at `now`.
    pub fn available(&self, paid_until: Time, now: Time) -> u64 {
        let free = (now + self.burst).since(paid_until.max(now));
        u64::try_from(free.as_nanos() * u128::from(self.per_second) / SECOND_NS).unwrap_or(u64::MAX)
    }

    /// The moment after taking `units`, whether or not they were available.
    #[must_use]
    pub fn after(&self, paid_until: Time, now: Time, units: u64) -> Time {
        let cost = u128::from(units) * SECOND_NS / u128::from(self.per_second);
        paid_until.max(now) + Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// Takes `units` if one is available: what is larger than the burst passes after a rest, and is paid for afterwards.
    pub fn take(&self, paid_until: &mut Time, now: Time, units: u64) -> bool {
        let may = self.available(*paid_until, now) > 0;
        if may {
            *paid_until = self.after(*paid_until, now, units);
        }
        may
    }
}

/// What threads take of a rate without a lock.
#[derive(Debug, Default)]
pub struct SharedRate {
    /// Nanoseconds of [`Time`].
    paid_until: AtomicU64,
}

impl SharedRate {
    /// As [`Rate::take`]. What several threads take is never more than what one could.
    pub fn take(&self, rate: Rate, now: Time, units: u64) -> bool {
        let next = |paid: u64| {
            let mut paid = Time(paid);
            rate.take(&mut paid, now, units).then_some(paid.0)
        };
        // Relaxed: the moment guards no other memory.
        self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn second(at: f64) -> Time {
        Time((at * 1e9) as u64)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        for (per_second, burst) in [(10, 5), (3, 1), (7, 7), (1, 100), (1_000_000, 1), (3, 0)] {
            let rate = Rate::new(per_second, burst).unwrap();
            let (mut paid, now) = (Time::ZERO, second(50.0));
            let at_once = (0..1_000).filter(|_| rate.take(&mut paid, now, 1)).count() as u64;
            assert_eq!(at_once, burst.max(1), "{per_second} a second, {burst} at once");
            // Asked often, as many pass in ten seconds as ten seconds allow, give or take the one on the border.
            let mut passed = 0;
            for step in 1..=10_000 {
                passed += u64::from(rate.take(&mut paid, now + Duration::from_millis(step), 1));
            }
            let allowed = (per_second * 10).min(10_000);
            assert!(passed.abs_diff(allowed) <= 1, "{passed} of {allowed}");
        }
    }

    #[test]
    fn a_rest_gives_the_burst_back_and_no_more() {
        let rate = Rate::new(10, 5).unwrap();
        let mut paid = Time::ZERO;
        assert_eq!(rate.available(paid, second(1000.0)), 5);
        while rate.take(&mut paid, second(1000.0), 1) {}
        assert_eq!(rate.available(paid, second(1000.05)), 0);
        assert_eq!(rate.available(paid, second(1000.1)), 1);
        assert_eq!(rate.available(paid, second(1000.3)), 3);
        assert_eq!(rate.available(paid, second(9000.0)), 5);
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_after_a_rest_and_is_paid_for() {
        let rate = Rate::new(1_000, 1_000).unwrap();
        let mut paid = Time::ZERO;
        assert!(rate.take(&mut paid, second(10.0), 5_000));
        assert!(!rate.take(&mut paid, second(10.1), 1));
        assert!(!rate.take(&mut paid, second(14.0), 1));
        assert!(rate.take(&mut paid, second(14.1), 1));
    }

    #[test]
    fn never_more_than_the_rate_and_one_burst_in_any_time() {
        for seed in 0..100 {
            let mut prng = Prng::with_seed(seed);
            let (per_second, burst) = (prng.u64(1..50), prng.u64(1..50));
            let rate = Rate::new(per_second, burst).unwrap();
            let (mut paid, mut now, mut passed) = (Time::ZERO, second(1.0), 0);
            let start = now;
            for _ in 0..500 {
                now = now + Duration::from_millis(prng.u64(..100));
                passed += u64::from(rate.take(&mut paid, now, 1));
            }
            let allowed = now.since(start).as_secs_f64() * per_second as f64 + burst as f64 + 1.0;
            assert!(passed as f64 <= allowed, "seed {seed}: {passed} of {allowed}");
        }
    }

    #[test]
    fn threads_take_together_what_one_could() {
        let (shared, rate) = (SharedRate::default(), Rate::new(10, 100).unwrap());
        let take = |now: Time| {
            std::thread::scope(|scope| {
                let each = || (0..500).filter(|_| shared.take(rate, now, 1)).count();
                let threads = [(); 4].map(|()| scope.spawn(each));
                threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            })
        };
        assert_eq!(take(second(50.0)), 100);
        assert_eq!(take(second(51.0)), 10);
        assert_eq!(take(second(51.0)), 0);
    }

    #[test]
    fn nothing_configured_limits_nothing_and_nothing_overflows() {
        assert_eq!(Rate::new(0, 100), None);
        let rate = Rate::new(1, u64::MAX).unwrap();
        let mut paid = Time::ZERO;
        assert!(rate.take(&mut paid, second(1.0), u64::MAX));
        assert_eq!(paid, Time::NEVER);
        assert!(Rate::new(u64::MAX, 1).unwrap().take(&mut Time::ZERO.clone(), second(1.0), 1));
    }
}
