//! Compressed messages of WebSocket, within what a shard can spare.
//!
//! A publication is compressed once for all shards, whatever the number of its subscribers. What one connection costs by
//! itself is bounded: a tick compresses [`OWN_BYTES_PER_TICK`] of messages that are for one connection, and sends others
//! as they are, which every client takes; and it inflates about [`INFLATED_BYTES_PER_TICK`], so that messages of some
//! bytes that are long when inflated hold nobody up. What goes beyond waits, and its connection is not read from
//! meanwhile.

use std::collections::VecDeque;
use std::mem;

use crate::base::budget::Held;
use crate::base::bytes::Bytes;
use crate::base::ids::Sock;
use crate::proto::http1::RequestHead;
use crate::proto::websocket::deflate::{Agreed, CompressionOptions, Deflated, Deflater, Inflater, negotiate};
use crate::proto::websocket::{Handshake, HandshakeFault, Opcode};
use crate::shard::core::Core;
use crate::shard::links::Action;
use crate::shard::stats::Cause;

/// Bytes of messages for one connection that are compressed in one tick: about 1.3 ms at the slowest level.
const OWN_BYTES_PER_TICK: usize = 256 * 1024;
/// Bytes inflated in one tick: about 0.7 ms. A message is never cut.
const INFLATED_BYTES_PER_TICK: u64 = 256 * 1024;

/// A shard's compressor and decompressor, and what they have done.
pub(in crate::shard) struct Compression {
    pub deflater: Deflater,
    /// Absent while a read is decoded.
    inflater: Inflater,
    own_bytes: usize,
    /// Where the inflater's work stood when the tick began.
    work_before: u64,
    /// Input that is to be decoded in a later tick, by connection, each at most once. Bound: the budget of HTTP input, at
    /// which connections are closed.
    unread: VecDeque<(Sock, Held)>,
}

impl Compression {
    pub fn new(options: CompressionOptions) -> Compression {
        Compression {
            deflater: Deflater::new(options),
            inflater: Inflater::default(),
            own_bytes: 0,
            work_before: 0,
            unread: VecDeque::new(),
        }
    }

    /// A tick begins.
    pub fn begin(&mut self) {
        self.own_bytes = 0;
        self.work_before = self.inflater.work_bytes();
    }

    /// Whether a message for one connection may be compressed in this tick. If so, it is counted.
    fn may_compress(&mut self, message_bytes: usize) -> bool {
        if !self.deflater.takes(message_bytes) || self.own_bytes + message_bytes > OWN_BYTES_PER_TICK {
            return false;
        }
        self.own_bytes += message_bytes;
        true
    }

    pub fn take_inflater(&mut self) -> Inflater {
        mem::take(&mut self.inflater)
    }

    pub fn put_inflater(&mut self, inflater: Inflater) {
        self.inflater = inflater;
    }

    /// Whether the tick has inflated enough; `inflater` is the one that was taken.
    pub fn is_spent(&self, inflater: &Inflater) -> bool {
        inflater.work_bytes() - self.work_before >= INFLATED_BYTES_PER_TICK
    }

    /// Something waits for the next tick.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// What the connection has sent and waits to be decoded.
    pub fn unread_of(&self, sock: Sock) -> &[u8] {
        self.unread.iter().find(|(of, _)| *of == sock).map_or(&[], |(_, held)| held.bytes())
    }

    fn is_waiting(&self, sock: Sock) -> bool {
        self.has_unread() && self.unread.iter().any(|(of, _)| *of == sock)
    }

    /// Messages inflated, their bytes, and what was compressed.
    pub fn totals(&self) -> ((u64, u64), Deflated) {
        (self.inflater.done(), self.deflater.done())
    }
}

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
            let done = self.links.compression.inflater.work_bytes() - self.links.compression.work_before;
            if done >= INFLATED_BYTES_PER_TICK / 2 {
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
