//! How many hook calls the backend gets to answer at a time, and the line of those that wait for their turn.
//!
//! The number goes down by half when the backend is strained (it answers too late, or says that it has too much to do)
//! and up by one for each full round of good answers: it settles where the backend keeps up, so that a storm of
//! connects lasts as long as it must and no answer comes too late to be of use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::time::Time;

/// Counts what is taken from a bound and gives it back when dropped.
#[derive(Debug)]
pub struct HookBudget {
    taken: AtomicUsize,
    max: usize,
}

/// A part of a [`HookBudget`].
#[derive(Debug)]
pub struct Share {
    budget: Arc<HookBudget>,
    amount: usize,
}

impl HookBudget {
    pub fn new(max: usize) -> Arc<HookBudget> {
        Arc::new(HookBudget { taken: AtomicUsize::new(0), max })
    }

    /// `None` when the bound does not leave so much.
    pub fn take(self: &Arc<Self>, amount: usize) -> Option<Share> {
        let fits = |taken: usize| taken.checked_add(amount).filter(|&sum| sum <= self.max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Share { budget: Arc::clone(self), amount })
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Takes so much more; `false`, and nothing taken, when the bound does not leave it.
    pub fn grow(&mut self, amount: usize) -> bool {
        let Some(mut more) = self.budget.take(amount) else { return false };
        // Given back with this one.
        self.amount += std::mem::take(&mut more.amount);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// Lets so many through at a time, the others in the order in which they came.
#[derive(Debug)]
pub struct HookGate {
    semaphore: Arc<Semaphore>,
    pace: Mutex<GatePace>,
}

#[derive(Debug)]
struct GatePace {
    max: u32,
    limit: u32,
    /// Slots that are out and must not come back, because the limit was lowered meanwhile.
    owed: u32,
    /// Good answers since the limit changed.
    good: u32,
    /// When the limit was lowered. Who was asked before says nothing about the lower limit.
    lowered: Option<Time>,
}

/// The right to ask one hook call. Given back when dropped.
#[derive(Debug)]
pub struct GateSlot {
    gate: Arc<HookGate>,
    permit: Option<OwnedSemaphorePermit>,
}

impl HookGate {
    pub fn new(max: u32) -> Arc<HookGate> {
        Arc::new(HookGate {
            semaphore: Arc::new(Semaphore::new(max as usize)),
            pace: Mutex::new(GatePace { max, limit: max, owed: 0, good: 0, lowered: None }),
        })
    }

    /// A slot that nobody waits for.
    pub fn try_enter(self: &Arc<Self>) -> Option<GateSlot> {
        // Slots that come back go to those who wait first: there is none to take while somebody does.
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(GateSlot { gate: Arc::clone(self), permit: Some(permit) })
    }

    /// The next slot, after those who came before.
    pub async fn enter(self: &Arc<Self>) -> GateSlot {
        // The semaphore is never closed; without a permit the slot would be one too many, for one hook call.
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok();
        GateSlot { gate: Arc::clone(self), permit }
    }

    pub fn limit(&self) -> u32 {
        self.pace.lock().limit
    }

    /// A hook call that was asked got its answer in time.
    pub fn well(&self) {
        let mut pace = self.pace.lock();
        pace.good += 1;
        if pace.good < pace.limit {
            return;
        }
        pace.good = 0;
        if pace.limit == pace.max {
            return;
        }
        pace.limit += 1;
        match pace.owed {
            0 => self.semaphore.add_permits(1),
            _ => pace.owed -= 1,
        }
    }

    /// A hook call that was asked at `asked` met a strained backend.
    pub fn strained(&self, asked: Time, now: Time) {
        let mut pace = self.pace.lock();
        if pace.lowered.is_some_and(|lowered| asked <= lowered) {
            return;
        }
        let limit = (pace.limit / 2).max(1);
        let fewer = pace.limit - limit;
        let taken = self.semaphore.forget_permits(fewer as usize) as u32;
        pace.owed += fewer - taken;
        (pace.limit, pace.good, pace.lowered) = (limit, 0, Some(now));
    }
}

impl Drop for GateSlot {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut pace = self.gate.pace.lock();
        if pace.owed > 0 {
            pace.owed -= 1;
            permit.forget();
        } else {
            // Under the lock: what is free is never more than the limit leaves.
            drop(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_never_gives_more_than_it_has() {
        let budget = HookBudget::new(10);
        let mut share = budget.take(4).unwrap();
        assert!(share.grow(5) && !share.grow(2));
        assert_eq!(budget.taken(), 9);
        assert!(budget.take(2).is_none() && budget.take(usize::MAX).is_none());
        let last = budget.take(1).unwrap();
        drop(share);
        assert_eq!(budget.taken(), 1);
        drop(last);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn strain_halves_the_limit_once_and_good_answers_raise_it() {
        let gate = HookGate::new(8);
        let at = Time::from_millis;
        let slots: Vec<GateSlot> = (0..8).map(|_| gate.try_enter().unwrap()).collect();
        assert!(gate.try_enter().is_none());
        for _ in 0..8 {
            gate.strained(at(1), at(10));
        }
        assert_eq!(gate.limit(), 4, "those who were asked before say nothing new");
        gate.strained(at(11), at(12));
        assert_eq!(gate.limit(), 2);
        drop(slots);
        let slots: Vec<GateSlot> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!(slots.len(), 2);
        gate.well();
        assert_eq!(gate.limit(), 2);
        gate.well();
        assert_eq!(gate.limit(), 3);
        assert!(gate.try_enter().is_some());
        drop(slots);
        gate.strained(at(13), at(14));
        gate.strained(at(15), at(16));
        assert_eq!(gate.limit(), 1, "one is always asked");
        for _ in 0..100 {
            gate.well();
        }
        assert_eq!(gate.limit(), 8, "and never more than the most");
        assert_eq!(std::iter::from_fn(|| gate.try_enter()).collect::<Vec<_>>().len(), 8);
    }

    /// Whatever happens, what is out and what can be had are the limit together, but for what was out when it fell.
    #[test]
    fn slots_are_neither_lost_nor_made() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let gate = HookGate::new(random.u32(1..20));
            let mut out: Vec<GateSlot> = Vec::new();
            for step in 0..500u64 {
                match random.u8(..4) {
                    0 => out.extend(gate.try_enter()),
                    1 if !out.is_empty() => drop(out.swap_remove(random.usize(..out.len()))),
                    2 => gate.well(),
                    _ if random.u8(..8) == 0 => {
                        gate.strained(Time::from_millis(step + 1), Time::from_millis(step + 1));
                    }
                    _ => {}
                }
                let free = gate.semaphore.available_permits();
                let limit = gate.limit() as usize;
                let owed = gate.pace.lock().owed as usize;
                assert_eq!(out.len() + free, limit + owed, "seed {seed} step {step}");
                assert!(owed == 0 || free == 0, "seed {seed} step {step}: owed while slots are free");
            }
        }
    }
}
