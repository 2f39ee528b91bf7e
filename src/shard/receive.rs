//! Bytes from a connection, by what it speaks.

use std::mem;

use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::proto::websocket::deflate::Inflater;
use crate::proto::websocket::{self, Decoder, Message, Opcode, Role, WsFault};
use crate::proto::wire::{Carrier, Wire};
use crate::shard::control_request::observer::Observation;
use crate::shard::core::Core;
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::links::Action;
use crate::shard::observe::copied;
use crate::shard::pings::Liveness;
use crate::shard::stats::Cause;

/// Bytes of messages from which on they are sent from the buffer that they were written to.
const OWN_BUFFER_BYTES: usize = 16 * 1024;

/// What a connection's message came to.
enum ReceiveOutcome {
    Goes,
    /// The connection has left the state in which it spoke WebSocket.
    Left,
}

impl Core {
    pub fn handle_received(&mut self, slot: u32, bytes: &mut [u8]) {
        self.env.stats.counters.received_bytes_total += bytes.len() as u64;
        if let Err(disconnect) = self.admit_bytes(slot, bytes.len()) {
            return self.close(slot, disconnect);
        }
        self.owned.events.received(slot, bytes.len());
        let mut bytes = bytes;
        if let Some(connection) = self.links.connections.get(slot)
            && connection.link.awaits_proxy()
            && !connection.link.is_closing()
        {
            match self.take_proxy_header(slot, bytes) {
                Some(len) => bytes = &mut bytes[len..],
                None => bytes = &mut [],
            }
        }
        match self.links.connections.get(slot) {
            Some(connection) if connection.link.is_layered() => self.open(slot, bytes),
            _ => self.handle_bytes(slot, bytes),
        }
        self.settle(slot);
    }

    /// A reason not to read from the connection is gone: it is read from, unless there is another.
    pub fn read_on(&mut self, slot: u32) {
        if self.links.connections.get(slot).is_some_and(|connection| connection.may_be_read()) {
            self.links.actions.push(Action::ReadStart(slot));
        }
    }

