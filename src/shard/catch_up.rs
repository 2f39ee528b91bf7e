//! Connections whose sockets did not take everything: what they are owed, and how they catch up from the log.

use std::sync::Arc;

use crate::base::fault::{Disconnect, Unsubscribed};
use crate::base::ids::{ChannelName, Epoch, Position};
use crate::base::time::Time;
use crate::driver::{SendCause, SendFailure};
use crate::hub::class::Class;
use crate::hub::followed::{Cursor, Item, Seq};
use crate::hub::limits::READ_AGAIN;
use crate::hub::notice::notice;
use crate::hub::options::GapPolicy;
use crate::hub::requests::{Read, ReadAnswer};
use crate::session::gaps::AfterGap;
use crate::shard::audience::{class_of, is_filtered, item_is_kept_from};
use crate::shard::control_request::seen::EndedBy;
use crate::shard::core::Core;
use crate::shard::environment::RETRY;
use crate::shard::links::Action;
use crate::shard::outbox::Rest;
use crate::shard::owner::{OwnerRequest, ReadBy};
use crate::shard::stats::Cause;
use crate::shard::unidirectional::append_item;

/// Bytes of missed items that one connection gets in one tick, so that a crowd of laggards coming back does not hold
/// up those who keep up.
const CATCH_UP_BYTES: usize = 64 * 1024;

impl Core {
    /// The kernel did not take a write whole: what is left is owed, and in every channel the connection stands where
    /// this tick has brought it.
    pub fn handle_send_failed(&mut self, failure: &SendFailure) {
        self.env.stats.counters.sends_short_total += 1;
        let (slot, rest) = self.links.outbox.remainder(failure);
        self.owned.events.unsent(slot, rest.len() as u64);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.link.is_gone() {
            return;
        }
        if let SendCause::Broken(_) = failure.cause {
            self.env.stats.fault(Cause::PeerReset);
            self.links.ends.blame(slot, EndedBy::Network);
            self.give_up(slot);
            return;
        }
        let generation = connection.link.generation;
        let pending = connection.link.pending.get_or_insert_default();
        debug_assert!(pending.owed_bytes == 0, "what was owed was in this write");
        pending.blocked = true;
        if pending.since == Time::ZERO {
            pending.since = self.env.now;
        }
        match rest {
            Rest::Plain(rest) => rest.into_iter().for_each(|bytes| pending.push(bytes)),
            Rest::Sealed(rest) => rest.into_iter().for_each(|sealed| pending.push_sealed(sealed)),
        }
        for sub in connection.peer.subs() {
            let (channel, Some(place)) = (sub.channel(), sub.place()) else { continue };
            if pending.cursor(channel).is_none() {
                let entry = self.delivery.followed.get(channel);
                pending.cursors.push((channel, entry.stream().cursor(entry.cursor_of(place))));
                self.delivery.followed.cursor_set(channel, place);
            }
        }
        if failure.cause == SendCause::NoBuffers {
            self.env.stats.fault(Cause::SendNoBuffers);
            self.links.starved.push((self.env.now + RETRY * 10, slot, generation));
        } else {
            self.links.actions.push(Action::WriteWatch(slot));
        }
        self.answer_cut(slot);
        self.check_debt(slot);
        self.settle(slot);
    }

    /// Closes a connection that owes more than it may.
    pub fn check_debt(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let Some(pending) = &connection.link.pending else { return };
        if pending.owed_bytes > connection.peer.owed_bytes_max(self.env.options.outbox_bytes_max) {
            self.close(slot, Disconnect::SLOW);
        }
    }

    /// The socket takes bytes again: first what is owed.
    pub fn handle_writable(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(pending) = &mut connection.link.pending else { return };
        if !pending.blocked {
            return;
        }
        pending.blocked = false;
        let (sealed, plain) = pending.take_owed();
        for sealed in sealed {
            let frame = self.links.outbox.sealed_frame(sealed);
            self.links.outbox.append(slot, &mut connection.link.chain, frame);
        }
        for bytes in plain {
            let frame = self.links.outbox.frame(bytes);
            self.links.outbox.append(slot, &mut connection.link.chain, frame);
        }
        // Its layer may have had to be silent meanwhile.
        self.seal_soon(slot);
        self.delivery.catching_up.push(slot);
        self.settle(slot);
        self.resume_commands_later(slot);
    }

