//! The behaviour every [`Driver`] has, as tests that run on each implementation.
//!
//! Inputs: a [`Rig`], which is a driver and clients to talk to it. Outputs: panics. Must not know: which driver it runs.
//!
//! An implementation runs the whole suite with `suite::driver_suite!(TheRig);` in its test module. No test asserts
//! on time: what must happen is waited for ([`Harness::until`]), what must not happen is given some time to happen.

mod closing;
mod exporting;
mod listening;
mod reading;
mod rig;
mod sending;
mod waiting;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use super::{
    AcceptFailure, Driver, DriverEvent, DriverOptions, ListenOptions, SendCause, SendFailure, SendHold,
    SendPart, SocketEnd,
};
use crate::base::bytes::Bytes;
use crate::base::ids::{ListenerId, Sock};

pub(in crate::driver) use self::closing::*;
pub(in crate::driver) use self::exporting::*;
pub(in crate::driver) use self::listening::*;
pub(in crate::driver) use self::reading::*;
pub(in crate::driver) use self::rig::{Bind, SocketRig};
pub(in crate::driver) use self::sending::*;
pub(in crate::driver) use self::waiting::*;

/// A driver with clients on the other side of its listener.
pub(in crate::driver) trait Rig: Sized {
    type Driver: Driver;

    /// False where time is virtual: then a `wait` with a timeout returns at once.
    const REAL_TIME: bool;

    /// `None` where this machine forbids the driver; the test then passes without having run.
    fn try_new(options: DriverOptions) -> Option<Self>;

    fn driver(&mut self) -> &mut Self::Driver;

    /// Puts the driver of another process in the place of this one, which is given back. It listens at the same places, and
    /// has not begun to accept.
    fn succeed(&mut self, options: DriverOptions) -> Self::Driver;

    /// The driver that was is the rig's again: the other one, which has given up.
    fn take_back(&mut self, old: Self::Driver) -> Self::Driver;

    /// The old driver is not taken back: the new one listens alone.
    fn settle_succession(&mut self) {}

    /// A client that connects, also while the driver does not accept (it then stands in the backlog).
    fn connect_by(&mut self, listener: ListenerId) -> Client;

    fn connect(&mut self) -> Client {
        self.connect_by(ListenerId(0))
    }

    /// The same from an address of 127.0.0.0/8, by TCP.
    fn connect_from(&mut self, listener: ListenerId, address: Ipv4Addr) -> Client;

    /// Whether a client that connects now finds no listener.
    fn is_refused_by(&mut self, listener: ListenerId) -> bool;

    fn is_refused(&mut self) -> bool {
        self.is_refused_by(ListenerId(0))
    }

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
            reset_drops_what_the_peer_has_not_read
            reset_is_a_close_and_the_slot_is_free_after_it
            a_slot_is_reused_with_another_generation
            an_older_generation_is_ignored_and_counted
            accept_pause_leaves_clients_in_the_backlog
            accept_end_refuses_clients
            a_full_table_fails_the_accept_until_a_slot_is_free
            serves_two_ports_and_a_unix_socket
            a_unix_socket_is_read_to_its_end
            pause_and_end_are_for_every_listener
            a_failure_pauses_every_listener
            says_where_clients_come_from_if_asked
            a_wake_ends_the_wait
            a_wake_before_the_wait_ends_it
            wait_returns_after_its_timeout
            idle_sockets_cost_no_events
            thousands_of_sockets
            closes_everything_in_flight
            held_reads_leave_everything_in_the_socket
            an_exported_socket_goes_on_at_another_driver
            what_was_exported_goes_on_here_if_the_other_gives_up
            what_is_given_up_goes_on_at_the_other
            who_said_something_before_it_was_read_is_known
            what_both_have_closed_has_ended
            clients_in_the_backlog_are_taken_by_the_successor
            thousands_of_sockets_are_exported
            an_export_of_what_is_closed_fails_by_itself
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
    ended: Option<SocketEnd>,
    writable: u32,
    closed: bool,
    close_asked: bool,
}

/// A rig with the events of its driver collected by socket, and the contract's order checked on each.
struct Harness<R: Rig> {
    rig: R,
    accepted: Vec<Sock>,
    /// By which listener each of them came.
    came_by: Vec<ListenerId>,
    /// And from where.
    came_from: Vec<Option<IpAddr>>,
    accept_failures: Vec<AcceptFailure>,
    seen: HashMap<Sock, Seen>,
    /// The same of the driver before, while another one serves.
    was: HashMap<Sock, Seen>,
    failures: Vec<SendFailure>,
    /// Received in the last tick.
    reads_in_tick: usize,
    events: Vec<DriverEvent>,
    events_total: usize,
}

impl<R: Rig> Harness<R> {
    fn try_new(sockets_max: u32) -> Option<Harness<R>> {
        Harness::with_listeners(sockets_max, vec![tcp()])
    }

    fn with_listeners(sockets_max: u32, listeners: Vec<ListenOptions>) -> Option<Harness<R>> {
        let rig = R::try_new(options(sockets_max, listeners))?;
        let mut harness = Harness {
            rig,
            accepted: Vec::new(),
            came_by: Vec::new(),
            came_from: Vec::new(),
            accept_failures: Vec::new(),
            seen: HashMap::new(),
            was: HashMap::new(),
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
                DriverEvent::Accepted { sock, listener, address } => {
                    let fresh = self.seen.insert(sock, Seen::default()).is_none();
                    assert!(fresh, "{sock:?} accepted twice");
                    self.accepted.push(sock);
                    self.came_by.push(listener);
                    self.came_from.push(address);
                }
                DriverEvent::AcceptFailed { cause } => self.accept_failures.push(cause),
                DriverEvent::Received { sock, lent } => {
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
                DriverEvent::Ended { sock, cause } => {
                    let before = self.open(sock).ended.replace(cause);
                    assert!(before.is_none(), "{sock:?} ended twice");
                }
                DriverEvent::Writable { sock } => self.open(sock).writable += 1,
                DriverEvent::Closed { sock } => {
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
        self.connect_by(ListenerId(0))
    }

    fn connect_by(&mut self, listener: ListenerId) -> (Client, Sock) {
        let before = self.accepted.len();
        let client = self.rig.connect_by(listener);
        self.until("accept", |h| h.accepted.len() > before);
        assert_eq!((self.accepted.len(), self.came_by[before]), (before + 1, listener));
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

    fn hold(&mut self, bytes: &[u8]) -> SendHold {
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

    fn reset(&mut self, sock: Sock) {
        self.seen.get_mut(&sock).expect("accepted").close_asked = true;
        self.driver().reset(sock);
    }

    fn until_closed(&mut self, sock: Sock) {
        self.until("closed", |h| h.seen[&sock].closed);
    }
}

fn options(sockets_max: u32, listeners: Vec<ListenOptions>) -> DriverOptions {
    DriverOptions {
        listeners,
        sockets_max,
        recv_buffer_bytes: RECV_BUFFER_BYTES,
        recv_buffers: RECV_BUFFERS,
        socket: Default::default(),
    }
}

/// A listener on loopback, at a port that is free.
fn tcp() -> ListenOptions {
    SocketAddr::from(([127, 0, 0, 1], 0)).into()
}

fn part(hold: SendHold, range: Range<usize>) -> SendPart {
    SendPart { hold, range: range.start as u32..range.end as u32 }
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
use suite_test;
