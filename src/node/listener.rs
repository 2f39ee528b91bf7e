//! The port before it is bound: a daemon that ended just now may still hold it, one that runs is not shared with.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// With io_uring the kernel closes a listener up to 50 ms after the end of a killed process; a loaded host takes longer.
/// Who starts a second daemon by mistake waits for it as well.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_micros(500);

/// Shards share their port among themselves, and would share it with another daemon as readily, each getting a part of
/// the clients: so a port that anybody listens on is waited for, and then refused.
///
/// # Errors
/// When the address cannot be bound.
pub fn wait_until_free(listen: SocketAddr) -> io::Result<()> {
    wait(listen, PATIENCE)
}

/// The same without waiting.
///
/// # Errors
/// When the address cannot be bound.
pub fn ensure_free(listen: SocketAddr) -> io::Result<()> {
    wait(listen, Duration::ZERO)
}

fn wait(listen: SocketAddr, patience: Duration) -> io::Result<()> {
    let began = Instant::now();
    let mut waited = false;
    loop {
        match probe(listen) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < patience => {
                if !waited {
                    tracing::info!(
                        "{listen} is in use: waiting at most {patience:?} for it to be given back"
                    );
                }
                waited = true;
                thread::sleep(PAUSE);
            }
            Err(error) => {
                let problem = format!("listen: {listen} cannot be bound: {error}");
                return Err(io::Error::new(error.kind(), problem));
            }
        }
    }
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
        let refused = wait(address, Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&address.to_string()));
        // Connections of the daemon before are not in the way.
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(listener);
        });
        assert!(wait(address, Duration::from_secs(30)).is_ok());
        closing.join().unwrap();
        drop((client, accepted));
    }
}
