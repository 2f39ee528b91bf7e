//! Value channels against a plain map: whatever was published, whoever comes back from wherever has what the map has.
//! A failure prints its seed; `HUB_SEED=n` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, ConnId, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, IS_REMOVED, KEY_TAG, REMOVED_TAG, Since, SinceEpoch, Visibility};
use crate::hub::creators::Creator;
use crate::hub::log_store::{Append, Durable, LogStore, ReadBack, StoreDone, StoreEntry};
use crate::hub::owned::{OwnedChannels, StoredMoment, Taken};
use crate::hub::requests::{HistoryRequest, JoinRequest, Pace, Published, Reading, Recovery};
use crate::hub::{ChannelKind, ChannelOptions, HubLimits, Namespaces};
use crate::record::StoredRecord;

const KEYS_MAX: usize = 6;
const RUNS: u64 = 400;
const STEPS: usize = 250;

/// Keeps all that it is given, at once.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<(Vec<StoredRecord>, u64)>>);

impl LogStore for Shelf {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        self.0.lock().0.push(entry.to_record());
        Append::Done
    }

    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        panic!("memory has all that there is of values")
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        None
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

fn options() -> ChannelOptions {
    ChannelOptions {
        kind: ChannelKind::Value,
        keys_max: KEYS_MAX,
        key_bytes_max: 8,
        durable: Durable::Sync,
        ..ChannelOptions::default()
    }
}

fn namespaces() -> Arc<Namespaces> {
    let short = ChannelOptions { history_ttl: Duration::from_secs(10), durable: Durable::No, ..options() };
    let stream = ChannelOptions {
        history_size: 10,
        history_ttl: Duration::from_secs(100),
        ..ChannelOptions::default()
    };
    let named = [("short".to_owned(), short), ("stream".to_owned(), stream)];
    Arc::new(Namespaces::new(options(), named, 255))
}

fn owner(seed: u64) -> OwnedChannels {
    let limits = HubLimits { history_read_max: 3, recovery_publications_max: 1, ..HubLimits::default() };
    OwnedChannels::new(namespaces(), limits, Prng::with_seed(seed))
}

fn ask(channel: &str, key: &str, value: Option<&str>) -> PublishRequest {
    let mut tags = vec![(KEY_TAG.to_owned(), key.to_owned())];
    if value.is_none() {
        tags.push((REMOVED_TAG.to_owned(), IS_REMOVED.to_owned()));
    }
    let data = Bytes::copy_from_slice(value.unwrap_or("null").as_bytes());
    PublishRequest { tags, keyed: true, ..PublishRequest::new(channel.into(), data) }
}

fn join(owned: &mut OwnedChannels, channel: &str, since: Since, now: Time) -> (Position, Recovery) {
    let conn = ConnId::new(ShardId(0), Sock { slot: 1, generation: 1 });
    let info = ClientInfo::default();
    let (recover, shown) = (Some(since), Visibility::default());
    let ask = JoinRequest {
        channel: channel.into(),
        conn,
        info: info.into(),
        shown,
        recover,
        device: None,
        by: Creator::Backend,
    };
    let joined = owned.join(ask, now).expect("there is room");
    owned.leave(channel, conn, now);
    (joined.position, joined.recovery.expect("it was asked for"))
}

type Map = BTreeMap<String, String>;

fn apply(map: &mut Map, publications: &Publications) {
    for publication in publications {
        let text = String::from_utf8(publication.data.to_vec()).unwrap();
        match publication.is_removal() {
            true => drop(map.remove(publication.key())),
            false => drop(map.insert(publication.key().to_owned(), text)),
        }
    }
}

/// What somebody knows, and from when.
struct Client {
    map: Map,
    position: Position,
}

