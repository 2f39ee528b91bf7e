//! What nodes share: an owner of channels outside of this process, and the way to other nodes.
//!
//! Inputs: what followers and the control plane ask of a channel's owner ([`crate::shard::owner`]). Outputs: items and answers
//! in shards' inboxes. Must not know: clients, their connections and protocols, the HTTP surface. It runs on tokio, on
//! threads of its own.
//!
//! ```text
//!  shards, API ──▶ Inlet ──▶ Keeper ──▶ Link ──▶ server (Redis, NATS)
//!  inboxes ◀── Posts ◀────────┘   ◀── Inlet ◀──────┘
//! ```
//!
//! The [`keeper`](EngineKeeper) follows the log of each channel that has subscribers on this node: one subscription for all of them,
//! the newest publications kept for those who lag, and members named again and again for presence. What a server cannot say
//! while it is away is answered in its place ([`ErrorCode::Unavailable`](crate::base::fault::ErrorCode)); when it is back,
//! each channel's position is checked, and only who lost something hears of it.

mod asked;
mod blocks;
mod commands;
mod emulations;
mod finished;
mod followed;
mod handing;
mod handover;
mod inlet;
mod job;
mod joining;
mod keeper;
mod limits;
mod link;
mod message;
mod nats;
mod nodes;
mod online;
mod others;
mod posts;
mod redis;
mod shared;
mod standing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Runtime;

use crate::base::blocks::Blocks;
use crate::base::histogram::Histogram;
use crate::hub::Namespaces;
use crate::proto::centrifuge::shared::{NodeStanding, NodeWord};
use crate::shard::control_request::{Busy, ControlRequest};
use crate::shard::emulated::{EmulationOutcome, ForeignCommands};
use crate::shard::owner::{Engine, OwnerRequest};
use crate::shard::router::Router;

use self::asked::AskedOfServer;
use self::inlet::{Inlet, InletEvent};
use self::keeper::EngineKeeper;
use self::link::EngineLink;
use self::nats::Nats;
use self::nodes::{Nodes, Others};
use self::posts::Posts;
use self::redis::layout::RedisNames;
use self::redis::{RedisTlsFiles, Server};
use self::shared::Shared;
use self::standing::SubscriptionStanding;

pub use self::asked::ElsewhereOnline;
pub use self::blocks::block_word;
pub use self::nats::{NatsLogin, NatsPlace};
pub use self::nodes::push_word;
pub use self::redis::{Address, RedisTlsFiles as EngineTls};
pub use self::shared::Limits;
pub use self::standing::{Stands, is_untrusted};

/// Threads of its own: the keeper's, and one that reads and writes.
const WORKER_THREADS: usize = 2;

/// How long the end of a node waits for its servers at most, and how often it looks.
const FINISH_MAX: Duration = Duration::from_secs(2);
const FINISH_STEP: Duration = Duration::from_millis(10);

/// What an engine is made with.
#[derive(Clone)]
pub struct EngineOptions {
    pub place: Place,
    pub prefix: String,
    pub connect_timeout: Duration,
    pub timeout: Duration,
    pub limits: Limits,
    pub namespaces: Namespaces,
    pub node_uid: String,
    pub node_name: String,
    /// Channels and their members come from another process.
    pub arriving: bool,
    /// Whom and which tokens the node does not let in.
    pub blocks: Arc<Blocks>,
}

/// What keeps or carries the channels.
#[derive(Clone)]
pub enum Place {
    /// One server, or several that have a part of the channels each.
    Redis(Vec<Address>, RedisTlsFiles),
    Nats(NatsPlace),
}

/// What waits for an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Requests and answers that were not looked at yet.
    pub inlet_events: usize,
    /// What servers are to do and have not done, whether it was sent or not.
    pub under_way: u64,
    /// What was not sent yet, by server.
    pub waiting: Vec<usize>,
}

/// A running engine, as the rest of the node sees it.
pub struct RunningEngine {
    inlet: Arc<Inlet>,
    links: Vec<Arc<EngineLink>>,
    shared: Arc<Shared>,
    standing: Arc<SubscriptionStanding>,
    /// Ends with this.
    _runtime: Runtime,
}

