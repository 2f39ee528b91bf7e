//! Events for the backend: those of shards, numbered, kept in a bounded log, POSTed in order until accepted, and
//! readable again.
//!
//! Inputs: [`Event`]s of shards. Outputs: batches to one endpoint, pages for `GET /api/events`. Must not know: shards
//! beyond their events.
//!
//! ```text
//!  shards ──tell──▶ Queue ──one task──▶ Log: a number each ──one task──▶ POST, one batch at a time, retried for ever
//!           full: lost, counted         full: the oldest go  └──────────▶ GET /api/events
//! ```
//!
//! # On the wire
//! A batch is `{"epoch":"…","events":[…]}`. An epoch is one run of the daemon, upgrades included, or as long as its store
//! keeps it ([`kept`]); numbers (`seq`) begin at 1 in each and have no hole. Every event has `seq`, `time_ms` (milliseconds
//! since 1970) and `type`; those of a client have `client`,
//! `user` (empty for the anonymous) and `transport`.
//!
//! | type | further fields |
//! |---|---|
//! | `connected` | |
//! | `disconnected` | `code`, `reason`, `duration_ms`, `received_bytes`, `sent_bytes` |
//! | `subscribed` | `channel` |
//! | `unsubscribed` | `channel`, `code`, `reason`: 0 by the client, 1 with its connection, from 2000 on as the client is told |
//! | `occupied`, `vacated` | `channel`; of no client |
//! | `user_online`, `user_offline` | `user`; of no client |
//! | `acked` | `channel`, `epoch`, `acks` (`user`, `device`, `received`, `read`); of no client |
//! | `unacked` | `channel`, `epoch`, `from`, `to`, `users` (`user`, `received`, `devices`, `elsewhere`), `total`; of no client |
//! | `message` | `data`: the JSON that a client sent |
//! | `objective_missed` | `objective`, `stage`, `shard` (where it is worst), `p99_us`; of no client |
//! | `gap` | `from`, `to`, `count`: events with these numbers are lost, and `seq` is `to`; of no client |
//!
//! `Idempotency-Key` is `epoch-first-last`, and a batch that is tried again is the same to the byte. With a secret,
//! [`signature`] says what `X-Trunkline-Signature` holds. Any 2xx accepts a batch, everything else (redirects too) and
//! every failure of the way is tried again.

pub mod kept;
mod log;
mod options;
mod queue;
mod sender;
pub mod signature;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use self::kept::{FoundEvents, KeepingEvents, KeptEvents, KeptPlace};
use self::log::EventLog;
use self::queue::EventQueue;
use self::sender::EventSender;
use crate::base::event::{Event, EventKind};
use crate::control::process::{self, wall_ms};
use crate::record::{EventsPart, EventsRecord, RecordFault};
use crate::shard::control_request::Busy;

pub use self::options::EventOptions;

/// Bytes of one batch or page, after which no further event is added: what a backend takes without a thought.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Events taken from the queue under one hold of the log's lock.
const DRAIN_EVENTS: usize = 1024;
/// How soon the store is offered again what it had no room for: half of what "async" may lose.
const KEEP_AGAIN: Duration = Duration::from_millis(50);
/// How long events gather before the next are taken: a burst makes one batch, and one wake.
const GATHER: Duration = Duration::from_millis(2);

/// The events of this run.
pub struct EventsHandle {
    /// Names this run, upgrades included: numbers of another are others'.
    epoch: Mutex<String>,
    /// Held while a batch is under way.
    sending: Arc<tokio::sync::Mutex<()>>,
    queue: EventQueue,
    log: Mutex<EventLog>,
    /// Of the newest event in the log.
    grown: watch::Sender<u64>,
    /// Up to which number the backend has accepted.
    accepted: watch::Sender<u64>,
    /// To whom batches go, and how.
    options: watch::Sender<EventOptions>,
    counts: EventCounts,
    /// Where there is a store.
    keeping: Option<Mutex<KeepingEvents>>,
    /// There is something for the store, or it wants something.
    keep: Arc<Notify>,
}

