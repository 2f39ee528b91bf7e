//! What a session asks the backend, and what the answers do.
//!
//! ```text
//!  ask ─Effect::CallHook▶ (shard: set_waiting) ──▶ handle_answer ──▶ go on: what is due, then what was held
//!                          │                            ▲
//!                          └── the connection ends:     └── no answer in time: the shard says so itself
//!                              dropped, which cancels
//! ```
//! Nothing that was checked before the hook call is taken for granted after it: in between the server may have
//! subscribed, unsubscribed or refreshed the client by its API.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderValue, header::HeaderName};

use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::time::Time;
use crate::proto::centrifuge::reply::{ErrorRef, Reply};
use crate::session::context::{Admitted, Context, Effect, Failure};
use crate::session::hook_call::{
    Answer, ConnectAnswer, Denied, Granted, Headers, HookRequest, RefreshAnswer, SubRefreshAnswer, Waiting,
};
use crate::session::identity::{NEVER_S, Renewal};
use crate::session::permissions::Deed;
use crate::session::rights::{self, subscribe_to};
use crate::session::state::{Session, SessionPhase, SubExtra};
use crate::session::subscription::ChannelIndex;
use crate::session::waits::{About, AwaitedCall, NO_CHANNEL, Waits};

/// Most bytes of header fields that one connection keeps for the backend, names and values: what common HTTP servers
/// take of a whole request head.
pub const HEADERS_BYTES_MAX: usize = 8 * 1024;
/// How long a connection or subscription goes on whose hook is to let in what it cannot judge, seconds: then it is
/// judged again. A minute, as the published server gives when its backend fails.
const LENIENCE_S: u64 = 60;

impl Session {
    pub(super) fn ask(&mut self, about: About, hook_request: HookRequest, cx: &mut Context<'_>) {
        debug_assert!(!self.is_waiting(), "one thing at a time");
        let asked = AwaitedCall {
            about,
            hook_request: hook_request.clone(),
            number: 0,
            until: Time::NEVER,
            _waiting: None,
        };
        self.extras_mut().waits = Some(Box::new(Waits::Answer(asked)));
        cx.effects.push(Effect::CallHook(hook_request));
    }

    /// The shard has put the hook call of the last [`Effect::CallHook`] under `number`. It waits for the answer until `until`.
    pub fn set_waiting(&mut self, number: u32, waiting: Option<Waiting>, until: Time) {
        if let Some(Waits::Answer(asked)) = self.waits_mut() {
            (asked.number, asked.until, asked._waiting) = (number, until, waiting);
        }
    }

    /// Of a session that came from a record with a hook call out, which nobody is going to answer here: puts it once more.
    /// One that may have changed something at the backend is answered as one that cannot be judged.
    ///
    /// # Errors
    /// The connection is to be closed with this.
    pub fn ask_once_more(&mut self, cx: &mut Context<'_>) -> Result<(), Disconnect> {
        let Some(Waits::Answer(asked)) = self.waits_mut() else { return Ok(()) };
        match &asked.hook_request {
            HookRequest::Publish { .. } | HookRequest::Rpc { .. } => {
                let number = asked.number;
                self.handle_answer(number, Err(Denied::Unavailable { let_in: false }), cx).map(drop)
            }
            hook_request => {
                cx.effects.push(Effect::CallHook(hook_request.clone()));
                Ok(())
            }
        }
    }

    /// The hook call that is out, and when the shard gives up on it.
    pub fn awaits(&self) -> Option<(u32, Time)> {
        match self.extras.as_ref()?.waits.as_deref()? {
            Waits::Answer(asked) => Some((asked.number, asked.until)),
            Waits::Joins(_) => None,
        }
    }

