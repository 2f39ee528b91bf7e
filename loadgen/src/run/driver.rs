//! The loop that carries a plan out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use trunkline::base::time::Time;

use super::during::During;
use super::last::Last;
use super::{Phase, PhaseResult, Plan, RunResult, Second, StormResult};
use crate::engine::{Command, Engine, LiveSum, Server, Shared};
use crate::host::{Host, Machine, Sample};
use crate::measure::{Cause, Latencies, Measured};
use crate::net::now;
use crate::profile::Audience;
use crate::publish::{PublishReport, Publisher};
use crate::storm::Storm;

/// How often the run looks at itself.
const LOOK: Duration = Duration::from_millis(20);
/// So many connections that fail while none succeeds end a run.
const HOPELESS: u64 = 100;
/// With fewer connections what a process takes once hides what each takes.
const MEMORY_CONNECTIONS_MIN: u32 = 10_000;
/// How long after its deadline a connection of a storm may take to be gone.
const STORM_END: Duration = Duration::from_secs(1);
/// How long the kernel is given to free what connecting took, before memory is read.
/// How long a command in the middle of a phase may take.
const DURING_MAX: Duration = Duration::from_secs(600);
const SETTLE: Duration = Duration::from_millis(500);

/// Where a run is, for a progress bar.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub run: &'a str,
    pub phase: &'a str,
    pub live: LiveSum,
    pub wanted: u64,
    pub sent: u64,
    /// Share of the phase's hold that is over, 0 to 1.
    pub done: f64,
}

/// Watches a run. All methods are called between two looks, on the run's thread.
pub trait Observer {
    fn progress(&mut self, _progress: &Progress<'_>) {}

    /// Once a second: that second's figures, and its latencies.
    fn second(&mut self, _second: &Second, _latencies: &Latencies) {}
}

/// Watches nothing.
pub struct Quiet;

impl Observer for Quiet {}

/// Carries `phases` out, until they are over, the server is gone, or `stop` is set. What was measured until then is in
/// the result in every case.
///
/// # Errors
/// When the generator cannot begin: no sockets, no such process.
pub fn run(
    plan: &Plan,
    phases: &[Phase],
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> io::Result<RunResult> {
    let mut host = Host::new(plan.pid)?;
    let baseline = host.sample();
    let audience = audience(plan, plan.per_connection, plan.recover);
    let (channels, per_connection) = (audience.channels, audience.per_connection);
    let shared = Arc::new(shared(plan, audience));
    let engine = Engine::start(Arc::clone(&shared), plan.engine)?;
    let mut running = Running {
        plan,
        shared,
        publisher: None,
        storm: None,
        host,
        last: Last::default(),
        measured: Measured::default(),
        stormed: Measured::default(),
        publisher_lag: Latencies::default(),
        answers: Latencies::default(),
        published: 0,
        interval: Latencies::default(),
        interval_counts: (0, 0),
        next_second: now() + Duration::from_secs(1),
        start: now(),
        wanted: 0,
        is_middle: false,
        during: None,
        stop,
        observer,
        result: RunResult {
            name: plan.name.clone(),
            profile: plan.profile.name(),
            driver: engine.driver,
            driver_reason: engine.driver_reason.clone(),
            target: named(&plan.servers),
            connections: plan.engine.connections,
            channels,
            per_connection,
            threads: engine.thread_count(),
            payload_bytes: plan.payload_bytes,
            machine: Machine::read(),
            has_server: plan.pid.is_some(),
            baseline,
            phases: Vec::new(),
            seconds: Vec::new(),
            interrupted: false,
            ended_early: None,
            notes: Vec::new(),
        },
        engine,
    };
    if plan.engine.connections < MEMORY_CONNECTIONS_MIN {
        running.result.notes.push(format!(
            "memory a connection includes what a process takes once; below {MEMORY_CONNECTIONS_MIN} connections that is \
             most of it"
        ));
    }
    let longest = phases.iter().map(|phase| phase.hold).max().unwrap_or_default();
    let middle = phases.iter().position(|phase| phase.hold == longest);
    for (number, phase) in phases.iter().enumerate() {
        running.is_middle = plan.during.is_some() && middle == Some(number);
        let goes_on = running.phase(phase);
        if !goes_on {
            break;
        }
    }
    Ok(running.result)
}

fn audience(plan: &Plan, per_connection: u32, recover: bool) -> Audience {
    let audience = Audience::new(plan.channels, per_connection, plan.channel_prefix.clone(), recover);
    match &plan.personal_prefix {
        Some(prefix) => audience.with_personal(prefix.clone(), plan.engine.connections),
        None => audience,
    }
}

/// As the report names them.
fn named(servers: &[Server]) -> String {
    servers.iter().map(|server| server.target.to_string()).collect::<Vec<_>>().join(", ")
}

fn shared(plan: &Plan, audience: Audience) -> Shared {
    Shared {
        profile: Arc::clone(&plan.profile),
        audience,
        servers: Arc::clone(&plan.servers),
        tls: plan.tls.clone(),
        headers: plan.headers.clone(),
        compression: plan.compression,
        sources: plan.sources.clone(),
        run: plan.run,
        measure_from: AtomicU64::new(0),
        handshake_timeout: plan.handshake_timeout,
        in_flight_max: plan.in_flight_max,
        silence_max: plan.silence_max,
        message_bytes_max: plan.message_bytes_max,
        payload_bytes: plan.payload_bytes,
    }
}

struct Running<'a> {
    plan: &'a Plan,
    shared: Arc<Shared>,
    engine: Engine,
    publisher: Option<Publisher>,
    storm: Option<Storm>,
    host: Host,
    last: Last,
    /// Of the phase so far.
    measured: Measured,
    /// Of the storm in it.
    stormed: Measured,
    publisher_lag: Latencies,
    answers: Latencies,
    published: u64,
    /// Of the second so far.
    interval: Latencies,
    interval_counts: (u64, u64),
    next_second: Time,
    start: Time,
    /// Connections that should be ready.
    wanted: u64,
    /// The phase is the one for the plan's command.
    is_middle: bool,
    during: Option<During>,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    result: RunResult,
}

/// Whether there is reason to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    GoOn,
    End,
}

