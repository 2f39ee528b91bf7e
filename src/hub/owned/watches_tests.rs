//! Who is named to the backend and when, and what publishers hear: over time, in another process, and from a store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::base::ids::Position;
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, SinceEpoch};
use crate::hub::cursors::{Ack, AckKind, AckRequest};
use crate::hub::log_store::{LogStore, ReadBack, StoreDone, StoreEntry, Ticket};
use crate::hub::owned::StoredMoment;
use crate::hub::requests::PublishRequest;
use crate::hub::{ChannelOptions, HubLimits, Namespaces};
use crate::record::{MembersPart, StoredRecord};

/// Takes everything.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<StoredRecord>>>);

impl LogStore for Shelf {
    fn append(&mut self, entry: StoreEntry<'_>, _: Time) -> Append {
        self.0.lock().push(entry.to_record());
        Append::Done
    }

    fn read(&mut self, _: &str, _: Offset, _: Position, _: usize) -> ReadBack {
        ReadBack::Nothing
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        None
    }

    fn keep_cursors(&mut self, cursors: StoredCursors, _: bool) -> Append {
        self.0.lock().push(StoredRecord::Cursors(cursors));
        Append::Done
    }
}

fn s(ms: u64) -> Time {
    Time::from_millis(1_000_000 + ms)
}

fn owner(store: Option<&Shelf>) -> OwnedChannels {
    let group = ChannelOptions {
        history_size: 2000,
        history_ttl: Duration::from_secs(600),
        cursors: true,
        ack_timeout: Duration::from_secs(8),
        receipts: true,
        durable: if store.is_some() { Durable::Sync } else { Durable::No },
        ..ChannelOptions::default()
    };
    let namespaces = Arc::new(Namespaces::new(group, [], 255));
    let mut owned = OwnedChannels::new(namespaces, HubLimits::default(), Prng::with_seed(9));
    owned.tell_acked(true);
    match store {
        Some(store) => owned.with_store(Box::new(store.clone())),
        None => owned,
    }
}

fn publish(owned: &mut OwnedChannels, user: &str, ms: u64) -> u64 {
    let info = (!user.is_empty()).then(|| ClientInfo { user: user.into(), ..ClientInfo::default() });
    let ask = PublishRequest { info, ..PublishRequest::new("c".into(), Bytes::from_static(b"1")) };
    owned.publish(ask, s(ms), 1_000 + ms).expect("it is taken").position.offset.0
}

fn ack(owned: &mut OwnedChannels, user: &str, device: &str, kind: AckKind, to: u64, ms: u64) {
    let acks = vec![Ack { place: 0, offset: Offset(to), epoch: SinceEpoch::Any, kind }];
    let ask = AckRequest { channel: "c".into(), user: user.into(), device: device.into(), acks };
    owned.ack(&ask, s(ms)).outcomes[0].1.expect("it is taken");
}

fn add(owned: &mut OwnedChannels, users: &[&str]) {
    let users: Vec<UserName> = users.iter().map(|user| (*user).into()).collect();
    owned.add_members(&"c".into(), &users, None, s(0)).expect("there is room");
}

/// What is said at a time, in few words.
fn said(owned: &mut OwnedChannels, ms: u64) -> Vec<String> {
    in_words(std::iter::from_fn(|| owned.take_cursor_notice(s(ms))))
}

fn in_words(notices: impl Iterator<Item = CursorNotice>) -> Vec<String> {
    let mut said = Vec::new();
    for notice in notices {
        said.push(match notice {
            CursorNotice::Event(What::Unacked(event)) => {
                let named = event.users.iter().map(|user| {
                    let elsewhere = if user.elsewhere { "+" } else { "" };
                    format!(" {}@{}{:?}{elsewhere}", user.user, user.received.0, user.devices)
                });
                let UnackedEvent { from, to, total, .. } = *event;
                format!("unacked {}-{} {total}:{}", from.0, to.0, named.collect::<String>())
            }
            CursorNotice::Event(What::Acked(event)) => {
                let named = event
                    .acks
                    .iter()
                    .map(|ack| format!(" {}/{} {} {}", ack.user, ack.device, ack.received.0, ack.read.0));
                format!("acked:{}", named.collect::<String>())
            }
            CursorNotice::Event(what) => panic!("{what:?}"),
            CursorNotice::Receipts { user, data } => {
                let data: serde_json::Value = serde_json::from_slice(&data).expect("JSON");
                let each = data["receipts"].as_array().expect("a list").iter().map(|it| {
                    assert_eq!(it["channel"], "c");
                    format!(" {}:{}/{}/{}", it["offset"], it["received"], it["read"], it["members"])
                });
                format!("{user} hears{}", each.collect::<String>())
            }
        });
    }
    said
}

