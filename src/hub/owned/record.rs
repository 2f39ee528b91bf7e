//! The channels of a [`OwnedChannels`] as records, and back.
//!
//! ```text
//!  writing, for each of names():  to_record ─▶ log_part until there is none ─▶ members_parts        then keys_part until none
//!  reading:                       restore ─▶ restore_log ─▶ restore_members   restore_keys          then finish_restoring
//! ```
//! Bounds are those of the owner that reads: what has no room goes by the same rules as ever. For channels they hold when
//! everything has been restored: until then a channel whose members have not come yet looks like one that nobody needs.

use std::collections::HashMap;
use std::sync::Arc;

use super::OwnedChannels;
use super::channel::Channel;
use super::copying::OFFSET_JUMP;
use crate::base::ids::{ChannelName, ConnId, Epoch, Offset, Position};
use crate::base::publication::{ClientInfo, Visibility};
use crate::base::time::Time;
use crate::hub::creators::BUCKETS;
use crate::hub::history::entry_bytes;
use crate::hub::idempotency::KeyOwner;
use crate::hub::presence::Inserted;
use crate::hub::sequencer::{Sequencer, Version};
use crate::record::{
    ChannelRecord, CreatorRecord, InfoRecord, KeyRecord, KeysPart, LogEntry, LogPart, MemberRecord,
    MembersPart, Moment, PART_BYTES, PublicationRecord, RecordFault, VersionRecord,
};

/// What a member or a key costs in a part beside its texts, in bytes, about.
const ITEM_BYTES: usize = 32;
/// Cursors of one part: about 100 KB.
const CURSORS_IN_PART: usize = 2_000;
/// Offsets above are no offsets of ours: a thousand publications a second take 290 million years to get there, and what
/// follows them may be counted without a look at the end of the numbers.
const OFFSET_MAX: u64 = u64::MAX / 2;

impl OwnedChannels {
    pub fn has(&self, channel: &str) -> bool {
        self.slot_named(channel).is_some()
    }

    /// Every channel, in no order.
    pub fn names(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().map(|(_, channel)| &channel.name)
    }

    /// A channel without its log, keys and members.
    pub fn to_record(&self, channel: &str, now: Time) -> Option<ChannelRecord> {
        let slot = self.slot_named(channel)?;
        let channel = self.channels.get(slot)?;
        Some(ChannelRecord {
            channel: channel.name.clone(),
            epoch: channel.position().epoch,
            top: channel.position().offset,
            version: channel
                .sequencer
                .version()
                .map(|version| VersionRecord { number: version.number, epoch: version.epoch.clone() }),
            active_until: Moment::of(channel.active_until, now),
            creator: channel.creator.map(|bucket| CreatorRecord { bucket }),
            bytes: channel.options.is_of_bytes(),
            log_end: channel
                .log
                .as_deref()
                .and_then(|log| log.newest())
                .map(|(newest, _)| newest)
                .filter(|newest| *newest != channel.position().offset),
            occupancy_said: self.said_record(slot),
        })
    }

    /// What the log holds after `after`, as much as a part may be long; `None` when that is nothing.
    pub fn log_part(&self, channel: &str, after: Offset, now: Time) -> Option<LogPart> {
        let channel = self.known(channel)?;
        let (mut bytes, mut entries) = (0, Vec::new());
        let log = channel.log.as_deref()?;
        for (publication, expires) in log.after(after) {
            if bytes > PART_BYTES {
                break;
            }
            bytes += entry_bytes(publication);
            let (publication, expires) = (PublicationRecord::of(publication), Moment::of(expires, now));
            entries.push(LogEntry { publication, expires });
        }
        let values = log.values().map(|values| {
            let records: Vec<_> = entries.iter().map(|entry| entry.publication.clone()).collect();
            values.to_record(&records)
        });
        (!entries.is_empty()).then(|| LogPart { channel: channel.name.clone(), entries, values })
    }