    /// The backend has answered the hook call `number`. False when that is not the one that is out.
    ///
    /// # Errors
    /// The connection is to be closed with this.
    pub fn handle_answer(
        &mut self,
        number: u32,
        outcome: Result<Answer, Denied>,
        cx: &mut Context<'_>,
    ) -> Result<bool, Disconnect> {
        if self.awaits().is_none_or(|(awaited, _)| awaited != number) {
            return Ok(false);
        }
        let Some(Waits::Answer(AwaitedCall { about, .. })) = self.stop_waiting() else { return Ok(false) };
        let (id, connects) = (about.id(), matches!(about, About::Connect { .. }));
        let done = match outcome {
            Err(Denied::Disconnect(disconnect)) => return Err(disconnect),
            Err(Denied::Error { code, message, temporary })
                if connects && self.wire.carrier.is_unidirectional() =>
            {
                let error = ErrorRef { code: code.into(), message: &message, temporary };
                return Err(self.turned_away(&error));
            }
            Err(Denied::Error { code, message, temporary }) if id.is_some() => {
                let error = ErrorRef { code: code.into(), message: &message, temporary };
                cx.reply(id.unwrap_or(0), &Reply::Error(error));
                if connects {
                    self.phase = SessionPhase::Refused;
                }
                Ok(())
            }
            outcome => self.answered(about, outcome.map_err(Unknown::from), cx),
        };
        match done {
            Ok(()) => {}
            Err(Failure::Close(disconnect)) => return Err(disconnect),
            Err(Failure::Refuse(error_code)) if connects && self.wire.carrier.is_unidirectional() => {
                cx.effects.push(Effect::Refused(error_code));
                return Err(self.turned_away(&error_code.into()));
            }
            Err(Failure::Refuse(error_code)) => {
                cx.refuse(id.unwrap_or(0), error_code);
                if connects {
                    self.phase = SessionPhase::Refused;
                }
            }
        }
        if self.phase == SessionPhase::Refused {
            // The SDK sent them along with the connect, and sends them again with its next one.
            self.drop_held();
        } else if !self.is_waiting() {
            self.go_on(cx);
        }
        Ok(true)
    }

    fn answered(
        &mut self,
        about: About,
        answer: Result<Answer, Unknown>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        match (about, answer) {
            (About::Connect { id, recover }, answer) => {
                let since = |channel: &str| {
                    recover.iter().find(|(name, _)| **name == *channel).map(|(_, since)| *since)
                };
                let admitted = match answer {
                    Ok(Answer::Connect(answer)) => admitted(*answer, cx)?,
                    // Nobody is let in who could not be without the hook. The client comes back: it has done nothing wrong.
                    Err(Unknown { let_in: true }) if cx.environment.allows_anonymous() => Admitted::default(),
                    _ => return Err(ErrorCode::Internal.into()),
                };
                self.begin(id, admitted, since, cx)
            }
            (About::Subscribe { wish, revoked }, answer) => {
                let rights = self.may_begin(&wish.channel, cx)?;
                let granted = match answer {
                    _ if revoked => return Err(ErrorCode::PermissionDenied.into()),
                    Ok(Answer::Subscribe(granted)) => *granted,
                    Err(Unknown { let_in: true }) if rights.may(Deed::Subscribe, false) => Granted::default(),
                    Err(Unknown { let_in: true }) => return Err(ErrorCode::PermissionDenied.into()),
                    _ => return Err(ErrorCode::Internal.into()),
                };
                not_over(granted.expire_at_s, cx)?;
                let renewal = Renewal::by_hook(granted.expire_at_s, rights.sub_refresh_hook);
                subscribe_to(wish, rights, granted, renewal, cx);
                Ok(())
            }
            (About::Publish { id, channel, data, receipt }, answer) => {
                let (data, changes) = match answer {
                    Ok(Answer::Publish(mut changes)) => {
                        (changes.data.take().unwrap_or(data), Some(Box::new(changes)))
                    }
                    Err(Unknown { let_in: true }) => {
                        let (rights, subscribed) = self.rights(&channel, cx)?;
                        if !rights.may(Deed::Publish, subscribed) {
                            return Err(ErrorCode::PermissionDenied.into());
                        }
                        (data, None)
                    }
                    _ => return Err(ErrorCode::Internal.into()),
                };
                let rights = cx.environment.rights(&channel)?;
                let (form, echoes) = (rights.payload, rights.publisher_gets_own);
                cx.effects.push(Effect::Publish { id, channel, data, form, changes, echoes, receipt });
                Ok(())
            }
            (About::Rpc { id }, answer) => match answer {
                Ok(Answer::Rpc { data }) => {
                    cx.reply(id, &Reply::Rpc(data.as_deref()));
                    Ok(())
                }
                Err(Unknown { let_in: true }) => Err(ErrorCode::NotAvailable.into()),
                _ => Err(ErrorCode::Internal.into()),
            },
            (About::Refresh, answer) => self.refresh_answered(answer, cx),
            (About::SubRefresh { channel }, answer) => {
                self.sub_refresh_answered(channel, answer, cx);
                Ok(())
            }
        }
    }

    // --- what expires

