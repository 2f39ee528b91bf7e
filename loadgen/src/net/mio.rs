//! Client sockets on epoll, where io_uring is forbidden. Each connection takes a descriptor.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use trunkline::base::time::Time;

use super::{Event, Net, NetOptions, READ_BYTES, READS_MAX, dial, now};

/// Descriptors a process needs beside its connections: standard ones, epoll, the publisher's, a report's.
const DESCRIPTORS_SPARE: u32 = 128;
/// Readiness taken from the kernel at a time.
const READINESS_MAX: usize = 1024;

pub struct MioNet {
    poll: Poll,
    readiness: Events,
    options: NetOptions,
    slots: Vec<Slot>,
    ready: VecDeque<(u32, Time)>,
    buffers: Box<[u8]>,
    events: Vec<Event>,
}

#[derive(Default)]
struct Slot {
    stream: Option<TcpStream>,
    flags: u8,
}

const CONNECTING: u8 = 1;
const QUEUED: u8 = 1 << 1;
const READY: u8 = 1 << 2;
const PAUSED: u8 = 1 << 3;
/// The kernel announced the end or an error: reading goes on until it is met.
const PEER_ENDED: u8 = 1 << 4;

impl MioNet {
    /// # Errors
    /// When epoll fails, or RLIMIT_NOFILE allows fewer connections; the text says so.
    pub fn try_new(options: NetOptions) -> io::Result<MioNet> {
        let limit = dial::descriptors_max();
        if options.connections_max.saturating_add(DESCRIPTORS_SPARE) > limit {
            let text = format!(
                "{} connections without io_uring exceed RLIMIT_NOFILE, {limit}",
                options.connections_max
            );
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(MioNet {
            poll: Poll::new()?,
            readiness: Events::with_capacity(READINESS_MAX),
            options,
            slots: (0..options.connections_max).map(|_| Slot::default()).collect(),
            ready: VecDeque::new(),
            buffers: vec![0; READ_BYTES * READS_MAX].into_boxed_slice(),
            events: Vec::new(),
        })
    }

    fn enqueue(&mut self, slot: u32, since: Time) {
        let entry = &mut self.slots[slot as usize];
        if entry.stream.is_none() || entry.flags & QUEUED != 0 {
            return;
        }
        if entry.flags & PAUSED != 0 {
            entry.flags |= READY;
        } else {
            entry.flags |= QUEUED;
            self.ready.push_back((slot, since));
        }
    }

    /// Finds out how a connect ended.
    fn finish_connect(&mut self, slot: u32, events: &mut Vec<Event>) {
        let entry = &mut self.slots[slot as usize];
        let Some(stream) = &entry.stream else { return };
        let failed = match (stream.take_error(), stream.peer_addr()) {
            (Ok(Some(error)) | Err(error), _) => Some(error),
            (Ok(None), Ok(_)) => None,
            // Not yet: another event follows.
            (Ok(None), Err(error)) if error.kind() == ErrorKind::NotConnected => return,
            (Ok(None), Err(error)) => Some(error),
        };
        entry.flags &= !CONNECTING;
        events.push(match failed {
            None => Event::Connected { slot },
            Some(error) => Event::ConnectFailed { slot, errno: error.raw_os_error().unwrap_or(libc::EIO) },
        });
    }

    fn read(&mut self, events: &mut Vec<Event>) {
        let mut buffer = 0;
        while buffer < READS_MAX {
            let Some((slot, since)) = self.ready.pop_front() else { break };
            let entry = &mut self.slots[slot as usize];
            entry.flags &= !QUEUED;
            let Some(stream) = &mut entry.stream else { continue };
            if entry.flags & PAUSED != 0 {
                entry.flags |= READY;
                continue;
            }
            let start = buffer * READ_BYTES;
            match stream.read(&mut self.buffers[start..start + READ_BYTES]) {
                Ok(0) => events.push(Event::Ended { slot, errno: 0 }),
                Ok(len) => {
                    events.push(Event::Data { slot, buffer: buffer as u16, len: len as u32, since });
                    buffer += 1;
                    // Edges come once: only a read that finds nothing, or less than it could, has taken all.
                    if len == READ_BYTES || entry.flags & PEER_ENDED != 0 {
                        self.enqueue(slot, since);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => self.enqueue(slot, since),
                Err(error) => {
                    events.push(Event::Ended { slot, errno: error.raw_os_error().unwrap_or(libc::EIO) });
                }
            }
        }
    }
}

impl Net for MioNet {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn capacity(&self) -> u32 {
        self.options.connections_max
    }

    fn connect(&mut self, slot: u32, target: SocketAddr, source: Option<SocketAddr>) -> Result<(), i32> {
        assert!(self.slots[slot as usize].stream.is_none(), "slot {slot} is in use");
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let socket = dial::socket(&self.options, target, source).map_err(errno)?;
        socket.set_nonblocking(true).map_err(errno)?;
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(errno(error)),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(slot as usize), interest).map_err(errno)?;
        let entry = &mut self.slots[slot as usize];
        entry.stream = Some(stream);
        entry.flags = CONNECTING | (entry.flags & QUEUED);
        Ok(())
    }

    fn data(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        let start = usize::from(buffer) * READ_BYTES;
        &mut self.buffers[start..start + len as usize]
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) {
        let Some(stream) = &mut self.slots[slot as usize].stream else { return };
        let errno = match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => return,
            Ok(_) => libc::EAGAIN,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        self.events.push(Event::SendFailed { slot, errno });
    }

    fn pause(&mut self, slot: u32) {
        self.slots[slot as usize].flags |= PAUSED;
    }

    fn resume(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.flags &= !PAUSED;
        if entry.flags & READY != 0 {
            entry.flags &= !READY;
            self.enqueue(slot, now());
        }
    }

    fn close(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if let Some(stream) = entry.stream.take() {
            // Dropping it takes it out of epoll and closes it; the shutdown only makes the order of the two plain.
            let _ = stream.shutdown(Shutdown::Write);
            entry.flags &= QUEUED;
            self.events.push(Event::Closed { slot });
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Duration) -> io::Result<()> {
        let busy = !self.ready.is_empty() || !self.events.is_empty();
        match self.poll.poll(&mut self.readiness, Some(if busy { Duration::ZERO } else { timeout })) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        events.append(&mut self.events);
        let now = now();
        let readiness = std::mem::replace(&mut self.readiness, Events::with_capacity(0));
        for event in &readiness {
            let slot = event.token().0 as u32;
            if self.slots[slot as usize].flags & CONNECTING != 0 {
                self.finish_connect(slot, events);
            }
            // A slot taken again in this turn may be named by an edge of its last connection: the read finds nothing.
            let ended = event.is_read_closed() || event.is_error();
            if ended && self.slots[slot as usize].stream.is_some() {
                self.slots[slot as usize].flags |= PEER_ENDED;
            }
            if event.is_readable() || ended {
                self.enqueue(slot, now);
            }
        }
        self.readiness = readiness;
        self.read(events);
        // A closed slot says nothing after `Closed`, and failed ones only once.
        let slots = &self.slots;
        events.retain(|event| match event {
            Event::Data { slot, .. } | Event::Ended { slot, .. } | Event::SendFailed { slot, .. } => {
                slots[*slot as usize].flags & CONNECTING == 0 && slots[*slot as usize].stream.is_some()
            }
            _ => true,
        });
        Ok(())
    }
}
