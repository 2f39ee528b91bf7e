//! The layers of sealed connections, and which listeners have them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::address::Serves;
use crate::base::certificate::ClientCertificate;
use crate::base::ids::Sock;
use crate::base::limits::UNFINISHED_HANDSHAKES_MAX;
use crate::layer::{Layer, LayerMaker, StepKind};

/// What is particular to the connections of one listener.
#[derive(Clone, Default)]
pub struct ListenerOptions {
    /// Seals them; without one they are plain.
    pub layer: Option<Arc<dyn LayerMaker>>,
    pub serves: Serves,
    /// A PROXY header comes before everything else.
    pub proxy_protocol: bool,
    /// Clients have no address here.
    pub is_unix: bool,
}

impl ListenerOptions {
    /// One that is not listed.
    pub(in crate::shard) const PLAIN: ListenerOptions =
        ListenerOptions { layer: None, serves: Serves::Both, proxy_protocol: false, is_unix: false };
}

/// By slot, apart from the connections: a plain one pays a bit in its slot and nothing here. As long as the highest slot
/// that was ever sealed.
#[derive(Default)]
pub(in crate::shard) struct Layers {
    by_slot: Vec<Option<Box<dyn Layer>>>,
    /// Those that clients have shown. Not in their layers, which are elsewhere while what they opened is acted on.
    certificates: BTreeMap<u32, Arc<ClientCertificate>>,
}

impl Layers {
    pub fn insert(&mut self, slot: u32, layer: Box<dyn Layer>) {
        let slot = slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, || None);
        }
        self.by_slot[slot] = Some(layer);
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut (dyn Layer + 'static)> {
        self.by_slot.get_mut(slot as usize)?.as_deref_mut()
    }

    pub fn get(&self, slot: u32) -> Option<&(dyn Layer + 'static)> {
        self.by_slot.get(slot as usize)?.as_deref()
    }

    /// The certificate that the client has shown.
    pub fn certificate(&self, slot: u32) -> Option<Arc<ClientCertificate>> {
        self.certificates.get(&slot).cloned()
    }

    pub fn set_certificate(&mut self, slot: u32, certificate: Arc<ClientCertificate>) {
        self.certificates.insert(slot, certificate);
    }

    pub fn stored_bytes(&self, slot: u32) -> usize {
        let layer = self.by_slot.get(slot as usize).and_then(Option::as_ref);
        layer.map_or(0, |layer| layer.stored_bytes())
    }

    /// For good.
    pub fn remove(&mut self, slot: u32) -> Option<Box<dyn Layer>> {
        self.certificates.remove(&slot);
        self.take(slot)
    }

    /// To be put back with [`Layers::insert`].
    pub fn take(&mut self, slot: u32) -> Option<Box<dyn Layer>> {
        self.by_slot.get_mut(slot as usize)?.take()
    }
}

#[derive(Default)]
pub(in crate::shard) struct Handshakes {
    /// Their first step is due. Bound: [`WAITING_MAX`].
    pub first: VecDeque<Sock>,
    /// A further step is due: they go first, or work that was done would be lost. Bound: each once, so [`UNFINISHED_HANDSHAKES_MAX`],
    /// and some that are gone.
    pub further: VecDeque<Sock>,
    pub unfinished: usize,
}

/// Handshakes of one shard that wait to begin. Where two steps a tick are all there is time for, they wait a few seconds at
/// most: a longer line would be served when its clients have given up. One beyond is closed.
const WAITING_MAX: usize = 512;

impl Handshakes {
    pub fn waiting(&self) -> usize {
        self.first.len() + self.further.len()
    }

    /// False when too many wait.
    pub fn push(&mut self, sock: Sock, kind: StepKind) -> bool {
        match kind {
            StepKind::Further => self.further.push_back(sock),
            StepKind::First if self.first.len() < WAITING_MAX => self.first.push_back(sock),
            StepKind::First => return false,
        }
        true
    }

    pub fn pop(&mut self) -> Option<Sock> {
        self.further.pop_front().or_else(|| self.first.pop_front())
    }

    pub fn is_full(&self) -> bool {
        self.unfinished >= UNFINISHED_HANDSHAKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sock(slot: u32) -> Sock {
        Sock { slot, generation: 0 }
    }

    #[test]
    fn a_handshake_that_has_begun_goes_first_and_too_many_do_not_begin() {
        let mut handshakes = Handshakes::default();
        for slot in 0..WAITING_MAX as u32 {
            assert!(handshakes.push(sock(slot), StepKind::First));
        }
        assert!(!handshakes.push(sock(9_000), StepKind::First), "it is one too many");
        assert!(handshakes.push(sock(9_001), StepKind::Further), "what was begun is not given up");
        assert_eq!(handshakes.waiting(), WAITING_MAX + 1);
        let order: Vec<u32> = std::iter::from_fn(|| handshakes.pop()).map(|sock| sock.slot).collect();
        assert_eq!((order[0], order[1], order.len()), (9_001, 0, WAITING_MAX + 1));
    }

    #[test]
    fn unfinished_handshakes_have_a_bound() {
        let of = |unfinished| Handshakes { unfinished, ..Handshakes::default() };
        assert!(!of(UNFINISHED_HANDSHAKES_MAX - 1).is_full() && of(UNFINISHED_HANDSHAKES_MAX).is_full());
    }
}
