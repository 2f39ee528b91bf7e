//! The near side of every socket: what the simulated kernel answers to one shard's calls.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::ids::Sock;
use crate::base::time::Time;
use crate::driver::{AcceptFailure, DriverEvent, Lent, SendCause, SocketEnd};

use super::faults::happens;
use super::host::{SimReading, SimWatch};
use super::link::{LinkId, SimPlace};
use super::world::{Exported, World};

/// The receive buffers of one driver, lent for the length of one read.
pub(super) struct Buffers {
    bytes: Vec<Box<[u8]>>,
    /// 0: free; otherwise how many bytes of the buffer are lent.
    lent_len: Vec<u32>,
    free: Vec<u16>,
}

impl Buffers {
    pub fn new(buffers: u16, buffer_bytes: usize) -> Buffers {
        Buffers {
            bytes: (0..buffers).map(|_| vec![0; buffer_bytes].into_boxed_slice()).collect(),
            lent_len: vec![0; usize::from(buffers)],
            free: (0..buffers).rev().collect(),
        }
    }

    pub fn lent(&self) -> usize {
        self.bytes.len() - self.free.len()
    }

    pub fn get(&mut self, lent: &Lent) -> &mut [u8] {
        assert_eq!(self.lent_len[usize::from(lent.buffer)], lent.len, "a buffer that is not lent");
        &mut self.bytes[usize::from(lent.buffer)][..lent.len as usize]
    }

    pub fn give_back(&mut self, lent: Lent) {
        let len = std::mem::take(&mut self.lent_len[usize::from(lent.buffer)]);
        assert!(len != 0 && len == lent.len, "a buffer was given back that was not lent");
        self.free.push(lent.buffer);
    }

    fn lend(&mut self, len: usize) -> Option<Lent> {
        let buffer = self.free.pop()?;
        let lent = Lent { buffer, len: len as u32 };
        self.lent_len[usize::from(buffer)] = lent.len;
        Some(lent)
    }
}

impl World {
    /// All that one shard's wait returns at the current time.
    pub fn harvest(
        &mut self,
        host: usize,
        buffers: &mut Buffers,
        events: &mut Vec<DriverEvent>,
        timeout: Option<Duration>,
    ) {
        self.run_due();
        self.hosts[host].stats.waits += 1;
        if self.sleeps {
            self.sleep(host, timeout);
        }
        if happens(&mut self.prng, self.faults.wait_empty) {
            self.hosts[host].stats.waits_spurious += 1;
            self.hosts[host].asked_until = self.now;
            return;
        }
        let woken = self.hosts[host].waker.0.swap(false, Ordering::AcqRel);
        let from = events.len();
        // Told first, a slot may come back in the same batch of events; told last, only in the next.
        let closed_first = !self.faults.shuffle || self.prng.bool();
        if closed_first {
            self.harvest_closed(host, events);
        }
        self.harvest_accepted(host, events);
        self.harvest_ready(host, buffers, events);
        if !closed_first {
            self.harvest_closed(host, events);
        }
        for event in &events[from..] {
            self.mix(event_mark(event));
            if self.trace {
                eprintln!("{:>10} us  shard {host}: {event:?}", self.now.0 / 1000);
            }
        }
        self.hosts[host].asked_until = match timeout {
            _ if woken || events.len() > from => self.now,
            Some(timeout) => self.now + timeout,
            None => Time::NEVER,
        };
    }

    /// Lets virtual time pass as a blocked wait would.
    fn sleep(&mut self, host: usize, timeout: Option<Duration>) {
        let until = timeout.map_or(Time::NEVER, |timeout| self.now + timeout);
        while !self.hosts[host].has_news() && self.now < until {
            let next = self.agenda_next().unwrap_or(Time::NEVER).min(until);
            assert_ne!(next, Time::NEVER, "a wait without a timeout, and nothing will ever happen");
            self.advance_to(next);
        }
    }

