//! Subscriptions of peers of every kind: the join that the channel's owner is asked for, its answer, the channel's list,
//! and the way out of it.

use std::sync::Arc;

use crate::base::deliver_every::DeliverEvery;
use crate::base::fault::Unsubscribed;
use crate::base::ids::{ChannelName, Offset};
use crate::base::publication::{ClientInfo, Missed};
use crate::hub::Deliver;
use crate::hub::creators::Creator;
use crate::hub::notice::only_notice;
use crate::hub::requests::JoinRequest;
use crate::session::rights::visibility;
use crate::session::unidirectional::{Mode, Unidirectional};
use crate::session::{JoinAnswer, JoinTerms, JoinVerdict, RECOVERY_WEIGHT, Sub, SubscribeEffect};
use crate::shard::audience::keep_matching;
use crate::shard::core::Core;
use crate::shard::gather::Gather;
use crate::shard::owner::{JoinTag, OwnerRequest};
use crate::shard::subscriber_pace::SubscriberPace;

impl Core {
    /// Asks a channel's owner to make the peer a subscriber.
    pub fn ask_to_join(&mut self, slot: u32, subscribe: SubscribeEffect, done: Option<Arc<Gather>>) {
        let conn = self.conn_id(slot);
        let client = self.client_id(slot);
        let Ok(options) = self.env.options.namespaces.resolve(&subscribe.channel) else { return };
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let shown = visibility(subscribe.flags);
        let (peer, chan_info) = (&mut connection.peer, &subscribe.chan_info);
        let info = match (shown.at_all(), chan_info) {
            (true, None) => peer.shared_info(client.to_string()),
            (true, Some(_)) => peer
                .info(client.to_string())
                .map(|info| Arc::new(ClientInfo { chan_info: chan_info.clone(), ..info })),
            // Nobody gets to see it: it says whose it is, and no more.
            (false, _) => {
                peer.info(String::new()).map(|info| Arc::new(ClientInfo { conn_info: None, ..info }))
            }
        };
        let Some(info) = info else { return };
        // A place that the client names is newer than what its device has acknowledged.
        let unplaced = subscribe.since.is_none_or(|since| since.is_rewind());
        let inboxes = self.env.options.inboxes.as_ref().filter(|_| unplaced);
        let device = inboxes
            .filter(|inboxes| inboxes.is_of(&subscribe.channel, &info.user))
            .map(|_| Box::new(connection.peer.device().cloned().unwrap_or_default()));
        let index = self.delivery.followed.join_asked(&subscribe.channel, options);
        let number = self.messages.joins_asked.wrapping_add(1);
        self.messages.joins_asked = number;
        connection.peer.join_asked(index, number, &subscribe);
        self.command_sent(slot, join_weight(subscribe.flags, subscribe.since.is_some()));
        let by = match subscribe.flags & Sub::SERVER_SIDE {
            0 => self.creator(slot, Some(&info.user)),
            _ => Creator::Backend,
        };
        let ask = JoinRequest {
            channel: subscribe.channel,
            conn,
            info,
            shown,
            recover: subscribe.since,
            device,
            by,
        };
        let terms = JoinTerms {
            number,
            id: subscribe.id,
            flags: subscribe.flags,
            reject_unrecovered: subscribe.reject_unrecovered,
            data: subscribe.data,
            filters: subscribe.filters,
            deliver_every: subscribe.deliver_every,
        };
        let tag = JoinTag { index, terms, done };
        self.messages.mailer.request(OwnerRequest::Join { ask, tag });
    }

    /// The owner has answered: what the peer hears of it is its kind's, what becomes of the subscription is not.
    pub fn handle_joined(&mut self, slot: u32, index: u32, channel: &ChannelName, mut answer: JoinAnswer) {
        if let Ok((_, Missed::Given(publications))) = &mut answer.outcome {
            // As it was asked for, whatever has become of the subscription.
            keep_matching(answer.terms.filters.as_ref(), publications);
            self.keep_not_excepted(slot, publications);
            let options = &self.delivery.followed.get(index).options;
            if options.is_notice() {
                only_notice(publications, options);
            }
        }
        let every = answer.terms.deliver_every;
        let top = answer.outcome.as_ref().map_or(Offset(0), |(position, _)| position.offset);
        if let Some(uni) = self.links.connections.uni_mut(slot) {
            let at = answer.terms.id;
            // A poll asks when it wants.
            let paced = matches!(uni.mode, Mode::Stream(_));
            let (verdict, after) = uni.handle_joined(index, answer);
            self.carry_out(slot, index, channel, top, verdict, after.waits());
            if paced {
                self.keep_pace(slot, index, every);
            }
            return self.go_on_after_join(slot, channel, at, after);
        }
        match &answer.outcome {
            _ if answer.since.is_some_and(|since| since.is_rewind()) => {}
            Ok((_, Missed::Given(_))) => self.env.stats.counters.recoveries_total += 1,
            Ok((_, Missed::Lost)) => self.env.stats.counters.recoveries_lost_total += 1,
            _ => {}
        }
        let weight = join_weight(answer.terms.flags, answer.since.is_some());
        // The subscriber is in its list before commands that were held for the answer are looked at.
        self.with_session_then(
            slot,
            |session, cx| session.handle_joined(index, channel, answer, cx),
            |core, verdict| match verdict {
                Ok(verdict) => {
                    core.carry_out(slot, index, channel, top, verdict, false);
                    core.keep_pace(slot, index, every);
                }
                Err(disconnect) => core.close(slot, disconnect),
            },
        );
        self.command_answered(slot, weight);
    }

