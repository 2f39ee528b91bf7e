//! What leaves in this tick: for each connection with something to say, a chain of shared frames, sent as one write.

use crate::base::bytes::{Bytes, BytesMut};
use crate::base::ids::Sock;
use crate::driver::{Driver, SendFailure, SendHold, SendPart};
use crate::layer::{Layer, Sealed};
use crate::shard::layers::Layers;

pub const NONE: u32 = u32::MAX;

/// Above this many pieces a write is copied into one: the kernel takes at most 1024, and walking a long list of small
/// pieces costs more than copying them.
const PARTS_MAX: usize = 64;

/// Bytes held for this tick, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameId(u32);

/// The bit of a [`FrameId`] that says that its bytes are sealed.
const SEALED: u32 = 1 << 31;

impl FrameId {
    fn index(self) -> usize {
        (self.0 & !SEALED) as usize
    }

    fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }
}

/// How a connection is sent to.
#[derive(Clone, Copy, Debug)]
pub enum SendTarget {
    Plain(Sock),
    /// By its layer; `last`: nothing follows.
    Layered {
        sock: Sock,
        last: bool,
    },
}

/// What the kernel did not take of a write.
#[derive(Debug)]
pub enum Rest {
    Plain(Vec<Bytes>),
    Sealed(Vec<Sealed>),
}

impl Rest {
    /// As they go to the socket.
    pub fn len(&self) -> usize {
        match self {
            Rest::Plain(rest) => rest.iter().map(|bytes| bytes.len()).sum(),
            Rest::Sealed(rest) => rest.iter().map(Sealed::len).sum(),
        }
    }
}

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

struct OutboxEntry {
    frame: FrameId,
    next: u32,
}

struct OutboxFrame {
    bytes: Bytes,
    hold: Option<SendHold>,
}

#[derive(Default)]
pub struct Outbox {
    frames: Vec<OutboxFrame>,
    entries: Vec<OutboxEntry>,
    /// Connections with a chain, in the order in which they got one, and the chain's start. The index is the send's tag.
    dirty: Vec<(u32, u32)>,
    parts: Vec<SendPart>,
    /// What sealed connections were sent in this tick, by tag, which grow.
    sealed: Vec<(u32, Vec<Sealed>)>,
    sent_bytes: u64,
    sends: u64,
}

impl Outbox {
    /// Keeps `bytes` for this tick; any number of connections may then get them.
    pub fn frame(&mut self, bytes: Bytes) -> FrameId {
        self.frames.push(OutboxFrame { bytes, hold: None });
        FrameId(self.frames.len() as u32 - 1)
    }

    /// Keeps what a layer has sealed, for its one connection.
    pub fn sealed_frame(&mut self, sealed: Sealed) -> FrameId {
        FrameId(self.frame(sealed.into_bytes()).0 | SEALED)
    }

