//! Heads: the request line or status line and the fields after it (RFC 9112 sections 2 to 5).

use super::fields::{Fields, find_lf, is_field_value, is_token};
use super::{HttpFault, fields};
use crate::base::limits;

/// The versions that are spoken. A request of a later 1.x is read as 1.1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http10,
    Http11,
}

/// How a request's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Neither length field is there.
    None,
    /// Bytes, from `Content-Length`.
    Length(u64),
    Chunked,
}

/// A request's head, borrowed from the input. Everything in it has been checked.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// The request target as it came, not decoded: visible ASCII, and bytes of 0x80 and above in the query.
    pub target: &'a [u8],
    /// Path of the target, not decoded; `*` for the asterisk form. Never empty.
    pub path: &'a str,
    /// What follows the `?`, not decoded. `None` without one.
    pub query: Option<&'a [u8]>,
    pub version: HttpVersion,
    fields: Fields<'a>,
    authority: Option<&'a str>,
    body_length: BodyLength,
}

impl<'a> RequestHead<'a> {
    /// The first value of that name, in any case. Control characters do not occur in it; bytes of 0x80 and above may.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.get(name)
    }

    /// [`RequestHead::header`] as text. `None` also for a value that is not UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.fields.get(name)?).ok()
    }

    /// Every field line in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter()
    }

    /// Elements of a comma-separated list over every line of that name; see [`Fields::tokens`].
    pub fn header_tokens<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'_, 'a, 'n> {
        self.fields.tokens(name)
    }

    pub fn fields(&self) -> &Fields<'a> {
        &self.fields
    }

    /// Host and port the request is for: of an absolute target, else of the Host field (RFC 9112 section 3.2.2).
    /// `None` only in HTTP/1.0; may be empty.
    pub fn host(&self) -> Option<&'a str> {
        self.authority
    }

    /// Whether another request may follow on this connection (RFC 9112 section 9.3).
    pub fn keep_alive(&self) -> bool {
        !self.fields.has_token("Connection", "close")
            && (self.version == HttpVersion::Http11 || self.fields.has_token("Connection", "keep-alive"))
    }

    /// Whether the client waits for [`super::CONTINUE`] before it sends the body (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        // A 1.0 client cannot mean it, and the RFC says to ignore it there.
        self.version == HttpVersion::Http11 && self.fields.has_token("Expect", "100-continue")
    }

    /// How the body ends. Contradictions have been refused by [`parse_head`].
    pub fn body_length(&self) -> BodyLength {
        self.body_length
    }
}

/// A response's head, borrowed from the input.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    pub version: HttpVersion,
    /// 100 to 999.
    pub status: u16,
    pub fields: Fields<'a>,
}

/// Where the search for the head's end stopped: keep one beside a buffer that fills slowly, and give it to every
/// call on that buffer. Starts as `default()` with each new head.
///
/// It makes the whole of a head's calls linear in its length. Without it, a peer that sends one byte at a time makes
/// each call search from the start: 16 KiB heads would cost 128 MiB of searching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Bytes searched without finding the end: always just after an LF or at the start of an unfinished line's tail.
    scanned: u16,
    /// Start of the line that is being searched.
    line_start: u16,
    /// A line that is not empty has been seen: the next empty one ends the head.
    started: bool,
}

impl HeadScan {
    /// Looks for the end of the head in `input`, which must begin with what it began with at the last call.
    /// Returns the start of the first line and the head's length in bytes, both counted from the start of `input`.
    ///
    /// # Errors
    /// 400 for a line ended by LF alone or a first byte that starts no request, so that a TLS client on a plain
    /// port is answered at once; 431 when the bound is passed without an end.
    pub fn find_end(&mut self, input: &[u8]) -> Result<Option<(usize, usize)>, HttpFault> {
        let within = &input[..input.len().min(limits::HTTP_HEAD_BYTES_MAX)];
        loop {
            let line_start = usize::from(self.line_start);
            // RFC 9112 section 2.2: empty lines before the first line are skipped.
            match within.get(line_start) {
                None | Some(b'\r') => {}
                Some(byte) if self.started || is_token(&[*byte]) => self.started = true,
                Some(b'\n') => return Err(HttpFault::bad_request("line ended by a bare LF")),
                Some(_) => return Err(HttpFault::bad_request("not an HTTP request")),
            }
            let scanned = usize::from(self.scanned).min(within.len());
            let Some(lf) = find_lf(&within[scanned..]).map(|offset| scanned + offset) else {
                // At most HTTP_HEAD_BYTES_MAX, which is asserted to fit.
                self.scanned = within.len() as u16;
                if within.len() == limits::HTTP_HEAD_BYTES_MAX {
                    return Err(HttpFault { status: 431, reason: "request head too large" });
                }
                return Ok(None);
            };
            if within[..lf].last() != Some(&b'\r') {
                return Err(HttpFault::bad_request("line ended by a bare LF"));
            }
            match (lf == line_start + 1, self.started) {
                (true, true) => return Ok(Some((self.first_line(within), lf + 1))),
                (false, false) => return Err(HttpFault::bad_request("bare CR before the request line")),
                (true, false) | (false, true) => {}
            }
            self.scanned = (lf + 1) as u16;
            self.line_start = (lf + 1) as u16;
        }
    }

