//! Tunnels: connections of any WebSocket client, whose messages go to an HTTP backend and back.
//!
//! Inputs: heads of `GET /tunnel/{name}`, frames of such connections, answers of the backend, what the backend tells a
//! connection from outside, time. Outputs: hook calls to the control plane, frames. Must not know: how the backend is
//! asked; what a message means.
//!
//! A connection that has gone may still have messages for the backend: those go first, then its end is told. Until
//! then it lives on here, without its socket, in [`Draining`](crate::shard::draining::Draining).

use std::time::Duration;

use crate::base::budget::BudgetHeld;
use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::ConnId;
use crate::base::limits::PARTED_BYTES_MAX;
use crate::proto::http1::{self, HttpFault, RequestHead};
use crate::proto::unidirectional::problem::{PROBLEM_TYPE, write_problem};
use crate::proto::websocket::{self, Message, Opcode};
use crate::session::hook_call::Waiting;
use crate::session::origins::Welcome;
use crate::session::tunnel::{
    Hello, Payload, Tunnel, TunnelAdmission, TunnelAnswer, TunnelAsking, TunnelCall, TunnelRequest,
};
use crate::shard::control_request::seen::EndedBy;
use crate::shard::control_request::{
    Busy, ControlReply, TunnelCommand, TunnelReply, TunnelStanding, TunnelTold,
};
use crate::shard::core::Core;
use crate::shard::cors::permission;
use crate::shard::draining::Drained;
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::look::TUNNEL;
use crate::shard::mailbox::ShardMessage;
use crate::shard::options::TunnelOptions;
use crate::shard::stats::Cause;

/// What comes before a tunnel's name in the path.
const PATH: &str = "/tunnel/";
/// Beyond the backend's time, how long a client waits for the control plane to say that it is over.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// What a client that cannot be let in now is told to wait at most, in seconds (`Retry-After`). How long each is told
/// is left to chance, so that a crowd does not come back at once.
const RETRY_AFTER_S_MAX: u8 = 5;
const _: () = assert!(RETRY_AFTER_S_MAX < 10, "it is written as one digit");
impl Core {
    /// The tunnel that the path names.
    pub fn tunnel_at(&self, path: &str) -> Option<u16> {
        let name = path.strip_prefix(PATH)?;
        let place =
            self.env.options.tunnels.iter().position(|tunnel| tunnel.served && &*tunnel.name == name)?;
        u16::try_from(place).ok()
    }

    /// Takes the head of a request for a tunnel; gives how much of `bytes` is done with.
    pub fn handle_tunnel_head(
        &mut self,
        slot: u32,
        place: u16,
        head: &RequestHead<'_>,
        bytes: &[u8],
        head_len: usize,
    ) -> usize {
        let mut error_code = Vec::new();
        match websocket::accept(head, &[]) {
            Err(fault) => {
                self.env.stats.fault(Cause::HandshakeRefused);
                let origin = self.cors_origin(head).unwrap_or_default();
                fault.write_with(&mut error_code, &permission(origin.as_deref()));
            }
            Ok(_) if self.judge_origin(head) == Welcome::Refused => {
                self.env.stats.fault(Cause::OriginRefused);
                HttpFault { status: 403, reason: "origin is not allowed" }.write(&mut error_code);
            }
            Ok(handshake) => {
                let mut hello = hello(head, &self.env.options.tunnels[usize::from(place)], |name| {
                    self.passes_on(slot, name)
                });
                hello.certificate = self.links.layers.certificate(slot);
                let address = self.client_address(slot);
                let tunnel_request = TunnelRequest::Connect(Box::new(hello));
                let hook_call = TunnelCall {
                    tunnel: place,
                    client: self.client_id(slot),
                    user: None,
                    address,
                    tunnel_request,
                };
                match self.ask_tunnel(self.conn_id(slot), hook_call) {
                    Ok(waiting) => {
                        let asking = TunnelAsking {
                            handshake,
                            waiting,
                            unread: BudgetHeld::default(),
                            admission: None,
                        };
                        let tunnel = Tunnel::new(place, asking);
                        let Some(connection) = self.links.connections.get_mut(slot) else {
                            return bytes.len();
                        };
                        connection.peer.set_tunnel(tunnel);
                        let patience = self.env.options.tunnels[usize::from(place)].timeout + ANSWER_GRACE;
                        self.timer_in(slot, patience);
                        return head_len;
                    }
                    Err(Busy) => {
                        self.env.stats.fault(Cause::TunnelUnavailable);
                        self.write_unavailable(&mut error_code);
                    }
                }
            }
        }
        self.leave_protocol(slot, error_code.into(), ClosingEnd::Fin);
        bytes.len()
    }

