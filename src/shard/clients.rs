//! Clients of the Centrifuge protocol: their commands, what those lead to, their pings and expiries.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::except::Except;
use crate::base::ids::ClientId;
use crate::hub::creators::Creator;
use crate::hub::cursors::AckCall;
use crate::hub::requests::{HistoryRequest, PublishRequest};
use crate::proto::centrifuge::{ReplyBatch, decode_connect, decode_frame};
use crate::proto::wire::Wire;
use crate::session::hook_call::PublishAnswer;
use crate::session::sends::key_of;
use crate::session::{CommandProgress, Context, Effect, Emulation, READ_WEIGHT, Session};
use crate::shard::control_request::observer::Observation;
use crate::shard::core::Core;
use crate::shard::gather::AckGather;
use crate::shard::links::Action;
use crate::shard::owner::OwnerRequest;
use crate::shard::view::View;

impl Core {
    /// One frame of commands. None is taken from a shard that ends.
    pub fn handle_commands(&mut self, slot: u32, frame: &[u8]) {
        if self.env.ending.is_some() {
            return;
        }
        let Some(session) = self.links.connections.session(slot) else { return };
        let pinged = session.ping_outstanding();
        if let Some(user) = session.user() {
            self.env.busiest.users.count(user, &mut self.env.prng);
        }
        self.take_commands(slot, frame, false);
        if pinged && self.links.connections.session(slot).is_some_and(|session| !session.ping_outstanding()) {
            self.ping_answered(slot);
        }
    }

