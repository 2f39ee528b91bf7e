//! How connections ended: a ring of the last of them. Pure.
//!
//! Each shard keeps its own, and the control plane puts them together: no lock, and no message for an end.

use std::collections::VecDeque;

use crate::base::fault::Disconnect;
use crate::base::ids::ShardId;
use crate::shard::control_request::seen::{ClosedQuery, End, EndPlace, EndedBy};

/// Ends looked at for one request: some hundred microseconds. A request that needs more comes again.
const LOOKED_AT_MAX: usize = 4096;

#[derive(Default)]
pub(in crate::shard) struct Ends {
    /// Bound: `max`, the share of `observe.closed_kept`; the oldest goes.
    ring: VecDeque<End>,
    max: usize,
    /// Of the next one.
    number: u64,
    /// Whose doing the end is that is about to come, where its code does not say it.
    by: Option<(u32, EndedBy)>,
}

impl Ends {
    pub fn new(max: usize) -> Ends {
        Ends { max, ..Ends::default() }
    }

    /// Keeps so many from now on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        let more = self.ring.len().saturating_sub(max);
        self.ring.drain(..more);
        self.ring.shrink_to(max);
    }

    /// None is kept.
    pub fn is_off(&self) -> bool {
        self.max == 0
    }

    /// Says whose doing it is, right before a connection is made to end.
    pub fn blame(&mut self, slot: u32, by: EndedBy) {
        self.by = Some((slot, by));
    }

    /// Whose doing the end of the connection is.
    pub fn take_blame(&mut self, slot: u32, why: &Disconnect) -> EndedBy {
        match self.by.take() {
            Some((blamed, by)) if blamed == slot => by,
            _ => EndedBy::of_code(why.code),
        }
    }

    pub fn keep(&mut self, mut end: End) {
        if self.is_off() {
            return;
        }
        while self.ring.len() >= self.max {
            self.ring.pop_front();
        }
        // A wall clock may be set back; a page goes on behind the time of the last.
        end.time_ms = end.time_ms.max(self.ring.back().map_or(0, |last| last.time_ms));
        self.ring.push_back(end);
        self.number += 1;
    }

    /// The newest that are asked for, newest first, and where to go on below.
    pub fn look(&self, shard: ShardId, query: &ClosedQuery) -> (Vec<(EndPlace, &End)>, Option<u64>) {
        let first = self.number - self.ring.len() as u64;
        let mut below = query.below.unwrap_or(self.number).clamp(first, self.number);
        if let Some(before) = query.before {
            // They stand in the order of their times: what is newer is not gone through again for each page.
            let older = self.ring.partition_point(|end| end.time_ms <= before.time_ms);
            below = below.min(first + older as u64);
        }
        let mut found = Vec::new();
        for (looked_at, number) in (first..below).rev().enumerate() {
            if looked_at == LOOKED_AT_MAX || found.len() == query.ends_max {
                return (found, Some(number + 1));
            }
            let end = &self.ring[(number - first) as usize];
            if end.time_ms < query.since_ms {
                break;
            }
            let place = EndPlace { time_ms: end.time_ms, shard, number };
            if query.before.is_none_or(|before| place < before)
                && query.user.as_ref().is_none_or(|user| *user == end.user)
                && query.conn.is_none_or(|conn| conn == end.conn)
                && query.code.is_none_or(|code| code == end.code)
            {
                found.push((place, end));
            }
        }
        (found, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ConnId, Sock};

    fn end(time_ms: u64, user: &str, code: u16) -> End {
        End {
            time_ms,
            conn: ConnId::new(ShardId(0), Sock { slot: code.into(), generation: 1 }),
            user: user.into(),
            address: None,
            transport: "websocket",
            code,
            reason: "".into(),
            by: EndedBy::Client,
            duration_ms: None,
            bytes: None,
            owed_bytes: 0,
            ping_ms: None,
        }
    }

    fn query() -> ClosedQuery {
        ClosedQuery { ends_max: 100, ..ClosedQuery::default() }
    }

    fn times(ends: &Ends, query: &ClosedQuery) -> Vec<u64> {
        ends.look(ShardId(1), query).0.iter().map(|(_, end)| end.time_ms).collect()
    }

    #[test]
    fn the_last_are_kept_and_shown_newest_first() {
        let mut ends = Ends::new(3);
        for time in 1..=5 {
            ends.keep(end(time, if time % 2 == 0 { "even" } else { "odd" }, 3000 + time as u16));
        }
        assert_eq!(times(&ends, &query()), [5, 4, 3]);
        assert_eq!(times(&ends, &ClosedQuery { user: Some("odd".into()), ..query() }), [5, 3]);
        assert_eq!(times(&ends, &ClosedQuery { code: Some(3004), ..query() }), [4]);
        assert_eq!(times(&ends, &ClosedQuery { since_ms: 4, ..query() }), [5, 4]);
        let conn = end(0, "", 3003).conn;
        assert_eq!(times(&ends, &ClosedQuery { conn: Some(conn), ..query() }), [3]);
        ends.set_max(1);
        assert_eq!(times(&ends, &query()), [5]);
    }

    #[test]
    fn a_ring_of_nothing_keeps_nothing() {
        let mut ends = Ends::new(0);
        ends.keep(end(1, "a", 3000));
        assert!(ends.is_off() && times(&ends, &query()).is_empty());
    }

    /// Page by page all are seen once, whatever is kept meanwhile and however often the clock is set back.
    #[test]
    fn pages_follow_each_other() {
        let mut ends = Ends::new(10_000);
        for time in 0..9_000 {
            ends.keep(end(1_000_000 + time / 7, "a", 3000));
        }
        ends.keep(end(5, "a", 3000));
        let (mut seen, mut rounds) = (0, 0);
        let mut asked = ClosedQuery { ends_max: 10, user: Some("a".into()), ..ClosedQuery::default() };
        let mut last: Option<EndPlace> = None;
        loop {
            let (page, next) = ends.look(ShardId(0), &asked);
            for (place, _) in &page {
                assert!(last.is_none_or(|last| *place < last));
                last = Some(*place);
            }
            seen += page.len();
            // As a caller that goes on behind the last one it has seen, or where the shard has stopped.
            let Some(next) = next else { break };
            asked.before = last;
            asked.below = (seen % 20 == 0).then_some(next);
            rounds += 1;
            assert!(rounds < 10_000, "no page goes on");
        }
        assert_eq!(seen, 9_001);
    }

    #[test]
    fn a_search_for_nothing_goes_on_in_steps() {
        let mut ends = Ends::new(10_000);
        (0..10_000).for_each(|time| ends.keep(end(time, "a", 3000)));
        let mut asked = ClosedQuery { user: Some("b".into()), ..query() };
        let mut steps = 1;
        while let (_, Some(next)) = ends.look(ShardId(0), &asked) {
            asked.below = Some(next);
            steps += 1;
        }
        assert_eq!(steps, 3);
    }

    #[test]
    fn blame_is_for_one_end_of_one_connection() {
        let mut ends = Ends::new(1);
        ends.blame(3, EndedBy::Api);
        assert_eq!(ends.take_blame(3, &Disconnect::SLOW), EndedBy::Api);
        assert_eq!(ends.take_blame(3, &Disconnect::SLOW), EndedBy::Limit);
        ends.blame(4, EndedBy::Api);
        assert_eq!(ends.take_blame(3, &Disconnect::NO_PONG), EndedBy::Network);
    }
}
