//! What a [`OwnedChannels`] retains of channels: their logs and idempotency keys, within the bounds.

use std::sync::Arc;

use super::OwnedChannels;
use crate::base::ids::{Offset, Position};
use crate::base::publication::Publication;
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::hub::history::{Log, entry_bytes};
use crate::hub::idempotency::KeyOwner;
use crate::hub::owned::channel::Channel;
use crate::hub::sequencer::Version;
use crate::record::{ValuesRecord, VersionRecord};

/// Logs looked at, beside the growing one, to find a heavy one. Seven random ones hold one of the heaviest quarter with
/// a probability of 87 %, at the cost of seven memory reads an eviction.
const EVICTION_SAMPLES: usize = 7;

/// Entries (or keys) over by age that adding one drops: more than is added, so that they shrink even unswept.
const EXPIRED_DROPS_PER_APPEND: usize = 2;

impl OwnedChannels {
    // ---- keys ----

    pub(super) fn remember_key(
        &mut self,
        owner: KeyOwner,
        key: &str,
        position: Position,
        expires: Time,
        now: Time,
    ) {
        for _ in 0..EXPIRED_DROPS_PER_APPEND {
            if let Some(dropped) = self.keys.drop_expired(now) {
                self.key_dropped(dropped);
            }
        }
        if self.keys.is_full() {
            self.counts.keys_evicted_total += u64::from(self.keys.oldest_is_live(now));
            if let Some(dropped) = self.keys.drop_oldest() {
                self.key_dropped(dropped);
            }
        }
        if self.keys.insert(owner, key, position, expires) {
            let channel = self.channels.get_mut(owner.slot).expect("published to just now");
            channel.keys += 1;
            channel.active_until = channel.active_until.max(expires);
            self.settle(owner.slot);
        }
    }

    pub(super) fn key_dropped(&mut self, owner: KeyOwner) {
        // The channel may have been forgotten at a mention, before this key was swept.
        if let Some(channel) = self.channels.get_mut(owner.slot)
            && channel.life == owner.life
        {
            channel.keys -= 1;
            self.settle(owner.slot);
        }
    }

    // ---- history ----

    /// The publication that follows the newest; it is over at `expires`.
    pub(super) fn append(&mut self, slot: u32, publication: Arc<Publication>, expires: Time, now: Time) {
        let bytes = entry_bytes(&publication);
        if bytes > self.limits.history_bytes_max {
            // What was kept before it would have a hole after it.
            self.counts.history_evicted_total += 1;
            while self.drop_oldest(slot) {
                self.counts.history_evicted_total += 1;
            }
            self.settle(slot);
            return;
        }
        let channel = self.channels.get_mut(slot).expect("published to just now");
        let is_value = channel.options.is_value();
        let size = if is_value { usize::MAX } else { channel.options.history_size };
        // What never is over holds its channel by being there.
        channel.active_until = channel.active_until.max(if expires == Time::NEVER { now } else { expires });
        let log = channel.log.get_or_insert_with(|| {
            let mut log = match is_value {
                true => Box::new(Log::of_values(Offset(publication.offset().0 - 1))),
                false => Box::default(),
            };
            log.place = self.logs.len() as u32;
            self.logs.push(slot);
            log
        });
        let before = (log.bytes(), log.len());
        log.push(publication, expires);
        if log.values().is_some_and(|values| values.removals() > channel.options.keys_max) {
            log.drop_removals();
        }
        self.counts.history_bytes = self.counts.history_bytes - before.0 + log.bytes();
        self.counts.history_publications = self.counts.history_publications - before.1 + log.len();

        let too_many = log.len().saturating_sub(size);
        for _ in 0..too_many {
            self.drop_oldest(slot);
        }
        for _ in 0..EXPIRED_DROPS_PER_APPEND {
            if self.oldest_expires(slot).is_some_and(|expires| expires <= now) {
                self.drop_oldest(slot);
            }
        }
        while self.counts.history_bytes > self.limits.history_bytes_max {
            if let Some(due) = self.expiries.due(now) {
                self.expire_oldest(due, now);
                continue;
            }
            let heaviest = self.heaviest(slot);
            assert!(self.drop_oldest(heaviest), "bytes are counted, so some log holds them");
            self.counts.history_evicted_total += 1;
            self.settle(heaviest);
        }
        self.settle(slot);
    }

    /// One that was written before; of a value channel with what that knew when its first entry was written.
    pub(super) fn append_stored(
        &mut self,
        slot: u32,
        publication: Arc<Publication>,
        version: Option<VersionRecord>,
        values: Option<&ValuesRecord>,
        expires: Time,
        now: Time,
    ) {
        let first = self.channels.get(slot).is_some_and(|channel| channel.log.is_none());
        let key: Box<str> = publication.key().into();
        self.append(slot, publication, expires, now);
        let log = self.channels.get_mut(slot).and_then(|channel| channel.log.as_deref_mut());
        if let Some(log) = log.and_then(Log::values_mut) {
            if let (true, Some(values)) = (first, values) {
                log.restore(values);
            }
            if let Some(VersionRecord { number, epoch }) = version {
                log.saw(&key, Version { number, epoch });
            }
        }
    }

    /// The heaviest of the growing log and a few others. All that are looked at have entries, unless `growing` has
    /// lost its last; then another one has.
    pub(super) fn heaviest(&mut self, growing: u32) -> u32 {
        let bytes_of = |channels: &Slots<Channel>, slot: u32| {
            channels.get(slot).and_then(|channel| channel.log.as_deref()).map_or(0, Log::bytes)
        };
        let mut heaviest = (bytes_of(&self.channels, growing), growing);
        for _ in 0..EVICTION_SAMPLES {
            let slot = self.logs[self.prng.usize(..self.logs.len())];
            let bytes = bytes_of(&self.channels, slot);
            if bytes > heaviest.0 {
                heaviest = (bytes, slot);
            }
        }
        heaviest.1
    }

    /// Treats one due expiry: drops the oldest entry if it is over, or sets the deadline right.
    pub(super) fn expire_oldest(&mut self, slot: u32, now: Time) {
        if self.oldest_expires(slot).is_some_and(|expires| expires <= now) {
            self.drop_oldest(slot);
        }
        if let Some(expires) = self.oldest_expires(slot) {
            self.expiries.set(slot, expires);
        }
        self.settle(slot);
    }

    pub(super) fn oldest_expires(&self, slot: u32) -> Option<Time> {
        self.channels.get(slot)?.log.as_deref()?.oldest_expires()
    }

    /// Drops the oldest entry of a channel's log, and the log with its last. False when there was none.
    pub(super) fn drop_oldest(&mut self, slot: u32) -> bool {
        let Some(channel) = self.channels.get_mut(slot) else { return false };
        let Some(log) = &mut channel.log else { return false };
        let Some(bytes) = log.drop_oldest() else { return false };
        self.counts.history_bytes -= bytes;
        self.counts.history_publications -= 1;
        if log.is_empty() {
            let place = log.place;
            channel.log = None;
            self.logs.swap_remove(place as usize);
            if let Some(&moved) = self.logs.get(place as usize) {
                let log = self.channels.get_mut(moved).and_then(|channel| channel.log.as_deref_mut());
                log.expect("a listed log has a channel").place = place;
            }
        }
        true
    }
}
