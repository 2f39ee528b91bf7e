//! Until the last subscriber: deliveries of all threads, summed by publication.

use std::collections::{BTreeMap, HashMap};

use trunkline::base::time::Time;

use crate::measure::{Latencies, Measured};
use crate::publish::Published;

/// Publications of a phase that are kept, 48 bytes each with the table's slack. Later ones are only counted.
const PUBLICATIONS_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub struct Last {
    publications: HashMap<u32, Entry>,
    /// Not kept: the figures lack them.
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    published: Option<Published>,
    got: u32,
    last: Time,
}

/// What a phase's publications came to.
#[derive(Debug, Default)]
pub struct Settled {
    /// From the planned time to the last subscriber, of publications that reached all.
    pub latencies: Latencies,
    /// Deliveries that should have been and were not.
    pub lost: u64,
    pub lost_by_channel: BTreeMap<u32, u64>,
    /// Publications with lost deliveries.
    pub incomplete: u64,
    pub complete: u64,
}

impl Last {
    pub fn add(&mut self, measured: &Measured) {
        self.dropped += measured.touches_dropped;
        for touch in &measured.touches {
            if let Some(entry) = entry(&mut self.publications, touch.number) {
                entry.got += touch.count;
                entry.last = entry.last.max(touch.last);
            } else {
                self.dropped += u64::from(touch.count);
            }
        }
    }

    pub fn published(&mut self, published: &[Published]) {
        for published in published {
            match entry(&mut self.publications, published.number) {
                Some(entry) => entry.published = Some(*published),
                None => self.dropped += u64::from(published.expected),
            }
        }
    }

    /// Whether every acknowledged publication has reached everybody.
    pub fn is_complete(&self) -> bool {
        self.publications
            .values()
            .all(|entry| entry.published.is_none_or(|published| entry.got >= published.expected))
    }

    /// Sums up and forgets. Deliveries of publications that the server did not acknowledge count nothing.
    pub fn settle(&mut self, measure_from: Time) -> Settled {
        let mut settled = Settled::default();
        for (_, entry) in self.publications.drain() {
            let Some(published) = entry.published.filter(|published| published.expected > 0) else {
                continue;
            };
            if entry.got < published.expected {
                let lost = u64::from(published.expected - entry.got);
                settled.lost += lost;
                settled.incomplete += 1;
                *settled.lost_by_channel.entry(published.channel).or_default() += lost;
                continue;
            }
            settled.complete += 1;
            if published.planned >= measure_from {
                settled.latencies.record(entry.last.since(published.planned));
            }
        }
        settled
    }
}

fn entry(publications: &mut HashMap<u32, Entry>, number: u32) -> Option<&mut Entry> {
    if publications.len() >= PUBLICATIONS_MAX && !publications.contains_key(&number) {
        return None;
    }
    Some(publications.entry(number).or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Touch;

    fn measured(touches: &[(u32, u32, u64)]) -> Measured {
        let touches = touches.iter().map(|&(number, count, last)| Touch { number, count, last: Time(last) });
        Measured { touches: touches.collect(), ..Measured::default() }
    }

    #[test]
    fn threads_add_up_and_what_is_missing_is_lost() {
        let mut last = Last::default();
        let published =
            |number, channel, expected| Published { number, channel, planned: Time(1_000_000), expected };
        last.add(&measured(&[(1, 2, 5_000_000)]));
        last.published(&[published(1, 0, 3), published(2, 7, 3), published(3, 0, 0)]);
        assert!(!last.is_complete());
        last.add(&measured(&[(1, 1, 4_000_000), (2, 1, 9), (99, 5, 9)]));
        let settled = last.settle(Time::ZERO);
        assert_eq!((settled.lost, settled.incomplete, settled.complete), (2, 1, 1));
        assert_eq!(settled.lost_by_channel.get(&7), Some(&2));
        assert_eq!(settled.latencies.0.len(), 1);
        let max = settled.latencies.max();
        assert!(max >= Duration::from_millis(4) && max < Duration::from_micros(4_010), "{max:?}");
        assert!(last.is_complete());
    }
}
