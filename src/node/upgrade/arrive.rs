//! The new process of an upgrade: it makes everything, takes over what the old one gives, and serves from the commit on.
//!
//! Inputs: the socket to the old process, the parts of this node. Outputs: a node that serves, or a [`WireFault`], after
//! which this process must end without touching anything. Must not know: what is in a parcel.
//!
//! [`leave`](super::leave) draws the order of the messages.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::counts::UpgradeCounts;
use super::fault::point;
use super::request::TIMEOUT_MAX;
use super::wire::{PROTOCOL, UpgradeWire, WireFault, WireMessage, WireStep};
use crate::base::ids::ShardId;
use crate::config::Config;
use crate::control::Control;
use crate::engine::RunningEngine;
use crate::node::engine::{await_up, kind_of};
use crate::node::store::Store;
use crate::node::store_relay::{Coming, path_of};
use crate::record::{
    self, HelloRecord, ListenerRecord, ListenersRecord, MembersPart, NodeRecord, ParcelRecord, ParcelsPart,
    StoredRecord, TotalsRecord,
};
use crate::shard::control_request::ControlRequest;
use crate::shard::handover::{
    Afloat, Counts as Moves, Destination, Order, Parcel, ParcelKind, Said, destination, streams_of,
};
use crate::shard::router::Router;

/// How long a shard of this process may leave its inbox full, or may take to make everything ready.
const SHARD_MAX: Duration = Duration::from_secs(60);
/// Descriptors that are on their way to shards at a time: they are open files of this process until a driver has them, and
/// those of eight messages of the old process come on top.
const AFLOAT_MAX: usize = 2_048;

/// Half of an upgrade: what is known before shards are made.
pub struct Arriving {
    wire: UpgradeWire,
    /// Keys, ids and counts of the node.
    pub node: NodeRecord,
    /// What the old process listens on.
    pub listeners: Vec<(ListenerRecord, OwnedFd)>,
    began: Instant,
}

/// The old process has waited longer than any timeout: its own clock ends this first.
fn patience() -> Instant {
    Instant::now() + TIMEOUT_MAX
}

impl Arriving {
    /// # Errors
    /// The old process is not understood, or has given up.
    pub fn greet(mut wire: UpgradeWire, shards: u16) -> Result<Arriving, WireFault> {
        let began = Instant::now();
        point("new.hello");
        let theirs: HelloRecord = wire.expect(WireStep::Hello, patience())?.record()?;
        let hello = HelloRecord {
            protocol: PROTOCOL.into(),
            build: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            shards,
        };
        wire.send_record(WireStep::Hello, &hello, patience())?;
        tracing::info!(
            "taking over from process {} (trunkline {}, {} shards)",
            theirs.pid,
            theirs.build,
            theirs.shards
        );
        let node = wire.expect(WireStep::Node, patience())?.record()?;
        let mut listeners = Vec::new();
        loop {
            let message = wire.receive(patience())?;
            match message.step {
                WireStep::ListenersEnd => break,
                WireStep::Listeners => {
                    let record: ListenersRecord = message.record()?;
                    if record.listeners.len() != message.descriptors.len() {
                        return Err(WireFault::DescriptorsLost);
                    }
                    listeners.extend(record.listeners.into_iter().zip(message.descriptors));
                }
                _ => return Err(WireFault::Malformed("a step out of order")),
            }
        }
        point("new.listeners");
        Ok(Arriving { wire, node, listeners, began })
    }

    /// Says why this process cannot follow. It ends behind this.
    pub fn refuse(&self, problem: &str) {
        let _ = self.wire.send(WireStep::Refused, problem.as_bytes(), &[], Instant::now() + SHARD_MAX);
    }

