//! Networks whose word about a client's address is taken.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// What stands for every unix socket where networks are written.
const UNIX: &str = "unix:";

/// The header field by which proxies say whom a request is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressField {
    #[default]
    XForwardedFor,
    Forwarded,
}

impl AddressField {
    pub fn name(self) -> &'static str {
        match self {
            AddressField::XForwardedFor => "x-forwarded-for",
            AddressField::Forwarded => "forwarded",
        }
    }
}

/// One entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    Network(IpNet),
    /// Programs that come by a unix socket: the permissions of its file say which.
    Unix,
}

impl Trusted {
    /// `10.0.0.0/8`, `2001:db8::/32`, one address, or `unix:`.
    pub fn parse(text: &str) -> Option<Trusted> {
        if text == UNIX {
            return Some(Trusted::Unix);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
        // As it is compared: an address of IPv4 is one, however it came in.
        let canonical = match network {
            IpNet::V6(six) if six.prefix_len() >= 96 => match six.addr().to_canonical() {
                four @ IpAddr::V4(_) => IpNet::new(four, six.prefix_len() - 96).ok()?,
                IpAddr::V6(_) => network,
            },
            _ => network,
        };
        Some(Trusted::Network(canonical.trunc()))
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trusted::Network(network) => network.fmt(f),
            Trusted::Unix => f.write_str(UNIX),
        }
    }
}

/// All of them. The default trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedNetworks {
    networks: Box<[IpNet]>,
    unix: bool,
    field: AddressField,
}

impl TrustedNetworks {
    pub fn new(all: &[Trusted], field: AddressField) -> TrustedNetworks {
        let network = |trusted: &Trusted| match trusted {
            Trusted::Network(network) => Some(*network),
            Trusted::Unix => None,
        };
        TrustedNetworks {
            networks: all.iter().filter_map(network).collect(),
            unix: all.contains(&Trusted::Unix),
            field,
        }
    }

    /// The field in which they say it.
    pub fn field(&self) -> AddressField {
        self.field
    }

    /// Nobody comes by TCP who is trusted.
    pub fn has_no_network(&self) -> bool {
        self.networks.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether a peer of this address may speak for others.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The same of one that came by a unix socket.
    pub fn trusts_unix(&self) -> bool {
        self.unix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(all: &[&str]) -> TrustedNetworks {
        let all: Vec<Trusted> = all.iter().map(|text| Trusted::parse(text).unwrap()).collect();
        TrustedNetworks::new(&all, AddressField::default())
    }

    #[test]
    fn networks_and_single_addresses_are_trusted_and_nobody_else() {
        let trusted = networks(&["10.1.2.3/8", "2001:db8::/32", "192.0.2.7", "::ffff:198.51.100.0/120"]);
        let trusts = |text: &str| trusted.trusts(text.parse().unwrap());
        for text in ["10.255.0.1", "2001:db8:ffff::1", "192.0.2.7", "::ffff:10.0.0.1", "198.51.100.9"] {
            assert!(trusts(text), "{text}");
        }
        for text in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1", "198.51.101.0", "::ffff:11.0.0.1"] {
            assert!(!trusts(text), "{text}");
        }
        assert!(!trusted.trusts_unix() && networks(&["unix:"]).trusts_unix());
        assert!(networks(&[]).is_empty() && !networks(&["unix:"]).is_empty() && !trusted.is_empty());
        assert!(!TrustedNetworks::default().trusts("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_none() {
        for text in
            ["", "10.0.0.0/33", "10.0.0", "example.com", "unix", "unix:/run/a.sock", "10.0.0.1/8/8", "*"]
        {
            assert_eq!(Trusted::parse(text), None, "{text}");
        }
        for (text, written) in [("10.1.2.3/8", "10.0.0.0/8"), ("::1", "::1/128"), ("unix:", "unix:")] {
            assert_eq!(Trusted::parse(text).unwrap().to_string(), written);
        }
    }
}
