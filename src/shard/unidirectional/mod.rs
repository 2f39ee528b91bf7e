//! Unidirectional clients without the client protocol: their requests, from the head to the stream, the held poll, or
//! the answer.
//!
//! Inputs: heads of requests for the paths of this surface, answers of channel owners, batches, time. Outputs: streams
//! and answers. Must not know: logs; how a frame of a kind looks.
//!
//! A unidirectional client is a subscriber like any other: fan-out, laggards and gaps are those of `fanout.rs` and
//! `catch_up.rs`. What is its own is how it begins (several joins, then one answer) and how a poll ends (with its first
//! batch).

mod answers;
mod deliver;
mod inquiry;
mod joins;
pub mod pending;
mod polls;
mod stream;

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::except::Except;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::publication::PayloadForm;
use crate::hub::requests::{HistoryRequest, PublishRequest};
use crate::proto::encoding::Encoding;
use crate::proto::http1::{self, Body, BodyDecoder, BodyLength, RequestHead};
use crate::proto::unidirectional::notes;
use crate::proto::unidirectional::problem::Problem;
use crate::proto::websocket;
use crate::session::hook_call::{HookRequest, PublishAnswer};
use crate::session::info_of;
use crate::session::origins::Welcome;
use crate::session::request::{RequestSaid, Stop, UnidirectionalRequest, read};
use crate::session::token::TokenFault;
use crate::session::unidirectional::{Asking, Mode, ReplyForm, Unidirectional, UnidirectionalWork};
use crate::shard::clients::changed;
use crate::shard::compressed::write_switch;
use crate::shard::core::Core;
use crate::shard::cors::{cors_fields, permission};
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::owner::OwnerRequest;
use crate::shard::requests::{Http, Request};
use crate::shard::stats::Cause;
pub(in crate::shard) use crate::shard::unidirectional::answers::{
    Caching, UnidirectionalAnswer, reply_form, requested_headers,
};
use crate::shard::unidirectional::pending::{PendingStep, PublishCommand};
use crate::shard::view::View;

pub use crate::session::request::Endpoint;
pub use deliver::append_item;
pub use stream::spread;

impl Core {
    /// Takes the head of a request for this surface; gives how much of `bytes` is done with.
    pub fn handle_uni_head(
        &mut self,
        slot: u32,
        endpoint: Endpoint,
        head: &RequestHead<'_>,
        bytes: &[u8],
        head_len: usize,
        said: Option<RequestSaid>,
    ) -> usize {
        if said.is_none() {
            self.env.stats.counters.reader_requests_total += 1;
        }
        let origin = self.cors_origin(head);
        let mut form = reply_form(head, origin.clone().unwrap_or_default());
        form.events = endpoint == Endpoint::Sse;
        // Who has ended its side while the backend was asked sends no further request.
        form.keep_alive &=
            !self.links.connections.get(slot).is_some_and(|connection| connection.link.peer_ended());
        let has_body = !matches!(head.body_length(), BodyLength::None | BodyLength::Length(0));
        if endpoint != Endpoint::Publish || head.method != "POST" {
            // Where the next request begins is known only behind the body, and nobody wants to read that.
            form.keep_alive &= !has_body;
        }
        let consumed = |goes_on| if goes_on { head_len } else { bytes.len() };
        let preflight = head.method == "OPTIONS";
        if !preflight && !endpoint.allows(head.method) {
            form.keep_alive &= !has_body;
            let detail = "method is not allowed";
            let problem = Problem { status: 405, error_code: ErrorCode::MethodNotFound, detail };
            return consumed(self.refuse_now(slot, &form, problem, &[("Allow", endpoint.methods())]));
        }
        let request = if origin.is_err() {
            self.env.stats.fault(Cause::OriginRefused);
            Err(Problem::new(ErrorCode::PermissionDenied, "origin is not allowed").into())
        } else if has_body && endpoint != Endpoint::Publish {
            Err(Problem::bad_request("no body belongs here").into())
        } else if preflight {
            return consumed(self.answer_preflight(slot, &form, endpoint, head));
        } else {
            let view = View { options: &self.env.options, followed: &self.delivery.followed };
            let cookies = self.judge_origin(head) == Welcome::Known;
            let none = RequestSaid::default();
            read(endpoint, head, said.as_ref().unwrap_or(&none), &view, cookies, self.unix_s())
        };
        let request = match request {
            Ok(request) => request,
            Err(Stop::CallHook(hook_request, identity)) => {
                let caller = self.uni_caller(slot, endpoint, identity.as_deref(), self.forwarded(slot, head));
                let step =
                    PendingStep::Head { bytes: bytes[..head_len].into(), said: said.unwrap_or_default() };
                self.ask_for_uni(slot, step, endpoint, form, caller, hook_request, &bytes[head_len..]);
                return bytes.len();
            }
            Err(Stop::Refused(problem, token)) => {
                form.keep_alive &= !has_body;
                if let Some(fault) = token {
                    self.token_refused(slot, fault);
                    if form.events && fault == TokenFault::NotYetValid {
                        self.env.stats.error_code(problem.error_code);
                        let disconnect = Disconnect { reason: fault.text().into(), ..Disconnect::EXPIRED };
                        return consumed(self.end_events_now(slot, &form, &disconnect));
                    }
                }
                return consumed(self.refuse_now(slot, &form, problem, &[]));
            }
        };
        form.limit = request.limit;
        if request.mode == Mode::Publish {
            return self.expect_publication(slot, request, form, head, bytes, head_len);
        }
        match self.opening(slot, &request, &form, head) {
            Ok(opening) if form.head_only && matches!(request.mode, Mode::Stream(_)) => {
                // The head that a GET would get, and no stream behind it.
                self.leave_protocol(slot, opening.into(), ClosingEnd::Fin);
                bytes.len()
            }
            Ok(opening) => {
                self.begin_uni(slot, request, form, opening);
                head_len
            }
            Err(fault) => {
                self.env.stats.fault(Cause::HandshakeRefused);
                let mut answer = Vec::new();
                fault.write_with(&mut answer, &permission(form.allowed_origin()));
                self.leave_protocol(slot, answer.into(), ClosingEnd::Fin);
                bytes.len()
            }
        }
    }