    /// Only CRLFs can stand before the first line, so it starts at the first other byte.
    fn first_line(&self, input: &[u8]) -> usize {
        input.iter().position(|&byte| byte != b'\r' && byte != b'\n').unwrap_or(0)
    }
}

/// Reads one request head. `Ok(None)` means that it is not complete; on success the second value is how many bytes
/// of `input` it took, empty lines before it included.
///
/// Each call searches `input` from its start. A caller that keeps an incomplete head must bound the number of calls,
/// or use [`HeadScan::find_end`] on each read and call this once, when that has found the end.
///
/// # Errors
/// A fault means that the connection must be answered with it and closed. 400 for anything malformed or ambiguous,
/// 431 for a head over [`limits::HTTP_HEAD_BYTES_MAX`] or with more than [`limits::HTTP_HEADERS_MAX`] fields,
/// 501 for CONNECT and for a transfer coding before `chunked`, 505 for another major version.
pub fn parse_head(input: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, HttpFault> {
    let Some((start, len)) = HeadScan::default().find_end(input)? else { return Ok(None) };
    // Without the empty line's CRLF: every line left ends in its own.
    let head = &input[start..len - 2];
    let (line, fields_start) = first_line(head)?;
    let (method, target, version) = parse_request_line(line)?;
    let fields = Fields::parse(head, fields_start)?;

    let host = check_host(&fields, version)?;
    let RequestTarget { authority, path, query } = parse_target(method, target)?;
    let body_length = check_body_length(&fields, version)?;
    let authority = authority.or(host);
    Ok(Some((RequestHead { method, target, path, query, version, fields, authority, body_length }, len)))
}

/// Reads one response head, for clients of ours. As [`parse_head`]; body framing is the caller's.
///
/// # Errors
/// The status of the fault means nothing here; the reason does.
pub fn parse_response_head(input: &[u8]) -> Result<Option<(ResponseHead<'_>, usize)>, HttpFault> {
    let Some((start, len)) = HeadScan::default().find_end(input)? else { return Ok(None) };
    let head = &input[start..len - 2];
    let (line, fields_start) = first_line(head)?;
    const MALFORMED: HttpFault = HttpFault::bad_request("malformed status line");
    // "HTTP/1.1 101 Reason": the reason and even the space before it may be missing in the wild.
    let (version, rest) = line.split_at_checked(8).ok_or(MALFORMED)?;
    let version = parse_version(version)?;
    let (code, reason) = rest.split_at_checked(4).ok_or(MALFORMED)?;
    let [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *code else { return Err(MALFORMED) };
    if !(reason.is_empty() || reason[0] == b' ') || !is_field_value(reason) {
        return Err(MALFORMED);
    }
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    let fields = Fields::parse(head, fields_start)?;
    Ok(Some((ResponseHead { version, status, fields }, len)))
}

/// The first line without its CRLF, and where the next one starts.
fn first_line(head: &[u8]) -> Result<(&[u8], usize), HttpFault> {
    match fields::find_lf(head) {
        Some(lf) if lf > 0 => Ok((&head[..lf - 1], lf + 1)),
        _ => Err(HttpFault::bad_request("malformed first line")),
    }
}

/// `method SP request-target SP HTTP-version`, single spaces only (RFC 9112 section 3).
fn parse_request_line(line: &[u8]) -> Result<(&str, &[u8], HttpVersion), HttpFault> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HttpFault::bad_request("malformed request line"));
    };
    if !is_token(method) {
        return Err(HttpFault::bad_request("invalid method"));
    }
    // A `#` has no place in a target, and readers differ on what a path with one means. What is not ASCII is judged where
    // it stands: pages and proxies write it into queries as it is.
    let visible =
        target.iter().fold(true, |all, &byte| all & (byte > b' ') & (byte != 0x7f) & (byte != b'#'));
    if target.is_empty() || !visible {
        return Err(INVALID_TARGET);
    }
    let version = parse_version(version)?;
    match std::str::from_utf8(method) {
        Ok(method) => Ok((method, target, version)),
        Err(_) => Err(HttpFault::bad_request("malformed request line")),
    }
}

const INVALID_TARGET: HttpFault = HttpFault::bad_request("invalid request target");

fn parse_version(version: &[u8]) -> Result<HttpVersion, HttpFault> {
    match version {
        b"HTTP/1.1" => Ok(HttpVersion::Http11),
        b"HTTP/1.0" => Ok(HttpVersion::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok(HttpVersion::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(HttpFault { status: 505, reason: "HTTP version not supported" })
        }
        _ => Err(HttpFault::bad_request("malformed HTTP version")),
    }
}

struct RequestTarget<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a [u8]>,
}

