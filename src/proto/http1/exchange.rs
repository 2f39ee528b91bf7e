//! Between heads as they are read here and the types of the `http` crate. Both the client ports and the API's own
//! listener use it, so that one request means the same on either.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};

use super::{Body, HttpFault, RequestHead, http_date, write_head};
use crate::base::bytes::Bytes;

/// The head as the control plane reads it.
///
/// # Errors
/// 400 for what the `http` crate does not take.
pub fn request_parts(head: &RequestHead<'_>) -> Result<Parts, HttpFault> {
    const MALFORMED: HttpFault = HttpFault::bad_request("malformed request target or field");
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = head.method.parse::<Method>().map_err(|_| MALFORMED)?;
    parts.uri = escaped(head.target).parse::<Uri>().map_err(|_| MALFORMED)?;
    parts.version = match head.version {
        super::HttpVersion::Http10 => Version::HTTP_10,
        super::HttpVersion::Http11 => Version::HTTP_11,
    };
    parts.headers = HeaderMap::with_capacity(head.fields().len());
    for (name, value) in head.headers() {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) else {
            return Err(MALFORMED);
        };
        parts.headers.append(name, value);
    }
    Ok(parts)
}

/// Part of a request target with every byte as `%XX` that RFC 3986 has no place for and what reads it next may refuse: all
/// that is not ASCII, and quotes and angle brackets.
pub fn escaped(target: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: &u8| byte.is_ascii() && !matches!(byte, b'"' | b'<' | b'>');
    if target.iter().all(is_plain) {
        return String::from_utf8_lossy(target);
    }
    let mut text = String::with_capacity(target.len() + 2 * 16);
    for &byte in target {
        match is_plain(&byte) {
            true => text.push(char::from(byte)),
            false => text.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    Cow::Owned(text)
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(digit)])
}

/// The bytes of a whole response to a request of `method` and `version`.
pub fn encode_response(
    response: &Response<Bytes>,
    method: &Method,
    version: Version,
    keep_alive: bool,
    unix_s: u64,
) -> Bytes {
    let date = http_date(unix_s);
    let mut fields: Vec<(&str, &[u8])> = vec![("Date", &date)];
    for (name, value) in response.headers() {
        // Framing is the codec's.
        if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "date") {
            fields.push((name.as_str(), value.as_bytes()));
        }
    }
    if !keep_alive {
        fields.push(("Connection", b"close"));
    } else if version == Version::HTTP_10 {
        fields.push(("Connection", b"keep-alive"));
    }
    let status = response.status().as_u16();
    let body = response.body();
    let bodiless = matches!(status, 100..200 | 204 | 304);
    let length =
        match response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok()) {
            Some(length) if method == Method::HEAD => length,
            _ => body.len() as u64,
        };
    let mut out = Vec::with_capacity(256 + body.len());
    write_head(&mut out, status, &fields, if bodiless { Body::None } else { Body::Length(length) });
    if !bodiless && method != Method::HEAD {
        out.extend_from_slice(body);
    }
    out.into()
}
