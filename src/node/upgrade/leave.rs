//! The old process of an upgrade: it gives away what it holds, and takes it back when anything goes wrong.
//!
//! Inputs: a request, the parts of this node. Outputs: [`MovedToNext`], after which this process must end, or a [`LeaveFault`], after
//! which everything is as before. Must not know: what is in a parcel.
//!
//! ```text
//!  start the new one ▶ Hello ◀▶ Hello ▶ Node, Listeners ◀ Ready             clients are served here
//!  ▶ Parcels … ◀ Ack …                                                      and here: sockets go ahead
//!  ▶ Parcels … ◀ Ack … ▶ Control, Store, ApiConnections, Complete ◀ Adopted clients wait
//!  ▶ Commit ◀ Committed                                                     the commit point: the new one has read it
//!  ◀ Serving                                                                clients are served there
//! ```
//! Before `Committed` the new process has not touched a socket; it is killed before anything goes on here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::counts::UpgradeCounts;
use super::fault::point;
use super::request::AskedUpgrade;
use super::stages::{UpgradeStage, UpgradeStages};
use super::successor::{ProcessOrigin, Successor};
use super::wire::{DESCRIPTORS_MAX, PROTOCOL, WireFault, WireMessage, WireStep};
use crate::base::ids::ShardId;
use crate::control::{Control, EventsHeld};
use crate::engine::RunningEngine;
use crate::node::store::Store;
use crate::node::store_pause::Paused;
use crate::record::{
    self, HelloRecord, ListenersRecord, MembersPart, NodeRecord, ParcelRecord, ParcelsPart, StoredRecord,
    StoredRun, TotalsRecord,
};
use crate::shard::control_request::ControlRequest;
use crate::shard::handover::{Counts as Moves, Order, Parcel, Said};
use crate::shard::router::Router;

/// Messages of parcels that may be under way: eight times 253 descriptors, far below any limit of open files that a node
/// of that size has, and enough that neither process waits for the other.
const WINDOW: usize = 8;
/// Bytes after which a message of parcels is sent.
const BATCH_BYTES: usize = 128 * 1024;
/// What shards may have said that is not on its way yet: each time some hundred parcels at most, with their descriptors.
const OUTLET_MAX: usize = 32;
/// How often it is looked whether this process is to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long shards may take to go on here.
const ABORT_MAX: Duration = Duration::from_secs(10);
/// How long the new process may take to say that it has read the commit, and then that it serves.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// Why everything stays here.
#[derive(Debug)]
pub struct LeaveFault {
    /// One of [`RESULTS`](super::counts::RESULTS).
    pub result: &'static str,
    pub problem: String,
    /// The new process has written to the store before it ended: this one has to start again with what is there.
    pub outdated: bool,
}

fn fault(result: &'static str, problem: impl Into<String>) -> LeaveFault {
    LeaveFault { result, problem: problem.into(), outdated: false }
}

/// The new process serves.
pub struct MovedToNext {
    pub pid: u32,
    pub successor: Successor,
    pub build: Box<str>,
    pub totals: Moves,
    pub silence: Duration,
    pub duration: Duration,
    /// The writer of the store stands to the end of this process.
    _paused: Option<Paused>,
}

/// The parts of a node that are given away.
pub struct Leaving<'n> {
    pub router: &'n Router,
    pub control: &'n Control,
    pub origin: &'n ProcessOrigin,
    pub node: NodeRecord,
    /// A number greater than those of the attempts before, in this process.
    pub attempt: u32,
    /// Of all processes: the next one counts on.
    pub counts: &'n UpgradeCounts,
    pub store: Option<&'n Store>,
    pub engine: Option<&'n RunningEngine>,
    /// Where shards listen, and what the configuration says of it.
    pub listeners: Vec<record::ListenerRecord>,
    /// Why this process is to end, if it is.
    pub interrupted: &'n dyn Fn() -> Option<String>,
}

