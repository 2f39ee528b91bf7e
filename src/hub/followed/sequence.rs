//! Whether the items of a channel's log come to a follower in sequence.
//!
//! An owner numbers its items without a hole. What stands between it and a follower may lose, repeat or reorder them, and
//! the owner may begin a new log: a follower takes an item only behind the one before it. What is missing is read from the
//! owner; what cannot be read is lost to all subscribers here, which the channel's gap policy tells them.
//! ```text
//!               next                     read: whole
//!            ┌───────┐            ┌──────────────────────────┐
//!            ▼       │   ahead    │                          │   read: lost, or another epoch
//!  unknown ─▶ in sequence ───────▶ hole: asks the owner ─────┴──────────────────────────────▶ gap: in sequence again
//!    first                          next ones are taken, so that a late item closes it
//! ```

use std::sync::Arc;

use crate::base::ids::{Epoch, Offset, Position};
use crate::base::publication::Publication;

/// What a follower knows of a channel's log.
pub(super) struct Sequence {
    /// Of the last item taken. [`Epoch::NONE`]: unknown.
    top: Position,
    /// Boxed: there is none as long as items come in order.
    hole: Option<Box<Hole>>,
}

/// Something is missing between the top and an item that has come.
struct Hole {
    /// The farthest that was heard of.
    to: Position,
    /// The item there, if it was an item.
    newest: Option<Arc<Publication>>,
    /// Somebody has subscribed in another epoch: the subscribers stand in different logs.
    mixed: bool,
    /// The number of the read under way, and the farthest that was heard of before it.
    asked: Option<(u32, Position)>,
}

/// What is to become of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Next,
    /// It was taken before.
    Repeated,
    /// Something before it is missing.
    Ahead,
}

/// What a read came to.
pub(super) enum Filled {
    Whole,
    /// There is more to read.
    Part,
    /// Something is lost. The sequence goes on from where the owner stands.
    Lost {
        newest: Option<Arc<Publication>>,
    },
}

impl Default for Sequence {
    fn default() -> Self {
        Sequence { top: Position { offset: Offset(0), epoch: Epoch::NONE }, hole: None }
    }
}

impl Sequence {
    /// Of the last item taken, or where the owner said that the log stands.
    pub fn top(&self) -> Option<Position> {
        (self.top.epoch != Epoch::NONE).then_some(self.top)
    }

    /// An item has come.
    pub fn accept(&mut self, publication: &Arc<Publication>) -> Verdict {
        let position = publication.position;
        if self.top.epoch == Epoch::NONE {
            (self.top, self.hole) = (position, None);
            return Verdict::Next;
        }
        if position.epoch == self.top.epoch {
            if position.offset <= self.top.offset {
                return Verdict::Repeated;
            }
            if position.offset == self.top.offset.next() {
                self.top = position;
                if self.hole.as_ref().is_some_and(|hole| {
                    hole.to.epoch == position.epoch && hole.to.offset <= position.offset && !hole.mixed
                }) {
                    self.hole = None;
                }
                return Verdict::Next;
            }
        }
        self.hear(publication);
        Verdict::Ahead
    }

    /// An item has come that is not taken.
    pub fn hear(&mut self, publication: &Arc<Publication>) {
        let hole = self.hear_of(publication.position);
        // An older one may come later.
        if hole.to == publication.position {
            hole.newest = Some(Arc::clone(publication));
        }
    }

    /// The owner has said where the log stands, to somebody who subscribes. True when something is missing.
    pub fn learn(&mut self, position: Position, followed: bool) -> bool {
        if !followed || self.top.epoch == Epoch::NONE {
            self.top = position;
            // What was heard of while nobody was here to take it.
            self.hole = self
                .hole
                .take()
                .filter(|hole| hole.to.epoch == position.epoch && hole.to.offset > position.offset);
        } else if position.epoch != self.top.epoch {
            self.hear_of(position).mixed = true;
        } else if position.offset > self.top.offset {
            self.hear_of(position);
        }
        self.hole.is_some()
    }

    /// The owner has said where the log stands, in the place of items. True when something is missing.
    pub fn stand(&mut self, position: Position) -> bool {
        let went_back = position.epoch == self.top.epoch && position.offset < self.top.offset;
        let here = self.learn(position, true);
        if went_back {
            // The owner has lost the end of its log.
            self.hear_of(position).mixed = true;
        }
        here || went_back
    }

    fn hear_of(&mut self, position: Position) -> &mut Hole {
        let hole = self
            .hole
            .get_or_insert_with(|| Box::new(Hole { to: position, newest: None, mixed: false, asked: None }));
        if position.epoch != hole.to.epoch || position.offset > hole.to.offset {
            hole.to = position;
        }
        hole
    }

