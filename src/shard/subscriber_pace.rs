//! How often a subscriber is given something of a channel: see `paces.rs`.

use std::time::Duration;

use crate::base::ids::ChannelName;
use crate::base::time::Time;
use crate::hub::followed::ChannelIndex;
use crate::record::PaceRecord;

/// How often a subscriber is given something of one channel.
#[derive(Clone, Copy, Debug)]
pub struct SubscriberPace {
    pub channel: ChannelIndex,
    pub every: Duration,
    /// Nothing is given to it before this.
    pub due: Time,
    /// It catches up: what it reads may come in several parts.
    pub running: bool,
}

impl SubscriberPace {
    /// With the next ping of its connection. Longer than anybody may ask for: it is written in records.
    pub const WITH_PING: Duration = Duration::from_millis(u32::MAX as u64);

    pub fn is_with_ping(&self) -> bool {
        self.every == SubscriberPace::WITH_PING
    }

    pub fn to_record(self, name_of: &dyn Fn(ChannelIndex) -> ChannelName) -> PaceRecord {
        let every_ms = u32::try_from(self.every.as_millis()).unwrap_or(u32::MAX);
        PaceRecord { channel: name_of(self.channel), every_ms }
    }

    pub fn new(channel: ChannelIndex, every: Duration, now: Time) -> SubscriberPace {
        SubscriberPace { channel, every, due: now + every, running: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_due_a_whole_interval_later_and_its_record_says_how_long_that_is() {
        let now = Time::ZERO + Duration::from_secs(5);
        let name_of = |_| ChannelName::from("c");
        for (every, every_ms) in [
            (Duration::from_millis(250), 250),
            (SubscriberPace::WITH_PING, u32::MAX),
            (Duration::from_secs(1 << 40), u32::MAX),
        ] {
            let pace = SubscriberPace::new(7, every, now);
            assert_eq!((pace.due, pace.running), (now + every, false));
            assert_eq!(pace.is_with_ping(), every == SubscriberPace::WITH_PING);
            assert_eq!(pace.to_record(&name_of), PaceRecord { channel: "c".into(), every_ms });
        }
    }
}