    /// Adds a frame to what `slot`, whose chain is given, gets in this tick.
    pub fn append(&mut self, slot: u32, chain: &mut Chain, frame: FrameId) {
        let entry = self.entries.len() as u32;
        self.entries.push(OutboxEntry { frame, next: NONE });
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

    /// Queues one write for each dirty connection. `target` says of a slot how it is sent to, `None` when the connection is
    /// gone; `layers` has the layers of sealed ones.
    pub fn send_all<D: Driver>(
        &mut self,
        driver: &mut D,
        layers: &mut Layers,
        target: impl Fn(u32) -> Option<SendTarget>,
    ) {
        for tag in 0..self.dirty.len() {
            let (slot, first) = self.dirty[tag];
            let sock = match target(slot) {
                Some(SendTarget::Plain(sock)) => sock,
                Some(SendTarget::Layered { sock, last }) => {
                    if let Some(layer) = layers.get_mut(slot) {
                        self.seal_and_send(driver, layer, sock, tag as u32, last);
                    }
                    continue;
                }
                None => continue,
            };
            self.parts.clear();
            let mut at = first;
            let mut bytes = 0;
            while at != NONE {
                let entry = &self.entries[at as usize];
                let frame = &mut self.frames[entry.frame.index()];
                let hold = *frame.hold.get_or_insert_with(|| driver.hold(frame.bytes.clone()));
                bytes += frame.bytes.len();
                self.parts.push(SendPart { hold, range: 0..frame.bytes.len() as u32 });
                at = entry.next;
            }
            if self.parts.len() > PARTS_MAX {
                let mut whole = BytesMut::with_capacity(bytes);
                let mut at = first;
                while at != NONE {
                    let entry = &self.entries[at as usize];
                    whole.extend_from_slice(&self.frames[entry.frame.index()].bytes);
                    at = entry.next;
                }
                let hold = driver.hold(whole.freeze());
                self.parts.clear();
                self.parts.push(SendPart { hold, range: 0..bytes as u32 });
            }
            driver.send(sock, &self.parts, tag as u32);
            self.sends += 1;
            self.sent_bytes += bytes as u64;
        }
    }

    /// One connection's write: what was sealed before, then what its layer makes of the rest of the chain.
    fn seal_and_send<D: Driver>(
        &mut self,
        driver: &mut D,
        layer: &mut dyn Layer,
        sock: Sock,
        tag: u32,
        last: bool,
    ) {
        let (mut write, mut plain) = (Vec::new(), Vec::new());
        let mut at = self.dirty[tag as usize].1;
        while at != NONE {
            let entry = &self.entries[at as usize];
            let bytes = &self.frames[entry.frame.index()].bytes;
            match entry.frame.is_sealed() {
                true => write.push(Sealed::new(bytes.clone())),
                false => plain.push(bytes.clone()),
            }
            at = entry.next;
        }
        let mut sealed = BytesMut::new();
        layer.seal(&plain, last, &mut sealed);
        if write.len() >= PARTS_MAX {
            // Refused that often: one piece again, in front of what is new.
            let mut whole =
                BytesMut::with_capacity(write.iter().map(Sealed::len).sum::<usize>() + sealed.len());
            write.drain(..).for_each(|earlier| whole.extend_from_slice(earlier.bytes()));
            whole.extend_from_slice(&sealed);
            sealed = whole;
        }
        if !sealed.is_empty() {
            write.push(Sealed::new(sealed.freeze()));
        }
        if write.is_empty() {
            return;
        }
        self.parts.clear();
        for piece in &write {
            let hold = driver.hold(piece.bytes().clone());
            self.parts.push(SendPart { hold, range: 0..piece.len() as u32 });
            self.sent_bytes += piece.len() as u64;
        }
        driver.send(sock, &self.parts, tag);
        self.sends += 1;
        self.sealed.push((tag, write));
    }

    /// What a sealed connection was sent.
    fn sealed_write(&self, tag: u32) -> Option<&[Sealed]> {
        let at = self.sealed.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?;
        Some(&self.sealed[at].1)
    }

    /// What each dirty connection is sent, without a driver. The index is the send's tag.
    #[cfg(test)]
    pub fn writes(&self) -> Vec<(u32, Vec<u8>)> {
        let write = |&(slot, first): &(u32, u32)| {
            let mut whole = Vec::new();
            let mut at = first;
            while at != NONE {
                let entry = &self.entries[at as usize];
                whole.extend_from_slice(&self.frames[entry.frame.index()].bytes);
                at = entry.next;
            }
            (slot, whole)
        };
        self.dirty.iter().map(write).collect()
    }

    /// Gives each dirty connection and the bytes of its write, as they go to the socket.
    pub fn each_size(&self, each: &mut dyn FnMut(u32, u64)) {
        for (tag, &(slot, first)) in self.dirty.iter().enumerate() {
            if let Some(write) = self.sealed_write(tag as u32) {
                each(slot, write.iter().map(|sealed| sealed.len() as u64).sum());
                continue;
            }
            let (mut at, mut bytes) = (first, 0);
            while at != NONE {
                let entry = &self.entries[at as usize];
                bytes += self.frames[entry.frame.index()].bytes.len() as u64;
                at = entry.next;
            }
            each(slot, bytes);
        }
    }

    /// Gives each dirty connection the length of its write and its pieces, before anything is sealed.
    pub fn each_write(&self, mut each: impl FnMut(u32, usize, &[&[u8]])) {
        let mut pieces: Vec<&[u8]> = Vec::new();
        for &(slot, first) in &self.dirty {
            pieces.clear();
            let mut at = first;
            while at != NONE {
                let entry = &self.entries[at as usize];
                pieces.push(&self.frames[entry.frame.index()].bytes);
                at = entry.next;
            }
            each(slot, pieces.iter().map(|piece| piece.len()).sum(), &pieces);
        }
    }

    /// The connection of a failed send, and what of its write the kernel did not take.
    pub fn remainder(&self, failure: &SendFailure) -> (u32, Rest) {
        let (slot, first) = self.dirty[failure.tag as usize];
        if let Some(write) = self.sealed_write(failure.tag) {
            return (slot, Rest::Sealed(Sealed::rest(write, failure.sent as usize)));
        }
        let mut skip = failure.sent as usize;
        let mut rest = Vec::new();
        let mut at = first;
        while at != NONE {
            let entry = &self.entries[at as usize];
            let bytes = &self.frames[entry.frame.index()].bytes;
            if skip < bytes.len() {
                rest.push(bytes.slice(skip..));
            }
            skip = skip.saturating_sub(bytes.len());
            at = entry.next;
        }
        (slot, Rest::Plain(rest))
    }

    /// The tick is over: nothing refers to its frames any more.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.entries.clear();
        self.dirty.clear();
        self.sealed.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::driver::sim::{ClientEnd, Faults, SimDriver, SimNet};
    use crate::driver::{DriverEvent, DriverOptions};
    use crate::layer::OpenedBytes;

    /// Puts a number before each seal: sealed twice, or out of order, it would show.
    #[derive(Default)]
    struct Numbered(u8);

    impl Layer for Numbered {
        fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, OpenedBytes<'a>) {
            (bytes.len(), OpenedBytes::Plain(bytes))
        }

        fn seal(&mut self, plain: &[Bytes], _: bool, sealed: &mut BytesMut) {
            if !plain.is_empty() {
                self.0 += 1;
                sealed.extend_from_slice(&[b'#', self.0]);
                plain.iter().for_each(|bytes| sealed.extend_from_slice(bytes));
            }
        }

        fn wants_to_speak(&self) -> bool {
            false
        }

        fn stored_bytes(&self) -> usize {
            0
        }
    }

