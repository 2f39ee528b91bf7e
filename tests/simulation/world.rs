//! One simulated run: shards, clients and the backend in one thread, under virtual time.
//!
//! A run is one or two rough stretches, in which everything goes wrong, each followed by a calm one in which everybody
//! reads and everything must come right again; then the end of clients and shards, after which nothing may be left.

mod ending;
mod quiet;
mod upgrade;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trunkline::base::ids::{ChannelName, ShardId};
use trunkline::base::prng::Prng;
use trunkline::base::time::Time;
use trunkline::driver::sim::{Faults, SimDriver, SimNet};
use trunkline::hub::OwnedChannels;
use trunkline::shard::client_ids::ClientIds;
use trunkline::shard::mailbox::ShardInbox;
use trunkline::shard::router::Router;
use trunkline::shard::{Footprint, Shard, ShardOptions, Tick};

use crate::audience::Who;
use crate::backend::{Backend, Plane, USERS};
use crate::check::{ChannelNo, Log};
use crate::client::{Client, user_name};
use crate::coverage::Coverage;
use crate::engine::FarOwner;
use crate::presence;
use crate::records;
use crate::scenario::{DELIVERIES_PER_TICK, Scenario, Telling};
use crate::sealed::End;
use crate::strangers::{Flooder, Hostile, HttpUser};
use crate::tls::Clients;
use crate::unidirectional::UnidirectionalClient;

/// Virtual time in which everything that went wrong must have come right: longer than any doom, stall, expiry, pong
/// and linger that the rough stretch can have left behind.
const CALM: Duration = Duration::from_millis(6_500);
/// Of these, what the longest stall and a pong that came too late for it may take.
const SETTLED: Duration = Duration::from_millis(3_500);
/// Virtual time in which what is published reaches everyone who reads.
const PROMPT: Duration = Duration::from_millis(500);
/// The same while clients flood the shards with commands: four hundred ticks of a shard that never sleeps.
const PROMPT_IN_A_FLOOD: Duration = Duration::from_millis(10);
/// Clients that flood. Each may have more commands read in a tick than the shard may have under way for it.
const FLOODERS: usize = 3;
/// How long a shard may know that a socket is over without closing it.
const OVERDUE: Duration = Duration::from_secs(8);
/// Ticks after which a shard's records are looked at.
const RECORDS_EVERY: u64 = 101;
/// Rounds without anything happening after which a shard that never sleeps is stuck.
const IDLE_ROUNDS_MAX: u32 = 2_000;