    /// Input of a connection that is not let in yet.
    pub fn keep_for_tunnel(&mut self, slot: u32, bytes: &[u8]) {
        let Some(tunnel) = self.links.connections.tunnel_mut(slot) else {
            return;
        };
        let Some(asking) = tunnel.asking() else { return };
        let mut unread = std::mem::take(&mut asking.unread);
        if self.keep_input(slot, &mut unread, bytes).is_err() {
            self.env.stats.fault(Cause::HttpInputFull);
            return self.give_up(slot);
        }
        if let Some(asking) = self.links.connections.tunnel_mut(slot).and_then(Tunnel::asking) {
            asking.unread = unread;
        }
        // A client that speaks before it was answered. The rest may wait in the kernel.
        self.links.actions.push(Action::ReadPause(slot));
    }

    pub fn handle_tunnel_message(&mut self, slot: u32, message: Message<'_>) {
        let payload = match message {
            Message::Text(text) => Payload { text: true, bytes: Bytes::copy_from_slice(text.as_bytes()) },
            Message::Binary(data) => Payload { text: false, bytes: Bytes::copy_from_slice(data) },
            Message::Pong(_) => {
                if let Some(connection) = self.links.connections.get_mut(slot) {
                    connection.link.set_awaits_pong(false);
                }
                self.ping_answered(slot);
                return;
            }
            // Tunnels agree on no compression.
            Message::Compressed { .. } | Message::Ping(_) | Message::Close { .. } => return,
        };
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(tunnel) = connection.peer.tunnel_mut() else { return };
        let limits = self.env.options.tunnels[usize::from(tunnel.place)].waiting;
        self.env.stats.counters.tunnel_messages_received_total += 1;
        let next = tunnel.handle_message(payload);
        if tunnel.take_pause(limits) {
            self.env.stats.counters.tunnel_pauses_total += 1;
            self.links.actions.push(Action::ReadPause(slot));
        }
        if let Some(next) = next {
            self.hand_over(slot, next);
        }
    }

