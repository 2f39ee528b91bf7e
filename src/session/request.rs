//! A request of a unidirectional client, read from its head alone: what it asks for, and whether it may.
//!
//! Inputs: a head, what the backend has said about it so far, the session environment. Outputs: a request that may be
//! carried out, a problem to answer with, or a hook call to make first. Must not know: connections, what is done with the
//! request.

use crate::base::deliver_every::DeliverEvery;
use crate::base::fault::ErrorCode;
use crate::base::filter::Filter;
use crate::base::ids::ChannelName;
use crate::base::publication::{PayloadForm, Visibility};
use crate::base::rewind::Rewind;
use crate::proto::encoding::Encoding;
use crate::proto::http1::{HttpVersion, RequestHead};
use crate::proto::unidirectional::answer;
use crate::proto::unidirectional::notes::is_callback;
use crate::proto::unidirectional::position::{POSITION_CHANNELS_MAX, Positions};
use crate::proto::unidirectional::problem::Problem;
use crate::proto::unidirectional::query;
use crate::session::hook_call::{Granted, HookRequest};
use crate::session::permissions::Deed;
use crate::session::request_token::{origin_tag, reads_fields, shown};
use crate::session::token::{Flaw, SubscribeGrant, TokenFault};
use crate::session::unidirectional::{self, AskedChannel, Mode, UnidirectionalAdmission};
use crate::session::{Identity, SessionEnvironment, rights};

/// How long a poll is held when nothing comes: proxies give up after 60 s as a rule.
pub const HOLD_MS: u32 = 45_000;
/// Messages of one answer when the request does not say.
const LIMIT: u16 = 100;
/// Most messages of one answer: what a channel's owner reads at once.
const LIMIT_MAX: u16 = 300;

/// A path of this surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Sse,
    Poll,
    History,
    Stream,
    WebSocket,
    Publish,
}

impl Endpoint {
    pub fn of(path: &str) -> Option<Endpoint> {
        Some(match path {
            "/sse" => Endpoint::Sse,
            "/poll" => Endpoint::Poll,
            "/history" => Endpoint::History,
            "/stream" => Endpoint::Stream,
            "/ws" => Endpoint::WebSocket,
            "/publish" => Endpoint::Publish,
            _ => return None,
        })
    }

    /// For `Allow` (RFC 9110 section 10.2.1).
    pub fn methods(self) -> &'static [u8] {
        match self {
            Endpoint::Publish => b"POST, OPTIONS",
            Endpoint::WebSocket => b"GET, OPTIONS",
            _ => b"GET, HEAD, OPTIONS",
        }
    }

    pub fn allows(self, method: &str) -> bool {
        match self {
            Endpoint::Publish => method == "POST",
            Endpoint::WebSocket => method == "GET",
            _ => matches!(method, "GET" | "HEAD"),
        }
    }
}

impl Endpoint {
    /// As backends know it.
    pub fn transport(self) -> &'static str {
        match self {
            Endpoint::Sse => "sse",
            Endpoint::Poll => "long_poll",
            Endpoint::History => "history",
            Endpoint::Stream => "http_stream",
            Endpoint::WebSocket => "uni_websocket",
            Endpoint::Publish => "publish",
        }
    }

    /// It leads to a stream, which ends when its peer does.
    pub fn streams(self) -> bool {
        matches!(self, Endpoint::Sse | Endpoint::Stream | Endpoint::WebSocket)
    }
}

/// What the backend has said about a request so far. A request is judged again after each of its answers.
#[derive(Default)]
pub struct RequestSaid {
    /// Who it is, in place of a token.
    pub admission: Option<UnidirectionalAdmission>,
    /// Channels that it was asked about; `None`: there is no telling, and what the namespace allows without a hook
    /// goes.
    pub channels: Vec<(ChannelName, Option<Granted>)>,
}

impl RequestSaid {
    fn about(&self, channel: &str) -> Option<Option<&Granted>> {
        let (_, granted) = self.channels.iter().find(|(known, _)| **known == *channel)?;
        Some(granted.as_ref())
    }
}

/// Why a request is not carried out.
pub enum Stop {
    /// It never will be; with the token that was the reason.
    Refused(Problem, Option<TokenFault>),
    /// The backend must be asked first. As whom, is known by then but for a connect.
    CallHook(HookRequest, Option<Box<Identity>>),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Refused(problem, None)
    }
}

