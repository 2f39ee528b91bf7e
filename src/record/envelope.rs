//! The frame around a record's body: what it is, how long it is, whether it is whole.

use crate::record::fault::RecordFault;
use crate::record::field::{Field, FieldWriter, Reader};

/// Longest record, body and head, in bytes: a client with a full output queue, or one publication as large as the largest
/// request body, and room to spare. What is longer is not written, and not read.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"TKLR";
/// What this build writes, and the latest that it reads.
pub(super) const VERSION: u8 = 1;
pub(super) const HEAD_BYTES: usize = 16;

/// What a record is of. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    Peer = 1,
    Channel = 2,
    /// Entries of the log of the channel that it names.
    ChannelLog = 3,
    Keys = 4,
    ChannelMembers = 5,
    /// What subscribers of one shard have not been given yet.
    ChannelStream = 6,
    User = 7,
    Events = 8,
    EventsLog = 9,
    Tickets = 10,
    Hello = 11,
    Node = 12,
    Listeners = 13,
    Parcels = 14,
    Totals = 15,
    PushKeys = 16,
    /// Where the writer of a store has stopped.
    Store = 17,
    Blocks = 18,
    Shard = 20,
}

impl RecordKind {
    pub const ALL: [RecordKind; 19] = [
        RecordKind::Peer,
        RecordKind::Channel,
        RecordKind::ChannelLog,
        RecordKind::Keys,
        RecordKind::ChannelMembers,
        RecordKind::ChannelStream,
        RecordKind::User,
        RecordKind::Events,
        RecordKind::EventsLog,
        RecordKind::Tickets,
        RecordKind::Shard,
        RecordKind::Hello,
        RecordKind::Node,
        RecordKind::Listeners,
        RecordKind::Parcels,
        RecordKind::Totals,
        RecordKind::PushKeys,
        RecordKind::Store,
        RecordKind::Blocks,
    ];

    fn from_number(number: u8) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What stands in a record of its own.
pub trait Record: Field {
    const KIND: RecordKind;
}

/// Appends `record` to `out`.
///
/// # Errors
/// [`RecordFault::TooLong`] over [`RECORD_BYTES_MAX`]; `out` is as it was then.
pub fn write<R: Record>(record: &R, out: &mut Vec<u8>) -> Result<(), RecordFault> {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, R::KIND as u8, 0, 0]);
    out.extend_from_slice(&[0; 8]);
    let mut writer = FieldWriter::new(std::mem::take(out));
    record.write(&mut writer);
    *out = writer.into_bytes();
    let written = &mut out[start..];
    if written.len() > RECORD_BYTES_MAX {
        out.truncate(start);
        return Err(RecordFault::TooLong);
    }
    let length = (written.len() - HEAD_BYTES) as u32;
    written[8..12].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&written[4..12], &written[HEAD_BYTES..]);
    written[12..16].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// A record whose head and checksum have been looked at.
#[derive(Clone, Copy, Debug)]
pub struct UnreadRecord<'b> {
    pub kind: RecordKind,
    body: &'b [u8],
}

/// The record at the start of `bytes`, and what comes behind it.
///
/// # Errors
/// [`RecordFault::Cut`] when `bytes` end before it does; others for what is no record that this build reads.
pub fn next(bytes: &[u8]) -> Result<(UnreadRecord<'_>, &[u8]), RecordFault> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(RecordFault::Foreign);
    }
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Err(RecordFault::Cut) };
    let [_, _, _, _, version, kind, zero, zero_too, length @ .., s0, s1, s2, s3] = *head;
    if version == 0 || (zero, zero_too) != (0, 0) {
        return Err(RecordFault::Foreign);
    }
    if version > VERSION {
        return Err(RecordFault::Version(version));
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > RECORD_BYTES_MAX - HEAD_BYTES {
        return Err(RecordFault::TooLong);
    }
    let Some((body, rest)) = rest.split_at_checked(length) else { return Err(RecordFault::Cut) };
    if checksum(&head[4..12], body) != u32::from_le_bytes([s0, s1, s2, s3]) {
        return Err(RecordFault::Checksum);
    }
    let kind = RecordKind::from_number(kind).ok_or(RecordFault::UnknownKind(kind))?;
    Ok((UnreadRecord { kind, body }, rest))
}

