//! Origins of web pages: which may connect, and which of them are known by name.
//!
//! Inputs: patterns of the configuration, `Origin` and `Host` of requests. Outputs: who is welcome. An origin is a scheme,
//! a host and a port, and a default port is the same said or unsaid (RFC 6454 section 4); browsers send hosts in ASCII and
//! addresses in their shortest form, so patterns are brought into that form when they are read.

use std::net::{IpAddr, Ipv6Addr};

/// The origins that may connect besides pages of the daemon's own host.
#[derive(Clone, Debug, Default)]
pub struct AllowedOrigins {
    patterns: Vec<OriginPattern>,
    /// Any origin, without credentials.
    any: bool,
    /// Pages of this machine, whatever their port.
    loopback: bool,
}

/// How an origin stands to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// No browser, the same host, or named: its cookies count.
    Known,
    /// Let in by `*` alone: anybody's page, which may not act with the visitor's cookies.
    Anybody,
    Refused,
}

/// One entry of `client.allowed_origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`
    Any,
    /// `null`: sandboxed frames and pages from files.
    Null,
    Named {
        /// In lower case, with stars.
        scheme: Box<str>,
        host: OriginHost,
        port: Port,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginHost {
    /// In lower case, with stars; empty for schemes without hosts.
    Name(Box<str>),
    V6(Ipv6Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The scheme's own.
    Default,
    Number(u16),
    Any,
}

impl OriginPattern {
    /// Reads a pattern. A star stands for one or more characters of a scheme or a host, or for any port.
    ///
    /// # Errors
    /// What no browser's origin can ever match, with the reason.
    pub fn parse(text: &str) -> Result<OriginPattern, String> {
        match text {
            "*" => return Ok(OriginPattern::Any),
            "null" => return Ok(OriginPattern::Null),
            _ => {}
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("is none of \"*\", \"null\" and a scheme with a host, like \"https://example.com\"")?;
        let scheme = scheme.to_ascii_lowercase();
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.*".contains(&byte);
        let starts = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'*');
        if !starts || !scheme.bytes().all(in_scheme) {
            return Err("has no scheme that a browser knows".into());
        }
        if rest.contains(['/', '?', '#', '\\']) {
            return Err("has a path: an origin ends with its host or port".into());
        }
        if rest.contains('@') {
            return Err("has a user: no origin has one".into());
        }
        let (host, port) = split_port(rest);
        let port = match port {
            // Any host there is, and so any port: a page that may be anywhere gains nothing by its port.
            None if host == "*" => Port::Any,
            None => Port::Default,
            Some("*") => Port::Any,
            Some(digits) => {
                Port::Number(read_port(digits).ok_or("has a port that is neither a number nor *")?)
            }
        };
        let of_web = matches!(canonical_scheme(&scheme), "http" | "https") || scheme.contains('*');
        if scheme == "file" && !host.is_empty() {
            return Err("names a host: pages from files have none, write \"file://\"".into());
        }
        let port = match (default_port(&scheme), port) {
            (Some(own), Port::Number(number)) if own == number => Port::Default,
            (_, port) => port,
        };
        Ok(OriginPattern::Named {
            host: read_host(host, of_web)?,
            scheme: canonical_scheme(&scheme).into(),
            port,
        })
    }

    fn matches(&self, origin: &PageOrigin<'_>) -> bool {
        match (self, origin) {
            (OriginPattern::Any, _) => true,
            (OriginPattern::Null, PageOrigin::Null) => true,
            (
                OriginPattern::Named { scheme, host, port },
                PageOrigin::Page { scheme: own_scheme, host: own_host, port: own },
            ) => {
                let default = default_port(own_scheme);
                let number = own.or(default);
                let port_fits = match port {
                    Port::Any => true,
                    Port::Default => number == default,
                    Port::Number(wanted) => number == Some(*wanted),
                };
                let host_fits = match host {
                    OriginHost::Name(pattern) => matches(pattern, own_host),
                    OriginHost::V6(wanted) => v6(own_host) == Some(*wanted),
                };
                port_fits
                    && host_fits
                    && (matches(scheme, own_scheme) || matches(scheme, canonical_scheme(own_scheme)))
            }
            _ => false,
        }
    }
}

impl AllowedOrigins {
    /// # Errors
    /// Those of [`OriginPattern::parse`], for the first pattern that cannot match.
    pub fn new(patterns: &[String], loopback: bool) -> Result<AllowedOrigins, String> {
        let mut origins = AllowedOrigins { loopback, ..AllowedOrigins::default() };
        for text in patterns {
            match OriginPattern::parse(text)? {
                OriginPattern::Any => origins.any = true,
                pattern => origins.patterns.push(pattern),
            }
        }
        Ok(origins)
    }

    /// Judges the `Origin` fields of a request for `host`. Programs that are no browser send none.
    pub fn judge<'h>(&self, mut origins: impl Iterator<Item = &'h [u8]>, host: Option<&str>) -> Welcome {
        let Some(text) = origins.next() else { return Welcome::Known };
        // Two: no browser sends that, and one may be meant to be overlooked.
        let only = origins.next().is_none();
        let origin = std::str::from_utf8(text).ok().filter(|_| only).and_then(PageOrigin::parse);
        let known = origin.is_some_and(|origin: PageOrigin<'_>| {
            host.is_some_and(|host| origin.is_of(host))
                || self.loopback && origin.is_loopback()
                || self.patterns.iter().any(|pattern| pattern.matches(&origin))
        });
        match known {
            true => Welcome::Known,
            false if self.any && only => Welcome::Anybody,
            false => Welcome::Refused,
        }
    }
}

