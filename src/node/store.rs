//! The store of this node: opened before shards are made, written by a thread of its own, closed when they have ended.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::Notify;

use crate::base::secret;
use crate::config::Config;
use crate::config::cli::{StoreJob, StoreTask};
use crate::control::blocks_kept::BlocksKept;
use crate::control::events::kept::{FoundEvents, KeptEvents, KeptPlace};
use crate::control::keeper::Keeper;
use crate::driver;
use crate::hub::OwnedChannels;
use crate::hub::log_store::{Durable, LogStore};
use crate::hub::options::Namespaces;
use crate::hub::owned::StoredMoment;
use crate::node::file_limit;
use crate::node::store_pause::{Pauses, Relay};
use crate::record::{BlockRecord, EventEntry, StoredRecord, StoredRun};
use crate::shard::ShardOptions;
use crate::shard::mailbox::ShardInbox;
use crate::shard::owner;
use crate::shard::router::Router;
use crate::store::{
    Disk, Health, Queues, Restored, RestoredEvents, Restoring, ShardStore, StoreDirectory, StoreFault,
    StoreId, StoreRead, StoreWork, Writer, WriterOptions, WriterTurn, WriterWake, read_all, tools,
};

/// How often the writer looks whether there is work of its own.
const LOOK: Duration = Duration::from_millis(500);
/// How long the end of the process before may take.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is said that publications stay in memory alone.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// A sync that takes longer costs "async" its promise of 100 ms.
const SLOW_SYNC: Duration = Duration::from_millis(50);

/// A store that is open.
pub struct Store {
    pub(super) queues: Arc<Queues>,
    pub(super) thread: JoinHandle<()>,
    pub(super) syncs: Histogram,
    /// For a process that goes on with it.
    pub(super) relay: Relay,
}

/// What of the control plane is kept in a store.
#[derive(Default)]
pub struct Keepers {
    pub events: KeptPlace,
    pub blocks: Option<BlocksKept>,
}

/// The channels of each shard, as the store had them.
pub type Channels = Vec<Option<OwnedChannels>>;

/// Opens the store of the configuration and gives each shard what it has of its channels.
///
/// # Errors
/// It cannot be opened, which names it and says why.
pub fn open(
    config: &Config,
    options: &ShardOptions,
    router: &Router,
    wall_ms: u64,
) -> io::Result<(Option<Store>, Channels, Keepers)> {
    let shards = router.shards();
    let Some(path) = &config.store.path else {
        return Ok((None, (0..shards).map(|_| None).collect(), Keepers::default()));
    };
    let failed = |fault: StoreFault| io::Error::other(format!("store.path = {path:?}: {fault}"));
    file_limit::outlive()?;
    let began = Instant::now();
    let mut directory = take(Path::new(path)).map_err(failed)?;
    let at = StoredMoment { now: driver::now(), wall_ms };
    let owners = owners(options, shards)?;
    let place = |channel: &str| match router.owner(channel) {
        owner::Owner::Shard(shard) => shard.index(),
        owner::Owner::Engine(_) => 0,
    };
    let mut restoring = Restoring::new(owners, &place, at);
    let read = read_all(&mut directory, &mut |found| restoring.take(found)).map_err(failed)?;
    let too_much = |fault: crate::record::RecordFault| failed(StoreFault::TooMuch(fault.to_string()));
    let (owners, mut restored) = restoring.finish().map_err(too_much)?;
    say_restored(path, &read, &restored, began.elapsed());

    for change in restored.blocks.values().filter_map(BlockRecord::change) {
        // What has no room is of a build with another bound.
        let _ = options.blocks.apply(&change, wall_ms / 1000);
    }
    let (queues, wakes) = queues_of(router);
    let syncs = syncs();
    let lock = directory.lock()?;
    let disk = TimedDisk { directory, syncs: syncs.clone() };
    let id = StoreId(u128::from(secret::word()?) << 64 | u128::from(secret::word()?));
    let run = run_of(&options.namespaces, at.wall_ms);
    let settings = writer_options(config);
    let writer = Writer::open(disk, &read, id, settings, Arc::clone(&queues), run.clone(), at.now);
    let writer = writer.map_err(failed)?;
    let (relay, pauses) = Relay::new(lock, run);
    let of_thread = Arc::clone(&queues);
    let thread = thread::Builder::new()
        .name("store".into())
        .spawn(move || write_from(WriterTurn::default(), writer, &of_thread, &pauses))?;
    let found = restored.events.take().map(found_events);
    let (channels, kept) = ends_of(&queues, owners, found, wakes);
    Ok((Some(Store { queues, thread, syncs, relay }), channels, kept))
}

