//! What event streams and polls ask with: the text of a position, and the pairs of a query.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::base::ids::{Epoch, Offset, Position};
use trunkline::proto::unidirectional::position::{POSITION_BYTES_MAX, Positions, write_position};
use trunkline::proto::unidirectional::query::pairs;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(positions) = Positions::parse(text)
    {
        assert!(text.len() <= POSITION_BYTES_MAX);
        let _ = (positions.get("a"), positions.is_empty());
    }
    {
        // A browser's reading of the same query. It guesses where escapes are none: ours leaves such names out, and
        // says that such values are not readable.
        let mut theirs = form_urlencoded::parse(data);
        for (name, value) in pairs(data) {
            let same = |pair: &(_, _)| pair.0 == name && value.as_ref().is_none_or(|value| *value == pair.1);
            assert!(theirs.any(|pair| same(&pair)), "{name} is not in the query");
        }
    }

    // What was written is read back.
    let written: Vec<(String, Position)> = data
        .chunks_exact(13)
        .take(128)
        .enumerate()
        .map(|(index, bytes)| {
            let epoch = Epoch(u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")).into());
            let offset =
                Offset(u64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes")) >> (bytes[12] & 63));
            (format!("channel-{index}"), Position { offset, epoch })
        })
        .collect();
    let mut text = Vec::new();
    write_position(&mut text, written.iter().map(|(channel, position)| (channel.as_str(), *position)));
    let text = String::from_utf8(text).expect("base64");
    let read = Positions::parse(&text).expect("ours");
    for (channel, position) in &written {
        assert_eq!(read.get(channel), Some(*position));
    }
});
