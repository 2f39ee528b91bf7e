//! What a run came to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::during::DuringResult;
use crate::host::{Machine, Sample};
use crate::measure::{Cause, Counters, Disorder, Latencies, Measured};

/// One second of a run, for plots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Since the run began.
    pub at: Duration,
    pub ready: u64,
    pub failed: u64,
    pub deliveries: u64,
    pub replies: u64,
    /// Of the deliveries, or of replies where nothing is published, of this second.
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub sample: Sample,
}

/// One phase's figures.
#[derive(Debug)]
pub struct PhaseResult {
    pub name: String,
    pub wall: Duration,
    /// Until everything was open, if something was to be opened or to come back.
    pub open_time: Option<Duration>,
    /// How long the planned rates held: what rates are computed by.
    pub hold: Duration,
    /// Connections ready at its end, and how many there should be.
    pub ready: u64,
    pub ready_wanted: u64,
    pub measured: Measured,
    /// Of the connections that came and went beside.
    pub storm: Option<StormResult>,
    /// Of the command that ran in it.
    pub during: Option<DuringResult>,
    pub published: u64,
    pub publish_planned: f64,
    /// Of the publisher: failures are among `measured.failures`.
    pub publisher_lag: Latencies,
    pub answers: Latencies,
    pub last: Latencies,
    pub lost: u64,
    pub incomplete: u64,
    pub complete: u64,
    /// Deliveries not accounted by publication, because there were too many publications.
    pub unaccounted: u64,
    pub disorder: BTreeMap<u32, Disorder>,
    /// Connections come or go by plan: losses are no failure.
    pub moves: bool,
    pub before: Sample,
    /// At the end of the opening.
    pub opened: Sample,
    pub after: Sample,
    /// Why the generator's figures do not hold.
    pub invalid: Option<String>,
}

/// Connections that came and went beside those of the run.
#[derive(Debug)]
pub struct StormResult {
    /// How many should have been begun.
    pub planned: f64,
    pub measured: Measured,
}

/// Share of a storm's plan that has to be begun for its figures to mean something: one beat is lost at its ends.
const STORM_BEGUN_MIN: f64 = 0.9;

/// How long connections are held until a server may be taken to have given back what making them took.
const HELD_MIN: Duration = Duration::from_secs(10);

impl StormResult {
    /// Why it was not the storm that was planned.
    pub fn lateness(&self) -> Option<String> {
        let begun = self.measured.counters.started;
        // All that a slow server holds up are under way: then it is not the generator that was late.
        (self.measured.failures.is_empty() && (begun as f64) < self.planned * STORM_BEGUN_MIN)
            .then(|| format!("only {begun} of {:.0} connections of the storm were begun", self.planned))
    }
}

#[derive(Debug)]
pub struct RunResult {
    pub name: String,
    pub profile: &'static str,
    pub driver: &'static str,
    pub driver_reason: String,
    pub target: String,
    pub connections: u32,
    pub channels: u32,
    pub per_connection: u32,
    pub threads: u32,
    pub payload_bytes: usize,
    pub machine: Machine,
    pub has_server: bool,
    /// Before anything was opened.
    pub baseline: Sample,
    pub phases: Vec<PhaseResult>,
    pub seconds: Vec<Second>,
    pub interrupted: bool,
    /// Why the run ended before its plan.
    pub ended_early: Option<String>,
    pub notes: Vec<String>,
}

/// What a run says in its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The server lost, refused or disordered something.
    Failed,
    /// The generator itself was late.
    Invalid,
    Interrupted,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::Invalid => 3,
            // 128 and SIGINT, as shells say it.
            Verdict::Interrupted => 130,
        }
    }
}

/// One thing that went wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub phase: String,
    pub what: String,
}

