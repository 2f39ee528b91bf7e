//! An owner moved to another process and clock answers as if nothing had happened.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::{Position, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::PayloadForm;
use crate::hub::creators::Creator;
use crate::hub::limits::IDEMPOTENCY_KEY_TTL;
use crate::hub::requests::{HistoryRequest, JoinRequest, PublishRequest, Recovery, Since, SinceEpoch};
use crate::hub::{ChannelOptions, HubLimits, Namespaces};
use crate::record::{self, RecordKind};

fn owned(prng: &mut Prng, limits: HubLimits) -> OwnedChannels {
    let ttl = Duration::from_secs(60);
    let kept = ChannelOptions { history_size: 20, history_ttl: ttl, ..ChannelOptions::default() };
    let room = ChannelOptions { presence: true, ..kept.clone() };
    let named = [("kept".to_owned(), kept), ("room".to_owned(), room)];
    OwnedChannels::new(
        std::sync::Arc::new(Namespaces::new(ChannelOptions::default(), named, 255)),
        limits,
        prng.fork(),
    )
}

/// Everything that an owner holds, as bytes, by way of all its parts.
fn written(owned: &OwnedChannels, now: Time) -> Vec<u8> {
    let mut out = Vec::new();
    for name in owned.names() {
        record::write(&owned.to_record(name, now).unwrap(), &mut out).unwrap();
        let mut after = Offset(0);
        while let Some(part) = owned.log_part(name, after, now) {
            after = part.entries.last().unwrap().publication.offset;
            record::write(&part, &mut out).unwrap();
        }
        owned.members_parts(name, now, |part| record::write(&part, &mut out).unwrap());
    }
    let mut from = 0;
    while let Some((part, next)) = owned.keys_part(from, now) {
        from = next;
        record::write(&part, &mut out).unwrap();
    }
    out
}

fn read(owned: &mut OwnedChannels, bytes: &[u8], now: Time) -> Result<(), RecordFault> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (unread, behind) = record::next(rest)?;
        match unread.kind {
            RecordKind::Channel => owned.restore(&unread.read()?, now)?,
            RecordKind::ChannelLog => owned.restore_log(unread.read()?, now)?,
            RecordKind::ChannelMembers => {
                owned.restore_members(unread.read()?, &|peer| Some(moved(peer)), now)?;
            }
            RecordKind::Keys => owned.restore_keys(unread.read()?, now)?,
            other => panic!("{other:?} of an owner"),
        }
        rest = behind;
    }
    owned.finish_restoring()
}

/// Another process has other numbers for its peers, and here half as many shards.
fn moved(peer: u64) -> ConnId {
    let conn = ConnId::from_bits(peer);
    let Sock { slot, generation } = conn.sock();
    ConnId::new(ShardId(conn.shard().0 / 2), Sock { slot: slot + 1000, generation: generation + 1 })
}

fn conn(prng: &mut Prng) -> ConnId {
    // The shard follows from the slot, so that numbers stay apart when shards fall together.
    let slot = prng.u32(..12);
    ConnId::new(ShardId(slot as u16 % 4), Sock { slot, generation: 1 })
}

fn act(owned: &mut OwnedChannels, prng: &mut Prng, members: &mut BTreeSet<(ChannelName, ConnId)>, now: Time) {
    let namespace = ["kept:", "room:", ""][prng.usize(..3)];
    let channel: ChannelName = format!("{namespace}{}", prng.u8(..6)).into();
    let by = match prng.bool() {
        true => Creator::Backend,
        false => Creator::User(prng.u8(..5).to_string().into()),
    };
    match prng.u8(..10) {
        0..=5 => {
            let data = Bytes::from(vec![b'1'; prng.usize(1..200)]);
            let mut ask = PublishRequest { by, ..PublishRequest::new(channel, data) };
            ask.skip_history = prng.u8(..8) == 0;
            ask.idempotency_key = (prng.u8(..3) == 0).then(|| prng.u8(..20).to_string().into());
            ask.version = if prng.u8(..3) == 0 { prng.u64(1..9) } else { 0 };
            ask.version_epoch = prng.bool().then(|| prng.u8(..3).to_string().into());
            ask.info = prng.bool().then(|| ClientInfo { client: "x".into(), ..ClientInfo::default() });
            ask.tags = vec![("k".into(), "v".into()); prng.usize(..2)];
            owned.publish(ask, now, now.as_millis()).unwrap();
        }
        6..=7 => {
            let conn = conn(prng);
            let info = ClientInfo { user: prng.u8(..3).to_string().into(), ..ClientInfo::default() };
            members.insert((channel.clone(), conn));
            let shown = match prng.u8(..3) {
                0 => Visibility { listed: prng.bool(), announced: prng.bool() },
                _ => Visibility { listed: namespace == "room:", announced: false },
            };
            owned
                .join(
                    JoinRequest { channel, conn, info: info.into(), shown, recover: None, device: None, by },
                    now,
                )
                .unwrap();
        }
        _ => {
            if let Some((channel, conn)) = members.pop_first() {
                owned.leave(&channel, conn, now);
            }
        }
    }
}