impl From<ErrorCode> for Stop {
    fn from(error_code: ErrorCode) -> Stop {
        Problem::from(error_code).into()
    }
}

impl From<TokenFault> for Stop {
    fn from(fault: TokenFault) -> Stop {
        let problem = match fault {
            TokenFault::Invalid(_) => Problem::new(ErrorCode::Unauthorized, fault.text()),
            TokenFault::Expired | TokenFault::Over => Problem::new(ErrorCode::TokenExpired, fault.text()),
            TokenFault::NotYetValid | TokenFault::KeyAwaited => {
                Problem { status: 503, error_code: ErrorCode::Internal, detail: fault.text() }
            }
        };
        Stop::Refused(problem, Some(fault))
    }
}

/// A request that may be carried out.
pub struct UnidirectionalRequest {
    pub endpoint: Endpoint,
    pub mode: Mode,
    pub admission: UnidirectionalAdmission,
    pub channels: Vec<AskedChannel>,
    pub limit: u16,
    pub hold_ms: u32,
    pub reverse: bool,
    /// Of history: only what was published at or after this, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// The function that an iframe's page calls.
    pub callback: Option<Box<str>>,
    pub if_none_match: Option<Box<str>>,
    pub idempotency_key: Option<Box<str>>,
}

/// The query, before anything of it is believed.
#[derive(Default)]
struct Query {
    channels: Vec<ChannelName>,
    position: Option<String>,
    last_event_id: Option<String>,
    subscription_tokens: Vec<String>,
    limit: Option<u16>,
    hold_ms: Option<u32>,
    reverse: bool,
    since_ms: Option<u64>,
    rewind: Option<Rewind>,
    deliver_every: DeliverEvery,
    bare: bool,
    callback: Option<Box<str>>,
    filter: Option<Filter>,
}

