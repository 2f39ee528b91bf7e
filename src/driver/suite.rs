//! The behaviour every [`Driver`] has, as tests that run on each implementation.
//!
//! Inputs: a [`Rig`], which is a driver and clients to talk to it. Outputs: panics. Must not know: which driver it runs.
//!
//! An implementation runs the whole suite with `suite::driver_suite!(TheRig);` in its test module. No test asserts
//! on time: what must happen is waited for ([`Harness::until`]), what must not happen is given some time to happen.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::{AcceptFailure, Driver, DriverOptions, End, Event, Hold, Part, SendCause, SendFailure};
use crate::base::bytes::Bytes;
use crate::base::ids::Sock;

/// A driver with clients on the other side of its listener.
pub(in crate::driver) trait Rig: Sized {
    type Driver: Driver;

    /// False where time is virtual: then a `wait` with a timeout returns at once.
    const REAL_TIME: bool;

    /// `None` where this machine forbids the driver; the test then passes without having run.
    fn try_new(options: DriverOptions) -> Option<Self>;

    fn driver(&mut self) -> &mut Self::Driver;

    /// A client that connects, also while the driver does not accept (it then stands in the backlog).
    fn connect(&mut self) -> Client;

    /// Whether a client that connects now finds no listener.
    fn is_refused(&mut self) -> bool;

    /// Sends without waiting; returns how many bytes were taken, 0 when none or when the connection is broken.
    fn client_send(&mut self, client: Client, bytes: &[u8]) -> usize;

    /// Appends what has arrived at the client, without waiting.
    fn client_recv(&mut self, client: Client, into: &mut Vec<u8>) -> Heard;

    /// Sends FIN. The client still reads.
    fn client_finish(&mut self, client: Client);

    /// Breaks the connection with RST.
    fn client_reset(&mut self, client: Client);

    /// Lets time pass without looking at the driver.
    fn pass(&mut self, time: Duration);
}

/// A client by the order in which it connected, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::driver) struct Client(pub usize);

/// What a client heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Heard {
    /// So many bytes, never 0.
    Bytes(usize),
    Nothing,
    /// FIN, after everything before it was read.
    Finished,
    /// RST or another error.
    Broken,
}

/// Runs every test of the suite on a rig.
macro_rules! driver_suite {
    ($rig:ty) => {
        driver_suite!(@each $rig:
            accepts_clients
            reads_nothing_before_read_start
            receives_whole
            receives_in_pieces
            receives_more_than_its_buffers
            a_lent_buffer_is_writable
            a_flood_does_not_starve_the_others
            pause_holds_bytes_back_and_start_brings_them
            more_readers_than_buffers
            sends_one
            sends_many_parts_as_one
            sends_more_parts_than_a_gathered_write_takes
            sends_to_many_sockets_in_one_flush
            a_hold_is_released_after_the_flush
            a_short_send_says_where_it_stopped
            a_full_socket_refuses
            a_broken_socket_fails_its_sends
            reports_the_peers_fin
            reports_the_peers_reset
            a_half_closed_peer_is_still_written_to
            finish_ends_the_stream_and_reading_goes_on
            close_reaches_the_peer_promptly
            close_after_send_delivers_the_send
            close_before_read_start
            close_while_paused
            close_while_watched_for_writing
            close_with_unread_data
            close_after_finish
            close_after_the_peer_ended
            close_twice_is_closed_once
            a_slot_is_reused_with_another_generation
            an_older_generation_is_ignored_and_counted
            accept_pause_leaves_clients_in_the_backlog
            accept_end_refuses_clients
            a_full_table_fails_the_accept_until_a_slot_is_free
            a_wake_ends_the_wait
            a_wake_before_the_wait_ends_it
            wait_returns_after_its_timeout
            idle_sockets_cost_no_events
            thousands_of_sockets
            closes_everything_in_flight
        );
    };
    (@each $rig:ty: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::driver::suite::$name::<$rig>();
            }
        )*
    };
}
pub(in crate::driver) use driver_suite;

/// Ticks before [`Harness::until`] gives up: twenty seconds of a millisecond each.
const TICKS_MAX: u32 = 20_000;
/// Ticks for what must not happen to have its chance.
const TICKS_QUIET: u32 = 20;
const RECV_BUFFERS: u16 = 8;
const RECV_BUFFER_BYTES: usize = 4096;

/// Longer than any socket's buffers on both sides of a loopback connection, so that a send of it is short.
const LARGE_BYTES: usize = 24 << 20;

