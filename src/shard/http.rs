//! Requests of HTTP on a client port: upgrades are served here, everything else is the control plane's.

use std::sync::Arc;

use http::{Request as HttpRequest, Response, Version};

use crate::base::address::Serves;
use crate::base::bytes::Bytes;
use crate::base::ids::ConnId;
use crate::base::limits::{ECHO_MESSAGE_BYTES_MAX, HTTP_BODY_BYTES_PER_SECOND_MIN, HTTP_HEAD_BYTES_MAX};
use crate::proto::centrifuge::Format;
use crate::proto::http1::{self, BodyDecoder, HttpFault, RequestHead};
use crate::proto::unidirectional::query;
use crate::proto::websocket;
use crate::proto::websocket::deflate::Agreed;
use crate::proto::wire::{Carrier, Wire};
use crate::session::Session;
use crate::session::hook_call::Headers;
use crate::session::origins::Welcome;
use crate::session::paths::ClientPath;
use crate::session::request_token::{origin_tag, reads_fields, shown};
use crate::session::token::TokenFault;
use crate::session::unidirectional::ReplyForm;
use crate::shard::compressed::write_switch;
use crate::shard::control_request::HttpReply;
use crate::shard::core::Core;
use crate::shard::cors::{permission, permit};
use crate::shard::emulated::CONNECT_PARAMETER;
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::mailbox::ShardMessage;
use crate::shard::requests::{ANSWER_PATIENCE, Http, Request};
use crate::shard::stats::Cause;
use crate::shard::unidirectional;
use crate::shard::view::View;

/// The subprotocols that are spoken here.
const JSON_SUBPROTOCOL: &str = "centrifuge-json";
const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";

/// What an upgrade leads to.
enum HttpEndpoint {
    /// With the token that the request shows, the tag that it names, and the connect of a unidirectional client.
    Centrifuge(Wire, Option<Box<str>>, Option<Box<str>>, Option<Box<str>>),
    Echo,
}

/// What a request head asks for.
enum HttpAsked {
    Upgraded(HttpEndpoint, Vec<u8>, Option<Arc<Headers>>, Option<Agreed>),
    /// Answered, and the connection is to end.
    Refused(Vec<u8>, Cause),
    Plain(Box<Request>, bool),
}

impl Core {
    /// Takes input of a connection that speaks HTTP; gives how much of it.
    pub fn handle_http(&mut self, slot: u32, bytes: &mut [u8]) -> usize {
        let Some(http) = self.links.connections.requests_mut(slot) else {
            return bytes.len();
        };
        let http = http.take();
        if http.as_ref().is_none_or(|http| http.is_waiting()) && self.owes(slot) {
            self.wait_in_line(slot, http.unwrap_or_default(), bytes);
            return bytes.len();
        }
        match http {
            // The first byte of a TLS handshake, which begins no request.
            None if bytes.first() == Some(&0x16) => {
                self.env.stats.fault(Cause::TlsOnPlainPort);
                let fault = HttpFault { status: 400, reason: "this port does not speak TLS" };
                self.answer_fault(slot, fault, None);
                bytes.len()
            }
            None => match self.handle_head(slot, bytes) {
                Some(consumed) => consumed,
                None => {
                    // A part of a head: from now on it is collected, and has as long as the first one of a connection.
                    self.timer_in(slot, self.head_patience(slot));
                    self.collect(slot, Box::default(), bytes);
                    bytes.len()
                }
            },
            Some(http) if http.is_asked() => {
                self.keep_behind(slot, http, bytes);
                bytes.len()
            }
            Some(http) if http.request.is_some() => self.handle_body(slot, http, bytes),
            Some(http) => {
                self.collect(slot, http, bytes);
                bytes.len()
            }
        }
    }

