//! An echo server on simulated shards, under every fault: nothing lost, doubled or swapped, every slot freed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::options;
use crate::base::bytes::Bytes;
use crate::base::ids::Sock;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::driver::sim::{ClientEnd, ClientState, Faults, HostStats, SimDriver, SimNet};
use crate::driver::{Driver, DriverEvent, SendCause, SendFailure, SendPart, SocketEnd};

const SHARDS: usize = 3;
const CLIENTS: usize = 24;
const STEPS: usize = 300;
/// Above this an echo connection stops reading: what it holds is bounded.
const OUT_BYTES_MAX: usize = 4096;

/// The smallest shard that treats every event of the contract.
struct EchoShard {
    driver: SimDriver,
    connections: BTreeMap<u32, Connection>,
    accept_again_at: Option<Time>,
    events: Vec<DriverEvent>,
    failures: Vec<SendFailure>,
}

struct Connection {
    sock: Sock,
    out: Vec<u8>,
    paused: bool,
    sending: Sending,
    ended: bool,
    closing: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Sending {
    Free,
    /// For `Writable`.
    Waits,
    RetriesAt(Time),
}

impl EchoShard {
    fn new(net: &SimNet) -> EchoShard {
        let mut driver = net.driver(&options(CLIENTS as u32 * 4));
        driver.accept_start();
        EchoShard {
            driver,
            connections: BTreeMap::new(),
            accept_again_at: None,
            events: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn tick(&mut self) {
        let timeout = self.next_timer().map(|at| at.since(self.driver.now()));
        let mut events = std::mem::take(&mut self.events);
        self.driver.wait(&mut events, timeout).expect("the simulator's wait does not fail");
        let now = self.driver.now();
        for event in events.drain(..) {
            self.handle(event, now);
        }
        self.events = events;
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.driver.accept_start();
        }
        self.send_all(now);
        for connection in self.connections.values_mut().filter(|c| !c.closing && c.out.is_empty()) {
            if connection.ended {
                connection.closing = true;
                self.driver.close(connection.sock);
            } else if std::mem::take(&mut connection.paused) {
                self.driver.read_start(connection.sock);
            }
        }
    }

    fn next_timer(&self) -> Option<Time> {
        let retries = self.connections.values().filter_map(|c| match c.sending {
            Sending::RetriesAt(at) if !c.closing => Some(at),
            _ => None,
        });
        retries.chain(self.accept_again_at).min()
    }

    fn handle(&mut self, event: DriverEvent, now: Time) {
        match event {
            DriverEvent::Accepted { sock, .. } => {
                let connection = Connection {
                    sock,
                    out: Vec::new(),
                    paused: false,
                    sending: Sending::Free,
                    ended: false,
                    closing: false,
                };
                assert!(self.connections.insert(sock.slot, connection).is_none(), "a slot handed out twice");
                self.driver.read_start(sock);
            }
            DriverEvent::AcceptFailed { .. } => self.accept_again_at = Some(now + Duration::from_millis(100)),
            DriverEvent::Received { sock, lent } => {
                let connection = self.connections.get_mut(&sock.slot).expect("received on a live slot");
                assert!(connection.sock == sock && !connection.closing && !connection.ended);
                connection.out.extend_from_slice(self.driver.received(&lent));
                self.driver.give_back(lent);
                if connection.out.len() > OUT_BYTES_MAX {
                    connection.paused = true;
                    self.driver.read_pause(sock);
                }
            }
            DriverEvent::Ended { sock, cause } => {
                let connection = self.connections.get_mut(&sock.slot).expect("ended on a live slot");
                assert!(connection.sock == sock && !connection.closing && !connection.ended);
                connection.ended = true;
                if matches!(cause, SocketEnd::Broken(_)) {
                    connection.closing = true;
                    self.driver.close(sock);
                }
            }
            DriverEvent::Writable { sock } => {
                let connection = self.connections.get_mut(&sock.slot).expect("writable on a live slot");
                assert!(connection.sock == sock && !connection.closing);
                assert!(connection.sending == Sending::Waits, "one event a watch");
                connection.sending = Sending::Free;
            }
            DriverEvent::Closed { sock } => {
                let connection = self.connections.remove(&sock.slot).expect("closed once");
                assert!(connection.sock == sock && connection.closing);
            }
        }
    }

    fn send_all(&mut self, now: Time) {
        for (slot, connection) in &mut self.connections {
            let due = match connection.sending {
                Sending::Free => true,
                Sending::Waits => false,
                Sending::RetriesAt(at) => at <= now,
            };
            if connection.closing || connection.out.is_empty() || !due {
                continue;
            }
            connection.sending = Sending::Free;
            let bytes = Bytes::from(std::mem::take(&mut connection.out));
            let range = 0..bytes.len() as u32;
            let hold = self.driver.hold(bytes.clone());
            self.driver.send(connection.sock, &[SendPart { hold, range }], *slot);
            connection.out = bytes.to_vec();
        }
        let sent: Vec<u32> =
            self.connections.values().filter(|c| c.is_sending()).map(|c| c.sock.slot).collect();
        self.driver.flush(&mut self.failures);
        let mut failed: BTreeMap<u32, SendFailure> = self.failures.drain(..).map(|f| (f.tag, f)).collect();
        for slot in sent {
            let connection = self.connections.get_mut(&slot).expect("sent on a live slot");
            let Some(failure) = failed.remove(&slot) else {
                connection.out.clear();
                continue;
            };
            assert!((failure.sent as usize) < connection.out.len() || failure.cause != SendCause::WouldBlock);
            connection.out.drain(..failure.sent as usize);
            match failure.cause {
                SendCause::WouldBlock => {
                    connection.sending = Sending::Waits;
                    self.driver.write_watch(connection.sock);
                }
                SendCause::NoBuffers => {
                    connection.sending = Sending::RetriesAt(now + Duration::from_millis(10));
                }
                SendCause::Broken(_) => {
                    connection.closing = true;
                    self.driver.close(connection.sock);
                }
            }
        }
        assert!(failed.is_empty(), "a failure for a socket that sent nothing");
    }
}

impl Connection {
    /// After the sends of a tick: whether this one has one in the flush.
    fn is_sending(&self) -> bool {
        !self.closing && !self.out.is_empty() && self.sending == Sending::Free
    }
}

/// A client, what it managed to send, and what came back.
struct Script {
    end: ClientEnd,
    sent: Vec<u8>,
    heard: Vec<u8>,
    gave_up: bool,
}

impl Script {
    fn check(&mut self, lossless: bool) {
        self.end.recv_into(&mut self.heard);
        assert!(self.sent.starts_with(&self.heard), "client {} heard what it did not say", self.end.number());
        let complete = self.heard.len() == self.sent.len();
        match self.end.state() {
            ClientState::Finished => {
                assert!(complete, "client {} was closed in order, short", self.end.number());
            }
            state => assert!(!lossless || self.gave_up, "client {} was lost: {state:?}", self.end.number()),
        }
    }
}

struct Outcome {
    fingerprint: u64,
    stats: HostStats,
    broken: usize,
    half_closed: usize,
}

fn run_until(net: &SimNet, shards: &mut [EchoShard], until: Time) {
    while net.now() < until {
        for shard in shards.iter_mut() {
            if net.runnable(shard.driver.shard()) {
                shard.tick();
            }
        }
        let tick_end = net.now() + Duration::from_micros(1);
        net.advance_to(net.next_event_at().unwrap_or(until).clamp(tick_end, until.max(tick_end)));
    }
}

fn scenario(seed: u64, faults: Faults) -> Outcome {
    let lossless = faults.doom_reset == 0.0;
    let net = SimNet::new(seed, faults);
    let mut shards: Vec<EchoShard> = (0..SHARDS).map(|_| EchoShard::new(&net)).collect();
    let mut prng = net.fork_prng();
    let mut scripts: Vec<Script> = Vec::new();
    let mut outcome = Outcome { fingerprint: 0, stats: HostStats::default(), broken: 0, half_closed: 0 };
    for _ in 0..STEPS {
        act(&net, &mut prng, &mut scripts);
        let pause = Duration::from_micros(prng.u64(0..200_000));
        run_until(&net, &mut shards, net.now() + pause);
    }
    // Everybody says goodbye, and a patient network brings all of it home.
    for script in &mut scripts {
        script.end.read_resume();
        outcome.half_closed += usize::from(script.end.finished());
        script.end.finish();
    }
    run_until(&net, &mut shards, net.now() + Duration::from_secs(600));
    for script in &mut scripts {
        script.check(lossless);
        outcome.broken += usize::from(script.end.state() == ClientState::Reset);
    }
    drop(scripts);
    run_until(&net, &mut shards, net.now() + Duration::from_secs(60));
    for shard in 0..SHARDS {
        assert_eq!(net.overdue(shard, Duration::ZERO), [], "seed {seed}");
        assert_eq!(net.open_sockets(shard), 0, "seed {seed}: a slot leaked");
        let stats = net.stats(shard);
        assert_eq!((stats.accepted, stats.stale), (stats.closed, 0));
        add(&mut outcome.stats, &stats);
    }
    outcome.fingerprint = net.fingerprint();
    outcome
}

/// One step of one client.
fn act(net: &SimNet, prng: &mut Prng, scripts: &mut Vec<Script>) {
    if scripts.len() < CLIENTS && prng.u8(0..8) == 0 || scripts.is_empty() {
        let end = net.connect();
        scripts.push(Script { end, sent: Vec::new(), heard: Vec::new(), gave_up: false });
    }
    let script = prng.choice(scripts.iter_mut()).expect("there is one");
    match prng.u8(0..100) {
        0..60 => {
            let most = if prng.u8(0..10) == 0 { 20_000 } else { 200 };
            let bytes: Vec<u8> = (0..prng.usize(1..most)).map(|_| prng.u8(..)).collect();
            if script.end.send(&bytes) {
                script.sent.extend(bytes);
            }
        }
        60..80 => drop(script.end.recv_into(&mut script.heard)),
        80..87 => script.end.read_pause(),
        87..97 => script.end.read_resume(),
        97 => script.end.finish(),
        98 => {
            script.gave_up = true;
            script.end.reset();
        }
        _ => {}
    }
}

fn add(total: &mut HostStats, stats: &HostStats) {
    total.accepted += stats.accepted;
    total.accept_failures += stats.accept_failures;
    total.reads += stats.reads;
    total.sends += stats.sends;
    total.sends_blocked += stats.sends_blocked;
    total.sends_without_buffers += stats.sends_without_buffers;
    total.sends_broken += stats.sends_broken;
    total.ended_finished += stats.ended_finished;
    total.ended_broken += stats.ended_broken;
    total.writables += stats.writables;
    total.waits_spurious += stats.waits_spurious;
}

/// Seeds a kind of fault is tried with; more by `SIM_SEEDS=10000`.
fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100)
}

