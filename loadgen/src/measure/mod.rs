//! What is measured: marks in payloads, order, latencies, failures by cause.
//!
//! Inputs: arrivals with their time. Outputs: counters and histograms that add up over threads. Must not know: sockets,
//! protocols.

mod cause;
mod mark;
mod order;
mod suite;

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};
use std::time::Duration;

use hdrhistogram::Histogram;
use trunkline::base::time::Time;

pub use self::cause::Cause;
pub use self::mark::{MARK_BYTES, Mark, MarkFinder, MarkKind, write_payload};
pub use self::order::{Arrival, Subscription};
pub use self::suite::{Agreed, Suite};

/// Longest latency that is told apart, in nanoseconds; above it counts as it. One hour.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Latencies in nanoseconds, to three digits, from 1 us to an hour.
#[derive(Clone, Debug)]
pub struct Latencies(pub Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Below a microsecond nothing is told apart: a clock read is 25 ns, and the low end costs memory.
        Latencies(Histogram::new_with_bounds(1_000, LATENCY_MAX_NS, 3).expect("constant bounds are valid"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_MAX_NS));
    }

    pub fn record_many(&mut self, latency: Duration, count: u64) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_MAX_NS);
        self.0.saturating_record_n(ns, count);
    }

    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Plain sums. One thread's, or all threads'.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)+ }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) { $(self.$name += other.$name;)+ }
        }

        /// What was added since `other`.
        impl Sub for Counters {
            type Output = Counters;
            fn sub(self, other: Counters) -> Counters {
                Counters { $($name: self.$name.wrapping_sub(other.$name),)+ }
            }
        }
    };
}

counters! {
    /// Connects that were begun.
    started,
    /// Connections that became ready: upgraded, connected, subscribed.
    ready,
    /// Connections that recovered what was published while they were away.
    recovered,
    /// Connections that could not recover.
    unrecovered,
    /// Connections lost or never made, each with a cause.
    failed,
    /// Of these, connections that had stopped reading.
    failed_stalled,
    /// Connections closed because the scenario says so.
    cut,
    /// Publications that arrived, at connections that read.
    deliveries,
    /// The same at connections that had stopped reading for a while.
    deliveries_stalled,
    duplicates,
    out_of_order,
    /// Publications of channels that the connection is not subscribed to.
    stray,
    /// Pings answered, of the protocol or of WebSocket.
    pings,
    requests,
    replies,
    /// Messages that are nothing of the above.
    other_messages,
    /// Connections whose upgrade has agreed on compression.
    compressed_connections,
    /// Messages that came compressed.
    compressed_messages,
    /// TLS handshakes that were carried out.
    tls_handshakes,
    /// Of these, those that showed a ticket of an earlier connection and were let in by it.
    tls_resumed,
    /// Bytes read from sockets.
    bytes,
    /// Reads.
    reads,
}

/// What the deliveries of one publication came to in one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    pub number: u32,
    pub count: u32,
    pub last: Time,
}

/// Disorder of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Disorder {
    pub duplicates: u64,
    pub out_of_order: u64,
    pub lost: u64,
}

/// What one thread measured since it was asked last.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub counters: Counters,
    pub failures: BTreeMap<Cause, u64>,
    /// From the start of connect(2) until ready.
    pub connects: Latencies,
    /// From the TCP connection until TLS stands.
    pub tls_handshakes: Latencies,
    /// What TLS was agreed on, and how often.
    pub tls_suites: BTreeMap<Suite, u64>,
    /// From the planned time of a publication to its arrival, at connections that read all the time.
    pub deliveries: Latencies,
    /// From the planned time of a request to its reply.
    pub replies: Latencies,
    /// How long what had arrived waited for this generator.
    pub own_lag: Latencies,
    /// How late this generator's threads came to what was planned: 10 ms beats.
    pub beat_lag: Latencies,
    pub touches: Vec<Touch>,
    /// Touches that did not fit: the last subscriber's figures lack as many.
    pub touches_dropped: u64,
    pub disorder: BTreeMap<u32, Disorder>,
}