    /// Adds to an incomplete head, and goes on when it is complete.
    fn collect(&mut self, slot: u32, mut http: Box<Http>, bytes: &[u8]) {
        if self.keep_input(slot, &mut http.unread, bytes).is_err() {
            return self.refuse_full(slot, None);
        }
        let unread = http.unread.bytes();
        match http.scan.find_end(&unread[..unread.len().min(HTTP_HEAD_BYTES_MAX)]) {
            Err(fault) => {
                let origin = self.raw_origin(unread);
                self.refuse_http(slot, fault, origin.as_deref());
            }
            Ok(None) => self.keep_http(slot, http),
            Ok(Some(_)) => {
                let mut unread = http.unread.take();
                let consumed = self.handle_head(slot, &unread).unwrap_or(unread.len());
                self.handle_bytes(slot, &mut unread[consumed..]);
            }
        }
    }

    /// Keeps what comes behind a request that is being answered, and reads no further: one read is enough to know that
    /// there is more, the rest may wait in the kernel.
    fn keep_behind(&mut self, slot: u32, mut http: Box<Http>, bytes: &[u8]) {
        if self.keep_input(slot, &mut http.unread, bytes).is_err() {
            return self.refuse_full(slot, None);
        }
        self.keep_http(slot, http);
        self.links.actions.push(Action::ReadPause(slot));
    }

    pub fn keep_http(&mut self, slot: u32, http: Box<Http>) {
        if let Some(kept) = self.links.connections.requests_mut(slot) {
            *kept = Some(http);
        }
    }

    /// Reads a whole head at the start of `bytes`. `None`: it is not complete.
    fn handle_head(&mut self, slot: u32, bytes: &[u8]) -> Option<usize> {
        let (asked, consumed) = match http1::parse_head(bytes) {
            Ok(None) => return None,
            Ok(Some((head, consumed))) => {
                self.note_forwarded(slot, &head);
                let serves = self.listener(slot).serves;
                let is_api = serves == Serves::Api;
                let endpoint = unidirectional::Endpoint::of(head.path).filter(|_| !is_api);
                let tunnel = self.tunnel_at(head.path).filter(|_| !is_api);
                let client = self.env.options.client_paths.at(head.path).filter(|_| !is_api);
                // What comes by the emulation path belongs to a client that is there.
                let connects = client.is_some_and(|path| path != ClientPath::Emulation);
                let of_client = endpoint.is_some() || tunnel.is_some() || connects;
                if !self.admit_request(slot, &head, of_client, endpoint) {
                    return Some(bytes.len());
                }
                if is_api {
                    (self.plain(&head, serves), consumed)
                } else if let Some(endpoint) = endpoint {
                    return Some(self.handle_uni_head(slot, endpoint, &head, bytes, consumed, None));
                } else if let Some(place) = tunnel {
                    return Some(self.handle_tunnel_head(slot, place, &head, bytes, consumed));
                } else if let Some(path) = client.filter(|path| !path.upgrades()) {
                    return Some(self.handle_client_head(slot, path, &head, bytes, consumed));
                } else {
                    (self.route(slot, &head, client, serves), consumed)
                }
            }
            Err(fault) => {
                let origin = self.raw_origin(bytes);
                self.refuse_http(slot, fault, origin.as_deref());
                return Some(bytes.len());
            }
        };
        match asked {
            HttpAsked::Upgraded(endpoint, answer, headers, agreed) => {
                self.env.stats.counters.websocket_upgrades_total += 1;
                self.set_compression(slot, agreed);
                self.send(slot, answer.into());
                if matches!(endpoint, HttpEndpoint::Echo) {
                    self.first_command(slot);
                }
                let mut first = None;
                if let Some(connection) = self.links.connections.get_mut(slot) {
                    match endpoint {
                        HttpEndpoint::Centrifuge(wire, token, origin, connect) => {
                            first = connect;
                            let session = Session::new(wire, headers).with_token(token).with_origin(origin);
                            connection.peer.set_client(session);
                            self.timer_in(slot, self.env.options.connect_timeout);
                        }
                        HttpEndpoint::Echo => {
                            connection.peer.set_echo();
                            // It may idle for as long as it likes: it is there for conformance tools.
                            self.links.wheel.cancel(&mut self.links.connections, slot);
                        }
                    }
                }
                if let Some(connect) = first {
                    self.handle_commands(slot, connect.as_bytes());
                }
                Some(consumed)
            }
            HttpAsked::Refused(answer, cause) => {
                self.env.stats.fault(cause);
                self.leave_protocol(slot, answer.into(), ClosingEnd::Fin);
                Some(bytes.len())
            }
            HttpAsked::Plain(mut request, expects_continue) => {
                // One too many is answered, and makes room.
                request.keep_alive &= self.only_heard(slot).is_none();
                Some(self.begin_plain(slot, request, expects_continue, bytes, consumed))
            }
        }
    }

