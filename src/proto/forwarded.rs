//! What proxies say about a request's client in its header: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Inputs: the values of such a field, in the order of their lines. Outputs: addresses, the nearest hop first. Must not know:
//! whose word is taken.

use std::net::{IpAddr, SocketAddr};

use crate::base::trusted::AddressField;

/// Hops that are looked at, from the nearest on: no path has as many, and a client may write any number.
pub const HOPS_MAX: usize = 32;

/// The client of a request whose nearest proxy is trusted: the right-most address that is not. `None`: the field says
/// nothing. A hop that does not say its address (`unknown`, `_hidden`) or cannot be read ends the search: what stands left
/// of it is nobody's word.
pub fn client<'v>(
    field: AddressField,
    lines: impl DoubleEndedIterator<Item = &'v [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut nearest = None;
    let elements = lines.rev().flat_map(|line| elements(line).into_iter().rev());
    for element in elements.take(HOPS_MAX) {
        let address = match field {
            AddressField::XForwardedFor => node(element),
            AddressField::Forwarded => forwarded_for(element).and_then(node),
        };
        let Some(address) = address else { break };
        nearest = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    nearest
}

/// The elements of a list, empty ones left out (RFC 9110 section 5.6.1). A comma in quotes parts nothing.
fn elements(line: &[u8]) -> Vec<&[u8]> {
    parts(line, b',').into_iter().filter(|element| !element.is_empty()).collect()
}

fn parts(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut all, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                all.push(text[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(text[start..].trim_ascii());
    all
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    parts(element, b';').into_iter().find_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value.trim_ascii())
    })
}

/// An address, with or without a port and quotes: `192.0.2.7`, `192.0.2.7:4711`, `"[2001:db8::1]:4711"`, `2001:db8::1`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text);
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Trusted: 10.0.0.0/8.
    fn of(field: AddressField, lines: &[&str]) -> Option<String> {
        let trusted = |address: IpAddr| matches!(address, IpAddr::V4(four) if four.octets()[0] == 10);
        client(field, lines.iter().map(|line| line.as_bytes()), trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_right_most_stranger_is_the_client() {
        let field = AddressField::XForwardedFor;
        for (lines, found) in [
            (&["192.0.2.7"][..], Some("192.0.2.7")),
            (&["192.0.2.7, 10.0.0.1 ,10.0.0.2"], Some("192.0.2.7")),
            // What the client itself has written stands further left.
            (&["127.0.0.1, 192.0.2.7"], Some("192.0.2.7")),
            (&["127.0.0.1", "192.0.2.7, 10.0.0.1", "10.0.0.2"], Some("192.0.2.7")),
            // All are proxies: the farthest is the client.
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["[2001:db8::1]:4711, 10.0.0.1:80"], Some("2001:db8::1")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.7,,  ,"], Some("192.0.2.7")),
            // What cannot be read ends the search at the last hop that could.
            (&["192.0.2.7, unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["192.0.2.7, 10.0.0.1.1"], None),
            (&["unknown"], None),
            (&["", " , "], None),
            (&[], None),
        ] {
            assert_eq!(of(field, lines).as_deref(), found, "{lines:?}");
        }
        let far = format!("192.0.2.7{}", ", 10.0.0.1".repeat(HOPS_MAX));
        assert_eq!(of(field, &[&far]).as_deref(), Some("10.0.0.1"), "bounded");
    }

    #[test]
    fn forwarded_is_read_as_its_standard_writes_it() {
        let field = AddressField::Forwarded;
        for (lines, found) in [
            (&["for=192.0.2.7"][..], Some("192.0.2.7")),
            (&["by=10.0.0.1; FOR = \"192.0.2.7:4711\" ;proto=https, for=10.0.0.2"], Some("192.0.2.7")),
            (&["for=\"[2001:db8::1]:4711\""], Some("2001:db8::1")),
            (&["for=192.0.2.7;by=\"a, for=1.1.1.1\"", "for=10.0.0.1"], Some("192.0.2.7")),
            (&["for=192.0.2.7;by=\"a\\\", for=1.1.1.1\""], Some("192.0.2.7")),
            (&["for=192.0.2.7, for=_hidden, for=10.0.0.2"], Some("10.0.0.2")),
            (&["for=192.0.2.7, proto=https"], None),
            (&["192.0.2.7"], None),
            (&["for=\"192.0.2.7"], None),
        ] {
            assert_eq!(of(field, lines).as_deref(), found, "{lines:?}");
        }
    }

    #[test]
    fn no_bytes_are_too_much_for_it() {
        let pieces: &[&[u8]] =
            &[b"for=", b"\"", b"\\", b",", b";", b"=", b"[", b"]", b":", b"10.0.0.1", b"::1", b"\xff", b" "];
        for seed in 0..20_000 {
            let mut prng = Prng::with_seed(seed);
            let line: Vec<u8> =
                (0..prng.usize(..20)).flat_map(|_| pieces[prng.usize(..pieces.len())].to_vec()).collect();
            for field in [AddressField::XForwardedFor, AddressField::Forwarded] {
                client(field, [&line[..], &line[..]].into_iter(), |address| address.is_loopback());
            }
        }
    }
}
