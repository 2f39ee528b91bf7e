//! One-shot answers: their heads, their compression, and the connection's way back to HTTP.

use std::time::Duration;

use http::Response;

use crate::base::admission::Refusal;
use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::proto::http1::{self, Body, HttpVersion, RequestHead};
use crate::proto::unidirectional::notes::{Note, write_sse_note};
use crate::proto::unidirectional::problem::{PROBLEM_TYPE, Problem};
use crate::session::request::Endpoint;
use crate::session::unidirectional::{Origin, ReplyForm};
use crate::shard::core::Core;
use crate::shard::cors::cors_fields;
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::packing;
use crate::shard::timers::ShortTick;
use crate::shard::unidirectional::stream::RETRY_BUSY_MS;

/// How long a browser may take a preflight's answer for the next ones (Fetch, section 3.3.5).
const PREFLIGHT_S: &[u8] = b"600";

/// What becomes of an answer by its nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Kept by the client and asked for again each time, with its tag.
    Revalidate,
    Never,
}

impl Caching {
    pub fn value(self) -> &'static [u8] {
        match self {
            // Tokens decide what is in it: no cache between may give it to another.
            Caching::Revalidate => b"private, no-cache",
            Caching::Never => b"no-store",
        }
    }
}

/// An answer but for what depends on the request.
pub struct UnidirectionalAnswer<'a> {
    pub status: u16,
    pub caching: Caching,
    pub content_type: &'a [u8],
    /// Without quotes.
    pub tag: Option<&'a str>,
    /// Further fields.
    pub fields: &'a [(&'a str, &'a [u8])],
    pub body: Vec<u8>,
}

impl UnidirectionalAnswer<'_> {
    fn is_bodiless(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// Weak: the same messages, in whatever coding.
    fn tag(&self) -> Option<String> {
        self.tag.map(|tag| format!("W/\"{tag}\""))
    }

    pub fn json(body: Vec<u8>, caching: Caching) -> UnidirectionalAnswer<'static> {
        UnidirectionalAnswer {
            status: 200,
            caching,
            content_type: b"application/json",
            tag: None,
            fields: &[],
            body,
        }
    }
}

/// The form of the answer that a request asks for; its origin has been judged.
pub fn reply_form(head: &RequestHead<'_>, origin: Option<Box<str>>) -> ReplyForm {
    ReplyForm {
        origin: origin.map(|origin| Box::new(Origin(origin))),
        keep_alive: head.keep_alive(),
        http10: head.version == HttpVersion::Http10,
        head_only: head.method == "HEAD",
        gzip: accepts_gzip(head),
        not_modified: false,
        limit: 0,
        events: false,
    }
}

