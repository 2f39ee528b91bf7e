//! What a session holds.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::bytes::Bytes;
use crate::base::fault::Unsubscribed;
use crate::base::filter::Filters;
use crate::base::ids::UserName;
use crate::base::publication::ClientInfo;
use crate::base::shape::Shape;
use crate::proto::centrifuge::Format;
use crate::proto::centrifuge::reply::{Lifetime, Push};
use crate::proto::wire::Wire;
use crate::session::context::{Context, Effect, SubscribeEffect};
use crate::session::hook_call::Headers;
use crate::session::identity::{Identity, NEVER_S, Renewal, info_of, shared_info};
use crate::session::subscribed::lifetime;
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::waits::{HeldCommands, Waits};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionPhase {
    #[default]
    Fresh,
    Connecting,
    Connected,
    /// The connect was answered with an error. Nothing but another connect is listened to: what the SDK sent along
    /// with the refused one must not end the connection with a code of its own, which might be a terminal one.
    Refused,
}

/// Plain data; the idle client's whole state.
#[derive(Default)]
pub struct Session {
    pub(super) subs: SmallVec<[Sub; 2]>,
    pub(super) identity: Option<Box<Identity>>,
    pub(super) extras: Option<Box<Extras>>,
    pub(super) phase: SessionPhase,
    pub(super) ping_outstanding: bool,
    pub(super) wire: Wire,
    /// Weight of the commands that owners of channels have not answered.
    pub(super) under_way: u16,
    /// The shard does not read from the connection until fewer commands are held.
    pub input_paused: bool,
    /// The shard is going to take up what is held.
    pub resumes: bool,
}

/// What few sessions have.
#[derive(Default)]
pub(super) struct Extras {
    /// The token that the upgrade showed, until the client connects.
    pub(super) shown: Option<Box<str>>,
    pub(super) waits: Option<Box<Waits>>,
    /// Commands that came while it waits.
    pub(super) held: Option<Box<HeldCommands>>,
    pub(super) subs: Vec<SubExtra>,
    /// Fields of the request that opened the connection, for the backend.
    pub(super) headers: Option<Arc<Headers>>,
    /// The head of the response, while it depends on how the connect is answered.
    pub(super) opening: Option<Box<Opening>>,
}

/// A response whose head has not gone out.
#[derive(Debug, Default)]
pub struct Opening {
    pub head: Vec<u8>,
    /// The code of the error that a unidirectional client's connect was refused with.
    pub refused: Option<u32>,
}

/// What is known of a subscription beyond its entry.
pub(super) struct SubExtra {
    pub(super) channel: ChannelIndex,
    pub(super) chan_info: Option<Bytes>,
    pub(super) expire_at_s: u64,
    pub(super) renewal: Renewal,
    /// What goes out of publications.
    pub(super) shape: Shape,
    /// Publications are left out that these do not match.
    pub(super) filters: Option<Arc<Filters>>,
}

impl Session {
    /// `headers`: of the request that opened the connection, those that the backend gets to see.
    pub fn new(wire: Wire, headers: Option<Arc<Headers>>) -> Session {
        let extras = headers.map(|headers| Box::new(Extras { headers: Some(headers), ..Extras::default() }));
        Session { extras, wire, ..Session::default() }
    }

    /// Of a request whose response begins with this, once the connect is answered.
    pub fn with_opening(mut self, head: Vec<u8>) -> Session {
        self.extras_mut().opening = Some(Box::new(Opening { head, refused: None }));
        self
    }

    /// The response's head, if it has not gone out.
    pub fn take_opening(&mut self) -> Option<Box<Opening>> {
        let opening = self.extras.as_mut()?.opening.take()?;
        self.trim();
        Some(opening)
    }