/// Reads and judges a request. `cookies`: a token may come from one.
///
/// # Errors
/// The problem to answer with: what is malformed, who is not known, what is not allowed.
pub fn read(
    endpoint: Endpoint,
    head: &RequestHead<'_>,
    said: &RequestSaid,
    environment: &dyn SessionEnvironment,
    cookies: bool,
    unix_s: u64,
) -> Result<UnidirectionalRequest, Stop> {
    let mut query = read_query(head.query.unwrap_or_default(), environment.channels_max())?;
    let if_none_match = head.header_str("If-None-Match").map(Box::from);
    // What is malformed is refused before the backend hears of it.
    let positions = match position_text(endpoint, head, &query, if_none_match.as_deref()) {
        None => Positions::default(),
        Some(text) => match Positions::parse(&text) {
            Ok(positions) => positions,
            // A log is asked for: what was meant must be said. A unidirectional client that comes back with a position
            // of another server, or of another version of it, would be ended for good by a refusal.
            Err(_) if endpoint == Endpoint::History => {
                return Err(Problem::bad_request("malformed position").into());
            }
            Err(_) => Positions::foreign(),
        },
    };
    check_times(endpoint, &query, positions.is_empty())?;
    let admission = match admit(head, cookies, environment, unix_s)? {
        Some(admission) => Some(admission),
        None if environment.hooks().connect => said.admission.clone(),
        None if environment.allows_anonymous() => Some(UnidirectionalAdmission::default()),
        None => return Err(Problem::new(ErrorCode::Unauthorized, "no token").into()),
    };
    let Some(mut admission) = admission else {
        let hook_request = HookRequest::Connect {
            data: None,
            name: Box::default(),
            version: Box::default(),
            channels: query.channels,
        };
        return Err(Stop::CallHook(hook_request, None));
    };
    if let Some(origin) = origin_tag(head) {
        admission.identity.get_or_insert_default().origin = Some(Box::new(origin.into()));
    }
    if rights::is_blocked(environment, user_of(admission.identity.as_deref()), unix_s) {
        return Err(Problem::new(ErrorCode::PermissionDenied, "the user is blocked").into());
    }
    for own in rights::own_channels(user_of(admission.identity.as_deref()), environment).into_iter().flatten()
    {
        if admission.grant(&own).is_none() {
            admission.granted.push((own, SubscribeGrant::default()));
        }
    }
    subscription_tokens(&mut query, &mut admission, environment, unix_s)?;
    if query.channels.is_empty() && !matches!(endpoint, Endpoint::Publish) {
        query.channels = admission.granted.iter().map(|(channel, _)| channel.clone()).collect();
        if query.channels.len() > environment.channels_max().min(POSITION_CHANNELS_MAX) {
            return Err(TOO_MANY_CHANNELS.into());
        }
    }
    // Plain WebSocket may subscribe later.
    if query.channels.is_empty() && endpoint != Endpoint::WebSocket {
        return Err(Problem::bad_request("no channel").into());
    }
    if endpoint == Endpoint::Publish && query.channels.len() != 1 {
        return Err(Problem::bad_request("one channel is published to").into());
    }
    let since = match unidirectional::since(&query.channels, &positions) {
        Ok(since) => since,
        Err(_) if endpoint == Endpoint::History => {
            return Err(Problem::bad_request("position of other channels").into());
        }
        Err(_) => vec![Some(unidirectional::LOST); query.channels.len()],
    };
    let mut channels = Vec::with_capacity(query.channels.len());
    let filter = query.filter.filter(|_| endpoint != Endpoint::Publish);
    for (name, since) in query.channels.into_iter().zip(since) {
        let (recoverable, shown) = check_rights(endpoint, &name, &admission, said, environment)?;
        if filter.is_some() && !environment.rights(&name)?.tags_filter {
            return Err(Problem::bad_request("the channel cannot be filtered by tags").into());
        }
        let mut asked = AskedChannel::new(name, since, recoverable, shown);
        let (mut imposed, mut rewind) = (None, None);
        if let Some(grant) = admission.grant(&asked.name) {
            asked.chan_info.clone_from(&grant.info);
            imposed.clone_from(&grant.filter);
            rewind = grant.rewind;
            asked.deliver_every = grant.deliver_every;
        } else if let Some(Some(granted)) = said.about(&asked.name) {
            asked.chan_info.clone_from(&granted.grant.info);
            imposed.clone_from(&granted.grant.filter);
            rewind = granted.grant.rewind;
            asked.deliver_every = granted.grant.deliver_every;
            ends_with(&mut admission, granted.expire_at_s);
        }
        asked.filters = rights::filters(filter.clone(), imposed);
        // A client may ask for less than it could have, and not for more.
        asked.deliver_every = asked.deliver_every.max(query.deliver_every);
        if !matches!(endpoint, Endpoint::History | Endpoint::Publish) {
            let rights = environment.rights(&asked.name)?;
            if query.rewind.is_some_and(|rewind| rewind.since(unix_s).is_some()) && !recoverable {
                return Err(match rights.keeps_history {
                    true => Problem::from(ErrorCode::PermissionDenied).into(),
                    false => Problem::new(ErrorCode::NotAvailable, "the channel keeps no history").into(),
                });
            }
            let rewind = query.rewind.or(rewind).or(rights.rewind).filter(|_| rights.keeps_history);
            asked.rewind = rewind.and_then(|rewind| rewind.since(unix_s));
        }
        channels.push(asked);
    }
    let mode = match endpoint {
        Endpoint::Sse if head.version == HttpVersion::Http10 => Mode::Stream(Encoding::SsePlain),
        Endpoint::Sse => Mode::Stream(Encoding::Sse),
        Endpoint::Stream if query.callback.is_some() => Mode::Stream(Encoding::Iframe),
        Endpoint::Stream => Mode::Stream(Encoding::JsonLines),
        Endpoint::WebSocket if query.bare => Mode::Stream(Encoding::WebSocketBare),
        Endpoint::WebSocket => Mode::Stream(Encoding::WebSocketJson),
        Endpoint::Poll => Mode::Poll,
        Endpoint::History => Mode::History,
        Endpoint::Publish => Mode::Publish,
    };
    let idempotency_key = match head.header("Idempotency-Key") {
        // Its length is the owner's to judge.
        Some(key) if endpoint == Endpoint::Publish => {
            let key =
                std::str::from_utf8(key).map_err(|_| Problem::bad_request("malformed Idempotency-Key"))?;
            Some(key.into())
        }
        _ => None,
    };
    Ok(UnidirectionalRequest {
        endpoint,
        mode,
        admission,
        channels,
        limit: query.limit.unwrap_or(LIMIT).min(LIMIT_MAX),
        hold_ms: if head.method == "HEAD" { 0 } else { query.hold_ms.unwrap_or(HOLD_MS).min(HOLD_MS) },
        reverse: query.reverse,
        since_ms: query.since_ms,
        callback: query.callback,
        if_none_match,
        idempotency_key,
    })
}

