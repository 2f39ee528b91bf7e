//! How shards find out that all of them are at rest: nothing is on its way between two of them.
//!
//! In rounds. A shard sends every shard a mark when it has the marks of the round before, and has handled all that came
//! before those. With it goes whether it has said anything to anybody since its last mark. A round in which nobody has
//! is the last: what was sent before it has been handled, and nothing was sent since. A shard that has said in a mark
//! that it is at rest takes in nothing new before the round is over.

use crate::base::ids::ShardId;

/// What shards tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreementMark {
    pub attempt: u32,
    pub from: ShardId,
    pub round: u32,
    pub at_rest: bool,
}

/// One shard's view of it.
#[derive(Debug)]
pub struct Agreement {
    attempt: u32,
    own: ShardId,
    /// Whose marks are being collected.
    round: u32,
    /// What was said in this round.
    said: Option<bool>,
    /// Of this round and of the next, which those may send that have all of this one's.
    marks: Vec<[Option<bool>; 2]>,
}

impl Agreement {
    pub fn new(attempt: u32, own: ShardId, shards: usize) -> Agreement {
        Agreement { attempt, own, round: 0, said: None, marks: vec![[None; 2]; shards] }
    }

    /// Marks of an attempt that was given up are of no use.
    pub fn handle_mark(&mut self, mark: AgreementMark) {
        let ahead = mark.round.wrapping_sub(self.round) as usize;
        if mark.attempt == self.attempt
            && let Some(marks) = self.marks.get_mut(mark.from.index())
            && let Some(at) = marks.get_mut(ahead)
        {
            *at = Some(mark.at_rest);
        }
    }

    /// The mark of this round may be sent.
    pub fn may_mark(&self) -> bool {
        self.said.is_none()
    }

    /// It is sent: to all others this.
    pub fn mark(&mut self, at_rest: bool) -> AgreementMark {
        self.said = Some(at_rest);
        let mark = AgreementMark { attempt: self.attempt, from: self.own, round: self.round, at_rest };
        self.handle_mark(mark);
        mark
    }

    /// It has said that it is at rest, and not all have answered.
    pub fn is_calm(&self) -> bool {
        self.said == Some(true)
    }

    /// True when all are at rest. The next round begins when this one is over without that.
    pub fn step(&mut self) -> bool {
        if self.said.is_none() || self.marks.iter().any(|[now, _]| now.is_none()) {
            return false;
        }
        if self.marks.iter().all(|[now, _]| *now == Some(true)) {
            return true;
        }
        self.round += 1;
        self.said = None;
        for marks in &mut self.marks {
            *marks = [marks[1], None];
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::base::prng::Prng;

    /// Shards that answer each other for a while, over queues that keep their order.
    struct Net {
        /// By receiver and sender: how many messages each message still leads to, or a mark.
        queues: Vec<Vec<VecDeque<Result<u32, AgreementMark>>>>,
        said: Vec<u64>,
        on_their_way: usize,
    }

    #[test]
    fn nothing_is_on_its_way_when_all_are_at_rest() {
        for seed in 0..300 {
            let mut prng = Prng::with_seed(seed);
            let shards = prng.usize(1..6);
            let mut net = Net {
                queues: vec![vec![VecDeque::new(); shards]; shards],
                said: vec![0; shards],
                on_their_way: 0,
            };
            let mut agreements: Vec<_> =
                (0..shards).map(|shard| Agreement::new(7, ShardId(shard as u16), shards)).collect();
            let mut before = vec![0; shards];
            let mut over = vec![false; shards];
            let say = |net: &mut Net, from: usize, to: usize, left: u32| {
                net.queues[to][from].push_back(Ok(left));
                net.said[from] += 1;
                net.on_their_way += 1;
            };
            for _ in 0..prng.usize(0..20) {
                let (from, to) = (prng.usize(0..shards), prng.usize(0..shards));
                say(&mut net, from, to, prng.u32(0..6));
            }
            while !over.iter().all(|over| *over) {
                let shard = prng.usize(0..shards);
                if over[shard] {
                    continue;
                }
                // Something comes from outside.
                if !agreements[shard].is_calm() && prng.u8(0..40) == 0 {
                    say(&mut net, shard, prng.usize(0..shards), prng.u32(0..4));
                }
                let from = prng.usize(0..shards);
                for _ in 0..prng.usize(0..4) {
                    match net.queues[shard][from].pop_front() {
                        Some(Ok(left)) => {
                            net.on_their_way -= 1;
                            if left > 0 {
                                say(&mut net, shard, prng.usize(0..shards), left - 1);
                            }
                        }
                        Some(Err(mark)) => agreements[shard].handle_mark(mark),
                        None => {}
                    }
                }
                if agreements[shard].may_mark() && net.queues[shard][shard].is_empty() {
                    let at_rest = net.said[shard] == before[shard];
                    before[shard] = net.said[shard];
                    let mark = agreements[shard].mark(at_rest);
                    for to in (0..shards).filter(|to| *to != shard) {
                        net.queues[to][shard].push_back(Err(mark));
                    }
                }
                over[shard] = agreements[shard].step();
                if over[shard] {
                    assert_eq!(net.on_their_way, 0, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn marks_of_another_attempt_count_for_nothing() {
        let mut agreement = Agreement::new(2, ShardId(0), 2);
        agreement.mark(true);
        let mark = AgreementMark { attempt: 1, from: ShardId(1), round: 0, at_rest: true };
        agreement.handle_mark(mark);
        assert!(!agreement.step());
        agreement.handle_mark(AgreementMark { attempt: 2, from: ShardId(9), ..mark });
        assert!(!agreement.step());
        agreement.handle_mark(AgreementMark { attempt: 2, ..mark });
        assert!(agreement.step());
    }
}
