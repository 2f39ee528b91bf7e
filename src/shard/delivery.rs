//! What is on its way to subscribers of this shard, and whether the shard keeps up with it.

use std::time::Duration;

use crate::base::time::Time;
use crate::hub::deadlines::Deadlines;
use crate::hub::followed::{FollowedChannels, Moved};
use crate::shard::pushes::Pushes;
use crate::shard::timers::{self, TimerTick};

/// Work that is done later than this shows that the shard does not keep up.
pub(in crate::shard) const LATE: Duration = Duration::from_millis(100);
/// Longest time for which silent clients are excused: a broadcast to a million takes seconds, not minutes.
const EXCUSED_MAX: Duration = Duration::from_secs(60);

pub(in crate::shard) struct Delivery {
    pub followed: FollowedChannels,
    /// Messages to users, on their way to connections here.
    pub pushes: Pushes,
    /// Connections with cursors that may move on.
    pub catching_up: Vec<u32>,
    /// Connections with a pace of their own in some channel, and when the next of these is due.
    pub paced: Deadlines,
    /// The last stretch of time in which the shard did not keep up.
    pub behind: Option<Behind>,

    // Scratch space, empty between uses.
    pub moved: Vec<Moved>,
    pub special: Vec<(u32, u32)>,
}

/// A stretch of time in which deliveries waited for their turn, or timers were late.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Behind {
    since: Time,
    until: Time,
}

impl Delivery {
    pub fn new(followed: FollowedChannels) -> Delivery {
        Delivery {
            followed,
            pushes: Pushes::default(),
            catching_up: Vec::new(),
            paced: Deadlines::default(),
            behind: None,
            moved: Vec::new(),
            special: Vec::new(),
        }
    }

    /// Deliveries wait for their turn, or a timer was late.
    pub fn fell_behind(&mut self, now: Time) {
        match &mut self.behind {
            Some(behind) if now <= behind.until + LATE * 10 => behind.until = now,
            _ => self.behind = Some(Behind { since: now, until: now }),
        }
    }

    /// While a shard does not keep up, the silence of its clients proves nothing: a broadcast to a crowd delays their
    /// pongs, and closing them for it would bring all of them back at once. They have a whole timeout from its end.
    /// A shard that never keeps up closes the silent all the same.
    pub fn silence_excused_until(&self, now: Time, pong_timeout: Duration) -> Option<TimerTick> {
        let Behind { since, until } = self.behind?;
        let until = (until + pong_timeout).min(since + EXCUSED_MAX);
        (until > now).then(|| timers::tick_of(until) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::followed::StreamLimits;

    #[test]
    fn silence_is_excused_for_a_timeout_after_a_shard_was_late_and_not_for_ever() {
        let second = |s: u64| Time::from_millis(s * 1000);
        let timeout = Duration::from_secs(8);
        let limits = StreamLimits { channel_bytes_max: 1, channel_items_max: 1, shard_bytes_max: 1 };
        let mut delivery = Delivery::new(FollowedChannels::new(limits, 1));
        assert_eq!(delivery.silence_excused_until(second(5), timeout), None);
        delivery.fell_behind(second(10));
        assert_eq!(
            delivery.silence_excused_until(second(11), timeout),
            Some(timers::tick_of(second(18)) + 1)
        );
        assert_eq!(delivery.silence_excused_until(second(18), timeout), None);
        // Late all the time.
        for late in 20..200 {
            delivery.fell_behind(second(late));
        }
        assert_eq!(delivery.silence_excused_until(second(199), timeout), None);
    }
}
