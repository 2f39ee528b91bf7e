//! What proxies say about a connection: the PROXY header in any pieces, and the fields of a request, as one line or several.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use trunkline::base::trusted::AddressField;
use trunkline::proto::forwarded;
use trunkline::proto::proxy_protocol::{HEADER_BYTES_MAX, parse};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, input)) = data.split_first() else { return };
    match kind % 3 {
        0 => header(input),
        1 => field(AddressField::XForwardedFor, input),
        _ => field(AddressField::Forwarded, input),
    }
});

fn header(input: &[u8]) {
    // Tried at each length: of a long one a part will do.
    let input = &input[..input.len().min(400)];
    let whole = parse(input);
    // What begins a header is no fault, and what is one stays it with whatever follows.
    let first = (0..=input.len()).find(|&len| parse(&input[..len]) != Ok(None));
    match first {
        None => assert_eq!(whole, Ok(None)),
        Some(len) => assert_eq!(parse(&input[..len]), whole, "what follows changes what was read"),
    }
    match whole {
        Ok(Some(header)) => {
            assert!(header.len <= input.len().min(HEADER_BYTES_MAX));
            assert_eq!(parse(&input[..header.len]), whole, "a header ends where it says");
        }
        Ok(None) => assert!(input.len() < HEADER_BYTES_MAX, "it waits for more than it takes"),
        Err(_) => {}
    }
}

fn field(field: AddressField, input: &[u8]) {
    let is_trusted = |address: IpAddr| address.is_loopback();
    let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let client = forwarded::client(field, lines.iter().copied(), is_trusted);
    // Where every line ends outside of quotes they are one list (RFC 9110 section 5.3).
    if !input.contains(&b'"') && !input.contains(&b'\\') {
        let joined = lines.join(&b", "[..]);
        assert_eq!(forwarded::client(field, std::iter::once(&joined[..]), is_trusted), client);
    }
    // What stands left of a hop that is not trusted is nobody's word.
    if let Some(client) = client.filter(|client| !is_trusted(*client)) {
        let mut longer: Vec<&[u8]> = vec![b"192.0.2.99", b"for=192.0.2.98"];
        longer.extend(&lines);
        assert_eq!(forwarded::client(field, longer.into_iter(), is_trusted), Some(client));
    }
}
