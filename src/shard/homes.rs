//! Between a channel's home and the shards of its subscribers: what is asked, what is answered, what is delivered.

use std::sync::Arc;

use crate::base::fault::Refusal;
use crate::base::ids::{ChannelName, ConnId, Offset, Position};
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::base::publication::{Since, SinceEpoch};
use crate::hub::Roster;
use crate::hub::asks::{History, HistoryAsk, Joined, Notice, PresenceStats, PublishAsk, Recovery};
use crate::hub::class::Class;
use crate::hub::creators::Creator;
use crate::hub::local::Item;
use crate::proto::centrifuge::reply::HistoryResult;
use crate::proto::centrifuge::{Reply, encode_presence};
use crate::session::{Context, JoinVerdict, READ_WEIGHT, info_view, view};
use crate::shard::clients::join_weight;
use crate::shard::core::Core;
use crate::shard::mailbox::{HomeAnswer, HomeMail, Mail, Missed, join_answer};

/// Messages to other shards that may wait for room before this home takes no more publications.
pub const WAITING_MAIL_MAX: usize = 16 * 1024;

impl Core {
    pub fn handle_message(&mut self, mail: Mail) {
        match mail {
            Mail::Publication(publication) => {
                let channel = publication.channel.clone();
                self.delivery.local.handle_item(&channel, Item::Publication(publication), self.env.now);
            }
            Mail::Paced(paced) => {
                let (publication, pace) = *paced;
                let (channel, now) = (publication.channel.clone(), self.env.now);
                self.delivery.local.handle_paced(&channel, publication, pace, now);
            }
            Mail::Notice(notice) => {
                let channel = notice.channel.clone();
                self.delivery.local.handle_item(&channel, Item::Notice(notice), self.env.now);
            }
            Mail::Home(mail) => self.handle_home_mail(*mail),
            Mail::Answer(answer) => self.handle_answer(*answer),
            Mail::Ask(ask) => self.handle_ask(*ask),
            Mail::Http(answer) => self.handle_http_answer(answer.0, answer.1),
            Mail::Backend(answer) => {
                let (conn, number, outcome) = *answer;
                self.handle_backend_answer(conn, number, outcome);
            }
            Mail::Tunnel(answer) => self.handle_tunnel_answer(answer.0, answer.1),
            Mail::UserJoined(user) => self.user_joined(&user.0, user.1, false),
            Mail::UserJoinedByTunnel(user) => self.user_joined(&user.0, user.1, true),
            Mail::UserLeft(user) => self.user_left(&user.0, user.1),
            Mail::Placed(conn) => self.handle_placed(conn),
            Mail::Connection(order) => self.handle_order(*order),
            Mail::Push(push) => self.handle_push(*push),
        }
    }

    // --- as a home

    fn handle_home_mail(&mut self, mail: HomeMail) {
        let now = self.env.now;
        match mail {
            HomeMail::Join { ask, tag } => {
                let (channel, conn, since) = (ask.channel.clone(), ask.conn, ask.recover);
                let was_occupied = self.was_occupied(&channel);
                let joined = self.owned.home.join(ask, now);
                self.tell_occupancy(&channel, was_occupied);
                let notice = joined.as_ref().ok().and_then(|joined| joined.notice.clone());
                let outcome = joined.map(|Joined { position, recovery, .. }| {
                    let recovery = recovery.map(|recovery| match recovery {
                        Recovery::Recovered(publications) => Some(publications),
                        Recovery::Lost => None,
                    });
                    (position, recovery)
                });
                self.answer(HomeAnswer::Joined { conn, channel, since, tag, outcome });
                // After the answer, so that the one who joined hears of itself as well, as the SDKs expect.
                if let Some(notice) = notice {
                    self.announce(notice);
                }
            }
            HomeMail::Leave { channel, conn } => {
                let was_occupied = self.was_occupied(&channel);
                if let Some(notice) = self.owned.home.leave(&channel, conn, now) {
                    self.announce(notice);
                }
                self.tell_occupancy(&channel, was_occupied);
            }
            HomeMail::Renew { channel, conn, info } => self.owned.home.renew(&channel, conn, info),
            HomeMail::Publish { conn, id, ask } => {
                let outcome = self.admit_publication(&ask).and_then(|()| self.publish(ask));
                self.answer(HomeAnswer::Published { conn, id, outcome });
            }
            HomeMail::History { conn, id, ask } => {
                let outcome = self.owned.home.history(&ask, now);
                self.answer(HomeAnswer::History { conn, id, outcome });
            }
            HomeMail::CatchUp { conn, channel, index, after } => {
                let missed = self.missed(&channel, after, conn);
                self.answer(HomeAnswer::CaughtUp { conn, channel, index, after, missed });
            }
            HomeMail::Presence { conn, id, channel } => {
                let outcome = self.owned.home.presence(&channel);
                self.answer(HomeAnswer::Presence { conn, id, outcome });
            }
            HomeMail::PresenceStats { conn, id, channel } => {
                let outcome = self.owned.home.presence_stats(&channel);
                self.answer(HomeAnswer::PresenceStats { conn, id, outcome });
            }
        }
    }

