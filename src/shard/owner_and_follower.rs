//! A shard as an owner of channels, and as a follower of channels: see [`super::owner`].

use std::sync::Arc;

use crate::base::fault::ErrorCode;
use crate::base::ids::Position;
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::hub::Roster;
use crate::hub::requests::{History, PresenceStats};
use crate::proto::centrifuge::reply::HistoryResult;
use crate::proto::centrifuge::{Reply, encode_presence};
use crate::proto::wire::{Carrier, Wire};
use crate::session::acks::reply_acked;
use crate::session::{Context, JoinAnswer, READ_WEIGHT, info_view, view};
use crate::shard::channel_owner::OwnerMoment;
use crate::shard::control_request::ControlRequest;
use crate::shard::control_request::seen::Stage;
use crate::shard::core::Core;
use crate::shard::mailbox::{HookAnswered, ShardMessage};
use crate::shard::owner::{FromOwner, JoinTag, OwnerAnswer, OwnerRequest, ReadBy};
use crate::shard::stats::Cause;

/// Messages to other shards that may wait for room before this owner takes no more publications.
pub const WAITING_MESSAGES_MAX: usize = 16 * 1024;

impl Core {
    pub fn handle_message(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::FromOwner(message) => self.handle_from_owner(message),
            ShardMessage::ToOwner(request) => self.handle_owner_request(*request),
            ShardMessage::ControlRequest(ask) => self.handle_control_request(*ask),
            ShardMessage::Http(answer) => self.handle_http_answer(answer.0, answer.1),
            ShardMessage::Emulation(message) => self.handle_emulation(*message),
            ShardMessage::Emulated(answer) => self.handle_emulated(answer.0, answer.1),
            ShardMessage::Backend(answer) => {
                let HookAnswered { conn, number, asked_at, outcome } = *answer;
                self.env.stats.hook_calls.record(self.env.now.since(asked_at));
                self.handle_backend_answer(conn, number, outcome);
            }
            ShardMessage::Tunnel(answer) => self.handle_tunnel_answer(answer.0, answer.1),
            ShardMessage::UserJoined(user) => self.user_joined(&user, false),
            ShardMessage::UserJoinedByTunnel(user) => self.user_joined(&user, true),
            ShardMessage::AnonymousJoined(count) => self.owned.users.add_anonymous(count as usize),
            ShardMessage::UserLeft(user) => self.user_left(&user.0, user.1),
            ShardMessage::Placed(conn) => self.handle_placed(conn),
            ShardMessage::Connection(command) => self.handle_command(*command),
            ShardMessage::Push(push) => self.handle_push(*push),
            ShardMessage::Quiet(mark) => self.handle_mark(*mark),
        }
    }

    // --- as an owner

    fn handle_owner_request(&mut self, request: OwnerRequest) {
        if let OwnerRequest::Publish { conn, id, ask, receipt } = &request
            && let Err(error_code) = self.admit_publication(ask).and_then(|()| self.check_room())
        {
            let (outcome, receipt) = (Err(error_code), *receipt);
            let answer = OwnerAnswer::Published { conn: *conn, id: *id, outcome, receipt };
            let message = FromOwner::Answer(Box::new(answer));
            return self.messages.mailer.post_to_peer(*conn, ShardMessage::FromOwner(message));
        }
        if self.is_observed() {
            self.show_owner_request(&request);
        }
        if let OwnerRequest::Publish { ask, .. } = &request {
            self.env.stages.reached(Stage::Accepted, &ask.channel, ask.accepted, self.env.now);
            self.env.busiest.channels.count(&ask.channel, &mut self.env.prng);
        }
        let changes = match &request {
            OwnerRequest::Join { ask, .. } => Some(ask.channel.clone()),
            OwnerRequest::Leave { channel, .. } => Some(channel.clone()),
            _ => None,
        };
        let was_occupied = changes.as_ref().and_then(|channel| self.was_occupied(channel));
        let at = self.moment();
        let mailer = &mut self.messages.mailer;
        let mut post = |label, message| mailer.post_label(label, ShardMessage::FromOwner(message));
        self.owned.channels.handle_request(request, at, &mut post);
        if let Some(channel) = changes {
            self.tell_occupancy(&channel, was_occupied);
        }
    }

    /// What the control plane asks about a channel of this shard. Gives anything else back.
    pub fn handle_request_to_owner(&mut self, ask: ControlRequest) -> Option<ControlRequest> {
        let ask = match ask {
            ControlRequest::Publish(ask, reply) => match self.check_room() {
                Ok(()) => {
                    self.show_publication(&ask);
                    self.env.stages.reached(Stage::Accepted, &ask.channel, ask.accepted, self.env.now);
                    self.env.busiest.channels.count(&ask.channel, &mut self.env.prng);
                    ControlRequest::Publish(ask, reply)
                }
                Err(error_code) => {
                    reply.send(Err(error_code));
                    return None;
                }
            },
            other => other,
        };
        let at = self.moment();
        let mailer = &mut self.messages.mailer;
        let mut post = |label, message| mailer.post_label(label, ShardMessage::FromOwner(message));
        self.owned.channels.handle_control_request(ask, at, &mut post)
    }

    /// What waited for the store of this shard's channels goes out, and what waited for its turn.
    pub fn handle_stored(&mut self) {
        let at = self.moment();
        let mailer = &mut self.messages.mailer;
        let mut post = |label, message| mailer.post_label(label, ShardMessage::FromOwner(message));
        self.owned.channels.handle_stored(at, &mut post);
        self.owned.channels.announce_due(at.now, &mut post);
        while let Some(ask) = self.owned.channels.owned.take_occupancy(at.now) {
            self.messages.mailer.request(OwnerRequest::Occupancy { ask });
        }
        self.tell_cursors();
    }

    /// Whether a publication may be taken: 111 while followers do not keep up.
    fn check_room(&mut self) -> Result<(), ErrorCode> {
        if self.messages.mailer.waiting() > WAITING_MESSAGES_MAX
            || self.delivery.followed.backlog_bytes() > BACKLOG_BYTES_MAX
        {
            self.env.stats.fault(Cause::InboxFull);
            return Err(ErrorCode::TooManyRequests);
        }
        Ok(())
    }

    fn moment(&self) -> OwnerMoment {
        OwnerMoment { now: self.env.now, wall_ms: self.env.wall_ms }
    }

    // --- as a follower

    fn handle_from_owner(&mut self, message: FromOwner) {
        let now = self.env.now;
        match message {
            FromOwner::Item(item) => {
                let channel = item.channel().clone();
                self.delivery.followed.handle_item(&channel, item, now);
            }
            FromOwner::Paced(paced) => {
                let (publication, pace) = *paced;
                let channel = publication.channel.clone();
                self.delivery.followed.handle_paced(&channel, publication, pace, now);
            }
            FromOwner::Stands(stands) => {
                let (channel, position) = *stands;
                self.delivery.followed.handle_stands(&channel, position, now);
            }
            FromOwner::Answer(answer) => {
                self.messages.mailer.answered();
                self.handle_answer(*answer);
            }
        }
    }

    fn handle_answer(&mut self, answer: OwnerAnswer) {
        let slot = answer.conn().and_then(|conn| self.live(conn));
        match answer {
            OwnerAnswer::Joined { channel, since, tag, outcome, cursors, .. } => {
                let JoinTag { index, terms, done } = tag;
                if let Ok((top, _)) = &outcome {
                    self.delivery.followed.top_learned(index, *top, self.env.now);
                }
                if let Some(slot) = slot {
                    let answer = JoinAnswer { terms, since, outcome, cursors };
                    self.handle_joined(slot, index, &channel, answer);
                }
                self.delivery.followed.join_answered(index);
                drop(done);
            }
            OwnerAnswer::Read { by: ReadBy::Laggard(_), read, answer } => {
                if let Some(slot) = slot {
                    self.handle_caught_up(slot, &read, answer);
                }
            }
            OwnerAnswer::Read { by: ReadBy::Channel(_), read, answer } => {
                if let Some(channel) = self.delivery.followed.handle_read(&read, answer, self.env.now) {
                    self.handle_channel_gap(channel, &read.channel, read.after);
                }
            }
            OwnerAnswer::Published { id, outcome, receipt: true, .. } => {
                self.reply(slot, id, 1, outcome, |id, position, cx| {
                    cx.reply(id, &Reply::Rpc(Some(receipt_of(position).as_bytes())));
                });
            }
            OwnerAnswer::Published { id, outcome, .. } => {
                if let Some(slot) = slot.filter(|&slot| self.is_uni(slot)) {
                    return self.handle_uni_published(slot, id, outcome);
                }
                self.reply(slot, id, 1, outcome, |id, _, cx| cx.reply(id, &Reply::Publish));
            }
            OwnerAnswer::History { id, mut outcome, .. } => {
                if let Some(slot) = slot.filter(|&slot| self.is_uni(slot)) {
                    return self.handle_uni_history(slot, id, outcome);
                }
                if let (Some(slot), Ok(history)) = (slot, &mut outcome) {
                    self.keep_not_excepted(slot, &mut history.publications);
                }
                self.reply(slot, id, READ_WEIGHT, outcome, reply_history);
            }
            OwnerAnswer::Presence { id, outcome, .. } => {
                self.reply(slot, id, READ_WEIGHT, outcome, reply_presence);
            }
            OwnerAnswer::PresenceStats { id, outcome, .. } => {
                self.reply(slot, id, 1, outcome, |id, PresenceStats { clients, users }, cx| {
                    cx.reply(id, &Reply::PresenceStats { clients, users });
                });
            }
            OwnerAnswer::Acked { id, outcomes, .. } => {
                self.reply(slot, id, READ_WEIGHT, Ok(outcomes), |id, outcomes, cx| {
                    reply_acked(id, &outcomes, cx);
                });
            }
        }
    }

    fn reply<T>(
        &mut self,
        slot: Option<u32>,
        id: u32,
        weight: u16,
        outcome: Result<T, ErrorCode>,
        write: impl FnOnce(u32, T, &mut Context<'_>),
    ) {
        let Some(slot) = slot else { return };
        self.with_session(slot, |_, cx| match outcome {
            Ok(answer) => write(id, answer, cx),
            Err(error_code) => cx.refuse(id, error_code),
        });
        self.command_answered(slot, weight);
    }
}

/// What a client gets for what it has sent with a name of its own.
fn receipt_of(position: Position) -> String {
    let Position { offset, epoch } = position;
    format!(r#"{{"offset":{},"epoch":"{epoch}"}}"#, offset.0)
}

fn reply_history(id: u32, history: History, cx: &mut Context<'_>) {
    let History { publications, position, .. } = history;
    let views: Vec<_> = publications.iter().map(|publication| view(publication)).collect();
    let result = HistoryResult { publications: &views, epoch: Some(position.epoch), offset: position.offset };
    cx.reply(id, &Reply::History(result));
}

fn reply_presence(id: u32, roster: Arc<Roster>, cx: &mut Context<'_>) {
    let format = cx.out.format();
    let list = roster.encoded.get_or_encode(Wire::new(format, Carrier::WebSocket).encoding().id(), || {
        let infos = roster.infos.iter();
        let views: Vec<_> = infos.map(|info| (info.client.as_str(), info_view(info))).collect();
        let mut list = Vec::new();
        encode_presence(&mut list, format, &views);
        list.into()
    });
    cx.reply(id, &Reply::PresenceEncoded(list));
}