/// Channels of each shard without any, as [`open`] gives them.
pub(super) fn owners(options: &ShardOptions, shards: usize) -> io::Result<Vec<OwnedChannels>> {
    let owner = |_| -> io::Result<OwnedChannels> {
        let (namespaces, limits) = (Arc::clone(&options.namespaces), options.hub.clone());
        Ok(OwnedChannels::new(namespaces, limits, secret::prng()?).among(shards as u16))
    };
    (0..shards).map(owner).collect()
}

/// What wakes those that give the log of events, and blocks.
pub(super) type Wakes = [Arc<Notify>; 2];

/// One queue for each shard; the last ones are of the log of events, and of blocks.
pub(super) fn queues_of(router: &Router) -> (Arc<Queues>, Wakes) {
    let inboxes: Vec<Arc<ShardInbox>> =
        router.every_shard().map(|shard| Arc::clone(router.inbox(shard))).collect();
    let others: Wakes = Default::default();
    let wakes = inboxes.into_iter().map(|inbox| Box::new(move || inbox.nudge()) as WriterWake);
    let queues = Queues::new(
        wakes.chain(others.clone().map(|wake| Box::new(move || wake.notify_one()) as WriterWake)),
    );
    // Few nodes have events or blocks.
    queues.leave(router.shards());
    queues.leave(router.shards() + 1);
    (queues, others)
}

/// What shards and the control plane have of the store.
pub(super) fn ends_of(
    queues: &Arc<Queues>,
    owners: Vec<OwnedChannels>,
    found: Option<FoundEvents>,
    [wake, wake_blocks]: Wakes,
) -> (Channels, Keepers) {
    let keeper = Box::new(ShardStore::new(queues, owners.len()));
    let of_blocks = Box::new(ShardStore::new(queues, owners.len() + 1));
    let with_store = |(index, owner): (usize, OwnedChannels)| {
        Some(owner.with_store(Box::new(ShardStore::new(queues, index))))
    };
    let channels = owners.into_iter().enumerate().map(with_store).collect();
    let keepers = Keepers {
        events: KeptPlace::new(KeptEvents { found, keeper, wake }),
        blocks: Some(BlocksKept::new(of_blocks, wake_blocks)),
    };
    (channels, keepers)
}

pub(super) fn syncs() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 16))
}

pub(super) fn writer_options(config: &Config) -> WriterOptions {
    WriterOptions {
        segment_bytes: config.store.segment_bytes.0,
        bytes_max: config.store.bytes_max.0,
        compact_interval: config.store.compact_interval,
    }
}

impl Keeper for ShardStore {
    fn begin(&mut self) {
        ShardStore::begin(self);
    }

    fn keep(&mut self, record: StoredRecord, copies: bool) -> bool {
        match copies {
            true => self.copy(record).is_ok(),
            false => ShardStore::keep(self, &record).is_ok(),
        }
    }

    fn wants_copy(&mut self) -> u64 {
        LogStore::wants_copy(self)
    }

    fn copied(&mut self, number: u64) {
        LogStore::copied(self, number);
    }
}

fn found_events(restored: RestoredEvents) -> FoundEvents {
    let RestoredEvents { epoch, last, fallen, accepted, entries, .. } = restored;
    let entries = entries.into_iter().map(|(seq, json)| EventEntry { seq, json }).collect();
    FoundEvents { epoch, last, fallen, accepted, entries }
}

/// A process that was killed just now may hold it a moment longer.
fn take(path: &Path) -> Result<StoreDirectory, StoreFault> {
    let began = Instant::now();
    loop {
        match StoreDirectory::open(path, driver::allocate) {
            Err(StoreFault::InUse) if began.elapsed() < IN_USE_PATIENCE => thread::sleep(LOOK / 50),
            opened => return opened,
        }
    }
}