    /// The members of a channel, one part after the other: a roster has no order in which it could be taken up again.
    pub fn members_parts(&self, channel: &str, now: Time, mut take: impl FnMut(MembersPart)) {
        let Some(slot) = self.slot_named(channel) else { return };
        let Some(channel) = self.channels.get(slot) else { return };
        let (mut bytes, mut members) = (0, Vec::new());
        channel.members.for_each(|conn, shown, info| {
            let info = info.map(InfoRecord::of);
            bytes += ITEM_BYTES + info.as_ref().map_or(0, InfoRecord::weight);
            let Visibility { listed, announced } = shown;
            members.push(MemberRecord { peer: conn.to_bits(), info, listed, announced });
            if bytes > PART_BYTES {
                bytes = 0;
                let members = std::mem::take(&mut members);
                take(MembersPart { members, ..MembersPart::of(&channel.name) });
            }
        });
        let (cursors, skipped) = self.cursor_records(slot);
        for some in cursors.chunks(CURSORS_IN_PART) {
            take(MembersPart { cursors: some.to_vec(), ..MembersPart::of(&channel.name) });
        }
        let (waiting, watch) = (self.waiting_records(slot, now), self.watch_record(slot, now));
        if !members.is_empty() || !waiting.is_empty() || !skipped.is_empty() || watch.is_some() {
            take(MembersPart { members, waiting, skipped, watch, ..MembersPart::of(&channel.name) });
        }
    }

    /// Idempotency keys from the one at `from` on, and where to go on; `None` when there are no more. Of channels that are
    /// forgotten there are none.
    pub fn keys_part(&self, from: usize, now: Time) -> Option<(KeysPart, usize)> {
        let (mut bytes, mut keys, mut next) = (0, Vec::new(), from);
        for (owner, key, position, expires) in self.keys.from(from) {
            if bytes > PART_BYTES {
                break;
            }
            next += 1;
            let channel = self.channels.get(owner.slot).filter(|channel| channel.life == owner.life);
            let (Some(channel), Some(position)) = (channel, position) else { continue };
            bytes += ITEM_BYTES + key.len() + channel.name.len();
            let (channel, expires) = (channel.name.clone(), Moment::of(expires, now));
            keys.push(KeyRecord { channel, key: key.into(), position, expires });
        }
        (next > from).then_some((KeysPart { keys }, next))
    }

    /// Adds the channel of a record that was written when this process's clock showed `written`.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for a channel that is here already, or that this configuration or no configuration can
    /// have.
    pub fn restore(&mut self, record: &ChannelRecord, written: Time) -> Result<(), RecordFault> {
        let options = self.namespaces.resolve(&record.channel);
        let options = options.map_err(|_| RecordFault::Impossible("a channel of no namespace"))?.clone();
        if self.known(&record.channel).is_some() {
            return Err(RecordFault::Impossible("a channel that is here already"));
        }
        let bucket = record.creator.as_ref().map(|creator| creator.bucket);
        if record.epoch == Epoch::NONE
            || record.top.0 > OFFSET_MAX
            || bucket.is_some_and(|bucket| bucket >= BUCKETS)
        {
            return Err(RecordFault::Impossible("a channel"));
        }
        let loses_log = record.bytes && !options.is_of_bytes();
        let active_until = record.active_until.at(written);
        let version = record
            .version
            .as_ref()
            .map(|version| Version { number: version.number, epoch: version.epoch.clone() });
        let slot = self.add(Channel {
            sequencer: Sequencer::at(Position { offset: record.top, epoch: record.epoch }, version),
            ..Channel::new(record.channel.clone(), options, record.epoch, active_until, bucket)
        });
        if loses_log {
            self.logs_lost.insert(slot);
        }
        if let Some(said) = &record.occupancy_said {
            self.restore_said(slot, said, written);
        }
        if let Some(end) = record.log_end {
            self.log_ends.insert(slot, end);
        }
        Ok(())
    }

    /// Adds entries to the log of a restored channel. What is over by age, or more than the namespace keeps, goes.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for entries that do not follow those that are there.
    pub fn restore_log(&mut self, part: LogPart, written: Time) -> Result<(), RecordFault> {
        let now = self.advance(written);
        for entry in part.entries {
            let (slot, channel) = self.restored(&part.channel)?;
            // What it kept when its namespace was of another kind is of no use.
            let other_kind = channel.options.is_value() != part.values.is_some();
            if !channel.options.keeps_history() || self.logs_lost.contains(&slot) || other_kind {
                return Ok(());
            }
            let is_value = channel.options.is_value();
            let offset = entry.publication.offset;
            let version = part.values.as_ref().and_then(|values| values.version_of(offset));
            let publication = entry.publication.publication(&channel.name);
            let expires = entry.expires.at(written);
            let newest = channel.log.as_deref().and_then(|log| log.newest());
            let follows = newest.is_none_or(|(offset, newest_expires)| {
                let gap = publication.offset().0.saturating_sub(offset.0);
                // Offsets that a process before may have given are left out, see `jump_stored`; so are values that were replaced.
                (gap == 1 || gap > OFFSET_JUMP || is_value && gap > 0) && newest_expires <= expires
            });
            let fits = publication.position.epoch == channel.position().epoch
                && publication.offset() <= channel.position().offset
                && publication.offset() != Offset(0);
            if !follows || !fits {
                return Err(RecordFault::Impossible("an entry of a log"));
            }
            self.append_stored(slot, publication, version, part.values.as_ref(), expires, now);
        }
        Ok(())
    }

