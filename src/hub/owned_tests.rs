//! The rules of [`OwnedChannels`] that are easier read than found by chance.

use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Epoch, Offset, Position, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Visibility};
use crate::base::time::Time;
use crate::hub::creators::Creator;
use crate::hub::entry::ENTRY_BYTES;
use crate::hub::limits::{FORGET_AFTER, IDEMPOTENCY_KEY_TTL};
use crate::hub::requests::Reading;
use crate::hub::requests::{
    HistoryRequest, JoinRequest, Joined, PublishRequest, Published, ReadAnswer, Recovery, Since, SinceEpoch,
};
use crate::hub::{ChannelOptions, HubLimits, Namespaces, OwnedChannels};

const T0: Time = Time(1_000_000);
const META: Duration = Duration::from_secs(3600);

fn owned_with(limits: HubLimits) -> OwnedChannels {
    let kept = ChannelOptions {
        history_size: 1_000,
        history_ttl: Duration::from_secs(60),
        history_meta_ttl: META,
        ..ChannelOptions::default()
    };
    let room = ChannelOptions { presence: true, join_leave: true, ..ChannelOptions::default() };
    let named = [("kept".to_owned(), kept), ("room".to_owned(), room)];
    OwnedChannels::new(
        Arc::new(Namespaces::new(ChannelOptions::default(), named, 255)),
        limits,
        Prng::with_seed(7),
    )
}

fn owned() -> OwnedChannels {
    owned_with(HubLimits::default())
}

fn conn(shard: u16, slot: u32) -> ConnId {
    ConnId::new(ShardId(shard), Sock { slot, generation: 0 })
}

fn ask(channel: &str) -> PublishRequest {
    PublishRequest::new(channel.into(), Bytes::from_static(b"{}"))
}

fn publish(owned: &mut OwnedChannels, channel: &str, now: Time) -> Published {
    owned.publish(ask(channel), now, 0).unwrap()
}

fn join(owned: &mut OwnedChannels, channel: &str, conn: ConnId, recover: Option<Position>) -> Joined {
    let recover = recover.map(|at| Since { offset: at.offset, epoch: SinceEpoch::Known(at.epoch) });
    let info = ClientInfo { user: "ann".into(), client: format!("{conn:?}"), ..ClientInfo::default() };
    let shown = Visibility { listed: true, announced: channel.starts_with("room:") };
    let by = Creator::Backend;
    owned
        .join(
            JoinRequest {
                channel: channel.into(),
                conn,
                info: info.into(),
                shown,
                recover,
                device: None,
                by,
            },
            T0,
        )
        .unwrap()
}

#[test]
fn skip_history_takes_no_offset_and_leaves_no_hole() {
    let mut owned = owned();
    let first = publish(&mut owned, "kept:a", T0);
    let skipped = owned.publish(PublishRequest { skip_history: true, ..ask("kept:a") }, T0, 0).unwrap();
    assert_eq!(skipped.position, first.position);
    assert_eq!(skipped.publication.unwrap().offset(), Offset(0));
    let third = publish(&mut owned, "kept:a", T0);
    assert_eq!(third.position.offset, Offset(2));
    let joined = join(&mut owned, "kept:a", conn(0, 1), Some(first.position));
    assert_eq!(joined.position, third.position);
    match joined.recovery {
        Some(Recovery::Recovered(missed)) => {
            assert_eq!(missed.iter().map(|missed| missed.offset()).collect::<Vec<_>>(), [Offset(2)]);
        }
        lost => panic!("{lost:?}"),
    }
}