    /// Moves cursors on for connections that can take bytes again.
    pub fn catch_up(&mut self) {
        self.wake_paced();
        if !self.links.starved.is_empty() {
            let now = self.env.now;
            let due: Vec<(u32, u32)> = self
                .links
                .starved
                .extract_if(.., |(at, ..)| *at <= now)
                .map(|(_, slot, generation)| (slot, generation))
                .collect();
            for (slot, generation) in due {
                let Some(connection) = self.links.connections.get(slot) else { continue };
                if connection.link.generation != generation {
                    continue;
                }
                match &connection.link.pending {
                    Some(pending) if !pending.blocked => self.delivery.catching_up.push(slot),
                    _ => self.handle_writable(slot),
                }
            }
        }
        let mut slots = std::mem::take(&mut self.delivery.catching_up);
        slots.retain(|&slot| self.catch_up_one(slot));
        slots.append(&mut self.delivery.catching_up);
        self.delivery.catching_up = slots;
    }

    /// True when there is more to do in the next tick.
    pub fn catch_up_one(&mut self, slot: u32) -> bool {
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        let connecting = connection.peer.is_connecting();
        let Some(pending) = &mut connection.link.pending else { return false };
        if pending.blocked || pending.held || connecting {
            return false;
        }
        let cursors = pending.cursors.clone();
        if std::mem::take(&mut pending.read_paused) {
            self.read_on(slot);
        }
        if self.is_held_poll(slot) && self.catch_up_poll(slot) {
            return false;
        }
        let mut budget = CATCH_UP_BYTES;
        let mut more = false;
        for (channel, cursor) in cursors {
            if cursor.asked || self.waits_for_pace(slot, channel, cursor) {
                continue;
            }
            if !self.delivery.followed.get(channel).stream().reaches(cursor) {
                if !self.ask_log(slot, channel) {
                    return false;
                }
                continue;
            }
            let Some((class, place)) = self.place_of(slot, channel) else { continue };
            let entry = self.delivery.followed.get(channel);
            let Some(connection) = self.links.connections.get_mut(slot) else { return false };
            let mut at = cursor.seq;
            for item in entry.stream().from(cursor.seq) {
                if budget == 0 {
                    more = true;
                    break;
                }
                at += 1;
                if item.is_join_leave() && !class.join_leave
                    || cursor.has_had(item)
                    || item_is_kept_from(&self.peers, &connection.peer, item)
                    || is_filtered(&connection.peer, channel, item)
                {
                    continue;
                }
                let bytes = append_item(
                    &mut self.links.outbox,
                    &self.delivery.followed,
                    slot,
                    connection,
                    channel,
                    class.shape,
                    item,
                    &mut self.links.compression.deflater,
                );
                budget = budget.saturating_sub(bytes);
                self.env.stats.counters.deliveries_late_total += 1;
            }
            let moved = entry.stream().moved(cursor, at);
            let caught_up = at == entry.stream().end() && at == entry.cursor_of(place) && !moved.skips;
            let Some(pending) = &mut connection.link.pending else { return false };
            if caught_up && pending.pace(channel).is_none() {
                pending.cursors.retain(|(other, _)| *other != channel);
                self.delivery.followed.cursor_cleared(channel, place);
            } else if let Some(cursor) = pending.cursor(channel) {
                // Ahead of a batch that is still on its way to others: the batch will find it there.
                *cursor = moved;
            }
        }
        if let Some(connection) = self.links.connections.get_mut(slot)
            && let Some(over) = connection.link.pending.take_if(|pending| pending.is_over())
        {
            self.env.stats.lagged(over.since, self.env.now);
            self.answer_gone(slot);
        } else if let Some(connection) = self.links.connections.get_mut(slot)
            && let Some(pending) = connection.link.pending.as_mut().filter(|pending| pending.is_paced_alone())
            && pending.since != Time::ZERO
        {
            self.env.stats.lagged(std::mem::take(&mut pending.since), self.env.now);
            self.answer_gone(slot);
        }
        more
    }

    /// The delivery class and the place of a subscriber.
    pub fn place_of(&mut self, slot: u32, channel: u32) -> Option<(Class, u32)> {
        let connection = self.links.connections.get_mut(slot)?;
        let place = connection.peer.sub(channel)?.place()?;
        let followed = self.delivery.followed.get(channel);
        let subscriber = followed.subscribers()[place as usize];
        debug_assert_eq!(subscriber.slot(), slot);
        Some((class_of(connection, followed, subscriber, channel)?, place))
    }

