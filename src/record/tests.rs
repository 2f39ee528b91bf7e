//! What holds for records of every kind: whole values come back, damaged ones are refused, and version 1 stays what it is.

use std::fmt::Debug;
use std::path::Path;

use super::arbitrary::Arbitrary;
use super::envelope::HEAD_BYTES;
use super::*;
use crate::base::prng::Prng;

/// Calls `$check` with each type that stands in a record of its own.
macro_rules! every_kind {
    ($check:ident $(, $argument:expr)*) => {{
        $check::<PeerRecord>($($argument),*);
        $check::<ChannelRecord>($($argument),*);
        $check::<LogPart>($($argument),*);
        $check::<KeysPart>($($argument),*);
        $check::<MembersPart>($($argument),*);
        $check::<StreamRecord>($($argument),*);
        $check::<UserRecord>($($argument),*);
        $check::<EventsRecord>($($argument),*);
        $check::<EventsPart>($($argument),*);
        $check::<TicketsPart>($($argument),*);
        $check::<ShardRecord>($($argument),*);
        $check::<HelloRecord>($($argument),*);
        $check::<NodeRecord>($($argument),*);
        $check::<ListenersRecord>($($argument),*);
        $check::<ParcelsPart>($($argument),*);
        $check::<TotalsRecord>($($argument),*);
        $check::<PushKeysPart>($($argument),*);
        $check::<StoreRecord>($($argument),*);
        $check::<BlocksPart>($($argument),*);
    }};
}

/// Reads a record as its receiver does: by its kind.
fn read_any(bytes: &[u8]) -> Result<(), RecordFault> {
    let (unread, _) = next(bytes)?;
    match unread.kind {
        RecordKind::Peer => unread.read::<PeerRecord>().map(drop),
        RecordKind::Channel => unread.read::<ChannelRecord>().map(drop),
        RecordKind::ChannelLog => unread.read::<LogPart>().map(drop),
        RecordKind::Keys => unread.read::<KeysPart>().map(drop),
        RecordKind::ChannelMembers => unread.read::<MembersPart>().map(drop),
        RecordKind::ChannelStream => unread.read::<StreamRecord>().map(drop),
        RecordKind::User => unread.read::<UserRecord>().map(drop),
        RecordKind::Events => unread.read::<EventsRecord>().map(drop),
        RecordKind::EventsLog => unread.read::<EventsPart>().map(drop),
        RecordKind::Tickets => unread.read::<TicketsPart>().map(drop),
        RecordKind::Shard => unread.read::<ShardRecord>().map(drop),
        RecordKind::Hello => unread.read::<HelloRecord>().map(drop),
        RecordKind::Node => unread.read::<NodeRecord>().map(drop),
        RecordKind::Listeners => unread.read::<ListenersRecord>().map(drop),
        RecordKind::Parcels => unread.read::<ParcelsPart>().map(drop),
        RecordKind::Totals => unread.read::<TotalsRecord>().map(drop),
        RecordKind::PushKeys => unread.read::<PushKeysPart>().map(drop),
        RecordKind::Store => unread.read::<StoreRecord>().map(drop),
        RecordKind::Blocks => unread.read::<BlocksPart>().map(drop),
    }
}

/// Makes a head fit its body again.
fn repair(bytes: &mut [u8]) {
    let length = (bytes.len() - HEAD_BYTES) as u32;
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[4..12]);
    sum.update(&bytes[HEAD_BYTES..]);
    bytes[12..16].copy_from_slice(&sum.finalize().to_le_bytes());
}

fn comes_back<R: Record + Arbitrary + PartialEq + Debug>(seed: u64) {
    let record = R::arbitrary(&mut Prng::with_seed(seed));
    let mut bytes = Vec::new();
    write(&record, &mut bytes).unwrap();
    assert_eq!(read::<R>(&bytes), Ok(record), "seed {seed}");
}

#[test]
fn what_is_written_is_read_back() {
    for seed in 0..1_000 {
        every_kind!(comes_back, seed);
    }
}

