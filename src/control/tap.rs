//! `GET /api/tap`: streams what one user, client, channel, tunnel or network does, as lines of JSON, to somebody who debugs it.
//!
//! Bounded: eight taps, each with a queue of a mebibyte. What finds no room is counted and told as `lost`: a reader that stalls
//! holds nobody up. What is secret is masked, and payloads are shown only where they are asked for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ::http::{Request, StatusCode};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{self, channel as bounded_channel};

use crate::base::bytes::Bytes;
use crate::base::ids::ClientId;
use crate::base::trusted::Trusted;
use crate::control::app::{App, without_key};
use crate::control::lines::{self, StreamedLines};
use crate::control::responses::{busy, problem};
use crate::control::taps::Taps;
use crate::shard::control_request::ControlRequest;
use crate::shard::control_request::observer::{
    Observation, Observer, ObserverEvent, ObserverSink, ObserverTarget,
};

/// Taps at a time: people who debug, not programs that watch.
const TAPS_MAX: usize = 8;
/// What one tap may have waiting, in bytes.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// The same in events: each costs at least so much of it.
const EVENT_BYTES: usize = 256;
/// Lines that are written together.
const LINES_MAX: usize = 128;
/// Keys of JSON whose values are secrets, wherever they stand.
const SECRETS: [&str; 9] =
    ["token", "headers", "authorization", "cookie", "key", "api_key", "secret", "password", "ticket"];
const MASK: &str = "***";

pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/api/tap", get(tap))
}

/// Where shards put what they see.
struct TapQueue {
    events: mpsc::Sender<ObserverEvent>,
    bytes: AtomicUsize,
    lost: AtomicU64,
    open: AtomicBool,
}

impl TapQueue {
    /// With what its reader takes.
    fn new() -> (Arc<TapQueue>, mpsc::Receiver<ObserverEvent>) {
        let (sender, events) = bounded_channel(QUEUE_BYTES_MAX / EVENT_BYTES);
        let (bytes, lost, open) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(true));
        (Arc::new(TapQueue { events: sender, bytes, lost, open }), events)
    }
}