    fn harvest_closed(&mut self, host: usize, events: &mut Vec<DriverEvent>) {
        let host = &mut self.hosts[host];
        for slot in std::mem::take(&mut host.gone) {
            let sock = host.remove(slot);
            host.stats.closed += 1;
            events.push(DriverEvent::Closed { sock });
        }
    }

    fn harvest_accepted(&mut self, host: usize, events: &mut Vec<DriverEvent>) {
        loop {
            let at = &mut self.hosts[host];
            if at.backlog.is_empty() || (!at.accepting && at.accept_late == 0) {
                return;
            }
            let full = at.open() >= at.sockets_max as usize;
            if full || happens(&mut self.prng, self.faults.accept_failed) {
                at.accepting = false;
                at.accept_late = 0;
                at.stats.accept_failures += 1;
                let dropped = match happens(&mut self.prng, self.faults.accept_drops) {
                    true => at.backlog.pop_front(),
                    false => None,
                };
                if let Some(link) = dropped {
                    self.refuse(link);
                }
                let cause = match self.prng.u8(0..4) {
                    _ if full => AcceptFailure::Full,
                    0 => AcceptFailure::Full,
                    1 => AcceptFailure::NoMemory,
                    2 => AcceptFailure::Other(libc::ECONNABORTED),
                    _ => AcceptFailure::Other(libc::EPERM),
                };
                events.push(DriverEvent::AcceptFailed { cause });
                return;
            }
            at.accept_late = at.accept_late.saturating_sub(u32::from(!at.accepting));
            let Some(link) = at.backlog.pop_front() else { return };
            let Some(sock) = at.insert(link) else { return };
            at.stats.accepted += 1;
            let at = self.link(link);
            at.place = SimPlace::Accepted { slot: sock.slot };
            let (listener, from) = (at.listener, at.address);
            let by = &self.hosts[host];
            let told = by.addresses[listener.index()] && by.listeners[listener.index()].tcp().is_some();
            events.push(DriverEvent::Accepted { sock, listener, address: told.then_some(from) });
            if happens(&mut self.prng, self.faults.accept_dead) {
                self.break_link(link, libc::ECONNRESET);
            }
        }
    }

    fn harvest_ready(&mut self, host: usize, buffers: &mut Buffers, events: &mut Vec<DriverEvent>) {
        let mut turn = std::mem::take(&mut self.hosts[host].ready);
        if self.faults.shuffle {
            self.prng.shuffle(turn.make_contiguous());
        }
        let mut buffers_left = match happens(&mut self.prng, self.faults.buffers_short) {
            true => self.prng.usize(0..4),
            false => usize::MAX,
        };
        for sock in turn.drain(..) {
            let Some(socket) = self.hosts[host].ready_socket(sock) else { continue };
            socket.ready = false;
            let again = happens(&mut self.prng, self.faults.event_late)
                || self.tell(host, sock, buffers, &mut buffers_left, events);
            if again {
                self.hosts[host].mark_ready(sock.slot);
            }
        }
        // Keeps the larger of the two allocations; entries that were marked again go in order.
        turn.extend(self.hosts[host].ready.drain(..));
        self.hosts[host].ready = turn;
    }

