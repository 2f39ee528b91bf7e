//! The driver on io_uring: Linux 6.1 and later.
//!
//! Inputs: commands of the shard, completions of the kernel. Outputs: events, send failures. Must not know: what
//! submissions point to (`sys` owns that).
//!
//! A socket is a direct descriptor and its slot is the descriptor's index. Idle, it is one multishot poll in the kernel
//! and eight bytes here. A poll's completion puts the slot into the queue of readable ones; each wait reads once from
//! each of them, as far as buffers go. A close cancels the polls first, because they keep the file open: the peer would
//! not see the end before. Only when nothing is in flight is the descriptor closed, so no completion outlives its slot.
//!
//! ```text
//!              read_start            poll completes        queue's turn
//!   accepted ────────────▶ POLL armed ───────────▶ READABLE ───────────▶ RECV in flight
//!                              ▲                      ▲   │ paused: remembered   │
//!                              │                      │   ▼                      │
//!                              │                      └── more is there ◀────────┤
//!                              └───────────────── nothing more ◀─────────────────┘
//!   close: CLOSING ── cancel polls ── POLL, WATCH, FINISH, RECV, RESET all gone ── CLOSE in flight ── Closed
//! ```

mod export;
mod listener;
mod slot;
mod token;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::listener::UringListener;
use self::slot::{
    BLIND, CLOSE, CLOSING, ENDED, FINISH, OPEN, POLL, QUEUED, READABLE, READING, RECV, RESET, UringSlot,
    WATCH,
};
use self::token::{OperationKind, Token};
use super::sys::{self, Completion, Op, Ring, RingWaker};
use super::{
    Driver, DriverEvent, DriverOptions, Lent, SendCause, SendFailure, SendHold, SendPart, SocketEnd, Wake,
};
use crate::base::address::ListenAddress;
use crate::base::bytes::Bytes;
use crate::base::ids::{GENERATION_MASK, ListenerId, SLOT_MAX, Sock};
use crate::base::limits::LISTENING_SOCKETS_MAX;
use crate::base::time::Time;

/// How long the end of a driver waits for its accept: it takes half a millisecond, and no end may hang.
const LISTENER_END_MAX: Duration = Duration::from_millis(200);
/// Clients of listeners that take them one by one, in one wait: some 5 us each, so that a storm of them does not keep the
/// others waiting.
const ACCEPTS_MAX: usize = 256;

/// Before it is looked which of them are the same.
const STIRRED_MAX: usize = 4_096;

/// May move to another thread until its first `flush` or `wait`; then the kernel binds it to that thread.
pub struct UringDriver {
    ring: Ring,
    waker: Arc<RingWaker>,
    listeners: Vec<UringListener>,
    sockets_max: u32,
    accept_wanted: bool,
    accept_ended: bool,
    reads_held: bool,
    slots: Vec<UringSlot>,
    /// Slots to read, each at most once: those with `QUEUED`.
    /// Bound: one entry for each socket, `sockets_max`.
    readable: VecDeque<u32>,
    /// Harvested and not yet acted on.
    completions: Vec<Completion>,
    /// Reads that completed after a pause: only when the kernel had no memory in the tick that asked for them.
    parked: Vec<(Sock, Lent)>,
    /// Of [`Driver::give_up`]: for the next wait.
    given_up: Vec<Sock>,
    /// From the first socket that is adopted until they are taken: slots on which something came, as it came.
    /// Bound: [`STIRRED_MAX`], or twice the sockets.
    stirred: Option<Vec<u32>>,
    failures: Vec<SendFailure>,
    /// One client came by a listener that takes them one by one: there may be another.
    more_clients: bool,
    stale_total: u64,
}

