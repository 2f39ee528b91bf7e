//! What a store is given, read by another owner.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::base::bytes::Bytes;
use crate::base::prng::Prng;
use crate::base::publication::PayloadForm;
use crate::hub::creators::Creator;
use crate::hub::log_store::{Append, LogStore, ReadBack, StoreDone, StoreEntry, Ticket};
use crate::hub::requests::{HistoryRequest, PublishRequest};
use crate::hub::{ChannelKind, ChannelOptions, HubLimits, Namespaces};

const AT: StoredMoment = StoredMoment { now: Time(5_000_000_000), wall_ms: 1_000_000 };

/// Takes everything at once.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<(Vec<StoredRecord>, u64)>>);

impl LogStore for Shelf {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        self.0.lock().0.push(entry.to_record());
        Append::Done
    }

    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        ReadBack::Nothing
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        None
    }

    fn removed(&mut self, channel: &ChannelName, until: Position) {
        let (epoch, until) = (until.epoch, until.offset);
        self.0.lock().0.push(StoredRecord::Removal(StoredRemoval { channel: channel.clone(), epoch, until }));
    }

    fn wants_copy(&mut self) -> u64 {
        self.0.lock().1
    }

    fn copy(&mut self, part: StoredRecord) -> Result<(), StoredRecord> {
        self.0.lock().0.push(part);
        Ok(())
    }

    fn copied(&mut self, _: u64) {
        self.0.lock().1 = 0;
    }
}

fn owner(store: Option<&Shelf>) -> OwnedChannels {
    owner_of(store, PayloadForm::Json)
}

fn owner_of(store: Option<&Shelf>, payload: PayloadForm) -> OwnedChannels {
    let durable = ChannelOptions {
        history_size: 2000,
        history_ttl: Duration::from_secs(60),
        durable: Durable::Sync,
        payload,
        ..ChannelOptions::default()
    };
    let values = ChannelOptions { kind: ChannelKind::Value, ..durable.clone() };
    let others = [("memory".into(), ChannelOptions::default()), ("values".into(), values)];
    let namespaces = Namespaces::new(durable, others, 255);
    let seed = if store.is_some() { 9 } else { 10 };
    let owned = OwnedChannels::new(Arc::new(namespaces), HubLimits::default(), Prng::with_seed(seed));
    match store {
        Some(store) => owned.with_store(Box::new(store.clone())),
        None => owned,
    }
}

fn publish(owned: &mut OwnedChannels, channel: &str, text: &str, key: &str, version: u64) -> Position {
    let ask = PublishRequest::new(channel.into(), Bytes::copy_from_slice(text.as_bytes()));
    let ask = PublishRequest { idempotency_key: Some(key.into()), version, ..ask };
    owned.publish(ask, AT.now, AT.wall_ms).expect("it is taken").position
}

fn history(owned: &mut OwnedChannels, channel: &str) -> (Vec<(u64, Vec<u8>)>, Position) {
    let ask = HistoryRequest {
        channel: channel.into(),
        limit: None,
        since: None,
        since_ms: None,
        reverse: true,
        by: Creator::Backend,
    };
    let history = owned.history(&ask, AT.now).expect("history is kept");
    let entries = history.publications.iter().map(|entry| (entry.offset().0, entry.data.to_vec()));
    (entries.collect(), history.position)
}

fn read(records: &[StoredRecord], at: StoredMoment) -> OwnedChannels {
    let mut owned = owner(None);
    for record in records {
        owned.take_stored(record.clone(), at);
    }
    owned.finish_stored().expect("they fit");
    owned
}

/// From the entries as they came, from a copy alone, and from both with the copy cut anywhere: the same channel.
#[test]
fn a_copy_says_the_same_as_what_it_was_made_of() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    let long = "x".repeat(3000);
    for number in 0..300 {
        publish(&mut owned, "long", &format!("{number}{long}"), &format!("k{number}"), 0);
        publish(&mut owned, "short", &number.to_string(), "", number + 5);
        publish(&mut owned, "memory:x", "1", "", 0);
    }
    let entries = shelf.0.lock().0.clone();
    assert_eq!(entries.len(), 600, "what is not durable is not written");
    shelf.0.lock().1 = 7;
    while owned.copy_to_store(AT) {}
    let all = shelf.0.lock().0.clone();
    let copy = all[entries.len()..].to_vec();
    assert!(copy.len() > 5, "the long log comes in parts: {}", copy.len());
    let mut same = vec![read(&copy, AT), read(&all, AT)];
    same.extend((0..copy.len()).map(|end| read(&all[..entries.len() + end], AT)));
    for mut other in same {
        for channel in ["long", "short"] {
            assert_eq!(history(&mut other, channel), history(&mut owned, channel));
        }
        let again = publish(&mut other, "long", "another", "k7", 0);
        assert_eq!(again.offset, Offset(8), "the key is known");
        let old = publish(&mut other, "short", "old", "", 304);
        assert_eq!(old.offset, Offset(300), "the version is known");
        assert!(!other.has("memory:x"));
    }
}

