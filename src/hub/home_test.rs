//! The rules of [`Home`] that are easier read than found by chance.

use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::Refusal;
use crate::base::ids::{ChannelName, ConnId, Epoch, Offset, Position, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Visibility};
use crate::base::time::Time;
use crate::hub::asks::{
    HistoryAsk, JoinAsk, Joined, PublishAsk, Published, ReadAnswer, Recovery, Since, SinceEpoch,
};
use crate::hub::creators::Creator;
use crate::hub::history::ENTRY_BYTES;
use crate::hub::home::Reading;
use crate::hub::limits::{FORGET_AFTER, IDEMPOTENCY_KEY_TTL};
use crate::hub::{ChannelOptions, Home, HubLimits, Namespaces};

const T0: Time = Time(1_000_000);
const META: Duration = Duration::from_secs(3600);

fn home_with(limits: HubLimits) -> Home {
    let kept = ChannelOptions {
        history_size: 1_000,
        history_ttl: Duration::from_secs(60),
        history_meta_ttl: META,
        ..ChannelOptions::default()
    };
    let room = ChannelOptions { presence: true, join_leave: true, ..ChannelOptions::default() };
    let named = [("kept".to_owned(), kept), ("room".to_owned(), room)];
    Home::new(Arc::new(Namespaces::new(ChannelOptions::default(), named, 255)), limits, Prng::with_seed(7))
}

fn home() -> Home {
    home_with(HubLimits::default())
}

fn conn(shard: u16, slot: u32) -> ConnId {
    ConnId::new(ShardId(shard), Sock { slot, generation: 0 })
}

fn ask(channel: &str) -> PublishAsk {
    PublishAsk::new(channel.into(), Bytes::from_static(b"{}"))
}

fn publish(home: &mut Home, channel: &str, now: Time) -> Published {
    home.publish(ask(channel), now, 0).unwrap()
}

fn join(home: &mut Home, channel: &str, conn: ConnId, recover: Option<Position>) -> Joined {
    let recover = recover.map(|at| Since { offset: at.offset, epoch: SinceEpoch::Known(at.epoch) });
    let info = ClientInfo { user: "ann".into(), client: format!("{conn:?}"), ..ClientInfo::default() };
    let shown = Visibility { listed: true, announced: channel.starts_with("room:") };
    let by = Creator::Backend;
    home.join(JoinAsk { channel: channel.into(), conn, info, shown, recover, by }, T0).unwrap()
}

#[test]
fn skip_history_takes_no_offset_and_leaves_no_hole() {
    let mut home = home();
    let first = publish(&mut home, "kept:a", T0);
    let skipped = home.publish(PublishAsk { skip_history: true, ..ask("kept:a") }, T0, 0).unwrap();
    assert_eq!(skipped.position, first.position);
    assert_eq!(skipped.publication.unwrap().offset(), Offset(0));
    let third = publish(&mut home, "kept:a", T0);
    assert_eq!(third.position.offset, Offset(2));
    let joined = join(&mut home, "kept:a", conn(0, 1), Some(first.position));
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
    let mut home = home();
    let first = publish(&mut home, "plain", T0);
    let second = publish(&mut home, "plain", T0);
    assert_eq!((first.position.offset, second.position.offset), (Offset(1), Offset(2)));
    let at_top = join(&mut home, "plain", conn(0, 1), Some(second.position)).recovery;
    assert!(matches!(at_top, Some(Recovery::Recovered(missed)) if missed.is_empty()));
    assert!(matches!(
        join(&mut home, "plain", conn(0, 2), Some(first.position)).recovery,
        Some(Recovery::Lost)
    ));
    assert!(join(&mut home, "plain", conn(0, 3), None).recovery.is_none());
    let page = HistoryAsk {
        channel: "plain".into(),
        limit: None,
        since: None,
        reverse: false,
        by: Creator::Backend,
    };
    assert_eq!(home.history(&page, T0).err(), Some(Refusal::NotAvailable));
    assert_eq!(home.history_remove("plain", T0), Err(Refusal::NotAvailable));
}