    /// Whether this process can go on with the channels of the one before.
    ///
    /// # Errors
    /// What another configuration has in another place, in a sentence.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        let (theirs, ours) = (self.node.store.as_deref(), path_of(config));
        let text = |path: Option<&str>| path.map_or_else(|| "none".to_owned(), |path| format!("{path:?}"));
        if theirs != ours.as_deref() {
            let (theirs, ours) = (text(theirs), text(ours.as_deref()));
            return Err(format!(
                "store.path is changed by a restart, not by an upgrade: from {theirs} to {ours}"
            ));
        }
        let (theirs, ours) = (&*self.node.engine, kind_of(config));
        if theirs != ours {
            let text = |kind: &str| match kind {
                "" => "memory".to_owned(),
                kind => format!("{kind:?}"),
            };
            let (theirs, ours) = (text(theirs), text(ours));
            return Err(format!(
                "engine.kind is changed by a restart, not by an upgrade: from {theirs} to {ours}"
            ));
        }
        Ok(())
    }

    /// Takes everything, and returns when this process serves, with its store. Calls `reachable` before anybody hears that it does.
    ///
    /// # Errors
    /// The old process goes on: this one must end, and leave everything as it is.
    pub fn take_over(
        mut self,
        router: &Router,
        control: &Control,
        counts: &UpgradeCounts,
        mut coming: Option<Coming>,
        engine: Option<&RunningEngine>,
        reachable: impl FnOnce(),
    ) -> Result<Option<Store>, WireFault> {
        let taken = self.take(router, control, coming.as_mut(), engine);
        match taken {
            Ok((totals, connections)) => {
                point("new.committed");
                let store = coming.and_then(Coming::begin);
                point("new.begun");
                if let Some(engine) = engine {
                    engine.begin();
                }
                reachable();
                self.serve(router, control, counts, totals, connections)?;
                Ok(store)
            }
            Err(fault) => {
                self.refuse(&fault.to_string());
                Err(fault)
            }
        }
    }

    fn take(
        &mut self,
        router: &Router,
        control: &Control,
        mut coming: Option<&mut Coming>,
        engine: Option<&RunningEngine>,
    ) -> Result<((TotalsRecord, Instant), Vec<OwnedFd>), WireFault> {
        if let Some(engine) = engine {
            await_up(engine).map_err(WireFault::Refused)?;
        }
        let mut run = Vec::new();
        if let Some(coming) = &coming {
            StoredRecord::Run(coming.run().clone()).write_to(&mut run);
        }
        self.wire.send(WireStep::Ready, &run, &[], patience())?;
        let (mut parcels, mut connections) = (0, Vec::new());
        let afloat = Arc::default();
        let totals = loop {
            let message = self.wire.receive(patience())?;
            match message.step {
                WireStep::Parcels => {
                    parcels += place(router, message, engine, &afloat)?;
                    point("new.parcels");
                    self.wire.send(WireStep::Ack, b"", &[], patience())?;
                }
                WireStep::Control => control.take_record(&message.body)?,
                WireStep::Followed => {
                    let engine = engine.ok_or(WireFault::Malformed("members of an engine"))?;
                    if follow(engine, &message.body)? {
                        self.wire.send(WireStep::Ack, b"", &[], patience())?;
                    }
                }
                WireStep::Store => {
                    let state = message.record()?;
                    let (Some(coming), Some(lock)) = (&mut coming, message.descriptors.into_iter().next())
                    else {
                        return Err(WireFault::Malformed("a store"));
                    };
                    coming.take(&state, lock).map_err(WireFault::Refused)?;
                    point("new.store");
                }
                WireStep::ApiConnections => connections.extend(message.descriptors),
                WireStep::Complete => break message.record::<TotalsRecord>()?,
                _ => return Err(WireFault::Malformed("a step out of order")),
            }
        };
        if coming.is_some_and(|coming| !coming.is_here()) {
            return Err(WireFault::Malformed("no store"));
        }
        let received = Instant::now();
        let moves = arm(router)?;
        control.settle()?;
        point("new.adopted");
        let adopted =
            TotalsRecord { parcels, peers: moves.peers, channels: moves.channels, ..totals.clone() };
        self.wire.send_record(WireStep::Adopted, &adopted, patience())?;
        self.wire.expect(WireStep::Commit, patience())?;
        point("new.commit");
        // Whether or not the old process still hears it: it is this one's now.
        let _ = self.wire.send(WireStep::Committed, b"", &[], patience());
        Ok(((totals, received), connections))
    }

    /// Nothing can fail any more in a way that another process could mend.
    fn serve(
        self,
        router: &Router,
        control: &Control,
        counts: &UpgradeCounts,
        (totals, received): (TotalsRecord, Instant),
        connections: Vec<OwnedFd>,
    ) -> Result<(), WireFault> {
        // First: shards that serve leave little of the cpu to this thread.
        control.open(connections);
        let (outlet, said) = mpsc::sync_channel(router.shards());
        order_each(router, || Order::Resume(outlet.clone()))?;
        drop(outlet);
        let silence = Duration::from_micros(totals.silence_us) + received.elapsed();
        counts.done(totals.peers, totals.left_behind, self.began.elapsed(), silence);
        // It may have ended at the word before this one.
        let _ = self.wire.send(WireStep::Serving, b"", &[], Instant::now() + SHARD_MAX);
        // Its end is work for the kernel, which comes when clients do not need the cpu any more: with the end of the wire.
        let (wire, shards, serving) = (self.wire, router.shards(), Instant::now());
        let _ = thread::Builder::new().name("settling".into()).spawn(move || {
            let until = Instant::now() + SHARD_MAX;
            for _ in 0..shards {
                if said.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                    break;
                }
            }
            tracing::info!(
                "upgrade: everybody is read from, {} ms after this process serves",
                serving.elapsed().as_millis()
            );
            wire.end();
        });
        tracing::info!(
            "took over {} connections and {} channels; clients waited {} ms",
            totals.peers,
            totals.channels,
            silence.as_millis()
        );
        Ok(())
    }
}