use AckKind::{Read, Received};

#[test]
fn who_lacks_something_is_named_once_for_it() {
    let mut owned = owner(None);
    add(&mut owned, &["ann", "bob", "carol"]);
    assert_eq!(publish(&mut owned, "", 0), 1);
    ack(&mut owned, "ann", "phone", Received, 1, 100);
    ack(&mut owned, "ann", "desktop", Received, 1, 100);
    ack(&mut owned, "carol", "", Received, 1, 100);
    said(&mut owned, 2_000);
    assert_eq!(said(&mut owned, 7_999), [""; 0]);
    assert_eq!(owned.next_cursor_notice(), Some(s(8_000)));
    assert_eq!(said(&mut owned, 8_000), ["unacked 1-1 1: bob@0[]"]);
    assert_eq!((said(&mut owned, 60_000), owned.next_cursor_notice()), (vec![], None));
    // Two devices, one of which is away; two publications of one moment.
    publish(&mut owned, "", 100_000);
    publish(&mut owned, "", 100_500);
    ack(&mut owned, "ann", "phone", Read, 3, 101_000);
    ack(&mut owned, "bob", "", Received, 2, 101_000);
    ack(&mut owned, "carol", "", Received, 3, 101_000);
    said(&mut owned, 102_000);
    assert_eq!(said(&mut owned, 108_499), [""; 0]);
    assert_eq!(said(&mut owned, 108_500), ["unacked 2-3 2: ann@1[\"desktop\"]+ bob@2[]"]);
    // Everybody has it: nothing is to be said.
    publish(&mut owned, "", 200_000);
    for user in ["ann", "bob", "carol"] {
        for device in ["phone", "desktop"] {
            ack(&mut owned, user, device, Received, 4, 200_100);
        }
    }
    said(&mut owned, 202_000);
    assert_eq!(said(&mut owned, 300_000), [""; 0]);
    publish(&mut owned, "", 300_000);
    owned.remove_members("c", &["ann".into(), "bob".into(), "carol".into()]).unwrap();
    assert_eq!(said(&mut owned, 400_000), [""; 0], "nobody is a member");
}

