//! Clients of the Centrifuge protocol: their commands, what those lead to, their pings and expiries.

use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, Refusal, Unsubscribed};
use crate::base::ids::{ChannelName, ClientId};
use crate::hub::asks::{HistoryAsk, JoinAsk, PublishAsk};
use crate::hub::creators::Creator;
use crate::hub::local::Local;
use crate::proto::centrifuge::{Batch, Format, Push, decode_frame, encode_push};
use crate::proto::websocket::{self, Opcode};
use crate::session::question::PublishAnswer;
use crate::session::token::Verifier;
use crate::session::{
    Context, Effect, Hooks, Progress, READ_WEIGHT, RECOVERY_WEIGHT, Rights, Session, Sub, SubscribeEffect,
    World,
};
use crate::shard::core::Core;
use crate::shard::mailbox::{HomeMail, JoinTag, Mail};
use crate::shard::peer::Kind;
use crate::shard::timers::{self, ShortTick, TICK_MS};
use crate::shard::{Action, ShardOptions};

/// What a session may look at.
pub(in crate::shard) struct View<'a> {
    pub options: &'a ShardOptions,
    pub local: &'a Local,
}

impl World for View<'_> {
    fn rights(&self, channel: &str) -> Result<Rights, Refusal> {
        let options = self.options.namespaces.resolve(channel)?;
        Ok(Rights {
            user_limited: options.allow_user_limited_channels,
            listed: None,
            subscribe: options.allow_subscribe_for_client,
            publish_for_client: options.allow_publish_for_client,
            publish_for_subscriber: options.allow_publish_for_subscriber,
            history_for_client: options.allow_history_for_client,
            history_for_subscriber: options.allow_history_for_subscriber,
            presence_for_client: options.allow_presence_for_client,
            presence_for_subscriber: options.allow_presence_for_subscriber,
            keeps_history: options.keeps_history(),
            keeps_presence: options.presence,
            join_leave: options.join_leave,
            force_push_join_leave: options.force_push_join_leave,
            positioning: options.allow_positioning,
            recovery: options.allow_recovery,
            force_positioning: options.force_positioning,
            force_recovery: options.force_recovery,
            subscribe_hook: options.subscribe_hook.is_some(),
            sub_refresh_hook: options.sub_refresh_hook.is_some(),
            publish_hook: options.publish_hook.is_some(),
        })
    }

    fn find(&self, channel: &str) -> Option<u32> {
        self.local.find(channel)
    }

    fn verifier(&self) -> Option<&Verifier> {
        self.options.verifier.as_deref()
    }

    fn allows_anonymous(&self) -> bool {
        self.options.allow_anonymous
    }

    fn channels_max(&self) -> usize {
        self.options.channels_max
    }

    fn limits_users(&self) -> bool {
        self.options.client_limits.user_connections_max > 0
    }

    fn personal_channel(&self, user: &str) -> Option<ChannelName> {
        let namespace = self.options.personal_channels.as_deref().filter(|_| !user.is_empty())?;
        Some(format!("{namespace}#{user}").into())
    }

    fn name(&self, channel: u32) -> ChannelName {
        self.local.get(channel).name.clone()
    }

    fn hooks(&self) -> Hooks {
        let hooks = &self.options.hooks;
        Hooks { connect: hooks.connect.is_some(), refresh: hooks.refresh.is_some(), rpc: hooks.rpc.is_some() }
    }

    fn emulated_headers(&self) -> &[Box<str>] {
        &self.options.emulated_headers
    }
}

impl Core {
    /// One frame of commands. None is taken from a shard that ends.
    pub fn handle_commands(&mut self, slot: u32, frame: &[u8]) {
        if self.env.ending.is_none() {
            self.take_commands(slot, frame, false);
        }
    }