impl UnreadRecord<'_> {
    /// The first field alone, of a record that begins with one of this type.
    ///
    /// # Errors
    /// It does not.
    pub fn first<F: Field>(&self) -> Result<F, RecordFault> {
        let mut reader = Reader::new(self.body);
        reader.array()?;
        F::read(&mut reader)
    }

    /// # Errors
    /// It is of another kind, or malformed.
    pub fn read<R: Record>(&self) -> Result<R, RecordFault> {
        if self.kind != R::KIND {
            return Err(RecordFault::OtherKind);
        }
        let mut reader = Reader::new(self.body);
        let record = R::read(&mut reader)?;
        // A body is one value.
        match reader.skip(1) {
            Err(RecordFault::Cut) => Ok(record),
            _ => Err(RecordFault::Malformed("the end of the record")),
        }
    }
}

/// The one record that `bytes` are.
///
/// # Errors
/// They are no such record, or more than one.
pub fn read<R: Record>(bytes: &[u8]) -> Result<R, RecordFault> {
    let (unread, rest) = next(bytes)?;
    if !rest.is_empty() {
        return Err(RecordFault::Malformed("the end of the record"));
    }
    unread.read()
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(body);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::UserRecord;

    fn user() -> UserRecord {
        UserRecord {
            user: "ann".into(),
            peers: vec![(1, false)],
            waiting: Vec::new(),
            leaving: vec![9],
            classes: vec![(1, "phone".into())],
        }
    }

    #[test]
    fn every_fault_of_a_head_has_its_name() {
        let mut good = Vec::new();
        write(&user(), &mut good).unwrap();
        assert_eq!(read::<UserRecord>(&good), Ok(user()));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read::<UserRecord>(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'X'), RecordFault::Foreign);
        assert_eq!(changed(4, 0), RecordFault::Foreign);
        assert_eq!(changed(4, 2), RecordFault::Version(2));
        assert_eq!(changed(5, RecordKind::Channel as u8), RecordFault::Checksum);
        assert_eq!(changed(7, 1), RecordFault::Foreign);
        assert_eq!(changed(11, 0xff), RecordFault::TooLong);
        assert_eq!(changed(9, 1), RecordFault::Cut);
        assert_eq!(changed(12, good[12] ^ 1), RecordFault::Checksum);
        assert_eq!(changed(good.len() - 1, 77), RecordFault::Checksum);
        for len in 0..good.len() {
            assert_eq!(read::<UserRecord>(&good[..len]).unwrap_err(), RecordFault::Cut, "{len} bytes");
        }
        assert_eq!(next(&good).unwrap().0.read::<crate::record::EventsRecord>(), Err(RecordFault::OtherKind));
        // A kind of a later build, whole: a reader can leave it out by name.
        let mut other = good.clone();
        other[5] = 200;
        let sum = checksum(&other[4..12], &other[HEAD_BYTES..]);
        other[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(next(&other).unwrap_err(), RecordFault::UnknownKind(200));
    }

    #[test]
    fn records_stand_one_behind_the_other() {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            write(&user(), &mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        for _ in 0..3 {
            let (unread, behind) = next(rest).unwrap();
            assert_eq!((unread.kind, unread.read()), (RecordKind::User, Ok(user())));
            rest = behind;
        }
        assert!(rest.is_empty());
        assert!(read::<UserRecord>(&bytes).is_err(), "three are not one");
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let mut bytes = vec![1, 2, 3];
        let long = UserRecord { user: "x".repeat(RECORD_BYTES_MAX).into(), ..user() };
        assert_eq!(write(&long, &mut bytes), Err(RecordFault::TooLong));
        assert_eq!(bytes, [1, 2, 3]);
    }
}