    /// Tells what there is of one socket. True if more is left than could be told.
    fn tell(
        &mut self,
        host: usize,
        sock: Sock,
        buffers: &mut Buffers,
        buffers_left: &mut usize,
        events: &mut Vec<DriverEvent>,
    ) -> bool {
        let World { now, prng, faults, links, hosts, .. } = self;
        let host = &mut hosts[host];
        let buffer_bytes = host.recv_buffer_bytes;
        let mut stats = host.stats;
        let held = host.reads_held;
        let socket = host.at(sock.slot).1;
        let link = &mut links[socket.link.0 as usize];

        if socket.watch == SimWatch::Early || (socket.watch == SimWatch::Armed && link.writable()) {
            socket.watch = SimWatch::None;
            stats.writables += 1;
            events.push(DriverEvent::Writable { sock });
        }
        let mut again = false;
        if socket.reading == SimReading::On && !socket.ended_told && !held {
            // One read a socket and wait: a flood is read in turns with the others.
            if link.up.due > 0 && *buffers_left > 0 {
                let mut len = link.up.due.min(buffer_bytes);
                if happens(prng, faults.read_cut) {
                    len = prng.usize(1..=len);
                }
                if let Some(lent) = buffers.lend(len) {
                    *buffers_left -= 1;
                    link.up.take(buffers.get(&lent));
                    stats.reads += 1;
                    stats.read_bytes += len as u64;
                    events.push(DriverEvent::Received { sock, lent });
                }
            }
            if link.up.due > 0 {
                again = true;
            } else if let Some(cause) = link.up_end {
                socket.ended_told = true;
                socket.over_at.get_or_insert(*now);
                match cause {
                    SocketEnd::Finished => stats.ended_finished += 1,
                    SocketEnd::Broken(_) => stats.ended_broken += 1,
                }
                events.push(DriverEvent::Ended { sock, cause });
            }
        }
        host.stats = stats;
        again
    }

    /// One send of a flush: how much was taken, and why not all.
    pub fn kernel_send(&mut self, host: usize, slot: u32, bytes: &[u8]) -> (usize, Option<SendCause>) {
        let link = self.hosts[host].at(slot).1.link;
        let at = self.link(link);
        let (room, broken) = (at.send_room(), at.broken());
        let (sent, cause) = if broken {
            (0, Some(SendCause::Broken(libc::EPIPE)))
        } else if happens(&mut self.prng, self.faults.break_in_send) {
            let sent = self.prng.usize(0..=bytes.len().min(room));
            (sent, Some(SendCause::Broken(libc::ECONNRESET)))
        } else if happens(&mut self.prng, self.faults.no_buffers) {
            let most = if self.prng.bool() { 0 } else { room.min(bytes.len().saturating_sub(1)) };
            (self.prng.usize(0..=most), Some(SendCause::NoBuffers))
        } else {
            let mut sent = bytes.len().min(room);
            if sent > 0 && happens(&mut self.prng, self.faults.send_cut) {
                sent = self.prng.usize(0..sent);
            }
            (sent, (sent < bytes.len()).then_some(SendCause::WouldBlock))
        };
        self.server_transmit(link, &bytes[..sent]);
        self.count_send(host, slot, sent, cause);
        if !broken && matches!(cause, Some(SendCause::Broken(errno)) if errno == libc::ECONNRESET) {
            self.break_link(link, libc::ECONNRESET);
        }
        self.mix_bytes(&bytes[..sent]);
        if self.trace {
            let (us, len) = (self.now.0 / 1000, bytes.len());
            eprintln!("{us:>10} us  shard {host}: send of {len} on slot {slot}: {sent} taken, {cause:?}");
        }
        (sent, cause)
    }

    fn count_send(&mut self, host: usize, slot: u32, sent: usize, cause: Option<SendCause>) {
        let untold = matches!(cause, Some(SendCause::Broken(_))) && self.faults.shuffle && self.prng.bool();
        let (now, host) = (self.now, &mut self.hosts[host]);
        host.stats.sends += 1;
        host.stats.sent_bytes += sent as u64;
        match cause {
            None => {}
            Some(SendCause::WouldBlock) => host.stats.sends_blocked += 1,
            Some(SendCause::NoBuffers) => host.stats.sends_without_buffers += 1,
            Some(SendCause::Broken(_)) => {
                host.stats.sends_broken += 1;
                let socket = host.at(slot).1;
                socket.over_at.get_or_insert(now);
                // The contract leaves open whether `Ended` follows.
                socket.ended_told |= untold;
            }
        }
    }

    pub fn read_start(&mut self, host: usize, sock: Sock) {
        let Some(socket) = self.hosts[host].named(sock, "read_start") else { return };
        socket.reading = SimReading::On;
        let at = &self.links[socket.link.0 as usize];
        if at.up.due > 0 || at.up_end.is_some() {
            self.hosts[host].mark_ready(sock.slot);
        }
    }

