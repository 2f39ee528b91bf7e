//! A new process takes the place of this one: another binary, another configuration, the same clients.
//!
//! Inputs: a request from the command line or by SIGUSR2. Outputs: a process that serves, always one. Must not know: what
//! clients and channels are made of; shards write and read that ([`crate::shard::handover`]).
//!
//! [`leave`] is the old process's side and draws the messages, [`arrive`] the new one's, [`wire`] carries them,
//! [`request`] is how a node is asked, [`successor`] starts the one from the other.

mod arrive;
mod counts;
mod depart;
pub mod development;
mod fault;
mod leave;
pub mod request;
mod stages;
mod successor;
mod wire;

pub use self::arrive::Arriving;
pub use counts::UpgradeCounts;
pub(in crate::node) use depart::{EndedShards, depart, draining, interruption};
pub use leave::{LeaveFault, Leaving, MovedToNext};
pub use request::{AskedUpgrade, DevelopmentApi, Running, UpgradeRequest, ask, bind, listen};
pub use successor::{ProcessOrigin, VARIABLE, inherited};

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use self::wire::{WireFault, WireStep};
use crate::base::address::ListenAddress;
use crate::config::Config;
use crate::control::Control;
use crate::node::engine::kind_of;
use crate::node::store_relay::path_of;
use crate::record::{ListenerRecord, ListenerUse, NodeRecord};
use crate::shard::client_ids::ClientIds;
use crate::shard::handover::Counts as Moves;

/// How long the process before this one may take to hear why this one does not start.
const REFUSAL_MAX: Duration = Duration::from_secs(1);

/// This process cannot start. If it was to follow another one, that one hears why.
pub fn refuse_start(problem: &str) {
    if let Some(Ok(wire)) = inherited() {
        let _ = wire.send(WireStep::Refused, problem.trim().as_bytes(), &[], Instant::now() + REFUSAL_MAX);
    }
}

/// The error of a process whose predecessor has ended in the middle of the upgrade, see [`start_over`].
pub fn error_of(fault: &WireFault) -> io::Error {
    let kind = match fault {
        WireFault::Ended => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("upgrade: {fault}"))
}

/// The other process was killed: there would be none. This one starts again, as a node that follows nobody. What it has ends
/// with the program that it runs now.
///
/// What is returned is why that cannot be.
pub fn start_over(origin: &ProcessOrigin) -> io::Error {
    tracing::error!("the other process has ended: this one starts again without what was held in memory");
    crate::telemetry::flush(REFUSAL_MAX);
    origin.start_over()
}

/// What the node is known by, for the process that follows.
pub fn node_record(config: &Config, control: &Control, client_ids: &ClientIds) -> NodeRecord {
    let key = config.api.key.as_ref().filter(|_| config.is_development());
    NodeRecord {
        uid: control.uid().into(),
        client_id_words: client_ids.to_words().to_vec(),
        development_key: key.map(|key| key.reveal().into()),
        upgrades: UpgradeCounts::default().to_record(),
        store: path_of(config),
        engine: kind_of(config).into(),
    }
}

/// The ids of clients go on.
///
/// # Errors
/// The record is of a build that makes other ids.
pub fn client_ids(node: &NodeRecord) -> io::Result<ClientIds> {
    let words = node.client_id_words.as_slice().try_into();
    words
        .map(ClientIds::from_words)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the keys of client ids"))
}

/// Where shards listen: as configured, and as bound.
pub fn listener_records(config: &Config, bound: &[ListenAddress]) -> Vec<ListenerRecord> {
    let all = config.shard_listeners();
    let records = all.iter().zip(bound).enumerate().map(|(place, (listener, bound))| ListenerRecord {
        address: bound.to_string().into(),
        configured: listener.address.to_string().into(),
        serves: ListenerUse::Clients(place as u8),
    });
    records.collect()
}

impl fmt::Display for MovedToNext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moves { peers, channels, left_behind, .. } = self.totals;
        write!(
            f,
            "process {} (trunkline {}) serves: {peers} connections and {channels} channels moved in {} ms, clients waited {} ms",
            self.pid,
            self.build,
            self.duration.as_millis(),
            self.silence.as_millis(),
        )?;
        match left_behind {
            0 => Ok(()),
            closed => write!(f, "; {closed} connections could not move and were closed"),
        }
    }
}