    /// Appends to the channel's log and sends the publication on its way.
    ///
    /// # Errors
    /// Of [`crate::hub::home::Home::publish`]; 111 while other shards do not keep up.
    pub fn publish(&mut self, ask: PublishAsk) -> Result<Position, Refusal> {
        if self.messages.mailer.waiting() > WAITING_MAIL_MAX
            || self.delivery.local.backlog_bytes() > BACKLOG_BYTES_MAX
        {
            self.env.stats.fault(crate::shard::stats::Cause::InboxFull);
            return Err(Refusal::TooManyRequests);
        }
        let pace = ask.pace;
        let published = self.owned.home.publish(ask, self.env.now, self.env.wall_ms)?;
        if let Some(publication) = published.publication {
            let counters = &mut self.env.stats.counters;
            counters.publications_total += 1;
            counters.publications_spread_total += u64::from(pace.spread_ms > 0);
            counters.publications_bulk_total += u64::from(pace.spread_ms == 0 && pace.bulk);
            for &(shard, _) in self.owned.home.interested(&publication.channel) {
                let publication = Arc::clone(&publication);
                let mail = match pace.is_at_once() {
                    true => Mail::Publication(publication),
                    false => Mail::Paced(Box::new((publication, pace))),
                };
                self.messages.mailer.post(shard, mail);
            }
        }
        Ok(published.position)
    }

    /// What a laggard missed after `after`, as much as it gets at once; `None` when the log does not reach back.
    fn missed(&mut self, channel: &ChannelName, after: Offset, conn: ConnId) -> Option<Missed> {
        let since = Some(Since { offset: after, epoch: SinceEpoch::Any });
        let by = Creator::Connection(conn);
        let ask = HistoryAsk { channel: channel.clone(), limit: None, since, reverse: false, by };
        let History { mut publications, position } = self.owned.home.history(&ask, self.env.now).ok()?;
        if publications.first().map_or(after, |first| Offset(first.offset().0 - 1)) != after {
            return None;
        }
        let mut budget = self.env.options.outbox_bytes_max / 4;
        let fitting = publications.iter().take_while(|publication| {
            let fits = budget > 0;
            budget = budget.saturating_sub(publication.weight());
            fits
        });
        let fitting = fitting.count();
        publications.truncate(fitting);
        let reached = publications.last().map_or(after, |last| last.offset());
        (!publications.is_empty() || reached == position.offset)
            .then_some(Missed { publications, to_the_end: reached == position.offset })
    }

    fn announce(&mut self, notice: Arc<Notice>) {
        for &(shard, _) in self.owned.home.interested(&notice.channel) {
            self.messages.mailer.post(shard, Mail::Notice(Arc::clone(&notice)));
        }
    }

    fn answer(&mut self, answer: HomeAnswer) {
        self.messages.mailer.post(answer.conn().shard(), Mail::Answer(Box::new(answer)));
    }

    // --- as the shard of the one who asked

    fn handle_answer(&mut self, answer: HomeAnswer) {
        let slot = self.live(answer.conn());
        match answer {
            HomeAnswer::Joined { channel, since, mut tag, outcome, .. } => {
                let index = tag.index;
                if let Ok((top, _)) = &outcome {
                    self.delivery.local.top_learned(index, *top);
                }
                if let Some(slot) = slot.filter(|&slot| self.is_reader(slot)) {
                    self.handle_reader_joined(slot, &channel, &tag, outcome);
                } else if let Some(slot) = slot {
                    let weight = join_weight(tag.flags, since.is_some());
                    let answer = join_answer(&mut tag, since, outcome);
                    self.handle_joined(slot, index, &channel, answer);
                    self.command_answered(slot, weight);
                }
                self.delivery.local.join_answered(index);
            }
            HomeAnswer::CaughtUp { channel, index, after, missed, .. } => {
                if let Some(slot) = slot {
                    self.handle_caught_up(slot, index, &channel, after, missed);
                }
            }
            HomeAnswer::Published { id, outcome, .. } => {
                if let Some(slot) = slot.filter(|&slot| self.is_reader(slot)) {
                    return self.handle_reader_published(slot, id, outcome);
                }
                self.reply(slot, id, 1, outcome, |id, _, cx| cx.reply(id, &Reply::Publish));
            }
            HomeAnswer::History { id, outcome, .. } => match slot.filter(|&slot| self.is_reader(slot)) {
                Some(slot) => self.handle_reader_history(slot, id, outcome),
                None => self.reply(slot, id, READ_WEIGHT, outcome, reply_history),
            },
            HomeAnswer::Presence { id, outcome, .. } => {
                self.reply(slot, id, READ_WEIGHT, outcome, reply_presence);
            }
            HomeAnswer::PresenceStats { id, outcome, .. } => {
                self.reply(slot, id, 1, outcome, |id, PresenceStats { clients, users }, cx| {
                    cx.reply(id, &Reply::PresenceStats { clients, users });
                });
            }
        }
    }

