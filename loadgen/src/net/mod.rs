//! One thread's sockets as completions, seen from the client's side.
//!
//! Inputs: which slot to connect, what to send, what to close. Outputs: [`Event`]s. Must not know: protocols, what is
//! measured.
//!
//! Two implementations, one behaviour, one test suite: [`uring`] (direct descriptors in many rings, so that one thread
//! holds more connections than RLIMIT_NOFILE) and [`mio`] (epoll, where io_uring is forbidden).
//!
//! # Life of a slot
//! ```text
//!   free ──connect──▶ connecting ──Connected──▶ open ──close──▶ closing ──Closed──▶ free
//!                         └──────────── ConnectFailed, Ended, SendFailed: still to be closed
//! ```
//! The caller that connects a slot closes it, after every kind of failure too, and takes it again only after `Closed`.

mod dial;
pub mod mio;
#[allow(unsafe_code)]
mod sys;
#[cfg(test)]
mod tests;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use trunkline::base::time::Time;

pub use self::dial::{Sources, raise_descriptor_limit};
pub use self::sys::Broadcast;

/// Bytes of one read: what a busy connection gathers between two turns, and no more than stays in the first two caches
/// with 64 of them.
pub const READ_BYTES: usize = 16 * 1024;
/// Reads of one [`Net::poll`]. The clock is read after each batch, so this also bounds how far apart the reading and
/// its time stamp are: 64 reads of 1.5 us.
pub const READS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Connected {
        slot: u32,
    },
    /// The connection was not made. Comes instead of `Connected`.
    ConnectFailed {
        slot: u32,
        errno: i32,
    },
    /// Bytes of one read, in [`Net::data`] until the next poll. `since` is when the kernel's word that they are there
    /// was taken: what lies between that and now is this generator's own delay.
    Data {
        slot: u32,
        buffer: u16,
        len: u32,
        since: Time,
    },
    /// The server will send no more: `errno` is 0 for an orderly end.
    Ended {
        slot: u32,
        errno: i32,
    },
    /// The kernel did not take all bytes of a send. EAGAIN: the server does not read.
    SendFailed {
        slot: u32,
        errno: i32,
    },
    Closed {
        slot: u32,
    },
}

pub trait Net {
    /// `"io-uring"` or `"mio"`.
    fn name(&self) -> &'static str;

    /// Slots: 0 to this, exclusive.
    fn capacity(&self) -> u32;

    /// Begins to connect a free slot, from `source` if given.
    ///
    /// # Errors
    /// The errno when not even that is possible; the slot is still free then.
    fn connect(&mut self, slot: u32, target: SocketAddr, source: Option<SocketAddr>) -> Result<(), i32>;

    /// The bytes of an [`Event::Data`], writable for codecs that work in place.
    fn data(&mut self, buffer: u16, len: u32) -> &mut [u8];

    /// Sends without waiting, at the next poll at the latest.
    fn send(&mut self, slot: u32, bytes: &[u8]);

    /// Reads the slot no more: its kernel buffers fill, then the server's.
    fn pause(&mut self, slot: u32);

    fn resume(&mut self, slot: u32);

    fn close(&mut self, slot: u32);

    /// Hands over what is queued, waits until something happened or `timeout` passed, and appends what happened.
    ///
    /// # Errors
    /// Those after which nothing more can come of this thread.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Duration) -> io::Result<()>;
}

/// CLOCK_MONOTONIC: the same for all threads and for the processes of one machine.
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// How a thread's sockets are made.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// Slots.
    pub connections_max: u32,
    /// Rings, each with a table of its own. 0: as few as RLIMIT_NOFILE allows.
    pub rings: u32,
    /// SO_RCVBUF in bytes, so that a stalled reader shows early. 0: as the kernel sizes it.
    pub receive_bytes: u32,
}
