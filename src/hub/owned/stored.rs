//! The durable channels of a [`OwnedChannels`] as entries of the store, and back at the start of a process.
//!
//! A copy is everything that is held, written again so that what was written before can go. It is taken in steps between other
//! work: each channel with the newest part of its log at once, older parts later. Whoever reads takes them together: what it
//! has already counts once, so that a copy that ends in the middle takes nothing away.

use std::collections::HashSet;
use std::sync::Arc;

use super::OwnedChannels;
use super::channel::Channel;
use super::copying::{Copying, OFFSET_JUMP, StoredMoment, Taken};
use crate::base::ids::{ChannelName, Epoch, Offset, Position};
use crate::base::publication::Publication;
use crate::base::time::Time;
use crate::hub::cursors::CursorKey;
use crate::hub::history::{Log, entry_bytes};
use crate::hub::idempotency::KeyOwner;
use crate::hub::limits::IDEMPOTENCY_KEY_TTL;
use crate::hub::log_store::{Durable, Pending};
use crate::hub::sequencer::{Sequencer, Version};
use crate::hub::values::ValueLog;
use crate::record::{
    KeyVersionRecord, PART_BYTES, PublicationRecord, RecordFault, StoredChannel, StoredKey, StoredKeys,
    StoredLog, StoredPublication, StoredRecord, StoredRemoval, ValuesRecord, VersionRecord,
};

/// What one step of a copy may take, in bytes: a millisecond of a shard.
const STEP_BYTES: usize = PART_BYTES;
/// What an entry of a copy costs beside its texts, in bytes, about.
const ITEM_BYTES: usize = 64;

impl OwnedChannels {
    /// Goes on with the copy that the store wants, if it wants one. True while there is more to do.
    pub fn copy_to_store(&mut self, at: StoredMoment) -> bool {
        let number = self.store.wants_copy();
        if number == 0 {
            self.copying = None;
            return false;
        }
        let begun = self.copying.take().filter(|copying| copying.number == number);
        let mut copying = begun.unwrap_or(Copying {
            number,
            slot: 0,
            below: None,
            cursors: None,
            keys: None,
            unsent: None,
        });
        let mut room = STEP_BYTES;
        while room > 0 {
            let Some((record, bytes)) = self.next_copied(&mut copying, at) else {
                self.store.copied(number);
                return false;
            };
            room = room.saturating_sub(bytes);
            if let Err(record) = self.store.copy(record) {
                copying.unsent = Some(record);
                break;
            }
        }
        self.copying = Some(copying);
        true
    }

