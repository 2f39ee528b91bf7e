//! How much clients may do in a time: a connection's commands and bytes, a user's, a channel's publications.
//!
//! Nothing of this lies in a connection's slot: there are tables beside, of those who did something a moment ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

use crate::base::fault::{Disconnect, Refusal};
use crate::base::ids::ChannelName;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::hub::asks::PublishAsk;
use crate::hub::users::UserPolicy;
use crate::shard::ShardOptions;
use crate::shard::core::Core;
use crate::shard::peer::Peer;

/// Entries of one of the tables of [`UserRates`]. With four tables a user who does nothing wrong is held back only
/// when in each of them another one with the same place is busy: with ten thousand users at their limit at a time, one of
/// two thousand.
const USER_PLACES: usize = 1 << 16;
const USER_TABLES: usize = 4;

/// Connections whose rate is remembered before those at rest are looked for and forgotten.
const SLOTS_SWEPT_FROM: usize = 1024;

/// Channels whose rate is remembered before those at rest are looked for and forgotten.
const CHANNELS_SWEPT_FROM: usize = 1024;

/// What a node allows its clients. Zero means no limit.
#[derive(Clone, Debug, Default)]
pub struct ClientLimits {
    pub user_connections_max: u32,
    pub user_connections_policy: UserPolicy,
    pub commands_per_second: u32,
    /// Commands that a connection, or a user, may send at once after a rest.
    pub commands_burst: u32,
    pub bytes_per_second: u64,
    /// Commands of users, for all shards together; `None` without a limit.
    pub users: Option<Arc<UserRates>>,
    /// The same in bytes.
    pub user_bytes: Option<Arc<UserRates>>,
}

/// The rates of one shard's connections, and of channels whose home it is.
#[derive(Debug)]
pub struct Rates {
    commands: Option<Rate>,
    bytes: Option<Rate>,
    users: Option<Arc<UserRates>>,
    user_bytes: Option<Arc<UserRates>>,
    /// Of connections that are not at rest, by slot: an idle one costs nothing. Bounded by the connections of the shard.
    slots: HashMap<u32, SlotRates, RandomState>,
    slots_sweep_at: usize,
    /// Some namespace limits what is published.
    limits_channels: bool,
    channels: HashMap<ChannelName, ChannelRates, RandomState>,
    sweep_at: usize,
}

/// Of the connection that has the slot, told by its generation.
#[derive(Clone, Copy, Debug, Default)]
struct SlotRates {
    commands_paid_until: Time,
    bytes_paid_until: Time,
    generation: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct ChannelRates {
    publications_paid_until: Time,
    bytes_paid_until: Time,
}

impl Rates {
    /// `None` when nothing is limited.
    pub fn new(options: &ShardOptions) -> Option<Box<Rates>> {
        let limits = &options.client_limits;
        let limits_channels = options
            .rules
            .all()
            .any(|options| options.publish_per_second > 0 || options.publish_bytes_per_second > 0);
        // A message of the longest kind is one that clients may send, whatever the rate.
        let bytes_burst = limits.bytes_per_second.saturating_add(options.message_bytes_max as u64);
        let rates = Rates {
            commands: Rate::new(limits.commands_per_second.into(), limits.commands_burst.into()),
            bytes: Rate::new(limits.bytes_per_second, bytes_burst),
            users: limits.users.clone(),
            user_bytes: limits.user_bytes.clone(),
            slots: HashMap::default(),
            slots_sweep_at: SLOTS_SWEPT_FROM,
            limits_channels,
            channels: HashMap::default(),
            sweep_at: CHANNELS_SWEPT_FROM,
        };
        let limits_something = rates.commands.is_some()
            || rates.bytes.is_some()
            || rates.users.is_some()
            || rates.user_bytes.is_some()
            || limits_channels;
        limits_something.then(|| Box::new(rates))
    }

    /// Until when what the connection has sent is paid for: commands, and bytes.
    pub fn paid(&self, slot: u32, generation: u32) -> (Time, Time) {
        let entry = self.slots.get(&slot).filter(|entry| entry.generation == generation);
        entry.map(|entry| (entry.commands_paid_until, entry.bytes_paid_until)).unwrap_or_default()
    }

    fn slot(&mut self, slot: u32, generation: u32, now: Time) -> &mut SlotRates {
        if self.slots.len() >= self.slots_sweep_at {
            self.slots.retain(|_, rates| rates.commands_paid_until.max(rates.bytes_paid_until) > now);
            self.slots_sweep_at = (self.slots.len() * 2).max(SLOTS_SWEPT_FROM);
            self.slots.shrink_to(self.slots_sweep_at);
        }
        let entry = self.slots.entry(slot).or_default();
        if entry.generation != generation {
            *entry = SlotRates { generation, ..SlotRates::default() };
        }
        entry
    }

