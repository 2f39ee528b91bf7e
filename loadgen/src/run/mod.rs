//! Runs a scenario: phases one after the other, each with its own figures.
//!
//! Inputs: a [`Plan`] and its phases. Outputs: a [`RunResult`]. Must not know: the command line, how results are shown.

mod driver;
mod during;
mod last;
mod phase;
mod result;
mod scenario;

use std::sync::Arc;
use std::time::Duration;

pub use self::driver::{Observer, Progress, Quiet, run};
pub use self::during::DuringResult;
pub use self::phase::Phase;
pub use self::result::{PhaseResult, RunResult, Second, Shortfall, StormResult, Verdict};
pub use self::scenario::{ScenarioFault, parse_duration, read_scenario};
use crate::engine::{EngineOptions, Server};
use crate::net::Sources;
use crate::profile::Profile;
use crate::publish::Publishing;
use crate::tls::Tls;

/// What a run is against and with.
pub struct Plan {
    /// For the report: "trunkline", "floor", a URL.
    pub name: String,
    pub profile: Arc<dyn Profile>,
    /// Connections go to them in turn. At least one.
    pub servers: Arc<[Server]>,
    pub tls: Option<Tls>,
    /// Further header fields of each connection's upgrade or GET.
    pub headers: Vec<(String, String)>,
    /// permessage-deflate is offered in `headers`.
    pub compression: bool,
    pub sources: Sources,
    pub engine: EngineOptions,
    pub channels: u32,
    pub per_connection: u32,
    pub channel_prefix: String,
    /// Each connection has a channel of its own besides: its name is this and the connection's number.
    pub personal_prefix: Option<String>,
    pub recover: bool,
    pub publishing: Publishing,
    pub publishers: u32,
    pub payload_bytes: usize,
    pub message_bytes_max: usize,
    pub handshake_timeout: Duration,
    pub in_flight_max: u32,
    pub silence_max: Option<Duration>,
    /// How long after the last delivery the missing ones are given up.
    pub drain: Duration,
    /// Own lag above this, at p99, makes a run invalid. `None`: above half of the measured p99 and a millisecond.
    pub lag_max: Option<Duration>,
    /// For a shell, when half of the longest phase is over.
    pub during: Option<String>,
    /// The server's process, if it is on this host.
    pub pid: Option<u32>,
    /// Tells this run's payloads from others'.
    pub run: u32,
}
