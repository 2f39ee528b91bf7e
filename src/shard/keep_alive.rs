//! What time brings to peers of every kind: their first and further pings, what expires, what they are asked about.

use crate::base::fault::{Disconnect, Unsubscribed};
use crate::session::Sub;
use crate::shard::core::Core;
use crate::shard::look::transport_of;
use crate::shard::pings::{Beat, Liveness, PingVerdict};
use crate::shard::timers::{self, ShortTick};

impl Core {
    /// The peer is in: it is counted, its user's owner learns of it, and its pings begin.
    pub fn begin_peer(&mut self, slot: u32) {
        // What was sent to it on the way may have been too much for its socket: then it is gone by now.
        if self.links.connections.get(slot).is_none_or(|connection| connection.peer.has_left()) {
            return;
        }
        self.first_command(slot);
        self.env.stats.counters.clients_connected_total += 1;
        // The first ping comes at a random moment of the second half, so that a crowd that connected at once is not
        // pinged at once ever after.
        let interval = self.env.options.ping_interval.as_millis() as u64;
        let first = interval / 2 + self.env.prng.u64(0..=interval / 2);
        let due = timers::tick_after(self.env.now, first);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        self.peers.clients.enter(transport_of(&connection.peer));
        connection.peer.set_listed();
        connection.link.ping_due = ShortTick::new(due, timers::tick_of(self.env.now));
        connection.link.set_awaits_pong(false);
        // What came for its subscriptions while others of the same connect were still asked for.
        if connection.link.pending.is_some() {
            self.delivery.catching_up.push(slot);
        }
        if !connection.peer.of_user() {
            let user = connection.peer.user().cloned();
            self.join_user(slot, user, false);
        }
        self.tell_connected(slot);
        self.show_connected(slot);
        self.trace_connected(slot);
        self.set_peer_timer(slot);
    }

    /// The time of a peer that is in has come.
    pub fn handle_peer_timer(&mut self, slot: u32) {
        self.handle_hook_call_timer(slot);
        let unix_s = self.unix_s();
        let delay_s = self.env.options.expired_close_delay.as_secs();
        let Some(connection) = self.links.connections.get(slot) else { return };
        let peer = &connection.peer;
        if peer.ends_at_s(delay_s) != 0 && peer.ends_at_s(delay_s) <= unix_s {
            return self.close(slot, Disconnect::EXPIRED);
        }
        let expired = peer.expired_subs(unix_s.saturating_sub(delay_s));
        let own = |channel: &u32| peer.sub(*channel).is_some_and(|sub| sub.is(Sub::SERVER_SIDE));
        if expired.iter().any(own) {
            // The client did not ask for it and cannot ask again: it reconnects, and the server decides once more.
            return self.close(slot, Disconnect::SUBSCRIPTION_EXPIRED);
        }
        if !self.keep_alive(slot) {
            return;
        }
        for channel in expired {
            self.unsubscribe(slot, channel, Some(Unsubscribed::Expired));
        }
        self.set_peer_timer(slot);
    }

    /// Pings the peer when that is due. False when it is closed because it does not answer.
    fn keep_alive(&mut self, slot: u32) -> bool {
        let (interval, pong_timeout) = (self.env.options.ping_interval, self.env.options.pong_timeout);
        let now = timers::tick_of(self.env.now);
        let excused_until = self.delivery.silence_excused_until(self.env.now, pong_timeout);
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        let (link, peer) = (&mut connection.link, &mut connection.peer);
        let Some(liveness) = peer.liveness() else { return true };
        let due = link.ping_due.near(now);
        if interval.is_zero() || due > now {
            return true;
        }
        if let Some(ticks) = self.links.late_pings.delay(slot, due, interval) {
            link.ping_due = ShortTick::new(now.saturating_add(ticks), now);
            return true;
        }
        let beat = Beat {
            liveness,
            awaits_pong: link.awaits_pong(),
            outstanding: peer.ping_is_outstanding(),
            blocked: link.is_blocked(),
            input_paused: peer.input_is_paused() || link.awaits_inflating(),
            excused_until,
        };
        let (due, awaits_pong, frame) = match beat.judge(now, interval, pong_timeout) {
            PingVerdict::Close(why) => {
                self.close(slot, why);
                return false;
            }
            PingVerdict::Wait { due, awaits_pong } => (due, awaits_pong, None),
            PingVerdict::Ping { due, awaits_pong } => (due, awaits_pong, Some(peer.ping())),
        };
        link.ping_due = ShortTick::new(due, now);
        link.set_awaits_pong(awaits_pong);
        if let Some(frame) = frame {
            self.env.stats.counters.pings_sent_total += 1;
            if liveness != Liveness::Reads {
                self.links.seen.pinged(slot, self.env.now);
            }
            self.send(slot, frame);
            self.deliver_with_ping(slot);
        }
        true
    }

    /// Sets the timer of a peer that is in to the next thing that is due.
    pub fn set_peer_timer(&mut self, slot: u32) {
        let delay_s = self.env.options.expired_close_delay.as_secs();
        let (now, unix_s) = (self.env.now, self.unix_s());
        let Some(connection) = self.links.connections.get(slot) else { return };
        let peer = &connection.peer;
        if !peer.listed() {
            return;
        }
        let at = |at_s| timers::tick_after(now, timers::ms_until(at_s, unix_s));
        let pings = !self.env.options.ping_interval.is_zero();
        let ping = pings.then(|| connection.link.ping_due.near(timers::tick_of(now)));
        let end = Some(peer.next_end_s(delay_s)).filter(|&end| end != 0).map(at);
        let hook_call = peer.next_hook_call_s().map(at);
        let patience = peer.hook_call_until().map(|until| timers::tick_after(until, 0));
        match [ping, end, hook_call, patience].into_iter().flatten().min() {
            Some(due) => self.links.wheel.set(&mut self.links.connections, slot, due),
            None => self.links.wheel.cancel(&mut self.links.connections, slot),
        }
    }
}
