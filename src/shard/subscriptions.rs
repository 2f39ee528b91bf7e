//! Subscriptions of peers of every kind, once their owner has answered: the channel's list, and the way out of it.

use crate::base::fault::Unsubscribed;
use crate::base::ids::Offset;
use crate::session::unidirectional::Unidirectional;
use crate::shard::core::Core;
use crate::shard::owner::OwnerRequest;

impl Core {
    /// Puts a peer into the channel's list. `waits`: nothing may be given to it until its other channels have answered.
    pub fn add_subscriber(&mut self, slot: u32, index: u32, join_leave: bool, top: Offset, waits: bool) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        // Until a connect is answered nothing may be pushed: it waits in the stream, as for a blocked socket.
        let held = waits || connection.link.is_blocked() || connection.peer.is_connecting();
        let Some(class) = connection.peer.class(join_leave) else { return };
        debug_assert!(connection.peer.sub(index).is_some_and(|sub| sub.place().is_none()));
        let (place, cursor) = self.delivery.local.subscribe(index, slot, class, top);
        connection.peer.placed(index, place);
        if class.own_frames && connection.peer.uni().is_some_and(Unidirectional::is_ready) {
            // Its other channels were alone until now.
            for sub in connection.peer.subs() {
                if let Some(place) = sub.place() {
                    self.delivery.local.give_own_frames(sub.channel(), place);
                }
            }
        }
        self.env.stats.counters.subscriptions_total += 1;
        let stream = self.delivery.local.get(index).stream();
        let cursor = cursor.or_else(|| held.then(|| stream.cursor(stream.end())));
        if let Some(cursor) = cursor {
            if stream.is_before_end(cursor) {
                self.delivery.catching_up.push(slot);
            }
            let lag = connection.link.lag.get_or_insert_default();
            lag.held |= waits;
            lag.cursors.push((index, cursor));
            self.delivery.local.cursor_set(index, place);
        }
        self.tell_subscribed(slot, index);
    }

    /// Ends a subscription; with `why`, a client that has words for it is told.
    pub fn unsubscribe(&mut self, slot: u32, channel: u32, why: Option<Unsubscribed>) {
        let conn = self.conn_id(slot);
        let Some(connection) = self.links.connections.get(slot) else { return };
        let Some(sub) = connection.peer.sub(channel) else { return };
        let name = self.delivery.local.get(channel).name.clone();
        if let Some(place) = sub.place() {
            self.drop_cursor(slot, channel, place);
            // Before the client is told: what is written to it may close it.
            self.tell_unsubscribed(slot, &name, why.unwrap_or(Unsubscribed::Client));
        }
        let told = why.and_then(|why| {
            self.with_session(slot, |session, cx| session.unsubscribed(channel, &name, why, cx))
        });
        if told.is_none()
            && let Some(connection) = self.links.connections.get_mut(slot)
        {
            connection.peer.remove(channel);
        }
        if let Some(place) = sub.place() {
            self.leave_list(channel, place);
        }
        self.messages.mailer.request(OwnerRequest::Leave { channel: name, conn });
    }
}
