//! One running daemon: boot order, threads, signals, the end.
//!
//! Inputs: a checked configuration. Outputs: an exit code. It knows every other folder; none knows it.
//!
//! Boot: choose the driver by trying → inboxes and router → control plane → shards, each making its driver on its own
//! thread → say where everything is. End: on SIGTERM or SIGINT shards close their clients with 3001, requests under way
//! get their answers, everything within the grace of the configuration.

mod absences;
mod activation;
mod admission;
mod announce;
pub mod clock;
pub mod doctor;
mod engine;
mod file_limit;
mod harden;
mod incident;
pub mod init;
mod layers;
mod leave;
mod limits;
mod listen;
mod listener;
pub mod look;
pub mod notify;
pub mod orders;
mod pulse;
mod reload;
mod sandbox;
mod shard_options;
mod signals;
pub mod store;
mod store_pause;
mod store_relay;
mod terminal;
mod tls;
pub mod tokens;
pub mod upgrade;

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;

use crate::base::address::ListenAddress;
use crate::base::fault::Disconnect;
use crate::base::ids::{ListenerId, ShardId};
use crate::base::limits::{RECV_BUFFER_BYTES, RECV_BUFFERS};
use crate::base::prng::Prng;
use crate::base::secret;
use crate::base::time::Time;
use crate::config::cli::Start;
use crate::config::machine::Machine;
use crate::config::{Config, DriverChoice, Secret, Shutdown};
use crate::control::random_id;
use crate::control::reload::ReloadOutcome;
use crate::control::{self, ControlOptions, NotReady, OtherNodes, ReloadBox};
use crate::driver::choose::{DriverChosen, DriverKind, choose};
use crate::driver::mio::MioDriver;
use crate::driver::uring::UringDriver;
use crate::driver::{Bind, Driver, DriverOptions, ListenOptions, SocketOptions};
use crate::hub::OwnedChannels;
use crate::node::activation::Activated;
use crate::node::announce::announce;
use crate::node::incident::{Incident, LOG_PATIENCE, failed};
use crate::node::layers::NodeLayers;
use crate::node::leave::leave;
use crate::node::limits::{Descriptors, Room};
use crate::node::notify::Notify;
use crate::node::reload::Reloader;
use crate::node::shard_options::{shard_options, tunnel_options, wall_ms};
use crate::node::upgrade::{
    Arriving, AskedUpgrade, DevelopmentApi, EndedShards, Leaving, ProcessOrigin, Running, depart, draining,
    interruption,
};
use crate::shard::client_ids::ClientIds;
use crate::shard::control_request::{ControlPlane, ControlRequest};
use crate::shard::mailbox::ShardInbox;
use crate::shard::router::Router;
use crate::shard::{Shard, ShardOptions, Tick};

