//! Reads all segments of a store, in order, whatever their bytes are.

use std::fmt;
use std::io;

use super::disk::Disk;
use super::fault::StoreFault;
use super::format::{
    BATCH_HEAD_BYTES, BATCH_MAGIC, NoSegment, SEGMENT_HEAD_BYTES, Segment, StoreBatch, StoreId, next_record,
};
use crate::record::StoredRecord;

/// Something that was on disk and can no longer be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: u64,
    /// From which byte on.
    pub at: u64,
    pub bytes: u64,
    pub why: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { segment, at, bytes, why } = self;
        write!(f, "segment {segment}, {bytes} bytes from byte {at} on: {why}")
    }
}

/// One after the other.
#[allow(clippy::large_enum_variant, reason = "one at a time is held")]
#[derive(Debug)]
pub enum Found {
    Record(StoredRecord),
    Damage(Damage),
}

/// What there was to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreRead {
    /// Of the store, if there was one.
    pub id: Option<StoreId>,
    /// Numbers and lengths of the segments that hold something.
    pub segments: Vec<(u64, u64)>,
    /// A file that was made and not begun.
    pub unwritten: Option<u64>,
    /// The number of the next batch.
    pub next_batch: u64,
    pub records: u64,
    pub damages: u64,
    /// Bytes at the very end that were never acknowledged.
    pub cut: u64,
}

impl StoreRead {
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Reads everything.
///
/// # Errors
/// It is no store that this build can read, or the disk cannot be read.
pub fn read_all(disk: &mut impl Disk, take: &mut dyn FnMut(Found)) -> Result<StoreRead, StoreFault> {
    let numbers = disk.list()?;
    let mut heads = Vec::new();
    for &number in &numbers {
        heads.push((number, Segment::from_bytes(&disk.read(number, 0, SEGMENT_HEAD_BYTES)?)));
    }
    let mut read = StoreRead::default();
    // The last file may have been made and not begun.
    if let Some(&(number, Err(NoSegment::Unwritten))) = heads.last() {
        read.unwritten = Some(number);
        heads.pop();
    }
    for (number, head) in &heads {
        match head {
            Err(NoSegment::Newer(version)) => return Err(StoreFault::Newer(*version)),
            Err(NoSegment::Foreign) => {
                return Err(StoreFault::Foreign(format!("segment {number} begins with something else")));
            }
            Ok(segment) if *read.id.get_or_insert(segment.id) != segment.id => {
                return Err(StoreFault::Foreign(format!("segment {number} is of another store")));
            }
            _ => {}
        }
    }
    let Some(id) = read.id else {
        return match heads.first() {
            None => Ok(read),
            Some((number, _)) => Err(StoreFault::Foreign(format!("the head of segment {number} is damaged"))),
        };
    };
    let needed = heads.iter().rev().find_map(|(_, head)| head.ok()).map_or(0, |head| head.oldest);
    let mut expected = needed;
    let mut scan = Scan { id, read, take, next_batch: None };
    for (place, (number, head)) in heads.iter().enumerate() {
        if *number > expected && *number > needed {
            let (segment, why) = (expected.max(needed), "the file is missing");
            scan.damage(Damage { segment, at: 0, bytes: 0, why });
        }
        expected = number + 1;
        let next = heads.get(place + 1).and_then(|(_, next)| next.ok()).map(|next| next.previous_bytes);
        let is_last = place + 1 == heads.len();
        let len = usize::try_from(disk.len(*number)?).map_err(io::Error::other)?;
        let bytes = disk.read(*number, 0, len)?;
        if head.is_err() {
            let bytes = SEGMENT_HEAD_BYTES as u64;
            scan.damage(Damage { segment: *number, at: 0, bytes, why: "its head is damaged" });
        }
        let end = scan.segment(*number, &bytes, next, is_last);
        scan.read.segments.push((*number, end));
    }
    let Scan { mut read, next_batch, .. } = scan;
    read.next_batch = next_batch.unwrap_or(1);
    Ok(read)
}

struct Scan<'t> {
    id: StoreId,
    read: StoreRead,
    take: &'t mut dyn FnMut(Found),
    next_batch: Option<u64>,
}

