//! What clients make the node keep for them, in sum, and who of them keeps the most.
//!
//! Every shard notes what each of its connections owes: bytes that its socket does not take, commands and half messages that
//! wait. When all together come near the bound, the worst debtors pay, wherever they are: debts are counted by size class,
//! so that any shard can work out from which size on debts have to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A class holds debts of one bit length.
const CLASSES: usize = 65;

#[derive(Debug)]
pub struct Debts {
    bytes_max: u64,
    total: AtomicU64,
    collected: AtomicU64,
    /// Bytes owed by debtors of the class.
    classes: [AtomicU64; CLASSES],
}

impl Debts {
    pub fn new(bytes_max: u64) -> Arc<Debts> {
        let zero = || AtomicU64::new(0);
        Arc::new(Debts {
            bytes_max,
            total: zero(),
            collected: zero(),
            classes: [const { AtomicU64::new(0) }; CLASSES],
        })
    }

    /// A debtor that owed `before` owes `after`.
    pub fn change(&self, before: u64, after: u64) {
        // Relaxed: the numbers guard no other memory. Added before taken away, so that no sum is ever below zero.
        self.total.fetch_add(after, Ordering::Relaxed);
        self.classes[class(after)].fetch_add(after, Ordering::Relaxed);
        self.classes[class(before)].fetch_sub(before, Ordering::Relaxed);
        let total = self.total.fetch_sub(before, Ordering::Relaxed);
        debug_assert!(total >= before, "more is paid than was owed");
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// A debtor had to pay.
    pub fn collected(&self) {
        self.collected.fetch_add(1, Ordering::Relaxed);
    }

    /// How often one had to.
    pub fn collected_total(&self) -> u64 {
        self.collected.load(Ordering::Relaxed)
    }

    /// The worst debtors have to pay. At three quarters of the bound, as shards that sleep find out a second later.
    pub fn is_pressed(&self) -> bool {
        self.total() > self.bytes_max / 4 * 3
    }

    /// No byte more: a shard lets its own debtors pay, even if those of others are worse.
    pub fn is_exceeded(&self) -> bool {
        self.total() > self.bytes_max
    }

    /// Below this debtors are left alone again.
    pub fn is_eased(&self) -> bool {
        self.total() <= self.bytes_max / 8 * 5
    }

    /// Debts of this size and above have to go for the others to fit.
    pub fn bound(&self) -> u64 {
        let mut left = self.total();
        for class in (1..CLASSES).rev() {
            left = left.saturating_sub(self.classes[class].load(Ordering::Relaxed));
            if left <= self.bytes_max / 8 * 5 {
                return 1 << (class - 1);
            }
        }
        0
    }
}

fn class(debt: u64) -> usize {
    (u64::BITS - debt.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_debtors_are_found_and_the_small_ones_left_alone() {
        let debts = Debts::new(1_000_000);
        (0..100).for_each(|_| debts.change(0, 1_000));
        (0..5).for_each(|_| debts.change(0, 120_000));
        assert!(!debts.is_pressed() && !debts.is_eased());
        debts.change(0, 100_000);
        assert!(debts.is_pressed() && !debts.is_exceeded());
        // 65,536 and more: the class of 100,000 and 120,000.
        assert_eq!(debts.bound(), 65_536);
        debts.change(120_000, 0);
        debts.change(120_000, 60_000);
        assert!(debts.is_eased());
        (0..4).for_each(|_| debts.change(0, 200_000));
        assert!(debts.is_exceeded());
        assert_eq!(debts.bound(), 131_072);
    }

    #[test]
    fn many_small_debts_pay_when_there_are_no_others() {
        let debts = Debts::new(10_000);
        (0..1_000).for_each(|_| debts.change(0, 11));
        assert!(debts.is_exceeded());
        assert_eq!(debts.bound(), 8);
        (0..1_000).for_each(|_| debts.change(11, 0));
        assert_eq!((debts.total(), debts.bound(), debts.is_eased()), (0, 1 << 63, true));
    }
}
