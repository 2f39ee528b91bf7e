//! To which shards of the new process a parcel goes.

use crate::base::ids::{ChannelName, ConnId, ShardId};
use crate::record::{self, RecordFault, RecordKind, StreamRecord, UserRecord};
use crate::shard::handover::order::{Parcel, ParcelKind};
use crate::shard::owner::Owner;
use crate::shard::router::Router;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    One(ShardId),
    /// Each takes what is its own of it.
    Every,
}

/// Where a parcel goes in the process of `router`. Parcels of one shard keep their order at each destination.
///
/// # Errors
/// It is not what it says it is.
pub fn destination(parcel: &Parcel, router: &Router) -> Result<Destination, RecordFault> {
    let shard = match parcel.kind {
        ParcelKind::Shard | ParcelKind::Keys => return Ok(Destination::Every),
        ParcelKind::Stream => match take_stream_head(&parcel.record)?.0 {
            Some(label) => label.among(router.shards() as u16),
            None => return Ok(Destination::Every),
        },
        ParcelKind::Peer | ParcelKind::Seated | ParcelKind::Socket | ParcelKind::Closed => {
            router.peer_shard(take_number(&parcel.record)?.0)
        }
        ParcelKind::Channel => {
            let (unread, _) = record::next(&parcel.record)?;
            // All else is read where it goes.
            let channel: ChannelName = match unread.kind {
                RecordKind::Channel | RecordKind::ChannelLog | RecordKind::ChannelMembers => {
                    unread.first()?
                }
                _ => return Err(RecordFault::OtherKind),
            };
            match router.owner(&channel) {
                Owner::Shard(shard) => shard,
                Owner::Engine(_) => return Err(RecordFault::Impossible("a channel that an engine owns")),
            }
        }
        ParcelKind::User => router.user_owner(&record::read::<UserRecord>(&parcel.record)?.user),
    };
    Ok(Destination::One(shard))
}

/// The streams in a parcel of these.
///
/// # Errors
/// It is not what it says it is.
pub fn streams_of(record: &[u8]) -> Result<Vec<StreamRecord>, RecordFault> {
    let (_, mut rest) = take_stream_head(record)?;
    let mut streams = Vec::new();
    while !rest.is_empty() {
        let (unread, behind) = record::next(rest)?;
        streams.push(unread.read()?);
        rest = behind;
    }
    Ok(streams)
}

/// Room for the parcel of most peers, so that it need not grow.
pub(super) const PEER_BYTES: usize = 256;

/// A peer's record stands behind its number, so that it finds its way unread. Where several are in one parcel, one number
/// is enough for that.
pub(super) fn put_number(conn: ConnId, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&conn.to_bits().to_le_bytes());
}

/// A parcel of a number alone.
pub(super) fn number_alone(conn: ConnId) -> Vec<u8> {
    conn.to_bits().to_le_bytes().to_vec()
}

pub(super) fn take_number(bytes: &[u8]) -> Result<(ConnId, &[u8]), RecordFault> {
    let (number, rest) = bytes.split_first_chunk().ok_or(RecordFault::Cut)?;
    Ok((ConnId::from_bits(u64::from_le_bytes(*number)), rest))
}

/// A stream's parcel begins with the numbers that its subscribers have in common; `None` when there are several.
pub(super) fn stream_head(label: Option<ShardId>) -> Vec<u8> {
    label.map_or(u32::MAX, |label| label.0.into()).to_le_bytes().to_vec()
}

pub(super) fn take_stream_head(bytes: &[u8]) -> Result<(Option<ShardId>, &[u8]), RecordFault> {
    let (label, rest) = bytes.split_first_chunk().ok_or(RecordFault::Cut)?;
    match u32::from_le_bytes(*label) {
        u32::MAX => Ok((None, rest)),
        label => {
            let label = u16::try_from(label).map_err(|_| RecordFault::Impossible("a shard"))?;
            Ok((Some(ShardId(label)), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Sock;

    #[test]
    fn a_number_is_read_as_it_was_written_and_what_is_behind_it_is_left() {
        let conn = ConnId::new(ShardId(3), Sock { slot: 70_000, generation: 9 });
        let mut bytes = Vec::new();
        put_number(conn, &mut bytes);
        assert_eq!(bytes, number_alone(conn));
        bytes.extend_from_slice(b"rest");
        assert_eq!(take_number(&bytes).unwrap(), (conn, &b"rest"[..]));
        for cut in 0..8 {
            assert_eq!(take_number(&bytes[..cut]), Err(RecordFault::Cut), "{cut}");
        }
    }

    #[test]
    fn a_stream_says_whose_it_is_or_that_it_is_of_several() {
        for label in [None, Some(ShardId(0)), Some(ShardId(u16::MAX))] {
            let mut bytes = stream_head(label);
            bytes.push(1);
            assert_eq!(take_stream_head(&bytes).unwrap(), (label, &[1][..]));
        }
        assert_eq!(take_stream_head(&[0; 3]), Err(RecordFault::Cut));
        let no_shard = (u32::from(u16::MAX) + 1).to_le_bytes();
        assert!(take_stream_head(&no_shard).is_err(), "no shard has such a number");
    }
}
