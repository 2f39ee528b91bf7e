//! A place where clients come in, as the ring needs it.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use crate::base::address::ListenAddress;
use crate::base::ids::ListenerId;
use crate::driver::sys::{self, Op};
use crate::driver::uring::slot::BLIND;
use crate::driver::{Bind, ListenOptions, SocketOptions, UnixSocket};

/// One of the places where clients come in.
pub(super) struct UringListener {
    /// `None` after the end.
    pub source: Option<AcceptSource>,
    /// What its clients are said to come by.
    pub place: ListenerId,
    pub address: ListenAddress,
    /// Each client's address is asked for.
    pub one_by_one: bool,
    /// Flags of the sockets that come from here.
    pub slot_flags: u32,
    /// An accept is in the kernel, ...
    pub armed: bool,
    /// ... and so is its cancel.
    pub cancelled: bool,
}

pub(super) enum AcceptSource {
    Tcp(TcpListener),
    Unix(Arc<UnixSocket>),
}

impl UringListener {
    pub fn try_new(
        index: usize,
        options: &ListenOptions,
        socket: SocketOptions,
    ) -> io::Result<UringListener> {
        let (source, address, slot_flags) = match &options.bind {
            Bind::Tcp(address, ipv6_only) => {
                let listener = sys::listen(*address, *ipv6_only, socket)?;
                let address = ListenAddress::Tcp(listener.local_addr()?);
                (AcceptSource::Tcp(listener), address, 0)
            }
            Bind::Inherited(_, inherited) => {
                (AcceptSource::Tcp(sys::inherit(inherited, socket)?), options.address(), 0)
            }
            Bind::Unix(shared) => (AcceptSource::Unix(shared.clone()), options.address(), BLIND),
        };
        let place = options.place(index);
        let one_by_one = options.addresses && address.tcp().is_some();
        Ok(UringListener {
            source: Some(source),
            place,
            address,
            one_by_one,
            slot_flags,
            armed: false,
            cancelled: false,
        })
    }
}

impl AcceptSource {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            AcceptSource::Tcp(listener) => listener.as_fd(),
            AcceptSource::Unix(shared) => shared.as_fd(),
        }
    }

    pub fn accept(&self, index: usize, one_by_one: bool) -> Op<'_> {
        match self {
            AcceptSource::Tcp(listener) if one_by_one => {
                Op::AcceptFrom { listener: listener.as_fd(), place: index }
            }
            AcceptSource::Tcp(listener) => Op::Accept { listener: listener.as_fd() },
            AcceptSource::Unix(shared) => Op::AcceptOne { listener: shared.as_fd() },
        }
    }
}
