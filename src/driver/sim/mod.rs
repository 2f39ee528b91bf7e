//! The driver of the simulation: virtual time and faults from a seed, any number of shards in one thread.
//!
//! Inputs: a seed, the [`Faults`], what the shards ask of their [`SimDriver`]s and what scripted clients do with their
//! [`ClientEnd`]s. Outputs: the events of the [`crate::driver`] contract, the same for the same seed and script, and
//! counters for checkers. Must not know: protocols, sessions, channels, the real clock.
//!
//! Nothing here blocks and no time passes by itself. [`super::Driver::wait`] returns what is due at the current
//! virtual time and notes until when the shard would have slept. A harness therefore runs
//! ```text
//! loop:  tick every shard that is `runnable`
//!        let the clients act
//!        `advance_to` whichever is next: `next_event_at`, or the script's next step
//! ```
//! and may add a little time for each tick, so that a shard that never sleeps does not stop the clock.
//!
//! What it models is Linux: a close with unread bytes is a reset, a socket is writable when a third of its buffer is
//! free, a closed listener resets its backlog, data for a closed socket is answered by a reset. Where the contract
//! leaves something open (the order between sockets, whether `Ended` follows a broken send, a slot coming back in the
//! same batch as its `Closed`) the seed decides, so that no shard comes to rely on one answer.
//!
//! Read in this order: [`faults`](Faults), `link` (one connection), `world` (time and the clients' side), `host` (a
//! shard's tables), `kernel` (what a shard's calls do), `shard_end` and `client_end` (the two handles).

mod client_end;
mod faults;
mod host;
mod kernel;
mod link;
mod shard_end;
#[cfg(test)]
mod tests;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::base::ids::{ListenerId, Sock};
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::driver::DriverOptions;

pub use client_end::{ClientEnd, Traffic};
pub use faults::Faults;
pub use host::HostStats;
pub use link::ClientState;
pub use shard_end::SimDriver;
use world::World;

/// A network of simulated shards and clients. Clones are handles of the same one.
#[derive(Clone)]
pub struct SimNet(Rc<RefCell<World>>);

impl SimNet {
    /// # Panics
    /// If `faults` has a chance or a range that makes no sense.
    pub fn new(seed: u64, faults: Faults) -> SimNet {
        SimNet(Rc::new(RefCell::new(World::new(seed, faults))))
    }

    /// The clock shows `uptime` at the start. For a net in which nothing has happened yet.
    pub fn start_at(&self, uptime: Time) {
        self.0.borrow_mut().now = uptime;
    }

    /// Adds a shard: the first is number 0. Its listeners are bound, and accept after `accept_start`.
    pub fn driver(&self, options: &DriverOptions) -> SimDriver {
        SimDriver::new(self.0.clone(), options)
    }

    /// Adds a shard of another process, which listens from [`SimNet::hand_over`] on.
    pub fn successor(&self, options: &DriverOptions) -> SimDriver {
        let driver = self.driver(options);
        self.0.borrow_mut().hosts[driver.shard()].listening = false;
        driver
    }

    /// Shards `to` listen in place of `from`, with the clients that wait there.
    pub fn hand_over(&self, from: std::ops::Range<usize>, to: std::ops::Range<usize>) {
        let world = &mut *self.0.borrow_mut();
        let count = to.len();
        to.clone().for_each(|host| world.hosts[host].listening = true);
        for (number, host) in from.enumerate() {
            world.hosts[host].listening = false;
            let waiting = std::mem::take(&mut world.hosts[host].backlog);
            let heir = to.start + number % count;
            waiting.iter().for_each(|link| world.links[link.0 as usize].host = heir);
            world.hosts[heir].backlog.extend(waiting);
        }
    }

    /// What was exported and not adopted is given up, with its descriptors.
    pub fn forget_exports(&self) {
        self.0.borrow_mut().forget_exports();
    }

    /// A client of listener 0 that lands on any listening shard, by the seed, as SO_REUSEPORT spreads them.
    pub fn connect(&self) -> ClientEnd {
        self.connect_by(ListenerId(0))
    }

