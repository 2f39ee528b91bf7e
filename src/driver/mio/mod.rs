//! The driver on epoll, by mio: where io_uring is forbidden or too old.
//!
//! Inputs: commands of the shard, readiness from the kernel. Outputs: events, send failures. Must not know: io_uring.
//!
//! Readiness is edge triggered and remembered: what the kernel said once stays true until a read says otherwise. Sockets
//! are registered for reading and writing when they are accepted and never again, so a change of what is wanted costs no
//! system call. Sends are done at once; their failures wait for the flush, as the contract has it.

mod slot;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ::mio::event::Event as Readiness;
use ::mio::net::{TcpListener, TcpStream};
use ::mio::{Events, Interest, Poll, Token, Waker};

use self::slot::{
    CLOSING, ENDED, EventSource, MioListener, MioSlot, PEER_ENDED, QUEUED, READABLE, READING, TELL, WATCHED,
    WRITABLE, write,
};
use crate::base::address::ListenAddress;
use crate::base::bytes::Bytes;
use crate::base::ids::{GENERATION_MASK, ListenerId, SLOT_BITS, SLOT_MAX, Sock};
use crate::base::limits::LISTENING_SOCKETS_MAX;
use crate::base::time::Time;
use crate::driver::sys;
use crate::driver::{
    AcceptFailure, Bind, Driver, DriverEvent, DriverOptions, Lent, SendCause, SendFailure, SendHold,
    SendPart, SocketEnd, Wake,
};

/// Readiness taken from the kernel in one wait: 12 bytes each. What is left over comes at the next.
const READINESS_MAX: usize = 1024;
/// Clients accepted in one wait, so that a storm of them does not keep the others waiting: some 10 us each.
const ACCEPTS_MAX: usize = 256;
const WAKER: Token = Token(usize::MAX);
/// The token of listener 0; the others follow.
const LISTENERS: usize = usize::MAX - LISTENING_SOCKETS_MAX;

pub struct MioDriver {
    poll: Poll,
    readiness: Events,
    waker: Arc<MioWaker>,
    listeners: Vec<MioListener>,
    sockets_max: u32,
    accepting: bool,
    reads_held: bool,
    slots: Vec<MioSlot>,
    free: Vec<u32>,
    /// Slots to read, each at most once: those with `QUEUED`.
    /// Bound: one entry for each socket, `sockets_max`.
    readable: VecDeque<u32>,
    /// Made outside of `wait`, for the next one.
    events: Vec<DriverEvent>,
    buffers: Box<[u8]>,
    buffer_bytes: usize,
    buffers_free: Vec<u16>,
    holds: Vec<Bytes>,
    failures: Vec<SendFailure>,
    stale_total: u64,
}

struct MioWaker(Waker);

impl Wake for MioWaker {
    fn wake(&self) {
        // mio resets the counter itself when it would overflow, the only error an eventfd has.
        let _ = self.0.wake();
    }
}