/// An origin as a browser sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageOrigin<'o> {
    Null,
    Page { scheme: &'o str, host: &'o str, port: Option<u16> },
}

impl<'o> PageOrigin<'o> {
    fn parse(text: &'o str) -> Option<PageOrigin<'o>> {
        if text == "null" {
            return Some(PageOrigin::Null);
        }
        let (scheme, rest) = text.split_once("://")?;
        // What no browser sends, and what must not get into an answer's fields.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['/', '?', '#', '\\', '@', ','])
        {
            return None;
        }
        let (host, port) = split_port(rest);
        let port = match port {
            Some(digits) => Some(read_port(digits)?),
            None => None,
        };
        Some(PageOrigin::Page { scheme, host, port })
    }

    /// Whether it is a page of the host that the request is for. Which scheme the request came by is not known: TLS may
    /// end in front of us.
    fn is_of(&self, authority: &str) -> bool {
        let PageOrigin::Page { scheme, host, port } = *self else { return false };
        let Some(default) = default_port(scheme) else { return false };
        let (own, own_port) = split_port(authority);
        let own_port = match own_port {
            Some("") | None => Some(default),
            Some(digits) => read_port(digits),
        };
        let same_host = own.eq_ignore_ascii_case(host) || v6(own).is_some_and(|own| v6(host) == Some(own));
        !host.is_empty() && same_host && own_port == Some(port.unwrap_or(default))
    }

    fn is_loopback(&self) -> bool {
        let PageOrigin::Page { host, .. } = self else { return false };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// WebSocket's schemes are those of HTTP: a native client may name its own URL as its origin.
fn canonical_scheme(scheme: &str) -> &str {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("ws") => "http",
        _ if scheme.eq_ignore_ascii_case("wss") => "https",
        scheme => scheme,
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match canonical_scheme(scheme) {
        scheme if scheme.eq_ignore_ascii_case("http") => Some(80),
        scheme if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    }
}

/// The host, an address of IPv6 with its brackets, and what stands behind its colon.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let from = authority.rfind(']').unwrap_or(0);
    match authority[from..].find(':') {
        Some(colon) => (&authority[..from + colon], Some(&authority[from + colon + 1..])),
        None => (authority, None),
    }
}

fn read_port(digits: &str) -> Option<u16> {
    let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| digits.parse().ok()).flatten()
}

fn v6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// The host of a pattern, in the form that browsers send.
fn read_host(host: &str, of_web: bool) -> Result<OriginHost, String> {
    if host.starts_with('[') {
        let address = v6(host).ok_or("has no address of IPv6 in its brackets")?;
        return Ok(OriginHost::V6(address));
    }
    if !of_web {
        // Schemes of applications: their hosts go out as they are, if there is one.
        let fits = host.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]:%<>^|\"`{}".contains(&byte));
        return if fits {
            Ok(OriginHost::Name(host.to_ascii_lowercase().into()))
        } else {
            Err(NO_HOST.into())
        };
    }
    if !host.contains('*') {
        return match url::Host::parse(host).map_err(|_| NO_HOST)? {
            url::Host::Domain(name) => Ok(OriginHost::Name(name.into())),
            url::Host::Ipv4(address) => Ok(OriginHost::Name(address.to_string().into())),
            url::Host::Ipv6(_) => Err(NO_HOST.into()),
        };
    }
    let mut labels = Vec::new();
    for label in host.split('.') {
        labels.push(if label.contains('*') {
            // Browsers encode a label of other letters as a whole: no part of one is ever seen.
            let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte));
            if !fits {
                return Err("has a label with a star and a character that browsers encode".into());
            }
            label.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(label)
                .ok()
                .filter(|label| !label.is_empty() && is_label(label))
                .ok_or(NO_HOST)?
        });
    }
    // A name whose last label is a number is an address of IPv4 to a browser, of four numbers and nothing else.
    let numeric = |label: &String| label.bytes().all(|byte| byte.is_ascii_digit());
    if labels.last().is_some_and(numeric) {
        let octet = |label: &String| {
            label.contains('*') || label.parse::<u8>().is_ok_and(|octet| octet.to_string() == *label)
        };
        let digits = |label: &String| label.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*');
        if labels.len() > 4 || !labels.iter().all(|label| digits(label) && octet(label)) {
            return Err("ends like an address of IPv4 and cannot be one".into());
        }
    }
    Ok(OriginHost::Name(labels.join(".").into()))
}

