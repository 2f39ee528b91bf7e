//! What the owner side of the hub costs: a publish, a subscription, a recovery.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use trunkline::base::bytes::Bytes;
use trunkline::base::ids::{ChannelName, ConnId, EncodingId, Offset, ShardId, Sock};
use trunkline::base::prng::Prng;
use trunkline::base::publication::{ClientInfo, Visibility};
use trunkline::base::time::Time;
use trunkline::hub::class::Class;
use trunkline::hub::creators::Creator;
use trunkline::hub::followed::{FollowedChannels, Item, StreamLimits};
use trunkline::hub::requests::{JoinRequest, PublishRequest, Since, SinceEpoch};
use trunkline::hub::{ChannelOptions, HubLimits, Namespaces, OwnedChannels};

const CHANNELS: usize = 10_000;
const PAYLOAD: &[u8] = &[b'7'; 100];

fn owned() -> OwnedChannels {
    let kept = ChannelOptions {
        history_size: 100,
        history_ttl: Duration::from_secs(300),
        ..ChannelOptions::default()
    };
    let room = ChannelOptions { presence: true, ..ChannelOptions::default() };
    let named = [("kept".to_owned(), kept), ("room".to_owned(), room)];
    let namespaces = Arc::new(Namespaces::new(ChannelOptions::default(), named, 255));
    // Roomy: these are not the costs of eviction.
    let limits = HubLimits { history_bytes_max: 1 << 30, ..HubLimits::default() };
    OwnedChannels::new(namespaces, limits, Prng::with_seed(1))
}

fn names(namespace: &str) -> Vec<ChannelName> {
    (0..CHANNELS).map(|i| format!("{namespace}channel{i}").into()).collect()
}

fn conn(slot: u32) -> ConnId {
    ConnId::new(ShardId(0), Sock { slot, generation: 0 })
}

fn info(slot: u32) -> Arc<ClientInfo> {
    Arc::new(ClientInfo {
        user: format!("user{slot}").into(),
        client: format!("client{slot}"),
        ..ClientInfo::default()
    })
}

fn publish(c: &mut Criterion) {
    let data = Bytes::from(vec![b'7'; 100]);
    for (what, namespace) in [("publish/no_history", ""), ("publish/history_100", "kept:")] {
        let names = names(namespace);
        let mut owned = owned();
        let mut at = 0;
        c.bench_function(what, |b| {
            b.iter(|| {
                at = (at + 1) % CHANNELS;
                let ask = PublishRequest::new(names[at].clone(), data.clone());
                black_box(owned.publish(ask, Time(at as u64), 1).unwrap())
            });
        });
    }
    let names = names("kept:");
    let limits = HubLimits { history_bytes_max: 16 << 20, ..HubLimits::default() };
    let kept =
        ChannelOptions { history_size: 100, history_ttl: Duration::from_secs(300), ..Default::default() };
    let namespaces = Namespaces::new(ChannelOptions::default(), [("kept".to_owned(), kept)], 255);
    let mut owned = OwnedChannels::new(Arc::new(namespaces), limits, Prng::with_seed(1));
    let mut at = 0;
    c.bench_function("publish/history_full", |b| {
        b.iter(|| {
            at = (at + 1) % CHANNELS;
            black_box(
                owned.publish(PublishRequest::new(names[at].clone(), data.clone()), Time(0), 1).unwrap(),
            )
        });
    });
}

/// As the namespace says.
fn shown(channel: &str) -> Visibility {
    Visibility { listed: channel.starts_with("room:"), announced: false }
}