impl PhaseResult {
    /// Everything in it that should not have been.
    pub fn shortfalls(&self) -> Vec<String> {
        let counters: &Counters = &self.measured.counters;
        let mut all = Vec::new();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                all.push(format!("{count} {what}"));
            }
        };
        say(counters.failed - counters.failed_stalled.min(counters.failed), "connections failed");
        if !self.moves {
            say(self.lost, "deliveries lost");
        }
        let stormed = self.storm.as_ref().map_or(0, |storm| storm.measured.counters.failed);
        say(stormed, "connections of the storm failed");
        say(counters.duplicates, "duplicates");
        say(counters.out_of_order, "deliveries out of order");
        say(counters.stray, "deliveries of channels not subscribed to");
        say(counters.unrecovered, "subscriptions not recovered");
        let command = self.during.as_ref().and_then(DuringResult::fault);
        for (cause, count) in &self.measured.failures {
            if matches!(
                cause,
                Cause::PublishStatus(_)
                    | Cause::PublishError(_)
                    | Cause::PublishBroken
                    | Cause::PublishQueue
                    | Cause::RequestError(_)
            ) {
                say(*count, &cause.to_string());
            }
        }
        all.extend(command);
        all
    }

    /// Server cpu from the phase's begin to its end, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.after.cpu_ns.saturating_sub(self.before.cpu_ns)
    }

    /// Server cpu a connection that became ready, until everything was open, in nanoseconds.
    pub fn cpu_per_connection_ns(&self) -> Option<f64> {
        let ready = self.measured.counters.ready;
        let cpu = self.opened.cpu_ns.saturating_sub(self.before.cpu_ns);
        (self.open_time.is_some() && ready > 0 && cpu > 0).then(|| cpu as f64 / ready as f64)
    }

    /// Server cpu a delivery after everything was open, in nanoseconds. Includes taking the publications in.
    pub fn cpu_per_delivery_ns(&self) -> Option<f64> {
        let deliveries = self.measured.counters.deliveries + self.measured.counters.deliveries_stalled;
        let cpu = self.after.cpu_ns.saturating_sub(self.opened.cpu_ns);
        // A storm's connections cost cpu of their own.
        let published = self.complete + self.incomplete > 0 && self.storm.is_none();
        (deliveries > 0 && cpu > 0 && published).then(|| cpu as f64 / deliveries as f64)
    }

    /// This generator's own, in nanoseconds: both share the host, and more of one is less of the other.
    pub fn generator_cpu_per_delivery_ns(&self) -> Option<f64> {
        let deliveries = self.measured.counters.deliveries + self.measured.counters.deliveries_stalled;
        let cpu = self.after.own_cpu_ns.saturating_sub(self.opened.own_cpu_ns);
        (deliveries > 0 && cpu > 0).then(|| cpu as f64 / deliveries as f64)
    }

    /// Server cpu a ping, in a phase where nothing else happened.
    pub fn cpu_per_ping_ns(&self) -> Option<f64> {
        let counters = &self.measured.counters;
        let cpu = self.after.cpu_ns.saturating_sub(self.opened.cpu_ns);
        let only_pings = counters.pings > 0 && counters.deliveries == 0 && counters.replies == 0;
        (only_pings && self.open_time.is_none() && cpu > 0).then(|| cpu as f64 / counters.pings as f64)
    }

    /// Server cpu a reply.
    pub fn cpu_per_reply_ns(&self) -> Option<f64> {
        let replies = self.measured.counters.replies;
        let cpu = self.after.cpu_ns.saturating_sub(self.opened.cpu_ns);
        (replies > 0 && cpu > 0).then(|| cpu as f64 / replies as f64)
    }

    /// A second's share of one cpu that the server took, over the hold.
    pub fn cpu_share(&self) -> Option<f64> {
        let cpu = self.after.cpu_ns.saturating_sub(self.opened.cpu_ns);
        (cpu > 0 && self.hold >= Duration::from_millis(500)).then(|| cpu as f64 / self.hold.as_nanos() as f64)
    }

    pub fn deliveries_per_second(&self) -> f64 {
        let deliveries = self.measured.counters.deliveries + self.measured.counters.deliveries_stalled;
        if self.hold < Duration::from_millis(500) { 0.0 } else { deliveries as f64 / self.hold.as_secs_f64() }
    }
}

impl RunResult {
    pub fn shortfalls(&self) -> Vec<Shortfall> {
        let mut all: Vec<Shortfall> = self
            .phases
            .iter()
            .flat_map(|phase| {
                let said = phase.shortfalls().into_iter();
                said.map(|what| Shortfall { phase: phase.name.clone(), what })
            })
            .collect();
        if let Some(why) = &self.ended_early {
            all.push(Shortfall { phase: "run".into(), what: why.clone() });
        }
        all
    }

    pub fn invalid(&self) -> Option<&str> {
        self.phases.iter().find_map(|phase| phase.invalid.as_deref())
    }

    pub fn verdict(&self) -> Verdict {
        if !self.shortfalls().is_empty() {
            Verdict::Failed
        } else if self.interrupted {
            Verdict::Interrupted
        } else if self.invalid().is_some() {
            Verdict::Invalid
        } else {
            Verdict::Passed
        }
    }

    /// Everything counted in all phases.
    pub fn totals(&self) -> Measured {
        let mut sum = Measured::default();
        for phase in &self.phases {
            sum.add(&phase.measured);
            for (cause, count) in phase.storm.iter().flat_map(|storm| &storm.measured.failures) {
                *sum.failures.entry(*cause).or_default() += count;
            }
        }
        sum
    }

    /// Growth of the server's own memory a ready connection, in bytes, after the phase that opened them.
    pub fn own_memory_per_connection(&self) -> Option<f64> {
        self.per_connection_growth(|sample| sample.rss_bytes)
    }

    /// The same at the end of a phase in which connections were only held: what making them took has gone back by then.
    pub fn held_memory_per_connection(&self) -> Option<f64> {
        let held = |phase: &&PhaseResult| !phase.moves && phase.hold >= HELD_MIN && phase.ready > 0;
        let phase = self.phases.iter().find(|phase| held(phase) && phase.publish_planned == 0.0)?;
        let (before, after) = (self.baseline.rss_bytes, phase.after.rss_bytes);
        (before > 0).then(|| (after as f64 - before as f64) / phase.ready as f64)
    }

    /// Growth of the kernel's slab a ready connection, both ends, in bytes.
    pub fn slab_per_connection(&self) -> Option<f64> {
        self.per_connection_growth(|sample| sample.slab_bytes)
    }

    /// Growth of the generator's own memory a connection, in bytes.
    pub fn generator_memory_per_connection(&self) -> Option<f64> {
        self.per_connection_growth(|sample| sample.own_rss_bytes)
    }

    fn per_connection_growth(&self, of: impl Fn(&Sample) -> u64) -> Option<f64> {
        let phase = self.phases.iter().find(|phase| phase.open_time.is_some() && phase.ready > 0)?;
        let (before, after) = (of(&self.baseline), of(&phase.opened));
        (before > 0).then(|| (after as f64 - before as f64) / phase.ready as f64)
    }
}