/// Channels that are to be followed, which is answered, or those who are in them.
fn follow(engine: &RunningEngine, body: &[u8]) -> Result<bool, WireFault> {
    let (mut rest, mut names) = (body, Vec::new());
    while !rest.is_empty() {
        let (unread, behind) = record::next(rest)?;
        let part: MembersPart = unread.read()?;
        match part.members.is_empty() {
            true => names.push(part.channel),
            false => engine.adopt(part),
        }
        rest = behind;
    }
    let is_answered = !names.is_empty();
    if is_answered {
        engine.follow(names).map_err(|problem| WireFault::Refused(problem.to_owned()))?;
    }
    Ok(is_answered)
}

/// Where the subscribers of a shard stand.
fn say_stood(engine: &RunningEngine, parcel: &Parcel) -> Result<(), WireFault> {
    for stream in streams_of(&parcel.record)? {
        if let Some(top) = stream.top {
            engine.stood(stream.channel, top);
        }
    }
    Ok(())
}

/// Gives the parcels of a message to the shards that they are for.
fn place(
    router: &Router,
    message: WireMessage,
    engine: Option<&RunningEngine>,
    afloat: &Arc<AtomicUsize>,
) -> Result<u64, WireFault> {
    let part: ParcelsPart = message.record()?;
    let mut descriptors = message.descriptors.into_iter();
    let count = part.parcels.len() as u64;
    let mut of_shards: Vec<Vec<Parcel>> = router.every_shard().map(|_| Vec::new()).collect();
    for ParcelRecord { kind, has_descriptor, record } in part.parcels {
        let kind =
            ParcelKind::from_number(kind).ok_or(WireFault::Malformed("a parcel of an unknown kind"))?;
        let fd = match has_descriptor {
            true => Some(descriptors.next().ok_or(WireFault::DescriptorsLost)?),
            false => None,
        };
        let parcel = Parcel { kind, record: record.into(), fd };
        if let (ParcelKind::Stream, Some(engine)) = (kind, engine) {
            say_stood(engine, &parcel)?;
        }
        match destination(&parcel, router)? {
            Destination::One(shard) => of_shards[shard.index()].push(parcel),
            Destination::Every => of_shards.iter_mut().for_each(|parcels| parcels.push(parcel.duplicate())),
        }
    }
    for (shard, parcels) in router.every_shard().zip(of_shards) {
        if !parcels.is_empty() {
            adopt(router, shard, parcels, afloat)?;
        }
    }
    match descriptors.next() {
        None => Ok(count),
        Some(_) => Err(WireFault::Malformed("a descriptor of no parcel")),
    }
}

fn adopt(
    router: &Router,
    shard: ShardId,
    parcels: Vec<Parcel>,
    afloat: &Arc<AtomicUsize>,
) -> Result<(), WireFault> {
    let until = Instant::now() + SHARD_MAX;
    let descriptors = parcels.iter().filter(|parcel| parcel.fd.is_some()).count();
    if descriptors > 0 {
        await_that(until, || (afloat.load(Ordering::Relaxed) < AFLOAT_MAX).then_some(()))?;
    }
    let order = Order::Adopt(parcels, Afloat::new(afloat, descriptors));
    let mut request = Some(Box::new(ControlRequest::Handover(order)));
    await_that(until, || {
        let back = router.offer(shard, request.take()?).err();
        request = back;
        request.is_none().then_some(())
    })
}

/// Looks again and again: shards of this process have little else to do.
fn await_that(until: Instant, mut look: impl FnMut() -> Option<()>) -> Result<(), WireFault> {
    while look().is_none() {
        if Instant::now() >= until {
            return Err(WireFault::TimedOut);
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Every shard makes its connections ready, and says how many it has.
fn arm(router: &Router) -> Result<Moves, WireFault> {
    let (outlet, said) = mpsc::sync_channel(router.shards());
    order_each(router, || Order::Arm(outlet.clone()))?;
    let mut moves = Moves::default();
    for _ in 0..router.shards() {
        match said.recv_timeout(SHARD_MAX) {
            Ok((_, Said::Armed(counts))) => moves += counts,
            Ok((shard, Said::Failed(problem))) => {
                return Err(WireFault::Refused(format!("shard {}: {problem}", shard.0)));
            }
            Ok(_) => return Err(WireFault::Malformed("what a shard says")),
            Err(_) => return Err(WireFault::TimedOut),
        }
    }
    Ok(moves)
}

fn order_each(router: &Router, order: impl Fn() -> Order) -> Result<(), WireFault> {
    let until = Instant::now() + SHARD_MAX;
    router
        .every_shard()
        .try_for_each(|shard| await_that(until, || router.ask(shard, ControlRequest::Handover(order())).ok()))
}
