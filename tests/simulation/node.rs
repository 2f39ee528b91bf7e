//! The shards of a node, for simulations with clients and checks of their own.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use trunkline::base::ids::ShardId;
use trunkline::base::prng::Prng;
use trunkline::base::time::Time;
use trunkline::driver::DriverOptions;
use trunkline::driver::sim::{Faults, SimDriver, SimNet};
use trunkline::hub::owned::StoredMoment;
use trunkline::hub::{Namespaces, OwnedChannels};
use trunkline::record::StoredRun;
use trunkline::session::rules::NamespaceOptions;
use trunkline::shard::client_ids::ClientIds;
use trunkline::shard::control_request::{ControlPlane, ControlRequest};
use trunkline::shard::mailbox::{ShardInbox, ShardMessage};
use trunkline::shard::owner::Owner;
use trunkline::shard::router::Router;
use trunkline::shard::{Shard, ShardOptions};
use trunkline::store::sim::SimDisk;
use trunkline::store::{Queues, Restoring, ShardStore, StoreId, Writer, WriterOptions, WriterWake, read_all};

use crate::scenario::Scenario;
use crate::variable;

pub struct Node {
    pub net: SimNet,
    pub prng: Prng,
    pub shards: Vec<Shard<SimDriver>>,
    /// The net's number of the first shard: those of earlier processes come before.
    first_host: usize,
    /// Turns that a shard does not get.
    starved: Vec<u32>,
    router: Router,
    options: ShardOptions,
    driver: DriverOptions,
    ids: ClientIds,
    control: Option<Arc<dyn ControlPlane>>,
    store: Option<Store>,
}

/// What a process leaves to the next one, and who writes it.
struct Store {
    disk: SimDisk,
    queues: Arc<Queues>,
    writer: Writer<SimDisk>,
    /// It writes in one turn of so many.
    slowness: u8,
}

/// Small, so that files end and are written together often.
const STORE: WriterOptions = WriterOptions {
    segment_bytes: 4 * 1024,
    bytes_max: 1 << 20,
    compact_interval: Duration::from_millis(60),
};

impl Node {
    /// With a harsh network for every other seed. `set`: what the runs of the caller have besides what the seed draws.
    pub fn new(
        seed: u64,
        namespaces: impl FnOnce(&mut Prng) -> Namespaces<NamespaceOptions>,
        set: impl FnOnce(&mut ShardOptions),
        control: Option<Arc<dyn ControlPlane>>,
    ) -> Node {
        let net = SimNet::new(seed, Faults::none());
        let mut prng = net.fork_prng();
        let mut scenario = Scenario::draw(seed, &mut prng);
        let shards = prng.u16(1..4);
        let router = router(shards, &mut prng);
        let (namespaces, rules) = namespaces(&mut prng).split();
        scenario.options.hub.history_bytes_max = 1 << 20;
        scenario.options.hub.channels_max = 100;
        scenario.options.hub.client_channels_max = 100;
        let mut options = ShardOptions {
            namespaces: Arc::new(namespaces),
            rules: Arc::new(rules),
            admission: None,
            hooks: Default::default(),
            compression: None,
            connections_max: 100,
            channels_max: 10,
            outbox_bytes_max: 16 * 1024,
            ..scenario.options
        };
        set(&mut options);
        scenario.driver.sockets_max = 200;
        let ids = ClientIds::of_seed(prng.u64(..));
        let mut node = Node {
            net,
            prng,
            shards: Vec::new(),
            first_host: 0,
            starved: Vec::new(),
            router,
            options,
            driver: scenario.driver,
            ids,
            control,
            store: None,
        };
        node.begin(None);
        node.net.set_faults(if seed.is_multiple_of(2) { Faults::harsh() } else { Faults::gentle() });
        node
    }

    /// With a store on a disk, which is empty.
    pub fn with_store(mut self) -> Node {
        self.open(SimDisk::default());
        self
    }

    /// The process is killed, with the machine or without, and the next one goes on with what the disk has.
    ///
    /// # Panics
    /// When it has no store, or when what the disk has is damaged.
    pub fn kill(&mut self, power: bool) {
        self.shards.clear();
        let Store { disk, .. } = self.store.take().expect("there is one");
        disk.crash(power, &mut self.prng);
        self.open(disk);
    }

