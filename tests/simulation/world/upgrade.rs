//! Another process takes over, in the middle of a run: or it is given up, and everything goes on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use trunkline::base::debts::Debts;
use trunkline::base::ids::ShardId;
use trunkline::base::seats::Seats;
use trunkline::driver::sim::SimDriver;
use trunkline::shard::control_request::ControlRequest;
use trunkline::shard::handover::{Afloat, Counts, Destination, Order, Outlet, Parcel, Said, destination};
use trunkline::shard::mailbox::ShardInbox;
use trunkline::shard::router::Router;
use trunkline::shard::{Shard, ShardOptions, Tick};

use super::World;
use crate::backend::Plane;
use crate::scenario::Telling;

/// Steps between two upgrades, about.
const EVERY: u32 = 40;
/// As many attempts in one run.
const ATTEMPTS_MAX: u32 = 4;
/// Virtual time in which shards come to rest and say all that they have.
const PATIENCE: Duration = Duration::from_secs(2);
/// Virtual time that the gate of the control plane waits for what is under way.
const GATE: Duration = Duration::from_millis(200);
/// What shards may have said before the node listens: few, so that they have to wait.
const OUTLET: usize = 8;
/// What a shard says that has less room than those before it: for channels, and in its driver's table.
const NO_ROOM: [&str; 2] = ["more channels", "Too many open files"];

type Parcels = Vec<(ShardId, Parcel)>;

/// What is left of upgrades in this run.
#[derive(Default)]
pub struct Upgrades {
    attempts: u32,
    /// Shards of processes that have handed over, with their place in the net.
    leaving: Vec<(usize, Shard<SimDriver>)>,
    /// Places of shards that have ended so.
    left: Vec<usize>,
}

/// When an attempt is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// While shards come to rest.
    Early(u32),
    /// When everything has been said, or half of it.
    BeforeAdopting,
    /// When the new process has everything.
    Armed,
    /// Nobody listens to the shards any more.
    Deaf,
    Commit,
}

impl World {
    pub(super) fn maybe_upgrade(&mut self) {
        let scenario = &self.stage.scenario;
        let may = scenario.upgrades && self.upgrades.attempts < ATTEMPTS_MAX;
        if may && self.upgrades.leaving.is_empty() && self.stage.prng.u32(..EVERY) == 0 {
            self.upgrades.attempts += 1;
            self.upgrade();
        }
    }

    /// The place of a shard in the net.
    pub(super) fn host(&self, shard: usize) -> usize {
        self.first_host + shard
    }

    /// Places in the net of shards whose sockets are all accounted for.
    pub(super) fn ended_hosts(&self) -> Vec<usize> {
        let now = self.first_host..self.first_host + self.shards.len();
        self.upgrades.left.iter().copied().chain(now).collect()
    }

    /// Shards that have handed over end by themselves.
    pub(super) fn tick_the_leaving(&mut self) {
        let left = &mut self.upgrades.left;
        self.upgrades.leaving.retain_mut(|(host, shard)| {
            let ended = shard.tick().expect("the simulator's wait does not fail") == Tick::Ended;
            if ended {
                left.push(*host);
            }
            !ended
        });
    }

