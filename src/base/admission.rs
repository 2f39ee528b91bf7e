//! Who of those that come may stay: limits of each client network, and of the whole node, for all shards together.
//!
//! Nobody is held to these who is connected already. Where nothing is limited there is none of this.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use parking_lot::RwLock;

use crate::base::networks::{Exhausted, Network, NetworkLimits, Networks};
use crate::base::prng::Prng;
use crate::base::rate::{Rate, SharedRate};
use crate::base::time::Time;

/// What a node lets in. Zero, or no rate: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    pub network: NetworkLimits,
    pub connects: Option<Rate>,
    pub unauthenticated_max: u32,
    /// How busy a shard may be, in percent of its time, when somebody new comes.
    pub busy_percent_max: u32,
    /// How long a client that is refused is to stay away at most. A second at least.
    pub retry_after_max: Duration,
}

impl AdmissionLimits {
    fn limit_networks(&self) -> bool {
        let network = &self.network;
        network.connections_max > 0 || network.unauthenticated_max > 0 || network.connects.is_some()
    }

    fn limit_node(&self) -> bool {
        self.connects.is_some() || self.unauthenticated_max > 0 || self.busy_percent_max > 0
    }
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The node, or the shard, has as many connections as it may.
    NodeConnections,
    /// Its network has too many connections.
    NetworkConnections,
    /// Too many of its network have not shown who they are.
    NetworkUnauthenticated,
    /// Its network connects too fast.
    NetworkConnects,
    /// Too many of the node have not shown who they are.
    NodeUnauthenticated,
    /// All together connect too fast.
    NodeConnects,
    /// The shard has enough to do with those that are there.
    NodeBusy,
    /// The node's clients are to go elsewhere.
    NodeDraining,
}

const REFUSALS: usize = 8;

impl Refusal {
    /// It is the network's own doing, not the node's.
    pub fn is_of_network(self) -> bool {
        matches!(
            self,
            Refusal::NetworkConnections | Refusal::NetworkUnauthenticated | Refusal::NetworkConnects
        )
    }

    /// RFC 6585 section 4, or RFC 9110 section 15.6.4.
    pub fn status(self) -> u16 {
        if self.is_of_network() { 429 } else { 503 }
    }

    /// For the client.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::NodeConnections => "too many connections",
            Refusal::NetworkConnections => "too many connections from your network",
            Refusal::NetworkUnauthenticated => "too many unauthenticated connections from your network",
            Refusal::NetworkConnects => "your network connects too often",
            Refusal::NodeUnauthenticated => "too many unauthenticated connections",
            Refusal::NodeConnects => "too many clients connect at once",
            Refusal::NodeBusy => "too busy for new clients",
            Refusal::NodeDraining => "this node lets no more clients in: connect to another",
        }
    }
}

impl From<Exhausted> for Refusal {
    fn from(exhausted: Exhausted) -> Refusal {
        match exhausted {
            Exhausted::Connections => Refusal::NetworkConnections,
            Exhausted::Unauthenticated => Refusal::NetworkUnauthenticated,
            Exhausted::Connects => Refusal::NetworkConnects,
        }
    }
}

#[derive(Debug)]
pub struct Admission {
    limits: RwLock<AdmissionLimits>,
    networks: Option<Networks>,
    connects: SharedRate,
    /// Connections that have not shown who they are.
    unauthenticated: AtomicU32,
    refused: [AtomicU64; REFUSALS],
    /// The network that was refused last, for the log.
    refused_network: Mutex<Option<Network>>,
}

impl Admission {
    /// `None` where nothing is limited. `seed` as for [`Networks::new`].
    pub fn new(limits: AdmissionLimits, seed: [u64; 4]) -> Option<Admission> {
        let limits_networks = limits.limit_networks();
        (limits_networks || limits.limit_node()).then(|| Admission {
            networks: limits_networks.then(|| Networks::new(limits.network, seed)),
            connects: SharedRate::default(),
            unauthenticated: AtomicU32::new(0),
            refused: [const { AtomicU64::new(0) }; REFUSALS],
            refused_network: Mutex::new(None),
            limits: RwLock::new(limits),
        })
    }

    pub fn limits(&self) -> AdmissionLimits {
        *self.limits.read()
    }

    /// Whether all that is counted for these limits is counted already.
    pub fn may_have(&self, limits: &AdmissionLimits) -> bool {
        match &self.networks {
            None => !limits.limit_networks() && limits.limit_node(),
            Some(networks) => {
                let (old, new) = (networks.limits(), limits.network);
                (old.prefix_ipv4, old.prefix_ipv6) == (new.prefix_ipv4, new.prefix_ipv6)
                    && (limits.limit_networks() || limits.limit_node())
            }
        }
    }

    /// These limits hold for those who come from now on. Only such that it [may have](Admission::may_have).
    pub fn set_limits(&self, limits: AdmissionLimits) {
        if let Some(networks) = &self.networks {
            networks.set_limits(limits.network);
        }
        *self.limits.write() = limits;
    }

