//! What `/metrics` says of those that come: how many have not shown who they are, and which networks have most connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::base::address_mask::AddressMask;
use crate::base::admission::Admission;
use crate::base::blocks::{Blocks, Turned};

/// Networks that are named: series that each scraper keeps. Who fills a node is among the first.
const NETWORKS_NAMED: usize = 10;

#[derive(Debug)]
pub struct AdmissionMetrics {
    pub admission: Arc<Admission>,
    /// How networks are shown.
    pub mask: AddressMask,
}

/// Users that are blocked and tokens that are revoked.
#[derive(Debug)]
pub struct BlockMetrics(pub Arc<Blocks>);

impl Collector for BlockMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Users that are blocked and tokens that are revoked";
        let entries = ConstGauge::new(i64::try_from(self.0.len()).unwrap_or(i64::MAX));
        entries.encode(encoder.encode_descriptor("blocks", help, None, entries.metric_type())?)?;
        for (name, help, turned) in [
            ("blocked_users_refused", "Connects, subscriptions and refreshes of blocked users", Turned::User),
            ("revoked_tokens_refused", "Revoked tokens that were shown", Turned::Token),
        ] {
            let counter = ConstCounter::new(self.0.refused_total(turned));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

impl Collector for AdmissionMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let unauthenticated = u64::from(self.admission.unauthenticated());
        gauge(
            "unauthenticated_active",
            "Connections that have not shown who they are, where admission is limited",
            unauthenticated,
        )?;
        let Some(networks) = self.admission.networks() else { return Ok(()) };
        gauge("networks_active", "Networks of clients that are remembered", networks.len() as u64)?;
        let mut shown: BTreeMap<String, i64> = BTreeMap::new();
        for (network, connections) in networks.largest(NETWORKS_NAMED) {
            if let Some(network) = self.mask.network(network) {
                *shown.entry(network.to_string()).or_default() += i64::from(connections);
            }
        }
        if shown.is_empty() {
            return Ok(());
        }
        let help = "Connections of the networks with most of them, masked as address_mask says";
        let any = ConstGauge::new(0_i64);
        let mut family =
            encoder.encode_descriptor("network_connections_active", help, None, any.metric_type())?;
        for (network, connections) in shown {
            let labels = [("network", &*network)];
            ConstGauge::new(connections).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::Registry;
    use std::time::Duration;

    use super::*;
    use crate::base::admission::AdmissionLimits;
    use crate::base::networks::NetworkLimits;
    use crate::base::time::Time;

    fn lines(mask: AddressMask) -> Vec<String> {
        let network = NetworkLimits {
            prefix_ipv4: 32,
            prefix_ipv6: 64,
            connections_max: 100,
            unauthenticated_max: 0,
            connects: None,
        };
        let limits = AdmissionLimits {
            network,
            connects: None,
            unauthenticated_max: 0,
            busy_percent_max: 0,
            retry_after_max: Duration::from_secs(1),
        };
        let admission = Arc::new(Admission::new(limits, [1, 2, 3, 4]).expect("something is limited"));
        let of = |address: [u8; 4]| Some(admission.networks().expect("networks are").network(address.into()));
        for address in [[192, 0, 2, 7], [192, 0, 2, 7], [192, 0, 2, 8], [198, 51, 100, 1]] {
            admission.enter(of(address), Time::ZERO).expect("there is room");
        }
        admission.authenticate(of([198, 51, 100, 1]));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(AdmissionMetrics { admission, mask }));
        let mut text = String::new();
        encode_registry(&mut text, &registry).expect("text");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn networks_are_named_as_far_as_the_mask_says() {
        let counts = ["unauthenticated_active 3", "networks_active 3"];
        let with =
            |named: &[&str]| counts.iter().chain(named).map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            lines(AddressMask::None),
            with(&[
                "network_connections_active{network=\"192.0.2.7/32\"} 2",
                "network_connections_active{network=\"192.0.2.8/32\"} 1",
                "network_connections_active{network=\"198.51.100.1/32\"} 1",
            ])
        );
        assert_eq!(
            lines(AddressMask::Network),
            with(&[
                "network_connections_active{network=\"192.0.2.0/24\"} 3",
                "network_connections_active{network=\"198.51.100.0/24\"} 1",
            ])
        );
        assert_eq!(lines(AddressMask::All), with(&[]));
    }
}