    pub fn read_pause(&mut self, host: usize, sock: Sock) {
        if let Some(socket) = self.hosts[host].named(sock, "read_pause") {
            socket.reading = match socket.reading {
                SimReading::NotYet => SimReading::NotYet,
                SimReading::On | SimReading::Paused => SimReading::Paused,
            };
        }
    }

    pub fn write_watch(&mut self, host: usize, sock: Sock) {
        let early = happens(&mut self.prng, self.faults.writable_early);
        let Some(socket) = self.hosts[host].named(sock, "write_watch") else { return };
        if socket.watch != SimWatch::None {
            return;
        }
        socket.watch = if early { SimWatch::Early } else { SimWatch::Armed };
        if early || self.links[socket.link.0 as usize].writable() {
            self.hosts[host].mark_ready(sock.slot);
        }
    }

    pub fn kernel_finish(&mut self, host: usize, slot: u32) {
        let link = self.hosts[host].at(slot).1.link;
        if !self.link(link).broken() {
            self.server_finish(link);
        }
    }

    pub fn kernel_close(&mut self, host: usize, slot: u32, reset: bool) {
        let link: LinkId = self.hosts[host].at(slot).1.link;
        // Another host may have it by now, or get it.
        if self.is_at(link, host, slot) && !self.leave_to_others(link, host, slot) {
            self.server_close(link, reset);
        }
        self.plan_gone(host, slot);
    }

    /// A second descriptor of it is somewhere: this close is no end of the connection.
    fn leave_to_others(&mut self, link: LinkId, host: usize, slot: u32) -> bool {
        let sock = self.hosts[host].at(slot).0;
        if let Some((other, there)) = self.other_holder((host, sock)) {
            self.put(link, other, there);
            return true;
        }
        let exported = self.exported.values_mut().find(|exported| exported.of == (host, sock));
        let Some(exported) = exported else { return false };
        exported.alone = true;
        self.link(link).place = SimPlace::OnItsWay;
        true
    }

    /// Who has adopted it and not closed it since.
    fn other_holder(&self, of: (usize, Sock)) -> Option<(usize, Sock)> {
        let living = self.hosts.iter().enumerate().filter(|(_, at)| !at.dead);
        let mut all =
            living.flat_map(|(other, at)| at.sockets().map(move |(sock, socket)| (other, sock, socket)));
        let found = all.find(|(.., socket)| socket.adopted_from == Some(of) && !socket.closing);
        found.map(|(other, sock, _)| (other, sock))
    }

    /// Descriptors that nobody has adopted are closed.
    pub fn forget_exports(&mut self) {
        let mut alone: Vec<LinkId> = std::mem::take(&mut self.exported)
            .into_values()
            .filter_map(|exported| exported.alone.then_some(exported.link))
            .collect();
        alone.sort_unstable_by_key(|link| link.0);
        alone.into_iter().for_each(|link| self.server_close(link, false));
    }

    pub fn accept_start(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.accepting = host.listening;
        host.accept_late = 0;
    }

    pub fn accept_pause(&mut self, host: usize) {
        let late = happens(&mut self.prng, self.faults.accept_late);
        let host = &mut self.hosts[host];
        if host.accepting {
            host.accepting = false;
            host.accept_late = u32::from(late && !host.backlog.is_empty());
        }
    }

    /// Clients that wait in the backlog are reset, as a closed listener does.
    pub fn accept_end(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        at.listening = false;
        at.accepting = false;
        at.accept_late = 0;
        for link in std::mem::take(&mut at.backlog) {
            self.refuse(link);
        }
    }