    /// A read with this number is to be made after the position given; `None` when nothing is missing.
    pub fn ask(&mut self, number: u32) -> Option<Position> {
        let hole = self.hole.as_mut()?;
        hole.asked = Some((number, hole.to));
        Some(self.top)
    }

    /// Whether the read with this number is the one under way.
    pub fn is_asked(&self, number: u32) -> bool {
        let asked = self.hole.as_ref().and_then(|hole| hole.asked);
        asked.is_some_and(|(asked, _)| asked == number)
    }

    /// The read `after` a position was answered by an owner whose log ends at `position`; what it gave was accepted.
    pub fn fill(&mut self, after: Position, position: Position) -> Filled {
        let Some(hole) = &mut self.hole else { return Filled::Whole };
        let known = hole.asked.take().map_or(position, |(_, known)| known);
        // The owner has lost the end of its log, and gives its offsets a second time.
        let went_back = position.epoch == known.epoch && position.offset < known.offset;
        let gave_nothing = self.top == after && position != after;
        if position.epoch != self.top.epoch || hole.mixed || went_back || gave_nothing {
            let taken = |newest: Position| newest.epoch == self.top.epoch && newest.offset <= self.top.offset;
            let newest = hole
                .newest
                .take()
                .filter(|newest| newest.position.epoch == position.epoch && !taken(newest.position));
            (self.top, self.hole) = (position, None);
            return Filled::Lost { newest };
        }
        if self.top.offset < position.offset
            || hole.to.epoch == position.epoch && self.top.offset < hole.to.offset
        {
            return Filled::Part;
        }
        self.hole = None;
        Filled::Whole
    }

    /// The owner has nothing between the last item and the one at `position`.
    pub fn leap_before(&mut self, position: Position) {
        if position.epoch == self.top.epoch && position.offset > self.top.offset.next() {
            self.begin_before(position);
        }
    }

    /// The next item is the one at `position`, whatever was before.
    pub fn begin_before(&mut self, position: Position) {
        self.top = Position { offset: Offset(position.offset.0 - 1), ..position };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Bytes;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { offset: Offset(offset), epoch: Epoch(epoch) }
    }

    fn item(epoch: u64, offset: u64) -> Arc<Publication> {
        Arc::new(Publication {
            channel: "c".into(),
            position: at(epoch, offset),
            data: Bytes::from_static(b"{}"),
            info: None,
            tags: Vec::new(),
            except: None,
            time_ms: 0,
            encoded: Default::default(),
        })
    }

    /// In epoch 1, with everything up to 5.
    fn sequence() -> Sequence {
        let mut sequence = Sequence::default();
        assert!(!sequence.learn(at(1, 5), false));
        sequence
    }

    #[test]
    fn only_the_next_item_is_taken() {
        let mut sequence = sequence();
        let mut accept = |offset| sequence.accept(&item(1, offset));
        use Verdict::{Ahead, Next, Repeated};
        assert_eq!(
            [6, 6, 5, 1, 8, 9, 7].map(&mut accept),
            [Next, Repeated, Repeated, Repeated, Ahead, Ahead, Next]
        );
        // Taking 7 has not closed the hole before 9: 8 was not taken.
        assert_eq!(sequence.top(), Some(at(1, 7)));
        assert_eq!(sequence.ask(1), Some(at(1, 7)));
        assert_eq!([8, 9].map(|offset| sequence.accept(&item(1, offset))), [Next, Next]);
        assert_eq!(sequence.ask(2), None, "what came late has closed the hole");
    }

    #[test]
    fn what_is_newest_after_a_loss_is_the_farthest_and_was_not_taken() {
        // 9 comes before 8, and the owner gives nothing of what is missing.
        let mut sequence = sequence();
        assert_eq!([9, 8].map(|offset| sequence.accept(&item(1, offset))), [Verdict::Ahead; 2]);
        assert_eq!(sequence.ask(1), Some(at(1, 5)));
        let Filled::Lost { newest } = sequence.fill(at(1, 5), at(1, 9)) else { panic!("it is lost") };
        assert_eq!(newest.map(|newest| newest.position), Some(at(1, 9)));

        // 7 was heard of before 6, and taken with what was read; then nothing more can be read.
        let mut sequence = self::sequence();
        sequence.accept(&item(1, 7));
        assert!(sequence.learn(at(1, 9), true));
        assert_eq!([6, 7].map(|offset| sequence.accept(&item(1, offset))), [Verdict::Next; 2]);
        assert_eq!(sequence.ask(2), Some(at(1, 7)));
        let Filled::Lost { newest } = sequence.fill(at(1, 7), at(1, 9)) else { panic!("it is lost") };
        assert_eq!(newest.map(|newest| newest.position), None);
    }

