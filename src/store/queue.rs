//! Between the shards and the writer: what is on its way to the disk, and what has become of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::format::write_record;
use super::stats::{Health, StatsView, StoreStats};
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::time::Time;
use crate::hub::log_store::{Append, LogStore, ReadBack, StoreDone, StoreEntry, Ticket};
use crate::hub::owned::OFFSET_JUMP;
use crate::record::{StoredCursors, StoredRecord, StoredRemoval};

/// Bytes of one shard that may be on their way; a publish above is answered 503. Two hundredths of a second of a disk that
/// writes 200 MB a second. One entry is taken whatever its length.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// How long entries that nobody waits for gather. With a sync of the disk behind it, less than the 100 ms that "async" promises.
const GATHER: Duration = Duration::from_millis(50);

/// Publications of one shard that may stay in memory alone, one after the other: fewer than offsets jump.
const UNWRITTEN_MAX: u64 = OFFSET_JUMP / 2;

/// Tells a shard that something is done.
pub type WriterWake = Box<dyn Fn() + Send + Sync>;

/// The queues of all shards, their writer's.
pub struct Queues {
    queues: Box<[Queue]>,
    signal: Mutex<Signal>,
    changed: Condvar,
    /// The copy that is wanted; 0: none.
    copy: AtomicU64,
    pub(super) stats: StoreStats,
}

struct Queue {
    out: Mutex<Outgoing>,
    /// Up to which ticket, and whether they are kept.
    /// Bound: one for each batch since the shard looked, and an append each.
    done: Mutex<VecDeque<(u64, Result<(), ErrorCode>)>>,
    /// The last ticket that has an end.
    settled: AtomicU64,
    wake: WriterWake,
    /// Somebody puts something in, and gives copies.
    used: AtomicBool,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    records: u32,
    /// The last ticket that was given.
    ticket: u64,
    /// Of these, how many were done before the last batch.
    told: u64,
    /// How often what was here was thrown away. Nothing comes in before the shard knows: what follows a lost publication
    /// would have its offset.
    generation: u64,
    /// Why nothing comes in.
    refusal: Option<ErrorCode>,
    /// Parts of a copy do not come in either.
    copies_refused: bool,
    /// The last copy that was given whole.
    copied: u64,
}

#[derive(Default)]
struct Signal {
    urgent: bool,
    lazy: bool,
    stop: bool,
}

/// Why the writer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreWork {
    /// Something may be there.
    Look,
    /// Nothing more will come.
    Stop,
}

/// What the writer took from one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueuePart {
    pub records: u32,
    pub ticket: Option<u64>,
    pub copied: u64,
}

impl Queues {
    /// One queue for each shard, which is woken by its function.
    pub fn new(wakes: impl IntoIterator<Item = WriterWake>) -> Arc<Queues> {
        let queue = |wake| Queue {
            out: Mutex::default(),
            done: Mutex::default(),
            settled: AtomicU64::new(0),
            wake,
            used: AtomicBool::new(true),
        };
        Arc::new(Queues {
            queues: wakes.into_iter().map(queue).collect(),
            signal: Mutex::default(),
            changed: Condvar::new(),
            copy: AtomicU64::new(0),
            stats: StoreStats::default(),
        })
    }

    /// Nobody puts anything into this queue until [`ShardStore::begin`]: no copy waits for it.
    pub fn leave(&self, index: usize) {
        self.queues[index].used.store(false, Ordering::Release);
    }

    pub fn stats(&self) -> &StoreStats {
        &self.stats
    }

    /// Waits until there is something to write, at most `patience`. For the writer's thread.
    pub fn wait(&self, patience: Duration) -> StoreWork {
        let mut signal = self.signal.lock();
        if !signal.urgent && !signal.stop {
            let patience = if signal.lazy { GATHER } else { patience };
            self.changed.wait_for(&mut signal, patience);
            if signal.lazy && !signal.urgent && !signal.stop && patience != GATHER {
                self.changed.wait_for(&mut signal, GATHER);
            }
        }
        (signal.urgent, signal.lazy) = (false, false);
        if signal.stop { StoreWork::Stop } else { StoreWork::Look }
    }

    /// Nothing more will come.
    pub fn stop(&self) {
        self.signal.lock().stop = true;
        self.changed.notify_one();
    }

