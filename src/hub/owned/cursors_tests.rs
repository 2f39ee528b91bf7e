//! Cursors at a channel's owner: what is refused, what is counted, what a store and another process have of them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::Position;
use crate::base::prng::Prng;
use crate::base::publication::SinceEpoch;
use crate::hub::cursors::Ack;
use crate::hub::log_store::{LogStore, ReadBack, StoreDone, StoreEntry};
use crate::hub::owned::OFFSET_JUMP;
use crate::hub::requests::{PublishRequest, Released};
use crate::hub::{ChannelOptions, HubLimits, Namespaces};
use crate::record::{MembersPart, StoredRecord};

pub(super) const NOW: Time = Time(5_000_000_000);
const AT: StoredMoment = StoredMoment { now: NOW, wall_ms: 1_000_000 };

/// Takes everything; what is to be kept for good it takes later, where the test wants that.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<OnShelf>>);

#[derive(Default)]
struct OnShelf {
    records: Vec<StoredRecord>,
    waiting: u64,
    done: u64,
    late: bool,
    full: bool,
    copy: u64,
}

impl LogStore for Shelf {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        self.0.lock().records.push(entry.to_record());
        Append::Done
    }

    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        ReadBack::Nothing
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        let mut shelf = self.0.lock();
        if shelf.done == shelf.waiting {
            return None;
        }
        shelf.done += 1;
        Some((Ticket(shelf.done), StoreDone::Appended(Ok(()))))
    }

    fn keep_cursors(&mut self, cursors: StoredCursors, sync: bool) -> Append {
        let mut shelf = self.0.lock();
        if shelf.full {
            return Append::Refused(ErrorCode::StoreBusy);
        }
        shelf.records.push(StoredRecord::Cursors(cursors));
        if !(sync && shelf.late) {
            return Append::Done;
        }
        shelf.waiting += 1;
        Append::Later(Ticket(shelf.waiting))
    }

    fn wants_copy(&mut self) -> u64 {
        self.0.lock().copy
    }

    fn copy(&mut self, part: StoredRecord) -> Result<(), StoredRecord> {
        self.0.lock().records.push(part);
        Ok(())
    }

    fn copied(&mut self, _: u64) {
        self.0.lock().copy = 0;
    }
}

pub(super) fn owner(store: Option<&Shelf>) -> OwnedChannels {
    let group = ChannelOptions {
        history_size: 2000,
        history_ttl: Duration::from_secs(60),
        cursors: true,
        cursors_max: 20,
        ..ChannelOptions::default()
    };
    let of = |durable| ChannelOptions { durable, ..group.clone() };
    let named = [
        ("plain".to_owned(), ChannelOptions::default()),
        ("sync".to_owned(), of(Durable::Sync)),
        ("loose".to_owned(), of(Durable::Async)),
    ];
    let namespaces = Arc::new(Namespaces::new(group.clone(), named, 255));
    let limits = HubLimits { cursors_max: 500, ..HubLimits::default() };
    let owned = OwnedChannels::new(namespaces, limits, Prng::with_seed(9));
    match store {
        Some(store) => owned.with_store(Box::new(store.clone())),
        None => owned,
    }
}

pub(super) fn publish(owned: &mut OwnedChannels, channel: &str, count: usize) -> Position {
    let mut position = None;
    for _ in 0..count {
        let ask = PublishRequest::new(channel.into(), Bytes::from_static(b"1"));
        position = Some(owned.publish(ask, NOW, AT.wall_ms).expect("it is taken").position);
    }
    position.expect("something was published")
}

pub(super) fn request(channel: &str, user: &str, device: &str, acks: &[(u64, AckKind)]) -> AckRequest {
    let ack = |(place, &(offset, kind)): (usize, &(u64, AckKind))| Ack {
        place: place as u8,
        offset: Offset(offset),
        epoch: SinceEpoch::Any,
        kind,
    };
    let acks = acks.iter().enumerate().map(ack).collect();
    AckRequest { channel: channel.into(), user: user.into(), device: device.into(), acks }
}

fn ack(
    owned: &mut OwnedChannels,
    channel: &str,
    user: &str,
    device: &str,
    kind: AckKind,
    to: u64,
) -> AckOutcome {
    let acked = owned.ack(&request(channel, user, device, &[(to, kind)]), NOW);
    acked.outcomes[0].1
}

fn at(received: u64, read: u64) -> AckOutcome {
    Ok(MemberCursor { received: Offset(received), read: Offset(read) })
}