    /// What a stream begins with.
    fn opening(
        &mut self,
        slot: u32,
        request: &UnidirectionalRequest,
        form: &ReplyForm,
        head: &RequestHead<'_>,
    ) -> Result<Vec<u8>, websocket::HandshakeFault> {
        let mut out = Vec::new();
        let Mode::Stream(kind) = request.mode else { return Ok(out) };
        if matches!(kind, Encoding::WebSocketJson | Encoding::WebSocketBare) {
            let (handshake, agreed) = (websocket::accept(head, &[])?, self.negotiate(head)?);
            self.set_compression(slot, agreed);
            write_switch(&mut out, &handshake, agreed);
            return Ok(out);
        }
        let date = http1::http_date(self.unix_s());
        let content_type: &[u8] = match kind {
            Encoding::Sse | Encoding::SsePlain => b"text/event-stream",
            Encoding::Iframe => b"text/html; charset=utf-8",
            _ => b"application/x-ndjson",
        };
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Date", &date),
            ("Cache-Control", b"no-store, no-transform"),
            // nginx would hold a stream back until its buffer is full.
            ("X-Accel-Buffering", b"no"),
            ("Content-Type", content_type),
            ("X-Content-Type-Options", b"nosniff"),
        ];
        cors_fields(form.allowed_origin(), &mut fields);
        if kind == Encoding::Iframe {
            // The page calls into its parent: nobody else's page may be that.
            fields.push(("Content-Security-Policy", b"frame-ancestors 'self'"));
        }
        let chunked = kind == Encoding::Sse || kind == Encoding::JsonLines && !form.http10;
        http1::write_head(&mut out, 200, &fields, if chunked { Body::Chunked } else { Body::UntilClose });
        if form.head_only {
            return Ok(out);
        }
        if kind == Encoding::Iframe {
            notes::write_iframe_head(&mut out, request.callback.as_deref().unwrap_or("trunkline"));
        }
        Ok(out)
    }

    /// Asks the owners of everything the request names.
    fn begin_uni(
        &mut self,
        slot: u32,
        request: UnidirectionalRequest,
        mut reply: ReplyForm,
        opening: Vec<u8>,
    ) {
        self.first_command(slot);
        let id = self.messages.uni_ids;
        self.messages.uni_ids = id.wrapping_add(request.channels.len().max(1) as u32);
        if let Mode::Stream(_) = request.mode {
            // A stream ends with its connection.
            reply.keep_alive = false;
        }
        let (mode, limit) = (request.mode, usize::from(request.limit));
        let streams = matches!(mode, Mode::Stream(_));
        let user = request.admission.identity.as_ref().and_then(|identity| identity.user.clone());
        // A poll and an answer do not count as connections of their user.
        let creator = self.creator(slot, user.as_ref());
        let awaits_place = streams && user.is_some() && self.env.options.client_limits.limits_users();
        let mut uni = Unidirectional::new(id, mode, request.admission.identity);
        uni.chunked = !reply.http10;
        let mut channels = request.channels;
        let asks: Vec<_> = (0..).zip(&mut channels).map(|(at, asked)| asked.subscribe(at)).collect();
        let asking = Asking {
            outstanding: asks.len() as u32 + u32::from(awaits_place),
            awaits_place,
            channels,
            opening,
            hold_ms: request.hold_ms,
            if_none_match: request.if_none_match,
            reverse: request.reverse,
        };
        uni.work = Some(Box::new(UnidirectionalWork { reply, asking: Some(Box::new(asking)), unread: None }));
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        connection.peer.set_uni(uni);
        self.links.wheel.cancel(&mut self.links.connections, slot);
        if awaits_place {
            self.join_user(slot, user, false);
        } else if asks.is_empty() {
            self.uni_answered(slot);
            return;
        }
        let conn = self.conn_id(slot);
        for subscribe in asks {
            if mode == Mode::History {
                let id = id.wrapping_add(subscribe.id);
                let (channel, since, by) = (subscribe.channel, subscribe.since, creator.clone());
                let (since_ms, reverse) = (request.since_ms, request.reverse);
                let ask = HistoryRequest { channel, limit: Some(limit), since, since_ms, reverse, by };
                self.messages.mailer.request(OwnerRequest::History { conn, id, ask });
            } else {
                self.ask_to_join(slot, subscribe, None);
            }
        }
    }

    fn expect_publication(
        &mut self,
        slot: u32,
        request: UnidirectionalRequest,
        form: ReplyForm,
        head: &RequestHead<'_>,
        bytes: &[u8],
        head_len: usize,
    ) -> usize {
        let decoder = match BodyDecoder::new(head.body_length(), self.env.options.message_bytes_max as u64) {
            Ok(decoder) => decoder,
            Err(fault) => {
                self.refuse_http(slot, fault, form.allowed_origin());
                return bytes.len();
            }
        };
        if head.expects_continue() && !decoder.is_done() {
            self.send(slot, Bytes::from_static(http1::CONTINUE));
        }
        let request = Request {
            origin: form.allowed_origin().map(Box::from),
            keep_alive: form.keep_alive,
            decoder,
            publish: Some(Box::new(PublishCommand {
                request,
                reply: form,
                headers: self.forwarded(slot, head),
            })),
            ..Request::default()
        };
        let mut http = Box::<Http>::default();
        http.request = Some(request);
        self.time_body(slot, &mut http);
        head_len + self.handle_body(slot, http, &bytes[head_len..])
    }

    /// The body of a publication is complete.
    pub fn publish_body(&mut self, slot: u32, command: PublishCommand, body: Vec<u8>) {
        let reply = &command.reply;
        let refuse = |core: &mut Core, detail| {
            core.refuse_now(slot, reply, Problem::bad_request(detail), &[]);
        };
        if body.trim_ascii().is_empty() {
            return refuse(self, "the body is empty");
        }
        let Some(channel) = command.request.channels.first().map(|asked| asked.name.clone()) else { return };
        let form = self.env.options.namespaces.resolve(&channel).map_or(PayloadForm::Json, |of| of.payload);
        let is_json = || serde_json::from_slice::<&serde_json::value::RawValue>(&body).is_ok();
        if form == PayloadForm::Json && !is_json() {
            return refuse(self, "the body is not JSON");
        }
        let asks = self.env.options.rules.resolve(&channel).is_ok_and(|rules| rules.publish_hook.is_some());
        if asks {
            let identity = command.request.admission.identity.as_deref();
            let endpoint = command.request.endpoint;
            let caller = self.uni_caller(slot, endpoint, identity, command.headers.clone());
            let body = Bytes::from(body);
            let hook_request = HookRequest::Publish { channel, data: body.clone(), form };
            let form = command.reply.clone();
            let step = PendingStep::Publication { command: Box::new(command), body };
            return self.ask_for_uni(slot, step, endpoint, form, caller, hook_request, &[]);
        }
        self.publish_for_uni(slot, command, body.into(), None);
    }

    /// The publication goes to its channel's owner.
    fn publish_for_uni(
        &mut self,
        slot: u32,
        command: PublishCommand,
        body: Bytes,
        changes: Option<PublishAnswer>,
    ) {
        self.first_command(slot);
        let PublishCommand { request, reply, .. } = command;
        let Some(asked) = request.channels.into_iter().next() else { return };
        let user = request.admission.identity.as_ref().and_then(|identity| identity.user.as_deref());
        if let Err(error_code) = self.admit_command(slot, user) {
            self.refuse_now(slot, &reply, error_code.into(), &[]);
            return;
        }
        let info = info_of(request.admission.identity.as_deref(), self.client_id(slot).to_string());
        let excludes = self.env.options.rules.resolve(&asked.name).is_ok_and(|rules| rules.exclude_publisher);
        let by = self.creator(slot, Some(&info.user));
        let form =
            self.env.options.namespaces.resolve(&asked.name).map_or(PayloadForm::Json, |of| of.payload);
        let mut ask = PublishRequest {
            contents: form.into(),
            info: Some(info),
            by,
            ..PublishRequest::new(asked.name.clone(), body)
        };
        if let Some(changes) = changes {
            changed(&mut ask, changes);
        }
        let origin =
            request.admission.identity.as_ref().and_then(|identity| identity.origin.as_deref().cloned());
        if origin.is_some() && excludes {
            let named = ask.except.take().map_or_else(Except::default, Arc::unwrap_or_clone);
            ask.except = Some(Arc::new(Except { origin, ..named }));
        }
        // The client's own, unless the backend has another.
        ask.idempotency_key = ask.idempotency_key.or(request.idempotency_key);
        let (conn, id) = (self.conn_id(slot), self.messages.uni_ids);
        self.messages.uni_ids = id.wrapping_add(1);
        let mut uni = Unidirectional::new(id, Mode::Publish, request.admission.identity);
        let asking = Asking { channels: vec![asked], outstanding: 1, ..Asking::default() };
        uni.work = Some(Box::new(UnidirectionalWork { reply, asking: Some(Box::new(asking)), unread: None }));
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        connection.peer.set_uni(uni);
        self.links.wheel.cancel(&mut self.links.connections, slot);
        self.messages.mailer.request(OwnerRequest::Publish { conn, id, ask, receipt: false });
    }

    /// A unidirectional client of plain WebSocket has said enough for this turn: the rest of it is taken in the next
    /// one.
    pub fn hold_turn(&mut self, slot: u32, bytes: &[u8]) {
        let Some(uni) = self.links.connections.uni_mut(slot) else { return };
        uni.work.get_or_insert_default();
        self.keep_for_later(slot, bytes);
        self.resume_later(slot);
    }

    /// The next turn of such a unidirectional client.
    pub fn resume_uni(&mut self, slot: u32) {
        let Some(uni) = self.links.connections.uni_mut(slot) else { return };
        if !(uni.is_websocket() && uni.is_ready()) {
            return;
        }
        let Some(mut unread) = uni.work.take().and_then(|work| work.unread) else { return };
        let mut unread = unread.take();
        self.handle_bytes(slot, &mut unread);
        self.read_on(slot);
    }

    /// Input of a connection whose unidirectional client wants none: what it means is known when the unidirectional
    /// client's answer is out.
    pub fn keep_for_later(&mut self, slot: u32, bytes: &[u8]) {
        let Some(uni) = self.links.connections.uni_mut(slot) else {
            return;
        };
        // A stream of HTTP has asked all it can.
        let wanted = uni.is_websocket() || !matches!(uni.mode, Mode::Stream(_));
        let Some(work) = uni.work.as_mut().filter(|_| wanted) else { return };
        let mut unread = work.unread.take().unwrap_or_default();
        if self.keep_input(slot, &mut unread, bytes).is_err() {
            self.env.stats.fault(Cause::HttpInputFull);
            return self.give_up(slot);
        }
        if let Some(work) = self.links.connections.uni_mut(slot).and_then(|uni| uni.work.as_mut()) {
            work.unread = Some(unread);
        }
        // The next request of a client that does not wait for answers. One is enough to know that there is one; the
        // rest may wait in the kernel.
        self.links.actions.push(Action::ReadPause(slot));
    }
}
