//! A chunked body: read in one piece, in pieces, and by way of httparse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::proto::http1::{BodyDecoder, BodyLength, HttpFault};

const BODY_BYTES_MAX: u64 = 512;

fuzz_target!(|data: &[u8]| {
    let Some((&step, input)) = data.split_first() else { return };
    let whole = read(input, input.len().max(1));
    let pieces = read(input, usize::from(step % 16) + 1);
    assert_eq!(whole, pieces, "cuts change what is read");
    let Ok((body, Some(len))) = whole else { return };
    assert!(body.len() as u64 <= BODY_BYTES_MAX);
    assert_eq!(reference(input), Some((body, len)));
});

/// The data, and where the body ended if it did.
fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), HttpFault> {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, BODY_BYTES_MAX)?;
    let (mut body, mut at) = (Vec::new(), 0);
    for piece in input.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let read = decoder.decode(rest)?;
            assert!(read.consumed > 0 || read.done, "no progress");
            body.extend_from_slice(read.data);
            at += read.consumed;
            if read.done {
                return Ok((body, Some(at)));
            }
            rest = &rest[read.consumed..];
        }
    }
    Ok((body, None))
}

fn reference(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Ok(httparse::Status::Complete((head, size))) = httparse::parse_chunk_size(&input[at..]) else {
            return None;
        };
        at += head;
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 512];
            let Ok(httparse::Status::Complete((len, _))) = httparse::parse_headers(&input[at..], &mut fields)
            else {
                return None;
            };
            return Some((body, at + len));
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(input.get(at..end)?);
        at = end + 2;
        if input.get(end..at)? != b"\r\n" {
            return None;
        }
    }
}
