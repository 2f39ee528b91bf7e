//! One kept connection of the publisher.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use trunkline::base::time::Time;
use trunkline::proto::websocket::write_request;

use super::{Job, Publishing, http};
use crate::engine::{Conn, Desk, Inflated, KEY, Shared, State, client};
use crate::measure::{Cause, MarkFinder, Measured, Tally};
use crate::net::now;
use crate::profile::{Outgoing, Wire};

/// How long the first connect, and a profile's handshake, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A broken connection is renewed after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 16 * 1024;

/// How a publication ended.
pub(super) struct Outcome {
    pub job: Job,
    pub result: Result<(), Cause>,
}

pub(super) struct Link {
    target: SocketAddr,
    state: LinkState,
    out: Vec<u8>,
    input: Vec<u8>,
    job: Option<Job>,
    talk: Option<Box<Talk>>,
}

enum LinkState {
    Down {
        retry_at: Time,
    },
    /// Connecting, or the profile has not become ready.
    Opening(TcpStream, Time),
    Open(TcpStream),
}

/// A profile's own connection.
struct Talk {
    conn: Conn,
    wire: Wire,
    outgoing: Outgoing,
    finder: MarkFinder,
    measured: Measured,
    tally: Tally,
    inflated: Inflated,
}

impl Link {
    /// # Errors
    /// When the server cannot be reached, or its handshake fails.
    pub fn connect(publishing: &Publishing, shared: &Shared) -> io::Result<Link> {
        let target = match publishing {
            Publishing::Http(http) => http.target,
            Publishing::Client => shared.target,
        };
        let mut link = Link {
            target,
            state: LinkState::Down { retry_at: Time::ZERO },
            out: Vec::new(),
            input: Vec::new(),
            job: None,
            talk: None,
        };
        let begin = now();
        loop {
            link.advance(publishing, shared);
            match &link.state {
                LinkState::Open(_) => return Ok(link),
                LinkState::Down { .. } => {
                    let text = format!("the publisher cannot connect to {target}");
                    return Err(io::Error::new(ErrorKind::ConnectionRefused, text));
                }
                LinkState::Opening(..) if now().since(begin) > CONNECT_TIMEOUT => {
                    let text = format!("the publisher's connection to {target} does not open in time");
                    return Err(io::Error::new(ErrorKind::TimedOut, text));
                }
                LinkState::Opening(..) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    pub fn is_free(&self) -> bool {
        matches!(self.state, LinkState::Open(_)) && self.job.is_none() && self.out.is_empty()
    }

    pub fn wants_writing(&self) -> bool {
        !self.out.is_empty() || matches!(&self.state, LinkState::Opening(..) if self.talk.is_none())
    }

    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            LinkState::Down { .. } => None,
            LinkState::Opening(stream, _) | LinkState::Open(stream) => Some(stream.as_fd()),
        }
    }

    /// Sends one publication on a free link. Something comes back at once if it is already known how it ended.
    pub fn publish(
        &mut self,
        publishing: &Publishing,
        shared: &Shared,
        job: Job,
        payload: &[u8],
    ) -> Option<Outcome> {
        match publishing {
            Publishing::Http(http) => {
                http.write(&job.published, &shared.audience, payload, &mut self.out);
                self.job = Some(job);
                self.write();
                self.lost()
            }
            Publishing::Client => {
                let talk = self.talk.as_mut()?;
                talk.outgoing.begin(talk.wire.is_framed());
                let written = shared.profile.publish(
                    job.published.channel,
                    &shared.audience,
                    payload,
                    &mut talk.outgoing,
                );
                self.out.extend_from_slice(talk.outgoing.bytes());
                self.write();
                let open = matches!(self.state, LinkState::Open(_));
                let result = if written && open { Ok(()) } else { Err(Cause::PublishBroken) };
                Some(Outcome { job, result })
            }
        }
    }

    /// Connects, writes and reads as far as it goes without waiting.
    pub fn advance(&mut self, publishing: &Publishing, shared: &Shared) -> Option<Outcome> {
        match &mut self.state {
            LinkState::Down { retry_at } => {
                if now() >= *retry_at {
                    self.dial();
                }
            }
            LinkState::Opening(stream, since) => match connected(stream) {
                Ok(false) if now().since(*since) < CONNECT_TIMEOUT => {}
                Ok(true) => self.opened(publishing, shared),
                _ => self.down(),
            },
            LinkState::Open(_) => {}
        }
        if !self.out.is_empty() {
            self.write();
        }
        let outcome = self.read(publishing, shared);
        outcome.or_else(|| self.lost())
    }

    fn dial(&mut self) {
        let dialled = (|| {
            let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            match socket.connect(&self.target.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(TcpStream::from(socket)),
            }
        })();
        match dialled {
            Ok(stream) => self.state = LinkState::Opening(stream, now()),
            Err(_) => self.down(),
        }
    }

    /// The TCP connection stands. HTTP is ready then; a profile's handshake begins.
    fn opened(&mut self, publishing: &Publishing, shared: &Shared) {
        let LinkState::Opening(..) = &self.state else { return };
        match publishing {
            Publishing::Http(_) => self.open(),
            Publishing::Client if self.talk.is_none() => self.begin_talk(shared),
            Publishing::Client => {}
        }
    }

    fn open(&mut self) {
        let down = LinkState::Down { retry_at: Time::ZERO };
        if let LinkState::Opening(stream, _) = std::mem::replace(&mut self.state, down) {
            self.state = LinkState::Open(stream);
        }
    }

    fn begin_talk(&mut self, shared: &Shared) {
        let mut conn = Conn::new(u32::MAX, &shared.audience);
        let wire = shared.profile.wire();
        let mut outgoing = Outgoing::new();
        outgoing.begin(wire.is_framed());
        let target = shared.profile.target(&client(shared, u32::MAX, &mut conn));
        if let Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols } = &wire {
            conn.state = State::Upgrading;
            let offered: Vec<&str> = subprotocols.iter().map(String::as_str).collect();
            let fields: Vec<(&str, &[u8])> =
                shared.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            write_request(outgoing.raw(), &shared.host, &target, KEY, &offered, &fields);
        }
        let mut talk = Talk {
            conn,
            wire,
            outgoing,
            finder: MarkFinder::default(),
            measured: Measured::default(),
            tally: Tally::default(),
            inflated: Inflated::default(),
        };
        let ready = talk.wire == Wire::Tcp && talk.desk(shared, |desk, conn| desk.open(conn));
        self.out.extend_from_slice(talk.outgoing.bytes());
        self.talk = Some(Box::new(talk));
        if ready {
            self.open();
        }
    }

