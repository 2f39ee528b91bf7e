//! Tokens as requests show them, and what becomes of those that are refused.
//!
//! In this order: `Authorization: Bearer`, `token=` of the query, the cookie `trunkline_token`. Header fields are the
//! connect hook's where there is one and no key is configured. What belongs to somebody else (another scheme, a bearer
//! token of another make, cookies in whatever coding) is passed over: it must not hide a token that is ours.

use std::borrow::Cow;

use crate::base::except::ORIGIN_BYTES_MAX;
use crate::proto::http1::RequestHead;
use crate::proto::unidirectional::query;
use crate::session::SessionEnvironment;

/// The cookie that may hold a token: the way for a page whose server sets it `HttpOnly`.
const COOKIE: &str = "trunkline_token";

/// Whether tokens are looked for in header fields. Without a key none could be valid, and a backend that is asked who
/// connects knows such fields as its own: the `Authorization` of its users must reach it, not end their connections.
pub fn reads_fields(environment: &dyn SessionEnvironment) -> bool {
    environment.verifier().is_some() || !environment.hooks().connect
}

/// The token of a request. `fields`: it may stand in a header field. `cookies`: in a cookie, too: a browser sends its
/// cookies along with what a page of anybody opens, so they count for pages of this host and of origins that are
/// allowed by name, and not for those that only `*` lets in.
pub fn shown<'a>(head: &RequestHead<'a>, fields: bool, cookies: bool) -> Option<Cow<'a, str>> {
    let bearers = bearers(head).filter(|_| fields).map(Cow::Borrowed);
    let in_query = query::value(head.query.unwrap_or_default(), "token");
    let in_cookies = cookie_values(head).filter(|_| fields && cookies).map(Cow::Borrowed);
    let mut first = None;
    for token in bearers.chain(in_query).chain(in_cookies) {
        if has_form(&token) {
            return Some(token);
        }
        first.get_or_insert(token);
    }
    // None has the form of a token of ours: the first is refused for what it is.
    first
}

/// The tag that a request names its client by: publications and messages can be kept from it.
const ORIGIN_PARAMETER: &str = "origin";

/// The tag that the request names. One that is too long is none: nothing could name it.
pub fn origin_tag<'a>(head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
    query::value(head.query.unwrap_or_default(), ORIGIN_PARAMETER).filter(|tag| tag.len() <= ORIGIN_BYTES_MAX)
}

/// Three parts with dots between, in the alphabet of base64url (RFC 7515 section 7.1).
fn has_form(token: &str) -> bool {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    token.split('.').count() == 3
        && token.split('.').all(|part| !part.is_empty() && part.bytes().all(alphabet))
}

/// The tokens of `Authorization: Bearer` (RFC 6750 section 2.1).
fn bearers<'a>(head: &RequestHead<'a>) -> impl Iterator<Item = &'a str> {
    head.fields().all("Authorization").filter_map(|value| {
        let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
    })
}

/// The cookies of our name, over every `Cookie` field: HTTP/2 sends one for each cookie, and proxies hand them on so
/// (RFC 9113 section 8.2.3). Others may be no UTF-8.
fn cookie_values<'a>(head: &RequestHead<'a>) -> impl Iterator<Item = &'a str> {
    head.fields().all("Cookie").flat_map(|cookies| cookies.split(|&byte| byte == b';')).filter_map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?.trim();
        let value = pair.strip_prefix(COOKIE)?.strip_prefix('=')?.trim_matches('"');
        (!value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::parse_head;

    fn token_of(target: &str, fields: &[u8], cookies: bool) -> Option<String> {
        let text = [b"GET ", target.as_bytes(), b" HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat();
        let (head, _) = parse_head(&text).unwrap().unwrap();
        shown(&head, true, cookies).map(Cow::into_owned)
    }

    #[test]
    fn what_is_somebody_elses_hides_no_token_of_ours() {
        let foreign: [&[u8]; 9] = [
            b"",
            b"Authorization: Basic dXNlcjpwYXNz\r\n",
            b"Authorization: Negotiate YII=\r\n",
            b"Authorization: Bearer\r\n",
            b"Authorization: Bearer opaque-of-a-proxy\r\n",
            b"Authorization: x.y.z\r\n",
            b"Authorization: \xe9 \xe9\r\n",
            b"Cookie: a=1\r\nCookie: b=\xe9\r\n",
            b"Cookie: trunkline_token=; trunkline_tokens=x.y.z; trunkline_token\r\n",
        ];
        for other in foreign {
            let with = |own: &[u8]| [other, own].concat();
            for own in [
                &b"Authorization: bearer a.b.c\r\n"[..],
                b"Cookie: trunkline_token=a.b.c\r\n",
                b"Cookie: c=2; trunkline_token=\"a.b.c\"; d=3\r\n",
                b"Cookie: c=\xe9; trunkline_token=a.b.c; d=\xff\r\n",
            ] {
                assert_eq!(token_of("/", &with(own), true).as_deref(), Some("a.b.c"), "{other:?} {own:?}");
            }
            for query in ["token=a.b.c", "utm=50%&token=a.b.c", "token=a.b.c&x=caf%E9", "token=&token=a.b.c"]
            {
                assert_eq!(
                    token_of(&format!("/?{query}"), &with(b""), true).as_deref(),
                    Some("a.b.c"),
                    "{other:?}"
                );
            }
        }
    }

    #[test]
    fn the_header_counts_before_the_query_and_the_query_before_the_cookie() {
        let cookie = "Cookie: trunkline_token=c.c.c\r\n";
        let all = format!("Authorization: Bearer h.h.h\r\n{cookie}");
        assert_eq!(token_of("/?token=q.q.q", all.as_bytes(), true).as_deref(), Some("h.h.h"));
        assert_eq!(token_of("/?token=q.q.q", cookie.as_bytes(), true).as_deref(), Some("q.q.q"));
        assert_eq!(token_of("/", cookie.as_bytes(), false), None);
        // Without one that has the form of a token, the first is taken, and refused.
        assert_eq!(token_of("/?token=nonsense", b"Authorization: Bearer x\r\n", true).as_deref(), Some("x"));
        assert_eq!(token_of("/", b"Authorization: Basic x\r\n", true), None);
    }
}
