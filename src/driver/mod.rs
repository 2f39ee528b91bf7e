//! One shard's window on the kernel: sockets as completions.
//!
//! Inputs: what the shard wants done to its sockets. Outputs: [`DriverEvent`]s from [`Driver::wait`] and
//! [`SendFailure`]s from [`Driver::flush`]. Must not know: protocols, sessions, channels.
//!
//! Three implementations, one behaviour, one test suite (`suite`): [`uring`] (io_uring, Linux 6.1 and later), [`mio`]
//! (epoll, where io_uring is forbidden) and [`sim`] (virtual time and faults, for the simulation tests).
//!
//! # Life of a socket
//! ```text
//!  Accepted ──read_start──▶ open ──close──▶ closing ──▶ Closed   (the slot may be accepted again after this)
//!                            │ ▲
//!                 read_pause ▼ │ read_start
//!                           paused
//! ```
//! Between `Accepted` and the first `read_start` nothing is read. Every accepted socket must be closed by its owner,
//! after [`DriverEvent::Ended`] too. After `close` no event but `Closed` comes for it.
//!
//! # Legal order in a tick
//! `wait` → any mix of `received`/`give_back`/`read_*`/`hold`/`send`/`write_watch`/`finish`/`close`/`reset` → `flush` → `wait`.
//! At most one `send` a socket between two flushes: a send may fail in the middle, and what follows must wait for that.
//! Every [`Lent`] is given back before the next `wait`, or still in the events that `wait` is given: a shard that takes
//! nothing in keeps its events, and reads end when no buffer is left.

pub mod choose;
pub mod listener;
pub mod mio;
pub mod sim;
#[cfg(test)]
mod suite;
#[allow(unsafe_code)]
mod sys;
mod types;
pub mod uring;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::base::address::ListenAddress;
use crate::base::bytes::Bytes;
use crate::base::ids::{ListenerId, Sock};
use crate::base::time::Time;

pub use self::listener::{Bind, ListenOptions, UnixSocket};
pub use self::sys::{allocate, give_memory_back, now, take_short_turns};
pub use self::types::{AcceptFailure, SendCause, SendHold, SendPart, SocketOptions, Wake};

/// What happened since the last [`Driver::wait`].
#[derive(Debug)]
pub enum DriverEvent {
    /// A client connected. Nothing is read from it before [`Driver::read_start`]. Its address comes along where the
    /// [listener](ListenOptions::addresses) is asked for it and the socket is one of TCP.
    Accepted { sock: Sock, listener: ListenerId, address: Option<IpAddr> },
    /// A client could not be accepted. Accepting is paused on every listener, since what is short is short for all; the
    /// shard resumes it after a delay or when a slot is free.
    AcceptFailed { cause: AcceptFailure },
    /// Bytes of one read, in a buffer lent until [`Driver::give_back`]. Never empty.
    Received { sock: Sock, lent: Lent },
    /// The peer will send no more, or the socket is broken. Comes at most once; the owner still has to close it.
    Ended { sock: Sock, cause: SocketEnd },
    /// A socket watched by [`Driver::write_watch`] takes bytes again. One event a watch.
    Writable { sock: Sock },
    /// A closed socket is gone. Its slot may come back in the next `Accepted`, with another generation.
    Closed { sock: Sock },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The peer shut its sending side down in order (FIN).
    Finished,
    /// ECONNRESET, EPIPE, ETIMEDOUT and the like: nothing can be sent either.
    Broken(i32),
}

impl SocketEnd {
    /// The peer has acknowledged nothing for too long (see [`SocketOptions::send_timeout`]).
    pub fn is_silence(self) -> bool {
        matches!(self, SocketEnd::Broken(libc::ETIMEDOUT))
    }
}

/// A receive buffer lent for the length of one read. Not `Clone`: it is given back exactly once.
#[derive(Debug, PartialEq, Eq)]
pub struct Lent {
    pub(in crate::driver) buffer: u16,
    pub(in crate::driver) len: u32,
}

/// A send that the kernel did not take whole. Sends that it took whole are silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// As given to [`Driver::send`].
    pub tag: u32,
    /// Bytes the kernel did take, as they go to the socket ([sealed](crate::layer::Sealed) ones of a sealed connection): the
    /// stream continues exactly there.
    pub sent: u32,
    pub cause: SendCause,
}

/// How a driver is made. The same for the two real ones.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// From one to [`LISTENERS_MAX`](crate::base::limits::LISTENERS_MAX): a listener's place is its [`ListenerId`].
    pub listeners: Vec<ListenOptions>,
    /// Most sockets at a time. For io_uring also the size of the direct descriptor table.
    pub sockets_max: u32,
    pub recv_buffer_bytes: usize,
    /// A power of two.
    pub recv_buffers: u16,
    pub socket: SocketOptions,
}

/// The contract is in the module's head; a `Sock` of an older generation is ignored by every method and counted.
pub trait Driver {
    /// `"io-uring"`, `"mio"` or `"sim"`.
    fn name(&self) -> &'static str;

