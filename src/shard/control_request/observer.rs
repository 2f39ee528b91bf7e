//! Observers: they are shown what one peer or one channel does, as it happens. Plain data, and where it goes.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, ClientId, ConnId, ShardId, UserName};
use crate::base::trace::TraceContext;

/// Who is looked at: never all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObserverTarget {
    User(UserName),
    Client(ConnId),
    /// What is published to it, who joins and leaves; not what goes to each subscriber.
    Channel(ChannelName),
    /// By its place in the configuration's list.
    Tunnel(u16),
    Network(IpNet),
}

/// Takes what happens. Called from shards: must not block.
pub trait ObserverSink: Send + Sync {
    fn take(&self, event: ObserverEvent);

    /// False when nobody listens any more: shards forget its observer.
    fn is_open(&self) -> bool;
}

#[derive(Clone)]
pub struct Observer {
    pub selector: ObserverTarget,
    pub sink: Arc<dyn ObserverSink>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.selector.fmt(f)
    }
}

/// Payloads are copied up to this length, in bytes: longer ones are told by their length alone.
pub const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// Something that happened. Texts in it are as they came: the control plane masks what is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserverEvent {
    /// Wall clock, milliseconds since 1970.
    pub time_ms: u64,
    pub shard: ShardId,
    /// `None` for what happens to a channel.
    pub client: Option<ClientId>,
    pub user: UserName,
    pub what: Observation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    Connected {
        transport: &'static str,
        trace: Option<TraceContext>,
    },
    /// A message of the client, whole.
    In {
        bytes: usize,
        payload: Option<Bytes>,
    },
    /// What goes to its socket in one write, as it is, frames of WebSocket included.
    Out {
        bytes: usize,
        websocket: bool,
        payload: Option<Bytes>,
    },
    HookCall {
        kind: &'static str,
        /// That its client came with.
        trace: Option<TraceContext>,
    },
    HookAnswer {
        outcome: &'static str,
    },
    /// A command was refused, for there were too many.
    Limited,
    Published {
        channel: ChannelName,
        bytes: usize,
        payload: Option<Bytes>,
        trace: Option<TraceContext>,
    },
    Joined {
        channel: ChannelName,
    },
    Left {
        channel: ChannelName,
    },
    Ended {
        code: u16,
        reason: Box<str>,
        by: &'static str,
    },
}
