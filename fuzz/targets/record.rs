//! Records of another process or of a file: frames of chance, and bodies of chance in frames that fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::base::budget::Budget;
use trunkline::base::time::Time;
use trunkline::proto::websocket::{Decoder, Role};
use trunkline::record::{
    BlocksPart, ChannelRecord, EventsPart, EventsRecord, HelloRecord, KeysPart, ListenersRecord, LogPart,
    MembersPart, NodeRecord, ParcelsPart, PeerRecord, PeerState, PushKeysPart, Record, RecordKind,
    ShardRecord, StoreRecord, StreamRecord, TicketsPart, TotalsRecord, UserRecord, next, write,
};
use trunkline::session::Session;
use trunkline::session::tunnel::Tunnel;
use trunkline::session::unidirectional::Unidirectional;

/// What a record's head takes.
const HEAD_BYTES: usize = 16;

fuzz_target!(|data: &[u8]| {
    read(data);
    // The checksum would keep a fuzzer out: it is made to fit.
    let Some((kind, body)) = data.split_first() else { return };
    let mut framed = Vec::new();
    let empty = EventsPart { entries: Vec::new() };
    write(&empty, &mut framed).expect("short enough");
    framed.truncate(HEAD_BYTES);
    framed[5] = RecordKind::ALL[usize::from(*kind) % RecordKind::ALL.len()] as u8;
    framed.extend_from_slice(body);
    framed[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&framed[4..12]);
    sum.update(body);
    framed[12..16].copy_from_slice(&sum.finalize().to_le_bytes());
    read(&framed);
});

fn read(bytes: &[u8]) {
    let Ok((unread, _)) = next(bytes) else { return };
    match unread.kind {
        RecordKind::Peer => {
            if let Ok(peer) = unread.read::<PeerRecord>() {
                comes_back(&peer);
                revive(&peer);
            }
        }
        RecordKind::Channel => drop(unread.read::<ChannelRecord>().map(|record| comes_back(&record))),
        RecordKind::ChannelLog => drop(unread.read::<LogPart>().map(|record| comes_back(&record))),
        RecordKind::Keys => drop(unread.read::<KeysPart>().map(|record| comes_back(&record))),
        RecordKind::ChannelMembers => drop(unread.read::<MembersPart>().map(|record| comes_back(&record))),
        RecordKind::ChannelStream => drop(unread.read::<StreamRecord>().map(|record| comes_back(&record))),
        RecordKind::User => drop(unread.read::<UserRecord>().map(|record| comes_back(&record))),
        RecordKind::Events => drop(unread.read::<EventsRecord>().map(|record| comes_back(&record))),
        RecordKind::Tickets => drop(unread.read::<TicketsPart>().map(|record| comes_back(&record))),
        RecordKind::Hello => drop(unread.read::<HelloRecord>().map(|record| comes_back(&record))),
        RecordKind::Node => drop(unread.read::<NodeRecord>().map(|record| comes_back(&record))),
        RecordKind::Listeners => drop(unread.read::<ListenersRecord>().map(|record| comes_back(&record))),
        RecordKind::Parcels => drop(unread.read::<ParcelsPart>().map(|record| comes_back(&record))),
        RecordKind::Totals => drop(unread.read::<TotalsRecord>().map(|record| comes_back(&record))),
        RecordKind::PushKeys => drop(unread.read::<PushKeysPart>().map(|record| comes_back(&record))),
        RecordKind::Store => drop(unread.read::<StoreRecord>().map(|record| comes_back(&record))),
        RecordKind::Blocks => drop(unread.read::<BlocksPart>().map(|record| comes_back(&record))),
        RecordKind::Shard => drop(unread.read::<ShardRecord>().map(|record| comes_back(&record))),
        RecordKind::EventsLog => drop(unread.read::<EventsPart>().map(|record| comes_back(&record))),
    }
}

/// What was read says the same when it is written and read once more.
fn comes_back<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
    let mut bytes = Vec::new();
    write(record, &mut bytes).expect("it was short enough");
    assert_eq!(next(&bytes).expect("a record").0.read::<R>().as_ref(), Ok(record));
}

/// State machines take it or refuse it, and a decoder that was taken reads on.
fn revive(peer: &PeerRecord) {
    let budget = Budget::new("fuzz", 1 << 20);
    let mut channels = 0;
    let mut place_of = |_: &_| {
        channels += 1;
        Ok((channels, 0))
    };
    match &peer.state {
        PeerState::Client(client) => drop(Session::from_record(client, &mut place_of, Time(0))),
        PeerState::Unidirectional(client) => {
            drop(Unidirectional::from_record(client, &mut place_of, &budget))
        }
        PeerState::Tunnel(tunnel) => drop(Tunnel::from_record(tunnel, 0, &budget)),
        _ => {}
    }
    if let Some(record) = peer.link.as_ref().and_then(|link| link.decoder.as_ref())
        && let Ok(mut decoder) = Decoder::from_record(Role::Server, 1 << 16, true, record)
    {
        let _ = decoder.decode(&mut [0x81, 0x85, 1, 2, 3, 4, 0xff, 0x80, 0, 0x41, 0x41]);
    }
}
