//! How much of a client's address is shown where people read: in the log, in metrics, in what the API lists. The backend
//! gets it whole.

use std::net::IpAddr;

use crate::base::networks::Network;

/// Bits that are left with [`AddressMask::Network`]: a neighbourhood of 256 addresses of IPv4, and what a provider gives one
/// site of IPv6. What is usual where addresses are counted as personal data.
const PREFIX_IPV4: u8 = 24;
const PREFIX_IPV6: u8 = 48;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressMask {
    /// Addresses are shown whole.
    #[default]
    None,
    /// Only the network is.
    Network,
    /// Nothing is.
    All,
}

impl AddressMask {
    pub fn address(self, address: IpAddr) -> Option<String> {
        match self {
            AddressMask::None => Some(address.to_canonical().to_string()),
            AddressMask::Network => Some(Network::new(address, PREFIX_IPV4, PREFIX_IPV6).to_string()),
            AddressMask::All => None,
        }
    }

    pub fn network(self, network: Network) -> Option<Network> {
        match self {
            AddressMask::None => Some(network),
            AddressMask::Network => Some(network.widened(PREFIX_IPV4, PREFIX_IPV6)),
            AddressMask::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_far_as_it_may() {
        for (address, whole, network) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::1", "::/48"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(AddressMask::None.address(address).as_deref(), Some(whole));
            assert_eq!(AddressMask::Network.address(address).as_deref(), Some(network));
            assert_eq!(AddressMask::All.address(address), None);
        }
    }

    #[test]
    fn a_network_is_shown_no_narrower_than_the_mask() {
        let of = |mask: AddressMask, address: &str, ipv4, ipv6| {
            let network = Network::new(address.parse().unwrap(), ipv4, ipv6);
            mask.network(network).map(|network| network.to_string())
        };
        assert_eq!(of(AddressMask::None, "192.0.2.7", 32, 64).as_deref(), Some("192.0.2.7/32"));
        assert_eq!(of(AddressMask::Network, "192.0.2.7", 32, 64).as_deref(), Some("192.0.2.0/24"));
        assert_eq!(of(AddressMask::Network, "192.0.2.7", 16, 64).as_deref(), Some("192.0.0.0/16"));
        assert_eq!(of(AddressMask::Network, "2001:db8:1:2::9", 32, 64).as_deref(), Some("2001:db8:1::/48"));
        assert_eq!(of(AddressMask::Network, "2001:db8:1:2::9", 32, 32).as_deref(), Some("2001:db8::/32"));
        assert_eq!(of(AddressMask::All, "192.0.2.7", 32, 64), None);
    }
}
