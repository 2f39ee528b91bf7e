//! Where clients come from, by slot: only as far as it is known, and only where a listener asks for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Apart from the connections: 16 bytes for each slot up to the highest whose address was ever known, so nothing on a node
/// that does not ask.
#[derive(Default)]
pub(in crate::shard) struct Addresses(Vec<Ipv6Addr>);

/// No client has it.
const UNKNOWN: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

impl Addresses {
    pub fn insert(&mut self, slot: u32, address: IpAddr) {
        let slot = slot as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, UNKNOWN);
        }
        self.0[slot] = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
    }

    pub fn get(&self, slot: u32) -> Option<IpAddr> {
        let address = self.0.get(slot as usize).filter(|address| **address != UNKNOWN)?;
        Some(IpAddr::V6(*address).to_canonical())
    }

    pub fn remove(&mut self, slot: u32) {
        if let Some(address) = self.0.get_mut(slot as usize) {
            *address = UNKNOWN;
        }
    }
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
        assert_eq!((addresses.get(3), addresses.0.len()), (None, 0));
        for (slot, text) in [(5, "192.0.2.7"), (2, "2001:db8::1"), (0, "::1")] {
            addresses.insert(slot, of(text));
            assert_eq!(addresses.get(slot), Some(of(text)));
        }
        assert_eq!((addresses.get(1), addresses.get(6)), (None, None));
        // As a socket for both families says it.
        addresses.insert(1, of("::ffff:192.0.2.8"));
        assert_eq!(addresses.get(1), Some(of("192.0.2.8")));
        addresses.remove(5);
        assert_eq!(addresses.get(5), None);
    }
}
