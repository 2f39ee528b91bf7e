//! Addresses of servers, as people write them.

use std::net::{SocketAddr, ToSocketAddrs};

/// A URL, as far as a load generator needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub scheme: String,
    /// Host and port, as in the Host field.
    pub host: String,
    /// Path and query; begins with a slash.
    pub path: String,
    port: u16,
}

impl Address {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Address, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url}: no scheme, as in ws://"))?;
        let port = match scheme {
            "ws" | "http" => 80,
            "tcp" | "mqtt" | "nats" => 0,
            "wss" | "https" => 443,
            _ => return Err(format!("{url}: the scheme is not ws, wss, http, https or tcp")),
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let port = match host.rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => {
                digits.parse().map_err(|_| format!("{url}: the port is no number"))?
            }
            _ => port,
        };
        if port == 0 {
            return Err(format!("{url}: no port"));
        }
        let clean = host.bytes().chain(path.bytes()).all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !clean {
            return Err(format!("{url}: no host, or characters that no URL has"));
        }
        Ok(Address { scheme: scheme.into(), host: host.into(), path: path.into(), port })
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "wss" | "https")
    }

    /// The host without its port; an IPv6 address without its brackets.
    pub fn name(&self) -> &str {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, port)| {
            if port.ends_with(']') { self.host.as_str() } else { name }
        });
        name.trim_start_matches('[').trim_end_matches(']')
    }

    /// # Errors
    /// When the host has no address.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let name = self.name();
        let mut found = (name, self.port).to_socket_addrs().map_err(|error| format!("{name}: {error}"))?;
        found.next().ok_or_else(|| format!("{name}: no address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let address = Address::parse("ws://127.0.0.1:8000/a/b?c=1").unwrap();
        assert_eq!((address.host.as_str(), address.path.as_str()), ("127.0.0.1:8000", "/a/b?c=1"));
        assert_eq!(address.resolve(), Ok("127.0.0.1:8000".parse().unwrap()));
        assert_eq!(Address::parse("ws://127.0.0.1").unwrap().resolve(), Ok("127.0.0.1:80".parse().unwrap()));
        assert_eq!(Address::parse("ws://[::1]:9/").unwrap().resolve(), Ok("[::1]:9".parse().unwrap()));
        let secure = Address::parse("wss://127.0.0.1/x").unwrap();
        assert!(secure.is_tls() && !address.is_tls());
        assert_eq!(secure.resolve(), Ok("127.0.0.1:443".parse().unwrap()));
        assert_eq!(Address::parse("https://[::1]:9/").unwrap().name(), "::1");
        for wrong in ["127.0.0.1:80", "wss:///", "ftp://a/", "tcp://a", "ws://a:x/", "ws:///x", "ws://a b/"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
