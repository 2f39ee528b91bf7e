//! Where a unidirectional client stands in all of its channels, as one short text.
//!
//! The text is opaque to clients: it goes out as an SSE `id`, a member of JSON messages, an `ETag`, and comes back as
//! `Last-Event-ID`, in the query, or as `If-None-Match`. Nothing signs it, as it gives no right: a client that changes
//! it is told other messages of channels that it may read anyway, or that its position is lost.
//!
//! ```text
//!  base64url( version 1 | { tag of the channel's name: 4 | epoch: 4 | offset: 1..10, LEB128 } ... )
//!  base64url( version 2 | { tag of the channel's name: 4 | epoch: 8 | offset: 1..10, LEB128 } ... )
//! ```
//! Version 2 when one of the epochs is another owner's.
//! A channel is named by a tag of 32 bits, because the request names it already. Two of a unidirectional client's
//! channels that share a tag would find each other's epoch, which is random: told lost, never given a wrong message in
//! silence.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;

use crate::base::ids::{Epoch, Offset, Position};

/// Most channels of one position. With the longest offsets that is a text of 3.1 kB, which every proxy takes in a
/// header and a query; 3.8 kB where others own channels.
pub const POSITION_CHANNELS_MAX: usize = 128;

const VERSION: u8 = 1;
const VERSION_WIDE: u8 = 2;
const ENTRY_BYTES_MAX: usize = 4 + 8 + 10;
/// Longest position text, in bytes.
pub const POSITION_BYTES_MAX: usize = (1 + POSITION_CHANNELS_MAX * ENTRY_BYTES_MAX).div_ceil(3) * 4;

/// The text is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedPosition;

/// A position as it was read from a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(SmallVec<[(u32, Position); 2]>);

impl Positions {
    /// # Errors
    /// [`MalformedPosition`] for whatever [`write_position`] cannot have written. The empty text is no position.
    pub fn parse(text: &str) -> Result<Positions, MalformedPosition> {
        if text.len() > POSITION_BYTES_MAX {
            return Err(MalformedPosition);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| MalformedPosition)?;
        let (wide, mut rest) = match bytes.split_first() {
            Some((&VERSION, rest)) => (false, rest),
            Some((&VERSION_WIDE, rest)) if !rest.is_empty() => (true, rest),
            _ => return Err(MalformedPosition),
        };
        let mut entries = SmallVec::new();
        while !rest.is_empty() {
            let (entry, after) = read_entry(rest, wide).ok_or(MalformedPosition)?;
            if entries.len() == POSITION_CHANNELS_MAX {
                return Err(MalformedPosition);
            }
            entries.push(entry);
            rest = after;
        }
        Ok(Positions(entries))
    }

    /// A position of another server: one that names no channel of anybody's here.
    pub fn foreign() -> Positions {
        Positions(SmallVec::from_slice(&[(0, Position { offset: Offset(0), epoch: Epoch::NONE })]))
    }

    /// Where the unidirectional client stood in `channel`; `None` when the position is older than its interest in it.
    pub fn get(&self, channel: &str) -> Option<Position> {
        let tag = tag(channel);
        self.0.iter().find(|(at, _)| *at == tag).map(|(_, position)| *position)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends the text for `channels`, in their order.
pub fn write_position<'a>(
    out: &mut Vec<u8>,
    channels: impl IntoIterator<Item = (&'a str, Position), IntoIter: Clone>,
) {
    let channels = channels.into_iter();
    let wide = channels.clone().any(|(_, position)| !position.epoch.is_own());
    let mut bytes: SmallVec<[u8; 64]> = SmallVec::new();
    bytes.push(if wide { VERSION_WIDE } else { VERSION });
    for (channel, position) in channels {
        bytes.extend_from_slice(&tag(channel).to_be_bytes());
        let epoch = position.epoch.0.to_be_bytes();
        bytes.extend_from_slice(if wide { &epoch } else { &epoch[4..] });
        let mut left = position.offset.0;
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
    }
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    let written = URL_SAFE_NO_PAD.encode_slice(&bytes, &mut out[from..]);
    debug_assert!(written.is_ok(), "there is room for it");
    out.truncate(from + written.unwrap_or(0));
}

fn read_entry(bytes: &[u8], wide: bool) -> Option<((u32, Position), &[u8])> {
    let (tag, rest) = bytes.split_first_chunk()?;
    let (epoch, mut rest) = rest.split_at_checked(if wide { 8 } else { 4 })?;
    let epoch = Epoch(epoch.iter().fold(0, |epoch, &byte| epoch << 8 | u64::from(byte)));
    let mut offset = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        // The tenth byte has room for one bit only.
        if shift == 63 && byte > 1 {
            return None;
        }
        offset |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let position = Position { offset: Offset(offset), epoch };
            return Some(((u32::from_be_bytes(*tag), position), rest));
        }
    }
    None
}

