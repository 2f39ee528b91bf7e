//! The API's own listeners (`api_listen`, and each `[[listener]]` that serves nothing else). They read HTTP with the codec of
//! the client ports and answer through the same app, so that one request has one answer on either port.
//!
//! # Bounds
//! A number of connections, of all of them together; above it a caller is answered 503. A deadline for every wait: for a
//! head, for a body (with a least rate), for a caller that does not take its answer, for an idle connection. One request
//! of a connection is under way at a time, and the next one is read when its answer has left. All bodies together have a
//! budget, and none is read from a caller without a right key.
//!
//! While another process may take over ([`Gate`]), connections between two requests are left unread.
//!
//! A caller may close its sending side behind its request: it is answered all the same.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::{Request, request};
use axum::Router;
use axum::body::Body;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::address::ListenAddress;
use crate::base::budget::{Budget, Lease};
use crate::base::limits::HTTP_HEAD_BYTES_MAX;
use crate::control::app::App;
use crate::control::http::answer;
use crate::control::lines::{self, StreamedLines};
use crate::control::options::PortLimits;
use crate::proto::http1::{self, BodyDecoder, HeadScan, HttpFault};
use crate::telemetry::sparing::log_once_a_minute;

/// Room for one read: most requests of a backend fit.
const READ_BYTES: usize = 8 * 1024;
/// Slower callers are cut off. A backend is in the same data centre; a modem would do.
const LEAST_BYTES_PER_SECOND: u64 = 16 * 1024;
/// How long the app may take: longer than its own deadlines, so that it says why.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long unread input is thrown away behind a last answer: closing on it would reset the connection, and the answer
/// would be lost with it.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How long a connection without a request is looked at once more when the node stops: long enough for what the kernel has
/// to be seen on a busy machine, short enough to hold up no end.
const LAST_LOOK: Duration = Duration::from_millis(250);
/// Callers above the bound of connections that are answered at a time; more are closed without an answer.
const REFUSALS_MAX: usize = 64;
/// How long a request waits for an upgrade before it is answered 503.
pub const HELD_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether every connection is between two requests.
const REST_LOOK: Duration = Duration::from_millis(1);
/// How long accepting pauses when it fails, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Before lines that go on, which end with the connection.
const LINES_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nCache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

const TOO_SLOW: HttpFault = HttpFault { status: 408, reason: "request not completed in time" };
const FULL: HttpFault = HttpFault { status: 503, reason: "too many connections (api.connections_max)" };
const NO_ROOM: HttpFault = HttpFault { status: 503, reason: "too many request bodies under way" };
const NO_ANSWER: HttpFault = HttpFault { status: 504, reason: "no answer in time" };
const MOVING: HttpFault = HttpFault { status: 503, reason: "the node is being upgraded: try again" };

/// A listener of the API, bound and listening.
pub struct ApiSocket {
    listener: StdListener,
    address: ListenAddress,
    /// Lives as long as the listener: the file of a unix socket goes with it.
    guard: Option<Arc<dyn Any + Send + Sync>>,
}

enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

/// What becomes of requests that are not under way yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// They wait, for [`HELD_MAX`] at most: another process may answer them.
    Held,
    /// Another process answers them.
    Left,
}

impl ApiSocket {
    /// # Errors
    /// When its address cannot be found out.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<ApiSocket> {
        let address = listener.local_addr()?.into();
        Ok(ApiSocket { listener: StdListener::Tcp(listener), address, guard: None })
    }

    /// `guard` is dropped with it.
    pub fn unix(
        listener: StdUnixListener,
        address: ListenAddress,
        guard: Arc<dyn Any + Send + Sync>,
    ) -> ApiSocket {
        ApiSocket { listener: StdListener::Unix(listener), address, guard: Some(guard) }
    }

    pub fn address(&self) -> &ListenAddress {
        &self.address
    }
}

/// The socket of one caller.
trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    fn fd(&self) -> BorrowedFd<'_>;

    /// Something can be read.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl ByteStream for TcpStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        TcpStream::readable(self)
    }
}

impl ByteStream for UnixStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        UnixStream::readable(self)
    }
}