    fn open(&mut self, disk: SimDisk) {
        self.shards.clear();
        let shards = self.prng.u16(1..4);
        self.router = router(shards, &mut self.prng);
        let at = StoredMoment { now: self.net.now(), wall_ms: (self.options.wall_ms)(self.net.now()) };
        let owned = |_| {
            let ShardOptions { namespaces, hub, .. } = &self.options;
            OwnedChannels::new(Arc::clone(namespaces), hub.clone(), self.prng.fork())
        };
        let owners = (0..shards).map(owned).collect();
        let router = self.router.clone();
        let place = move |channel: &str| router.owning_shard(channel).map_or(0, |shard| usize::from(shard.0));
        let mut restoring = Restoring::new(owners, &place, at);
        let mut own = disk.clone();
        let read = read_all(&mut own, &mut |found| restoring.take(found)).expect("it is a store");
        let (owners, restored) = restoring.finish().expect("it fits");
        assert_eq!(restored.gone, [""; 0], "nothing that was on disk is damaged");
        let inboxes = self.router.every_shard().map(|shard| Arc::clone(self.router.inbox(shard)));
        let queues = Queues::new(inboxes.map(|inbox| Box::new(move || inbox.nudge()) as WriterWake));
        let run = StoredRun {
            time_ms: at.wall_ms,
            private_prefix: String::new(),
            default_is_loose: false,
            loose: Vec::new(),
        };
        let writer = Writer::open(own, &read, StoreId(7), STORE, Arc::clone(&queues), run, at.now);
        let with = |(index, owner): (usize, OwnedChannels)| {
            owner.with_store(Box::new(ShardStore::new(&queues, index)))
        };
        let owners = owners.into_iter().enumerate().map(with).collect();
        let slowness = if self.prng.bool() { 2 } else { 40 };
        self.store = Some(Store { disk, queues, writer: writer.expect("there is room"), slowness });
        self.begin(Some(owners));
    }

    /// Shards begin, each with what it owns of the store.
    fn begin(&mut self, owners: Option<Vec<OwnedChannels>>) {
        self.first_host = self.net.shards();
        let options = Arc::new(ShardOptions {
            seats: trunkline::base::seats::Seats::new(100),
            debts: trunkline::base::debts::Debts::new(u64::MAX),
            ..self.options.clone()
        });
        let mut owners = owners.into_iter().flatten();
        for id in self.router.every_shard() {
            let driver = self.net.driver(&self.driver);
            let (options, ids, control) = (Arc::clone(&options), self.ids.clone(), self.control.clone());
            let shard = Shard::new(id, driver, options, self.router.clone(), ids, control, self.prng.fork());
            self.shards.push(match owners.next() {
                Some(owned) => shard.with_channels(owned),
                None => shard,
            });
        }
        self.starved = vec![0; self.shards.len()];
    }

    /// One of the shards has its next turns late.
    pub fn starve_one(&mut self) {
        let shard = self.prng.usize(..self.shards.len());
        self.starved[shard] = self.prng.u32(1..40);
    }

    /// From here on nothing is lost and nobody is late.
    pub fn calm(&mut self) {
        self.net.set_faults(Faults::none());
        self.starved.fill(0);
    }

    /// Asks the owner of the channel.
    pub fn ask(&self, channel: &str, request: ControlRequest) {
        let Owner::Shard(owner) = self.router.owner(channel) else { panic!("there is no engine") };
        drop(self.router.inbox(owner).push_control(ShardMessage::ControlRequest(Box::new(request))));
    }

    /// A turn for each shard that has something to do, and now and then for the store.
    pub fn tick(&mut self) {
        for number in 0..self.shards.len() {
            if self.starved[number] > 0 {
                self.starved[number] -= 1;
            } else if self.net.runnable(self.first_host + number) || self.has_messages(number) {
                self.shards[number].tick().expect("the simulator's wait does not fail");
            }
        }
        let waits = self.is_to_write();
        if let Some(store) = &mut self.store
            && self.prng.u8(..if waits { store.slowness } else { 40 }) == 0
        {
            store.writer.turn(self.net.now());
        }
    }

    /// Time goes on to what happens next, at most until then.
    pub fn advance(&mut self, until: Time) {
        let cost = self.prng.u64(1..50);
        self.net.advance(Duration::from_micros(cost));
        if !(0..self.shards.len()).any(|number| self.has_messages(number)) {
            let next = self.net.next_event_at().unwrap_or(until).min(until);
            let next = match self.is_to_write() {
                true => next.min(self.net.now() + Duration::from_micros(self.prng.u64(1..3_000))),
                false => next,
            };
            self.net.advance_to(next);
        }
    }

    fn has_messages(&self, number: usize) -> bool {
        !self.router.inbox(ShardId(number as u16)).is_empty()
    }

    /// Somebody waits for the disk.
    fn is_to_write(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.queues.waiting().any(|waiting| waiting > 0))
    }
}

fn router(shards: u16, prng: &mut Prng) -> Router {
    let inboxes: Arc<[Arc<ShardInbox>]> = (0..shards).map(|_| Arc::new(ShardInbox::new(1024))).collect();
    Router::new(inboxes, [prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..)])
}

/// The seed that is asked for, or so many.
pub fn seeds(count: u64) -> Range<u64> {
    match variable("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

/// What the run of a seed gives. One that fails is named.
pub fn run_seed<T>(seed: u64, run: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        eprintln!("failed with SIM_SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}