    /// The next entry of a copy and about how many bytes it has.
    fn next_copied(&self, copying: &mut Copying, at: StoredMoment) -> Option<(StoredRecord, usize)> {
        // What found no room is as old as its channel's state then: it is made again.
        if let Some(StoredRecord::Keys(keys)) = copying.unsent.take() {
            return Some((StoredRecord::Keys(keys), STEP_BYTES));
        }
        while copying.slot < self.slots_used {
            let slot = copying.slot;
            if let Some(after) = copying.cursors {
                let (part, last) = self.cursors_copied(slot, after).unzip();
                copying.cursors = last.flatten();
                if copying.cursors.is_none() {
                    (copying.slot, copying.below) = (slot + 1, None);
                }
                match part {
                    Some(part) => {
                        let bytes = ITEM_BYTES * part.cursors.len() + part.channel.len();
                        return Some((StoredRecord::Cursors(part), bytes));
                    }
                    None => continue,
                }
            }
            let Some(channel) =
                self.channels.get(slot).filter(|channel| channel.options.durable != Durable::No)
            else {
                (copying.slot, copying.below) = (slot + 1, None);
                continue;
            };
            let owner = KeyOwner { slot, life: channel.life };
            let pending: Vec<&Pending> =
                self.appends.of(owner).map(|appends| appends.all().collect()).unwrap_or_default();
            let (entries, bytes, oldest) = part_before(channel, &pending, copying.below);
            let first = copying.below.is_none();
            match oldest {
                Some(oldest) => copying.below = Some(oldest),
                None => copying.cursors = Some(CursorKey::default()),
            }
            if first {
                let bytes = bytes + ITEM_BYTES + channel.name.len();
                return Some((StoredRecord::Channel(head_of(channel, &pending, entries)), bytes));
            }
            if !entries.is_empty() {
                let values = values_of(channel, &pending, &entries);
                let is_of_bytes = channel.options.is_of_bytes();
                let part = StoredLog { channel: channel.name.clone(), entries, values, bytes: is_of_bytes };
                return Some((StoredRecord::Log(part), bytes));
            }
        }
        let first = self.keys.first();
        let (next, end) = copying.keys.unwrap_or((first, first + self.keys.len() as u64));
        let from = next.max(first);
        let (mut bytes, mut seen, mut keys) = (0, from, Vec::new());
        for (owner, key, position, expires) in self.keys.from((from - first) as usize) {
            if bytes > STEP_BYTES || seen >= end {
                break;
            }
            seen += 1;
            let channel = self.channels.get(owner.slot).filter(|channel| channel.life == owner.life);
            let durable = channel.filter(|channel| channel.options.durable != Durable::No);
            let (Some(channel), Some(position)) = (durable, position) else { continue };
            let left_ms = expires.since(at.now).as_millis() as u64;
            let time_ms =
                at.wall_ms.saturating_sub(IDEMPOTENCY_KEY_TTL.as_millis() as u64 - left_ms.min(300_000));
            bytes += ITEM_BYTES + key.len() + channel.name.len();
            keys.push(StoredKey { channel: channel.name.clone(), key: key.into(), position, time_ms });
        }
        copying.keys = Some((seen, end));
        (!keys.is_empty()).then(|| (StoredRecord::Keys(StoredKeys { keys }), bytes))
    }

    /// Takes an entry of the store, in the order in which they were written. [`StoredRecord::Run`] and
    /// [`StoredRecord::End`] are for who reads it.
    pub fn take_stored(&mut self, record: StoredRecord, at: StoredMoment) -> Taken {
        let now = self.advance(at.now);
        let at = StoredMoment { now, ..at };
        match record {
            StoredRecord::Publication(stored) => self.take_publication(stored, at),
            StoredRecord::Channel(stored) => self.take_channel(stored, at),
            StoredRecord::Log(part) => {
                let Some(slot) = self.slot_named(&part.channel) else { return Taken::NotWanted };
                if !self.reads_none(slot, part.bytes) {
                    self.take_older(slot, part.entries, part.values, at);
                }
                Taken::Yes
            }
            StoredRecord::Keys(part) => {
                for StoredKey { channel, key, position, time_ms } in part.keys {
                    if let Some(slot) = self.slot_named(&channel) {
                        self.take_key(slot, &key, position, time_ms, at);
                    }
                }
                Taken::Yes
            }
            StoredRecord::Removal(StoredRemoval { channel, epoch, until }) => {
                let Some((slot, known)) = self.known_mut(&channel) else { return Taken::NotWanted };
                if known.position().epoch == epoch {
                    while self.oldest_offset(slot).is_some_and(|oldest| oldest <= until) {
                        self.drop_oldest(slot);
                    }
                    self.settle(slot);
                }
                Taken::Yes
            }
            StoredRecord::Cursors(stored) => self.take_cursors(stored, at),
            StoredRecord::Run(_) | StoredRecord::End | StoredRecord::Events(_) | StoredRecord::Blocks(_) => {
                Taken::Yes
            }
        }
    }

    /// Offsets of the channel may have been given that were not written.
    pub fn jump_stored(&mut self, channel: &str) {
        if let Some((slot, channel)) = self.known_mut(channel) {
            let before = channel.position().offset;
            channel.sequencer.jump(OFFSET_JUMP);
            let after = channel.position().offset;
            if let Some(values) = channel.log.as_deref_mut().and_then(Log::values_mut) {
                values.jumped(before, after);
            }
            self.cursors_jumped(slot, before, after);
        }
    }