#[test]
fn a_repeated_key_is_answered_like_the_first_and_delivers_nothing() {
    let mut home = home();
    let keyed = || PublishAsk { idempotency_key: Some("k".into()), ..ask("kept:a") };
    let first = home.publish(keyed(), T0, 0).unwrap();
    publish(&mut home, "kept:a", T0);
    let just_before = T0 + IDEMPOTENCY_KEY_TTL - Duration::from_nanos(1);
    let repeat = home.publish(keyed(), just_before, 0).unwrap();
    assert_eq!(repeat.position, first.position);
    assert!(repeat.publication.is_none());
    let elsewhere = PublishAsk { idempotency_key: Some("k".into()), ..ask("kept:b") };
    assert!(home.publish(elsewhere, T0, 0).unwrap().publication.is_some(), "keys belong to a channel");
    assert!(home.publish(keyed(), T0 + IDEMPOTENCY_KEY_TTL, 0).unwrap().publication.is_some());
}

#[test]
fn a_version_must_rise_within_its_epoch() {
    let mut home = home();
    let mut versioned = |version, epoch: &str| {
        let ask = PublishAsk { version, version_epoch: Some(epoch.into()), ..ask("kept:a") };
        home.publish(ask, T0, 0).unwrap().publication.is_some()
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
    let mut home = home();
    let long: Box<str> = "k".repeat(HubLimits::default().key_bytes_max + 1).into();
    let keyed = PublishAsk { idempotency_key: Some(long.clone()), ..ask("plain") };
    assert_eq!(home.publish(keyed, T0, 0).err(), Some(Refusal::BadRequest));
    let versioned = PublishAsk { version: 1, version_epoch: Some(long), ..ask("plain") };
    assert_eq!(home.publish(versioned, T0, 0).err(), Some(Refusal::BadRequest));
    assert_eq!(home.counts().channels, 0);
}

#[test]
fn a_join_again_is_counted_and_changes_no_number() {
    let mut home = home();
    let notice = join(&mut home, "room:a", conn(3, 1), None).notice.unwrap();
    assert!(notice.joined && &*notice.info.user == "ann");
    assert!(join(&mut home, "room:a", conn(3, 1), None).notice.is_none());
    assert_eq!(home.interested("room:a"), [(ShardId(3), 1)]);
    assert_eq!(home.counts().joins_repeated_total, 1);
    assert!(!home.leave("room:a", conn(3, 1), T0).unwrap().joined);
    assert_eq!(home.interested("room:a"), []);
    assert!(home.leave("room:a", conn(3, 1), T0).is_none());
    assert!(home.leave("nowhere", conn(3, 1), T0).is_none());
    assert_eq!(home.counts().leaves_unknown_total, 2);
}

#[test]
fn an_idle_channel_is_forgotten_at_its_hour_and_one_in_use_never() {
    for (channel, grace) in [("plain", FORGET_AFTER), ("kept:a", Duration::from_secs(60) + META)] {
        let mut home = home();
        let position = publish(&mut home, channel, T0).position;
        let hour = T0 + grace;
        home.sweep(hour - Duration::from_nanos(1), 100);
        assert_eq!(home.position(channel), Some(position));
        home.sweep(hour, 100);
        assert_eq!((home.position(channel), home.counts().channels), (None, 0));
        let successor = publish(&mut home, channel, hour).position;
        assert_eq!(successor.offset, Offset(1));
        assert_ne!(successor.epoch, position.epoch);
        assert!(matches!(
            join(&mut home, channel, conn(0, 1), Some(position)).recovery,
            Some(Recovery::Lost)
        ));
        home.sweep(hour + 10 * META, 100);
        assert_eq!(home.position(channel), Some(successor), "it has a subscriber");
    }
}

#[test]
fn at_the_bound_of_channels_idle_ones_make_room_and_used_ones_do_not() {
    let mut home = home_with(HubLimits { channels_max: 3, ..HubLimits::default() });
    join(&mut home, "subscribed", conn(0, 1), None);
    publish(&mut home, "kept:history", T0);
    publish(&mut home, "idle", T0);
    publish(&mut home, "new", T0);
    assert_eq!(home.position("idle"), None);
    assert_eq!(home.counts().channels_evicted_total, 1);
    join(&mut home, "new", conn(0, 2), None);
    assert_eq!(home.publish(ask("more"), T0, 0).err(), Some(Refusal::LimitExceeded));
    assert_eq!(home.counts().channels_refused_total, 1);
    // The history is over: its channel is idle, though nothing has swept.
    assert!(home.publish(ask("more"), T0 + Duration::from_secs(60), 0).is_ok());
    assert_eq!(home.position("kept:history"), None);
}

/// A publication of a client to a channel of its choice.
fn made(home: &mut Home, channel: &str, user: &str) -> Result<(), Refusal> {
    let by = Creator::client(Some(&user.into()), conn(0, 1));
    home.publish(PublishAsk { by, ..ask(channel) }, T0, 0).map(|_| ())
}

#[test]
fn clients_cannot_take_the_channels_of_the_backend() {
    let mut home =
        home_with(HubLimits { channels_max: 100, client_channels_max: 50, ..HubLimits::default() });
    for number in 0..50 {
        publish(&mut home, &format!("kept:own-{number}"), T0);
    }
    for number in 0..1_000 {
        made(&mut home, &format!("kept:theirs-{number}"), "mallory").unwrap();
    }
    assert!((0..50).all(|number| home.retained(&format!("kept:own-{number}")) == 1));
    assert_eq!((home.counts().channels, home.counts().client_channels), (100, 50));
    // What subscribers keep in use cannot go: then it is for the client that there is no more.
    for number in 0..60 {
        let channel = format!("used-{number}").as_str().into();
        let info = ClientInfo { client: "c".into(), ..ClientInfo::default() };
        let by = Creator::Connection(conn(0, number));
        let (conn, shown) = (conn(0, number), Visibility::default());
        let joined = home.join(JoinAsk { channel, conn, info, shown, recover: None, by }, T0);
        assert_eq!(joined.err(), (number >= 50).then_some(Refusal::LimitExceeded), "{number}");
    }
    assert_eq!(made(&mut home, "one more", "ann"), Err(Refusal::LimitExceeded));
    home.sweep(T0 + META + META, 1_000);
    publish(&mut home, "of the backend", T0);
}

#[test]
fn who_makes_many_channels_pays_for_the_next() {
    let mut home = home_with(HubLimits { client_channels_max: 100, ..HubLimits::default() });
    let honest = |number: usize| (format!("kept:honest-{number}"), format!("user-{}", number % 25));
    for number in 0..50 {
        let (channel, user) = honest(number);
        made(&mut home, &channel, &user).unwrap();
    }
    for number in 0..100_000 {
        made(&mut home, &format!("kept:flood-{number}"), "mallory").unwrap();
    }
    assert!((0..50).all(|number| home.retained(&honest(number).0) == 1), "the modest keep theirs");
    assert_eq!(home.counts().client_channels, 100);
    assert_eq!(home.retained("kept:flood-99999"), 1, "the newest of the flood took the place of its oldest");
    // Others can still make some.
    made(&mut home, "kept:late", "bob").unwrap();
    assert_eq!((home.retained("kept:late"), home.retained("kept:flood-99999")), (1, 1));
}

/// It would be lost with its history at the next flood, and the share would be full of what the backend uses.
#[test]
fn a_channel_that_the_backend_uses_counts_for_no_client() {
    let mut home = home_with(HubLimits { client_channels_max: 2, ..HubLimits::default() });
    for channel in ["kept:a", "kept:b", "kept:c"] {
        made(&mut home, channel, "ann").unwrap();
        publish(&mut home, channel, T0);
    }
    assert_eq!(home.counts().client_channels, 0);
    for number in 0..10 {
        made(&mut home, &format!("kept:{number}"), "ann").unwrap();
    }
    assert!(["kept:a", "kept:b", "kept:c"].iter().all(|channel| home.retained(channel) == 2));
    assert_eq!(home.counts().channels, 5);
}

/// A channel that grows may not push the histories of small ones out.
#[test]
fn the_heaviest_logs_pay_for_want_of_bytes() {
    let entries = 400;
    let mut home =
        home_with(HubLimits { history_bytes_max: entries * (ENTRY_BYTES + 2), ..HubLimits::default() });
    for small in 0..10 {
        publish(&mut home, &format!("kept:small{small}"), T0);
    }
    for _ in 0..1_000 {
        publish(&mut home, "kept:large", T0);
        assert!(home.counts().history_bytes <= entries * (ENTRY_BYTES + 2));
    }
    assert_eq!(home.counts().history_evicted_total, 1_000 + 10 - entries as u64);
    assert!((0..10).all(|small| home.retained(&format!("kept:small{small}")) == 1));
    // Nor may a large one that is there keep a small one from growing.
    for _ in 0..50 {
        publish(&mut home, "kept:small0", T0);
    }
    assert!(home.retained("kept:small0") > 25, "{}", home.retained("kept:small0"));
}

#[test]
fn a_publication_larger_than_all_history_is_delivered_and_not_kept() {
    let mut home = home_with(HubLimits { history_bytes_max: 10 * ENTRY_BYTES, ..HubLimits::default() });
    let first = publish(&mut home, "kept:a", T0);
    publish(&mut home, "kept:b", T0);
    let huge = PublishAsk::new("kept:a".into(), Bytes::from(vec![b'1'; 10 * ENTRY_BYTES]));
    let published = home.publish(huge, T0, 0).unwrap();
    assert!(published.publication.is_some());
    assert_eq!((home.retained("kept:a"), home.retained("kept:b")), (0, 1));
    assert!(matches!(
        join(&mut home, "kept:a", conn(0, 1), Some(first.position)).recovery,
        Some(Recovery::Lost)
    ));
    let at_top = join(&mut home, "kept:a", conn(0, 2), Some(published.position)).recovery;
    assert!(matches!(at_top, Some(Recovery::Recovered(_))));
}

#[test]
fn a_sweep_does_no_more_than_its_budget() {
    let mut home = home();
    for _ in 0..500 {
        publish(&mut home, "kept:a", T0);
    }
    let over = T0 + Duration::from_secs(60);
    home.sweep(over, 100);
    assert_eq!(home.counts().history_publications, 400);
    let page = HistoryAsk {
        channel: "kept:a".into(),
        limit: None,
        since: None,
        reverse: false,
        by: Creator::Backend,
    };
    assert!(home.history(&page, over).unwrap().publications.is_empty(), "over is over, swept or not");
    home.sweep(over, 400);
    assert_eq!(home.counts().history_publications, 0);
}

#[test]
fn the_same_seed_gives_the_same_epochs_and_evictions() {
    let story = || {
        let mut home = home_with(HubLimits { history_bytes_max: 30 * ENTRY_BYTES, ..HubLimits::default() });
        for i in 0..200 {
            publish(&mut home, &format!("kept:{}", i % 7), T0);
        }
        let names: Vec<ChannelName> = (0..7).map(|i| format!("kept:{i}").into()).collect();
        names.iter().map(|name| (home.position(name), home.retained(name))).collect::<Vec<_>>()
    };
    assert_eq!(story(), story());
}

/// Time may stand still but not go back: a tick's `now` that is older than an earlier one changes nothing.
#[test]
fn time_does_not_go_back() {
    let mut home = home();
    publish(&mut home, "kept:a", T0 + META);
    publish(&mut home, "kept:a", T0);
    home.sweep(T0 + META + Duration::from_secs(59), 10);
    assert_eq!(home.retained("kept:a"), 2);
    home.sweep(T0 + META + Duration::from_secs(60), 10);
    assert_eq!(home.retained("kept:a"), 0);
}

#[test]
fn a_follower_reads_on_from_where_it_stands_or_hears_that_it_cannot() {
    let mut home = home_with(HubLimits { history_read_max: 4, ..HubLimits::default() });
    let end = (0..6).map(|_| publish(&mut home, "kept:a", T0).position).last().unwrap();
    let at = |offset| Position { offset: Offset(offset), ..end };
    let mut read = |channel: &str, after: Position, bytes_max: usize, now: Time| match home
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
    assert_eq!(home.counts().channels, 1, "a read makes no channel");
}