    /// Forgets channels at rest when there have come to be many: those are as good as new.
    fn sweep_channels(&mut self, now: Time) {
        if self.channels.len() >= self.sweep_at {
            self.channels.retain(|_, rates| rates.publications_paid_until.max(rates.bytes_paid_until) > now);
            self.sweep_at = (self.channels.len() * 2).max(CHANNELS_SWEPT_FROM);
        }
    }
}

impl Core {
    /// How many commands the client may send now.
    pub fn commands_allowed(&mut self, slot: u32) -> u32 {
        let Some(rates) = &mut self.peers.rates else { return u32::MAX };
        let Some(connection) = self.links.connections.get(slot) else { return u32::MAX };
        let mut allowed = u64::from(u32::MAX);
        if let Some(rate) = rates.commands {
            let entry = rates.slot(slot, connection.link.generation, self.env.now);
            allowed = allowed.min(rate.available(entry.commands_paid_until, self.env.now));
        }
        if let (Some(users), Some(user)) = (&rates.users, user_of(&connection.peer)) {
            allowed = allowed.min(users.available(user, self.env.now));
        }
        allowed as u32
    }

    /// The client has sent `count` commands.
    pub fn charge_commands(&mut self, slot: u32, count: u32) {
        let Some(rates) = self.peers.rates.as_mut().filter(|_| count > 0) else { return };
        let Some(connection) = self.links.connections.get(slot) else { return };
        if let Some(rate) = rates.commands {
            let entry = rates.slot(slot, connection.link.generation, self.env.now);
            entry.commands_paid_until = rate.after(entry.commands_paid_until, self.env.now, count.into());
        }
        if let (Some(users), Some(user)) = (&rates.users, user_of(&connection.peer)) {
            users.charge(user, self.env.now, count.into());
        }
    }

    /// One command of a connection that does not speak the client protocol. `user` is whom its request names, else it is
    /// the connection's own.
    ///
    /// # Errors
    /// [`Refusal::TooManyRequests`] over the limit.
    pub fn admit_command(&mut self, slot: u32, user: Option<&str>) -> Result<(), Refusal> {
        let Some(rates) = &mut self.peers.rates else { return Ok(()) };
        let Some(connection) = self.links.connections.get(slot) else { return Ok(()) };
        let user = user.filter(|user| !user.is_empty()).or_else(|| user_of(&connection.peer));
        let users = rates.users.as_ref().zip(user);
        let of_user = users.is_none_or(|(users, user)| users.available(user, self.env.now) > 0);
        if of_user && let Some((users, user)) = users {
            users.charge(user, self.env.now, 1);
        }
        let of_connection = rates.commands.is_none_or(|rate| {
            let entry = rates.slot(slot, connection.link.generation, self.env.now);
            rate.take(&mut entry.commands_paid_until, self.env.now, 1)
        });
        if of_user && of_connection {
            return Ok(());
        }
        self.env.stats.counters.commands_limited_total += 1;
        Err(Refusal::TooManyRequests)
    }

    /// Counts bytes that a client, or a reader of plain WebSocket, has sent.
    ///
    /// # Errors
    /// It has sent too many: it is to be closed with this.
    pub fn admit_bytes(&mut self, slot: u32, bytes: usize) -> Result<(), Disconnect> {
        let Some(rates) = &mut self.peers.rates else { return Ok(()) };
        let Some(connection) = self.links.connections.get(slot) else { return Ok(()) };
        if !connection.peer.bytes_are_limited() {
            return Ok(());
        }
        let of_user = match (&rates.user_bytes, user_of(&connection.peer)) {
            (Some(users), Some(user)) => {
                let free = users.available(user, self.env.now) > 0;
                if free {
                    users.charge(user, self.env.now, bytes as u64);
                }
                free
            }
            _ => true,
        };
        let of_connection = rates.bytes.is_none_or(|rate| {
            let entry = rates.slot(slot, connection.link.generation, self.env.now);
            rate.take(&mut entry.bytes_paid_until, self.env.now, bytes as u64)
        });
        match of_user && of_connection {
            true => Ok(()),
            false => Err(Disconnect::TOO_MANY_REQUESTS),
        }
    }