/// Starts it: servers are connected to from now on, and waited for when they are away.
///
/// # Errors
/// When no thread can be started.
pub fn start(options: EngineOptions, router: Router) -> io::Result<RunningEngine> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("engine")
        .enable_all()
        .build()?;
    let inlet = Arc::new(Inlet::new());
    let servers = match &options.place {
        Place::Redis(servers, _) => servers.len(),
        Place::Nats(_) => 1,
    };
    let standing = Arc::new(SubscriptionStanding::new(servers));
    let shared = Arc::new(Shared {
        namespaces: RwLock::new(Arc::new(options.namespaces)),
        others: Others::default(),
        asked: AskedOfServer::default(),
        blocks: options.blocks,
        under_way: AtomicU64::new(0),
        publishes: Mutex::default(),
        timeout: options.timeout,
    });
    let links: Vec<Arc<EngineLink>> = (0..servers).map(|_| Arc::new(EngineLink::new())).collect();
    match options.place {
        Place::Redis(servers, tls) => {
            for (number, address) in servers.into_iter().enumerate() {
                let server = Server {
                    number,
                    names: RedisNames { prefix: options.prefix.clone(), is_cluster: address.is_cluster() },
                    address,
                    tls: tls.clone(),
                    node_uid: options.node_uid.clone(),
                    connect_timeout: options.connect_timeout,
                    timeout: options.timeout,
                    link: Arc::clone(&links[number]),
                    inlet: Arc::clone(&inlet),
                    standing: Arc::clone(&standing),
                };
                runtime.spawn(server.run());
            }
        }
        Place::Nats(place) => {
            let server = Nats {
                place,
                prefix: options.prefix,
                node_uid: options.node_uid.clone(),
                connect_timeout: options.connect_timeout,
                timeout: options.timeout,
                link: Arc::clone(&links[0]),
                inlet: Arc::clone(&inlet),
                standing: Arc::clone(&standing),
            };
            runtime.spawn(server.run());
        }
    }
    let nodes = Nodes::new(options.node_uid, options.node_name);
    let keeper = EngineKeeper::new(
        Arc::clone(&shared),
        Arc::clone(&inlet),
        links.clone(),
        Posts::new(router),
        options.limits,
        nodes,
    );
    let keeper = if options.arriving { keeper.arriving() } else { keeper };
    runtime.spawn(async move {
        let ended = tokio::spawn(keeper.run()).await;
        // A bug of ours: channels would stand still without a word.
        tracing::error!("the engine's keeper has ended: {ended:?}");
        std::process::abort();
    });
    Ok(RunningEngine { inlet, links, shared, standing, _runtime: runtime })
}

impl RunningEngine {
    /// Channels have other options from now on.
    pub fn set_namespaces(&self, namespaces: Namespaces) {
        *self.shared.namespaces.write() = Arc::new(namespaces);
    }

    /// Has it said how its servers stand, now and whenever that changes. Once.
    pub fn watch(&self, watch: impl Fn(&Stands) + Send + Sync + 'static) {
        self.standing.watch(watch);
    }

    /// Has all other nodes do something.
    pub fn tell(&self, word: NodeWord) {
        self.inlet.push(InletEvent::Tell(word));
    }

    /// Every server answers.
    pub fn is_up(&self) -> bool {
        self.standing.now() == Stands::Up
    }

    /// The node ends: what members left goes to the servers, within `grace`.
    pub fn finish(&self, grace: Duration) {
        self.tell(NodeWord::Shutdown);
        let end = Instant::now() + grace.min(FINISH_MAX);
        let is_busy =
            || !self.inlet.is_empty() || self.links.iter().any(|link| link.is_up() && !link.is_empty());
        while is_busy() && Instant::now() < end {
            std::thread::sleep(FINISH_STEP);
        }
        // What was taken last is on its way.
        std::thread::sleep(FINISH_STEP);
    }

    /// How long publishes took until the server had them. One that it has not taken counts with `engine.timeout` at least.
    pub fn publishes(&self) -> Histogram {
        self.shared.publishes.lock().clone()
    }

    /// What waits for the engine now.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            inlet_events: self.inlet.len(),
            under_way: self.shared.under_way.load(Ordering::Relaxed),
            waiting: self.links.iter().map(|link| link.waiting()).collect(),
        }
    }

    /// How many connections users have at other nodes, as far as those answer in time.
    pub async fn online(&self, users: &[String]) -> ElsewhereOnline {
        let Shared { asked, others, timeout, .. } = &*self.shared;
        asked.ask(users, others, *timeout, |word| self.tell(word)).await
    }

    /// The other nodes, as they last said how they stand.
    pub fn others(&self) -> Vec<NodeStanding> {
        self.shared.others.lock().values().map(|(standing, _)| standing.clone()).collect()
    }
}

impl Engine for RunningEngine {
    /// Every channel: nodes that share some and not others would not know which.
    fn owns(&self, _channel: &str) -> bool {
        true
    }

    fn request(&self, request: OwnerRequest) {
        self.inlet.push(InletEvent::Request(request));
    }

    fn ask(&self, ask: ControlRequest) -> Result<(), Busy> {
        if self.links.iter().all(|link| !link.is_up() || link.is_full()) {
            return Err(Busy);
        }
        self.inlet.push(InletEvent::Ask(ask));
        Ok(())
    }

    fn pass_on(&self, commands: ForeignCommands) -> bool {
        self.inlet.push(InletEvent::PassOn(commands));
        true
    }

    fn passed_on(&self, node: Box<str>, number: u64, outcome: EmulationOutcome) {
        self.inlet.push(InletEvent::PassedOn(node, number, outcome));
    }
}
