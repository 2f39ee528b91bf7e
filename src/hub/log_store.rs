//! Where an owner's logs are kept besides its memory, and what is under way there.
//!
//! An append or a read may be done later: it has a [`Ticket`] until then. A publication is given to followers, acknowledged
//! and part of what is read when its append is done, and not before: until then its channel stands where it stood.
//! ```text
//!  publish ─▶ append ─┬─ done ────────────────────────────────┬─▶ memory, followers, acknowledgement
//!                     └─ ticket ─▶ pending, in offset order ──┤
//!                                                             └─▶ failed: it and all behind it were never published
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Publication, Publications};
use crate::base::time::Time;
use crate::hub::idempotency::KeyOwner;
use crate::record::{PublicationRecord, StoredCursors, StoredPublication, StoredRecord, VersionRecord};

/// Names an append or a read that is not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a publication survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durable {
    /// It is in memory alone.
    #[default]
    No,
    /// It is acknowledged at once and on disk soon after.
    Async,
    /// It is acknowledged when it is on disk.
    Sync,
}

/// A publication on its way to a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreEntry<'a> {
    pub publication: &'a Arc<Publication>,
    /// What it is answered: where the log stands, when it is kept out of it.
    pub position: Position,
    /// Empty: none.
    pub key: &'a str,
    /// 0: none.
    pub version: u64,
    pub version_epoch: &'a str,
    /// Acknowledged when it is kept for good.
    pub sync: bool,
    /// Its channel takes any bytes.
    pub bytes: bool,
}

impl StoreEntry<'_> {
    pub fn to_record(&self) -> StoredRecord {
        let epoch = self.version_epoch.into();
        StoredRecord::Publication(StoredPublication {
            channel: self.publication.channel.clone(),
            publication: PublicationRecord::of(self.publication),
            position: self.position,
            key: self.key.into(),
            version: (self.version > 0).then_some(VersionRecord { number: self.version, epoch }),
            loose: !self.sync,
            bytes: self.bytes,
        })
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// The publication is kept as durably as its channel asks.
    Done,
    Later(Ticket),
    /// It cannot be kept, and was not given its offset.
    Refused(ErrorCode),
}

/// What became of a read.
#[derive(Debug)]
pub enum ReadBack {
    /// There is nothing but what the owner's memory has.
    Nothing,
    /// In offset order.
    Ready(Publications),
    Later(Ticket),
}

/// What was under way is done.
#[derive(Debug)]
pub enum StoreDone {
    /// An error: it is not kept and never will be, nor is any later one of its channel that is under way.
    Appended(Result<(), ErrorCode>),
    Read(Publications),
}

/// Keeps logs besides the owner's memory. Appends of one channel are done in order; a ticket is given once.
pub trait LogStore: Send {
    fn append(&mut self, entry: StoreEntry<'_>, now: Time) -> Append;

    /// The publications of the log of `end.epoch` after `after` up to `end`, the oldest `limit` of them.
    fn read(&mut self, channel: &str, after: Offset, end: Position, limit: usize) -> ReadBack;

    /// What has been done since this was last called, one at a time.
    fn take_done(&mut self) -> Option<(Ticket, StoreDone)>;

    /// It wants the publications of all channels, also of those that are not durable.
    fn takes_all(&self) -> bool {
        false
    }

    /// What is kept of a channel's log up to a position is no longer wanted.
    fn removed(&mut self, _channel: &ChannelName, _until: Position) {}

    /// Cursors of members have moved. With `sync` they are to be kept for good.
    fn keep_cursors(&mut self, _cursors: StoredCursors, _sync: bool) -> Append {
        Append::Done
    }

    /// Wants everything that is held written again, under this number; 0: no.
    fn wants_copy(&mut self) -> u64 {
        0
    }

    /// A part of that. Gives it back while there is no room.
    ///
    /// # Errors
    /// The part.
    #[allow(clippy::result_large_err, reason = "it is given back, and seldom")]
    fn copy(&mut self, part: StoredRecord) -> Result<(), StoredRecord> {
        drop(part);
        Ok(())
    }

    /// All parts were given.
    fn copied(&mut self, _number: u64) {}
}

/// Keeps nothing besides the owner's memory: every append is done at once.
#[derive(Debug, Default)]
pub struct MemoryOnly;

impl LogStore for MemoryOnly {
    fn append(&mut self, _: StoreEntry<'_>, _: Time) -> Append {
        Append::Done
    }

    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        ReadBack::Nothing
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        None
    }
}