impl Running<'_> {
    /// Carries one phase out. `false`: the run ends with it.
    fn phase(&mut self, phase: &Phase) -> bool {
        let begin = now();
        let before = self.host.sample();
        let failed_before = self.engine.live().failed;
        let measure_from = begin + phase.warm_up;
        self.shared.measure_from.store(measure_from.0, Ordering::Relaxed);

        let mut look = self.start_publisher(phase);
        if look == Look::GoOn {
            look = self.start_storm(phase);
        }
        if look == Look::GoOn {
            self.command(phase);
            self.rates(phase);
        }
        let planned_from = now();
        let mut open_time = None;
        if look == Look::GoOn && phase.moves() {
            look = self.wait_open(phase, failed_before);
            open_time = Some(now().since(begin));
            if look == Look::GoOn {
                self.pass(SETTLE, phase, 1.0);
            }
        }
        let opened = if phase.moves() { self.host.sample() } else { before };
        let hold_begin = if phase.moves() { now() } else { planned_from };
        if look == Look::GoOn {
            if phase.burst > 0
                && let Some(publisher) = &self.publisher
            {
                publisher.burst(phase.burst);
            }
            if let (Some(storm), Some((rate, _))) = (&self.storm, phase.storm) {
                storm.rate(rate);
            }
            look = self.hold(phase);
        }
        let hold = now().since(hold_begin);
        self.silence();
        self.end_storm();
        // Interrupted or not, what is under way is waited for: as long as a connection is left.
        if self.engine.live().ready > 0 {
            self.drain(phase);
        }
        self.collect();
        let after = self.host.sample();
        self.finish(phase, begin, open_time, hold, measure_from, [before, opened, after]);
        look == Look::GoOn
    }

    /// Connects the publisher before the first phase that publishes.
    fn start_publisher(&mut self, phase: &Phase) -> Look {
        if !phase.publishes() || self.publisher.is_some() || self.shared.audience.channels == 0 {
            return Look::GoOn;
        }
        let nobody = audience(self.plan, 0, false);
        let publisher = Publisher::start(
            Arc::new(shared(self.plan, nobody)),
            Arc::clone(&self.shared),
            self.plan.publishing.clone(),
            self.plan.publishers,
        );
        match publisher {
            Ok(publisher) => {
                self.publisher = Some(publisher);
                Look::GoOn
            }
            Err(error) => {
                self.measured.fail(Cause::PublishBroken);
                self.result.ended_early = Some(error.to_string());
                Look::End
            }
        }
    }

    /// Makes the sockets of a phase's storm.
    fn start_storm(&mut self, phase: &Phase) -> Look {
        let Some((rate, hold)) = phase.storm else { return Look::GoOn };
        match Storm::start(Arc::clone(&self.shared), self.plan.engine.driver, rate, hold) {
            Ok(storm) => {
                self.storm = Some(storm);
                Look::GoOn
            }
            Err(error) => self.end(&format!("the storm cannot begin: {error}")),
        }
    }

    fn command(&mut self, phase: &Phase) {
        let threads = self.engine.thread_count();
        if let Some((first, on)) = phase.stall {
            self.engine.order(|_| Command::Stall { first, on });
        }
        if let Some((share, spread)) = phase.cut {
            self.engine.order(|_| Command::Cut { share, spread });
        }
        if let Some((total, rate)) = phase.open {
            self.wanted = u64::from(total);
            let rate = rate / f64::from(threads);
            self.engine.order(|_| Command::Open { total, rate });
        }
        // The answer shows that the orders were taken, and what follows from them stands in the live figures.
        self.collect();
    }

    fn rates(&mut self, phase: &Phase) {
        if let Some(publisher) = &self.publisher {
            publisher.rate(phase.publish);
        }
        if phase.request > 0.0 {
            let rate = phase.request / f64::from(self.engine.thread_count());
            self.engine.order(|_| Command::Request { rate });
        }
        let (rate, spread) = phase.reconnect;
        if rate > 0.0 {
            let rate = rate / f64::from(self.engine.thread_count());
            self.engine.order(|_| Command::Reconnect { rate, spread });
        }
    }

    fn silence(&mut self) {
        if let Some(publisher) = &self.publisher {
            publisher.rate(0.0);
        }
        self.engine.order(|_| Command::Request { rate: 0.0 });
        self.engine.order(|_| Command::Reconnect { rate: 0.0, spread: Duration::ZERO });
        if let Some(storm) = &self.storm {
            storm.rate(0.0);
        }
    }

    /// Waits until the storm's last connections are made and closed, as long as they may take, and ends it.
    fn end_storm(&mut self) {
        let Some(storm) = self.storm.take() else { return };
        let begin = now();
        loop {
            let report = storm.collect();
            self.stormed.add(&report.measured);
            if report.open == 0 || now().since(begin) > self.plan.handshake_timeout + STORM_END {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn wait_open(&mut self, phase: &Phase, failed_before: u64) -> Look {
        loop {
            let live = self.engine.live();
            if live.pending == 0 {
                return if live.ready == 0 { self.end("no connection became ready") } else { Look::GoOn };
            }
            if live.ready == 0
                && live.failed - failed_before.min(live.failed) >= HOPELESS
                && phase.open.is_some()
            {
                return self.end(&format!("the first {HOPELESS} connections all failed"));
            }
            let done = live.ready as f64 / self.wanted.max(1) as f64;
            if self.look(phase, done) == Look::End {
                return Look::End;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Lets the planned rates run.
    fn hold(&mut self, phase: &Phase) -> Look {
        if phase.hold.is_zero() {
            return Look::GoOn;
        }
        let Some(command) = self.plan.during.as_deref().filter(|_| self.is_middle) else {
            return self.pass(phase.hold, phase, 0.0);
        };
        let half = phase.hold / 2;
        if self.pass(half, phase, 0.0) == Look::End {
            return Look::End;
        }
        self.collect();
        let failed = self.engine.live().failed;
        match During::start(command, now(), now().since(self.start), failed) {
            Ok(during) => self.during = Some(during),
            Err(error) => return self.end(&format!("no shell for the command: {error}")),
        }
        // What comes behind the command is watched as long as what came before.
        let end = now() + DURING_MAX;
        while now() < end && !self.during.as_mut().is_none_or(|during| during.has_ended(now())) {
            if self.look(phase, 0.5) == Look::End {
                return Look::End;
            }
            std::thread::sleep(LOOK);
        }
        self.pass(half, phase, 0.5)
    }

    fn pass(&mut self, time: Duration, phase: &Phase, done_at_start: f64) -> Look {
        let begin = now();
        loop {
            let passed = now().since(begin);
            if passed >= time {
                return Look::GoOn;
            }
            let live = self.engine.live();
            if live.ready == 0 && live.pending == 0 && live.failed > 0 {
                return self.end("no connection is left");
            }
            let done = done_at_start.max(passed.as_secs_f64() / time.as_secs_f64());
            if self.look(phase, done) == Look::End {
                return Look::End;
            }
            std::thread::sleep(LOOK.min(time - passed));
        }
    }

    /// Waits until everything published has arrived, or nothing came for the plan's time of draining.
    fn drain(&mut self, phase: &Phase) {
        let mut heard = now();
        let mut arrived = 0;
        while now().since(heard) < self.plan.drain {
            let live = self.engine.live();
            let unsettled = self.publisher.as_ref().map_or(0, Publisher::unsettled);
            if unsettled == 0 && live.outstanding == 0 {
                self.collect();
                if self.last.is_complete() {
                    return;
                }
            }
            let count = live.deliveries + live.replies + self.published;
            if count != arrived {
                arrived = count;
                heard = now();
            }
            if live.ready == 0 {
                return;
            }
            self.look(phase, 1.0);
            std::thread::sleep(LOOK);
        }
    }

    /// Progress, seconds, and reasons to end.
    fn look(&mut self, phase: &Phase, done: f64) -> Look {
        let live = self.engine.live();
        let sent = self.publisher.as_ref().map_or(0, Publisher::sent);
        let (run, wanted) = (self.plan.name.as_str(), self.wanted);
        self.observer.progress(&Progress { run, phase: &phase.name, live, wanted, sent, done });
        if now() >= self.next_second {
            self.collect();
            self.second(live);
        }
        if let Some(error) = self.engine.broken() {
            return self.end(&format!("a thread of the generator ended: {error}"));
        }
        if self.stop.load(Ordering::Relaxed) {
            self.result.interrupted = true;
            return Look::End;
        }
        Look::GoOn
    }

    fn second(&mut self, live: LiveSum) {
        let interval = std::mem::take(&mut self.interval);
        let (deliveries, replies) = std::mem::take(&mut self.interval_counts);
        let second = Second {
            at: now().since(self.start),
            ready: live.ready,
            failed: live.failed,
            deliveries,
            replies,
            p50: interval.quantile(0.5),
            p99: interval.quantile(0.99),
            max: interval.max(),
            sample: self.host.sample(),
        };
        self.observer.second(&second, &interval);
        self.result.seconds.push(second);
        self.next_second = now() + Duration::from_secs(1);
    }

    fn end(&mut self, why: &str) -> Look {
        self.result.ended_early.get_or_insert(why.into());
        Look::End
    }

    fn collect(&mut self) {
        for measured in self.engine.collect() {
            self.last.add(&measured);
            self.interval.add(&measured.deliveries);
            self.interval.add(&measured.replies);
            if let Some(during) = &mut self.during {
                during.heard(measured.deliveries.max());
            }
            self.interval_counts.0 += measured.counters.deliveries + measured.counters.deliveries_stalled;
            self.interval_counts.1 += measured.counters.replies;
            self.measured.add(&measured);
        }
        if let Some(publisher) = &self.publisher {
            let PublishReport { published, failures, own_lag, answers, sent } = publisher.collect();
            let _ = sent;
            self.last.published(&published);
            self.published += published.len() as u64;
            self.publisher_lag.add(&own_lag);
            self.answers.add(&answers);
            for (cause, count) in failures {
                *self.measured.failures.entry(cause).or_default() += count;
            }
        }
    }

    fn finish(
        &mut self,
        phase: &Phase,
        begin: Time,
        open_time: Option<Duration>,
        hold: Duration,
        measure_from: Time,
        [before, opened, after]: [Sample; 3],
    ) {
        let settled = self.last.settle(measure_from);
        let mut measured = std::mem::take(&mut self.measured);
        let mut disorder = std::mem::take(&mut measured.disorder);
        for (channel, lost) in &settled.lost_by_channel {
            disorder.entry(*channel).or_default().lost += lost;
        }
        let during = self.during.take().map(|during| {
            during.finish(now(), self.engine.live().failed, settled.lost, measured.counters.duplicates)
        });
        let publisher_lag = std::mem::take(&mut self.publisher_lag);
        let storm = phase.storm.map(|(rate, _)| StormResult {
            planned: rate * hold.as_secs_f64(),
            measured: std::mem::take(&mut self.stormed),
        });
        let invalid = lateness(&measured, &publisher_lag, self.plan.lag_max)
            .or_else(|| storm.as_ref().and_then(StormResult::lateness));
        self.result.phases.push(PhaseResult {
            during,
            name: phase.name.clone(),
            wall: now().since(begin),
            open_time,
            hold,
            ready: self.engine.live().ready,
            ready_wanted: self.wanted,
            measured,
            storm,
            published: std::mem::take(&mut self.published),
            publish_planned: planned(phase.publish, hold) + f64::from(phase.burst),
            publisher_lag,
            answers: std::mem::take(&mut self.answers),
            last: settled.latencies,
            lost: settled.lost,
            incomplete: settled.incomplete,
            complete: settled.complete,
            unaccounted: std::mem::take(&mut self.last.dropped),
            disorder,
            moves: phase.churns(),
            before,
            opened,
            after,
            invalid,
        });
    }
}

/// Why the latencies of a phase are the generator's own, if they are.
fn lateness(measured: &Measured, publisher: &Latencies, lag_max: Option<Duration>) -> Option<String> {
    let latencies = if measured.deliveries.is_empty() { &measured.replies } else { &measured.deliveries };
    if latencies.is_empty() {
        return None;
    }
    let p99 = |latencies: &Latencies| latencies.quantile(0.99);
    // More than half of what was measured may be our own, and it is enough to be seen at all.
    let allowed = lag_max.unwrap_or_else(|| (p99(latencies) / 2).max(Duration::from_millis(1)));
    [
        ("what had arrived waited for the generator", p99(&measured.own_lag)),
        ("the generator's threads woke late", p99(&measured.beat_lag)),
        ("publications left late", p99(publisher)),
    ]
    .into_iter()
    .find(|(_, lag)| *lag > allowed)
    .map(|(what, lag)| format!("{what}: {lag:.1?} at p99, {allowed:.1?} allowed"))
}

/// How many publications a rate means in this time: the first goes at once.
fn planned(per_second: f64, time: Duration) -> f64 {
    if per_second > 0.0 { (per_second * time.as_secs_f64()).floor() + 1.0 } else { 0.0 }
}
