//! Tunnels without a link: what their clients have said still goes to the backend, then it hears of their end.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::base::ids::ConnId;
use crate::session::tunnel::Tunnel;

/// Connections that have gone while the backend had a message of theirs.
#[derive(Default)]
pub(in crate::shard) struct Draining {
    pub connections: BTreeMap<ConnId, Drained>,
    pub bytes: usize,
}

pub(in crate::shard) struct Drained {
    pub tunnel: Box<Tunnel>,
    /// Its client's, as long as it was there.
    pub address: Option<IpAddr>,
    pub code: u16,
    pub reason: Box<str>,
}

impl Draining {
    /// Each with the close that its backend is going to be told.
    pub fn each(&self) -> impl Iterator<Item = (ConnId, &Tunnel, u16, &str)> {
        let connections = self.connections.iter();
        connections.map(|(conn, Drained { tunnel, code, reason, .. })| (*conn, &**tunnel, *code, &**reason))
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}
