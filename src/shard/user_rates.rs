//! How much users may do in a time, on all shards of a node together.

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

use crate::base::rate::Rate;
use crate::base::time::Time;

/// Entries of one of the tables of [`UserRates`]. With four tables a user who does nothing wrong is held back only
/// when in each of them another one with the same place is busy: with ten thousand users at their limit at a time, one of
/// two thousand.
const USER_PLACES: usize = 1 << 16;
const USER_TABLES: usize = 4;

/// The rates of all users of a node in tables of a fixed size, for all shards at once and without a lock.
///
/// A user has a place in each of four tables, by a keyed hash, and shares it with all that fall there. A place says
/// until when what was taken there is paid for, so that of a user's four the earliest is nearest to the truth, and never
/// before it: nobody gets more than the limit, and who gets less shares all four places with busy users.
pub struct UserRates {
    rate: Rate,
    hash: RandomState,
    /// Nanoseconds of [`Time`]. 2 MiB.
    tables: [Box<[AtomicU64]>; USER_TABLES],
}

impl std::fmt::Debug for UserRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRates").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl UserRates {
    /// `seed` keys the places, so that a stranger cannot choose names that share another's.
    pub fn new(rate: Rate, seed: [u64; 4]) -> UserRates {
        let hash = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        let tables = std::array::from_fn(|_| (0..USER_PLACES).map(|_| AtomicU64::new(0)).collect());
        UserRates { rate, hash, tables }
    }

    pub fn available(&self, user: &str, now: Time) -> u64 {
        self.rate.available(self.paid_until(user), now)
    }

    /// Takes `units`. Two shards at once may both have found the last one available: the debt is then of both.
    pub fn charge(&self, user: &str, now: Time, units: u64) {
        // In all of them: two shards that each chose the earliest could choose two different ones, and each would miss what
        // the other took. Relaxed: each place stands for itself, and nothing else is told by it.
        for place in self.places(user) {
            let after = |paid| Some(self.rate.after(Time(paid), now, units).0);
            let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        }
    }

    fn paid_until(&self, user: &str) -> Time {
        Time(self.places(user).map(|place| place.load(Ordering::Relaxed)).min().unwrap_or(0))
    }

    fn places(&self, user: &str) -> impl Iterator<Item = &AtomicU64> {
        let hash = self.hash.hash_one(user);
        // Sixteen bits of the hash for each table.
        self.tables
            .iter()
            .enumerate()
            .map(move |(at, table)| &table[(hash >> (16 * at)) as usize % USER_PLACES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn users(per_second: u64, burst: u64) -> UserRates {
        UserRates::new(Rate::new(per_second, burst).unwrap(), [1, 2, 3, 4])
    }

    fn take(users: &UserRates, user: &str, now: Time) -> bool {
        let may = users.available(user, now) > 0;
        if may {
            users.charge(user, now, 1);
        }
        may
    }

    #[test]
    fn a_user_gets_the_rate_and_others_are_not_held_back_by_it() {
        let users = users(10, 5);
        let now = Time::from_millis(1_000_000);
        assert_eq!((0..50).filter(|_| take(&users, "greedy", now)).count(), 5);
        for other in 0..1_000 {
            assert!(take(&users, &format!("user-{other}"), now), "{other}");
        }
        assert!(!take(&users, "greedy", now + Duration::from_millis(99)));
        assert!(take(&users, "greedy", now + Duration::from_millis(100)));
    }

    #[test]
    fn a_crowd_at_its_limit_holds_hardly_anybody_back() {
        let users = users(1, 1);
        let now = Time::from_millis(1_000_000);
        for busy in 0..10_000 {
            users.charge(&format!("busy-{busy}"), now, 1);
        }
        let held_back =
            (0..10_000).filter(|other| users.available(&format!("other-{other}"), now) == 0).count();
        assert!(held_back <= 20, "{held_back} of 10,000");
        let busy = (0..10_000).filter(|busy| users.available(&format!("busy-{busy}"), now) > 0).count();
        assert_eq!(busy, 0, "nobody gets more than the limit");
    }

    #[test]
    fn shards_at_once_lose_no_charge() {
        let users = users(1, 1);
        let now = Time::from_millis(1_000_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| users.charge("one", now, 1)));
            }
        });
        assert_eq!(users.paid_until("one"), now + Duration::from_secs(4_000));
    }
}