    /// A client that does not read, and whose socket takes `room` bytes.
    fn connected(room: usize) -> (SimNet, SimDriver, ClientEnd, Sock) {
        let faults = Faults { send_buffer_bytes: room..=room, client_window_bytes: 1..=1, ..Faults::none() };
        let net = SimNet::new(1, faults);
        let mut driver = net.driver(&DriverOptions {
            listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
            sockets_max: 4,
            recv_buffer_bytes: 16,
            recv_buffers: 1,
            socket: Default::default(),
        });
        driver.accept_start();
        let mut client = net.connect();
        client.read_pause();
        let mut events = Vec::new();
        while events.is_empty() {
            net.advance(Duration::from_millis(1));
            driver.wait(&mut events, None).expect("the simulator's wait does not fail");
        }
        let [DriverEvent::Accepted { sock, .. }] = events[..] else { panic!("{events:?}") };
        (net, driver, client, sock)
    }

    /// One tick: what is owed, then `plain`. What is owed afterwards.
    fn send(
        outbox: &mut Outbox,
        driver: &mut SimDriver,
        layers: &mut Layers,
        sock: Sock,
        owed: Vec<Sealed>,
        plain: &str,
    ) -> Vec<Sealed> {
        let mut chain = Chain::default();
        for sealed in owed {
            let frame = outbox.sealed_frame(sealed);
            outbox.append(sock.slot, &mut chain, frame);
        }
        if !plain.is_empty() {
            let frame = outbox.frame(Bytes::copy_from_slice(plain.as_bytes()));
            outbox.append(sock.slot, &mut chain, frame);
        }
        outbox.send_all(driver, layers, |_| Some(SendTarget::Layered { sock, last: false }));
        let mut sizes = Vec::new();
        outbox.each_size(&mut |slot, bytes| sizes.push((slot, bytes)));
        let mut failures = Vec::new();
        driver.flush(&mut failures);
        let owed = match failures[..] {
            [] => Vec::new(),
            [failure] => {
                let (slot, rest) = outbox.remainder(&failure);
                assert_eq!(sizes, [(slot, u64::from(failure.sent) + rest.len() as u64)], "sealed bytes");
                let Rest::Sealed(rest) = rest else { panic!("{rest:?}") };
                rest
            }
            _ => panic!("{failures:?}"),
        };
        outbox.clear();
        owed
    }

    #[test]
    fn what_is_sealed_is_sent_again_as_it_is_however_often_it_is_refused() {
        let (net, mut driver, mut client, sock) = connected(10);
        let (mut outbox, mut layers) = (Outbox::default(), Layers::default());
        layers.insert(sock.slot, Box::new(Numbered::default()));
        let mut expected = Vec::new();
        let mut owed = Vec::new();
        for number in 1..=200u8 {
            let text = format!("message {number}");
            expected.extend([b'#', number]);
            expected.extend(text.bytes());
            owed = send(&mut outbox, &mut driver, &mut layers, sock, owed, &text);
            assert!(owed.len() <= PARTS_MAX + 1, "{} pieces", owed.len());
        }
        let mut heard = Vec::new();
        client.read_resume();
        while !owed.is_empty() {
            net.advance(Duration::from_millis(1));
            client.recv_into(&mut heard);
            owed = send(&mut outbox, &mut driver, &mut layers, sock, owed, "");
        }
        net.advance(Duration::from_millis(1));
        client.recv_into(&mut heard);
        assert_eq!(heard, expected);
    }
}
