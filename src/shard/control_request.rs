//! What the control plane may ask of shards, and how it is answered. This is the whole border between tokio and the
//! data path: typed, bounded, and never waiting on either side.
//!
//! The replies here hold closures. What those capture is an address: an inbox, a peer's number, the number of a hook call. What
//! an answer is for stands with the peer, so that a [record](crate::record) of it needs none of them; a reply to the API is
//! lost with its HTTP request and nothing else.

pub mod cursors;
pub mod observer;
pub mod seen;
pub mod trace;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Request, Response};

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::event::Event;
use crate::base::except::Except;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::filter::Filters;
use crate::base::histogram::Histogram;
use crate::base::ids::{ChannelName, ClientId, ConnId, Offset, Position, ShardId, UserName};
use crate::base::publication::{ClientInfo, Encoded};
use crate::hub::Roster;
use crate::hub::requests::{
    CursorsPage, History, HistoryRequest, MembersPage, PresenceStats, PublishRequest, Since,
};
use crate::session::hook_call::{Answer, Denied, HookCall, Waiting};
use crate::session::token::Overrides;
use crate::session::tunnel::{Payload, TunnelAnswer, TunnelCall};
use crate::shard::control_request::cursors::{CursorsQuery, ReadByQuery, UnreadOutcome};
use crate::shard::control_request::observer::Observer;
use crate::shard::control_request::seen::{
    Busiest, ChannelSeen, ClosedPage, ClosedQuery, ConnectionsPage, ConnectionsQuery, StageTimes,
};
use crate::shard::control_request::trace::{TracedConnect, TracedStage};
use crate::shard::handover::order::Order;
use crate::shard::options::ShardOptions;

/// Where an answer goes. Called once, from a shard's thread, and must not block there.
/// Dropped unanswered, it answers [`ErrorCode::Internal`], so that nobody waits for ever.
pub struct ControlReply<T>(Option<DeliverReply<T>>);

type DeliverReply<T> = Box<dyn FnOnce(Result<T, ErrorCode>) + Send>;

impl<T> ControlReply<T> {
    pub fn new(deliver: impl FnOnce(Result<T, ErrorCode>) + Send + 'static) -> ControlReply<T> {
        ControlReply(Some(Box::new(deliver)))
    }

    pub fn send(mut self, answer: Result<T, ErrorCode>) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl<T> Drop for ControlReply<T> {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            deliver(Err(ErrorCode::Internal));
        }
    }
}

impl<T> fmt::Debug for ControlReply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// The shard's inbox is full: nothing was taken. The API answers 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Which of a user's connections an ask is for. Empty fields do not narrow.
#[derive(Clone, Debug)]
pub struct Target {
    pub user: UserName,
    pub client: Option<ClientId>,
    /// Connections that are left alone.
    pub except: Vec<ClientId>,
}

/// `/api/subscribe`: a server-side subscription of a user's connections.
#[derive(Clone, Debug)]
pub struct SubscribeUser {
    pub target: Target,
    pub channel: ChannelName,
    pub info: Option<Bytes>,
    /// JSON pushed to the client with the subscription.
    pub data: Option<Bytes>,
    pub recover: Option<Since>,
    /// Unix seconds; 0 never.
    pub expire_at: u64,
    /// Options of the channel that are others for this subscription.
    pub overrides: Overrides,
    /// Publications are left out that these do not match.
    pub filters: Option<Arc<Filters>>,
    /// How often it is given something, where that is slower than its channel.
    pub deliver_every: DeliverEvery,
}

#[derive(Clone, Debug)]
pub struct UnsubscribeUser {
    pub target: Target,
    pub channel: ChannelName,
}

#[derive(Clone, Debug)]
pub struct DisconnectUser {
    pub target: Target,
    pub disconnect: Disconnect,
}

#[derive(Clone, Debug)]
pub struct RefreshUser {
    pub target: Target,
    /// Ends the connection as expired instead.
    pub expired: bool,
    /// Unix seconds; 0 never.
    pub expire_at: u64,
    pub info: Option<Bytes>,
}

/// `/api/push`: a message to the connections of users whose owner is the asked shard.
#[derive(Clone, Debug)]
pub struct PushUsers {
    pub users: Vec<UserName>,
    pub message: Arc<UserMessage>,
    /// Only the connection of each user that was made last, of those that take messages.
    pub newest: bool,
}

/// One message for any number of connections.
#[derive(Debug)]
pub struct UserMessage {
    /// JSON, checked already.
    pub data: Bytes,
    /// Who does not get it.
    pub except: Option<Except>,
    pub encoded: Encoded,
}

