//! What happens to a node while it serves.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use crate::base::address::ListenAddress;
use crate::base::ids::ShardId;
use crate::control::reload::Told;
use crate::node::upgrade::request::AskedUpgrade;

/// How long the end of the process waits for the reader of its log.
pub const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// What happens to the node from outside or inside.
pub enum Incident {
    /// A shard listens, at these places.
    Ready(Vec<ListenAddress>),
    Signal(&'static str),
    /// The configuration is to be read again. Who asks hears what came of it; a signal asks without listening.
    Reload(Option<Told>),
    /// Another process is to take the place of this one.
    Upgrade(AskedUpgrade),
    /// A shard cannot go on; nor can the node without it.
    ShardFailed(ShardId, String),
    /// The engine's server does not let this node in.
    EngineRefused(String),
}

/// Bound: what `serve` makes it with.
pub type Incidents = mpsc::Receiver<Incident>;

/// Why the node ends with a shard.
pub fn failed(id: ShardId, problem: &str) -> io::Error {
    io::Error::other(format!("shard {}: {problem}", id.0))
}