#[test]
fn more_than_one_event_may_name_are_counted() {
    let mut owned = owner(None);
    let users: Vec<String> = (0..NAMED_MAX + 5).map(|number| format!("u{number:05}")).collect();
    add(&mut owned, &users.iter().map(String::as_str).collect::<Vec<_>>());
    publish(&mut owned, "", 0);
    let Some(CursorNotice::Event(What::Unacked(event))) = owned.take_cursor_notice(s(8_000)) else {
        panic!("they are named")
    };
    assert_eq!((event.users.len(), event.total), (NAMED_MAX, NAMED_MAX + 5));
    users.iter().for_each(|user| ack(&mut owned, user, "", Received, 1, 8_001));
    let acked = std::iter::from_fn(|| owned.take_cursor_notice(s(9_001)));
    let sizes: Vec<usize> = acked
        .map(|notice| match notice {
            CursorNotice::Event(What::Acked(event)) => event.acks.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [NAMED_MAX, 5], "all are said");
}

#[test]
fn what_has_moved_is_said_once_a_second() {
    let mut owned = owner(None);
    (0..3).for_each(|ms| _ = publish(&mut owned, "", ms));
    ack(&mut owned, "ann", "phone", Received, 1, 100);
    ack(&mut owned, "ann", "phone", Read, 2, 200);
    ack(&mut owned, "bob", "", Received, 3, 1_000);
    assert_eq!(said(&mut owned, 1_099), [""; 0]);
    assert_eq!(said(&mut owned, 1_100), ["acked: ann/phone 2 2 bob/ 3 0"]);
    ack(&mut owned, "ann", "phone", Read, 1, 1_200);
    assert_eq!((said(&mut owned, 7_000), said(&mut owned, 8_002).len()), (vec![], 1), "nothing has moved");
    ack(&mut owned, "ann", "phone", Read, 3, 9_000);
    // A repeat takes nothing back of what is to be said.
    ack(&mut owned, "ann", "phone", Read, 3, 9_001);
    let last = in_words(owned.take_acked().into_iter());
    assert_eq!(last, ["acked: ann/phone 3 3"], "before another process goes on");
    assert_eq!(said(&mut owned, 9_050), [""; 0]);
    owned.tell_acked(false);
    ack(&mut owned, "bob", "", Read, 3, 9_100);
    assert_eq!(said(&mut owned, 60_000), [""; 0], "nobody wants to know");
}

#[test]
fn publishers_hear_how_many_besides_them_have_it() {
    let mut owned = owner(None);
    owned.tell_acked(false);
    add(&mut owned, &["ann", "bob", "carol", "dan"]);
    assert_eq!(
        (publish(&mut owned, "ann", 0), publish(&mut owned, "bob", 1), publish(&mut owned, "", 2)),
        (1, 2, 3)
    );
    ack(&mut owned, "ann", "", Read, 2, 10);
    assert_eq!(said(&mut owned, 10), ["bob hears 2:1/1/3"], "her own counts for what others sent");
    ack(&mut owned, "bob", "phone", Received, 2, 20);
    ack(&mut owned, "bob", "desktop", Read, 1, 30);
    ack(&mut owned, "carol", "", Received, 3, 40);
    assert_eq!(said(&mut owned, 1_009), [""; 0]);
    assert_eq!(said(&mut owned, 1_010), ["ann hears 1:2/1/3", "bob hears 2:2/1/3"]);
    ack(&mut owned, "carol", "", Read, 3, 5_000);
    ack(&mut owned, "dan", "", Read, 2, 5_000);
    assert_eq!(said(&mut owned, 5_000), ["ann hears 1:3/3/3", "bob hears 2:3/3/3"]);
    ack(&mut owned, "eve", "", Read, 3, 6_500);
    let rest = said(&mut owned, 7_000);
    assert_eq!(rest, [""; 0], "what everybody has read is followed no longer");
}

/// Another process has the channel by its records.
fn moved(owned: &OwnedChannels, ms: u64) -> OwnedChannels {
    let mut other = owner(None);
    other.restore(&owned.to_record("c", s(ms)).unwrap(), s(ms)).unwrap();
    let mut parts: Vec<MembersPart> = Vec::new();
    owned.members_parts("c", s(ms), |part| parts.push(part));
    for part in parts {
        let mut bytes = Vec::new();
        crate::record::write(&part, &mut bytes).unwrap();
        other.restore_members(crate::record::read(&bytes).unwrap(), &|_| None, s(ms)).unwrap();
    }
    other.finish_restoring().unwrap();
    other
}

#[test]
fn another_process_goes_on() {
    let mut owned = owner(None);
    add(&mut owned, &["ann", "bob"]);
    publish(&mut owned, "ann", 0);
    publish(&mut owned, "ann", 4_000);
    ack(&mut owned, "bob", "phone", Received, 1, 4_500);
    assert_eq!(said(&mut owned, 4_500), ["ann hears 1:1/0/1"]);
    ack(&mut owned, "bob", "phone", Received, 2, 4_600);
    assert_eq!(in_words(owned.take_acked().into_iter()), ["acked: bob/phone 2 0"]);
    let mut other = moved(&owned, 4_800);
    assert_eq!(said(&mut other, 4_800), ["ann hears 2:1/0/1"], "what was acknowledged meanwhile");
    assert_eq!(said(&mut other, 8_000), ["unacked 1-1 1: ann@0[]"]);
    let mut third = moved(&other, 9_000);
    assert_eq!(said(&mut third, 12_000), ["unacked 2-2 1: ann@0[]"]);
    assert_eq!(said(&mut third, 60_000), [""; 0]);
}

/// After a kill: what was said is not said again, and what was not has its time from the start on.
#[test]
fn a_start_from_the_store_names_who_was_not_named() {
    let shelf = Shelf::default();
    let start = |ms: u64| {
        let mut found = owner(Some(&shelf));
        let records = shelf.0.lock().clone();
        for record in records {
            found.take_stored(record, StoredMoment { now: s(ms), wall_ms: 1_000 + ms });
        }
        found.finish_stored().unwrap();
        found
    };
    let mut owned = owner(Some(&shelf));
    owned.tell_acked(false);
    add(&mut owned, &["ann", "bob"]);
    publish(&mut owned, "", 0);
    ack(&mut owned, "ann", "", Received, 1, 10);
    let kept = shelf.0.lock().len();
    assert_eq!(said(&mut start(1_000), 8_999), [""; 0]);
    assert_eq!(said(&mut start(1_000), 9_000), ["unacked 1-1 1: bob@0[]"], "it has its time once more");
    shelf.0.lock().truncate(kept);
    assert_eq!(said(&mut owned, 8_000), ["unacked 1-1 1: bob@0[]"]);
    assert_eq!(said(&mut start(9_000), 60_000), [""; 0], "it was said");
    publish(&mut owned, "", 9_000);
    let mut again = start(70_000);
    assert_eq!(said(&mut again, 78_000), ["unacked 2-2 2: ann@1[] bob@0[]"]);
    // And by a copy of everything.
    assert_eq!(again.judged(again.slot_named("c").unwrap()), Some(Offset(2)));
    let slot = again.slot_named("c").unwrap();
    let (part, _) = again.cursors_copied(slot, Default::default()).expect("there are some");
    assert_eq!(part.judged, Some(Offset(2)));
}
