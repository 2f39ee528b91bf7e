//! What a shard does with a peer where that hangs on its kind: with its input, at its end, when its time has come, when it has
//! come from another process.

use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::base::ids::Sock;
use crate::session::tunnel::Payload;
use crate::shard::core::Core;
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::peer::Kind;

impl Core {
    /// The state may change on the way: what follows an upgrade in the same read is its first frame.
    pub fn handle_bytes(&mut self, slot: u32, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let Some(connection) = self.links.connections.get_mut(slot) else { return };
            let consumed = match &connection.peer.kind {
                _ if connection.peer.takes_frames() => return self.handle_frames(slot, bytes),
                Kind::Http(_) => self.handle_http(slot, bytes),
                Kind::Unidirectional(_) => return self.keep_for_later(slot, bytes),
                Kind::Tunnel(_) => return self.keep_for_tunnel(slot, bytes),
                // In its order: behind what waits.
                Kind::Nobody if connection.link.awaits_inflating() => {
                    let sock = connection.link.sock(slot);
                    return self.inflate_later(sock, bytes);
                }
                Kind::Nobody => return self.handle_after_close(slot, bytes),
                Kind::Echo | Kind::Client(_) => return,
            };
            bytes = &mut bytes[consumed..];
        }
    }

    /// Ends a connection for the given reason: a Close frame where one can be understood, then FIN.
    pub fn close(&mut self, slot: u32, disconnect: Disconnect) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if disconnect == Disconnect::NO_PONG || disconnect == Disconnect::SLOW {
            connection.link.set_silent(true);
        }
        match &connection.peer.kind {
            Kind::Client(_) | Kind::Echo => {
                if !self.refuse_by_status(slot, &disconnect) {
                    self.end_stream(slot, &disconnect);
                }
            }
            Kind::Unidirectional(_) => {
                if !self.end_request(slot, &disconnect) {
                    self.end_stream(slot, &disconnect);
                }
            }
            Kind::Http(Some(http)) if http.inquiry.is_some() => {
                self.end_inquiry(slot);
            }
            Kind::Tunnel(_) => self.end_tunnel(slot, &disconnect),
            Kind::Http(Some(http)) if http.request.as_ref().is_some_and(|request| request.asked) => {
                // The answer under way still goes out, and is the last one: see `handle_http_answer`.
            }
            Kind::Http(_) => self.leave_protocol(slot, Bytes::new(), ClosingEnd::Fin),
            Kind::Nobody => {}
        }
    }

    /// The time of a connection has come, whatever was set for it.
    pub fn handle_timer(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        match &connection.peer.kind {
            Kind::Http(_) if connection.link.awaits_proxy() => self.handle_proxy_timer(slot),
            Kind::Http(_) if self.in_handshake(slot) => self.handle_handshake_timer(slot),
            _ if connection.peer.listed() => self.handle_peer_timer(slot),
            Kind::Http(_) => self.handle_http_timer(slot),
            Kind::Client(session) => match session.awaits() {
                Some(_) => self.handle_hook_call_timer(slot),
                None => self.close(slot, Disconnect::STALE),
            },
            Kind::Unidirectional(_) => self.handle_poll_timer(slot),
            Kind::Tunnel(_) => self.refuse_for_now(slot),
            // The peer has not ended its side in time.
            Kind::Nobody if connection.link.phase != Phase::Gone => self.give_up(slot),
            Kind::Nobody | Kind::Echo => {}
        }
    }

    /// A peer that has come from another process goes on. Its connection is that of `sock`.
    pub fn resume_protocol(&mut self, slot: u32, sock: Sock) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        match &mut connection.peer.kind {
            Kind::Client(session) => {
                // Whatever it waited for in the other process, it looks once more whether it may go on.
                session.resumes = false;
                let asks = session.awaits().is_some();
                self.resume_commands_later(slot);
                if asks
                    && let Some(Err(disconnect)) =
                        self.with_session(slot, |session, cx| session.ask_once_more(cx))
                {
                    self.close(slot, disconnect);
                }
            }
            Kind::Http(Some(http)) if !http.unread.is_empty() => self.links.resuming.push(sock),
            Kind::Unidirectional(_) => self.links.resuming.push(sock),
            Kind::Tunnel(tunnel) => {
                let next: Option<(u64, Payload)> =
                    tunnel.under_way().map(|(sequence, message)| (sequence, message.clone()));
                let asks = !tunnel.is_admitted();
                if let Some(next) = next {
                    self.hand_over(slot, next);
                } else if asks {
                    // Its ticket may have been redeemed, and its backend have let it in.
                    self.refuse_for_now(slot);
                }
            }
            Kind::Http(_) | Kind::Echo | Kind::Nobody => {}
        }
    }
}