/// Without history a position is still worth something: who has missed nothing is told so.
#[test]
fn channels_without_history_have_positions() {
    let mut owned = owned();
    let first = publish(&mut owned, "plain", T0);
    let second = publish(&mut owned, "plain", T0);
    assert_eq!((first.position.offset, second.position.offset), (Offset(1), Offset(2)));
    let at_top = join(&mut owned, "plain", conn(0, 1), Some(second.position)).recovery;
    assert!(matches!(at_top, Some(Recovery::Recovered(missed)) if missed.is_empty()));
    assert!(matches!(
        join(&mut owned, "plain", conn(0, 2), Some(first.position)).recovery,
        Some(Recovery::Lost)
    ));
    assert!(join(&mut owned, "plain", conn(0, 3), None).recovery.is_none());
    let page = HistoryRequest {
        channel: "plain".into(),
        limit: None,
        since: None,
        since_ms: None,
        reverse: false,
        by: Creator::Backend,
    };
    assert_eq!(owned.history(&page, T0).err(), Some(ErrorCode::NotAvailable));
    assert_eq!(owned.history_remove("plain", T0), Err(ErrorCode::NotAvailable));
}

#[test]
fn a_repeated_key_is_answered_like_the_first_and_delivers_nothing() {
    let mut owned = owned();
    let keyed = || PublishRequest { idempotency_key: Some("k".into()), ..ask("kept:a") };
    let first = owned.publish(keyed(), T0, 0).unwrap();
    publish(&mut owned, "kept:a", T0);
    let just_before = T0 + IDEMPOTENCY_KEY_TTL - Duration::from_nanos(1);
    let repeat = owned.publish(keyed(), just_before, 0).unwrap();
    assert_eq!(repeat.position, first.position);
    assert!(repeat.publication.is_none());
    let elsewhere = PublishRequest { idempotency_key: Some("k".into()), ..ask("kept:b") };
    assert!(owned.publish(elsewhere, T0, 0).unwrap().publication.is_some(), "keys belong to a channel");
    assert!(owned.publish(keyed(), T0 + IDEMPOTENCY_KEY_TTL, 0).unwrap().publication.is_some());
}

#[test]
fn a_version_must_rise_within_its_epoch() {
    let mut owned = owned();
    let mut versioned = |version, epoch: &str| {
        let ask = PublishRequest { version, version_epoch: Some(epoch.into()), ..ask("kept:a") };
        owned.publish(ask, T0, 0).unwrap().publication.is_some()
    };
    assert!(versioned(5, "x"));
    assert!(!versioned(5, "x"));
    assert!(!versioned(4, ""), "no epoch compares with any");
    assert!(versioned(6, "x"));
    assert!(versioned(1, "y"), "another epoch starts from the beginning");
    assert!(versioned(0, "y"), "no version is no claim");
    assert!(!versioned(1, "y"));
}

#[test]
fn keys_and_version_epochs_too_long_are_refused_and_make_no_channel() {
    let mut owned = owned();
    let long: Box<str> = "k".repeat(HubLimits::default().key_bytes_max + 1).into();
    let keyed = PublishRequest { idempotency_key: Some(long.clone()), ..ask("plain") };
    assert_eq!(owned.publish(keyed, T0, 0).err(), Some(ErrorCode::BadRequest));
    let versioned = PublishRequest { version: 1, version_epoch: Some(long), ..ask("plain") };
    assert_eq!(owned.publish(versioned, T0, 0).err(), Some(ErrorCode::BadRequest));
    assert_eq!(owned.counts().channels, 0);
}

#[test]
fn a_join_again_is_counted_and_changes_no_number() {
    let mut owned = owned();
    let join_leave = join(&mut owned, "room:a", conn(3, 1), None).join_leave.unwrap();
    assert!(join_leave.joined && &*join_leave.info.user == "ann");
    assert!(join(&mut owned, "room:a", conn(3, 1), None).join_leave.is_none());
    assert_eq!(owned.interested("room:a"), [(ShardId(3), 1)]);
    assert_eq!(owned.counts().joins_repeated_total, 1);
    assert!(!owned.leave("room:a", conn(3, 1), T0).unwrap().joined);
    assert_eq!(owned.interested("room:a"), []);
    assert!(owned.leave("room:a", conn(3, 1), T0).is_none());
    assert!(owned.leave("nowhere", conn(3, 1), T0).is_none());
    assert_eq!(owned.counts().leaves_unknown_total, 2);
}