/// A time is of a read of the log, a rewind of a subscription, and a position says where to begin by itself.
fn check_times(endpoint: Endpoint, query: &Query, without_position: bool) -> Result<(), Problem> {
    match endpoint {
        Endpoint::History if query.rewind.is_some() => Err(Problem::bad_request(
            "rewind is for subscriptions: here it is limit and reverse, or since_ms",
        )),
        Endpoint::History if query.since_ms.is_some() && !without_position => {
            Err(Problem::bad_request("a position and since_ms: only one of them can hold"))
        }
        Endpoint::History => Ok(()),
        _ if query.since_ms.is_some() => {
            Err(Problem::bad_request("since_ms is for /history: a subscription has rewind"))
        }
        Endpoint::Publish if query.rewind.is_some() => {
            Err(Problem::bad_request("rewind is for subscriptions"))
        }
        _ => Ok(()),
    }
}

const TOO_MANY_CHANNELS: Problem =
    Problem { status: 400, error_code: ErrorCode::LimitExceeded, detail: "too many channels" };

/// The parameters of this surface; a token is looked for by [`shown`].
const OWN_PARAMETERS: [&str; 13] = [
    "channel",
    "position",
    "since",
    "since_ms",
    "rewind",
    "deliver_every",
    "subscription_token",
    "limit",
    "wait",
    "reverse",
    "bare",
    "callback",
    "tf",
];

fn read_query(text: &[u8], channels_max: usize) -> Result<Query, Problem> {
    let mut query = Query::default();
    for pair in query::pairs(text) {
        let (name, value) = pair;
        if is_last_event_id(&name) {
            // Whatever it is: one that cannot be read is one of another server.
            if value.as_deref() != Some("") {
                query.last_event_id = Some(value.unwrap_or("%".into()).into_owned());
            }
            continue;
        }
        if !OWN_PARAMETERS.contains(&&*name) {
            // Somebody else's, in whatever coding: proxies and pages add their own.
            continue;
        }
        let value = value.ok_or(Problem::bad_request("malformed query"))?;
        match &*name {
            "channel" => {
                // A channel named twice is read once.
                if query.channels.iter().any(|known| **known == *value) {
                    continue;
                }
                if query.channels.len() == channels_max.min(POSITION_CHANNELS_MAX) {
                    return Err(TOO_MANY_CHANNELS);
                }
                query.channels.push((*value).into());
            }
            "position" | "since" if !value.is_empty() => query.position = Some(value.into_owned()),
            "subscription_token" if !value.is_empty() => {
                if query.subscription_tokens.len() == channels_max.min(POSITION_CHANNELS_MAX) {
                    return Err(TOO_MANY_CHANNELS);
                }
                query.subscription_tokens.push(value.into_owned());
            }
            "tf" if !value.is_empty() => {
                query.filter = Some(Filter::parse(&value).map_err(|fault| Problem::bad_request(fault.0))?);
            }
            "limit" => {
                let limit = value.parse::<u32>().map_err(|_| Problem::bad_request("malformed limit"))?;
                query.limit = Some(u16::try_from(limit).unwrap_or(u16::MAX));
            }
            "wait" => {
                let wait = value.parse::<u32>().map_err(|_| Problem::bad_request("malformed wait"))?;
                query.hold_ms = Some(wait.saturating_mul(1000));
            }
            "since_ms" => {
                let since_ms = value.parse().map_err(|_| Problem::bad_request("malformed since_ms"))?;
                query.since_ms = Some(since_ms);
            }
            "rewind" if !value.is_empty() => {
                query.rewind = Some(Rewind::parse(&value).map_err(Problem::bad_request)?);
            }
            "deliver_every" if !value.is_empty() => {
                query.deliver_every = DeliverEvery::parse(&value).map_err(Problem::bad_request)?;
            }
            "reverse" => query.reverse = flag(&value)?,
            "bare" => query.bare = flag(&value)?,
            "callback" => {
                if !is_callback(&value) {
                    return Err(Problem::bad_request("callback is not a name"));
                }
                query.callback = Some((*value).into());
            }
            _ => {}
        }
    }
    Ok(query)
}

