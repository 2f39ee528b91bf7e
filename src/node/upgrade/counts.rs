//! What is counted about upgrades, over all processes of the node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::record::UpgradesRecord;

/// Shared by the node and by `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct UpgradeCounts(Arc<Mutex<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    /// By [`RESULTS`].
    results: BTreeMap<String, u64>,
    moved: u64,
    closed: u64,
    /// Of the last one that succeeded.
    duration: Duration,
    silence: Duration,
}

/// How an upgrade may end: `done`, or why the old process goes on.
pub const RESULTS: [&str; 6] = ["done", "start", "refused", "timeout", "failed", "interrupted"];

impl UpgradeCounts {
    pub fn failed(&self, result: &'static str) {
        debug_assert!(RESULTS.contains(&result));
        *self.0.lock().results.entry(result.into()).or_default() += 1;
    }

    /// In the process that serves from here on.
    pub fn done(&self, moved: u64, closed: u64, duration: Duration, silence: Duration) {
        let mut numbers = self.0.lock();
        *numbers.results.entry("done".into()).or_default() += 1;
        numbers.moved += moved;
        numbers.closed += closed;
        (numbers.duration, numbers.silence) = (duration, silence);
    }

    pub fn to_record(&self) -> UpgradesRecord {
        let numbers = self.0.lock();
        UpgradesRecord {
            results: numbers.results.iter().map(|(name, count)| (name.as_str().into(), *count)).collect(),
            connections_moved: numbers.moved,
            connections_closed: numbers.closed,
        }
    }

    pub fn restore(&self, record: &UpgradesRecord) {
        let mut numbers = self.0.lock();
        numbers.results = record.results.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        numbers.moved = record.connections_moved;
        numbers.closed = record.connections_closed;
    }
}

impl Collector for UpgradeCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let numbers = self.0.lock();
        let help = "Upgrades of this node, by result";
        let zero = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor("upgrade", help, None, zero.metric_type())?;
        for result in RESULTS {
            let count = numbers.results.get(result).copied().unwrap_or(0);
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        for (name, help, value) in [
            ("upgrade_connections_moved", "Connections that went on in the next process", numbers.moved),
            ("upgrade_connections_closed", "Connections that could not move and were closed", numbers.closed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in [
            ("upgrade_duration_seconds", "How long the last upgrade took", numbers.duration),
            ("upgrade_silence_seconds", "How long clients waited in the last upgrade", numbers.silence),
        ] {
            let gauge = ConstGauge::new(value.as_secs_f64());
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_next_process_counts_on() {
        let old = UpgradeCounts::default();
        old.failed("refused");
        old.done(10, 1, Duration::from_secs(1), Duration::from_millis(50));
        let new = UpgradeCounts::default();
        new.restore(&old.to_record());
        new.done(5, 0, Duration::from_secs(2), Duration::from_millis(250));
        let mut registry = Registry::with_prefix("trunkline");
        registry.register_collector(Box::new(new));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "trunkline_upgrade_total{result=\"done\"} 2",
            "trunkline_upgrade_total{result=\"refused\"} 1",
            "trunkline_upgrade_total{result=\"timeout\"} 0",
            "trunkline_upgrade_connections_moved_total 15",
            "trunkline_upgrade_connections_closed_total 1",
            "trunkline_upgrade_silence_seconds 0.25",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
