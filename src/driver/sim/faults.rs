//! What the simulated kernel and network do wrong, and how often.

use std::ops::RangeInclusive;

use crate::base::prng::Prng;

/// Chances are per occasion, from 0.0 (never) to 1.0; times are virtual microseconds; sizes are bytes.
///
/// A chance that repeats itself at every wait (`wait_empty`, `event_late`, `buffers_short`) must stay below 1.0, or
/// nothing would ever arrive.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Travel time of one segment, drawn for each. Segments of one connection never overtake each other.
    pub latency_us: RangeInclusive<u64>,
    /// A segment is lost and sent again: it and what follows on its connection arrive late.
    pub stall: f64,
    pub stall_us: RangeInclusive<u64>,
    /// Bytes handed over at once arrive in several segments, cut anywhere.
    pub split: f64,
    /// The kernel's send buffer of a connection: what it takes before the client's side has it.
    pub send_buffer_bytes: RangeInclusive<usize>,
    /// What a client that stopped reading still takes.
    pub client_window_bytes: RangeInclusive<usize>,

    /// A read returns less than what is there.
    pub read_cut: f64,
    /// A send is taken in part although there is room.
    pub send_cut: f64,
    /// A send fails with ENOBUFS.
    pub no_buffers: f64,
    /// The connection breaks in the middle of a send; `Ended` follows only half the time.
    pub break_in_send: f64,

    /// A connection is doomed to break, at a moment of its life drawn from `doom_us`.
    pub doom_reset: f64,
    /// A connection is doomed to see its client finish early, drawn from `doom_us` too.
    pub doom_half_close: f64,
    pub doom_us: RangeInclusive<u64>,
    /// A reset throws away what had arrived before it and was not read yet.
    pub reset_loses: f64,

    /// An accept fails, with one of the three kinds.
    pub accept_failed: f64,
    /// The client whose accept failed loses its connection (a full direct table does this); otherwise it stays queued.
    pub accept_drops: f64,
    /// A connection is broken already when it is accepted.
    pub accept_dead: f64,
    /// Pausing comes too late for one client that the kernel had accepted before.
    pub accept_late: f64,

    /// A wait finds only a few receive buffers free.
    pub buffers_short: f64,
    /// A wait ends early and empty.
    pub wait_empty: f64,
    /// What a socket has to say comes one wait later.
    pub event_late: f64,
    /// `Writable` comes although there is no room.
    pub writable_early: f64,
    /// `Closed` comes later, after a time drawn from `closed_late_us`.
    pub closed_late: f64,
    pub closed_late_us: RangeInclusive<u64>,
    /// Sockets report in any order, and generations start just below their largest.
    pub shuffle: bool,
}

impl Faults {
    /// A perfect network without travel time, and a kernel with roomy buffers: only backpressure is left.
    pub fn none() -> Faults {
        Faults {
            latency_us: 0..=0,
            stall: 0.0,
            stall_us: 0..=0,
            split: 0.0,
            send_buffer_bytes: 256 * 1024..=256 * 1024,
            client_window_bytes: 128 * 1024..=128 * 1024,
            read_cut: 0.0,
            send_cut: 0.0,
            no_buffers: 0.0,
            break_in_send: 0.0,
            doom_reset: 0.0,
            doom_half_close: 0.0,
            doom_us: 0..=0,
            reset_loses: 0.0,
            accept_failed: 0.0,
            accept_drops: 0.0,
            accept_dead: 0.0,
            accept_late: 0.0,
            buffers_short: 0.0,
            wait_empty: 0.0,
            event_late: 0.0,
            writable_early: 0.0,
            closed_late: 0.0,
            closed_late_us: 0..=0,
            shuffle: false,
        }
    }

    /// Everything may be slow, cut and reordered, but no connection is lost: what was sent must arrive.
    pub fn gentle() -> Faults {
        Faults {
            latency_us: 50..=40_000,
            stall: 0.01,
            stall_us: 200_000..=600_000,
            split: 0.2,
            send_buffer_bytes: 2 * 1024..=64 * 1024,
            client_window_bytes: 1024..=32 * 1024,
            read_cut: 0.1,
            send_cut: 0.05,
            no_buffers: 0.01,
            accept_failed: 0.02,
            accept_late: 0.2,
            buffers_short: 0.05,
            wait_empty: 0.05,
            event_late: 0.05,
            writable_early: 0.05,
            closed_late: 0.2,
            closed_late_us: 1..=50_000,
            shuffle: true,
            ..Faults::none()
        }
    }

    /// Everything goes wrong often, and connections are lost at every moment of their lives.
    pub fn harsh() -> Faults {
        Faults {
            latency_us: 0..=200_000,
            stall: 0.05,
            stall_us: 200_000..=5_000_000,
            split: 0.5,
            send_buffer_bytes: 64..=4096,
            client_window_bytes: 1..=2048,
            read_cut: 0.4,
            send_cut: 0.2,
            no_buffers: 0.05,
            break_in_send: 0.005,
            doom_reset: 0.15,
            doom_half_close: 0.1,
            doom_us: 0..=20_000_000,
            reset_loses: 0.5,
            accept_failed: 0.1,
            accept_drops: 0.5,
            accept_dead: 0.03,
            accept_late: 0.5,
            buffers_short: 0.3,
            wait_empty: 0.2,
            event_late: 0.2,
            writable_early: 0.2,
            closed_late: 0.5,
            closed_late_us: 1..=2_000_000,
            shuffle: true,
        }
    }

    /// Panics on a chance outside its range, or an empty range: a mistake in the test that made it.
    pub(super) fn check(&self) {
        let chances = [
            self.stall,
            self.split,
            self.read_cut,
            self.send_cut,
            self.no_buffers,
            self.break_in_send,
            self.doom_reset,
            self.doom_half_close,
            self.reset_loses,
            self.accept_failed,
            self.accept_drops,
            self.accept_dead,
            self.accept_late,
            self.writable_early,
            self.closed_late,
        ];
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)), "a chance outside 0.0..=1.0");
        for (name, chance) in [
            ("wait_empty", self.wait_empty),
            ("event_late", self.event_late),
            ("buffers_short", self.buffers_short),
        ] {
            assert!((0.0..=0.9).contains(&chance), "{name} outside 0.0..=0.9 would starve the shard");
        }
        for (name, range) in [
            ("latency_us", &self.latency_us),
            ("stall_us", &self.stall_us),
            ("doom_us", &self.doom_us),
            ("closed_late_us", &self.closed_late_us),
        ] {
            assert!(!range.is_empty(), "{name} is empty");
        }
        for (name, range) in [
            ("send_buffer_bytes", &self.send_buffer_bytes),
            ("client_window_bytes", &self.client_window_bytes),
        ] {
            assert!(!range.is_empty() && *range.start() > 0, "{name} is empty or starts at 0");
        }
    }
}

/// Whether something of chance `chance` happens now. Draws nothing for a chance of 0.
pub(super) fn happens(prng: &mut Prng, chance: f64) -> bool {
    chance > 0.0 && prng.f64() < chance
}
