//! The field section of a head: validated once, then looked up without copying (RFC 9110 section 5, RFC 9112
//! section 5).

use super::HttpFault;
use crate::base::limits;

/// The header fields of one head, in the order they came. Borrows from the input and allocates nothing: a fixed
/// table of places, about 800 bytes of stack for the length of one request.
#[derive(Clone)]
pub struct Fields<'a> {
    head: &'a [u8],
    spans: [FieldSpan; limits::HTTP_HEADERS_MAX],
    count: u8,
}

/// Places in the head. 16 bits reach the end of the longest head that is taken.
#[derive(Clone, Copy, Default)]
struct FieldSpan {
    name_start: u16,
    name_end: u16,
    value_start: u16,
    value_end: u16,
}

const _: () = assert!(limits::HTTP_HEAD_BYTES_MAX <= u16::MAX as usize, "a span is 16 bits");
const _: () = assert!(limits::HTTP_HEADERS_MAX <= u8::MAX as usize, "the count is 8 bits");

impl<'a> Fields<'a> {
    /// Reads field lines from `head[start..]`, which is everything between the first line and the empty line,
    /// each ended by CRLF.
    pub(super) fn parse(head: &'a [u8], start: usize) -> Result<Fields<'a>, HttpFault> {
        let mut fields = Fields { head, spans: [FieldSpan::default(); limits::HTTP_HEADERS_MAX], count: 0 };
        let mut at = start;
        while at < head.len() {
            let line_end = at + find_crlf(&head[at..])?;
            if usize::from(fields.count) == limits::HTTP_HEADERS_MAX {
                return Err(HttpFault { status: 431, reason: "too many header fields" });
            }
            fields.spans[usize::from(fields.count)] = parse_line(head, at, line_end)?;
            fields.count += 1;
            at = line_end + 2;
        }
        Ok(fields)
    }

    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every field line as it came, names in the peer's case, values without the white space around them.
    /// Values hold no control character but HTAB; they may hold bytes of 0x80 and above.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let head = self.head;
        self.spans[..self.len()].iter().map(move |span| (name_of(head, span), value_of(head, span)))
    }

    /// Values of every line of that name, in order. The case of `name` does not matter.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'_, 'a, 'n> {
        let head = self.head;
        self.spans[..self.len()]
            .iter()
            .filter(move |span| {
                head[span.name_start.into()..span.name_end.into()].eq_ignore_ascii_case(name.as_bytes())
            })
            .map(move |span| value_of(head, span))
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The value of that name if there is exactly one line of it.
    pub fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Elements of a comma-separated list over every line of that name (RFC 9110 section 5.6.1), without the white
    /// space around them; empty ones are skipped. Does not know quoted strings: for lists of tokens only.
    pub fn tokens<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'_, 'a, 'n> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Whether that list has the element `token`, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (name, value.escape_ascii().to_string())))
            .finish()
    }
}

/// `1*tchar` (RFC 9110 section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// Whether `bytes` may stand as a field value: no control character but HTAB, so neither CR, LF nor NUL.
pub fn is_field_value(bytes: &[u8]) -> bool {
    // A fold without an early exit: the compiler makes vector code of it.
    !bytes.iter().fold(false, |bad, &byte| bad | (byte < 0x20 && byte != b'\t') | (byte == 0x7f))
}

/// The values of a field in a head that is malformed, too long or not complete: what whole lines say. For advice to the
/// peer only, never to act on.
pub fn raw_fields<'a>(head: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let whole = head.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = head[..whole].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    // The first line is the request's, and an empty one ends the head.
    lines.skip(1).take_while(|line| !line.is_empty()).filter_map(move |line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let value = line[colon + 1..].trim_ascii();
        (line[..colon].eq_ignore_ascii_case(name.as_bytes()) && is_field_value(value)).then_some(value)
    })
}

/// Offset of the first CRLF. The caller has made sure that there is one and that no LF stands alone.
fn find_crlf(bytes: &[u8]) -> Result<usize, HttpFault> {
    match find_lf(bytes) {
        Some(lf) if lf > 0 && bytes[lf - 1] == b'\r' => Ok(lf - 1),
        _ => Err(HttpFault::bad_request("line not ended by CRLF")),
    }
}

/// Offset of the first LF.
pub(super) fn find_lf(bytes: &[u8]) -> Option<usize> {
    // Blocks without an early exit inside become vector code; a plain `position` compares byte by byte.
    const BLOCK: usize = 32;
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK) {
        if block.iter().fold(false, |found, &byte| found | (byte == b'\n')) {
            break;
        }
        at += BLOCK;
    }
    bytes[at..].iter().position(|&byte| byte == b'\n').map(|offset| at + offset)
}

fn parse_line(head: &[u8], start: usize, end: usize) -> Result<FieldSpan, HttpFault> {
    let line = &head[start..end];
    let name_len = line
        .iter()
        .position(|&byte| !TOKEN[usize::from(byte)])
        .ok_or(HttpFault::bad_request("header line without a colon"))?;
    match line[name_len] {
        b':' if name_len > 0 => {}
        b':' => return Err(HttpFault::bad_request("empty header name")),
        b' ' | b'\t' if name_len == 0 => return Err(HttpFault::bad_request("folded header line")),
        b' ' | b'\t' => return Err(HttpFault::bad_request("white space in a header name")),
        _ => return Err(HttpFault::bad_request("invalid byte in a header name")),
    }
    let raw = &line[name_len + 1..];
    if !is_field_value(raw) {
        return Err(HttpFault::bad_request("control character in a header value"));
    }
    // Optional white space is SP and HTAB; of the other bytes `trim_ascii` takes off, none got past the check above.
    let value = raw.trim_ascii_start();
    let value_start = end - value.len();
    let value_end = value_start + value.trim_ascii_end().len();
    // Fits: the caller's head is at most HTTP_HEAD_BYTES_MAX long.
    Ok(FieldSpan {
        name_start: start as u16,
        name_end: (start + name_len) as u16,
        value_start: value_start as u16,
        value_end: value_end as u16,
    })
}

fn name_of<'a>(head: &'a [u8], span: &FieldSpan) -> &'a str {
    // Checked as a token when it was parsed, so this is ASCII and the default is never taken.
    std::str::from_utf8(&head[span.name_start.into()..span.name_end.into()]).unwrap_or_default()
}

fn value_of<'a>(head: &'a [u8], span: &FieldSpan) -> &'a [u8] {
    &head[span.value_start.into()..span.value_end.into()]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
            | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};
