//! The places to listen at before they are bound: a daemon that ended just now may still hold one, one that runs is not
//! shared with.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::address::ListenAddress;
use crate::base::ids::ListenerId;
use crate::config::Config;
use crate::config::places::Listener;
use crate::control::ApiSocket;
use crate::driver::listener::{Bind, ListenOptions, UnixSocket, find_occupant};
use crate::record::{ListenerRecord, ListenerUse};

/// With io_uring the kernel closes a listener up to 50 ms after the end of a killed process. A host with ten processes for each
/// core took more than 2 s. Who starts a second daemon by mistake waits for it as well.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_micros(500);
/// Callers of the API that wait to be accepted.
const BACKLOG: i32 = 1024;

/// What is bound before shards are made.
#[derive(Default)]
pub struct ListenerPlaces {
    /// What the drivers listen at, in the order of [`Config::shard_listeners`].
    pub clients: Vec<ListenOptions>,
    /// What the API alone is served at.
    pub api: Vec<ApiSocket>,
    /// For each of `clients`, the ports of the process before this one: each was a shard's.
    inherited: Vec<Vec<Arc<TcpListener>>>,
    /// Those of which a file has to go with them.
    unix: Vec<Weak<UnixSocket>>,
}

/// What systemd has bound: its files are not ours to remove.
impl From<(Vec<ListenOptions>, Vec<ApiSocket>)> for ListenerPlaces {
    fn from((clients, api): (Vec<ListenOptions>, Vec<ApiSocket>)) -> ListenerPlaces {
        ListenerPlaces { clients, api, ..ListenerPlaces::default() }
    }
}

impl ListenerPlaces {
    /// Where one of so many shards listens. Every socket of the process before is served, by however many shards.
    pub fn of_shard(&self, shard: usize, shards: usize) -> Vec<ListenOptions> {
        let mut listeners = self.clients.clone();
        let mut more = Vec::new();
        for (place, sockets) in self.inherited.iter().enumerate() {
            let options = |socket: &Arc<TcpListener>| ListenOptions {
                bind: Bind::Inherited(ListenerId(place as u8), Arc::clone(socket)),
                addresses: self.clients[place].addresses,
            };
            let mut own = sockets.iter().skip(shard).step_by(shards);
            if let Some(first) = own.next() {
                listeners[place] = options(first);
            }
            more.extend(own.map(options));
        }
        listeners.extend(more);
        listeners
    }

    /// The files of unix sockets: for those that have to say whose they are.
    pub fn files(&self) -> Files {
        Files(self.unix.clone())
    }
}

/// The files of unix sockets, as long as those live.
pub struct Files(Vec<Weak<UnixSocket>>);

impl Files {
    /// Whether they stay when this process ends.
    pub fn lend(&self, are_lent: bool) {
        self.0.iter().filter_map(Weak::upgrade).for_each(|socket| socket.lend(are_lent));
    }
}

/// As [`prepare`], with what the process before this one listens at. What is not configured any more is left to end with
/// that process.
///
/// # Errors
/// As [`prepare`].
pub fn inherit(config: &Config, listeners: Vec<(ListenerRecord, OwnedFd)>) -> io::Result<ListenerPlaces> {
    let mut left: Vec<Option<(ListenerRecord, OwnedFd)>> = listeners.into_iter().map(Some).collect();
    let mut places = ListenerPlaces::default();
    for listener in &config.listeners() {
        let (address, is_api) = (listener.address.to_string(), listener.is_api_port());
        let is_meant = |record: &ListenerRecord| {
            let is_free = listener.address.tcp().is_some_and(|tcp| tcp.port() == 0);
            (record.serves == ListenerUse::Api) == is_api
                && (*record.configured == *address
                    || is_free && is_api && record.address.parse::<SocketAddr>().is_ok())
        };
        let Some(model) =
            left.iter().flatten().map(|(record, _)| record).find(|record| is_meant(record)).cloned()
        else {
            places.add(config, listener)?;
            continue;
        };
        let mut sockets = Vec::new();
        for found in &mut left {
            if found.as_ref().is_some_and(|(record, _)| *record == model) {
                sockets.extend(found.take().map(|(_, socket)| socket));
            }
        }
        places.take(config, listener, &model, sockets)?;
    }
    for (record, _) in left.iter().flatten() {
        tracing::warn!("{} is not configured any more: clients that wait there are refused", record.address);
    }
    Ok(places)
}

impl ListenerPlaces {
    /// Sockets of the process before this one, all at one address.
    fn take(
        &mut self,
        config: &Config,
        listener: &Listener,
        model: &ListenerRecord,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let invalid = |problem| io::Error::new(ErrorKind::InvalidData, problem);
        let mut sockets = sockets.into_iter();
        match (ListenAddress::parse(&model.address).map_err(invalid)?, listener.is_api_port()) {
            (ListenAddress::Tcp(bound), false) => {
                self.inherited.resize(self.clients.len(), Vec::new());
                self.clients.push(ListenOptions {
                    bind: Bind::Tcp(bound, listener.ipv6_only),
                    addresses: listener.proxy_protocol || config.needs_addresses(),
                });
                self.inherited.push(sockets.map(|socket| Arc::new(TcpListener::from(socket))).collect());
            }
            (ListenAddress::Tcp(_), true) => {
                let socket = sockets.next().ok_or_else(|| invalid("no socket"))?;
                self.api.push(ApiSocket::tcp(TcpListener::from(socket))?);
            }
            (ListenAddress::Unix(path), is_api) => {
                // All shards had the one.
                let socket = sockets.next().ok_or_else(|| invalid("no socket"))?;
                let socket = UnixSocket::inherit(socket, &path)?;
                self.unix.push(Arc::downgrade(&socket));
                match is_api {
                    true => {
                        self.api.push(ApiSocket::unix(socket.listener()?, listener.address.clone(), socket));
                    }
                    false => self.clients.push(socket.into()),
                }
            }
        }
        Ok(())
    }

