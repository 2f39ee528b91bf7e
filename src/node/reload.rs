//! A changed configuration for a running node: read and checked as a whole, applied as a whole or not at all.
//!
//! Each thing that follows from the configuration has one place: shards have their [`ShardOptions`], the control plane its
//! [`Live`] parts, listeners their layers, the log its level. All are made before any is put in place. The control plane
//! comes first: it must know each hook and each tunnel that shards may name.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::admission::AdmissionLimits;
use crate::config::cli::{GivenToProcess, Start};
use crate::config::reload::{PlacedTunnel, changes, place_tunnels};
use crate::config::{Config, MemoryPlan, Shutdown};
use crate::control::live::Live;
use crate::control::reload::ReloadOutcome;
use crate::engine::RunningEngine;
use crate::node::clock::unix_s;
use crate::node::layers::NodeLayers;
use crate::node::limits::Room;
use crate::node::tokens::Tokens;
use crate::session::token::Verifier;
use crate::shard::control_request::{ControlReply, ControlRequest, OptionsBox};
use crate::shard::options::TunnelOptions;
use crate::shard::router::Router;
use crate::shard::{HttpLimits, ShardOptions};

/// How long a shard may take to say that it has its options. It has them whenever it turns again.
const SHARD_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries at a shard whose inbox is full.
const RETRY: Duration = Duration::from_millis(1);

/// How options of shards are made of a configuration: as at the start.
pub type MakeOptions =
    fn(&Config, Option<Arc<Verifier>>, &MemoryPlan, Room, &NodeLayers) -> io::Result<ShardOptions>;

/// How those of a tunnel are made.
pub type MakeTunnel = fn(&PlacedTunnel) -> TunnelOptions;

/// What a node runs with, and how it is given something else.
pub struct Reloader {
    given: GivenToProcess,
    config: Config,
    options: Arc<ShardOptions>,
    tunnels: Vec<PlacedTunnel>,
    tokens: Tokens,
    room: Room,
    router: Router,
    layers: NodeLayers,
    live: Arc<Live>,
    make: (MakeOptions, MakeTunnel),
    engine: Option<Arc<RunningEngine>>,
}

impl Reloader {
    #[expect(clippy::too_many_arguments, reason = "each is of another kind, and this is called once")]
    pub fn new(
        start: &Start,
        options: Arc<ShardOptions>,
        tokens: Tokens,
        room: Room,
        router: Router,
        layers: NodeLayers,
        live: Arc<Live>,
        make: (MakeOptions, MakeTunnel),
    ) -> Reloader {
        let config = start.config.clone();
        let tunnels = place_tunnels(&[], &config.tunnel).unwrap_or_default();
        Reloader {
            given: start.given.clone(),
            config,
            options,
            tunnels,
            tokens,
            room,
            router,
            layers,
            live,
            make,
            engine: None,
        }
    }

    /// The owner of channels learns of other options too.
    pub fn with_engine(self, engine: Option<Arc<RunningEngine>>) -> Reloader {
        Reloader { engine, ..self }
    }

    /// How the node ends, as it is configured by now.
    pub fn shutdown(&self) -> &Shutdown {
        &self.config.shutdown
    }

    /// Reads the configuration again, and has the node run with it. Says what changed.
    ///
    /// # Errors
    /// Every fault, or everything that a running node cannot take: then all is as it was.
    pub fn reload(&mut self) -> ReloadOutcome {
        let mut start = self.given.read_again(unix_s()).map_err(|text| {
            text.lines().map(|line| line.trim_start_matches("error: ").to_owned()).collect::<Vec<_>>()
        })?;
        if start.config.is_development() && self.config.is_development() {
            // It was made up for this run.
            start.config.api.key = self.config.api.key.clone();
        }
        let changes = changes(&self.config, &start.config);
        let refused: Vec<String> = changes
            .iter()
            .filter(|change| !change.live)
            .map(|change| format!("{change}: a running node cannot change it: upgrade or restart"))
            .collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let read = self.apply(&start).map_err(|problem| vec![problem])?;
        for warning in &start.warnings {
            tracing::warn!("{warning}");
        }
        self.config = start.config;
        Ok(changes.iter().map(ToString::to_string).chain(read).collect())
    }

