//! The store on a disk that loses, tears and reorders what was not synced.

use std::collections::BTreeMap;

use super::super::sim::{Broken, SimDisk};
use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::{Offset, Position};
use crate::base::prng::Prng;
use crate::hub::creators::Creator;
use crate::hub::log_store::Durable;
use crate::hub::owned::StoredMoment;
use crate::hub::requests::{HistoryRequest, PublishRequest, Published, Released};
use crate::hub::{ChannelOptions, HubLimits, Namespaces, OwnedChannels};
use crate::store::{Found, Restored, Restoring, ShardStore, read_all};

const OPTIONS: WriterOptions = WriterOptions {
    segment_bytes: 8 * 1024,
    bytes_max: 256 * 1024,
    compact_interval: Duration::from_secs(10),
};

/// One run of a process with two owners.
struct Process {
    owners: Vec<OwnedChannels>,
    writer: Writer<SimDisk>,
    now: Time,
    wall_ms: u64,
    restored: Restored,
}

fn place(channel: &str, owners: usize) -> usize {
    channel.bytes().map(usize::from).sum::<usize>() % owners
}

fn namespaces(size: usize) -> Namespaces {
    let options = |durable| ChannelOptions {
        history_size: size,
        history_ttl: Duration::from_secs(3600),
        durable,
        ..ChannelOptions::default()
    };
    Namespaces::new(options(Durable::Sync), [("a".into(), options(Durable::Async))], 255)
}

impl Process {
    fn start(disk: &SimDisk, owners: usize, size: usize, options: WriterOptions, seed: u64) -> Process {
        let (now, wall_ms) = (Time::from_millis(1), 1_700_000_000_000);
        let namespaces = Arc::new(namespaces(size));
        let owner = |index: usize| {
            let prng = Prng::with_seed(seed * 10 + index as u64);
            OwnedChannels::new(Arc::clone(&namespaces), HubLimits::default(), prng)
        };
        let place = move |channel: &str| place(channel, owners);
        let made = (0..owners).map(owner).collect();
        let mut restoring = Restoring::new(made, &place, StoredMoment { now, wall_ms });
        let mut disk = disk.clone();
        let read = read_all(&mut disk, &mut |found| restoring.take(found)).expect("it is a store");
        let (made, restored) = restoring.finish().expect("it fits");
        let queues = Queues::new((0..owners).map(|_| Box::new(|| ()) as _));
        let run = StoredRun {
            time_ms: wall_ms,
            private_prefix: String::new(),
            default_is_loose: false,
            loose: vec!["a".into()],
        };
        let writer =
            Writer::open(disk, &read, StoreId(77), options, Arc::clone(&queues), run, now).expect("room");
        let owners = made
            .into_iter()
            .enumerate()
            .map(|(index, owner)| owner.with_store(Box::new(ShardStore::new(&queues, index))))
            .collect();
        Process { owners, writer, now, wall_ms, restored }
    }

    fn publish(&mut self, channel: &str, text: &str) -> Result<Published, ErrorCode> {
        let owners = self.owners.len();
        let ask = PublishRequest::new(channel.into(), Bytes::copy_from_slice(text.as_bytes()));
        self.owners[place(channel, owners)].publish(ask, self.now, self.wall_ms)
    }

    /// The writer's turn, copies included; gives what was acknowledged or not.
    fn turn(&mut self) -> Vec<Result<Published, ErrorCode>> {
        self.now = self.now + Duration::from_millis(5);
        for owner in &mut self.owners {
            owner.copy_to_store(StoredMoment { now: self.now, wall_ms: self.wall_ms });
        }
        self.writer.turn(self.now);
        let mut released = Vec::new();
        for owner in &mut self.owners {
            while let Some(Released::Published(_, outcome)) = owner.take_released(self.now) {
                released.push(outcome);
            }
        }
        released
    }

    fn history(&mut self, channel: &str) -> (Vec<(u64, String)>, Position) {
        let (channel, owners) = (channel.into(), self.owners.len());
        let ask = HistoryRequest {
            channel,
            limit: Some(300),
            since: None,
            since_ms: None,
            reverse: false,
            by: Creator::Backend,
        };
        let history = self.owners[place(&ask.channel, owners)].history(&ask, self.now).expect("it is kept");
        let text = |data: &Bytes| String::from_utf8(data.to_vec()).unwrap();
        let entries = history.publications.iter().map(|entry| (entry.offset().0, text(&entry.data)));
        (entries.collect(), history.position)
    }
}