    /// Binds what was not there before.
    fn add(&mut self, config: &Config, listener: &Listener) -> io::Result<()> {
        let Listener { key, address, ipv6_only, mode, proxy_protocol, .. } = listener;
        let bind_unix = |path: &Path| wait(key, address, PATIENCE, || UnixSocket::bind(path, *mode));
        match (address, listener.is_api_port()) {
            (ListenAddress::Tcp(tcp), false) => {
                wait(key, address, PATIENCE, || probe(*tcp, *ipv6_only))?;
                self.clients.push(ListenOptions {
                    bind: Bind::Tcp(*tcp, *ipv6_only),
                    addresses: *proxy_protocol || config.needs_addresses(),
                });
            }
            (ListenAddress::Unix(path), is_api) => {
                let socket = bind_unix(path)?;
                self.unix.push(Arc::downgrade(&socket));
                match is_api {
                    true => self.api.push(ApiSocket::unix(socket.listener()?, address.clone(), socket)),
                    false => self.clients.push(socket.into()),
                }
            }
            (ListenAddress::Tcp(tcp), true) => {
                let socket = wait(key, address, PATIENCE, || bind(*tcp, *ipv6_only))?;
                socket.listen(BACKLOG)?;
                self.api.push(ApiSocket::tcp(socket.into())?);
            }
        }
        Ok(())
    }
}

/// What the drivers listen at, and what the API alone is served at. Shards share their ports among themselves, and would
/// share them with another daemon as readily, each getting a part of the clients: so a port that anybody listens on is
/// waited for, and then refused. The same goes for a unix socket on which somebody answers; one without anybody is replaced.
///
/// # Errors
/// When one of them cannot be bound.
pub fn prepare(config: &Config) -> io::Result<ListenerPlaces> {
    let all = config.listeners();
    // Ports first: a start that is refused for one of them has touched nothing.
    for Listener { key, address, ipv6_only, .. } in &all {
        if let Some(tcp) = address.tcp() {
            wait(key, address, PATIENCE, || probe(tcp, *ipv6_only))?;
        }
    }
    let mut places = ListenerPlaces::default();
    all.iter().try_for_each(|listener| places.add(config, listener))?;
    Ok(places)
}

/// Whether one could be bound, without waiting and without binding it.
///
/// # Errors
/// When it cannot.
pub fn ensure_free(key: &str, address: &ListenAddress) -> io::Result<()> {
    wait(key, address, Duration::ZERO, || match address {
        ListenAddress::Tcp(tcp) => probe(*tcp, None),
        ListenAddress::Unix(path) => probe_unix(path),
    })
}

fn wait<T>(
    key: &str,
    address: &ListenAddress,
    patience: Duration,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let began = Instant::now();
    let mut waited = false;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < patience => {
                if !waited {
                    tracing::info!(
                        "{address} is in use: waiting at most {patience:?} for it to be given back"
                    );
                }
                waited = true;
                thread::sleep(PAUSE);
            }
            Err(error) => {
                let problem = format!("{key}: {address} cannot be bound: {error}");
                return Err(io::Error::new(error.kind(), problem));
            }
        }
    }
}

/// The folder is there, and nobody answers at the path.
fn probe_unix(path: &Path) -> io::Result<()> {
    find_occupant(path)?;
    std::fs::read_dir(path.parent().unwrap_or(Path::new("/")))?;
    Ok(())
}

/// Binds and does not listen: who connects meanwhile is not taken from the listener that closes, nor from the next one.
/// Without SO_REUSEPORT, so that another listener is in the way; with SO_REUSEADDR, so that old connections are not.
fn probe(listen: SocketAddr, ipv6_only: Option<bool>) -> io::Result<()> {
    bind(listen, ipv6_only).map(drop)
}

fn bind(listen: SocketAddr, ipv6_only: Option<bool>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(only) = ipv6_only.filter(|_| listen.is_ipv6()) {
        socket.set_only_v6(only)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_port_is_waited_for_and_one_that_stays_taken_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let wait = |patience| wait("listen", &address.into(), patience, || probe(address, None));
        let refused = wait(Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&address.to_string()));
        // Connections of the daemon before are not in the way.
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(listener);
        });
        assert!(wait(Duration::from_secs(30)).is_ok());
        closing.join().unwrap();
        drop((client, accepted));
    }

    #[test]
    fn a_unix_socket_is_waited_for_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let address = ListenAddress::Unix(path.as_path().into());
        let before = UnixSocket::bind(&path, 0o600).unwrap();
        let refused = ensure_free("listen", &address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&address.to_string()));
        let ending = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(before);
        });
        let config = Config {
            listen: crate::config::value::Setting::read(&crate::config::value::Given::Loose(
                address.to_string(),
            ))
            .unwrap(),
            ..Config::default()
        };
        let prepared = prepare(&config).unwrap();
        assert!(prepared.api.is_empty());
        assert_eq!(prepared.clients[0].address(), address);
        ending.join().unwrap();
        drop(prepared);
        ensure_free("listen", &address).unwrap();
        let nowhere = ListenAddress::Unix(folder.path().join("no/folder.sock").into());
        assert_eq!(ensure_free("listen", &nowhere).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
