//! Where a listener is bound: an address and port, or the path of a unix socket.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// What the path of a unix socket begins with where an address is written.
const UNIX_PREFIX: &str = "unix:";
/// Longest path of a unix socket, in bytes: `sun_path` of unix(7) without the zero at its end.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Who is served at a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    Clients,
    /// The server API and metrics.
    Api,
    #[default]
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl ListenAddress {
    /// `127.0.0.1:8000`, `localhost:8000`, `[::]:8000` or `unix:/run/trunkline/client.sock`.
    ///
    /// # Errors
    /// How it is written rightly.
    pub fn parse(text: &str) -> Result<ListenAddress, &'static str> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            // A comma stands between two addresses in the environment.
            let whole = path.len() > 1 && path.starts_with('/') && !path.ends_with('/');
            return match whole && path.len() <= UNIX_PATH_BYTES_MAX && !path.contains(['\0', ',']) {
                true => Ok(ListenAddress::Unix(Path::new(path).into())),
                false => {
                    Err("the path of a unix socket: from the root, at most 107 bytes, without a comma, \
                              like \"unix:/run/trunkline/client.sock\"")
                }
            };
        }
        let address = match text.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            None => text.parse().ok(),
        };
        address.map(ListenAddress::Tcp).ok_or(
            "an address and port or a unix socket: write it like \"127.0.0.1:8000\", \"[::]:8000\" or \
             \"unix:/run/trunkline/client.sock\"",
        )
    }

    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        }
    }

    /// Only programs of this machine reach it.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().is_loopback())
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> ListenAddress {
        ListenAddress::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["127.0.0.1:8000", "[::]:0", "unix:/run/a.sock"] {
            assert_eq!(ListenAddress::parse(text).map(|address| address.to_string()), Ok(text.to_string()));
        }
        assert_eq!(ListenAddress::parse("localhost:1"), ListenAddress::parse("127.0.0.1:1"));
        let longest = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX - 1));
        assert!(ListenAddress::parse(&longest).is_ok());
        let longer = format!("{longest}x");
        for wrong in
            ["", "8000", "host:1", "unix:", "unix:/", "unix:a", "unix:/a/", "unix:/a,b", "unix:/\0", &longer]
        {
            assert!(ListenAddress::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn unix_sockets_and_loopback_are_local() {
        let local = |text: &str| ListenAddress::parse(text).unwrap().is_local();
        assert!(local("unix:/a") && local("127.0.0.2:1") && local("[::1]:1"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("10.0.0.1:1"));
    }
}