#[test]
fn what_was_removed_and_what_is_over_does_not_come_back() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    for _ in 0..5 {
        publish(&mut owned, "c", "1", "", 0);
    }
    owned.history_remove("c", AT.now).unwrap();
    let top = publish(&mut owned, "c", "2", "key", 0);
    let records = shelf.0.lock().0.clone();
    let mut other = read(&records, AT);
    assert_eq!(history(&mut other, "c"), (vec![(6, b"2".to_vec())], top));
    let mut later = read(&records, StoredMoment { wall_ms: AT.wall_ms + 60_000, ..AT });
    assert_eq!(history(&mut later, "c"), (Vec::new(), top), "offsets go on when everything is over");
    assert_eq!(publish(&mut later, "c", "3", "key", 0), top, "a key lives longer than that");
    let mut later = read(&records, StoredMoment { wall_ms: AT.wall_ms + 300_000, ..AT });
    assert_eq!(publish(&mut later, "c", "3", "key", 0).offset, top.offset.next());
}

/// Bytes are no publication for those who read JSON: they go with all that is before them, and positions go on. As they were
/// written one after the other, from a copy, and from both.
#[test]
fn bytes_are_dropped_where_the_namespace_takes_json_now() {
    let publish = |owned: &mut OwnedChannels, channel: &str, text: &'static [u8]| {
        let tags = vec![("key".into(), "k".into())];
        let ask = PublishRequest { tags, ..PublishRequest::new(channel.into(), Bytes::from_static(text)) };
        owned.publish(ask, AT.now, AT.wall_ms).expect("it is taken").position.offset.0
    };
    let read_as = |payload, records: &[StoredRecord], shelf: &Shelf| {
        let mut owned = owner_of(None, payload);
        records.iter().for_each(|record| _ = owned.take_stored(record.clone(), AT));
        owned.finish_stored().unwrap();
        owned.with_store(Box::new(shelf.clone()))
    };
    let copied = |owned: &mut OwnedChannels, shelf: &Shelf| {
        let before = shelf.0.lock().0.len();
        shelf.0.lock().1 = 7;
        while owned.copy_to_store(AT) {}
        shelf.0.lock().0[before..].to_vec()
    };
    let offsets = |owned: &mut OwnedChannels, channel: &str| -> Vec<u64> {
        history(owned, channel).0.iter().map(|(offset, _)| *offset).collect()
    };
    for channel in ["c", "values:c"] {
        let shelf = Shelf::default();
        let mut json = owner(Some(&shelf));
        assert_eq!(publish(&mut json, channel, b"1"), 1);
        let mut of_bytes = read_as(PayloadForm::Bytes, &shelf.0.lock().0.clone(), &shelf);
        assert_eq!(offsets(&mut of_bytes, channel), [1], "JSON is bytes");
        assert_eq!(publish(&mut of_bytes, channel, b"\xff\n"), 2);
        assert_eq!(publish(&mut of_bytes, channel, b"\xfe\n"), 3);
        let entries = shelf.0.lock().0.clone();
        let copy = copied(&mut of_bytes, &shelf);
        for records in [entries.clone(), copy.clone(), [entries, copy].concat()] {
            let kept = Shelf(Arc::new(Mutex::new((records.clone(), 0))));
            let mut json = read_as(PayloadForm::Json, &records, &kept);
            assert_eq!(offsets(&mut json, channel), [0_u64; 0], "{channel}");
            assert_eq!(history(&mut json, channel).1.offset, Offset(3));
            assert_eq!(publish(&mut json, channel, b"4"), 4);
            let mut again = read_as(PayloadForm::Json, &kept.0.lock().0.clone(), &kept);
            assert_eq!(offsets(&mut again, channel), [4], "{channel}");
            let copy = copied(&mut again, &kept);
            for records in [copy.clone(), [kept.0.lock().0.clone(), copy].concat()] {
                let mut last = read_as(PayloadForm::Json, &records, &kept);
                assert_eq!(offsets(&mut last, channel), [4], "{channel}");
                let mut bytes = read_as(PayloadForm::Bytes, &records, &kept);
                assert_eq!(offsets(&mut bytes, channel)[0], 4, "the newest stands first");
            }
        }
    }
}

/// What is missing in the middle is said, and who is before it does not recover; what jumps on purpose is no hole.
#[test]
fn a_hole_is_found_and_a_jump_is_none() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    for _ in 0..9 {
        publish(&mut owned, "c", "1", "", 0);
    }
    let mut records = shelf.0.lock().0.clone();
    let last = records.split_off(7);
    let mut other = owner(None);
    for record in records.iter().take(4).cloned() {
        assert_eq!(other.take_stored(record, AT), Taken::Yes);
    }
    assert_eq!(other.take_stored(last[0].clone(), AT), Taken::After(Offset(4), Offset(8)));
    assert_eq!(other.take_stored(last[0].clone(), AT), Taken::Wrong, "an offset comes once");
    assert_eq!(history(&mut other, "c").0, [(8, b"1".to_vec())]);

    let mut other = read(&records, AT);
    other.jump_stored("c");
    let after = publish(&mut other, "c", "2", "", 0);
    assert_eq!(after.offset.0, 7 + OFFSET_JUMP + 1);
    assert_eq!(history(&mut other, "c").0.len(), 8);
    other.lose_stored("c");
    assert_ne!(history(&mut other, "c").1.epoch, after.epoch);
    assert_eq!(history(&mut other, "c").0, []);
}