impl Leaving<'_> {
    /// # Errors
    /// Everything is as before.
    pub fn run(&self, asked: &AskedUpgrade) -> Result<MovedToNext, LeaveFault> {
        let began = Instant::now();
        let until = began + asked.request.timeout();
        self.ensure_wanted().map_err(|cause| match cause {
            LeaveCause::Fault(fault) => fault,
            LeaveCause::Wire(wire) => fault("failed", wire.to_string()),
        })?;
        let mut successor =
            Successor::start(self.origin, &asked.request).map_err(|problem| fault("start", problem))?;
        let greeted = self.greet(&mut successor, asked, until);
        let (build, run) = greeted.map_err(|cause| cause.told(&mut successor))?;

        let (outlet, said) = mpsc::sync_channel(OUTLET_MAX);
        let mut moving = Moving {
            leaving: self,
            outlet,
            said,
            events: None,
            run,
            paused: None,
            cut: false,
            until,
            failed: 0,
            parcels: 0,
            stages: UpgradeStages::begin(),
        };
        let moved = moving.send_ahead(&mut successor).and_then(|()| {
            moving.stages.next(UpgradeStage::Ahead);
            let connections = self.control.hold();
            moving.run(&mut successor, &connections)
        });
        match moved {
            Ok(totals) => {
                let pid = successor.pid();
                successor.let_go();
                if let Some(engine) = self.engine {
                    engine.leave();
                }
                let (silence, duration) = (moving.stages.silence(), began.elapsed());
                tracing::info!("upgrade: {}", moving.stages);
                Ok(MovedToNext {
                    pid,
                    build,
                    totals,
                    silence,
                    duration,
                    successor,
                    _paused: moving.paused.take(),
                })
            }
            Err(cause) => {
                let mut fault = cause.told(&mut successor);
                // Before a socket is touched here again.
                drop(successor);
                let written = moving.paused.take().map_or(Ok(()), Paused::go_on);
                if let Err(problem) = written {
                    fault.outdated = true;
                    fault.problem.push_str(&format!("; {problem}: this process starts again"));
                    return Err(fault);
                }
                moving.undo();
                Err(fault)
            }
        }
    }

    /// Everything that can be done while clients are served.
    fn greet(
        &self,
        successor: &mut Successor,
        asked: &AskedUpgrade,
        until: Instant,
    ) -> Result<(Box<str>, Option<StoredRun>), LeaveCause> {
        asked.progress(&format!("process {} is started", successor.pid()));
        point("old.hello");
        let hello = HelloRecord {
            protocol: PROTOCOL.into(),
            build: env!("CARGO_PKG_VERSION").into(),
            pid: process::id(),
            shards: self.router.shards() as u16,
        };
        successor.wire.send_record(WireStep::Hello, &hello, until)?;
        let theirs: HelloRecord = self.expect(successor, WireStep::Hello, until)?.record()?;
        if theirs.protocol != u16::from(PROTOCOL) {
            let problem =
                format!("it speaks version {} of the handover, this one {PROTOCOL}", theirs.protocol);
            return Err(fault("refused", problem).into());
        }
        asked.progress(&format!(
            "trunkline {} has read its configuration and starts {} shards",
            theirs.build, theirs.shards
        ));
        point("old.listeners");
        let node = NodeRecord { upgrades: self.counts.to_record(), ..self.node.clone() };
        successor.wire.send_record(WireStep::Node, &node, until)?;
        self.send_listeners(successor, until)?;
        let ready = self.expect(successor, WireStep::Ready, until)?;
        let run = match StoredRecord::from_bytes(&ready.body) {
            Ok(StoredRecord::Run(run)) => Some(run),
            _ => None,
        };
        asked.progress("it is ready: connections move");
        point("old.ready");
        self.send_followed(successor, until)?;
        Ok((theirs.build, run))
    }

    /// Every socket that listens: of each shard, then of the API alone.
    fn send_listeners(&self, successor: &Successor, until: Instant) -> Result<(), LeaveCause> {
        let (outlet, said) = mpsc::sync_channel(self.router.shards());
        self.order_each(until, || Order::Listeners(outlet.clone()))?;
        drop(outlet);
        let mut all: Vec<(record::ListenerRecord, OwnedFd)> = Vec::new();
        for _ in 0..self.router.shards() {
            let left = until.saturating_duration_since(Instant::now());
            match said.recv_timeout(left) {
                Ok((_, Said::Listeners(sockets))) => {
                    for (place, socket) in sockets {
                        if let Some(listener) = self.listeners.get(place.index()) {
                            all.push((listener.clone(), socket));
                        }
                    }
                }
                Ok((shard, said)) => {
                    return Err(
                        fault("failed", format!("shard {} gave no listeners: {said:?}", shard.0)).into()
                    );
                }
                Err(_) => return Err(fault("timeout", "a shard gave no listeners in time").into()),
            }
        }
        let api = self.control.api_listeners().map_err(WireFault::Io)?;
        all.extend(api.into_iter().map(|(address, socket)| {
            let address: Box<str> = address.to_string().into();
            let listener = record::ListenerRecord {
                configured: address.clone(),
                address,
                serves: record::ListenerUse::Api,
            };
            (listener, socket)
        }));
        for some in all.chunks(DESCRIPTORS_MAX) {
            let listeners = some.iter().map(|(listener, _)| listener.clone()).collect();
            let mut body = Vec::new();
            record::write(&ListenersRecord { listeners }, &mut body).map_err(WireFault::Record)?;
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            successor.wire.send(WireStep::Listeners, &body, &descriptors, until)?;
        }
        Ok(successor.wire.send(WireStep::ListenersEnd, b"", &[], until)?)
    }

    /// The channels that it is to follow before it has anybody in them.
    fn send_followed(&self, successor: &mut Successor, until: Instant) -> Result<(), LeaveCause> {
        let Some(engine) = self.engine else { return Ok(()) };
        let names = engine.names().map_err(|problem| fault("failed", problem))?;
        let parts = names.iter().map(MembersPart::of);
        for body in bodies(parts)? {
            successor.wire.send(WireStep::Followed, &body, &[], until)?;
            self.expect(successor, WireStep::Ack, until)?;
        }
        Ok(())
    }

    /// The next message of the new process, unless this one is to end.
    fn expect(
        &self,
        successor: &mut Successor,
        step: WireStep,
        until: Instant,
    ) -> Result<WireMessage, LeaveCause> {
        loop {
            self.ensure_wanted()?;
            match successor.wire.try_receive()? {
                Some(message) if message.step == step => return Ok(message),
                Some(_) => return Err(WireFault::Malformed("a step out of order").into()),
                None if Instant::now() >= until => return Err(WireFault::TimedOut.into()),
                None => successor.wire.wait_readable(until.min(Instant::now() + LOOK))?,
            };
        }
    }

    fn ensure_wanted(&self) -> Result<(), LeaveCause> {
        match (self.interrupted)() {
            Some(problem) => Err(fault("interrupted", problem).into()),
            None => Ok(()),
        }
    }

    /// Gives every shard an order: an inbox that is full empties while its shard runs.
    fn order_each(&self, until: Instant, order: impl Fn() -> Order) -> Result<(), LeaveCause> {
        for shard in self.router.every_shard() {
            while self.router.ask(shard, ControlRequest::Handover(order())).is_err() {
                if Instant::now() >= until {
                    return Err(fault("timeout", format!("the inbox of shard {} stays full", shard.0)).into());
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

/// Records, some in a message each.
fn bodies(parts: impl Iterator<Item = MembersPart>) -> Result<Vec<Vec<u8>>, LeaveCause> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for part in parts {
        match bodies.last_mut().filter(|last| last.len() < BATCH_BYTES) {
            Some(body) => record::write(&part, body),
            None => {
                let mut body = Vec::new();
                let written = record::write(&part, &mut body);
                bodies.push(body);
                written
            }
        }
        .map_err(WireFault::Record)?;
    }
    Ok(bodies)
}

/// What goes wrong on the way.
enum LeaveCause {
    Fault(LeaveFault),
    Wire(WireFault),
}

impl LeaveCause {
    fn told(self, successor: &mut Successor) -> LeaveFault {
        match self {
            LeaveCause::Fault(fault) => fault,
            LeaveCause::Wire(wire) => {
                let wire = successor.last_word(wire);
                let result = match &wire {
                    WireFault::TimedOut => "timeout",
                    WireFault::Refused(_) | WireFault::Version(_) => "refused",
                    _ => "failed",
                };
                fault(result, successor.explain(&wire))
            }
        }
    }
}

impl From<LeaveFault> for LeaveCause {
    fn from(fault: LeaveFault) -> LeaveCause {
        LeaveCause::Fault(fault)
    }
}

impl From<WireFault> for LeaveCause {
    fn from(fault: WireFault) -> LeaveCause {
        LeaveCause::Wire(fault)
    }
}

/// From the first order to shards on.
struct Moving<'l, 'n> {
    leaving: &'l Leaving<'n>,
    outlet: SyncSender<(ShardId, Said)>,
    /// Bound: [`OUTLET_MAX`].
    said: Receiver<(ShardId, Said)>,
    events: Option<EventsHeld>,
    /// What the new process begins with in the store.
    run: Option<StoredRun>,
    paused: Option<Paused>,
    /// The new process handles what the engine's servers send.
    cut: bool,
    until: Instant,
    /// Shards that go on by themselves.
    failed: usize,
    /// Parcels that were sent.
    parcels: u64,
    stages: UpgradeStages,
}

/// Parcels for one message.
#[derive(Default)]
struct ParcelBatch {
    parcels: Vec<ParcelRecord>,
    descriptors: Vec<OwnedFd>,
    bytes: usize,
}

impl ParcelBatch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.descriptors.len() == DESCRIPTORS_MAX
    }

    fn add(&mut self, parcel: Parcel) {
        self.bytes += parcel.record.len();
        self.parcels.push(ParcelRecord {
            kind: parcel.kind as u8,
            has_descriptor: parcel.fd.is_some(),
            record: parcel.record.into(),
        });
        self.descriptors.extend(parcel.fd);
    }
}

impl Moving<'_, '_> {
    /// The sockets of those who are served here meanwhile: most of the work, and nobody waits.
    fn send_ahead(&mut self, successor: &mut Successor) -> Result<(), LeaveCause> {
        self.leaving.order_each(self.until, || Order::Ahead(self.outlet.clone()))?;
        self.send_parcels(successor)?;
        point("old.ahead");
        Ok(())
    }

    fn run(&mut self, successor: &mut Successor, connections: &[OwnedFd]) -> Result<Moves, LeaveCause> {
        let Moving { leaving, until, .. } = *self;
        if let Some(engine) = leaving.engine {
            self.cut = true;
            engine.cut().map_err(|problem| fault("failed", problem))?;
            point("old.cut");
        }
        leaving
            .order_each(until, || Order::Begin { outlet: self.outlet.clone(), attempt: leaving.attempt })?;
        let moves = self.send_parcels(successor)?;
        self.stages.next(UpgradeStage::Records);
        let parcels = self.parcels;
        point("old.parcels");

        self.events = Some(leaving.control.hold_events());
        for record in leaving.control.records().map_err(WireFault::Record)? {
            successor.wire.send(WireStep::Control, &record, &[], until)?;
        }
        if let Some(engine) = leaving.engine {
            let members = engine.members().map_err(|problem| fault("failed", problem))?;
            for body in bodies(members.into_iter())? {
                successor.wire.send(WireStep::Followed, &body, &[], until)?;
            }
        }
        self.give_store(successor)?;
        for some in connections.chunks(DESCRIPTORS_MAX) {
            let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            successor.wire.send(WireStep::ApiConnections, b"", &descriptors, until)?;
        }
        let Moves { peers, channels, users, left_behind } = moves;
        let silence_us = self.stages.silence().as_micros() as u64;
        let totals = TotalsRecord { parcels, peers, left_behind, channels, users, silence_us };
        successor.wire.send_record(WireStep::Complete, &totals, until)?;
        point("old.complete");
        let theirs: TotalsRecord = leaving.expect(successor, WireStep::Adopted, until)?.record()?;
        self.stages.next(UpgradeStage::Adopted);
        if (theirs.parcels, theirs.peers) != (parcels, peers) {
            let problem = format!(
                "of {parcels} parcels and {peers} connections {} and {} have arrived",
                theirs.parcels, theirs.peers
            );
            return Err(fault("failed", problem).into());
        }
        leaving.ensure_wanted()?;
        point("old.commit");
        let until = Instant::now() + COMMIT_MAX;
        successor.wire.send(WireStep::Commit, b"", &[], until)?;
        point("old.committed");
        successor.wire.expect(WireStep::Committed, until)?;
        // Now it may have touched sockets. If it ends all the same, going on here is what is left.
        successor.wire.expect(WireStep::Serving, until)?;
        self.stages.next(UpgradeStage::Serving);
        Ok(moves)
    }

    /// Everything that shards and events gave the store is on disk, and this process writes no more.
    fn give_store(&mut self, successor: &Successor) -> Result<(), LeaveCause> {
        let Some(store) = self.leaving.store else { return Ok(()) };
        let run = self.run.as_ref().ok_or(WireFault::Malformed("a store that it does not know of"))?;
        let paused = store.pause(run).map_err(|problem| fault("failed", problem))?;
        let mut body = Vec::new();
        record::write(&paused.state, &mut body).map_err(WireFault::Record)?;
        self.paused = Some(paused);
        let lock = store.lock().map_err(WireFault::Io)?;
        successor.wire.send(WireStep::Store, &body, &[lock.as_fd()], self.until)?;
        point("old.store");
        Ok(())
    }

    /// What shards say goes to the other process as it comes, a few messages ahead of what that one has taken.
    fn send_parcels(&mut self, successor: &mut Successor) -> Result<Moves, LeaveCause> {
        let (mut moves, mut under_way) = (Moves::default(), 0);
        let mut open = self.leaving.router.shards();
        let mut batch = ParcelBatch::default();
        // What was said last and is not in the batch yet.
        let mut waiting: std::vec::IntoIter<Parcel> = Vec::new().into_iter();
        while open > 0 || !batch.parcels.is_empty() || under_way > 0 {
            while !batch.is_full()
                && let Some(parcel) = waiting.next()
            {
                self.parcels += 1;
                batch.add(parcel);
            }
            let said = match open {
                0 => None,
                _ if batch.is_full() => None,
                // What is there goes out before anything is waited for.
                _ if batch.parcels.is_empty() => match self.said.recv_timeout(LOOK) {
                    Ok(said) => Some(said),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => unreachable!("an outlet is here"),
                },
                _ => self.said.try_recv().ok(),
            };
            match said {
                Some((_, Said::Parcels(parcels))) => {
                    self.stages.spoken();
                    waiting = parcels.into_iter();
                    continue;
                }
                Some((_, Said::Done(counts))) => {
                    moves += counts;
                    open -= 1;
                    continue;
                }
                Some((_, Said::Ahead)) => {
                    open -= 1;
                    continue;
                }
                Some((from, Said::Failed(problem))) => {
                    self.failed += 1;
                    return Err(fault("failed", format!("shard {}: {problem}", from.0)).into());
                }
                Some(_) | None => {}
            }
            self.leaving.ensure_wanted()?;
            if Instant::now() >= self.until {
                return Err(WireFault::TimedOut.into());
            }
            if !batch.parcels.is_empty() && under_way < WINDOW {
                self.send_batch(successor, std::mem::take(&mut batch))?;
                under_way += 1;
            }
            let must_wait = under_way == WINDOW || (open == 0 && batch.parcels.is_empty() && under_way > 0);
            if must_wait {
                successor.wire.wait_readable(Instant::now() + LOOK)?;
            }
            while let Some(message) = successor.wire.try_receive()? {
                match message.step {
                    WireStep::Ack if under_way > 0 => under_way -= 1,
                    _ => return Err(WireFault::Malformed("a step out of order").into()),
                }
            }
        }
        Ok(moves)
    }

    fn send_batch(&self, successor: &Successor, batch: ParcelBatch) -> Result<(), LeaveCause> {
        let ParcelBatch { parcels, descriptors, .. } = batch;
        let mut body = Vec::new();
        record::write(&ParcelsPart { parcels }, &mut body).map_err(WireFault::Record)?;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        // Our copies are closed behind this: those under way are the other's.
        Ok(successor.wire.send(WireStep::Parcels, &body, &borrowed, self.until)?)
    }

    /// Shards, requests and events go on here.
    fn undo(&mut self) {
        let until = Instant::now() + ABORT_MAX;
        if self.leaving.order_each(until, || Order::Abort).is_err() {
            tracing::error!("a shard did not take the end of the upgrade");
        }
        let mut open = self.leaving.router.shards() - self.failed;
        while open > 0 {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((_, Said::Aborted | Said::Failed(_))) => open -= 1,
                // Parcels that were not sent: their copies are closed here.
                Ok(_) => {}
                Err(_) => {
                    tracing::error!("{open} shards did not say that they go on");
                    break;
                }
            }
        }
        if self.cut
            && let Some(engine) = self.leaving.engine
        {
            engine.go_on();
        }
        self.events = None;
        self.leaving.control.release();
    }
}