/// Whether a parameter is the last id of an event stream, in the spelling of some client that cannot set the header:
/// `lastEventId` (npm event-source-polyfill, reconnecting-eventsource), `evs_last_event_id` (AmvTek's EventSource
/// polyfill), `Last-Event-ID`, `lastEventID` (clients of Mercure hubs) and the like.
fn is_last_event_id(name: &str) -> bool {
    let mut letters =
        name.bytes().filter(|byte| !matches!(byte, b'-' | b'_')).map(|byte| byte.to_ascii_lowercase());
    name.len() <= 24 && {
        let letters: smallvec::SmallVec<[u8; 24]> = letters.by_ref().collect();
        matches!(&letters[..], b"lasteventid" | b"evslasteventid")
    }
}

fn flag(value: &str) -> Result<bool, Problem> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Problem::bad_request("a flag is true or false")),
    }
}

/// The position that the request goes on from. A browser that reconnects an event stream repeats the first request's
/// query and adds the header: the header is newer. A poll's cache does the same with its tag, when the query has none.
fn position_text<'a>(
    endpoint: Endpoint,
    head: &RequestHead<'a>,
    query: &'a Query,
    if_none_match: Option<&'a str>,
) -> Option<std::borrow::Cow<'a, str>> {
    match endpoint {
        Endpoint::Publish => return None,
        Endpoint::Sse => {
            if let Some(last) = head.fields().all("Last-Event-ID").find(|last| !last.is_empty()) {
                return Some(String::from_utf8_lossy(last));
            }
            if let Some(last) = &query.last_event_id {
                return Some(last.into());
            }
        }
        _ => {}
    }
    if let Some(position) = &query.position {
        return Some(position.into());
    }
    let tag = answer::tags(if_none_match.filter(|_| endpoint == Endpoint::Poll)?);
    // A tag of somebody else's is no position, and matches nothing.
    tag.into_iter().find(|tag| Positions::parse(tag).is_ok()).map(Into::into)
}

/// What the unidirectional client was granted ends at `expire_at_s` (0: never), and the unidirectional client with it:
/// it comes back, and is judged again.
pub fn ends_with(admission: &mut UnidirectionalAdmission, expire_at_s: u64) {
    if expire_at_s != 0 {
        let identity = admission.identity.get_or_insert_default();
        identity.expire_at_s = match identity.expire_at_s {
            0 => expire_at_s,
            own => own.min(expire_at_s),
        };
    }
}

/// Who asks: by the header, the query or the cookie, in this order. `None`: the request shows no token.
fn admit(
    head: &RequestHead<'_>,
    cookies: bool,
    environment: &dyn SessionEnvironment,
    unix_s: u64,
) -> Result<Option<UnidirectionalAdmission>, Stop> {
    let Some(token) = shown(head, reads_fields(environment), cookies) else { return Ok(None) };
    let Some(verifier) = environment.verifier() else {
        return Err(Problem::new(ErrorCode::Unauthorized, "no token is accepted here").into());
    };
    let claims = verifier.verify_connect(&token, unix_s)?;
    rights::not_revoked(environment, claims.id.as_deref(), &claims.user, claims.issued_at_s, unix_s)?;
    rights::fit_device(environment, &claims)?;
    let identity = Identity {
        token_id: claims.id.map(|id| Box::new(id.into())),
        device: claims.device.map(|device| Box::new(device.into())),
        user: (!claims.user.is_empty()).then(|| claims.user.as_str().into()),
        conn_info: claims.info,
        meta: claims.meta.map(Box::new),
        expire_at_s: claims.expire_at_s.unwrap_or(0),
        ..Identity::default()
    };
    let known = identity != Identity::default();
    Ok(Some(UnidirectionalAdmission {
        identity: known.then(|| Box::new(identity)),
        granted: claims.subs.into_iter().map(|(channel, grant)| (channel.into(), grant)).collect(),
    }))
}

