//! Tunnels as their backends see them: a client that connects is a hook call, each of its messages a POST, its end a
//! notice; what the backend wants to say by itself it POSTs to `/api/connections/{id}`.
//!
//! Inputs: [`TunnelCall`]s of shards, requests of the API. Outputs: requests to backends, [`TunnelAnswer`]s, orders
//! to shards. Must not know: sockets; what a message means.
//!
//! # On the wire
//! Everything is POSTed to the tunnel's endpoint with `X-Trunkline-Type` (`connect`, `message` or `close`),
//! `X-Trunkline-Tunnel`, `X-Trunkline-Connection`, and `X-Trunkline-User` when the connection has one
//! (percent-encoded: `decodeURIComponent` gives the name).
//! - **connect**: JSON `{type, connection, tunnel, user?, authenticated, data?, query, headers{}, subprotocols[]}`.
//!   2xx lets the client in; its body may be empty or JSON `{user?, subprotocol?, message?}`. 401 and other 4xx refuse
//!   it (401 and 403 go to the client as they are, others as 403). Anything else, or no answer in time: 503.
//! - **message**: the body is the message, `Content-Type` `text/plain; charset=utf-8` or `application/octet-stream`,
//!   with `X-Trunkline-Sequence` from 1. A 2xx with a body is a message for the client: text when its type is
//!   `text/*`, `application/json` or `+json`, else binary. 410 closes the connection (1000), everything else fails it
//!   (1011). One message of a connection is under way at a time. When a connection to the backend fails before any
//!   answer, or the answer is 429 or 503, the same message is POSTed again with the same number, within the timeout.
//! - **close**: JSON `{type, connection, tunnel, user?, code, reason, messages, undelivered}`, behind the last message.
//!   Tried again for three times the timeout until something other than 429 or 5xx answers.

mod backend;
pub mod routes;
mod tickets;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::ids::UserName;
use crate::base::json::object;
use crate::base::time::Time;
use crate::config::TunnelEntry;
use crate::config::reload::PlacedTunnel;
use crate::control::certificate::Certificate;
use crate::control::metrics::TunnelCounts;
use crate::control::tunnel::backend::{Answered, Backend, Patience, TunnelFault};
use crate::control::tunnel::tickets::{Tickets, TunnelTicket};
use crate::record::{RecordFault, TicketsPart};
use crate::session::hook_call::{Cancel, Waiting};
use crate::session::tunnel::{Hello, Payload, TunnelAdmission, TunnelAnswer, TunnelCall, TunnelRequest};
use crate::shard::control_request::{Busy, TunnelReply};
use crate::telemetry::LogLimit;

/// Hook calls of all tunnels that may be under way or wait for their turn. A waiting one weighs about a kilobyte beside
/// its message: 256 MiB. A connection has one at a time.
const QUESTIONS_MAX: u32 = 1 << 18;
/// How many times the tunnel's timeout the backend may take to hear that a connection has ended.
const CLOSE_TIMEOUTS: u32 = 3;
/// Longest user name, in bytes: it goes out with every message.
const USER_BYTES_MAX: usize = 255;

/// By place, with whether clients may connect. Another configuration has another list, with the same places.
pub type Backends = Arc<[(Arc<Backend>, bool)]>;

/// Every tunnel's backend.
pub struct Tunnels {
    /// By the place that shards call them by.
    backends: RwLock<Backends>,
    tickets: Tickets,
    counts: TunnelCounts,
    hook_calls: Arc<Semaphore>,
    log: Mutex<LogLimit>,
    started: Instant,
    answer_bytes_max: usize,
}

