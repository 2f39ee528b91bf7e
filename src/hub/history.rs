//! What is kept of one channel's log, and how it is read back.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ids::Offset;
use crate::base::publication::{Publication, Publications};
use crate::base::time::Time;
use crate::hub::entry::Entry;
pub use crate::hub::entry::entry_bytes;
use crate::hub::requests::Recovery;
use crate::hub::values::ValueLog;

/// A ring smaller than this is not worth giving back in part.
const RING_SHRINK_ABOVE: usize = 64;

/// The retained end of a channel's log: publications without a hole, the newest of which is the channel's top; of a value channel
/// the newest of each key. Reads see no entry whose time is over, whether it was dropped already or not.
///
/// Offsets may jump where a process ended before it had written everything: what stands before and behind the jump follow
/// each other, and a position between them is of what is lost.
#[derive(Debug, Default)]
pub struct Log {
    kept: Kept,
    bytes: usize,
    /// Where the owner of the channel has it among all logs.
    pub place: u32,
}

#[derive(Debug)]
enum Kept {
    /// In offset order, and so in order of `expires`.
    /// Bound: `history_size`, and `history_bytes_max` over all logs.
    Ring(VecDeque<Entry>),
    Values(Box<ValueLog>),
}

const _: () = assert!(size_of::<Log>() == size_of::<VecDeque<Entry>>() + 2 * size_of::<usize>());

impl Default for Kept {
    fn default() -> Kept {
        Kept::Ring(VecDeque::new())
    }
}

impl Log {
    /// Of a value channel whose newest publication has the offset `top`.
    pub fn of_values(top: Offset) -> Log {
        Log { kept: Kept::Values(Box::new(ValueLog::after(top))), bytes: 0, place: 0 }
    }

    pub fn values(&self) -> Option<&ValueLog> {
        match &self.kept {
            Kept::Values(values) => Some(values),
            Kept::Ring(_) => None,
        }
    }