    pub fn hand_over(&mut self, slot: u32, (sequence, message): (u64, Payload)) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let Some(tunnel) = connection.peer.tunnel() else { return };
        let hook_call = TunnelCall {
            tunnel: tunnel.place,
            client: self.client_id(slot),
            user: tunnel.user.clone(),
            address: self.client_address(slot),
            tunnel_request: TunnelRequest::Message { sequence, message },
        };
        if self.ask_tunnel(self.conn_id(slot), hook_call).is_err() {
            self.fail_tunnel(slot);
        }
    }

    fn ask_tunnel(&self, conn: ConnId, hook_call: TunnelCall) -> Result<Waiting, Busy> {
        let Some(control) = &self.env.control else { return Err(Busy) };
        let inbox = self.messages.mailer.router().inbox(self.env.id).clone();
        let reply = TunnelReply::new(move |answer| {
            let Some(taken) = answer.take() else { return };
            if let Err(ShardMessage::Tunnel(refused)) =
                inbox.push_control(ShardMessage::Tunnel(Box::new((conn, taken))))
            {
                *answer = Some(refused.1);
            }
        });
        control.ask_tunnel(hook_call, reply)
    }

    /// The backend has answered, or there is no telling what it wants.
    pub fn handle_tunnel_answer(&mut self, conn: ConnId, answer: TunnelAnswer) {
        let slot = self.live(conn);
        let open = slot.and_then(|slot| Some((slot, self.links.connections.tunnel(slot)?.is_open())));
        match open {
            Some((slot, false)) => self.handle_admission(slot, answer),
            Some((slot, true)) => self.handle_said(slot, answer),
            None => self.handle_answer_to_drained(conn, answer),
        }
    }

    fn handle_admission(&mut self, slot: u32, answer: TunnelAnswer) {
        let admission = match answer {
            TunnelAnswer::Admitted(admission) => *admission,
            TunnelAnswer::Refused { status } => {
                self.env.stats.fault(Cause::TunnelRefused);
                let mut error_code = Vec::new();
                HttpFault { status, reason: "the backend does not let this connection in" }
                    .write(&mut error_code);
                return self.leave_protocol(slot, error_code.into(), ClosingEnd::Fin);
            }
            TunnelAnswer::Said(_) | TunnelAnswer::Gone | TunnelAnswer::Failed => {
                return self.refuse_for_now(slot);
            }
        };
        let user = admission.user.as_deref().unwrap_or("");
        if self.env.options.blocks.refuses_user(user, self.unix_s()) {
            self.env.stats.fault(Cause::TunnelRefused);
            let mut error_code = Vec::new();
            HttpFault { status: 403, reason: "the user is blocked" }.write(&mut error_code);
            return self.leave_protocol(slot, error_code.into(), ClosingEnd::Fin);
        }
        // As other clients, so that an order to disconnect a user finds it, and a limit of connections counts it.
        if self.join_user(slot, admission.user.clone(), true) {
            if let Some(tunnel) = self.links.connections.tunnel_mut(slot) {
                tunnel.hold(admission);
            }
            return;
        }
        self.open_tunnel(slot, admission);
    }

    /// The client is in: its handshake is answered.
    pub fn open_tunnel(&mut self, slot: u32, admission: TunnelAdmission) {
        let unix_s = self.unix_s();
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(tunnel) = connection.peer.tunnel_mut() else { return };
        let Some(mut asking) = tunnel.open(admission.user.clone(), unix_s) else { return };
        self.env.stats.counters.websocket_upgrades_total += 1;
        self.env.stats.counters.tunnels_opened_total += 1;
        self.begin_peer(slot);
        let mut handshake = asking.handshake;
        handshake.protocol = admission.subprotocol.as_deref();
        let mut opening = Vec::new();
        handshake.write(&mut opening, &[]);
        self.send(slot, opening.into());
        if let Some(message) = admission.message {
            self.send_payload(slot, &message);
        }
        let mut unread = asking.unread.take();
        if !unread.is_empty() {
            self.read_on(slot);
            self.handle_bytes(slot, &mut unread);
        }
    }

    fn handle_said(&mut self, slot: u32, answer: TunnelAnswer) {
        match answer {
            TunnelAnswer::Said(said) => {
                if let Some(said) = said {
                    self.send_payload(slot, &said);
                }
            }
            TunnelAnswer::Gone => {
                if let Some(tunnel) = self.links.connections.tunnel_mut(slot) {
                    tunnel.discard();
                    tunnel.handle_answered();
                }
                self.links.ends.blame(slot, EndedBy::Backend);
                return self.close_tunnel(slot, 1000, "the backend has ended the connection");
            }
            TunnelAnswer::Failed | TunnelAnswer::Admitted(_) | TunnelAnswer::Refused { .. } => {
                return self.fail_tunnel(slot);
            }
        }
        // The answer may have been too much for the socket: then it is no tunnel's by now.
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(tunnel) = connection.peer.tunnel_mut() else { return };
        let limits = self.env.options.tunnels[usize::from(tunnel.place)].waiting;
        let resumes = tunnel.take_resume(limits);
        if resumes {
            // What the client answered to a ping meanwhile has not been read.
            connection.link.set_awaits_pong(false);
        }
        let next = tunnel.handle_answered();
        if resumes {
            self.read_on(slot);
        }
        if let Some(next) = next {
            self.hand_over(slot, next);
        }
    }

    /// An answer for a connection that has left.
    fn handle_answer_to_drained(&mut self, conn: ConnId, answer: TunnelAnswer) {
        let Some(mut drained) = self.peers.draining.connections.remove(&conn) else {
            // Let in, but nobody waited for that any more: the backend learns it.
            if let TunnelAnswer::Admitted(admission) = answer {
                self.tell_left_early(conn, *admission);
            }
            return;
        };
        self.peers.draining.bytes -= drained.tunnel.waiting().1;
        match answer {
            TunnelAnswer::Said(_) => {}
            TunnelAnswer::Gone => drained.tunnel.discard(),
            _ => drained.tunnel.fail(),
        }
        if let Some((sequence, message)) = drained.tunnel.handle_answered() {
            let hook_call = TunnelCall {
                tunnel: drained.tunnel.place,
                client: self.peers.client_ids.id(conn),
                user: drained.tunnel.user.clone(),
                address: drained.address,
                tunnel_request: TunnelRequest::Message { sequence, message },
            };
            if self.ask_tunnel(conn, hook_call).is_ok() {
                self.peers.draining.bytes += drained.tunnel.waiting().1;
                self.peers.draining.connections.insert(conn, drained);
                return;
            }
            drained.tunnel.fail();
        }
        self.end_drained(conn, drained);
    }

    /// Messages of connections that have gone, which another process had handed over: once more, under their numbers.
    pub fn resume_drained(&mut self) {
        for (conn, drained) in std::mem::take(&mut self.peers.draining.connections) {
            let Some((sequence, message)) =
                drained.tunnel.under_way().map(|(sequence, message)| (sequence, message.clone()))
            else {
                self.end_drained(conn, drained);
                continue;
            };
            let hook_call = TunnelCall {
                tunnel: drained.tunnel.place,
                client: self.peers.client_ids.id(conn),
                user: drained.tunnel.user.clone(),
                address: drained.address,
                tunnel_request: TunnelRequest::Message { sequence, message },
            };
            match self.ask_tunnel(conn, hook_call) {
                Ok(_) => drop(self.peers.draining.connections.insert(conn, drained)),
                Err(Busy) => {
                    self.peers.draining.bytes -= drained.tunnel.waiting().1;
                    self.end_drained(conn, drained);
                }
            }
        }
    }

    fn end_drained(&mut self, conn: ConnId, drained: Drained) {
        let Drained { tunnel, address, code, reason } = drained;
        let (messages, undelivered) = (tunnel.sequence(), tunnel.undelivered());
        self.env.stats.counters.tunnel_messages_undelivered_total += u64::from(undelivered);
        let tunnel_request = TunnelRequest::Close { code, reason, messages, undelivered };
        let client = self.peers.client_ids.id(conn);
        let hook_call =
            TunnelCall { tunnel: tunnel.place, client, user: tunnel.user.clone(), address, tunnel_request };
        self.tell_end(conn, hook_call);
    }

    /// A connection that was let in left before it was answered.
    fn tell_left_early(&mut self, conn: ConnId, admission: TunnelAdmission) {
        self.env.stats.counters.tunnels_opened_total += 1;
        // Which tunnel it was is in the admission: the connection itself is forgotten.
        let hook_call = TunnelCall {
            tunnel: admission.tunnel,
            client: self.peers.client_ids.id(conn),
            user: admission.user,
            address: admission.address,
            tunnel_request: TunnelRequest::Close {
                code: 1006,
                reason: "left before it was answered".into(),
                messages: 0,
                undelivered: 0,
            },
        };
        self.tell_end(conn, hook_call);
    }

    fn tell_end(&mut self, conn: ConnId, hook_call: TunnelCall) {
        if self.ask_tunnel(conn, hook_call).is_err() {
            self.env.stats.fault(Cause::TunnelCloseUntold);
        }
    }

    // --- ends

    /// The backend did not take a message: the client must not believe that it did.
    fn fail_tunnel(&mut self, slot: u32) {
        self.env.stats.fault(Cause::TunnelFailed);
        if let Some(tunnel) = self.links.connections.tunnel_mut(slot) {
            tunnel.fail();
        }
        self.close_tunnel(slot, 1011, "the backend did not take a message");
    }

    /// Ends a tunnel's connection with a Close frame. What waits for the backend is dropped: it is the backend that
    /// ends it, or cannot be reached.
    fn close_tunnel(&mut self, slot: u32, code: u16, reason: &str) {
        let mut frame = Vec::new();
        websocket::write_close(&mut frame, code, reason);
        self.part_tunnel(slot, code, reason, false);
        self.leave_protocol(slot, frame.into(), ClosingEnd::PeersClose);
    }

    /// Ends a tunnel's connection for a reason of ours, in the codes that any WebSocket client knows.
    pub fn end_tunnel(&mut self, slot: u32, disconnect: &Disconnect) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(tunnel) = connection.peer.tunnel_mut() else { return };
        if !tunnel.is_open() {
            let admission = if disconnect.reconnects() { None } else { tunnel.take_admission() };
            let Some(mut admission) = admission else { return self.refuse_for_now(slot) };
            // It has no place and is not to come back: WebSocket clients learn that by a Close frame only.
            admission.message = None;
            if let Some(asking) = tunnel.asking() {
                asking.unread.take();
            }
            self.open_tunnel(slot, *admission);
        }
        let code = code_for_all(disconnect);
        let by = self.links.ends.take_blame(slot, disconnect);
        self.links.ends.blame(slot, by);
        let mut frame = Vec::new();
        websocket::write_close(&mut frame, code, &disconnect.reason);
        self.part_tunnel(slot, code, &disconnect.reason, true);
        self.end_with(slot, disconnect, frame, ClosingEnd::PeersClose);
    }

    /// A client that was not let in and may try again.
    pub fn refuse_for_now(&mut self, slot: u32) {
        self.env.stats.fault(Cause::TunnelUnavailable);
        let mut answer = Vec::new();
        self.write_unavailable(&mut answer);
        self.leave_protocol(slot, answer.into(), ClosingEnd::Fin);
    }

    /// The connection, if it is a tunnel's, leaves: the backend gets what it has said, then hears of its end.
    /// The state is one that the caller is about to change.
    pub fn part_tunnel(&mut self, slot: u32, code: u16, reason: &str, deliver: bool) {
        let conn = self.conn_id(slot);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let Some(mut tunnel) = connection.peer.take_tunnel() else { return };
        if !tunnel.is_open() {
            // Dropped, it cancels its hook call.
            if let Some(admission) = tunnel.take_admission() {
                self.unlist(slot, admission.user.clone(), TUNNEL);
                self.tell_left_early(conn, *admission);
            }
            return;
        }
        self.keep_tunnels_end(slot, &tunnel, code, reason);
        self.unlist(slot, tunnel.user.clone(), TUNNEL);
        if !deliver || self.peers.draining.bytes + tunnel.waiting().1 > PARTED_BYTES_MAX {
            tunnel.discard();
        }
        let drained = Drained { tunnel, address: self.client_address(slot), code, reason: reason.into() };
        // While the backend has a message, the end is told behind that.
        if drained.tunnel.is_asking_backend() {
            self.peers.draining.bytes += drained.tunnel.waiting().1;
            self.peers.draining.connections.insert(conn, drained);
        } else {
            self.end_drained(conn, drained);
        }
    }

    fn write_unavailable(&mut self, out: &mut Vec<u8>) {
        let retry_after = [b'0' + self.env.prng.u8(1..=RETRY_AFTER_S_MAX)];
        let mut body = Vec::new();
        let code = ErrorCode::TooManyRequests.code();
        write_problem(&mut body, 503, code, "backend not available", "try again a little later");
        let fields: &[(&str, &[u8])] =
            &[("Retry-After", &retry_after), ("Connection", b"close"), ("Content-Type", PROBLEM_TYPE)];
        http1::write_response(out, 503, fields, &body);
    }

    // --- what the backend tells a connection from outside

    pub fn handle_tunnel_command(
        &mut self,
        conn: ConnId,
        command: TunnelCommand,
        reply: ControlReply<TunnelTold>,
    ) {
        let Some(slot) = self.live(conn) else { return reply.send(Ok(TunnelTold::Gone)) };
        let Some(connection) = self.links.connections.get(slot) else { return };
        let tunnel = match connection.peer.tunnel() {
            Some(tunnel) if tunnel.is_open() => tunnel,
            None if !connection.peer.has_left() => return reply.send(Ok(TunnelTold::NotATunnel)),
            Some(_) | None => return reply.send(Ok(TunnelTold::Gone)),
        };
        let owed_bytes = connection.link.pending.as_ref().map_or(0, |pending| pending.owed_bytes);
        let told = match command {
            TunnelCommand::Send(payload) => {
                let whole = payload.bytes.len() + websocket::FRAME_HEADER_BYTES_MAX;
                if owed_bytes + whole > self.env.options.outbox_bytes_max {
                    TunnelTold::Slow { owed_bytes }
                } else {
                    self.send_payload(slot, &payload);
                    TunnelTold::Done
                }
            }
            TunnelCommand::Close { code, reason } => {
                self.links.ends.blame(slot, EndedBy::Api);
                self.close_tunnel(slot, code, &reason);
                TunnelTold::Done
            }
            TunnelCommand::Describe => {
                let (messages_waiting, bytes_waiting) = tunnel.waiting();
                TunnelTold::Standing(Box::new(TunnelStanding {
                    tunnel: tunnel.place,
                    user: tunnel.user.clone(),
                    address: self.client_address(slot),
                    opened_at_s: tunnel.opened_at_s,
                    messages: tunnel.sequence(),
                    messages_waiting,
                    bytes_waiting,
                    owed_bytes,
                }))
            }
        };
        reply.send(Ok(told));
    }

    fn send_payload(&mut self, slot: u32, payload: &Payload) {
        self.env.stats.counters.tunnel_messages_sent_total += 1;
        let opcode = if payload.text { Opcode::Text } else { Opcode::Binary };
        self.send_frame(slot, opcode, &payload.bytes);
    }
}