/// Dropped when the client has gone: its hook call sees that.
struct Nobody(#[expect(dead_code, reason = "held to be dropped")] oneshot::Sender<Infallible>);

impl Cancel for Nobody {
    fn cancel(self: Box<Self>) {}
}

impl Tunnels {
    /// # Errors
    /// When an endpoint is `https` and this machine has no root certificates.
    pub fn new(
        tunnels: &[TunnelEntry],
        answer_bytes_max: usize,
        counts: TunnelCounts,
    ) -> std::io::Result<Tunnels> {
        let backends = tunnels.iter().map(|tunnel| {
            let backend = Backend::new(tunnel, answer_bytes_max)?;
            Ok((Arc::new(backend), true))
        });
        Ok(Tunnels {
            backends: RwLock::new(backends.collect::<std::io::Result<_>>()?),
            tickets: Tickets::default(),
            counts,
            hook_calls: Arc::new(Semaphore::new(QUESTIONS_MAX as usize)),
            log: Mutex::default(),
            started: Instant::now(),
            answer_bytes_max,
        })
    }

    /// The backends of another configuration: those whose settings are the same stay as they are.
    ///
    /// # Errors
    /// As [`Tunnels::new`].
    pub fn prepare(&self, tunnels: &[PlacedTunnel]) -> std::io::Result<Backends> {
        let old = Arc::clone(&self.backends.read());
        let made = tunnels.iter().enumerate().map(|(place, PlacedTunnel { tunnel, served })| {
            let same = old.get(place).filter(|(backend, _)| backend.settings == *tunnel);
            let backend = match same {
                Some((backend, _)) => Arc::clone(backend),
                None => Arc::new(Backend::new(tunnel, self.answer_bytes_max)?),
            };
            Ok((backend, *served))
        });
        made.collect()
    }

    pub fn exchange(&self, backends: Backends) {
        *self.backends.write() = backends;
    }

    fn backend(&self, place: u16) -> Arc<Backend> {
        Arc::clone(&self.backends.read()[usize::from(place)].0)
    }

    /// The place of the tunnel with that name, if clients may connect to it.
    pub fn place(&self, name: &str) -> Option<u16> {
        let backends = self.backends.read();
        let place = backends.iter().position(|(backend, served)| *served && backend.name == name)?;
        u16::try_from(place).ok()
    }

    /// Asks a backend on the runtime; `reply` gets the answer. For a `Connect` it is cancelled by dropping what is
    /// returned, as long as the backend has not been asked.
    ///
    /// # Errors
    /// [`Busy`] when too many hook calls are under way.
    pub fn ask(
        self: &Arc<Self>,
        handle: &Handle,
        hook_call: TunnelCall,
        reply: TunnelReply,
    ) -> Result<Waiting, Busy> {
        let kind = kind_of(&hook_call.tunnel_request);
        let Ok(permit) = Arc::clone(&self.hook_calls).try_acquire_owned() else {
            self.counts.count(kind, "busy");
            reply.forget();
            return Err(Busy);
        };
        let headers = headers_of(&hook_call, &self.backend(hook_call.tunnel), kind);
        let tunnels = Arc::clone(self);
        let TunnelCall { tunnel: place, client, user, address, tunnel_request } = hook_call;
        Ok(match tunnel_request {
            TunnelRequest::Connect(hello) => {
                let (waiting, gone) = oneshot::channel::<Infallible>();
                handle.spawn(async move {
                    let from = (client.to_string(), address);
                    let answer = tunnels.connect(place, from, *hello, headers, gone).await;
                    drop(permit);
                    match answer {
                        Some(answer) => deliver(reply, answer).await,
                        None => reply.forget(),
                    }
                });
                Waiting::new(Nobody(waiting))
            }
            TunnelRequest::Message { message, .. } => {
                handle.spawn(async move {
                    let answer = tunnels.message(place, message, headers).await;
                    drop(permit);
                    deliver(reply, answer).await;
                });
                // A message that was handed over is not taken back.
                Waiting::for_good()
            }
            TunnelRequest::Close { code, reason, messages, undelivered } => {
                reply.forget();
                handle.spawn(async move {
                    let connection = client.to_string();
                    let tunnel = tunnels.backend(place).name.clone();
                    let user = user.as_deref();
                    let r#type = "close";
                    let body = CloseBody {
                        r#type,
                        connection: &connection,
                        tunnel: &tunnel,
                        user,
                        address,
                        code,
                        reason: &reason,
                        messages,
                        undelivered,
                    };
                    tunnels.close(place, &body, headers).await;
                    drop(permit);
                });
                Waiting::for_good()
            }
        })
    }

    /// Every ticket that was made and not shown.
    pub fn ticket_records(&self) -> Vec<TicketsPart> {
        self.tickets.to_records(&|place| self.backend(place).name.clone().into())
    }

    /// Adds the tickets of another process.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no ticket is.
    pub fn restore_tickets(&self, part: TicketsPart) -> Result<(), RecordFault> {
        self.tickets.restore_part(part, &|name| self.place(name))
    }

    /// Waits until no hook call is under way, at most until `deadline`.
    pub async fn finish(&self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.hook_calls.acquire_many(QUESTIONS_MAX)).await.is_err() {
            tracing::warn!("backends of tunnels did not answer before the end");
        }
        self.hook_calls.close();
    }

    /// `None`: nobody waits for the answer any more.
    async fn connect(
        &self,
        place: u16,
        (connection, address): (String, Option<IpAddr>),
        hello: Hello,
        mut headers: HeaderMap,
        mut gone: oneshot::Receiver<Infallible>,
    ) -> Option<TunnelAnswer> {
        let backend = self.backend(place);
        let backend = &*backend;
        let deadline = Instant::now() + backend.timeout;
        let (shown, query) = tickets::take_from(&hello.query);
        let ticket = match shown.map(|shown| self.tickets.redeem(place, &shown)) {
            None => None,
            Some(Some(ticket)) => Some(ticket),
            Some(None) => {
                self.counts.count("connect", "bad_ticket");
                return Some(TunnelAnswer::Refused { status: 403 });
            }
        };
        let turn = tokio::select! {
            biased;
            _ = &mut gone => {
                self.counts.count("connect", "cancelled");
                self.restore(ticket);
                return None;
            }
            turn = backend.turn(deadline) => turn,
        };
        let user = ticket.as_ref().map(|ticket| &*ticket.user);
        if let Some(user) = user.and_then(header_of) {
            headers.insert(USER, user);
        }
        let body = ConnectBody {
            r#type: "connect",
            connection: &connection,
            tunnel: &backend.name,
            user,
            authenticated: ticket.is_some(),
            data: ticket.as_ref().and_then(|ticket| ticket.data.as_deref()),
            query: &query,
            headers: Pairs(&hello.headers),
            subprotocols: &hello.subprotocols,
            certificate: hello.certificate.as_deref().map(Certificate::of),
            address,
        };
        let answered = match turn {
            Ok(_turn) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let patience = Patience { deadline, each: backend.timeout, server_errors: false };
                backend.post(json(&body), &headers, patience).await
            }
            Err(fault) => Err(fault),
        };
        let admission = answered.and_then(|answered| admission(&answered, backend, &hello));
        Some(match admission {
            Ok(Ok(mut admission)) => {
                self.counts.count("connect", "ok");
                (admission.tunnel, admission.address) = (place, address);
                admission.user = admission.user.or_else(|| ticket.map(|ticket| ticket.user));
                TunnelAnswer::Admitted(Box::new(admission))
            }
            Ok(Err(status)) => {
                self.counts.count("connect", "refused");
                TunnelAnswer::Refused { status }
            }
            Err(fault) => {
                self.counts.count("connect", "failed");
                self.complain("connect", backend, &fault);
                // The client comes back with the same ticket, which nobody has looked at.
                self.restore(ticket);
                TunnelAnswer::Failed
            }
        })
    }

    fn restore(&self, ticket: Option<TunnelTicket>) {
        if let Some(ticket) = ticket {
            self.tickets.restore(ticket);
        }
    }

    async fn message(&self, place: u16, message: Payload, mut headers: HeaderMap) -> TunnelAnswer {
        let backend = self.backend(place);
        let backend = &*backend;
        let kind = if message.text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let deadline = Instant::now() + backend.timeout;
        let answered = match backend.turn(deadline).await {
            Ok(_turn) => {
                let patience = Patience { deadline, each: backend.timeout, server_errors: false };
                backend.post(message.bytes, &headers, patience).await
            }
            Err(fault) => Err(fault),
        };
        let said = answered.and_then(|answered| {
            if answered.status == StatusCode::GONE {
                return Ok(None);
            }
            if !answered.status.is_success() {
                return Err(TunnelFault::Status(answered.status));
            }
            if answered.body.is_empty() {
                return Ok(Some(None));
            }
            payload(answered.kind.as_ref(), answered.body)
                .map(|said| Some(Some(said)))
                .ok_or(TunnelFault::NotText)
        });
        match said {
            Ok(Some(said)) => {
                self.counts.count("message", "ok");
                TunnelAnswer::Said(said)
            }
            Ok(None) => {
                self.counts.count("message", "gone");
                TunnelAnswer::Gone
            }
            Err(fault) => {
                self.counts.count("message", "failed");
                self.complain("message", backend, &fault);
                TunnelAnswer::Failed
            }
        }
    }

    async fn close(&self, place: u16, body: &CloseBody<'_>, mut headers: HeaderMap) {
        let backend = self.backend(place);
        let backend = &*backend;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let deadline = Instant::now() + backend.timeout * CLOSE_TIMEOUTS;
        let answered = match backend.turn(deadline).await {
            Ok(_turn) => {
                let patience = Patience { deadline, each: backend.timeout, server_errors: true };
                backend.post(json(body), &headers, patience).await
            }
            Err(fault) => Err(fault),
        };
        match answered {
            Ok(answered) if answered.status.is_server_error() => {}
            // Whatever else it says: it has heard of it.
            Ok(_) => return self.counts.count("close", "ok"),
            Err(fault) => self.complain("close", backend, &fault),
        }
        self.counts.count("close", "failed");
    }

    /// Once for each cause and minute, whatever a crowd of clients makes happen.
    fn complain(&self, kind: &'static str, backend: &Backend, fault: &TunnelFault) {
        let now = Time::from_millis(self.started.elapsed().as_millis() as u64);
        if let Some(held_back) = self.log.lock().allow(fault.cause(), now) {
            tracing::warn!(
                tunnel = backend.name,
                hook_call = kind,
                held_back,
                "the backend of a tunnel failed: {fault}"
            );
        }
    }
}

