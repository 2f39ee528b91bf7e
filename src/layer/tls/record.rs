//! Records as they stand on the wire (RFC 8446 section 5.1, RFC 5246 section 6.2).

use crate::layer::Fault;

pub const HEADER: usize = 5;
/// Most plain bytes of one record.
pub const PLAIN_MAX: usize = 1 << 14;
/// What sealing may add to a record of TLS 1.3, and of TLS 1.2.
const EXPANSION_13: usize = 256;
const EXPANSION_12: usize = 2048;

/// What a record carries.
pub mod kind {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Descriptions of alerts (RFC 8446 section 6).
pub mod alert {
    pub const CLOSE_NOTIFY: u8 = 0;
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const HANDSHAKE_FAILURE: u8 = 40;
    pub const DECODE_ERROR: u8 = 50;
    pub const USER_CANCELED: u8 = 90;
    pub const NO_RENEGOTIATION: u8 = 100;

    pub const WARNING: u8 = 1;
    pub const FATAL: u8 = 2;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// The kind of the record that `bytes` begin with, and its length with the header; `None`: the header is not whole yet.
///
/// # Errors
/// When it is none, or longer than one may be in `version`; `None`: in any.
pub fn header(bytes: &[u8], version: Option<TlsVersion>) -> Result<Option<(u8, usize)>, Fault> {
    // As early as it can be seen: what is no record is not waited for.
    if let Some(kind) = bytes.first()
        && !(kind::CHANGE_CIPHER_SPEC..=kind::APPLICATION_DATA).contains(kind)
    {
        return Err(Fault::NotTls);
    }
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(Fault::NotTls);
    }
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let expansion = match version {
        Some(TlsVersion::Tls13) => EXPANSION_13,
        Some(TlsVersion::Tls12) | None => EXPANSION_12,
    };
    match len <= PLAIN_MAX + expansion {
        true => Ok(Some((kind, HEADER + len))),
        false => Err(Fault::RecordTooLong),
    }
}

/// The length of the whole record that `bytes` begin with, if all of it is there.
///
/// # Errors
/// As [`header`].
pub fn whole(bytes: &[u8], version: Option<TlsVersion>) -> Result<Option<usize>, Fault> {
    let header = header(bytes, version)?;
    Ok(header.and_then(|(_, len)| (len <= bytes.len()).then_some(len)))
}

/// An alert before there are keys.
pub fn plain_alert(level: u8, description: u8) -> [u8; 7] {
    [kind::ALERT, 3, 3, 0, 2, level, description]
}

/// A record of the handshake that is an alert, or sealed and as short as one: all other messages are longer.
pub fn may_be_alert(record: &[u8]) -> bool {
    const SEALED: usize = HEADER + 2 + 1 + 16;
    match record.first() {
        Some(&kind::ALERT) => true,
        Some(&kind::APPLICATION_DATA) => record.len() <= SEALED,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_header() {
        assert_eq!(header(&[22, 3, 1, 0, 4], None), Ok(Some((22, 9))));
        assert_eq!(whole(&[22, 3, 1, 0, 4, 1, 2, 3], None), Ok(None));
        assert_eq!(whole(&[22, 3, 1, 0, 4, 1, 2, 3, 4, 9], None), Ok(Some(9)));
        for short in 0..HEADER {
            assert_eq!(header(&[22, 3, 1, 0, 4][..short], None), Ok(None));
        }
        for wrong in [&b"G"[..], b"\x80\x2e\x01", &[19], &[24], &[22, 2]] {
            assert_eq!(header(wrong, None), Err(Fault::NotTls), "{wrong:?}");
        }
    }

    #[test]
    fn a_record_is_as_long_as_its_version_allows() {
        let of = |len: usize, version| header(&[23, 3, 3, (len >> 8) as u8, len as u8], version);
        assert!(of(PLAIN_MAX + 256, Some(TlsVersion::Tls13)).is_ok());
        assert_eq!(of(PLAIN_MAX + 257, Some(TlsVersion::Tls13)), Err(Fault::RecordTooLong));
        assert!(of(PLAIN_MAX + 2048, Some(TlsVersion::Tls12)).is_ok());
        assert_eq!(of(PLAIN_MAX + 2049, Some(TlsVersion::Tls12)), Err(Fault::RecordTooLong));
        assert_eq!(of(PLAIN_MAX + 2049, None), Err(Fault::RecordTooLong));
    }
}
