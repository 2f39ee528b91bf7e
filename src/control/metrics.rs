//! `/metrics`: what shards counted in plain integers, summed when somebody asks, and what the control plane counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::base::histogram::Histogram;
use crate::control::centrifugo_names::CentrifugoNames;
use crate::control::hooks::Hooks;
use crate::control::process;
use crate::shard::control_request::ShardStats;
use crate::shard::control_request::seen::{STAGES, Stage};

/// Media type of what [`Metrics::scrape`] writes.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of what [`classic`] makes of it.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

const PREFIX: &str = "trunkline";

/// What the control plane counts itself.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    api_requests: Family<ApiCall, Counter>,
    jwks_fetches: JwksFetches,
    tunnel_questions: TunnelCounts,
    /// The names of Centrifugo are shown as well.
    of_centrifugo: bool,
}

/// Fetches of published token keys, by outcome.
#[derive(Clone, Debug, Default)]
pub struct JwksFetches(Family<ApiOutcome, Counter>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiOutcome {
    outcome: &'static str,
}

impl JwksFetches {
    pub fn count(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.0.get_or_create(&ApiOutcome { outcome }).inc();
    }
}

/// What the backends of tunnels were asked, by outcome. Cloning is cheap: the counters are shared.
#[derive(Clone, Debug, Default)]
pub struct TunnelCounts(Family<TunnelAsked, Counter>);

/// Both from closed lists.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TunnelAsked {
    kind: &'static str,
    outcome: &'static str,
}

impl TunnelCounts {
    pub fn count(&self, kind: &'static str, outcome: &'static str) {
        self.0.get_or_create(&TunnelAsked { kind, outcome }).inc();
    }
}

/// Both from closed lists: a caller cannot make new series.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiCall {
    method: &'static str,
    /// The error's code; 0 for success, 503 when a shard was busy.
    code: u16,
}

impl Metrics {
    pub fn new(hooks: &Hooks) -> Metrics {
        let api_requests = Family::default();
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("api_requests", "Commands of the server API, by outcome", api_requests.clone());
        let jwks_fetches = JwksFetches::default();
        let help = "Fetches of the keys that token issuers publish, by outcome";
        registry.register("jwks_fetches", help, jwks_fetches.0.clone());
        hooks.register_metrics(&mut registry);
        let tunnel_questions = TunnelCounts::default();
        let help = "Requests to the backends of tunnels, by outcome";
        registry.register("tunnel_questions", help, tunnel_questions.0.clone());
        Metrics { registry, api_requests, jwks_fetches, tunnel_questions, of_centrifugo: false }
    }

    /// Shows the names of Centrifugo as well.
    pub fn with_names_of_centrifugo(self) -> Metrics {
        Metrics { of_centrifugo: true, ..self }
    }

    /// For the scraper.
    pub fn jwks_fetches(&self) -> JwksFetches {
        self.jwks_fetches.clone()
    }

