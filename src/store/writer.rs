//! The one that writes: batches into segments, new segments, and none that are no longer needed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::disk::Disk;
use super::fault::StoreFault;
use super::format::{BATCH_HEAD_BYTES, SEGMENT_HEAD_BYTES, Segment, StoreBatch, StoreId, write_record};
use super::queue::{QueuePart, Queues};
use super::read::StoreRead;
use super::stats::Health;
use crate::base::fault::ErrorCode;
use crate::base::time::Time;
use crate::record::{StoreRecord, StoredRecord, StoredRun};

/// How soon a full disk is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How soon a copy is tried again that had no room: history that is over by age takes none in the next one.
const COPY_AGAIN: Duration = Duration::from_secs(10);
/// Files above which they are written together, whatever they hold: a process that is started again and again makes one each.
const SEGMENTS_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    pub segment_bytes: u64,
    pub bytes_max: u64,
    pub compact_interval: Duration,
}

/// What a turn has come to that people should know.
#[derive(Debug, Default)]
pub struct WriterTurn {
    /// The store's health is another one, and why.
    pub changed: Option<(Health, String)>,
}

/// Why a batch is not on disk.
enum WriterTrouble {
    Full(Health, String),
    Failed(String),
}

struct WriterCopying {
    number: u64,
    /// The first segment of it.
    from: u64,
}

/// See the module's head.
pub struct Writer<D> {
    disk: D,
    options: WriterOptions,
    queues: Arc<Queues>,
    id: StoreId,
    /// Number and bytes, the oldest first; the last is written.
    /// Bound: `bytes_max`.
    segments: VecDeque<(u64, u64)>,
    /// Where the next batch goes in the last one.
    at: u64,
    oldest: u64,
    next_batch: u64,
    health: Health,
    try_at: Time,
    copying: Option<WriterCopying>,
    copies: u64,
    copy_at: Time,
    /// What the last copy came to, and what has come since.
    live_bytes: u64,
    new_bytes: u64,
    buffer: Vec<u8>,
}

