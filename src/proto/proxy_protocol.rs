//! The PROXY protocol, versions 1 and 2: what a proxy says about a connection before its first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Inputs: the first bytes of a connection. Outputs: how many of them are the header, and where the client comes from. Must
//! not know: who may say so.
//!
//! The header is handed to the parser whole: what is incomplete is decided here, by the line's end or the length that stands
//! in front, so that a header may come in any pieces.

use std::net::IpAddr;

use ppp::{v1, v2};

/// Longest header that is taken. The one of version 1 has at most 107 bytes; one of version 2 could have 65,551, most of it
/// for certificates, which nobody here reads.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Of version 1, the line's end included.
const LINE_BYTES_MAX: usize = 107;
/// The first bytes of version 1, ...
const LINE_START: &[u8] = b"PROXY ";
/// ... and of version 2, behind which stand two bytes of kinds and two of a length.
const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;
const FIXED_BYTES: usize = 16;

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of it: what follows is the client's.
    pub len: usize,
    /// `None`: the proxy speaks for itself, as for a health check, or does not know; the socket's address holds.
    pub client: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFault {
    /// The connection begins with something else.
    Missing,
    Malformed,
    TooLong,
}

/// Reads a header at the start of `bytes`. `None`: there is more to come.
///
/// # Errors
/// As soon as `bytes` cannot be the beginning of a header any more.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    let begins = |with: &[u8]| {
        let len = with.len().min(bytes.len());
        bytes[..len] == with[..len]
    };
    match (begins(SIGNATURE), begins(LINE_START)) {
        (true, _) => parse_binary(bytes),
        (false, true) => parse_line(bytes),
        (false, false) => Err(ProxyFault::Missing),
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    let start = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = start.iter().position(|&byte| byte == b'\n') else {
        return if start.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyFault::TooLong) };
    };
    let len = end + 1;
    let header = v1::Header::try_from(&bytes[..len]).map_err(|_| ProxyFault::Malformed)?;
    if header.header.len() != len {
        return Err(ProxyFault::Malformed);
    }
    let client = match header.addresses {
        v1::Addresses::Tcp4(pair) => Some(pair.source_address.into()),
        v1::Addresses::Tcp6(pair) => Some(IpAddr::V6(pair.source_address).to_canonical()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(ProxyHeader { len, client }))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(None) };
    let len = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > HEADER_BYTES_MAX {
        return Err(ProxyFault::TooLong);
    }
    let Some(whole) = bytes.get(..len) else { return Ok(None) };
    let header = v2::Header::try_from(whole).map_err(|_| ProxyFault::Malformed)?;
    let client = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(pair)) => {
            Some(pair.source_address.into())
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(pair)) => {
            Some(IpAddr::V6(pair.source_address).to_canonical())
        }
        _ => None,
    };
    Ok(Some(ProxyHeader { len, client }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn binary(command: u8, family: u8, addresses: &[u8], more: &[u8]) -> Vec<u8> {
        let len = (addresses.len() + more.len()) as u16;
        [SIGNATURE, &[command, family], &len.to_be_bytes(), addresses, more].concat()
    }

    fn four() -> Vec<u8> {
        [&[192, 0, 2, 7], &[10, 0, 0, 1], &4711u16.to_be_bytes()[..], &443u16.to_be_bytes()[..]].concat()
    }

    fn six() -> Vec<u8> {
        let address = |last: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        [&address(7)[..], &address(1)[..], &4711u16.to_be_bytes()[..], &443u16.to_be_bytes()[..]].concat()
    }

    /// Every kind of header that proxies send, and the address in it.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        // Type 0x04 (padding), 0x20 (TLS) with a value that looks like a request, and one of no known type.
        let more =
            [&b"\x04\x00\x02\0\0"[..], b"\x20\x00\x12GET / HTTP/1.1\r\n\r\n", b"\xee\x00\x00"].concat();
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 0\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::ffff ffff::ffff 65535 65535\r\n".to_vec(), None),
            (binary(0x21, 0x11, &four(), b""), Some("192.0.2.7")),
            (binary(0x21, 0x11, &four(), &more), Some("192.0.2.7")),
            (binary(0x21, 0x21, &six(), &more), Some("2001:db8::7")),
            (binary(0x21, 0x31, &[b'/'; 216], &more), None),
            (binary(0x21, 0x00, b"", b""), None),
            (binary(0x20, 0x00, b"", &more), None),
            (binary(0x20, 0x11, &four(), b""), None),
            (binary(0x21, 0x12, &four(), b""), None),
        ]
    }

    #[test]
    fn a_header_is_read_however_it_is_cut() {
        for (header, client) in headers() {
            let client = client.map(|text| text.parse().unwrap());
            let expected = ProxyHeader { len: header.len(), client };
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(None), "{cut} of {header:?}");
            }
            for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", &header] {
                let whole = [&header[..], behind].concat();
                assert_eq!(parse(&whole), Ok(Some(expected)), "{header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_shows() {
        let longest = [&b"PROXY TCP4 "[..], &[b'1'; LINE_BYTES_MAX]].concat();
        let long = [SIGNATURE, &[0x21, 0x11], &4081u16.to_be_bytes()[..]].concat();
        for (bytes, fault) in [
            (&b"G"[..], ProxyFault::Missing),
            (b"GET / HTTP/1.1\r\n", ProxyFault::Missing),
            (b"\x16\x03\x01\x02\x00", ProxyFault::Missing),
            (b"PROXX", ProxyFault::Missing),
            (b"\r\n\r\n\0\r\nQUIX", ProxyFault::Missing),
            (b"\r\nPROXY", ProxyFault::Missing),
            (b"PROXY \r\n", ProxyFault::Malformed),
            (b"PROXY TCP4\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 \r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.256 10.0.0.1 4711 443\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n", ProxyFault::Malformed),
            (b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 443\r\n", ProxyFault::Malformed),
            (b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 192.0.2.7\r 10.0.0.1 4711 443\r\n", ProxyFault::Malformed),
            (b"PROXY TCP4 \xff.0.2.7 10.0.0.1 4711 443\r\n", ProxyFault::Malformed),
            (&longest[..LINE_BYTES_MAX], ProxyFault::TooLong),
            (&long, ProxyFault::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(fault), "{:?}", String::from_utf8_lossy(bytes));
        }
        for (command, family, addresses) in [
            (0x11, 0x11, four()),
            (0x22, 0x11, four()),
            (0x21, 0x41, four()),
            (0x21, 0x13, four()),
            (0x21, 0x11, vec![1; 11]),
        ] {
            assert_eq!(parse(&binary(command, family, &addresses, b"")), Err(ProxyFault::Malformed));
        }
        assert_eq!(parse(&longest[..LINE_BYTES_MAX - 1]), Ok(None));
        assert_eq!(
            parse(&binary(0x21, 0x11, &four(), &vec![0; 4068])).map(|header| header.unwrap().len),
            Ok(4096)
        );
    }

    /// Whatever is altered: an answer, the same whichever way the bytes came, and never a panic.
    #[test]
    fn altered_headers_are_answered_the_same_in_every_cut() {
        let headers = headers();
        for seed in 0..20_000 {
            let mut prng = Prng::with_seed(seed);
            let mut bytes = headers[prng.usize(..headers.len())].0.clone();
            for _ in 0..prng.usize(1..4) {
                let at = prng.usize(..bytes.len());
                match prng.u8(0..3) {
                    0 => bytes[at] = prng.u8(..),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, *b" \r\n0:."[..].get(prng.usize(..6)).unwrap()),
                }
            }
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            let whole = parse(&bytes);
            let first = (0..=bytes.len()).map(|cut| parse(&bytes[..cut])).find(|parsed| *parsed != Ok(None));
            assert_eq!(first.unwrap_or(Ok(None)), whole, "seed {seed}: {bytes:?}");
            if let Ok(Some(header)) = whole {
                assert!(header.len <= bytes.len() && header.len <= HEADER_BYTES_MAX);
            }
        }
    }
}