impl UringDriver {
    /// # Errors
    /// When the address cannot be bound, or io_uring cannot be used; the text says why.
    pub fn try_new(options: &DriverOptions) -> io::Result<UringDriver> {
        // The kernel refuses a larger table; the daemon prints the bound that holds.
        let sockets_max = options.sockets_max.min(sys::descriptors_max()).min(SLOT_MAX + 1);
        let ring = Ring::try_new(sockets_max, options.recv_buffers, options.recv_buffer_bytes)?;
        assert!(
            (1..=LISTENING_SOCKETS_MAX).contains(&options.listeners.len()),
            "the configuration bounds listeners"
        );
        let bind = |(index, listener)| UringListener::try_new(index, listener, options.socket);
        let listeners: Vec<UringListener> =
            options.listeners.iter().enumerate().map(bind).collect::<io::Result<_>>()?;
        let waker = Arc::new(RingWaker::try_new(&ring, Token::woken())?);
        let mut driver = UringDriver {
            ring,
            waker,
            listeners,
            sockets_max,
            accept_wanted: false,
            accept_ended: false,
            reads_held: false,
            slots: Vec::new(),
            readable: VecDeque::new(),
            completions: Vec::new(),
            parked: Vec::new(),
            given_up: Vec::new(),
            stirred: None,
            failures: Vec::new(),
            more_clients: false,
            stale_total: 0,
        };
        driver.arm_waker();
        Ok(driver)
    }

    /// Whether io_uring can be used here, without binding anything.
    ///
    /// # Errors
    /// When it cannot; the text says why.
    pub fn probe(options: &DriverOptions) -> io::Result<()> {
        let sockets_max = options.sockets_max.min(sys::descriptors_max()).min(SLOT_MAX + 1);
        let mut ring = Ring::try_new(sockets_max, options.recv_buffers, options.recv_buffer_bytes)?;
        // Setup may be allowed where the enter is not: an operation has to go through, if only to fail.
        ring.push(Op::Close { slot: 0 }, Token::cancel());
        ring.wait(Some(Duration::from_secs(1)))?;
        let mut completions = Vec::new();
        ring.harvest(&mut completions);
        if completions.is_empty() {
            return Err(io::Error::new(ErrorKind::TimedOut, "io_uring completes nothing"));
        }
        Ok(())
    }

    /// Most sockets at a time: as asked for, but no more than RLIMIT_NOFILE.
    pub fn sockets_max(&self) -> u32 {
        self.sockets_max
    }

    /// The slot of a socket that takes commands. An older generation is counted, a closing socket is not.
    fn live(&mut self, sock: Sock) -> Option<&mut UringSlot> {
        match self.slots.get_mut(sock.slot as usize) {
            Some(slot) if slot.is(OPEN) && slot.generation == sock.generation => {
                (!slot.is(CLOSING)).then_some(slot)
            }
            _ => {
                self.stale_total += 1;
                None
            }
        }
    }

    fn arm_waker(&mut self) {
        self.ring.push(Op::PollEvent { fd: self.waker.event() }, Token::wake());
    }