struct Run {
    prng: Prng,
    owned: OwnedChannels,
    store: Shelf,
    truth: Map,
    /// `None`: it was removed since, and may be forgotten.
    versions: BTreeMap<String, Option<u64>>,
    clients: Vec<Client>,
    now: Time,
    published: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut prng = Prng::with_seed(seed);
        let store = Shelf::default();
        let owned = owner(prng.u64(..)).with_store(Box::new(store.clone()));
        let clients = (0..4).map(|_| Client { map: Map::new(), position: Position::UNKNOWN }).collect();
        let (truth, versions) = (Map::new(), BTreeMap::new());
        Run { prng, owned, store, truth, versions, clients, now: Time(1_000), published: 0 }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.now = self.now + Duration::from_millis(self.prng.u64(..50));
            match self.prng.u8(..40) {
                0..=22 => self.publish(),
                23..=30 => self.come_back(),
                31..=34 => self.read_on(),
                35 => self.hand_over(),
                36 => self.restart(),
                37..=38 => self.copy_step(),
                _ => drop(self.owned.sweep(self.now, 10)),
            }
            let (_, whole) = join(&mut self.owned, "c", Since::WHOLE, self.now);
            let Recovery::Recovered(state) = whole else { panic!("it is all that there is") };
            let mut map = Map::new();
            apply(&mut map, &state);
            assert_eq!((map.len(), &map), (state.len(), &self.truth), "each key once, and no removal");
        }
    }

    fn publish(&mut self) {
        let key = ["a", "b", "c", "d", "e", "f", "g", "h", ""][self.prng.usize(..9)];
        let removes = self.prng.u8(..3) == 0;
        let value = self.published.to_string();
        self.published += 1;
        let mut ask = ask("c", key, (!removes).then_some(&value));
        if self.prng.bool() {
            ask.version = self.versions.get(key).copied().flatten().unwrap_or(5) + self.prng.u64(..3);
        }
        let before = self.owned.position("c").map_or(Offset(0), |position| position.offset);
        let newest = self.versions.get(key).copied().unwrap_or(Some(0));
        let stale = ask.version > 0 && newest.is_some_and(|newest| ask.version <= newest);
        let may_be_stale = ask.version > 0 && newest.is_none();
        let outcome = self.owned.publish(ask.clone(), self.now, 5);
        let known = self.truth.contains_key(key);
        if !removes && !known && self.truth.len() >= KEYS_MAX {
            let old = stale || may_be_stale;
            let seen = old && matches!(&outcome, Ok(Published { publication: None, .. }));
            return assert!(seen || outcome.is_err_and(|error_code| error_code == ErrorCode::LimitExceeded));
        }
        let Published { position, publication, .. } = outcome.expect("it is taken");
        let Some(publication) = publication else {
            assert_eq!(position.offset, before);
            assert!(stale || may_be_stale || removes && !known, "it is news");
            return;
        };
        assert!(!stale, "an old version");
        assert_eq!((publication.offset(), position.offset), (before.next(), before.next()));
        apply(&mut self.truth, &vec![publication]);
        if removes {
            self.versions.insert(key.to_owned(), None);
        } else if ask.version > 0 {
            self.versions.insert(key.to_owned(), Some(ask.version));
        }
    }

    /// A client subscribes again from where it was.
    fn come_back(&mut self) {
        let at = self.prng.usize(..self.clients.len());
        let client = &mut self.clients[at];
        let since = Since { offset: client.position.offset, epoch: SinceEpoch::Known(client.position.epoch) };
        let (position, recovery) = join(&mut self.owned, "c", since, self.now);
        match recovery {
            Recovery::Recovered(changes) => {
                let keys: std::collections::BTreeSet<&str> = changes.iter().map(|p| p.key()).collect();
                assert_eq!(keys.len(), changes.len(), "each key once");
                apply(&mut client.map, &changes);
            }
            Recovery::Replaced(state) => {
                client.map.clear();
                apply(&mut client.map, &state);
            }
            Recovery::Lost | Recovery::Later(_) => panic!("values are given, or all of them"),
        }
        assert_eq!(client.map, self.truth);
        client.position = position;
    }

    /// A subscriber that lags reads page by page, while others publish.
    fn read_on(&mut self) {
        let at = self.prng.usize(..self.clients.len());
        loop {
            let after = self.clients[at].position;
            match self.owned.read("c", after, self.prng.usize(1..100), self.now) {
                Reading::Ready(ReadAnswer::Page { publications, position }) => {
                    if publications.is_empty() {
                        // Offsets may have been left out behind what it has.
                        self.clients[at].position = position;
                        break;
                    }
                    let client = &mut self.clients[at];
                    apply(&mut client.map, &publications);
                    client.position = publications.last().unwrap().position;
                }
                Reading::Ready(ReadAnswer::Lost(_)) => return self.come_back(),
                other => panic!("{other:?}"),
            }
            if self.prng.u8(..3) == 0 {
                self.publish();
            }
        }
        assert_eq!(self.clients[at].map, self.truth);
    }

    /// Another process goes on from records.
    fn hand_over(&mut self) {
        let mut next = owner(self.prng.u64(..)).with_store(Box::new(self.store.clone()));
        if let Some(channel) = self.owned.to_record("c", self.now) {
            next.restore(&channel, self.now).unwrap();
            let mut after = Offset(0);
            while let Some(part) = self.owned.log_part("c", after, self.now) {
                after = part.entries.last().unwrap().publication.offset;
                next.restore_log(part, self.now).unwrap();
            }
        }
        next.finish_restoring().unwrap();
        assert_eq!(next.position("c"), self.owned.position("c"));
        self.owned = next;
    }

    /// Another process goes on from what the store has. Clients may have seen what was not written.
    fn restart(&mut self) {
        let at = StoredMoment { now: self.now, wall_ms: 10 };
        let mut next = owner(self.prng.u64(..)).with_store(Box::new(self.store.clone()));
        let records = self.store.0.lock().0.clone();
        for record in records {
            assert_ne!(next.take_stored(record.clone(), at), Taken::Wrong, "{record:?}");
        }
        if self.prng.bool() && next.has("c") {
            let loose = self.prng.usize(..self.clients.len());
            let client = &mut self.clients[loose];
            if Some(client.position) == next.position("c") {
                client.map.insert("lost".to_owned(), "0".to_owned());
                client.position.offset = Offset(client.position.offset.0 + self.prng.u64(1..5));
            }
            next.jump_stored("c");
            // What comes next is written where it is.
            let jumped = next.position("c").unwrap();
            self.store.0.lock().1 = 0;
            let mut store = self.store.0.lock();
            store.0.clear();
            drop(store);
            self.owned = next;
            self.store.0.lock().1 = self.prng.u64(1..1_000_000);
            while self.owned.copy_to_store(at) {}
            assert_eq!(self.owned.position("c"), Some(jumped));
            return;
        }
        next.finish_stored().unwrap();
        self.store.0.lock().1 = 0;
        self.owned = next;
    }

    /// Everything is written again while more is published; then what was before goes.
    fn copy_step(&mut self) {
        let at = StoredMoment { now: self.now, wall_ms: 10 };
        let before = self.store.0.lock().0.len();
        self.store.0.lock().1 = self.prng.u64(1..1_000_000);
        while self.owned.copy_to_store(at) {
            self.publish();
        }
        self.store.0.lock().0.drain(..before);
    }
}

