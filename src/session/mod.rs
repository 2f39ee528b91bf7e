//! One client as a state machine.
//!
//! Inputs: commands, answers of channel owners, the time. Outputs: replies and pushes into the caller's buffer, and
//! [`Effect`]s for the shard to carry out. Must not know: sockets, frames, channels' logs, threads.
//!
//! ```text
//!  Fresh ──connect──▶ Connecting ──the backend and every server-side subscription answered──▶ Connected
//!    │                     └──refused──▶ Refused
//!    └──────────────── connect with nothing to wait for ──────────────────────────────────────▲
//! ```
//! While `Connecting`, while the backend is asked about a command, and while too many are under way to the owners of
//! channels, further commands are held in order, bounded.

mod answers;
mod commands;
mod context;
mod held;
pub mod hook_call;
pub mod origins;
pub mod permissions;
mod record;
pub mod request;
pub mod request_token;
pub mod rights;
pub mod rules;
pub mod token;
pub mod tunnel;
pub mod unidirectional;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::ids::{ChannelName, Offset, Position, UserName};
use crate::base::publication::{ClientInfo, Publication, Publications, Since};
use crate::proto::centrifuge::Format;
use crate::proto::centrifuge::reply::{
    ClientInfoRef, ConnectResult, ErrorRef, Lifetime, PublicationRef, Push, Reply, SubscribePush,
    SubscribeResult,
};

use self::answers::Asked;
use self::held::Held;
use self::hook_call::Headers;

pub use commands::Progress;
pub use context::{Context, Effect, Hooks, Rights, SubscribeEffect, World};
pub use held::{HELD_BYTES_MAX, READ_WEIGHT, RECOVERY_WEIGHT, UNDER_WAY_MAX};

/// A channel as the shard numbers it; below 2^24.
pub type ChannelIndex = u32;

/// One subscription: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub {
    /// Low 24 bits the channel, high 8 bits flags.
    channel: u32,
    /// Place in the channel's list of subscribers; while the join is pending, the number under which it was asked.
    place: u32,
}

impl Sub {
    pub const SERVER_SIDE: u32 = 1 << 24;
    pub const POSITIONED: u32 = 2 << 24;
    pub const RECOVERABLE: u32 = 4 << 24;
    pub const NOTICES: u32 = 8 << 24;
    const PENDING: u32 = 16 << 24;
    /// Server-side, by the connection's token: another token may take it away.
    pub const BY_TOKEN: u32 = 32 << 24;
    /// In the presence of its channel.
    pub const LISTED: u32 = 64 << 24;
    /// Its join and its leave are told to others.
    pub const ANNOUNCED: u32 = 128 << 24;
    const INDEX: u32 = (1 << 24) - 1;

    pub fn channel(self) -> ChannelIndex {
        self.channel & Sub::INDEX
    }

    /// Place in the channel's list; `None` while the owner has not answered.
    pub fn place(self) -> Option<u32> {
        (!self.is(Sub::PENDING)).then_some(self.place)
    }

    pub fn flags(self) -> u32 {
        self.channel & !Sub::INDEX
    }

    pub fn is(self, flag: u32) -> bool {
        self.channel & flag != 0
    }

    /// The one to `channel` among `subs`.
    fn find(subs: &[Sub], channel: ChannelIndex) -> Option<Sub> {
        subs.iter().copied().find(|sub| sub.channel() == channel)
    }

    /// Notes that the subscriber of `channel` stands at `place` of the channel's list.
    fn set_place(subs: &mut [Sub], channel: ChannelIndex, place: u32) {
        let sub =
            subs.iter_mut().find(|sub| sub.channel() == channel).expect("a subscriber has the subscription");
        sub.channel &= !Sub::PENDING;
        sub.place = place;
    }
}

/// Who the client is. Absent for an anonymous client of whom nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: Option<UserName>,
    pub conn_info: Option<Bytes>,
    /// JSON that only the backend gets to see.
    pub meta: Option<Bytes>,
    /// Unix seconds at which the connection expires; 0 never.
    pub expire_at_s: u64,
    pub renewal: Renewal,
}