    /// Brings the accepts in the kernel to where they are wanted. A cancel in flight is waited for first.
    fn update_accepts(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let token = Token::accept(index as u32);
            match (&listener.source, self.accept_wanted, listener.armed) {
                (Some(source), true, false) => {
                    self.ring.push(source.accept(index, listener.one_by_one), token);
                    listener.armed = true;
                }
                (_, false, true) if !listener.cancelled => {
                    self.ring.push(Op::Cancel { of: token }, Token::cancel());
                    listener.cancelled = true;
                }
                _ => {}
            }
        }
    }

    /// Takes the accepts back and waits until the kernel has let go of the listeners. They would otherwise live on for up to
    /// 50 ms after the process: in the way of the next one, and resetting clients that they still take.
    fn close_listeners(&mut self) {
        self.accept_end();
        let end = Instant::now() + LISTENER_END_MAX;
        while self.listeners.iter().any(|listener| listener.armed) && Instant::now() < end {
            if self.ring.wait(Some(Duration::from_millis(5))).is_err() {
                break;
            }
            self.ring.harvest(&mut self.completions);
            for completion in self.completions.drain(..) {
                if Token::kind(completion.token) == OperationKind::Accept && !completion.more() {
                    self.listeners[Token::slot(completion.token).0 as usize].armed = false;
                }
            }
        }
        self.listeners.clear();
    }

    /// Arms the read poll of an open slot.
    fn arm_poll(ring: &mut Ring, index: u32, slot: &mut UringSlot) {
        ring.push(Op::PollRead { slot: index }, Token::of(OperationKind::Poll, index, slot.generation));
        slot.set(POLL);
    }

    fn enqueue(readable: &mut VecDeque<u32>, index: u32, slot: &mut UringSlot) {
        if slot.is(READABLE) && slot.is(READING) && !slot.is(QUEUED) && !slot.is(RECV) {
            slot.set(QUEUED);
            readable.push_back(index);
        }
    }

    /// Closes the descriptor of a closing slot as soon as nothing is in flight.
    fn advance_close(ring: &mut Ring, index: u32, slot: &mut UringSlot) {
        if slot.is(CLOSING) && !slot.any(POLL | WATCH | FINISH | RECV | RESET | CLOSE) {
            ring.push(Op::Close { slot: index }, Token::of(OperationKind::Close, index, slot.generation));
            slot.set(CLOSE);
        }
    }

    /// Queues one read for each readable slot, as far as buffers go. The rest keep their place in the queue.
    fn queue_reads(&mut self) -> bool {
        let mut queued = false;
        if self.reads_held {
            return false;
        }
        for _ in 0..self.readable.len() {
            if self.ring.buffers_free() == 0 {
                break;
            }
            let Some(index) = self.readable.pop_front() else { break };
            let slot = &mut self.slots[index as usize];
            slot.clear(QUEUED);
            // Paused, closing or reused since it was queued: what it knows of readiness stays.
            if !slot.is(READABLE) || !slot.is(READING) || slot.any(CLOSING | ENDED | RECV) {
                continue;
            }
            slot.set(RECV);
            self.ring.push(Op::Recv { slot: index }, Token::of(OperationKind::Recv, index, slot.generation));
            queued = true;
        }
        queued
    }

    /// Collects completions in their order; failed sends, which belong to the flush, apart from the rest.
    fn harvest(&mut self) {
        self.ring.harvest(&mut self.completions);
        let failures = &mut self.failures;
        self.completions.retain(|completion| {
            let cause = match Token::kind(completion.token) {
                // The kernel reports how far a send came before it would have had to wait; only then is it positive.
                OperationKind::Send | OperationKind::SendCut if completion.result >= 0 => {
                    SendCause::WouldBlock
                }
                OperationKind::Send | OperationKind::SendCut => sys::send_cause(-completion.result),
                _ => return true,
            };
            let sent = completion.result.max(0) as u32;
            failures.push(SendFailure { tag: Token::tag(completion.token), sent, cause });
            false
        });
    }

    fn act(&mut self, events: &mut Vec<DriverEvent>) {
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            match Token::kind(completion.token) {
                OperationKind::Accept => self.handle_accept(completion, events),
                OperationKind::Wake => {
                    if !completion.more() {
                        self.arm_waker();
                    }
                }
                // It ended the wait: that was all.
                OperationKind::Woken => {}
                // There was nothing left to cancel: its last completion says so as well.
                OperationKind::Cancel => {}
                // Given up: an export waited for it in vain.
                OperationKind::Install => drop(Ring::installed(&completion)),
                OperationKind::Send | OperationKind::SendCut => unreachable!("taken apart by harvest"),
                kind => self.handle_socket(kind, completion, events),
            }
        }
        self.completions = completions;
    }

    fn handle_accept(&mut self, completion: Completion, events: &mut Vec<DriverEvent>) {
        let listener = Token::slot(completion.token).0;
        let at = &mut self.listeners[listener as usize];
        if let Ok(index) = u32::try_from(completion.result) {
            if index as usize >= self.slots.len() {
                self.slots.resize(index as usize + 1, UringSlot::default());
            }
            let slot = &mut self.slots[index as usize];
            if slot.is(CLOSE) {
                // Kernels before 6.16 may post an accept before the close that made its slot free.
                events.push(DriverEvent::Closed { sock: Sock { slot: index, generation: slot.generation } });
                slot.clear(OPEN);
            }
            assert!(!slot.is(OPEN), "the kernel handed out slot {index} twice");
            slot.generation = (slot.generation + 1) & GENERATION_MASK;
            slot.flags = OPEN | at.slot_flags | (slot.flags & QUEUED);
            let sock = Sock { slot: index, generation: slot.generation };
            let address = if at.one_by_one { self.ring.accepted_from(listener as usize) } else { None };
            self.more_clients |= at.one_by_one;
            events.push(DriverEvent::Accepted { sock, listener: at.place, address });
        }
        if completion.more() {
            return;
        }
        at.armed = false;
        at.cancelled = false;
        if self.accept_ended {
            at.source = None;
        }
        if completion.result < 0
            && completion.result != -libc::ECANCELED
            && self.accept_wanted
            && let Some(cause) = sys::accept_failure(-completion.result)
        {
            self.accept_wanted = false;
            events.push(DriverEvent::AcceptFailed { cause });
        }
        self.update_accepts();
    }

    fn handle_socket(&mut self, kind: OperationKind, completion: Completion, events: &mut Vec<DriverEvent>) {
        let (index, generation) = Token::slot(completion.token);
        let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)
        else {
            if let Some(buffer) = completion.buffer() {
                self.ring.buffer_return(buffer);
            }
            self.stale_total += 1;
            return;
        };
        let sock = Sock { slot: index, generation };
        match kind {
            OperationKind::Poll => {
                if !completion.more() {
                    slot.clear(POLL);
                }
                if !slot.any(CLOSING | ENDED) {
                    // Also when the poll failed: the read then says why.
                    slot.set(READABLE);
                    Self::enqueue(&mut self.readable, index, slot);
                    if let Some(stirred) = &mut self.stirred {
                        stirred.push(index);
                        if stirred.len() > STIRRED_MAX.max(2 * self.slots.len()) {
                            *stirred = latest_of_each(std::mem::take(stirred), self.slots.len());
                        }
                    }
                    let slot = &mut self.slots[index as usize];
                    if !slot.is(POLL) {
                        // The kernel ends a poll when completions overflow.
                        Self::arm_poll(&mut self.ring, index, slot);
                    }
                }
            }
            OperationKind::Watch => {
                slot.clear(WATCH);
                if !slot.is(CLOSING) {
                    events.push(DriverEvent::Writable { sock });
                }
            }
            OperationKind::Finish => slot.clear(FINISH),
            OperationKind::Reset => slot.clear(RESET),
            OperationKind::Close => {
                slot.flags &= QUEUED;
                events.push(DriverEvent::Closed { sock });
                return;
            }
            _ => self.handle_recv(sock, completion, events),
        }
        Self::advance_close(&mut self.ring, index, &mut self.slots[index as usize]);
    }

    fn handle_recv(&mut self, sock: Sock, completion: Completion, events: &mut Vec<DriverEvent>) {
        let slot = &mut self.slots[sock.slot as usize];
        slot.clear(RECV);
        let len = u32::try_from(completion.result).unwrap_or(0);
        match completion.buffer() {
            Some(buffer) if len > 0 && !slot.is(CLOSING) => {
                // Full or not, the kernel says whether more is there; the end counts as more.
                if !completion.socket_nonempty() && !slot.is(BLIND) {
                    slot.clear(READABLE);
                }
                let lent = Lent { buffer, len };
                if slot.is(READING) {
                    events.push(DriverEvent::Received { sock, lent });
                } else {
                    self.parked.push((sock, lent));
                }
                Self::enqueue(&mut self.readable, sock.slot, slot);
                return;
            }
            Some(buffer) => self.ring.buffer_return(buffer),
            None => self.ring.buffer_unused(),
        }
        if slot.is(CLOSING) {
            return;
        }
        match completion.result {
            0 => {
                slot.set(ENDED);
                events.push(DriverEvent::Ended { sock, cause: SocketEnd::Finished });
            }
            // Read dry, by the read before this one: the poll tells when there is more.
            errno if errno == -libc::EAGAIN => slot.clear(READABLE),
            // No buffer was left, no memory, or a signal: it is still readable and is tried again at the next wait.
            errno if [libc::ENOBUFS, libc::ENOMEM, libc::EINTR].contains(&-errno) => {
                Self::enqueue(&mut self.readable, sock.slot, slot);
            }
            errno => {
                slot.set(ENDED);
                events.push(DriverEvent::Ended { sock, cause: SocketEnd::Broken(-errno) });
            }
        }
    }

    /// Reads that completed while paused and are wanted now. Tells whether there were any.
    fn unpark(&mut self, events: &mut Vec<DriverEvent>) -> bool {
        let before = events.len();
        for (sock, lent) in std::mem::take(&mut self.parked) {
            let slot = &self.slots[sock.slot as usize];
            if slot.generation != sock.generation || slot.is(CLOSING) || !slot.is(OPEN) {
                self.ring.buffer_return(lent.buffer);
            } else if slot.is(READING) {
                events.push(DriverEvent::Received { sock, lent });
            } else {
                self.parked.push((sock, lent));
            }
        }
        events.len() > before
    }
}

