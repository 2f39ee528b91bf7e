//! A shard's own channels as their owner: requests of followers and of the control plane in, messages to followers out.
//!
//! See [`owner`](crate::shard::owner) for what it owes them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Offset, Position, ShardId};
use crate::base::publication::{Missed, Publication, Publications, Since};
use crate::base::time::Time;
use crate::hub::OwnedChannels;
use crate::hub::cursors::UserCursors;
use crate::hub::followed::Item;
use crate::hub::log_store::Ticket;
use crate::hub::requests::{
    Acked, JoinLeaveEvent, Joined, Pace, PublishRequest, Published, Read, ReadAnswer, Reading, Recovery,
    Released,
};
use crate::shard::control_request::cursors::{CursorsQuery, ReadByQuery};
use crate::shard::control_request::{ControlReply, ControlRequest, CursorsRequest};
use crate::shard::gather::AckGather;
use crate::shard::owner::{FromOwner, JoinTag, OwnerAnswer, OwnerRequest, ReadBy};

/// The channels of one owner, and what it says about them to followers: `post` is called with each message in order.
pub struct ChannelOwner {
    pub owned: OwnedChannels,
    publications: PublicationCounts,
    /// What has been appended, for its times to be counted. Taken in each tick.
    pub appended: Vec<Arc<Publication>>,
    /// Who waits for the store.
    /// Bound: one for each publish, join and read that is not answered; [`APPENDS_MAX`](crate::hub::limits::APPENDS_MAX) and
    /// what connections may ask at once.
    waiting: HashMap<Ticket, Vec<WaitingAnswer>>,
    /// Of these, the joins of each connection.
    joining: HashMap<ConnId, Vec<Ticket>>,
}

/// Waits for an append or a read.
enum WaitingAnswer {
    Publish { pace: Pace, to: PublishedTo },
    Join { join: Joining, position: Position },
    Read { by: ReadBy, read: Read, position: Position },
    Ack { done: Arc<AckGather>, acked: Acked },
    Members { count: usize, reply: ControlReply<usize> },
}

/// Where the answer to a publish goes.
enum PublishedTo {
    Connection {
        conn: ConnId,
        id: u32,
        receipt: bool,
    },
    Control(ControlReply<Position>),
    /// To nobody: it is a count of subscribers.
    Occupancy,
}

/// A join that is not answered yet.
struct Joining {
    conn: ConnId,
    channel: ChannelName,
    since: Option<Since>,
    tag: JoinTag,
    event: Option<Arc<JoinLeaveEvent>>,
    cursors: Option<Box<UserCursors>>,
}

/// Publications that were sent to followers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicationCounts {
    pub all: u64,
    pub spread: u64,
    pub bulk: u64,
}

/// The clock of a request.
#[derive(Clone, Copy, Debug)]
pub struct OwnerMoment {
    pub now: Time,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

type Post<'a> = &'a mut dyn FnMut(ShardId, FromOwner);

impl ChannelOwner {
    pub fn new(owned: OwnedChannels) -> ChannelOwner {
        ChannelOwner {
            owned,
            publications: PublicationCounts::default(),
            appended: Vec::new(),
            waiting: HashMap::new(),
            joining: HashMap::new(),
        }
    }

    pub fn publications(&self) -> PublicationCounts {
        self.publications
    }

