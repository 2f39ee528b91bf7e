//! Clients by where they come from: what each network of a node has, on all shards, and what it may have.
//!
//! A *network* is what its prefix says: by default one address of IPv4 and the 64 bits of IPv6 that one customer gets. Looked
//! at when a connection comes, authenticates and goes, never while it lives: that is what the locks are good enough for.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use parking_lot::RwLock;

use crate::base::rate::Rate;
use crate::base::time::Time;

/// Parts of the table, each with a lock of its own: two shards rarely want the same one.
const PARTS: usize = 64;
/// Networks without connections that are remembered for what they have used of their rate. At the bound the one that has
/// rested longest is forgotten: it gets a whole burst again.
pub const IDLE_NETWORKS_MAX: usize = 65_536;
/// Networks at rest that are forgotten with each connection that comes: more than one, so that they become fewer.
const FORGOTTEN_AT_ONCE: usize = 2;
/// Of a table that is ready for each connection to come from a network of its own, for each of them.
pub const NETWORK_BYTES: u64 = 128;

/// What one network may have. Zero, or no rate: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    pub prefix_ipv4: u8,
    pub prefix_ipv6: u8,
    pub connections_max: u32,
    /// Of these, connections that have not shown who they are.
    pub unauthenticated_max: u32,
    pub connects: Option<Rate>,
}

/// All addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// One of IPv4 as IPv6 has it (::ffff:0:0/96). What is behind the prefix is zero.
    bits: u128,
    prefix: u8,
}

impl Network {
    /// The one of the address, by the bits that its family's networks have in common.
    pub fn new(address: IpAddr, prefix_ipv4: u8, prefix_ipv6: u8) -> Network {
        let (address, prefix) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), 96 + prefix_ipv4.min(32)),
            IpAddr::V6(address) => (address, prefix_ipv6.min(128)),
        };
        Network { bits: address.to_bits() & mask(prefix), prefix }
    }

    /// The one around it with these bits in common, or itself where it has no more.
    pub fn widened(self, prefix_ipv4: u8, prefix_ipv6: u8) -> Network {
        let is_ipv4 = self.prefix >= 96 && Ipv6Addr::from_bits(self.bits).to_ipv4_mapped().is_some();
        let prefix = self.prefix.min(if is_ipv4 { 96 + prefix_ipv4.min(32) } else { prefix_ipv6 });
        Network { bits: self.bits & mask(prefix), prefix }
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// Why a network gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    Connections,
    Unauthenticated,
    Connects,
}

pub struct Networks {
    /// The prefixes never change.
    limits: RwLock<NetworkLimits>,
    idle_max: usize,
    hash: RandomState,
    parts: [Mutex<NetworksPart>; PARTS],
}

/// Bounded by the connections of the node, and by [`IDLE_NETWORKS_MAX`].
#[derive(Default)]
struct NetworksPart {
    networks: HashMap<Network, Usage, RandomState>,
    /// Those without connections that are not at rest, by when they are.
    idle: BTreeSet<(Time, Network)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    connections: u32,
    unauthenticated: u32,
    paid_until: Time,
}

impl Networks {
    /// `seed` keys the table, so that strangers cannot choose addresses that fall in one place.
    pub fn new(limits: NetworkLimits, seed: [u64; 4]) -> Networks {
        Networks::with_idle_max(limits, seed, IDLE_NETWORKS_MAX / PARTS)
    }

    fn with_idle_max(limits: NetworkLimits, seed: [u64; 4], idle_max: usize) -> Networks {
        let hash = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        let part = |_| {
            Mutex::new(NetworksPart {
                networks: HashMap::with_hasher(hash.clone()),
                ..NetworksPart::default()
            })
        };
        Networks { limits: RwLock::new(limits), idle_max, parts: std::array::from_fn(part), hash }
    }

    pub fn limits(&self) -> NetworkLimits {
        *self.limits.read()
    }

    /// These limits hold for what comes from now on. Their prefixes are those of before: what is counted is counted by them.
    pub fn set_limits(&self, limits: NetworkLimits) {
        let mut old = self.limits.write();
        let NetworkLimits { prefix_ipv4, prefix_ipv6, .. } = *old;
        *old = NetworkLimits { prefix_ipv4, prefix_ipv6, ..limits };
    }

    pub fn network(&self, address: IpAddr) -> Network {
        let limits = self.limits();
        Network::new(address, limits.prefix_ipv4, limits.prefix_ipv6)
    }