    /// What was written of the channel last cannot be read: its positions are no longer those that were given.
    pub fn lose_stored(&mut self, channel: &str) {
        let epoch = Epoch(self.prng.u32(1..).into());
        if let Some((slot, channel)) = self.known_mut(channel) {
            let version = channel.sequencer.version().map(|version| Version { ..version.clone() });
            channel.sequencer = Sequencer::at(Position { offset: Offset(0), epoch }, version);
            while self.drop_oldest(slot) {}
            self.restart_cursors(slot);
            self.settle(slot);
        }
    }

    /// Everything was read.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] when there are more channels than there may be.
    pub fn finish_stored(&mut self) -> Result<(), RecordFault> {
        self.keys.sort();
        self.placed_by_cursors = HashSet::new();
        self.mark_stored();
        self.keep_to_bounds().map_err(|_| RecordFault::Impossible("more channels than limits.channels_max"))
    }

    fn take_publication(&mut self, stored: StoredPublication, at: StoredMoment) -> Taken {
        let StoredPublication { channel, publication, position, key, version, bytes, .. } = stored;
        if position.offset == Offset(u64::MAX) || publication.epoch != position.epoch {
            return Taken::Wrong;
        }
        let time_ms = publication.time_ms;
        let is_logged = publication.offset != Offset(0);
        let before = Position {
            offset: Offset(position.offset.0.saturating_sub(u64::from(is_logged))),
            epoch: position.epoch,
        };
        let Some((slot, is_new)) = self.slot_of(&channel, before, at) else { return Taken::NotWanted };
        // In the middle of a copy: what it has of the log comes later.
        let is_new = self.placed_by_cursors.remove(&slot) || is_new;
        let channel = self.channels.get_mut(slot).expect("known by now");
        let is_unread = bytes && !channel.options.is_of_bytes();
        let is_value = channel.options.is_value();
        let (of_key, of_channel) = if is_value { (version, None) } else { (None, version) };
        if let Some(VersionRecord { number, epoch }) = of_channel {
            channel.sequencer.saw(Version { number, epoch });
        }
        let mut taken = Taken::Yes;
        if is_logged {
            let top = channel.position().offset;
            if publication.offset <= top {
                return Taken::Wrong;
            }
            if publication.offset != top.next() && !is_new {
                taken = Taken::After(top, publication.offset);
                while self.drop_oldest(slot) {}
            }
            let channel = self.channels.get_mut(slot).expect("known by now");
            let version = channel.sequencer.version().cloned();
            channel.sequencer = Sequencer::at(position, version);
            let publication = publication.publication(&channel.name);
            match is_unread {
                // What is before it would have a hole behind it.
                true => while self.drop_oldest(slot) {},
                false => self.take_entry(slot, publication, of_key, None, at),
            }
        }
        if !key.is_empty() {
            self.take_key(slot, &key, position, time_ms, at);
        }
        self.settle(slot);
        taken
    }

    fn take_channel(&mut self, stored: StoredChannel, at: StoredMoment) -> Taken {
        let StoredChannel { channel, position, version, entries, values, bytes, .. } = stored;
        let Some((slot, is_new)) = self.slot_of(&channel, position, at) else { return Taken::NotWanted };
        let is_new = self.placed_by_cursors.remove(&slot) || is_new;
        let channel = self.channels.get_mut(slot).expect("known by now");
        let is_behind = channel.position().offset != position.offset;
        // Of older values than are here some may be missing.
        let floor = if is_behind && !is_new { position.offset } else { Offset(0) };
        let values = values.map(|values| ValuesRecord { floor: values.floor.max(floor), ..values });
        let version = version.map(|version| Version { number: version.number, epoch: version.epoch });
        channel.sequencer = Sequencer::at(position, version);
        if is_behind {
            while self.drop_oldest(slot) {}
        }
        if !self.reads_none(slot, bytes) {
            self.take_older(slot, entries, values, at);
        }
        self.settle(slot);
        Taken::Yes
    }

    /// Bytes are nothing for those who read JSON: they go, positions stay.
    fn reads_none(&self, slot: u32, bytes: bool) -> bool {
        bytes && self.channels.get(slot).is_some_and(|channel| !channel.options.is_of_bytes())
    }

