//! Gives the publications of one channel their places: epoch, offsets, versions. Idempotency keys, which all channels of an
//! owner share, are [`super::idempotency`]'s.
//!
//! Inputs: what is kept, in order. Must not know: where it is kept, who is subscribed.

use crate::base::ids::{Epoch, Offset, Position};

pub(super) struct Sequencer {
    epoch: Epoch,
    top: Offset,
    /// The newest version published; most channels never have one.
    version: Option<Box<Version>>,
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    pub number: u64,
    /// Empty when the publication had none.
    pub epoch: Box<str>,
}

impl Version {
    /// `None` for 0, which is none.
    pub fn of(number: u64, epoch: Box<str>) -> Option<Version> {
        (number > 0).then_some(Version { number, epoch })
    }

    /// Whether another version is not above this one, of the same version epoch or without one.
    pub fn covers(&self, version: u64, epoch: &str) -> bool {
        version <= self.number && (epoch.is_empty() || *epoch == *self.epoch)
    }
}

impl Sequencer {
    pub fn new(epoch: Epoch) -> Sequencer {
        Sequencer { epoch, top: Offset(0), version: None }
    }

    /// Of a log that ends at `position`.
    pub fn at(position: Position, version: Option<Version>) -> Sequencer {
        Sequencer { epoch: position.epoch, top: position.offset, version: version.map(Box::new) }
    }

    /// Of the newest publication, kept or not.
    pub fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch }
    }

    /// The place of the next publication, with `under_way` before it that have no place in sight yet.
    pub fn next(&self, under_way: u64) -> Position {
        Position { offset: Offset(self.top.0 + under_way + 1), epoch: self.epoch }
    }

    /// The publication at the next place is there.
    pub fn took(&mut self, offset: Offset) {
        debug_assert_eq!(offset, self.top.next(), "a log has no hole");
        self.top = offset;
    }

    /// Leaves out so many offsets.
    pub fn jump(&mut self, by: u64) {
        self.top = Offset(self.top.0.saturating_add(by));
    }

    /// Whether a version is not above the newest, of the same version epoch or without one.
    pub fn has_seen(&self, version: u64, epoch: &str) -> bool {
        self.version.as_ref().is_some_and(|seen| seen.covers(version, epoch))
    }

    pub fn saw(&mut self, version: Version) {
        self.version = Some(Box::new(version));
    }

    pub fn version(&self) -> Option<&Version> {
        self.version.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_on_behind_what_is_there_and_what_is_under_way() {
        let mut sequencer = Sequencer::new(Epoch(7));
        assert_eq!((sequencer.position().offset, sequencer.next(0).offset), (Offset(0), Offset(1)));
        assert_eq!(sequencer.next(2), Position { offset: Offset(3), epoch: Epoch(7) });
        sequencer.took(Offset(1));
        assert_eq!((sequencer.position().offset, sequencer.next(1).offset), (Offset(1), Offset(3)));
    }

    #[test]
    fn versions_are_compared_within_their_epoch_or_without_one() {
        let mut sequencer = Sequencer::new(Epoch(7));
        assert!(!sequencer.has_seen(1, ""));
        sequencer.saw(Version { number: 5, epoch: "a".into() });
        let seen =
            [(5, "a"), (6, "a"), (5, ""), (4, "b")].map(|(number, epoch)| sequencer.has_seen(number, epoch));
        assert_eq!(seen, [true, false, true, false]);
    }
}