    /// Counts a connection, as one that has not shown who it is.
    ///
    /// # Errors
    /// What the network has too many of: nothing is counted.
    pub fn enter(&self, network: Network, now: Time) -> Result<(), Exhausted> {
        let within = |count: u32, max: u32| max == 0 || count < max;
        let limits = self.limits();
        let mut part = self.part(network);
        part.forget(now);
        let usage = part.networks.get(&network).copied().unwrap_or_default();
        if !within(usage.connections, limits.connections_max) {
            return Err(Exhausted::Connections);
        }
        if !within(usage.unauthenticated, limits.unauthenticated_max) {
            return Err(Exhausted::Unauthenticated);
        }
        part.idle.remove(&(usage.paid_until, network));
        let (connections, unauthenticated) = (usage.connections + 1, usage.unauthenticated + 1);
        part.networks.insert(network, Usage { connections, unauthenticated, ..usage });
        Ok(())
    }

    /// Takes one of the connects that a network has in a time. The connection is counted already.
    ///
    /// # Errors
    /// When there is none left.
    pub fn connect(&self, network: Network, now: Time) -> Result<(), Exhausted> {
        let Some(rate) = self.limits().connects else { return Ok(()) };
        let mut part = self.part(network);
        let Some(usage) = part.networks.get_mut(&network) else { return Ok(()) };
        match rate.take(&mut usage.paid_until, now, 1) {
            true => Ok(()),
            false => Err(Exhausted::Connects),
        }
    }

    /// One of the network's connections has shown who it is.
    pub fn authenticate(&self, network: Network) {
        if let Some(usage) = self.part(network).networks.get_mut(&network) {
            assert!(usage.unauthenticated > 0, "who authenticates was counted");
            usage.unauthenticated -= 1;
        }
    }

    /// A connection that was counted is gone.
    pub fn leave(&self, network: Network, unauthenticated: bool, now: Time) {
        let mut part = self.part(network);
        let Some(usage) = part.networks.get_mut(&network) else { return };
        assert!(
            usage.connections > 0 && usage.unauthenticated >= u32::from(unauthenticated),
            "who leaves was counted"
        );
        usage.connections -= 1;
        usage.unauthenticated -= u32::from(unauthenticated);
        let Usage { connections, paid_until, .. } = *usage;
        if connections > 0 {
            return;
        }
        if paid_until <= now {
            part.remove(network);
            return;
        }
        part.idle.insert((paid_until, network));
        if part.idle.len() > self.idle_max
            && let Some((_, rested)) = part.idle.pop_first()
        {
            part.remove(rested);
        }
    }

    /// Those with most connections, at most `count`, the largest first. Looks at all of them, a part at a time.
    pub fn largest(&self, count: usize) -> Vec<(Network, u32)> {
        let mut largest: BTreeSet<(u32, Network)> = BTreeSet::new();
        for part in &self.parts {
            for (network, usage) in lock(part).networks.iter().filter(|(_, usage)| usage.connections > 0) {
                if largest.len() < count || largest.first().is_some_and(|least| least.0 < usage.connections) {
                    largest.insert((usage.connections, *network));
                }
                if largest.len() > count {
                    largest.pop_first();
                }
            }
        }
        largest.into_iter().rev().map(|(connections, network)| (network, connections)).collect()
    }

    /// Networks that are remembered.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).networks.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn part(&self, network: Network) -> MutexGuard<'_, NetworksPart> {
        lock(&self.parts[self.hash.hash_one(network) as usize % PARTS])
    }
}

impl NetworksPart {
    /// Forgets networks at rest: those are as good as new.
    fn forget(&mut self, now: Time) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            match self.idle.first() {
                Some(&(paid_until, network)) if paid_until <= now => {
                    self.idle.pop_first();
                    self.remove(network);
                }
                _ => return,
            }
        }
    }

    fn remove(&mut self, network: Network) {
        self.networks.remove(&network);
        if self.networks.len() * 4 < self.networks.capacity() {
            self.networks.shrink_to(self.networks.len() * 2);
        }
    }
}

