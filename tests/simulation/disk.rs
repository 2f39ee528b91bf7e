//! The store on a disk that loses, tears and reorders what was not synced, over power losses, kills and upgrades: what was
//! acknowledged `sync` is there under its offset, nothing is there twice, and no offset is given twice by `async`. Devices of members
//! acknowledge what was published, late and more than once: each cursor is the highest of that.
//!
//! The writer, the queues, the owners and the reader are the shipped ones. A run has several processes, one after the other;
//! some hand the store over to the next one, which may die, or the old one may, at any step of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use trunkline::base::bytes::Bytes;
use trunkline::base::ids::{Offset, Position};
use trunkline::base::prng::Prng;
use trunkline::base::publication::{Since, SinceEpoch};
use trunkline::base::time::Time;
use trunkline::hub::creators::Creator;
use trunkline::hub::cursors::{Ack, AckKind, AckRequest, MemberCursor};
use trunkline::hub::log_store::{Durable, Ticket};
use trunkline::hub::owned::StoredMoment;
use trunkline::hub::requests::{HistoryRequest, PublishRequest, Released};
use trunkline::hub::{ChannelOptions, HubLimits, Namespaces, OwnedChannels};
use trunkline::record::StoredRun;
use trunkline::store::sim::{Broken, SimDisk};
use trunkline::store::{Queues, Restoring, ShardStore, StoreId, Writer, WriterOptions, read_all};

use crate::seeds;

/// Small, so that files end and are written together often.
const OPTIONS: WriterOptions = WriterOptions {
    segment_bytes: 4 * 1024,
    bytes_max: 1 << 20,
    compact_interval: Duration::from_millis(60),
};
/// The last two may lose what came last.
const CHANNELS: [&str; 5] = ["x", "y", "zz", "a:loose", "a:other"];
const HISTORY: usize = 10_000;

fn is_loose(channel: &str) -> bool {
    channel.starts_with('a')
}

