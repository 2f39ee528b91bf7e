//! A histogram of durations with fixed buckets: plain integers.

use std::time::Duration;

/// Upper bounds of the buckets in microseconds, the last one open: from a tick of an idle shard to what nobody waits for.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 30_000_000,
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Of each bucket alone.
    counts: [u64; BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| bound * 1000 < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// What came since `earlier`, a former state of this one.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = self.clone();
        for (count, less) in since.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(less);
        }
        since.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
        since
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_s(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Bound in seconds (infinite for the last) and count of each bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// How many took longer than the bound, which is one of [`BOUNDS_US`] or lies between two: then those of its bucket
    /// count as longer.
    pub fn above(&self, bound: Duration) -> u64 {
        let whole = BOUNDS_US.partition_point(|&us| Duration::from_micros(us) <= bound);
        self.counts[whole..].iter().sum()
    }

    /// The upper bound of the bucket in which the share (0 to 1) of all is reached; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut sum = 0;
        let at = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        Some(Duration::from_micros(at.and_then(|at| BOUNDS_US.get(at)).copied().unwrap_or(u64::MAX / 1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_in_the_bucket_that_it_fits() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 1_000, 99_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let buckets: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(buckets, [(0.0001, 2), (0.00025, 1), (0.001, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.total(), 5);
        assert!((histogram.sum_s() - 99.001_201).abs() < 1e-6);
        assert_eq!(histogram.above(Duration::from_micros(250)), 2);
        assert_eq!(histogram.above(Duration::from_micros(249)), 3);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(250)));
        assert_eq!(histogram.quantile(0.4), Some(Duration::from_micros(100)));
        assert_eq!(Histogram::default().quantile(0.99), None);
        let earlier = histogram.clone();
        histogram.record(Duration::from_millis(7));
        assert_eq!(histogram.since(&earlier).total(), 1);
        let mut sum = earlier.clone();
        sum.add(&histogram.since(&earlier));
        assert_eq!(sum, histogram);
    }
}
