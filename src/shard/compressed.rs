//! Connections that have agreed on compression: what they are sent, and when what they send is inflated. The bounds are
//! those of [`compression`](crate::shard::compression).

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

    /// Keeps input for a later tick, behind what is kept of it already, and reads no more of the connection.
    pub fn inflate_later(&mut self, sock: Sock, bytes: &[u8]) {
        let mut held = self.links.compression.unread.take(sock);
        if self.keep_input(sock.slot, &mut held, bytes).is_err() {
            self.env.stats.fault(Cause::HttpInputFull);
            return self.give_up(sock.slot);
        }
        self.links.compression.unread.insert(sock, held);
        if let Some(connection) = self.links.connections.get_mut(sock.slot) {
            connection.link.set_awaits_inflating(true);
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
            let Some((sock, mut bytes)) = self.links.compression.unread.pop() else { return };
            if !self.is_current(sock) {
                continue;
            }
            if let Some(connection) = self.links.connections.get_mut(sock.slot) {
                connection.link.set_awaits_inflating(false);
            }
            self.handle_bytes(sock.slot, &mut bytes);
            self.settle(sock.slot);
            self.read_on(sock.slot);
        }
    }
}
