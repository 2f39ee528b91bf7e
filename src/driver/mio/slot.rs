//! What the driver keeps for a listener and for a socket, and a write to one.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use ::mio::net::{TcpListener, TcpStream};

use crate::base::address::ListenAddress;
use crate::base::bytes::Bytes;
use crate::base::ids::ListenerId;
use crate::driver::sys::{self, SEND_BYTES_MAX, SEND_PARTS_MAX};
use crate::driver::{SendPart, UnixSocket};

/// One of the places where clients come in.
pub(super) struct MioListener {
    /// `None` after the end.
    pub(super) source: Option<EventSource>,
    /// What its clients are said to come by.
    pub(super) place: ListenerId,
    pub(super) address: ListenAddress,
    /// Each client's address is asked for.
    pub(super) addresses: bool,
    /// The kernel said that clients wait, and accept has not said otherwise since.
    pub(super) acceptable: bool,
}

pub(super) enum EventSource {
    Tcp(TcpListener),
    Unix(Arc<UnixSocket>),
}

impl EventSource {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            EventSource::Tcp(own) => own.as_fd(),
            EventSource::Unix(shared) => shared.as_fd(),
        }
    }
}

/// What the driver keeps for a socket.
#[derive(Debug)]
pub(super) struct MioSlot {
    /// `None` from close on.
    pub(super) stream: Option<TcpStream>,
    pub(super) generation: u32,
    pub(super) flags: u32,
}

/// Reading is wanted.
pub(super) const READING: u32 = 1;
/// Bytes or the end may be there to read.
pub(super) const READABLE: u32 = 1 << 1;
/// In the queue of readable slots.
pub(super) const QUEUED: u32 = 1 << 2;
/// The end was reported.
pub(super) const ENDED: u32 = 1 << 3;
/// The kernel announced the end or an error: reading goes on until it is met.
pub(super) const PEER_ENDED: u32 = 1 << 4;
/// The socket takes bytes, as far as known.
pub(super) const WRITABLE: u32 = 1 << 5;
/// The next edge for writing is wanted as an event.
pub(super) const WATCHED: u32 = 1 << 6;
/// A `Writable` is among the events of the next wait.
pub(super) const TELL: u32 = 1 << 7;
/// Closed, and the event of it is yet to come.
pub(super) const CLOSING: u32 = 1 << 8;

impl MioSlot {
    pub(super) fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Parts that are gathered without asking for memory.
const PARTS_FEW: usize = 32;

/// One write of `parts` as far as its bounds go: the bytes tried, and the bytes taken.
pub(super) fn write(stream: &TcpStream, holds: &[Bytes], parts: &[SendPart]) -> (usize, io::Result<usize>) {
    let mut few = [IoSlice::new(&[]); PARTS_FEW];
    let mut many = Vec::new();
    let slices = if parts.len() <= PARTS_FEW {
        &mut few[..parts.len()]
    } else {
        many.resize(parts.len(), IoSlice::new(&[]));
        &mut many[..]
    };
    let (mut tried, mut count) = (0, 0);
    for part in parts {
        let bytes = sys::held(holds, part);
        let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX - tried)];
        if bytes.is_empty() {
            continue;
        }
        if count == SEND_PARTS_MAX {
            break;
        }
        slices[count] = IoSlice::new(bytes);
        count += 1;
        tried += bytes.len();
    }
    let socket = socket2::SockRef::from(stream);
    (tried, socket.send_vectored_with_flags(&slices[..count], libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT))
}
