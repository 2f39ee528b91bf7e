//! Descriptors that the starter of this process has left open for it.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// The first that is handed over (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// Takes `count` of them, once. No program that this process starts inherits them.
///
/// # Errors
/// When one is not open, or they were taken before.
pub fn take_handed_over(count: u8) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "the sockets handed over are taken already"));
    }
    let mut taken = Vec::new();
    for number in FIRST..FIRST + RawFd::from(count) {
        // SAFETY: the number is only asked about, and the call fails when nothing is open there.
        fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)?;
        // SAFETY: it is open, and by the protocol of LISTEN_PID it is this process' own; it is taken once, see above, before
        // anything else is opened.
        taken.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(taken)
}
