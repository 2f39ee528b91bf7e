//! Compression of answers, within what a shard can spare.
//!
//! Compressing costs about 5 µs a KiB, and a shard has others to serve. So a tick compresses [`TICK_BYTES`] at most, in
//! answers of at most [`ANSWER_BYTES_MAX`]; longer ones are compressed by the control plane. An answer that finds no room
//! goes as it is: a client that accepts gzip accepts plain text as well.

use crate::proto::http1::gzip;

/// A shorter body fits one packet with its head: packing it would cost both sides and save nothing.
pub const ANSWER_BYTES_MIN: usize = 1400;
/// Longest body that a shard compresses itself, in bytes: 0.1 ms.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Bytes that a shard compresses in one tick: 0.3 ms.
const TICK_BYTES: usize = 64 * 1024;

/// A shard's compression.
#[derive(Default)]
pub struct Packer {
    spent: usize,
    /// The last body and what it became: polls of one channel get the same one, all at once.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Packer {
    /// A tick begins.
    pub fn begin(&mut self) {
        self.spent = 0;
    }

    /// The body compressed; `None` when there is no room for it in this tick.
    pub fn pack(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if let Some((plain, packed)) = &self.last
            && plain == body
        {
            return Some(packed.clone());
        }
        if body.len() > ANSWER_BYTES_MAX || self.spent + body.len() > TICK_BYTES {
            return None;
        }
        self.spent += body.len();
        let packed = gzip(body);
        self.last = Some((body.to_vec(), packed.clone()));
        Some(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn a_tick_compresses_no_more_than_its_part() {
        let mut packer = Packer::default();
        let body = |at: usize, len: usize| [format!("{at} ").into_bytes(), vec![b'x'; len]].concat();
        let mut packed_bytes = 0;
        for at in 0..100 {
            let plain = body(at, 10_000);
            if let Some(packed) = packer.pack(&plain) {
                assert_eq!(unpacked(&packed), plain);
                packed_bytes += plain.len();
            }
        }
        assert!(packed_bytes > TICK_BYTES / 2 && packed_bytes <= TICK_BYTES, "{packed_bytes}");
        assert!(packer.pack(&body(0, ANSWER_BYTES_MAX)).is_none(), "too long for a shard");
        packer.begin();
        assert!(packer.pack(&body(0, 10_000)).is_some(), "the next tick has its own part");
    }

    #[test]
    fn the_same_answer_for_many_is_compressed_once() {
        let mut packer = Packer::default();
        let body = vec![b'x'; ANSWER_BYTES_MAX];
        for _ in 0..1000 {
            assert_eq!(unpacked(&packer.pack(&body).unwrap()), body);
        }
        assert_eq!(packer.spent, body.len());
    }
}