#[derive(Debug, Default)]
struct EventCounts {
    by_kind: [AtomicU64; EventKind::ALL.len()],
    sent: AtomicU64,
    fallen: AtomicU64,
    batches: AtomicU64,
    failures: AtomicU64,
}

/// A part of the log, as `GET /api/events` gives it.
#[derive(Debug, PartialEq, Eq)]
pub struct EventsPage {
    /// The oldest and the newest number in the log: `first` is above `last` while it is empty.
    pub first: u64,
    pub last: u64,
    /// Events as JSON, with commas between them.
    pub events: Vec<u8>,
}

impl EventsHandle {
    /// Starts numbering, and sending when there is an endpoint. Call it on the runtime that is to do it.
    ///
    /// # Errors
    /// When the operating system gives no randomness, or the endpoint cannot be spoken to from this machine at all.
    pub fn start(options: &EventOptions, kept: Option<KeptEvents>) -> io::Result<Arc<EventsHandle>> {
        let (mut epoch, mut log) = (process::random_id()?.to_string(), EventLog::new(options.log_bytes_max));
        let (mut accepted, mut keeping, mut keep) = (0, None, Arc::default());
        if let Some(kept) = kept {
            let here = kept.found.as_ref().map_or(0, FoundEvents::here);
            if let Some(found) = kept.found {
                epoch = found.epoch.to_string();
                let restored = found.restore(options.log_bytes_max);
                (log, accepted) = restored
                    .map_err(|fault| io::Error::other(format!("the log of events in the store: {fault}")))?;
            }
            (keeping, keep) = (Some(Mutex::new(KeepingEvents::new(kept.keeper, here))), kept.wake);
        }
        let events = Arc::new(EventsHandle {
            epoch: Mutex::new(epoch),
            sending: Arc::default(),
            queue: EventQueue::new(),
            grown: watch::Sender::new(log.last()),
            log: Mutex::new(log),
            accepted: watch::Sender::new(accepted),
            options: watch::Sender::new(options.clone()),
            counts: EventCounts::default(),
            keeping,
            keep,
        });
        EventsHandle::check(options)?;
        tokio::spawn(Arc::clone(&events).send());
        tokio::spawn(Arc::clone(&events).collect());
        Ok(events)
    }

    /// Whether what these options name can be spoken to from this machine.
    ///
    /// # Errors
    /// As [`EventsHandle::start`].
    pub fn check(options: &EventOptions) -> io::Result<()> {
        EventSender::new(options).map(drop).map_err(io::Error::other)
    }

    /// Batches go where these say from the next try on. The log's bound stays as it is.
    pub fn exchange(&self, options: EventOptions) {
        self.options.send_replace(options);
    }

    /// Batches are sent, and so accepted some day.
    fn sends(&self) -> bool {
        self.options.borrow().endpoint.is_some()
    }

    /// Goes on in the place of the process that wrote these, numbers and all. Call it before the first event here, while
    /// sending is [held](EventsHandle::hold).
    ///
    /// # Errors
    /// [`RecordFault`] for a record that is none of a log of events.
    pub fn restore(
        &self,
        options: &EventOptions,
        record: &EventsRecord,
        parts: impl IntoIterator<Item = EventsPart>,
    ) -> Result<(), RecordFault> {
        let restored = EventLog::restore(options.log_bytes_max, record, parts)?;
        let mut log = self.log.lock();
        *log = restored;
        *self.epoch.lock() = record.epoch.to_string();
        self.accepted.send_replace(record.accepted);
        self.grown.send_replace(log.last());
        if let Some(keeping) = &self.keeping {
            keeping.lock().goes_on(record.last);
        }
        Ok(())
    }

    /// Sends nothing while what is given lives: waits at most so long for the batch that is under way. `None`: it is still
    /// under way, and may be sent twice.
    pub async fn hold(&self, patience: Duration) -> Option<OwnedMutexGuard<()>> {
        tokio::time::timeout(patience, Arc::clone(&self.sending).lock_owned()).await.ok()
    }

