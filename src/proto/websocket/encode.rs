//! Writing frames (RFC 6455 section 5.2).

use super::mask::apply_mask;
use super::{Opcode, is_close_code};
use crate::base::limits;
use crate::proto::http1::set_header;

/// Longest frame header: two bytes, a 64-bit length, a mask.
pub const FRAME_HEADER_BYTES_MAX: usize = 14;

pub(super) const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The first frame of a message whose payload is compressed.
pub(super) const RSV1: u8 = 0x40;

/// The header of an unmasked frame that is a whole message, for gathered writes: the first `len` bytes of the array.
pub fn frame_header(opcode: Opcode, payload_len: usize) -> ([u8; FRAME_HEADER_BYTES_MAX], usize) {
    header(opcode, true, payload_len, None)
}

/// As [`frame_header`], from a client. The payload must be masked with the same key; see [`apply_mask`].
pub fn frame_header_masked(
    opcode: Opcode,
    payload_len: usize,
    key: [u8; 4],
) -> ([u8; FRAME_HEADER_BYTES_MAX], usize) {
    header(opcode, true, payload_len, Some(key))
}

/// Appends an unmasked frame that is a whole message or a control frame. A control payload must not be longer than
/// [`limits::WS_CONTROL_BYTES_MAX`].
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    write(out, opcode, true, payload, None);
}

/// As [`write_frame`], of the payload that `write` appends: it is written once, where it stays.
pub fn write_frame_with(out: &mut Vec<u8>, opcode: Opcode, write: impl FnOnce(&mut Vec<u8>)) {
    // As for payloads from 126 to 65,535 bytes; others are moved by what their header is longer or shorter.
    const ROOM: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; ROOM]);
    write(out);
    let (header, header_len) = frame_header(opcode, out.len() - start - ROOM);
    set_header(out, start, ROOM, &header[..header_len]);
}

/// As [`write_frame`], from a client. `key` must be unpredictable (section 5.3).
pub fn write_frame_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    write(out, opcode, true, payload, Some(key));
}

/// Appends one frame of a fragmented message (section 5.4): the first has the message's opcode, the others are
/// continuations, the last has `fin`.
pub fn write_fragment(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8]) {
    write(out, opcode, fin, payload, None);
}

/// As [`write_fragment`], from a client.
pub fn write_fragment_masked(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], key: [u8; 4]) {
    write(out, opcode, fin, payload, Some(key));
}

/// Appends a Close frame. A reason over [`limits::WS_CLOSE_REASON_BYTES_MAX`] is cut between two characters.
/// For an empty Close frame, as answers an empty one, use [`write_frame`].
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let (payload, len) = close_payload(code, reason);
    write(out, Opcode::Close, true, &payload[..len], None);
}

/// As [`write_close`], from a client.
pub fn write_close_masked(out: &mut Vec<u8>, code: u16, reason: &str, key: [u8; 4]) {
    let (payload, len) = close_payload(code, reason);
    write(out, Opcode::Close, true, &payload[..len], Some(key));
}

fn write(out: &mut Vec<u8>, opcode: Opcode, fin: bool, payload: &[u8], key: Option<[u8; 4]>) {
    let (header, header_len) = header(opcode, fin, payload.len(), key);
    out.reserve(header_len + payload.len());
    out.extend_from_slice(&header[..header_len]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        apply_mask(&mut out[start..], key);
    }
}

fn header(
    opcode: Opcode,
    fin: bool,
    payload_len: usize,
    key: Option<[u8; 4]>,
) -> ([u8; FRAME_HEADER_BYTES_MAX], usize) {
    // Our bug, not the peer's: an answer to a Ping carries its payload, which the decoder has bounded.
    assert!(!opcode.is_control() || (fin && payload_len <= limits::WS_CONTROL_BYTES_MAX), "{opcode:?}");
    let mut header = [0; FRAME_HEADER_BYTES_MAX];
    header[0] = opcode as u8 | if fin { FIN } else { 0 };
    let mut len = match payload_len {
        0..=125 => {
            header[1] = payload_len as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    if let Some(key) = key {
        header[1] |= MASKED;
        header[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    (header, len)
}

fn close_payload(code: u16, reason: &str) -> ([u8; limits::WS_CONTROL_BYTES_MAX], usize) {
    debug_assert!(is_close_code(code), "close code {code}");
    let mut end = reason.len().min(limits::WS_CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason.as_bytes()[..end];
    let mut payload = [0; limits::WS_CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason);
    (payload, 2 + reason.len())
}
