//! At most one deadline for each slot of a table, earliest first.
//!
//! A binary heap that knows where each slot stands in it, so that a deadline can be taken back: without that, channels
//! that come and go would leave entries behind that live as long as the longest deadline (30 days).

use crate::base::time::Time;

/// Stands for "has no deadline" in `places`.
const ABSENT: u32 = u32::MAX;

#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Vec<(Time, u32)>,
    /// Where a slot stands in `heap`.
    places: Vec<u32>,
}

impl Deadlines {
    pub fn contains(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(|&place| place != ABSENT)
    }

    /// Sets the deadline of `slot`, or moves it.
    pub fn set(&mut self, slot: u32, due: Time) {
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, ABSENT);
        }
        let place = match self.places[slot as usize] {
            ABSENT => {
                self.heap.push((due, slot));
                self.heap.len() - 1
            }
            place => {
                self.heap[place as usize].0 = due;
                place as usize
            }
        };
        let place = self.rise(place);
        self.sink(place);
    }

    /// Takes the deadline of `slot` back. Nothing happens when it has none.
    pub fn remove(&mut self, slot: u32) {
        if !self.contains(slot) {
            return;
        }
        let place = std::mem::replace(&mut self.places[slot as usize], ABSENT) as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            // The last one came from another branch: it may belong above or below this place.
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// The slot with the earliest deadline; it stays.
    pub fn first(&self) -> Option<u32> {
        self.heap.first().map(|&(_, slot)| slot)
    }

    /// The deadline of `slot`.
    pub fn get(&self, slot: u32) -> Option<Time> {
        let place = *self.places.get(slot as usize).filter(|&&place| place != ABSENT)?;
        self.heap.get(place as usize).map(|&(due, _)| due)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.heap.first().map(|&(due, _)| due)
    }

    /// The slot with the earliest deadline if that has come at `now`; it stays.
    pub fn due(&self, now: Time) -> Option<u32> {
        self.heap.first().filter(|&&(due, _)| due <= now).map(|&(_, slot)| slot)
    }

    fn rise(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 {
            let above = (place - 1) / 2;
            if self.heap[above].0 <= entry.0 {
                break;
            }
            self.put(place, self.heap[above]);
            place = above;
        }
        self.put(place, entry);
        place
    }

    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let mut below = 2 * place + 1;
            if below >= self.heap.len() {
                break;
            }
            if below + 1 < self.heap.len() && self.heap[below + 1].0 < self.heap[below].0 {
                below += 1;
            }
            if entry.0 <= self.heap[below].0 {
                break;
            }
            self.put(place, self.heap[below]);
            place = below;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Time, u32)) {
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn agrees_with_a_sorted_map() {
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let mut deadlines = Deadlines::default();
            let mut naive = BTreeMap::new();
            for _ in 0..300 {
                let slot = prng.u32(..40);
                match prng.u8(..3) {
                    0 => {
                        deadlines.remove(slot);
                        naive.remove(&slot);
                    }
                    _ => {
                        let due = Time(prng.u64(..50));
                        deadlines.set(slot, due);
                        naive.insert(slot, due);
                    }
                }
                let now = Time(prng.u64(..60));
                let earliest = naive.values().min().copied();
                assert_eq!(deadlines.first().map(|slot| naive[&slot]), earliest, "seed {seed}");
                assert_eq!(deadlines.next(), earliest, "seed {seed}");
                assert_eq!(deadlines.get(slot), naive.get(&slot).copied(), "seed {seed}");
                assert_eq!(
                    deadlines.due(now).is_some(),
                    earliest.is_some_and(|due| due <= now),
                    "seed {seed}"
                );
                assert_eq!(deadlines.heap.len(), naive.len(), "seed {seed}");
                assert!(
                    (0..40).all(|slot| deadlines.contains(slot) == naive.contains_key(&slot)),
                    "seed {seed}"
                );
            }
        }
    }
}