impl ObserverSink for TapQueue {
    fn take(&self, event: ObserverEvent) {
        let bytes = weight(&event);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > QUEUE_BYTES_MAX || self.events.try_send(event).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

fn weight(event: &ObserverEvent) -> usize {
    let payload = match &event.what {
        Observation::In { payload, .. }
        | Observation::Out { payload, .. }
        | Observation::Published { payload, .. } => payload.as_ref().map_or(0, Bytes::len),
        _ => 0,
    };
    EVENT_BYTES + payload
}

/// One tap as its reader's connection has it: dropped, it ends.
struct TapStream {
    queue: Arc<TapQueue>,
    /// Bound: `QUEUE_BYTES_MAX`; what finds no room is counted as lost.
    events: mpsc::Receiver<ObserverEvent>,
    payloads: bool,
    taps: Taps,
}

impl Drop for TapStream {
    fn drop(&mut self) {
        self.queue.open.store(false, Ordering::Relaxed);
        self.taps.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StreamedLines for TapStream {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send + '_>> {
        Box::pin(self.lines())
    }
}

impl TapStream {
    async fn lines(&mut self) -> Vec<u8> {
        let mut events = Vec::new();
        self.events.recv_many(&mut events, LINES_MAX).await;
        let mut lines = Vec::new();
        for event in events {
            self.queue.bytes.fetch_sub(weight(&event), Ordering::Relaxed);
            write_line(&mut lines, &shown(&event, self.payloads));
        }
        let lost = self.queue.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            write_line(&mut lines, &json!({ "what": "lost", "lost": lost }));
        }
        lines
    }
}

fn write_line(lines: &mut Vec<u8>, line: &Value) {
    lines.extend_from_slice(line.to_string().as_bytes());
    lines.push(b'\n');
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    user: Option<String>,
    client: Option<String>,
    channel: Option<String>,
    tunnel: Option<String>,
    address: Option<String>,
    payloads: Option<bool>,
    /// Read by the check of keys.
    #[serde(rename = "api_key")]
    _api_key: Option<String>,
}

async fn tap(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (head, _) = request.into_parts();
    let response = match without_key(&app, &head.headers, &head.uri) {
        Some(response) => response,
        None => match Query::<Parameters>::try_from_uri(&head.uri) {
            Ok(Query(asked)) => open(&app, asked).await.unwrap_or_else(|response| response),
            Err(error) => problem(StatusCode::BAD_REQUEST, &error.body_text()),
        },
    };
    app.metrics.count_api("tap", if lines::are_in(&response) { 0 } else { response.status().as_u16() });
    response
}

async fn open(app: &App, asked: Parameters) -> Result<Response, Response> {
    let payloads = asked.payloads.unwrap_or(false);
    let selector = selector(app, asked).map_err(|detail| problem(StatusCode::BAD_REQUEST, &detail))?;
    if app.taps.0.fetch_add(1, Ordering::Relaxed) >= TAPS_MAX {
        app.taps.0.fetch_sub(1, Ordering::Relaxed);
        return Err(problem(StatusCode::TOO_MANY_REQUESTS, "there are eight taps already"));
    }
    let (queue, events) = TapQueue::new();
    let stream = TapStream { queue: Arc::clone(&queue), events, payloads, taps: app.taps.clone() };
    let observer = Observer { selector, sink: queue };
    // One that a shard has not taken is dropped with the stream, and the others forget it.
    app.api
        .shards()
        .ask_every(|reply| ControlRequest::Observe(observer.clone(), reply))
        .await
        .map_err(|_| busy())?;
    // What cannot stream answers with this.
    let mut response =
        problem(StatusCode::CONFLICT, "taps are streamed by listeners of the API alone: set api_listen");
    lines::put(&mut response, stream);
    Ok(response)
}

/// One selector, and only one.
fn selector(app: &App, asked: Parameters) -> Result<ObserverTarget, String> {
    const ONE: &str = "say what to tap: one of user, client, channel, tunnel and address, and only one";
    let Parameters { user, client, channel, tunnel, address, .. } = asked;
    match (user, client, channel, tunnel, address) {
        (Some(user), None, None, None, None) if user.is_empty() => {
            Err("a tap on all clients without a user would show everything: name a client".into())
        }
        (Some(user), None, None, None, None) => Ok(ObserverTarget::User(user.as_str().into())),
        (None, Some(client), None, None, None) => {
            let client =
                client.parse::<ClientId>().map_err(|()| "client is no id of a connection".to_owned())?;
            let conn = app.api.shards().router().connection(client);
            conn.map(ObserverTarget::Client).ok_or_else(|| "client is none of this node".to_owned())
        }
        (None, None, Some(channel), None, None) if !channel.is_empty() => {
            Ok(ObserverTarget::Channel(channel.as_str().into()))
        }
        (None, None, None, Some(tunnel), None) => app
            .tunnels
            .place(&tunnel)
            .map(ObserverTarget::Tunnel)
            .ok_or_else(|| "there is no tunnel of this name".to_owned()),
        (None, None, None, None, Some(address)) => match Trusted::parse(&address) {
            Some(Trusted::Network(network)) if network.prefix_len() == 0 => {
                Err("a tap on every address would show everything".into())
            }
            Some(Trusted::Network(network)) => Ok(ObserverTarget::Network(network)),
            _ => Err("address is neither an address nor a network".into()),
        },
        _ => Err(ONE.into()),
    }
}

// --- what is shown

fn shown(event: &ObserverEvent, payloads: bool) -> Value {
    let mut line = Map::new();
    line.insert("time_ms".into(), event.time_ms.into());
    line.insert("shard".into(), event.shard.0.into());
    if let Some(client) = event.client {
        line.insert("client".into(), client.to_string().into());
        line.insert("user".into(), Value::from(&*event.user));
    }
    let mut set = |key: &str, value: Value| drop(line.insert(key.into(), value));
    if let Observation::Connected { trace: Some(trace), .. }
    | Observation::HookCall { trace: Some(trace), .. }
    | Observation::Published { trace: Some(trace), .. } = &event.what
    {
        set("traceparent", trace.to_string().into());
    }
    match &event.what {
        Observation::Connected { transport, .. } => {
            set("what", "connected".into());
            set("transport", (*transport).into());
        }
        Observation::In { bytes, payload } => {
            set("what", "in".into());
            set("bytes", (*bytes).into());
            say(&mut set, payload.as_deref().map(<[u8]>::to_vec), payloads);
        }
        Observation::Out { bytes, websocket, payload } => {
            set("what", "out".into());
            set("bytes", (*bytes).into());
            let payload = payload.as_deref().and_then(|bytes| match websocket {
                true => unframed(bytes),
                false => Some(bytes.to_vec()),
            });
            say(&mut set, payload, payloads);
        }
        Observation::HookCall { kind, .. } => {
            set("what", "hook_call".into());
            set("kind", (*kind).into());
        }
        Observation::HookAnswer { outcome } => {
            set("what", "hook_answer".into());
            set("outcome", (*outcome).into());
        }
        Observation::Limited => set("what", "limited".into()),
        Observation::Published { channel, bytes, payload, .. } => {
            set("what", "published".into());
            set("channel", Value::from(&**channel));
            set("bytes", (*bytes).into());
            say(&mut set, payload.as_deref().map(<[u8]>::to_vec), payloads);
        }
        Observation::Joined { channel } => {
            set("what", "joined".into());
            set("channel", Value::from(&**channel));
        }
        Observation::Left { channel } => {
            set("what", "left".into());
            set("channel", Value::from(&**channel));
        }
        Observation::Ended { code, reason, by } => {
            set("what", "ended".into());
            set("code", (*code).into());
            set("reason", Value::from(&**reason));
            set("by", (*by).into());
        }
    }
    Value::Object(line)
}

/// What a payload says: the keys of its objects, and itself where that is wanted. What is no JSON is shown by its length alone.
fn say(set: &mut impl FnMut(&str, Value), payload: Option<Vec<u8>>, payloads: bool) {
    let Some(payload) = payload else { return };
    let values: Result<Vec<Value>, _> =
        serde_json::Deserializer::from_slice(&payload).into_iter::<Value>().collect();
    let Ok(mut values) = values else { return };
    let objects = values.iter().filter_map(Value::as_object);
    let says: Vec<Value> = objects
        .flat_map(|object| object.keys())
        .filter(|key| *key != "id")
        .map(|key| key.as_str().into())
        .collect();
    set("says", says.into());
    if payloads {
        values.iter_mut().for_each(mask);
        set("payload", values.into());
    }
}

/// Hides the values of secret keys, at any depth.
fn mask(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                match SECRETS.iter().any(|secret| key.eq_ignore_ascii_case(secret)) {
                    true => *value = MASK.into(),
                    false => mask(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

/// The payloads of unmasked text frames, a line each (RFC 6455 section 5.2). `None` where there are others: compressed or binary.
fn unframed(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut payloads = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, &rest[8..]),
            len => (usize::from(len), rest),
        };
        let (payload, rest) = rest.split_at_checked(len)?;
        match first {
            0x81 => {
                payloads.extend_from_slice(payload);
                payloads.push(b'\n');
            }
            // Pings, pongs, a Close frame.
            0x88..=0x8a => {}
            _ => return None,
        }
        bytes = rest;
    }
    bytes.is_empty().then_some(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;

    fn event(what: Observation) -> ObserverEvent {
        ObserverEvent { time_ms: 5, shard: ShardId(1), client: Some(ClientId(7)), user: "ann".into(), what }
    }

    fn received(text: &str) -> ObserverEvent {
        event(Observation::In { bytes: text.len(), payload: Some(Bytes::copy_from_slice(text.as_bytes())) })
    }

    #[test]
    fn secrets_are_never_shown_and_payloads_only_where_they_are_wanted() {
        let connect = r#"{"id":1,"connect":{"token":"eyJhbGciOi.secret","headers":{"x":"secret"},
"data":{"a":[{"Password":"secret","b":1}]}}}
{"id":2,"subscribe":{"channel":"news","token":"secret"}}"#;
        let brief = shown(&received(connect), false).to_string();
        assert!(brief.contains(r#""says":["connect","subscribe"]"#), "{brief}");
        assert!(!brief.contains("news") && !brief.contains("payload"), "{brief}");
        let whole = shown(&received(connect), true).to_string();
        assert!(whole.contains(r#""channel":"news""#) && whole.contains(r#""b":1"#), "{whole}");
        for text in [brief, whole] {
            assert!(!text.contains("secret"), "{text}");
        }
        // What cannot be read cannot be masked.
        for text in ["token=secret", "{\"token\":\"secret\"", "\u{1}\u{2}secret"] {
            let shown = shown(&received(text), true).to_string();
            assert!(!shown.contains("secret") && shown.contains("\"bytes\""), "{shown}");
        }
    }

    #[test]
    fn frames_are_opened_and_what_is_no_text_is_not() {
        let mut bytes = vec![0x81, 2, b'{', b'}', 0x89, 0];
        bytes.extend([0x81, 126, 0, 200]);
        bytes.extend([b' '; 200]);
        let text = unframed(&bytes).unwrap();
        assert_eq!(text.len(), 2 + 1 + 200 + 1);
        for wrong in [&[0xc1, 1, 0][..], &[0x82, 1, 0], &[0x81, 9, 0], &[0x81, 126, 0], &[0x81]] {
            assert_eq!(unframed(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_loses_what_finds_no_room_and_hears_how_much() {
        let (queue, events) = TapQueue::new();
        let taps = Taps::default();
        taps.0.fetch_add(1, Ordering::Relaxed);
        let mut stream = TapStream { queue: Arc::clone(&queue), events, payloads: false, taps: taps.clone() };
        let text = "x".repeat(10_000);
        (0..1000).for_each(|_| queue.take(received(&text)));
        let held = queue.bytes.load(Ordering::Relaxed);
        assert!(held <= QUEUE_BYTES_MAX && held > QUEUE_BYTES_MAX - 20_000, "{held}");
        let kept = held / (EVENT_BYTES + 10_000);
        let lines = String::from_utf8(stream.lines().await).unwrap();
        assert_eq!(lines.lines().count(), kept.min(LINES_MAX) + 1);
        assert!(lines.ends_with(&format!("{{\"lost\":{},\"what\":\"lost\"}}\n", 1000 - kept)), "{lines}");
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
        drop(stream);
        assert!(!queue.is_open());
        assert_eq!(taps.0.load(Ordering::Relaxed), 0);
    }
}