impl Measured {
    pub fn fail(&mut self, cause: Cause) {
        *self.failures.entry(cause).or_default() += 1;
    }

    pub fn agreed(&mut self, agreed: &Agreed, now: Time) {
        self.counters.tls_handshakes += 1;
        self.counters.tls_resumed += u64::from(agreed.resumed);
        self.tls_handshakes.record(now.since(agreed.since));
        *self.tls_suites.entry(agreed.suite).or_default() += 1;
    }

    pub fn add(&mut self, other: &Measured) {
        self.counters += other.counters;
        for (cause, count) in &other.failures {
            *self.failures.entry(*cause).or_default() += count;
        }
        self.connects.add(&other.connects);
        self.tls_handshakes.add(&other.tls_handshakes);
        for (suite, count) in &other.tls_suites {
            *self.tls_suites.entry(*suite).or_default() += count;
        }
        self.deliveries.add(&other.deliveries);
        self.replies.add(&other.replies);
        self.own_lag.add(&other.own_lag);
        self.beat_lag.add(&other.beat_lag);
        self.touches_dropped += other.touches_dropped;
        for (channel, disorder) in &other.disorder {
            let sum = self.disorder.entry(*channel).or_default();
            sum.duplicates += disorder.duplicates;
            sum.out_of_order += disorder.out_of_order;
            sum.lost += disorder.lost;
        }
    }
}

/// Touches that may wait to be collected, each 16 bytes: a second of a million deliveries.
const TOUCHES_MAX: usize = 1 << 20;
/// Publications that are counted at once before they are handed on. A power of two.
const TALLY: usize = 1 << 10;

/// Counts deliveries by publication. Those of one publication come close together, so a small table that gives way to
/// newer numbers sums up nearly all of them.
pub struct Tally(Box<[Touch]>);

impl Default for Tally {
    fn default() -> Self {
        Tally(vec![Touch { number: 0, count: 0, last: Time::ZERO }; TALLY].into_boxed_slice())
    }
}

impl Tally {
    pub fn count(&mut self, number: u32, at: Time, into: &mut Measured) {
        let touch = &mut self.0[number as usize % TALLY];
        if touch.number != number {
            Self::hand_on(touch, into);
            *touch = Touch { number, count: 0, last: at };
        }
        touch.count += 1;
        touch.last = touch.last.max(at);
    }

    /// Hands everything on.
    pub fn settle(&mut self, into: &mut Measured) {
        for touch in &mut self.0 {
            Self::hand_on(touch, into);
        }
    }

    fn hand_on(touch: &mut Touch, into: &mut Measured) {
        if touch.count > 0 {
            if into.touches.len() < TOUCHES_MAX {
                into.touches.push(*touch);
            } else {
                into.touches_dropped += u64::from(touch.count);
            }
            touch.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_loses_no_delivery() {
        let (mut tally, mut measured) = (Tally::default(), Measured::default());
        let numbers = [0, 1, 0, 1024, 0, 5000, 1];
        for (n, number) in numbers.into_iter().enumerate() {
            tally.count(number, Time(n as u64), &mut measured);
        }
        tally.settle(&mut measured);
        tally.settle(&mut measured);
        let of = |number| {
            let of = |touch: &&Touch| touch.number == number;
            let touches = measured.touches.iter().filter(of);
            touches.fold((0, Time::ZERO), |(count, last), touch| (count + touch.count, last.max(touch.last)))
        };
        assert_eq!(of(0), (3, Time(4)));
        assert_eq!(of(1), (2, Time(6)));
        assert_eq!(of(1024), (1, Time(3)));
        assert_eq!(of(5000), (1, Time(5)));
    }

    #[test]
    fn latencies_outside_the_bounds_still_count() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.0.len(), 2);
        assert!(latencies.max() >= Duration::from_secs(3600));
    }
}