/// What was counted stands, whatever became of the thread that counted.
fn lock(part: &Mutex<NetworksPart>) -> MutexGuard<'_, NetworksPart> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Networks").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(address) if self.prefix >= 96 => write!(f, "{address}/{}", self.prefix - 96),
            _ => write!(f, "{address}/{}", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::time::Duration;

    fn limits(connections_max: u32, unauthenticated_max: u32, per_second: u64, burst: u64) -> NetworkLimits {
        let connects = Rate::new(per_second, burst);
        NetworkLimits { prefix_ipv4: 32, prefix_ipv6: 64, connections_max, unauthenticated_max, connects }
    }

    fn networks(limits: NetworkLimits) -> Networks {
        Networks::new(limits, [1, 2, 3, 4])
    }

    #[test]
    fn the_largest_networks_are_found_whatever_their_part() {
        let limits = NetworkLimits {
            prefix_ipv4: 32,
            prefix_ipv6: 64,
            connections_max: 0,
            unauthenticated_max: 0,
            connects: None,
        };
        let networks = Networks::new(limits, [1, 2, 3, 4]);
        assert_eq!(networks.largest(3), []);
        for last in 1..=40u8 {
            let network = networks.network([10, 0, 0, last].into());
            (0..last).for_each(|_| networks.enter(network, Time::ZERO).unwrap());
        }
        let largest = networks.largest(3);
        let found: Vec<_> = largest.iter().map(|(network, count)| (network.to_string(), *count)).collect();
        let expected = [("10.0.0.40/32", 40), ("10.0.0.39/32", 39), ("10.0.0.38/32", 38)];
        assert_eq!(found, expected.map(|(network, count)| (network.to_string(), count)));
        assert_eq!(networks.largest(100).len(), 40);
    }

    #[test]
    fn a_network_is_what_its_prefix_says() {
        let networks = |prefix_ipv4, prefix_ipv6| {
            networks(NetworkLimits { prefix_ipv4, prefix_ipv6, ..limits(1, 0, 0, 0) })
        };
        let usual = networks(32, 64);
        let named =
            |networks: &Networks, address: &str| networks.network(address.parse().unwrap()).to_string();
        for (address, network) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(named(&usual, address), network);
        }
        assert_eq!(named(&networks(24, 48), "10.1.2.3"), "10.1.2.0/24");
        assert_eq!(named(&networks(24, 48), "2001:db8:1:2::5"), "2001:db8:1::/48");
        // All of IPv4 is one network, and another than all of IPv6.
        let all = networks(0, 0);
        assert_eq!(all.network([1, 2, 3, 4].into()), all.network([200, 2, 3, 4].into()));
        assert_ne!(all.network([1, 2, 3, 4].into()), all.network("1::1".parse().unwrap()));
        assert_eq!(named(&networks(32, 128), "1::1"), "1::1/128");
    }

    #[test]
    fn a_network_has_its_share_and_others_have_theirs() {
        let networks = networks(limits(3, 2, 0, 0));
        let now = Time::from_millis(1_000);
        let [one, other] = [1, 2].map(|last| networks.network([10, 0, 0, last].into()));
        assert_eq!(
            [(); 3].map(|()| networks.enter(one, now)),
            [Ok(()), Ok(()), Err(Exhausted::Unauthenticated)]
        );
        networks.authenticate(one);
        assert_eq!(networks.enter(one, now), Ok(()));
        networks.authenticate(one);
        assert_eq!(networks.enter(one, now), Err(Exhausted::Connections));
        assert_eq!(networks.enter(other, now), Ok(()));
        networks.leave(one, false, now);
        assert_eq!(networks.enter(one, now), Ok(()));
        for (of, unauthenticated) in [(one, false), (one, true), (one, true), (other, true)] {
            networks.leave(of, unauthenticated, now);
        }
        assert!(networks.is_empty(), "who is gone is forgotten");
    }

    #[test]
    fn what_was_used_of_a_rate_outlives_the_connection() {
        let networks = networks(limits(0, 0, 10, 3));
        let one = networks.network([10, 0, 0, 1].into());
        let come_and_go = |at: u64| {
            let now = Time::from_millis(at);
            networks.enter(one, now).unwrap();
            let connected = networks.connect(one, now);
            networks.leave(one, true, now);
            connected.is_ok()
        };
        assert_eq!([1_000; 5].map(come_and_go), [true, true, true, false, false]);
        assert_eq!([1_099, 1_100, 1_101].map(come_and_go), [false, true, false]);
        assert_eq!(networks.len(), 1);
        // A newcomer sweeps out those at rest, of its own part.
        for last in 0..=255 {
            let now = Time::from_millis(10_000);
            let other = networks.network([10, 0, 1, last].into());
            networks.enter(other, now).unwrap();
            networks.leave(other, true, now);
        }
        assert!(networks.is_empty());
    }

    #[test]
    fn networks_without_connections_are_bounded_and_the_longest_rested_goes() {
        let networks = Networks::with_idle_max(limits(0, 0, 1, 100), [1, 2, 3, 4], 4);
        let now = Time::from_millis(1_000);
        let all: Vec<Network> =
            (0..100_000u32).map(|number| networks.network(number.to_be_bytes().into())).collect();
        for (at, network) in all.iter().enumerate() {
            let now = now + Duration::from_micros(at as u64);
            networks.enter(*network, now).unwrap();
            networks.connect(*network, now).unwrap();
            networks.leave(*network, true, now);
            assert!(networks.len() <= PARTS * 4);
        }
        for part in &networks.parts {
            let part = lock(part);
            assert_eq!((part.networks.len(), part.idle.len()), (4, 4));
            assert!(part.networks.capacity() <= 64);
        }
        let kept = |network: &Network| networks.part(*network).networks.contains_key(network);
        assert!(all[99_990..].iter().all(kept) && !all[..90_000].iter().any(kept));
    }

    /// Against a table that forgets nothing and counts by looking.
    #[test]
    fn a_model_agrees_with_every_decision() {
        #[derive(Default)]
        struct Model {
            /// Of each open connection: its network, and whether it has shown who it is.
            open: Vec<(Network, bool)>,
            paid: HashMap<Network, Time>,
        }
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let limits = limits(prng.u32(0..6), prng.u32(0..4), prng.u64(0..4), prng.u64(1..6));
            let networks = networks(limits);
            let mut model = Model::default();
            let mut now = Time::from_millis(1_000);
            for _ in 0..400 {
                now = now + Duration::from_millis(prng.u64(0..200));
                let network = networks.network([10, 0, 0, prng.u8(0..8)].into());
                match prng.u8(0..4) {
                    0 | 1 => {
                        let here = model.open.iter().filter(|(of, _)| *of == network).count() as u32;
                        let unauthenticated = model
                            .open
                            .iter()
                            .filter(|(of, authenticated)| *of == network && !authenticated)
                            .count() as u32;
                        let full = |count, max| max > 0 && count >= max;
                        let expected = match () {
                            () if full(here, limits.connections_max) => Err(Exhausted::Connections),
                            () if full(unauthenticated, limits.unauthenticated_max) => {
                                Err(Exhausted::Unauthenticated)
                            }
                            () => Ok(()),
                        };
                        assert_eq!(networks.enter(network, now), expected, "seed {seed}");
                        if expected.is_err() {
                            continue;
                        }
                        model.open.push((network, false));
                        let paid = model.paid.entry(network).or_default();
                        let may = limits.connects.is_none_or(|rate| rate.take(paid, now, 1));
                        assert_eq!(networks.connect(network, now).is_ok(), may, "seed {seed}");
                    }
                    2 => {
                        let unauthenticated = model.open.iter_mut().find(|(_, authenticated)| !authenticated);
                        if let Some((network, authenticated)) = unauthenticated {
                            networks.authenticate(*network);
                            *authenticated = true;
                        }
                    }
                    _ if !model.open.is_empty() => {
                        let (network, authenticated) = model.open.swap_remove(prng.usize(..model.open.len()));
                        networks.leave(network, !authenticated, now);
                    }
                    _ => {}
                }
            }
            for (network, authenticated) in model.open {
                networks.leave(network, !authenticated, now);
            }
            assert!(networks.parts.iter().all(|part| {
                let part = lock(part);
                part.networks.len() == part.idle.len()
                    && part.networks.values().all(|usage| usage.unauthenticated == 0)
            }));
        }
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let networks = networks(limits(5, 0, 1, 20));
        let now = Time::from_millis(1_000);
        let one = networks.network([10, 0, 0, 1].into());
        let connected = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if networks.enter(one, now).is_ok() {
                            let usage = networks.part(one).networks[&one];
                            assert!(usage.connections <= 5);
                            let unit = networks.connect(one, now).is_ok();
                            connected.fetch_add(unit.into(), std::sync::atomic::Ordering::Relaxed);
                            networks.leave(one, true, now);
                        }
                    }
                });
            }
        });
        assert_eq!(connected.into_inner(), 20);
    }
}