impl Store {
    /// Shards have ended: the rest is written.
    pub fn close(self) {
        self.queues.stop();
        let _ = self.thread.join();
    }

    pub fn collector(&self) -> Arc<dyn Collector> {
        collector(&self.queues, &self.syncs)
    }
}

pub(super) fn collector(queues: &Arc<Queues>, syncs: &Histogram) -> Arc<dyn Collector> {
    Arc::new(StoreMetrics { queues: Arc::clone(queues), syncs: Mutex::new(syncs.clone()) })
}

pub(super) fn run_of(namespaces: &Namespaces, time_ms: u64) -> StoredRun {
    let is_loose = |durable: Durable| durable == Durable::Async;
    StoredRun {
        time_ms,
        private_prefix: namespaces.private_prefix().to_owned(),
        default_is_loose: is_loose(namespaces.default_options().durable),
        loose: namespaces
            .named()
            .filter(|(_, options)| is_loose(options.durable))
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

/// The life of the writer's thread, behind a first turn.
pub(super) fn write_from(first: WriterTurn, mut writer: Writer<TimedDisk>, queues: &Queues, pauses: &Pauses) {
    let mut said = StoreSaid::default();
    said.say(first, queues);
    loop {
        let work = queues.wait(LOOK);
        if let Ok(pause) = pauses.try_recv()
            && pause.hold(&mut writer, |turn| said.say(turn, queues)).is_break()
        {
            return;
        }
        if work == StoreWork::Stop {
            said.say(writer.close(driver::now()), queues);
            return;
        }
        said.say(writer.turn(driver::now()), queues);
    }
}

/// What was logged of the store.
#[derive(Default)]
struct StoreSaid {
    unwritten: u64,
    at: Option<Instant>,
}

impl StoreSaid {
    fn say(&mut self, turn: WriterTurn, queues: &Queues) {
        match turn.changed {
            Some((Health::Good, why)) => tracing::info!("store: {why}: publications are kept again"),
            Some((Health::Failed, why)) => tracing::error!(
                "store: {why}: it is read-only until a restart; publishes to \"sync\" channels are refused"
            ),
            Some((_, why)) => tracing::error!(
                "store: full: {why}: publishes to \"sync\" channels are refused until there is room"
            ),
            None => {}
        }
        let unwritten = queues.view().unwritten;
        if unwritten > self.unwritten && self.at.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            let more = unwritten - self.unwritten;
            tracing::warn!("store: {more} publications of \"async\" channels are in memory alone");
            (self.unwritten, self.at) = (unwritten, Some(Instant::now()));
        }
    }
}

fn say_restored(path: &str, read: &StoreRead, restored: &Restored, took: Duration) {
    tracing::info!(
        "store {path}: {} records of {} bytes in {} files, read in {took:?}{}",
        read.records,
        read.bytes(),
        read.segments.len(),
        if restored.unclean { "; the process before has not ended by itself" } else { "" }
    );
    for line in &restored.gone {
        tracing::error!("store {path}: {line}");
    }
    if restored.gone_total > 0 {
        let more = restored.gone_total - restored.gone.len() as u64;
        tracing::error!(
            "store {path}: {} channels have lost what they had last; {more} further lines are left out",
            restored.lost_channels
        );
    }
    if restored.not_wanted > 0 {
        tracing::warn!(
            "store {path}: {} records of channels that this configuration does not keep",
            restored.not_wanted
        );
    }
}

/// The directory, and how long its syncs take.
pub(super) struct TimedDisk {
    pub directory: StoreDirectory,
    pub syncs: Histogram,
}

impl Disk for TimedDisk {
    fn list(&mut self) -> io::Result<Vec<u64>> {
        self.directory.list()
    }

    fn len(&mut self, number: u64) -> io::Result<u64> {
        self.directory.len(number)
    }

    fn read(&mut self, number: u64, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.directory.read(number, at, len)
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        self.directory.create(number, bytes)
    }

    fn write(&mut self, number: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.directory.write(number, at, bytes)
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.directory.sync(number);
        let took = began.elapsed();
        self.syncs.observe(took.as_secs_f64());
        if took > SLOW_SYNC {
            tracing::debug!("store: a sync took {took:?}");
        }
        synced
    }

    fn truncate(&mut self, number: u64, len: u64) -> io::Result<()> {
        self.directory.truncate(number, len)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.directory.remove(number)
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.directory.sync_directory()
    }
}

struct StoreMetrics {
    queues: Arc<Queues>,
    syncs: Mutex<Histogram>,
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreMetrics")
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.queues.view();
        for (name, help, value) in [
            ("store_appended_bytes", "Bytes written to the store", view.appended_bytes),
            ("store_records", "Records written to the store", view.records),
            ("store_batches", "Batches written to the store, each with one sync", view.batches),
            ("store_errors", "How often the store stopped taking anything", view.errors),
            ("store_refused", "Publications that the store has not taken", view.refused),
            ("store_memory_only", "Publications of async channels that are not in the store", view.unwritten),
            ("store_compactions", "How often everything was written again to give space back", view.copies),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in [
            ("store_disk_bytes", "Bytes that the files of the store take", view.disk_bytes),
            ("store_segments", "Files of the store", view.segments),
            ("store_queue_bytes", "Bytes on their way to the store", view.queue_bytes),
            (
                "store_health",
                "0: it takes everything; 1: the disk is full; 2: store.bytes_max is reached; 3: read-only until a restart",
                view.health as u64,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let help = "Publications of a shard whose answers wait for the disk";
        let any = ConstGauge::new(0_i64);
        let mut family = encoder.encode_descriptor("store_waiting", help, None, any.metric_type())?;
        for (shard, waiting) in self.queues.waiting().enumerate() {
            let gauge = ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("shard", shard)])?)?;
        }
        let help = "How long syncs of the store take";
        let syncs = self.syncs.lock();
        syncs.encode(encoder.encode_descriptor("store_sync_seconds", help, None, syncs.metric_type())?)
    }
}

