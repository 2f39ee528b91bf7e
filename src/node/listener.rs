//! The places to listen at before they are bound: a daemon that ended just now may still hold one, one that runs is not
//! shared with.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::address::ListenAddress;
use crate::config::Config;
use crate::driver::listener::{ListenerOptions, UnixSocket, find_occupant};

/// With io_uring the kernel closes a listener up to 50 ms after the end of a killed process; a loaded host takes longer.
/// Who starts a second daemon by mistake waits for it as well.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_micros(500);

/// What the drivers listen at. Shards share their ports among themselves, and would share them with another daemon as
/// readily, each getting a part of the clients: so a port that anybody listens on is waited for, and then refused. The same
/// goes for a unix socket on which somebody answers; one without anybody is replaced.
///
/// # Errors
/// When one of them cannot be bound.
pub fn prepare(config: &Config) -> io::Result<Vec<ListenerOptions>> {
    let mode = config.unix_socket_mode.0;
    // Ports first: a start that is refused for one of them has touched nothing.
    let listeners = config.listeners();
    for address in listeners.addresses().filter_map(ListenAddress::tcp) {
        wait(&address.into(), PATIENCE, || probe(address))?;
    }
    let prepared = listeners.addresses().map(|address| match address {
        ListenAddress::Tcp(tcp) => Ok((*tcp).into()),
        ListenAddress::Unix(path) => {
            wait(address, PATIENCE, || UnixSocket::bind(path, mode)).map(ListenerOptions::from)
        }
    });
    prepared.collect()
}

/// Whether one could be bound, without waiting and without binding it.
///
/// # Errors
/// When it cannot.
pub fn ensure_free(address: &ListenAddress) -> io::Result<()> {
    wait(address, Duration::ZERO, || match address {
        ListenAddress::Tcp(tcp) => probe(*tcp),
        ListenAddress::Unix(path) => probe_unix(path),
    })
}

fn wait<T>(
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
                let problem = format!("listen: {address} cannot be bound: {error}");
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
fn probe(listen: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_port_is_waited_for_and_one_that_stays_taken_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let wait = |patience| wait(&address.into(), patience, || probe(address));
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
        let refused = ensure_free(&address).unwrap_err();
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
        assert_eq!(prepared[0].address(), address);
        ending.join().unwrap();
        drop(prepared);
        ensure_free(&address).unwrap();
        let nowhere = ListenAddress::Unix(folder.path().join("no/folder.sock").into());
        assert_eq!(ensure_free(&nowhere).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