fn names(page: &MembersPage) -> Vec<&str> {
    page.users.iter().map(|user| &**user).collect()
}

use AckKind::{Read, Received};

#[test]
fn each_acknowledgement_has_its_own_outcome() {
    let mut owned = owner(None);
    let top = publish(&mut owned, "c", 5);
    let mut ask = request("c", "ann", "phone", &[(4, Received), (6, Read), (2, Read), (3, Received)]);
    ask.acks[3].epoch = SinceEpoch::Foreign;
    let bad = Err(ErrorCode::BadRequest);
    let outcomes: Vec<_> = owned.ack(&ask, NOW).outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, [at(4, 2), bad, at(4, 2), Err(ErrorCode::UnrecoverablePosition)]);
    ask.acks[3].epoch = SinceEpoch::Known(top.epoch);
    assert_eq!(owned.ack(&ask, NOW).outcomes[3].1, at(4, 2), "a late one is answered with where it stands");
    assert_eq!(ack(&mut owned, "plain:c", "ann", "", Read, 0), Err(ErrorCode::NotAvailable));
    assert_eq!(ack(&mut owned, "none:c", "ann", "", Read, 0), Err(ErrorCode::UnknownChannel));
    assert_eq!(ack(&mut owned, "unknown", "ann", "", Read, 0), bad);
    let counts = owned.counts();
    assert_eq!((counts.acks_total, counts.acks_refused_total, counts.cursors_moved_total), (5, 6, 1));
    for number in 0..19 {
        ack(&mut owned, "c", &format!("u{number}"), "", Read, 1).unwrap();
    }
    assert_eq!(ack(&mut owned, "c", "late", "", Read, 1), Err(ErrorCode::LimitExceeded));
    assert_eq!(ack(&mut owned, "c", "u1", "", Read, 2), at(2, 2), "who is in moves on");
    assert_eq!(owned.counts().cursors, 20);
}

#[test]
fn the_bound_of_all_channels_holds_and_a_forgotten_channel_gives_its_part_back() {
    let mut owned = owner(None);
    for channel in 0..26 {
        let name = format!("c{channel}");
        publish(&mut owned, &name, 1);
        for user in 0..20 {
            let outcome = ack(&mut owned, &name, &format!("u{user}"), "", Read, 1);
            assert_eq!(outcome.is_ok(), channel < 25, "{channel} {user}");
        }
    }
    let month = NOW + Duration::from_secs(40 * 24 * 3600);
    while owned.sweep(month, 1000) {}
    assert_eq!((owned.counts().cursors, owned.counts().channels, owned.cursor_names.count()), (0, 0, 0));
}