    /// Adds members to a restored channel: those whose peer `conn_of` finds in this process. One of whom a namespace
    /// that shows its members has no info yet is empty until its shard says more.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] when the channel is not here.
    pub fn restore_members(
        &mut self,
        part: MembersPart,
        conn_of: &dyn Fn(u64) -> Option<ConnId>,
        written: Time,
    ) -> Result<(), RecordFault> {
        let (slot, _) = self.restored(&part.channel)?;
        let nothing = Arc::new(ClientInfo::default());
        for member in part.members {
            let Some(conn) = conn_of(member.peer) else { continue };
            let shown = Visibility { listed: member.listed, announced: member.announced };
            let info = match member.info {
                // One of a channel without presence, of which there may be a million.
                None if !shown.at_all() => Arc::clone(&nothing),
                info => self.restored_info(conn, info.map_or_else(ClientInfo::default, InfoRecord::info)),
            };
            let channel = self.channels.get_mut(slot).expect("found just now");
            let announced = shown.announced.then(|| Arc::clone(&info));
            if channel.members.insert(conn, info, shown, &self.hash) == Inserted::New {
                channel.interest.add(conn.shard().among(self.shards));
                self.counts.subscriptions += 1;
                if let Some(info) = announced {
                    self.member_restored(slot, conn, &info);
                }
            }
        }
        self.restore_waiting(slot, part.waiting, conn_of, written);
        let skipped = (!part.skipped.is_empty()).then_some(part.skipped);
        self.restore_cursors(slot, &part.cursors, skipped);
        if let Some(watch) = part.watch {
            self.restore_watch(slot, watch, written);
        }
        self.settle(slot);
        Ok(())
    }

    /// Adds idempotency keys of restored channels.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for a key of a channel that is not here.
    pub fn restore_keys(&mut self, part: KeysPart, written: Time) -> Result<(), RecordFault> {
        let now = self.advance(written);
        for key in part.keys {
            let (slot, channel) = self.restored(&key.channel)?;
            let owner = KeyOwner { slot, life: channel.life };
            let expires = key.expires.at(written);
            // The same key twice is of before and after it was over: the later one counts, as it did.
            self.remember_key(owner, &key.key, key.position, expires, now);
        }
        Ok(())
    }

    /// Everything has been restored. A log that ends before its channel does is dropped: what is missing at its end was
    /// missed, and a recovery must not say otherwise. Of more channels than there may be, those go that nobody needs.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] when too many of them are needed.
    pub fn finish_restoring(&mut self) -> Result<(), RecordFault> {
        self.keys.sort();
        self.logs_lost.clear();
        self.infos_restored = HashMap::default();
        let ends = std::mem::take(&mut self.log_ends);
        for slot in self.logs.clone() {
            let channel = self.channels.get(slot).expect("a listed log has a channel");
            let end = ends.get(&slot).copied().unwrap_or(channel.position().offset);
            if channel.log.as_deref().and_then(|log| log.newest()).is_some_and(|(newest, _)| newest != end) {
                while self.drop_oldest(slot) {}
                self.settle(slot);
            }
        }
        self.keep_to_bounds().map_err(|_| RecordFault::Impossible("more channels than there may be"))
    }

    /// The info of a connection, once for all its channels.
    fn restored_info(&mut self, conn: ConnId, info: ClientInfo) -> Arc<ClientInfo> {
        match self.infos_restored.get(&conn) {
            Some(known) if **known == info => Arc::clone(known),
            _ => {
                let info = Arc::new(info);
                self.infos_restored.insert(conn, Arc::clone(&info));
                info
            }
        }
    }

    fn restored(&self, name: &str) -> Result<(u32, &Channel), RecordFault> {
        let slot = self.slot_named(name).ok_or(RecordFault::Impossible("a part of no channel"))?;
        Ok((slot, self.channels.get(slot).expect("a name leads to a channel")))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
