//! One transport connection: the driver's name of it, its input framing, what it has not sent, how it ends.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::base::bytes::Bytes;
use crate::base::ids::Sock;
use crate::base::time::Time;
use crate::hub::followed::{ChannelIndex, Cursor};
use crate::layer::Sealed;
use crate::proto::websocket::Decoder;
use crate::proto::websocket::deflate::Agreed;
use crate::shard::outbox::Chain;
use crate::shard::subscriber_pace::SubscriberPace;
use crate::shard::timers::ShortTick;

/// The socket's side of a connection. What is said over it, its [peer](crate::shard::peer::Peer) knows.
///
/// ```text
///  Open ──close──▶ Closing ──▶ Gone ──Closed──▶ (slot free)
///    └─ peer's end, a fault, the deadline ─▲
/// ```
pub struct Link {
    /// Present while the socket does not take everything at once.
    pub pending: Option<Box<PendingOutput>>,
    /// Half a frame of WebSocket, while there is one.
    pub decoder: Option<Box<Decoder>>,
    /// The driver's: tells the uses of a slot apart.
    pub generation: u32,
    /// What leaves in this tick.
    pub chain: Chain,
    /// When the next ping is due, or the pong to the last one.
    pub ping_due: ShortTick,
    pub phase: Phase,
    flags: u16,
}

const _: () = assert!(size_of::<Link>() <= 32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// Its last bytes are on their way. What still comes in is discarded until the peer ends.
    Closing(ClosingEnd),
    /// Closed by us; the driver has not said so yet.
    Gone,
}

/// How a closing link comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosingEnd {
    /// We have sent our Close frame and the peer has not: its own is awaited (RFC 6455 section 7.1.1).
    PeersClose,
    /// FIN follows our last bytes; then the peer's is awaited.
    Fin,
    /// The peer has said its last word: the socket is closed behind ours.
    Both,
}

const PEER_ENDED: u16 = 1;
const SEATED: u16 = 2;
const SILENT: u16 = 4;
const INDEBTED: u16 = 8;
const AWAITS_PONG: u16 = 16;
const LAYERED: u16 = 32;
const INFLATES: u16 = 64;
const DEFLATES: u16 = 128;
const AWAITS_PROXY: u16 = 256;
const AWAITS_INFLATING: u16 = 512;
const AWAITS_STEP: u16 = 1024;
const HOLDS_INPUT: u16 = 2048;

impl Link {
    pub fn new(generation: u32) -> Link {
        Link {
            pending: None,
            decoder: None,
            generation,
            chain: Chain::default(),
            ping_due: ShortTick::default(),
            phase: Phase::Open,
            flags: 0,
        }
    }