/// Who got a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Connections that it was handed to.
    pub connections: u64,
    /// For each user of the ask, whether one of the user's was among them.
    pub reached: Vec<bool>,
}

/// Clients that leave one after the other: over which time, and how far they are.
#[derive(Clone, Debug)]
pub struct Departure {
    pub over: Duration,
    pub progress: Arc<Progress>,
}

impl Departure {
    pub fn new(over: Duration) -> Departure {
        Departure { over, progress: Arc::default() }
    }
}

/// How far a departure is, of all shards together.
#[derive(Debug, Default)]
pub struct Progress {
    pub clients: AtomicU64,
    /// Closed, or gone before their turn.
    pub closed: AtomicU64,
}

/// Which clients are to come back elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Movers {
    /// So many of a hundred, chosen at random.
    Percent(u8),
    User(UserName),
    /// Its subscribers.
    Channel(ChannelName),
}

/// The first so many members of a channel behind a client's id, in the order of ids.
#[derive(Clone, Debug)]
pub struct PageQuery {
    pub channel: ChannelName,
    /// Empty: from the first on.
    pub after: String,
    pub limit: usize,
}

/// Chooses channels by name.
pub type ChannelFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Clone, Debug)]
pub struct ChannelCount {
    pub channel: ChannelName,
    pub clients: u32,
}

/// Counters and gauges of one shard, plain integers that it alone writes. The scraper sums them.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    pub shard: ShardId,
    pub connections: u64,
    pub clients: u64,
    /// The same by transport.
    pub transports: Vec<(&'static str, u64)>,
    pub users: u64,
    pub channels: u64,
    pub subscriptions: u64,
    /// What its connections make the node keep for them, the kernel's buffers estimated.
    pub client_buffers_bytes: u64,
    /// What is there now in this shard, exported as the sum of all: name, help and value.
    pub sums: Vec<(&'static str, &'static str, u64)>,
    /// The part of its time that it does not wait in, of the last tenths of a second.
    pub busy_percent: u32,
    /// What waits at each stage now: name, help and value.
    pub gauges: Vec<(&'static str, &'static str, u64)>,
    /// How long clients took to answer pings.
    pub pings: Histogram,
    /// How long turns of the loop took.
    pub turns: Histogram,
    /// From hook calls to their answers.
    pub hook_calls: Histogram,
    /// How long connections lagged until they had caught up or were closed.
    pub lags: Histogram,
    /// How long publications took, by namespace.
    pub stages: Vec<StageTimes>,
    /// Everything that only grows, by its metric name (without prefix) and help text.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Faults by family and cause: what was refused, closed or dropped, and how often.
    pub faults: Vec<(&'static str, u64)>,
}

/// One ask about cursors.
#[derive(Debug)]
pub enum CursorsRequest {
    Page(CursorsQuery, ControlReply<CursorsPage>),
    /// Of channels whose owner is the asked shard, each with its own outcome, in order.
    Unread(UserName, Vec<ChannelName>, ControlReply<Vec<UnreadOutcome>>),
    ReadBy(ReadByQuery, ControlReply<MembersPage>),
    Members(CursorsQuery, ControlReply<MembersPage>),
    /// Makes users members that have everything up to the offset, or up to the top. Answers how many are new.
    Add(ChannelName, Vec<UserName>, Option<Offset>, ControlReply<usize>),
    /// Answers how many were members.
    Remove(ChannelName, Vec<UserName>, ControlReply<usize>),
}

impl CursorsRequest {
    pub fn refuse(self, error_code: ErrorCode) {
        match self {
            CursorsRequest::Page(_, reply) => reply.send(Err(error_code)),
            CursorsRequest::Unread(_, _, reply) => reply.send(Err(error_code)),
            CursorsRequest::ReadBy(_, reply) | CursorsRequest::Members(_, reply) => {
                reply.send(Err(error_code))
            }
            CursorsRequest::Add(_, _, _, reply) | CursorsRequest::Remove(_, _, reply) => {
                reply.send(Err(error_code))
            }
        }
    }
}

/// One ask to one shard.
#[derive(Debug)]
pub enum ControlRequest {
    Publish(PublishRequest, ControlReply<Position>),
    History(HistoryRequest, ControlReply<History>),
    HistoryRemove(ChannelName, ControlReply<()>),
    Presence(ChannelName, ControlReply<Arc<Roster>>),
    /// A page of the same.
    PresencePage(PageQuery, ControlReply<Vec<Arc<ClientInfo>>>),
    PresenceStats(ChannelName, ControlReply<PresenceStats>),
    /// Of members' cursors.
    Cursors(CursorsRequest),
    /// How many connections each of these users has, whose owner is the asked shard.
    Online(Vec<UserName>, ControlReply<Vec<u32>>),
    Channels(FilterBox, ControlReply<Vec<ChannelCount>>),
    /// The first so many behind a name, in the order of names.
    ChannelsPage(FilterBox, ChannelName, usize, ControlReply<Vec<ChannelSeen>>),
    Connections(ConnectionsQuery, ControlReply<ConnectionsPage>),
    Closed(ClosedQuery, ControlReply<ClosedPage>),
    Busiest(ControlReply<Busiest>),
    /// Somebody is shown what a peer or a channel does, until nobody takes it any more.
    Observe(Observer, ControlReply<()>),
    Subscribe(SubscribeUser, ControlReply<()>),
    Unsubscribe(UnsubscribeUser, ControlReply<()>),
    Disconnect(DisconnectUser, ControlReply<()>),
    Refresh(RefreshUser, ControlReply<()>),
    /// Closes connections of the shard that the node's blocks do not let in any more: one look at each.
    Enforce(ControlReply<()>),
    /// To one connection of a tunnel, which must be of this shard.
    Tunnel(ConnId, TunnelCommand, ControlReply<TunnelTold>),
    Push(PushUsers, ControlReply<Pushed>),
    /// To every connection of the shard that takes messages. Answers how many got it.
    Everyone(Arc<UserMessage>, ControlReply<u64>),
    Stats(ControlReply<ShardStats>),
    /// Answered when the shard turns.
    Alive(ControlReply<()>),
    /// Other options hold from now on.
    Options(OptionsBox, ControlReply<()>),
    /// Lets no client in, and closes those that are here, evenly over the time. Another one takes its place.
    Drain(Departure, ControlReply<()>),
    /// Clients that are still here stay, and others are let in.
    DrainStop(ControlReply<()>),
    /// Closes some clients, evenly over the time, so that they connect again. Answers how many.
    Reconnect(Movers, Departure, ControlReply<u64>),
    /// Stops accepting, closes every client with the code, and ends the shard's thread when they are gone.
    Shutdown(Disconnect),
    /// Of an upgrade.
    Handover(Order),
}

/// What the backend wants of one connection of a tunnel.
#[derive(Clone, Debug)]
pub enum TunnelCommand {
    Send(Payload),
    Close {
        /// One that a Close frame may carry.
        code: u16,
        /// At most 123 bytes.
        reason: Box<str>,
    },
    Describe,
}

/// What became of a [`TunnelCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelTold {
    Done,
    /// The connection has ended.
    Gone,
    /// It is one of a client that speaks with this node, not with a backend.
    NotATunnel,
    /// The client does not read: with this message it would owe more than it may. Nothing was sent.
    Slow {
        owed_bytes: usize,
    },
    Standing(Box<TunnelStanding>),
}

