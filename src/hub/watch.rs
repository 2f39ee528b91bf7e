//! What follows from acknowledgements in one channel, and from those that are missing: whom the backend hears of, and what those hear
//! who have published.
//!
//! ```text
//!  publications ──▶ marks: up to which offset, and when their time is over ──▶ who lacks them (`unacked`)
//!  cursors move ──▶ a second later, or at most once in a second ────────────▶ who has come how far (`acked`), counts to publishers
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ahash::RandomState;

use crate::base::bytes::Bytes;
use crate::base::event::What;
use crate::base::ids::{Offset, UserName};
use crate::base::time::Time;
use crate::hub::deadlines::Deadlines;
use crate::hub::limits::{ACKED_EVERY, RECEIPTS_EVERY};

/// Publications of one channel whose publishers hear who has got them. Of one more the oldest is given up.
pub const SENT_MAX: usize = 64;
/// Publications that come within so small a part of the time for acknowledgements are judged together.
const PARTS: u32 = 8;
/// One more joins the last: only where that time was made shorter meanwhile.
const MARKS_MAX: usize = 2 * PARTS as usize;

/// What an owner says of acknowledgements.
#[derive(Debug, PartialEq, Eq)]
pub enum CursorNotice {
    /// To the backend.
    Event(What),
    /// To the connections of a user who has published: JSON.
    Receipts { user: UserName, data: Bytes },
}

/// Of all channels of an owner.
#[derive(Debug, Default)]
pub(in crate::hub) struct Watches {
    /// By slot, where a namespace wants it. Apart, so that other channels pay nothing for it.
    pub of: HashMap<u32, Box<Watch>, RandomState>,
    /// When something of a channel is to be said, or earlier.
    pub due: Deadlines,
    /// Of the channel that was due last.
    /// Bound: its publishers ([`SENT_MAX`]), and its devices by the thousand.
    pub ready: VecDeque<CursorNotice>,
    /// The backend hears how far devices have come.
    pub tells_acked: bool,
    /// Channels of which the store did not take something, the oldest first.
    /// Bound: those channels.
    pub unkept: VecDeque<u32>,
}

impl Watches {
    pub fn forget(&mut self, slot: u32) {
        if self.of.remove(&slot).is_some() {
            self.due.remove(slot);
        }
    }

    /// Brings the deadline of a channel in line with what waits.
    pub fn settle(&mut self, slot: u32) {
        match self.of.get(&slot).and_then(|watch| watch.next()) {
            Some(at) => self.due.set(slot, at),
            None => self.due.remove(slot),
        }
    }
}

/// Of one channel.
#[derive(Debug, Default)]
pub(in crate::hub) struct Watch {
    /// In the order of offsets and times.
    /// Bound: [`MARKS_MAX`].
    marks: VecDeque<Mark>,
    /// Who lacks something up to there was said.
    pub judged: Offset,
    /// In the order of offsets.
    /// Bound: [`SENT_MAX`].
    pub sent: VecDeque<Sent>,
    /// When it is said what has moved.
    moved_at: Option<Time>,
    /// When publishers hear of it.
    receipts_at: Option<Time>,
    /// They do not before.
    receipts_from: Time,
}

/// Publications up to an offset, and when their time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) struct Mark {
    pub to: Offset,
    pub due: Time,
    /// Of the first of them.
    begun: Time,
}

/// A publication whose publisher hears who has got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub) struct Sent {
    pub offset: Offset,
    pub user: UserName,
    /// Members besides the publisher, as they were said last.
    pub received: u32,
    pub read: u32,
}