/// The forms of RFC 9112 section 3.2.
fn parse_target<'a>(method: &str, target: &'a [u8]) -> Result<RequestTarget<'a>, HttpFault> {
    if method == "CONNECT" {
        return Err(HttpFault { status: 501, reason: "CONNECT is not served" });
    }
    let (before, query) = match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    let before = std::str::from_utf8(before).ok().filter(|text| text.is_ascii()).ok_or(INVALID_TARGET)?;
    if before == "*" && query.is_none() {
        return match method {
            "OPTIONS" => Ok(RequestTarget { authority: None, path: before, query: None }),
            _ => Err(HttpFault::bad_request("asterisk target outside OPTIONS")),
        };
    }
    let (authority, path) = if before.starts_with('/') {
        (None, before)
    } else {
        // A server must take the absolute form, though only proxies are sent it.
        let (scheme, rest) = before.split_once("://").ok_or(INVALID_TARGET)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(HttpFault::bad_request("invalid scheme in the request target"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || !is_host(authority.as_bytes()) {
            return Err(HttpFault::bad_request("invalid host in the request target"));
        }
        (Some(authority), path)
    };
    // "http://host" and "http://host?q" mean the root (RFC 9110 section 4.2.3).
    Ok(RequestTarget { authority, path: if path.is_empty() { "/" } else { path }, query })
}

/// RFC 9112 section 3.2: 1.1 needs exactly one Host, nobody may send two, and it must be well formed.
fn check_host<'a>(fields: &Fields<'a>, version: HttpVersion) -> Result<Option<&'a str>, HttpFault> {
    let mut hosts = fields.all("Host");
    let Some(host) = hosts.next() else {
        return match version {
            HttpVersion::Http10 => Ok(None),
            HttpVersion::Http11 => Err(HttpFault::bad_request("missing Host")),
        };
    };
    if hosts.next().is_some() {
        return Err(HttpFault::bad_request("more than one Host"));
    }
    if !is_host(host) {
        return Err(HttpFault::bad_request("invalid Host"));
    }
    std::str::from_utf8(host).map(Some).map_err(|_| HttpFault::bad_request("invalid Host"))
}

/// Whether this is `uri-host [":" port]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2), without user information. A
/// name and a port may be empty; what stands in brackets is not read as an address.
pub fn is_host(host: &[u8]) -> bool {
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let port = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let (literal, behind) = rest.split_at(end);
            if literal.is_empty() || !literal.iter().all(|byte| is_name_byte(byte) || *byte == b':') {
                return false;
            }
            &behind[1..]
        }
        None => {
            let name_len = host.iter().position(|byte| !is_name_byte(byte)).unwrap_or(host.len());
            &host[name_len..]
        }
    };
    match port.split_first() {
        None => true,
        Some((b':', digits)) => {
            digits.iter().all(u8::is_ascii_digit)
                && (digits.is_empty() || parse_decimal(digits).is_some_and(|port| port <= u16::MAX.into()))
        }
        Some(_) => false,
    }
}

/// RFC 9112 sections 6.1 to 6.3. Where the RFC lets a server choose between repairing and refusing, this refuses.
fn check_body_length(fields: &Fields<'_>, version: HttpVersion) -> Result<BodyLength, HttpFault> {
    let mut lengths = fields.all("Content-Length");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(HttpFault::bad_request("more than one Content-Length"));
    }
    let mut codings = fields.all("Transfer-Encoding").peekable();
    if codings.peek().is_none() {
        return match length {
            None => Ok(BodyLength::None),
            Some(digits) => parse_decimal(digits)
                .map(BodyLength::Length)
                .ok_or(HttpFault::bad_request("invalid Content-Length")),
        };
    }
    drop(codings);
    if length.is_some() {
        return Err(HttpFault::bad_request("both Transfer-Encoding and Content-Length"));
    }
    if version == HttpVersion::Http10 {
        return Err(HttpFault::bad_request("Transfer-Encoding in HTTP/1.0"));
    }
    // The one form every reader agrees on. What follows only tells the refusals apart.
    if fields.only("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return Ok(BodyLength::Chunked);
    }
    let (mut chunked, mut others, mut last_is_chunked) = (0, 0, false);
    for coding in fields.tokens("Transfer-Encoding") {
        last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if last_is_chunked {
            chunked += 1;
        } else {
            others += 1;
        }
    }
    match (last_is_chunked, chunked, others) {
        (true, 1, 0) => Err(HttpFault::bad_request("empty element in Transfer-Encoding")),
        (true, 1, _) => Err(HttpFault { status: 501, reason: "unknown transfer coding" }),
        (true, _, _) => Err(HttpFault::bad_request("chunked more than once")),
        // Not 501 even for an unknown coding: RFC 9112 section 6.3 item 4 demands 400, as the length is unknown.
        (false, _, _) => Err(HttpFault::bad_request("last transfer coding is not chunked")),
    }
}

/// `1*DIGIT` that fits 64 bits.
fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head that comes byte by byte costs its length once: every search starts where the last one ended.
    #[test]
    fn the_scan_never_looks_at_a_byte_twice() {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: some value\r\n\r\n";
        let mut scan = HeadScan::default();
        for len in 0..text.len() {
            assert_eq!(scan.find_end(&text[..len]), Ok(None));
            assert_eq!(usize::from(scan.scanned), len);
        }
        assert_eq!(scan.find_end(text), Ok(Some((2, text.len()))));
    }
}