    /// A request for the control plane, whose head is read. Gives how much of `bytes` is done with.
    fn begin_plain(
        &mut self,
        slot: u32,
        request: Box<Request>,
        expects_continue: bool,
        bytes: &[u8],
        head_len: usize,
    ) -> usize {
        if !self.is_body_wanted(&request) {
            return head_len + self.ask_without_body(slot, *request, &bytes[head_len..]);
        }
        if expects_continue && !request.decoder.is_done() {
            self.send(slot, Bytes::from_static(http1::CONTINUE));
        }
        let mut http = Box::<Http>::default();
        http.request = Some(*request);
        self.time_body(slot, &mut http);
        head_len + self.handle_body(slot, http, &bytes[head_len..])
    }

    fn route(
        &self,
        slot: u32,
        head: &RequestHead<'_>,
        client: Option<ClientPath>,
        serves: Serves,
    ) -> HttpAsked {
        let is_client = match head.path {
            _ if client.is_some() => true,
            // Plain requests for it are the control plane's.
            "/echo" if self.env.options.echo && head.fields().has_token("Upgrade", "websocket") => false,
            _ => return self.plain(head, serves),
        };
        let handshake = match websocket::accept(head, &[JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL]) {
            Ok(handshake) => handshake,
            Err(fault) => {
                let mut answer = Vec::new();
                let origin = self.cors_origin(head).unwrap_or_default();
                fault.write_with(&mut answer, &permission(origin.as_deref()));
                return HttpAsked::Refused(answer, Cause::HandshakeRefused);
            }
        };
        if is_client && self.judge_origin(head) == Welcome::Refused {
            let mut answer = Vec::new();
            HttpFault { status: 403, reason: "origin is not allowed" }.write(&mut answer);
            return HttpAsked::Refused(answer, Cause::OriginRefused);
        }
        let agreed = match self.negotiate(head) {
            Ok(agreed) => agreed,
            Err(fault) => {
                let mut answer = Vec::new();
                let origin = self.cors_origin(head).unwrap_or_default();
                fault.write_with(&mut answer, &permission(origin.as_deref()));
                return HttpAsked::Refused(answer, Cause::HandshakeRefused);
            }
        };
        let mut answer = Vec::new();
        write_switch(&mut answer, &handshake, agreed);
        if !is_client {
            return HttpAsked::Upgraded(HttpEndpoint::Echo, answer, None, agreed);
        }
        let asked = |name| query::value(head.query.unwrap_or_default(), name);
        let (wire, connect) = match client {
            Some(ClientPath::UniWebSocket) => {
                (Wire::new(Format::Json, Carrier::UniWebSocket), asked(CONNECT_PARAMETER))
            }
            _ => {
                let pings = asked("cf_ws_frame_ping_pong").is_some_and(|value| value == "true");
                let carrier = if pings { Carrier::WebSocketPings } else { Carrier::WebSocket };
                (Wire::new(format_of(head, handshake.protocol), carrier), None)
            }
        };
        let origin = origin_tag(head).map(Box::from);
        let endpoint = HttpEndpoint::Centrifuge(wire, self.shown_token(head), origin, connect.map(Box::from));
        HttpAsked::Upgraded(endpoint, answer, self.forwarded(slot, head), agreed)
    }

    /// The token that an upgrade shows, for a connect command without one.
    pub fn shown_token(&self, head: &RequestHead<'_>) -> Option<Box<str>> {
        let fields = reads_fields(&View { options: &self.env.options, followed: &self.delivery.followed });
        shown(head, fields, self.judge_origin(head) == Welcome::Known).map(Box::from)
    }

    pub fn token_refused(&mut self, slot: u32, fault: TokenFault) {
        self.env.stats.token(fault);
        if let Some(control) = &self.env.control {
            control.tell(fault.cause(), fault.text(), self.client_address(slot));
        }
    }

