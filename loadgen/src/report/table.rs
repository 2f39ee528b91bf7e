//! Results as text for people.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::figures::{Figure, figures};
use crate::measure::{Latencies, Measured};
use crate::run::{PhaseResult, RunResult, Verdict};

/// Channels named in a table of disorder.
const CHANNELS_SHOWN: usize = 10;

/// Everything of one call: the target, and the floor beside it if it was run.
pub fn text(target: &RunResult, floor: Option<&RunResult>) -> String {
    let mut out = String::new();
    let machine = &target.machine;
    let _ = writeln!(
        out,
        "{} ({}) at {}: {} connections, {} channels, {} a connection, {} bytes",
        target.name,
        target.profile,
        target.target,
        target.connections,
        target.channels,
        target.per_connection,
        target.payload_bytes
    );
    let _ = writeln!(
        out,
        "host: {}, {} cpus, {:.1} GiB, Linux {}; generator: {} threads on {}, {}",
        machine.cpu_model,
        machine.cpus,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        target.threads,
        target.driver,
        target.driver_reason
    );
    for phase in &target.phases {
        phase_text(&mut out, phase);
    }
    figures_text(&mut out, target, floor);
    disorder_text(&mut out, target);
    failures_text(&mut out, target);
    for note in &target.notes {
        let _ = writeln!(out, "note: {note}");
    }
    verdict_text(&mut out, target);
    if let Some(floor) = floor
        && floor.verdict() != Verdict::Passed
    {
        let _ = write!(out, "the floor's run: ");
        verdict_text(&mut out, floor);
    }
    out
}

fn phase_text(out: &mut String, phase: &PhaseResult) {
    let counters = &phase.measured.counters;
    let _ = write!(out, "\n{} ({:.1?})", phase.name, phase.wall);
    if let Some(open_time) = phase.open_time {
        let _ = write!(
            out,
            ": {} of {} ready after {:.3} s, {:.0} a second",
            phase.ready,
            phase.ready_wanted,
            open_time.as_secs_f64(),
            counters.ready as f64 / open_time.as_secs_f64()
        );
    }
    let _ = writeln!(out);
    if phase.published > 0 {
        let _ = writeln!(
            out,
            "  {} of {:.0} planned publications acknowledged, {} deliveries{}, {} to all, {} not",
            phase.published,
            phase.publish_planned,
            counters.deliveries + counters.deliveries_stalled,
            match phase.deliveries_per_second() {
                rate if rate > 0.0 => format!(" ({rate:.0} a second)"),
                _ => String::new(),
            },
            phase.complete,
            phase.incomplete
        );
        if counters.deliveries_stalled > 0 {
            let _ = writeln!(
                out,
                "  of these {} at connections that had stopped reading, which enter no histogram; {} of them were \
                 closed by the server",
                counters.deliveries_stalled, counters.failed_stalled
            );
        }
        if phase.unaccounted > 0 {
            let _ = writeln!(
                out,
                "  {} deliveries not summed by publication: there were too many",
                phase.unaccounted
            );
        }
    }
    if counters.compressed_messages > 0 {
        let _ = writeln!(out, "  {} messages came compressed", counters.compressed_messages);
    }
    if counters.pings > 0 {
        let _ = writeln!(out, "  {} pings answered", counters.pings);
    }
    if counters.cut > 0 {
        let _ = writeln!(
            out,
            "  {} cut, {} came back; {} subscriptions recovered, {} not",
            counters.cut, counters.ready, counters.recovered, counters.unrecovered
        );
    }
    tls_text(out, "", &phase.measured);
    if let Some(storm) = &phase.storm {
        let counters = &storm.measured.counters;
        let _ = writeln!(
            out,
            "  storm: {} of {:.0} planned connections begun, {} made, {} failed",
            counters.started, storm.planned, counters.ready, counters.failed
        );
        tls_text(out, "storm: ", &storm.measured);
    }
    if let Some(during) = &phase.during {
        let _ = writeln!(
            out,
            "  during {:?} ({}): {} closes, longest silence {:.1?}, {} lost, {} repeated",
            during.command,
            during.took.map_or("killed".to_owned(), |took| format!("{took:.1?}")),
            during.closes,
            during.silence,
            during.lost,
            during.repeated
        );
    }
    let none = Latencies::default();
    let stormed = phase.storm.as_ref().map(|storm| &storm.measured);
    let rows: Vec<(&str, &Latencies)> = [
        ("TLS handshake", &phase.measured.tls_handshakes),
        ("storm: TLS handshake", stormed.map_or(&none, |storm| &storm.tls_handshakes)),
        ("storm: connect to made", stormed.map_or(&none, |storm| &storm.connects)),
        ("connect to ready", &phase.measured.connects),
        ("delivery", &phase.measured.deliveries),
        ("last subscriber", &phase.last),
        ("publish to answer", &phase.answers),
        ("request to reply", &phase.measured.replies),
        ("own: arrived to read", &phase.measured.own_lag),
        ("own: late wakes", &phase.measured.beat_lag),
        ("own: late publications", &phase.publisher_lag),
    ]
    .into_iter()
    .filter(|(_, latencies)| !latencies.is_empty())
    .collect();
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["latency", "count", "p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"]);
    for (name, latencies) in rows {
        let mut row = vec![name.to_string(), latencies.0.len().to_string()];
        row.extend([0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999].map(|at| duration(latencies.quantile(at))));
        row.push(duration(latencies.max()));
        table.add_row(row);
    }
    for column in 1..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "{table}");
}