    pub fn handle_request(&mut self, request: OwnerRequest, at: OwnerMoment, post: Post<'_>) {
        match request {
            OwnerRequest::Join { ask, tag } => {
                let (channel, conn, since) = (ask.channel.clone(), ask.conn, ask.recover);
                self.hurry_join(conn, &channel, post);
                let mut join = Joining { conn, channel, since, tag, event: None, cursors: None };
                match self.owned.join(ask, at.now) {
                    Err(error_code) => self.answer_join(join, Err(error_code), post),
                    Ok(Joined { since, position, recovery, join_leave, cursors }) => {
                        (join.since, join.event, join.cursors) = (since, join_leave, cursors);
                        match recovery {
                            Some(Recovery::Later(ticket)) => {
                                self.joining.entry(conn).or_default().push(ticket);
                                self.wait(ticket, WaitingAnswer::Join { join, position });
                            }
                            recovery => self.answer_join(join, Ok((position, recovery)), post),
                        }
                        self.announce_due(at.now, post);
                    }
                }
            }
            OwnerRequest::Leave { channel, conn } => {
                self.hurry_join(conn, &channel, post);
                let event = self.owned.leave(&channel, conn, at.now);
                self.announce(event, post);
                self.announce_due(at.now, post);
            }
            OwnerRequest::Renew { channel, conn, info } => self.owned.renew(&channel, conn, info),
            OwnerRequest::Publish { conn, id, ask, receipt } => {
                self.publish(ask, PublishedTo::Connection { conn, id, receipt }, at, post);
            }
            OwnerRequest::Occupancy { ask } => self.publish(ask, PublishedTo::Occupancy, at, post),
            OwnerRequest::History { conn, id, ask } => {
                let outcome = self.owned.history(&ask, at.now);
                answer(OwnerAnswer::History { conn, id, outcome }, post);
            }
            OwnerRequest::Read { by, read } => {
                match self.owned.read(&read.channel, read.after, read.bytes_max, at.now) {
                    Reading::Ready(answered) => {
                        answer(OwnerAnswer::Read { by, read, answer: answered }, post)
                    }
                    Reading::Later(ticket, position) => {
                        self.wait(ticket, WaitingAnswer::Read { by, read, position });
                    }
                }
            }
            OwnerRequest::Presence { conn, id, channel } => {
                let outcome = self.owned.presence(&channel);
                answer(OwnerAnswer::Presence { conn, id, outcome }, post);
            }
            OwnerRequest::PresenceStats { conn, id, channel } => {
                let outcome = self.owned.presence_stats(&channel);
                answer(OwnerAnswer::PresenceStats { conn, id, outcome }, post);
            }
            OwnerRequest::Ack { ask, done } => {
                let acked = self.owned.ack(&ask, at.now);
                match acked.ticket {
                    Some(ticket) => self.wait(ticket, WaitingAnswer::Ack { done, acked }),
                    None => answer_acks(&done, acked, post),
                }
            }
        }
    }

    /// What the control plane asks about a channel. Gives anything else back.
    pub fn handle_control_request(
        &mut self,
        ask: ControlRequest,
        at: OwnerMoment,
        post: Post<'_>,
    ) -> Option<ControlRequest> {
        match ask {
            ControlRequest::Publish(ask, reply) => self.publish(ask, PublishedTo::Control(reply), at, post),
            ControlRequest::History(ask, reply) => reply.send(self.owned.history(&ask, at.now)),
            ControlRequest::HistoryRemove(channel, reply) => {
                reply.send(self.owned.history_remove(&channel, at.now))
            }
            ControlRequest::Presence(channel, reply) => reply.send(self.owned.presence(&channel)),
            ControlRequest::PresencePage(query, reply) => {
                reply.send(self.owned.presence_page(&query.channel, &query.after, query.limit));
            }
            ControlRequest::PresenceStats(channel, reply) => reply.send(self.owned.presence_stats(&channel)),
            ControlRequest::Cursors(ask) => self.handle_cursors_request(ask, at),
            other => return Some(other),
        }
        None
    }

    fn handle_cursors_request(&mut self, ask: CursorsRequest, at: OwnerMoment) {
        match ask {
            CursorsRequest::Page(query, reply) => {
                let CursorsQuery { channel, user, after, limit } = query;
                reply.send(self.owned.cursors_page(&channel, user.as_deref(), &after, limit));
            }
            CursorsRequest::Unread(user, channels, reply) => {
                reply.send(Ok(channels.iter().map(|channel| self.owned.unread(channel, &user)).collect()));
            }
            CursorsRequest::ReadBy(query, reply) => {
                let ReadByQuery { channel, offset, kind, after, limit } = query;
                reply.send(self.owned.read_by(&channel, offset, kind, &after, limit));
            }
            CursorsRequest::Members(query, reply) => {
                reply.send(self.owned.members_page(&query.channel, &query.after, query.limit));
            }
            CursorsRequest::Add(channel, users, offset, reply) => {
                let changed = self.owned.add_members(&channel, &users, offset, at.now);
                self.reply_changed(changed, reply);
            }
            CursorsRequest::Remove(channel, users, reply) => {
                let changed = self.owned.remove_members(&channel, &users);
                self.reply_changed(changed, reply);
            }
        }
    }

