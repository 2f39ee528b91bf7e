//! One kept connection of the publisher.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use trunkline::base::time::Time;

use super::{Job, Publishing, http};
use crate::engine::{Conn, Desk, Inflated, Shared, State, write_upgrade};
use crate::measure::{Cause, MarkFinder, Measured, Tally};
use crate::net::now;
use crate::profile::{Outgoing, Wire};
use crate::tls::{Secure, Tls};

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
    tls: Option<Tls>,
    secure: Option<Box<Secure>>,
    /// Plain bytes; over TLS they wait for the end of its handshake.
    out: Vec<u8>,
    /// Over TLS: what is on its way to the socket.
    sealed: Vec<u8>,
    input: Vec<u8>,
    job: Option<Job>,
    talk: Option<Box<Talk>>,
    /// Why TLS failed last.
    reason: Option<Cause>,
}

enum LinkState {
    Down {
        retry_at: Time,
    },
    /// Connecting, or TLS does not stand, or the profile has not become ready.
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
        let (target, tls) = match publishing {
            Publishing::Http(http) => (http.target, &http.tls),
            Publishing::Client => (shared.servers[0].target, &shared.tls),
        };
        let mut link = Link {
            target,
            state: LinkState::Down { retry_at: Time::ZERO },
            tls: tls.clone(),
            secure: None,
            out: Vec::new(),
            sealed: Vec::new(),
            input: Vec::new(),
            job: None,
            talk: None,
            reason: None,
        };
        let begin = now();
        loop {
            link.advance(publishing, shared);
            match &link.state {
                LinkState::Open(_) => return Ok(link),
                LinkState::Down { .. } => {
                    let reason = link.reason.map_or(String::new(), |cause| format!(": {cause}"));
                    let text = format!("the publisher cannot connect to {target}{reason}");
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
        let written = self.out.is_empty() && self.sealed.is_empty();
        matches!(self.state, LinkState::Open(_)) && self.job.is_none() && written
    }

    pub fn wants_writing(&self) -> bool {
        let waits_for_tls = self.secure.as_ref().is_some_and(|secure| !secure.is_agreed());
        let connecting =
            matches!(self.state, LinkState::Opening(..)) && self.talk.is_none() && !waits_for_tls;
        !self.sealed.is_empty() || (!self.out.is_empty() && !waits_for_tls) || connecting
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
        if !self.out.is_empty() || !self.sealed.is_empty() {
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

    /// The TCP connection stands, and TLS if it is spoken. HTTP is ready then; a profile's handshake begins.
    fn opened(&mut self, publishing: &Publishing, shared: &Shared) {
        let LinkState::Opening(..) = &self.state else { return };
        if let Some(tls) = &self.tls {
            let begun = match &self.secure {
                Some(secure) if secure.is_agreed() => Ok(None),
                Some(_) => return,
                None => tls.begin(false, now(), &mut self.sealed).map(Some),
            };
            match begun {
                Ok(None) => {}
                Ok(Some(secure)) => {
                    self.secure = Some(Box::new(secure));
                    return self.write();
                }
                Err(cause) => return self.down_by(&cause),
            }
        }
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
        if let Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols } = &wire {
            conn.state = State::Upgrading;
            write_upgrade(&mut outgoing, shared, &shared.servers[0].host, u32::MAX, &mut conn, subprotocols);
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
        if let Some(secure) = self.secure.as_mut().filter(|secure| secure.is_agreed() && !self.out.is_empty())
        {
            match secure.seal(&self.out, &mut self.sealed) {
                Ok(()) => self.out.clear(),
                Err(cause) => return self.down_by(&cause),
            }
        }
        let stream = match &mut self.state {
            LinkState::Open(stream) | LinkState::Opening(stream, _) => stream,
            LinkState::Down { .. } => return,
        };
        let out = if self.tls.is_some() { &mut self.sealed } else { &mut self.out };
        if out.is_empty() {
            return;
        }
        match stream.write(out) {
            Ok(sent) => drop(out.drain(..sent)),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.down(),
        }
    }

    fn read(&mut self, publishing: &Publishing, shared: &Shared) -> Option<Outcome> {
        let mut bytes = [0; READ_BYTES];
        let stream = match &mut self.state {
            LinkState::Open(stream) => stream,
            LinkState::Opening(stream, _) if self.talk.is_some() || self.secure.is_some() => stream,
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
        let Some(secure) = &mut self.secure else { return self.take(&mut bytes[..len], publishing, shared) };
        let mut plain = Vec::new();
        let taken = secure.take(&mut bytes[..len], &mut plain, &mut self.sealed);
        self.write();
        let is_down = matches!(self.state, LinkState::Down { .. });
        let outcome =
            if plain.is_empty() || is_down { None } else { self.take(&mut plain, publishing, shared) };
        match taken {
            Ok(taken) if taken.ended => self.down(),
            Ok(_) => {}
            Err(cause) => self.down_by(&cause),
        }
        outcome
    }

    /// Takes plain bytes.
    fn take(&mut self, bytes: &mut [u8], publishing: &Publishing, shared: &Shared) -> Option<Outcome> {
        match publishing {
            Publishing::Client => {
                self.talk(shared, bytes);
                None
            }
            Publishing::Http(_) => {
                self.input.extend_from_slice(bytes);
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
        self.secure = None;
        self.out.clear();
        self.sealed.clear();
        self.input.clear();
        self.talk = None;
    }

    /// As [`Link::down`], for a reason that is worth a word at the start.
    fn down_by(&mut self, cause: &Cause) {
        self.down();
        self.reason = Some(*cause);
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
