//! What every payload carries, so that a delivery is recognised in any protocol by a search for it.
//!
//! ```text
//! ~TL p RRRRRRRR CCCCCCCC NNNNNNNN SSSSSSSS FFFFFFFF TTTTTTTTTTTTTTTT ~     (without the spaces; hexadecimal)
//!     │ run      channel  number   sequence floor    planned, ns
//!     p: a publication, r: a request
//! ```
//! `number` counts the run's publications, `sequence` those of one channel. `floor`: all sequences of the channel below
//! it had been acknowledged by the server when this one was sent, so none of them may be delivered after it. That makes
//! the check of order exact also when several connections publish to one channel at once.

use memchr::memmem::Finder;
use trunkline::base::time::Time;

/// Length of a mark in bytes.
pub const MARK_BYTES: usize = 4 + 5 * 8 + 16 + 1;
const START: &[u8] = b"~TL";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Publication,
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub kind: MarkKind,
    pub run: u32,
    /// Of a request: the connection.
    pub channel: u32,
    pub number: u32,
    pub sequence: u32,
    pub floor: u32,
    /// When it was planned to be sent, on the machine's monotonic clock.
    pub planned: Time,
}

impl Mark {
    pub fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [b'~'; MARK_BYTES];
        bytes[..3].copy_from_slice(START);
        bytes[3] = match self.kind {
            MarkKind::Publication => b'p',
            MarkKind::Request => b'r',
        };
        let mut at = 4;
        for word in [self.run, self.channel, self.number, self.sequence, self.floor] {
            write_hex(&mut bytes[at..at + 8], word.into());
            at += 8;
        }
        write_hex(&mut bytes[at..at + 16], self.planned.0);
        bytes
    }

    fn decode(bytes: &[u8; MARK_BYTES]) -> Option<Mark> {
        let kind = match bytes[3] {
            b'p' => MarkKind::Publication,
            b'r' => MarkKind::Request,
            _ => return None,
        };
        if bytes[MARK_BYTES - 1] != b'~' {
            return None;
        }
        let word = |at: usize| read_hex(&bytes[4 + at * 8..12 + at * 8]).map(|value| value as u32);
        Some(Mark {
            kind,
            run: word(0)?,
            channel: word(1)?,
            number: word(2)?,
            sequence: word(3)?,
            floor: word(4)?,
            planned: Time(read_hex(&bytes[44..60])?),
        })
    }
}

/// Finds marks in what a server sent.
pub struct MarkFinder(Finder<'static>);

impl Default for MarkFinder {
    fn default() -> Self {
        MarkFinder(Finder::new(START))
    }
}

impl MarkFinder {
    /// Every mark in `bytes`, in order. What begins like one and is none is passed over.
    pub fn marks<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Mark> + 'a {
        let mut rest = bytes;
        std::iter::from_fn(move || {
            loop {
                let at = self.0.find(rest)?;
                if let Some(mark) = rest[at..].first_chunk().and_then(Mark::decode) {
                    rest = &rest[at + MARK_BYTES..];
                    return Some(mark);
                }
                rest = &rest[at + START.len()..];
            }
        })
    }
}

/// A JSON object of `len` bytes, or of the least that holds the mark, which is 10 more than that.
pub fn write_payload(out: &mut Vec<u8>, mark: &Mark, len: usize) {
    const EMPTY: usize = MARK_BYTES + br#"{"m":""}"#.len();
    const PADDED: usize = MARK_BYTES + br#"{"m":"","p":""}"#.len();
    out.extend_from_slice(br#"{"m":""#);
    out.extend_from_slice(&mark.encode());
    if len >= PADDED {
        out.extend_from_slice(br#"","p":""#);
        out.resize(out.len() + len - PADDED, b'x');
    } else {
        debug_assert!(len <= PADDED || EMPTY < PADDED);
    }
    out.extend_from_slice(br#""}"#);
}

fn write_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark {
        kind: MarkKind::Publication,
        run: 0xdead_beef,
        channel: 7,
        number: u32::MAX,
        sequence: 1,
        floor: 0,
        planned: Time(0x0123_4567_89ab_cdef),
    };

    #[test]
    fn marks_are_found_in_any_wrapping() {
        let finder = MarkFinder::default();
        let mut bytes = b"~TL~TLp data: ~T".to_vec();
        write_payload(&mut bytes, &MARK, 100);
        bytes.extend_from_slice(b"\n~TL");
        let other = Mark { kind: MarkKind::Request, ..MARK };
        bytes.extend_from_slice(&other.encode());
        assert_eq!(finder.marks(&bytes).collect::<Vec<_>>(), [MARK, other]);
        for len in 0..bytes.len() {
            assert!(finder.marks(&bytes[..len]).count() < 2, "a mark cut at {len} is none");
        }
    }

    #[test]
    fn payloads_are_json_of_the_length_asked_for() {
        for len in [0, 68, 76, 77, 100, 5000] {
            let mut out = Vec::new();
            write_payload(&mut out, &MARK, len);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
            assert!(out.len() == len || len < 76, "{len} became {}", out.len());
        }
    }
}