/// What was acknowledged is found by the next process, under its offset, whatever the disk does to what was under way; no
/// offset is given twice in an epoch; also with other numbers of owners, and with copies in between.
#[test]
fn what_was_acknowledged_survives_power_losses() {
    let seeds = std::env::var("TRUNKLINE_STORE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        let mut prng = Prng::with_seed(seed);
        let disk = SimDisk::default();
        let (mut kept, mut given) = (BTreeMap::new(), BTreeMap::new());
        let channels = ["x", "y", "zz", "a:loose", "a:other"];
        let mut number = 0;
        let large = WriterOptions { bytes_max: 16 << 20, ..OPTIONS };
        let key = |channel, position: Position| (channel, position.offset.0, position.epoch.0);
        for run in 0..6 {
            let mut process = Process::start(&disk, prng.usize(1..4), 100_000, large, seed * 100 + run);
            assert_eq!(process.restored.gone, [""; 0], "seed {seed}, run {run}");
            let read: BTreeMap<_, _> =
                channels.iter().map(|channel| (*channel, process.history(channel))).collect();
            for (&(channel, offset, epoch), text) in &kept {
                let (entries, top) = &read[channel];
                assert_eq!(top.epoch.0, epoch, "seed {seed}: the epoch of {channel}");
                let found = entries.iter().find(|(found, _)| *found == offset);
                // A page holds 300: what is behind it was checked before.
                if entries.last().is_some_and(|(last, _)| *last >= offset) || entries.len() < 300 {
                    assert_eq!(found.map(|(_, text)| text), Some(text), "seed {seed}: {channel} {offset}");
                }
            }
            let mut loose = Vec::new();
            let mut waiting: Vec<(&str, String)> = Vec::new();
            for _ in 0..prng.usize(..40) {
                for _ in 0..prng.usize(..20) {
                    number += 1;
                    let channel = channels[prng.usize(..channels.len())];
                    let text = format!("{number}:{}", "p".repeat(prng.usize(..200)));
                    let published = process.publish(channel, &text).expect("it is taken");
                    let before = given.insert(key(channel, published.position), text.clone());
                    if channel.starts_with('a') {
                        assert_eq!(before, None, "seed {seed}: {channel} {:?} twice", published.position);
                        assert!(published.publication.is_some(), "it is not waited for");
                        loose.push((key(channel, published.position), text));
                    } else {
                        // What was not acknowledged may have its offset given again.
                        assert!(!kept.contains_key(&key(channel, published.position)), "seed {seed}");
                        waiting.push((channel, text));
                    }
                }
                for outcome in process.turn() {
                    let publication = outcome.expect("it is kept").publication.expect("it is new");
                    let text = String::from_utf8(publication.data.to_vec()).unwrap();
                    let channel = channels.iter().find(|name| ***name == *publication.channel).unwrap();
                    assert!(waiting.contains(&(*channel, text.clone())));
                    kept.insert(key(*channel, publication.position), text);
                }
                // They were written along.
                kept.extend(loose.drain(..));
            }
            // The process ends somewhere in a batch.
            for _ in 0..prng.usize(..30) {
                number += 1;
                let channel = channels[prng.usize(..channels.len())];
                if let Ok(published) = process.publish(channel, &number.to_string())
                    && channel.starts_with('a')
                {
                    let before = given.insert(key(channel, published.position), number.to_string());
                    assert_eq!(before, None, "seed {seed}: {channel} {:?} twice", published.position);
                }
            }
            if prng.u32(..3) == 0 {
                disk.set_broken(Some(if prng.bool() { Broken::Syncs } else { Broken::Writes }));
                let failed = process.turn();
                assert!(failed.iter().all(Result::is_err), "seed {seed}: nothing is kept by a broken disk");
                // What was refused may have its offset given to another one.
            }
            match prng.u32(..4) {
                0 => drop(process.writer.close(process.now)),
                _ => drop(process.writer),
            }
            disk.crash(prng.bool(), &mut prng);
        }
    }
}