fn survives<R: Record + Arbitrary + PartialEq + Debug>(seed: u64) {
    let mut prng = Prng::with_seed(seed);
    let mut bytes = Vec::new();
    write(&R::arbitrary(&mut prng), &mut bytes).unwrap();
    let cut = prng.usize(..bytes.len());
    assert_eq!(read::<R>(&bytes[..cut]), Err(RecordFault::Cut), "seed {seed}, {cut} bytes");
    // A body that ends early under a head that says so.
    if cut > HEAD_BYTES {
        let mut short = bytes[..cut].to_vec();
        repair(&mut short);
        assert_eq!(read::<R>(&short), Err(RecordFault::Cut), "seed {seed}, {cut} bytes");
    }
    let flipped = prng.usize(..bytes.len() * 8);
    bytes[flipped / 8] ^= 1 << (flipped % 8);
    assert!(read::<R>(&bytes).is_err(), "seed {seed}: bit {flipped} is not missed");
    // Nothing is left but the decoder: whatever it makes of them, it comes back.
    for _ in 0..prng.usize(1..8) {
        let at = prng.usize(HEAD_BYTES..bytes.len().max(HEAD_BYTES + 1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = prng.u8(..);
        }
    }
    bytes[..8].copy_from_slice(&[b'T', b'K', b'L', b'R', 1, R::KIND as u8, 0, 0]);
    repair(&mut bytes);
    let _ = read::<R>(&bytes);
}

#[test]
fn damaged_records_are_refused() {
    for seed in 0..1_000 {
        every_kind!(survives, seed);
    }
}

#[test]
fn bytes_of_chance_are_no_record() {
    for seed in 0..20_000 {
        let mut prng = Prng::with_seed(seed);
        let kind = RecordKind::ALL[prng.usize(..RecordKind::ALL.len())];
        let mut bytes = vec![b'T', b'K', b'L', b'R', 1, kind as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // Small arrays, texts and numbers, so that some get far.
        let shapes =
            [0x80, 0x82, 0x83, 0x8d, 0x60, 0x61, 0x40, 0x41, 0x00, 0x01, 0xf6, 0xf5, 0x1a, 0x9f, 0xbf, 0xff];
        bytes.extend((0..prng.usize(..60)).map(|_| match prng.u8(..4) {
            0 => prng.u8(..),
            _ => shapes[prng.usize(..shapes.len())],
        }));
        repair(&mut bytes);
        let _ = read_any(&bytes);
        assert!(read_any(&bytes[HEAD_BYTES..]).is_err());
    }
}

/// What must be among the records that are kept.
const VARIANTS: &[&str] = &[
    "Client(",
    "Unidirectional(",
    "Tunnel(",
    "Token",
    "Hook(",
    "Any",
    "Known(",
    "Foreign",
    "Joins(",
    "HookCall(",
    "purpose: Connect(",
    "purpose: Refresh",
    "purpose: Subscribe(",
    "purpose: SubRefresh(",
    "purpose: Publish(",
    "purpose: Rpc(",
    "hook_call: Connect(",
    "hook_call: Refresh",
    "hook_call: Subscribe(",
    "hook_call: SubRefresh(",
    "hook_call: Publish(",
    "hook_call: Rpc(",
    "mode: Stream(",
    "mode: Poll",
    "mode: History",
    "mode: Publish",
    "stage: Asking(",
    "stage: Idle",
    "stage: Busy(",
    "Publication(",
    "Joined(",
    "Left(",
    "farewell: Some(",
    "behind_place: Some(",
    "decoder: Some(",
    "recovery: Some(",
    "asking: Some(",
    "admission: Some(",
    "Requests(",
    "serves: Clients(",
    "serves: Api",
    "state: Echo",
    "ClosingPeersClose",
    "ClosingFin",
    "ClosingBoth",
];

/// A record of each kind and of every variant, as its bytes and as what it says. Both were written by version 1.
///
/// A field that is added later makes what is written longer: it stands in the text with its default.
fn is_golden<R: Record + PartialEq + Debug>(folder: &Path, said: &mut String) {
    let path = |end| folder.join(format!("{:?}.{end}", R::KIND));
    let (bytes, text) =
        (std::fs::read(path("records")).unwrap(), std::fs::read_to_string(path("txt")).unwrap());
    let mut rest = &bytes[..];
    for line in text.lines() {
        let (unread, behind) = next(rest).unwrap();
        let record: R = unread.read().unwrap();
        assert_eq!(format!("{record:?}"), line);
        let mut written = Vec::new();
        write(&record, &mut written).unwrap();
        let kept = &rest[..rest.len() - behind.len()];
        // Longer by the fields that were added since, which an earlier build skips.
        assert!(written == kept || written.len() > kept.len(), "an earlier build takes what this one writes");
        assert_eq!(read::<R>(&written), Ok(record));
        rest = behind;
    }
    assert!(rest.is_empty());
    said.push_str(&text);
}

#[test]
fn version_1_is_what_it_was() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/golden");
    let mut said = String::new();
    every_kind!(is_golden, &folder, &mut said);
    // One of each variant is among them.
    for variant in VARIANTS {
        assert!(said.contains(variant), "{variant} is not kept");
    }
}
