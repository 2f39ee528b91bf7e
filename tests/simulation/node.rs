//! The shards of a node, for simulations with clients and checks of their own.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use trunkline::base::event::EventKinds;
use trunkline::base::ids::ShardId;
use trunkline::base::prng::Prng;
use trunkline::base::time::Time;
use trunkline::driver::sim::{Faults, SimDriver, SimNet};
use trunkline::hub::Namespaces;
use trunkline::session::rules::NamespaceOptions;
use trunkline::shard::client_ids::ClientIds;
use trunkline::shard::control_request::{ControlPlane, ControlRequest};
use trunkline::shard::mailbox::{Inbox, ShardMessage};
use trunkline::shard::owner::Owner;
use trunkline::shard::router::Router;
use trunkline::shard::{Shard, ShardOptions};

use crate::scenario::Scenario;
use crate::variable;

pub struct Node {
    pub net: SimNet,
    pub prng: Prng,
    shards: Vec<Shard<SimDriver>>,
    /// Turns that a shard does not get.
    starved: Vec<u32>,
    router: Router,
}

impl Node {
    /// With a harsh network for every other seed. `events`: those that are told, where the seed does not draw them.
    pub fn new(
        seed: u64,
        namespaces: impl FnOnce(&mut Prng) -> Namespaces<NamespaceOptions>,
        events: Option<EventKinds>,
        control: Option<Arc<dyn ControlPlane>>,
    ) -> Node {
        let net = SimNet::new(seed, Faults::none());
        let mut prng = net.fork_prng();
        let mut scenario = Scenario::draw(seed, &mut prng);
        let shards = prng.u16(1..4);
        let inboxes: Arc<[Arc<Inbox>]> = (0..shards).map(|_| Arc::new(Inbox::new(1024))).collect();
        let placement = [prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..)];
        let router = Router::new(inboxes, placement);
        let (namespaces, rules) = namespaces(&mut prng).split();
        scenario.options.hub.history_bytes_max = 1 << 20;
        scenario.options.hub.channels_max = 100;
        scenario.options.hub.client_channels_max = 100;
        let options = Arc::new(ShardOptions {
            namespaces: Arc::new(namespaces),
            rules: Arc::new(rules),
            admission: None,
            hooks: Default::default(),
            compression: None,
            connections_max: 100,
            seats: trunkline::base::seats::Seats::new(100),
            debts: trunkline::base::debts::Debts::new(u64::MAX),
            channels_max: 10,
            outbox_bytes_max: 16 * 1024,
            events: events.unwrap_or(scenario.options.events),
            ..scenario.options
        });
        scenario.driver.sockets_max = 200;
        let ids = ClientIds::of_seed(prng.u64(..));
        let shards: Vec<_> = (0..shards)
            .map(|id| {
                let driver = net.driver(&scenario.driver);
                let (options, ids) = (Arc::clone(&options), ids.clone());
                Shard::new(ShardId(id), driver, options, router.clone(), ids, control.clone(), prng.fork())
            })
            .collect();
        net.set_faults(if seed.is_multiple_of(2) { Faults::harsh() } else { Faults::gentle() });
        Node { starved: vec![0; shards.len()], net, prng, shards, router }
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

    /// A turn for each shard that has something to do.
    pub fn tick(&mut self) {
        for number in 0..self.shards.len() {
            if self.starved[number] > 0 {
                self.starved[number] -= 1;
            } else if self.net.runnable(number) || self.has_messages(number) {
                self.shards[number].tick().expect("the simulator's wait does not fail");
            }
        }
    }

    /// Time goes on to what happens next, at most until then.
    pub fn advance(&mut self, until: Time) {
        let cost = self.prng.u64(1..50);
        self.net.advance(Duration::from_micros(cost));
        if !(0..self.shards.len()).any(|number| self.has_messages(number)) {
            let next = self.net.next_event_at().unwrap_or(until);
            self.net.advance_to(next.min(until));
        }
    }

    fn has_messages(&self, number: usize) -> bool {
        !self.router.inbox(ShardId(number as u16)).is_empty()
    }
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