/// What the driver said about one socket.
#[derive(Debug, Default)]
struct Seen {
    received: Vec<u8>,
    reads: u32,
    ended: Option<End>,
    writable: u32,
    closed: bool,
    close_asked: bool,
}

/// A rig with the events of its driver collected by socket, and the contract's order checked on each.
struct Harness<R: Rig> {
    rig: R,
    accepted: Vec<Sock>,
    accept_failures: Vec<AcceptFailure>,
    seen: HashMap<Sock, Seen>,
    failures: Vec<SendFailure>,
    /// Received in the last tick.
    reads_in_tick: usize,
    events: Vec<Event>,
    events_total: usize,
}

impl<R: Rig> Harness<R> {
    fn try_new(sockets_max: u32) -> Option<Harness<R>> {
        let rig = R::try_new(DriverOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            sockets_max,
            recv_buffer_bytes: RECV_BUFFER_BYTES,
            recv_buffers: RECV_BUFFERS,
        })?;
        let mut harness = Harness {
            rig,
            accepted: Vec::new(),
            accept_failures: Vec::new(),
            seen: HashMap::new(),
            failures: Vec::new(),
            reads_in_tick: 0,
            events: Vec::new(),
            events_total: 0,
        };
        harness.driver().accept_start();
        Some(harness)
    }

    fn driver(&mut self) -> &mut R::Driver {
        self.rig.driver()
    }

    /// One tick of a shard that gives every buffer back and keeps what it read.
    fn tick(&mut self) {
        let mut failures = std::mem::take(&mut self.failures);
        self.driver().flush(&mut failures);
        self.failures = failures;
        let mut events = std::mem::take(&mut self.events);
        self.driver().wait(&mut events, Some(Duration::from_millis(1))).expect("wait");
        self.reads_in_tick = 0;
        let mut read = Vec::new();
        for event in events.drain(..) {
            self.events_total += 1;
            match event {
                Event::Accepted { sock } => {
                    let fresh = self.seen.insert(sock, Seen::default()).is_none();
                    assert!(fresh, "{sock:?} accepted twice");
                    self.accepted.push(sock);
                }
                Event::AcceptFailed { cause } => self.accept_failures.push(cause),
                Event::Received { sock, lent } => {
                    assert!(!read.contains(&sock), "{sock:?} read twice in one wait");
                    read.push(sock);
                    let bytes = self.rig.driver().received(&lent).to_vec();
                    assert!(!bytes.is_empty(), "an empty read");
                    let seen = self.open(sock);
                    assert!(seen.ended.is_none(), "bytes after the end of {sock:?}");
                    seen.received.extend(bytes);
                    seen.reads += 1;
                    self.driver().give_back(lent);
                }
                Event::Ended { sock, cause } => {
                    let before = self.open(sock).ended.replace(cause);
                    assert!(before.is_none(), "{sock:?} ended twice");
                }
                Event::Writable { sock } => self.open(sock).writable += 1,
                Event::Closed { sock } => {
                    let seen = self.seen.get_mut(&sock).expect("closed, but never accepted");
                    assert!(seen.close_asked, "{sock:?} closed without being asked");
                    assert!(!seen.closed, "{sock:?} closed twice");
                    seen.closed = true;
                }
            }
        }
        self.reads_in_tick = read.len();
        assert!(read.len() <= usize::from(RECV_BUFFERS), "more reads than buffers");
        self.events = events;
    }

    fn open(&mut self, sock: Sock) -> &mut Seen {
        let seen = self.seen.get_mut(&sock).expect("an event for a socket that was never accepted");
        assert!(!seen.close_asked, "an event after close of {sock:?}");
        seen
    }

    /// Ticks until `done`; a driver that does not get there fails the test.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TICKS_MAX {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("never came: {what}; accepted {}, failures {:?}", self.accepted.len(), self.failures);
    }

    /// Gives what must not happen its chance.
    fn settle(&mut self) {
        for _ in 0..TICKS_QUIET {
            self.tick();
        }
    }

    fn connect(&mut self) -> (Client, Sock) {
        let before = self.accepted.len();
        let client = self.rig.connect();
        self.until("accept", |h| h.accepted.len() > before);
        assert_eq!(self.accepted.len(), before + 1);
        (client, self.accepted[before])
    }

    /// A client whose socket is being read.
    fn connect_reading(&mut self) -> (Client, Sock) {
        let (client, sock) = self.connect();
        self.driver().read_start(sock);
        (client, sock)
    }

    fn client_send_all(&mut self, client: Client, bytes: &[u8]) {
        let mut sent = 0;
        self.until("client sends", |h| {
            sent += h.rig.client_send(client, &bytes[sent..]);
            sent == bytes.len()
        });
    }

    fn until_received(&mut self, sock: Sock, len: usize) {
        self.until("bytes of the client", |h| h.seen[&sock].received.len() >= len);
    }

    /// Everything the client hears until `len` bytes have come.
    fn client_hears(&mut self, client: Client, len: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        self.until("bytes at the client", |h| {
            while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
            heard.len() >= len
        });
        heard
    }

    /// What the client hears until the end of its stream, and that end.
    fn client_hears_to_the_end(&mut self, client: Client) -> (Vec<u8>, Heard) {
        let mut heard = Vec::new();
        let mut end = Heard::Nothing;
        self.until("the end at the client", |h| {
            loop {
                end = h.rig.client_recv(client, &mut heard);
                if !matches!(end, Heard::Bytes(_)) {
                    return end != Heard::Nothing;
                }
            }
        });
        (heard, end)
    }

    fn hold(&mut self, bytes: &[u8]) -> Hold {
        self.driver().hold(Bytes::copy_from_slice(bytes))
    }

    fn send(&mut self, sock: Sock, bytes: &[u8], tag: u32) {
        let hold = self.hold(bytes);
        self.driver().send(sock, &[part(hold, 0..bytes.len())], tag);
    }

    /// Sends `bytes` to a client that does not read until the socket takes no more; returns how many it took.
    fn fill(&mut self, sock: Sock, bytes: &[u8], tag: u32) -> usize {
        self.send(sock, bytes, tag);
        let failure = self.flush_to_one_failure();
        assert_eq!((failure.tag, failure.cause), (tag, SendCause::WouldBlock));
        let sent = failure.sent as usize;
        assert!(sent > 0 && sent < bytes.len(), "{sent} of {}", bytes.len());
        sent
    }

    fn flush_to_one_failure(&mut self) -> SendFailure {
        let mut failures = Vec::new();
        self.driver().flush(&mut failures);
        assert_eq!(failures.len(), 1, "{failures:?}");
        failures[0]
    }

    fn close(&mut self, sock: Sock) {
        self.seen.get_mut(&sock).expect("accepted").close_asked = true;
        self.driver().close(sock);
    }

    fn until_closed(&mut self, sock: Sock) {
        self.until("closed", |h| h.seen[&sock].closed);
    }
}

