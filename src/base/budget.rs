//! A bound in sum: bytes that all connections of a node share, on all shards.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::debts::Debts;

/// How much there may be of one thing, and how much there is. Shared by threads; nobody waits.
pub struct Budget {
    name: &'static str,
    bytes_max: u64,
    used: AtomicU64,
    refused: AtomicU64,
    /// Its leases by size, where the largest are to pay for the others.
    debts: Option<Arc<Debts>>,
}

/// The budget has no room: nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Budget {
    /// `name` is for logs and metrics.
    pub fn new(name: &'static str, bytes_max: u64) -> Arc<Budget> {
        let (used, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Budget { name, bytes_max, used, refused, debts: None })
    }

    /// The same, with an account of who has how much of it.
    pub fn with_debts(name: &'static str, bytes_max: u64) -> Arc<Budget> {
        let (used, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Budget { name, bytes_max, used, refused, debts: Some(Debts::new(bytes_max)) })
    }

    /// What each [`Lease`] has, by size.
    pub fn debts(&self) -> Option<&Debts> {
        self.debts.as_deref()
    }

    /// Takes `bytes` of it, all or nothing.
    ///
    /// # Errors
    /// [`Full`] when less is free.
    pub fn reserve(&self, bytes: u64) -> Result<(), Full> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        // Relaxed: the number guards no other memory.
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Full)
            }
        }
    }

    /// Gives back what [`Budget::reserve`] took.
    pub fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "budget {}: more is given back than was taken", self.name);
    }

    /// A lease that had `before` has `after`.
    fn account(&self, before: u64, after: u64) {
        if let Some(debts) = &self.debts {
            debts.change(before, after);
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often there was no room.
    pub fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} bytes", self.name, self.used(), self.bytes_max)
    }
}

/// A part of a budget, given back when it is dropped: kept beside the bytes that it stands for.
pub struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Lease {
    /// A part of nothing, to be grown.
    pub fn new(budget: &Arc<Budget>) -> Lease {
        Lease { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Makes the part `bytes` large, more or less than it was.
    ///
    /// # Errors
    /// [`Full`] when there is no room to grow; the part stays as it was.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes > self.bytes {
            self.budget.reserve(bytes - self.bytes)?;
        } else {
            self.budget.release(self.bytes - bytes);
        }
        self.budget.account(self.bytes, bytes);
        self.bytes = bytes;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.account(self.bytes, 0);
        self.budget.release(self.bytes);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.budget.name)
    }
}

/// Bytes that are kept, and their part of a budget. Empty, it costs nothing.
#[derive(Debug, Default)]
pub struct BudgetHeld {
    bytes: Vec<u8>,
    lease: Option<Lease>,
}

impl BudgetHeld {
    /// Adds `bytes`, at the cost of the memory that they take.
    ///
    /// # Errors
    /// [`Full`] when the budget has no room; nothing was added.
    pub fn push(&mut self, budget: &Arc<Budget>, bytes: &[u8]) -> Result<(), Full> {
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes.capacity() {
            let lease = self.lease.get_or_insert_with(|| Lease::new(budget));
            // Twice as much, so that many small pieces are copied once on average.
            let capacity = len.max(self.bytes.capacity() * 2);
            let capacity = match lease.resize(capacity as u64) {
                Ok(()) => capacity,
                Err(Full) => lease.resize(len as u64).map(|()| len)?,
            };
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What it takes of its budget.
    pub fn leased_bytes(&self) -> u64 {
        self.lease.as_ref().map_or(0, Lease::bytes)
    }

    /// The bytes, to be dealt with at once: they are no longer counted.
    pub fn take(&mut self) -> Vec<u8> {
        self.lease = None;
        std::mem::take(&mut self.bytes)
    }

    /// The bytes, and what counts them for as long as it is kept.
    pub fn into_parts(self) -> (Vec<u8>, Option<Lease>) {
        (self.bytes, self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_never_exceeds_the_bound_and_comes_back() {
        let budget = Budget::new("test", 100);
        budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41), Err(Full));
        assert_eq!(budget.reserve(u64::MAX), Err(Full));
        budget.reserve(40).unwrap();
        assert_eq!((budget.used(), budget.refused_total()), (100, 2));
        budget.release(100);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lease_gives_back_all_it_has() {
        let budget = Budget::new("test", 100);
        let mut lease = Lease::new(&budget);
        lease.resize(70).unwrap();
        let mut other = Lease::new(&budget);
        assert_eq!(other.resize(31), Err(Full));
        lease.resize(50).unwrap();
        other.resize(50).unwrap();
        assert_eq!(lease.resize(51), Err(Full));
        assert_eq!((lease.bytes(), other.bytes(), budget.used()), (50, 50, 100));
        drop(other);
        assert_eq!(budget.used(), 50);
        drop(lease);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn held_bytes_are_counted_with_the_room_they_take() {
        let budget = Budget::new("test", 100);
        let mut held = BudgetHeld::default();
        held.push(&budget, &[1; 40]).unwrap();
        held.push(&budget, &[2; 10]).unwrap();
        assert_eq!((held.bytes().len(), budget.used()), (50, 80));
        // Not twice as much, but enough.
        held.push(&budget, &[3; 40]).unwrap();
        assert_eq!((held.bytes().len(), budget.used()), (90, 90));
        assert_eq!(held.push(&budget, &[4; 11]), Err(Full));
        assert_eq!((held.bytes().len(), held.bytes()[89], budget.used()), (90, 3, 90));
        assert_eq!((held.take().len(), held.is_empty(), budget.used()), (90, true, 0));
        held.push(&budget, b"abc").unwrap();
        let (bytes, lease) = held.into_parts();
        assert_eq!((&bytes[..], budget.used()), (&b"abc"[..], 3));
        drop(lease);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_account_of_a_budget_is_that_of_its_leases() {
        let budget = Budget::with_debts("test", 1000);
        let debts = budget.debts().expect("an account");
        let (mut small, mut large) = (BudgetHeld::default(), BudgetHeld::default());
        small.push(&budget, &[1; 100]).unwrap();
        large.push(&budget, &[2; 400]).unwrap();
        assert!((debts.total(), small.leased_bytes()) == (500, 100) && !debts.is_pressed());
        large.push(&budget, &[2; 100]).unwrap();
        assert_eq!((debts.total(), large.leased_bytes(), debts.bound()), (900, 800, 512));
        assert!(debts.is_pressed());
        assert_eq!(small.push(&budget, &[1; 200]), Err(Full));
        assert_eq!(debts.total(), budget.used());
        large.take();
        drop(small);
        assert_eq!((debts.total(), budget.used(), Budget::new("test", 1).debts().is_none()), (0, 0, true));
    }

    #[test]
    fn threads_together_stay_within_the_bound() {
        let budget = Budget::new("test", 1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for bytes in 0..2000 {
                        if budget.reserve(bytes % 700).is_ok() {
                            assert!(budget.used() <= 1000);
                            budget.release(bytes % 700);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }

    #[test]
    #[should_panic(expected = "more is given back")]
    fn giving_back_too_much_is_a_bug() {
        Budget::new("test", 10).release(1);
    }
}