    /// The log of events: its numbers, then all of it, as [`EventsHandle::restore`] takes it. Call it when shards tell nothing any
    /// more and no batch is under way; what is still in the queue is numbered now.
    pub fn to_records(&self) -> (EventsRecord, Vec<EventsPart>) {
        while self.take_some() {}
        self.give_to_store();
        let log = self.log.lock();
        let (mut parts, mut after) = (Vec::new(), 0);
        while let Some(part) = log.part(after) {
            after = part.entries.last().map_or(after, |last| last.seq);
            parts.push(part);
        }
        let (last, fallen, accepted) = (log.last(), log.fallen(), *self.accepted.borrow());
        (EventsRecord { epoch: self.epoch().into(), last, fallen, accepted }, parts)
    }

    /// Takes an event, from any thread and without waiting.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full.
    pub fn tell(&self, event: Event) -> Result<(), Busy> {
        self.queue.push(event)
    }

    pub fn epoch(&self) -> String {
        self.epoch.lock().clone()
    }

    /// What comes after `after`, at most `limit` events. Begins with a gap when that is not there any more.
    pub fn page(&self, after: u64, limit: usize) -> EventsPage {
        let log = self.log.lock();
        let mut events = Vec::new();
        log.write(after, limit, PAGE_BYTES_MAX, wall_ms(), &mut events);
        EventsPage { first: log.first(), last: log.last(), events }
    }

    /// Until everything told so far is accepted. Without an endpoint nothing ever is, and this ends at once.
    pub async fn drained(&self) {
        while self.sends() && !self.is_drained() {
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Events told and not accepted.
    pub fn unaccepted(&self) -> u64 {
        match self.sends() {
            true => self.log.lock().last() - *self.accepted.borrow() + self.queue.len() as u64,
            false => 0,
        }
    }

    fn is_drained(&self) -> bool {
        // Under the lock: what has left the queue is in the log.
        let log = self.log.lock();
        self.queue.is_empty() && log.last() == *self.accepted.borrow()
    }

    async fn collect(self: Arc<EventsHandle>) {
        let mut is_behind = true;
        loop {
            tokio::select! {
                () = self.queue.filled() => {}
                () = self.keep.notified() => {}
                () = tokio::time::sleep(KEEP_AGAIN), if is_behind => {}
            }
            while self.take_some() {
                // Others of the runtime have their turn.
                tokio::task::yield_now().await;
            }
            is_behind = !self.give_to_store();
            tokio::time::sleep(GATHER).await;
        }
    }

    /// What the store does not have yet. False when it has no room now.
    fn give_to_store(&self) -> bool {
        let Some(keeping) = &self.keeping else { return true };
        let (epoch, accepted) = (self.epoch(), *self.accepted.borrow());
        keeping.lock().keep(&epoch, &self.log, accepted)
    }

    /// Nothing more comes: what is here goes to the store.
    pub fn finish(&self) {
        while self.take_some() {}
        self.give_to_store();
    }

    /// Moves events from the queue to the log. True when there may be more.
    fn take_some(&self) -> bool {
        let mut log = self.log.lock();
        for _ in 0..DRAIN_EVENTS {
            let Some(event) = self.queue.pop() else {
                self.grown.send_replace(log.last());
                return false;
            };
            if let Some(kind) = event.what.kind() {
                self.counts.by_kind[kind as usize].fetch_add(1, Ordering::Relaxed);
            }
            log.push(&event);
        }
        self.grown.send_replace(log.last());
        true
    }

    async fn send(self: Arc<EventsHandle>) {
        let mut grown = self.grown.subscribe();
        let mut options = self.options.subscribe();
        options.mark_changed();
        let (mut sender, mut batch_max, mut again) = (None, 0, None);
        loop {
            // The senders of both channels are in `self`: they do not go away.
            if options.has_changed().unwrap_or(false) {
                let current = options.borrow_and_update().clone();
                // What cannot be made was refused when the options came.
                sender = EventSender::new(&current).ok().flatten();
                batch_max = current.batch_max;
                again = None;
            }
            let Some(sender) = &mut sender else {
                let _ = options.changed().await;
                options.mark_changed();
                continue;
            };
            let held = self.sending.lock().await;
            let accepted = *self.accepted.borrow();
            let Some(batch) = again.take().or_else(|| self.next_batch(accepted, batch_max)) else {
                drop(held);
                tokio::select! {
                    _ = grown.wait_for(|&last| last > accepted) => {}
                    _ = options.changed() => options.mark_changed(),
                }
                continue;
            };
            if !sender.deliver(&batch).await {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                again = Some(batch);
                drop(held);
                sender.pause().await;
                continue;
            }
            self.counts.batches.fetch_add(1, Ordering::Relaxed);
            self.counts.sent.fetch_add(batch.last - accepted, Ordering::Relaxed);
            self.accepted.send_replace(batch.last);
            self.keep.notify_one();
        }
    }

    fn next_batch(&self, accepted: u64, batch_max: usize) -> Option<sender::EventBatch> {
        let mut body = format!("{{\"epoch\":\"{}\",\"events\":[", self.epoch()).into_bytes();
        let log = self.log.lock();
        let fallen = (log.first() - 1).saturating_sub(accepted);
        self.counts.fallen.fetch_add(fallen, Ordering::Relaxed);
        let last = log.write(accepted, batch_max, PAGE_BYTES_MAX, wall_ms(), &mut body)?;
        drop(log);
        body.extend_from_slice(b"]}");
        let key = format!("{}-{}-{last}", self.epoch(), accepted + 1);
        Some(sender::EventBatch { last, key, body: body.into() })
    }
}

impl std::fmt::Debug for EventsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventsHandle").field("epoch", &self.epoch()).field("counts", &self.counts).finish()
    }
}