    /// Something else is wanted of the writer's thread.
    pub fn wake(&self) {
        self.signal(true);
    }

    fn signal(&self, urgent: bool) {
        let mut signal = self.signal.lock();
        let known = if urgent { signal.urgent } else { signal.urgent || signal.lazy };
        if known {
            return;
        }
        if urgent {
            signal.urgent = true;
        } else {
            signal.lazy = true;
        }
        drop(signal);
        self.changed.notify_one();
    }

    /// Moves what is on its way behind `bytes`.
    pub(super) fn collect(&self, bytes: &mut Vec<u8>) -> Vec<QueuePart> {
        let take = |queue: &Queue| {
            let mut out = queue.out.lock();
            bytes.extend_from_slice(&out.bytes);
            out.bytes.clear();
            if out.bytes.capacity() > QUEUE_BYTES_MAX {
                out.bytes = Vec::new();
            }
            let ticket = (out.ticket > out.told).then_some(out.ticket);
            out.told = out.ticket;
            let copied = match queue.used.load(Ordering::Acquire) {
                true => out.copied,
                false => self.copy.load(Ordering::Acquire),
            };
            QueuePart { records: std::mem::take(&mut out.records), ticket, copied }
        };
        self.queues.iter().map(take).collect()
    }

    /// What was collected is on disk, or is not and never will be.
    pub(super) fn done(&self, parts: &[QueuePart], outcome: Result<(), ErrorCode>) {
        for (queue, part) in self.queues.iter().zip(parts) {
            if let Some(ticket) = part.ticket {
                queue.settled.store(ticket, Ordering::Relaxed);
                queue.done.lock().push_back((ticket, outcome));
                (queue.wake)();
            }
        }
    }

    /// Throws away what is on its way, and takes nothing more.
    pub(super) fn refuse(&self, error_code: ErrorCode, copies_too: bool) {
        for queue in &self.queues {
            let mut out = queue.out.lock();
            out.bytes.clear();
            out.records = 0;
            out.generation += 1;
            out.refusal = Some(error_code);
            out.copies_refused = copies_too;
            if out.ticket > out.told {
                out.told = out.ticket;
                queue.settled.store(out.ticket, Ordering::Relaxed);
                queue.done.lock().push_back((out.ticket, Err(error_code)));
                (queue.wake)();
            }
        }
    }

    pub(super) fn resume(&self) {
        for queue in &self.queues {
            let mut out = queue.out.lock();
            (out.refusal, out.copies_refused) = (None, false);
        }
    }

    /// Asks shards for everything that they hold; 0: no longer.
    pub(super) fn want_copy(&self, number: u64) {
        self.copy.store(number, Ordering::Release);
        self.queues.iter().for_each(|queue| (queue.wake)());
    }

    pub(super) fn bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.out.lock().bytes.len() as u64).sum()
    }
}

impl Queues {
    /// Publications of each shard whose answers wait for the disk.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        // A ticket that is given meanwhile may be settled by the time that is looked at.
        let of = |queue: &Queue| {
            let given = queue.out.lock().ticket;
            given.saturating_sub(queue.settled.load(Ordering::Relaxed))
        };
        self.queues.iter().map(of)
    }

    pub fn view(&self) -> StatsView {
        let stats = &self.stats;
        StatsView {
            appended_bytes: stats.appended_bytes.load(Ordering::Relaxed),
            records: stats.records.load(Ordering::Relaxed),
            batches: stats.batches.load(Ordering::Relaxed),
            errors: stats.errors.load(Ordering::Relaxed),
            copies: stats.copies.load(Ordering::Relaxed),
            refused: stats.refused.load(Ordering::Relaxed),
            unwritten: stats.unwritten.load(Ordering::Relaxed),
            disk_bytes: stats.disk_bytes.load(Ordering::Relaxed),
            segments: stats.segments.load(Ordering::Relaxed),
            queue_bytes: self.bytes(),
            health: match stats.health.load(Ordering::Relaxed) {
                0 => Health::Good,
                1 => Health::DiskFull,
                2 => Health::BytesMax,
                _ => Health::Failed,
            },
        }
    }
}