/// Who makes last longer what expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renewal {
    /// The client, with another token: it gets to know how long it has.
    #[default]
    Token,
    /// The backend, which is asked at this time (unix seconds): the client has nothing to show and hears nothing of it.
    Hook { ask_at_s: u64 },
}

/// Nobody is asked: what the hook granted ends when it ends.
const NEVER_S: u64 = u64::MAX;

impl Renewal {
    /// Of what a hook granted until `expire_at_s`; `asks`: there is a hook for what comes then.
    fn by_hook(expire_at_s: u64, asks: bool) -> Renewal {
        Renewal::Hook { ask_at_s: if asks && expire_at_s != 0 { expire_at_s } else { NEVER_S } }
    }

    /// When the backend is to be asked; `None` never.
    fn ask_at_s(self) -> Option<u64> {
        match self {
            Renewal::Hook { ask_at_s } if ask_at_s != NEVER_S => Some(ask_at_s),
            _ => None,
        }
    }

    /// `expire_at_s` as the client gets it.
    fn shown_expiry(self, expire_at_s: u64) -> u64 {
        if self == Renewal::Token { expire_at_s } else { 0 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
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
    subs: SmallVec<[Sub; 2]>,
    identity: Option<Box<Identity>>,
    extras: Option<Box<Extras>>,
    phase: Phase,
    ping_outstanding: bool,
    format: Format,
    /// Weight of the commands that owners of channels have not answered.
    under_way: u16,
    /// The shard does not read from the connection until fewer commands are held.
    pub input_paused: bool,
    /// The shard is going to take up what is held.
    pub resumes: bool,
}

/// What few sessions have.
#[derive(Default)]
struct Extras {
    /// The token that the upgrade showed, until the client connects.
    shown: Option<Box<str>>,
    waits: Option<Box<Waits>>,
    /// Commands that came while it waits.
    held: Option<Box<Held>>,
    subs: Vec<SubExtra>,
    /// Fields of the request that opened the connection, for the backend.
    headers: Option<Arc<Headers>>,
}

/// What a session waits for before it looks at its next command. One thing at a time.
enum Waits {
    Joins(Connecting),
    Answer(Asked),
}

/// A connect that waits for its server-side subscriptions.
#[derive(Default)]
struct Connecting {
    id: u32,
    outstanding: u32,
    done: Vec<(ChannelName, Subscribed)>,
    /// JSON for the client, from the backend.
    data: Option<Bytes>,
    /// `Some` until the client has its place among the connections of its user: what it is to be subscribed to then. A
    /// client that gets none is never seen in a channel.
    behind_place: Option<Vec<SubscribeEffect>>,
}

/// What is known of a subscription beyond its entry.
struct SubExtra {
    channel: ChannelIndex,
    chan_info: Option<Bytes>,
    expire_at_s: u64,
    renewal: Renewal,
}

/// A subscription as its reply tells it.
struct Subscribed {
    flags: u32,
    position: Position,
    /// `Some` when a recovery was asked: the request's offset and what was missed, or `None` where it was lost.
    recovery: Option<(Offset, Option<Publications>)>,
    /// As the client gets it.
    expire_at_s: u64,
    data: Option<Bytes>,
}

/// A join as the channel's owner answered it.
#[derive(Debug)]
pub struct JoinAnswer {
    /// As given to [`Session::join_asked`].
    pub number: u32,
    /// As in the [`SubscribeEffect`].
    pub id: u32,
    pub flags: u32,
    pub since: Option<Since>,
    pub reject_unrecovered: bool,
    pub data: Option<Bytes>,
    pub outcome: Result<(Position, Option<Option<Publications>>), ErrorCode>,
}

/// What the shard does with a join's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum JoinVerdict {
    /// Add the connection to the channel's subscribers, then call [`Session::placed`].
    Subscribe { join_leaves: bool },
    /// The owner refused; nothing to undo.
    Refused,
    /// The session wants it no more and has said so to the owner.
    Ignore,
    /// The session cannot use it: the owner must hear that it left.
    Leave,
}

impl Session {
    /// `headers`: of the request that opened the connection, those that the backend gets to see.
    pub fn new(format: Format, headers: Option<Arc<Headers>>) -> Session {
        let extras = headers.map(|headers| Box::new(Extras { headers: Some(headers), ..Extras::default() }));
        Session { extras, format, ..Session::default() }
    }