impl Scan<'_> {
    fn damage(&mut self, damage: Damage) {
        self.read.damages += 1;
        (self.take)(Found::Damage(damage));
    }

    /// Reads a segment whose length is known if another one follows. Gives the length of what is good.
    fn segment(&mut self, number: u64, bytes: &[u8], len: Option<u64>, is_last: bool) -> u64 {
        let len = len.map_or(bytes.len(), |len| usize::try_from(len).unwrap_or(usize::MAX));
        let end = len.min(bytes.len());
        let mut at = SEGMENT_HEAD_BYTES.min(end);
        while at < end {
            let batch = StoreBatch::from_bytes(&bytes[at..end], self.id);
            let batch = batch.filter(|batch| self.next_batch.is_none_or(|next| batch.number >= next));
            let Some(batch) = batch else {
                match self.next_good(bytes, at, end) {
                    Some(next) => {
                        self.lost(number, at, next, "no batch is here, and others follow");
                        at = next;
                    }
                    None if is_last => return self.cut(bytes, at, end),
                    None => {
                        self.lost(number, at, end, "no batch is here");
                        return end as u64;
                    }
                }
                continue;
            };
            let body_at = at + BATCH_HEAD_BYTES;
            let body_end = body_at.saturating_add(batch.bytes as usize).min(end);
            let (records, good) = records_of(&bytes[body_at..body_end]);
            let is_whole = records.len() == batch.records as usize
                && body_at + good == body_at.saturating_add(batch.bytes as usize);
            if !is_whole && is_last && self.after(bytes, at + 1, end, batch.number).is_none() {
                return self.cut(bytes, at, end);
            }
            if self.next_batch.is_some_and(|next| batch.number != next) && self.read.damages == 0 {
                self.lost(number, at, at, "batches before this one are missing");
            }
            for record in records {
                match record {
                    Some(record) => {
                        self.read.records += 1;
                        (self.take)(Found::Record(record));
                    }
                    None => self.lost(number, at, body_end, "a record is not understood"),
                }
            }
            self.next_batch = Some(batch.number + 1);
            if is_whole {
                at = body_end;
                continue;
            }
            let next = self.after(bytes, at + 1, end, batch.number).unwrap_or(end);
            self.lost(number, body_at + good, next, "a record is damaged");
            at = next;
        }
        if end < len {
            self.lost(number, end, len, "the file is too short");
        }
        end as u64
    }

    fn next_good(&self, bytes: &[u8], at: usize, end: usize) -> Option<usize> {
        self.after(bytes, at + 1, end, self.next_batch.map_or(0, |next| next.saturating_sub(1)))
    }

    /// Where the next batch with a number above `number` begins.
    fn after(&self, bytes: &[u8], from: usize, end: usize, number: u64) -> Option<usize> {
        let bytes = bytes.get(..end)?;
        let mut at = from;
        while let Some(found) = find(bytes.get(at..)?, BATCH_MAGIC) {
            at += found;
            if StoreBatch::from_bytes(&bytes[at..], self.id).is_some_and(|batch| batch.number > number) {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    fn lost(&mut self, segment: u64, at: usize, end: usize, why: &'static str) {
        let (at, bytes) = (at as u64, (end - at.min(end)) as u64);
        self.damage(Damage { segment, at, bytes, why });
    }

    /// What a power loss has left at the end.
    fn cut(&mut self, bytes: &[u8], at: usize, end: usize) -> u64 {
        let written = bytes[at..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.read.cut = written as u64;
        at as u64
    }
}

fn find(bytes: &[u8], magic: [u8; 4]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|byte| *byte == magic[0])?;
        if bytes.get(at..at + 4)? == magic {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The records up to the first bad byte, and where that is. `None`: whole, but of a kind that this build does not know.
fn records_of(bytes: &[u8]) -> (Vec<Option<StoredRecord>>, usize) {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while let Some((body, behind)) = next_record(rest) {
        records.push(StoredRecord::from_bytes(body).ok());
        rest = behind;
    }
    (records, bytes.len() - rest.len())
}