/// A shard's end.
pub struct ShardStore {
    queues: Arc<Queues>,
    index: usize,
    generation: u64,
    /// The last ticket whose end was given.
    taken: u64,
    /// Those up to this ticket have this end.
    done: Option<(u64, Result<(), ErrorCode>)>,
    copied: u64,
    /// Publications in memory alone since the last that was taken.
    unwritten: u64,
}

impl ShardStore {
    pub fn new(queues: &Arc<Queues>, index: usize) -> ShardStore {
        ShardStore {
            queues: Arc::clone(queues),
            index,
            generation: 0,
            taken: 0,
            done: None,
            copied: 0,
            unwritten: 0,
        }
    }

    /// The queue is used from now on.
    pub fn begin(&self) {
        self.queues.queues[self.index].used.store(true, Ordering::Release);
    }

    /// Takes what nobody waits for.
    ///
    /// # Errors
    /// It is not taken, and why.
    pub fn keep(&mut self, record: &StoredRecord) -> Result<(), ErrorCode> {
        self.put(record, false).map(drop)
    }

    fn put(&mut self, record: &StoredRecord, sync: bool) -> Result<Option<Ticket>, ErrorCode> {
        let mut out = self.queues.queues[self.index].out.lock();
        if out.generation != self.generation && self.taken == out.ticket {
            self.generation = out.generation;
        }
        if out.refusal.is_some() || out.generation != self.generation {
            return Err(out.refusal.unwrap_or(ErrorCode::StoreFull));
        }
        if out.bytes.len() >= QUEUE_BYTES_MAX {
            return Err(ErrorCode::StoreBusy);
        }
        write_record(record, &mut out.bytes);
        out.records += 1;
        let ticket = sync.then(|| {
            out.ticket += 1;
            Ticket(out.ticket)
        });
        drop(out);
        self.queues.signal(sync);
        Ok(ticket)
    }
}

impl LogStore for ShardStore {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        match self.put(&entry.to_record(), entry.sync) {
            Ok(Some(ticket)) => Append::Later(ticket),
            Ok(None) => {
                self.unwritten = 0;
                Append::Done
            }
            Err(ErrorCode::StoreFull | ErrorCode::StoreFailed)
                if !entry.sync && self.unwritten < UNWRITTEN_MAX =>
            {
                self.unwritten += 1;
                self.queues.stats.unwritten.fetch_add(1, Ordering::Relaxed);
                Append::Done
            }
            Err(error_code) => {
                self.queues.stats.refused.fetch_add(1, Ordering::Relaxed);
                Append::Refused(error_code)
            }
        }
    }

    /// The owner's memory has all that there is to read.
    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        ReadBack::Nothing
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        loop {
            if let Some((until, outcome)) = self.done {
                if self.taken < until {
                    self.taken += 1;
                    return Some((Ticket(self.taken), StoreDone::Appended(outcome)));
                }
                self.done = None;
            }
            self.done = Some(self.queues.queues[self.index].done.lock().pop_front()?);
        }
    }

    fn removed(&mut self, channel: &ChannelName, until: Position) {
        let Position { offset, epoch } = until;
        let removal = StoredRemoval { channel: channel.clone(), epoch, until: offset };
        // Without it the next copy leaves out what was removed.
        let _ = self.put(&StoredRecord::Removal(removal), false);
    }

    fn keep_cursors(&mut self, cursors: StoredCursors, sync: bool) -> Append {
        match self.put(&StoredRecord::Cursors(cursors), sync) {
            Ok(Some(ticket)) => Append::Later(ticket),
            Ok(None) => Append::Done,
            Err(error_code) => Append::Refused(error_code),
        }
    }

    fn wants_copy(&mut self) -> u64 {
        match self.queues.copy.load(Ordering::Acquire) {
            number if number == self.copied => 0,
            number => number,
        }
    }

    fn copy(&mut self, part: StoredRecord) -> Result<(), StoredRecord> {
        let mut out = self.queues.queues[self.index].out.lock();
        // Half is for publications.
        if out.copies_refused || out.bytes.len() >= QUEUE_BYTES_MAX / 2 {
            return Err(part);
        }
        write_record(&part, &mut out.bytes);
        out.records += 1;
        drop(out);
        self.queues.signal(false);
        Ok(())
    }

    fn copied(&mut self, number: u64) {
        self.queues.queues[self.index].out.lock().copied = number;
        self.copied = number;
        self.queues.signal(false);
    }
}
