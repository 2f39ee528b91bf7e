//! Listeners, limits, the clock, and what an errno means: the same for both real drivers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use crate::base::time::Time;
use crate::driver::types::{AcceptFailure, SendCause, SocketOptions};

/// Connections that wait for accept. The kernel caps it at net.core.somaxconn, 4096 by default.
pub(in crate::driver) const BACKLOG: i32 = 4096;

/// A listener of one shard: each shard binds its own, and the kernel spreads clients over them.
pub(in crate::driver) fn listen(
    addr: SocketAddr,
    ipv6_only: Option<bool>,
    options: SocketOptions,
) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(only) = ipv6_only.filter(|_| addr.is_ipv6()) {
        socket.set_only_v6(only)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    set_options(&socket, options)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The same listener of the process before this one, with the options of this one.
pub(in crate::driver) fn inherit(listener: &TcpListener, options: SocketOptions) -> io::Result<TcpListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    set_options(&socket2::SockRef::from(&listener), options)?;
    Ok(listener)
}

/// Inherited by what is accepted.
fn set_options(socket: &socket2::Socket, options: SocketOptions) -> io::Result<()> {
    // A message must not wait for the acknowledgement of the one before it.
    socket.set_tcp_nodelay(true)?;
    let SocketOptions { send_buffer_bytes, send_timeout } = options;
    if send_buffer_bytes > 0 {
        socket.set_send_buffer_size(send_buffer_bytes as usize)?;
        // Of that, bytes that the peer's window has no room for: a peer that does not read costs half.
        socket.set_tcp_notsent_lowat(send_buffer_bytes / 2)?;
    }
    if !send_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(send_timeout))?;
    }
    Ok(())
}

/// Puts a listener that drivers share at the end of the queue of those who wait for its next client, and wakes this one at
/// once if a client is there already.
pub(in crate::driver) fn wait_in_turn(epoll: impl AsFd, listener: impl AsFd, token: u64) -> io::Result<()> {
    use rustix::event::epoll::{EventData, EventFlags, add};
    leave_queue(&epoll, &listener)?;
    add(epoll, listener, EventData::new_u64(token), EventFlags::IN | EventFlags::EXCLUSIVE)?;
    Ok(())
}

/// The opposite. No error when it does not stand in the queue.
pub(in crate::driver) fn leave_queue(epoll: impl AsFd, listener: impl AsFd) -> io::Result<()> {
    match rustix::event::epoll::delete(epoll, listener) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes a client of a unix socket that listens.
pub(in crate::driver) fn accept_unix(listener: impl AsFd) -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, accept_with};
    Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// Whether a client stands in the listener's backlog.
pub(in crate::driver) fn is_readable(listener: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut on = [PollFd::new(&listener, PollFlags::IN)];
    // An error is a signal or no memory: then the next accept finds out.
    poll(&mut on, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

/// CLOCK_MONOTONIC, so that the times of all shards compare.
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The soft limit on open descriptors, which also bounds a table of direct descriptors.
pub(in crate::driver) fn descriptors_max() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}

/// What a failed accept means: `None` when only that one client is affected and accepting goes on.
pub(in crate::driver) fn accept_failure(errno: i32) -> Option<AcceptFailure> {
    match errno {
        // The client went away while it stood in the backlog, or its network did; accept(2) says to try the next one.
        libc::ECONNABORTED
        | libc::EPROTO
        | libc::ENETDOWN
        | libc::ENOPROTOOPT
        | libc::EHOSTDOWN
        | libc::ENONET
        | libc::EHOSTUNREACH
        | libc::EOPNOTSUPP
        | libc::ENETUNREACH => None,
        // A signal came between.
        libc::EINTR => None,
        libc::EMFILE | libc::ENFILE => Some(AcceptFailure::Full),
        libc::ENOMEM | libc::ENOBUFS => Some(AcceptFailure::NoMemory),
        other => Some(AcceptFailure::Other(other)),
    }
}

/// What a refused send means.
pub(in crate::driver) fn send_cause(errno: i32) -> SendCause {
    match errno {
        // The socket's buffer is full; EINTR cannot come without waiting, and trying again is right for it too.
        libc::EAGAIN | libc::EINTR => SendCause::WouldBlock,
        libc::ENOBUFS | libc::ENOMEM => SendCause::NoBuffers,
        other => SendCause::Broken(other),
    }
}