#[test]
fn an_idle_channel_is_forgotten_at_its_hour_and_one_in_use_never() {
    for (channel, grace) in [("plain", FORGET_AFTER), ("kept:a", Duration::from_secs(60) + META)] {
        let mut owned = owned();
        let position = publish(&mut owned, channel, T0).position;
        let hour = T0 + grace;
        owned.sweep(hour - Duration::from_nanos(1), 100);
        assert_eq!(owned.position(channel), Some(position));
        owned.sweep(hour, 100);
        assert_eq!((owned.position(channel), owned.counts().channels), (None, 0));
        let successor = publish(&mut owned, channel, hour).position;
        assert_eq!(successor.offset, Offset(1));
        assert_ne!(successor.epoch, position.epoch);
        assert!(matches!(
            join(&mut owned, channel, conn(0, 1), Some(position)).recovery,
            Some(Recovery::Lost)
        ));
        owned.sweep(hour + 10 * META, 100);
        assert_eq!(owned.position(channel), Some(successor), "it has a subscriber");
    }
}

#[test]
fn at_the_bound_of_channels_idle_ones_make_room_and_used_ones_do_not() {
    let mut owned = owned_with(HubLimits { channels_max: 3, ..HubLimits::default() });
    join(&mut owned, "subscribed", conn(0, 1), None);
    publish(&mut owned, "kept:history", T0);
    publish(&mut owned, "idle", T0);
    publish(&mut owned, "new", T0);
    assert_eq!(owned.position("idle"), None);
    assert_eq!(owned.counts().channels_evicted_total, 1);
    join(&mut owned, "new", conn(0, 2), None);
    assert_eq!(owned.publish(ask("more"), T0, 0).err(), Some(ErrorCode::LimitExceeded));
    assert_eq!(owned.counts().channels_refused_total, 1);
    // The history is over: its channel is idle, though nothing has swept.
    assert!(owned.publish(ask("more"), T0 + Duration::from_secs(60), 0).is_ok());
    assert_eq!(owned.position("kept:history"), None);
}

/// A publication of a client to a channel of its choice.
fn made(owned: &mut OwnedChannels, channel: &str, user: &str) -> Result<(), ErrorCode> {
    let by = Creator::client(Some(&user.into()), conn(0, 1));
    owned.publish(PublishRequest { by, ..ask(channel) }, T0, 0).map(|_| ())
}

#[test]
fn clients_cannot_take_the_channels_of_the_backend() {
    let mut owned =
        owned_with(HubLimits { channels_max: 100, client_channels_max: 50, ..HubLimits::default() });
    for number in 0..50 {
        publish(&mut owned, &format!("kept:own-{number}"), T0);
    }
    for number in 0..1_000 {
        made(&mut owned, &format!("kept:theirs-{number}"), "mallory").unwrap();
    }
    assert!((0..50).all(|number| owned.retained(&format!("kept:own-{number}")) == 1));
    assert_eq!((owned.counts().channels, owned.counts().client_channels), (100, 50));
    // What subscribers keep in use cannot go: then it is for the client that there is no more.
    for number in 0..60 {
        let channel = format!("used-{number}").as_str().into();
        let info = ClientInfo { client: "c".into(), ..ClientInfo::default() };
        let by = Creator::Connection(conn(0, number));
        let (conn, shown) = (conn(0, number), Visibility::default());
        let joined = owned.join(
            JoinRequest { channel, conn, info: info.into(), shown, recover: None, device: None, by },
            T0,
        );
        assert_eq!(joined.err(), (number >= 50).then_some(ErrorCode::LimitExceeded), "{number}");
    }
    assert_eq!(made(&mut owned, "one more", "ann"), Err(ErrorCode::LimitExceeded));
    owned.sweep(T0 + META + META, 1_000);
    publish(&mut owned, "of the backend", T0);
}