/// By channel and offset, in one epoch each.
type Kept = BTreeMap<(&'static str, u64), (u64, String)>;

/// What must hold over all processes of a run.
#[derive(Default)]
struct Ledger {
    /// Acknowledged and on disk.
    kept: Kept,
    /// Every offset that "async" was given.
    given: BTreeMap<(&'static str, u64, u64), String>,
    texts: u64,
    /// By channel, user and device: what was answered and is on disk, and the highest that was ever said.
    cursors: BTreeMap<CursorKey, (MemberCursor, MemberCursor)>,
}

type CursorKey = (&'static str, &'static str, &'static str);

const USERS: [&str; 3] = ["ann", "bob", "carol"];
const DEVICES: [&str; 2] = ["phone", "desktop"];

fn highest(one: MemberCursor, other: MemberCursor) -> MemberCursor {
    let read = one.read.max(other.read);
    MemberCursor { received: one.received.max(other.received).max(read), read }
}

struct Process {
    owners: Vec<OwnedChannels>,
    writer: Writer<SimDisk>,
    now: Time,
    /// Not on disk yet.
    loose: Vec<(&'static str, Position, String)>,
    /// The same, of cursors: with what they wait for, if anybody waits.
    acks: Vec<(Option<Ticket>, CursorKey, MemberCursor)>,
}

fn owner_of(channel: &str, owners: usize) -> usize {
    channel.bytes().map(usize::from).sum::<usize>() % owners
}

fn namespaces() -> Arc<Namespaces> {
    let options = |durable| ChannelOptions {
        history_size: HISTORY,
        history_ttl: Duration::from_secs(3600),
        durable,
        cursors: true,
        ack_timeout: Duration::from_millis(20),
        ..ChannelOptions::default()
    };
    Arc::new(Namespaces::new(options(Durable::Sync), [("a".into(), options(Durable::Async))], 255))
}

fn run_of() -> StoredRun {
    StoredRun { time_ms: 1, private_prefix: String::new(), default_is_loose: false, loose: vec!["a".into()] }
}

const fn at(now: Time) -> StoredMoment {
    StoredMoment { now, wall_ms: 1_700_000_000_000 }
}

fn owners(count: usize, prng: &mut Prng) -> Vec<OwnedChannels> {
    let namespaces = namespaces();
    (0..count)
        .map(|_| OwnedChannels::new(Arc::clone(&namespaces), HubLimits::default(), prng.fork()))
        .collect()
}

fn queues(owners: usize) -> Arc<Queues> {
    Queues::new((0..owners).map(|_| Box::new(|| ()) as _))
}

fn with_store(owners: Vec<OwnedChannels>, queues: &Arc<Queues>) -> Vec<OwnedChannels> {
    let with =
        |(index, owner): (usize, OwnedChannels)| owner.with_store(Box::new(ShardStore::new(queues, index)));
    owners.into_iter().enumerate().map(with).collect()
}

impl Process {
    /// Reads what an earlier process has left.
    fn start(disk: &SimDisk, prng: &mut Prng) -> Process {
        let now = Time::from_millis(1);
        let count = prng.usize(1..4);
        let place = move |channel: &str| owner_of(channel, count);
        let mut restoring = Restoring::new(owners(count, prng), &place, at(now));
        let mut own = disk.clone();
        let read = read_all(&mut own, &mut |found| restoring.take(found)).expect("it is a store");
        let (owners, restored) = restoring.finish().expect("it fits");
        assert_eq!(restored.gone, [""; 0], "nothing that was on disk is damaged");
        let queues = queues(count);
        let writer = Writer::open(own, &read, StoreId(7), OPTIONS, Arc::clone(&queues), run_of(), now);
        let owners = with_store(owners, &queues);
        Process { owners, writer: writer.expect("there is room"), now, loose: Vec::new(), acks: Vec::new() }
    }

    fn check(&mut self, ledger: &Ledger) {
        let mut found: Kept = BTreeMap::new();
        let mut tops = BTreeMap::new();
        for channel in CHANNELS {
            let count = self.owners.len();
            let owner = &mut self.owners[owner_of(channel, count)];
            let mut since = None;
            loop {
                let ask = HistoryRequest {
                    channel: channel.into(),
                    limit: Some(300),
                    since,
                    since_ms: None,
                    reverse: false,
                    by: Creator::Backend,
                };
                let history = owner.history(&ask, self.now).expect("it is kept");
                tops.insert(channel, history.position);
                for publication in &history.publications {
                    let text = String::from_utf8(publication.data.to_vec()).expect("as it was written");
                    let key = (channel, publication.offset().0);
                    let before = found.insert(key, (publication.position.epoch.0, text));
                    assert_eq!(before, None, "{key:?} twice");
                }
                let Some(last) = history.publications.last() else { break };
                since = Some(Since { offset: last.offset(), epoch: SinceEpoch::Any });
            }
        }
        for (key, (epoch, text)) in &ledger.kept {
            assert_eq!(found.get(key), Some(&(*epoch, text.clone())), "{key:?} was acknowledged");
            assert_eq!(tops[key.0].epoch.0, *epoch, "the epoch of {}", key.0);
        }
        for (key, (kept, said)) in &ledger.cursors {
            let (channel, user, device) = *key;
            let owner = &self.owners[owner_of(channel, self.owners.len())];
            let page = owner.cursors_page(channel, Some(user), "", 1).expect("it has cursors");
            let of_device = page.cursors.iter().find(|named| *named.device == *device);
            let cursor = of_device.map_or_else(MemberCursor::default, |named| named.cursor);
            assert_eq!(highest(cursor, *kept), cursor, "{key:?} was acknowledged");
            assert_eq!(highest(cursor, *said), *said, "{key:?} was never said");
        }
        let mut texts: Vec<&String> = found.values().map(|(_, text)| text).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), found.len(), "nothing is there twice under two offsets");
    }

    fn publish(&mut self, ledger: &mut Ledger, prng: &mut Prng) {
        ledger.texts += 1;
        let channel = CHANNELS[prng.usize(..CHANNELS.len())];
        let text = format!("{}:{}", ledger.texts, "p".repeat(prng.usize(..120)));
        let count = self.owners.len();
        let ask = PublishRequest::new(channel.into(), Bytes::copy_from_slice(text.as_bytes()));
        let Ok(published) =
            self.owners[owner_of(channel, count)].publish(ask, self.now, at(self.now).wall_ms)
        else {
            return;
        };
        let Position { offset, epoch } = published.position;
        if is_loose(channel) {
            let before = ledger.given.insert((channel, offset.0, epoch.0), text.clone());
            assert_eq!(before, None, "{channel} {offset:?} is given twice");
            self.loose.push((channel, published.position, text));
        } else {
            assert!(
                !ledger.kept.contains_key(&(channel, offset.0)),
                "{channel} {offset:?} was acknowledged before"
            );
        }
    }

    /// A device says how far it has come: now and then less than before, or the same.
    fn acknowledge(&mut self, ledger: &mut Ledger, prng: &mut Prng) {
        let channel = CHANNELS[prng.usize(..CHANNELS.len())];
        let (user, device) = (USERS[prng.usize(..USERS.len())], DEVICES[prng.usize(..DEVICES.len())]);
        let count = self.owners.len();
        let owner = &mut self.owners[owner_of(channel, count)];
        let Some(top) = owner.position(channel).filter(|top| top.offset > Offset(0)) else { return };
        let offset = Offset(top.offset.0 - prng.u64(..4).min(top.offset.0));
        let kind = if prng.bool() { AckKind::Read } else { AckKind::Received };
        let read = if kind == AckKind::Read { offset } else { Offset(0) };
        let to = MemberCursor { received: offset, read };
        let key = (channel, user, device);
        let (kept, said) = ledger.cursors.entry(key).or_default();
        let before = *said;
        *said = highest(*said, to);
        let acks = vec![Ack { place: 0, offset, epoch: SinceEpoch::Any, kind }];
        let ask = AckRequest { channel: channel.into(), user: user.into(), device: device.into(), acks };
        let acked = owner.ack(&ask, self.now);
        let Ok(cursor) = acked.outcomes[0].1 else { return };
        assert!(cursor.received >= highest(*kept, to).received && cursor.received <= said.received);
        if acked.ticket.is_none() && !is_loose(channel) {
            // It waits for nothing: it has moved nothing, and what it repeats may still be on its way.
            assert_eq!(highest(before, to), before, "{key:?} has moved and is not kept");
            return;
        }
        self.acks.push((acked.ticket, key, to));
    }

    /// What was acknowledged in a turn of the writer.
    fn turn(&mut self, ledger: &mut Ledger) {
        self.now = self.now + Duration::from_millis(5);
        for owner in &mut self.owners {
            owner.keep_cursors_again();
            owner.copy_to_store(at(self.now));
            while owner.take_cursor_notice(self.now).is_some() {}
        }
        self.writer.turn(self.now);
        self.take(ledger);
    }

    fn take(&mut self, ledger: &mut Ledger) {
        let mut failed = false;
        let count = self.owners.len();
        for (index, owner) in self.owners.iter_mut().enumerate() {
            while let Some(released) = owner.take_released(self.now) {
                let outcome = match released {
                    Released::Published(_, outcome) => outcome,
                    Released::Cursors(ticket, outcome) => {
                        let done = |(wanted, key, _): &mut (Option<Ticket>, CursorKey, MemberCursor)| {
                            *wanted == Some(ticket) && owner_of(key.0, count) == index
                        };
                        for (_, key, to) in self.acks.extract_if(.., done) {
                            if outcome.is_ok() {
                                let (kept, _) = ledger.cursors.get_mut(&key).expect("it was said");
                                *kept = highest(*kept, to);
                            }
                        }
                        failed |= outcome.is_err();
                        continue;
                    }
                    Released::Read(..) => continue,
                };
                let Ok(published) = outcome else {
                    failed = true;
                    continue;
                };
                let Some(publication) = published.publication else { continue };
                let channel =
                    CHANNELS.into_iter().find(|name| **name == *publication.channel).expect("one of them");
                let text = String::from_utf8(publication.data.to_vec()).expect("as it was published");
                let value = (publication.position.epoch.0, text);
                ledger.kept.insert((channel, publication.offset().0), value);
            }
        }
        if failed {
            self.loose.clear();
            self.acks.retain(|(ticket, ..)| ticket.is_some());
        }
        // They were written along.
        for (channel, position, text) in self.loose.drain(..) {
            ledger.kept.insert((channel, position.offset.0), (position.epoch.0, text));
        }
        for (_, key, to) in self.acks.extract_if(.., |(ticket, ..)| ticket.is_none()) {
            let (kept, _) = ledger.cursors.get_mut(&key).expect("it was said");
            *kept = highest(*kept, to);
        }
    }

    /// The process that goes on with the store, if neither dies before it has written. The old one goes on when it may.
    fn hand_over(mut self, ledger: &mut Ledger, prng: &mut Prng, seen: &mut Seen) -> Option<Process> {
        // Shards freeze when nobody waits for the disk.
        self.turn(ledger);
        let (_, state) = self.writer.pause(&run_of(), self.now);
        self.take(ledger);
        let Ok(state) = state else { return None };
        if prng.u32(..5) == 0 {
            seen.deaths += 1;
            return None;
        }
        let count = prng.usize(1..4);
        let mut next = owners(count, prng);
        for owner in &self.owners {
            for name in owner.names() {
                let to = &mut next[owner_of(name, count)];
                let record = owner.to_record(name, self.now).expect("it is known");
                to.restore(&record, self.now).expect("it fits");
                let mut after = Offset(0);
                while let Some(part) = owner.log_part(name, after, self.now) {
                    after = part.entries.last().map_or(after, |last| last.publication.offset);
                    to.restore_log(part, self.now).expect("it follows");
                }
                owner.members_parts(name, self.now, |part| {
                    to.restore_members(part, &|_| None, self.now).expect("it is known");
                });
            }
        }
        next.iter_mut().for_each(|owner| owner.finish_restoring().expect("it fits"));
        let queues = queues(count);
        let disk = self.writer.disk_mut().clone();
        let mut writer =
            Writer::behind(disk, &state, OPTIONS, Arc::clone(&queues), self.now).expect("its files");
        match prng.u32(..4) {
            // The new one dies before the commit, and the old one goes on.
            0 => {
                drop(writer);
                assert_eq!(self.writer.goes_on(), Ok(()));
                seen.stayed += 1;
                Some(self)
            }
            // It dies behind it: the old one sees that, and there is none.
            1 => {
                writer.begin(self.now);
                assert!(self.writer.goes_on().is_err(), "there must not be two writers");
                seen.deaths += 1;
                None
            }
            _ => {
                writer.begin(self.now);
                assert!(self.writer.goes_on().is_err(), "there must not be two writers");
                seen.moved += 1;
                Some(Process {
                    owners: with_store(next, &queues),
                    writer,
                    now: self.now,
                    loose: Vec::new(),
                    acks: Vec::new(),
                })
            }
        }
    }
}

/// What runs have been through: a test that never saw it holds nothing.
#[derive(Default, Debug)]
struct Seen {
    moved: u64,
    stayed: u64,
    deaths: u64,
    powerless: u64,
    broken: u64,
    closed: u64,
    kept: u64,
    cursors: u64,
}

fn run(seed: u64, seen: &mut Seen) {
    let mut prng = Prng::with_seed(seed);
    let disk = SimDisk::default();
    let mut ledger = Ledger::default();
    for _ in 0..prng.usize(2..5) {
        let mut process = Process::start(&disk, &mut prng);
        process.check(&ledger);
        let mut ended = false;
        for _ in 0..prng.usize(1..14) {
            for _ in 0..prng.usize(..6) {
                process.publish(&mut ledger, &mut prng);
            }
            for _ in 0..prng.usize(..3) {
                process.acknowledge(&mut ledger, &mut prng);
            }
            process.turn(&mut ledger);
            if prng.u32(..12) == 0 {
                match process.hand_over(&mut ledger, &mut prng, seen) {
                    Some(next) => process = next,
                    None => {
                        ended = true;
                        process = Process::start(&SimDisk::default(), &mut prng);
                        break;
                    }
                }
            }
        }
        if !ended {
            // It ends somewhere in a batch, perhaps on a disk that fails.
            for _ in 0..prng.usize(..8) {
                process.publish(&mut ledger, &mut prng);
                process.acknowledge(&mut ledger, &mut prng);
            }
            match prng.u32(..4) {
                0 => {
                    disk.set_broken(Some(if prng.bool() { Broken::Syncs } else { Broken::Writes }));
                    process.now = process.now + Duration::from_millis(5);
                    process.writer.turn(process.now);
                    seen.broken += 1;
                }
                1 => {
                    drop(process.writer.close(process.now));
                    seen.closed += 1;
                }
                _ => {}
            }
        }
        let power = prng.bool();
        seen.powerless += u64::from(power);
        disk.crash(power, &mut prng);
    }
    Process::start(&disk, &mut prng).check(&ledger);
    seen.kept += ledger.kept.len() as u64;
    seen.cursors += ledger.cursors.values().filter(|(kept, _)| kept.received > Offset(0)).count() as u64;
}

#[test]
fn what_was_acknowledged_survives_every_end_of_a_process_and_of_a_disk() {
    let (from, count) = seeds();
    let began = std::time::Instant::now();
    let mut seen = Seen::default();
    for seed in from..from + count {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut own = Seen::default();
            run(seed, &mut own);
            own
        }));
        let Ok(own) = outcome else {
            panic!("seed {seed} fails: SIM_SEED={seed} cargo test --test simulation acknowledged");
        };
        seen.moved += own.moved;
        seen.stayed += own.stayed;
        seen.deaths += own.deaths;
        seen.powerless += own.powerless;
        seen.broken += own.broken;
        seen.closed += own.closed;
        seen.kept += own.kept;
        seen.cursors += own.cursors;
    }
    println!("{count} seeds in {:?}: {seen:?}", began.elapsed());
    let Seen { moved, stayed, deaths, powerless, broken, closed, kept, cursors } = seen;
    if count >= 500 {
        let all = [moved, stayed, deaths, powerless, broken, closed, kept, cursors];
        assert!(all.iter().all(|seen| *seen > 10), "it has become toothless: {all:?}");
    }
}