fn part(hold: Hold, range: Range<usize>) -> Part {
    Part { hold, range: range.start as u32..range.end as u32 }
}

/// Bytes in which a lost, doubled or swapped piece shows.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn assert_same(got: &[u8], want: &[u8]) {
    if got != want {
        let at = got.iter().zip(want).position(|(a, b)| a != b);
        panic!("{} bytes for {}, first difference at {at:?}", got.len(), want.len());
    }
}

/// Names a test of the suite and skips it where the driver is forbidden.
macro_rules! suite_test {
    ($(#[$doc:meta])* $name:ident($sockets_max:expr), |$h:ident| $body:block) => {
        $(#[$doc])*
        pub(in crate::driver) fn $name<R: Rig>() {
            let Some(mut harness) = Harness::<R>::try_new($sockets_max) else {
                eprintln!("skipped: this machine forbids the driver");
                return;
            };
            let $h = &mut harness;
            $body
        }
    };
}

// ---- accepting and reading

suite_test!(accepts_clients(64), |h| {
    let socks: Vec<Sock> = (0..10).map(|_| h.connect().1).collect();
    for (i, sock) in socks.iter().enumerate() {
        assert!(sock.slot < 64);
        assert!(!socks[..i].iter().any(|other| other.slot == sock.slot), "a slot handed out twice");
    }
    assert_eq!(h.driver().stale_total(), 0);
});

suite_test!(reads_nothing_before_read_start(64), |h| {
    let (client, sock) = h.connect();
    h.client_send_all(client, b"early");
    h.settle();
    assert_eq!(h.seen[&sock].reads, 0);
    h.driver().read_start(sock);
    h.until_received(sock, 5);
    assert_eq!(h.seen[&sock].received, b"early");
});

suite_test!(receives_whole(64), |h| {
    let (client, sock) = h.connect_reading();
    for round in 1..=20 {
        h.client_send_all(client, b"hello");
        h.until_received(sock, 5 * round);
    }
    assert_eq!(h.seen[&sock].received, b"hello".repeat(20));
});

suite_test!(receives_in_pieces(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(300);
    for (i, byte) in bytes.iter().enumerate() {
        h.client_send_all(client, &[*byte]);
        if i % 7 == 0 {
            h.until_received(sock, i + 1);
        }
    }
    h.until_received(sock, bytes.len());
    assert_same(&h.seen[&sock].received, &bytes);
});

suite_test!(receives_more_than_its_buffers(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(5 * RECV_BUFFER_BYTES * usize::from(RECV_BUFFERS) + 17);
    h.client_send_all(client, &bytes);
    h.until_received(sock, bytes.len());
    assert_same(&h.seen[&sock].received, &bytes);
});

suite_test!(a_lent_buffer_is_writable(64), |h| {
    let (client, sock) = h.connect();
    h.driver().read_start(sock);
    h.client_send_all(client, b"masked");
    let mut events = Vec::new();
    h.until("a read", |h| {
        if h.seen[&sock].reads > 0 {
            return true;
        }
        h.driver().wait(&mut events, Some(Duration::from_millis(1))).expect("wait");
        for event in events.drain(..) {
            if let Event::Received { lent, .. } = event {
                for byte in h.driver().received(&lent).iter_mut() {
                    *byte ^= 0xff;
                }
                assert_eq!(h.driver().received(&lent)[0], b'm' ^ 0xff);
                h.driver().give_back(lent);
                h.seen.get_mut(&sock).expect("accepted").reads += 1;
            }
        }
        false
    });
});

suite_test!(a_flood_does_not_starve_the_others(64), |h| {
    let (loud, loud_sock) = h.connect_reading();
    let quiet: Vec<_> = (0..2 * RECV_BUFFERS).map(|_| h.connect_reading()).collect();
    let flood = pattern(64 * RECV_BUFFER_BYTES);
    let mut sent = 0;
    for (client, sock) in quiet {
        sent += h.rig.client_send(loud, &flood[sent % flood.len()..]);
        h.client_send_all(client, b"still here");
        h.until("the quiet one", |h| {
            sent += h.rig.client_send(loud, &flood[sent % flood.len()..]);
            h.seen[&sock].received.len() == 10
        });
    }
    h.until_received(loud_sock, sent);
});

suite_test!(pause_holds_bytes_back_and_start_brings_them(64), |h| {
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"one");
    h.until_received(sock, 3);
    for _ in 0..3 {
        h.driver().read_pause(sock);
        h.driver().read_pause(sock);
        let before = h.seen[&sock].received.len();
        h.client_send_all(client, b"two");
        h.settle();
        assert_eq!(h.seen[&sock].received.len(), before, "read while paused");
        h.driver().read_start(sock);
        h.driver().read_start(sock);
        h.until_received(sock, before + 3);
    }
    // More than a buffer waits, and the socket is paused again after the first read of it.
    let bytes = pattern(3 * RECV_BUFFER_BYTES);
    h.driver().read_pause(sock);
    h.client_send_all(client, &bytes);
    h.settle();
    let (before, reads) = (h.seen[&sock].received.len(), h.seen[&sock].reads);
    h.driver().read_start(sock);
    h.until("one read", |h| h.seen[&sock].reads > reads);
    h.driver().read_pause(sock);
    h.settle();
    assert_eq!(h.seen[&sock].reads, reads + 1, "read while paused");
    h.driver().read_start(sock);
    h.until_received(sock, before + bytes.len());
    assert_same(&h.seen[&sock].received[before..], &bytes);
    // The end is held back as well.
    h.driver().read_pause(sock);
    h.rig.client_finish(client);
    h.settle();
    assert_eq!(h.seen[&sock].ended, None);
    h.driver().read_start(sock);
    h.until("the end", |h| h.seen[&sock].ended == Some(End::Finished));
});

suite_test!(more_readers_than_buffers(256), |h| {
    let clients: Vec<_> = (0..10 * RECV_BUFFERS).map(|_| h.connect()).collect();
    for (i, (client, _)) in clients.iter().enumerate() {
        h.client_send_all(*client, &pattern(100 + i));
    }
    for (_, sock) in &clients {
        h.driver().read_start(*sock);
    }
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.until_received(*sock, 100 + i);
        assert_same(&h.seen[sock].received, &pattern(100 + i));
    }
});