    /// Asks the backend about what has expired, if it is the one to say whether that goes on.
    pub fn ask_what_is_due(&mut self, cx: &mut Context<'_>) {
        if self.phase != SessionPhase::Connected || self.is_waiting() {
            return;
        }
        let due = |renewal: Renewal| renewal.ask_at_s().is_some_and(|at| at <= cx.unix_s);
        if self.identity.as_ref().is_some_and(|identity| due(identity.renewal)) {
            return self.ask(About::Refresh, HookRequest::Refresh, cx);
        }
        let subs = self.extras.iter().flat_map(|extras| &extras.subs);
        let Some(channel) = subs.filter(|extra| due(extra.renewal)).map(|extra| extra.channel).next() else {
            return;
        };
        let name = cx.environment.name(channel);
        self.ask(About::SubRefresh { channel }, HookRequest::SubRefresh { channel: name }, cx);
    }

    /// When [`Session::ask_what_is_due`] has something to do, unix seconds; `None` while it has nothing, or waits.
    pub fn next_ask_s(&self) -> Option<u64> {
        if self.is_waiting() {
            return None;
        }
        let subs = self.extras.iter().flat_map(|extras| &extras.subs).map(|extra| extra.renewal);
        let own = self.identity.iter().map(|identity| identity.renewal);
        own.chain(subs).filter_map(Renewal::ask_at_s).min()
    }

    fn refresh_answered(
        &mut self,
        answer: Result<Answer, Unknown>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let asks = cx.environment.hooks().refresh;
        if rights::is_blocked(cx.environment, self.user().map_or("", |user| user), cx.unix_s) {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        let identity = self.identity.get_or_insert_default();
        cx.effects.push(Effect::ExpiryChanged);
        match answer {
            Ok(Answer::Refresh(RefreshAnswer { expired, expire_at_s, info, meta })) => {
                if expired || is_over(expire_at_s, cx) {
                    return Err(Disconnect::EXPIRED.into());
                }
                identity.expire_at_s = expire_at_s;
                identity.renewal = Renewal::by_hook(expire_at_s, asks);
                if info.is_some() && identity.conn_info != info {
                    identity.conn_info = info;
                    cx.effects.push(Effect::InfoChanged { channel: None });
                }
                identity.meta = meta.map(Box::new).or(identity.meta.take());
            }
            Err(Unknown { let_in: true }) => {
                identity.expire_at_s = cx.unix_s + LENIENCE_S;
                identity.renewal = Renewal::by_hook(identity.expire_at_s, asks);
            }
            // The delay between expiry and the close is the time in which it may still be answered.
            _ => identity.renewal = Renewal::Hook { ask_at_s: cx.unix_s + cx.ask_again_s },
        }
        Ok(())
    }

    fn sub_refresh_answered(
        &mut self,
        channel: ChannelIndex,
        answer: Result<Answer, Unknown>,
        cx: &mut Context<'_>,
    ) {
        let name = self.sub(channel).map(|_| cx.environment.name(channel));
        let asks = name
            .and_then(|name| cx.environment.rights(&name).ok())
            .is_some_and(|rights| rights.sub_refresh_hook);
        let Some(extra) = self.extra_mut(channel) else { return };
        cx.effects.push(Effect::ExpiryChanged);
        match answer {
            Ok(Answer::SubRefresh(SubRefreshAnswer { expired, expire_at_s, info })) => {
                if expired || is_over(expire_at_s, cx) {
                    extra.renewal = Renewal::Hook { ask_at_s: NEVER_S };
                    cx.effects.push(Effect::Unsubscribe { channel, why: Some(Unsubscribed::Expired) });
                    return;
                }
                extra.expire_at_s = expire_at_s;
                extra.renewal = Renewal::by_hook(expire_at_s, asks);
                if info.is_some() && extra.chan_info != info {
                    extra.chan_info = info;
                    cx.effects.push(Effect::InfoChanged { channel: Some(channel) });
                }
            }
            Err(Unknown { let_in: true }) => {
                extra.expire_at_s = cx.unix_s + LENIENCE_S;
                extra.renewal = Renewal::by_hook(extra.expire_at_s, asks);
            }
            _ => extra.renewal = Renewal::Hook { ask_at_s: cx.unix_s + cx.ask_again_s },
        }
    }

    fn extra_mut(&mut self, channel: ChannelIndex) -> Option<&mut SubExtra> {
        self.extras.as_mut()?.subs.iter_mut().find(|extra| extra.channel == channel)
    }

    // --- what the server does meanwhile

    /// The server API has refreshed the connection: what was asked about that is of no interest any more.
    pub(super) fn forget_refresh(&mut self, cx: &mut Context<'_>) {
        if let Some(Waits::Answer(AwaitedCall { about: About::Refresh, .. })) = self.waits_mut() {
            self.stop_waiting();
            self.go_on(cx);
        }
    }

    /// The server API ends the client's subscription to the channel. One that the backend is being asked about must not
    /// begin by an answer that may be older than this.
    pub fn revoke(&mut self, channel: &str) {
        if let Some(Waits::Answer(AwaitedCall { about: About::Subscribe { wish, revoked }, .. })) =
            self.waits_mut()
        {
            *revoked |= *wish.channel == *channel;
        }
    }

    /// The subscription has ended: its number may be that of another channel by the time of an answer about it.
    pub(super) fn forget_sub_refresh(&mut self, channel: ChannelIndex) {
        if let Some(Waits::Answer(AwaitedCall { about: About::SubRefresh { channel: asked }, .. })) =
            self.waits_mut()
            && *asked == channel
        {
            *asked = NO_CHANNEL;
        }
    }

    // --- headers

    /// Takes the header fields that a client which cannot set any sends with its connect. Those of the request itself
    /// are not overwritten: a proxy in between may have set them.
    ///
    /// # Errors
    /// 107 for what could not stand in a request, and for more than [`HEADERS_BYTES_MAX`].
    pub(super) fn take_emulated(
        &mut self,
        headers: Option<Cow<'_, str>>,
        allowed: &[Box<str>],
    ) -> Result<(), ErrorCode> {
        let Some(headers) = headers.filter(|_| !allowed.is_empty()) else { return Ok(()) };
        let given: BTreeMap<Cow<'_, str>, serde_json::Value> =
            serde_json::from_str(&headers).map_err(|_| ErrorCode::BadRequest)?;
        let mut kept: Vec<(Box<str>, Box<[u8]>)> =
            self.headers().map_or_else(Vec::new, |headers| headers.to_vec());
        let of_request = kept.len();
        for (name, value) in given {
            let name = name.to_ascii_lowercase();
            let known = kept.iter().take(of_request).any(|(known, _)| **known == *name);
            if known || !allowed.iter().any(|allowed| **allowed == *name) {
                continue;
            }
            let value = value.as_str().ok_or(ErrorCode::BadRequest)?;
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                return Err(ErrorCode::BadRequest);
            }
            kept.push((name.into(), value.as_bytes().into()));
        }
        if kept.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > HEADERS_BYTES_MAX {
            return Err(ErrorCode::BadRequest);
        }
        if kept.len() > of_request {
            let kept: Arc<Headers> = kept.into();
            self.extras_mut().headers = Some(kept);
        }
        Ok(())
    }
}

