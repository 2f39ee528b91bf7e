//! Sockets that systemd listens at and hands over (sd_listen_fds(3)): `LISTEN_FDS` of them, from descriptor 3 on.
//!
//! Clients that come while no process runs wait in their backlog. With any socket handed over, all listeners of the
//! configuration must be among them, by their addresses: half of them bound here would be lost with each restart.

use std::env;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{SockRef, Socket};

use crate::base::address::ListenAddress;
use crate::base::ids::ListenerId;
use crate::config::Config;
use crate::config::places::Listener;
use crate::control::ApiSocket;
use crate::driver::listener::{Bind, ListenOptions, UnixSocket, take_handed_over};

/// Sockets of the service manager, and where each listens.
pub struct Activated(Vec<(ListenAddress, OwnedFd)>);

impl Activated {
    /// `None`: none were handed to this process.
    ///
    /// # Errors
    /// When one of them is no socket that listens for streams.
    pub fn from_env() -> io::Result<Option<Activated>> {
        let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u8>().ok()).unwrap_or(0);
        if !is_for_us || count == 0 {
            return Ok(None);
        }
        let sockets = take_handed_over(count)?.into_iter().map(|socket| {
            let address = address_of(&socket).map_err(|error| {
                io::Error::new(error.kind(), format!("LISTEN_FDS: a socket that cannot be used: {error}"))
            })?;
            Ok((address, socket))
        });
        Ok(Some(Activated(sockets.collect::<io::Result<_>>()?)))
    }

    /// What the drivers listen at, and what the API alone is served at.
    ///
    /// # Errors
    /// When a listener of the configuration is not among the sockets, or a socket not in the configuration.
    pub fn prepare(mut self, config: &Config) -> io::Result<(Vec<ListenOptions>, Vec<ApiSocket>)> {
        let (mut clients, mut api) = (Vec::new(), Vec::new());
        for listener in &config.listeners() {
            let Listener { key, address, proxy_protocol, .. } = listener;
            let socket = self.take(address).ok_or_else(|| {
                let problem = format!("{key}: {address} is not among the sockets of the service manager");
                io::Error::new(ErrorKind::NotFound, problem)
            })?;
            match (address, listener.is_api_port()) {
                (ListenAddress::Tcp(_), true) => api.push(ApiSocket::tcp(tcp(socket)?)?),
                (ListenAddress::Tcp(_), false) => {
                    let place = ListenerId(clients.len() as u8);
                    clients.push(ListenOptions {
                        bind: Bind::Inherited(place, Arc::new(tcp(socket)?)),
                        addresses: *proxy_protocol || config.needs_addresses(),
                    });
                }
                (ListenAddress::Unix(path), is_api) => {
                    let socket = UnixSocket::inherit(socket, path)?;
                    match is_api {
                        true => api.push(ApiSocket::unix(socket.listener()?, address.clone(), socket)),
                        false => clients.push(socket.into()),
                    }
                }
            }
        }
        match self.0.first() {
            None => Ok((clients, api)),
            Some((address, _)) => {
                let problem =
                    format!("the service manager listens at {address}, and no listener is configured there");
                Err(io::Error::new(ErrorKind::InvalidInput, problem))
            }
        }
    }

    fn take(&mut self, address: &ListenAddress) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(own, _)| own == address)?;
        Some(self.0.swap_remove(at).1)
    }
}

fn tcp(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn address_of(socket: &OwnedFd) -> io::Result<ListenAddress> {
    let socket: SockRef<'_> = socket.into();
    let socket: &Socket = &socket;
    if socket.r#type()? != socket2::Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it does not listen for streams"));
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(tcp), _) => Ok(tcp.into()),
        (None, Some(path)) => Ok(ListenAddress::Unix(path.into())),
        (None, None) => Err(io::Error::new(ErrorKind::InvalidInput, "it is neither TCP nor a path")),
    }
}