    /// The slot of a channel whose epoch is that of `position`, made if it is unknown: where it stands then.
    pub(super) fn slot_of(
        &mut self,
        name: &ChannelName,
        position: Position,
        at: StoredMoment,
    ) -> Option<(u32, bool)> {
        let options =
            self.namespaces.resolve(name).ok().filter(|options| options.durable != Durable::No)?.clone();
        if position.epoch == Epoch::NONE {
            return None;
        }
        if let Some((slot, channel)) = self.known_mut(name) {
            if channel.position().epoch == position.epoch {
                return Some((slot, false));
            }
            self.forget(slot);
        }
        let channel = Channel::new(name.clone(), options, position.epoch, at.now, None);
        Some((self.add(Channel { sequencer: Sequencer::at(position, None), ..channel }), true))
    }

    /// Entries that are no newer than what is there of the log, oldest first.
    fn take_older(
        &mut self,
        slot: u32,
        entries: Vec<PublicationRecord>,
        values: Option<ValuesRecord>,
        at: StoredMoment,
    ) {
        let Some(channel) = self.channels.get(slot) else { return };
        let is_value = channel.options.is_value();
        // What it kept when its namespace was of another kind is of no use.
        if is_value != values.is_some() {
            return;
        }
        let (name, epoch) = (channel.name.clone(), channel.position().epoch);
        if self.oldest_offset(slot).is_none() {
            for entry in entries {
                if entry.epoch == epoch {
                    let version = values.as_ref().and_then(|values| values.version_of(entry.offset));
                    self.take_entry(slot, entry.publication(&name), version, values.as_ref(), at);
                }
            }
            return;
        }
        let log = self.channels.get_mut(slot).and_then(|channel| channel.log.as_deref_mut());
        if let (Some(log), Some(values)) = (log.and_then(Log::values_mut), &values) {
            log.restore_later(values);
        }
        for entry in entries.into_iter().rev() {
            let version = values.as_ref().and_then(|values| values.version_of(entry.offset));
            let publication = entry.publication(&name);
            let Some(expires) = self.expires(slot, &publication, at) else { return };
            let bytes = entry_bytes(&publication);
            let is_older = self.oldest_offset(slot).is_some_and(|oldest| publication.offset() < oldest);
            let has_room = self.counts.history_bytes + bytes <= self.limits.history_bytes_max;
            let Some(channel) = self.channels.get_mut(slot) else { return };
            let size = if is_value { usize::MAX } else { channel.options.history_size };
            if let Some(log) = &mut channel.log
                && is_older
                && has_room
                && publication.position.epoch == epoch
                && log.len() < size
            {
                let before = (log.bytes(), log.len());
                log.push_oldest(publication.clone(), expires);
                self.counts.history_bytes += log.bytes() - before.0;
                self.counts.history_publications += log.len() - before.1;
                if log.len() > before.1
                    && let (Some(values), Some(version)) = (log.values_mut(), version)
                {
                    let VersionRecord { number, epoch } = version;
                    values.saw(publication.key(), Version { number, epoch });
                }
                self.expiries.remove(slot);
            }
        }
        self.settle(slot);
    }

    /// Appends to the log, unless its time is over.
    fn take_entry(
        &mut self,
        slot: u32,
        publication: Arc<Publication>,
        version: Option<VersionRecord>,
        values: Option<&ValuesRecord>,
        at: StoredMoment,
    ) {
        let Some(expires) = self.expires(slot, &publication, at) else { return };
        let newest = self.channels.get(slot).and_then(|channel| channel.log.as_deref()?.newest());
        if newest.is_some_and(|(newest, _)| newest >= publication.offset()) {
            return;
        }
        let expires = newest.map_or(expires, |(_, before)| expires.max(before));
        self.append_stored(slot, publication, version, values, expires, at.now);
    }