impl MioDriver {
    /// # Errors
    /// When the address cannot be bound, or no descriptor is left for epoll.
    pub fn try_new(options: &DriverOptions) -> io::Result<MioDriver> {
        let poll = Poll::new()?;
        assert!(
            (1..=LISTENING_SOCKETS_MAX).contains(&options.listeners.len()),
            "the configuration bounds listeners"
        );
        let mut listeners = Vec::new();
        for (index, listener) in options.listeners.iter().enumerate() {
            let (source, address) = match &listener.bind {
                Bind::Tcp(address, ipv6_only) => {
                    let mut own = TcpListener::from_std(sys::listen(*address, *ipv6_only, options.socket)?);
                    poll.registry().register(&mut own, Token(LISTENERS + index), Interest::READABLE)?;
                    let address = ListenAddress::Tcp(own.local_addr()?);
                    (EventSource::Tcp(own), address)
                }
                Bind::Inherited(_, inherited) => {
                    let mut own = TcpListener::from_std(sys::inherit(inherited, options.socket)?);
                    poll.registry().register(&mut own, Token(LISTENERS + index), Interest::READABLE)?;
                    (EventSource::Tcp(own), listener.address())
                }
                Bind::Unix(shared) => (EventSource::Unix(shared.clone()), listener.address()),
            };
            listeners.push(MioListener {
                source: Some(source),
                place: listener.place(index),
                address,
                addresses: listener.addresses,
                acceptable: false,
            });
        }
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok(MioDriver {
            poll,
            readiness: Events::with_capacity(READINESS_MAX),
            waker: Arc::new(MioWaker(waker)),
            listeners,
            sockets_max: options.sockets_max.min(SLOT_MAX + 1),
            accepting: false,
            reads_held: false,
            slots: Vec::new(),
            free: Vec::new(),
            readable: VecDeque::new(),
            events: Vec::new(),
            buffers: vec![0; usize::from(options.recv_buffers) * options.recv_buffer_bytes].into(),
            buffer_bytes: options.recv_buffer_bytes,
            buffers_free: (0..options.recv_buffers).rev().collect(),
            holds: Vec::new(),
            failures: Vec::new(),
            stale_total: 0,
        })
    }

    fn live(&mut self, sock: Sock) -> Option<&mut MioSlot> {
        match self.slots.get_mut(sock.slot as usize) {
            Some(slot) if slot.stream.is_some() && slot.generation == sock.generation => Some(slot),
            // Closed, but its event is yet to come: void, as for a driver whose close takes time.
            Some(slot) if slot.is(CLOSING) && slot.generation == sock.generation => None,
            _ => {
                self.stale_total += 1;
                None
            }
        }
    }

    fn enqueue(readable: &mut VecDeque<u32>, index: u32, slot: &mut MioSlot) {
        if slot.is(READABLE) && slot.is(READING) && !slot.is(QUEUED) && !slot.is(ENDED) {
            slot.flags |= QUEUED;
            readable.push_back(index);
        }
    }