/// FNV-1a: the same on every node and in every version, as positions outlive both.
fn tag(channel: &str) -> u32 {
    channel.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64, epoch: u64) -> Position {
        Position { offset: Offset(offset), epoch: Epoch(epoch) }
    }

    fn text(channels: &[(&str, Position)]) -> String {
        let mut out = b"kept".to_vec();
        write_position(&mut out, channels.iter().copied());
        assert_eq!(&out[..4], b"kept");
        String::from_utf8(out[4..].to_vec()).unwrap()
    }

    #[test]
    fn what_is_written_reads_back() {
        for offset in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let channels = [("news", at(offset, 0xdead_beef)), ("chat:é", at(7, 0)), ("", at(1, 1))];
            let read = Positions::parse(&text(&channels)).unwrap();
            for (channel, position) in channels {
                assert_eq!(read.get(channel), Some(position));
            }
            assert_eq!(read.get("other"), None);
        }
        assert!(Positions::parse(&text(&[])).unwrap().is_empty());
    }

    #[test]
    fn one_channel_costs_a_few_characters() {
        assert_eq!(text(&[("news", at(100, 5))]).len(), 14);
    }

    #[test]
    fn epochs_of_other_owners_are_kept_whole() {
        let foreign: Epoch = "kJxQwBnT".parse().unwrap();
        let channels = [("news", at(300, 5)), ("far", Position { offset: Offset(7), epoch: foreign })];
        let read = Positions::parse(&text(&channels)).unwrap();
        for (channel, position) in channels {
            assert_eq!(read.get(channel), Some(position));
        }
        assert_eq!(Positions::parse(&URL_SAFE_NO_PAD.encode([2])), Err(MalformedPosition));
    }

    #[test]
    fn the_most_channels_fit_their_bound_and_one_more_is_refused() {
        let names: Vec<String> = (0..=POSITION_CHANNELS_MAX).map(|number| number.to_string()).collect();
        let all: Vec<(&str, Position)> =
            names.iter().map(|name| (name.as_str(), at(u64::MAX, u64::MAX))).collect();
        let most = text(&all[..POSITION_CHANNELS_MAX]);
        assert!(most.len() <= POSITION_BYTES_MAX);
        assert!(Positions::parse(&most).is_ok());
        assert_eq!(Positions::parse(&text(&all)), Err(MalformedPosition));
    }

    #[test]
    fn nothing_else_is_read() {
        let good = text(&[("news", at(300, 5))]);
        for cut in 3..good.len() {
            assert_eq!(Positions::parse(&good[..cut]), Err(MalformedPosition), "{cut}");
        }
        for foreign in
            ["", "0", "42", "AA", "Ag", "AQ==", "AQ!", "é", " ", &"A".repeat(POSITION_BYTES_MAX + 1)]
        {
            assert_eq!(Positions::parse(foreign), Err(MalformedPosition), "{foreign:?}");
        }
        // An offset of more than 64 bits.
        let mut long = vec![1, 0, 0, 0, 0, 0, 0, 0, 0];
        long.extend([0xff; 9]);
        for (last, good) in [(1, true), (2, false), (0x81, false)] {
            let mut bytes = long.clone();
            bytes.push(last);
            assert_eq!(Positions::parse(&URL_SAFE_NO_PAD.encode(&bytes)).is_ok(), good);
        }
    }
}