    /// The monotonic clock. Shards read it once a tick.
    fn now(&self) -> Time;

    /// Where a listener is bound: with port 0 asked for, the port that was given.
    ///
    /// # Panics
    /// When there is no such listener.
    fn local_addr(&self, listener: ListenerId) -> ListenAddress;

    /// Copies of the listeners, for another process to accept from.
    ///
    /// # Errors
    /// No descriptor is left.
    fn listeners(&self) -> io::Result<Vec<(ListenerId, OwnedFd)>> {
        Ok(Vec::new())
    }

    /// For other threads to end this driver's `wait`.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Starts accepting on every listener, also after a pause or a failure. Idempotent.
    fn accept_start(&mut self);

    /// Stops accepting; the listeners stay bound and their backlogs fill. Idempotent.
    fn accept_pause(&mut self);

    /// Closes the listeners for good: new clients are refused by the kernel. A unix socket goes with the last of those that
    /// share it.
    fn accept_end(&mut self);

    /// Reads `sock` from now on, as bytes come: idle, it costs one poll, no buffer. Idempotent.
    fn read_start(&mut self, sock: Sock);

    /// Reads no more. A `Received` that was already returned stands; none is returned after it. Idempotent.
    fn read_pause(&mut self, sock: Sock);

    /// The bytes of a lent buffer, writable so that masks can be taken off in place.
    fn received(&mut self, lent: &Lent) -> &mut [u8];

    fn give_back(&mut self, lent: Lent);

    /// Keeps `bytes` alive until the end of the next flush, for [`Driver::send`] to point into.
    fn hold(&mut self, bytes: Bytes) -> SendHold;

    /// Sends `parts` in order as one write, without waiting. `tag` comes back if it fails; its meaning is the caller's.
    fn send(&mut self, sock: Sock, parts: &[SendPart], tag: u32);

    /// Hands everything queued to the kernel and appends the sends that were not taken whole. Releases the holds.
    fn flush(&mut self, failures: &mut Vec<SendFailure>);

    /// One [`DriverEvent::Writable`] when the socket takes bytes again. Idempotent while armed.
    fn write_watch(&mut self, sock: Sock);

    /// Sends FIN after what was sent: the peer reads an orderly end. Reading goes on.
    fn finish(&mut self, sock: Sock);

    /// Closes the socket. [`DriverEvent::Closed`] follows when nothing of it is in flight any more. What was sent still reaches
    /// the peer, and stays in the kernel until it has.
    fn close(&mut self, sock: Sock);

    /// Closes the socket by a reset: what the peer has not been sent is dropped with its memory. For peers that do not
    /// read. Otherwise, and for a unix socket, as [`Driver::close`].
    fn reset(&mut self, sock: Sock);

    /// Waits until something happened, `waker` was used, or `timeout` passed (`None`: no limit; zero: just look),
    /// and appends what happened. May return without events. At most one `Received` a socket, and no more of them
    /// than there are receive buffers: a flood is read in turns with the others.
    fn wait(&mut self, events: &mut Vec<DriverEvent>, timeout: Option<Duration>) -> io::Result<()>;

    /// Completions dropped because their socket was of an older generation, since start.
    fn stale_total(&self) -> u64;

    // --- handing sockets to another process

    /// While on, no socket is read, whatever [`Driver::read_start`] says: what comes stays in the sockets. Reads that were
    /// returned stand. Idempotent.
    fn hold_reads(&mut self, on: bool);

    /// After [`Driver::accept_pause`]: no client is on its way out of a listener any more.
    fn accept_is_idle(&self) -> bool;

    /// Why sockets cannot leave this driver, if they cannot: Linux before 6.8, with io_uring.
    fn export_is_refused(&self) -> Option<&'static str>;

    /// Appends a descriptor for each socket, in order, for another driver to [adopt](Driver::adopt). The sockets stay here as
    /// well: what becomes of the connection is for the two owners to agree on. A close here is then no end for the peer.
    fn export(&mut self, socks: &[Sock], exported: &mut Vec<io::Result<OwnedFd>>);

    /// Gives up a socket that another driver has adopted and serves: as [`Driver::close`], where that is no work. What comes on
    /// it is the other's.
    fn give_up(&mut self, sock: Sock) {
        self.close(sock);
    }

    /// Takes a connection that another driver has exported: as after [`DriverEvent::Accepted`]. Only before the first
    /// [`Driver::accept_start`].
    ///
    /// # Errors
    /// The table is full, the kernel has no memory, or it is no socket.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock>;

    /// Adopted sockets on which something came before they were read here, each once, the latest last: the other driver may have
    /// read it. None where a driver does not know.
    fn take_stirred(&mut self) -> Vec<Sock> {
        Vec::new()
    }

    /// Sockets that the next waits read, as far as it is known.
    fn reads_waiting(&self) -> usize;
}