    fn handle_readiness(&mut self, token: Token, readiness: &Readiness, events: &mut Vec<DriverEvent>) {
        let (index, generation) =
            (token.0 as u32 & SLOT_MAX, (token.0 as u64 >> SLOT_BITS) as u32 & GENERATION_MASK);
        let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)
        else {
            // A readiness of this batch whose socket was closed and its slot taken again.
            self.stale_total += 1;
            return;
        };
        if slot.stream.is_none() {
            return;
        }
        if readiness.is_readable() || readiness.is_read_closed() || readiness.is_error() {
            slot.flags |= READABLE;
            if readiness.is_read_closed() || readiness.is_error() {
                slot.flags |= PEER_ENDED;
            }
            Self::enqueue(&mut self.readable, index, slot);
        }
        if readiness.is_writable() || readiness.is_write_closed() || readiness.is_error() {
            slot.flags |= WRITABLE;
            if slot.is(WATCHED) {
                slot.flags &= !WATCHED;
                events.push(DriverEvent::Writable { sock: Sock { slot: index, generation } });
            }
        }
    }

    /// Hands out the events made outside of `wait`. A closed slot is free from here on.
    fn deliver(&mut self, events: &mut Vec<DriverEvent>) {
        for event in self.events.drain(..) {
            match &event {
                DriverEvent::Closed { sock } => {
                    self.slots[sock.slot as usize].flags &= QUEUED;
                    self.free.push(sock.slot);
                }
                DriverEvent::Writable { sock } => {
                    let slot = &mut self.slots[sock.slot as usize];
                    // Closed since it was asked for: nothing but `Closed` may come.
                    if slot.generation != sock.generation || slot.stream.is_none() {
                        continue;
                    }
                    slot.flags &= !TELL;
                }
                _ => {}
            }
            events.push(event);
        }
    }

    /// Accepts from each listener until no client waits, the table is full, or the bound of one wait is reached.
    fn accept(&mut self, events: &mut Vec<DriverEvent>) {
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_MAX {
                if !self.accepting || !self.listeners[index].acceptable {
                    break;
                }
                self.accept_one(index, events);
            }
        }
    }

    fn accept_one(&mut self, index: usize, events: &mut Vec<DriverEvent>) {
        let full = self.free.is_empty() && self.slots.len() as u32 >= self.sockets_max;
        let MioListener { source: Some(source), place, acceptable, addresses, .. } =
            &mut self.listeners[index]
        else {
            return;
        };
        if full && sys::is_readable(source.as_fd()) {
            // The client stays in the backlog, where the next accept_start finds it.
            self.accept_pause();
            events.push(DriverEvent::AcceptFailed { cause: AcceptFailure::Full });
            return;
        }
        let accepted = match source {
            _ if full => Err(ErrorKind::WouldBlock.into()),
            EventSource::Tcp(own) => {
                own.accept().map(|(stream, from)| (stream, addresses.then(|| from.ip().to_canonical())))
            }
            // One kind of stream for all: what is done to it is the same for every socket.
            EventSource::Unix(shared) => sys::accept_unix(&**shared).map(|fd| (TcpStream::from(fd), None)),
        };
        let place = *place;
        let queued = match source {
            EventSource::Tcp(_) => Ok(()),
            EventSource::Unix(shared) => {
                // One client for each turn: the next is another driver's, unless all others are busy.
                *acceptable = false;
                sys::wait_in_turn(self.poll.registry(), &**shared, (LISTENERS + index) as u64)
            }
        };
        match queued.and(accepted) {
            Ok((stream, address)) => {
                if let Err(error) = self.take(stream, place, address, events) {
                    self.accept_failed(&error, events);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.listeners[index].acceptable = false,
            Err(error) => self.accept_failed(&error, events),
        }
    }

    fn accept_failed(&mut self, error: &io::Error, events: &mut Vec<DriverEvent>) {
        if let Some(cause) = sys::accept_failure(error.raw_os_error().unwrap_or(libc::EIO)) {
            self.accept_pause();
            events.push(DriverEvent::AcceptFailed { cause });
        }
    }

    fn take(
        &mut self,
        stream: TcpStream,
        listener: ListenerId,
        address: Option<IpAddr>,
        events: &mut Vec<DriverEvent>,
    ) -> io::Result<()> {
        let sock = self.register(stream)?;
        events.push(DriverEvent::Accepted { sock, listener, address });
        Ok(())
    }

    fn register(&mut self, mut stream: TcpStream) -> io::Result<Sock> {
        let index = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let generation = (generation + 1) & GENERATION_MASK;
        let token = Token(((u64::from(generation) << SLOT_BITS) | u64::from(index)) as usize);
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let queued = self.slots.get(index as usize).map_or(0, |slot| slot.flags & QUEUED);
        let slot = MioSlot { stream: Some(stream), generation, flags: queued };
        if self.free.pop().is_some() {
            self.slots[index as usize] = slot;
        } else {
            self.slots.push(slot);
        }
        Ok(Sock { slot: index, generation })
    }

    /// Reads once from each readable slot, as far as buffers go. The rest keep their place in the queue.
    fn read(&mut self, events: &mut Vec<DriverEvent>) {
        if self.reads_held {
            return;
        }
        for _ in 0..self.readable.len() {
            let Some(&buffer) = self.buffers_free.last() else { return };
            let Some(index) = self.readable.pop_front() else { return };
            let slot = &mut self.slots[index as usize];
            slot.flags &= !QUEUED;
            if !slot.is(READABLE) || !slot.is(READING) || slot.is(ENDED) {
                continue;
            }
            let Some(stream) = &mut slot.stream else { continue };
            let sock = Sock { slot: index, generation: slot.generation };
            let start = usize::from(buffer) * self.buffer_bytes;
            match stream.read(&mut self.buffers[start..start + self.buffer_bytes]) {
                Ok(0) => {
                    slot.flags |= ENDED;
                    events.push(DriverEvent::Ended { sock, cause: SocketEnd::Finished });
                }
                Ok(len) => {
                    // A buffer not filled means that the socket is dry: what comes later has an edge of its own
                    // (epoll(7)). The end that was announced together with these bytes has none.
                    if len < self.buffer_bytes && !slot.is(PEER_ENDED) {
                        slot.flags &= !READABLE;
                    }
                    self.buffers_free.pop();
                    events.push(DriverEvent::Received { sock, lent: Lent { buffer, len: len as u32 } });
                    Self::enqueue(&mut self.readable, index, slot);
                }
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EAGAIN => slot.flags &= !READABLE,
                    // A signal, or no memory: still readable, tried again at the next wait.
                    libc::EINTR | libc::ENOMEM | libc::ENOBUFS => {
                        Self::enqueue(&mut self.readable, index, slot);
                    }
                    errno => {
                        slot.flags |= ENDED;
                        events.push(DriverEvent::Ended { sock, cause: SocketEnd::Broken(errno) });
                    }
                },
            }
        }
    }
}