#[test]
fn members_are_counted_listed_and_taken_out() {
    let mut owned = owner(None);
    publish(&mut owned, "c", 3);
    let users = |names: &[&str]| names.iter().map(|name| UserName::from(*name)).collect::<Vec<_>>();
    let channel: ChannelName = "c".into();
    let mut add = |names: &[&str], at: Option<u64>| {
        owned.add_members(&channel, &users(names), at.map(Offset), NOW).map(|(count, _)| count)
    };
    assert_eq!(add(&["dan", "ann", "cid", "bob"], None), Ok(4));
    assert_eq!(add(&["ann", "eve"], Some(1)), Ok(1));
    assert_eq!(add(&["x"], Some(4)), Err(ErrorCode::BadRequest));
    assert_eq!(add(&[""], None), Err(ErrorCode::BadRequest));
    let many: Vec<String> = (0..16).map(|number| format!("m{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(add(&many, None), Err(ErrorCode::LimitExceeded), "all of them or none");
    publish(&mut owned, "c", 2);
    ack(&mut owned, "c", "bob", "phone", Read, 4).unwrap();
    ack(&mut owned, "c", "bob", "desktop", Received, 5).unwrap();
    let unread = |owned: &OwnedChannels, user: &str| owned.unread("c", user).unwrap().unread;
    let all: Vec<u64> = ["ann", "bob", "eve", "stranger"].map(|user| unread(&owned, user)).into();
    assert_eq!(all, [2, 1, 4, 5]);
    let page = owned.members_page("c", "", 3).unwrap();
    assert_eq!((names(&page), page.total, page.more), (vec!["ann", "bob", "cid"], 5, true));
    let page = owned.members_page("c", "cid", 3).unwrap();
    assert_eq!((names(&page), page.total, page.more), (vec!["dan", "eve"], 5, false));
    let by = |offset, kind| owned.read_by("c", Offset(offset), kind, "", 9);
    assert_eq!(names(&by(4, Read).unwrap()), ["bob"]);
    assert_eq!(names(&by(5, Received).unwrap()), ["bob"]);
    assert_eq!(names(&by(3, Read).unwrap()), ["ann", "bob", "cid", "dan"]);
    assert_eq!(by(6, Read).unwrap_err(), ErrorCode::BadRequest);
    let cursors = owned.cursors_page("c", Some("bob"), "", 9).unwrap().cursors;
    let mut devices: Vec<_> = cursors.iter().map(|named| (&*named.device, named.cursor.received.0)).collect();
    devices.sort_unstable();
    assert_eq!(devices, [("desktop", 5), ("phone", 4)]);
    assert_eq!(owned.remove_members("c", &users(&["bob", "stranger"])), Ok((1, None)));
    assert_eq!((owned.members_page("c", "", 0).unwrap().total, owned.counts().cursors), (4, 4));
    assert_eq!(owned.members_page("plain:c", "", 1), Err(ErrorCode::NotAvailable));
}

/// Everything that a channel has of its members.
fn state(owned: &OwnedChannels, channel: &str) -> Vec<(String, String, MemberCursor)> {
    let page = owned.cursors_page(channel, None, "", 1000).unwrap().cursors;
    let mut all: Vec<_> = page
        .into_iter()
        .map(|named| (named.user.to_string(), named.device.to_string(), named.cursor))
        .collect();
    all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    all
}

/// What happens to a channel at random.
fn stir(owned: &mut OwnedChannels, channel: &str, prng: &mut Prng) {
    let user = format!("u{}", prng.u32(0..6));
    let name = [UserName::from(user.as_str())];
    match prng.u32(0..12) {
        0..3 => drop(publish(owned, channel, 1)),
        3 => drop(owned.remove_members(channel, &name)),
        4 => drop(owned.add_members(&channel.into(), &name, None, NOW)),
        _ => {
            let top = owned.position(channel).map_or(0, |position| position.offset.0);
            let device = ["", "phone", "desktop"][prng.usize(0..3)];
            let kind = if prng.bool() { Read } else { Received };
            let _ = ack(owned, channel, &user, device, kind, prng.u64(0..=top));
        }
    }
}

/// Whatever was given to the store, what it did not take at first, and wherever a copy began or ended, a start after it has the same.
#[test]
fn a_start_from_the_store_has_every_cursor() {
    let seeds = std::env::var("TRUNKLINE_CURSOR_SEEDS").map_or(100, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut prng = Prng::with_seed(seed);
        let shelf = Shelf::default();
        let mut owned = owner(Some(&shelf));
        publish(&mut owned, "sync:c", 1);
        let mut copied_from = 0;
        for step in 0..prng.usize(1..120) {
            stir(&mut owned, "sync:c", &mut prng);
            let full = shelf.0.lock().full;
            if prng.u32(0..10) == 0 {
                shelf.0.lock().full = !full && seed % 2 == 0;
                owned.keep_cursors_again();
            }
            if prng.u32(0..20) == 0 && shelf.0.lock().copy == 0 {
                copied_from = shelf.0.lock().records.len();
                shelf.0.lock().copy = step as u64 + 1;
            }
            let wants = shelf.0.lock().copy > 0;
            if wants && prng.bool() && !owned.copy_to_store(AT) {
                // What was before the copy goes.
                shelf.0.lock().records.drain(..copied_from);
            }
        }
        shelf.0.lock().full = false;
        owned.keep_cursors_again();
        let mut found = owner(None);
        for record in &shelf.0.lock().records {
            assert_ne!(found.take_stored(record.clone(), AT), Taken::Wrong, "{seed}");
        }
        found.finish_stored().unwrap();
        assert_eq!(state(&found, "sync:c"), state(&owned, "sync:c"), "{seed}");
        assert_eq!(found.counts().cursors, owned.counts().cursors, "{seed}");
    }
}

#[test]
fn what_was_read_is_not_unread_after_offsets_were_skipped() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    publish(&mut owned, "loose:c", 10);
    ack(&mut owned, "loose:c", "ann", "", Read, 7).unwrap();
    let mut found = owner(Some(&shelf));
    let records = shelf.0.lock().records.clone();
    for record in records {
        assert_eq!(found.take_stored(record, AT), Taken::Yes);
    }
    found.jump_stored("loose:c");
    found.finish_stored().unwrap();
    assert!(publish(&mut found, "loose:c", 2).offset.0 > OFFSET_JUMP);
    assert_eq!(found.unread("loose:c", "ann").unwrap().unread, 5);
    // And so in a copy, and after an upgrade.
    shelf.0.lock().copy = 1;
    shelf.0.lock().records.clear();
    while found.copy_to_store(AT) {}
    let mut copied = owner(None);
    for record in &shelf.0.lock().records {
        copied.take_stored(record.clone(), AT);
    }
    assert_eq!(copied.unread("loose:c", "ann").unwrap().unread, 5);
    assert_eq!(moved(&copied).unread("loose:c", "ann").unwrap().unread, 5);
}

/// Another process has the channels by their records.
fn moved(owned: &OwnedChannels) -> OwnedChannels {
    let mut other = owner(None);
    for name in owned.names() {
        other.restore(&owned.to_record(name, NOW).unwrap(), NOW).unwrap();
        let mut parts: Vec<MembersPart> = Vec::new();
        owned.members_parts(name, NOW, |part| parts.push(part));
        for part in parts {
            let mut bytes = Vec::new();
            crate::record::write(&part, &mut bytes).unwrap();
            let part = crate::record::read(&bytes).unwrap();
            other.restore_members(part, &|_| None, NOW).unwrap();
        }
    }
    other.finish_restoring().unwrap();
    other
}

#[test]
fn another_process_has_every_cursor() {
    for seed in 0..50 {
        let mut prng = Prng::with_seed(seed);
        let mut owned = owner(None);
        publish(&mut owned, "c", 1);
        (0..prng.usize(0..100)).for_each(|_| stir(&mut owned, "c", &mut prng));
        let other = moved(&owned);
        assert_eq!(state(&other, "c"), state(&owned, "c"), "{seed}");
        assert_eq!(other.counts().cursors, owned.counts().cursors, "{seed}");
    }
}

#[test]
fn an_acknowledgement_of_a_sync_channel_holds_when_it_is_kept() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    publish(&mut owned, "sync:c", 3);
    shelf.0.lock().late = true;
    let acked = owned.ack(&request("sync:c", "ann", "", &[(2, Read)]), NOW);
    assert_eq!(acked.ticket, Some(Ticket(1)));
    assert!(matches!(owned.take_released(NOW), Some(Released::Cursors(Ticket(1), Ok(())))));
    assert!(owned.take_released(NOW).is_none());
    let again = owned.ack(&request("sync:c", "ann", "", &[(1, Read)]), NOW);
    assert_eq!(again.ticket, None, "nothing has moved");
    let failed = acked.kept(Err(ErrorCode::StoreFailed));
    assert_eq!(failed.outcomes, [(0, Err(ErrorCode::StoreFailed))]);
}