    /// When the publication is over; `None`: it is.
    fn expires(&self, slot: u32, publication: &Publication, at: StoredMoment) -> Option<Time> {
        let options = &self.channels.get(slot)?.options;
        if options.keeps_for_ever() {
            return Some(Time::NEVER);
        }
        let age_ms = at.wall_ms.saturating_sub(publication.time_ms);
        let left_ms =
            (options.history_ttl.as_millis() as u64).checked_sub(age_ms).filter(|left| *left > 0)?;
        options.keeps_history().then(|| at.now + std::time::Duration::from_millis(left_ms))
    }

    fn oldest_offset(&self, slot: u32) -> Option<Offset> {
        self.channels.get(slot)?.log.as_deref()?.oldest()
    }

    fn take_key(&mut self, slot: u32, key: &str, position: Position, time_ms: u64, at: StoredMoment) {
        let Some(channel) = self.channels.get(slot) else { return };
        let owner = KeyOwner { slot, life: channel.life };
        let age_ms = at.wall_ms.saturating_sub(time_ms);
        let left_ms = (IDEMPOTENCY_KEY_TTL.as_millis() as u64).saturating_sub(age_ms);
        if key.len() > self.limits.key_bytes_max
            || left_ms == 0
            || self.keys.get(owner, key, at.now).is_some()
        {
            return;
        }
        let expires = at.now + std::time::Duration::from_millis(left_ms);
        self.remember_key(owner, key, position, expires, at.now);
    }
}

/// A channel as it will be when everything that is under way has been kept: if that fails, the copy has failed as well.
fn head_of(channel: &Channel, pending: &[&Pending], entries: Vec<PublicationRecord>) -> StoredChannel {
    let logged = |pending: &&&Pending| pending.publication.offset() != Offset(0);
    let newest = pending.iter().rev().find(logged).map(|pending| pending.publication.position);
    let coming = pending.iter().rev().find(|pending| pending.version > 0).map(|pending| version_of(pending));
    let seen = channel.sequencer.version();
    let seen = seen.map(|version| VersionRecord { number: version.number, epoch: version.epoch.clone() });
    StoredChannel {
        values: values_of(channel, pending, &entries),
        channel: channel.name.clone(),
        position: newest.unwrap_or(channel.position()),
        version: coming.or(seen),
        loose: channel.options.durable == Durable::Async,
        bytes: channel.options.is_of_bytes(),
        entries,
    }
}

/// The newest entries before `below`, oldest first, about how many bytes they have, and the offset of the oldest if there may
/// be more before it.
fn part_before(
    channel: &Channel,
    pending: &[&Pending],
    below: Option<Offset>,
) -> (Vec<PublicationRecord>, usize, Option<Offset>) {
    let is_before = |publication: &Publication| below.is_none_or(|below| publication.offset() < below);
    let coming = pending.iter().rev().map(|pending| &pending.publication);
    let coming = coming.filter(|publication| publication.offset() != Offset(0) && is_before(publication));
    let kept = channel.log.as_deref().into_iter().flat_map(|log| log.newest_before(below));
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for publication in coming.chain(kept) {
        if bytes > STEP_BYTES {
            let oldest = entries.last().map(|entry: &PublicationRecord| entry.offset);
            entries.reverse();
            return (entries, bytes, oldest);
        }
        bytes += entry_bytes(publication);
        entries.push(PublicationRecord::of(publication));
    }
    entries.reverse();
    (entries, bytes, None)
}

fn version_of(pending: &Pending) -> VersionRecord {
    VersionRecord { number: pending.version, epoch: pending.version_epoch.clone() }
}

/// What a value channel knows beside its entries, with what it knows of these.
fn values_of(channel: &Channel, pending: &[&Pending], entries: &[PublicationRecord]) -> Option<ValuesRecord> {
    if !channel.options.is_value() {
        return None;
    }
    let mut record = match channel.log.as_deref().and_then(Log::values) {
        Some(values) => values.to_record(entries),
        // Nothing is there that a position could be compared with.
        None => ValueLog::after(channel.position().offset).to_record(entries),
    };
    let versioned = pending.iter().filter(|pending| pending.version > 0);
    record.versions.extend(versioned.map(|pending| KeyVersionRecord {
        offset: pending.publication.offset(),
        version: version_of(pending),
    }));
    Some(record)
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
