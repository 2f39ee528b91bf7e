//! The configuration, as far as shards need it.

use std::sync::Arc;
use std::time::Duration;

use crate::base::admission::Admission;
use crate::base::blocks::Blocks;
use crate::base::budget::Budget;
use crate::base::debts::Debts;
use crate::base::event::EventKinds;
use crate::base::ids::ListenerId;
use crate::base::inboxes::Inboxes;
use crate::base::seats::Seats;
use crate::base::time::Time;
use crate::base::trusted::TrustedNetworks;
use crate::hub::followed::StreamLimits;
use crate::hub::limits::HubLimits;
use crate::hub::options::Namespaces;
use crate::hub::places::ClassLimit;
use crate::hub::users::UserPolicy;
use crate::layer::Layer;
use crate::proto::websocket::deflate::CompressionOptions;
use crate::session::origins::AllowedOrigins;
use crate::session::paths::ClientPaths;
use crate::session::rules::ChannelRules;
use crate::session::token::Verifier;
use crate::session::tunnel::WaitingLimits;
use crate::shard::layers::ListenerOptions;
use crate::shard::stages::StageNamespaces;
use crate::shard::user_rates::UserRates;

/// What all shards of a node share.
#[derive(Clone)]
pub struct ShardOptions {
    /// In the order of the driver's listeners. Those that are not listed are plain.
    pub listeners: Vec<ListenerOptions>,
    /// Whose word about a client's address is taken.
    pub trusted: Arc<TrustedNetworks>,
    pub namespaces: Arc<Namespaces>,
    /// Of the same namespaces, what sessions need.
    pub rules: Arc<Namespaces<ChannelRules>>,
    pub hub: HubLimits,
    pub streams: StreamLimits,
    /// Checks tokens; without one no token is valid.
    pub verifier: Option<Arc<Verifier>>,
    pub allow_anonymous: bool,
    /// What the name of a user's personal channel begins with: its namespace and a colon, or nothing. `None`: there are
    /// no personal channels.
    pub personal_channels: Option<Box<str>>,
    /// Users have inboxes.
    pub inboxes: Option<Inboxes>,
    /// In the order of the configuration's list: a tunnel's place there is its name among shards and control plane.
    pub tunnels: Vec<TunnelOptions>,
    /// Origins that may connect besides the page's own host.
    pub allowed_origins: AllowedOrigins,
    /// Most connections of one shard. The kernel spreads clients by hash: more than an even share of the node's.
    pub connections_max: u32,
    /// Connections of the whole node.
    pub seats: Arc<Seats>,
    /// What all connections of the node may make it keep for them.
    pub debts: Arc<Debts>,
    /// What the kernel may keep for a socket; 0: as it finds right.
    pub send_buffer_bytes: usize,
    /// Connections beyond the bound that a shard takes the time to answer, at once.
    pub refused_max: u32,
    /// Limits of client networks, and of what comes to the node; `None` where there are none.
    pub admission: Option<Arc<Admission>>,
    /// Most subscriptions of one connection.
    pub channels_max: usize,
    pub message_bytes_max: usize,
    /// Whether clients of WebSocket may compress, and how messages to them are; `None`: their offers are not read.
    pub compression: Option<CompressionOptions>,
    /// What a connection may owe its socket before it is closed as slow.
    pub outbox_bytes_max: usize,
    pub http_body_bytes_max: usize,
    pub http: HttpLimits,
    /// Zero sends none.
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Between expiry and the close, for the client to refresh, or the backend to answer whether it may go on.
    pub expired_close_delay: Duration,
    pub hooks: ClientHooks,
    /// Names in lower case of the header fields of clients that the backend gets to see. Kept with every connection:
    /// empty when there is no hook at all.
    pub forward_headers: Vec<Box<str>>,
    /// Those of them, or fewer, that a client may give itself with its connect.
    pub emulated_headers: Vec<Box<str>>,
    /// When a hook call without an answer counts as unanswered. Longer than the control plane's own deadlines, which say
    /// why: only a bug is left to be caught here.
    pub hook_call_patience: Duration,
    pub shutdown_grace: Duration,
    /// How many connections a user may have, and how much clients may do in a time.
    pub client_limits: ClientLimits,
    pub echo: bool,
    /// Where clients of the Centrifuge protocol connect.
    pub client_paths: ClientPaths,
    /// What clients of unidirectional streams are answered over HTTP when their connect is refused: codes and statuses. Where
    /// there are any, such a response begins when the connect is answered.
    pub connect_statuses: Vec<(u32, u16)>,
    /// Names this node to clients whose commands come by requests of their own.
    pub node_uid: Box<str>,
    /// The events that the backend gets.
    pub events: EventKinds,
    /// Whom and which tokens the node does not let in: one table for all shards.
    pub blocks: Arc<Blocks>,
    /// How long a channel must be empty before its `vacated` event.
    pub vacated_delay: Duration,
    /// How long a user must have no connection before its `user_offline` event.
    pub user_offline_delay: Duration,
    /// What an operator may look at.
    pub seeing: SeeingOptions,
    pub version: &'static str,
    /// Wall clock for a moment of the driver's clock, milliseconds since 1970.
    pub wall_ms: fn(Time) -> u64,
    /// Processor time of the calling thread.
    pub thread_time: fn() -> Duration,
}