    /// A client of another listener. All shards have the same ones.
    pub fn connect_by(&self, listener: ListenerId) -> ClientEnd {
        let client = ClientEnd::new(self.0.clone(), None);
        client.comes_by(listener);
        client
    }

    /// A client that lands on shard number `shard`.
    pub fn connect_to(&self, shard: usize) -> ClientEnd {
        ClientEnd::new(self.0.clone(), Some(shard))
    }

    /// A generator for the harness, split off the seed: its draws do not disturb the net's.
    pub fn fork_prng(&self) -> Prng {
        self.0.borrow_mut().prng.fork()
    }

    /// From now on these faults, for what is decided from now on. `Faults::none()` lets a run come to rest.
    pub fn set_faults(&self, faults: Faults) {
        faults.check();
        self.0.borrow_mut().faults = faults;
    }

    /// Whether void commands, those for a socket that is closing or never was, are a panic (as at first) or ignored as
    /// the real drivers do. For drivers that exist already.
    pub fn set_strict(&self, strict: bool) {
        self.0.borrow_mut().hosts.iter_mut().for_each(|host| host.strict = strict);
    }

    /// From now on a wait lets virtual time pass until something happens for its shard, or its timeout. Only for tests
    /// of a single shard: the others would sleep through what is theirs.
    pub fn sleep_in_waits(&self) {
        self.0.borrow_mut().sleeps = true;
    }

    /// Prints everything that happens from now on to stderr, for a seed that failed.
    pub fn trace(&self) {
        self.0.borrow_mut().trace = true;
    }

    // ---- time ----

    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    pub fn advance(&self, by: Duration) {
        let until = self.now() + by;
        self.advance_to(until);
    }

    /// Lets pass what happens up to `until`; nothing if that is in the past.
    pub fn advance_to(&self, until: Time) {
        self.0.borrow_mut().advance_to(until);
    }

    /// When the next thing happens: something arrives, or a shard has news or a timer due. Never before now.
    /// `None`: nothing will ever happen unless a client acts.
    pub fn next_event_at(&self) -> Option<Time> {
        let world = self.0.borrow();
        let shards = world.hosts.iter().map(|host| host.runnable_at());
        let next = shards.chain(world.agenda_next()).min()?;
        (next != Time::NEVER).then(|| next.max(world.now))
    }

    /// Whether shard number `shard` would be awake now: something happened for it, it was woken, its timeout has
    /// passed, or its last wait returned early.
    pub fn runnable(&self, shard: usize) -> bool {
        let world = self.0.borrow();
        world.hosts[shard].runnable_at() <= world.now
    }

    /// Until when the last wait of shard number `shard` would have slept: `Time::NEVER` without a limit, the time of
    /// the wait itself if it returned early, `Time::ZERO` before the first.
    pub fn asked_until(&self, shard: usize) -> Time {
        self.0.borrow().hosts[shard].asked_until
    }

    // ---- for checkers ----

    /// Shards made so far, the dead ones included.
    pub fn shards(&self) -> usize {
        self.0.borrow().hosts.len()
    }

    pub fn stats(&self, shard: usize) -> HostStats {
        self.0.borrow().hosts[shard].stats
    }

    /// Slots in use in a shard's table, those included whose `Closed` has not been told yet.
    pub fn open_sockets(&self, shard: usize) -> usize {
        self.0.borrow().hosts[shard].open()
    }

    /// Clients that wait to be accepted by a shard.
    pub fn backlog(&self, shard: usize) -> usize {
        self.0.borrow().hosts[shard].backlog.len()
    }

    /// Sockets that the shard learnt were over at least `patience` ago and still has not closed: leaked slots.
    pub fn overdue(&self, shard: usize, patience: Duration) -> Vec<Sock> {
        let world = self.0.borrow();
        let late = |over_at: Time| world.now.since(over_at) >= patience;
        let sockets = world.hosts[shard].sockets();
        sockets.filter(|(_, s)| !s.closing && s.over_at.is_some_and(late)).map(|(sock, _)| sock).collect()
    }

    /// A hash of all that happened, with every byte the shards sent: two runs of one seed that differ here have met
    /// something that is not from the seed.
    pub fn fingerprint(&self) -> u64 {
        self.0.borrow().fingerprint
    }
}
