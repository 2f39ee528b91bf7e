//! What there is most of, in bounded memory: the space-saving sketch of Metwally, Agrawal and El Abbadi (2005).
//!
//! Whatever makes up more than one part in [`ENTRIES`] of all is among the entries. Counts are by window: what was counted
//! in the last whole one is what is shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::prng::Prng;
use crate::base::time::Time;

/// Names that are counted at a time, each some 150 bytes.
pub const ENTRIES: usize = 256;
/// How long one window is: what is busiest changes within seconds, and rates of less are noise.
pub const WINDOW: Duration = Duration::from_secs(10);
/// One of so many is looked at, at random, and counted for all of them: the sketch then costs next to nothing.
const SAMPLED: u32 = 8;

pub struct Sketch {
    counts: Vec<u64>,
    names: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
    /// Until the next one that is looked at.
    skip: u32,
    began: Time,
    /// Of the last whole window: name and rate a second, the most first.
    shown: Vec<(Arc<str>, f64)>,
}

impl Sketch {
    pub fn new(now: Time) -> Sketch {
        Sketch {
            counts: Vec::new(),
            names: Vec::new(),
            places: HashMap::new(),
            skip: SAMPLED,
            began: now,
            shown: Vec::new(),
        }
    }

    /// One more of the name.
    pub fn count(&mut self, name: &Arc<str>, prng: &mut Prng) {
        self.skip -= 1;
        if self.skip == 0 {
            // Evenly up to twice the mean, so that what comes in a rhythm is not always missed or always met.
            self.skip = prng.u32(1..2 * SAMPLED);
            self.add(name, u64::from(SAMPLED));
        }
    }

    fn add(&mut self, name: &Arc<str>, weight: u64) {
        if let Some(&place) = self.places.get(name) {
            self.counts[place] += weight;
            return;
        }
        if self.names.len() < ENTRIES {
            self.places.insert(Arc::clone(name), self.names.len());
            self.names.push(Arc::clone(name));
            self.counts.push(weight);
            return;
        }
        // The least gives its place, and its count as the most that the new one may have had before.
        let least = self.counts.iter().enumerate().min_by_key(|(_, count)| **count).map(|(place, _)| place);
        let Some(place) = least else { return };
        self.places.remove(&self.names[place]);
        self.places.insert(Arc::clone(name), place);
        self.names[place] = Arc::clone(name);
        self.counts[place] += weight;
    }

    /// Begins another window when the last one is over.
    pub fn turn(&mut self, now: Time) {
        let time = now.since(self.began);
        if time < WINDOW {
            return;
        }
        let seconds = time.as_secs_f64();
        let counted = self.names.drain(..).zip(self.counts.drain(..));
        self.shown = counted.map(|(name, count)| (name, count as f64 / seconds)).collect();
        self.shown.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        self.places.clear();
        self.began = now;
    }

    /// The busiest of the last whole window, with their rates a second.
    pub fn busiest(&self) -> &[(Arc<str>, f64)] {
        &self.shown
    }

    pub fn rate(&self, name: &str) -> Option<f64> {
        self.shown.iter().find(|(known, _)| &**known == name).map(|(_, rate)| *rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Time {
        Time::from_millis(s * 1000)
    }

    #[test]
    fn the_busiest_are_found_among_many_that_are_not() {
        let mut prng = Prng::with_seed(5);
        let mut sketch = Sketch::new(at(0));
        let names: Vec<Arc<str>> = (0..10_000).map(|number| format!("channel {number}").into()).collect();
        for round in 0..200_000 {
            let name = match round % 4 {
                0 => &names[1],
                1 if round % 8 == 1 => &names[2],
                _ => &names[prng.usize(..names.len())],
            };
            sketch.count(name, &mut prng);
        }
        assert!(sketch.busiest().is_empty(), "the window is not over");
        sketch.turn(at(10));
        let found = sketch.busiest();
        assert_eq!((&*found[0].0, &*found[1].0), ("channel 1", "channel 2"));
        // 50,000 and 25,000 in ten seconds; one of eight was looked at.
        assert!((4_300.0..5_700.0).contains(&found[0].1), "{:?}", &found[..3]);
        assert!((2_000.0..3_000.0).contains(&found[1].1), "{:?}", &found[..3]);
        assert!(found.len() <= ENTRIES);
        assert_eq!(sketch.rate("channel 1"), Some(found[0].1));
        sketch.turn(at(25));
        assert!(sketch.busiest().is_empty(), "nothing came in the next window");
    }

    #[test]
    fn the_sketch_is_bounded() {
        let mut prng = Prng::with_seed(6);
        let mut sketch = Sketch::new(at(0));
        for number in 0..100_000 {
            sketch.count(&number.to_string().into(), &mut prng);
        }
        assert_eq!(
            (sketch.names.len(), sketch.counts.len(), sketch.places.len()),
            (ENTRIES, ENTRIES, ENTRIES)
        );
    }
}