/// `trunkline store`: exit code 0 done, 1 something cannot be read, 2 it is no store.
pub fn run(task: &StoreTask) -> ExitCode {
    match carry_out(task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            let _ = writeln!(io::stderr().lock(), "error: {}: {fault}", task.path);
            ExitCode::from(2)
        }
    }
}

fn carry_out(task: &StoreTask) -> Result<bool, StoreFault> {
    let path = Path::new(&task.path);
    let mut out = io::BufWriter::new(io::stdout().lock());
    // Who has seen enough (`| head`) closes the pipe: no failure.
    if task.job == StoreJob::Export {
        return match tools::export(path, &mut out) {
            Ok((_, damages)) => {
                out.flush()?;
                damages.iter().for_each(|damage| eprintln!("damaged: {damage}"));
                Ok(damages.is_empty())
            }
            Err(StoreFault::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            Err(fault) => Err(fault),
        };
    }
    let report = tools::report(path)?;
    let whole = report.damages.is_empty();
    if task.json {
        let text = serde_json::to_string(&report).map_err(io::Error::from)?;
        let _ = writeln!(out, "{text}");
        return Ok(whole || task.job == StoreJob::Stats);
    }
    let _ = match task.job {
        StoreJob::Check => {
            report.damages.iter().for_each(|damage| drop(writeln!(out, "damaged: {damage}")));
            if report.unfinished_bytes > 0 {
                let bytes = report.unfinished_bytes;
                drop(writeln!(out, "unfinished: {bytes} bytes at the end that were never acknowledged"));
            }
            let verdict = if whole { "ok" } else { "damaged" };
            writeln!(out, "{}: {verdict}: {} records in {} files", task.path, report.records, report.segments)
        }
        StoreJob::Stats | StoreJob::Export => {
            let _ = writeln!(out, "files                 {}", report.segments);
            let _ = writeln!(out, "bytes                 {}", report.bytes);
            let _ = writeln!(out, "records               {}", report.records);
            let _ = writeln!(out, "channels              {}", report.channels);
            let _ = writeln!(out, "publications          {}", report.publications);
            let _ = writeln!(out, "idempotency keys      {}", report.idempotency_keys);
            let _ = writeln!(out, "damages               {}", report.damages.len());
            report.largest.iter().try_for_each(|channel| {
                let (name, count) = (&channel.channel, channel.publications);
                writeln!(out, "{:>12} bytes  {count:>8} publications  {name}", channel.bytes)
            })
        }
    };
    Ok(whole || task.job == StoreJob::Stats)
}