impl Driver for MioDriver {
    fn name(&self) -> &'static str {
        "mio"
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
        if self.accepting {
            return;
        }
        self.accepting = true;
        for listener in &mut self.listeners {
            // Whether clients wait is found out by accepting: an edge may have passed while accepting was paused. That
            // also brings a shared listener back into its queue.
            listener.acceptable = listener.source.is_some();
        }
    }

    fn accept_pause(&mut self) {
        self.accepting = false;
        for listener in &self.listeners {
            if let Some(EventSource::Unix(shared)) = &listener.source {
                // Its clients are the other drivers' meanwhile. Nothing else can fail here than what accept_start would
                // find out.
                let _ = sys::leave_queue(self.poll.registry(), &**shared);
            }
        }
    }

    fn accept_end(&mut self) {
        self.accept_pause();
        for listener in &mut self.listeners {
            listener.source = None;
        }
    }

    fn read_start(&mut self, sock: Sock) {
        if let Some(slot) = self.live(sock) {
            slot.flags |= READING;
            let slot = &mut self.slots[sock.slot as usize];
            Self::enqueue(&mut self.readable, sock.slot, slot);
        }
    }

    fn read_pause(&mut self, sock: Sock) {
        if let Some(slot) = self.live(sock) {
            slot.flags &= !READING;
        }
    }

    fn received(&mut self, lent: &Lent) -> &mut [u8] {
        let start = usize::from(lent.buffer) * self.buffer_bytes;
        &mut self.buffers[start..start + lent.len as usize]
    }

    fn give_back(&mut self, lent: Lent) {
        self.buffers_free.push(lent.buffer);
    }

    fn hold(&mut self, bytes: Bytes) -> SendHold {
        self.holds.push(bytes);
        SendHold((self.holds.len() - 1) as u32)
    }

    fn send(&mut self, sock: Sock, parts: &[SendPart], tag: u32) {
        if self.live(sock).is_none() {
            return;
        }
        let slot = &mut self.slots[sock.slot as usize];
        let Some(stream) = &slot.stream else { return };
        let len: usize = parts.iter().map(|part| part.range.len()).sum();
        if len == 0 {
            return;
        }
        let (tried, sent) = write(stream, &self.holds, parts);
        let (sent, cause) = match sent {
            Ok(sent) if sent == len => return,
            Ok(sent) => {
                // A write cut by our own bounds leaves the socket writable; a short one has filled it, and the kernel
                // will make an edge when that changes.
                if sent < tried {
                    slot.flags &= !WRITABLE;
                }
                (sent as u32, SendCause::WouldBlock)
            }
            Err(error) => {
                let cause = sys::send_cause(error.raw_os_error().unwrap_or(libc::EIO));
                if cause == SendCause::WouldBlock {
                    slot.flags &= !WRITABLE;
                }
                (0, cause)
            }
        };
        self.failures.push(SendFailure { tag, sent, cause });
    }

    fn flush(&mut self, failures: &mut Vec<SendFailure>) {
        self.holds.clear();
        failures.append(&mut self.failures);
    }

    fn write_watch(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        if slot.is(WRITABLE) {
            if !slot.is(TELL) {
                slot.flags |= TELL;
                self.events.push(DriverEvent::Writable { sock });
            }
        } else {
            slot.flags |= WATCHED;
        }
    }

    fn finish(&mut self, sock: Sock) {
        if let Some(MioSlot { stream: Some(stream), .. }) = self.live(sock) {
            // An error is a connection already broken, and reading or sending reports that.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, sock: Sock) {
        let Some(slot) = self.live(sock) else { return };
        // Dropping it takes it out of epoll as well.
        slot.stream = None;
        slot.flags = (slot.flags & QUEUED) | CLOSING;
        self.events.push(DriverEvent::Closed { sock });
    }

    fn reset(&mut self, sock: Sock) {
        if let Some(MioSlot { stream: Some(stream), .. }) = self.live(sock) {
            // An error leaves an ordinary close, which is what a broken socket needs.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            self.close(sock);
        }
    }

    fn wait(&mut self, events: &mut Vec<DriverEvent>, timeout: Option<Duration>) -> io::Result<()> {
        let accept = self.accepting && self.listeners.iter().any(|listener| listener.acceptable);
        let busy = accept || !(self.readable.is_empty() || self.reads_held) || !self.events.is_empty();
        self.deliver(events);
        match self.poll.poll(&mut self.readiness, if busy { Some(Duration::ZERO) } else { timeout }) {
            Ok(()) => {}
            // A signal: its handler has run, and the shard's next tick sees what it changed.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let readiness = std::mem::replace(&mut self.readiness, Events::with_capacity(0));
        for event in &readiness {
            match event.token() {
                WAKER => {}
                Token(listener) if listener >= LISTENERS => {
                    let listener = &mut self.listeners[listener - LISTENERS];
                    listener.acceptable = listener.source.is_some();
                }
                token => self.handle_readiness(token, event, events),
            }
        }
        self.readiness = readiness;
        self.accept(events);
        self.read(events);
        Ok(())
    }

    fn stale_total(&self) -> u64 {
        self.stale_total
    }

    fn hold_reads(&mut self, on: bool) {
        self.reads_held = on;
    }

    fn accept_is_idle(&self) -> bool {
        !self.accepting
    }

    fn export_is_refused(&self) -> Option<&'static str> {
        None
    }

    fn export(&mut self, socks: &[Sock], exported: &mut Vec<io::Result<OwnedFd>>) {
        for sock in socks {
            exported.push(match self.live(*sock) {
                Some(MioSlot { stream: Some(stream), .. }) => stream.as_fd().try_clone_to_owned(),
                _ => Err(ErrorKind::NotConnected.into()),
            });
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        assert!(!self.accepting, "sockets are adopted before any is accepted");
        if self.slots.len() as u32 >= self.sockets_max {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let stream = std::net::TcpStream::from(socket);
        // The other driver may have been one that does without.
        stream.set_nonblocking(true)?;
        self.register(TcpStream::from_std(stream))
    }

    fn reads_waiting(&self) -> usize {
        self.readable.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::suite::{Bind, SocketRig, driver_suite};

    impl Bind for MioDriver {
        fn bind(options: &DriverOptions) -> io::Result<MioDriver> {
            MioDriver::try_new(options)
        }
    }

    driver_suite!(SocketRig<MioDriver>);

    #[test]
    fn clients_of_a_shared_socket_come_in_turn() {
        crate::driver::suite::clients_of_a_shared_socket_come_in_turn::<MioDriver>();
    }
}