    fn reply<T>(
        &mut self,
        slot: Option<u32>,
        id: u32,
        weight: u16,
        outcome: Result<T, Refusal>,
        write: impl FnOnce(u32, T, &mut Context<'_>),
    ) {
        let Some(slot) = slot else { return };
        self.with_session(slot, |_, cx| match outcome {
            Ok(answer) => write(id, answer, cx),
            Err(refusal) => cx.refuse(id, refusal),
        });
        self.command_answered(slot, weight);
    }

    fn handle_joined(
        &mut self,
        slot: u32,
        index: u32,
        channel: &ChannelName,
        answer: crate::session::JoinAnswer,
    ) {
        let top = answer.outcome.as_ref().map_or(Offset(0), |(position, _)| position.offset);
        match &answer.outcome {
            Ok((_, Some(Some(_)))) => self.env.stats.counters.recoveries_total += 1,
            Ok((_, Some(None))) => self.env.stats.counters.recoveries_lost_total += 1,
            _ => {}
        }
        // The subscriber is in its list before commands that were held for the answer are looked at.
        self.with_session_then(
            slot,
            |session, cx| session.handle_joined(index, channel, answer, cx),
            |core, verdict| match verdict {
                Ok(JoinVerdict::Subscribe { notices }) => core.add_subscriber(slot, index, notices, top),

                Ok(JoinVerdict::Leave) => {
                    let conn = core.conn_id(slot);
                    let home = core.messages.mailer.router().channel_home(channel);
                    let leave = HomeMail::Leave { channel: channel.clone(), conn };
                    core.messages.mailer.post(home, Mail::Home(Box::new(leave)));
                }
                Ok(JoinVerdict::Refused | JoinVerdict::Ignore) => {}
                Err(disconnect) => core.close(slot, disconnect),
            },
        );
    }

    fn add_subscriber(&mut self, slot: u32, index: u32, notices: bool, top: Offset) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let blocked = connection.link.is_blocked();
        let Some(session) = connection.peer.session() else { return };
        // Until the connect is answered nothing may be pushed: it waits in the stream, as for a blocked socket.
        let held = blocked || !session.is_connected();
        debug_assert!(session.sub(index).is_some_and(|sub| sub.place().is_none()));
        let class = Class { join_leave: notices, ..Class::shared(session.format().encoding().id()) };
        let (place, cursor) = self.delivery.local.subscribe(index, slot, class, top);
        session.placed(index, place);
        self.env.stats.counters.subscriptions_total += 1;
        let stream = self.delivery.local.get(index).stream();
        let cursor = cursor.or_else(|| held.then(|| stream.cursor(stream.end())));
        if let Some(cursor) = cursor {
            let lag = connection.link.lag.get_or_insert_default();
            lag.cursors.push((index, cursor));
            self.delivery.local.cursor_set(index, place);
        }
        self.tell_subscribed(slot, index);
    }
}

fn reply_history(id: u32, history: History, cx: &mut Context<'_>) {
    let History { publications, position } = history;
    let views: Vec<_> = publications.iter().map(|publication| view(publication)).collect();
    let result = HistoryResult { publications: &views, epoch: Some(position.epoch), offset: position.offset };
    cx.reply(id, &Reply::History(result));
}

fn reply_presence(id: u32, roster: Arc<Roster>, cx: &mut Context<'_>) {
    let format = cx.out.format();
    let list = roster.encoded.get_or_encode(format.encoding().id(), || {
        let infos = roster.infos.iter();
        let views: Vec<_> = infos.map(|info| (info.client.as_str(), info_view(info))).collect();
        let mut list = Vec::new();
        encode_presence(&mut list, format, &views);
        list.into()
    });
    cx.reply(id, &Reply::PresenceEncoded(list));
}
