//! Subscribers that are given something less often than their channel: laggards with a time at which they read on.
//!
//! Such a subscriber always has a cursor, so that no batch is delivered to it; one that meets it sets its time. When that
//! has come it catches up as any laggard does, from the stream or from the log, and waits again. Nothing is queued for it. One that gets
//! notices with pings has no time, but its connection's next ping.

use std::time::Duration;

use crate::base::time::Time;
use crate::hub::followed::{ChannelIndex, Cursor};
use crate::shard::core::Core;
use crate::shard::subscriber_pace::SubscriberPace;

impl Core {
    /// The peer gets something of the channel at most once in `every` from now on. It has a cursor there.
    pub fn set_pace(&mut self, slot: u32, channel: ChannelIndex, every: Duration) {
        let now = self.env.now;
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let pending = connection.link.pending.get_or_insert_default();
        let pace = SubscriberPace::new(channel, every, now);
        pending.paces.push(pace);
        if !pace.is_with_ping() {
            self.wake_paced_at(slot, now + every);
        }
    }

    /// A ping goes out to the peer, and what waits for that with it.
    pub fn deliver_with_ping(&mut self, slot: u32) {
        let now = self.env.now;
        let followed = &self.delivery.followed;
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(pending) = &mut connection.link.pending else { return };
        let cursors = &pending.cursors;
        let mut due = false;
        for pace in pending.paces.iter_mut().filter(|pace| pace.is_with_ping()) {
            let cursor = cursors.iter().find(|(channel, _)| *channel == pace.channel);
            if cursor.is_some_and(|(_, cursor)| followed.get(pace.channel).stream().is_before_end(*cursor)) {
                (pace.due, due) = (now, true);
            }
        }
        if due && self.catch_up_one(slot) {
            self.delivery.catching_up.push(slot);
        }
    }

    fn wake_paced_at(&mut self, slot: u32, due: Time) {
        let earlier = self.delivery.paced.get(slot).is_some_and(|known| known <= due);
        if !earlier {
            self.delivery.paced.set(slot, due);
        }
    }

    /// Those whose time has come catch up.
    pub fn wake_paced(&mut self) {
        while let Some(slot) = self.delivery.paced.due(self.env.now) {
            self.delivery.paced.remove(slot);
            self.delivery.catching_up.push(slot);
        }
    }

    /// A batch meets a subscriber with a pace. False for any other.
    pub fn meets_paced(&mut self, slot: u32, channel: ChannelIndex) -> bool {
        let pending =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
        let Some(&mut pace) = pending.and_then(|pending| pending.pace(channel)) else {
            return false;
        };
        if !pace.is_with_ping() {
            self.wake_paced_at(slot, pace.due);
        }
        true
    }

    /// Whether the cursor stays where it is for now: its time has not come, or there is nothing for it.
    pub fn waits_for_pace(&mut self, slot: u32, channel: ChannelIndex, cursor: Cursor) -> bool {
        let now = self.env.now;
        let has_more = self.delivery.followed.get(channel).stream().is_before_end(cursor);
        let pending =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
        let Some(pace) = pending.and_then(|pending| pending.pace(channel)) else { return false };
        if !has_more {
            pace.running = false;
            return true;
        }
        if pace.running {
            return false;
        }
        if pace.due <= now {
            (pace.running, pace.due) = (true, now + pace.every);
            return false;
        }
        let pace = *pace;
        if !pace.is_with_ping() {
            self.wake_paced_at(slot, pace.due);
        }
        true
    }
}