const USER: &str = "x-trunkline-user";

/// Brings an answer to its shard. Without end: a connection that is never answered would wait for ever, and a shard
/// that takes no message has ended, or the node with it.
async fn deliver(mut reply: TunnelReply, answer: TunnelAnswer) {
    let mut answer = Some(answer);
    loop {
        reply.send(&mut answer);
        if answer.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn kind_of(tunnel_request: &TunnelRequest) -> &'static str {
    match tunnel_request {
        TunnelRequest::Connect(_) => "connect",
        TunnelRequest::Message { .. } => "message",
        TunnelRequest::Close { .. } => "close",
    }
}

fn headers_of(hook_call: &TunnelCall, backend: &Backend, kind: &'static str) -> HeaderMap {
    let mut headers = backend.headers.clone();
    headers.insert("x-trunkline-type", HeaderValue::from_static(kind));
    let connection = HeaderValue::try_from(hook_call.client.to_string());
    for (name, value) in
        [("x-trunkline-tunnel", header_of(&backend.name)), ("x-trunkline-connection", connection.ok())]
    {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    if let Some(user) = hook_call.user.as_deref().and_then(header_of) {
        headers.insert(USER, user);
    }
    let address = hook_call.address.and_then(|address| header_of(&address.to_string()));
    if let Some(address) = address {
        headers.insert("x-trunkline-address", address);
    }
    if let TunnelRequest::Message { sequence, .. } = hook_call.tunnel_request {
        headers.insert("x-trunkline-sequence", HeaderValue::from(sequence));
    }
    headers
}

/// Percent-encoded where a byte cannot stand in a field: what is left is visible ASCII.
fn header_of(text: &str) -> Option<HeaderValue> {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'%' | 0..=0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            byte => encoded.push(byte.into()),
        }
    }
    HeaderValue::try_from(encoded).ok()
}