    fn upgrade(&mut self) {
        let end = match self.stage.prng.u8(..8) {
            0 => End::Early(self.stage.prng.u32(..6)),
            1 => End::BeforeAdopting,
            2 => End::Armed,
            3 => End::Deaf,
            _ => End::Commit,
        };
        let (outlet, said) = sync_channel(OUTLET);
        let mut parcels = Vec::new();
        let goes_ahead = self.stage.prng.bool();
        if goes_ahead {
            let given_up = self.go_ahead(&outlet, &said, &mut parcels);
            if given_up {
                return self.abort(&said);
            }
        }
        // The gate of the control plane: what is under way there is answered first.
        let until = self.stage.net.now() + GATE;
        self.starved.fill(0);
        while self.backend.outstanding() > 0 && self.stage.net.now() < until {
            self.run_for(Duration::from_millis(1));
        }
        if self.backend.outstanding() > 0 {
            if goes_ahead {
                self.abort(&said);
            }
            return;
        }
        let attempt = self.upgrades.attempts;
        self.order_all(|| Order::Begin { outlet: outlet.clone(), attempt });
        drop(outlet);
        let mut done = 0;
        let until = self.stage.net.now() + PATIENCE;
        let mut rounds = 0;
        while done < self.shards.len() {
            if end == End::Early(rounds) || end == End::Deaf && rounds == 3 {
                break;
            }
            rounds += 1;
            assert!(self.stage.net.now() < until, "shards do not come to rest: {:?}", self.footprints());
            self.run_for(Duration::from_millis(1));
            while let Ok((from, said)) = said.try_recv() {
                match said {
                    Said::Parcels(some) => parcels.extend(some.into_iter().map(|parcel| (from, parcel))),
                    Said::Done(counts) => {
                        done += 1;
                        self.note_counts(counts);
                    }
                    other => panic!("{other:?} of a shard that is asked for parcels"),
                }
            }
        }
        match end {
            End::Deaf => {
                drop(said);
                // They find out when they have something to say; those that do not are told.
                self.run_for(Duration::from_millis(20));
                self.order_all(|| Order::Abort);
                self.run_for(Duration::from_millis(5));
                self.stage.net.forget_exports();
                self.stage.coverage.count("upgrades_unheard");
            }
            End::Early(_) | End::BeforeAdopting => self.abort(&said),
            End::Armed | End::Commit => self.take_over(parcels, end, &said),
        }
    }

    /// Sockets go first, while everybody is served. True: it ends with that.
    fn go_ahead(&mut self, outlet: &Outlet, said: &Receiver<(ShardId, Said)>, parcels: &mut Parcels) -> bool {
        self.order_all(|| Order::Ahead(outlet.clone()));
        let until = self.stage.net.now() + PATIENCE;
        let (mut done, mut more) = (0, self.stage.prng.u32(..20));
        while done < self.shards.len() || more > 0 {
            assert!(self.stage.net.now() < until, "sockets do not go: {:?}", self.footprints());
            more = more.saturating_sub(1);
            self.run_for(Duration::from_millis(1));
            while let Ok((from, said)) = said.try_recv() {
                match said {
                    Said::Parcels(some) => {
                        for parcel in some {
                            self.stage.coverage.count(if parcel.fd.is_some() {
                                "sockets_ahead"
                            } else {
                                "closed_ahead"
                            });
                            parcels.push((from, parcel));
                        }
                    }
                    Said::Ahead => done += 1,
                    other => panic!("{other:?} of a shard whose sockets go ahead"),
                }
            }
        }
        self.stage.prng.u8(..8) == 0
    }

    fn abort(&mut self, said: &Receiver<(ShardId, Said)>) {
        self.order_all(|| Order::Abort);
        let (mut aborted, until) = (0, self.stage.net.now() + PATIENCE);
        while aborted < self.shards.len() {
            assert!(self.stage.net.now() < until, "shards do not go on");
            while let Ok((_, said)) = said.try_recv() {
                aborted += usize::from(matches!(said, Said::Aborted));
            }
            self.run_for(Duration::from_millis(1));
        }
        // Shards have exported more until they heard of it: nobody holds it any longer.
        self.stage.net.forget_exports();
        self.stage.coverage.count("upgrades_given_up");
    }

    fn note_counts(&mut self, Counts { peers, channels, users, left_behind }: Counts) {
        for (name, count) in [
            ("peers_moved", peers),
            ("channels_moved", channels),
            ("users_moved", users),
            ("peers_left_behind", left_behind),
        ] {
            self.stage.coverage.add(name, count);
        }
    }