#[test]
fn who_makes_many_channels_pays_for_the_next() {
    let mut owned = owned_with(HubLimits { client_channels_max: 100, ..HubLimits::default() });
    let honest = |number: usize| (format!("kept:honest-{number}"), format!("user-{}", number % 25));
    for number in 0..50 {
        let (channel, user) = honest(number);
        made(&mut owned, &channel, &user).unwrap();
    }
    for number in 0..100_000 {
        made(&mut owned, &format!("kept:flood-{number}"), "mallory").unwrap();
    }
    assert!((0..50).all(|number| owned.retained(&honest(number).0) == 1), "the modest keep theirs");
    assert_eq!(owned.counts().client_channels, 100);
    assert_eq!(owned.retained("kept:flood-99999"), 1, "the newest of the flood took the place of its oldest");
    // Others can still make some.
    made(&mut owned, "kept:late", "bob").unwrap();
    assert_eq!((owned.retained("kept:late"), owned.retained("kept:flood-99999")), (1, 1));
}

/// It would be lost with its history at the next flood, and the share would be full of what the backend uses.
#[test]
fn a_channel_that_the_backend_uses_counts_for_no_client() {
    let mut owned = owned_with(HubLimits { client_channels_max: 2, ..HubLimits::default() });
    for channel in ["kept:a", "kept:b", "kept:c"] {
        made(&mut owned, channel, "ann").unwrap();
        publish(&mut owned, channel, T0);
    }
    assert_eq!(owned.counts().client_channels, 0);
    for number in 0..10 {
        made(&mut owned, &format!("kept:{number}"), "ann").unwrap();
    }
    assert!(["kept:a", "kept:b", "kept:c"].iter().all(|channel| owned.retained(channel) == 2));
    assert_eq!(owned.counts().channels, 5);
}

/// A channel that grows may not push the histories of small ones out.
#[test]
fn the_heaviest_logs_pay_for_want_of_bytes() {
    let entries = 400;
    let mut owned =
        owned_with(HubLimits { history_bytes_max: entries * (ENTRY_BYTES + 2), ..HubLimits::default() });
    for small in 0..10 {
        publish(&mut owned, &format!("kept:small{small}"), T0);
    }
    for _ in 0..1_000 {
        publish(&mut owned, "kept:large", T0);
        assert!(owned.counts().history_bytes <= entries * (ENTRY_BYTES + 2));
    }
    assert_eq!(owned.counts().history_evicted_total, 1_000 + 10 - entries as u64);
    assert!((0..10).all(|small| owned.retained(&format!("kept:small{small}")) == 1));
    // Nor may a large one that is there keep a small one from growing.
    for _ in 0..50 {
        publish(&mut owned, "kept:small0", T0);
    }
    assert!(owned.retained("kept:small0") > 25, "{}", owned.retained("kept:small0"));
}

#[test]
fn a_publication_larger_than_all_history_is_delivered_and_not_kept() {
    let mut owned = owned_with(HubLimits { history_bytes_max: 10 * ENTRY_BYTES, ..HubLimits::default() });
    let first = publish(&mut owned, "kept:a", T0);
    publish(&mut owned, "kept:b", T0);
    let huge = PublishRequest::new("kept:a".into(), Bytes::from(vec![b'1'; 10 * ENTRY_BYTES]));
    let published = owned.publish(huge, T0, 0).unwrap();
    assert!(published.publication.is_some());
    assert_eq!((owned.retained("kept:a"), owned.retained("kept:b")), (0, 1));
    assert!(matches!(
        join(&mut owned, "kept:a", conn(0, 1), Some(first.position)).recovery,
        Some(Recovery::Lost)
    ));
    let at_top = join(&mut owned, "kept:a", conn(0, 2), Some(published.position)).recovery;
    assert!(matches!(at_top, Some(Recovery::Recovered(_))));
}