    fn carry_out(
        &mut self,
        slot: u32,
        index: u32,
        channel: &ChannelName,
        top: Offset,
        verdict: JoinVerdict,
        waits: bool,
    ) {
        match verdict {
            JoinVerdict::Subscribe { join_leaves } => {
                self.add_subscriber(slot, index, join_leaves, top, waits);
            }
            JoinVerdict::Leave => {
                let leave = OwnerRequest::Leave { channel: channel.clone(), conn: self.conn_id(slot) };
                self.messages.mailer.request(leave);
            }
            JoinVerdict::Refused | JoinVerdict::Ignore => {}
        }
    }

    /// A new subscriber is given something less often than its channel.
    fn keep_pace(&mut self, slot: u32, index: u32, every: DeliverEvery) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(place) = connection.peer.sub(index).and_then(|sub| sub.place()) else { return };
        let followed = &mut self.delivery.followed;
        let options = &followed.get(index).options;
        let every = match options.deliver {
            Deliver::NoticeWithPing => SubscriberPace::WITH_PING,
            _ => every.duration(),
        };
        if every <= options.gathers() {
            return;
        }
        let pending = connection.link.pending.get_or_insert_default();
        if pending.pace(index).is_some() {
            return;
        }
        if pending.cursor(index).is_none() {
            let channel = followed.get(index);
            pending.cursors.push((index, channel.stream().cursor(channel.cursor_of(place))));
            followed.cursor_set(index, place);
        }
        self.set_pace(slot, index, every);
    }

    /// Puts a peer into the channel's list. `waits`: nothing may be given to it until its other channels have answered.
    fn add_subscriber(&mut self, slot: u32, index: u32, join_leave: bool, top: Offset, waits: bool) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        // Until a connect is answered nothing may be pushed: it waits in the stream, as for a blocked socket.
        let held = waits || connection.link.is_blocked() || connection.peer.is_connecting();
        let Some(class) = connection.peer.class(index, join_leave, connection.link.deflates()) else {
            return;
        };
        debug_assert!(connection.peer.sub(index).is_some_and(|sub| sub.place().is_none()));
        let filters = connection.peer.filters(index);
        let (place, cursor) = self.delivery.followed.subscribe(index, slot, class, filters, top);
        connection.peer.set_place(index, place);
        if class.own_frames && connection.peer.uni().is_some_and(Unidirectional::is_ready) {
            // Its other channels were alone until now.
            for sub in connection.peer.subs() {
                if let Some(place) = sub.place() {
                    self.delivery.followed.give_own_frames(sub.channel(), place);
                }
            }
        }
        self.env.stats.counters.subscriptions_total += 1;
        let stream = self.delivery.followed.get(index).stream();
        let cursor = cursor.or_else(|| held.then(|| stream.cursor(stream.end())));
        if let Some(cursor) = cursor {
            if stream.is_before_end(cursor) {
                self.delivery.catching_up.push(slot);
            }
            let pending = connection.link.pending.get_or_insert_default();
            pending.held |= waits;
            pending.cursors.push((index, cursor));
            self.delivery.followed.cursor_set(index, place);
        }
        self.tell_subscribed(slot, index);
    }

    /// Ends a subscription; with `why`, a client that has words for it hears of it.
    pub fn unsubscribe(&mut self, slot: u32, channel: u32, why: Option<Unsubscribed>) {
        let conn = self.conn_id(slot);
        let Some(connection) = self.links.connections.get(slot) else { return };
        let Some(sub) = connection.peer.sub(channel) else { return };
        let name = self.delivery.followed.get(channel).name.clone();
        if let Some(place) = sub.place() {
            self.drop_cursor(slot, channel, place);
            // Before the client hears of it: what is written to it may close it.
            self.tell_unsubscribed(slot, &name, why.unwrap_or(Unsubscribed::Client));
        }
        let heard = why.and_then(|why| {
            self.with_session(slot, |session, cx| session.unsubscribed(channel, &name, why, cx))
        });
        if heard.is_none()
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

/// What a join weighs among the commands under way: the server's own are none.
fn join_weight(flags: u32, recovers: bool) -> u16 {
    match (flags & Sub::SERVER_SIDE != 0, recovers) {
        (true, _) => 0,
        (false, true) => RECOVERY_WEIGHT,
        (false, false) => 1,
    }
}

#[cfg(test)]
#[path = "subscriptions_tests.rs"]
mod tests;