    /// False when commands of the frame are held, or the client is gone.
    fn take_commands(&mut self, slot: u32, frame: &[u8], resumed: bool) -> bool {
        let Some(format) = self.format(slot) else { return false };
        let mut commands = decode_frame(format, frame);
        loop {
            let allowance = self.commands_allowed(slot);
            let blocked =
                self.links.connections.get(slot).is_some_and(|connection| connection.link.is_blocked());
            let step = |session: &mut Session, cx: &mut Context<'_>| {
                cx.allowance = allowance;
                cx.blocked = blocked;
                let result = session.handle_commands(&mut commands, resumed, cx);
                (result, allowance - cx.allowance)
            };
            // Charged before the effects: those may bring further commands.
            let outcome = self.with_session_then(slot, step, |core, (result, used)| {
                core.charge_commands(slot, used);
                result
            });
            match outcome {
                Some(Ok(Progress::More)) => {}
                Some(Ok(Progress::Done)) => return true,
                Some(Ok(Progress::Held)) | None => return false,
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
        while let Some(command) = self.with_session(slot, |session, _| session.next_held()).flatten() {
            if !self.take_commands(slot, &command, true) {
                break;
            }
        }
        self.read_on(slot);
        self.settle(slot);
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
    fn read_on(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let paused_for_debt = connection.link.lag.as_ref().is_some_and(|lag| lag.read_paused);
        let Some(session) = connection.peer.session() else { return };
        if session.input_paused && !session.holds_enough() {
            session.input_paused = false;
            if !paused_for_debt {
                self.links.actions.push(Action::ReadStart(slot));
            }
        }
    }

    /// A command of the connection is on its way to the owner of a channel.
    fn command_sent(&mut self, slot: u32, weight: u16) {
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

    /// How the client writes; `None` for whoever is none.
    fn format(&mut self, slot: u32) -> Option<Format> {
        Some(self.links.connections.session(slot)?.format())
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
        let client = self.client_id(slot);
        let unix_s = self.unix_s();
        let session = self.links.connections.session(slot)?;
        let format = session.format();
        let view = View { options: &self.env.options, local: &self.delivery.local };
        let mut effects = std::mem::take(&mut self.peers.effects);
        let mut cx = context(&view, client, unix_s, format, &mut self.peers.text, &mut effects);
        let result = step(session, &mut cx);
        self.send_messages(slot, format);
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
            Effect::Connected => self.handle_connected(slot),
            Effect::TakePlace => {
                let connection = self.links.connections.get_mut(slot);
                let user = connection.and_then(|connection| connection.peer.session()?.user().cloned());
                self.join_user(slot, user, false);
            }
            Effect::Subscribe(subscribe) => self.ask_to_join(slot, subscribe, None),
            Effect::Unsubscribe { channel, why } => self.unsubscribe(slot, channel, why),
            Effect::Publish { id, channel, data, changes } => {
                let index = self.delivery.local.find(&channel);
                let client = self.client_id(slot).to_string();
                let Some(session) = self.links.connections.session(slot) else {
                    return;
                };
                let info = session.info(client, index);
                let by = Creator::client(session.user(), conn);
                let mut ask = PublishAsk { info: Some(info), by, ..PublishAsk::new(channel, data) };
                if let Some(changes) = changes {
                    changed(&mut ask, *changes);
                }
                self.command_sent(slot, 1);
                let home = self.messages.mailer.router().channel_home(&ask.channel);
                self.messages.mailer.post(home, Mail::Home(Box::new(HomeMail::Publish { conn, id, ask })));
            }
            Effect::History { id, channel, limit, since, reverse } => {
                self.command_sent(slot, READ_WEIGHT);
                let home = self.messages.mailer.router().channel_home(&channel);
                let session = self.links.connections.session(slot);
                let by = Creator::client(session.and_then(|session| session.user()), conn);
                let ask = HistoryAsk { channel, limit, since, reverse, by };
                self.messages.mailer.post(home, Mail::Home(Box::new(HomeMail::History { conn, id, ask })));
            }
            Effect::Presence { id, channel } => {
                self.command_sent(slot, READ_WEIGHT);
                let home = self.messages.mailer.router().channel_home(&channel);
                self.messages
                    .mailer
                    .post(home, Mail::Home(Box::new(HomeMail::Presence { conn, id, channel })));
            }
            Effect::PresenceStats { id, channel } => {
                self.command_sent(slot, 1);
                let home = self.messages.mailer.router().channel_home(&channel);
                self.messages
                    .mailer
                    .post(home, Mail::Home(Box::new(HomeMail::PresenceStats { conn, id, channel })));
            }
            Effect::Ask(matter) => self.ask_for_client(slot, matter),
            Effect::Resume => self.resume_commands_later(slot),
            Effect::InfoChanged { channel } => self.renew_info(slot, channel),
            Effect::ExpiryChanged => self.set_client_timer(slot),
            Effect::Message { data } => {
                if !self.tell_message(slot, data) {
                    self.env.stats.counters.client_messages_dropped_total += 1;
                }
            }
            Effect::TokenRefused(fault) => self.token_refused(fault),
            Effect::Refused(refusal) => self.env.stats.refusal(refusal),
            Effect::Limited => self.env.stats.counters.commands_limited_total += 1,
        }
    }

    fn handle_connected(&mut self, slot: u32) {
        // The reply may have been too much for its socket: then it is gone by now.
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.peer.session().is_none() {
            return;
        }
        connection.peer.set_listed();
        self.peers.clients += 1;
        self.env.stats.counters.clients_connected_total += 1;
        // The first ping comes at a random moment of the second half, so that a crowd that connected at once is not
        // pinged at once ever after.
        let interval = self.env.options.ping_interval.as_millis() as u64;
        let first = interval / 2 + self.env.prng.u64(0..=interval / 2);
        let due = timers::tick_after(self.env.now, first);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        connection.link.ping_due = ShortTick::new(due, timers::tick_of(self.env.now));
        // What came for its subscriptions while others of the same connect were still asked for.
        if connection.link.lag.is_some() {
            self.delivery.catching_up.push(slot);
        }
        if !connection.peer.of_user() {
            let user = connection.peer.session().and_then(|session| session.user().cloned());
            self.join_user(slot, user, false);
        }
        self.tell_connected(slot);
        self.set_client_timer(slot);
    }

    /// Asks a channel's home to make the connection a subscriber.
    pub fn ask_to_join(
        &mut self,
        slot: u32,
        subscribe: SubscribeEffect,
        done: Option<std::sync::Arc<crate::shard::mailbox::Gather>>,
    ) {
        let conn = self.conn_id(slot);
        let client = self.client_id(slot).to_string();
        let Ok(options) = self.env.options.namespaces.resolve(&subscribe.channel) else { return };
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        let index = self.delivery.local.join_asked(&subscribe.channel, options);
        self.messages.joins_asked = self.messages.joins_asked.wrapping_add(1);
        session.join_asked(index, self.messages.joins_asked, &subscribe);
        session.command_sent(join_weight(subscribe.flags, subscribe.since.is_some()));
        let info = session.info(client, Some(index));
        let by = match subscribe.flags & Sub::SERVER_SIDE {
            0 => Creator::client(session.user(), conn),
            _ => Creator::Backend,
        };
        let ask = JoinAsk { channel: subscribe.channel, conn, info, recover: subscribe.since, by };
        let tag = JoinTag {
            index,
            number: self.messages.joins_asked,
            id: subscribe.id,
            flags: subscribe.flags,
            reject_unrecovered: subscribe.reject_unrecovered,
            data: subscribe.data,
            done,
        };
        let home = self.messages.mailer.router().channel_home(&ask.channel);
        self.messages.mailer.post(home, Mail::Home(Box::new(HomeMail::Join { ask, tag })));
    }

    /// Sends what others see of a client to the homes of its channels, or of one.
    fn renew_info(&mut self, slot: u32, only: Option<u32>) {
        let conn = self.conn_id(slot);
        let client = self.client_id(slot).to_string();
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        let changed = session.subs().iter().map(|sub| sub.channel());
        for channel in changed.filter(|channel| only.is_none_or(|only| only == *channel)) {
            let info = session.info(client.clone(), Some(channel));
            let channel = self.delivery.local.get(channel).name.clone();
            let home = self.messages.mailer.router().channel_home(&channel);
            self.messages.mailer.post(home, Mail::Home(Box::new(HomeMail::Renew { channel, conn, info })));
        }
    }

    /// Ends a subscription; with `why`, the client is told.
    pub fn unsubscribe(&mut self, slot: u32, channel: u32, why: Option<Unsubscribed>) {
        let conn = self.conn_id(slot);
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        let Some(sub) = session.sub(channel) else { return };
        let name = self.delivery.local.get(channel).name.clone();
        if let Some(place) = sub.place() {
            self.drop_cursor(slot, channel, place);
            // Before the client is told: what is written to it may close it.
            self.tell_unsubscribed(slot, &name, why.unwrap_or(Unsubscribed::Client));
        }
        match why {
            Some(why) => {
                self.with_session(slot, |session, cx| session.unsubscribed(channel, &name, why, cx));
            }
            None => {
                let session = self.links.connections.session(slot);
                session.and_then(|session| session.remove(channel));
            }
        }
        if let Some(place) = sub.place() {
            self.leave_list(channel, place);
        }
        let home = self.messages.mailer.router().channel_home(&name);
        self.messages.mailer.post(home, Mail::Home(Box::new(HomeMail::Leave { channel: name, conn })));
    }

    // --- time

    pub fn handle_timer(&mut self, slot: u32) {
        match self.links.connections.kind(slot) {
            Some(Kind::Http(_)) => self.handle_http_timer(slot),
            Some(Kind::Client(session)) if !session.is_connected() => match session.awaits() {
                Some(_) => self.handle_question_timer(slot),
                None => self.close(slot, Disconnect::STALE),
            },
            Some(Kind::Client(_)) => self.handle_client_timer(slot),
            Some(Kind::Reader(_)) => self.handle_reader_timer(slot),
            Some(Kind::Tunnel(_)) => self.handle_tunnel_timer(slot),
            // It has not ended in time.
            Some(Kind::Nobody) => self.give_up(slot),
            Some(Kind::Echo) | None => {}
        }
    }

    fn handle_client_timer(&mut self, slot: u32) {
        self.handle_question_timer(slot);
        let expired_s = self.unix_s().saturating_sub(self.env.options.expired_close_delay.as_secs());
        let now = timers::tick_of(self.env.now);
        let excused_until = self.delivery.silence_excused_until(self.env.now, self.env.options.pong_timeout);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Kind::Client(session) = &mut connection.peer.kind else { return };
        if session.expire_at_s() != 0 && session.expire_at_s() <= expired_s {
            self.close(slot, Disconnect::EXPIRED);
            return;
        }
        let expired = session.expired_subs(expired_s);
        let own = |channel: &u32| session.sub(*channel).is_some_and(|sub| sub.is(Sub::SERVER_SIDE));
        if expired.iter().any(own) {
            // The client did not ask for it and cannot ask again: it connects anew, and the server decides anew.
            self.close(slot, Disconnect::SUBSCRIPTION_EXPIRED);
            return;
        }
        let interval = self.env.options.ping_interval;
        if !interval.is_zero() && connection.link.ping_due.near(now) <= now {
            let pong_timeout = self.env.options.pong_timeout;
            if connection.link.awaits_pong() {
                let input_paused = session.input_paused;
                if session.ping_outstanding() {
                    let slow = connection.link.is_blocked();
                    if input_paused && !slow {
                        // Its pong may be behind the commands that we have not read.
                        connection.link.ping_due = ShortTick::new(ticks_after(now, pong_timeout), now);
                        return self.set_client_timer(slot);
                    }
                    match excused_until {
                        Some(until) if !slow => {
                            connection.link.ping_due = ShortTick::new(until, now);
                            return self.set_client_timer(slot);
                        }
                        _ => {
                            let why = if slow { Disconnect::SLOW } else { Disconnect::NO_PONG };
                            return self.close(slot, why);
                        }
                    }
                }
                connection.link.set_awaits_pong(false);
                let after = ticks_after(now, interval.saturating_sub(pong_timeout));
                connection.link.ping_due = ShortTick::new(after, now);
            } else {
                session.ping();
                connection.link.set_awaits_pong(true);
                connection.link.ping_due = ShortTick::new(ticks_after(now, pong_timeout), now);
                let format = session.format();
                self.env.stats.counters.pings_sent_total += 1;
                self.send(slot, Bytes::from_static(ping_frame(format)));
            }
        }
        for channel in expired {
            self.unsubscribe(slot, channel, Some(Unsubscribed::Expired));
        }
        self.set_client_timer(slot);
    }

    /// Sets the timer of a connected client to the next thing that is due.
    pub fn set_client_timer(&mut self, slot: u32) {
        let delay_s = self.env.options.expired_close_delay.as_secs();
        let unix_s = self.unix_s();
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let ping = connection.link.ping_due.near(timers::tick_of(self.env.now));
        let Kind::Client(session) = &connection.peer.kind else { return };
        if !session.is_connected() {
            return;
        }
        let expiry = match session.next_expiry_s() {
            0 => None,
            at => {
                Some(timers::tick_after(self.env.now, timers::ms_until(at.saturating_add(delay_s), unix_s)))
            }
        };
        let ping = (!self.env.options.ping_interval.is_zero()).then_some(ping);
        let ask =
            session.next_ask_s().map(|at| timers::tick_after(self.env.now, timers::ms_until(at, unix_s)));
        let patience = session.awaits().map(|(_, until)| timers::tick_after(until, 0));
        match ping.into_iter().chain(expiry).chain(ask).chain(patience).min() {
            Some(due) => self.links.wheel.set(&mut self.links.connections, slot, due),
            None => self.links.wheel.cancel(&mut self.links.connections, slot),
        }
    }
}

/// What a join weighs among the commands under way: the server's own are none.
pub(in crate::shard) fn join_weight(flags: u32, recovers: bool) -> u16 {
    match (flags & Sub::SERVER_SIDE != 0, recovers) {
        (true, _) => 0,
        (false, true) => RECOVERY_WEIGHT,
        (false, false) => 1,
    }
}

/// What carries the messages of a format.
pub(in crate::shard) const fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::Protobuf => Opcode::Binary,
    }
}