    pub fn sock(&self, slot: u32) -> Sock {
        Sock { slot, generation: self.generation }
    }

    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    fn set(&mut self, flag: u16, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    /// The peer has sent its FIN: there will be no other sign of it.
    pub fn peer_ended(&self) -> bool {
        self.flags & PEER_ENDED != 0
    }

    pub fn set_peer_ended(&mut self) {
        self.set(PEER_ENDED, true);
    }

    /// It has one of the node's seats: to be given back when it is gone.
    pub fn seated(&self) -> bool {
        self.flags & SEATED != 0
    }

    pub fn set_seated(&mut self) {
        self.set(SEATED, true);
    }

    /// Closed for slowness or silence: what the kernel still holds for it will not be read.
    pub fn silent(&self) -> bool {
        self.flags & SILENT != 0
    }

    pub fn set_silent(&mut self, on: bool) {
        self.set(SILENT, on);
    }

    /// Among the shard's debtors.
    pub fn indebted(&self) -> bool {
        self.flags & INDEBTED != 0
    }

    pub fn set_indebted(&mut self, on: bool) {
        self.set(INDEBTED, on);
    }

    pub fn awaits_pong(&self) -> bool {
        self.flags & AWAITS_PONG != 0
    }

    pub fn set_awaits_pong(&mut self, on: bool) {
        self.set(AWAITS_PONG, on);
    }

    /// Its bytes are sealed by a layer: see `sealed.rs`.
    pub fn is_layered(&self) -> bool {
        self.flags & LAYERED != 0
    }

    pub fn set_layered(&mut self) {
        self.set(LAYERED, true);
    }

    /// Messages from it may be compressed.
    pub fn inflates(&self) -> bool {
        self.flags & INFLATES != 0
    }

    /// Messages to it may be compressed.
    pub fn deflates(&self) -> bool {
        self.flags & DEFLATES != 0
    }

    /// What its upgrade to WebSocket has agreed on.
    pub fn set_compression(&mut self, agreed: Option<Agreed>) {
        self.set(INFLATES, agreed.is_some());
        self.set(DEFLATES, agreed.is_some_and(Agreed::may_compress));
    }

    /// As 0, 1 or 2: nothing, messages from it, and those to it as well.
    pub fn restore_compression(&mut self, level: u8) {
        self.set(INFLATES, level >= 1);
        self.set(DEFLATES, level >= 2);
    }

    /// The PROXY header comes first of all: see `proxied.rs`.
    pub fn awaits_proxy(&self) -> bool {
        self.flags & AWAITS_PROXY != 0
    }

    pub fn set_awaits_proxy(&mut self, on: bool) {
        self.set(AWAITS_PROXY, on);
    }

    /// Input of it waits to be inflated: see `compression.rs`.
    pub fn awaits_inflating(&self) -> bool {
        self.flags & AWAITS_INFLATING != 0
    }

    pub fn set_awaits_inflating(&mut self, on: bool) {
        self.set(AWAITS_INFLATING, on);
    }

    /// A step of its handshake is due: see `handshakes.rs`.
    pub fn awaits_step(&self) -> bool {
        self.flags & AWAITS_STEP != 0
    }

    pub fn set_awaits_step(&mut self, on: bool) {
        self.set(AWAITS_STEP, on);
    }

    /// Among those whose input is kept: see `input.rs`.
    pub fn holds_input(&self) -> bool {
        self.flags & HOLDS_INPUT != 0
    }

    pub fn set_holds_input(&mut self, on: bool) {
        self.set(HOLDS_INPUT, on);
    }

    /// Nothing follows what it is sent now.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    /// Something that it was given has not gone to the kernel yet.
    pub fn owes(&self) -> bool {
        !self.chain.is_empty()
            || self.pending.as_ref().is_some_and(|pending| pending.blocked || pending.owed_bytes > 0)
    }

    pub fn is_blocked(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.blocked)
    }
}

/// What a connection has when its socket did not take everything, or when it joined a channel between an item's
/// arrival and its delivery.
#[derive(Default)]
pub struct PendingOutput {
    /// What the kernel did not take of a sealed write: it leaves first, as it is.
    pub sealed: Vec<Sealed>,
    /// Encoded bytes that leave next, in order. Of a plain connection also what the kernel did not take; of a sealed
    /// one plain, to be sealed when they leave. Bound: `outbox_bytes_max`, at which the connection is closed as slow.
    pub remainder: VecDeque<Bytes>,
    /// Of both. Sealing adds to the plain ones when they leave, some bytes for each record: the bound does not count
    /// that.
    pub owed_bytes: usize,
    /// Where it stands in each channel that it lags in.
    pub cursors: SmallVec<[(ChannelIndex, Cursor); 1]>,
    /// Of these, the channels that it is given something of less often than others.
    pub paces: Vec<SubscriberPace>,
    /// The socket takes nothing: wait until it is writable.
    pub blocked: bool,
    /// Reading is paused until the remainder is gone.
    pub read_paused: bool,
    /// A unidirectional client whose other channels have not answered yet: nothing may be given to it.
    pub held: bool,
    /// When its socket first refused something; zero where it has not, and when that was counted.
    pub since: Time,
}