    fn take_over(&mut self, parcels: Parcels, end: End, heard: &Receiver<(ShardId, Said)>) {
        let scenario = &self.stage.scenario;
        // What each shard has told is looked at by itself: then everything stays where it was.
        let same = scenario.telling != Telling::Nothing || scenario.hooked;
        let shards = if same { self.shards.len() as u16 } else { self.stage.prng.u16(1..=4) };
        let inboxes: Arc<[Arc<ShardInbox>]> =
            (0..shards).map(|_| Arc::new(ShardInbox::new(scenario.inbox_messages))).collect();
        let seed = match same {
            true => self.placement,
            false => std::array::from_fn(|_| self.stage.prng.u64(..)),
        };
        let router = Router::new(inboxes, seed);
        // Of the new process: nothing in it is counted yet.
        let (seats, debts) = (Seats::new(scenario.options.seats.max()), Debts::new(scenario.debts));
        let options = Arc::new(ShardOptions { seats, debts, ..scenario.options.clone() });
        while self.planes.len() < usize::from(shards) {
            self.planes.push(Arc::new(Plane::new(self.stage.scenario.telling)));
        }
        let first_host = self.stage.net.shards();
        let mut new: Vec<Shard<SimDriver>> = (0..shards)
            .map(|id| {
                Shard::adopting(
                    ShardId(id),
                    self.stage.net.successor(&self.stage.scenario.driver),
                    Arc::clone(&options),
                    router.clone(),
                    self.client_ids.clone(),
                    Some(Arc::clone(&self.planes[usize::from(id)]) as _),
                    self.stage.prng.fork(),
                )
            })
            .collect();
        let ask = |new: &mut Vec<Shard<SimDriver>>, shard: ShardId, order| {
            // Ticked each time, its inbox has room.
            assert!(router.ask(shard, ControlRequest::Handover(order)).is_ok());
            assert_eq!(new[shard.index()].tick().expect("no wait fails"), Tick::Goes);
        };
        for (_, parcel) in parcels {
            match destination(&parcel, &router).expect("of this node") {
                Destination::One(shard) => {
                    ask(&mut new, shard, Order::Adopt(vec![parcel], Afloat::default()))
                }
                Destination::Every => {
                    for shard in router.every_shard() {
                        ask(&mut new, shard, Order::Adopt(vec![parcel.duplicate()], Afloat::default()));
                    }
                }
            }
        }
        let (outlet, said) = sync_channel(usize::from(shards));
        for shard in router.every_shard() {
            ask(&mut new, shard, Order::Arm(outlet.clone()));
        }
        let mut full = false;
        for (shard, said) in said.try_iter() {
            match said {
                Said::Armed(_) => {}
                // Bounds are those of a shard: fewer shards have less room, and so has one that more comes to than before.
                Said::Failed(why) if !same && NO_ROOM.iter().any(|bound| why.contains(bound)) => full = true,
                other => panic!("{shard:?} {other:?}"),
            }
        }
        if full || end == End::Armed {
            drop(new);
            self.stage.coverage.count("upgrades_given_up_late");
            return self.abort(heard);
        }
        let old = self.first_host..self.first_host + self.shards.len();
        self.stage.net.hand_over(old.clone(), first_host..first_host + new.len());
        self.order_all(|| Order::Commit);
        let left = std::mem::replace(&mut self.shards, new.into_iter().map(Some).collect());
        self.upgrades.leaving = old.zip(left.into_iter().flatten()).collect();
        self.first_host = first_host;
        self.starved = vec![0; self.shards.len()];
        self.peak_sockets = vec![0; self.shards.len()];
        self.router = router.clone();
        self.backend.router = router;
        let (outlet, _) = std::sync::mpsc::sync_channel(1);
        self.order_all(|| Order::Resume(outlet.clone()));
        self.stage.coverage.count(if same { "upgrades" } else { "upgrades_with_other_shards" });
    }

    fn order_all(&mut self, order: impl Fn() -> Order) {
        for shard in self.router.every_shard() {
            let mut tries = 0;
            while self.router.ask(shard, ControlRequest::Handover(order())).is_err() {
                tries += 1;
                assert!(tries < 1_000, "an inbox has no room");
                self.run_for(Duration::from_micros(100));
            }
        }
    }
}
