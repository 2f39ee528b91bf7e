//! The log of a value channel: the newest publication of each key.
//!
//! Every publication takes the next offset, as in any log. One that brings another value of a key takes the place of the one
//! before, so that the log read from the start is the state of the channel, and read from a position on is what has
//! changed since. A removal is an entry as well, or nobody who was away would hear of it.
//!
//! # What may be missing
//! An entry that leaves because a newer one of its key is there is missed by nobody. One that leaves for another reason (its
//! age, want of bytes, too many removals) raises the floor: below it a position says nothing any more, and
//! its owner gets the whole state.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::base::ids::Offset;
use crate::base::publication::{Publication, Publications, key_of};
use crate::base::time::Time;
use crate::hub::entry::{Entry, entry_bytes};
use crate::hub::sequencer::Version;
use crate::record::{KeyVersionRecord, PublicationRecord, ValuesRecord, VersionRecord};

/// What a key costs beside its text: its places in two trees, which are half full at worst.
pub const KEY_BYTES: usize = 2 * (size_of::<(Offset, Entry)>() + size_of::<(Box<str>, ValueKey)>());

/// The values of one channel and its newest removals. The newest entry is the channel's top, unless it was dropped.
#[derive(Debug)]
pub struct ValueLog {
    /// In order of offsets, and so of `expires`.
    /// Bound: `keys_max` values and as many removals; `history_bytes_max` over all logs.
    entries: BTreeMap<Offset, Entry>,
    /// The entry of each key.
    keys: BTreeMap<Box<str>, ValueKey>,
    removals: usize,
    floor: Offset,
    /// Offsets between these were given to publications that were lost with the process before.
    lost: (Offset, Offset),
}

#[derive(Debug)]
pub struct ValueKey {
    at: Offset,
    /// The newest that was published of it.
    version: Option<Box<Version>>,
}

/// Bytes that an entry counts for.
fn value_bytes(publication: &Publication) -> usize {
    entry_bytes(publication) + KEY_BYTES + publication.key().len()
}

