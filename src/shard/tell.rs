//! Where the events come from: what happens to connections, and to channels whose owner is here.

use crate::base::bytes::Bytes;
use crate::base::event::{EventKind, Farewell, What, Who};
use crate::base::fault::{Disconnect, Unsubscribed};
use crate::base::ids::{ChannelName, UserName};
use crate::base::time::Time;
use crate::hub::watch::CursorNotice;
use crate::shard::core::Core;

impl Core {
    /// The connection is a client from now on, with the subscriptions that it has.
    pub fn tell_connected(&mut self, slot: u32) {
        let now = self.env.now;
        if let Some(life) = self.owned.events.lives.as_mut().and_then(|lives| lives.get_mut(slot)) {
            life.connected = now;
        }
        let certificate = self.links.layers.certificate(slot);
        self.tell_of(slot, EventKind::Connected, |who| What::Connected(who, certificate));
        if !self.owned.events.wants(EventKind::Subscribed) {
            return;
        }
        let Some(connection) = self.links.connections.get(slot) else { return };
        let subs = connection.peer.subs();
        let channels: Vec<u32> =
            subs.iter().filter(|sub| sub.place().is_some()).map(|sub| sub.channel()).collect();
        for channel in channels {
            self.tell_subscribed(slot, channel);
        }
    }

    /// The connection is in the channel's list. Told when it is a client; what a client has when it becomes one is told
    /// then.
    pub fn tell_subscribed(&mut self, slot: u32, channel: u32) {
        if !self.owned.events.wants(EventKind::Subscribed) || !self.is_listed(slot) {
            return;
        }
        let name = self.delivery.followed.get(channel).name.clone();
        self.tell_of(slot, EventKind::Subscribed, |who| What::Subscribed(who, name));
    }

    /// The connection has left the channel's list, in which it was.
    pub fn tell_unsubscribed(&mut self, slot: u32, channel: &ChannelName, why: Unsubscribed) {
        if self.is_listed(slot) {
            self.tell_of(slot, EventKind::Unsubscribed, |who| What::Unsubscribed(who, channel.clone(), why));
        }
    }

    /// The connection was a client and is none any more.
    pub fn tell_disconnected(&mut self, slot: u32, why: Disconnect) {
        let Some(life) = self.owned.events.lives.as_ref().and_then(|lives| lives.get(slot)) else { return };
        let farewell = Farewell {
            code: why.code,
            reason: why.reason,
            duration_ms: self.env.now.since(life.connected).as_millis() as u64,
            received_bytes: life.received_bytes,
            sent_bytes: life.sent_bytes,
        };
        self.tell_of(slot, EventKind::Disconnected, |who| What::Disconnected(who, Box::new(farewell)));
    }

    /// A client has sent the backend something. False when nobody is there to take it.
    pub fn tell_message(&mut self, slot: u32, data: Bytes) -> bool {
        self.tell_of(slot, EventKind::Message, |who| What::Message(who, data));
        self.owned.events.wants(EventKind::Message)
    }

    fn tell_of(&mut self, slot: u32, kind: EventKind, what: impl FnOnce(Who) -> What) {
        if self.owned.events.wants(kind)
            && let Some(who) = self.who(slot)
        {
            self.owned.events.tell(self.env.wall_ms, what(who));
        }
    }

    fn is_listed(&self, slot: u32) -> bool {
        self.links.connections.get(slot).is_some_and(|connection| connection.peer.listed())
    }

    fn who(&self, slot: u32) -> Option<Who> {
        let peer = &self.links.connections.get(slot)?.peer;
        Some(Who {
            client: self.client_id(slot),
            transport: peer.transport()?,
            address: self.client_address(slot),
            user: peer.user().cloned().unwrap_or_else(|| "".into()),
        })
    }

    // --- channels whose owner is here

    /// Whether a join or leave of this channel is to be looked at: what [`Core::tell_occupancy`] wants to know.
    pub fn was_occupied(&self, channel: &str) -> Option<bool> {
        let wanted =
            self.owned.events.wants(EventKind::Occupied) || self.owned.events.wants(EventKind::Vacated);
        let wanted = wanted && !self.owned.events.last_told;
        wanted.then(|| !self.owned.channels.owned.interested(channel).is_empty())
    }

