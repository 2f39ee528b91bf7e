//! The payload of a Close frame (RFC 6455 sections 5.5.1 and 7.4).

use super::{Message, WsFault};

/// Whether a peer may send this code: those of section 7.4.1 and of the IANA registry of close codes that are not
/// reserved (1012 to 1014 are registered), and the ranges 3000 to 4999 for libraries and applications (7.4.2).
/// 1004, 1005, 1006 and 1015 must never stand in a frame.
pub fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads an unmasked payload.
pub(super) fn parse_close(payload: &[u8]) -> Result<Message<'_>, WsFault> {
    let (code, reason) = match payload {
        [] => return Ok(Message::Close { code: None, reason: "" }),
        [_] => return Err(WsFault::protocol("close payload of one byte")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !is_close_code(code) {
        return Err(WsFault::protocol("invalid close code"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| WsFault { close_code: 1007, reason: "close reason is not UTF-8" })?;
    Ok(Message::Close { code: Some(code), reason })
}