/// A push as the frame that carries it.
pub(in crate::shard) fn push_frame(format: Format, channel: &str, push: &Push<'_>) -> Bytes {
    let mut message = Vec::new();
    encode_push(&mut message, format, channel, push);
    let mut frame = Vec::with_capacity(message.len() + websocket::FRAME_HEADER_BYTES_MAX);
    websocket::write_frame(&mut frame, opcode(format), &message);
    frame.into()
}

/// A ping of the protocol as the frame that carries it; the same for everybody.
fn ping_frame(format: Format) -> &'static [u8] {
    const JSON: &[u8] =
        &[0x80 | opcode(Format::Json) as u8, 2, Format::Json.ping()[0], Format::Json.ping()[1]];
    const PROTOBUF: &[u8] = &[0x80 | opcode(Format::Protobuf) as u8, 1, Format::Protobuf.ping()[0]];
    const _: () = assert!(Format::Json.ping().len() == 2 && Format::Protobuf.ping().len() == 1);
    match format {
        Format::Json => JSON,
        Format::Protobuf => PROTOBUF,
    }
}

/// What the backend wants published in place of what the client sent.
pub(in crate::shard) fn changed(ask: &mut PublishAsk, changes: PublishAnswer) {
    let PublishAnswer { data, skip_history, tags, idempotency_key, version, version_epoch } = changes;
    if let Some(data) = data {
        ask.data = data;
    }
    *ask = PublishAsk {
        channel: ask.channel.clone(),
        data: std::mem::take(&mut ask.data),
        info: ask.info.take(),
        tags,
        skip_history,
        idempotency_key,
        version,
        version_epoch,
        pace: ask.pace,
        by: std::mem::take(&mut ask.by),
    };
}

/// At least one tick later, so that the wheel moves on.
fn ticks_after(now: timers::TimerTick, after: Duration) -> timers::TimerTick {
    now.saturating_add((after.as_millis() as u64).div_ceil(TICK_MS).max(1))
}

fn context<'a>(
    world: &'a View<'a>,
    client: ClientId,
    unix_s: u64,
    format: Format,
    text: &'a mut Vec<u8>,
    effects: &'a mut Vec<Effect>,
) -> Context<'a> {
    text.clear();
    // A few tries within the delay.
    let ask_again_s = (world.options.expired_close_delay.as_secs() / 5).max(1);
    Context {
        world,
        client,
        unix_s,
        version: world.options.version,
        // A client counts in whole seconds and waits for ping plus its own delay: never tell it less than it is.
        ping_s: world.options.ping_interval.as_millis().div_ceil(1000) as u32,
        allowance: u32::MAX,
        blocked: false,
        ask_again_s,
        out: Batch::new(text, format),
        effects,
    }
}