    /// False when commands of the frame are held, or the client is gone.
    fn take_commands(&mut self, slot: u32, frame: &[u8], resumed: bool) -> bool {
        let Some(session) = self.links.connections.session(slot) else { return false };
        let wire = session.wire();
        let mut commands = match wire.carrier.is_unidirectional() {
            // It has said all that it may say.
            true if session.has_begun() => return true,
            true => decode_connect(frame),
            false => decode_frame(wire.format, frame),
        };
        loop {
            let allowance = self.commands_allowed(slot);
            let blocked =
                self.links.connections.get(slot).is_some_and(|connection| connection.link.is_blocked());
            let turn = self.peers.turn.left(slot);
            let step = |session: &mut Session, cx: &mut Context<'_>| {
                cx.allowance = allowance;
                cx.turn = turn;
                cx.blocked = blocked;
                let result = session.handle_commands(&mut commands, resumed, cx);
                (result, allowance - cx.allowance, cx.turn)
            };
            // Charged before the effects: those may bring further commands.
            let outcome = self.with_session_then(slot, step, |core, (result, used, turn)| {
                core.charge_commands(slot, used);
                core.peers.turn.set_left(slot, turn);
                result
            });
            match outcome {
                Some(Ok(CommandProgress::More)) => {}
                Some(Ok(CommandProgress::Done)) => return true,
                Some(Ok(CommandProgress::Held)) => {
                    if self.peers.turn.left(slot) == 0 {
                        self.resume_commands_later(slot);
                    }
                    return false;
                }
                None => return false,
                Some(Err(disconnect)) => {
                    self.close(slot, disconnect);
                    return false;
                }
            }
        }
    }

    /// What a client's session holds may be taken up in the next turn: not at once, so that each client gets a share of
    /// a turn and what it was answered leaves first.
    pub fn resume_commands_later(&mut self, slot: u32) {
        if let Some(session) = self.links.connections.session(slot)
            && session.has_held()
            && !session.resumes
        {
            session.resumes = true;
            self.peers.commands_resuming.push(slot);
        }
    }

    /// Takes up what was held, as far as it may go.
    pub fn resume_commands(&mut self) {
        if self.peers.commands_resuming.is_empty() {
            return;
        }
        let mut slots = std::mem::take(&mut self.peers.commands_resuming);
        for slot in slots.drain(..) {
            self.resume_one(slot);
        }
        // Those that came meanwhile have their turn in the next tick.
        slots.append(&mut self.peers.commands_resuming);
        self.peers.commands_resuming = slots;
    }

    fn resume_one(&mut self, slot: u32) {
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        session.resumes = false;
        if self.env.ending.is_some() {
            return;
        }
        if self
            .links
            .connections
            .get(slot)
            .is_some_and(|connection| connection.link.owes() && !connection.link.is_blocked())
        {
            // What it was owed leaves in this tick, as far as its socket takes it: then it is clear what may follow.
            return self.resume_commands_later(slot);
        }
        self.take_up_held(slot);
        self.holds_no_more(slot);
        self.settle(slot);
    }

    fn take_up_held(&mut self, slot: u32) {
        while let Some(command) = self.with_session(slot, |session, _| session.next_held()).flatten() {
            if !self.take_commands(slot, &command, true) {
                break;
            }
        }
    }

    /// The peer leaves. What it said before counts: commands that wait for their turn, and for nothing else, have it
    /// now. They are few: what is held is bounded.
    pub fn take_up_last(&mut self, slot: u32) {
        let waits = self.links.connections.session(slot).is_some_and(|session| session.has_held());
        if waits && self.env.ending.is_none() {
            self.peers.turn.set_left(slot, u16::MAX);
            self.take_up_held(slot);
        }
    }

    /// Pauses reading from a client that has too many commands waiting.
    pub fn pause_if_holding(&mut self, slot: u32) {
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        if !session.input_paused && session.holds_enough() {
            session.input_paused = true;
            self.env.stats.counters.inputs_paused_total += 1;
            self.links.actions.push(Action::ReadPause(slot));
        }
    }

    /// Undoes [`Core::pause_if_holding`].
    fn holds_no_more(&mut self, slot: u32) {
        let Some(session) = self.links.connections.session(slot) else { return };
        if session.input_paused && !session.holds_enough() {
            session.input_paused = false;
            self.read_on(slot);
        }
    }

    /// A command of the connection is on its way to the owner of a channel.
    pub fn command_sent(&mut self, slot: u32, weight: u16) {
        if let Some(session) = self.links.connections.session(slot) {
            session.command_sent(weight);
        }
    }

    /// The owner has answered.
    pub fn command_answered(&mut self, slot: u32, weight: u16) {
        if let Some(session) = self.links.connections.session(slot) {
            session.command_answered(weight);
            self.resume_commands_later(slot);
        }
    }

    /// Runs a step of a client's session, sends what it wrote and does what it asked. `None`: there is no client.
    pub fn with_session<T>(
        &mut self,
        slot: u32,
        step: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        self.with_session_then(slot, step, |_, result| result)
    }

    /// As [`Core::with_session`], with something to do between the sending and the effects.
    pub fn with_session_then<T, U>(
        &mut self,
        slot: u32,
        step: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
        then: impl FnOnce(&mut Core, T) -> U,
    ) -> Option<U> {
        let conn = self.conn_id(slot);
        let client = self.peers.client_ids.id(conn);
        let unix_s = self.unix_s();
        let session = self.links.connections.session(slot)?;
        let wire = session.wire();
        let emulation = wire.carrier.is_emulated().then(|| Emulation {
            session: self.peers.client_ids.session(conn),
            node: &self.env.options.node_uid,
        });
        let view = View { options: &self.env.options, followed: &self.delivery.followed };
        let mut effects = std::mem::take(&mut self.peers.effects);
        let mut cx = context(&view, client, unix_s, wire, &mut self.peers.text, &mut effects);
        cx.emulation = emulation;
        let result = step(session, &mut cx);
        self.send_messages(slot, wire);
        let result = then(self, result);
        for effect in effects.drain(..) {
            self.apply(slot, effect);
        }
        self.peers.effects = effects;
        Some(result)
    }

    fn apply(&mut self, slot: u32, effect: Effect) {
        let conn = self.conn_id(slot);
        match effect {
            Effect::Connected => self.begin_peer(slot),
            Effect::TakePlace => {
                let connection = self.links.connections.get_mut(slot);
                let user = connection.and_then(|connection| connection.peer.session()?.user().cloned());
                self.join_user(slot, user, false);
            }
            Effect::Subscribe(subscribe) => self.ask_to_join(slot, subscribe, None),
            Effect::Unsubscribe { channel, why } => self.unsubscribe(slot, channel, why),
            Effect::Publish { id, channel, data, form, changes, echoes, receipt } => {
                let index = self.delivery.followed.find(&channel);
                let client = self.client_id(slot);
                let Some(session) = self.links.connections.session(slot) else {
                    return;
                };
                let info = session.info(client.to_string(), index);
                let by = Creator::client(session.user(), conn);
                let accepted = self.env.now;
                let mut ask = PublishRequest {
                    contents: form.into(),
                    info: Some(info),
                    by,
                    accepted,
                    ..PublishRequest::new(channel, data)
                };
                if let Some(changes) = changes {
                    changed(&mut ask, *changes);
                }
                if !echoes {
                    let named = ask.except.take().map_or_else(Except::default, Arc::unwrap_or_clone);
                    ask.except = Some(Arc::new(Except { client: Some(client), ..named }));
                }
                if let Some(receipt) = &receipt {
                    let key = ask.info.as_ref().map(|info| key_of(info, receipt));
                    // The client's own, unless the backend has another.
                    ask.idempotency_key = ask.idempotency_key.or(key);
                }
                self.command_sent(slot, 1);
                let receipt = receipt.is_some();
                self.messages.mailer.request(OwnerRequest::Publish { conn, id, ask, receipt });
            }
            Effect::History { id, channel, limit, since, reverse } => {
                self.command_sent(slot, READ_WEIGHT);
                let session = self.links.connections.session(slot);
                let by = Creator::client(session.and_then(|session| session.user()), conn);
                let ask = HistoryRequest { channel, limit, since, since_ms: None, reverse, by };
                self.messages.mailer.request(OwnerRequest::History { conn, id, ask });
            }
            Effect::Presence { id, channel } => {
                self.command_sent(slot, READ_WEIGHT);
                self.messages.mailer.request(OwnerRequest::Presence { conn, id, channel });
            }
            Effect::PresenceStats { id, channel } => {
                self.command_sent(slot, 1);
                self.messages.mailer.request(OwnerRequest::PresenceStats { conn, id, channel });
            }
            Effect::Ack { id, call } => {
                self.command_sent(slot, READ_WEIGHT);
                let AckCall { requests, outcomes } = *call;
                let done = AckGather::new(conn, id, requests.len(), outcomes);
                for ask in requests {
                    self.messages.mailer.request(OwnerRequest::Ack { ask, done: Arc::clone(&done) });
                }
            }
            Effect::CallHook(hook_request) => self.ask_for_client(slot, hook_request),
            Effect::Resume => self.resume_commands_later(slot),
            Effect::InfoChanged { channel } => self.renew_info(slot, channel),
            Effect::ExpiryChanged => self.set_peer_timer(slot),
            Effect::Message { data } => {
                if !self.tell_message(slot, data) {
                    self.env.stats.counters.client_messages_dropped_total += 1;
                }
            }
            Effect::TokenRefused(fault) => self.token_refused(slot, fault),
            Effect::Refused(error_code) => self.env.stats.error_code(error_code),
            Effect::Limited => {
                self.env.stats.counters.commands_limited_total += 1;
                self.show(slot, || Observation::Limited);
            }
        }
    }

    /// Sends what others see of a client to the owners of its channels, or of one.
    fn renew_info(&mut self, slot: u32, only: Option<u32>) {
        let conn = self.conn_id(slot);
        let client = self.client_id(slot).to_string();
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        let changed: SmallVec<[u32; 2]> = session.subs().iter().map(|sub| sub.channel()).collect();
        for channel in changed.into_iter().filter(|channel| only.is_none_or(|only| only == *channel)) {
            let info = session.member_info(channel, &client);
            let channel = self.delivery.followed.get(channel).name.clone();
            self.messages.mailer.request(OwnerRequest::Renew { channel, conn, info });
        }
    }
}

