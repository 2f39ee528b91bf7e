//! What the simulated kernel keeps for one shard: its listener, its table of sockets, what is ready to be told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::address::ListenAddress;
use crate::base::ids::{GENERATION_MASK, Sock};
use crate::base::time::Time;
use crate::driver::Wake;

use super::link::LinkId;

/// Clients that wait to be accepted by one shard; as the real listeners ask for.
pub(super) const BACKLOG_MAX: usize = 4096;

/// What happened at one shard's driver, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    pub accepted: u64,
    pub accept_failures: u64,
    /// Sockets for which `close` was called, and for which `Closed` came.
    pub close_calls: u64,
    pub closed: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub sends: u64,
    pub sent_bytes: u64,
    pub sends_blocked: u64,
    pub sends_without_buffers: u64,
    pub sends_broken: u64,
    pub ended_finished: u64,
    pub ended_broken: u64,
    pub writables: u64,
    pub waits: u64,
    pub waits_spurious: u64,
    pub stale: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimReading {
    /// Since `Accepted`.
    NotYet,
    On,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimWatch {
    None,
    Armed,
    /// Will report although there is no room.
    Early,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub link: LinkId,
    pub reading: SimReading,
    pub watch: SimWatch,
    /// `Ended` was told, or never will be.
    pub ended_told: bool,
    /// When the shard first learnt of the end, by `Ended` or by a failed send: from then on it owes a `close`.
    pub over_at: Option<Time>,
    /// `finish` was called.
    pub finished: bool,
    /// A send waits for the flush.
    pub send_queued: bool,
    /// `close` was called: only `Closed` may come.
    pub closing: bool,
    /// In `Host::ready`.
    pub ready: bool,
    /// Another host has exported it, and holds it here.
    pub adopted_from: Option<(usize, Sock)>,
}

#[derive(Debug)]
struct SimSlot {
    generation: u32,
    socket: Option<Socket>,
}

pub(super) struct Host {
    pub listeners: Vec<ListenAddress>,
    /// Whether each of them says where its clients come from.
    pub addresses: Vec<bool>,
    pub sockets_max: u32,
    pub recv_buffer_bytes: usize,
    /// False after `accept_end`.
    pub listening: bool,
    pub accepting: bool,
    /// Nothing is read.
    pub reads_held: bool,
    /// Clients that may be accepted although accepting was paused.
    pub accept_late: u32,
    pub backlog: VecDeque<LinkId>,
    /// Sockets that may have something to tell. A socket is in it at most once.
    pub ready: VecDeque<Sock>,
    /// Sockets whose `Closed` is due.
    pub gone: Vec<u32>,
    pub asked_until: Time,
    pub waker: Arc<Waker>,
    pub stats: HostStats,
    /// The driver was dropped.
    pub dead: bool,
    /// Commands that are void are found out by a panic.
    pub strict: bool,
    slots: Vec<SimSlot>,
    free: Vec<u32>,
    generation_first: u32,
}

impl Host {
    pub fn new(
        listeners: Vec<ListenAddress>,
        addresses: Vec<bool>,
        sockets_max: u32,
        recv_buffer_bytes: usize,
        generation_first: u32,
    ) -> Host {
        Host {
            listeners,
            addresses,
            sockets_max,
            recv_buffer_bytes,
            listening: true,
            accepting: false,
            reads_held: false,
            accept_late: 0,
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            gone: Vec::new(),
            asked_until: Time::ZERO,
            waker: Arc::default(),
            stats: HostStats::default(),
            dead: false,
            strict: true,
            slots: Vec::new(),
            free: Vec::new(),
            generation_first,
        }
    }

    /// Whether a wait would return with something now.
    pub fn has_news(&self) -> bool {
        !self.dead
            && (!self.ready.is_empty()
                || !self.gone.is_empty()
                || self.waker.0.load(Ordering::Acquire)
                || (!self.backlog.is_empty() && (self.accepting || self.accept_late > 0)))
    }

    /// `Time::ZERO`: now.
    pub fn runnable_at(&self) -> Time {
        match (self.dead, self.has_news()) {
            (true, _) => Time::NEVER,
            (false, true) => Time::ZERO,
            (false, false) => self.asked_until,
        }
    }

    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// `None` when the table is full. The slot used last is used again first: that meets stale ids soonest.
    pub fn insert(&mut self, link: LinkId) -> Option<Sock> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.sockets_max as usize => {
                self.slots.push(SimSlot { generation: self.generation_first, socket: None });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let entry = &mut self.slots[slot as usize];
        assert!(entry.socket.is_none(), "a free slot held a socket");
        entry.socket = Some(Socket {
            link,
            reading: SimReading::NotYet,
            watch: SimWatch::None,
            ended_told: false,
            over_at: None,
            finished: false,
            send_queued: false,
            closing: false,
            ready: false,
            adopted_from: None,
        });
        Some(Sock { slot, generation: entry.generation })
    }

    /// Frees a closed socket's slot; what still names it is stale from now on.
    pub fn remove(&mut self, slot: u32) -> Sock {
        let entry = &mut self.slots[slot as usize];
        let sock = Sock { slot, generation: entry.generation };
        let socket = entry.socket.take().expect("a slot is freed once");
        assert!(socket.closing, "a slot was freed before it was closed");
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(slot);
        sock
    }

    pub fn at(&mut self, slot: u32) -> (Sock, &mut Socket) {
        let entry = &mut self.slots[slot as usize];
        let sock = Sock { slot, generation: entry.generation };
        (sock, entry.socket.as_mut().expect("a connection names a slot that holds it"))
    }

    /// The socket that the shard names. `None` if it is of an older generation, which is counted, or closing already:
    /// then commands are void, which is allowed unless the host is `strict`.
    pub fn named(&mut self, sock: Sock, verb: &str) -> Option<&mut Socket> {
        let Some(entry) = self.slots.get_mut(sock.slot as usize) else {
            assert!(!self.strict, "{verb} on {sock:?}, a slot that was never handed out");
            self.stats.stale += 1;
            return None;
        };
        let current = entry.socket.as_mut().filter(|_| entry.generation == sock.generation);
        let Some(socket) = current else {
            self.stats.stale += 1;
            return None;
        };
        assert!(!(self.strict && socket.closing), "{verb} on {sock:?} after close");
        (!socket.closing).then_some(socket)
    }

    /// Has the next wait look at `slot`.
    pub fn mark_ready(&mut self, slot: u32) {
        let (sock, socket) = self.at(slot);
        if !socket.ready && !socket.closing {
            socket.ready = true;
            self.ready.push_back(sock);
        }
    }

    /// The socket of an entry taken from `ready`, unless it was closed since.
    pub fn ready_socket(&mut self, sock: Sock) -> Option<&mut Socket> {
        let entry = &mut self.slots[sock.slot as usize];
        let socket = entry.socket.as_mut().filter(|socket| !socket.closing)?;
        (entry.generation == sock.generation).then_some(socket)
    }

    /// Whether the socket is still held here.
    pub fn holds(&self, sock: Sock) -> bool {
        let entry = self.slots.get(sock.slot as usize).filter(|entry| entry.generation == sock.generation);
        entry.and_then(|entry| entry.socket.as_ref()).is_some_and(|socket| !socket.closing)
    }

    pub fn sockets(&self) -> impl Iterator<Item = (Sock, &Socket)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let sock = Sock { slot: slot as u32, generation: entry.generation };
            entry.socket.as_ref().map(|socket| (sock, socket))
        })
    }
}

/// Set from any thread, seen by the harness and cleared by the next wait.
#[derive(Debug, Default)]
pub(super) struct Waker(pub AtomicBool);

impl Wake for Waker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}
