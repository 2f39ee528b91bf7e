//! Clients of the Centrifuge protocol without WebSocket: the request that one begins with, and those that bring the commands
//! of one whose connection takes none.
//!
//! Such a client is a [`Session`] like any other; what carries its messages is its [`Wire`]. Its commands come by another
//! connection, perhaps to another shard: the session that they show says whose they are, and that connection's shard is
//! told by a shard message. Those of a client of another node are passed on by the engine. The answer of the request follows what became of
//! them.

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::{ClientId, ConnId};
use crate::proto::centrifuge::{Format, decode_emulation};
use crate::proto::http1::{self, Body, BodyDecoder, BodyLength, RequestHead};
use crate::proto::unidirectional::problem::Problem;
use crate::proto::unidirectional::query;
use crate::proto::wire::{Carrier, Wire};
use crate::session::Session;
use crate::session::paths::ClientPath;
use crate::session::request_token::origin_tag;
use crate::session::unidirectional::ReplyForm;
use crate::shard::core::Core;
use crate::shard::cors::cors_fields;
use crate::shard::emulated::{
    Asker, CONNECT_PARAMETER, ClientRequest, EmulationMessage, EmulationOutcome, ForeignCommands,
};
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::mailbox::ShardMessage;
use crate::shard::requests::{ANSWER_PATIENCE, Http, Request};
use crate::shard::stats::Cause;
use crate::shard::unidirectional::{Caching, UnidirectionalAnswer, reply_form, requested_headers};

/// How a client's commands grow as the text of JSON in the body that brings them: quotes, backslashes and line feeds take
/// two bytes each.
const ESCAPED: usize = 2;
/// What stands around them: the session, the node and the keys.
const AROUND_BYTES: usize = 1024;

impl Core {
    /// Takes the head of a request for one of these paths; gives how much of `bytes` is done with.
    pub fn handle_client_head(
        &mut self,
        slot: u32,
        path: ClientPath,
        head: &RequestHead<'_>,
        bytes: &[u8],
        head_len: usize,
    ) -> usize {
        let origin = self.cors_origin(head);
        let mut form = reply_form(head, origin.clone().unwrap_or_default());
        let has_body = !matches!(head.body_length(), BodyLength::None | BodyLength::Length(0));
        let takes_body = head.method == "POST";
        // Where the next request begins is known only behind the body, and nobody wants to read that.
        form.keep_alive &= takes_body || !has_body;
        let consumed = |goes_on| if goes_on { head_len } else { bytes.len() };
        let preflight = head.method == "OPTIONS";
        if !preflight && !path.allows(head.method) {
            form.keep_alive &= !has_body;
            let detail = "method is not allowed";
            let problem = Problem { status: 405, error_code: ErrorCode::MethodNotFound, detail };
            return consumed(self.refuse_now(slot, &form, problem, &[("Allow", path.methods())]));
        }
        let problem = if origin.is_err() {
            self.env.stats.fault(Cause::OriginRefused);
            Some(Problem::new(ErrorCode::PermissionDenied, "origin is not allowed"))
        } else if preflight {
            let wanted = requested_headers(head);
            return consumed(self.answer_preflight_of(slot, &form, path.methods(), &wanted));
        } else if has_body && !takes_body {
            Some(Problem::bad_request("no body belongs here"))
        } else {
            None
        };
        if let Some(problem) = problem {
            form.keep_alive &= !has_body;
            return consumed(self.refuse_now(slot, &form, problem, &[]));
        }
        let format = match head.header_str("Content-Type").map(media_type) {
            Some(media) if takes_body && media.eq_ignore_ascii_case("application/octet-stream") => {
                Format::Protobuf
            }
            _ => Format::Json,
        };
        let client = ClientRequest {
            path,
            format,
            token: if path == ClientPath::Emulation { None } else { self.shown_token(head) },
            origin: origin_tag(head).map(Box::from),
            headers: if path == ClientPath::Emulation { None } else { self.forwarded(slot, head) },
            reply: form,
        };
        if !takes_body {
            let first = query::value(head.query.unwrap_or_default(), CONNECT_PARAMETER);
            let first = first.as_deref().unwrap_or_default().as_bytes().to_vec();
            self.handle_client_body(slot, client, first, Box::default());
            return head_len;
        }
        let message_bytes_max = self.env.options.message_bytes_max;
        let body_bytes_max = match path {
            ClientPath::Emulation => message_bytes_max * ESCAPED + AROUND_BYTES,
            _ => message_bytes_max,
        };
        let decoder = match BodyDecoder::new(head.body_length(), body_bytes_max as u64) {
            Ok(decoder) => decoder,
            Err(fault) => {
                self.refuse_http(slot, fault, client.reply.allowed_origin());
                return bytes.len();
            }
        };
        if head.expects_continue() && !decoder.is_done() {
            self.send(slot, Bytes::from_static(http1::CONTINUE));
        }
        let request = Request {
            origin: client.reply.allowed_origin().map(Box::from),
            keep_alive: client.reply.keep_alive,
            decoder,
            client: Some(Box::new(client)),
            ..Request::default()
        };
        let mut http = Box::<Http>::default();
        http.request = Some(request);
        self.time_body(slot, &mut http);
        head_len + self.handle_body(slot, http, &bytes[head_len..])
    }