/// What others can learn of a channel.
fn seen(owned: &mut OwnedChannels, channel: &ChannelName, now: Time) -> String {
    let position = owned.position(channel);
    let members = owned.presence_stats(channel);
    let clients: u32 = owned.interested(channel).iter().map(|(_, clients)| clients).sum();
    let ask = |since| HistoryRequest {
        channel: channel.clone(),
        limit: None,
        since,
        since_ms: None,
        reverse: false,
        by: Creator::Backend,
    };
    let history = owned.history(&ask(None), now).map(|history| format!("{:?}", history.publications));
    let mut recovered = Vec::new();
    if let Some(Position { offset: Offset(top), epoch }) = position {
        for offset in top.saturating_sub(25)..=top {
            let (_, channel) = owned.restored(channel).unwrap();
            let since = Since { offset: Offset(offset), epoch: SinceEpoch::Known(epoch) };
            recovered.push(match channel.recover(since, now, 300) {
                Recovery::Recovered(publications) => Some(publications.len()),
                Recovery::Lost | Recovery::Replaced(_) | Recovery::Later(_) => None,
            });
        }
    }
    format!("{position:?} {members:?} {clients} {history:?} {recovered:?}")
}

#[test]
fn a_moved_owner_answers_like_the_one_it_was() {
    for seed in 0..150 {
        let mut prng = Prng::with_seed(seed);
        let mut members = BTreeSet::new();
        let mut old = owned(&mut prng, HubLimits::default());
        let mut now = Time::from_millis(1_000_000);
        for _ in 0..prng.usize(1..300) {
            act(&mut old, &mut prng, &mut members, now);
            now = now + Duration::from_millis(prng.u64(..2_000));
            old.sweep(now, prng.usize(..3));
        }
        let bytes = written(&old, now);
        // Another clock, started long after or long before.
        let mut there = Time::from_millis(prng.u64(300_000..9_000_000));
        let mut new = owned(&mut prng, HubLimits::default());
        read(&mut new, &bytes, there).unwrap();
        old.sweep(now, usize::MAX);
        new.sweep(there, usize::MAX);
        // Past the end of entries, keys and channels, both forget alike.
        for ahead in [0, 30_000, 61_000, IDEMPOTENCY_KEY_TTL.as_millis() as u64] {
            now = now + Duration::from_millis(ahead);
            there = there + Duration::from_millis(ahead);
            old.sweep(now, usize::MAX);
            new.sweep(there, usize::MAX);
            let names = |owned: &OwnedChannels| owned.names().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(&new), names(&old), "seed {seed}");
            let counts = |owned: &OwnedChannels| {
                let all = owned.counts();
                (
                    all.channels,
                    all.client_channels,
                    all.subscriptions,
                    all.history_bytes,
                    all.idempotency_keys,
                )
            };
            assert_eq!(counts(&new), counts(&old), "seed {seed}");
            for channel in names(&old) {
                assert_eq!(seen(&mut new, &channel, there), seen(&mut old, &channel, now), "seed {seed}");
                // Keys and versions that were seen are known; what is new goes on from the same place.
                for (key, version, epoch) in [("7", 0, ""), ("", 4, "1"), ("", 0, ""), ("13", 0, "")] {
                    let mut ask = PublishRequest::new(channel.clone(), Bytes::from_static(b"1"));
                    ask.idempotency_key = Some(key.into());
                    (ask.version, ask.version_epoch) = (version, Some(epoch.into()));
                    let told = |owned: &mut OwnedChannels, now| {
                        let done = owned.publish(ask.clone(), now, 5).unwrap();
                        (done.position, done.publication.map(|publication| publication.position))
                    };
                    assert_eq!(told(&mut new, there), told(&mut old, now), "seed {seed} {channel} {key:?}");
                }
            }
        }
        for (channel, conn) in members {
            assert!(
                new.interested(&channel).iter().any(|(shard, _)| *shard == moved(conn.to_bits()).shard())
            );
            new.leave(&channel, moved(conn.to_bits()), there);
        }
        assert_eq!((new.counts().subscriptions, new.counts().leaves_unknown_total), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_long_log_and_a_crowd_go_in_parts() {
    let mut prng = Prng::with_seed(1);
    let now = Time::from_millis(5_000);
    let large = ChannelOptions {
        history_size: 10_000,
        history_ttl: Duration::from_secs(60),
        presence: true,
        ..ChannelOptions::default()
    };
    let namespaces = std::sync::Arc::new(Namespaces::new(large, [], 255));
    let mut old = OwnedChannels::new(namespaces.clone(), HubLimits::default(), prng.fork());
    for _ in 0..500 {
        let data = Bytes::from(vec![b'1'; 2_000]);
        old.publish(PublishRequest::new("c".into(), data), now, 0).unwrap();
    }
    for slot in 0..20_000 {
        let conn = ConnId::new(ShardId(0), Sock { slot, generation: 1 });
        let info = ClientInfo { client: slot.to_string(), ..ClientInfo::default() };
        let shown = Visibility::default();
        let by = Creator::Backend;
        old.join(
            JoinRequest {
                channel: "c".into(),
                conn,
                info: info.into(),
                shown,
                recover: None,
                device: None,
                by,
            },
            now,
        )
        .unwrap();
    }
    let bytes = written(&old, now);
    let (mut rest, mut kinds) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (unread, behind) = record::next(rest).unwrap();
        assert!(rest.len() - behind.len() < 2 * record::PART_BYTES);
        kinds.push(unread.kind);
        rest = behind;
    }
    let count = |kind| kinds.iter().filter(|other| **other == kind).count();
    assert!(count(RecordKind::ChannelLog) > 3 && count(RecordKind::ChannelMembers) > 2, "{kinds:?}");
    let mut new = OwnedChannels::new(namespaces, HubLimits::default(), prng);
    read(&mut new, &bytes, now).unwrap();
    assert_eq!((new.retained("c"), new.counts().subscriptions), (500, 20_000));
    // An owner with less room keeps the newest.
    let mut small =
        owned(&mut Prng::with_seed(2), HubLimits { history_bytes_max: 50_000, ..HubLimits::default() });
    let mut part = old.log_part("c", Offset(0), now).unwrap();
    part.channel = "kept:c".into();
    let record = old.to_record("c", now).unwrap();
    let top = part.entries.last().unwrap().publication.offset;
    small.restore(&ChannelRecord { channel: "kept:c".into(), top, ..record }, now).unwrap();
    small.restore_log(part, now).unwrap();
    small.finish_restoring().unwrap();
    assert!(small.counts().history_bytes <= 50_000 && small.retained("kept:c") > 5);
}

/// A log of bytes is none for those who read JSON: it goes, the position stays.
#[test]
fn a_log_of_bytes_is_lost_where_its_namespace_takes_json_now() {
    let now = Time::from_millis(5_000);
    let of = |payload| {
        let options = ChannelOptions {
            history_size: 9,
            history_ttl: Duration::from_secs(9),
            payload,
            ..ChannelOptions::default()
        };
        let namespaces = std::sync::Arc::new(Namespaces::new(options, [], 255));
        OwnedChannels::new(namespaces, HubLimits::default(), Prng::with_seed(1))
    };
    for (before, behind, kept) in [
        (PayloadForm::Bytes, PayloadForm::Json, 0),
        (PayloadForm::Json, PayloadForm::Bytes, 3),
        (PayloadForm::Bytes, PayloadForm::Bytes, 3),
    ] {
        let mut old = of(before);
        for _ in 0..3 {
            old.publish(PublishRequest::new("c".into(), Bytes::from_static(b"1")), now, 0).unwrap();
        }
        let mut new = of(behind);
        read(&mut new, &written(&old, now), now).unwrap();
        assert_eq!(new.retained("c"), kept, "{before:?} to {behind:?}");
        let next = new.publish(PublishRequest::new("c".into(), Bytes::from_static(b"2")), now, 0).unwrap();
        assert_eq!(next.position.offset, Offset(4));
    }
}

#[test]
fn what_no_owner_holds_is_refused_by_name() {
    let now = Time::from_millis(5_000);
    let mut old = owned(&mut Prng::with_seed(1), HubLimits::default());
    for _ in 0..5 {
        old.publish(PublishRequest::new("kept:a".into(), Bytes::from_static(b"1")), now, 0).unwrap();
    }
    let (record, part) =
        (old.to_record("kept:a", now).unwrap(), old.log_part("kept:a", Offset(0), now).unwrap());
    let tried = |change: &dyn Fn(&mut ChannelRecord, &mut LogPart)| {
        let (mut record, mut part) = (record.clone(), part.clone());
        change(&mut record, &mut part);
        let mut new = owned(&mut Prng::with_seed(3), HubLimits::default());
        new.restore(&record, now)?;
        new.restore_log(part, now)?;
        new.finish_restoring()?;
        // Whatever was taken can be used.
        new.publish(PublishRequest::new(record.channel, Bytes::from_static(b"1")), now, 0).unwrap();
        Ok::<_, RecordFault>(new)
    };
    assert_eq!(tried(&|_, _| {}).unwrap().retained("kept:a"), 6);
    let fault = |change: &dyn Fn(&mut ChannelRecord, &mut LogPart)| tried(change).err();
    let entry = Some(RecordFault::Impossible("an entry of a log"));
    assert_eq!(fault(&|_, part| drop(part.entries.remove(2))), entry, "a hole");
    assert_eq!(fault(&|_, part| part.entries.swap(1, 2)), entry);
    assert_eq!(fault(&|_, part| part.entries[1].publication.epoch = Epoch(1)), entry);
    assert_eq!(fault(&|_, part| part.entries[3].expires = Moment(0)), entry);
    assert_eq!(fault(&|record, _| record.top = Offset(4)), entry, "above the top");
    assert_eq!(fault(&|record, _| record.epoch = Epoch::NONE), Some(RecordFault::Impossible("a channel")));
    assert_eq!(fault(&|record, _| record.top = Offset(u64::MAX)), Some(RecordFault::Impossible("a channel")));
    assert_eq!(
        fault(&|record, _| record.channel = "no:a".into()),
        Some(RecordFault::Impossible("a channel of no namespace"))
    );
    assert_eq!(
        fault(&|_, part| part.channel = "kept:b".into()),
        Some(RecordFault::Impossible("a part of no channel"))
    );
    // What is missing at the end was missed: nothing of the log is of use then.
    let cut = tried(&|_, part| drop(part.entries.pop())).unwrap();
    assert_eq!((cut.retained("kept:a"), cut.position("kept:a").unwrap().offset), (1, Offset(6)));

    let mut new = owned(&mut Prng::with_seed(3), HubLimits::default());
    new.restore(&record, now).unwrap();
    assert_eq!(new.restore(&record, now), Err(RecordFault::Impossible("a channel that is here already")));
}

/// Channels of several shards come to one, in any order of their parts.
#[test]
fn bounds_of_channels_hold_when_all_has_been_restored() {
    let now = Time::from_millis(5_000);
    let mut old = owned(&mut Prng::with_seed(1), HubLimits::default());
    let join = |owned: &mut OwnedChannels, channel: &str| {
        let shown = Visibility { listed: true, announced: false };
        let conn = ConnId::new(ShardId(0), Sock { slot: 1, generation: 1 });
        let (channel, info) = (channel.into(), ClientInfo::default());
        let by = Creator::Connection(conn);
        owned
            .join(
                JoinRequest { channel, conn, info: info.into(), shown, recover: None, device: None, by },
                now,
            )
            .unwrap();
        conn
    };
    let names = ["room:a", "room:b", "room:c"];
    let conns = names.map(|name| join(&mut old, name));
    old.leave("room:b", conns[1], now);
    let moved_to = |limits: HubLimits| {
        let mut new = owned(&mut Prng::with_seed(3), limits);
        for name in names {
            new.restore(&old.to_record(name, now).unwrap(), now).unwrap();
        }
        for name in names {
            old.members_parts(name, now, |part| {
                new.restore_members(part, &|peer| Some(moved(peer)), now).unwrap();
            });
        }
        new.finish_restoring().map(|()| names.map(|name| new.has(name)))
    };
    for limits in [
        HubLimits { channels_max: 2, ..HubLimits::default() },
        HubLimits { client_channels_max: 2, ..HubLimits::default() },
    ] {
        assert_eq!(moved_to(limits), Ok([true, false, true]), "what nobody is in goes");
    }
    for limits in [
        HubLimits { channels_max: 1, ..HubLimits::default() },
        HubLimits { client_channels_max: 1, ..HubLimits::default() },
    ] {
        assert_eq!(moved_to(limits), Err(RecordFault::Impossible("more channels than there may be")));
    }
}