    pub fn handle_frames(&mut self, slot: u32, bytes: &mut [u8]) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        if !connection.link.inflates() {
            return self.decode_frames(slot, bytes, None);
        }
        if connection.link.awaits_inflating() {
            return self.inflate_later(connection.link.sock(slot), bytes);
        }
        let mut inflater = self.links.compression.take_inflater();
        self.decode_frames(slot, bytes, Some(&mut inflater));
        self.links.compression.put_inflater(inflater);
    }

    fn decode_frames(&mut self, slot: u32, mut bytes: &mut [u8], mut inflater: Option<&mut Inflater>) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let message_bytes_max = connection.peer.message_bytes_max(self.env.options.message_bytes_max);
        // An idle connection has no decoder: most frames come whole and need it only here.
        let mut fresh = Decoder::new(Role::Server, message_bytes_max).deflating(inflater.is_some());
        let mut boxed = connection.link.decoder.take();
        let decoder = boxed.as_deref_mut().unwrap_or(&mut fresh);
        let mut turn = connection.peer.turn_messages_max();
        let mut spent = false;
        while !bytes.is_empty() && turn > 0 {
            spent = inflater.as_ref().is_some_and(|inflater| self.links.compression.is_spent(inflater));
            if spent {
                break;
            }
            match decoder.decode(bytes) {
                Ok((consumed, message)) => {
                    turn -= usize::from(message.is_some());
                    let message = match (message, &mut inflater) {
                        (Some(Message::Compressed { text, payload }), Some(inflater)) => {
                            match inflater.message(text, payload, message_bytes_max) {
                                Ok(message) => Some(message),
                                Err(fault) => return self.handle_frame_fault(slot, fault),
                            }
                        }
                        (message, _) => message,
                    };
                    if let Some(message) = message
                        && let ReceiveOutcome::Left = self.handle_message_of(slot, message)
                    {
                        return;
                    }
                    bytes = &mut bytes[consumed..];
                }
                Err(fault) => return self.handle_frame_fault(slot, fault),
            }
        }
        if !decoder.is_idle() {
            let kept = boxed.unwrap_or_else(|| Box::new(fresh));
            if let Some(connection) = self.links.connections.get_mut(slot)
                && connection.peer.takes_frames()
            {
                connection.link.decoder = Some(kept);
            }
        }
        if bytes.is_empty() {
            return;
        }
        match self.links.connections.get(slot).map(|connection| connection.link.sock(slot)) {
            Some(sock) if spent => self.inflate_later(sock, bytes),
            _ => self.hold_turn(slot, bytes),
        }
    }

    fn handle_message_of(&mut self, slot: u32, message: Message<'_>) -> ReceiveOutcome {
        self.env.stats.counters.messages_received_total += 1;
        let echo = self.links.connections.get(slot).is_some_and(|connection| connection.peer.is_echo());
        let uni = self.is_uni(slot);
        let tunnel = self.links.connections.tunnel(slot).is_some();
        if self.is_observed()
            && let Message::Text(_) | Message::Binary(_) = message
        {
            let bytes = match message {
                Message::Text(text) => text.as_bytes(),
                Message::Binary(data) => data,
                _ => &[],
            };
            self.show(slot, || Observation::In { bytes: bytes.len(), payload: copied(bytes) });
        }
        match message {
            Message::Text(_) | Message::Binary(_) | Message::Pong(_) if tunnel => {
                self.handle_tunnel_message(slot, message);
            }
            // None of these is left compressed.
            Message::Compressed { .. } => debug_assert!(false, "a message is inflated before it is handled"),
            Message::Text(text) if uni => self.handle_uni_command(slot, text),
            Message::Binary(_) if uni => {
                self.close(slot, Disconnect::BAD_REQUEST);
            }
            Message::Pong(_) if uni => {
                if let Some(connection) = self.links.connections.get_mut(slot) {
                    connection.link.set_awaits_pong(false);
                }
                self.ping_answered(slot);
            }
            Message::Text(text) if !echo => self.handle_commands(slot, text.as_bytes()),
            // Which of the two a message is says nothing about its format, as for the protocol's reference server.
            Message::Binary(data) if !echo => self.handle_commands(slot, data),
            Message::Text(text) => self.send_frame(slot, Opcode::Text, text.as_bytes()),
            Message::Binary(data) => self.send_frame(slot, Opcode::Binary, data),
            Message::Ping(payload) => self.send_frame(slot, Opcode::Pong, payload),
            // Of a library, to a ping of ours.
            Message::Pong(_) if !echo => {
                if let Some(connection) = self.links.connections.get_mut(slot)
                    && connection.peer.liveness() == Some(Liveness::PongUntilNext)
                {
                    connection.link.set_awaits_pong(false);
                    self.ping_answered(slot);
                }
            }
            Message::Pong(_) => {}
            Message::Close { code, reason } => {
                self.take_up_last(slot);
                if !self.is_in_protocol(slot) {
                    // One of them was its end: this answers our Close frame.
                    self.set_ending(slot, ClosingEnd::Both);
                    return ReceiveOutcome::Left;
                }
                self.part_tunnel(slot, code.unwrap_or(1005), reason, true);
                // RFC 6455 section 5.5.1: the answer echoes the code; without one it has none either.
                let mut frame = Vec::new();
                match code {
                    Some(code) => websocket::write_close(&mut frame, code, ""),
                    None => websocket::write_frame(&mut frame, Opcode::Close, b""),
                }
                self.leave_protocol(slot, frame.into(), ClosingEnd::Both);
            }
        }
        if !self.is_in_protocol(slot) {
            return ReceiveOutcome::Left;
        }
        self.pause_if_indebted(slot);
        self.pause_if_holding(slot);
        ReceiveOutcome::Goes
    }

    fn is_in_protocol(&self, slot: u32) -> bool {
        self.links.connections.get(slot).is_some_and(|connection| connection.peer.is_in_protocol())
    }

    fn handle_frame_fault(&mut self, slot: u32, fault: WsFault) {
        self.env.stats.fault(match fault.close_code {
            1007 if fault == WsFault::NOT_DEFLATE => Cause::FrameNotDeflate,
            1007 => Cause::FrameNotUtf8,
            1009 => Cause::FrameTooBig,
            _ => Cause::FrameProtocol,
        });
        self.part_tunnel(slot, fault.close_code, fault.reason, true);
        let mut frame = Vec::new();
        websocket::write_close(&mut frame, fault.close_code, fault.reason);
        self.owned.events.note_end(slot, &Disconnect { code: fault.close_code, reason: fault.reason.into() });
        self.leave_protocol(slot, frame.into(), ClosingEnd::Fin);
    }

    /// What comes behind our own Close frame is discarded, up to the peer's (RFC 6455 section 5.5.1).
    pub fn handle_after_close(&mut self, slot: u32, mut bytes: &mut [u8]) {
        let message_bytes_max = self.env.options.message_bytes_max;
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let link = &mut connection.link;
        if link.phase != Phase::Closing(ClosingEnd::PeersClose) {
            return;
        }
        let mut decoder = link.decoder.take().unwrap_or_else(|| {
            let decoder = Decoder::new(Role::Server, message_bytes_max);
            Box::new(decoder.deflating(link.inflates()))
        });
        while !bytes.is_empty() {
            match decoder.decode(bytes) {
                Ok((_, Some(Message::Close { .. }))) => return self.set_ending(slot, ClosingEnd::Both),
                Ok((consumed, _)) => bytes = &mut bytes[consumed..],
                // Nothing more can be understood of it: FIN, and whatever the peer makes of that.
                Err(_) => return self.set_ending(slot, ClosingEnd::Fin),
            }
        }
        if !decoder.is_idle() {
            link.decoder = Some(decoder);
        }
    }

    /// The peer's Close frame is not awaited any longer.
    fn set_ending(&mut self, slot: u32, end: ClosingEnd) {
        if let Some(connection) = self.links.connections.get_mut(slot)
            && connection.link.phase == Phase::Closing(ClosingEnd::PeersClose)
        {
            connection.link.phase = Phase::Closing(end);
            self.links.finishing.push(slot);
        }
    }

    pub fn send_frame(&mut self, slot: u32, opcode: Opcode, payload: &[u8]) {
        if let Some(frame) = self.own_frame(slot, opcode, payload) {
            return self.send(slot, frame);
        }
        let mut frame = Vec::with_capacity(payload.len() + websocket::FRAME_HEADER_BYTES_MAX);
        websocket::write_frame(&mut frame, opcode, payload);
        self.send(slot, Bytes::from(frame));
    }

    /// Sends what has been written to the scratch text as one message of the client protocol.
    pub fn send_messages(&mut self, slot: u32, wire: Wire) {
        if self.peers.text.is_empty() {
            return;
        }
        let mut text = mem::take(&mut self.peers.text);
        self.messages.answered_bytes += text.len();
        if !matches!(wire.carrier, Carrier::WebSocket | Carrier::WebSocketPings) {
            self.send_carried(slot, wire, &text);
            text.clear();
            self.peers.text = text;
            return;
        }
        if text.len() >= OWN_BUFFER_BYTES {
            if let Some(frame) = self.own_frame(slot, wire.opcode(), &text) {
                return self.send(slot, frame);
            }
            // Sent as it is: not copied behind its header, and the scratch space does not stay as large.
            let (header, len) = websocket::frame_header(wire.opcode(), text.len());
            self.send(slot, Bytes::copy_from_slice(&header[..len]));
            self.send(slot, Bytes::from(text));
            return;
        }
        self.send_frame(slot, wire.opcode(), &text);
        text.clear();
        self.peers.text = text;
    }

    /// A client that does not read its answers is not asked for more hook calls.
    fn pause_if_indebted(&mut self, slot: u32) {
        let half = self.env.options.outbox_bytes_max / 2;
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let allowance = if connection.peer.is_echo() { 0 } else { half };
        if let Some(pending) = &mut connection.link.pending
            && pending.blocked
            && pending.owed_bytes > allowance
            && !pending.read_paused
        {
            pending.read_paused = true;
            self.links.actions.push(Action::ReadPause(slot));
        }
    }
}