    /// A client publishes to a channel whose home is here. What the server API publishes is not asked about: the backend
    /// knows what it does.
    ///
    /// # Errors
    /// [`Refusal::TooManyRequests`] over the limits of the channel's namespace.
    pub fn admit_publication(&mut self, ask: &PublishAsk) -> Result<(), Refusal> {
        let now = self.env.now;
        let Some(rates) = self.peers.rates.as_mut().filter(|rates| rates.limits_channels) else {
            return Ok(());
        };
        let options = self.env.options.rules.resolve(&ask.channel)?;
        let (count, bytes) = (options.publish_per_second.into(), options.publish_bytes_per_second as u64);
        let (count, bytes) = (Rate::new(count, count), Rate::new(bytes, bytes));
        if count.is_none() && bytes.is_none() {
            return Ok(());
        }
        rates.sweep_channels(now);
        let entry = match rates.channels.get_mut(&ask.channel) {
            Some(entry) => entry,
            None => rates.channels.entry(ask.channel.clone()).or_default(),
        };
        let free =
            |rate: Option<Rate>, paid_until| rate.is_none_or(|rate| rate.available(paid_until, now) > 0);
        if !(free(count, entry.publications_paid_until) && free(bytes, entry.bytes_paid_until)) {
            self.env.stats.counters.publications_limited_total += 1;
            return Err(Refusal::TooManyRequests);
        }
        if let Some(rate) = count {
            rate.take(&mut entry.publications_paid_until, now, 1);
        }
        if let Some(rate) = bytes {
            rate.take(&mut entry.bytes_paid_until, now, ask.data.len() as u64);
        }
        Ok(())
    }
}

/// The user that a connection belongs to. The anonymous are nobody in particular.
fn user_of(peer: &Peer) -> Option<&str> {
    peer.user().map(|user| &**user).filter(|user| !user.is_empty())
}

/// The rates of all users of a node in tables of a fixed size, for all shards at once and without a lock.
///
/// A user has a place in each of four tables, by a keyed hash, and shares it with whoever else falls there. A place says
/// until when what was taken there is paid for, so that of a user's four the earliest is nearest to the truth, and never
/// before it: nobody gets more than the limit, and who gets less shares all four places with busy users.
pub struct UserRates {
    rate: Rate,
    hash: RandomState,
    /// Nanoseconds of [`Time`]. 2 MiB.
    tables: [Box<[AtomicU64]>; USER_TABLES],
}

impl std::fmt::Debug for UserRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRates").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl UserRates {
    /// `seed` keys the places, so that a stranger cannot choose names that share another's.
    pub fn new(rate: Rate, seed: [u64; 4]) -> UserRates {
        let hash = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        let tables = std::array::from_fn(|_| (0..USER_PLACES).map(|_| AtomicU64::new(0)).collect());
        UserRates { rate, hash, tables }
    }

    pub fn available(&self, user: &str, now: Time) -> u64 {
        self.rate.available(self.paid_until(user), now)
    }

    /// Takes `units`. Two shards at once may both have found the last one available: the debt is then of both.
    pub fn charge(&self, user: &str, now: Time, units: u64) {
        // In all of them: two shards that each chose the earliest could choose two different ones, and each would miss what
        // the other took. Relaxed: each place stands for itself, and nothing else is told by it.
        for place in self.places(user) {
            let after = |paid| Some(self.rate.after(Time(paid), now, units).0);
            let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        }
    }

    fn paid_until(&self, user: &str) -> Time {
        Time(self.places(user).map(|place| place.load(Ordering::Relaxed)).min().unwrap_or(0))
    }

    fn places(&self, user: &str) -> impl Iterator<Item = &AtomicU64> {
        let hash = self.hash.hash_one(user);
        // Sixteen bits of the hash for each table.
        self.tables
            .iter()
            .enumerate()
            .map(move |(at, table)| &table[(hash >> (16 * at)) as usize % USER_PLACES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn users(per_second: u64, burst: u64) -> UserRates {
        UserRates::new(Rate::new(per_second, burst).unwrap(), [1, 2, 3, 4])
    }

    fn take(users: &UserRates, user: &str, now: Time) -> bool {
        let may = users.available(user, now) > 0;
        if may {
            users.charge(user, now, 1);
        }
        may
    }

    #[test]
    fn a_user_gets_the_rate_and_others_are_not_held_back_by_it() {
        let users = users(10, 5);
        let now = Time::from_millis(1_000_000);
        assert_eq!((0..50).filter(|_| take(&users, "greedy", now)).count(), 5);
        for other in 0..1_000 {
            assert!(take(&users, &format!("user-{other}"), now), "{other}");
        }
        assert!(!take(&users, "greedy", now + Duration::from_millis(99)));
        assert!(take(&users, "greedy", now + Duration::from_millis(100)));
    }

    #[test]
    fn a_crowd_at_its_limit_holds_hardly_anybody_back() {
        let users = users(1, 1);
        let now = Time::from_millis(1_000_000);
        for busy in 0..10_000 {
            users.charge(&format!("busy-{busy}"), now, 1);
        }
        let held_back =
            (0..10_000).filter(|other| users.available(&format!("other-{other}"), now) == 0).count();
        assert!(held_back <= 20, "{held_back} of 10,000");
        let busy = (0..10_000).filter(|busy| users.available(&format!("busy-{busy}"), now) > 0).count();
        assert_eq!(busy, 0, "nobody gets more than the limit");
    }

    #[test]
    fn shards_at_once_lose_no_charge() {
        let users = users(1, 1);
        let now = Time::from_millis(1_000_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| users.charge("one", now, 1)));
            }
        });
        assert_eq!(users.paid_until("one"), now + Duration::from_secs(4_000));
    }
}
