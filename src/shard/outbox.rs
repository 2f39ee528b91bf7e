//! What leaves in this tick: for each connection with something to say, a chain of shared frames, sent as one write.

use crate::base::bytes::{Bytes, BytesMut};
use crate::driver::{Driver, Hold, Part, SendFailure};

pub const NONE: u32 = u32::MAX;

/// Above this many pieces a write is copied into one: the kernel takes at most 1024, and walking a long list of small
/// pieces costs more than copying them.
const PARTS_MAX: usize = 64;

/// Bytes held for this tick, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameId(u32);

/// A connection's end of its chain: 4 bytes in the slot. Where the chain starts, the outbox knows.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    last: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { last: NONE }
    }
}

impl Chain {
    /// Nothing is on its way in this tick.
    pub fn is_empty(&self) -> bool {
        self.last == NONE
    }
}

struct Entry {
    frame: FrameId,
    next: u32,
}

struct Frame {
    bytes: Bytes,
    hold: Option<Hold>,
}

#[derive(Default)]
pub struct Outbox {
    frames: Vec<Frame>,
    entries: Vec<Entry>,
    /// Connections with a chain, in the order in which they got one, and the chain's start. The index is the send's tag.
    dirty: Vec<(u32, u32)>,
    parts: Vec<Part>,
    sent_bytes: u64,
    sends: u64,
}

impl Outbox {
    /// Keeps `bytes` for this tick; any number of connections may then get them.
    pub fn frame(&mut self, bytes: Bytes) -> FrameId {
        self.frames.push(Frame { bytes, hold: None });
        FrameId(self.frames.len() as u32 - 1)
    }

    /// Adds a frame to what `slot`, whose chain is given, gets in this tick.
    pub fn append(&mut self, slot: u32, chain: &mut Chain, frame: FrameId) {
        let entry = self.entries.len() as u32;
        self.entries.push(Entry { frame, next: NONE });
        match chain.last {
            NONE => self.dirty.push((slot, entry)),
            last => self.entries[last as usize].next = entry,
        }
        chain.last = entry;
    }

    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Connections with a chain, for the caller to reset after [`Outbox::send_all`].
    pub fn dirty(&self) -> impl Iterator<Item = u32> {
        self.dirty.iter().map(|&(slot, _)| slot)
    }

    /// Writes queued so far, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.sends, self.sent_bytes)
    }

    /// Queues one write for each dirty connection. `generation` gives the driver's name of a slot, or `None` when
    /// the connection is gone.
    pub fn send_all<D: Driver>(
        &mut self,
        driver: &mut D,
        sock: impl Fn(u32) -> Option<crate::base::ids::Sock>,
    ) {
        for tag in 0..self.dirty.len() {
            let (slot, first) = self.dirty[tag];
            let Some(sock) = sock(slot) else { continue };
            self.parts.clear();
            let mut at = first;
            let mut bytes = 0;
            while at != NONE {
                let entry = &self.entries[at as usize];
                let frame = &mut self.frames[entry.frame.0 as usize];
                let hold = *frame.hold.get_or_insert_with(|| driver.hold(frame.bytes.clone()));
                bytes += frame.bytes.len();
                self.parts.push(Part { hold, range: 0..frame.bytes.len() as u32 });
                at = entry.next;
            }
            if self.parts.len() > PARTS_MAX {
                let mut whole = BytesMut::with_capacity(bytes);
                let mut at = first;
                while at != NONE {
                    let entry = &self.entries[at as usize];
                    whole.extend_from_slice(&self.frames[entry.frame.0 as usize].bytes);
                    at = entry.next;
                }
                let hold = driver.hold(whole.freeze());
                self.parts.clear();
                self.parts.push(Part { hold, range: 0..bytes as u32 });
            }
            driver.send(sock, &self.parts, tag as u32);
            self.sends += 1;
            self.sent_bytes += bytes as u64;
        }
    }

    /// Gives each dirty connection and the bytes of its chain.
    pub fn each_size(&self, each: &mut dyn FnMut(u32, u64)) {
        for &(slot, first) in &self.dirty {
            let (mut at, mut bytes) = (first, 0);
            while at != NONE {
                let entry = &self.entries[at as usize];
                bytes += self.frames[entry.frame.0 as usize].bytes.len() as u64;
                at = entry.next;
            }
            each(slot, bytes);
        }
    }

    /// The connection of a failed send, and what of its chain the kernel did not take.
    pub fn remainder(&self, failure: &SendFailure) -> (u32, Vec<Bytes>) {
        let (slot, first) = self.dirty[failure.tag as usize];
        let mut skip = failure.sent as usize;
        let mut rest = Vec::new();
        let mut at = first;
        while at != NONE {
            let entry = &self.entries[at as usize];
            let bytes = &self.frames[entry.frame.0 as usize].bytes;
            if skip < bytes.len() {
                rest.push(bytes.slice(skip..));
            }
            skip = skip.saturating_sub(bytes.len());
            at = entry.next;
        }
        (slot, rest)
    }

    /// The tick is over: nothing refers to its frames any more.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.entries.clear();
        self.dirty.clear();
    }
}