    /// Whether it matters where clients come from.
    pub fn wants_addresses(&self) -> bool {
        self.networks.is_some()
    }

    pub fn networks(&self) -> Option<&Networks> {
        self.networks.as_ref()
    }

    /// Counts a connection, as one that has not shown who it is.
    ///
    /// # Errors
    /// Why it is not let in: then nothing is counted.
    pub fn enter(&self, network: Option<Network>, now: Time) -> Result<(), Refusal> {
        let max = self.limits().unauthenticated_max;
        let next = |count: u32| (max == 0 || count < max).then_some(count + 1);
        // Relaxed: the number guards no other memory.
        let counted = self.unauthenticated.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        counted.map_err(|_| Refusal::NodeUnauthenticated)?;
        if let (Some(networks), Some(network)) = (&self.networks, network)
            && let Err(exhausted) = networks.enter(network, now)
        {
            self.unauthenticated.fetch_sub(1, Ordering::Relaxed);
            return Err(exhausted.into());
        }
        Ok(())
    }

    /// The first request of a client: takes its network's share first, which is no fault of others.
    ///
    /// # Errors
    /// Why it is not let in. Its connection stays counted.
    pub fn connect(&self, network: Option<Network>, busy_percent: u32, now: Time) -> Result<(), Refusal> {
        let limits = self.limits();
        if limits.busy_percent_max > 0 && busy_percent > limits.busy_percent_max {
            return Err(Refusal::NodeBusy);
        }
        if let (Some(networks), Some(network)) = (&self.networks, network) {
            networks.connect(network, now)?;
        }
        match limits.connects.is_none_or(|rate| self.connects.take(rate, now, 1)) {
            true => Ok(()),
            false => Err(Refusal::NodeConnects),
        }
    }

    /// A connection that was counted has shown who it is.
    pub fn authenticate(&self, network: Option<Network>) {
        self.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        if let (Some(networks), Some(network)) = (&self.networks, network) {
            networks.authenticate(network);
        }
    }

    /// A connection that was counted is gone.
    pub fn leave(&self, network: Option<Network>, unauthenticated: bool, now: Time) {
        if unauthenticated {
            self.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        }
        if let (Some(networks), Some(network)) = (&self.networks, network) {
            networks.leave(network, unauthenticated, now);
        }
    }