    pub fn values_mut(&mut self) -> Option<&mut ValueLog> {
        match &mut self.kept {
            Kept::Values(values) => Some(values),
            Kept::Ring(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        match &self.kept {
            Kept::Ring(ring) => ring.len(),
            Kept::Values(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of all entries, by [`entry_bytes`]; a value costs more.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest entry's offset, and when it is over.
    pub fn newest(&self) -> Option<(Offset, Time)> {
        match &self.kept {
            Kept::Ring(ring) => ring.back().map(|entry| (entry.publication.offset(), entry.expires)),
            Kept::Values(values) => values.newest(),
        }
    }

    /// The ring's entries; a value log has none there.
    fn ring(&self) -> &VecDeque<Entry> {
        static NONE: VecDeque<Entry> = VecDeque::new();
        match &self.kept {
            Kept::Ring(ring) => ring,
            Kept::Values(_) => &NONE,
        }
    }

    /// Entries after `offset` with the time when each is over, over already or not.
    pub fn after(&self, offset: Offset) -> impl Iterator<Item = (&Arc<Publication>, Time)> {
        let from = self.ring().partition_point(|entry| entry.publication.offset() <= offset);
        let ring = self.ring().range(from..).map(|entry| (&entry.publication, entry.expires));
        ring.chain(self.values().into_iter().flat_map(move |values| values.from(offset)))
    }

    /// The oldest entry's offset.
    pub fn oldest(&self) -> Option<Offset> {
        match &self.kept {
            Kept::Ring(ring) => ring.front().map(|entry| entry.publication.offset()),
            Kept::Values(values) => values.oldest().map(|(oldest, _)| oldest),
        }
    }

    /// Entries before `below`, newest first.
    pub fn newest_before(&self, below: Option<Offset>) -> impl Iterator<Item = &Arc<Publication>> {
        let ring = self.ring();
        let end = below
            .map_or(ring.len(), |below| ring.partition_point(|entry| entry.publication.offset() < below));
        let ring = ring.range(..end).rev().map(|entry| &entry.publication);
        ring.chain(self.values().into_iter().flat_map(move |values| values.newest_before(below)))
    }

    /// Puts an entry before the oldest; a value whose key has a newer one is left out.
    pub fn push_oldest(&mut self, publication: Arc<Publication>, expires: Time) {
        let Some(oldest) = self.oldest() else { return self.push(publication, expires) };
        assert!(publication.offset() < oldest, "a log has one order");
        let expires = self.oldest_expires().map_or(expires, |oldest| expires.min(oldest));
        match &mut self.kept {
            Kept::Ring(ring) => {
                self.bytes += entry_bytes(&publication);
                ring.push_front(Entry { publication, expires });
            }
            Kept::Values(values) => self.bytes += values.push_oldest(publication, expires),
        }
    }

    /// When the oldest entry is over.
    pub fn oldest_expires(&self) -> Option<Time> {
        match &self.kept {
            Kept::Ring(ring) => ring.front().map(|entry| entry.expires),
            Kept::Values(values) => values.oldest().map(|(_, expires)| expires),
        }
    }

    /// Appends the publication that follows the newest.
    pub fn push(&mut self, publication: Arc<Publication>, expires: Time) {
        match &mut self.kept {
            Kept::Ring(ring) => {
                if let Some(newest) = ring.back() {
                    assert!(newest.publication.offset() < publication.offset(), "a log has one order");
                    debug_assert!(newest.expires <= expires);
                }
                self.bytes += entry_bytes(&publication);
                ring.push_back(Entry { publication, expires });
            }
            Kept::Values(values) => {
                let (added, freed) = values.push(publication, expires);
                self.bytes = self.bytes + added - freed;
            }
        }
    }

    /// Drops the older half of the removals of a value log.
    pub fn drop_removals(&mut self) {
        if let Kept::Values(values) = &mut self.kept {
            self.bytes -= values.drop_removals().1;
        }
    }

    /// Drops the oldest entry and returns its bytes.
    pub fn drop_oldest(&mut self) -> Option<usize> {
        let bytes = match &mut self.kept {
            Kept::Values(values) => values.drop_oldest()?,
            Kept::Ring(ring) => {
                let entry = ring.pop_front()?;
                // A ring that was once long is given back by halves: each copy is paid for by the entries dropped before it.
                if ring.capacity() > RING_SHRINK_ABOVE && ring.len() < ring.capacity() / 4 {
                    ring.shrink_to(ring.capacity() / 2);
                }
                entry_bytes(&entry.publication)
            }
        };
        self.bytes -= bytes;
        Some(bytes)
    }

    /// Everything after `asked`, when the log reaches back to it and it is not more than `publications_max`; of a value
    /// channel what has changed, which its keys bound. `top` is the channel's newest offset, which outlives the entries.
    pub fn recover(&self, top: Offset, asked: Offset, now: Time, publications_max: usize) -> Recovery {
        if asked == top {
            return Recovery::Recovered(Vec::new());
        }
        if let Kept::Values(values) = &self.kept {
            let changes = values.changes(asked, top, now, usize::MAX);
            return changes.map_or(Recovery::Lost, Recovery::Recovered);
        }
        let next = self.place_after(asked);
        let left = self.ring().len() - next;
        if asked > top || next < self.live_from(now) || left > publications_max || !self.reaches(asked, next)
        {
            return Recovery::Lost;
        }
        Recovery::Recovered(self.collect(next, usize::MAX))
    }

    /// The first place behind `offset`.
    fn place_after(&self, offset: Offset) -> usize {
        self.ring().partition_point(|entry| entry.publication.offset() <= offset)
    }

    /// Whether nothing is missing between `offset` and the entry at `next`, which is the first behind it.
    fn reaches(&self, offset: Offset, next: usize) -> bool {
        let is_at = |place: usize, at: Offset| {
            self.ring().get(place).is_some_and(|entry| entry.publication.offset() == at)
        };
        is_at(next, offset.next()) || next.checked_sub(1).is_some_and(|before| is_at(before, offset))
    }

    /// At most `limit` entries from the first after `since` on (from the oldest if that is later), oldest first.
    pub fn forward(&self, since: Option<Offset>, now: Time, limit: usize) -> Publications {
        if let Kept::Values(values) = &self.kept {
            // From the start it is the state, from a position on what has changed.
            let wanted = |publication: &&Arc<Publication>| match since {
                Some(since) => publication.offset() > since,
                None => !publication.is_removal(),
            };
            return values.live(now).filter(wanted).take(limit).cloned().collect();
        }
        let live = self.live_from(now);
        let from = since.map_or(0, |since| self.place_after(since));
        self.collect(from.max(live), limit)
    }

    /// At most `limit` entries from the last before `since` on (from the newest without `since`), newest first.
    /// Empty when the entry before `since` is not there.
    pub fn reverse(&self, since: Option<Offset>, now: Time, limit: usize) -> Publications {
        if let Kept::Values(values) = &self.kept {
            let wanted = |publication: &&Arc<Publication>| {
                since.is_none_or(|since| publication.offset() < since) && !publication.is_removal()
            };
            return values.live(now).rev().filter(wanted).take(limit).cloned().collect();
        }
        let end = match since {
            None => self.ring().len(),
            Some(since) => {
                let end = self.ring().partition_point(|entry| entry.publication.offset() < since);
                let before = Offset(since.0.saturating_sub(1));
                let is_there = |place: usize, at| {
                    self.ring().get(place).is_some_and(|entry| entry.publication.offset() == at)
                };
                match end.checked_sub(1) {
                    Some(last) if is_there(last, before) || is_there(end, since) => end,
                    _ => return Vec::new(),
                }
            }
        };
        let live = self.live_from(now).min(end);
        let from = live.max(end.saturating_sub(limit));
        self.ring().range(from..end).rev().map(|entry| entry.publication.clone()).collect()
    }

    /// At most `limit` entries published at `from_ms` (milliseconds since 1970) or later: the oldest of them, oldest first, or in
    /// `reverse` the newest, newest first. Where the clock stepped back, from one of the places where that time was passed.
    pub fn since_time(&self, from_ms: u64, now: Time, limit: usize, reverse: bool) -> Publications {
        if let Kept::Values(values) = &self.kept {
            let wanted =
                |publication: &&Arc<Publication>| publication.time_ms >= from_ms && !publication.is_removal();
            return match reverse {
                false => values.live(now).filter(wanted).take(limit).cloned().collect(),
                true => values.live(now).rev().filter(wanted).take(limit).cloned().collect(),
            };
        }
        let from = self.ring().partition_point(|entry| entry.publication.time_ms < from_ms);
        let from = from.max(self.live_from(now));
        match reverse {
            false => self.collect(from, limit),
            true => {
                let newest = self.ring().range(from.max(self.ring().len().saturating_sub(limit))..);
                newest.rev().map(|entry| entry.publication.clone()).collect()
            }
        }
    }

    /// The place of the first entry whose time is not over.
    fn live_from(&self, now: Time) -> usize {
        self.ring().partition_point(|entry| entry.expires <= now)
    }

    fn collect(&self, from: usize, limit: usize) -> Publications {
        let from = from.min(self.ring().len());
        let end = from.saturating_add(limit).min(self.ring().len());
        self.ring().range(from..end).map(|entry| entry.publication.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::{Epoch, Position};
    use crate::hub::entry::ENTRY_BYTES;

    const EPOCH: Epoch = Epoch(7);

    fn publication(offset: u64) -> Arc<Publication> {
        Arc::new(Publication {
            channel: "c".into(),
            position: Position { offset: Offset(offset), epoch: EPOCH },
            data: Bytes::from_static(b"{}"),
            info: None,
            tags: Vec::new(),
            except: None,
            time_ms: 0,
            encoded: Default::default(),
        })
    }

    /// Offsets 11 to 20; the entry with offset n is over at n.
    fn log() -> Log {
        let mut log = Log::default();
        for offset in 11..=20 {
            log.push(publication(offset), Time(offset));
        }
        log
    }

    fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
        publications.iter().map(|publication| publication.offset().0).collect()
    }

    fn recovered(log: &Log, asked: u64, now: u64, max: usize) -> Option<Vec<u64>> {
        match log.recover(Offset(20), Offset(asked), Time(now), max) {
            Recovery::Recovered(publications) => Some(offsets(&publications)),
            Recovery::Lost | Recovery::Replaced(_) | Recovery::Later(_) => None,
        }
    }

    #[test]
    fn recovery_reaches_back_exactly_to_the_oldest_live_entry() {
        let log = log();
        assert_eq!(recovered(&log, 20, 0, 300), Some(vec![]));
        assert_eq!(recovered(&log, 18, 0, 300), Some(vec![19, 20]));
        assert_eq!(recovered(&log, 10, 0, 300), Some((11..=20).collect()));
        assert_eq!(recovered(&log, 9, 0, 300), None);
        assert_eq!(recovered(&log, 21, 0, 300), None);
        assert_eq!(recovered(&log, u64::MAX, 0, 300), None);
        assert_eq!(recovered(&log, 0, 0, 300), None);
        // Entry 11 is over at 11, not before.
        assert_eq!(recovered(&log, 10, 10, 300).map(|all| all.len()), Some(10));
        assert_eq!(recovered(&log, 10, 11, 300), None);
        assert_eq!(recovered(&log, 11, 11, 300).map(|all| all.len()), Some(9));
        // All over: only who is at the top has missed nothing.
        assert_eq!(recovered(&log, 20, 99, 300), Some(vec![]));
        assert_eq!(recovered(&log, 19, 99, 300), None);
    }

    #[test]
    fn recovery_of_more_than_the_bound_is_lost() {
        let log = log();
        assert_eq!(recovered(&log, 15, 0, 5), Some((16..=20).collect()));
        assert_eq!(recovered(&log, 14, 0, 5), None);
        assert_eq!(recovered(&log, 20, 0, 0), Some(vec![]));
    }

    /// 13 is followed by 100: what was between them is lost, and who was at 13, or came back before 100, has missed no more.
    #[test]
    fn a_jump_is_no_hole_for_those_on_its_sides() {
        let mut log = Log::default();
        for offset in [11, 12, 13, 100, 101] {
            log.push(publication(offset), Time::NEVER);
        }
        let recovered = |asked: u64| match log.recover(Offset(101), Offset(asked), Time(0), 300) {
            Recovery::Recovered(publications) => Some(offsets(&publications)),
            Recovery::Lost | Recovery::Replaced(_) | Recovery::Later(_) => None,
        };
        assert_eq!(recovered(12), Some(vec![13, 100, 101]));
        assert_eq!(recovered(13), Some(vec![100, 101]));
        assert_eq!(recovered(99), Some(vec![100, 101]));
        assert_eq!(recovered(100), Some(vec![101]));
        for lost in [9, 14, 98, 102] {
            assert_eq!(recovered(lost), None, "{lost}");
        }
        // Nothing has come behind the jump yet.
        let mut log = Log::default();
        log.push(publication(13), Time::NEVER);
        let empty = |asked| matches!(log.recover(Offset(99), Offset(asked), Time(0), 300), Recovery::Recovered(found) if found.is_empty());
        assert!(empty(13) && empty(99) && !empty(14) && !empty(98));
        let mut log = Log::default();
        log.push(publication(13), Time::NEVER);
        log.push(publication(100), Time::NEVER);
        assert_eq!(offsets(&log.forward(Some(Offset(13)), Time(0), 9)), [100]);
        assert_eq!(offsets(&log.forward(Some(Offset(50)), Time(0), 9)), [100]);
        assert_eq!(offsets(&log.reverse(Some(Offset(100)), Time(0), 9)), [13]);
        assert_eq!(offsets(&log.reverse(Some(Offset(50)), Time(0), 9)), [0; 0]);
    }

    #[test]
    fn reads_forward_and_back() {
        let log = log();
        let forward = |since: Option<u64>, limit| offsets(&log.forward(since.map(Offset), Time(12), limit));
        assert_eq!(forward(None, 3), [13, 14, 15]);
        assert_eq!(forward(Some(15), 2), [16, 17]);
        assert_eq!(forward(Some(3), 2), [13, 14]);
        assert_eq!(forward(Some(11), 2), [13, 14]);
        assert_eq!(forward(Some(20), 2), [0; 0]);
        assert_eq!(forward(Some(u64::MAX), 2), [0; 0]);
        assert_eq!(forward(None, 0), [0; 0]);
        let reverse = |since: Option<u64>, limit| offsets(&log.reverse(since.map(Offset), Time(12), limit));
        assert_eq!(reverse(None, 3), [20, 19, 18]);
        assert_eq!(reverse(None, 300), (13..=20).rev().collect::<Vec<_>>());
        assert_eq!(reverse(Some(15), 300), [14, 13]);
        assert_eq!(reverse(Some(21), 2), [20, 19]);
        assert_eq!(reverse(Some(22), 2), [0; 0], "the entry before it does not exist");
        assert_eq!(reverse(Some(13), 2), [0; 0], "the entry before it is over");
        assert_eq!(reverse(Some(3), 2), [0; 0]);
        assert_eq!(reverse(Some(0), 2), [0; 0]);
        assert_eq!(reverse(Some(u64::MAX), 2), [0; 0]);
    }

    #[test]
    fn reads_from_a_time_on_in_both_directions() {
        let mut log = Log::default();
        for offset in 11..=20 {
            let mut timed = Arc::into_inner(publication(offset)).unwrap();
            timed.time_ms = offset * 1000;
            log.push(Arc::new(timed), Time(offset));
        }
        let from =
            |from_ms, now, limit, reverse| offsets(&log.since_time(from_ms, Time(now), limit, reverse));
        assert_eq!(from(15_000, 0, 300, false), [15, 16, 17, 18, 19, 20], "at this time and later");
        assert_eq!(from(15_001, 0, 2, false), [16, 17]);
        assert_eq!(from(15_001, 0, 2, true), [20, 19]);
        assert_eq!(from(18_500, 0, 300, true), [20, 19]);
        assert_eq!(from(0, 13, 3, false), [14, 15, 16], "what is over by age is not there");
        assert_eq!(from(0, 18, 300, true), [20, 19]);
        for nothing in [from(20_001, 0, 300, false), from(20_001, 0, 300, true), from(0, 99, 300, false)] {
            assert_eq!(nothing, [0; 0]);
        }
        assert_eq!([from(0, 0, 0, false), from(0, 0, 0, true)], [[0; 0], [0; 0]]);
    }

    #[test]
    fn bytes_follow_the_entries_and_a_long_ring_is_given_back() {
        let mut log = Log::default();
        for offset in 1..=10_000 {
            log.push(publication(offset), Time::NEVER);
        }
        assert_eq!(log.bytes(), 10_000 * (ENTRY_BYTES + 2));
        while log.len() > 10 {
            assert_eq!(log.drop_oldest(), Some(ENTRY_BYTES + 2));
        }
        assert_eq!(log.bytes(), 10 * (ENTRY_BYTES + 2));
        assert!(log.ring().capacity() <= 4 * RING_SHRINK_ABOVE, "{} places", log.ring().capacity());
        assert_eq!(offsets(&log.forward(None, Time(0), 300)), (9_991..=10_000).collect::<Vec<_>>());
    }
}
