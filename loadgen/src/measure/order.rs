//! Duplicates and order of one subscription, in 24 bytes.

use super::mark::Mark;

/// Sequences whose arrival is remembered, below the newest.
const WINDOW: u32 = 64;

/// One channel of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subscription {
    pub channel: u32,
    /// One above the highest sequence that arrived. 0: nothing has.
    newest: u32,
    /// The highest floor that arrived.
    floor: u32,
    /// Bit n: `newest - 1 - n` arrived.
    window: u64,
}

const _: () = assert!(size_of::<Subscription>() == 24, "what a subscription costs the generator");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    InOrder,
    Duplicate,
    /// After one that the server had taken later.
    OutOfOrder,
}

impl Subscription {
    pub fn new(channel: u32) -> Subscription {
        Subscription { channel, ..Subscription::default() }
    }

    pub fn arrive(&mut self, mark: &Mark) -> Arrival {
        let newest = mark.sequence.wrapping_add(1);
        let arrival = if newest > self.newest {
            let by = newest - self.newest;
            self.window = if by < WINDOW { self.window << by | 1 } else { 1 };
            self.newest = newest;
            Arrival::InOrder
        } else {
            let back = self.newest - newest;
            let bit = if back < WINDOW { 1 << back } else { 0 };
            if self.window & bit != 0 {
                Arrival::Duplicate
            } else if mark.sequence < self.floor {
                self.window |= bit;
                Arrival::OutOfOrder
            } else {
                self.window |= bit;
                Arrival::InOrder
            }
        };
        self.floor = self.floor.max(mark.floor);
        arrival
    }
}

#[cfg(test)]
mod tests {
    use trunkline::base::time::Time;

    use super::*;
    use crate::measure::mark::MarkKind;

    fn mark(sequence: u32, floor: u32) -> Mark {
        let kind = MarkKind::Publication;
        Mark { kind, run: 0, channel: 0, number: 0, sequence, floor, planned: Time::ZERO }
    }

    #[test]
    fn order_is_held_against_what_was_acknowledged() {
        let mut subscription = Subscription::new(0);
        let mut arrive = |sequence, floor| subscription.arrive(&mark(sequence, floor));
        assert_eq!(arrive(5, 5), Arrival::InOrder, "the first may be any");
        assert_eq!(arrive(7, 5), Arrival::InOrder);
        assert_eq!(arrive(6, 5), Arrival::InOrder, "6 and 7 were under way at once");
        assert_eq!(arrive(7, 5), Arrival::Duplicate);
        assert_eq!(arrive(10, 9), Arrival::InOrder, "8 and 9 are missing");
        assert_eq!(arrive(8, 7), Arrival::OutOfOrder, "8 was acknowledged before 10 was sent");
        assert_eq!(arrive(8, 7), Arrival::Duplicate);
        assert_eq!(arrive(9, 7), Arrival::InOrder);
        assert_eq!(arrive(1000, 999), Arrival::InOrder);
        assert_eq!(arrive(10, 9), Arrival::OutOfOrder, "older than the window: not known to be a duplicate");
        assert_eq!(arrive(u32::MAX - 1, 0), Arrival::InOrder);
    }
}