    /// All of such a request is there.
    pub fn handle_client_body(&mut self, slot: u32, client: ClientRequest, body: Vec<u8>, http: Box<Http>) {
        let plain = client.reply.http10;
        let wire = match client.path {
            ClientPath::Emulation => return self.emulate(slot, client, &body, http),
            ClientPath::HttpStream => Wire::new(client.format, Carrier::Stream),
            ClientPath::Sse => Wire::new(Format::Json, Carrier::Sse),
            ClientPath::UniHttpStream if plain => Wire::new(Format::Json, Carrier::UniStreamPlain),
            ClientPath::UniHttpStream => Wire::new(Format::Json, Carrier::UniStream),
            ClientPath::UniSse if plain => Wire::new(Format::Json, Carrier::UniSsePlain),
            ClientPath::UniSse => Wire::new(Format::Json, Carrier::UniSse),
            // Upgraded, see `http.rs`.
            ClientPath::WebSocket | ClientPath::UniWebSocket => return,
        };
        let unidirectional = wire.carrier.is_unidirectional();
        if body.trim_ascii().is_empty() && !unidirectional {
            let mut form = client.reply;
            // A client of such a path is no friend of further requests.
            form.keep_alive = false;
            self.refuse_now(slot, &form, Problem::bad_request("no connect command"), &[]);
            return;
        }
        self.env.stats.counters.client_streams_opened_total += 1;
        let head = self.opening_of(wire, &client.reply);
        let waits = unidirectional && !self.env.options.connect_statuses.is_empty();
        let mut session =
            Session::new(wire, client.headers).with_token(client.token).with_origin(client.origin);
        if waits {
            session = session.with_opening(head);
        } else {
            self.send(slot, head.into());
        }
        if let Some(connection) = self.links.connections.get_mut(slot) {
            connection.peer.set_client(session);
        }
        self.timer_in(slot, self.env.options.connect_timeout);
        // Who has nothing to say connects all the same.
        let first: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { &body };
        self.handle_commands(slot, first);
    }