    /// The cursor has fallen off this shard's stream: the channel's log may still reach back to it. False when the
    /// connection is closed because nothing does.
    fn ask_log(&mut self, slot: u32, channel: u32) -> bool {
        let conn = self.conn_id(slot);
        let entry = self.delivery.followed.get(channel);
        if entry.options.is_notice() {
            return self.say_again(slot, channel);
        }
        if !entry.options.keeps_history() || entry.options.gap == GapPolicy::Latest {
            return self.handle_gap(slot, channel);
        }
        let name = entry.name.clone();
        let epoch = entry.top().map_or(Epoch::NONE, |top| top.epoch);
        let Some(pending) =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut())
        else {
            return false;
        };
        let Some(cursor) = pending.cursor(channel) else { return true };
        cursor.asked = true;
        let after = Position { offset: cursor.after, epoch };
        let bytes_max = self.env.options.outbox_bytes_max / 4;
        let read = Read { channel: name.clone(), index: channel, number: 0, after, bytes_max };
        let ask = OwnerRequest::Read { by: ReadBy::Laggard(conn), read };
        self.messages.mailer.request(ask);
        true
    }

    /// What a subscriber of notices has missed is said by one of where the channel stands: the log has nothing to add. False
    /// when the connection is closed meanwhile.
    fn say_again(&mut self, slot: u32, channel: u32) -> bool {
        let entry = self.delivery.followed.get(channel);
        let Some(top) = entry.top() else { return true };
        let (name, options) = (entry.name.clone(), Arc::clone(&entry.options));
        let pending =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
        let Some(cursor) = pending.and_then(|pending| pending.cursor(channel)) else { return true };
        cursor.asked = true;
        let after = Position { offset: cursor.after, epoch: top.epoch };
        let missed = cursor.after < top.offset;
        let publications = Vec::from_iter(missed.then(|| notice(name.clone(), top, &options, Time::ZERO)));
        let read = Read { channel: name, index: channel, number: 0, after, bytes_max: 0 };
        self.handle_caught_up(slot, &read, ReadAnswer::Page { publications, position: top });
        self.links.connections.get(slot).is_some()
    }

    /// The log has answered [`Core::ask_log`].
    pub fn handle_caught_up(&mut self, slot: u32, read: &Read, answer: ReadAnswer) {
        let (channel, after) = (read.index, read.after.offset);
        // The subscription may have ended meanwhile, and its number be another channel's.
        if self.delivery.followed.find(&read.channel) != Some(channel) {
            return;
        }
        if self.place_of(slot, channel).is_none() {
            return;
        }
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let generation = connection.link.generation;
        let Some(pending) = &mut connection.link.pending else { return };
        let Some(cursor) = pending.cursor(channel).filter(|cursor| cursor.asked && cursor.after == after)
        else {
            return;
        };
        cursor.asked = false;
        let mut publications = match answer {
            ReadAnswer::Page { publications, .. } => publications,
            ReadAnswer::Lost(_) => {
                self.handle_gap(slot, channel);
                return;
            }
            ReadAnswer::Unavailable => {
                self.links.starved.push((self.env.now + READ_AGAIN, slot, generation));
                return;
            }
        };
        let reached = publications.last().map_or(after, |last| last.offset());
        let entry = self.delivery.followed.get(channel);
        let stream = entry.stream();
        *cursor = match stream.cursor_after(reached) {
            // What the shard has been sent may be older than the answer.
            Some(cursor) => Cursor { skips: entry.top().is_some_and(|top| top.offset < reached), ..cursor },
            // The log is asked again when this has left.
            None => Cursor { after: reached, ..*cursor },
        };
        self.delivery.catching_up.push(slot);
        self.keep_own(slot, channel, &mut publications);
        if self.is_held_poll(slot) {
            return self.answer_missed(slot, channel, &publications);
        }
        for publication in publications {
            self.env.stats.counters.deliveries_late_total += 1;
            self.send_late(slot, channel, Item::Publication(publication));
        }
    }

    /// Asks owners for what is missing in channels of this shard.
    pub fn ask_owners(&mut self) {
        while let Some(read) = self.delivery.followed.take_read(self.env.now) {
            let ask = OwnerRequest::Read { by: ReadBy::Channel(self.env.id), read };
            self.messages.mailer.request(ask);
        }
    }

    /// Everybody who is subscribed to the channel here has lost something after `stood`.
    pub fn handle_channel_gap(&mut self, channel: u32, name: &ChannelName, stood: Position) {
        let entry = self.delivery.followed.get(channel);
        let other_log = entry.top().is_none_or(|top| top.epoch != stood.epoch);
        let slots: Vec<u32> = entry.subscribers().iter().map(|subscriber| subscriber.slot()).collect();
        for slot in slots {
            // The last one to leave takes the channel with it.
            if self.delivery.followed.find(name) != Some(channel) {
                return;
            }
            let pending =
                self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
            if other_log && let Some(cursor) = pending.and_then(|pending| pending.cursor(channel)) {
                // Offsets of the log before say nothing about those of this one.
                cursor.skips = false;
            }
            self.handle_gap(slot, channel);
        }
    }

    /// The cursor has fallen off the log's tail. False when the connection is closed for it, or answered.
    fn handle_gap(&mut self, slot: u32, channel: u32) -> bool {
        self.env.stats.counters.gaps_total += 1;
        let Some((_, place)) = self.place_of(slot, channel) else { return true };
        let policy = self.delivery.followed.get(channel).options.gap;
        let Some(connection) = self.links.connections.get(slot) else { return true };
        match connection.peer.after_gap(channel, policy) {
            Some(AfterGap::Close(disconnect)) => {
                self.close(slot, disconnect);
                return false;
            }
            Some(AfterGap::Answer) => {
                self.reset_poll(slot, channel);
                return false;
            }
            Some(AfterGap::Unsubscribe) => {
                self.unsubscribe(slot, channel, Some(Unsubscribed::InsufficientState));
            }
            Some(AfterGap::SkipToNewest) => {
                // The newest that is still kept; with nothing kept, the client goes on from the next.
                let newest = self.delivery.followed.get(channel).stream().newest();
                self.skip_to(slot, channel, newest);
                self.delivery.catching_up.push(slot);
            }
            Some(AfterGap::Reset) => {
                self.skip_all(slot, channel, place);
                self.delivery.catching_up.push(slot);
                self.note_reset(slot, channel);
            }
            Some(AfterGap::SayInAnswer) => {
                self.skip_all(slot, channel, place);
                self.goes_on_from(slot, channel);
            }
            None => {}
        }
        true
    }

    /// The request of a client that has lost something in the channel says in its answer where it goes on.
    fn goes_on_from(&mut self, slot: u32, channel: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let entry = self.delivery.followed.get(channel);
        let Some(top) = entry.top() else { return };
        let cursor = connection.link.pending.as_ref().and_then(|pending| pending.cursor_in(channel));
        let top = Position { offset: cursor.map_or(top.offset, |cursor| cursor.after), ..top };
        if let Some(uni) = connection.peer.uni_mut() {
            uni.handle_gap(channel, top);
        }
    }

    /// Moves the cursor that the connection has in the channel. False when it has none.
    fn skip_to(&mut self, slot: u32, channel: u32, seq: Seq) -> bool {
        let pending =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
        let Some(cursor) = pending.and_then(|pending| pending.cursor(channel)) else { return false };
        *cursor = self.delivery.followed.get(channel).stream().moved(*cursor, seq);
        true
    }

    /// The subscriber goes on behind all that the stream holds.
    fn skip_all(&mut self, slot: u32, channel: u32, place: u32) {
        let entry = self.delivery.followed.get(channel);
        let (end, stands) = (entry.stream().end(), entry.cursor_of(place));
        if self.skip_to(slot, channel, end) || stands == end {
            return;
        }
        // What is not delivered yet is from before the loss.
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let cursor = self.delivery.followed.get(channel).stream().cursor(end);
        connection.link.pending.get_or_insert_default().cursors.push((channel, cursor));
        self.delivery.followed.cursor_set(channel, place);
    }

    /// Forgets the cursor that a connection has in a channel.
    pub fn drop_cursor(&mut self, slot: u32, channel: u32, place: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(pending) = &mut connection.link.pending else { return };
        if pending.cursor(channel).is_some() {
            pending.cursors.retain(|(other, _)| *other != channel);
            pending.paces.retain(|pace| pace.channel != channel);
            self.delivery.followed.cursor_cleared(channel, place);
        }
        if pending.is_over() {
            self.env.stats.lagged(pending.since, self.env.now);
            connection.link.pending = None;
        }
    }
}

#[cfg(test)]
#[path = "catch_up_tests.rs"]
mod tests;
