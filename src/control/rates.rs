//! What was counted lately, for `info`: counters since a snapshot that is taken again once a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::answers::MetricsBody;
use crate::shard::control_request::ShardStats;

/// How long a snapshot serves, as in the field: what callers compare is a minute's.
const INTERVAL: Duration = Duration::from_secs(60);

type RateCounters = BTreeMap<&'static str, u64>;

/// The snapshot that counters are compared with.
#[derive(Debug)]
pub struct ShardRates(Mutex<(Instant, RateCounters)>);

impl Default for ShardRates {
    /// From the start of the process on, when all are zero.
    fn default() -> ShardRates {
        ShardRates(Mutex::new((Instant::now(), RateCounters::new())))
    }
}

impl ShardRates {
    pub fn read(&self, shards: &[ShardStats]) -> MetricsBody {
        self.read_at(shards, Instant::now())
    }

    fn read_at(&self, shards: &[ShardStats], now: Instant) -> MetricsBody {
        let mut counters = RateCounters::new();
        for (name, _, value) in shards.iter().flat_map(|shard| &shard.counters) {
            *counters.entry(name).or_default() += value;
        }
        let mut snapshot = self.0.lock();
        let (since, base) = &*snapshot;
        let elapsed = now.saturating_duration_since(*since);
        let rise = |(name, value): (&&'static str, &u64)| {
            let before = base.get(name).copied().unwrap_or(0);
            (*name, value.saturating_sub(before) as f64)
        };
        let items = counters.iter().map(rise).collect();
        if elapsed >= INTERVAL {
            *snapshot = (now, counters);
        }
        MetricsBody { interval: elapsed.as_secs_f64(), items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_since_the_snapshot_of_all_shards() {
        let shard =
            |value| ShardStats { counters: vec![("ticks_total", "Ticks", value)], ..ShardStats::default() };
        let rates = ShardRates::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let items = |value| BTreeMap::from([("ticks_total", value)]);
        assert_eq!(rates.read_at(&[shard(1), shard(2)], at(10)).items, items(3.0));
        let minute = rates.read_at(&[shard(5), shard(2)], at(61));
        assert_eq!(minute.items, items(7.0));
        assert!(minute.interval > 60.0, "{}", minute.interval);
        assert_eq!(rates.read_at(&[shard(6), shard(2)], at(62)).items, items(1.0));
        assert_eq!(rates.read_at(&[shard(0)], at(63)).items, items(0.0), "a shard that did not answer");
    }
}