/// What TLS came to.
fn tls_text(out: &mut String, whose: &str, measured: &Measured) {
    let counters = &measured.counters;
    if counters.tls_handshakes == 0 {
        return;
    }
    let share = counters.tls_resumed as f64 / counters.tls_handshakes as f64 * 100.0;
    let _ = write!(
        out,
        "  {whose}{} TLS handshakes, {} of them ({share:.0} %) resumed",
        counters.tls_handshakes, counters.tls_resumed
    );
    for (suite, count) in &measured.tls_suites {
        let _ = write!(out, "; {count} with {suite}");
    }
    let _ = writeln!(out);
}

fn figures_text(out: &mut String, target: &RunResult, floor: Option<&RunResult>) {
    let figures = figures(target, floor);
    if figures.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", target.name.as_str(), "floor", "ratio"]);
    for Figure { name, value, unit, floor } in figures {
        let ratio =
            floor.filter(|floor| *floor > 0.0).map_or(String::new(), |floor| format!("{:.2}", value / floor));
        let floor = floor.map_or(String::new(), |floor| format!("{floor:.1} {unit}"));
        table.add_row([name, format!("{value:.1} {unit}").trim_end().to_string(), floor, ratio]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "\n{table}");
}

fn disorder_text(out: &mut String, target: &RunResult) {
    let mut channels: Vec<_> = target.phases.iter().flat_map(|phase| &phase.disorder).collect();
    if channels.is_empty() {
        return;
    }
    channels.sort_by_key(|(_, disorder)| {
        std::cmp::Reverse(disorder.lost + disorder.duplicates + disorder.out_of_order)
    });
    let _ = writeln!(out, "\nchannels with disorder: {}", channels.len());
    for (channel, disorder) in channels.into_iter().take(CHANNELS_SHOWN) {
        let _ = writeln!(
            out,
            "  channel {channel}: {} lost, {} duplicates, {} out of order",
            disorder.lost, disorder.duplicates, disorder.out_of_order
        );
    }
}

fn failures_text(out: &mut String, target: &RunResult) {
    let failures = target.totals().failures;
    if failures.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nfailures by cause:");
    let mut failures: Vec<_> = failures.into_iter().collect();
    failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (cause, count) in failures {
        let _ = writeln!(out, "  {count:>9}  {cause}");
    }
}

fn verdict_text(out: &mut String, target: &RunResult) {
    match target.verdict() {
        Verdict::Passed => {
            let _ = writeln!(out, "\npassed: nothing lost, nothing twice, nothing out of order");
        }
        Verdict::Failed => {
            let _ = writeln!(out, "\nFAILED:");
            for shortfall in target.shortfalls() {
                let _ = writeln!(out, "  {}: {}", shortfall.phase, shortfall.what);
            }
        }
        Verdict::Invalid => {}
        Verdict::Interrupted => {
            let _ = writeln!(out, "\ninterrupted: these are the figures so far");
        }
    }
    if let Some(why) = target.invalid() {
        let _ = writeln!(out, "\nINVALID: the generator was late, not the server: {why}");
    }
}

/// Three digits and a unit.
pub fn duration(duration: Duration) -> String {
    let ns = duration.as_nanos() as f64;
    let (value, unit) = match ns {
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let said = [1_500, 25_000, 999_000, 1_234_000, 81_000_000, 3_600_000_000]
            .map(|ns: u64| duration(Duration::from_nanos(ns)));
        assert_eq!(said, ["1.50 us", "25.0 us", "999 us", "1.23 ms", "81.0 ms", "3.60 s"]);
    }
}