/// The events of this node, if there are any yet: another configuration may begin to tell them.
#[derive(Clone, Debug, Default)]
pub struct EventsPlace {
    events: Arc<OnceLock<Arc<EventsHandle>>>,
    kept: KeptPlace,
}

impl EventsPlace {
    pub fn new(kept: KeptPlace) -> EventsPlace {
        EventsPlace { events: Arc::default(), kept }
    }

    pub fn get(&self) -> Option<&Arc<EventsHandle>> {
        self.events.get()
    }

    /// Once: they go on when the configuration names no kinds any more. Call it on the runtime that is to send them.
    ///
    /// # Errors
    /// As [`EventsHandle::start`].
    pub fn start(&self, options: &EventOptions) -> io::Result<()> {
        let _ = self.events.set(EventsHandle::start(options, self.kept.take())?);
        Ok(())
    }
}

/// What `/metrics` shows of events.
#[derive(Debug)]
pub struct EventMetrics(pub EventsPlace);

impl Collector for EventMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(events) = self.0.get() else { return Ok(()) };
        let EventsHandle { counts, log, .. } = &**events;
        let help = "Events numbered, by type";
        let zero = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor("events", help, None, zero.metric_type())?;
        for kind in EventKind::ALL {
            let counter = ConstCounter::new(counts.by_kind[kind as usize].load(Ordering::Relaxed));
            counter.encode(family.encode_family(&[("type", kind.name())])?)?;
        }
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("events_accepted", "Events that the backend accepted, gaps included", load(&counts.sent)),
            ("events_fallen", "Events that fell off the log before they were sent", load(&counts.fallen)),
            ("event_batches_accepted", "Batches of events that the backend accepted", load(&counts.batches)),
            ("event_batches_failed", "Batches of events to be tried again", load(&counts.failures)),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let log_bytes = log.lock().bytes() as u64;
        for (name, help, value) in [
            ("events_log_bytes", "What the log of events weighs", log_bytes),
            ("events_unaccepted", "Events told and not accepted yet", events.unaccepted()),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