// ---- sending

suite_test!(sends_one(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"hello", 7);
    assert_eq!(h.client_hears(client, 5), b"hello");
    assert_eq!(h.failures, []);
});

suite_test!(sends_many_parts_as_one(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(10_000);
    let (a, b) = (h.hold(&bytes[..5_000]), h.hold(&bytes[5_000..]));
    let mut parts = Vec::new();
    for hold in [a, b] {
        parts.extend((0..5_000).step_by(100).map(|at| part(hold, at..at + 100)));
        parts.push(part(hold, 17..17));
    }
    h.driver().send(sock, &parts, 0);
    assert_same(&h.client_hears(client, bytes.len()), &bytes);
    // Nothing to send is nothing sent, and no failure.
    h.driver().send(sock, &[], 1);
    let empty = h.hold(b"");
    h.driver().send(sock, &[part(empty, 0..0)], 2);
    h.settle();
    assert_eq!(h.failures, []);
});

suite_test!(sends_more_parts_than_a_gathered_write_takes(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(5_000);
    let mut sent = 0;
    let mut heard = Vec::new();
    // The kernel gathers 1,024 parts at most: a longer send is cut there, as if the socket were full.
    while sent < bytes.len() {
        let hold = h.hold(&bytes);
        let parts: Vec<Part> = (sent..bytes.len()).map(|at| part(hold, at..at + 1)).collect();
        h.driver().send(sock, &parts, 3);
        let mut failures = Vec::new();
        h.driver().flush(&mut failures);
        match failures.as_slice() {
            [] => sent = bytes.len(),
            [failure] => {
                assert_eq!((failure.tag, failure.cause), (3, SendCause::WouldBlock));
                assert!(failure.sent > 0);
                sent += failure.sent as usize;
                let before = h.seen[&sock].writable;
                h.driver().write_watch(sock);
                h.until("writable", |h| h.seen[&sock].writable > before);
            }
            more => panic!("{more:?}"),
        }
    }
    heard.extend(h.client_hears(client, bytes.len()));
    assert_same(&heard, &bytes);
});