    fn write(&mut self) {
        let stream = match &mut self.state {
            LinkState::Open(stream) | LinkState::Opening(stream, _) => stream,
            LinkState::Down { .. } => return,
        };
        match stream.write(&self.out) {
            Ok(sent) => drop(self.out.drain(..sent)),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.down(),
        }
    }

    fn read(&mut self, publishing: &Publishing, shared: &Shared) -> Option<Outcome> {
        let mut bytes = [0; READ_BYTES];
        let stream = match &mut self.state {
            LinkState::Open(stream) => stream,
            LinkState::Opening(stream, _) if self.talk.is_some() => stream,
            _ => return None,
        };
        let len = match stream.read(&mut bytes) {
            Ok(0) => {
                self.down();
                return None;
            }
            Ok(len) => len,
            Err(error) if is_transient(&error) => return None,
            Err(_) => {
                self.down();
                return None;
            }
        };
        match publishing {
            Publishing::Client => {
                self.talk(shared, &mut bytes[..len]);
                None
            }
            Publishing::Http(_) => {
                self.input.extend_from_slice(&bytes[..len]);
                match http::answer(&self.input) {
                    Ok(None) => None,
                    Ok(Some((consumed, result))) => {
                        self.input.drain(..consumed);
                        self.job.take().map(|job| Outcome { job, result })
                    }
                    Err(_) => {
                        self.down();
                        None
                    }
                }
            }
        }
    }

    fn talk(&mut self, shared: &Shared, bytes: &mut [u8]) {
        let Some(talk) = &mut self.talk else { return };
        talk.outgoing.begin(talk.wire.is_framed());
        let taken = talk.desk(shared, |desk, conn| desk.take(conn, bytes));
        self.out.extend_from_slice(talk.outgoing.bytes());
        match taken {
            Ok(ready) => {
                if ready {
                    self.open();
                }
                self.write();
            }
            Err(_) => self.down(),
        }
    }

    /// Gives up the connection; what was under way on it comes back from [`Link::lost`].
    fn down(&mut self) {
        self.state = LinkState::Down { retry_at: now() + RETRY_AFTER };
        self.out.clear();
        self.input.clear();
        self.talk = None;
    }

    fn lost(&mut self) -> Option<Outcome> {
        match self.state {
            LinkState::Down { .. } => {
                self.job.take().map(|job| Outcome { job, result: Err(Cause::PublishBroken) })
            }
            _ => None,
        }
    }
}

impl Talk {
    fn desk<T>(&mut self, shared: &Shared, run: impl FnOnce(&mut Desk<'_>, &mut Conn) -> T) -> T {
        let mut desk = Desk {
            shared,
            wire: &self.wire,
            finder: &self.finder,
            measured: &mut self.measured,
            tally: &mut self.tally,
            inflated: &mut self.inflated,
            out: &mut self.outgoing,
            number: u32::MAX,
            now: now(),
            waited: Duration::ZERO,
        };
        run(&mut desk, &mut self.conn)
    }
}

/// Whether a non-blocking connect has come through.
fn connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