/// What a body of that type is as a message. `None`: it says that it is text and is not UTF-8.
pub fn payload(kind: Option<&HeaderValue>, bytes: Bytes) -> Option<Payload> {
    let text = is_text(kind);
    (!text || std::str::from_utf8(&bytes).is_ok()).then_some(Payload { text, bytes })
}

fn is_text(kind: Option<&HeaderValue>) -> bool {
    let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    kind.starts_with(b"text/") || kind == b"application/json" || kind.ends_with(b"+json")
}

/// A name that may stand for a user: neither empty nor long, and without control characters.
fn is_user(name: &str) -> bool {
    (1..=USER_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

/// What an answered connect means: the client is in, or is refused with a status.
///
/// # Errors
/// The backend failed, or said what it may not.
fn admission(
    answered: &Answered,
    backend: &Backend,
    hello: &Hello,
) -> Result<Result<TunnelAdmission, u16>, TunnelFault> {
    match answered.status {
        StatusCode::UNAUTHORIZED => return Ok(Err(401)),
        StatusCode::TOO_MANY_REQUESTS => return Err(TunnelFault::Status(answered.status)),
        status if status.is_client_error() => return Ok(Err(403)),
        status if !status.is_success() => return Err(TunnelFault::Status(status)),
        _ => {}
    }
    let answer = match &answered.body {
        body if body.is_empty() => TunnelConnectAnswer::default(),
        body => {
            object(body).map_err(|_| TunnelFault::NotOurs("the answer to connect is not of its shape"))?
        }
    };
    let offered = |name: &str| hello.subprotocols.iter().find(|offered| &***offered == name);
    let subprotocol = match answer.subprotocol.as_deref().filter(|name| !name.is_empty()) {
        // A client fails a connection with one that it has not offered.
        Some(chosen) => Some(
            offered(chosen).ok_or(TunnelFault::NotOurs("the subprotocol is none that the client offers"))?,
        ),
        None => hello
            .subprotocols
            .iter()
            .find(|offered| backend.subprotocols.iter().any(|ours| **ours == ***offered)),
    };
    let user = answer.user.filter(|user| !user.is_empty());
    if user.as_deref().is_some_and(|user| !is_user(user)) {
        return Err(TunnelFault::NotOurs("the user has more than 255 bytes or control characters"));
    }
    let message = answer.message.map(|message| {
        // A text is itself; anything else is its JSON.
        let text =
            serde_json::from_str::<String>(message.get()).unwrap_or_else(|_| message.get().to_string());
        Payload { text: true, bytes: text.into() }
    });
    let admission = TunnelAdmission {
        tunnel: 0,
        address: None,
        user: user.map(UserName::from),
        subprotocol: subprotocol.cloned(),
        message,
    };
    Ok(Ok(admission))
}

#[derive(Default, Deserialize)]
struct TunnelConnectAnswer {
    user: Option<String>,
    subprotocol: Option<String>,
    message: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct ConnectBody<'b> {
    r#type: &'static str,
    connection: &'b str,
    tunnel: &'b str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'b str>,
    /// A ticket of ours proved who it is.
    authenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'b RawValue>,
    query: &'b str,
    headers: Pairs<'b>,
    subprotocols: &'b [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

struct Pairs<'p>(&'p [(Box<str>, Box<str>)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[derive(Serialize)]
struct CloseBody<'b> {
    r#type: &'static str,
    connection: &'b str,
    tunnel: &'b str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    code: u16,
    reason: &'b str,
    messages: u64,
    undelivered: u32,
}

fn json(body: &impl Serialize) -> Bytes {
    // Texts, numbers and JSON that was checked: nothing of it can fail.
    serde_json::to_vec(body).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_body_says_whether_it_is_text() {
        let kind = |kind: &'static str| HeaderValue::from_static(kind);
        for text in
            ["text/plain", "Text/HTML; charset=utf-8", "application/json", "application/problem+json ;x=1"]
        {
            assert!(is_text(Some(&kind(text))), "{text}");
        }
        for binary in ["application/octet-stream", "image/png", "application/jsonl", ""] {
            assert!(!is_text(Some(&kind(binary))), "{binary}");
        }
        assert!(!is_text(None));
        let wrong = Bytes::from_static(b"\xff");
        assert_eq!(payload(Some(&kind("text/plain")), wrong.clone()), None);
        assert_eq!(payload(None, wrong.clone()), Some(Payload { text: false, bytes: wrong }));
    }

    #[test]
    fn a_user_goes_out_in_visible_ascii() {
        assert_eq!(header_of("plain@example.com").unwrap(), "plain@example.com");
        assert_eq!(header_of("a b%\r\nü").unwrap(), "a%20b%25%0D%0A%C3%BC");
    }

    #[test]
    fn users_have_a_name_within_bounds() {
        assert!(is_user("ü") && is_user(&"u".repeat(255)));
        assert!(!is_user("") && !is_user(&"u".repeat(256)) && !is_user("a\nb"));
    }
}
