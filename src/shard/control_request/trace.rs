//! What shards say of traces. Plain data.

use crate::base::ids::{ClientId, ShardId};
use crate::base::time::Time;
use crate::base::trace::TraceContext;
use crate::shard::control_request::seen::Stage;

/// A publication has reached a stage on a shard. Said of all, where anything is traced: which are, the control plane knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedStage {
    /// When the node had it.
    pub accepted: Time,
    pub stage: Stage,
    pub shard: ShardId,
    pub at: Time,
}

/// A client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedConnect {
    pub client: ClientId,
    pub shard: ShardId,
    pub transport: &'static str,
    /// That it came with.
    pub remote: Option<TraceContext>,
    /// When its socket was accepted.
    pub since: Time,
    pub now: Time,
}
