//! Content codings (RFC 9110 section 8.4.1).

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

/// `body` in the coding "gzip".
pub fn gzip(body: &[u8]) -> Vec<u8> {
    // The fastest level: JSON shrinks by most of what it would.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    let written = encoder.write_all(body);
    debug_assert!(written.is_ok(), "memory takes everything");
    encoder.finish().unwrap_or_default()
}