    /// Makes everything, then puts it in place.
    fn apply(&mut self, start: &Start) -> Result<Vec<String>, String> {
        let Start { config, plan, .. } = start;
        let text = |error: std::io::Error| error.to_string();
        let tokens = Tokens::new(&config.client, &self.tokens.issuers).map_err(|fault| fault.to_string())?;
        let tunnels = place_tunnels(&self.tunnels, &config.tunnel)?;
        let layers = self.layers.prepare(config)?;
        let prepared = self.live.prepare(config, &tunnels, tokens.issuers.clone()).map_err(text)?;
        let fresh = (self.make.0)(config, tokens.verifier.clone(), plan, self.room, &NodeLayers::default())
            .map_err(text)?;
        let admission = self.other_admission(&fresh)?;
        let options = self.keep_shared(fresh, config, &tunnels);

        let read = self.layers.exchange(layers)?;
        let finish = self.live.exchange(prepared).map_err(text)?;
        crate::telemetry::set_level(config.log.level);
        if let (Some(admission), Some(limits)) = (&self.options.admission, admission) {
            admission.set_limits(limits);
        }
        self.options = Arc::new(options);
        if let Some(engine) = &self.engine {
            engine.set_namespaces((*self.options.namespaces).clone());
        }
        self.give_to_shards();
        self.live.finish(finish);
        (self.tokens, self.tunnels) = (tokens, tunnels);
        Ok(read)
    }

    /// The limits of those who come, where there are any.
    fn other_admission(&self, fresh: &ShardOptions) -> Result<Option<AdmissionLimits>, String> {
        match (&self.options.admission, fresh.admission.as_ref().map(|fresh| fresh.limits())) {
            (None, None) => Ok(None),
            (Some(old), Some(limits)) if old.may_have(&limits) => Ok(Some(limits)),
            _ => Err(
                "admission: a running node changes the numbers of what it limits already: to begin or end \
                      to limit the node or its networks, or for other prefixes, upgrade or restart"
                    .to_owned(),
            ),
        }
    }

    /// The new options, but for what all shards share and count in, and what shaped their drivers.
    fn keep_shared(&self, fresh: ShardOptions, config: &Config, tunnels: &[PlacedTunnel]) -> ShardOptions {
        let old = &*self.options;
        let mut limits = fresh.client_limits;
        if config.client.user_commands_per_second == self.config.client.user_commands_per_second
            && config.client.commands_burst == self.config.client.commands_burst
        {
            limits.users = old.client_limits.users.clone();
        }
        if config.client.user_bytes_per_second == self.config.client.user_bytes_per_second
            && config.client.message_bytes_max == self.config.client.message_bytes_max
        {
            limits.user_bytes = old.client_limits.user_bytes.clone();
        }
        ShardOptions {
            listeners: old.listeners.clone(),
            node_uid: old.node_uid.clone(),
            tunnels: tunnels.iter().map(self.make.1).collect(),
            connections_max: old.connections_max,
            seats: Arc::clone(&old.seats),
            blocks: Arc::clone(&old.blocks),
            debts: Arc::clone(&old.debts),
            refused_max: old.refused_max,
            admission: old.admission.clone(),
            http: HttpLimits {
                input: Arc::clone(&old.http.input),
                bodies: Arc::clone(&old.http.bodies),
                ..fresh.http
            },
            client_limits: limits,
            ..fresh
        }
    }

    /// Returns when every shard runs with them.
    fn give_to_shards(&self) {
        // One of each shard, and one of an order that was refused.
        let (told, confirmed) = mpsc::sync_channel(self.router.shards() + 1);
        for shard in self.router.every_shard() {
            let order = || {
                let told = told.clone();
                let reply = ControlReply::new(move |_| {
                    let _ = told.send(());
                });
                ControlRequest::Options(OptionsBox(Arc::clone(&self.options)), reply)
            };
            // A full inbox empties while the shard runs; without it the node ends.
            let end = Instant::now() + SHARD_PATIENCE;
            while self.router.ask(shard, order()).is_err() {
                if Instant::now() > end {
                    tracing::error!("shard {} takes no options: its inbox is full", shard.0);
                    break;
                }
                // The order that was refused has told.
                let _ = confirmed.recv();
                thread::sleep(RETRY);
            }
        }
        drop(told);
        for _ in self.router.every_shard() {
            if confirmed.recv_timeout(SHARD_PATIENCE).is_err() {
                tracing::error!("a shard has not confirmed its options in time");
                break;
            }
        }
    }
}