/// What shards keep for an operator to look at.
#[derive(Clone, Debug, Default)]
pub struct SeeingOptions {
    /// Ends of connections that one shard keeps; 0: none, and nothing is noted of connections.
    pub ends_max: usize,
    /// The control plane is told of stages and connects, for traces.
    pub traced: bool,
    /// Whose publications have times of their own.
    pub namespaces: StageNamespaces,
}

/// What connections that speak HTTP may cost, and for how long.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// How long an idle connection is kept for its next request.
    pub keep_alive: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// What all shards keep of requests that are not complete: heads, bodies of clients, requests behind others.
    pub input: Arc<Budget>,
    /// Bodies of requests that showed an API key, until they are answered.
    pub bodies: Arc<Budget>,
}

/// What methods begin with, and the hook that answers their calls.
pub type CallHook = (Box<str>, Option<Box<str>>);

/// The names of the hooks that belong to no channel; those of channels are with their options.
#[derive(Clone, Debug, Default)]
pub struct ClientHooks {
    pub connect: Option<Box<str>>,
    pub refresh: Option<Box<str>>,
    pub rpc: Option<Box<str>>,
    /// By what a method begins with, the longest first; without a hook its calls are refused.
    pub rpc_by_prefix: Box<[CallHook]>,
}

impl ClientHooks {
    /// The hook that answers calls of the method.
    pub fn of_call(&self, method: &str) -> Option<&str> {
        let named = self.rpc_by_prefix.iter().find(|(prefix, _)| method.starts_with(&**prefix));
        named.map_or(&self.rpc, |(_, hook)| hook).as_deref()
    }
}

/// What a node allows its clients. Zero means no limit.
#[derive(Clone, Debug, Default)]
pub struct ClientLimits {
    pub user_connections_max: u32,
    pub user_connections_policy: UserPolicy,
    /// Of each class of devices.
    pub device_connections_max: Arc<[ClassLimit]>,
    pub commands_per_second: u32,
    /// Commands that a connection, or a user, may send at once after a rest.
    pub commands_burst: u32,
    pub bytes_per_second: u64,
    /// Commands of users, for all shards together; `None` without a limit.
    pub users: Option<Arc<UserRates>>,
    /// The same in bytes.
    pub user_bytes: Option<Arc<UserRates>>,
}

impl ClientLimits {
    /// A connection with a user needs a place among the user's.
    pub fn limits_users(&self) -> bool {
        self.user_connections_max > 0 || !self.device_connections_max.is_empty()
    }
}

/// What a shard must know of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelOptions {
    pub name: Box<str>,
    /// Clients may connect. One that was taken out of the configuration is there for those who are connected.
    pub served: bool,
    /// Header fields of the client's request that the backend gets to see, in lower case.
    pub forward_headers: Box<[Box<str>]>,
    pub waiting: WaitingLimits,
    /// How long the backend may take. The control plane answers within it, one way or the other.
    pub timeout: Duration,
}

impl ShardOptions {
    /// Of `vacated` and of `user_offline`.
    pub(in crate::shard) fn event_delays(&self) -> (Duration, Duration) {
        (self.vacated_delay, self.user_offline_delay)
    }

    /// The layer of a new connection. A listener that is not listed is plain.
    pub(in crate::shard) fn new_layer(&self, listener: ListenerId) -> Option<Box<dyn Layer>> {
        Some(self.listeners.get(listener.index())?.layer.as_ref()?.make())
    }
}