const NO_HOST: &str = "has no host that a browser knows";

fn is_label(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether the pattern, whose stars stand for one or more characters each, is `text`. Greedy with one step back: linear
/// in pattern times text, whatever a stranger sends.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Behind the latest star, and the most that it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), text.get(read)) {
            (None, None) => return true,
            (Some(b'*'), Some(_)) => {
                at += 1;
                read += 1;
                star = Some((at, read));
            }
            (Some(byte), Some(own)) if byte.eq_ignore_ascii_case(own) => {
                at += 1;
                read += 1;
            }
            (_, None) => return false,
            _ => {
                let Some((behind, taken)) = &mut star else { return false };
                *taken += 1;
                (at, read) = (*behind, *taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(patterns: &[&str], origin: &str, host: &str) -> Welcome {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        AllowedOrigins::new(&patterns, false).unwrap().judge([origin.as_bytes()].into_iter(), Some(host))
    }

    #[test]
    fn a_default_port_is_the_same_said_or_unsaid() {
        for (host, origin) in [
            ("example.com", "https://example.com"),
            ("example.com", "http://example.com"),
            ("Example.com", "https://example.COM:443"),
            ("example.com", "wss://example.com:443"),
            ("example.com", "ws://example.com:80"),
            ("example.com:443", "https://example.com"),
            ("example.com:80", "http://example.com"),
            ("example.com:8443", "https://example.com:8443"),
            ("example.com:", "https://example.com"),
            ("[2001:db8::1]:443", "https://[2001:db8::1]"),
            ("[2001:DB8:0::1]", "https://[2001:db8::1]:443"),
            ("10.0.0.1:8000", "http://10.0.0.1:8000"),
        ] {
            assert_eq!(judged(&[], origin, host), Welcome::Known, "{host} {origin}");
        }
        for (host, origin) in [
            ("example.com", "https://example.com:8443"),
            ("example.com:8443", "https://example.com"),
            ("example.com", "http://example.com:443"),
            ("example.com:80", "https://example.com"),
            ("example.com", "https://evil.example"),
            ("example.com", "https://example.com.evil.example"),
            ("example.com", "https://example.com@evil.example"),
            ("example.com", "https://example.com/"),
            ("example.com", "https://example.com:"),
            ("example.com", "https://example.com:0443x"),
            ("example.com", "chrome-extension://example.com"),
            ("example.com", "null"),
            ("null", "null"),
            ("", "https://"),
            ("", "null"),
        ] {
            assert_eq!(judged(&[], origin, host), Welcome::Refused, "{host} {origin}");
        }
    }

    #[test]
    fn a_pattern_names_what_browsers_send_and_nothing_beside() {
        for (pattern, yes, no) in [
            (
                "https://a.example:443",
                &["https://a.example", "wss://a.example:443"][..],
                &["http://a.example:443"][..],
            ),
            (
                "https://b.example",
                &["https://b.example:443", "https://B.example"],
                &["https://b.example:8443", "http://b.example"],
            ),
            ("ws://c.example", &["http://c.example", "ws://c.example:80"], &["https://c.example"]),
            (
                "https://*.y.example:*",
                &["https://q.y.example:8443", "https://a.b.y.example"],
                &[
                    "https://y.example",
                    "https://.y.example",
                    "https://qy.example",
                    "https://q.y.example.evil.test",
                ],
            ),
            (
                "https://*.example.com",
                &["https://a.b.example.com"],
                &["https://evil-example.com", "https://a.example.com:1"],
            ),
            (
                "*://*.z.example",
                &["http://a.z.example", "https://a.z.example", "wss://a.z.example:443"],
                &["https://a.z.example:8443"],
            ),
            (
                "https://app-*.*.example",
                &["https://app-1.eu.example"],
                &["https://app-.eu.example", "https://app-1.example"],
            ),
            (
                "https://пример.рф",
                &["https://xn--e1afmkfd.xn--p1ai"],
                &["https://xn--e1afmkfd.xn--p1ai.evil.test"],
            ),
            ("https://*.пример.рф", &["https://a.xn--e1afmkfd.xn--p1ai"], &["https://xn--e1afmkfd.xn--p1ai"]),
            ("https://[2001:db8:0:0::1]:8443", &["https://[2001:db8::1]:8443"], &["https://[2001:db8::1]"]),
            ("http://127.1", &["http://127.0.0.1"], &["http://127.0.0.1:8000"]),
            (
                "https://*",
                &["https://a.example", "https://a.example:8443", "https://[2001:db8::1]:1"],
                &["http://a.example"],
            ),
            ("https://*:443", &["https://a.example"], &["https://a.example:8443"]),
            ("http*://a.example", &["https://a.example"], &["http://a.example", "https://a.example:1"]),
            ("ws*://a.example", &["wss://a.example"], &["https://a.example", "ws://a.example"]),
            ("http://10.0.*:*", &["http://10.0.0.7:3000", "http://10.0.1.2"], &["http://10.1.0.7:3000"]),
            ("http://*.0.0.1", &["http://10.0.0.1"], &["http://10.0.0.2"]),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["http://localhost.evil.test:3000"],
            ),
            ("null", &["null"], &["file://", "https://null"]),
            ("file://", &["file://"], &["null", "file://host"]),
            ("capacitor://localhost", &["capacitor://localhost"], &["ionic://localhost", "http://localhost"]),
            ("chrome-extension://*", &["chrome-extension://abcdef"], &["https://abcdef"]),
            ("app://.", &["app://."], &["app://x"]),
        ] {
            let outcome = |origin: &str| judged(&[pattern], origin, "rt.example");
            yes.iter().for_each(|origin| assert_eq!(outcome(origin), Welcome::Known, "{pattern} {origin}"));
            no.iter().for_each(|origin| assert_eq!(outcome(origin), Welcome::Refused, "{pattern} {origin}"));
        }
    }

    #[test]
    fn what_can_never_match_is_no_pattern() {
        for text in [
            "",
            "example.com",
            "**",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "file:///",
            "https://user@example.com",
            "https://example.com:99999",
            "https://example.com:8*",
            "https://example.com:",
            "https://exa mple.com",
            "https://*.exa mple.com",
            "https://*..example.com",
            "https://при*.рф",
            "https://[2001:db8::*]",
            "https://[::1",
            "https://*.2.400",
            "https://a*.2.3",
            "https://*.2.3.4.5",
            "file://*",
            "file://host",
            "https://1.2.3.400",
            "://example.com",
            "1://example.com",
            "app://a b",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_star_lets_everybody_in_and_makes_nobody_known() {
        let patterns = ["*", "https://app.example"];
        assert_eq!(judged(&patterns, "https://app.example", "rt.example"), Welcome::Known);
        assert_eq!(judged(&patterns, "https://rt.example", "rt.example"), Welcome::Known);
        for other in ["https://other.example", "null", "nonsense", "https://app.example:8443"] {
            assert_eq!(judged(&patterns, other, "rt.example"), Welcome::Anybody, "{other}");
        }
    }

    #[test]
    fn two_origins_are_none_that_is_known() {
        let origins = AllowedOrigins::new(&["*".into(), "https://a.example".into()], true).unwrap();
        let judge = |list: &[&[u8]]| origins.judge(list.iter().copied(), Some("a.example"));
        assert_eq!(judge(&[]), Welcome::Known);
        assert_eq!(judge(&[b"https://a.example"]), Welcome::Known);
        assert_eq!(judge(&[b"https://a.example", b"https://evil.example"]), Welcome::Refused);
        assert_eq!(judge(&[b"https://a.example https://evil.example"]), Welcome::Anybody);
        assert_eq!(judge(&[b"\xe9"]), Welcome::Anybody);
        assert_eq!(judge(&[b"http://localhost\rx"]), Welcome::Anybody);
        for page in ["http://localhost:3000", "http://127.9.9.9", "https://[::1]:1", "capacitor://localhost"]
        {
            assert_eq!(judge(&[page.as_bytes()]), Welcome::Known, "{page}");
        }
        for page in ["http://localhost.evil.test", "http://128.0.0.1", "http://"] {
            assert_eq!(judge(&[page.as_bytes()]), Welcome::Anybody, "{page}");
        }
    }

    #[test]
    fn many_stars_stay_cheap() {
        assert!(!matches(&("a*".repeat(100) + "b"), &"a".repeat(4000)));
    }
}