#[test]
fn whoever_comes_back_has_what_a_plain_map_has() {
    let only = std::env::var("HUB_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in (0..RUNS).filter(|seed| only.is_none_or(|only| only == *seed)) {
        if let Err(panic) = std::panic::catch_unwind(|| Run::new(seed).run()) {
            eprintln!("failed with HUB_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

const T0: Time = Time(1_000);

#[test]
fn what_a_value_channel_does_not_take_has_its_code() {
    let mut owned = owner(1);
    let mut publish =
        |ask: PublishRequest| owned.publish(ask, T0, 0).map(|published| published.position.offset.0);
    for key in 0..KEYS_MAX {
        assert_eq!(publish(ask("c", &key.to_string(), Some("1"))), Ok(key as u64 + 1));
    }
    assert_eq!(publish(ask("c", "more", Some("1"))), Err(ErrorCode::LimitExceeded));
    assert_eq!(publish(ask("c", "5", Some("2"))), Ok(7), "of a key that is there");
    assert_eq!(publish(ask("c", "ninebytes", Some("1"))), Err(ErrorCode::BadRequest));
    assert_eq!(publish(ask("c", "unknown", None)), Ok(7), "there is nothing to remove: nothing is published");
    assert_eq!(publish(ask("c", "5", None)), Ok(8));
    assert_eq!(publish(ask("c", "5", None)), Ok(8));
    assert_eq!(publish(ask("c", "more", Some("1"))), Ok(9), "there is room again");
    let skipped = PublishRequest { skip_history: true, ..ask("c", "1", Some("1")) };
    assert_eq!(publish(skipped), Err(ErrorCode::BadRequest));
    let spread = PublishRequest { pace: Pace { spread_ms: 5, bulk: false }, ..ask("c", "1", Some("1")) };
    assert_eq!(publish(spread), Err(ErrorCode::BadRequest));
    assert_eq!(publish(ask("stream:a", "1", Some("1"))), Err(ErrorCode::BadRequest), "a stream has no keys");
    let tagged = PublishRequest { keyed: false, ..ask("stream:a", "1", Some("1")) };
    assert_eq!(publish(tagged), Ok(1), "and any tags");
}

#[test]
fn versions_are_of_their_keys() {
    let mut owned = owner(1);
    let mut publish = |key: &str, version| {
        let ask = PublishRequest { version, ..ask("c", key, Some("1")) };
        owned.publish(ask, T0, 0).unwrap().publication.is_some()
    };
    assert!(publish("a", 5) && publish("b", 3));
    assert!(!publish("a", 5) && !publish("b", 3) && !publish("a", 4));
    assert!(publish("b", 4) && publish("a", 6));
    let removal = PublishRequest { version: 7, ..ask("c", "a", None) };
    assert!(owned.publish(removal, T0, 0).unwrap().publication.is_some());
    let late = PublishRequest { version: 6, ..ask("c", "a", Some("1")) };
    assert!(owned.publish(late, T0, 0).unwrap().publication.is_none(), "what was removed stays so");
}

/// A value whose time is over is not given, and who was before it gets all there is.
#[test]
fn values_are_over_by_age_where_the_namespace_says_so() {
    let mut owned = owner(1);
    let mut at = |key: &str, second: u64| {
        let published = owned.publish(ask("short:a", key, Some("1")), Time(second * 1_000_000_000), 0);
        published.unwrap().position
    };
    let first = at("a", 1);
    let last = [at("b", 2), at("a", 8), at("c", 9)][2];
    let now = Time(12 * 1_000_000_000);
    let keys = |recovery: &Recovery| match recovery {
        Recovery::Recovered(list) => {
            (true, list.iter().map(|p| p.key().to_owned()).collect::<Vec<_>>().concat())
        }
        Recovery::Replaced(list) => {
            (false, list.iter().map(|p| p.key().to_owned()).collect::<Vec<_>>().concat())
        }
        other => panic!("{other:?}"),
    };
    let (position, whole) = join(&mut owned, "short:a", Since::WHOLE, now);
    assert_eq!((position, keys(&whole)), (last, (true, "ac".to_owned())));
    let since =
        |position: Position| Since { offset: position.offset, epoch: SinceEpoch::Known(position.epoch) };
    assert_eq!(keys(&join(&mut owned, "short:a", since(first), now).1), (false, "ac".to_owned()));
    assert_eq!(keys(&join(&mut owned, "short:a", since(last), now).1), (true, String::new()));
}

/// Values that never are over hold their channel; removals alone do not.
#[test]
fn a_channel_lives_as_long_as_it_has_a_value() {
    let mut owned = owner(1);
    let years = |years: u64| Time(years * 365 * 86_400 * 1_000_000_000);
    let first = owned.publish(ask("c", "a", Some("1")), years(1), 0).unwrap().position;
    owned.sweep(years(30), 100);
    assert_eq!(owned.publish(ask("c", "a", None), years(30), 0).unwrap().position.epoch, first.epoch);
    assert_eq!(owned.counts().history_publications, 1, "the removal");
    owned.sweep(years(40), 100);
    assert_eq!((owned.position("c"), owned.counts().history_bytes), (None, 0));
}

#[test]
fn the_history_is_the_state_and_from_a_position_on_what_has_changed() {
    let mut owned = owner(1);
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", Some("3")), ("c", Some("4")), ("b", None)]
    {
        owned.publish(ask("c", key, value), T0, 0).unwrap();
    }
    let mut history = |since: Option<u64>, reverse| {
        let since = since.map(|offset| Since { offset: Offset(offset), epoch: SinceEpoch::Any });
        let channel: ChannelName = "c".into();
        let ask =
            HistoryRequest { channel, limit: None, since, since_ms: None, reverse, by: Creator::Backend };
        let history = owned.history(&ask, T0).unwrap();
        history.publications.iter().map(|publication| publication.offset().0).collect::<Vec<_>>()
    };
    assert_eq!(history(None, false), [3, 4]);
    assert_eq!(history(None, true), [4, 3]);
    assert_eq!(history(Some(3), false), [4, 5]);
    assert_eq!(history(Some(4), true), [3]);
}
