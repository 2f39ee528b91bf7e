//! A bound in number: connections of the node, on all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many connections there may be, and how many there are. Touched when one is accepted and when it is gone.
#[derive(Debug)]
pub struct Seats {
    max: u32,
    taken: AtomicU32,
    refused: AtomicU64,
    accepts_failed: AtomicU64,
}

impl Seats {
    pub fn new(max: u32) -> Arc<Seats> {
        Arc::new(Seats {
            max,
            taken: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            accepts_failed: AtomicU64::new(0),
        })
    }

    /// One more connection. False when there is no seat left: counted as refused.
    pub fn take(&self) -> bool {
        let next = |taken: u32| (taken < self.max).then_some(taken + 1);
        // Relaxed: the number guards no other memory.
        let took = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
        if !took {
            self.refuse();
        }
        took
    }

    /// One more, whatever the bound: it was let in by the process before this one.
    pub fn take_over(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back what [`Seats::take`] took.
    pub fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a seat is given back twice");
    }

    /// A connection had no seat for another reason: its shard has no room.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A client could not be accepted at all: descriptors or memory are missing.
    pub fn accept_failed(&self) {
        self.accepts_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn max(&self) -> u32 {
        self.max
    }

    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    pub fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn accepts_failed_total(&self) -> u64 {
        self.accepts_failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_together_take_no_more_seats_than_there_are() {
        let seats = Seats::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mine = (0..4).filter(|_| seats.take()).count();
                        assert!(seats.taken() <= 10);
                        (0..mine).for_each(|_| seats.give_back());
                    }
                });
            }
        });
        assert_eq!(seats.taken(), 0);
        assert_eq!((0..11).filter(|_| seats.take()).count(), 10);
        assert!(seats.refused_total() > 0);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_seat_that_nobody_has_is_not_given_back() {
        Seats::new(1).give_back();
    }
}