    /// The head of a response that does not end.
    fn opening_of(&self, wire: Wire, form: &ReplyForm) -> Vec<u8> {
        let date = http1::http_date(self.unix_s());
        let content_type: &[u8] = match (wire.carrier.is_events(), wire.format) {
            (true, _) => b"text/event-stream; charset=utf-8",
            (false, Format::Json) => b"application/json; charset=utf-8",
            (false, Format::Protobuf) => b"application/octet-stream",
        };
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Date", &date),
            ("Cache-Control", b"private, no-cache, no-store, must-revalidate, no-transform, max-age=0"),
            // nginx would hold a stream back until its buffer is full.
            ("X-Accel-Buffering", b"no"),
            ("Content-Type", content_type),
            ("X-Content-Type-Options", b"nosniff"),
        ];
        cors_fields(form.allowed_origin(), &mut fields);
        let mut head = Vec::new();
        let body = if wire.carrier.is_chunked() { Body::Chunked } else { Body::UntilClose };
        http1::write_head(&mut head, 200, &fields, body);
        if wire.carrier.is_events() {
            // The first bytes of a body: what holds a response back until there are some lets it go.
            match wire.carrier.is_chunked() {
                true => http1::write_chunk(&mut head, b"\r\n"),
                false => head.extend_from_slice(b"\r\n"),
            }
        }
        head
    }

    /// Sends messages of a client in what carries them, behind the head of its response if that waits for them.
    pub fn send_carried(&mut self, slot: u32, wire: Wire, messages: &[u8]) {
        let opening = self.links.connections.session(slot).and_then(Session::take_opening);
        let mut framed = opening.map_or_else(Vec::new, |opening| opening.head);
        framed.reserve(messages.len() + messages.len() / 8 + 64);
        wire.write_messages(&mut framed, messages);
        self.send(slot, framed.into());
    }

    /// Answers the connect of a unidirectional client, whose response has not begun, with a status. False when its end has
    /// none: it is told in a response of its kind.
    pub fn refuse_by_status(&mut self, slot: u32, disconnect: &Disconnect) -> bool {
        let statuses = &self.env.options.connect_statuses;
        if statuses.is_empty() {
            return false;
        }
        let Some(session) = self.links.connections.session(slot) else { return false };
        let status_of =
            |code: u32| statuses.iter().find(|(known, _)| *known == code).map(|(_, status)| *status);
        let Some(opening) = session.take_opening() else { return false };
        let refused = opening.refused.and_then(status_of);
        let Some(status) = refused.or_else(|| status_of(disconnect.code.into())) else {
            *session = std::mem::take(session).with_opening(opening.head);
            return false;
        };
        let mut body = Vec::new();
        let code = opening.refused.unwrap_or(disconnect.code.into());
        let text = serde_json::json!({ "code": code, "reason": disconnect.reason });
        body.extend_from_slice(text.to_string().as_bytes());
        let date = http1::http_date(self.unix_s());
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Date", &date),
            ("Cache-Control", b"no-store"),
            ("Content-Type", b"application/json"),
            ("Connection", b"close"),
        ];
        let origin = http1::raw_fields(&opening.head, "Access-Control-Allow-Origin").next();
        let origin = origin.and_then(|origin| std::str::from_utf8(origin).ok());
        cors_fields(origin, &mut fields);
        let mut answer = Vec::new();
        http1::write_head(&mut answer, status, &fields, Body::Length(body.len() as u64));
        answer.extend_from_slice(&body);
        self.owned.events.note_end(slot, disconnect);
        self.end_with(slot, disconnect, answer, ClosingEnd::Fin);
        true
    }

    // --- commands by requests of their own

    fn emulate(&mut self, slot: u32, client: ClientRequest, body: &[u8], http: Box<Http>) {
        let form = &client.reply;
        let Ok(request) = decode_emulation(client.format, body) else {
            self.env.stats.counters.emulations_refused_total += 1;
            self.refuse_now(slot, form, Problem::bad_request("not an emulation request"), &[]);
            return;
        };
        let session = request.session.parse::<ClientId>().ok();
        let conn = session.and_then(|session| self.peers.client_ids.conn_of_session(session));
        // One that is not of this node is of the node that it names.
        if session.is_none() || conn.is_none() && *request.node == *self.env.options.node_uid {
            return self.answer_emulation(slot, client, EmulationOutcome::Unknown);
        }
        if request.commands.len() > self.env.options.message_bytes_max {
            return self.answer_emulation(slot, client, EmulationOutcome::TooLong);
        }
        let (format, asker) = (client.format, self.conn_id(slot));
        let commands = Bytes::copy_from_slice(&request.commands);
        let Some(conn) = conn else {
            let (node, session) = (Box::from(&*request.node), Box::from(&*request.session));
            let commands = ForeignCommands { node, session, format, commands, asker };
            let engine = self.messages.mailer.router().engine();
            if !engine.is_some_and(|engine| engine.pass_on(commands)) {
                return self.answer_emulation(slot, client, EmulationOutcome::Unknown);
            }
            return self.await_emulation(slot, client, http);
        };
        self.await_emulation(slot, client, http);
        let message = EmulationMessage { conn, format, commands, asker: Asker::Connection(asker) };
        self.messages.mailer.post_to_peer(conn, ShardMessage::Emulation(Box::new(message)));
    }

    /// The request is answered when it is known what became of its commands.
    fn await_emulation(&mut self, slot: u32, client: ClientRequest, mut http: Box<Http>) {
        if let Some(request) = &mut http.request {
            request.asked = true;
            request.client = Some(Box::new(client));
        }
        self.keep_http(slot, http);
        self.timer_in(slot, ANSWER_PATIENCE);
        self.links.actions.push(Action::ReadPause(slot));
    }

    /// Commands of a client that is here, or was.
    pub fn handle_emulation(&mut self, message: EmulationMessage) {
        let EmulationMessage { conn, format, commands, asker } = message;
        let outcome = self.take_emulated_commands(conn, format, &commands);
        match asker {
            Asker::Connection(asker) => {
                self.messages.mailer.post_to_peer(asker, ShardMessage::Emulated(Box::new((asker, outcome))));
            }
            Asker::Node { uid, number } => {
                if let Some(engine) = self.messages.mailer.router().engine() {
                    engine.passed_on(uid, number, outcome);
                }
            }
        }
    }

    fn take_emulated_commands(&mut self, conn: ConnId, format: Format, commands: &[u8]) -> EmulationOutcome {
        let Some(slot) = self.live(conn) else { return EmulationOutcome::Unknown };
        let Some(session) = self.links.connections.session(slot) else { return EmulationOutcome::Unknown };
        let wire = session.wire();
        if !wire.carrier.is_emulated() {
            return EmulationOutcome::Unknown;
        }
        if wire.format != format {
            return EmulationOutcome::WrongFormat;
        }
        if session.holds_enough() {
            return EmulationOutcome::Full;
        }
        self.env.stats.counters.emulations_total += 1;
        self.owned.events.received(slot, commands.len());
        match self.admit_bytes(slot, commands.len()) {
            Ok(()) => self.handle_commands(slot, commands),
            Err(disconnect) => self.close(slot, disconnect),
        }
        self.settle(slot);
        EmulationOutcome::Taken
    }

    /// The shard of the client has said what became of its commands.
    pub fn handle_emulated(&mut self, asker: ConnId, outcome: EmulationOutcome) {
        let Some(slot) = self.live(asker) else { return };
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let peer_ended = connection.link.peer_ended();
        let Some(kept) = connection.peer.requests_mut() else { return };
        let is_asked = |http: &mut Box<Http>| {
            http.request.as_ref().is_some_and(|request| request.asked && request.client.is_some())
        };
        let Some(mut http) = kept.take_if(is_asked) else { return };
        let Some(mut client) = http.request.take().and_then(|request| request.client) else { return };
        client.reply.keep_alive &= !peer_ended;
        let keep_alive = client.reply.keep_alive && self.env.ending.is_none();
        self.answer_emulation(slot, *client, outcome);
        if keep_alive {
            self.links.actions.push(Action::ReadStart(slot));
            // Go on with what came behind the request.
            let mut unread = http.unread.take();
            self.handle_bytes(slot, &mut unread);
        }
        self.settle(slot);
    }

    fn answer_emulation(&mut self, slot: u32, client: ClientRequest, outcome: EmulationOutcome) {
        let form = &client.reply;
        let problem = match outcome {
            EmulationOutcome::Taken => {
                self.first_command(slot);
                let (status, caching) = (204, Caching::Never);
                let answer = UnidirectionalAnswer {
                    status,
                    caching,
                    content_type: b"",
                    tag: None,
                    fields: &[],
                    body: Vec::new(),
                };
                self.answer_now(slot, form, answer);
                return;
            }
            EmulationOutcome::Unknown => {
                Problem { status: 404, error_code: ErrorCode::BadRequest, detail: "no such session" }
            }
            EmulationOutcome::WrongFormat => {
                let detail = "the session was opened with another format";
                Problem { status: 415, error_code: ErrorCode::BadRequest, detail }
            }
            EmulationOutcome::TooLong => {
                Problem { status: 413, error_code: ErrorCode::LimitExceeded, detail: "commands are too long" }
            }
            EmulationOutcome::Full => {
                let detail = "too many commands are waiting";
                Problem { status: 429, error_code: ErrorCode::TooManyRequests, detail }
            }
        };
        self.env.stats.counters.emulations_refused_total += 1;
        self.refuse_now(slot, form, problem, &[]);
    }
}

fn media_type(field: &str) -> &str {
    field.split(';').next().unwrap_or_default().trim()
}