/// Serves until a signal ends it.
pub fn run(mut start: Start) -> ExitCode {
    harden::drop_what_is_not_needed();
    let sandbox = sandbox::enter(&start.config, start.file.as_deref());
    let log = &start.config.log;
    if let Err(problem) = crate::telemetry::init(log.format, log.level) {
        eprintln!("trunkline: {problem}");
        return ExitCode::from(2);
    }
    sandbox.say();
    // Before its file can be another one.
    let origin = ProcessOrigin::find();
    let code = match origin.and_then(|origin| follow(&mut start, &origin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    crate::telemetry::flush(LOG_PATIENCE);
    code
}

/// Serves, in the place of another process if there is one.
fn follow(start: &mut Start, origin: &ProcessOrigin) -> io::Result<()> {
    let Some(wire) = upgrade::inherited() else { return serve(start, origin, &mut None) };
    let greeted = Arriving::greet(wire?, start.config.shard_count());
    let served = greeted.map_err(|fault| upgrade::error_of(&fault)).and_then(|before| {
        // The page that is open in a browser shows it.
        if let Some(key) = &before.node.development_key
            && start.config.is_development()
        {
            start.config.api.key = Some(Secret::new(&**key));
        }
        let mut before = Some(before);
        let served = serve(start, origin, &mut before);
        if let (Err(error), Some(before)) = (&served, &before) {
            before.refuse(&error.to_string());
        }
        served
    });
    match served {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(upgrade::start_over(origin)),
        served => served,
    }
}

fn serve(start: &Start, origin: &ProcessOrigin, before: &mut Option<Arriving>) -> io::Result<()> {
    let notify = Arc::new(Notify::from_env());
    let Start { config, warnings, plan, .. } = start;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let shards = config.shard_count();
    tracing::info!("{plan}");
    tracing::info!("memory this process may use: {}", Machine::find());

    let descriptors = Descriptors::raise();
    let (chosen, reason) = choose_driver(config, plan.connections_max, descriptors)?;
    tracing::info!("driver: {reason}; {shards} shards");
    let room = Room::new(config, chosen, plan.connections_max, descriptors.limit);
    limits::say(plan.connections_max, room, descriptors, shards);

    let mut places = match before {
        Some(before) => listener::inherit(config, std::mem::take(&mut before.listeners))?,
        None => match Activated::from_env()? {
            Some(activated) => activated.prepare(config)?.into(),
            None => listener::prepare(config)?,
        },
    };
    let files = places.files();
    let options = driver_options(config, room, Vec::new());
    // Before any thread is started: they inherit it. Shards that share cpus would only interrupt each other: with 54 on two
    // cpus a connection cost a fifth more.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    if usize::from(shards) <= cpus
        && let Err(error) = crate::driver::take_short_turns()
    {
        tracing::debug!("turns of the scheduler stay as long as they are: {error}");
    }

    let inboxes: Arc<[Arc<ShardInbox>]> =
        (0..shards).map(|_| Arc::new(ShardInbox::new(config.limits.inbox_messages))).collect();
    let router = Router::new(inboxes, secret::words()?);
    let client_ids = match before {
        Some(before) => upgrade::client_ids(&before.node)?,
        None => ClientIds::random()?,
    };
    let router = router.with_client_ids(client_ids.clone());
    let tokens = tokens::Tokens::new(&config.client, &[]).map_err(io::Error::other)?;
    let layers = NodeLayers::new(config)?;
    let uid = match before {
        Some(before) => before.node.uid.to_string(),
        None => random_id()?.to_string(),
    };
    let mut shard_options = shard_options(config, tokens.verifier.clone(), plan, room, &layers)?;
    shard_options.node_uid = uid.as_str().into();
    let shard_options = Arc::new(shard_options);
    limits::watch(&shard_options, config.address_mask)?;
    if let Some(before) = before {
        before.check(config).map_err(io::Error::other)?;
    }
    let engine = engine::start(config, &router, &uid, &shard_options, before.is_some())?;
    let router = match &engine {
        Some(engine) => router.with_engine(Arc::clone(engine) as _),
        None => router,
    };
    // A shard says two things at most, the signals, the API and the engine each what fits beside.
    let (incidents, happened) = mpsc::sync_channel(usize::from(shards) * 2 + 6);
    let reload = {
        let incidents = incidents.clone();
        move |told| incidents.try_send(Incident::Reload(Some(told))).is_ok()
    };
    let upgrades = upgrade::UpgradeCounts::default();
    if let Some(before) = before {
        upgrades.restore(&before.node.upgrades);
    }
    let at = wall_ms(Time::ZERO);
    let (mut store, mut coming) = (None, None);
    let (mut channels, keepers);
    match before {
        Some(_) => {
            (coming, channels, keepers) = store_relay::coming(config, &shard_options, &router, at)?;
        }
        None => (store, channels, keepers) = store::open(config, &shard_options, &router, at)?,
    }
    let mut collectors = collectors(config, &layers, &shard_options);
    collectors.extend(store.as_ref().map(store::Store::collector));
    collectors.extend(coming.as_ref().map(store_relay::Coming::collector));
    collectors.extend(engine.clone().map(|engine| Arc::new(engine::EngineMetrics(engine)) as _));
    collectors.push(Arc::new(upgrades.clone()));
    let control_options = ControlOptions {
        issuers: tokens.issuers.clone(),
        uid: Some(uid),
        reload: Some(ReloadBox(Arc::new(reload))),
        collectors,
        held: before.is_some(),
        others: engine.clone().map(OtherNodes),
        events_kept: keepers.events,
        blocks: Arc::clone(&shard_options.blocks),
        blocks_kept: keepers.blocks,
        ..ControlOptions::new(config)
    };
    layers.watch()?;
    let control = control::start(control_options, router.clone(), std::mem::take(&mut places.api))?;

    if let Some(engine) = &engine {
        engine::watch(engine, control.readiness(), &incidents);
    }
    let running = Running::default();
    // Before anybody can know that this runs: a signal must not find the default action.
    let on_user_2 = running.clone();
    let on_user_2 = move || on_user_2.start().map(AskedUpgrade::by_signal).map(Incident::Upgrade);
    signals::watch(incidents.clone(), Box::new(on_user_2))?;
    let ended_shards = EndedShards::default();
    let mut threads = Vec::new();
    for id in router.every_shard() {
        let seat = Seat {
            id,
            chosen,
            driver: DriverOptions {
                listeners: places.of_shard(id.index(), usize::from(shards)),
                ..options.clone()
            },
            adopts: before.is_some(),
            channels: channels[id.index()].take(),
            options: Arc::clone(&shard_options),
            router: router.clone(),
            client_ids: client_ids.clone(),
            control: control.plane(),
            prng: secret::prng()?,
            incidents: incidents.clone(),
            ended: ended_shards.clone(),
        };
        threads.push(thread::Builder::new().name(format!("shard-{}", id.0)).spawn(move || seat.run())?);
        // The first one to bind finds out the ports that all share.
        let mut incident = happened.recv().map_err(io::Error::other)?;
        while let Incident::Reload(_) = incident {
            tracing::warn!("the configuration is not read again before all shards listen");
            incident = happened.recv().map_err(io::Error::other)?;
        }
        match incident {
            Incident::Ready(bound) => {
                for (listener, address) in places.clients.iter_mut().zip(&bound) {
                    if let (Bind::Tcp(at, _), Some(bound)) = (&mut listener.bind, address.tcp()) {
                        *at = bound;
                    }
                }
            }
            Incident::ShardFailed(id, problem) => return Err(failed(id, &problem)),
            Incident::EngineRefused(problem) => return Err(io::Error::other(problem)),
            Incident::Signal(_) | Incident::Reload(_) => return Ok(()),
            Incident::Upgrade(asked) => asked.failed("the node has not started yet"),
        }
    }
    let clients: Vec<ListenAddress> = places.clients.iter().map(ListenOptions::address).collect();
    // A unix socket is closed with the last who shares it: the shards' end must be the end of it.
    drop(places);
    let mut socket = None;
    if let Some(before) = before.take() {
        // Who hears that the upgrade is done may ask for the next one at once.
        let reachable = || socket = Some(upgrade::bind());
        let taken =
            before.take_over(&router, &control, &upgrades, coming.take(), engine.as_deref(), reachable);
        store = taken.map_err(|fault| upgrade::error_of(&fault))?;
        files.lend(false);
    }
    let development = DevelopmentApi::new(config, &clients, control.api_addrs());
    upgrade::listen(socket.unwrap_or_else(upgrade::bind)?, running, development, {
        let incidents = incidents.clone();
        move |asked| incidents.try_send(Incident::Upgrade(asked)).is_ok()
    })?;
    control.readiness().set(NotReady::Starting, false);
    pulse::watch(router.clone(), Arc::clone(control.readiness()), Arc::clone(&notify))?;
    announce(config, &clients, control.api_addrs())?;
    notify.ready("serves");

    drop(incidents);
    let live = Arc::clone(control.live());
    let mut reloader = Reloader::new(
        start,
        shard_options,
        tokens,
        room,
        router.clone(),
        layers,
        live,
        (self::shard_options, tunnel_options),
    )
    .with_engine(engine.clone());
    let (mut held, mut attempt) = (None, 0);
    let outcome = loop {
        let incident = match held.take() {
            Some(incident) => incident,
            None => happened.recv().map_err(io::Error::other)?,
        };
        match incident {
            Incident::Ready(_) => {}
            Incident::Upgrade(asked) => {
                let next = RefCell::new(None);
                attempt += 1;
                let leaving = Leaving {
                    router: &router,
                    control: &control,
                    origin,
                    node: upgrade::node_record(config, &control, &client_ids),
                    attempt,
                    counts: &upgrades,
                    store: store.as_ref(),
                    engine: engine.as_deref(),
                    listeners: upgrade::listener_records(config, &clients),
                    interrupted: &|| interruption(&happened, &next).or_else(|| draining(&control)),
                };
                match leaving.run(&asked) {
                    Ok(moved) => depart(&asked, moved, &router, &control, &files, &ended_shards),
                    Err(fault) => {
                        upgrades.failed(fault.result);
                        asked.failed(&fault.problem);
                        if fault.outdated {
                            return Err(upgrade::start_over(origin));
                        }
                    }
                }
                held = next.into_inner();
            }
            Incident::Signal(name) => {
                let Shutdown { delay, drain, grace } = *reloader.shutdown();
                // At a terminal nobody wants to wait for clients.
                let drain = if name == "SIGINT" { Duration::ZERO } else { drain };
                tracing::info!(
                    "{name}: closing clients after {delay:?}, over {drain:?}, at most {grace:?} longer"
                );
                notify.stopping("sends clients away");
                break leave(&control, &happened, delay, drain);
            }
            Incident::Reload(told) => {
                notify.reloading();
                let outcome = reloader.reload();
                say_reloaded(&outcome);
                notify.ready("serves");
                if let Some(told) = told {
                    // Who asked may have gone.
                    let _ = told.send(outcome);
                }
            }
            Incident::ShardFailed(id, problem) => break Err(failed(id, &problem)),
            Incident::EngineRefused(problem) => break Err(io::Error::other(problem)),
        }
    };
    let grace = reloader.shutdown().grace;
    let ending = Instant::now();
    for id in router.every_shard() {
        // A full inbox empties while the shard runs; one that does not run has failed and is not waited for.
        while router.ask(id, ControlRequest::Shutdown(Disconnect::SHUTDOWN)).is_err() && outcome.is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    control.quiet(grace);
    if outcome.is_ok() {
        for thread in threads {
            let _ = thread.join();
        }
    }
    if let Some(engine) = &engine {
        engine.finish(grace.saturating_sub(ending.elapsed()));
    }
    // What shards told last goes out in what is left of the grace.
    control.stop(grace.saturating_sub(ending.elapsed()));
    // Behind the last event. A shard that has failed may have half a thought: what it had given is written all the same.
    if let Some(store) = store {
        store.close();
    }
    if outcome.is_ok() {
        tracing::info!("ended");
    }
    outcome
}

/// What is counted neither by shards nor by the control plane.
fn collectors(config: &Config, layers: &NodeLayers, options: &ShardOptions) -> Vec<Arc<dyn Collector>> {
    let admission = options.admission.clone().map(|admission| {
        let mask = config.address_mask;
        Arc::new(admission::AdmissionMetrics { admission, mask }) as _
    });
    let blocks = Arc::new(admission::BlockMetrics(Arc::clone(&options.blocks))) as _;
    layers.collector().into_iter().chain(admission).chain([blocks]).collect()
}

fn say_reloaded(outcome: &ReloadOutcome) {
    match outcome {
        Ok(changed) if changed.is_empty() => tracing::info!("configuration read again: nothing has changed"),
        Ok(changed) => changed.iter().for_each(|change| tracing::info!("changed: {change}")),
        Err(faults) => {
            faults.iter().for_each(|fault| tracing::error!("the configuration stays as it was: {fault}"));
        }
    }
}

/// What one shard's thread starts with.
struct Seat {
    id: ShardId,
    chosen: DriverChosen,
    driver: DriverOptions,
    /// It begins with what the shards of another process held.
    adopts: bool,
    /// What a store has of its channels.
    channels: Option<OwnedChannels>,
    options: Arc<ShardOptions>,
    router: Router,
    client_ids: ClientIds,
    control: Arc<dyn ControlPlane>,
    prng: Prng,
    incidents: mpsc::SyncSender<Incident>,
    ended: EndedShards,
}

impl Seat {
    fn run(self) {
        pin_to(self.id.index());
        let (id, incidents) = (self.id, self.incidents.clone());
        // A panic in a shard is a bug of ours: the node says so and ends, rather than serve a part of its channels.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match self.chosen {
            DriverChosen::IoUring => UringDriver::try_new(&self.driver).and_then(|driver| self.tick(driver)),
            DriverChosen::Mio => MioDriver::try_new(&self.driver).and_then(|driver| self.tick(driver)),
        }));
        let problem = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panicked".into(),
        };
        let _ = incidents.send(Incident::ShardFailed(id, problem));
    }

    fn tick<D: Driver>(self, driver: D) -> io::Result<()> {
        let places = (0..self.options.listeners.len() as u8).map(ListenerId);
        let bound = places.map(|listener| driver.local_addr(listener)).collect();
        let Seat { id, adopts, channels, options, router, client_ids, control, prng, .. } = self;
        let make = if adopts { Shard::adopting } else { Shard::new };
        self.ended.enter();
        let mut shard = make(id, driver, options, router, client_ids, Some(control), prng);
        if let Some(channels) = channels {
            shard = shard.with_channels(channels);
        }
        let _ = self.incidents.send(Incident::Ready(bound));
        while shard.tick()? == Tick::Goes {}
        if shard.is_handed_over() {
            self.ended.stay();
        }
        Ok(())
    }
}

