//! How much clients may do in a time: a connection's commands and bytes, a user's, a channel's publications.
//!
//! Nothing of this lies in a connection's slot: there are tables beside, of those who did something a moment ago.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::base::ids::ChannelName;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::hub::options::Namespaces;
use crate::session::rules::ChannelRules;
use crate::shard::options::ClientLimits;
use crate::shard::user_rates::UserRates;

/// Connections whose rate is remembered before those at rest are looked for and forgotten.
const SLOTS_SWEPT_FROM: usize = 1024;

/// Channels whose rate is remembered before those at rest are looked for and forgotten.
const CHANNELS_SWEPT_FROM: usize = 1024;

/// The rates of one shard's connections, and of channels whose owner it is.
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

/// Who sends: the connection that has the slot, told by its generation, and its user, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub slot: u32,
    pub generation: u32,
    pub user: Option<&'a str>,
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
    pub fn new(
        limits: &ClientLimits,
        namespaces: &Namespaces<ChannelRules>,
        message_bytes_max: usize,
    ) -> Option<Box<Rates>> {
        let limits_channels = namespaces
            .all()
            .any(|options| options.publish_per_second > 0 || options.publish_bytes_per_second > 0);
        // A message of the longest kind is one that clients may send, whatever the rate.
        let bytes_burst = limits.bytes_per_second.saturating_add(message_bytes_max as u64);
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

    /// The rates `new` in the place of `old`: who has sent too much has so still.
    pub fn exchange(old: Option<Box<Rates>>, new: Option<Box<Rates>>) -> Option<Box<Rates>> {
        let mut new = new?;
        if let Some(old) = old {
            let Rates { slots, slots_sweep_at, channels, sweep_at, .. } = *old;
            *new = Rates { slots, slots_sweep_at, channels, sweep_at, ..*new };
        }
        Some(new)
    }

    /// Until when what the connection has sent is paid for: commands, and bytes.
    pub fn paid(&self, slot: u32, generation: u32) -> (Time, Time) {
        let entry = self.slots.get(&slot).filter(|entry| entry.generation == generation);
        entry.map(|entry| (entry.commands_paid_until, entry.bytes_paid_until)).unwrap_or_default()
    }

    /// What [`Rates::paid`] was in another process.
    pub fn restore(&mut self, slot: u32, generation: u32, (commands, bytes): (Time, Time), now: Time) {
        if commands > now || bytes > now {
            let entry = self.slot(slot, generation, now);
            (entry.commands_paid_until, entry.bytes_paid_until) = (commands, bytes);
        }
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

    /// How many commands the sender may send now.
    pub fn commands_allowed(&mut self, of: Sender<'_>, now: Time) -> u32 {
        let mut allowed = u64::from(u32::MAX);
        if let Some(rate) = self.commands {
            let entry = self.slot(of.slot, of.generation, now);
            allowed = allowed.min(rate.available(entry.commands_paid_until, now));
        }
        if let (Some(users), Some(user)) = (&self.users, of.user) {
            allowed = allowed.min(users.available(user, now));
        }
        allowed as u32
    }

    /// The sender has sent `count` commands.
    pub fn charge_commands(&mut self, of: Sender<'_>, count: u32, now: Time) {
        if let Some(rate) = self.commands {
            let entry = self.slot(of.slot, of.generation, now);
            entry.commands_paid_until = rate.after(entry.commands_paid_until, now, count.into());
        }
        if let (Some(users), Some(user)) = (&self.users, of.user) {
            users.charge(user, now, count.into());
        }
    }

    /// Takes bytes. False when the sender, or its user, has sent too many.
    pub fn take_bytes(&mut self, of: Sender<'_>, bytes: u64, now: Time) -> bool {
        let of_user = match (&self.user_bytes, of.user) {
            (Some(users), Some(user)) => {
                let free = users.available(user, now) > 0;
                if free {
                    users.charge(user, now, bytes);
                }
                free
            }
            _ => true,
        };
        let of_connection = self.bytes.is_none_or(|rate| {
            let entry = self.slot(of.slot, of.generation, now);
            rate.take(&mut entry.bytes_paid_until, now, bytes)
        });
        of_user && of_connection
    }

    /// Some namespace limits what is published.
    pub fn limits_channels(&self) -> bool {
        self.limits_channels
    }

    /// Takes a publication of so many bytes. False when the channel has had too many, or too much, in its time.
    pub fn take_publication(
        &mut self,
        channel: &ChannelName,
        bytes: u64,
        count_per_second: u64,
        bytes_per_second: u64,
        now: Time,
    ) -> bool {
        let count = Rate::new(count_per_second, count_per_second);
        let volume = Rate::new(bytes_per_second, bytes_per_second);
        if count.is_none() && volume.is_none() {
            return true;
        }
        self.sweep_channels(now);
        let entry = match self.channels.get_mut(channel) {
            Some(entry) => entry,
            None => self.channels.entry(channel.clone()).or_default(),
        };
        let free =
            |rate: Option<Rate>, paid_until| rate.is_none_or(|rate| rate.available(paid_until, now) > 0);
        if !(free(count, entry.publications_paid_until) && free(volume, entry.bytes_paid_until)) {
            return false;
        }
        if let Some(rate) = count {
            rate.take(&mut entry.publications_paid_until, now, 1);
        }
        if let Some(rate) = volume {
            rate.take(&mut entry.bytes_paid_until, now, bytes);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rates(limits: &ClientLimits) -> Box<Rates> {
        Rates::new(limits, &Namespaces::new(ChannelRules::default(), [], 255), 100)
            .expect("something is limited")
    }

    fn of(slot: u32, user: Option<&str>) -> Sender<'_> {
        Sender { slot, generation: 1, user }
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_limited() {
        assert!(
            Rates::new(&ClientLimits::default(), &Namespaces::new(ChannelRules::default(), [], 255), 100)
                .is_none()
        );
    }

    #[test]
    fn commands_are_of_a_connection_and_of_its_user() {
        let users = Arc::new(UserRates::new(Rate::new(3, 3).unwrap(), [1, 2, 3, 4]));
        let limits = ClientLimits {
            commands_per_second: 2,
            commands_burst: 2,
            users: Some(users),
            ..ClientLimits::default()
        };
        let (mut rates, now) = (rates(&limits), Time::from_millis(1_000_000));
        assert_eq!(rates.commands_allowed(of(1, None), now), 2);
        rates.charge_commands(of(1, Some("u")), 2, now);
        assert_eq!(rates.commands_allowed(of(1, Some("u")), now), 0, "the connection has had its two");
        assert_eq!(rates.commands_allowed(of(2, Some("u")), now), 1, "the user has one left");
        assert_eq!(rates.commands_allowed(of(2, Some("v")), now), 2);
        // Another connection in the slot owes nothing.
        assert_eq!(rates.commands_allowed(Sender { generation: 2, ..of(1, None) }, now), 2);
        assert_eq!(rates.commands_allowed(of(1, None), now + Duration::from_secs(2)), 2);
    }

    #[test]
    fn bytes_are_taken_until_there_are_none() {
        let limits = ClientLimits { bytes_per_second: 1_000, ..ClientLimits::default() };
        let (mut rates, now) = (rates(&limits), Time::from_millis(1_000_000));
        let taken = (0..100).take_while(|_| rates.take_bytes(of(1, None), 100, now)).count();
        assert!((10..=12).contains(&taken), "a second's, and a message of the longest kind: {taken}");
        assert!(rates.take_bytes(of(2, None), 100, now));
        assert!(rates.take_bytes(of(1, None), 100, now + Duration::from_secs(2)));
    }

    #[test]
    fn publications_are_counted_for_each_channel() {
        let limits = ClientLimits { commands_per_second: 1, commands_burst: 1, ..ClientLimits::default() };
        let (mut rates, now) = (rates(&limits), Time::from_millis(1_000_000));
        let mut take = |channel: &str, bytes| rates.take_publication(&channel.into(), bytes, 2, 100, now);
        assert_eq!([take("a", 1), take("a", 1), take("a", 1)], [true, true, false]);
        assert_eq!([take("b", 500), take("b", 1)], [true, false], "too much after too long a one");
        assert!((0..5).all(|_| rates.take_publication(&"c".into(), 9, 0, 0, now)), "no limit");
    }
}