    /// Of a connection whose upgrade shows a token: it counts if the connect has none.
    pub fn with_token(mut self, shown: Option<Box<str>>) -> Session {
        if shown.is_some() {
            self.extras_mut().shown = shown;
        }
        self
    }

    /// The token of the upgrade, until the client is let in: who is refused with it and asks once more on the same
    /// connection has not become somebody without one.
    fn shown(&self) -> Option<&str> {
        self.extras.as_ref()?.shown.as_deref()
    }

    fn forget_shown(&mut self) {
        if let Some(extras) = &mut self.extras {
            extras.shown = None;
            self.trim();
        }
    }

    /// How the client writes, and is written to.
    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
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

    pub fn sub(&self, channel: ChannelIndex) -> Option<Sub> {
        Sub::find(&self.subs, channel)
    }

    /// The shard has asked the channel's owner to join for the effect. `number` tells the answer from that to an
    /// earlier ask which was given up: ids of commands do not, the server's own subscriptions have none.
    pub fn join_asked(&mut self, channel: ChannelIndex, number: u32, effect: &SubscribeEffect) {
        debug_assert!(self.sub(channel).is_none());
        self.subs.push(Sub { channel: channel | effect.flags | Sub::PENDING, place: number });
        if effect.chan_info.is_some() || effect.expire_at_s != 0 {
            self.extras_mut().subs.push(SubExtra {
                channel,
                chan_info: effect.chan_info.clone(),
                expire_at_s: effect.expire_at_s,
                renewal: effect.renewal,
            });
        }
    }