impl PendingOutput {
    pub fn is_over(&self) -> bool {
        !self.blocked && !self.held && !self.read_paused && self.owed_bytes == 0 && self.cursors.is_empty()
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.owed_bytes += bytes.len();
        self.remainder.push_back(bytes);
    }

    /// Before anything plain.
    pub fn push_sealed(&mut self, sealed: Sealed) {
        debug_assert!(self.remainder.is_empty(), "what was sealed leaves before what is not");
        self.owed_bytes += sealed.len();
        self.sealed.push(sealed);
    }

    /// All that is owed, for another attempt.
    pub fn take_owed(&mut self) -> (Vec<Sealed>, VecDeque<Bytes>) {
        self.owed_bytes = 0;
        (std::mem::take(&mut self.sealed), std::mem::take(&mut self.remainder))
    }

    pub fn cursor(&mut self, channel: ChannelIndex) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|(at, _)| *at == channel).map(|(_, cursor)| cursor)
    }

    pub fn pace(&mut self, channel: ChannelIndex) -> Option<&mut SubscriberPace> {
        self.paces.iter_mut().find(|pace| pace.channel == channel)
    }

    /// It would be over, but for channels that it is given something of less often.
    pub fn is_paced_alone(&self) -> bool {
        !self.blocked
            && !self.held
            && !self.read_paused
            && self.owed_bytes == 0
            && self.cursors.len() == self.paces.len()
    }

    pub fn cursor_in(&self, channel: ChannelIndex) -> Option<Cursor> {
        self.cursors.iter().find(|(at, _)| *at == channel).map(|(_, cursor)| *cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_kept_apart() {
        let mut link = Link::new(3);
        link.set_peer_ended();
        link.set_silent(true);
        link.set_indebted(true);
        assert!(link.peer_ended() && link.silent() && link.indebted());
        assert!(!link.seated() && !link.awaits_pong());
        link.set_silent(false);
        link.set_awaits_pong(true);
        assert!(link.peer_ended() && !link.silent() && link.indebted() && link.awaits_pong());
        assert_eq!(link.sock(9), Sock { slot: 9, generation: 3 });
    }

    #[test]
    fn a_lag_is_over_when_nothing_waits_for_anything() {
        let mut pending = PendingOutput::default();
        assert!(pending.is_over());
        pending.push(Bytes::from_static(b"rest"));
        assert!(!pending.is_over());
        assert_eq!(pending.owed_bytes, 4);
        assert_eq!(pending.take_owed(), (vec![], [Bytes::from_static(b"rest")].into()));
        pending.push_sealed(Sealed::new(Bytes::from_static(b"sealed")));
        pending.push(Bytes::from_static(b"plain"));
        assert!(!pending.is_over() && pending.owed_bytes == 11);
        pending.take_owed();
        pending
            .cursors
            .push((7, Cursor { seq: 3, after: crate::base::ids::Offset(2), asked: false, skips: false }));
        assert!(!pending.is_over() && pending.cursor(8).is_none());
        pending.cursor(7).unwrap().seq = 4;
        assert_eq!(pending.cursor_in(7).map(|cursor| cursor.seq), Some(4));
        pending.cursors.clear();
        pending.held = true;
        assert!(!pending.is_over());
    }

    /// Or nobody would remember that it is to be read again.
    #[test]
    fn a_lag_is_not_over_while_it_keeps_reading_paused() {
        let mut pending = PendingOutput { read_paused: true, ..PendingOutput::default() };
        assert!(!pending.is_over());
        pending.read_paused = false;
        assert!(pending.is_over());
    }

    #[test]
    fn a_link_owes_what_the_kernel_has_not_taken() {
        let mut link = Link::new(0);
        assert!(!link.owes() && !link.is_blocked());
        link.pending.get_or_insert_default().blocked = true;
        assert!(link.owes() && link.is_blocked());
        link.pending = Some(Box::new(PendingOutput { held: true, ..PendingOutput::default() }));
        assert!(!link.owes() && !link.is_blocked(), "what is held back is not given to it yet");
    }
}
