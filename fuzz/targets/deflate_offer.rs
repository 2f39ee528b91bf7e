//! Offers of compression in an upgrade: what is agreed on is an answer that a client takes, whether the offers stand in one
//! line or several.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::proto::http1::{parse_head, parse_response_head};
use trunkline::proto::websocket::deflate::{Agreed, check_extension, negotiate};

fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    let Some(agreed) = offered(&lines) else { return };
    let joined = lines.join(&b", "[..]);
    if !data.contains(&b'"') && lines.iter().all(|line| !line.trim_ascii().is_empty()) {
        assert_eq!(offered(&[&joined]), Some(agreed), "several lines are one list (RFC 9110 section 5.3)");
    }
    // A client of ours reads an answer, whatever the bytes are.
    answered(data);
    let Ok(Some(agreed)) = agreed else { return };
    assert!(
        data.windows(18).any(|name| name.eq_ignore_ascii_case(b"permessage-deflate")),
        "nobody offered it"
    );
    let (name, value) = agreed.field();
    assert_eq!(name, "Sec-WebSocket-Extensions");
    // The offer of ours has no window: only then may the answer have none.
    if agreed.may_compress() && !value.windows(6).any(|part| part == b"window") {
        assert_eq!(answered(&value), Some(Ok(true)), "an answer that no client takes");
    }
});

type Outcome = Result<Option<Agreed>, u16>;

/// What these lines of the field lead to; `None`: they are no lines of a field.
fn offered(lines: &[&[u8]]) -> Option<Outcome> {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for line in lines {
        head.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let (parsed, len) = parse_head(&head).ok()??;
    (len == head.len()).then(|| negotiate(&parsed).map_err(|fault| fault.status))
}

fn answered(value: &[u8]) -> Option<Result<bool, &'static str>> {
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: ".to_vec();
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n\r\n");
    let (parsed, _) = parse_response_head(&head).ok()??;
    Some(check_extension(&parsed))
}