pub struct ApiPort {
    routes: Router,
    app: Arc<App>,
    limits: PortLimits,
    places: Arc<Semaphore>,
    error_codes: Arc<Semaphore>,
    bodies: Arc<Budget>,
    stopped: watch::Receiver<bool>,
    gate: watch::Receiver<Gate>,
    /// What listens, for another process; gone with the task that accepts.
    listening: Mutex<Vec<(ListenAddress, Weak<dyn AsFd + Send + Sync>)>>,
    conversations: AtomicUsize,
    /// Copies of connections that are between two requests while the gate is held.
    /// Bound: `connections_max`.
    resting: Mutex<Vec<OwnedFd>>,
}

/// Why a connection has no next request.
enum ConversationEnd {
    /// The caller has gone or is idle: nothing is to be said.
    Silent,
    Fault(HttpFault),
}

impl From<HttpFault> for ConversationEnd {
    fn from(fault: HttpFault) -> ConversationEnd {
        ConversationEnd::Fault(fault)
    }
}

/// A request's head, as far as reading on needs it.
struct Head {
    parts: request::Parts,
    body: BodyDecoder,
    keep_alive: bool,
    expects_continue: bool,
}

impl ApiPort {
    pub fn new(
        routes: Router,
        app: Arc<App>,
        limits: PortLimits,
        stopped: watch::Receiver<bool>,
        gate: watch::Receiver<Gate>,
    ) -> Arc<ApiPort> {
        Arc::new(ApiPort {
            routes,
            app,
            places: Arc::new(Semaphore::new(limits.connections_max as usize)),
            error_codes: Arc::new(Semaphore::new(REFUSALS_MAX)),
            bodies: Budget::new("api_bodies", limits.bodies_bytes_max as u64),
            limits,
            stopped,
            gate,
            listening: Mutex::default(),
            conversations: AtomicUsize::new(0),
            resting: Mutex::default(),
        })
    }