impl Watch {
    /// Nothing up to there is to be said.
    pub fn at(judged: Offset) -> Watch {
        Watch { judged, ..Watch::default() }
    }

    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter()
    }

    /// Who has not acknowledged it after `patience` is to be named.
    pub fn mark(&mut self, to: Offset, patience: Duration, now: Time) {
        let due = now + patience;
        let full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some(last) if full || now < last.begun + patience / PARTS => {
                (last.to, last.due) = (to, last.due.max(due));
            }
            _ => self.marks.push_back(Mark { to, due, begun: now }),
        }
    }

    /// As it was in another process.
    pub fn restore_mark(&mut self, to: Offset, due: Time) {
        let last = self.marks.back();
        if self.marks.len() < MARKS_MAX && last.is_none_or(|last| last.to < to && last.due <= due) {
            self.marks.push_back(Mark { to, due, begun: Time::ZERO });
        }
    }

    /// Up to where the time of publications is over.
    pub fn take_marks(&mut self, now: Time) -> Option<Offset> {
        let mut to = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.due <= now) {
            to = Some(mark.to);
            self.marks.pop_front();
        }
        to
    }

    /// The publisher is to hear who gets it.
    pub fn follow(&mut self, offset: Offset, user: &UserName) {
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { offset, user: user.clone(), received: 0, read: 0 });
    }

    /// A cursor has moved.
    pub fn moved(&mut self, tells_acked: bool, now: Time) {
        if tells_acked && self.moved_at.is_none() {
            self.moved_at = Some(now + ACKED_EVERY);
        }
        if !self.sent.is_empty() && self.receipts_at.is_none() {
            self.receipts_at = Some(self.receipts_from.max(now));
        }
    }

    /// It is time to say what has moved.
    pub fn take_moved(&mut self, now: Time) -> bool {
        self.moved_at.take_if(|at| *at <= now).is_some()
    }

    /// Publishers are to hear what has come of what they sent.
    pub fn take_receipts(&mut self, now: Time) -> bool {
        let is_due = self.receipts_at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.receipts_from = now + RECEIPTS_EVERY;
        }
        is_due
    }

    fn next(&self) -> Option<Time> {
        let mark = self.marks.front().map(|mark| mark.due);
        mark.into_iter().chain(self.moved_at).chain(self.receipts_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_of_one_moment_are_judged_together_and_marks_are_few() {
        let patience = Duration::from_secs(8);
        let mut watch = Watch::default();
        for (offset, ms) in [(1, 0), (2, 900), (3, 1_000), (4, 1_999), (5, 3_000)] {
            watch.mark(Offset(offset), patience, Time::from_millis(ms));
        }
        let due: Vec<_> = watch.marks().map(|mark| (mark.to.0, mark.due.as_millis())).collect();
        assert_eq!(due, [(2, 8_900), (4, 9_999), (5, 11_000)]);
        assert_eq!(
            (watch.take_marks(Time::from_millis(8_899)), watch.next()),
            (None, Some(Time::from_millis(8_900)))
        );
        assert_eq!(watch.take_marks(Time::from_millis(10_000)), Some(Offset(4)), "both in one");
        for offset in 6..1_000 {
            watch.mark(Offset(offset), patience, Time::from_millis(offset * 100));
            assert!(watch.marks.len() <= PARTS as usize + 2, "{}", watch.marks.len());
            watch.take_marks(Time::from_millis(offset * 100));
        }
        for offset in 1_000..1_100 {
            watch.mark(Offset(offset), Duration::ZERO, Time::from_millis(offset * 100));
        }
        assert!(watch.marks.len() <= MARKS_MAX);
        assert_eq!(watch.take_marks(Time::NEVER), Some(Offset(1_099)));
    }

    #[test]
    fn publishers_hear_at_once_and_then_once_a_second() {
        let mut watch = Watch::default();
        watch.moved(false, Time::from_millis(5));
        assert_eq!(watch.next(), None, "nothing was sent");
        watch.follow(Offset(1), &"ann".into());
        for (ms, due) in [(10, 10), (20, 1_010), (1_500, 2_010), (9_000, 9_000)] {
            watch.moved(false, Time::from_millis(ms));
            watch.moved(false, Time::from_millis(ms + 1));
            assert_eq!(watch.next(), Some(Time::from_millis(due)));
            assert!(
                !watch.take_receipts(Time::from_millis(due - 1))
                    && watch.take_receipts(Time::from_millis(due))
            );
        }
        for offset in 2..200 {
            watch.follow(Offset(offset), &"ann".into());
        }
        assert_eq!((watch.sent.len(), watch.sent[0].offset), (SENT_MAX, Offset(200 - SENT_MAX as u64)));
    }
}