/// Adds the channels of the request's subscription tokens to those that it names and to those that it may have. What
/// the unidirectional client gets ends with the first of its tokens.
fn subscription_tokens(
    query: &mut Query,
    admission: &mut UnidirectionalAdmission,
    environment: &dyn SessionEnvironment,
    unix_s: u64,
) -> Result<(), Stop> {
    for token in std::mem::take(&mut query.subscription_tokens) {
        let refused = || Problem::new(ErrorCode::Unauthorized, "no token is accepted here");
        let claims = environment.verifier().ok_or_else(refused)?.verify_subscribe(&token, unix_s)?;
        rights::not_revoked(environment, claims.id.as_deref(), &claims.user, claims.issued_at_s, unix_s)?;
        if claims.user != user_of(admission.identity.as_deref()) {
            return Err(TokenFault::from(Flaw::OtherUser).into());
        }
        // Who reads this way has an id of its own for each request.
        if !claims.client.is_empty() {
            return Err(TokenFault::from(Flaw::OtherClient).into());
        }
        let until_s = claims.expire_at_s.unwrap_or(0);
        if rights::of_user(environment, &claims.channel, &claims.user)?.listed == Some(false) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let channel = ChannelName::from(claims.channel);
        ends_with(admission, until_s);
        if !query.channels.contains(&channel) {
            if query.channels.len() == environment.channels_max().min(POSITION_CHANNELS_MAX) {
                return Err(TOO_MANY_CHANNELS.into());
            }
            query.channels.push(channel.clone());
        }
        admission.granted.retain(|(granted, _)| *granted != channel);
        admission.granted.push((channel, claims.grant));
    }
    Ok(())
}

/// Empty for somebody unknown.
pub fn user_of(identity: Option<&Identity>) -> &str {
    identity.and_then(|identity| identity.user.as_deref()).unwrap_or("")
}

/// Whether the request may have the channel: `true` when it may also have what it missed there, and how others see it.
fn check_rights(
    endpoint: Endpoint,
    channel: &str,
    admission: &UnidirectionalAdmission,
    said: &RequestSaid,
    environment: &dyn SessionEnvironment,
) -> Result<(bool, Visibility), Stop> {
    let mut rights = rights::of_user(environment, channel, user_of(admission.identity.as_deref()))?;
    let grant = admission.grant(channel);
    if rights.payload == PayloadForm::Bytes && endpoint != Endpoint::Publish {
        return Err(Problem::new(ErrorCode::NotAvailable, "the channel's payloads are bytes").into());
    }
    // What does not depend on being a subscriber needs no check of that.
    let matters = match endpoint {
        Endpoint::History => rights.keeps_history && rights.is_for_subscribers(Deed::ReadHistory),
        Endpoint::Publish => !rights.publish_hook && rights.is_for_subscribers(Deed::Publish),
        _ => true,
    };
    let subscribe = match said.about(channel) {
        _ if grant.is_some() => true,
        Some(Some(_)) => true,
        None if rights.subscribe_hook && matters => {
            let hook_request =
                HookRequest::Subscribe { channel: channel.into(), token: Box::default(), data: None };
            return Err(Stop::CallHook(hook_request, admission.identity.clone()));
        }
        Some(None) | None => rights.may(Deed::Subscribe, false),
    };
    let hooked = said.about(channel).flatten().map(|granted| &granted.grant);
    if let Some(grant) = grant.or(hooked) {
        rights = rights::overridden(rights, &grant.overrides);
    }
    // A right of subscribers belongs to all who may subscribe: they need only one more request for it.
    let (allowed, recoverable) = match endpoint {
        Endpoint::History => {
            if !rights.keeps_history {
                return Err(Problem::new(ErrorCode::NotAvailable, "the channel keeps no history").into());
            }
            (rights.may(Deed::ReadHistory, subscribe), true)
        }
        // With a hook, it is the body that is asked about.
        Endpoint::Publish => {
            (rights.asks_about_publishing(subscribe) || rights.may(Deed::Publish, subscribe), false)
        }
        _ => (subscribe, rights.keeps_history && (rights.recovery || rights.force_recovery)),
    };
    match allowed {
        true => Ok((recoverable, rights.visibility())),
        false => Err(Problem::from(ErrorCode::PermissionDenied).into()),
    }
}

/// Whether the channel may be subscribed to by a unidirectional client whose request has been admitted already as
/// `user`, and how others see it there.
///
/// # Errors
/// As the channel's own problem.
pub fn may_subscribe(
    channel: &str,
    user: &str,
    environment: &dyn SessionEnvironment,
) -> Result<Visibility, ErrorCode> {
    let rights = rights::of_user(environment, channel, user)?;
    if rights.payload == PayloadForm::Bytes {
        return Err(ErrorCode::NotAvailable);
    }
    // A stream that flows has nobody who would hold it while the backend is asked.
    match rights.may(Deed::Subscribe, false) && !rights.subscribe_hook {
        true => Ok(rights.visibility()),
        false => Err(ErrorCode::PermissionDenied),
    }
}