    /// A client was refused. The shard counts as well; this is for the log.
    pub fn refused(&self, refusal: Refusal, network: Option<Network>) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(network) = network.filter(|_| refusal.is_of_network()) {
            *self.refused_network.lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
        }
    }

    /// How many were refused: for what their networks have too much of, or else.
    pub fn refused_total(&self, of_networks: bool) -> u64 {
        const ALL: [Refusal; REFUSALS] = [
            Refusal::NodeConnections,
            Refusal::NetworkConnections,
            Refusal::NetworkUnauthenticated,
            Refusal::NetworkConnects,
            Refusal::NodeUnauthenticated,
            Refusal::NodeConnects,
            Refusal::NodeBusy,
            Refusal::NodeDraining,
        ];
        let of_kind = ALL.into_iter().filter(|refusal| refusal.is_of_network() == of_networks);
        of_kind.map(|refusal| self.refused[refusal as usize].load(Ordering::Relaxed)).sum()
    }

    /// The network that was refused last.
    pub fn refused_network(&self) -> Option<Network> {
        *self.refused_network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that have not shown who they are.
    pub fn unauthenticated(&self) -> u32 {
        self.unauthenticated.load(Ordering::Relaxed)
    }

    /// How many seconds a refused client is to stay away: at random, so that those refused together do not come back together.
    pub fn retry_after_s(&self, prng: &mut Prng) -> u64 {
        prng.u64(1..=self.limits().retry_after_max.as_secs().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> AdmissionLimits {
        AdmissionLimits {
            network: NetworkLimits {
                prefix_ipv4: 32,
                prefix_ipv6: 64,
                connections_max: 0,
                unauthenticated_max: 0,
                connects: None,
            },
            connects: None,
            unauthenticated_max: 0,
            busy_percent_max: 0,
            retry_after_max: Duration::from_secs(30),
        }
    }

    fn admission(limits: AdmissionLimits) -> Admission {
        Admission::new(limits, [1, 2, 3, 4]).expect("something is limited")
    }

    #[test]
    fn where_nothing_is_limited_there_is_nothing() {
        assert!(Admission::new(limits(), [0; 4]).is_none());
        let node = AdmissionLimits { busy_percent_max: 90, ..limits() };
        assert!(!admission(node).wants_addresses());
    }

    #[test]
    fn who_is_refused_by_its_network_is_not_counted_for_the_node() {
        let network = NetworkLimits { connections_max: 1, ..limits().network };
        let admission = admission(AdmissionLimits { network, unauthenticated_max: 3, ..limits() });
        let now = Time::from_millis(1_000);
        let of = |last| Some(admission.networks().unwrap().network([10, 0, 0, last].into()));
        assert_eq!(admission.enter(of(1), now), Ok(()));
        assert_eq!(admission.enter(of(1), now), Err(Refusal::NetworkConnections));
        assert_eq!(admission.enter(of(2), now), Ok(()));
        assert_eq!(admission.enter(None, now), Ok(()));
        assert_eq!(admission.enter(of(3), now), Err(Refusal::NodeUnauthenticated));
        admission.authenticate(of(1));
        assert_eq!(admission.enter(of(3), now), Ok(()));
        for (of, unauthenticated) in [(of(1), false), (of(2), true), (None, true), (of(3), true)] {
            admission.leave(of, unauthenticated, now);
        }
        assert_eq!(admission.unauthenticated(), 0);
        assert!(admission.networks().unwrap().is_empty());
    }

    #[test]
    fn a_network_that_is_too_fast_takes_nothing_from_others() {
        let network = NetworkLimits { connects: Rate::new(1, 2), ..limits().network };
        let admission = admission(AdmissionLimits { network, connects: Rate::new(1, 4), ..limits() });
        let now = Time::from_millis(1_000);
        let of = |last| Some(admission.networks().unwrap().network([10, 0, 0, last].into()));
        let mut come = |last| {
            admission.enter(of(last), now).unwrap();
            admission.connect(of(last), 0, now)
        };
        assert_eq!(
            [1; 4].map(&mut come),
            [Ok(()), Ok(()), Err(Refusal::NetworkConnects), Err(Refusal::NetworkConnects)]
        );
        assert_eq!([2, 3, 4].map(&mut come), [Ok(()), Ok(()), Err(Refusal::NodeConnects)]);
    }

    #[test]
    fn other_numbers_hold_at_once_and_what_is_counted_stays() {
        let network = NetworkLimits { connections_max: 1, ..limits().network };
        let first = AdmissionLimits { network, ..limits() };
        let admission = admission(first);
        let now = Time::from_millis(1_000);
        let of = Some(admission.networks().unwrap().network([10, 0, 0, 1].into()));
        assert_eq!(admission.enter(of, now), Ok(()));
        assert_eq!(admission.enter(of, now), Err(Refusal::NetworkConnections));
        let network = NetworkLimits { connections_max: 2, ..network };
        let next = AdmissionLimits { network, connects: Rate::new(1, 1), unauthenticated_max: 9, ..first };
        assert!(admission.may_have(&next));
        admission.set_limits(next);
        assert_eq!(admission.enter(of, now), Ok(()));
        assert_eq!(admission.enter(of, now), Err(Refusal::NetworkConnections));
        assert_eq!(
            (admission.connect(of, 0, now), admission.connect(of, 0, now)),
            (Ok(()), Err(Refusal::NodeConnects))
        );
        assert_eq!(admission.unauthenticated(), 2);
        let node = AdmissionLimits { busy_percent_max: 9, ..limits() };
        assert!(admission.may_have(&node), "networks go on to be counted");
        let other = NetworkLimits { prefix_ipv4: 24, ..network };
        assert!(!admission.may_have(&AdmissionLimits { network: other, ..next }), "networks are others");
        assert!(!admission.may_have(&limits()), "nothing is limited");
        assert!(!self::admission(node).may_have(&next), "networks are not counted");
    }

    #[test]
    fn nobody_comes_to_a_busy_shard() {
        let admission = admission(AdmissionLimits { busy_percent_max: 80, ..limits() });
        assert_eq!(admission.connect(None, 80, Time::ZERO), Ok(()));
        assert_eq!(admission.connect(None, 81, Time::ZERO), Err(Refusal::NodeBusy));
    }

    #[test]
    fn refusals_are_counted_by_whose_doing_they_are() {
        let network = NetworkLimits { connections_max: 1, ..limits().network };
        let admission = admission(AdmissionLimits { network, ..limits() });
        let one = admission.networks().unwrap().network([10, 0, 0, 1].into());
        admission.refused(Refusal::NetworkConnects, Some(one));
        admission.refused(Refusal::NetworkConnections, None);
        admission.refused(Refusal::NodeBusy, None);
        assert_eq!((admission.refused_total(true), admission.refused_total(false)), (2, 1));
        assert_eq!(admission.refused_network(), Some(one));
        assert_eq!((Refusal::NetworkConnects.status(), Refusal::NodeBusy.status()), (429, 503));
    }

    #[test]
    fn those_refused_together_do_not_come_back_together() {
        let admission = admission(AdmissionLimits { busy_percent_max: 1, ..limits() });
        let mut prng = Prng::with_seed(1);
        let mut told = [0; 31];
        for _ in 0..1_000 {
            told[admission.retry_after_s(&mut prng) as usize] += 1;
        }
        assert_eq!(told[0], 0);
        assert!(told[1..].iter().all(|count| *count > 0));
    }
}
