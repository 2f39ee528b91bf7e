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
use crate::base::ids::Sock;
use crate::proto::websocket::deflate::{CompressionOptions, Deflated, Deflater, Inflater};

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
    pub unread: VecDeque<(Sock, Held)>,
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
    pub fn may_compress(&mut self, message_bytes: usize) -> bool {
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

    /// Whether half of that is spent.
    pub fn is_half_spent(&self) -> bool {
        self.inflater.work_bytes() - self.work_before >= INFLATED_BYTES_PER_TICK / 2
    }

    /// Something waits for the next tick.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// What the connection has sent and waits to be decoded.
    pub fn unread_of(&self, sock: Sock) -> &[u8] {
        self.unread.iter().find(|(of, _)| *of == sock).map_or(&[], |(_, held)| held.bytes())
    }

    pub fn is_waiting(&self, sock: Sock) -> bool {
        self.has_unread() && self.unread.iter().any(|(of, _)| *of == sock)
    }

    /// Messages inflated, their bytes, and what was compressed.
    pub fn totals(&self) -> ((u64, u64), Deflated) {
        (self.inflater.done(), self.deflater.done())
    }
}