/// Bytes that were on disk and no longer are: the rest is read, and nobody is told that nothing is missing.
#[test]
fn a_damaged_file_is_said_and_what_is_behind_it_is_read() {
    for seed in 0..200 {
        let mut prng = Prng::with_seed(seed);
        let disk = SimDisk::default();
        let mut process = Process::start(&disk, 1, 1000, OPTIONS, 1);
        let mut kept = Vec::new();
        for number in 0..150 {
            for channel in ["early", "x", "y"] {
                if channel != "early" || number < 5 {
                    process.publish(channel, &format!("{number}")).expect("it is taken");
                }
            }
            kept.extend(process.turn().into_iter().map(|outcome| outcome.unwrap().publication.unwrap()));
        }
        drop(process.writer.close(process.now));
        let mut numbers = disk.clone().list().unwrap();
        let last = numbers.pop().unwrap();
        let number = if prng.bool() { last } else { numbers[prng.usize(..numbers.len())] };
        let content = disk.content(number);
        let end = content.iter().rposition(|byte| *byte != 0).unwrap();
        // The last batch is the end, which nobody was told of.
        let at = prng.usize(SEGMENT_HEAD_BYTES..end - 80);
        disk.damage(number, at);
        let mut process = Process::start(&disk, 1, 1000, OPTIONS, 2);
        assert_ne!(process.restored.gone_total, 0, "seed {seed}: byte {at} of {number}");
        for channel in ["early", "x", "y"] {
            let (entries, top) = process.history(channel);
            let ours: Vec<_> = kept.iter().filter(|kept| *kept.channel == *channel).collect();
            let epoch = ours[0].position.epoch;
            for (offset, text) in &entries {
                let same = ours.iter().find(|kept| kept.offset().0 == *offset).unwrap();
                assert_eq!(text.as_bytes(), &same.data[..], "seed {seed}");
            }
            // Without a hole up to the top, or under another epoch.
            let whole = entries.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
            assert!(whole, "seed {seed}: {channel} has a hole");
            if top.epoch == epoch {
                assert_eq!(top.offset, ours.last().unwrap().offset(), "seed {seed}: {channel}");
            } else {
                assert_eq!(entries, [], "seed {seed}: {channel}");
            }
        }
    }
}

/// The last batch cut at each byte: it is gone, what was before it is there, and nothing is called damaged.
#[test]
fn a_cut_at_each_byte_takes_the_last_batch_alone() {
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 1, 1000, OPTIONS, 1);
    process.publish("x", "first").unwrap();
    process.turn();
    let before = process.writer.at as usize;
    for _ in 0..3 {
        process.publish("x", "second").unwrap();
    }
    process.turn();
    let end = process.writer.at as usize;
    let number = process.writer.number();
    let whole = disk.content(number);
    for cut in before..=end {
        let mut bytes = whole.clone();
        if cut % 2 == 0 {
            bytes.truncate(cut)
        } else {
            bytes[cut..].fill(0)
        }
        let disk = SimDisk::of([(number, bytes)]);
        let mut process = Process::start(&disk, 1, 1000, OPTIONS, 2);
        assert_eq!(process.restored.gone, [""; 0], "{cut}");
        // The last byte of a record may be zero itself.
        let expected = if cut < end - 1 { 1 } else { process.history("x").0.len() };
        assert_eq!(process.history("x").0.len(), expected, "{cut} of {before}..{end}");
        if cut == end {
            assert_eq!(process.history("x").0.len(), 4);
        }
    }
}

#[test]
fn any_files_may_be_read() {
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 1, 1000, OPTIONS, 1);
    for number in 0..20 {
        process.publish(["x", "a:y"][number % 2], "text").unwrap();
        process.turn();
    }
    let good = disk.content(1);
    let end = process.writer.at as usize;
    let mut prng = Prng::with_seed(11);
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..prng.usize(1..6) {
            let at = prng.usize(..end);
            match prng.u32(..4) {
                0 => bytes[at..].fill(0),
                1 => bytes[at] = prng.u8(..),
                2 => {
                    let len = prng.usize(..end - at);
                    let from = prng.usize(..end - len);
                    bytes.copy_within(from..from + len, at);
                }
                _ => bytes.truncate(at.max(64)),
            }
            bytes.resize(good.len(), 0);
        }
        let mut seen = 0;
        let _ = read_all(&mut SimDisk::of([(1, bytes)]), &mut |found| {
            seen += usize::from(matches!(found, Found::Record(_)));
        });
        assert!(seen <= 200, "nothing is read again and again");
    }
}

/// What is no longer held gives its room back, and the bound is kept whatever is published.
#[test]
fn trimmed_logs_give_their_room_back() {
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 2, 20, OPTIONS, 1);
    for number in 0..4000 {
        process.publish(["x", "y", "a:z"][number % 3], &format!("{number}{}", "p".repeat(300))).unwrap();
        process.turn();
        assert!(disk.bytes() <= OPTIONS.bytes_max, "{} bytes", disk.bytes());
    }
    assert!(process.writer.queues.view().copies > 5);
    assert!(disk.bytes() < 100 * 1024, "{} bytes for 60 publications", disk.bytes());
    let before = ["x", "y", "a:z"].map(|channel| process.history(channel));
    drop(process.writer.close(process.now));
    let mut next = Process::start(&disk, 3, 20, OPTIONS, 2);
    assert_eq!(["x", "y", "a:z"].map(|channel| next.history(channel)), before);
}

