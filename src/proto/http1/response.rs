//! Writing responses (RFC 9112 sections 4 to 7).

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;

use super::fields::{is_field_value, is_token};

/// Sent to a client that [waits for it](super::RequestHead::expects_continue) before it sends the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the body that follows a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None, and no field says so: 1xx, 204, 304, and a successful upgrade.
    None,
    /// Bytes. Also for the answer to HEAD, whose body is then left out.
    Length(u64),
    /// [`write_chunk`] until [`write_last_chunk`]. For HTTP/1.1 clients only. Adds `Connection: close`.
    Chunked,
    /// Until the connection is closed: streams to HTTP/1.0 clients. Adds `Connection: close`.
    UntilClose,
}

/// Appends a status line, `fields`, the field that tells the body's end, and the empty line. The `Date` that RFC 9110
/// section 6.6.1 asks for is the caller's, who has the clock: see [`http_date`].
///
/// # Panics
/// On a field name that is no token or a value with a control character (a CR LF there would split the response).
/// Values taken from a [`RequestHead`](super::RequestHead) never have one; check others with [`is_field_value`].
/// On a status outside 100..=999.
pub fn write_head(out: &mut Vec<u8>, status: u16, fields: &[(&str, &[u8])], body: Body) {
    assert!((100..1000).contains(&status), "status {status}");
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    write_fields(out, fields);
    match body {
        Body::None => {}
        Body::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        // A stream ends with its connection: a client that takes it for free would meet the close with its next request.
        Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\nConnection: close\r\n"),
        Body::UntilClose => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response: head, `Content-Length`, and `body`. Panics as [`write_head`].
pub fn write_response(out: &mut Vec<u8>, status: u16, fields: &[(&str, &[u8])], body: &[u8]) {
    write_head(out, status, fields, Body::Length(body.len() as u64));
    out.extend_from_slice(body);
}

/// Appends field lines. Panics as [`write_head`].
pub(in crate::proto) fn write_fields(out: &mut Vec<u8>, fields: &[(&str, &[u8])]) {
    for (name, value) in fields {
        assert!(is_token(name.as_bytes()), "field name {name:?}");
        assert!(is_field_value(value), "field value of {name}");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends one chunk of a [`Body::Chunked`]. Empty data appends nothing, as an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(data.len() + 16);
    write_chunk_with(out, |out| out.extend_from_slice(data));
}

/// As [`write_chunk`], of what `write` appends: it is written once, where it stays.
pub fn write_chunk_with(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Two digits, as for most events; longer chunks are moved by what their line is longer.
    const LINE: &[u8] = b"00\r\n";
    let start = out.len();
    out.extend_from_slice(LINE);
    write(out);
    let data_len = out.len() - start - LINE.len();
    if data_len == 0 {
        return out.truncate(start);
    }
    let (line, line_len) = chunk_header(data_len);
    set_header(out, start, LINE.len(), &line[..line_len]);
    out.extend_from_slice(b"\r\n");
}

/// Writes `header` at `start`, where `room` bytes were left for it.
pub(in crate::proto) fn set_header(out: &mut Vec<u8>, start: usize, room: usize, header: &[u8]) {
    if header.len() != room {
        let (end, more) = (out.len(), header.len().saturating_sub(room));
        out.resize(end + more, 0);
        out.copy_within(start + room..end, start + header.len());
        out.truncate(end + header.len() - room);
    }
    out[start..start + header.len()].copy_from_slice(header);
}

/// Appends the end of a [`Body::Chunked`], without trailers.
pub fn write_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The line before a chunk of `data_len` bytes, for gathered writes: the first `len` bytes of the array. The data must
/// be followed by CRLF. `data_len` must not be 0: that line would end the body.
pub fn chunk_header(data_len: usize) -> ([u8; 18], usize) {
    debug_assert!(data_len > 0);
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - data_len.leading_zeros()).div_ceil(4).max(1) as usize;
    let mut header = [0; 18];
    for (place, slot) in header[..digits].iter_mut().enumerate() {
        *slot = HEX[data_len >> ((digits - 1 - place) * 4) & 0xf];
    }
    header[digits] = b'\r';
    header[digits + 1] = b'\n';
    (header, digits + 2)
}

/// The phrase of RFC 9110 section 15 (and 6585 for 428 to 431). Empty for an unknown status, which is legal.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// The IMF-fixdate of RFC 9110 section 5.6.7, for the seconds since 1970 in UTC. Right from 1970 to 9999; later times are
/// shown as the last second of 9999.
pub fn http_date(unix_s: u64) -> [u8; 29] {
    const LAST_S: u64 = 253_402_300_799;
    let moment = UNIX_EPOCH + Duration::from_secs(unix_s.min(LAST_S));
    let mut date = [0; 29];
    let written = write!(&mut date[..], "{}", HttpDate::from(moment));
    debug_assert!(written.is_ok(), "every IMF-fixdate has 29 bytes");
    date
}

fn write_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