    fn plain(&self, head: &RequestHead<'_>, serves: Serves) -> HttpAsked {
        let origin = self.cors_origin(head).unwrap_or_default();
        let refused = |fault: HttpFault| {
            let mut answer = Vec::new();
            fault.write_with(&mut answer, &permission(origin.as_deref()));
            HttpAsked::Refused(answer, cause_of(fault))
        };
        let body_bytes_max = match head.path {
            "/echo" if self.env.options.echo => ECHO_MESSAGE_BYTES_MAX,
            _ => self.env.options.http_body_bytes_max,
        };
        let decoder = match BodyDecoder::new(head.body_length(), body_bytes_max as u64) {
            Ok(decoder) => decoder,
            Err(fault) => return refused(fault),
        };
        let parts = match http1::request_parts(head) {
            Ok(mut parts) => {
                if serves != Serves::Both {
                    parts.extensions.insert(serves);
                }
                parts
            }
            Err(fault) => return refused(fault),
        };
        let request = Request { parts, origin, keep_alive: head.keep_alive(), decoder, ..Request::default() };
        HttpAsked::Plain(Box::new(request), head.expects_continue())
    }

    /// Takes input that follows a request's head; gives how much of it.
    pub fn handle_body(&mut self, slot: u32, mut http: Box<Http>, bytes: &[u8]) -> usize {
        let Some(request) = &mut http.request else { return 0 };
        let of_client = request.publish.is_some() || request.client.is_some();
        let mut at = 0;
        while at < bytes.len() && !request.decoder.is_done() {
            match request.decoder.decode(&bytes[at..]) {
                Ok(piece) => {
                    let kept = match of_client {
                        true => self.keep_input(slot, &mut request.body, piece.data),
                        false => request.body.push(&self.env.options.http.bodies, piece.data),
                    };
                    if kept.is_err() {
                        let origin = request.origin.take();
                        self.refuse_full(slot, origin.as_deref());
                        return bytes.len();
                    }
                    at += piece.consumed;
                }
                Err(fault) => {
                    let origin = request.origin.take();
                    self.refuse_http(slot, fault, origin.as_deref());
                    return bytes.len();
                }
            }
        }
        request.progress += at as u64;
        if request.decoder.is_done()
            && let Some(order) = request.publish.take()
        {
            let body = request.body.take();
            self.publish_body(slot, *order, body);
            return at;
        }
        if request.decoder.is_done()
            && let Some(client) = request.client.take()
        {
            let body = request.body.take();
            self.handle_client_body(slot, *client, body, http);
            return at;
        }
        if request.decoder.is_done() {
            self.ask_control(slot, http);
            return at;
        }
        self.keep_http(slot, http);
        at
    }

    /// A request's body is due from now on.
    pub fn time_body(&mut self, slot: u32, http: &mut Http) {
        let limits = &self.env.options.http;
        if let Some(request) = &mut http.request {
            request.until = self.env.now + limits.body_timeout;
        }
        self.timer_in(slot, self.env.options.connect_timeout.min(self.env.options.http.body_timeout));
    }

    /// Whether the control plane reads the body of such a request before it answers.
    fn is_body_wanted(&self, request: &Request) -> bool {
        request.decoder.is_done()
            || self.env.control.as_ref().is_none_or(|control| control.wants_body(&request.parts))
    }

    /// Has a request answered whose body does not matter: its key is wrong, or nothing takes a body there. Gives how
    /// much of `bytes` was the body's. A rest that is still to come is not waited for, and the connection ends.
    fn ask_without_body(&mut self, slot: u32, mut request: Request, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !request.decoder.is_done() {
            match request.decoder.decode(&bytes[at..]) {
                Ok(piece) => at += piece.consumed,
                Err(fault) => {
                    self.refuse_http(slot, fault, request.origin.as_deref());
                    return bytes.len();
                }
            }
        }
        request.keep_alive &= request.decoder.is_done();
        let mut http = Box::<Http>::default();
        http.request = Some(request);
        self.ask_control(slot, http);
        at
    }

