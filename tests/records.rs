//! Reading a record takes memory in proportion to the bytes that are there, whatever lengths they claim.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;

use trunkline::base::prng::Prng;
use trunkline::record::{
    ChannelRecord, EventsPart, EventsRecord, KeysPart, LogPart, MembersPart, PeerRecord, Record,
    StreamRecord, UserRecord, read, write,
};

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of the heap.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are held while one is copied.
        count(size as i64);
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(bytes: i64) {
    let held = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    });
    if let Ok(held) = held {
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held)));
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was held at a time while `work` ran, beyond what was held before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (i64, T) {
    let before = HELD.get();
    PEAK.set(before);
    let done = work();
    (PEAK.get() - before, done)
}

/// A byte of a record becomes at most this many: an absent text is one byte on the wire and 32 here, and a list that grows
/// has twice the room that it needs and its old place for a moment.
const BYTES_PER_BYTE: i64 = 128;
/// What is taken whatever comes.
const BYTES_FIXED: i64 = 4096;

/// One body for every kind of record, in a frame that fits.
fn framed<R: Record>(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'T', b'K', b'L', b'R', 1, R::KIND as u8, 0, 0];
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[4..12]);
    sum.update(body);
    bytes.extend_from_slice(&sum.finalize().to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn is_bounded<R: Record + Debug>(body: &[u8]) {
    let bytes = framed::<R>(body);
    let (peak, read) = peak_of(|| read::<R>(&bytes).map(drop));
    let allowed = BYTES_FIXED + BYTES_PER_BYTE * bytes.len() as i64;
    assert!(peak <= allowed, "{:?}: {} bytes took {peak} ({read:?})", R::KIND, bytes.len());
}

fn every_kind(body: &[u8]) {
    is_bounded::<PeerRecord>(body);
    is_bounded::<ChannelRecord>(body);
    is_bounded::<LogPart>(body);
    is_bounded::<KeysPart>(body);
    is_bounded::<MembersPart>(body);
    is_bounded::<StreamRecord>(body);
    is_bounded::<UserRecord>(body);
    is_bounded::<EventsRecord>(body);
    is_bounded::<EventsPart>(body);
}

#[test]
fn lengths_that_are_claimed_take_no_memory() {
    for seed in 0..3_000 {
        let mut prng = Prng::with_seed(seed);
        // Heads of arrays, texts and bytes that claim up to the whole of 64 bits, among small values.
        let mut body = Vec::new();
        for _ in 0..prng.usize(1..40) {
            match prng.u8(..6) {
                0 => body.extend_from_slice(&[
                    [0x9b, 0x5b, 0x7b, 0xbb][prng.usize(..4)],
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0,
                    0,
                    0,
                    9,
                ]),
                1 => body.push([0x9f, 0x5f, 0x7f, 0xbf][prng.usize(..4)]),
                2 => body.push(0x80 + prng.u8(..16)),
                3 => body.extend_from_slice(b"\x61c"),
                4 => body.push(0xf6),
                _ => body.push(prng.u8(..)),
            }
        }
        every_kind(&body);
    }
}

/// The densest that is accepted: lists of the smallest values that there are.
#[test]
fn lists_of_nothing_much_stay_in_proportion() {
    let list = |element: &[u8], count: usize| {
        let mut body = vec![0x9a];
        body.extend_from_slice(&(count as u32).to_be_bytes());
        body.extend(element.iter().copied().cycle().take(element.len() * count));
        body
    };
    for count in [1_000, 50_000] {
        // An event: a number and no bytes. The list is the one field of its part.
        let entries = [&[0x81][..], &list(&[0x82, 0, 0x40], count)].concat();
        is_bounded::<EventsPart>(&entries);
        assert!(read::<EventsPart>(&framed::<EventsPart>(&entries)).is_ok(), "the densest is a record");
        // A member whom nobody sees.
        let members = [&[0x82, 0x61, b'c'][..], &list(&[0x84, 0, 0xf6, 0xf4, 0xf4], count)].concat();
        is_bounded::<MembersPart>(&members);
        assert!(read::<MembersPart>(&framed::<MembersPart>(&members)).is_ok());
        // A later build's field, nested as deep as it is long.
        let deep = [&[0x82, 0x80][..], &vec![0x81; count], &[0]].concat();
        is_bounded::<EventsPart>(&deep);
        assert!(read::<EventsPart>(&framed::<EventsPart>(&deep)).is_ok(), "what is skipped may be anything");
    }
}

#[test]
fn a_large_record_costs_what_it_holds() {
    let entry = |seq| trunkline::record::EventEntry { seq, json: vec![b'1'; 1_000].into() };
    let part = EventsPart { entries: (1..=1_000).map(entry).collect() };
    let mut bytes = Vec::new();
    write(&part, &mut bytes).unwrap();
    let (peak, read) = peak_of(|| read::<EventsPart>(&bytes));
    assert_eq!(read.as_ref(), Ok(&part));
    assert!(peak < 2 * bytes.len() as i64, "{peak} for {} bytes", bytes.len());
}