/// What the backend gets to see of a request.
fn hello(head: &RequestHead<'_>, options: &TunnelOptions, passes_on: impl Fn(&str) -> bool) -> Hello {
    let wanted = options.forward_headers.iter().filter(|name| passes_on(name));
    let headers = wanted.filter_map(|name| {
        // Several lines are one list (RFC 9110 section 5.3), cookies one string (RFC 9113 section 8.2.3).
        let separator = if &**name == "cookie" { "; " } else { ", " };
        let values: Vec<_> = head.fields().all(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| (name.clone(), values.join(separator).into()))
    });
    let offered = head.fields().tokens("Sec-WebSocket-Protocol").filter(|token| http1::is_token(token));
    Hello {
        query: http1::escaped(head.query.unwrap_or_default()).into(),
        headers: headers.collect(),
        subprotocols: offered.map(|token| String::from_utf8_lossy(token).into()).collect(),
        certificate: None,
    }
}

/// Codes of the client protocol mean nothing to a client of another: those of RFC 6455 and the IANA registry do.
fn code_for_all(disconnect: &Disconnect) -> u16 {
    match disconnect.code {
        // Service restart: come back, here or to another node.
        3001 | 3011 => 1012,
        // Try again later.
        3008 | 3013 => 1013,
        // Internal error: also what libraries send for a ping without answer.
        3004 | 3012 => 1011,
        code => code,
    }
}
