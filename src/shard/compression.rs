//! Compressed messages of WebSocket, within what a shard can spare.
//!
//! A publication is compressed once for all shards, whatever the number of its subscribers, as far as a tick's
//! [`COMPRESSED_BYTES_PER_TICK`] go. What one connection costs by
//! itself is bounded: a tick compresses [`OWN_BYTES_PER_TICK`] of messages that are for one connection, and sends others
//! as they are, which every client takes; and it inflates about [`INFLATED_BYTES_PER_TICK`], so that messages of some
//! bytes that are long when inflated hold nobody up. What goes beyond waits, and its connection is not read from
//! meanwhile.

use std::collections::{HashMap, VecDeque};
use std::mem;

use crate::base::budget::BudgetHeld;
use crate::base::ids::Sock;
use crate::proto::websocket::deflate::{CompressionOptions, Deflated, Deflater, Inflater};

/// Bytes of messages for one connection that are compressed in one tick: about 1.3 ms at the slowest level.
const OWN_BYTES_PER_TICK: usize = 256 * 1024;
/// Bytes of all messages that are compressed in one tick, publications among them: about 2.5 ms at the slowest level. A
/// longer publication, and those that come behind so many, go as they are.
const COMPRESSED_BYTES_PER_TICK: usize = 512 * 1024;
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
    pub unread: UnreadInput,
}

/// Input that is to be decoded in a later tick. Bound: the budget of HTTP input. Whether a connection has some is a flag of
/// its link: it is asked for each read of each that may compress.
#[derive(Default)]
pub(in crate::shard) struct UnreadInput {
    /// Whose turn comes when. Bound: each at most once, so the connections.
    turns: VecDeque<Sock>,
    input: HashMap<Sock, BudgetHeld>,
}

impl UnreadInput {
    /// What waits of a connection, to be put back with [`UnreadInput::insert`].
    pub fn take(&mut self, sock: Sock) -> BudgetHeld {
        self.input.get_mut(&sock).map(mem::take).unwrap_or_default()
    }

    /// All that waits of a connection. Its turn stays what it was.
    pub fn insert(&mut self, sock: Sock, held: BudgetHeld) {
        if self.input.insert(sock, held).is_none() {
            self.turns.push_back(sock);
        }
    }

    /// The one that has waited longest, and all that waits of it.
    pub fn pop(&mut self) -> Option<(Sock, Vec<u8>)> {
        while let Some(sock) = self.turns.pop_front() {
            if let Some(mut held) = self.input.remove(&sock) {
                return Some((sock, held.take()));
            }
        }
        None
    }

    /// It waits no more: its turn is skipped.
    pub fn forget(&mut self, sock: Sock) {
        self.input.remove(&sock);
    }

    /// What waits of it, with the room that it takes.
    pub fn leased_bytes(&self, sock: Sock) -> u64 {
        self.input.get(&sock).map_or(0, BudgetHeld::leased_bytes)
    }

    /// Connections that wait.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub fn of(&self, sock: Sock) -> &[u8] {
        self.input.get(&sock).map_or(&[], BudgetHeld::bytes)
    }
}

impl Compression {
    pub fn new(options: CompressionOptions) -> Compression {
        Compression {
            deflater: Deflater::bounded(options, COMPRESSED_BYTES_PER_TICK),
            inflater: Inflater::default(),
            own_bytes: 0,
            work_before: 0,
            unread: UnreadInput::default(),
        }
    }

    /// A tick begins.
    pub fn begin(&mut self) {
        self.own_bytes = 0;
        self.deflater.begin();
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

    /// Messages inflated, their bytes, and what was compressed.
    pub fn totals(&self) -> ((u64, u64), Deflated) {
        (self.inflater.done(), self.deflater.done())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::budget::Budget;

    fn push(unread: &mut UnreadInput, sock: Sock, budget: &Arc<Budget>, bytes: &[u8]) {
        let mut held = unread.take(sock);
        held.push(budget, bytes).unwrap();
        unread.insert(sock, held);
    }

    #[test]
    fn what_waits_comes_in_turn_and_whole() {
        let budget = Budget::new("input", 100);
        let mut unread = UnreadInput::default();
        let sock = |slot| Sock { slot, generation: 1 };
        assert!(unread.is_empty() && unread.pop().is_none());
        for (slot, bytes) in [(1, "one"), (2, "two"), (1, " and more"), (3, "three")] {
            push(&mut unread, sock(slot), &budget, bytes.as_bytes());
        }
        assert_eq!(
            (unread.len(), unread.of(sock(1)), unread.of(sock(9))),
            (3, &b"one and more"[..], &b""[..])
        );
        // The same slot, and another connection.
        assert_eq!(unread.of(Sock { slot: 1, generation: 2 }), b"");
        assert_eq!(unread.pop(), Some((sock(1), b"one and more".to_vec())));
        push(&mut unread, sock(1), &budget, b"again");
        assert!(unread.leased_bytes(sock(2)) >= 3);
        unread.forget(sock(2));
        assert_eq!((unread.leased_bytes(sock(2)), unread.of(sock(2))), (0, &b""[..]));
        let rest: Vec<_> = std::iter::from_fn(|| unread.pop()).map(|(sock, _)| sock.slot).collect();
        assert_eq!((rest, unread.len(), budget.used()), (vec![3, 1], 0, 0));
    }
}
