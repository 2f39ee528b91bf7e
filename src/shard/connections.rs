//! The connection slot: a link and its peer. Everything that an idle connection costs us, in at most 128 bytes.

use crate::base::ids::EncodingId;
use crate::base::slots::Slots;
use crate::session::Session;
use crate::session::tunnel::Tunnel;
use crate::session::unidirectional::Unidirectional;
use crate::shard::directory::Number;
use crate::shard::link::{ClosingEnd, Link, Phase};
use crate::shard::peer::{Peer, Requests};
use crate::shard::timers::{TimedSlot, TimerEntry};

/// One accepted socket, and the participant that speaks over it.
pub struct Connection {
    pub link: Link,
    pub peer: Peer,
}

/// Of these, the [directory](crate::shard::directory) takes eight.
const _: () = assert!(size_of::<Option<Connection>>() + 8 <= 128, "an idle connection costs 128 bytes");
const _: () = assert!(size_of::<Option<Connection>>() <= 104, "what it costs today");

impl TimedSlot for Connection {
    fn timer(&mut self) -> &mut TimerEntry {
        self.peer.timer()
    }
}

impl Connection {
    pub fn new(generation: u32, number: Number) -> Connection {
        Connection { link: Link::new(generation), peer: Peer::new(number) }
    }

    /// In which encoding it gets items; `None` when it subscribes to nothing.
    pub fn encoding(&self) -> Option<EncodingId> {
        self.peer.encoding(self.link.deflates())
    }

    /// Whether it is to be read from. One that was paused is read again when the last of these reasons is gone.
    pub fn may_be_read(&self) -> bool {
        let link = &self.link;
        match link.phase {
            Phase::Gone => false,
            // Up to the peer's own end, whatever it still owes or is owed.
            Phase::Closing(_) => !link.awaits_inflating(),
            Phase::Open => {
                !link.awaits_step()
                    && !link.awaits_inflating()
                    && !link.pending.as_ref().is_some_and(|pending| pending.read_paused)
                    && !self.peer.input_waits(link.owes())
            }
        }
    }

    /// The peer has left, and the link is about to end. What it has half received is not waited for.
    pub fn set_closing(&mut self, end: ClosingEnd) {
        self.peer.leave();
        self.link.decoder = None;
        self.link.phase = Phase::Closing(end);
    }

    /// The peer has left, and the link with it.
    pub fn set_gone(&mut self) {
        self.peer.leave();
        self.link.decoder = None;
        self.link.pending = None;
        self.link.phase = Phase::Gone;
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;

impl Slots<Connection> {
    pub fn requests(&self, slot: u32) -> Option<&Requests> {
        self.get(slot)?.peer.requests()
    }

    pub fn requests_mut(&mut self, slot: u32) -> Option<&mut Requests> {
        self.get_mut(slot)?.peer.requests_mut()
    }

    pub fn session(&mut self, slot: u32) -> Option<&mut Session> {
        self.get_mut(slot)?.peer.session()
    }

    pub fn uni(&self, slot: u32) -> Option<&Unidirectional> {
        self.get(slot)?.peer.uni()
    }

    pub fn uni_mut(&mut self, slot: u32) -> Option<&mut Unidirectional> {
        self.get_mut(slot)?.peer.uni_mut()
    }

    pub fn tunnel(&self, slot: u32) -> Option<&Tunnel> {
        self.get(slot)?.peer.tunnel()
    }

    pub fn tunnel_mut(&mut self, slot: u32) -> Option<&mut Tunnel> {
        self.get_mut(slot)?.peer.tunnel_mut()
    }
}