/// How a connection of a tunnel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStanding {
    /// The tunnel's place in the configuration's list.
    pub tunnel: u16,
    pub user: Option<UserName>,
    /// Its client's, where it is known.
    pub address: Option<IpAddr>,
    /// Unix seconds.
    pub opened_at_s: u64,
    /// The number of the last message that the backend was given.
    pub messages: u64,
    /// Messages of the client that wait for the backend, and their bytes.
    pub messages_waiting: usize,
    pub bytes_waiting: usize,
    /// Bytes that the client has not read, as far as they are still here.
    pub owed_bytes: usize,
}

/// [`ShardOptions`] that can be debugged.
#[derive(Clone)]
pub struct OptionsBox(pub Arc<ShardOptions>);

impl fmt::Debug for OptionsBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardOptions")
    }
}

/// [`ChannelFilter`] that can be debugged.
#[derive(Clone)]
pub struct FilterBox(pub ChannelFilter);

impl fmt::Debug for FilterBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelFilter")
    }
}

/// The control plane as a shard sees it: whoever answers the HTTP requests that are not the data path's own.
pub trait ControlPlane: Send + Sync {
    /// Takes one complete request (body included) that came in on a client port. [`Serves`](crate::base::address::Serves) among
    /// its extensions says who is served there; without it, everybody. Must not block; `reply` is called
    /// from any thread when the response is ready.
    ///
    /// # Errors
    /// [`Busy`] when too many are under way: the shard answers 503.
    fn handle(&self, request: Request<Bytes>, reply: HttpReply) -> Result<(), Busy>;

    /// Whether the body of such a request is read before it is answered. A body that is not read is not waited for: the
    /// request is handed over without it.
    fn wants_body(&self, head: &http::request::Parts) -> bool {
        let _ = head;
        true
    }

