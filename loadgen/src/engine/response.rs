//! Whole HTTP responses with their bodies (RFC 9112 section 6), for clients that need no more.

use std::borrow::Cow;

use trunkline::proto::http1::{ResponseHead, parse_response_head};

use crate::measure::Cause;

/// Longest line that says how long a chunk is.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

pub struct Response<'a> {
    pub head: ResponseHead<'a>,
    pub body: Cow<'a, [u8]>,
    /// Of head and body as they came, in bytes.
    pub len: usize,
}

/// The first response in `bytes`, if it is whole. One without a length has no body: a connection that is kept cannot
/// end one otherwise.
///
/// # Errors
/// When it is no HTTP, or its body is longer than `body_bytes_max`.
pub fn whole_response(bytes: &[u8], body_bytes_max: usize) -> Result<Option<Response<'_>>, Cause> {
    let parsed = parse_response_head(bytes).map_err(|fault| Cause::Garbage(fault.reason))?;
    let Some((head, head_len)) = parsed else { return Ok(None) };
    let rest = &bytes[head_len..];
    let bodiless = matches!(head.status, 100..=199 | 204 | 304);
    if !bodiless && head.fields.has_token("Transfer-Encoding", "chunked") {
        let mut body = Vec::new();
        let mut at = 0;
        loop {
            let Some((start, len)) = chunk(&rest[at..], body_bytes_max - body.len())? else {
                return Ok(None);
            };
            body.extend_from_slice(&rest[at + start..at + start + len]);
            at += start + len + 2;
            if len == 0 {
                return Ok(Some(Response { head, body: body.into(), len: head_len + at }));
            }
        }
    }
    let len = match head.fields.get("Content-Length") {
        Some(digits) if !bodiless => std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Cause::Protocol("malformed Content-Length"))?,
        _ => 0,
    };
    if len > body_bytes_max {
        return Err(Cause::TooLong);
    }
    Ok(rest.get(..len).map(|body| Response { head, body: body.into(), len: head_len + len }))
}

/// Where the data of the first chunk starts and how long it is, if the chunk is whole (RFC 9112 section 7.1). The last
/// one has none; trailers are not taken.
pub fn chunk(bytes: &[u8], len_max: usize) -> Result<Option<(usize, usize)>, Cause> {
    const MALFORMED: Cause = Cause::Protocol("malformed chunk");
    let Some(line_end) = memchr::memmem::find(bytes, b"\r\n") else {
        return if bytes.len() > CHUNK_LINE_BYTES_MAX { Err(MALFORMED) } else { Ok(None) };
    };
    let digits = bytes[..line_end].split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).map_err(|_| MALFORMED)?.trim();
    let len = usize::from_str_radix(digits, 16).map_err(|_| MALFORMED)?;
    if len > len_max {
        return Err(Cause::TooLong);
    }
    let start = line_end + 2;
    match bytes.get(start + len..start + len + 2) {
        Some(b"\r\n") => Ok(Some((start, len))),
        Some(_) => Err(MALFORMED),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_whole_or_not() {
        assert_eq!(chunk(b"5;x=y\r\nhello\r\n", 100), Ok(Some((7, 5))));
        for len in 0..14 {
            assert_eq!(chunk(&b"5;x=y\r\nhello\r\n"[..len], 100), Ok(None), "cut at {len}");
        }
        assert_eq!(chunk(b"0\r\n\r\n", 100), Ok(Some((3, 0))));
        assert!(matches!(chunk(b"z\r\n", 100), Err(Cause::Protocol(_))));
        assert!(matches!(chunk(b"1\r\nab\r\n", 100), Err(Cause::Protocol(_))));
        assert_eq!(chunk(b"ffffffff\r\n", 100), Err(Cause::TooLong));
        assert!(matches!(chunk(&[b'1'; 2000], 100), Err(Cause::Protocol(_))));
    }

    #[test]
    fn responses_are_whole_at_their_last_byte() {
        for (text, body, status) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], &b"hello"[..], 200),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
                b"hello",
                200,
            ),
            (b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", b"", 304),
            (b"HTTP/1.1 204 No Content\r\n\r\n", b"", 204),
        ] {
            for cut in 0..text.len() {
                assert!(whole_response(&text[..cut], 100).unwrap().is_none(), "cut at {cut}");
            }
            let mut more = text.to_vec();
            more.extend_from_slice(b"HTTP");
            let response = whole_response(&more, 100).unwrap().unwrap();
            assert_eq!((&*response.body, response.len, response.head.status), (body, text.len(), status));
        }
        assert!(whole_response(b"garbage\r\n\r\n", 100).is_err());
        assert!(whole_response(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", 100).is_err());
        assert!(whole_response(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 100).is_err());
    }
}