/// RFC 9110 section 12.5.3, as far as clients use it: named, and not with the weight 0.
fn accepts_gzip(head: &RequestHead<'_>) -> bool {
    head.header_tokens("Accept-Encoding").any(|coding| {
        let Ok(coding) = std::str::from_utf8(coding) else { return false };
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// What a page may send: what its browser asks about, since libraries add fields of their own (tracing, caching), and a
/// field that nobody reads here does nothing.
pub fn requested_headers(head: &RequestHead<'_>) -> Vec<u8> {
    let names = head.header_tokens("Access-Control-Request-Headers").filter(|name| http1::is_token(name));
    match names.collect::<Vec<_>>().join(&b", "[..]) {
        none if none.is_empty() => {
            b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID".to_vec()
        }
        names => names,
    }
}

/// The fields that follow from the answer and the request's form; `tag` is the answer's with its quotes.
fn fields_of<'a>(
    answer: &UnidirectionalAnswer<'a>,
    form: &'a ReplyForm,
    tag: Option<&'a str>,
) -> Vec<(&'a str, &'a [u8])> {
    let mut fields: Vec<(&str, &[u8])> = vec![("Cache-Control", answer.caching.value())];
    cors_fields(form.allowed_origin(), &mut fields);
    if let Some(tag) = tag {
        fields.push(("ETag", tag.as_bytes()));
    }
    if !answer.is_bodiless() && !answer.content_type.is_empty() {
        fields.push(("Content-Type", answer.content_type));
        fields.push(("X-Content-Type-Options", b"nosniff"));
    }
    fields.extend_from_slice(answer.fields);
    fields
}

/// The whole of an answer; `packed` is its body in the coding "gzip", to go instead.
pub fn encode(
    answer: &UnidirectionalAnswer<'_>,
    packed: Option<&[u8]>,
    form: &ReplyForm,
    keep_alive: bool,
    unix_s: u64,
) -> Bytes {
    let date = http1::http_date(unix_s);
    let tag = answer.tag();
    let mut fields = fields_of(answer, form, tag.as_deref());
    fields.push(("Date", &date));
    if packed.is_some() {
        fields.push(("Content-Encoding", b"gzip"));
    }
    if !keep_alive {
        fields.push(("Connection", b"close"));
    } else if form.http10 {
        fields.push(("Connection", b"keep-alive"));
    }
    let body = packed.unwrap_or(&answer.body);
    let mut out = Vec::with_capacity(512 + body.len());
    let length = if answer.is_bodiless() { Body::None } else { Body::Length(body.len() as u64) };
    http1::write_head(&mut out, answer.status, &fields, length);
    if !answer.is_bodiless() && !form.head_only {
        out.extend_from_slice(body);
    }
    out.into()
}

/// The answer for the control plane to compress and give back.
fn response_of(answer: &mut UnidirectionalAnswer<'_>, form: &ReplyForm) -> Option<Response<Bytes>> {
    let tag = answer.tag();
    let mut response = Response::builder().status(answer.status);
    for (name, value) in fields_of(answer, form, tag.as_deref()) {
        response = response.header(name, value);
    }
    response.body(Bytes::from(std::mem::take(&mut answer.body))).ok()
}

impl Core {
    /// The answer to a request of a client that is not let in. The connection ends behind it.
    pub fn refusal_of_uni(
        &mut self,
        head: &RequestHead<'_>,
        endpoint: Endpoint,
        refusal: Refusal,
        retry_after: Duration,
    ) -> Bytes {
        let form = reply_form(head, self.cors_origin(head).unwrap_or_default());
        let mut body = Vec::new();
        let retry_after_s = retry_after.as_secs().to_string();
        let mut fields: Vec<(&str, &[u8])> = vec![("Retry-After", retry_after_s.as_bytes())];
        let (status, content_type) = match endpoint {
            // A browser ends an EventSource for good at any other answer.
            Endpoint::Sse => {
                let known = if refusal.is_of_network() {
                    Disconnect::TOO_MANY_REQUESTS
                } else {
                    Disconnect::SERVER_ERROR
                };
                let disconnect = Disconnect { reason: refusal.reason().into(), ..known };
                let retry_ms = retry_after.as_millis() as u64 + self.env.prng.u64(..1_000);
                write_sse_note(&mut body, Some(retry_ms), &Note::Disconnect(&disconnect));
                fields.clear();
                (200, &b"text/event-stream"[..])
            }
            _ => {
                let detail = refusal.reason();
                let status = refusal.status();
                Problem { status, error_code: ErrorCode::TooManyRequests, detail }.write(&mut body);
                (status, PROBLEM_TYPE)
            }
        };
        let caching = Caching::Never;
        let answer = UnidirectionalAnswer { status, caching, content_type, tag: None, fields: &fields, body };
        encode(&answer, None, &form, false, self.unix_s())
    }

    /// Answers a request whose connection speaks HTTP still. False when the connection ends with it.
    pub fn answer_now(&mut self, slot: u32, form: &ReplyForm, mut answer: UnidirectionalAnswer<'_>) -> bool {
        let keep_alive = form.keep_alive && self.env.ending.is_none();
        let packs = form.gzip
            && !form.head_only
            && !answer.is_bodiless()
            && answer.body.len() >= packing::ANSWER_BYTES_MIN;
        let mut packed = None;
        if packs && answer.body.len() <= packing::ANSWER_BYTES_MAX {
            packed = self.links.packer.pack(&answer.body);
        } else if packs {
            let mut response = response_of(&mut answer, form);
            if self.pack_elsewhere(slot, form, keep_alive, &mut response) {
                return keep_alive;
            }
            answer.body = response.map(|response| response.into_body().into()).unwrap_or_default();
        }
        let bytes = encode(&answer, packed.as_deref(), form, keep_alive, self.unix_s());
        if !keep_alive {
            self.leave_protocol(slot, bytes, ClosingEnd::Fin);
            return false;
        }
        self.send(slot, bytes);
        self.release_request(slot);
        self.timer_in(slot, self.env.options.http.keep_alive);
        true
    }

    /// Refuses a request. False as [`Core::answer_now`].
    pub fn refuse_now(
        &mut self,
        slot: u32,
        form: &ReplyForm,
        problem: Problem,
        fields: &[(&str, &[u8])],
    ) -> bool {
        self.env.stats.error_code(problem.error_code);
        if form.events && problem.status >= 500 {
            let known = match problem.error_code {
                ErrorCode::TooManyRequests | ErrorCode::LimitExceeded => Disconnect::TOO_MANY_REQUESTS,
                _ => Disconnect::SERVER_ERROR,
            };
            let reason = if problem.detail.is_empty() { known.reason } else { problem.detail.into() };
            return self.end_events_now(slot, form, &Disconnect { reason, ..known });
        }
        let mut body = Vec::new();
        problem.write(&mut body);
        let mut fields = fields.to_vec();
        match problem.status {
            401 => fields.push(("WWW-Authenticate", b"Bearer")),
            503 => fields.push(("Retry-After", b"1")),
            _ => {}
        }
        let answer = UnidirectionalAnswer {
            status: problem.status,
            caching: Caching::Never,
            content_type: PROBLEM_TYPE,
            tag: None,
            fields: &fields,
            body,
        };
        self.answer_now(slot, form, answer)
    }

    /// Answers a request for an event stream with a stream that ends at once, and with when to come back. A browser
    /// ends an EventSource for good at any other answer (HTML, section 9.2.3). False as [`Core::answer_now`].
    pub fn end_events_now(&mut self, slot: u32, form: &ReplyForm, disconnect: &Disconnect) -> bool {
        let retry_ms = RETRY_BUSY_MS + self.env.prng.u64(0..=RETRY_BUSY_MS * 2);
        let mut body = Vec::new();
        write_sse_note(&mut body, Some(retry_ms), &Note::Disconnect(disconnect));
        let answer = UnidirectionalAnswer {
            status: 200,
            caching: Caching::Never,
            content_type: b"text/event-stream",
            tag: None,
            fields: &[],
            body,
        };
        self.answer_now(slot, form, answer)
    }

    /// Answers what a page asks before it sends a request that no form could send.
    pub fn answer_preflight(
        &mut self,
        slot: u32,
        form: &ReplyForm,
        endpoint: Endpoint,
        head: &RequestHead<'_>,
    ) -> bool {
        self.answer_preflight_of(slot, form, endpoint.methods(), &requested_headers(head))
    }

    /// The same for a path with these methods, and a page that wants to send these fields.
    pub fn answer_preflight_of(
        &mut self,
        slot: u32,
        form: &ReplyForm,
        methods: &[u8],
        wanted: &[u8],
    ) -> bool {
        let fields: &[(&str, &[u8])] = &[
            ("Allow", methods),
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", wanted),
            ("Vary", b"Access-Control-Request-Headers"),
            ("Access-Control-Max-Age", PREFLIGHT_S),
        ];
        let answer = UnidirectionalAnswer {
            status: 204,
            caching: Caching::Never,
            content_type: b"",
            tag: None,
            fields,
            body: Vec::new(),
        };
        self.answer_now(slot, form, answer)
    }

    /// Gives a unidirectional client its one answer: it leaves its channels, and the connection speaks HTTP again.
    pub fn answer_uni(&mut self, slot: u32, answer: UnidirectionalAnswer<'_>) {
        self.end_uni(slot, |core, form| core.answer_now(slot, form, answer));
    }

    /// As [`Core::answer_uni`], with a problem.
    pub fn refuse_uni(&mut self, slot: u32, problem: Problem) {
        self.end_uni(slot, |core, form| core.refuse_now(slot, form, problem, &[]));
    }

    fn end_uni(&mut self, slot: u32, answer: impl FnOnce(&mut Core, &ReplyForm) -> bool) {
        self.forget_client(slot);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(uni) = connection.peer.uni_mut() else { return };
        let Some(work) = uni.work.take() else { return };
        connection.link.ping_due = ShortTick::default();
        connection.link.set_awaits_pong(false);
        let peer_ended = connection.link.peer_ended();
        self.begin_next_peer(slot);
        let mut form = work.reply;
        form.keep_alive &= !peer_ended;
        if !answer(self, &form) {
            return;
        }
        self.links.actions.push(Action::ReadStart(slot));
        // Go on with what came behind the request.
        let mut unread = work.unread.map_or_else(Vec::new, |mut unread| unread.take());
        self.handle_bytes(slot, &mut unread);
    }
}

/// `ms` as the shard's timers take it.
pub fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::parse_head;

    fn form(fields: &str) -> ReplyForm {
        let text = format!("GET /poll HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (head, _) = parse_head(text.as_bytes()).unwrap().unwrap();
        reply_form(&head, None)
    }

    #[test]
    fn gzip_is_used_where_it_is_accepted_and_worth_it() {
        for (fields, accepted) in [
            ("Accept-Encoding: gzip, deflate, br\r\n", true),
            ("Accept-Encoding: br;q=1.0, GZIP;q=0.5\r\n", true),
            ("Accept-Encoding: gzip;q=0\r\n", false),
            ("Accept-Encoding: identity\r\n", false),
            ("", false),
        ] {
            assert_eq!(form(fields).gzip, accepted, "{fields}");
        }
        let form = form("Accept-Encoding: gzip\r\n");
        let answer = UnidirectionalAnswer::json(vec![b'1'; 10_000], Caching::Revalidate);
        let packed = http1::gzip(&answer.body);
        for packed in [None, Some(&packed[..])] {
            let bytes = encode(&answer, packed, &form, true, 0);
            let head = String::from_utf8_lossy(&bytes);
            assert_eq!(head.contains("Content-Encoding: gzip"), packed.is_some());
            assert_eq!(bytes.len() < 10_000, packed.is_some());
        }
    }

    #[test]
    fn everybodys_page_gets_no_credentials() {
        for (origin, credentials) in [("*", false), ("https://a.example", true)] {
            let mut form = form("");
            form.origin = Some(Box::new(Origin(origin.into())));
            let bytes = encode(&UnidirectionalAnswer::json(Vec::new(), Caching::Never), None, &form, true, 0);
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains(&format!("Access-Control-Allow-Origin: {origin}\r\n")));
            assert_eq!(text.contains("Allow-Credentials"), credentials);
        }
    }
}