    pub fn awaits_opening(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.opening.is_some())
    }

    /// Of a connection whose upgrade shows a token: it counts if the connect has none.
    pub fn with_token(mut self, shown: Option<Box<str>>) -> Session {
        if shown.is_some() {
            self.extras_mut().shown = shown;
        }
        self
    }

    /// Of a connection whose request names a tag.
    pub fn with_origin(mut self, origin: Option<Box<str>>) -> Session {
        if origin.is_some() {
            self.identity.get_or_insert_default().origin = origin.map(Box::new);
        }
        self
    }

    /// `jti` of the token that it has shown.
    pub fn token_id(&self) -> Option<&str> {
        self.identity.as_ref()?.token_id.as_ref().map(|id| &***id)
    }

    pub fn origin(&self) -> Option<&str> {
        self.identity.as_ref()?.origin()
    }

    /// What tells its device from others of its user.
    pub fn device(&self) -> Option<&UserName> {
        self.identity.as_ref()?.device()
    }

    /// The token of the upgrade, until the client is let in: who is refused with it and asks once more on the same
    /// connection has not become somebody without one.
    pub(super) fn shown(&self) -> Option<&str> {
        self.extras.as_ref()?.shown.as_deref()
    }

    pub(super) fn forget_shown(&mut self) {
        if let Some(extras) = &mut self.extras {
            extras.shown = None;
            self.trim();
        }
    }

    /// How the client writes, and is written to.
    pub fn format(&self) -> Format {
        self.wire.format
    }

    /// The same with what carries it.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Its connect has come.
    pub fn has_begun(&self) -> bool {
        self.phase != SessionPhase::Fresh
    }

    pub fn is_connected(&self) -> bool {
        self.phase == SessionPhase::Connected
    }

    pub fn user(&self) -> Option<&UserName> {
        self.identity.as_ref().and_then(|identity| identity.user.as_ref())
    }

    pub fn subs(&self) -> &[Sub] {
        &self.subs
    }

    /// Every subscription, given up: the connection is going away.
    pub fn take_subs(&mut self) -> SmallVec<[Sub; 2]> {
        if let Some(extras) = &mut self.extras {
            extras.subs.clear();
        }
        std::mem::take(&mut self.subs)
    }

    /// What it gets of the channel's publications.
    pub fn shape(&self, channel: ChannelIndex) -> Shape {
        self.extra(channel).map_or(Shape::Whole, |extra| extra.shape)
    }

    /// What its subscription to the channel is filtered by.
    pub fn filters(&self, channel: ChannelIndex) -> Option<&Arc<Filters>> {
        self.extra(channel)?.filters.as_ref()
    }

    pub fn sub(&self, channel: ChannelIndex) -> Option<Sub> {
        Sub::find(&self.subs, channel)
    }

    /// The shard has asked the channel's owner to join for the effect. `number` tells the answer from that to an
    /// earlier ask which was given up: ids of commands do not, the server's own subscriptions have none.
    pub fn join_asked(&mut self, channel: ChannelIndex, number: u32, effect: &SubscribeEffect) {
        debug_assert!(self.sub(channel).is_none());
        let (flags, shape) = (effect.flags & !Sub::INDEX, Sub::shape_of(effect.flags));
        if self.subs.len() == self.subs.capacity() {
            // By a quarter: a client of twenty groups has them for long.
            self.subs.reserve_exact(1 + self.subs.len() / 4);
        }
        self.subs.push(Sub { channel: channel | flags | Sub::PENDING, place: number });
        if effect.chan_info.is_some()
            || effect.expire_at_s != 0
            || shape != Shape::Whole
            || effect.filters.is_some()
        {
            self.extras_mut().subs.push(SubExtra {
                channel,
                chan_info: effect.chan_info.clone(),
                expire_at_s: effect.expire_at_s,
                renewal: effect.renewal,
                shape,
                filters: effect.filters.clone(),
            });
        }
    }

    /// The shard has put the connection at `place` of the channel's list, or has moved it there.
    pub fn set_place(&mut self, channel: ChannelIndex, place: u32) {
        Sub::set_place(&mut self.subs, channel, place);
    }

    /// Forgets the subscription, if there is one.
    pub fn remove(&mut self, channel: ChannelIndex) -> Option<Sub> {
        let at = self.subs.iter().position(|sub| sub.channel() == channel)?;
        if let Some(extras) = &mut self.extras {
            extras.subs.retain(|extra| extra.channel != channel);
            self.forget_sub_refresh(channel);
            self.trim();
        }
        let sub = self.subs.swap_remove(at);
        if self.subs.spilled() && self.subs.len() * 4 < self.subs.capacity() {
            self.subs.shrink_to_fit();
        }
        Some(sub)
    }

    /// Who this client is to others, but for what a subscription adds: shared by all channels that show it.
    pub fn shared_info(&mut self, client: String) -> Arc<ClientInfo> {
        shared_info(&mut self.identity, client)
    }

    /// Who it is to others in a channel.
    pub fn member_info(&mut self, channel: ChannelIndex, client: &str) -> Arc<ClientInfo> {
        match self.extra(channel).and_then(|extra| extra.chan_info.as_ref()) {
            Some(_) => Arc::new(self.info(client.to_owned(), Some(channel))),
            None => self.shared_info(client.to_owned()),
        }
    }

    /// Who this client is to others.
    pub fn info(&self, client: String, channel: Option<ChannelIndex>) -> ClientInfo {
        let chan_info = channel.and_then(|channel| self.extra(channel)?.chan_info.clone());
        ClientInfo { chan_info, ..info_of(self.identity.as_deref(), client) }
    }

    // --- the server's own doing

    /// The server ends a subscription. False when there is none.
    pub fn unsubscribed(
        &mut self,
        channel: ChannelIndex,
        name: &str,
        why: Unsubscribed,
        cx: &mut Context<'_>,
    ) -> Option<Sub> {
        let sub = self.remove(channel)?;
        cx.push(name, &Push::Unsubscribe(why));
        Some(sub)
    }

    /// The server changes when the connection expires (0: never) and what others see of it.
    pub fn handle_refreshed(&mut self, expire_at_s: u64, info: Option<Bytes>, cx: &mut Context<'_>) {
        if expire_at_s != 0 || info.is_some() || self.identity.is_some() {
            let identity = self.identity.get_or_insert_default();
            identity.expire_at_s = expire_at_s;
            if let Renewal::Hook { ask_at_s } = &mut identity.renewal {
                *ask_at_s =
                    if cx.environment.hooks().refresh && expire_at_s != 0 { expire_at_s } else { NEVER_S };
            }
            if info.is_some() && identity.conn_info != info {
                identity.conn_info = info;
                cx.effects.push(Effect::InfoChanged { channel: None });
            }
        }
        cx.push("", &Push::Refresh(self.told_lifetime(cx.unix_s)));
        // What the backend says now is newer than what it would answer.
        self.forget_refresh(cx);
    }

    /// Unix seconds at which the connection expires; 0 never.
    pub fn expire_at_s(&self) -> u64 {
        self.identity.as_ref().map_or(0, |identity| identity.expire_at_s)
    }

    /// The next moment at which something of this session expires, unix seconds; 0 never.
    pub fn next_expiry_s(&self) -> u64 {
        let subs = self.extras.iter().flat_map(|extras| extras.subs.iter().map(|extra| extra.expire_at_s));
        std::iter::once(self.expire_at_s()).chain(subs).filter(|&at| at != 0).min().unwrap_or(0)
    }

    /// The subscriptions whose time has run out at `unix_s`.
    pub fn expired_subs(&self, unix_s: u64) -> Vec<ChannelIndex> {
        let Some(extras) = &self.extras else { return Vec::new() };
        let expired = |extra: &&SubExtra| extra.expire_at_s != 0 && extra.expire_at_s <= unix_s;
        extras.subs.iter().filter(expired).map(|extra| extra.channel).collect()
    }

    // --- ping and pong

    /// A ping goes out. False when the one before it is still unanswered.
    pub fn ping(&mut self) -> bool {
        !std::mem::replace(&mut self.ping_outstanding, true)
    }

    pub fn ping_outstanding(&self) -> bool {
        self.ping_outstanding
    }

    // --- what few sessions have

    /// How long the connection lasts, as the client gets it.
    pub(super) fn told_lifetime(&self, unix_s: u64) -> Lifetime {
        let expire_at_s =
            self.identity.as_ref().map_or(0, |identity| identity.renewal.shown_expiry(identity.expire_at_s));
        lifetime(expire_at_s, unix_s)
    }

    /// What the connect's request was opened with, as far as the backend gets to see it.
    pub fn headers(&self) -> Option<&Arc<Headers>> {
        self.extras.as_ref()?.headers.as_ref()
    }

    pub fn meta(&self) -> Option<&Bytes> {
        self.identity.as_ref()?.meta.as_deref()
    }

    /// The next command is held until something has been answered.
    pub fn is_waiting(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.waits.is_some())
    }

    pub(super) fn waits_mut(&mut self) -> Option<&mut Waits> {
        self.extras.as_mut()?.waits.as_deref_mut()
    }

    pub(super) fn stop_waiting(&mut self) -> Option<Waits> {
        let waits = self.extras.as_mut()?.waits.take();
        self.trim();
        waits.map(|waits| *waits)
    }

    /// Gives up what holds nothing.
    pub(super) fn trim(&mut self) {
        if self.extras.as_ref().is_some_and(|extras| {
            extras.waits.is_none()
                && extras.held.is_none()
                && extras.subs.is_empty()
                && extras.headers.is_none()
                && extras.shown.is_none()
                && extras.opening.is_none()
        }) {
            self.extras = None;
        }
    }

    pub(super) fn extra(&self, channel: ChannelIndex) -> Option<&SubExtra> {
        self.extras.as_ref()?.subs.iter().find(|extra| extra.channel == channel)
    }

    pub(super) fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}