/// Of each slot the last, in their order.
fn latest_of_each(slots: Vec<u32>, count: usize) -> Vec<u32> {
    let mut seen = vec![false; count];
    let mut latest: Vec<u32> =
        slots.into_iter().rev().filter(|slot| !std::mem::replace(&mut seen[*slot as usize], true)).collect();
    latest.reverse();
    latest
}

impl Driver for UringDriver {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn now(&self) -> Time {
        sys::now()
    }

    fn local_addr(&self, listener: ListenerId) -> ListenAddress {
        self.listeners[listener.index()].address.clone()
    }

    fn listeners(&self) -> io::Result<Vec<(ListenerId, OwnedFd)>> {
        let open =
            self.listeners.iter().filter_map(|listener| Some((listener.place, listener.source.as_ref()?)));
        open.map(|(place, source)| Ok((place, source.as_fd().try_clone_to_owned()?))).collect()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn accept_start(&mut self) {
        self.accept_wanted = !self.accept_ended;
        self.update_accepts();
    }

    fn accept_pause(&mut self) {
        self.accept_wanted = false;
        self.update_accepts();
    }

    fn accept_end(&mut self) {
        self.accept_ended = true;
        self.accept_pause();
        // An armed accept keeps the listener open in the kernel, or may not yet have reached the kernel, where the
        // descriptor's number might then mean another file: its last completion closes the listener.
        for listener in self.listeners.iter_mut().filter(|listener| !listener.armed) {
            listener.source = None;
        }
    }

    fn read_start(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        slot.set(READING);
        let slot = &mut self.slots[sock.slot as usize];
        if slot.is(ENDED) {
            return;
        }
        if !slot.is(POLL) {
            Self::arm_poll(&mut self.ring, sock.slot, slot);
        }
        Self::enqueue(&mut self.readable, sock.slot, slot);
    }

    fn read_pause(&mut self, sock: Sock) {
        if let Some(slot) = self.live(sock) {
            slot.clear(READING);
        }
    }

    fn received(&mut self, lent: &Lent) -> &mut [u8] {
        self.ring.buffer(lent.buffer, lent.len)
    }

    fn give_back(&mut self, lent: Lent) {
        self.ring.buffer_return(lent.buffer);
    }

    fn hold(&mut self, bytes: Bytes) -> SendHold {
        self.ring.hold(bytes)
    }

    fn send(&mut self, sock: Sock, parts: &[SendPart], tag: u32) {
        if self.live(sock).is_none() {
            return;
        }
        let (token, cut_token) =
            (Token::send(OperationKind::Send, tag), Token::send(OperationKind::SendCut, tag));
        if self.ring.push_send(sock.slot, parts, token, cut_token).is_err() {
            self.failures.push(SendFailure { tag, sent: 0, cause: SendCause::NoBuffers });
        }
    }

    fn flush(&mut self, failures: &mut Vec<SendFailure>) {
        self.ring.submit();
        self.harvest();
        self.ring.release_holds();
        failures.append(&mut self.failures);
    }

    fn write_watch(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        if !slot.is(WATCH) {
            slot.set(WATCH);
            let token = Token::of(OperationKind::Watch, sock.slot, sock.generation);
            self.ring.push(Op::PollWrite { slot: sock.slot }, token);
        }
    }

    fn finish(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        if !slot.is(FINISH) {
            slot.set(FINISH);
            let token = Token::of(OperationKind::Finish, sock.slot, sock.generation);
            self.ring.push(Op::Shutdown { slot: sock.slot }, token);
        }
    }

    fn close(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        slot.set(CLOSING);
        let slot = &mut self.slots[sock.slot as usize];
        for (flag, kind) in [(POLL, OperationKind::Poll), (WATCH, OperationKind::Watch)] {
            if slot.is(flag) {
                let of = Token::of(kind, sock.slot, sock.generation);
                self.ring.push(Op::Cancel { of }, Token::cancel());
            }
        }
        Self::advance_close(&mut self.ring, sock.slot, slot);
    }

    fn reset(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        slot.set(RESET);
        // Carried out in order, behind the sends of this tick: the reset drops what the kernel has not got rid of.
        self.ring
            .push(Op::Reset { slot: sock.slot }, Token::of(OperationKind::Reset, sock.slot, sock.generation));
        self.close(sock);
    }

    fn wait(&mut self, events: &mut Vec<DriverEvent>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = if self.given_up.is_empty() { timeout } else { Some(Duration::ZERO) };
        events.extend(self.given_up.drain(..).map(|sock| DriverEvent::Closed { sock }));
        if !self.reads_held && self.unpark(events) {
            // The sockets of these had their read of this wait.
            return Ok(());
        }
        let busy = !(self.readable.is_empty() || self.reads_held) || !self.completions.is_empty();
        self.ring.wait(if busy { Some(Duration::ZERO) } else { timeout })?;
        self.harvest();
        self.act(events);
        for _ in 0..ACCEPTS_MAX {
            if !std::mem::take(&mut self.more_clients) {
                break;
            }
            // A client that waits completes the accept inside the submit.
            self.ring.submit();
            self.harvest();
            self.act(events);
        }
        if self.queue_reads() {
            // Receives complete inside the submit.
            self.ring.submit();
            self.harvest();
            self.act(events);
        }
        Ok(())
    }

    fn stale_total(&self) -> u64 {
        self.stale_total
    }

    fn hold_reads(&mut self, on: bool) {
        self.reads_held = on;
    }

    fn accept_is_idle(&self) -> bool {
        !self.accept_wanted && self.listeners.iter().all(|listener| !listener.armed)
    }

    fn export_is_refused(&self) -> Option<&'static str> {
        (!self.ring.installs()).then_some("sockets leave io_uring from Linux 6.8 on")
    }