/// A publication whose append is under way.
pub(super) struct Pending {
    pub ticket: Ticket,
    pub publication: Arc<Publication>,
    /// What it is answered.
    pub position: Position,
    /// Empty: none.
    pub key: Box<str>,
    /// 0: none.
    pub version: u64,
    pub version_epoch: Box<str>,
    pub done: Option<Result<(), ErrorCode>>,
}

impl Pending {
    /// Whether another version is not above its own, of the same version epoch or without one.
    pub fn covers(&self, version: u64, epoch: &str) -> bool {
        version <= self.version && (epoch.is_empty() || *epoch == *self.version_epoch)
    }
}

/// Appends under way in one life of a channel.
pub(super) struct ChannelAppends {
    owner: KeyOwner,
    /// In offset order.
    /// Bound: [`APPENDS_MAX`](crate::hub::limits::APPENDS_MAX) over all channels.
    queue: VecDeque<Pending>,
}

impl ChannelAppends {
    /// Offsets that they take.
    pub fn offsets(&self) -> u64 {
        self.in_log().count() as u64
    }

    /// Those that will be part of the log.
    pub fn in_log(&self) -> impl Iterator<Item = &Pending> {
        self.queue.iter().filter(|pending| pending.publication.offset() != Offset(0))
    }

    pub fn all(&self) -> impl Iterator<Item = &Pending> {
        self.queue.iter()
    }

    /// Those of a key of a value channel.
    pub fn of_key(&self, key: &str) -> impl Iterator<Item = &Pending> {
        self.queue.iter().filter(move |pending| pending.publication.key() == key)
    }

    /// The publication that brought this key, if it is under way.
    pub fn with_key(&self, key: &str) -> Option<(Ticket, Position)> {
        let first = self.queue.iter().find(|pending| *pending.key == *key)?;
        Some((first.ticket, first.position))
    }

    /// The newest under way, if a version is not above one of those under way.
    pub fn with_version(&self, version: u64, epoch: &str) -> Option<(Ticket, Position)> {
        let versioned = self.queue.iter().rev().find(|pending| pending.version > 0)?;
        let newest = self.queue.back()?;
        versioned.covers(version, epoch).then_some((newest.ticket, newest.position))
    }
}

/// Appends under way.
#[derive(Default)]
pub(super) struct Appends {
    /// By the life of the channel.
    channels: HashMap<u64, ChannelAppends>,
    lives: HashMap<Ticket, u64>,
    /// Lives with something done.
    /// Bound: one for each append that is done and not taken.
    ready: VecDeque<u64>,
}

impl Appends {
    pub fn len(&self) -> usize {
        self.lives.len()
    }

    pub fn of(&self, owner: KeyOwner) -> Option<&ChannelAppends> {
        if self.channels.is_empty() { None } else { self.channels.get(&owner.life) }
    }

    pub fn push(&mut self, owner: KeyOwner, pending: Pending) {
        self.lives.insert(pending.ticket, owner.life);
        let channel = self.channels.entry(owner.life);
        channel.or_insert_with(|| ChannelAppends { owner, queue: VecDeque::new() }).queue.push_back(pending);
    }

    /// One is done. False: it is of no publication.
    pub fn done(&mut self, ticket: Ticket, kept: Result<(), ErrorCode>) -> bool {
        let Some(&life) = self.lives.get(&ticket) else { return false };
        let Some(channel) = self.channels.get_mut(&life) else { return true };
        if let Some(pending) = channel.queue.iter_mut().find(|pending| pending.ticket == ticket) {
            pending.done.get_or_insert(kept);
        }
        self.ready.push_back(life);
        true
    }

    /// The next of a channel whose turn it is, with whether it is kept. What is behind one that is not kept is not kept.
    pub fn take(&mut self) -> Option<(KeyOwner, Pending, Result<(), ErrorCode>)> {
        while let Some(&life) = self.ready.front() {
            if let Some(channel) = self.channels.get_mut(&life)
                && let Some(kept) = channel.queue.front().and_then(|first| first.done)
                && let Some(first) = channel.queue.pop_front()
            {
                self.lives.remove(&first.ticket);
                if let (Err(_), Some(next)) = (kept, channel.queue.front_mut()) {
                    next.done = Some(kept);
                }
                let owner = channel.owner;
                if channel.queue.is_empty() {
                    self.channels.remove(&life);
                }
                return Some((owner, first, kept));
            }
            self.ready.pop_front();
        }
        None
    }
}

/// Whether the publications are those that come next after `after`, without a hole.
pub(super) fn goes_on(publications: &Publications, after: Offset) -> bool {
    let mut last = after;
    !publications.is_empty()
        && publications.iter().all(|publication| {
            let next = publication.offset() == last.next();
            last = publication.offset();
            next
        })
}
