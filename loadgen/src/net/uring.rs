//! Client sockets on io_uring: direct descriptors in as many rings as the connections need.
//!
//! Idle, a connection is one multishot poll in the kernel and a byte here. A poll's completion puts the slot into the
//! queue of ready ones; each call of `poll` reads once from up to [`READS_MAX`] of them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use trunkline::base::time::Time;

use super::sys::{Completion, Kernel, Kind};
use super::{Event, Net, NetOptions, READS_MAX, dial, now};

pub struct UringNet {
    kernel: Kernel,
    options: NetOptions,
    capacity: u32,
    slots: Vec<u8>,
    /// Slots to read and since when, each at most once: those with `QUEUED`.
    ready: VecDeque<(u32, Time)>,
    completions: Vec<Completion>,
    /// What a command already brought about: given out by the next poll.
    events: Vec<Event>,
    /// Why the kernel can be used no longer: given out by the next poll.
    broken: Option<io::Error>,
}

/// A multishot poll is armed.
const POLL: u8 = 1;
/// A connect is in flight.
const CONNECT: u8 = 1 << 1;
/// In the queue of ready slots.
const QUEUED: u8 = 1 << 2;
/// Bytes may be there; not read because the slot is paused.
const READY: u8 = 1 << 3;
const PAUSED: u8 = 1 << 4;
const CLOSING: u8 = 1 << 5;
/// The close is in flight.
const CLOSE: u8 = 1 << 6;
/// Connected or connecting.
const USED: u8 = 1 << 7;

impl UringNet {
    /// Must be made by the thread that uses it.
    ///
    /// # Errors
    /// When io_uring cannot be used, or its rings cannot hold so many connections; the text says why.
    pub fn try_new(options: NetOptions) -> io::Result<UringNet> {
        let table_max = dial::descriptors_max();
        let rings = match options.rings {
            0 => options.connections_max.div_ceil(table_max).max(1),
            rings => rings,
        };
        let slots_per_ring = options.connections_max.div_ceil(rings).max(1);
        if slots_per_ring > table_max {
            let text = format!(
                "{slots_per_ring} connections a ring exceed RLIMIT_NOFILE, {table_max}: at least {} rings a thread \
                 are needed",
                options.connections_max.div_ceil(table_max)
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(UringNet {
            kernel: Kernel::try_new(rings, slots_per_ring)?,
            options,
            capacity: options.connections_max,
            slots: vec![0; options.connections_max as usize],
            ready: VecDeque::new(),
            completions: Vec::new(),
            events: Vec::new(),
            broken: None,
        })
    }

    fn is(&self, slot: u32, flag: u8) -> bool {
        self.slots[slot as usize] & flag != 0
    }

    fn set(&mut self, slot: u32, flag: u8) {
        self.slots[slot as usize] |= flag;
    }

    fn clear(&mut self, slot: u32, flag: u8) {
        self.slots[slot as usize] &= !flag;
    }

    /// Remembers the first failure of the kernel to take a submission.
    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.broken.get_or_insert(error);
        }
    }

    fn enqueue(&mut self, slot: u32, since: Time) {
        if self.is(slot, CLOSING) || self.is(slot, QUEUED) {
            return;
        }
        if self.is(slot, PAUSED) {
            self.set(slot, READY);
        } else {
            self.set(slot, QUEUED);
            self.ready.push_back((slot, since));
        }
    }

    fn arm(&mut self, slot: u32) {
        let pushed = self.kernel.push_poll(slot);
        self.note(pushed);
        self.set(slot, POLL);
    }

    /// Closes the descriptor as soon as nothing that keeps it open is in flight.
    fn advance_close(&mut self, slot: u32) {
        if self.is(slot, CLOSING) && !self.is(slot, POLL | CONNECT | CLOSE) {
            self.set(slot, CLOSE);
            let pushed = self.kernel.push_close(slot);
            self.note(pushed);
        }
    }

    fn act(&mut self, completion: Completion, now: Time, events: &mut Vec<Event>) {
        let slot = completion.slot;
        match completion.kind {
            Kind::Connect => {
                self.clear(slot, CONNECT);
                match completion.result {
                    _ if self.is(slot, CLOSING) => self.advance_close(slot),
                    0.. => {
                        self.arm(slot);
                        events.push(Event::Connected { slot });
                    }
                    errno => events.push(Event::ConnectFailed { slot, errno: -errno }),
                }
            }
            Kind::Poll => {
                if !completion.more() {
                    self.clear(slot, POLL);
                }
                if self.is(slot, CLOSING) {
                    self.advance_close(slot);
                } else {
                    self.enqueue(slot, now);
                    if !self.is(slot, POLL) {
                        // The kernel ends a poll when completions overflow. One that cannot be armed at all is a broken
                        // socket's, and the read that is queued says how; it may then be armed in vain once more.
                        self.arm(slot);
                    }
                }
            }
            Kind::Send => {
                if completion.result != 0 && self.is(slot, USED) && !self.is(slot, CLOSING) {
                    events.push(Event::SendFailed { slot, errno: completion.result });
                }
            }
            Kind::Close => {
                self.slots[slot as usize] &= QUEUED;
                events.push(Event::Closed { slot });
            }
            // There was nothing left to cancel: its own completion says so as well.
            Kind::Cancel => {}
            Kind::Read => unreachable!("reads settle within the call that made them"),
        }
    }