suite_test!(
    /// More sends than the submission queue of any driver has entries.
    sends_to_many_sockets_in_one_flush(2_000),
    |h| {
        let clients: Vec<_> = (0..1_500).map(|_| h.connect()).collect();
        let one = h.hold(b"for all, ");
        for (i, (_, sock)) in clients.iter().enumerate() {
            let own = h.hold(format!("{i:05}").as_bytes());
            if i % 2 == 0 {
                h.driver().send(*sock, &[part(own, 0..5)], i as u32);
            } else {
                h.driver().send(*sock, &[part(one, 0..9), part(own, 0..5)], i as u32);
            }
        }
        for (i, (client, _)) in clients.iter().enumerate() {
            let want = if i % 2 == 0 { format!("{i:05}") } else { format!("for all, {i:05}") };
            assert_eq!(h.client_hears(*client, want.len()), want.as_bytes());
        }
        assert_eq!(h.failures, []);
    }
);

suite_test!(a_hold_is_released_after_the_flush(64), |h| {
    let (client, sock) = h.connect();
    for round in 0..100 {
        let bytes = Bytes::from(vec![round; 1000]);
        let kept = bytes.clone();
        let hold = h.driver().hold(bytes);
        assert!(!kept.is_unique());
        h.driver().send(sock, &[part(hold, 0..1000)], 0);
        h.driver().flush(&mut Vec::new());
        assert!(kept.is_unique(), "still held after the flush");
        assert_eq!(h.client_hears(client, 1000), kept);
    }
});

suite_test!(a_short_send_says_where_it_stopped(64), |h| {
    for parts_each in [1, 3] {
        let (client, sock) = h.connect_reading();
        let bytes = pattern(LARGE_BYTES);
        let mut sent = 0;
        let mut short = 0;
        let mut heard = Vec::with_capacity(bytes.len());
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            let hold = h.hold(rest);
            let step = rest.len().div_ceil(parts_each);
            let parts: Vec<Part> =
                (0..rest.len()).step_by(step).map(|at| part(hold, at..(at + step).min(rest.len()))).collect();
            h.driver().send(sock, &parts, 99);
            let mut failures = Vec::new();
            h.driver().flush(&mut failures);
            if failures.is_empty() {
                break;
            }
            assert_eq!(failures.len(), 1);
            assert_eq!((failures[0].tag, failures[0].cause), (99, SendCause::WouldBlock));
            assert!((failures[0].sent as usize) < rest.len());
            sent += failures[0].sent as usize;
            short += 1;
            let before = h.seen[&sock].writable;
            h.driver().write_watch(sock);
            h.driver().write_watch(sock);
            h.until("writable", |h| {
                while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
                h.seen[&sock].writable > before
            });
            assert_eq!(h.seen[&sock].writable, before + 1, "one event a watch");
        }
        assert!(short > 0, "the test needs a send longer than the buffers");
        h.until("all bytes", |h| {
            while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
            heard.len() >= bytes.len()
        });
        assert_same(&heard, &bytes);
    }
});

