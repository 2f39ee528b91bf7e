//! What a shard holds at any moment of a run goes through bytes and comes back as it was.

use std::cell::RefCell;
use std::collections::BTreeMap;

use trunkline::base::budget::Budget;
use trunkline::base::ids::{ChannelName, ConnId};
use trunkline::base::prng::Prng;
use trunkline::base::time::Time;
use trunkline::driver::sim::SimDriver;
use trunkline::hub::OwnedChannels;
use trunkline::hub::places::{Places, UserLimit};
use trunkline::hub::users::Users;
use trunkline::proto::websocket::{Decoder, Role};
use trunkline::record::{
    self, KeysPart, LogPart, MembersPart, PeerRecord, PeerState, RecordKind, StreamRecord, SubRecord,
    UserRecord,
};
use trunkline::session::Session;
use trunkline::session::tunnel::Tunnel;
use trunkline::session::unidirectional::Unidirectional;
use trunkline::shard::{Shard, ShardOptions};

use crate::coverage::Coverage;

/// Another process's moment of reading.
const THERE: Time = Time(1 << 50);

pub fn check(shard: &Shard<SimDriver>, options: &ShardOptions, coverage: &mut Coverage) {
    for peer in shard.peer_records() {
        let mut bytes = Vec::new();
        record::write(&peer, &mut bytes).expect("a peer fits a record");
        let read: PeerRecord = record::read(&bytes).expect("what was written");
        assert_eq!(read, peer);
        check_state(&read, options, coverage);
        if let Some(decoder) = read.link.as_ref().and_then(|link| link.decoder.as_ref()) {
            let restored = Decoder::from_record(
                Role::Server,
                options.message_bytes_max,
                options.compression.is_some(),
                decoder,
            );
            assert_eq!(restored.expect("a decoder that was").to_record().as_ref(), Some(decoder));
            coverage.count("records_half_frame");
            if decoder.compressed {
                coverage.count("records_compressed");
            }
        }
        if read.link.is_some_and(|link| !link.cursors.is_empty()) {
            coverage.count("records_laggard");
        }
    }
    check_owned(shard, options, coverage);
}

fn check_state(peer: &PeerRecord, options: &ShardOptions, coverage: &mut Coverage) {
    // Numbers of channels in another process.
    let names = RefCell::new(Vec::<ChannelName>::new());
    let mut place_of = |sub: &SubRecord| {
        names.borrow_mut().push(sub.channel.clone());
        Ok((names.borrow().len() as u32 + 40, 3))
    };
    let name_of = |number: u32| names.borrow()[number as usize - 41].clone();
    let kind = match &peer.state {
        PeerState::Client(client) => {
            let restored = Session::from_record(client, &mut place_of, THERE).expect("a client that was");
            assert_eq!(restored.to_record(&name_of, THERE), *client);
            match client.waits {
                Some(_) => "records_client_waiting",
                None => "records_client",
            }
        }
        PeerState::Unidirectional(client) => {
            let budget = Budget::new("test", 1 << 30);
            let restored =
                Unidirectional::from_record(client, &mut place_of, &budget).expect("a client that was");
            assert_eq!(restored.to_record(&name_of), *client);
            "records_unidirectional"
        }
        PeerState::Tunnel(tunnel) => {
            let budget = Budget::new("test", 1 << 30);
            let place =
                options.tunnels.iter().position(|known| known.name == tunnel.tunnel).expect("its tunnel");
            let restored = Tunnel::from_record(tunnel, place as u16, &budget).expect("a tunnel that was");
            assert_eq!(restored.to_record(&tunnel.tunnel, tunnel.farewell.clone()), *tunnel);
            "records_tunnel"
        }
        PeerState::Requests(_) => "records_requests",
        _ => "records_closing",
    };
    coverage.count(kind);
}

fn check_owned(shard: &Shard<SimDriver>, options: &ShardOptions, coverage: &mut Coverage) {
    let mut bytes = Vec::new();
    shard.write_owned(&mut bytes).expect("what a shard owns fits");
    let mut prng = Prng::with_seed(1);
    let mut owned = OwnedChannels::new(options.namespaces.clone(), options.hub.clone(), prng.fork());
    let (mut users, mut places) = (Users::new(&mut prng), Places::new(&mut prng));
    let limit = UserLimit::none();
    let (mut rest, mut counts) = (&bytes[..], BTreeMap::<RecordKind, usize>::new());
    while !rest.is_empty() {
        let (unread, behind) = record::next(rest).expect("what was written");
        let here = |peer: u64| Some(ConnId::from_bits(peer));
        let count = match unread.kind {
            RecordKind::Channel => unread.read().and_then(|record| owned.restore(&record, THERE)).map(|()| 1),
            RecordKind::ChannelLog => unread.read().and_then(|part: LogPart| {
                let entries = part.entries.len();
                owned.restore_log(part, THERE).map(|()| entries)
            }),
            RecordKind::ChannelMembers => unread.read().and_then(|part: MembersPart| {
                let members = part.members.len();
                owned.restore_members(part, &here, THERE).map(|()| members)
            }),
            RecordKind::Keys => unread.read().and_then(|part: KeysPart| {
                let keys = part.keys.len();
                owned.restore_keys(part, THERE).map(|()| keys)
            }),
            RecordKind::User => unread.read().and_then(|user: UserRecord| {
                places.restore(&mut users, &user, &here, &limit, &mut Vec::new()).map(|()| user.peers.len())
            }),
            RecordKind::ChannelStream => unread.read().map(|stream: StreamRecord| stream.items.len()),
            _ => panic!("{:?} is not owned", unread.kind),
        };
        *counts.entry(unread.kind).or_default() += count.expect("what a shard had");
        rest = behind;
    }
    owned.finish_restoring().expect("it had room for what it had");
    let (is, was) = (owned.counts(), shard.owned_counts());
    assert_eq!((is.channels, is.subscriptions), (was.channels, was.subscriptions));
    assert_eq!(is.subscriptions, counts.get(&RecordKind::ChannelMembers).copied().unwrap_or(0));
    for (kind, name) in [
        (RecordKind::Channel, "records_channel"),
        (RecordKind::ChannelLog, "records_log_entry"),
        (RecordKind::Keys, "records_key"),
        (RecordKind::ChannelMembers, "records_member"),
        (RecordKind::ChannelStream, "records_stream_item"),
        (RecordKind::User, "records_user_connection"),
    ] {
        coverage.add(name, counts.get(&kind).copied().unwrap_or(0) as u64);
    }
}