fn sum(faults: fn() -> Faults) -> (HostStats, usize, usize) {
    let (mut stats, mut broken, mut half_closed) = (HostStats::default(), 0, 0);
    for seed in 0..seeds() {
        let outcome = std::panic::catch_unwind(|| scenario(seed, faults()));
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        add(&mut stats, &outcome.stats);
        broken += outcome.broken;
        half_closed += outcome.half_closed;
    }
    (stats, broken, half_closed)
}

#[test]
fn a_perfect_net_echoes_everything() {
    let (stats, ..) = sum(Faults::none);
    assert_eq!((stats.accept_failures, stats.sends_without_buffers, stats.waits_spurious), (0, 0, 0));
}

#[test]
fn a_gentle_net_loses_nothing() {
    let (stats, ..) = sum(Faults::gentle);
    for (what, count) in [
        ("accept failures", stats.accept_failures),
        ("blocked sends", stats.sends_blocked),
        ("sends without buffers", stats.sends_without_buffers),
        ("writables", stats.writables),
        ("spurious waits", stats.waits_spurious),
        ("ends", stats.ended_finished),
    ] {
        assert!(count > 0, "{what} never happened");
    }
}

#[test]
fn a_harsh_net_breaks_connections_and_leaks_no_slot() {
    let (stats, broken, half_closed) = sum(Faults::harsh);
    assert!(broken > 0 && half_closed > 0);
    for (what, count) in [
        ("accept failures", stats.accept_failures),
        ("blocked sends", stats.sends_blocked),
        ("sends without buffers", stats.sends_without_buffers),
        ("broken sends", stats.sends_broken),
        ("broken ends", stats.ended_broken),
        ("orderly ends", stats.ended_finished),
    ] {
        assert!(count > 0, "{what} never happened");
    }
}

#[test]
fn a_seed_gives_the_same_run_and_another_seed_another() {
    for seed in 0..10 {
        let run = scenario(seed, Faults::harsh()).fingerprint;
        assert_eq!(run, scenario(seed, Faults::harsh()).fingerprint);
        assert_ne!(run, scenario(seed + 1, Faults::harsh()).fingerprint);
    }
}