impl<D: Disk> Writer<D> {
    /// Goes on behind what was read, or begins a store. `id` is for a new one. `run` is on disk when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(
        mut disk: D,
        read: &StoreRead,
        id: StoreId,
        options: WriterOptions,
        queues: Arc<Queues>,
        run: StoredRun,
        now: Time,
    ) -> Result<Writer<D>, StoreFault> {
        if let Some(unwritten) = read.unwritten {
            disk.remove(unwritten)?;
        }
        let segments: VecDeque<(u64, u64)> = read.segments.iter().copied().collect();
        for &(number, bytes) in &segments {
            if disk.len(number)? > bytes {
                disk.truncate(number, bytes)?;
            }
        }
        if let Some(&(number, _)) = segments.back() {
            // What was read of it may be in the kernel's memory alone: the process before was killed before its sync.
            disk.sync(number)?;
        }
        let mut writer = Writer {
            disk,
            options,
            queues,
            id: read.id.unwrap_or(id),
            at: segments.back().map_or(0, |(_, bytes)| *bytes),
            oldest: segments.front().map_or(1, |(number, _)| *number),
            segments,
            next_batch: read.next_batch.max(1),
            health: Health::Good,
            try_at: now,
            copying: None,
            copies: 0,
            copy_at: now + options.compact_interval,
            live_bytes: 0,
            new_bytes: read.bytes(),
            buffer: Vec::new(),
        };
        writer.begin_segment(0).map_err(|trouble| io::Error::other(trouble.why()))?;
        writer.write_own(&[StoredRecord::Run(run)]).map_err(|trouble| io::Error::other(trouble.why()))?;
        writer.account();
        Ok(writer)
    }

    /// Stands where the writer of another process has [stopped](Writer::pause). Nothing is written before
    /// [`Writer::begin`].
    ///
    /// # Errors
    /// The files are others.
    pub fn behind(
        mut disk: D,
        state: &StoreRecord,
        options: WriterOptions,
        queues: Arc<Queues>,
        now: Time,
    ) -> Result<Writer<D>, StoreFault> {
        let numbers: Vec<u64> = state.segments.iter().map(|(number, _)| *number).collect();
        let last = state.segments.last().map_or(0, |(_, bytes)| *bytes);
        if numbers.is_empty() || disk.list()? != numbers || state.at > last {
            return Err(StoreFault::Foreign(
                "its files are not those that the process before has left".into(),
            ));
        }
        Ok(Writer {
            disk,
            options,
            queues,
            id: StoreId(u128::from(state.id_high) << 64 | u128::from(state.id_low)),
            at: state.at,
            oldest: state.oldest,
            segments: state.segments.iter().copied().collect(),
            next_batch: state.next_batch,
            health: Health::Good,
            try_at: now,
            copying: None,
            copies: 0,
            // Channels may be durable that were not, and a copy that was under way ends there.
            copy_at: now,
            live_bytes: state.live_bytes,
            new_bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// Begins a file of its own: by it the process before sees that it must not go on.
    pub fn begin(&mut self, now: Time) -> WriterTurn {
        let mut turn = WriterTurn::default();
        if let Err(trouble) = self.begin_segment(0) {
            self.trouble(trouble, now, &mut turn);
        }
        self.account();
        turn
    }

    /// Writes what has come, and that another process may go on: `run` is of both. Until [`Writer::goes_on`] nothing more
    /// is written.
    ///
    /// # Errors
    /// Not everything is on disk, and why. It goes on here.
    pub fn pause(&mut self, run: &StoredRun, now: Time) -> (WriterTurn, Result<StoreRecord, String>) {
        let mut turn = self.turn(now);
        if self.health == Health::Good
            && let Err(trouble) = self.write_own(&[StoredRecord::End, StoredRecord::Run(run.clone())])
        {
            self.trouble(trouble, now, &mut turn);
        }
        if self.health != Health::Good {
            let problem =
                "the store takes nothing: without room on its disk, or after a failure, it takes a restart";
            return (turn, Err(problem.into()));
        }
        let StoreId(id) = self.id;
        let state = StoreRecord {
            id_high: (id >> 64) as u64,
            id_low: id as u64,
            segments: self.segments.iter().copied().collect(),
            at: self.at,
            oldest: self.oldest,
            next_batch: self.next_batch,
            live_bytes: self.live_bytes,
        };
        (turn, Ok(state))
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// Another process has gone on instead: what is in memory here is not what is on disk.
    pub fn goes_on(&mut self) -> Result<(), String> {
        match self.disk.list() {
            Ok(numbers) if numbers.last() == Some(&self.number()) => Ok(()),
            Ok(_) => Err("another process has written to the store".into()),
            Err(error) => Err(format!("the store cannot be read: {error}")),
        }
    }

    /// Writes what has come.
    pub fn turn(&mut self, now: Time) -> WriterTurn {
        let mut turn = WriterTurn::default();
        match self.health {
            Health::Good => {}
            Health::Failed => self.queues.refuse(ErrorCode::StoreFailed, true),
            Health::DiskFull if now < self.try_at => self.queues.refuse(ErrorCode::StoreFull, true),
            Health::DiskFull => match self.begin_segment(0) {
                Ok(()) => {
                    self.recover(&mut turn);
                    self.begin_copy(now);
                }
                Err(trouble) => self.trouble(trouble, now, &mut turn),
            },
            // Only a copy makes room.
            Health::BytesMax if self.copying.is_none() && now >= self.try_at => {
                self.try_at = now + COPY_AGAIN;
                self.begin_copy(now);
            }
            Health::BytesMax => {}
        }
        if !matches!(self.health, Health::Failed | Health::DiskFull) {
            self.write_queues(now, &mut turn);
        }
        if self.health == Health::Good && self.copying.is_none() && self.wants_copy(now) {
            self.begin_copy(now);
        }
        self.account();
        turn
    }

    /// Nothing more comes: the next process finds everything here.
    pub fn close(mut self, now: Time) -> WriterTurn {
        let mut turn = self.turn(now);
        if self.health == Health::Good
            && let Err(trouble) = self.write_own(&[StoredRecord::End])
        {
            self.trouble(trouble, now, &mut turn);
        }
        if let Some(&(number, _)) = self.segments.back() {
            // The next process would do the same.
            let _ = self.disk.truncate(number, self.at);
        }
        turn
    }

    /// For tests that look at the disk.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    fn write_queues(&mut self, now: Time, turn: &mut WriterTurn) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(BATCH_HEAD_BYTES, 0);
        let parts = self.queues.collect(&mut buffer);
        let written = if buffer.len() > BATCH_HEAD_BYTES {
            let records = parts.iter().map(|part| part.records).sum();
            self.write_batch(&mut buffer, records)
        } else {
            Ok(())
        };
        if buffer.capacity() <= self.options.segment_bytes as usize {
            self.buffer = buffer;
        }
        match written {
            Ok(()) => {
                self.queues.done(&parts, Ok(()));
                self.end_copy(&parts, now, turn);
            }
            Err(trouble) => {
                let error_code = trouble.error_code();
                self.trouble(trouble, now, turn);
                self.queues.done(&parts, Err(error_code));
            }
        }
    }

    fn write_own(&mut self, records: &[StoredRecord]) -> Result<(), WriterTrouble> {
        let mut buffer = vec![0; BATCH_HEAD_BYTES];
        records.iter().for_each(|record| write_record(record, &mut buffer));
        self.write_batch(&mut buffer, records.len() as u32)
    }

    fn write_batch(&mut self, buffer: &mut [u8], records: u32) -> Result<(), WriterTrouble> {
        let bytes = buffer.len() as u64;
        if self.at + bytes > self.segments.back().map_or(0, |(_, len)| *len) {
            self.begin_segment(bytes)?;
        }
        let Ok(behind) = u32::try_from(buffer.len() - BATCH_HEAD_BYTES) else {
            return Err(WriterTrouble::Full(Health::BytesMax, "a batch of 4 GiB".into()));
        };
        let head = StoreBatch { number: self.next_batch, bytes: behind, records };
        buffer[..BATCH_HEAD_BYTES].copy_from_slice(&head.to_bytes(self.id));
        let number = self.number();
        self.disk.write(number, self.at, buffer).map_err(|error| WriterTrouble::of_write(&error))?;
        self.disk
            .sync(number)
            .map_err(|error| WriterTrouble::Failed(format!("a sync has failed: {error}")))?;
        self.at += bytes;
        self.next_batch += 1;
        self.new_bytes += bytes;
        let stats = &self.queues.stats;
        stats.appended_bytes.fetch_add(bytes, Relaxed);
        stats.records.fetch_add(records.into(), Relaxed);
        stats.batches.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Begins the next segment, with room for a batch of so many bytes.
    fn begin_segment(&mut self, batch: u64) -> Result<(), WriterTrouble> {
        let bytes = self.options.segment_bytes.max(SEGMENT_HEAD_BYTES as u64 + batch);
        // The last quarter is for copies, which make room.
        let limit = match self.copying {
            Some(_) => self.copies_max(),
            None => self.options.bytes_max / 4 * 3,
        };
        if batch > 0 && self.held() + bytes > limit {
            return Err(WriterTrouble::Full(Health::BytesMax, "store.bytes_max is reached".into()));
        }
        let number = self.segments.back().map_or(1, |(number, _)| number + 1);
        let previous = self.segments.back().map_or(0, |_| self.at);
        let head = Segment {
            number,
            first_batch: self.next_batch,
            oldest: self.oldest,
            previous_bytes: previous,
            id: self.id,
        };
        self.disk.create(number, bytes).map_err(|error| WriterTrouble::of_write(&error))?;
        if let Err(error) = self.disk.write(number, 0, &head.to_bytes()) {
            let _ = self.disk.remove(number);
            return Err(WriterTrouble::of_write(&error));
        }
        let synced = self.disk.sync(number).and_then(|()| self.disk.sync_directory());
        synced.map_err(|error| WriterTrouble::Failed(format!("a sync has failed: {error}")))?;
        if let Some((before, len)) = self.segments.back_mut()
            && *len > previous
            && self.disk.truncate(*before, previous).is_ok()
        {
            *len = previous;
        }
        self.segments.push_back((number, bytes));
        self.at = SEGMENT_HEAD_BYTES as u64;
        Ok(())
    }

    fn wants_copy(&self, now: Time) -> bool {
        let two = 2 * self.options.segment_bytes;
        // So that old and new fit beside what comes meanwhile.
        let room = (self.options.bytes_max / 4 * 3).saturating_sub(2 * self.live_bytes) / 2;
        let grown = self.live_bytes.max(two).min(room.max(self.options.segment_bytes));
        self.new_bytes > grown
            || self.segments.len() > SEGMENTS_MAX
            || now >= self.copy_at && self.segments.len() > 1
    }

    fn begin_copy(&mut self, now: Time) {
        self.copy_at = now + self.options.compact_interval;
        if self.held() + self.options.segment_bytes > self.copies_max() || self.begin_segment(0).is_err() {
            // It is tried again with the next batch, which says why.
            return;
        }
        self.copies += 1;
        self.copying = Some(WriterCopying { number: self.copies, from: self.number() });
        self.queues.want_copy(self.copies);
        self.new_bytes = 0;
    }

    /// When all of it is on disk, what was before it goes.
    fn end_copy(&mut self, parts: &[QueuePart], now: Time, turn: &mut WriterTurn) {
        let Some(copying) = &self.copying else { return };
        if !parts.iter().all(|part| part.copied == copying.number) {
            return;
        }
        let from = copying.from;
        let before = std::mem::replace(&mut self.oldest, from);
        // Its head says that the old ones are not needed any more.
        if let Err(trouble) = self.begin_segment(0) {
            self.oldest = before;
            return self.trouble(trouble, now, turn);
        }
        self.copying = None;
        while let Some(&(number, _)) = self.segments.front()
            && number < from
        {
            if self.disk.remove(number).is_err() {
                break;
            }
            self.segments.pop_front();
        }
        // What is not removed for good is not read again.
        let _ = self.disk.sync_directory();
        let tail = self.segments.back().map_or(0, |(_, len)| *len);
        self.live_bytes = self.bytes() - tail;
        self.new_bytes = 0;
        self.queues.stats.copies.fetch_add(1, Relaxed);
        if self.health == Health::BytesMax && self.bytes() <= self.options.bytes_max / 4 * 3 {
            self.recover(turn);
            // What stayed in memory meanwhile.
            self.copy_at = now;
        }
    }

    fn trouble(&mut self, trouble: WriterTrouble, now: Time, turn: &mut WriterTurn) {
        let health = match &trouble {
            WriterTrouble::Full(health, _) => *health,
            WriterTrouble::Failed(_) => Health::Failed,
        };
        self.try_at = now + TRY_AGAIN;
        if health == Health::BytesMax && self.copying.is_some() {
            self.try_at = now + COPY_AGAIN;
        }
        self.copying = None;
        self.queues.want_copy(0);
        if self.health != health {
            self.health = health;
            self.queues.stats.errors.fetch_add(1, Relaxed);
            turn.changed = Some((health, trouble.why()));
        }
        self.queues.refuse(trouble.error_code(), health != Health::BytesMax);
    }

    fn recover(&mut self, turn: &mut WriterTurn) {
        self.health = Health::Good;
        turn.changed = Some((Health::Good, "there is room again".into()));
        self.queues.resume();
    }

    fn number(&self) -> u64 {
        self.segments.back().map_or(0, |(number, _)| *number)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, len)| len).sum()
    }

    /// Of them, those that a new segment leaves: the last one is cut to its length.
    fn held(&self) -> u64 {
        self.bytes() - self.segments.back().map_or(0, |(_, len)| len.saturating_sub(self.at))
    }

    /// What there may be before the last segment of a copy, after which others go.
    fn copies_max(&self) -> u64 {
        self.options.bytes_max.saturating_sub(self.options.segment_bytes)
    }

    fn account(&self) {
        let stats = &self.queues.stats;
        stats.disk_bytes.store(self.bytes(), Relaxed);
        stats.segments.store(self.segments.len() as u64, Relaxed);
        stats.health.store(self.health as u8, Relaxed);
    }
}

impl WriterTrouble {
    fn of_write(error: &io::Error) -> WriterTrouble {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => {
                WriterTrouble::Full(Health::DiskFull, error.to_string())
            }
            _ => WriterTrouble::Failed(format!("a write has failed: {error}")),
        }
    }

    fn error_code(&self) -> ErrorCode {
        match self {
            WriterTrouble::Full(..) => ErrorCode::StoreFull,
            WriterTrouble::Failed(_) => ErrorCode::StoreFailed,
        }
    }

    fn why(&self) -> String {
        let (WriterTrouble::Full(_, why) | WriterTrouble::Failed(why)) = self;
        why.clone()
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