/// At `bytes_max`: "sync" is refused with the reason, "async" goes on in memory, and when there is room again all is kept.
#[test]
fn a_full_store_refuses_and_recovers() {
    let disk = SimDisk::with_room(20 * 1024);
    let mut process = Process::start(&disk, 1, 40, OPTIONS, 1);
    let long = "p".repeat(200);
    let mut refused = 0;
    for _ in 0..200 {
        let taken = process.publish("x", &long);
        let outcomes = process.turn();
        let errors = taken.err().into_iter().chain(outcomes.into_iter().filter_map(Result::err));
        for error_code in errors {
            assert_eq!(error_code, ErrorCode::StoreFull);
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused}");
    assert_eq!(process.writer.health, Health::DiskFull);
    let loose = process.publish("a:y", "in memory").expect("it goes on");
    assert!(loose.publication.is_some());
    let (kept, top) = process.history("x");
    assert_eq!(kept.last().unwrap().0, top.offset.0);
    disk.set_room(0);
    process.now = process.now + TRY_AGAIN;
    process.turn();
    assert_eq!(process.writer.health, Health::Good);
    let after = process.publish("x", "again").unwrap();
    assert_eq!(after.position.offset, top.offset.next());
    (0..5).for_each(|_| assert!(process.turn().iter().all(Result::is_ok)));
    drop(process.writer);
    disk.crash(true, &mut Prng::with_seed(3));
    let mut next = Process::start(&disk, 1, 40, OPTIONS, 2);
    assert_eq!(next.history("x").0.last().unwrap(), &(after.position.offset.0, "again".to_owned()));
    assert_eq!(next.history("a:y").0, [(1, "in memory".to_owned())], "a copy has brought it");
}

#[test]
fn at_the_bound_of_bytes_old_history_makes_room() {
    let options = WriterOptions { bytes_max: 64 * 1024, ..OPTIONS };
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 1, 100_000, options, 1);
    let long = "p".repeat(400);
    let mut refused = 0;
    for _ in 0..400 {
        refused += usize::from(process.publish("x", &long).is_err());
        refused += process.turn().into_iter().filter(Result::is_err).count();
        assert!(disk.bytes() <= options.bytes_max, "{} bytes", disk.bytes());
    }
    assert!(refused > 100 && process.writer.health == Health::BytesMax, "{refused}");
    process.owners[0].history_remove("x", process.now).unwrap();
    process.now = process.now + COPY_AGAIN;
    (0..5).for_each(|_| drop(process.turn()));
    assert_eq!(process.writer.health, Health::Good);
    process.publish("x", &long).expect("there is room");
    assert!(process.turn().iter().all(Result::is_ok));
}

/// After a failed sync nobody knows what is on disk: nothing is written again before a restart.
#[test]
fn a_failed_sync_ends_the_store_until_a_restart() {
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 1, 40, OPTIONS, 1);
    process.publish("x", "1").unwrap();
    assert!(process.turn().iter().all(Result::is_ok));
    disk.set_broken(Some(Broken::Syncs));
    process.publish("x", "2").unwrap();
    let outcomes = process.turn();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].as_ref().unwrap_err(), &ErrorCode::StoreFailed);
    disk.set_broken(None);
    for _ in 0..3 {
        process.now = process.now + Duration::from_secs(100);
        process.turn();
        assert_eq!(process.publish("x", "3").unwrap_err(), ErrorCode::StoreFailed);
        assert!(process.publish("a:y", "3").is_ok(), "in memory");
    }
    assert_eq!(process.history("x").0, [(1, "1".to_owned())]);
    assert_eq!(process.history("x").1.offset, Offset(1));
}

/// Many appends share a sync, and nothing is synced for nothing.
#[test]
fn a_batch_has_one_sync() {
    let disk = SimDisk::default();
    let mut process = Process::start(&disk, 2, 4000, OPTIONS, 1);
    let before = disk.syncs();
    for number in 0..50 {
        process.publish(&format!("c{number}"), "1").unwrap();
    }
    assert_eq!(process.turn().len(), 50);
    assert_eq!(disk.syncs() - before, 1);
    (0..10).for_each(|_| drop(process.turn()));
    assert_eq!(disk.syncs() - before, 1);
}