    /// Shows what `collector` counts as well.
    pub fn add(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    pub fn count_api(&self, method: &'static str, code: u16) {
        self.api_requests.get_or_create(&ApiCall { method, code }).inc();
    }

    pub fn tunnel_counts(&self) -> TunnelCounts {
        self.tunnel_questions.clone()
    }

    /// The OpenMetrics text of `shards` and of the control plane.
    ///
    /// # Errors
    /// None in practice: writing to a `String` does not fail.
    pub fn scrape(&self, shards: Vec<ShardStats>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        if self.of_centrifugo {
            let mut theirs = Registry::with_prefix("centrifugo");
            theirs.register_collector(Box::new(CentrifugoNames::new(&shards)));
            encode_registry(&mut text, &theirs)?;
        }
        let mut sums = Registry::with_prefix(PREFIX);
        sums.register_collector(Box::new(Sums(shards)));
        encode_registry(&mut text, &sums)?;
        encode_registry(&mut text, &self.registry)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// What others of the process count.
#[derive(Debug)]
pub struct SharedCollector(pub Arc<dyn Collector>);

impl Collector for SharedCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

/// One scrape's statistics.
#[derive(Debug)]
struct Sums(Vec<ShardStats>);

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // What stands now is called `_active`: OpenMetrics allows one type for a name, and shards count the events of the
        // same nouns ("subscriptions_total").
        let sum = |of: fn(&ShardStats) -> u64| self.0.iter().map(of).sum::<u64>();
        let mut gauges = vec![
            ("shards", "Threads that hold connections", self.0.len() as u64),
            ("connections_active", "Open connections of any kind", sum(|shard| shard.connections)),
            ("clients_active", "Connected clients", sum(|shard| shard.clients)),
            ("users_active", "Distinct users with a connected client", sum(|shard| shard.users)),
            ("channels_active", "Channels with a subscriber or history", sum(|shard| shard.channels)),
            ("subscriptions_active", "Subscriptions of connected clients", sum(|shard| shard.subscriptions)),
            (
                "client_buffers_bytes",
                "What clients make the node keep, the kernel's part estimated",
                sum(|shard| shard.client_buffers_bytes),
            ),
            ("host_tcp_bytes", "Memory of the kernel for TCP, of the whole host", process::host_tcp_bytes()),
            ("process_resident_memory_bytes", "Resident memory of the process", process::rss_bytes()),
        ];
        for (name, help, value) in self.0.iter().flat_map(|shard| &shard.sums) {
            match gauges.iter_mut().find(|(known, ..)| known == name) {
                // Of another shard.
                Some((.., sum)) => *sum += value,
                None => gauges.push((name, help, *value)),
            }
        }
        for &(name, help, value) in &gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let help = "The part of its time that a shard does not wait in, of the last tenths of a second";
        let any = ConstGauge::new(0_i64);
        let mut family = encoder.encode_descriptor("shard_busy_percent", help, None, any.metric_type())?;
        for shard in &self.0 {
            let labels = [("shard", shard.shard.0)];
            ConstGauge::new(i64::from(shard.busy_percent)).encode(family.encode_family(&labels)?)?;
        }
        self.encode_gauges(&mut encoder)?;
        self.encode_times(&mut encoder)?;
        let cpu = ConstCounter::new(process::cpu_seconds());
        let help = "Processor time of the process, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;

        let dropped = ConstCounter::new(crate::telemetry::lines_dropped_total());
        let help = "Log lines dropped because stderr was not read";
        let metric = encoder.encode_descriptor("log_lines_dropped", help, None, dropped.metric_type())?;
        dropped.encode(metric)?;

        let mut counters: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
        for shard in &self.0 {
            for (name, help, value) in &shard.counters {
                // The encoder writes the suffix itself.
                let name = name.strip_suffix("_total").unwrap_or(name);
                counters.entry(name).or_insert((help, 0)).1 += value;
            }
            for (cause, value) in &shard.faults {
                *faults.entry(cause).or_default() += value;
            }
        }
        for (name, (help, value)) in counters {
            debug_assert!(gauges.iter().all(|gauge| gauge.0 != name), "two types of {name}");
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let help = "What was refused, closed or dropped, by cause";
        let zero = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor("faults", help, None, zero.metric_type())?;
        for (cause, value) in faults {
            let labels = [("cause", cause)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Sums {
    /// What waits at each stage, by shard.
    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(first) = self.0.first() else { return Ok(()) };
        for (at, (name, help, _)) in first.gauges.iter().enumerate() {
            let any = ConstGauge::new(0_i64);
            let mut family = encoder.encode_descriptor(name, help, None, any.metric_type())?;
            for shard in &self.0 {
                let value = shard.gauges.get(at).map_or(0, |(_, _, value)| *value);
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("shard", shard.shard.0)])?)?;
            }
        }
        Ok(())
    }

    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help =
            "From the request for a publication to each stage, by namespace; of writes once for each shard";
        let mut family =
            encoder.encode_descriptor("stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (namespace, stages) in sum_of_stages(&self.0) {
            for (stage, times) in Stage::ALL.iter().zip(&stages) {
                let labels = [("stage", stage.name()), ("namespace", namespace)];
                encode_histogram(family.encode_family(&labels)?, times)?;
            }
        }
        let help = "How long clients took to answer pings";
        let mut pings = Histogram::default();
        self.0.iter().for_each(|shard| pings.add(&shard.pings));
        let seconds = Some(&Unit::Seconds);
        encode_histogram(
            encoder.encode_descriptor("ping_round_trip", help, seconds, MetricType::Histogram)?,
            &pings,
        )?;
        type Times = (&'static str, &'static str, fn(&ShardStats) -> &Histogram);
        const BY_SHARD: [Times; 3] = [
            (
                "shard_turn",
                "How long turns of a shard's loop took: what everything else waits for",
                |shard| &shard.turns,
            ),
            ("hook_call", "From hook calls of a shard's clients to their answers", |shard| &shard.hook_calls),
            (
                "lag",
                "How long connections whose sockets took no more lagged, until they had caught up or were closed",
                |shard| &shard.lags,
            ),
        ];
        for (name, help, of) in BY_SHARD {
            let mut family = encoder.encode_descriptor(name, help, seconds, MetricType::Histogram)?;
            for shard in &self.0 {
                encode_histogram(family.encode_family(&[("shard", shard.shard.0)])?, of(shard))?;
            }
        }
        Ok(())
    }
}

/// The times of all shards, by namespace.
pub fn sum_of_stages(shards: &[ShardStats]) -> BTreeMap<&str, [Histogram; STAGES]> {
    let mut sums: BTreeMap<&str, [Histogram; STAGES]> = BTreeMap::new();
    for times in shards.iter().flat_map(|shard| &shard.stages) {
        let sum = sums.entry(&times.namespace).or_default();
        sum.iter_mut().zip(&times.stages).for_each(|(sum, more)| sum.add(more));
    }
    sums
}

pub fn encode_histogram(mut metric: MetricEncoder<'_>, times: &Histogram) -> Result<(), fmt::Error> {
    let buckets: Vec<(f64, u64)> = times.buckets().collect();
    metric.encode_histogram::<NoLabelSet>(times.sum_s(), times.total(), &buckets, None)
}

/// OpenMetrics in the older text format: a counter is described under the name of its samples, and there are no units.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => continue,
            ["#", "HELP", name, help] if lines.peek().is_some_and(|next| is_counter(next, name)) => {
                text.push_str(&format!("# HELP {name}_total {help}"));
            }
            ["#", "TYPE", name, "counter"] => text.push_str(&format!("# TYPE {name}_total counter")),
            ["#", "TYPE", name, "unknown"] => text.push_str(&format!("# TYPE {name} untyped")),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn is_counter(line: &str, name: &str) -> bool {
    line.strip_prefix("# TYPE ").and_then(|line| line.strip_prefix(name)) == Some(" counter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::shard::control_request::seen;

    #[test]
    fn shards_are_summed_and_faults_are_one_family() {
        let shard = |connections, sent, slow| ShardStats {
            connections,
            counters: vec![("subscriptions_total", "Subscriptions made", sent), ("ticks", "Ticks", 1)],
            faults: vec![("slow", slow)],
            shard: ShardId(connections as u16),
            busy_percent: connections as u32 * 10,
            ..ShardStats::default()
        };
        let metrics = Metrics::new(&Hooks::new(&[]).unwrap());
        metrics.count_api("publish", 0);
        metrics.count_api("publish", 102);
        let text = metrics.scrape(vec![shard(3, 10, 1), shard(4, 20, 2)]).unwrap();
        for line in [
            "trunkline_shards 2",
            "trunkline_connections_active 7",
            "# TYPE trunkline_subscriptions counter",
            "trunkline_subscriptions_total 30",
            "trunkline_ticks_total 2",
            "trunkline_faults_total{cause=\"slow\"} 3",
            "trunkline_shard_busy_percent{shard=\"3\"} 30",
            "trunkline_shard_busy_percent{shard=\"4\"} 40",
            "trunkline_api_requests_total{method=\"publish\",code=\"102\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("trunkline_process_cpu_seconds_total "), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        let mut types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        types.iter_mut().for_each(|line| *line = line.split(' ').next().unwrap());
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count, "a name has one type");
    }

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let shard = ShardStats {
            counters: vec![("ticks_total", "Turns of the loop", 7)],
            gauges: vec![("inbox_messages", "Messages that wait", 3)],
            ..ShardStats::default()
        };
        let metrics = Metrics::new(&Hooks::new(&[]).unwrap());
        let text = classic(&metrics.scrape(vec![shard]).unwrap());
        for part in [
            "# HELP trunkline_ticks_total Turns of the loop\n# TYPE trunkline_ticks_total counter\ntrunkline_ticks_total 7\n",
            "# TYPE trunkline_inbox_messages gauge\ntrunkline_inbox_messages{shard=\"0\"} 3\n",
            "# TYPE trunkline_ping_round_trip_seconds histogram\n",
            "trunkline_ping_round_trip_seconds_bucket{le=\"+Inf\"} 0\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(
            !text.contains("# EOF")
                && !text.contains("# UNIT")
                && !text.contains("# TYPE trunkline_ticks counter")
        );
    }

    #[test]
    fn times_of_shards_are_summed_by_namespace() {
        let shard = |ms: u64| {
            let mut times: [Histogram; STAGES] = Default::default();
            times[Stage::LastWrite as usize].record(std::time::Duration::from_millis(ms));
            let stages = vec![seen::StageTimes { namespace: "chat".into(), stages: times }];
            ShardStats { stages, ..ShardStats::default() }
        };
        let metrics = Metrics::new(&Hooks::new(&[]).unwrap());
        let text = metrics.scrape(vec![shard(3), shard(700)]).unwrap();
        for line in [
            "trunkline_stage_seconds_count{stage=\"last_write\",namespace=\"chat\"} 2",
            "trunkline_stage_seconds_bucket{le=\"0.005\",stage=\"last_write\",namespace=\"chat\"} 1",
            "trunkline_stage_seconds_bucket{le=\"+Inf\",stage=\"last_write\",namespace=\"chat\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