#[test]
fn a_sweep_does_no_more_than_its_budget() {
    let mut owned = owned();
    for _ in 0..500 {
        publish(&mut owned, "kept:a", T0);
    }
    let over = T0 + Duration::from_secs(60);
    owned.sweep(over, 100);
    assert_eq!(owned.counts().history_publications, 400);
    let page = HistoryRequest {
        channel: "kept:a".into(),
        limit: None,
        since: None,
        since_ms: None,
        reverse: false,
        by: Creator::Backend,
    };
    assert!(owned.history(&page, over).unwrap().publications.is_empty(), "over is over, swept or not");
    owned.sweep(over, 400);
    assert_eq!(owned.counts().history_publications, 0);
}

#[test]
fn the_same_seed_gives_the_same_epochs_and_evictions() {
    let story = || {
        let mut owned = owned_with(HubLimits { history_bytes_max: 30 * ENTRY_BYTES, ..HubLimits::default() });
        for i in 0..200 {
            publish(&mut owned, &format!("kept:{}", i % 7), T0);
        }
        let names: Vec<ChannelName> = (0..7).map(|i| format!("kept:{i}").into()).collect();
        names.iter().map(|name| (owned.position(name), owned.retained(name))).collect::<Vec<_>>()
    };
    assert_eq!(story(), story());
}

/// Time may stand still but not go back: a tick's `now` that is older than an earlier one changes nothing.
#[test]
fn time_does_not_go_back() {
    let mut owned = owned();
    publish(&mut owned, "kept:a", T0 + META);
    publish(&mut owned, "kept:a", T0);
    owned.sweep(T0 + META + Duration::from_secs(59), 10);
    assert_eq!(owned.retained("kept:a"), 2);
    owned.sweep(T0 + META + Duration::from_secs(60), 10);
    assert_eq!(owned.retained("kept:a"), 0);
}

#[test]
fn a_follower_reads_on_from_where_it_stands_or_hears_that_it_cannot() {
    let mut owned = owned_with(HubLimits { history_read_max: 4, ..HubLimits::default() });
    let end = (0..6).map(|_| publish(&mut owned, "kept:a", T0).position).last().unwrap();
    let at = |offset| Position { offset: Offset(offset), ..end };
    let mut read = |channel: &str, after: Position, bytes_max: usize, now: Time| match owned
        .read(channel, after, bytes_max, now)
    {
        Reading::Ready(ReadAnswer::Page { publications, position }) => {
            let offsets: Vec<u64> = publications.iter().map(|missed| missed.offset().0).collect();
            (Some(offsets), position)
        }
        Reading::Ready(ReadAnswer::Lost(position)) => (None, position),
        other => unreachable!("{other:?}: it is here"),
    };
    assert_eq!(read("kept:a", at(1), 1_000, T0), (Some(vec![2, 3, 4, 5]), end));
    assert_eq!(
        read("kept:a", at(1), 3, T0),
        (Some(vec![2, 3]), end),
        "two bytes each, and one that begins in time"
    );
    assert_eq!(read("kept:a", at(1), 0, T0), (Some(vec![2]), end));
    assert_eq!(read("kept:a", end, 1_000, T0), (Some(vec![]), end));
    assert_eq!(read("kept:a", at(7), 1_000, T0), (None, end));
    assert_eq!(read("kept:a", Position { epoch: Epoch(end.epoch.0 ^ 1), ..at(5) }, 1_000, T0), (None, end));
    assert_eq!(read("kept:a", at(1), 1_000, T0 + Duration::from_secs(60)), (None, end), "over by age");
    assert_eq!(read("kept:b", at(1), 1_000, T0), (None, Position::UNKNOWN));
    assert_eq!(owned.counts().channels, 1, "a read makes no channel");
}
