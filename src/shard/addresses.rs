//! Where clients come from, by slot: only as far as it is known, and only where a listener asks for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Apart from the connections: 16 bytes for each slot up to the highest whose address was ever known, so nothing on a node
/// that does not ask; as many again where proxies speak for clients.
#[derive(Default)]
pub(in crate::shard) struct Addresses {
    /// Of sockets, or as a PROXY header has it.
    peers: Vec<Ipv6Addr>,
    /// As the last request of a trusted peer has it.
    claimed: Vec<Ipv6Addr>,
}

/// No client has it.
const UNKNOWN: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

impl Addresses {
    pub fn insert(&mut self, slot: u32, peer: IpAddr) {
        put(&mut self.peers, slot, Some(peer));
    }

    /// Of whom a request is that came by a trusted peer; `None`: of the peer.
    pub fn claim(&mut self, slot: u32, client: Option<IpAddr>) {
        put(&mut self.claimed, slot, client);
    }

    pub fn peer(&self, slot: u32) -> Option<IpAddr> {
        at(&self.peers, slot)
    }

    pub fn claimed(&self, slot: u32) -> Option<IpAddr> {
        at(&self.claimed, slot)
    }

    /// The client's.
    pub fn get(&self, slot: u32) -> Option<IpAddr> {
        at(&self.claimed, slot).or_else(|| self.peer(slot))
    }

    pub fn remove(&mut self, slot: u32) {
        put(&mut self.peers, slot, None);
        put(&mut self.claimed, slot, None);
    }
}

fn at(addresses: &[Ipv6Addr], slot: u32) -> Option<IpAddr> {
    let address = addresses.get(slot as usize).filter(|address| **address != UNKNOWN)?;
    Some(IpAddr::V6(*address).to_canonical())
}

fn put(addresses: &mut Vec<Ipv6Addr>, slot: u32, address: Option<IpAddr>) {
    let slot = slot as usize;
    if addresses.len() <= slot {
        if address.is_none() {
            return;
        }
        addresses.resize(slot + 1, UNKNOWN);
    }
    addresses[slot] = match address {
        None => UNKNOWN,
        Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
        Some(IpAddr::V6(address)) => address,
    };
}

/// Headers that have come in part, by slot. Bound: for each connection one of
/// [`HEADER_BYTES_MAX`](crate::proto::proxy_protocol::HEADER_BYTES_MAX) and what came behind it in its last read, from trusted networks
/// alone; each for `client.connect_timeout`.
pub(in crate::shard) type PartialHeaders = BTreeMap<u32, Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_it_was_until_its_slot_is_free() {
        let mut addresses = Addresses::default();
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        addresses.remove(3);
        assert_eq!((addresses.get(3), addresses.peers.len()), (None, 0));
        for (slot, text) in [(5, "192.0.2.7"), (2, "2001:db8::1"), (0, "::1")] {
            addresses.insert(slot, of(text));
            assert_eq!(addresses.get(slot), Some(of(text)));
        }
        assert_eq!((addresses.get(1), addresses.get(6)), (None, None));
        // As a socket for both families says it.
        addresses.insert(1, of("::ffff:192.0.2.8"));
        assert_eq!(addresses.get(1), Some(of("192.0.2.8")));
        addresses.claim(5, None);
        assert_eq!((addresses.get(5), addresses.claimed.len()), (Some(of("192.0.2.7")), 0));
        addresses.claim(5, Some(of("198.51.100.1")));
        assert_eq!((addresses.get(5), addresses.peer(5)), (Some(of("198.51.100.1")), Some(of("192.0.2.7"))));
        addresses.claim(5, None);
        assert_eq!(addresses.get(5), Some(of("192.0.2.7")), "the next request does not say it");
        addresses.claim(5, Some(of("198.51.100.1")));
        addresses.remove(5);
        assert_eq!(addresses.get(5), None);
    }
}