    /// How many have changed, when that is kept.
    fn reply_changed(
        &mut self,
        changed: Result<(usize, Option<Ticket>), ErrorCode>,
        reply: ControlReply<usize>,
    ) {
        match changed {
            Ok((count, Some(ticket))) => self.wait(ticket, WaitingAnswer::Members { count, reply }),
            Ok((count, None)) => reply.send(Ok(count)),
            Err(error_code) => reply.send(Err(error_code)),
        }
    }

    /// Somebody waits for the store.
    pub fn waits_for_store(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What the store has done since goes out: publications to followers, answers to those who wait.
    pub fn handle_stored(&mut self, at: OwnerMoment, post: Post<'_>) {
        while !self.waiting.is_empty()
            && let Some(released) = self.owned.take_released(at.now)
        {
            match released {
                Released::Published(ticket, outcome) => {
                    let waiting = self.waiting.remove(&ticket).unwrap_or_default();
                    let pace = waiting.iter().find_map(|waiting| match waiting {
                        WaitingAnswer::Publish { pace, .. } => Some(*pace),
                        _ => None,
                    });
                    let outcome = outcome.map(|published| {
                        self.deliver(published.publication, pace.unwrap_or_default(), post);
                        published.position
                    });
                    for waiting in waiting {
                        if let WaitingAnswer::Publish { to, .. } = waiting {
                            to.send(outcome, post);
                        }
                    }
                }
                Released::Cursors(ticket, kept) => {
                    for waiting in self.waiting.remove(&ticket).unwrap_or_default() {
                        match waiting {
                            WaitingAnswer::Ack { done, acked } => answer_acks(&done, acked.kept(kept), post),
                            WaitingAnswer::Members { count, reply } => reply.send(kept.map(|()| count)),
                            _ => {}
                        }
                    }
                }
                Released::Read(ticket, publications) => {
                    for waiting in self.waiting.remove(&ticket).unwrap_or_default() {
                        self.handle_read_back(ticket, waiting, publications.clone(), post);
                    }
                }
            }
        }
    }

    fn handle_read_back(
        &mut self,
        ticket: Ticket,
        waiting: WaitingAnswer,
        publications: Publications,
        post: Post<'_>,
    ) {
        match waiting {
            WaitingAnswer::Join { join, position } => {
                if let Some(tickets) = self.joining.get_mut(&join.conn) {
                    tickets.retain(|waiting| *waiting != ticket);
                    if tickets.is_empty() {
                        self.joining.remove(&join.conn);
                    }
                }
                let after = join.since.map_or(Offset(0), |since| since.offset);
                let recovery = Recovery::of(publications, after, position);
                self.answer_join(join, Ok((position, Some(recovery))), post);
            }
            WaitingAnswer::Read { by, read, position } => {
                let page = ReadAnswer::page(publications, read.after, position, read.bytes_max);
                answer(OwnerAnswer::Read { by, read, answer: page }, post);
            }
            WaitingAnswer::Publish { .. } | WaitingAnswer::Ack { .. } | WaitingAnswer::Members { .. } => {}
        }
    }

    /// What a connection asks of a channel is answered in the order in which it was asked, and nobody hears that it has left
    /// before they hear that it has joined: a join that waits for the log goes on without what the log has.
    fn hurry_join(&mut self, conn: ConnId, channel: &str, post: Post<'_>) {
        let Some(tickets) = self.joining.get_mut(&conn) else { return };
        let is_it = |waiting: &WaitingAnswer| matches!(waiting, WaitingAnswer::Join { join, .. } if *join.channel == *channel);
        let found = tickets.iter().find_map(|ticket| {
            let waiting = self.waiting.get_mut(ticket)?;
            let at = waiting.iter().position(is_it)?;
            Some((*ticket, waiting.swap_remove(at)))
        });
        let Some((ticket, WaitingAnswer::Join { join, position })) = found else { return };
        tickets.retain(|waiting| *waiting != ticket);
        if tickets.is_empty() {
            self.joining.remove(&conn);
        }
        self.answer_join(join, Ok((position, Some(Recovery::Lost))), post);
    }

    /// Nothing more is done: who waits is answered by that.
    pub fn end(&mut self) {
        self.waiting.clear();
        self.joining.clear();
    }

    fn wait(&mut self, ticket: Ticket, waiting: WaitingAnswer) {
        self.waiting.entry(ticket).or_default().push(waiting);
    }

    fn answer_join(
        &mut self,
        join: Joining,
        outcome: Result<(Position, Option<Recovery>), ErrorCode>,
        post: Post<'_>,
    ) {
        let Joining { conn, channel, mut since, tag, event, cursors } = join;
        let outcome = outcome.map(|(position, recovery)| {
            let missed = match recovery {
                None => Missed::NotAsked,
                Some(Recovery::Recovered(publications)) => Missed::Given(publications),
                // What it has is given up for what is there, unless it wants to hear of the loss.
                Some(Recovery::Replaced(publications)) if !tag.terms.reject_unrecovered => {
                    since = Some(Since::WHOLE);
                    Missed::Given(publications)
                }
                Some(Recovery::Lost | Recovery::Replaced(_) | Recovery::Later(_)) => Missed::Lost,
            };
            (position, missed)
        });
        answer(OwnerAnswer::Joined { conn, channel, since, tag, outcome, cursors }, post);
        // After the answer, so that the one who joined hears of itself as well, as the SDKs expect.
        self.announce(event, post);
    }

    /// Appends to the channel's log; when it is there, the publication goes to followers and the answer to who asked.
    fn publish(&mut self, ask: PublishRequest, to: PublishedTo, at: OwnerMoment, post: Post<'_>) {
        let pace = ask.pace;
        let outcome = match self.owned.publish(ask, at.now, at.wall_ms) {
            Ok(Published { ticket: Some(ticket), .. }) => {
                return self.wait(ticket, WaitingAnswer::Publish { pace, to });
            }
            Ok(Published { position, publication, .. }) => {
                self.deliver(publication, pace, post);
                Ok(position)
            }
            Err(error_code) => {
                if matches!(to, PublishedTo::Occupancy) {
                    self.owned.occupancy_refused();
                }
                Err(error_code)
            }
        };
        to.send(outcome, post);
    }

    fn deliver(&mut self, publication: Option<Arc<Publication>>, pace: Pace, post: Post<'_>) {
        let Some(publication) = publication else { return };
        self.publications.all += 1;
        self.publications.spread += u64::from(pace.spread_ms > 0);
        self.publications.bulk += u64::from(pace.spread_ms == 0 && pace.bulk);
        self.appended.push(Arc::clone(&publication));
        for &(shard, _) in self.owned.interested(&publication.channel) {
            let publication = Arc::clone(&publication);
            post(
                shard,
                match pace.is_at_once() {
                    true => FromOwner::Item(Item::Publication(publication)),
                    false => FromOwner::Paced(Box::new((publication, pace))),
                },
            );
        }
    }

    /// Joins and leaves of paced namespaces whose turn it is.
    pub fn announce_due(&mut self, now: Time, post: Post<'_>) {
        while let Some(event) = self.owned.take_join_leave(now) {
            self.announce(Some(event), post);
        }
    }

    fn announce(&mut self, event: Option<Arc<JoinLeaveEvent>>, post: Post<'_>) {
        let Some(event) = event else { return };
        for &(shard, _) in self.owned.interested(&event.channel) {
            post(shard, FromOwner::Item(Item::JoinLeaveEvent(Arc::clone(&event))));
        }
    }
}

impl PublishedTo {
    fn send(self, outcome: Result<Position, ErrorCode>, post: Post<'_>) {
        match self {
            PublishedTo::Connection { conn, id, receipt } => {
                answer(OwnerAnswer::Published { conn, id, outcome, receipt }, post);
            }
            PublishedTo::Control(reply) => reply.send(outcome),
            PublishedTo::Occupancy => {}
        }
    }
}

/// Answers a call, if this was what was awaited last.
fn answer_acks(done: &AckGather, acked: Acked, post: Post<'_>) {
    if let Some(outcomes) = done.answered(acked) {
        answer(OwnerAnswer::Acked { conn: done.conn, id: done.id, outcomes }, post);
    }
}

fn answer(answer: OwnerAnswer, post: Post<'_>) {
    let to = match answer {
        OwnerAnswer::Read { by: ReadBy::Channel(shard), .. } => Some(shard),
        _ => answer.conn().map(ConnId::shard),
    };
    if let Some(to) = to {
        post(to, FromOwner::Answer(Box::new(answer)));
    }
}

#[cfg(test)]
#[path = "channel_owner_tests.rs"]
mod tests;
