//! Connections that have agreed on compression: what they are sent, and when what they send is inflated. The bounds are
//! those of [`compression`](crate::shard::compression).

use crate::base::budget::Held;
use crate::base::bytes::Bytes;
use crate::base::ids::Sock;
use crate::proto::http1::RequestHead;
use crate::proto::websocket::deflate::{Agreed, negotiate};
use crate::proto::websocket::{Handshake, HandshakeFault, Opcode};
use crate::shard::core::Core;
use crate::shard::links::Action;
use crate::shard::stats::Cause;

/// Appends the answer that opens a connection.
pub(in crate::shard) fn write_switch(out: &mut Vec<u8>, handshake: &Handshake<'_>, agreed: Option<Agreed>) {
    match agreed.map(Agreed::field) {
        Some((name, value)) => handshake.write(out, &[(name, &value)]),
        None => handshake.write(out, &[]),
    }
}

impl Core {
    /// What of a client's offers is accepted. Without compression they are not looked at.
    pub fn negotiate(&self, head: &RequestHead<'_>) -> Result<Option<Agreed>, HandshakeFault> {
        self.env.options.compression.map_or(Ok(None), |_| negotiate(head))
    }

    /// A connection's upgrade has agreed on that.
    pub fn set_compression(&mut self, slot: u32, agreed: Option<Agreed>) {
        if let Some(connection) = self.links.connections.get_mut(slot) {
            connection.link.set_compression(agreed);
            self.env.stats.counters.websocket_compressed_total += u64::from(agreed.is_some());
        }
    }

    /// A message for one connection as its frame.
    pub fn own_frame(&mut self, slot: u32, opcode: Opcode, message: &[u8]) -> Option<Bytes> {
        let deflates = self.links.connections.get(slot).is_some_and(|connection| connection.link.deflates());
        if !deflates || opcode.is_control() || !self.links.compression.may_compress(message.len()) {
            return None;
        }
        Some(self.links.compression.deflater.frame(opcode, message).into())
    }

    /// Whether input of the connection must wait, because earlier input of it does.
    pub fn waits_to_inflate(&self, sock: Sock) -> bool {
        self.links.compression.is_waiting(sock)
    }

    /// Keeps input for a later tick, behind what is kept of it already, and reads no more of the connection.
    pub fn inflate_later(&mut self, sock: Sock, bytes: &[u8]) {
        let budget = &self.env.options.http.input;
        let unread = &mut self.links.compression.unread;
        let at = unread.iter().position(|(of, _)| *of == sock).unwrap_or_else(|| {
            unread.push_back((sock, Held::default()));
            unread.len() - 1
        });
        if unread[at].1.push(budget, bytes).is_err() {
            self.env.stats.fault(Cause::HttpInputFull);
            return self.give_up(sock.slot);
        }
        self.env.stats.counters.inflating_paused_total += 1;
        self.links.actions.push(Action::ReadPause(sock.slot));
    }

    /// Decodes what was kept, one connection after the other, as far as half a tick's part goes: the other half is for
    /// those who come now.
    pub fn inflate_unread(&mut self) {
        for _ in 0..self.links.compression.unread.len() {
            if self.links.compression.is_half_spent() {
                return;
            }
            let Some((sock, mut held)) = self.links.compression.unread.pop_front() else { return };
            if !self.is_current(sock) {
                continue;
            }
            let mut bytes = held.take();
            self.handle_bytes(sock.slot, &mut bytes);
            self.settle(sock.slot);
            if self.waits_to_inflate(sock) {
                continue;
            }
            let reads_on = self.links.connections.get(sock.slot).is_some_and(|connection| {
                let paused = connection.link.lag.as_ref().is_some_and(|lag| lag.read_paused);
                !paused && connection.peer.takes_frames() && !connection.peer.input_is_paused()
            });
            if reads_on {
                self.links.actions.push(Action::ReadStart(sock.slot));
            }
        }
    }
}