    fn export(&mut self, socks: &[Sock], exported: &mut Vec<io::Result<OwnedFd>>) {
        self.install(socks, exported);
    }

    /// Cancelling the polls of all would take the cpu from who serves them now; the ring ends with its process.
    fn give_up(&mut self, sock: Sock) {
        if let Some(slot) = self.live(sock) {
            // What is under way is stale from now on.
            slot.flags &= QUEUED;
            slot.generation = (slot.generation + 1) & GENERATION_MASK;
            self.given_up.push(sock);
        }
    }

    /// Its poll is armed at once, while the other driver still serves it: later clients would wait for that, some 3 us each.
    /// A poll takes nothing from the socket; what the other has read meanwhile costs one read in vain here.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        let sock = self.register(&socket)?;
        Self::arm_poll(&mut self.ring, sock.slot, &mut self.slots[sock.slot as usize]);
        self.stirred.get_or_insert_default();
        Ok(sock)
    }

    fn take_stirred(&mut self) -> Vec<Sock> {
        let stirred = self.stirred.take().unwrap_or_default();
        let slots = latest_of_each(stirred, self.slots.len()).into_iter();
        let sock = |slot| Sock { slot, generation: self.slots[slot as usize].generation };
        slots.filter(|slot| self.slots[*slot as usize].is(OPEN)).map(sock).collect()
    }

    fn reads_waiting(&self) -> usize {
        self.readable.len()
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.close_listeners();
        self.waker.end();
    }
}

#[cfg(test)]
mod tests;
