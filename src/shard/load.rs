//! How busy a shard is: the part of its time that it does not wait in. Pure.

use std::time::Duration;

use crate::base::time::Time;

/// How long is looked at, at least: a turn of a busy shard takes some milliseconds, and a crowd comes within seconds.
const WINDOW: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Load {
    since: Time,
    /// Processor time of the shard's thread at that moment.
    used: Duration,
    waited: Duration,
    percent: u32,
}

impl Load {
    pub fn new(now: Time, used: Duration) -> Load {
        Load { since: now, used, waited: Duration::ZERO, percent: 0 }
    }

    /// The driver was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Looks, when it is time. `used` says the processor time of the thread.
    ///
    /// The larger of two: what the thread has used (a driver works while it is waited for), and what it has not waited
    /// (where others have the processor, clients wait as well).
    pub fn measure(&mut self, now: Time, used: impl FnOnce() -> Duration) {
        let time = now.since(self.since);
        if time < WINDOW {
            return;
        }
        let used = used();
        let busy = used.saturating_sub(self.used).max(time.saturating_sub(self.waited));
        let percent = u32::try_from(busy.as_nanos() * 100 / time.as_nanos()).unwrap_or(100).min(100);
        // Half of it is what was before: one long turn is not a busy shard.
        self.percent = (self.percent + percent).div_ceil(2);
        *self = Load { since: now, used, waited: Duration::ZERO, percent: self.percent };
    }

    pub fn percent(&self) -> u32 {
        self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Windows of so many milliseconds used and waited.
    fn after(windows: &[(u64, u64)]) -> u32 {
        let mut load = Load::new(Time::from_millis(1_000), ms(500));
        let (mut now, mut used) = (1_000, 500);
        for (more, waited) in windows {
            for part in 1..=10 {
                load.waited(ms(*waited) / 10);
                let at = now + part * 10;
                load.measure(Time::from_millis(at), || ms(used + more * part / 10));
            }
            (now, used) = (now + 100, used + more);
        }
        load.percent()
    }

    #[test]
    fn what_is_used_or_not_waited_is_busy() {
        assert_eq!(after(&[(0, 100); 8]), 0);
        assert_eq!(after(&[(40, 60); 10]), 40);
        // The driver worked while it was waited for; and somebody else had the processor.
        assert_eq!(after(&[(90, 80); 10]), 90);
        assert_eq!(after(&[(10, 5); 10]), 95);
        assert_eq!(after(&[(200, 0); 10]), 100);
    }

    #[test]
    fn one_long_turn_is_not_a_busy_shard_and_a_busy_one_rests_again() {
        assert_eq!(after(&[(100, 0)]), 50);
        let mut windows = vec![(100, 0); 5];
        assert!(after(&windows) > 90);
        windows.extend([(0, 100); 5]);
        assert!(after(&windows) <= 4);
    }

    #[test]
    fn a_window_is_looked_at_whole() {
        let mut load = Load::new(Time::from_millis(1_000), ms(0));
        load.measure(Time::from_millis(1_099), || unreachable!("not yet"));
        load.waited(ms(900));
        load.measure(Time::from_millis(2_000), || ms(100));
        assert_eq!(load.percent(), 5);
    }
}