suite_test!(a_full_socket_refuses(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(LARGE_BYTES);
    let mut sent = h.fill(sock, &bytes, 1);
    // The peer's window may open a little more while the bytes travel; soon nothing is taken at all.
    h.until("a refusal", |h| {
        h.send(sock, &bytes[sent..], 2);
        let failure = h.flush_to_one_failure();
        assert_eq!((failure.tag, failure.cause), (2, SendCause::WouldBlock));
        sent += failure.sent as usize;
        failure.sent == 0
    });
    h.driver().write_watch(sock);
    h.settle();
    assert_eq!(h.seen[&sock].writable, 0, "writable while the client reads nothing");
    let heard = h.client_hears(client, sent);
    assert_same(&heard, &bytes[..sent]);
    h.until("writable", |h| h.seen[&sock].writable == 1);
});

suite_test!(a_broken_socket_fails_its_sends(64), |h| {
    let (client, sock) = h.connect();
    h.rig.client_reset(client);
    h.until("a broken send", |h| {
        h.send(sock, b"anyone?", 5);
        let mut failures = Vec::new();
        h.driver().flush(&mut failures);
        match failures.as_slice() {
            [] => false,
            [failure] => {
                assert_eq!((failure.tag, failure.sent), (5, 0));
                assert!(matches!(failure.cause, SendCause::Broken(errno) if errno > 0), "{failure:?}");
                true
            }
            more => panic!("{more:?}"),
        }
    });
    h.close(sock);
    h.until_closed(sock);
});

// ---- ends

suite_test!(reports_the_peers_fin(64), |h| {
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"bye");
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    assert_eq!(h.seen[&sock].ended, Some(End::Finished));
    assert_eq!(h.seen[&sock].received, b"bye");
    h.settle();
});

suite_test!(reports_the_peers_reset(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.rig.client_reset(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    assert!(matches!(h.seen[&sock].ended, Some(End::Broken(errno)) if errno > 0));
    h.settle();
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(a_half_closed_peer_is_still_written_to(64), |h| {
    let (client, sock) = h.connect_reading();
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended == Some(End::Finished));
    h.send(sock, b"the answer", 0);
    assert_eq!(h.client_hears(client, 10), b"the answer");
    assert_eq!(h.failures, []);
    h.close(sock);
    assert_eq!(h.client_hears_to_the_end(client), (vec![], Heard::Finished));
    h.until_closed(sock);
});

suite_test!(finish_ends_the_stream_and_reading_goes_on(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"last words", 0);
    h.driver().finish(sock);
    assert_eq!(h.client_hears_to_the_end(client), (b"last words".to_vec(), Heard::Finished));
    h.client_send_all(client, b"and mine");
    h.until_received(sock, 8);
    assert_eq!(h.seen[&sock].received, b"and mine");
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended == Some(End::Finished));
    h.close(sock);
    h.until_closed(sock);
});

// ---- closing

suite_test!(close_reaches_the_peer_promptly(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    // Nothing else keeps the socket open: the peer sees the end although nothing more happens here.
    let mut end = Heard::Nothing;
    for _ in 0..TICKS_MAX {
        end = h.rig.client_recv(client, &mut Vec::new());
        if end != Heard::Nothing {
            break;
        }
        h.rig.pass(Duration::from_millis(1));
    }
    assert_eq!(end, Heard::Finished);
});

suite_test!(close_after_send_delivers_the_send(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"goodbye", 0);
    h.close(sock);
    assert_eq!(h.client_hears_to_the_end(client), (b"goodbye".to_vec(), Heard::Finished));
    h.until_closed(sock);
    assert_eq!(h.failures, []);
});