/// There is no telling what the backend wants.
struct Unknown {
    let_in: bool,
}

impl From<Denied> for Unknown {
    fn from(denied: Denied) -> Unknown {
        Unknown { let_in: denied == Denied::Unavailable { let_in: true } }
    }
}

/// Whom the connect hook lets in.
fn admitted(answer: ConnectAnswer, cx: &Context<'_>) -> Result<Admitted, ErrorCode> {
    not_over(answer.expire_at_s, cx)?;
    for (_, granted) in &answer.subs {
        not_over(granted.expire_at_s, cx)?;
    }
    Ok(Admitted {
        user: (!answer.user.is_empty()).then(|| answer.user.as_str().into()),
        conn_info: answer.info,
        meta: answer.meta,
        expire_at_s: answer.expire_at_s,
        renewal: Renewal::by_hook(answer.expire_at_s, cx.environment.hooks().refresh),
        subs: answer.subs,
        data: answer.data,
        token_id: None,
        device: answer.device,
    })
}

fn is_over(expire_at_s: u64, cx: &Context<'_>) -> bool {
    expire_at_s != 0 && expire_at_s <= cx.unix_s
}

/// # Errors
/// The temporary 100 for what has ended before it begins: after the published server's 110 an SDK would never come back,
/// for an answer that was late or a clock that is wrong.
fn not_over(expire_at_s: u64, cx: &Context<'_>) -> Result<(), ErrorCode> {
    if is_over(expire_at_s, cx) { Err(ErrorCode::Internal) } else { Ok(()) }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
