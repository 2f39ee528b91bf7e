//! Waking a ring from another thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use io_uring::opcode;
use io_uring::types::Fd;

use super::ring::Ring;
use crate::driver::types::Wake;

/// Wakes a ring from any thread, by one system call.
///
/// A message to the ring costs the waking thread what an eventfd does (`benches/wake.rs`). For the woken thread it was
/// equal in eight runs on a busy machine, and in the two on a quiet one 3.3 us of cpu a wake for 7.6 us.
/// It needs Linux 6.13 and a ring that is in use; the eventfd is there for all else. It is polled edge triggered, so
/// that every wake is seen although its counter is never read: it would take five centuries of a wake a nanosecond to
/// overflow.
pub(in crate::driver) struct RingWaker {
    event: OwnedFd,
    /// -1 when messages cannot be sent. A number, not a share in the descriptor: a waker must not keep the ring, and with
    /// it every socket, open after its driver. One that is late by a race meets no ring, or a spurious wake.
    ring: AtomicI32,
    token: u64,
}

impl RingWaker {
    /// `token` comes with the completion that ends the wait.
    pub fn try_new(ring: &Ring, token: u64) -> io::Result<RingWaker> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = ring.ring.as_raw_fd();
        // A kernel that knows the message says that this ring is not yet enabled.
        let known = send_message(fd, token).is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD));
        Ok(RingWaker {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ring: AtomicI32::new(if known { fd } else { -1 }),
            token,
        })
    }

    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The ring goes away.
    pub fn end(&self) {
        self.ring.store(-1, Ordering::Relaxed);
    }
}

impl Wake for RingWaker {
    fn wake(&self) {
        let ring = self.ring.load(Ordering::Relaxed);
        if ring >= 0 && send_message(ring, self.token).is_ok() {
            return;
        }
        // No messages here, a ring that is not yet in use, or no memory for the message. The only error an open eventfd
        // has is a counter about to overflow, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// Posts a completion with `token` to a ring (IORING_REGISTER_SEND_MSG_RING: without a ring of one's own).
fn send_message(ring: RawFd, token: u64) -> io::Result<()> {
    const IORING_REGISTER_SEND_MSG_RING: libc::c_uint = 31;
    let entry = opcode::MsgRingData::new(Fd(ring), 0, token, None).build();
    // SAFETY: the kernel reads one submission from `entry`, which lives through the call and points to no memory; -1 is
    // the descriptor that this request asks for.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, -1, IORING_REGISTER_SEND_MSG_RING, &raw const entry, 1)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