suite_test!(close_before_read_start(64), |h| {
    let (client, sock) = h.connect();
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_while_paused(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.driver().read_pause(sock);
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_while_watched_for_writing(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(LARGE_BYTES);
    h.fill(sock, &bytes, 0);
    h.driver().write_watch(sock);
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    assert_ne!(h.client_hears_to_the_end(client).1, Heard::Nothing);
    // The watch had fired, but the event was not yet collected.
    let (_client, sock) = h.connect();
    h.driver().write_watch(sock);
    h.driver().flush(&mut Vec::new());
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(close_with_unread_data(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().read_pause(sock);
    h.client_send_all(client, b"never read");
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    // TCP answers unread bytes with a reset (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
    assert_ne!(h.client_hears_to_the_end(client).1, Heard::Nothing);
    // Readable and not yet read, in the tick of the close.
    let (client, sock) = h.connect_reading();
    h.settle();
    h.client_send_all(client, b"never read either");
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(close_after_finish(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().finish(sock);
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_after_the_peer_ended(64), |h| {
    let (client, sock) = h.connect_reading();
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_twice_is_closed_once(64), |h| {
    let (_client, sock) = h.connect_reading();
    h.close(sock);
    h.close(sock);
    // Commands to a closing socket are void.
    h.driver().read_start(sock);
    h.driver().read_pause(sock);
    h.driver().write_watch(sock);
    h.driver().finish(sock);
    h.send(sock, b"too late", 0);
    h.until_closed(sock);
    h.settle();
    assert_eq!(h.failures, []);
});

suite_test!(a_slot_is_reused_with_another_generation(1), |h| {
    let mut before: Vec<Sock> = Vec::new();
    for round in 0..20u8 {
        let (client, sock) = h.connect_reading();
        assert!(before.iter().all(|b| b.slot == sock.slot && b.generation != sock.generation));
        h.client_send_all(client, &[round]);
        h.until_received(sock, 1);
        h.close(sock);
        h.until_closed(sock);
        before.push(sock);
    }
    assert_eq!(h.driver().stale_total(), 0, "a driver's own completions are never stale in an orderly life");
});

suite_test!(an_older_generation_is_ignored_and_counted(1), |h| {
    let (_, old) = h.connect_reading();
    h.close(old);
    h.until_closed(old);
    let (client, sock) = h.connect_reading();
    assert_eq!(sock.slot, old.slot);
    let hold = h.hold(b"not for you");
    let driver = h.driver();
    driver.read_pause(old);
    driver.read_start(old);
    driver.send(old, &[part(hold, 0..11)], 0);
    driver.write_watch(old);
    driver.finish(old);
    driver.close(old);
    assert_eq!(driver.stale_total(), 6);
    let never = Sock { slot: 1 << 20, generation: 1 };
    driver.close(never);
    h.settle();
    h.client_send_all(client, b"alive");
    h.until_received(sock, 5);
    h.send(sock, b"yes", 0);
    assert_eq!(h.client_hears(client, 3), b"yes");
    assert_eq!(h.seen[&sock].writable, 0);
    assert_eq!(h.failures, []);
});

// ---- the listener

suite_test!(accept_pause_leaves_clients_in_the_backlog(64), |h| {
    h.connect();
    for _ in 0..3 {
        h.driver().accept_pause();
        h.driver().accept_pause();
        h.settle();
        let before = h.accepted.len();
        let client = h.rig.connect();
        h.settle();
        assert_eq!(h.accepted.len(), before, "accepted while paused");
        h.driver().accept_start();
        h.driver().accept_start();
        h.until("the one in the backlog", |h| h.accepted.len() == before + 1);
        let sock = h.accepted[before];
        h.driver().read_start(sock);
        h.client_send_all(client, b"hi");
        h.until_received(sock, 2);
    }
    // A start that overtakes its pause.
    h.driver().accept_pause();
    h.driver().accept_start();
    h.connect();
    assert_eq!(h.accept_failures, []);
});

suite_test!(accept_end_refuses_clients(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().accept_end();
    h.driver().accept_end();
    h.until("refusal", |h| h.rig.is_refused());
    h.driver().accept_start();
    h.settle();
    assert!(h.rig.is_refused(), "the end is for good");
    h.client_send_all(client, b"still served");
    h.until_received(sock, 12);
    assert_eq!(h.accept_failures, []);
});

suite_test!(a_full_table_fails_the_accept_until_a_slot_is_free(4), |h| {
    let first: Vec<_> = (0..4).map(|_| h.connect_reading()).collect();
    // This client waits in the backlog or is dropped: the drivers differ.
    h.rig.connect();
    h.until("the failure", |h| !h.accept_failures.is_empty());
    h.settle();
    assert_eq!(h.accept_failures, [AcceptFailure::Full], "a failure pauses accepting");
    assert_eq!(h.accepted.len(), 4);
    let (client, sock) = first[2];
    h.client_send_all(client, b"unharmed");
    h.until_received(sock, 8);
    // Started too early, it fails again and pauses again.
    h.driver().accept_start();
    h.rig.connect();
    h.until("the second failure", |h| h.accept_failures.len() == 2);
    for (_, sock) in &first {
        h.close(*sock);
    }
    for (_, sock) in &first {
        h.until_closed(*sock);
    }
    h.driver().accept_start();
    h.rig.connect();
    h.until("accepted again", |h| h.accepted.len() > 4);
});

// ---- waiting

suite_test!(a_wake_ends_the_wait(64), |h| {
    h.settle();
    let waker = h.driver().waker();
    for _ in 0..10 {
        let waker = waker.clone();
        let thread = std::thread::spawn(move || {
            // Long enough that the other thread sleeps in most rounds; neither order fails.
            std::thread::sleep(Duration::from_millis(2));
            waker.wake();
        });
        let mut events = Vec::new();
        if R::REAL_TIME {
            let start = h.driver().now();
            h.driver().wait(&mut events, Some(Duration::from_secs(60))).expect("wait");
            assert!(h.driver().now().since(start) < Duration::from_secs(50), "the wake did not end the wait");
        }
        thread.join().expect("waking thread");
        if !R::REAL_TIME {
            h.driver().wait(&mut events, None).expect("wait");
        }
        assert!(events.is_empty(), "{events:?}");
    }
});

suite_test!(a_wake_before_the_wait_ends_it(64), |h| {
    h.settle();
    let waker = h.driver().waker();
    for wakes in [1, 3] {
        for _ in 0..wakes {
            waker.wake();
        }
        h.driver().wait(&mut Vec::new(), None).expect("wait");
    }
    // A wake outlives what it wakes.
    drop(std::thread::spawn(move || waker.wake()).join());
});

suite_test!(wait_returns_after_its_timeout(64), |h| {
    h.settle();
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(5)] {
        let start = h.driver().now();
        let mut events = Vec::new();
        h.driver().wait(&mut events, Some(timeout)).expect("wait");
        assert!(events.is_empty());
        assert!(h.driver().now().since(start) >= timeout, "woken early from {timeout:?}");
    }
});

suite_test!(idle_sockets_cost_no_events(512), |h| {
    for _ in 0..200 {
        h.connect_reading();
    }
    h.settle();
    let before = h.events_total;
    h.settle();
    assert_eq!(h.events_total, before);
});

suite_test!(thousands_of_sockets(3_000), |h| {
    let mut clients = Vec::new();
    for i in 0..2_500usize {
        let (client, sock) = h.connect_reading();
        h.client_send_all(client, &i.to_le_bytes());
        clients.push((client, sock));
    }
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.until_received(*sock, 8);
        assert_eq!(h.seen[sock].received, i.to_le_bytes());
    }
    let hold = h.hold(b"to everyone");
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.driver().send(*sock, &[part(hold, 0..11)], i as u32);
    }
    for (client, _) in &clients {
        assert_eq!(h.client_hears(*client, 11), b"to everyone");
    }
    assert_eq!(h.failures, []);
    for (_, sock) in &clients {
        h.close(*sock);
    }
    for (client, sock) in &clients {
        h.until_closed(*sock);
        assert_eq!(h.client_hears_to_the_end(*client).1, Heard::Finished);
    }
    assert_eq!(h.driver().stale_total(), 0);
});

suite_test!(
    /// Every order in which a close can meet what is in flight, by chance from a fixed seed.
    closes_everything_in_flight(64),
    |h| {
        let mut rng = crate::base::prng::Prng::with_seed(7);
        for _ in 0..30 {
            let clients: Vec<_> = (0..8).map(|_| h.connect()).collect();
            for (client, sock) in &clients {
                for _ in 0..rng.u32(0..6) {
                    match rng.u32(0..9) {
                        0 | 1 => h.driver().read_start(*sock),
                        2 => h.driver().read_pause(*sock),
                        3 => h.driver().write_watch(*sock),
                        4 => h.rig.client_finish(*client),
                        5 => h.rig.client_reset(*client),
                        6 => drop(h.rig.client_send(*client, b"some bytes")),
                        7 => h.driver().finish(*sock),
                        _ => h.tick(),
                    }
                }
                if rng.bool() {
                    h.tick();
                }
            }
            for (_, sock) in &clients {
                h.close(*sock);
                if rng.bool() {
                    h.tick();
                }
            }
            for (_, sock) in &clients {
                h.until_closed(*sock);
            }
        }
        assert_eq!(h.driver().stale_total(), 0);
    }
);
