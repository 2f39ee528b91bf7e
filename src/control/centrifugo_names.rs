//! What `/metrics` shows under Centrifugo's names, for dashboards and alerts that have them: only what is counted here in the
//! same sense.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::shard::control_request::ShardStats;

/// Theirs without the prefix, the help, and ours.
const COUNTERS: [(&str, &str, &str); 4] = [
    ("client_connections_accepted", "Clients that connected", "clients_connected_total"),
    ("client_subscriptions_accepted", "Subscriptions made", "subscriptions_total"),
    ("transport_messages_received_size", "Bytes received", "received_bytes_total"),
    ("transport_messages_sent_size", "Bytes sent", "sent_bytes_total"),
];

/// One scrape's statistics.
#[derive(Debug)]
pub struct CentrifugoNames {
    gauges: [(&'static str, &'static str, u64); 5],
    counters: [(&'static str, &'static str, u64); COUNTERS.len()],
    recovered: [u64; 2],
}

impl CentrifugoNames {
    pub fn new(shards: &[ShardStats]) -> CentrifugoNames {
        let sum = |of: fn(&ShardStats) -> u64| shards.iter().map(of).sum::<u64>();
        let counter = |ours: &str| {
            let all = shards.iter().flat_map(|shard| &shard.counters);
            all.filter(|(name, ..)| *name == ours).map(|(.., value)| value).sum::<u64>()
        };
        CentrifugoNames {
            gauges: [
                ("node_num_nodes", "Nodes", 1),
                ("node_num_clients", "Connected clients", sum(|shard| shard.clients)),
                ("node_num_users", "Distinct users with a connected client", sum(|shard| shard.users)),
                ("node_num_subscriptions", "Subscriptions", sum(|shard| shard.subscriptions)),
                ("node_num_channels", "Channels", sum(|shard| shard.channels)),
            ],
            counters: COUNTERS.map(|(theirs, help, ours)| (theirs, help, counter(ours))),
            recovered: [counter("recoveries_total"), counter("recoveries_lost_total")],
        }
    }
}

impl Collector for CentrifugoNames {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in self.gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in self.counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let zero = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "client_recover",
            "Recoveries, by outcome",
            None,
            zero.metric_type(),
        )?;
        for (recovered, value) in ["yes", "no"].into_iter().zip(self.recovered) {
            let labels = [("recovered", recovered)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hooks::Hooks;
    use crate::control::metrics::Metrics;

    #[test]
    fn their_names_stand_beside_ours() {
        let shard = |clients| ShardStats {
            clients,
            counters: vec![("recoveries_total", "Recoveries", 2), ("sent_bytes_total", "Bytes", 9)],
            ..ShardStats::default()
        };
        let metrics = || Metrics::new(&Hooks::new(&[]).unwrap());
        let text = metrics().with_names_of_centrifugo().scrape(vec![shard(3), shard(4)]).unwrap();
        for line in [
            "centrifugo_node_num_clients 7",
            "centrifugo_transport_messages_sent_size_total 18",
            "centrifugo_client_recover_total{recovered=\"yes\"} 4",
            "centrifugo_client_recover_total{recovered=\"no\"} 0",
            "trunkline_clients_active 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!metrics().scrape(Vec::new()).unwrap().contains("centrifugo_"));
    }
}
