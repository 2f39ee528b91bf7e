//! Making a client's socket: source addresses and descriptor limits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{NetOptions, sys};

/// Connections from one source address. The kernel gives clients ports of one parity first, 14,116 of the default
/// range; beyond them each connect searches, and near 28,232 it fails.
const CONNECTIONS_PER_SOURCE: u32 = 14_000;

/// Where connections come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// The kernel chooses.
    Any,
    /// 127.x.y.z, a new one for every 14,000 connections.
    Loopback,
    /// These in turns.
    List(Vec<IpAddr>),
}

impl Sources {
    /// What a run of `connections` to `target` uses when nothing is said.
    pub fn default_for(target: SocketAddr, connections: u32) -> Sources {
        let loopback = matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback());
        if loopback && connections > CONNECTIONS_PER_SOURCE { Sources::Loopback } else { Sources::Any }
    }

    /// The address of connection `number`, counted over all threads.
    pub fn of(&self, number: u32) -> Option<SocketAddr> {
        match self {
            Sources::Any => None,
            Sources::Loopback => {
                let block = number / CONNECTIONS_PER_SOURCE;
                // 127.0.1.1 up to 127.255.254.254: sixteen million blocks, more than connections can be numbered.
                let [_, b, c, d] = (block % 0xff_0000 + 0x0101).to_be_bytes();
                Some(SocketAddr::from((Ipv4Addr::new(127, b, c, d), 0)))
            }
            Sources::List(list) => {
                let index = number as usize % list.len().max(1);
                list.get(index).map(|&ip| SocketAddr::from((ip, 0)))
            }
        }
    }

    /// How many connections fit by ports alone, for a warning.
    pub fn connections_max(&self) -> u64 {
        const PORTS: u64 = 28_232;
        match self {
            Sources::Any => PORTS,
            Sources::Loopback => u64::MAX,
            Sources::List(list) => list.len() as u64 * PORTS,
        }
    }
}

/// A socket ready to connect, in blocking mode: io_uring waits by itself, and would refuse to for a non-blocking one.
pub(super) fn socket(
    options: &NetOptions,
    target: SocketAddr,
    source: Option<SocketAddr>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    // A request must not wait for the acknowledgement of the one before it.
    socket.set_tcp_nodelay(true)?;
    if options.receive_bytes > 0 {
        socket.set_recv_buffer_size(options.receive_bytes as usize)?;
    }
    if let Some(source) = source {
        // The port is chosen at connect, when the target is known: ports may then be shared between targets.
        sys::bind_address_no_port(socket.as_fd())?;
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

/// Raises the soft limit on descriptors to the hard one, and returns it with the one before.
pub fn raise_descriptor_limit() -> (u32, u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let as_u32 = |limit: Option<u64>| limit.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
    let limit = getrlimit(Resource::Nofile);
    let before = as_u32(limit.current);
    if limit.current != limit.maximum {
        // Refused: then the soft limit holds, and the table of a ring is sized by what is read back.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    (as_u32(getrlimit(Resource::Nofile).current), before)
}

/// The soft limit on descriptors. It also bounds a ring's table of direct descriptors.
pub(super) fn descriptors_max() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_sources_change_before_ports_run_out() {
        let sources = Sources::default_for("127.0.0.1:1".parse().unwrap(), 1_000_000);
        assert_eq!(sources, Sources::Loopback);
        assert_eq!(sources.of(0), Some("127.0.1.1:0".parse().unwrap()));
        assert_eq!(sources.of(13_999), sources.of(0));
        assert_eq!(sources.of(14_000), Some("127.0.1.2:0".parse().unwrap()));
        assert_eq!(sources.of(14_000 * 255), Some("127.0.2.0:0".parse().unwrap()));
        assert!(
            (0..u32::MAX)
                .step_by(999_983)
                .all(|n| { matches!(sources.of(n), Some(SocketAddr::V4(v4)) if v4.ip().is_loopback()) })
        );
        assert_eq!(Sources::default_for("127.0.0.1:1".parse().unwrap(), 100), Sources::Any);
        assert_eq!(Sources::default_for("10.0.0.1:1".parse().unwrap(), 1_000_000), Sources::Any);
        let list = Sources::List(vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]);
        assert_eq!(list.of(3), Some("10.0.0.2:0".parse().unwrap()));
    }
}