/// What the backend wants published in place of what the client sent.
pub(in crate::shard) fn changed(ask: &mut PublishRequest, changes: PublishAnswer) {
    let PublishAnswer { data, skip_history, tags, except, idempotency_key, version, version_epoch } = changes;
    if let Some(data) = data {
        ask.data = data;
    }
    *ask = PublishRequest {
        channel: ask.channel.clone(),
        data: std::mem::take(&mut ask.data),
        contents: ask.contents,
        info: ask.info.take(),
        tags,
        except: except.map(Arc::new),
        skip_history,
        idempotency_key,
        version,
        version_epoch,
        keyed: false,
        pace: ask.pace,
        by: std::mem::take(&mut ask.by),
        accepted: ask.accepted,
        trace: ask.trace,
    };
}

fn context<'a>(
    environment: &'a View<'a>,
    client: ClientId,
    unix_s: u64,
    wire: Wire,
    text: &'a mut Vec<u8>,
    effects: &'a mut Vec<Effect>,
) -> Context<'a> {
    text.clear();
    // A few tries within the delay.
    let ask_again_s = (environment.options.expired_close_delay.as_secs() / 5).max(1);
    Context {
        environment,
        client,
        unix_s,
        version: environment.options.version,
        // A client counts in whole seconds and waits for ping plus its own delay: never tell it less than it is.
        ping_s: environment.options.ping_interval.as_millis().div_ceil(1000) as u32,
        allowance: u32::MAX,
        turn: u16::MAX,
        blocked: false,
        ask_again_s,
        carrier: wire.carrier,
        emulation: None,
        out: if wire.carrier.is_unidirectional() {
            ReplyBatch::bare(text)
        } else {
            ReplyBatch::new(text, wire.format)
        },
        effects,
    }
}