    /// The shard's process is gone: its kernel closes everything that it had.
    pub fn host_dies(&mut self, host: usize) {
        self.accept_end(host);
        self.hosts[host].dead = true;
        let open: Vec<_> = self.hosts[host]
            .sockets()
            .filter(|(_, socket)| !socket.closing)
            .map(|(sock, socket)| (socket.link, sock, socket.adopted_from))
            .collect();
        for (link, sock, from) in open {
            if !self.is_at(link, host, sock.slot) {
                continue;
            }
            match from.filter(|&(other, sock)| !self.hosts[other].dead && self.hosts[other].holds(sock)) {
                Some((other, sock)) => self.put(link, other, sock),
                None if self.leave_to_others(link, host, sock.slot) => {}
                None => self.server_close(link, false),
            }
        }
    }

    // --- sockets on their way to another process

    /// Whoever uses an adopted socket has its events from then on.
    pub fn claim(&mut self, host: usize, sock: Sock) {
        let at = &self.hosts[host];
        if !at.holds(sock) {
            return;
        }
        let socket = self.hosts[host].at(sock.slot).1;
        let (link, adopted) = (socket.link, socket.adopted_from.is_some());
        if adopted && self.link(link).place != SimPlace::Gone && !self.is_at(link, host, sock.slot) {
            self.put(link, host, sock);
        }
    }

    /// Whether the link's events are those of this slot.
    fn is_at(&mut self, link: LinkId, host: usize, slot: u32) -> bool {
        let at = self.link(link);
        at.host == host && at.place == SimPlace::Accepted { slot }
    }

    fn put(&mut self, link: LinkId, host: usize, sock: Sock) {
        let at = self.link(link);
        (at.host, at.place) = (host, SimPlace::Accepted { slot: sock.slot });
        self.hosts[host].mark_ready(sock.slot);
    }

    pub fn hold_reads(&mut self, host: usize, on: bool) {
        let host = &mut self.hosts[host];
        if std::mem::replace(&mut host.reads_held, on) && !on {
            let open: Vec<u32> =
                host.sockets().filter(|(_, socket)| !socket.closing).map(|(sock, _)| sock.slot).collect();
            open.into_iter().for_each(|slot| host.mark_ready(slot));
        }
    }

    /// # Errors
    /// `EMFILE` when the table is full; `EBADF` when the descriptor stands for nothing any more.
    pub fn adopt(&mut self, host: usize, descriptor: RawFd) -> io::Result<Sock> {
        let exported = self.exported.get(&descriptor).copied();
        let Exported { of: (other, from), link, finished, alone } = exported
            .filter(|exported| exported.alone || !self.hosts[exported.of.0].dead)
            .ok_or_else(bad_file)?;
        let held = self.hosts[other].holds(from);
        if !held && !alone {
            return Err(bad_file());
        }
        let sock = self.hosts[host].insert(link);
        // The descriptor is closed behind this, whatever comes of it.
        let Some(sock) = sock else {
            self.exported.remove(&descriptor);
            if alone {
                self.server_close(link, false);
            }
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        self.exported.remove(&descriptor);
        self.hosts[host].stats.accepted += 1;
        let finished = if held { self.hosts[other].at(from.slot).1.finished } else { finished };
        let socket = self.hosts[host].at(sock.slot).1;
        (socket.adopted_from, socket.finished) = (Some((other, from)), finished);
        if alone {
            self.put(link, host, sock);
        }
        Ok(sock)
    }
}

fn bad_file() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// What of an event goes into the fingerprint.
fn event_mark(event: &DriverEvent) -> u64 {
    let mark = |kind: u64, sock: &Sock, more: u64| kind << 56 | more << 32 | u64::from(sock.slot);
    match event {
        DriverEvent::Accepted { sock, listener, .. } => mark(1, sock, u64::from(listener.0)),
        DriverEvent::AcceptFailed { .. } => 2 << 56,
        DriverEvent::Received { sock, lent } => mark(3, sock, u64::from(lent.len)),
        DriverEvent::Ended { sock, cause } => mark(4, sock, u64::from(*cause == SocketEnd::Finished)),
        DriverEvent::Writable { sock } => mark(5, sock, 0),
        DriverEvent::Closed { sock } => mark(6, sock, 0),
    }
}
