//! Heads of segments and batches, and records: bytes and back. Drawn in [`super`].

use crate::record::StoredRecord;

const SEGMENT_MAGIC: [u8; 8] = *b"TKSTORE\0";
pub(super) const BATCH_MAGIC: [u8; 4] = *b"BTCH";
/// What this build writes, and the latest that it reads.
pub(super) const VERSION: u32 = 1;
pub(super) const SEGMENT_HEAD_BYTES: usize = 64;
pub(super) const BATCH_HEAD_BYTES: usize = 32;
pub(super) const RECORD_HEAD_BYTES: usize = 8;

/// Tells the files of one store from those of another. Random: no payload can look like a batch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub u128);

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub number: u64,
    pub first_batch: u64,
    /// Files from this number on are needed.
    pub oldest: u64,
    /// How long the file before is; 0 where there is none.
    pub previous_bytes: u64,
    pub id: StoreId,
}

/// Why bytes are no head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSegment {
    /// Nothing was written yet.
    Unwritten,
    Foreign,
    Newer(u32),
    Damaged,
}

impl Segment {
    pub(super) fn to_bytes(self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut bytes = [0; SEGMENT_HEAD_BYTES];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_batch.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_bytes.to_le_bytes());
        bytes[48..64].copy_from_slice(&self.id.0.to_le_bytes());
        let sum = checksum(&[&bytes[..12], &bytes[16..]]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Segment, NoSegment> {
        let head = bytes.get(..SEGMENT_HEAD_BYTES).unwrap_or(bytes);
        if head.iter().all(|byte| *byte == 0) {
            return Err(NoSegment::Unwritten);
        }
        if head.len() < SEGMENT_MAGIC.len() || head[..8] != SEGMENT_MAGIC {
            return Err(NoSegment::Foreign);
        }
        if head.len() < SEGMENT_HEAD_BYTES {
            return Err(NoSegment::Damaged);
        }
        let version = u32_at(head, 8);
        // A build that writes another version may lay out the rest as it likes.
        if version > VERSION {
            return Err(NoSegment::Newer(version));
        }
        if checksum(&[&head[..12], &head[16..]]) != u32_at(head, 12) || version == 0 {
            return Err(NoSegment::Damaged);
        }
        Ok(Segment {
            number: u64_at(head, 16),
            first_batch: u64_at(head, 24),
            oldest: u64_at(head, 32),
            previous_bytes: u64_at(head, 40),
            id: StoreId(u128::from(u64_at(head, 48)) | u128::from(u64_at(head, 56)) << 64),
        })
    }
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreBatch {
    pub number: u64,
    /// Of the records behind it.
    pub bytes: u32,
    pub records: u32,
}

impl StoreBatch {
    pub fn to_bytes(self, id: StoreId) -> [u8; BATCH_HEAD_BYTES] {
        let mut bytes = [0; BATCH_HEAD_BYTES];
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.records.to_le_bytes());
        bytes[24..32].copy_from_slice(&(id.0 as u64).to_le_bytes());
        let sum = checksum(&[&bytes[8..]]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None`: no batch of this store begins here.
    pub fn from_bytes(bytes: &[u8], id: StoreId) -> Option<StoreBatch> {
        let head = bytes.get(..BATCH_HEAD_BYTES)?;
        let is_one = head[..4] == BATCH_MAGIC
            && u64_at(head, 24) == id.0 as u64
            && checksum(&[&head[8..]]) == u32_at(head, 4);
        is_one.then(|| StoreBatch {
            number: u64_at(head, 8),
            bytes: u32_at(head, 16),
            records: u32_at(head, 20),
        })
    }
}

/// Appends a record with its head.
pub(super) fn write_record(record: &StoredRecord, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    record.write_to(out);
    let length = ((out.len() - start - RECORD_HEAD_BYTES) as u32).to_le_bytes();
    let sum = checksum(&[&length, &out[start + RECORD_HEAD_BYTES..]]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
}

/// The body of the record at the start of `bytes`, and what comes behind it. `None`: it is not whole.
pub(super) fn next_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEAD_BYTES)?;
    let (body, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
    (checksum(&[&head[..4], body]) == u32_at(head, 4)).then_some((body, rest))
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    const ID: StoreId = StoreId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

    #[test]
    fn heads_come_back_and_every_changed_byte_is_seen() {
        let segment = Segment { number: 7, first_batch: 1 << 40, oldest: 3, previous_bytes: 99, id: ID };
        let bytes = segment.to_bytes();
        assert_eq!(Segment::from_bytes(&bytes), Ok(segment));
        assert_eq!(Segment::from_bytes(&[0; 10]), Err(NoSegment::Unwritten));
        assert_eq!(Segment::from_bytes(b"#!/bin/sh\n"), Err(NoSegment::Foreign));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 0x10;
            let expected = match at {
                0..8 => NoSegment::Foreign,
                8..12 => NoSegment::Newer(u32_at(&bad, 8)),
                _ => NoSegment::Damaged,
            };
            assert_eq!(Segment::from_bytes(&bad), Err(expected), "byte {at}");
            assert_ne!(Segment::from_bytes(&bytes[..at]), Ok(segment));
        }
        let batch = StoreBatch { number: 5, bytes: 1000, records: 3 };
        let bytes = batch.to_bytes(ID);
        assert_eq!(StoreBatch::from_bytes(&bytes, ID), Some(batch));
        assert_eq!(StoreBatch::from_bytes(&bytes, StoreId(1)), None);
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(StoreBatch::from_bytes(&bad, ID), None, "byte {at}");
            assert_eq!(StoreBatch::from_bytes(&bytes[..at], ID), None);
        }
    }

    #[test]
    fn any_bytes_may_be_read() {
        let mut prng = Prng::with_seed(5);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..prng.usize(..100)).map(|_| prng.u8(..)).collect();
            let _ = Segment::from_bytes(&bytes);
            let _ = StoreBatch::from_bytes(&bytes, ID);
            if let Some((body, _)) = next_record(&bytes) {
                let _ = StoredRecord::from_bytes(body);
            }
            let _ = StoredRecord::from_bytes(&bytes);
        }
    }
}
