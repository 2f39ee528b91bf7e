//! Results as one JSON document. Times are in nanoseconds, memory in bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json as value};

use super::figures::figures;
use crate::measure::{Latencies, Measured};
use crate::run::{PhaseResult, RunResult, Second, Verdict};

/// Quantiles that are written out.
const QUANTILES: [(&str, f64); 8] = [
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99_9", 0.999),
    ("p99_99", 0.9999),
    ("p99_999", 0.99999),
    ("max", 1.0),
];

/// The target's results, the figures with their ratios, and the floor's results.
pub fn json(target: &RunResult, floor: Option<&RunResult>) -> Value {
    value!({
        "target": run(target),
        "floor": floor.map(run),
        "figures": figures(target, floor),
    })
}

fn run(result: &RunResult) -> Value {
    value!({
        "name": result.name,
        "profile": result.profile,
        "address": result.target,
        "driver": result.driver,
        "driver_reason": result.driver_reason,
        "threads": result.threads,
        "connections": result.connections,
        "channels": result.channels,
        "channels_per_connection": result.per_connection,
        "payload_bytes": result.payload_bytes,
        "machine": result.machine,
        "baseline": result.baseline,
        "verdict": match result.verdict() {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Invalid => "invalid",
            Verdict::Interrupted => "interrupted",
        },
        "interrupted": result.interrupted,
        "ended_early": result.ended_early,
        "invalid": result.invalid(),
        "shortfalls": result
            .shortfalls()
            .into_iter()
            .map(|shortfall| value!({ "phase": shortfall.phase, "what": shortfall.what }))
            .collect::<Vec<_>>(),
        "failures": failures(&result.totals().failures),
        "notes": result.notes,
        "phases": result.phases.iter().map(phase).collect::<Vec<_>>(),
        "seconds": result.seconds.iter().map(second).collect::<Vec<_>>(),
    })
}

fn phase(phase: &PhaseResult) -> Value {
    value!({
        "name": phase.name,
        "wall_ns": phase.wall.as_nanos() as u64,
        "hold_ns": phase.hold.as_nanos() as u64,
        "open_ns": phase.open_time.map(|time| time.as_nanos() as u64),
        "ready": phase.ready,
        "ready_wanted": phase.ready_wanted,
        "counters": phase.measured.counters,
        "failures": failures(&phase.measured.failures),
        "tls_suites": suites(&phase.measured),
        "storm": phase.storm.as_ref().map(|storm| value!({
            "planned": storm.planned,
            "counters": storm.measured.counters,
            "failures": failures(&storm.measured.failures),
            "tls_suites": suites(&storm.measured),
            "latencies": {
                "connect_to_made": latencies(&storm.measured.connects),
                "tls_handshake": latencies(&storm.measured.tls_handshakes),
            },
        })),
        "during": phase.during.as_ref().map(|during| value!({
            "command": during.command,
            "at_ns": during.at.as_nanos() as u64,
            "took_ns": during.took.map(|took| took.as_nanos() as u64),
            "exit_code": during.exit_code,
            "closes": during.closes,
            "longest_silence_ns": during.silence.as_nanos() as u64,
            "lost": during.lost,
            "repeated": during.repeated,
        })),
        "published": phase.published,
        "publish_planned": phase.publish_planned,
        "publications_complete": phase.complete,
        "publications_incomplete": phase.incomplete,
        "lost": phase.lost,
        "unaccounted": phase.unaccounted,
        "disorder_by_channel": phase.disorder,
        "invalid": phase.invalid,
        "server_cpu_ns": phase.cpu_ns(),
        "before": phase.before,
        "opened": phase.opened,
        "after": phase.after,
        "latencies": {
            "tls_handshake": latencies(&phase.measured.tls_handshakes),
            "connect_to_ready": latencies(&phase.measured.connects),
            "delivery": latencies(&phase.measured.deliveries),
            "last_subscriber": latencies(&phase.last),
            "publish_to_answer": latencies(&phase.answers),
            "request_to_reply": latencies(&phase.measured.replies),
            "own_arrived_to_read": latencies(&phase.measured.own_lag),
            "own_late_wakes": latencies(&phase.measured.beat_lag),
            "own_late_publications": latencies(&phase.publisher_lag),
        },
    })
}

fn second(second: &Second) -> Value {
    value!({
        "at_ns": second.at.as_nanos() as u64,
        "ready": second.ready,
        "failed": second.failed,
        "deliveries": second.deliveries,
        "replies": second.replies,
        "p50_ns": second.p50.as_nanos() as u64,
        "p99_ns": second.p99.as_nanos() as u64,
        "max_ns": second.max.as_nanos() as u64,
        "sample": second.sample,
    })
}

fn suites(measured: &Measured) -> BTreeMap<String, u64> {
    measured.tls_suites.iter().map(|(suite, count)| (suite.to_string(), *count)).collect()
}

fn failures(failures: &BTreeMap<crate::measure::Cause, u64>) -> BTreeMap<String, u64> {
    failures.iter().map(|(cause, count)| (cause.to_string(), *count)).collect()
}

fn latencies(latencies: &Latencies) -> Value {
    if latencies.is_empty() {
        return Value::Null;
    }
    let mut object = serde_json::Map::new();
    object.insert("count".into(), latencies.0.len().into());
    object.insert("mean".into(), latencies.0.mean().into());
    for (name, quantile) in QUANTILES {
        object.insert(name.into(), latencies.0.value_at_quantile(quantile).into());
    }
    Value::Object(object)
}