    fn ask_control(&mut self, slot: u32, mut http: Box<Http>) {
        let Some(request) = &mut http.request else { return };
        request.asked = true;
        let (body, lease) = std::mem::take(&mut request.body).into_parts();
        request.lease = lease;
        let mut whole = HttpRequest::new(Bytes::from(body));
        *whole.method_mut() = request.parts.method.clone();
        *whole.uri_mut() = request.parts.uri.clone();
        *whole.version_mut() = request.parts.version;
        *whole.headers_mut() = std::mem::take(&mut request.parts.headers);
        *whole.extensions_mut() = std::mem::take(&mut request.parts.extensions);
        let origin = request.origin.clone();
        self.keep_http(slot, http);
        self.timer_in(slot, ANSWER_PATIENCE);
        self.links.actions.push(Action::ReadPause(slot));
        self.env.stats.counters.http_requests_total += 1;

        let reply = self.http_reply(slot);
        let busy = match &self.env.control {
            Some(control) => control.handle(whole, reply).is_err(),
            None => true,
        };
        if busy {
            self.env.stats.fault(Cause::ControlPlaneBusy);
            let fault = HttpFault { status: 503, reason: "too many requests under way" };
            self.answer_fault(slot, fault, origin.as_deref());
        }
    }

    /// Has the control plane compress an answer that is too long for the shard. False when it has no room: the answer
    /// is still to be given, from `response`.
    pub fn pack_elsewhere(
        &mut self,
        slot: u32,
        form: &ReplyForm,
        keep_alive: bool,
        response: &mut Option<Response<Bytes>>,
    ) -> bool {
        let Some(control) = self.env.control.clone() else { return false };
        let reply = self.http_reply(slot);
        if control.compress(response, reply).is_err() {
            return false;
        }
        let Some(kept) = self.links.connections.requests_mut(slot) else {
            return true;
        };
        // From here on it is a request that awaits its answer of the control plane.
        let (mut parts, ()) = HttpRequest::new(()).into_parts();
        parts.version = if form.http10 { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut http = kept.take().unwrap_or_default();
        debug_assert!(http.is_waiting(), "an answer belongs to one request");
        http.request = Some(Request { parts, keep_alive, asked: true, ..Request::default() });
        *kept = Some(http);
        self.timer_in(slot, ANSWER_PATIENCE);
        self.links.actions.push(Action::ReadPause(slot));
        true
    }

    /// Brings an answer of the control plane here.
    pub fn http_reply(&self, slot: u32) -> HttpReply {
        let conn = self.conn_id(slot);
        let inbox = self.messages.mailer.router().inbox(self.env.id).clone();
        HttpReply::new(move |response| {
            let Some(answer) = response.take() else { return };
            if let Err(ShardMessage::Http(refused)) =
                inbox.push_control(ShardMessage::Http(Box::new((conn, answer))))
            {
                *response = Some(refused.1);
            }
        })
    }

    /// The control plane has answered.
    pub fn handle_http_answer(&mut self, conn: ConnId, mut response: Response<Bytes>) {
        let Some(slot) = self.live(conn) else { return };
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(kept) = connection.peer.requests_mut() else { return };
        let is_asked = |http: &mut Box<Http>| http.request.as_ref().is_some_and(|request| request.asked);
        let Some(mut http) = kept.take_if(is_asked) else { return };
        let Some(request) = &http.request else { return };
        let keep_alive = request.keep_alive && self.env.ending.is_none() && !connection.link.peer_ended();
        let (method, version) = (&request.parts.method, request.parts.version);
        // Who calls the API with success has shown a key.
        let is_known = response.status().is_success() && request.parts.uri.path().starts_with("/api/");
        if response.status().as_u16() >= 400 {
            permit(response.headers_mut(), request.origin.as_deref());
        }
        let answer = http1::encode_response(&response, method, version, keep_alive, self.env.wall_ms / 1000);
        if is_known {
            self.first_command(slot);
        }
        if !keep_alive {
            self.leave_protocol(slot, answer, ClosingEnd::Fin);
            return;
        }
        self.send(slot, answer);
        self.timer_in(slot, self.env.options.http.keep_alive);
        self.links.actions.push(Action::ReadStart(slot));
        // The state is a fresh Http(None): go on with what came behind the request.
        let mut unread = http.unread.take();
        self.handle_bytes(slot, &mut unread);
    }

    /// Refuses a request of a page of `origin`, as CORS names it, and ends the connection.
    pub fn refuse_http(&mut self, slot: u32, fault: HttpFault, origin: Option<&str>) {
        self.env.stats.fault(cause_of(fault));
        self.answer_fault(slot, fault, origin);
    }

    /// Neither a request nor the rest of one has come in time.
    pub fn handle_http_timer(&mut self, slot: u32) {
        let Some(http) = self.links.connections.requests(slot) else {
            return;
        };
        let waits = http.as_ref().is_none_or(|http| http.is_waiting());
        let takes_body = http.as_ref().is_some_and(|http| http.takes_body());
        if waits && let Some(refusal) = self.only_heard(slot) {
            return self.refuse_client(slot, refusal, None);
        }
        if takes_body && self.body_goes_on(slot) {
            return;
        }
        if waits && self.owes(slot) {
            // It does not read: a word more would not be read either.
            self.env.stats.fault(Cause::HttpUnread);
            return self.give_up(slot);
        }
        let Some(http) = self.links.connections.requests(slot) else {
            return;
        };
        match http {
            // Nothing was asked: an idle connection is closed without a word, but for its layer's last one.
            None => {
                self.env.stats.fault(Cause::HttpIdle);
                self.leave_protocol(slot, Bytes::new(), ClosingEnd::Both);
            }
            Some(http) if http.inquiry.is_some() => {
                self.handle_inquiry_timer(slot);
            }
            Some(http) if http.request.as_ref().is_some_and(|request| request.asked) => {
                self.env.stats.fault(Cause::ControlPlaneBusy);
                let origin = http.request.as_ref().and_then(|request| request.origin.clone());
                let fault = HttpFault { status: 504, reason: "no answer in time" };
                self.answer_fault(slot, fault, origin.as_deref());
            }
            Some(http) => {
                let (origin, cause) = match &http.request {
                    Some(request) => (request.origin.clone(), Cause::HttpBodyTimeout),
                    None => (self.raw_origin(http.unread.bytes()), Cause::HttpHeadTimeout),
                };
                self.env.stats.fault(cause);
                let fault = HttpFault { status: 408, reason: "request not completed in time" };
                self.answer_fault(slot, fault, origin.as_deref());
            }
        }
    }

    /// Whether a body that is still coming has time left and came fast enough; then it is looked at again.
    fn body_goes_on(&mut self, slot: u32) -> bool {
        let now = self.env.now;
        let stretch = self.env.options.connect_timeout;
        let Some(Some(http)) = self.links.connections.requests_mut(slot) else {
            return false;
        };
        let Some(request) = &mut http.request else { return false };
        let least = HTTP_BODY_BYTES_PER_SECOND_MIN * stretch.as_millis() as u64 / 1000;
        if request.until <= now || request.progress < least {
            return false;
        }
        request.progress = 0;
        let left = request.until.since(now);
        self.timer_in(slot, stretch.min(left));
        true
    }
}

fn cause_of(fault: HttpFault) -> Cause {
    match fault.status {
        413 => Cause::HttpBodyTooLarge,
        431 => Cause::HttpHeadTooLarge,
        _ => Cause::HttpMalformed,
    }
}

/// What a client of the protocol wants to write in. The subprotocol says it, or the query where the client cannot name
/// one: `cf_protocol` or, as older clients call it, `format`.
fn format_of(head: &RequestHead<'_>, subprotocol: Option<&str>) -> Format {
    let protobuf = match subprotocol {
        Some(subprotocol) => subprotocol == PROTOBUF_SUBPROTOCOL,
        None => query::pairs(head.query.unwrap_or_default()).any(|(name, value)| {
            matches!(&*name, "cf_protocol" | "format") && value.as_deref() == Some("protobuf")
        }),
    };
    if protobuf { Format::Protobuf } else { Format::Json }
}