    /// Somebody has joined or left the channel.
    pub fn tell_occupancy(&mut self, channel: &ChannelName, was_occupied: Option<bool>) {
        let Some(was_occupied) = was_occupied else { return };
        match (was_occupied, !self.owned.channels.owned.interested(channel).is_empty()) {
            (false, true) => {
                let unknown = self.owned.events.occupancy.filled(channel);
                if unknown && self.owned.events.wants(EventKind::Occupied) {
                    self.owned.events.tell(self.env.wall_ms, What::Occupied(channel.clone()));
                }
            }
            (true, false) => {
                let now = self.env.now;
                self.owned.events.occupancy.emptied(channel.clone(), now);
                self.tell_due(now);
            }
            _ => {}
        }
    }

    /// What follows from acknowledgements in channels whose owner is here: the backend hears of some, publishers of some.
    pub fn tell_cursors(&mut self) {
        while let Some(notice) = self.owned.channels.owned.take_cursor_notice(self.env.now) {
            self.tell_cursor_notice(notice);
        }
    }

    fn tell_cursor_notice(&mut self, notice: CursorNotice) {
        match notice {
            CursorNotice::Event(what) => {
                if what.kind().is_some_and(|kind| self.owned.events.wants(kind)) {
                    self.owned.events.tell(self.env.wall_ms, what);
                }
            }
            CursorNotice::Receipts { user, data } => self.push_receipts(user, data),
        }
    }

    fn tell_last_acked(&mut self) {
        for notice in self.owned.channels.owned.take_acked() {
            self.tell_cursor_notice(notice);
        }
    }

    // --- users whose owner is here

    /// A connection of the user has come or gone; before, it had so many.
    pub fn tell_user(&mut self, user: &UserName, before: usize) {
        let wants = |kind| self.owned.events.wants(kind);
        let wanted = wants(EventKind::UserOnline) || wants(EventKind::UserOffline);
        if user.is_empty() || !wanted || self.owned.events.last_told {
            return;
        }
        match (before, self.owned.users.count(user)) {
            (0, 1..) => {
                let unknown = self.owned.events.users.filled(user);
                if unknown && self.owned.events.wants(EventKind::UserOnline) {
                    self.owned.events.tell(self.env.wall_ms, What::UserOnline(user.clone()));
                }
            }
            (1.., 0) => {
                let now = self.env.now;
                self.owned.events.users.emptied(user.clone(), now);
                self.tell_due(now);
            }
            _ => {}
        }
    }

    /// What time alone brings: channels that stayed empty, and room for a loss to be told.
    pub fn handle_events(&mut self) {
        self.owned.events.tell_lost(self.env.wall_ms);
        self.tell_due(self.env.now);
    }

    /// Events that wait for their time go out now: the next process knows nothing of them.
    pub fn tell_early(&mut self) {
        self.tell_due(Time::NEVER);
        self.tell_last_acked();
    }

    fn tell_due(&mut self, now: Time) {
        while let Some(channel) = self.owned.events.occupancy.due(now) {
            if self.owned.events.wants(EventKind::Vacated) {
                self.owned.events.tell(self.env.wall_ms, What::Vacated(channel));
            }
        }
        while let Some(user) = self.owned.events.users.due(now) {
            if self.owned.events.wants(EventKind::UserOffline) {
                self.owned.events.tell(self.env.wall_ms, What::UserOffline(user));
            }
        }
    }

    /// The shard ends: no channel of it has a subscriber any more, whatever message is still on its way.
    pub fn tell_last(&mut self) {
        if std::mem::replace(&mut self.owned.events.last_told, true) {
            return;
        }
        self.tell_due(Time::NEVER);
        self.tell_last_acked();
        if self.owned.events.wants(EventKind::Vacated) {
            for (channel, _) in self.owned.channels.owned.channels(&|_| true) {
                self.owned.events.tell(self.env.wall_ms, What::Vacated(channel));
            }
        }
        if self.owned.events.wants(EventKind::UserOffline) {
            for user in self.owned.users.names().cloned().collect::<Vec<_>>() {
                self.owned.events.tell(self.env.wall_ms, What::UserOffline(user));
            }
        }
    }
}
