//! What drivers and what they ask of the kernel (`sys`) have in common.

use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// The driver's table or the process' descriptors are used up (EMFILE, ENFILE, full direct table).
    Full,
    /// The kernel is short of memory or buffers (ENOMEM, ENOBUFS).
    NoMemory,
    /// Any other errno.
    Other(i32),
}

/// Bytes the driver keeps alive until the end of the next [`Driver::flush`](crate::driver::Driver::flush). One reference count a flush,
/// however many sends point into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendHold(pub(in crate::driver) u32);

/// One piece of a send: a range of held bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendPart {
    pub hold: SendHold,
    pub range: Range<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCause {
    /// The socket's buffer is full. Wait for [`DriverEvent::Writable`](crate::driver::DriverEvent::Writable).
    WouldBlock,
    /// The kernel is short of memory (ENOBUFS, ENOMEM). Try again after a delay.
    NoBuffers,
    /// The connection is gone (EPIPE, ECONNRESET, ...). `Ended` may or may not follow; close it.
    Broken(i32),
}

/// Wakes one shard from another thread. Cheap to call when the shard is awake already.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// What every socket accepted by TCP inherits from its listener, so that it costs nothing at accept. A unix socket has none
/// of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// What the kernel may keep for a peer that does not read, payload (SO_SNDBUF; the kernel doubles it for what it needs
    /// besides, and cuts it at net.core.wmem_max). 0: what the kernel finds right, up to net.ipv4.tcp_wmem.
    pub send_buffer_bytes: u32,
    /// How long a peer may leave what was sent unacknowledged, or its window shut, before the kernel breaks the connection
    /// (TCP_USER_TIMEOUT), after a close as well. Zero: until the kernel's retries end, some 15 minutes.
    pub send_timeout: Duration,
}
