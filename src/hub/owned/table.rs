//! The table of a [`OwnedChannels`]'s channels: known, made, forgotten.

use ahash::RandomState;

use super::OwnedChannels;
use super::channel::Channel;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Epoch};
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::hub::creators::{BUCKETS, Creator};
use crate::hub::history::Log;
use crate::hub::options::ChannelOptions;

/// Work a new channel does at the bound of channels, so that idle ones are known to be idle.
const SWEEP_WHEN_FULL: usize = 64;

/// A smaller table of channels is kept as it is: half a megabyte of names.
const TRIMMED_FROM: usize = 1 << 15;

/// Of the name that the channel of a slot has.
fn hash_of(channels: &Slots<Channel>, hash: &RandomState) -> impl Fn(&u32) -> u64 {
    |slot| channels.get(*slot).map_or(0, |channel| hash.hash_one(&*channel.name))
}

impl OwnedChannels {
    pub(super) fn advance(&mut self, now: Time) -> Time {
        self.clock = self.clock.max(now);
        self.clock
    }

    pub(super) fn slot_named(&self, name: &str) -> Option<u32> {
        let is_it = |slot: &u32| self.channels.get(*slot).is_some_and(|channel| *channel.name == *name);
        self.names.find(self.hash.hash_one(name), is_it).copied()
    }

    pub(super) fn known(&self, name: &str) -> Option<&Channel> {
        self.channels.get(self.slot_named(name)?)
    }

    pub(super) fn known_mut(&mut self, name: &str) -> Option<(u32, &mut Channel)> {
        let slot = self.slot_named(name)?;
        Some((slot, self.channels.get_mut(slot).expect("a name leads to a channel")))
    }

    pub(super) fn options(&self, name: &str) -> Result<&ChannelOptions, ErrorCode> {
        match self.known(name) {
            Some(channel) => Ok(&channel.options),
            None => self.namespaces.resolve(name).map(|options| &**options),
        }
    }

    /// The channel's slot, made if it is unknown. Marks it as used at `now`.
    pub(super) fn mention(&mut self, name: &ChannelName, by: &Creator, now: Time) -> Result<u32, ErrorCode> {
        if let Some((slot, channel)) = self.known_mut(name) {
            if !channel.is_over(now) {
                channel.active_until = channel.active_until.max(now);
                if *by == Creator::Backend
                    && let Some(bucket) = channel.creator.take()
                {
                    self.creators.remove(slot, bucket);
                }
                return Ok(slot);
            }
            self.forget(slot);
        }
        let options = self.namespaces.resolve(name)?.clone();
        let creator = self.bucket_of(by);
        self.make_room_for_channel(creator.is_some(), now)?;
        let epoch = Epoch(self.prng.u32(1..).into());
        Ok(self.add(Channel::new(name.clone(), options, epoch, now, creator)))
    }

    /// Gives a channel that is not known its slot and its life.
    pub(super) fn add(&mut self, channel: Channel) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots_used += 1;
            self.slots_used - 1
        });
        self.lives += 1;
        if let Some(bucket) = channel.creator {
            self.creators.add(bucket);
        }
        let hash = self.hash.hash_one(&*channel.name);
        self.channels.insert(slot, Channel { life: self.lives, ..channel });
        self.names.insert_unique(hash, slot, hash_of(&self.channels, &self.hash));
        self.settle(slot);
        slot
    }

    /// Where a client's channels are counted; `None` for the backend.
    pub(in crate::hub) fn bucket_of(&self, by: &Creator) -> Option<u16> {
        let hash = match by {
            Creator::Backend => return None,
            Creator::User(user) => self.hash.hash_one(user),
            Creator::Connection(conn) => self.hash.hash_one(conn.to_bits()),
        };
        Some((hash % u64::from(BUCKETS)) as u16)
    }

    /// Makes room for one channel more, if every place that it could take is taken and nothing is over by age.
    pub(super) fn make_room_for_channel(&mut self, for_client: bool, now: Time) -> Result<(), ErrorCode> {
        let share_is_full = |owned: &OwnedChannels| {
            for_client && owned.creators.channels() >= owned.limits.client_channels_max
        };
        let is_full = |owned: &OwnedChannels| owned.names.len() >= owned.limits.channels_max;
        if !share_is_full(self) && !is_full(self) {
            return Ok(());
        }
        self.sweep(now, SWEEP_WHEN_FULL);
        let victim = if share_is_full(self) {
            self.creators.first_to_go()
        } else if is_full(self) {
            // Whoever asks is below its share, so others are above theirs.
            self.forgets.first().or_else(|| self.creators.first_to_go())
        } else {
            return Ok(());
        };
        let Some(slot) = victim else {
            self.counts.channels_refused_total += 1;
            return Err(ErrorCode::LimitExceeded);
        };
        self.forget(slot);
        self.counts.channels_evicted_total += 1;
        Ok(())
    }

    /// Forgets channels until there are no more than there may be.
    pub(super) fn keep_to_bounds(&mut self) -> Result<(), ErrorCode> {
        loop {
            let of_clients = self.creators.channels() > self.limits.client_channels_max;
            if !of_clients && self.names.len() <= self.limits.channels_max {
                return Ok(());
            }
            self.make_room_for_channel(of_clients, self.clock)?;
        }
    }

    pub(super) fn forget(&mut self, slot: u32) {
        while self.drop_oldest(slot) {}
        self.expiries.remove(slot);
        self.forgets.remove(slot);
        self.announcements.remove(slot);
        self.attendances.remove(&slot);
        self.forget_cursors(slot);
        let channel = self.channels.remove(slot).expect("only a known channel is forgotten");
        assert!(channel.members.is_empty(), "a channel with subscribers is never forgotten");
        self.forget_occupancy(slot, &channel.name, channel.options.occupancy.as_deref());
        if let Some(bucket) = channel.creator {
            self.creators.remove(slot, bucket);
        }
        let hash = self.hash.hash_one(&*channel.name);
        if let Ok(known) = self.names.find_entry(hash, |known| *known == slot) {
            known.remove();
        }
        self.free.push(slot);
    }

    /// Gives memory back when most of the channels that it was for have gone. What is left is moved once for every time
    /// that the table has shrunk to an eighth.
    pub(super) fn trim(&mut self) {
        if self.names.capacity() > TRIMMED_FROM && self.names.len() * 8 < self.names.capacity() {
            self.names.shrink_to(self.names.len() * 2, hash_of(&self.channels, &self.hash));
            self.channels.trim();
        }
    }

    /// Brings the deadlines of a channel in line with what it holds. Called after everything that may make it idle or
    /// used, or give it a first log entry. A deadline that is too early is put right when it comes due.
    pub(super) fn settle(&mut self, slot: u32) {
        let channel = self.channels.get(slot).expect("settled while known");
        match channel.log.as_deref().and_then(Log::oldest_expires) {
            None => self.expiries.remove(slot),
            Some(expires) if expires != Time::NEVER && !self.expiries.contains(slot) => {
                self.expiries.set(slot, expires);
            }
            Some(_) => {}
        }
        match channel.creator {
            Some(bucket) if channel.members.is_empty() => self.creators.list(slot, bucket),
            Some(bucket) => self.creators.unlist(slot, bucket),
            None => {}
        }
        if !channel.is_idle() {
            self.forgets.remove(slot);
        } else if !self.forgets.contains(slot) {
            self.forgets.set(slot, channel.forget_at());
        }
    }
}
