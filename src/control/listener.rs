//! The API's own listeners (`api_listen`, and each `[[listener]]` that serves nothing else). They read HTTP with the codec of
//! the client ports and answer through the same app, so that one request has one answer on either port.
//!
//! # Bounds
//! A number of connections, of all of them together; above it a caller is answered 503. A deadline for every wait: for a
//! head, for a body (with a least rate), for a caller that does not take its answer, for an idle connection. One request
//! of a connection is under way at a time, and the next one is read when its answer has left. All bodies together have a
//! budget, and none is read from a caller without a right key.
//!
//! A caller may close its sending side behind its request: it is answered all the same.

use std::any::Any;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::{Request, request};
use axum::Router;
use axum::body::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::address::ListenAddress;
use crate::base::budget::{Budget, Lease};
use crate::base::limits::HTTP_HEAD_BYTES_MAX;
use crate::control::app::App;
use crate::control::http::answer;
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
/// How long accepting pauses when it fails, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TOO_SLOW: HttpFault = HttpFault { status: 408, reason: "request not completed in time" };
const FULL: HttpFault = HttpFault { status: 503, reason: "too many connections (api.connections_max)" };
const NO_ROOM: HttpFault = HttpFault { status: 503, reason: "too many request bodies under way" };
const NO_ANSWER: HttpFault = HttpFault { status: 504, reason: "no answer in time" };

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
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Something can be read.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Stream for TcpStream {
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send {
        TcpStream::readable(self)
    }
}

impl Stream for UnixStream {
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
}

/// Why a connection has no next request.
enum End {
    /// The caller has gone or is idle: nothing is to be said.
    Silent,
    Fault(HttpFault),
}

impl From<HttpFault> for End {
    fn from(fault: HttpFault) -> End {
        End::Fault(fault)
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
    ) -> Arc<ApiPort> {
        Arc::new(ApiPort {
            routes,
            app,
            places: Arc::new(Semaphore::new(limits.connections_max as usize)),
            error_codes: Arc::new(Semaphore::new(REFUSALS_MAX)),
            bodies: Budget::new("api_bodies", limits.bodies_bytes_max as u64),
            limits,
            stopped,
        })
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
                let listener = TcpListener::from_std(listener)?;
                tokio::spawn(async move {
                    while let Some(accepted) = port.next(listener.accept()).await {
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
                let listener = UnixListener::from_std(listener)?;
                tokio::spawn(async move {
                    while let Some(accepted) = port.next(listener.accept()).await {
                        port.take(accepted.map(|(stream, _)| stream)).await;
                    }
                    drop(guard);
                });
            }
        }
        Ok(())
    }

    /// `None` when the node stops.
    async fn next<T>(&self, accept: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            accepted = accept => Some(accepted),
            () = ended(self.stopped.clone()) => None,
        }
    }

    async fn take(self: &Arc<Self>, accepted: io::Result<impl Stream>) {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                log_once_a_minute("api_accept", &format!("the API's listener cannot accept: {error}"));
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        let port = Arc::clone(self);
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(async move {
                port.converse(stream).await;
                drop(place);
            })),
            Err(_) => self.refuse(stream),
        }
    }

    /// Waits until every connection has ended: those with a request are answered first.
    pub async fn finished(&self) {
        let _ = self.places.acquire_many(self.limits.connections_max).await;
    }

    fn refuse(self: &Arc<Self>, mut stream: impl Stream) {
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
    async fn converse(&self, mut stream: impl Stream) {
        let mut unread = Vec::new();
        let mut idle_time = self.limits.head_time;
        loop {
            match self.exchange(&mut stream, &mut unread, idle_time).await {
                Ok(true) => idle_time = self.limits.idle_time,
                Ok(false) => break,
                Err(End::Silent) => return,
                Err(End::Fault(fault)) => {
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
        stream: &mut impl Stream,
        unread: &mut Vec<u8>,
        idle_time: Duration,
    ) -> Result<bool, End> {
        let length = self.read_head(stream, unread, idle_time).await?;
        let Some(head) = self.understand(&unread[..length])? else { return Err(End::Silent) };
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
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let bytes = http1::encode_response(&response, &method, version, keep_alive, unix_s);
        self.write(stream, &bytes).await?;
        Ok(keep_alive)
    }

    /// Reads until `unread` begins with a whole head; gives its length.
    async fn read_head(
        &self,
        stream: &mut impl Stream,
        unread: &mut Vec<u8>,
        idle_time: Duration,
    ) -> Result<usize, End> {
        let mut scan = HeadScan::default();
        let mut deadline = None;
        loop {
            if let Some((_, length)) = scan.find_end(&unread[..unread.len().min(HTTP_HEAD_BYTES_MAX)])? {
                return Ok(length);
            }
            if unread.is_empty() {
                tokio::select! {
                    read = timeout(idle_time, read(stream, unread)) => match read {
                        Ok(Ok(1..)) => {}
                        Ok(Ok(0) | Err(_)) | Err(_) => return Err(End::Silent),
                    },
                    // What has been sent by now is answered, even where its arrival was not seen yet.
                    () = ended(self.stopped.clone()) => match timeout(LAST_LOOK, read(stream, unread)).await {
                        Ok(Ok(1..)) => {}
                        Ok(Ok(0) | Err(_)) | Err(_) => return Err(End::Silent),
                    },
                }
            } else {
                let until = *deadline.get_or_insert_with(|| Instant::now() + self.limits.head_time);
                match timeout_at(until, read(stream, unread)).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return Err(End::Silent),
                    Err(_) => return Err(TOO_SLOW.into()),
                }
            }
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
        stream: &mut impl Stream,
        unread: &mut Vec<u8>,
        decoder: &mut BodyDecoder,
        body: &mut Vec<u8>,
        lease: &mut Lease,
    ) -> Result<(), End> {
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
                Ok(Ok(0) | Err(_)) => return Err(End::Silent),
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

    async fn write(&self, stream: &mut impl Stream, bytes: &[u8]) -> Result<(), End> {
        match timeout(self.transfer_time(bytes.len()), stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Silent),
        }
    }

    async fn write_fault(&self, stream: &mut impl Stream, fault: HttpFault) -> Result<(), End> {
        let mut bytes = Vec::new();
        fault.write(&mut bytes);
        self.write(stream, &bytes).await
    }

    /// How long `bytes` may take at the least rate.
    fn transfer_time(&self, bytes: usize) -> Duration {
        self.limits.transfer_time + Duration::from_millis(bytes as u64 * 1000 / LEAST_BYTES_PER_SECOND)
    }
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stopped as well.
    let _ = stopped.wait_for(|&stopping| stopping).await;
}

/// Waits without a buffer, then reads what is there.
async fn read(stream: &mut impl Stream, unread: &mut Vec<u8>) -> io::Result<usize> {
    stream.readable().await?;
    unread.reserve(READ_BYTES);
    stream.read_buf(unread).await
}

/// Ends the sending side and throws away what still comes, for a while.
async fn linger(stream: &mut impl Stream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let _ = timeout(LINGER_TIME, async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} }).await;
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