/// Keeps the shard on one of the cpus this process may use, so that its memory stays in that cpu's caches.
fn pin_to(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if let Some(&cpu) = cpus.get(number % cpus.len().max(1)) {
        let mut only = CpuSet::new();
        only.set(cpu);
        if let Err(error) = sched_setaffinity(None, &only) {
            tracing::warn!("a thread is not pinned to cpu {cpu}: {error}");
        }
    }
}

fn driver_kind(choice: DriverChoice) -> DriverKind {
    match choice {
        DriverChoice::Auto => DriverKind::Auto,
        DriverChoice::IoUring => DriverKind::IoUring,
        DriverChoice::Mio => DriverKind::Mio,
    }
}

/// The driver that serves, and why, for the log.
fn choose_driver(
    config: &Config,
    connections_max: u32,
    descriptors: Descriptors,
) -> io::Result<(DriverChosen, String)> {
    let room = Room::new(config, DriverChosen::IoUring, connections_max, descriptors.limit);
    choose(driver_kind(config.driver), &driver_options(config, room, Vec::new()))
}

fn driver_options(config: &Config, room: Room, listeners: Vec<ListenOptions>) -> DriverOptions {
    DriverOptions {
        listeners,
        sockets_max: room.sockets_max,
        recv_buffer_bytes: RECV_BUFFER_BYTES,
        recv_buffers: RECV_BUFFERS,
        socket: SocketOptions {
            send_buffer_bytes: u32::try_from(config.client.send_buffer_bytes.0).unwrap_or(u32::MAX),
            send_timeout: config.client.send_timeout,
        },
    }
}