#[test]
fn who_repeats_what_is_on_its_way_to_the_store_waits_as_well() {
    let shelf = Shelf::default();
    let mut owned = owner(Some(&shelf));
    publish(&mut owned, "sync:c", 3);
    publish(&mut owned, "loose:c", 3);
    shelf.0.lock().late = true;
    let bob = [UserName::from("bob")];
    let ack = |owned: &mut OwnedChannels| owned.ack(&request("sync:c", "ann", "", &[(2, Read)]), NOW).ticket;
    let add = |owned: &mut OwnedChannels| owned.add_members(&"sync:c".into(), &bob, None, NOW).unwrap();
    let remove = |owned: &mut OwnedChannels| owned.remove_members("sync:c", &bob).unwrap();
    assert_eq!((ack(&mut owned), ack(&mut owned)), (Some(Ticket(1)), Some(Ticket(2))));
    assert_eq!((add(&mut owned), add(&mut owned)), ((1, Some(Ticket(3))), (0, Some(Ticket(4)))));
    assert_eq!((remove(&mut owned), remove(&mut owned)), ((1, Some(Ticket(5))), (0, Some(Ticket(6)))));
    let loose = owned.ack(&request("loose:c", "ann", "", &[(2, Read)]), NOW);
    assert_eq!(loose.ticket, None, "nobody waits there");
    for _ in 1..=5 {
        owned.take_released(NOW).expect("the store has one more");
        assert!(ack(&mut owned).is_some(), "and not all");
    }
    while owned.take_released(NOW).is_some() {}
    assert_eq!((ack(&mut owned), remove(&mut owned)), (None, (0, None)), "all is kept");
}