    #[test]
    fn a_hole_is_filled_by_pages_until_the_farthest_that_was_heard_of() {
        let mut sequence = sequence();
        sequence.accept(&item(1, 9));
        assert_eq!(sequence.ask(1), Some(at(1, 5)));
        assert!(sequence.is_asked(1) && !sequence.is_asked(2));
        sequence.accept(&item(1, 6));
        assert!(matches!(sequence.fill(at(1, 5), at(1, 9)), Filled::Part));
        assert!(!sequence.is_asked(1), "an answer that is repeated is none");
        assert_eq!(sequence.ask(2), Some(at(1, 6)));
        for offset in 7..=9 {
            assert_eq!(sequence.accept(&item(1, offset)), Verdict::Next);
        }
        assert!(matches!(sequence.fill(at(1, 6), at(1, 9)), Filled::Whole));
        assert_eq!((sequence.ask(3), sequence.top()), (None, Some(at(1, 9))));
    }

    #[test]
    fn what_the_owner_does_not_have_is_lost_and_the_sequence_goes_on_behind_it() {
        let mut sequence = sequence();
        sequence.accept(&item(1, 9));
        sequence.ask(1);
        let Filled::Lost { newest } = sequence.fill(at(1, 5), at(1, 9)) else { panic!("it gave nothing") };
        assert_eq!(newest.map(|newest| newest.offset()), Some(Offset(9)));
        assert_eq!(sequence.accept(&item(1, 10)), Verdict::Next);
    }

    #[test]
    fn an_owner_that_has_gone_back_has_lost_something() {
        let mut sequence = sequence();
        sequence.accept(&item(1, 9));
        sequence.ask(1);
        for offset in 6..=7 {
            sequence.accept(&item(1, offset));
        }
        assert!(matches!(sequence.fill(at(1, 5), at(1, 7)), Filled::Lost { .. }), "9 is gone");
    }

    #[test]
    fn an_item_of_another_epoch_is_believed_when_the_owner_says_so() {
        let mut stale = sequence();
        assert_eq!(stale.accept(&item(2, 1)), Verdict::Ahead);
        assert_eq!(stale.accept(&item(1, 6)), Verdict::Next);
        assert_eq!(stale.ask(1), Some(at(1, 6)), "the hole stays until the owner was asked");
        assert!(matches!(stale.fill(at(1, 6), at(1, 6)), Filled::Whole), "an old item that came late");

        let mut renewed = sequence();
        renewed.accept(&item(2, 1));
        renewed.ask(1);
        assert!(matches!(renewed.fill(at(1, 5), at(2, 1)), Filled::Lost { newest: Some(_) }));
        assert_eq!(renewed.accept(&item(2, 2)), Verdict::Next);
    }

    #[test]
    fn who_subscribes_in_another_epoch_makes_all_of_them_lose() {
        let mut sequence = sequence();
        assert!(sequence.learn(at(2, 3), true));
        sequence.ask(1);
        assert!(matches!(sequence.fill(at(1, 5), at(1, 5)), Filled::Lost { .. }), "one stands in epoch 2");
    }

    #[test]
    fn what_came_before_the_first_answer_is_not_forgotten() {
        let mut sequence = Sequence::default();
        sequence.hear(&item(1, 7));
        assert!(sequence.learn(at(1, 5), false), "6 and 7 came while nobody was here");
        assert_eq!(sequence.ask(1), Some(at(1, 5)));
        let mut older = Sequence::default();
        older.hear(&item(1, 7));
        assert!(!older.learn(at(2, 0), false), "the rest of another log");
    }

    /// Without an item that shows it: the log is ahead, another one, or behind where it was.
    #[test]
    fn an_owner_that_says_where_its_log_stands_makes_a_hole_where_that_is_elsewhere() {
        let at = |offset, epoch| Position { offset: Offset(offset), epoch: Epoch(epoch) };
        let stood = || {
            let mut sequence = Sequence::default();
            sequence.learn(at(5, 1), false);
            sequence
        };
        assert!(!stood().stand(at(5, 1)));
        for position in [at(7, 1), at(0, 2), at(3, 1)] {
            let mut sequence = stood();
            assert!(sequence.stand(position), "{position:?}");
            assert_eq!(sequence.ask(1), Some(at(5, 1)));
            let filled = sequence.fill(at(5, 1), position);
            // Nothing came of the read: what was ahead is lost as well.
            assert!(matches!(filled, Filled::Lost { .. }), "{position:?}");
            assert_eq!(sequence.top(), Some(position));
        }
    }
}
