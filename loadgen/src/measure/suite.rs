//! What TLS handshakes came to.

use std::fmt;

use rustls::{CipherSuite, ProtocolVersion};
use trunkline::base::time::Time;

/// A version and a suite, as their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suite {
    pub version: u16,
    pub suite: u16,
}

/// What a handshake came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// When it began.
    pub since: Time,
    /// By a ticket of an earlier connection.
    pub resumed: bool,
    pub suite: Suite,
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, suite) = (ProtocolVersion::from(self.version), CipherSuite::from(self.suite));
        write!(f, "{} {suite:?}", format!("{version:?}").replace('_', ".").replace("TLSv", "TLS "))
    }
}
