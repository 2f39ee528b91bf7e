//! Clients that are closed evenly over a time, in random order: all of a node that drains, some that are to move to another
//! node. The crowd comes back as evenly as it left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::fault::Disconnect;
use crate::base::ids::ConnId;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::shard::control_request::{Departure, Progress};

/// Moves that may be under way in a shard: an operator has one, a script a few. One more is refused (111).
const MOVES_MAX: usize = 16;

#[derive(Default)]
pub(in crate::shard) struct Departures {
    /// No client is let in.
    pub draining: bool,
    pub drain: Option<Paced>,
    moves: Vec<Paced>,
}

/// Connections that leave one after the other.
pub(in crate::shard) struct Paced {
    left: Vec<ConnId>,
    total: usize,
    began: Time,
    over: Duration,
    disconnect: Disconnect,
    progress: Arc<Progress>,
}

impl Paced {
    pub fn new(left: Vec<ConnId>, began: Time, departure: &Departure, disconnect: Disconnect) -> Paced {
        let Departure { over, progress } = departure;
        progress.clients.fetch_add(left.len() as u64, Ordering::Relaxed);
        Paced { total: left.len(), left, began, over: *over, disconnect, progress: Arc::clone(progress) }
    }

    /// When the next one is to leave: the first at once, the last a step before the end.
    fn next(&self) -> Option<Time> {
        let gone = (self.total - self.left.len()) as u128;
        let after = self.over.as_nanos() * gone / (self.total as u128).max(1);
        (!self.left.is_empty())
            .then(|| self.began + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    fn take(&mut self, now: Time, prng: &mut Prng) -> Option<ConnId> {
        if self.next()? > now {
            return None;
        }
        let at = prng.usize(..self.left.len());
        self.progress.closed.fetch_add(1, Ordering::Relaxed);
        Some(self.left.swap_remove(at))
    }
}

impl Departures {
    /// When the next client is to leave.
    pub fn next(&self) -> Option<Time> {
        self.drain.iter().chain(&self.moves).filter_map(Paced::next).min()
    }

    pub fn has_room(&self) -> bool {
        self.moves.len() < MOVES_MAX
    }

    pub fn add_move(&mut self, paced: Paced) {
        debug_assert!(self.has_room());
        self.moves.push(paced);
    }

    /// A client whose turn it is.
    pub fn take(&mut self, now: Time, prng: &mut Prng) -> Option<(ConnId, Disconnect)> {
        let mut all = self.drain.iter_mut().chain(&mut self.moves);
        let taken = all.find_map(|paced| Some((paced.take(now, prng)?, paced.disconnect.clone())));
        if taken.is_none() && !self.moves.is_empty() {
            self.moves.retain(|paced| !paced.left.is_empty());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ShardId, Sock};

    fn conns(count: u32) -> Vec<ConnId> {
        (0..count).map(|slot| ConnId::new(ShardId(0), Sock { slot, generation: 1 })).collect()
    }

    /// Whatever the moments at which a shard looks, as many have gone as the plan says, each once.
    #[test]
    fn closes_follow_the_plan_at_each_moment() {
        let mut prng = Prng::with_seed(7);
        for (count, over_ms) in [(1, 1000), (3, 30_000), (20_000, 20_000), (1000, 1), (5, 0)] {
            let departure = Departure::new(Duration::from_millis(over_ms));
            let began = Time::from_millis(500);
            let mut paced = Paced::new(conns(count), began, &departure, Disconnect::SHUTDOWN);
            let mut gone = Vec::new();
            let mut now = began;
            assert_eq!(paced.next(), Some(began), "the first leaves at once");
            loop {
                while let Some(conn) = paced.take(now, &mut prng) {
                    gone.push(conn);
                }
                let elapsed = now.since(began).as_millis() as u64;
                let planned =
                    (u64::from(count) * elapsed).checked_div(over_ms).map_or(count.into(), |gone| gone + 1);
                let planned = planned.min(count.into());
                assert!(
                    (gone.len() as u64).abs_diff(planned) <= 1,
                    "{} of {planned} at {elapsed}",
                    gone.len()
                );
                let Some(next) = paced.next() else { break };
                assert!(next > now && next <= began + Duration::from_millis(over_ms));
                now = next + Duration::from_micros(prng.u64(..3000));
            }
            assert_eq!(departure.progress.closed.load(Ordering::Relaxed), u64::from(count));
            let in_order = gone.is_sorted();
            gone.sort_unstable();
            assert_eq!(gone, conns(count));
            assert!(count < 100 || !in_order, "the order is random");
        }
    }
}