thread_local! {
    /// Where the run of this thread is, for the report of a failure.
    static WHERE: Cell<(u64, &'static str, u64)> = const { Cell::new((0, "", 0)) };
}

/// Script steps so far, the stretch, and virtual microseconds, of the run of this thread.
pub fn place() -> (u64, &'static str, u64) {
    WHERE.get()
}

/// What everybody in a run shares.
pub struct Stage {
    pub net: SimNet,
    pub scenario: Scenario,
    pub log: Log,
    pub prng: Prng,
    pub coverage: Coverage,
    /// Nobody does anything odd any more.
    pub calm: bool,
    /// What was late when the calm began has arrived: who reads and answers is not cut off.
    pub settled: bool,
    /// Shards have been told to end.
    pub ending: bool,
    /// The backend has subscribed somebody to a channel of bytes.
    pub bytes_ordered: bool,
    /// Messages of the backend's as they came to connections.
    pub news: Vec<(usize, Who)>,
    pub shutdowns_heard: u64,
    /// What clients say and hear is printed.
    pub trace: bool,
    connects: u64,
    tls: Clients,
    numbers: BTreeMap<ChannelName, ChannelNo>,
}

impl Stage {
    /// A client that connects: sealed, or plain, by turns where this run has both.
    pub fn connect(&mut self) -> End {
        self.connects += 1;
        if self.scenario.tls && self.connects.is_multiple_of(2) {
            self.coverage.count("tls_connects");
            return End::over_tls(&self.net, self.tls.connect(self.connects / 2));
        }
        match self.scenario.sealed && self.connects.is_multiple_of(2) {
            true => {
                self.coverage.count("sealed_connects");
                End::sealed(&self.net)
            }
            false => End::plain(&self.net),
        }
    }

    pub fn name(&self, channel: ChannelNo) -> &str {
        &self.scenario.channels[channel].name
    }

    /// Prints a line of a client, for a seed that failed.
    pub fn note(&self, client: usize, direction: char, text: &str) {
        if self.trace {
            eprintln!("{:>10} us  client {client} {direction} {text}", self.net.now().0 / 1000);
        }
    }

    pub fn channel(&self, name: &str) -> ChannelNo {
        *self.numbers.get(name).unwrap_or_else(|| panic!("nobody here knows the channel {name:?}"))
    }
}

pub struct World {
    stage: Stage,
    /// `None`: it has ended.
    shards: Vec<Option<Shard<SimDriver>>>,
    /// Rounds that a shard is not given its turn.
    starved: Vec<u32>,
    planes: Vec<Arc<Plane>>,
    router: Router,
    client_ids: ClientIds,
    /// The net's number of the first shard: those of earlier processes come before.
    first_host: usize,
    /// Where channels and users belong.
    placement: [u64; 4],
    upgrades: upgrade::Upgrades,
    clients: Vec<Client>,
    hostile: Vec<Hostile>,
    flooders: Vec<Flooder>,
    http: Vec<HttpUser>,
    unidirectional: Vec<UnidirectionalClient>,
    backend: Backend,
    engine: Option<Arc<FarOwner>>,
    peak_sockets: Vec<usize>,
    steps: u64,
    /// Of all shards.
    ticks: u64,
    idle_rounds: u32,
    last_fingerprint: u64,
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub fingerprint: u64,
    pub coverage: Coverage,
}

/// Runs one seed.
///
/// # Panics
/// When the shards do what they must not.
pub fn run(seed: u64, trace: bool) -> Outcome {
    WHERE.set((0, "beginning", 0));
    World::new(seed, trace).run()
}

/// The owner of the channels that are an engine's in this run, if there are any. Drawn apart, so that what other seeds mean
/// does not change.
fn engine(seed: u64, scenario: &Scenario) -> Option<Arc<FarOwner>> {
    let names = scenario.engine.iter().map(|&channel| scenario.channels[channel].name.to_string());
    let names: Vec<String> = names.collect();
    let mut prng = Prng::with_seed(seed ^ 0xe9e9);
    let ShardOptions { namespaces, hub, .. } = &scenario.options;
    let owned = OwnedChannels::new(namespaces.clone(), hub.clone(), prng.fork());
    (!names.is_empty()).then(|| FarOwner::new(names, owned, prng))
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let net = SimNet::new(seed, Faults::none());
        if trace {
            net.trace();
        }
        let mut prng = net.fork_prng();
        let scenario = Scenario::draw(seed, &mut prng);
        net.start_at(scenario.uptime);
        net.set_faults(scenario.faults.clone());
        let inboxes: Arc<[Arc<ShardInbox>]> =
            (0..scenario.shards).map(|_| Arc::new(ShardInbox::new(scenario.inbox_messages))).collect();
        let placement = [prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..)];
        let router = Router::new(inboxes, placement);
        let engine = engine(seed, &scenario);
        let router = match &engine {
            Some(engine) => router.with_engine(Arc::clone(engine) as _),
            None => router,
        };
        let client_ids = ClientIds::of_seed(prng.u64(..));
        let options = Arc::new(scenario.options.clone());
        let planes: Vec<Arc<Plane>> =
            (0..scenario.shards).map(|_| Arc::new(Plane::new(scenario.telling))).collect();
        let shards = (0..scenario.shards)
            .zip(&planes)
            .map(|(id, plane)| {
                let driver = net.driver(&scenario.driver);
                Some(Shard::new(
                    ShardId(id),
                    driver,
                    Arc::clone(&options),
                    router.clone(),
                    client_ids.clone(),
                    Some(Arc::clone(plane) as _),
                    prng.fork(),
                ))
            })
            .collect::<Vec<_>>();
        let numbers =
            scenario.channels.iter().enumerate().map(|(number, channel)| (channel.name.clone(), number));
        let numbers = numbers.collect();
        let (cast, scenario_keeps) = (scenario.cast, scenario.extras.keeps);
        let mut clients: Vec<Client> = (0..cast.clients)
            .map(|number| Client::new(number, (prng.u8(..3) != 0).then(|| prng.u8(..USERS))))
            .map(|client| client.with_extras(scenario.extras))
            .collect();
        if scenario.crowd {
            clients.iter_mut().for_each(|client| client.want(0));
        }
        let open: Vec<bool> =
            scenario.channels.iter().map(|channel| !channel.needs_token && !channel.bytes).collect();
        let unidirectional = (0..cast.unidirectional)
            .map(|number| {
                UnidirectionalClient::new(number, &open, &mut prng).with_extras(&scenario, &mut prng)
            })
            .collect();
        World {
            starved: vec![0; shards.len()],
            peak_sockets: vec![0; shards.len()],
            shards,
            planes,
            backend: Backend::new(router.clone()),
            engine,
            router,
            client_ids,
            first_host: 0,
            placement,
            upgrades: upgrade::Upgrades::default(),
            clients,
            hostile: (0..cast.hostile).map(|_| Hostile::new()).collect(),
            flooders: Vec::new(),
            http: (0..cast.http).map(HttpUser::new).collect(),
            unidirectional,
            stage: Stage {
                net,
                scenario,
                log: Log::new(scenario_keeps),
                prng,
                coverage: Coverage::default(),
                calm: false,
                settled: false,
                ending: false,
                bytes_ordered: false,
                news: Vec::new(),
                shutdowns_heard: 0,
                connects: 0,
                tls: Clients::new(),
                trace,
                numbers,
            },
            steps: 0,
            ticks: 0,
            idle_rounds: 0,
            last_fingerprint: 0,
        }
    }

    fn run(mut self) -> Outcome {
        let stretches = self.stage.scenario.stretches;
        let abrupt = self.stage.prng.u8(..6) == 0;
        for stretch in 0..stretches {
            self.rough();
            if abrupt && stretch + 1 == stretches {
                break;
            }
            self.come_to_rest();
            self.check_heads();
            self.check_survey();
        }
        match (abrupt, self.stage.scenario.shutdown_under_load) {
            (true, _) | (_, true) => {}
            _ => self.everyone_leaves(),
        }
        self.shut_down(abrupt);
        self.account();
        Outcome { fingerprint: self.stage.net.fingerprint(), coverage: self.stage.coverage }
    }

    // ---- stretches

    fn rough(&mut self) {
        (self.stage.calm, self.stage.settled) = (false, false);
        self.stage.net.set_faults(self.stage.scenario.faults.clone());
        for _ in 0..self.stage.scenario.steps {
            self.begin_step("rough");
            let pause = self.stage.prng.u64(1..=self.stage.scenario.step_us);
            self.run_for(Duration::from_micros(pause));
            self.clients.iter_mut().for_each(|client| client.step(&mut self.stage));
            self.unidirectional.iter_mut().for_each(|uni| uni.step(&mut self.stage));
            for _ in 0..self.stage.prng.usize(1..4) {
                self.act();
            }
            self.answer_hook_calls();
            self.check_bounds();
            self.maybe_upgrade();
        }
    }

    /// Somebody does something.
    fn act(&mut self) {
        match self.stage.prng.u8(..32) {
            0..19 => {
                let client = self.stage.prng.usize(..self.clients.len());
                self.clients[client].act(&mut self.stage);
            }
            19..27 => {
                let ready = self.clients.iter().filter(|client| client.is_ready());
                let ready: Vec<_> = ready.map(|client| (client.user(), client.id().to_string())).collect();
                self.note_slices();
                self.backend.act(&ready, &mut self.stage);
            }
            27 => {
                let shard = self.stage.prng.usize(..self.shards.len());
                self.starved[shard] = self.stage.prng.u32(1..40);
            }
            28 => {
                if !self.http.is_empty() {
                    let user = self.stage.prng.usize(..self.http.len());
                    self.http[user].act(&mut self.stage);
                }
            }
            29 => self.answer_http(),
            _ => {
                if !self.hostile.is_empty() {
                    let hostile = self.stage.prng.usize(..self.hostile.len());
                    self.hostile[hostile].act(&mut self.stage);
                }
            }
        }
        if !self.unidirectional.is_empty() && self.stage.prng.u8(..8) == 0 {
            let uni = self.stage.prng.usize(..self.unidirectional.len());
            self.unidirectional[uni].act(&mut self.stage);
        }
        if self.stage.prng.bool() {
            self.answer_http();
        }
    }

    /// A publication for more subscribers of one shard than a tick serves is delivered in slices.
    fn note_slices(&mut self) {
        if self.stage.scenario.crowd {
            let subscribed = self.clients.iter().filter(|client| client.is_subscribed(0)).count();
            if subscribed > DELIVERIES_PER_TICK {
                self.stage.coverage.count("sliced_fanout");
            }
        }
    }

    fn answer_http(&mut self) {
        let shard = self.stage.prng.usize(..self.planes.len());
        // There may have been more shards once: what those asked is of no use any more.
        let has_room = shard >= self.router.shards()
            || self.router.inbox(ShardId(shard as u16)).len() < self.stage.scenario.inbox_messages;
        self.planes[shard].answer_one(has_room, &mut self.stage);
    }

    /// The backend answers what it is asked, sooner or later.
    fn answer_hook_calls(&mut self) {
        if self.stage.scenario.hooked {
            let room = self.stage.scenario.inbox_messages;
            for (shard, plane) in self.planes.iter().enumerate() {
                let inbox = self.router.inbox(ShardId(shard as u16));
                plane.1.answer(|| inbox.len() < room, &mut self.stage);
            }
        }
    }

    fn come_to_rest(&mut self) {
        self.stage.calm = true;
        self.stage.net.set_faults(Faults::none());
        self.hostile.iter_mut().for_each(Hostile::leave);
        self.http.iter_mut().for_each(HttpUser::leave);
        self.starved.fill(0);
        let began = self.stage.net.now();
        while self.stage.net.now() < began + CALM {
            self.calm_step("calm");
            self.stage.settled = self.stage.net.now() >= began + SETTLED;
        }
        let until = began + 2 * CALM;
        while !self.is_quiet() {
            assert!(self.stage.net.now() < until, "everyone reads and nothing fails, but {}", self.unrest());
            self.calm_step("calm");
        }
    }

    fn calm_step(&mut self, name: &'static str) {
        self.begin_step(name);
        self.run_for(Duration::from_millis(50));
        self.clients.iter_mut().for_each(|client| client.step(&mut self.stage));
        if matches!(name, "calm" | "markers") {
            self.unidirectional.iter_mut().for_each(|uni| uni.step(&mut self.stage));
        }
        for _ in 0..self.planes.len() {
            self.answer_http();
        }
        self.answer_hook_calls();
        self.check_bounds();
    }

    // ---- checks at a quiet point

    /// What is published now reaches everyone, also while others take what they can get.
    fn check_heads(&mut self) {
        self.note_slices();
        let flooded = self.stage.scenario.flooded;
        if flooded {
            self.flooders = (0..FLOODERS).map(|_| Flooder::new(&mut self.stage)).collect();
            self.run_for(PROMPT_IN_A_FLOOD);
        }
        let began = self.stage.net.now();
        for channel in 0..self.stage.scenario.channels.len() {
            let mut tries = 0;
            while !self.backend.publish_marker(channel, &mut self.stage) {
                tries += 1;
                assert!(tries < 20, "an inbox is full for 20 ms, and nobody is busy");
                self.run_for(Duration::from_millis(1));
            }
            self.run_for(Duration::from_millis(1));
        }
        // A poll of several channels asks about each of them, and may be given one message at a time.
        let asking = if self.stage.scenario.hooked { 6 } else { 1 };
        let gathered =
            self.stage.scenario.channels.iter().map(|channel| channel.options.channel.batch_max_delay).max();
        let until = self.stage.net.now() + PROMPT * asking;
        match flooded {
            true => self.run_for(PROMPT_IN_A_FLOOD + gathered.unwrap_or_default()),
            false => {
                while self.stage.net.now() < until {
                    self.calm_step("markers");
                }
            }
        }
        // Where there is no room for all, one may have been let in at the last moment: it is answered as promptly as others.
        let until = self.stage.net.now() + PROMPT;
        while self.stage.scenario.cramped && !self.is_quiet() && self.stage.net.now() < until {
            self.calm_step("markers");
        }
        assert!(self.is_quiet(), "{}", self.unrest());
        for (&channel, &(payload, position)) in &self.backend.markers {
            let Some(position) = position else { continue };
            let place = (position.epoch.0, position.offset.0);
            for (number, client) in self.clients.iter().enumerate().filter(|(_, client)| client.is_ready()) {
                self.stage.trace.then(|| eprintln!("client {number} of channel {channel} to {place:?}"));
                if !client.check_place(channel, began, place, payload, &mut self.stage.log) {
                    continue;
                }
                // Who has come back in time was never away, and hears nothing of it.
                let lingers = presence::lingers(&self.stage.scenario.channels[channel].options.channel);
                assert!(
                    lingers || client.knows_itself(channel),
                    "client {number} was not told of its own join of {}",
                    self.stage.name(channel)
                );
                self.stage.coverage.count("head_reached");
            }
            for uni in &self.unidirectional {
                self.stage.trace.then(|| eprintln!("{} to {place:?}", uni.describe()));
                if !uni.check_place(channel, began, place, payload, &mut self.stage) {
                    continue;
                }
                self.stage.coverage.count("unidirectional_head_reached");
            }
        }
        self.stage.log.check_passed_over(&mut self.stage.coverage);
        self.check_news(began);
        self.flooders.clear();
        // One after another: all their leaves at once may be more than a small outbox holds.
        for uni in 0..self.unidirectional.len() {
            self.unidirectional[uni].leave();
            self.run_for(Duration::from_millis(5));
        }
        for _ in 0..20 {
            self.calm_step("unidirectional clients leave");
        }
    }

    /// What shards and owners hold is what the clients know.
    fn check_survey(&mut self) {
        // Who has left is listed until others hear of it.
        self.run_for(presence::LEAVE_DELAY_MAX);
        self.backend.begin_survey();
        for channel in 0..self.stage.scenario.channels.len() {
            self.backend.look_at(channel, &mut self.stage);
            self.run_for(Duration::from_millis(1));
        }
        for shard in 0..self.shards.len() {
            self.backend.look_at_shard(shard, &mut self.stage);
            self.run_for(Duration::from_millis(1));
        }
        if let Some(&channel) = self.stage.scenario.engine.first() {
            let name = self.stage.scenario.channels[channel].name.clone();
            self.backend.look_at_engine(&name, &mut self.stage);
            self.run_for(PROMPT);
        }
        self.begin_step("survey");
        assert!(self.is_quiet(), "{}", self.unrest());

        let ready: Vec<&Client> = self.clients.iter().filter(|client| client.is_ready()).collect();
        // One that waited for room may be let in while the survey is taken.
        if self.stage.scenario.cramped && ready.len() < self.clients.len() {
            return;
        }
        let survey = &self.backend.survey;
        for (number, channel) in self.stage.scenario.channels.iter().enumerate() {
            let name_of = |client: &&&Client| {
                (client.id().to_string(), client.user().map(user_name).unwrap_or_default())
            };
            let members: BTreeMap<String, String> =
                ready.iter().filter(|client| client.is_subscribed(number)).map(|c| name_of(&c)).collect();
            let counted = survey.channels.get(&*channel.name).copied().unwrap_or(0);
            assert_eq!(counted as usize, members.len(), "subscribers of {} at its owner", channel.name);
            let lingers = presence::lingers(&channel.options.channel);
            if let Some(found) = survey.presence.get(&number) {
                presence::check(&channel.name, found, &members, lingers);
                self.stage.coverage.count("presence_compared");
            }
            if let Some(stats) = survey.presence_stats.get(&number) {
                let users: BTreeSet<&String> = members.values().collect();
                let found = (stats.clients as usize, stats.users as usize);
                let least = (members.len(), users.len());
                assert!(
                    found == least || lingers && found.0 >= least.0 && found.1 >= least.1,
                    "{found:?} {least:?}"
                );
            }
        }
        if self.stage.scenario.telling == Telling::All {
            let told: BTreeMap<String, BTreeSet<String>> =
                self.planes.iter().flat_map(|plane| plane.books().clients()).collect();
            let known = ready.iter().map(|client| {
                let channels = client.channels().map(|channel| self.stage.name(channel).to_string());
                (client.id().to_string(), channels.collect())
            });
            assert_eq!(told, known.collect(), "clients and their channels, as the backend was told");
            let occupied: BTreeSet<String> =
                self.planes.iter().flat_map(|plane| plane.books().occupied()).collect();
            let left: Vec<&String> =
                survey.channels.keys().filter(|channel| !occupied.contains(*channel)).collect();
            assert!(left.is_empty(), "channels that the backend takes for vacated: {left:?}");
            self.stage.coverage.count("told_compared");
        }
        let footprints: Vec<Footprint> = self.shards.iter().flatten().map(Shard::footprint).collect();
        let sum = |of: fn(&Footprint) -> usize| footprints.iter().map(of).sum::<usize>();
        let users: BTreeSet<u8> = ready.iter().filter_map(|client| client.user()).collect();
        assert_eq!(sum(|f| f.clients as usize), ready.len(), "clients");
        assert_eq!(sum(|f| f.users), users.len(), "users");
        assert_eq!(
            sum(|f| f.subscriptions as usize),
            ready.iter().map(|client| client.channels().count()).sum::<usize>(),
            "subscriptions"
        );
        assert_eq!(sum(|f| f.stream_bytes), 0, "nobody lags, and something is kept");
        assert_eq!(sum(|f| f.held_bytes), 0, "everything is delivered, and something is held back");
        for stats in std::mem::take(&mut self.backend.survey.stats) {
            for (name, _, value) in stats.counters {
                self.stage.coverage.add(name, value);
            }
            for (name, value) in stats.faults {
                self.stage.coverage.add(name, value);
            }
        }
    }

    fn check_bounds(&mut self) {
        let scenario = &self.stage.scenario;
        for (number, shard) in self.shards.iter().enumerate() {
            let sockets = self.stage.net.open_sockets(self.host(number));
            self.peak_sockets[number] = self.peak_sockets[number].max(sockets);
            let Some(shard) = shard else { continue };
            let footprint = shard.footprint();
            assert!(footprint.connections <= sockets, "connections without a socket");
            assert!(footprint.clients <= footprint.connections as u64);
            assert!(footprint.waiting_messages <= 20_000, "{} messages wait", footprint.waiting_messages);
            if !scenario.crowd {
                let kept = footprint.local_channels * scenario.options.streams.channel_bytes_max
                    + footprint.held_bytes;
                assert!(footprint.stream_bytes <= kept, "{} bytes kept of {kept}", footprint.stream_bytes);
            }
            let overdue = self.stage.net.overdue(self.host(number), OVERDUE);
            assert!(overdue.is_empty(), "shard {number} does not close {overdue:?}");
        }
    }

    // ---- time

    fn begin_step(&mut self, stretch: &'static str) {
        self.steps += 1;
        WHERE.set((self.steps, stretch, self.stage.net.now().0 / 1000));
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.stage.net.now() + time;
        while self.stage.net.now() < until {
            self.round(until);
        }
    }

    /// Every shard that would be awake has a turn, everybody reads, and time passes to what comes next.
    fn round(&mut self, until: Time) {
        if let Some(engine) = &self.engine {
            engine.run(self.stage.net.now(), self.stage.calm || self.stage.ending, &self.router);
        }
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        self.stage.prng.shuffle(&mut order);
        let mut ticked = false;
        for number in order {
            if self.starved[number] > 0 {
                self.starved[number] -= 1;
                continue;
            }
            if !self.stage.net.runnable(self.host(number)) && !self.has_messages(number) {
                continue;
            }
            let Some(shard) = &mut self.shards[number] else { continue };
            ticked = true;
            if shard.tick().expect("the simulator's wait does not fail") == Tick::Ended {
                self.shards[number] = None;
                continue;
            }
            self.ticks += 1;
            // A crowd's records would be most of the run.
            if self.ticks.is_multiple_of(RECORDS_EVERY) && !self.stage.scenario.crowd {
                records::check(shard, &self.stage.scenario.options, &mut self.stage.coverage);
            }
        }
        self.tick_the_leaving();
        self.hear();
        self.watch_for_livelock(ticked);
        // A tick costs time, so that a shard that never sleeps does not stop the clock; one that is starved, more.
        let cost = match self.starved.iter().any(|&rounds| rounds > 0) {
            true => self.stage.prng.u64(50..1_000),
            false => self.stage.prng.u64(1..50),
        };
        self.stage.net.advance(Duration::from_micros(cost));
        if !(0..self.shards.len()).any(|shard| self.shards[shard].is_some() && self.has_messages(shard)) {
            let next = self.stage.net.next_event_at().unwrap_or(until);
            let far = self.engine.as_ref().and_then(|engine| engine.next()).unwrap_or(until);
            self.stage.net.advance_to(next.min(far).min(until));
        }
    }

    /// Between two ticks a simulated shard is not asleep, as a real one is: it cannot be woken, but it would not have
    /// slept.
    fn has_messages(&self, shard: usize) -> bool {
        !self.router.inbox(ShardId(shard as u16)).is_empty()
    }

    fn hear(&mut self) {
        self.backend.hear(&mut self.stage);
        self.clients.iter_mut().for_each(|client| client.hear(&mut self.stage));
        self.http.iter_mut().for_each(|user| user.hear(&mut self.stage));
        self.flooders.iter_mut().for_each(|flooder| flooder.go_on(&mut self.stage));
        self.unidirectional.iter_mut().for_each(|uni| uni.hear(&mut self.stage));
    }

    fn watch_for_livelock(&mut self, ticked: bool) {
        let fingerprint = self.stage.net.fingerprint();
        let idles = ticked && fingerprint == self.last_fingerprint && self.a_shard_does_not_sleep();
        self.idle_rounds = if idles { self.idle_rounds + 1 } else { 0 };
        self.last_fingerprint = fingerprint;
        assert!(
            self.idle_rounds < IDLE_ROUNDS_MAX,
            "a shard is awake and does nothing: {:?}",
            self.footprints()
        );
    }

    fn a_shard_does_not_sleep(&self) -> bool {
        let now = self.stage.net.now();
        (0..self.shards.len()).any(|shard| {
            self.shards[shard].is_some()
                && (self.stage.net.asked_until(self.host(shard)) <= now || self.has_messages(shard))
        })
    }
}