fn join_and_leave(c: &mut Criterion) {
    for (what, namespace) in [("join_leave/plain", ""), ("join_leave/presence", "room:")] {
        let channel: ChannelName = format!("{namespace}busy").into();
        let mut owned = owned();
        for slot in 0..10_000 {
            let ask = JoinRequest {
                channel: channel.clone(),
                conn: conn(slot),
                info: info(slot),
                shown: shown(&channel),
                recover: None,
                device: None,
                by: Creator::Backend,
            };
            owned.join(ask, Time(0)).unwrap();
        }
        // A connection's info is shared by the channels that show it; to others it says whose it is, and is given up there.
        let shared = info(20_000);
        let own = || {
            let (user, client) = (Arc::clone(&shared.user), String::new());
            Arc::new(ClientInfo { user, client, conn_info: None, chan_info: None })
        };
        c.bench_function(what, |b| {
            b.iter_batched(
                || JoinRequest {
                    channel: channel.clone(),
                    conn: conn(20_000),
                    info: if namespace.is_empty() { own() } else { Arc::clone(&shared) },
                    shown: shown(&channel),
                    recover: None,
                    device: None,
                    by: Creator::Backend,
                },
                |ask| {
                    black_box(owned.join(ask, Time(0)).unwrap());
                    black_box(owned.leave(&channel, conn(20_000), Time(0)));
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn recovery(c: &mut Criterion) {
    let mut owned = owned();
    let channel: ChannelName = "kept:recovered".into();
    for _ in 0..100 {
        owned
            .publish(PublishRequest::new(channel.clone(), Bytes::from(vec![b'7'; 100])), Time(0), 1)
            .unwrap();
    }
    let recover = Some(Since { offset: Offset(0), epoch: SinceEpoch::Any });
    c.bench_function("join/recovery_of_100", |b| {
        b.iter_batched(
            || JoinRequest {
                channel: channel.clone(),
                conn: conn(1),
                info: info(1),
                shown: shown(&channel),
                recover,
                device: None,
                by: Creator::Backend,
            },
            |ask| black_box(owned.join(ask, Time(0)).unwrap()),
            BatchSize::SmallInput,
        );
    });
}

/// A publication from its owner to the end of its subscribers' list, all of them on one shard: what delivery costs before
/// any frame is sent. Per iteration one publication, so the time over the number of subscribers is the cost of one.
fn deliver(c: &mut Criterion) {
    for subscribers in [1, 100, 10_000] {
        let mut owned = owned();
        let mut followed = FollowedChannels::new(
            StreamLimits {
                channel_bytes_max: 1 << 20,
                channel_items_max: 1 << 14,
                shard_bytes_max: usize::MAX,
            },
            1,
        );
        let channel: ChannelName = "crowd".into();
        for slot in 0..subscribers {
            let ask = JoinRequest {
                channel: channel.clone(),
                conn: conn(slot),
                info: info(slot),
                shown: shown(&channel),
                recover: None,
                device: None,
                by: Creator::Backend,
            };
            let joined = owned.join(ask, Time::ZERO).expect("there is room");
            let index = followed.join_asked(&channel, &Arc::default());
            followed.subscribe(index, slot, Class::shared(EncodingId(0)), None, joined.position.offset);
            followed.join_answered(index);
        }
        c.bench_function(&format!("publish/to_{subscribers}"), |b| {
            b.iter(|| {
                let ask = PublishRequest::new(channel.clone(), Bytes::from_static(PAYLOAD));
                let published = owned.publish(ask, Time::ZERO, 0).expect("there is room");
                let shards = owned.interested(&channel).len();
                followed.handle_item(
                    &channel,
                    Item::Publication(published.publication.expect("it is new")),
                    Time::ZERO,
                );
                let mut visited = 0u64;
                while let Some((index, active)) = followed.take_ready(Time::ZERO) {
                    for subscriber in &followed.get(index).subscribers()[..active.remaining as usize] {
                        visited += u64::from(black_box(subscriber.slot()) < u32::MAX);
                    }
                    followed.advance(index, 0, Time::ZERO);
                }
                (shards, visited)
            });
        });
    }
}

criterion_group!(benches, publish, join_and_leave, recovery, deliver);
criterion_main!(benches);