    /// Reads from ready slots, and waits until every read has settled.
    fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut pushed = 0;
        let mut since_of = [Time::ZERO; READS_MAX];
        while self.kernel.can_read() {
            let Some((slot, since)) = self.ready.pop_front() else { break };
            self.clear(slot, QUEUED);
            if self.is(slot, CLOSING) || !self.is(slot, USED) {
                continue;
            }
            if self.is(slot, PAUSED) {
                self.set(slot, READY);
                continue;
            }
            since_of[pushed] = since;
            self.kernel.push_read(slot)?;
            pushed += 1;
        }
        if pushed == 0 {
            return Ok(());
        }
        let mut settled = 0;
        let mut later = Vec::new();
        self.kernel.submit()?;
        loop {
            self.kernel.harvest(&mut self.completions)?;
            for completion in std::mem::take(&mut self.completions) {
                if completion.kind == Kind::Read {
                    settled += 1;
                    self.settle(completion, since_of[usize::from(completion.buffer)], events);
                } else {
                    later.push(completion);
                }
            }
            if settled == pushed {
                break;
            }
            // Not seen: MSG_DONTWAIT completes a read inside its submit. The buffers are the kernel's until it has.
            self.kernel.wait(Duration::from_millis(1))?;
        }
        self.kernel.forget_reads(settled);
        self.completions = later;
        Ok(())
    }

    fn settle(&mut self, read: Completion, since: Time, events: &mut Vec<Event>) {
        let slot = read.slot;
        if self.is(slot, CLOSING) {
            return;
        }
        match read.result {
            len @ 1.. => {
                events.push(Event::Data { slot, buffer: read.buffer, len: len as u32, since });
                if read.socket_nonempty() {
                    self.enqueue(slot, since);
                }
            }
            0 => events.push(Event::Ended { slot, errno: 0 }),
            errno if errno == -libc::EAGAIN => {}
            errno if errno == -libc::EINTR || errno == -libc::ENOMEM || errno == -libc::ENOBUFS => {
                self.enqueue(slot, since);
            }
            errno => events.push(Event::Ended { slot, errno: -errno }),
        }
    }
}

impl Net for UringNet {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn connect(&mut self, slot: u32, target: SocketAddr, source: Option<SocketAddr>) -> Result<(), i32> {
        assert!(!self.is(slot, USED), "slot {slot} is in use");
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let socket = dial::socket(&self.options, target, source).map_err(errno)?;
        self.kernel.adopt(slot, socket.as_fd()).map_err(errno)?;
        self.slots[slot as usize] = USED | CONNECT | (self.slots[slot as usize] & QUEUED);
        let pushed = self.kernel.push_connect(slot, target);
        self.note(pushed);
        Ok(())
    }

    fn data(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        self.kernel.buffer(buffer, len)
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) {
        if self.is(slot, USED) && !self.is(slot, CLOSING) && !bytes.is_empty() {
            let pushed = self.kernel.push_send(slot, bytes);
            self.note(pushed);
        }
    }

    fn pause(&mut self, slot: u32) {
        self.set(slot, PAUSED);
    }

    fn resume(&mut self, slot: u32) {
        self.clear(slot, PAUSED);
        if self.is(slot, READY) {
            self.clear(slot, READY);
            self.enqueue(slot, now());
        }
    }

    fn close(&mut self, slot: u32) {
        if !self.is(slot, USED) || self.is(slot, CLOSING) {
            return;
        }
        self.set(slot, CLOSING);
        for (flag, kind) in [(CONNECT, Kind::Connect), (POLL, Kind::Poll)] {
            if self.is(slot, flag) {
                let pushed = self.kernel.push_cancel(slot, kind);
                self.note(pushed);
            }
        }
        self.advance_close(slot);
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Duration) -> io::Result<()> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        events.append(&mut self.events);
        let busy = !self.ready.is_empty() || !self.completions.is_empty() || !events.is_empty();
        self.kernel.wait(if busy { Duration::ZERO } else { timeout })?;
        self.kernel.harvest(&mut self.completions)?;
        let now = now();
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.act(completion, now, events);
        }
        self.completions = completions;
        self.read(events)
    }
}
