//! Between heads as they are read here and the types of the `http` crate. Both the client ports and the API's own
//! listener use it, so that one request means the same on either.

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
    parts.uri = head.target.parse::<Uri>().map_err(|_| MALFORMED)?;
    parts.version = match head.version {
        super::Version::Http10 => Version::HTTP_10,
        super::Version::Http11 => Version::HTTP_11,
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