    /// Copies of the sockets that listen.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listeners(&self) -> io::Result<Vec<(ListenAddress, OwnedFd)>> {
        let listening = self.listening.lock();
        let open = listening.iter().filter_map(|(address, listener)| Some((address, listener.upgrade()?)));
        open.map(|(address, listener)| Ok((address.clone(), listener.as_fd().try_clone_to_owned()?)))
            .collect()
    }

    /// Call it when the gate is held: waits until every connection is between two requests, at most so long, and gives
    /// copies of them.
    pub async fn rested(&self, patience: Duration) -> Vec<OwnedFd> {
        let until = Instant::now() + patience;
        let mut calm = 0;
        // Twice: a connection may just have been accepted.
        while calm < 2 && Instant::now() < until {
            let all_rest = self.conversations.load(Ordering::SeqCst) == self.resting.lock().len();
            calm = if all_rest { calm + 1 } else { 0 };
            tokio::time::sleep(REST_LOOK).await;
        }
        std::mem::take(&mut *self.resting.lock())
    }

    /// Goes on with a connection of another process. To be called within the runtime.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn adopt(self: &Arc<Self>, connection: OwnedFd) -> io::Result<()> {
        let socket = socket2::Socket::from(connection);
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            socket2::Domain::UNIX => self.take_stream(UnixStream::from_std(OwnedFd::from(socket).into())?),
            _ => self.take_stream(TcpStream::from_std(socket.into())?),
        }
        Ok(())
    }

    /// Accepts until the node stops. To be called within the runtime.
    ///
    /// # Errors
    /// When the runtime cannot take the listener.
    pub fn serve(self: &Arc<Self>, socket: ApiSocket) -> io::Result<()> {
        let port = Arc::clone(self);
        let guard = socket.guard;
        match socket.listener {
            StdListener::Tcp(listener) => {
                let listener = Arc::new(TcpListener::from_std(listener)?);
                self.listening.lock().push((socket.address, Arc::downgrade(&listener) as _));
                tokio::spawn(async move {
                    while let Some(accepted) = port.next(|| listener.accept()).await {
                        let accepted = accepted.map(|(stream, _)| {
                            // An answer is one write: nothing would be gained by waiting for more.
                            let _ = stream.set_nodelay(true);
                            stream
                        });
                        port.take(accepted).await;
                    }
                });
            }
            StdListener::Unix(listener) => {
                let listener = Arc::new(UnixListener::from_std(listener)?);
                self.listening.lock().push((socket.address, Arc::downgrade(&listener) as _));
                tokio::spawn(async move {
                    while let Some(accepted) = port.next(|| listener.accept()).await {
                        port.take(accepted.map(|(stream, _)| stream)).await;
                    }
                    drop(guard);
                });
            }
        }
        Ok(())
    }

    /// `None` when the node stops.
    async fn next<T, F: Future<Output = T>>(&self, accept: impl Fn() -> F) -> Option<T> {
        let mut gate = self.gate.clone();
        loop {
            tokio::select! {
                is_left = passed(&mut gate) => if is_left {
                    return std::future::pending().await;
                },
                () = ended(self.stopped.clone()) => return None,
            }
            tokio::select! {
                accepted = accept() => return Some(accepted),
                () = closed(&mut gate) => {}
                () = ended(self.stopped.clone()) => return None,
            }
        }
    }

    async fn take(self: &Arc<Self>, accepted: io::Result<impl ByteStream>) {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                log_once_a_minute("api_accept", &format!("the API's listener cannot accept: {error}"));
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        self.take_stream(stream);
    }

    fn take_stream(self: &Arc<Self>, stream: impl ByteStream) {
        let port = Arc::clone(self);
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                self.conversations.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    port.converse(stream).await;
                    port.conversations.fetch_sub(1, Ordering::SeqCst);
                    drop(place);
                });
            }
            Err(_) => self.refuse(stream),
        }
    }

    /// Waits until every connection has ended: those with a request are answered first.
    pub async fn finished(&self) {
        let _ = self.places.acquire_many(self.limits.connections_max).await;
    }

    fn refuse(self: &Arc<Self>, mut stream: impl ByteStream) {
        log_once_a_minute("api_connections", "the API's listener is full (api.connections_max)");
        self.app.metrics.count_api("unknown", FULL.status);
        if let Ok(error_code) = Arc::clone(&self.error_codes).try_acquire_owned() {
            let port = Arc::clone(self);
            tokio::spawn(async move {
                if port.write_fault(&mut stream, FULL).await.is_ok() {
                    linger(&mut stream).await;
                }
                drop(error_code);
            });
        }
    }

    /// One connection, from its first byte to its last.
    async fn converse(&self, mut stream: impl ByteStream) {
        let mut unread = Vec::new();
        let mut idle_time = self.limits.head_time;
        loop {
            match self.exchange(&mut stream, &mut unread, idle_time).await {
                Ok(true) => idle_time = self.limits.idle_time,
                Ok(false) => break,
                Err(ConversationEnd::Silent) => return,
                Err(ConversationEnd::Fault(fault)) => {
                    self.app.metrics.count_api("unknown", fault.status);
                    if self.write_fault(&mut stream, fault).await.is_err() {
                        return;
                    }
                    break;
                }
            }
            if unread.is_empty() {
                // An idle connection holds no buffer.
                unread = Vec::new();
            }
        }
        linger(&mut stream).await;
    }

    /// One request and its answer. Gives whether another may follow.
    async fn exchange(
        &self,
        stream: &mut impl ByteStream,
        unread: &mut Vec<u8>,
        idle_time: Duration,
    ) -> Result<bool, ConversationEnd> {
        if !unread.is_empty() {
            self.wait_for_gate().await?;
        }
        let length = self.read_head(stream, unread, idle_time).await?;
        let Some(head) = self.understand(&unread[..length])? else { return Err(ConversationEnd::Silent) };
        unread.drain(..length);
        let Head { parts, body: mut decoder, keep_alive, expects_continue } = head;
        let mut keep_alive = keep_alive && !*self.stopped.borrow();
        let (method, version) = (parts.method.clone(), parts.version);
        let mut lease = Lease::new(&self.bodies);
        let mut body = Vec::new();
        if !decoder.is_done() && !self.app.admits(&parts) {
            // The app refuses it by its head, and the body is left where it is.
            keep_alive = false;
        } else {
            if expects_continue && !decoder.is_done() {
                self.write(stream, http1::CONTINUE).await?;
            }
            self.read_body(stream, unread, &mut decoder, &mut body, &mut lease).await?;
        }
        let request = Request::from_parts(parts, Body::from(body));
        let Ok(response) = timeout(ANSWER_TIME, answer(self.routes.clone(), request)).await else {
            return Err(NO_ANSWER.into());
        };
        drop(lease);
        if let Some(lines) = lines::take(&response) {
            return self.stream_lines(stream, lines).await;
        }
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let bytes = http1::encode_response(&response, &method, version, keep_alive, unix_s);
        self.write(stream, &bytes).await?;
        Ok(keep_alive)
    }

    /// Writes lines until their reader leaves, or does not read, or the node stops.
    async fn stream_lines(
        &self,
        stream: &mut impl ByteStream,
        mut lines: Box<dyn StreamedLines>,
    ) -> Result<bool, ConversationEnd> {
        self.write(stream, LINES_HEAD).await?;
        let mut said = Vec::new();
        let mut gate = self.gate.clone();
        loop {
            let bytes = tokio::select! {
                bytes = lines.next() => bytes,
                // Whatever a reader says meanwhile is not heard; its end is.
                read = read(stream, &mut said) => match read {
                    Ok(0) | Err(_) => return Err(ConversationEnd::Silent),
                    Ok(_) => {
                        said.clear();
                        continue;
                    }
                },
                () = ended(self.stopped.clone()) => return Ok(false),
                // Another process is about to answer: it does not go on with these.
                () = closed(&mut gate) => return Ok(false),
            };
            self.write(stream, &bytes).await?;
        }
    }

    /// Reads until `unread` begins with a whole head; gives its length.
    async fn read_head(
        &self,
        stream: &mut impl ByteStream,
        unread: &mut Vec<u8>,
        idle_time: Duration,
    ) -> Result<usize, ConversationEnd> {
        let mut scan = HeadScan::default();
        let mut deadline = None;
        loop {
            if let Some((_, length)) = scan.find_end(&unread[..unread.len().min(HTTP_HEAD_BYTES_MAX)])? {
                return Ok(length);
            }
            if unread.is_empty() {
                self.rest(stream).await?;
                let mut gate = self.gate.clone();
                tokio::select! {
                    () = closed(&mut gate) => {}
                    read = timeout(idle_time, read(stream, unread)) => match read {
                        Ok(Ok(1..)) => {}
                        Ok(Ok(0) | Err(_)) | Err(_) => return Err(ConversationEnd::Silent),
                    },
                    // What has been sent by now is answered, even where its arrival was not seen yet.
                    () = ended(self.stopped.clone()) => match timeout(LAST_LOOK, read(stream, unread)).await {
                        Ok(Ok(1..)) => {}
                        Ok(Ok(0) | Err(_)) | Err(_) => return Err(ConversationEnd::Silent),
                    },
                }
            } else {
                let until = *deadline.get_or_insert_with(|| Instant::now() + self.limits.head_time);
                match timeout_at(until, read(stream, unread)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return Err(ConversationEnd::Silent),
                    Err(_) => return Err(TOO_SLOW.into()),
                }
            }
        }
    }

    /// Before a request of which something has been read: another process cannot answer it.
    async fn wait_for_gate(&self) -> Result<(), ConversationEnd> {
        let mut gate = self.gate.clone();
        match timeout(HELD_MAX, passed(&mut gate)).await {
            Ok(false) => Ok(()),
            Ok(true) | Err(_) => Err(MOVING.into()),
        }
    }

    /// Between two requests: waits while the gate is held. Nothing is read meanwhile, so that another process finds it.
    async fn rest(&self, stream: &mut impl ByteStream) -> Result<(), ConversationEnd> {
        let mut gate = self.gate.clone();
        if *gate.borrow() == Gate::Open {
            return Ok(());
        }
        // Without a descriptor left it stays here, and ends with this process.
        if let Ok(copy) = stream.fd().try_clone_to_owned() {
            self.resting.lock().push(copy);
        }
        let waited = async {
            let _ = stream.readable().await;
            tokio::time::sleep(HELD_MAX).await;
        };
        tokio::select! {
            is_left = passed(&mut gate) => match is_left {
                false => Ok(()),
                // Without a word, nor an end of the stream: it is another process's.
                true => Err(ConversationEnd::Silent),
            },
            () = waited => Err(MOVING.into()),
        }
    }

    fn understand(&self, bytes: &[u8]) -> Result<Option<Head>, HttpFault> {
        let Some((head, _)) = http1::parse_head(bytes)? else { return Ok(None) };
        Ok(Some(Head {
            body: BodyDecoder::new(head.body_length(), self.limits.body_bytes_max as u64)?,
            parts: http1::request_parts(&head)?,
            keep_alive: head.keep_alive(),
            expects_continue: head.expects_continue(),
        }))
    }

    /// Reads the whole body; what follows it stays in `unread`.
    async fn read_body(
        &self,
        stream: &mut impl ByteStream,
        unread: &mut Vec<u8>,
        decoder: &mut BodyDecoder,
        body: &mut Vec<u8>,
        lease: &mut Lease,
    ) -> Result<(), ConversationEnd> {
        let began = Instant::now();
        let mut received = 0;
        loop {
            let mut at = 0;
            while at < unread.len() && !decoder.is_done() {
                let piece = decoder.decode(&unread[at..])?;
                self.make_room(body, piece.data.len(), lease)?;
                body.extend_from_slice(piece.data);
                at += piece.consumed;
            }
            unread.drain(..at);
            if decoder.is_done() {
                return Ok(());
            }
            match timeout_at(began + self.transfer_time(received), read(stream, unread)).await {
                Ok(Ok(count @ 1..)) => received += count,
                Ok(Ok(0) | Err(_)) => return Err(ConversationEnd::Silent),
                Err(_) => return Err(TOO_SLOW.into()),
            }
        }
    }

    /// Lets `body` grow by `more` bytes, within the budget of all bodies.
    fn make_room(&self, body: &mut Vec<u8>, more: usize, lease: &mut Lease) -> Result<(), HttpFault> {
        let needed = body.len() + more;
        if needed <= body.capacity() {
            return Ok(());
        }
        let capacity = needed.max(body.capacity() * 2).min(self.limits.body_bytes_max);
        lease.resize(capacity as u64).map_err(|_| {
            log_once_a_minute("api_bodies", "api_listen: request bodies exceed api.bodies_bytes_max");
            NO_ROOM
        })?;
        body.reserve_exact(capacity - body.len());
        Ok(())
    }

    async fn write(&self, stream: &mut impl ByteStream, bytes: &[u8]) -> Result<(), ConversationEnd> {
        match timeout(self.transfer_time(bytes.len()), stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ConversationEnd::Silent),
        }
    }

    async fn write_fault(
        &self,
        stream: &mut impl ByteStream,
        fault: HttpFault,
    ) -> Result<(), ConversationEnd> {
        let mut bytes = Vec::new();
        fault.write(&mut bytes);
        self.write(stream, &bytes).await
    }

    /// How long `bytes` may take at the least rate.
    fn transfer_time(&self, bytes: usize) -> Duration {
        self.limits.transfer_time + Duration::from_millis(bytes as u64 * 1000 / LEAST_BYTES_PER_SECOND)
    }
}

/// Until requests need not wait; true when another process answers them.
async fn passed(gate: &mut watch::Receiver<Gate>) -> bool {
    gate.wait_for(|&gate| gate != Gate::Held).await.map_or(true, |gate| *gate == Gate::Left)
}

/// Until requests are to wait.
async fn closed(gate: &mut watch::Receiver<Gate>) {
    if gate.wait_for(|&gate| gate != Gate::Open).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stopped as well.
    let _ = stopped.wait_for(|&stopping| stopping).await;
}

/// Waits without a buffer, then reads what is there.
async fn read(stream: &mut impl ByteStream, unread: &mut Vec<u8>) -> io::Result<usize> {
    stream.readable().await?;
    unread.reserve(READ_BYTES);
    stream.read_buf(unread).await
}

/// Ends the sending side and throws away what still comes, for a while.
async fn linger(stream: &mut impl ByteStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let _ = timeout(LINGER_TIME, async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} }).await;
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
