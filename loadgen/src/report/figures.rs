//! The figures that servers are compared by, each beside the floor's.

use serde::Serialize;

use crate::run::{PhaseResult, RunResult};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The floor's, of the same call.
    pub floor: Option<f64>,
}

/// Everything that could be measured. Without `--pid` only times.
pub fn figures(target: &RunResult, floor: Option<&RunResult>) -> Vec<Figure> {
    let mut all = Vec::new();
    let mut of_run = |name: &str, unit: &'static str, of: &dyn Fn(&RunResult) -> Option<f64>| {
        if let Some(value) = of(target) {
            all.push(Figure { name: name.into(), value, unit, floor: floor.and_then(of) });
        }
    };
    if target.has_server {
        of_run("server's own memory a connection", "B", &RunResult::own_memory_per_connection);
        of_run("server's own memory a held connection", "B", &RunResult::held_memory_per_connection);
    }
    of_run("kernel slab a connection, both ends", "B", &RunResult::slab_per_connection);
    of_run("generator's own memory a connection", "B", &RunResult::generator_memory_per_connection);
    for (index, phase) in target.phases.iter().enumerate() {
        let beside = floor.and_then(|floor| floor.phases.get(index));
        let mut of_phase = |name: &str, unit: &'static str, of: &dyn Fn(&PhaseResult) -> Option<f64>| {
            if let Some(value) = of(phase) {
                let name = format!("{}: {name}", phase.name);
                all.push(Figure { name, value, unit, floor: beside.and_then(of) });
            }
        };
        of_phase("server cpu a connection", "us", &|phase| phase.cpu_per_connection_ns().map(|ns| ns / 1e3));
        of_phase("server cpu a delivery", "us", &|phase| phase.cpu_per_delivery_ns().map(|ns| ns / 1e3));
        of_phase("generator cpu a delivery", "us", &|phase| {
            phase.generator_cpu_per_delivery_ns().map(|ns| ns / 1e3)
        });
        of_phase("server cpu a ping", "us", &|phase| phase.cpu_per_ping_ns().map(|ns| ns / 1e3));
        of_phase("server cpu a reply", "us", &|phase| phase.cpu_per_reply_ns().map(|ns| ns / 1e3));
        of_phase("server cpu, of one", "%", &|phase| phase.cpu_share().map(|share| share * 100.0));
        let quantile = |at: f64, latencies: &crate::measure::Latencies| {
            (!latencies.is_empty()).then(|| latencies.quantile(at).as_nanos() as f64 / 1e6)
        };
        of_phase("delivery p99", "ms", &|phase| quantile(0.99, &phase.measured.deliveries));
        of_phase("last subscriber p50", "ms", &|phase| quantile(0.5, &phase.last));
        of_phase("last subscriber p99", "ms", &|phase| quantile(0.99, &phase.last));
        of_phase("reply p99", "ms", &|phase| quantile(0.99, &phase.measured.replies));
        of_phase("TLS handshake p99", "ms", &|phase| quantile(0.99, &phase.measured.tls_handshakes));
        of_phase("TLS handshakes a second", "", &|phase| {
            let made = phase.measured.counters.tls_handshakes;
            let time = phase.open_time.filter(|time| made > 0 && !time.is_zero())?;
            Some(made as f64 / time.as_secs_f64())
        });
        of_phase("storm: made a second", "", &|phase| {
            let storm = phase.storm.as_ref().filter(|_| !phase.hold.is_zero())?;
            Some(storm.measured.counters.ready as f64 / phase.hold.as_secs_f64())
        });
        of_phase("storm: connect to made p99", "ms", &|phase| {
            phase.storm.as_ref().and_then(|storm| quantile(0.99, &storm.measured.connects))
        });
        of_phase("time until all ready", "s", &|phase| phase.open_time.map(|time| time.as_secs_f64()));
    }
    all
}