impl ValueLog {
    /// Of a channel whose newest publication has the offset `top`: of those up to there nothing is known.
    pub fn after(top: Offset) -> ValueLog {
        ValueLog {
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            removals: 0,
            floor: top,
            lost: (Offset(0), Offset(0)),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys with a value.
    pub fn values(&self) -> usize {
        self.entries.len() - self.removals
    }

    pub fn removals(&self) -> usize {
        self.removals
    }

    /// As it is, with what it knows of these entries.
    pub fn to_record(&self, entries: &[PublicationRecord]) -> ValuesRecord {
        let version = |entry: &PublicationRecord| {
            let known = self.keys.get(key_of(&entry.tags)).filter(|known| known.at == entry.offset)?;
            let Version { number, epoch } = known.version.as_deref()?.clone();
            Some(KeyVersionRecord { offset: entry.offset, version: VersionRecord { number, epoch } })
        };
        ValuesRecord {
            floor: self.floor,
            lost_after: self.lost.0,
            lost_before: self.lost.1,
            versions: entries.iter().filter_map(version).collect(),
        }
    }

    /// As it was in the process that wrote its first entry.
    pub fn restore(&mut self, record: &ValuesRecord) {
        (self.floor, self.lost) = (record.floor, (record.lost_after, record.lost_before));
    }

    /// As it was when a later part was written.
    pub fn restore_later(&mut self, record: &ValuesRecord) {
        self.floor = self.floor.max(record.floor);
    }

    /// Whether the key has a value.
    pub fn has(&self, key: &str) -> bool {
        let at = self.keys.get(key).map(|key| key.at);
        at.and_then(|at| self.entries.get(&at)).is_some_and(|entry| !entry.publication.is_removal())
    }

    /// Whether a version is not above the newest of its key, of the same version epoch or without one.
    pub fn has_seen(&self, key: &str, version: u64, epoch: &str) -> bool {
        let seen = self.keys.get(key).and_then(|key| key.version.as_deref());
        seen.is_some_and(|seen| seen.covers(version, epoch))
    }

    /// The newest version of a key that is there.
    pub fn saw(&mut self, key: &str, version: Version) {
        if let Some(key) = self.keys.get_mut(key) {
            key.version = Some(Box::new(version));
        }
    }

    /// Puts the newest publication of its key in the place of the one before. Gives the bytes added and the bytes freed.
    pub fn push(&mut self, publication: Arc<Publication>, expires: Time) -> (usize, usize) {
        let at = publication.offset();
        let freed = match self.keys.get_mut(publication.key()) {
            Some(known) => {
                assert!(known.at < at, "a log has one order");
                let before = std::mem::replace(&mut known.at, at);
                self.take(before)
            }
            None => {
                self.keys.insert(publication.key().into(), ValueKey { at, version: None });
                0
            }
        };
        (self.insert(publication, expires), freed)
    }

    /// The same of one that is older than all that is there. Gives the bytes added: none where the key has a newer one.
    pub fn push_oldest(&mut self, publication: Arc<Publication>, expires: Time) -> usize {
        if self.keys.contains_key(publication.key()) {
            return 0;
        }
        self.keys.insert(publication.key().into(), ValueKey { at: publication.offset(), version: None });
        self.insert(publication, expires)
    }

    fn insert(&mut self, publication: Arc<Publication>, expires: Time) -> usize {
        let bytes = value_bytes(&publication);
        self.removals += usize::from(publication.is_removal());
        self.entries.insert(publication.offset(), Entry { publication, expires });
        bytes
    }

    fn take(&mut self, at: Offset) -> usize {
        let Some(entry) = self.entries.remove(&at) else { return 0 };
        self.removals -= usize::from(entry.publication.is_removal());
        value_bytes(&entry.publication)
    }

    /// Drops the oldest entry, and gives its bytes.
    pub fn drop_oldest(&mut self) -> Option<usize> {
        let (&at, entry) = self.entries.first_key_value()?;
        self.keys.remove(entry.publication.key());
        self.floor = self.floor.max(at);
        Some(self.take(at))
    }

    /// Drops the older half of the removals, and gives how many those were and their bytes: a walk over all entries is paid for by
    /// the removals that have come since the last one.
    pub fn drop_removals(&mut self) -> (usize, usize) {
        let is_removal = |(at, entry): (&Offset, &Entry)| entry.publication.is_removal().then_some(*at);
        let old: Vec<Offset> =
            self.entries.iter().filter_map(is_removal).take(self.removals.div_ceil(2)).collect();
        let mut bytes = 0;
        for &at in &old {
            if let Some(entry) = self.entries.get(&at) {
                self.keys.remove(entry.publication.key());
            }
            bytes += self.take(at);
        }
        self.floor = self.floor.max(old.last().copied().unwrap_or_default());
        (old.len(), bytes)
    }

    /// The offsets between `from` and `to` are lost: who stands there has something that nobody knows any more.
    pub fn jumped(&mut self, from: Offset, to: Offset) {
        let (first, last) = self.lost;
        // Nothing has come between two of them, or what has says where that was.
        let goes_on = last == from && last != Offset(0);
        if !goes_on {
            self.floor = self.floor.max(last);
        }
        self.lost = (if goes_on { first } else { from }, to);
    }

    /// From where on positions can be brought up to date at `now`: what is over by age is not there any more.
    fn floor_at(&self, now: Time) -> Offset {
        let over = self.entries.iter().take_while(|(_, entry)| entry.expires <= now).last();
        over.map_or(self.floor, |(&at, _)| self.floor.max(at))
    }

    /// At most `limit` entries that have come since a position of a log that ends at `top`, oldest first. `None` where that cannot
    /// be said.
    pub fn changes(&self, asked: Offset, top: Offset, now: Time, limit: usize) -> Option<Publications> {
        if asked == top {
            return Some(Vec::new());
        }
        let is_lost = asked > self.lost.0 && asked < self.lost.1;
        if asked > top || is_lost || asked < self.floor_at(now) {
            return None;
        }
        let changed = self.entries.range((Excluded(asked), Unbounded)).take(limit);
        Some(changed.map(|(_, entry)| Arc::clone(&entry.publication)).collect())
    }

    /// All values, in the order in which they were published.
    pub fn state(&self, now: Time) -> Publications {
        self.live(now).filter(|publication| !publication.is_removal()).cloned().collect()
    }

    /// Entries that are not over, oldest first.
    pub fn live(&self, now: Time) -> impl DoubleEndedIterator<Item = &Arc<Publication>> {
        self.entries.values().filter(move |entry| entry.expires > now).map(|entry| &entry.publication)
    }

    pub fn oldest(&self) -> Option<(Offset, Time)> {
        self.entries.first_key_value().map(|(&at, entry)| (at, entry.expires))
    }

    pub fn newest(&self) -> Option<(Offset, Time)> {
        self.entries.last_key_value().map(|(&at, entry)| (at, entry.expires))
    }

    /// Entries after `offset`, over already or not.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = (&Arc<Publication>, Time)> {
        let later = self.entries.range((Excluded(offset), Unbounded));
        later.map(|(_, entry)| (&entry.publication, entry.expires))
    }

    /// Entries before `below`, newest first.
    pub fn newest_before(&self, below: Option<Offset>) -> impl Iterator<Item = &Arc<Publication>> {
        let end = below.map_or(Unbounded, Excluded);
        self.entries.range((Unbounded, end)).rev().map(|(_, entry)| &entry.publication)
    }
}
