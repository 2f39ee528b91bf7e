//! What the control plane is made with.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;

use crate::base::address_mask::AddressMask;
use crate::base::blocks::Blocks;
use crate::base::event::EventKinds;
use crate::base::inboxes::Inboxes;
use crate::config::{Config, Hook, Objective, Secret, TunnelEntry};
use crate::control::auth::AcceptedKeys;
use crate::control::blocks_kept::BlocksKept;
use crate::control::drain::DrainDefaults;
use crate::control::events::EventOptions;
use crate::control::events::kept::KeptPlace;
use crate::control::jwks::Issuer;
use crate::control::process;
use crate::control::reload::Reload;
use crate::control::traces::{self, TraceOptions};
use crate::engine::RunningEngine;

/// How long a body may take to come, or an answer to leave, beside what the listener gives for their bytes.
pub const TRANSFER_TIME: Duration = Duration::from_secs(10);

/// What the control plane is made with.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// This node's name in `info`.
    pub node_name: String,
    /// What names this run of the node among others; without one it gets its own.
    pub uid: Option<String>,
    /// Keys the API accepts. Empty: every call is refused.
    pub api_keys: AcceptedKeys,
    /// Longest request body.
    pub body_bytes_max: usize,
    /// Requests of client ports that may be under way; more are answered 503 by the shard.
    pub requests_max: u32,
    /// How long a shard may take to answer before the caller gets error 100.
    pub ask_timeout: Duration,
    /// In the order of the configuration's list, as shards have them.
    pub tunnels: Vec<TunnelEntry>,
    /// Longest message to a client of a tunnel: half of what it may owe, so that one fits beside what is on its way.
    pub answer_bytes_max: usize,
    /// How clients' addresses are shown to people.
    pub address_mask: AddressMask,
    /// Serves `/echo`.
    pub echo: bool,
    /// Serves the console where nothing but the API is served.
    pub console: bool,
    /// Serves the page at `/`, which shows this key to loopback names.
    pub page_key: Option<Secret>,
    /// Bounds of the API's own listeners.
    pub api_port: PortLimits,
    /// Metrics on client ports need the API key: strangers reach those ports, on loopback by way of a proxy. Not in
    /// development mode.
    pub metrics_need_key: bool,
    /// `/metrics` has the names of Centrifugo too.
    pub centrifugo_metrics: bool,
    /// The backend is told events, and may read them.
    pub events: Option<EventOptions>,
    /// Where their log is kept.
    pub events_kept: KeptPlace,
    /// Of these kinds.
    pub event_kinds: EventKinds,
    /// Keys that token issuers publish, to be fetched and kept current.
    pub issuers: Vec<Issuer>,
    /// Where spans go; `None`: nothing is traced.
    pub traces: Option<TraceOptions>,
    /// How long publications may take.
    pub objectives: Vec<Objective>,
    /// How the backend is asked.
    pub hooks: Vec<Hook>,
    /// How clients leave when an order to drain does not say it.
    pub drain: DrainDefaults,
    /// How the configuration is read again.
    pub reload: Option<ReloadBox>,
    /// What others count, for `/metrics`.
    pub collectors: Vec<Arc<dyn Collector>>,
    /// It starts in the place of another process, and serves from [`Control::open`](crate::control::Control::open) on.
    pub held: bool,
    /// Whom and which tokens the node does not let in, as shards have it.
    pub blocks: Arc<Blocks>,
    /// Where that is kept.
    pub blocks_kept: Option<BlocksKept>,
    /// The nodes that share channels with this one.
    pub others: Option<OtherNodes>,
    /// Users have inboxes.
    pub inboxes: Option<Inboxes>,
}

/// [`RunningEngine`] that can be debugged.
#[derive(Clone)]
pub struct OtherNodes(pub Arc<RunningEngine>);

impl std::fmt::Debug for OtherNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OtherNodes")
    }
}

impl ControlOptions {
    pub fn new(config: &Config) -> ControlOptions {
        ControlOptions {
            node_name: match config.name.as_str() {
                "" => format!("{}_{}", process::host_name(), config.tag()),
                name => name.to_string(),
            },
            uid: None,
            api_keys: accepted_keys(config),
            body_bytes_max: config.api.body_bytes_max.bytes(),
            requests_max: config.limits.http_requests_max,
            ask_timeout: config.limits.api_timeout,
            tunnels: config.tunnel.clone(),
            answer_bytes_max: config.client.outbox_bytes_max.bytes() / 2,
            address_mask: config.address_mask,
            echo: config.echo,
            console: config.api.console,
            page_key: if config.is_development() { config.api.key.clone() } else { None },
            api_port: PortLimits {
                connections_max: config.api.connections_max,
                body_bytes_max: config.api.body_bytes_max.bytes(),
                bodies_bytes_max: config.api.bodies_bytes_max.bytes(),
                head_time: config.client.connect_timeout,
                idle_time: config.limits.http_keep_alive,
                transfer_time: TRANSFER_TIME,
            },
            metrics_need_key: !config.is_development(),
            centrifugo_metrics: config.api.centrifugo_metrics,
            events: EventOptions::new(&config.events),
            events_kept: KeptPlace::default(),
            event_kinds: config.events.kinds(),
            issuers: Vec::new(),
            traces: traces::endpoint(config)
                .map(|endpoint| TraceOptions { endpoint, settings: config.traces.clone() }),
            objectives: config.objective.clone(),
            hooks: config.hook.clone(),
            drain: drain_defaults(config),
            reload: None,
            collectors: Vec::new(),
            held: false,
            blocks: Arc::default(),
            blocks_kept: None,
            others: None,
            inboxes: config.client.inbox_namespace.as_deref().map(Inboxes::new),
        }
    }
}

/// [`Reload`] that can be debugged.
#[derive(Clone)]
pub struct ReloadBox(pub Reload);

impl std::fmt::Debug for ReloadBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reload")
    }
}

pub fn accepted_keys(config: &Config) -> AcceptedKeys {
    AcceptedKeys {
        keys: config.api_keys().cloned().collect(),
        previous: config.api.previous_keys.clone(),
        previous_until_s: config.api.previous_until.map_or(0, |until| until.unix_s()),
    }
}

pub fn drain_defaults(config: &Config) -> DrainDefaults {
    DrainDefaults { over: config.shutdown.drain, delay: config.shutdown.delay }
}

/// The bounds of an [`ApiPort`](crate::control::listener::ApiPort).
#[derive(Clone, Copy, Debug)]
pub struct PortLimits {
    pub connections_max: u32,
    pub body_bytes_max: usize,
    /// What the bodies of all requests under way may have together.
    pub bodies_bytes_max: usize,
    /// For a head, from its first byte, and for the first byte of a new connection.
    pub head_time: Duration,
    /// How long a connection may idle between two requests.
    pub idle_time: Duration,
    /// [`TRANSFER_TIME`].
    pub transfer_time: Duration,
}