    /// The shard has put the connection at `place` of the channel's list, or has moved it there.
    pub fn placed(&mut self, channel: ChannelIndex, place: u32) {
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

    /// Who this client is to others.
    pub fn info(&self, client: String, channel: Option<ChannelIndex>) -> ClientInfo {
        let identity = self.identity.as_deref();
        ClientInfo {
            user: self.user().cloned().unwrap_or_else(|| "".into()),
            client,
            conn_info: identity.and_then(|identity| identity.conn_info.clone()),
            chan_info: channel.and_then(|channel| self.extra(channel)?.chan_info.clone()),
        }
    }

    /// The client has the place that [`Effect::TakePlace`] asked for.
    pub fn handle_placed(&mut self, cx: &mut Context<'_>) {
        let Some(Waits::Joins(connecting)) = self.waits_mut() else { return };
        let Some(subscribes) = connecting.behind_place.take() else { return };
        if subscribes.is_empty() {
            return self.finish_connecting(cx);
        }
        cx.effects.extend(subscribes.into_iter().map(Effect::Subscribe));
    }

    // --- answers of channel owners

    /// A join of this session has been answered.
    pub fn handle_joined(
        &mut self,
        channel: ChannelIndex,
        name: &ChannelName,
        answer: JoinAnswer,
        cx: &mut Context<'_>,
    ) -> Result<JoinVerdict, Disconnect> {
        let wanted = self.sub(channel).is_some_and(|sub| sub.is(Sub::PENDING) && sub.place == answer.number);
        let server_side = answer.flags & Sub::SERVER_SIDE != 0;
        let (position, recovered) = match answer.outcome {
            Ok(outcome) => outcome,
            Err(error_code) => {
                if wanted {
                    self.remove(channel);
                }
                // Every channel that the node may remember is in use: no fault of the client, who is to try again.
                let is_full = error_code == ErrorCode::LimitExceeded;
                if !server_side && is_full {
                    let error = ErrorRef { temporary: true, ..error_code.into() };
                    cx.reply(answer.id, &Reply::Error(error));
                    cx.effects.push(Effect::Refused(error_code));
                } else if !server_side {
                    cx.refuse(answer.id, error_code);
                } else if wanted && is_full && (!self.is_connected() || answer.flags & Sub::BY_TOKEN != 0) {
                    // Let in without, or refreshed without, it would miss what it relies on and never learn of it.
                    return Err(Disconnect::SERVER_ERROR);
                } else if wanted {
                    self.server_side_answered(None, cx)?;
                }
                return Ok(JoinVerdict::Refused);
            }
        };
        if answer.reject_unrecovered && matches!(recovered, Some(None)) {
            cx.refuse(answer.id, ErrorCode::UnrecoverablePosition);
            return Ok(match wanted {
                true => {
                    self.remove(channel);
                    JoinVerdict::Leave
                }
                false => JoinVerdict::Ignore,
            });
        }
        let subscribed = Subscribed {
            flags: answer.flags,
            position,
            recovery: recovered
                .map(|publications| (answer.since.map_or(Offset(0), |since| since.offset), publications)),
            expire_at_s: self.extra(channel).map_or(0, |extra| extra.renewal.shown_expiry(extra.expire_at_s)),
            data: answer.data,
        };
        if !server_side {
            // An unsubscribed one is answered as well: its command gets the reply that it would have got in time.
            subscribed.with_result(cx.unix_s, |result| cx.reply(answer.id, &Reply::Subscribe(result)));
        } else if wanted {
            self.server_side_answered(Some((name.clone(), subscribed)), cx)?;
        }
        Ok(match wanted {
            true => JoinVerdict::Subscribe { join_leaves: answer.flags & Sub::NOTICES != 0 },
            false => JoinVerdict::Ignore,
        })
    }

    fn server_side_answered(
        &mut self,
        subscribed: Option<(ChannelName, Subscribed)>,
        cx: &mut Context<'_>,
    ) -> Result<(), Disconnect> {
        let Some(Waits::Joins(connecting)) = self.waits_mut() else {
            // Subscribed by the server API in the middle of a connection's life.
            if let Some((name, subscribed)) = subscribed {
                subscribed.push(&name, cx);
            }
            return Ok(());
        };
        connecting.outstanding -= 1;
        connecting.done.extend(subscribed);
        if connecting.outstanding == 0 {
            self.finish_connecting(cx);
        }
        Ok(())
    }

    /// Nothing is waited for any more.
    fn finish_connecting(&mut self, cx: &mut Context<'_>) {
        let Some(Waits::Joins(Connecting { id, done, data, .. })) = self.stop_waiting() else { return };
        self.reply_connected(id, &done, data.as_deref(), cx);
        self.go_on(cx);
    }

    fn reply_connected(
        &mut self,
        id: u32,
        done: &[(ChannelName, Subscribed)],
        data: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) {
        self.phase = Phase::Connected;
        let lifetime = self.told_lifetime(cx.unix_s);
        let client = cx.client.to_string();
        let views: Vec<_> = done.iter().map(|(_, subscribed)| subscribed.views()).collect();
        let subs: Vec<_> = done
            .iter()
            .zip(&views)
            .map(|((name, subscribed), views)| (&**name, subscribed.result(views, cx.unix_s)))
            .collect();
        cx.reply(
            id,
            &Reply::Connect(ConnectResult {
                client: &client,
                version: cx.version,
                lifetime,
                data,
                subs: &subs,
                ping_s: cx.ping_s,
                pong: true,
                session: "",
                node: "",
            }),
        );
        cx.effects.push(Effect::Connected);
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
    pub fn refreshed(&mut self, expire_at_s: u64, info: Option<Bytes>, cx: &mut Context<'_>) {
        if expire_at_s != 0 || info.is_some() || self.identity.is_some() {
            let identity = self.identity.get_or_insert_default();
            identity.expire_at_s = expire_at_s;
            if let Renewal::Hook { ask_at_s } = &mut identity.renewal {
                *ask_at_s = if cx.world.hooks().refresh && expire_at_s != 0 { expire_at_s } else { NEVER_S };
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
    fn told_lifetime(&self, unix_s: u64) -> Lifetime {
        let expire_at_s =
            self.identity.as_ref().map_or(0, |identity| identity.renewal.shown_expiry(identity.expire_at_s));
        lifetime(expire_at_s, unix_s)
    }

    /// What the connect's request was opened with, as far as the backend gets to see it.
    pub fn headers(&self) -> Option<&Arc<Headers>> {
        self.extras.as_ref()?.headers.as_ref()
    }

    pub fn meta(&self) -> Option<&Bytes> {
        self.identity.as_ref()?.meta.as_ref()
    }

    /// The next command is held until something has been answered.
    pub fn is_waiting(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.waits.is_some())
    }

    fn waits_mut(&mut self) -> Option<&mut Waits> {
        self.extras.as_mut()?.waits.as_deref_mut()
    }

    fn stop_waiting(&mut self) -> Option<Waits> {
        let waits = self.extras.as_mut()?.waits.take();
        self.trim();
        waits.map(|waits| *waits)
    }

    /// Gives up what holds nothing.
    fn trim(&mut self) {
        if self.extras.as_ref().is_some_and(|extras| {
            extras.waits.is_none()
                && extras.held.is_none()
                && extras.subs.is_empty()
                && extras.headers.is_none()
                && extras.shown.is_none()
        }) {
            self.extras = None;
        }
    }

    fn extra(&self, channel: ChannelIndex) -> Option<&SubExtra> {
        self.extras.as_ref()?.subs.iter().find(|extra| extra.channel == channel)
    }

    fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

impl Subscribed {
    fn views(&self) -> Vec<PublicationRef<'_>> {
        match &self.recovery {
            Some((_, Some(publications))) => {
                publications.iter().map(|publication| view(publication)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn with_result(&self, unix_s: u64, then: impl FnOnce(SubscribeResult<'_>)) {
        then(self.result(&self.views(), unix_s));
    }

    fn result<'a>(&'a self, views: &'a [PublicationRef<'a>], unix_s: u64) -> SubscribeResult<'a> {
        let positioned = self.flags & (Sub::POSITIONED | Sub::RECOVERABLE) != 0;
        let offset = match &self.recovery {
            // The client counts on from where it was; the list brings it to the top.
            Some((asked, Some(_))) => *asked,
            _ => self.position.offset,
        };
        SubscribeResult {
            lifetime: lifetime(self.expire_at_s, unix_s),
            recoverable: self.flags & Sub::RECOVERABLE != 0,
            epoch: positioned.then_some(self.position.epoch),
            publications: views,
            recovered: matches!(self.recovery, Some((_, Some(_)))),
            offset: if positioned { offset } else { Offset(0) },
            positioned,
            data: self.data.as_deref(),
            was_recovering: self.recovery.is_some(),
            delta: false,
        }
    }

    fn push(&self, name: &str, cx: &mut Context<'_>) {
        let views = self.views();
        let result = self.result(&views, cx.unix_s);
        cx.push(
            name,
            &Push::Subscribe(SubscribePush {
                recoverable: result.recoverable,
                epoch: result.epoch,
                offset: result.offset,
                positioned: result.positioned,
                data: result.data,
            }),
        );
        for publication in views {
            cx.push(name, &Push::Publication(publication));
        }
    }
}

/// A publication as the codec wants it.
pub fn view(publication: &Publication) -> PublicationRef<'_> {
    PublicationRef {
        data: &publication.data,
        offset: publication.offset(),
        info: publication.info.as_ref().map(info_view),
        tags: &publication.tags,
        delta: false,
        time_ms: 0,
    }
}

/// A client's info as the codec wants it.
pub fn info_view(info: &ClientInfo) -> ClientInfoRef<'_> {
    ClientInfoRef {
        user: &info.user,
        client: &info.client,
        conn_info: info.conn_info.as_deref(),
        chan_info: info.chan_info.as_deref(),
    }
}

/// Seconds left until `expire_at_s`, at least one so that a client asks again rather than never.
fn lifetime(expire_at_s: u64, unix_s: u64) -> Lifetime {
    match expire_at_s {
        0 => Lifetime { expires: false, ttl_s: 0 },
        at => Lifetime {
            expires: true,
            ttl_s: u32::try_from(at.saturating_sub(unix_s)).unwrap_or(u32::MAX).max(1),
        },
    }
}