    /// Takes a response and gives it back with its body in the coding "gzip". Must not block.
    ///
    /// # Errors
    /// [`Busy`] when too many are under way: the response is left where it was.
    fn compress(&self, response: &mut Option<Response<Bytes>>, reply: HttpReply) -> Result<(), Busy> {
        let _ = response;
        reply.forget();
        Err(Busy)
    }

    /// Takes word of something that a peer did and that an operator would want to know: `what` is the same text for the
    /// same `cause`, which is a literal, `address` the peer's. It is logged once a minute for each cause. Must not block.
    fn tell(&self, cause: &'static str, what: &'static str, address: Option<IpAddr>) {
        let _ = (cause, what, address);
    }

    /// Takes a hook call for the backend. Must not block; `reply` is called from any thread, once, unless the hook call
    /// is cancelled before. It always comes: a backend that does not answer is [`Denied::Unavailable`] in time.
    ///
    /// # Errors
    /// [`Busy`] when more hook calls are waiting than may: the session takes it for [`Denied::Unavailable`].
    fn ask_backend(&self, hook_call: HookCall, reply: BackendReply) -> Result<Waiting, Busy> {
        let _ = (hook_call, reply);
        Err(Busy)
    }

    /// Takes something that the backend is to be told of. Must not block. What one thread tells keeps its order.
    ///
    /// # Errors
    /// [`Busy`] when there is no room: the event is lost, and the shard says so when there is room again.
    fn tell_backend(&self, event: Event) -> Result<(), Busy> {
        drop(event);
        Ok(())
    }

    /// Takes what publications have reached. Must not block.
    fn traced(&self, stages: &[TracedStage]) {
        let _ = stages;
    }

    /// Takes that a client is connected, for its trace. Must not block.
    fn trace_connected(&self, connect: TracedConnect) {
        let _ = connect;
    }

    /// Takes what the backend of a tunnel is to be asked or told. Must not block; `reply` is called from any thread,
    /// once and within the tunnel's time, unless what is returned for a `Connect` was dropped before.
    ///
    /// # Errors
    /// [`Busy`] when more is under way than may: nothing was taken.
    fn ask_tunnel(&self, hook_call: TunnelCall, reply: TunnelReply) -> Result<Waiting, Busy> {
        let _ = (hook_call, reply);
        Err(Busy)
    }
}

/// Carries an answer back to the shard that waits for it. It may find no room there and is tried again.
pub struct RetriedReply<T: Unanswered>(Option<TryDeliver<T>>);

type TryDeliver<T> = Box<dyn FnMut(&mut Option<T>) + Send>;

/// A response to a request of HTTP.
pub type HttpReply = RetriedReply<Response<Bytes>>;
/// The answer of the backend to a hook call.
pub type BackendReply = RetriedReply<Result<Answer, Denied>>;
/// The answer of a tunnel's backend.
pub type TunnelReply = RetriedReply<TunnelAnswer>;

/// What a reply carries that is dropped unused.
pub trait Unanswered: Sized {
    /// `None`: nothing, and the shard gives up by its own timer.
    fn unanswered() -> Option<Self>;
}

impl Unanswered for Response<Bytes> {
    fn unanswered() -> Option<Self> {
        let mut response = Response::new(Bytes::from_static(b"internal server error\n"));
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        Some(response)
    }
}

impl Unanswered for Result<Answer, Denied> {
    fn unanswered() -> Option<Self> {
        None
    }
}

impl Unanswered for TunnelAnswer {
    fn unanswered() -> Option<Self> {
        Some(TunnelAnswer::Failed)
    }
}

impl<T: Unanswered> RetriedReply<T> {
    /// `deliver` takes the answer, or leaves it when there is no room for it.
    pub fn new(deliver: impl FnMut(&mut Option<T>) + Send + 'static) -> RetriedReply<T> {
        RetriedReply(Some(Box::new(deliver)))
    }

    /// Takes the answer, or leaves it when the shard's inbox is full: try again a little later. A second answer is taken
    /// and dropped.
    pub fn send(&mut self, answer: &mut Option<T>) {
        match &mut self.0 {
            Some(deliver) => deliver(answer),
            None => *answer = None,
        }
        if answer.is_none() {
            self.0 = None;
        }
    }

    /// The answer comes from elsewhere, or is not waited for.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl<T: Unanswered> Drop for RetriedReply<T> {
    fn drop(&mut self) {
        if let Some(mut deliver) = self.0.take()
            && let Some(answer) = T::unanswered()
        {
            // Without room for it the connection ends by its own timer.
            deliver(&mut Some(answer));
        }
    }
}
