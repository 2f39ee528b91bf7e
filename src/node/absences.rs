//! How much of the cpus' time goes elsewhere: to other programs, or to the host that this machine is a guest of, which
//! no account of the guest's shows.
//!
//! Inputs: for how long to look. Outputs: what was missing. Must not know: what it is asked for.

use std::thread;
use std::time::{Duration, Instant};

/// An interrupt takes less; what takes more, a delivery waits for.
const ABSENT_MIN: Duration = Duration::from_micros(200);

/// What one cpu lacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    pub total: Duration,
    pub longest: Duration,
}

impl Absence {
    /// `now` is the time since the watch began, `before` what it was at the reading before this.
    fn note(&mut self, before: Duration, now: Duration) {
        let away = now.saturating_sub(before);
        if away >= ABSENT_MIN {
            self.total += away;
            self.longest = self.longest.max(away);
        }
    }
}

/// Reads the clock over and over on every cpu that this process may use, on all at once, for `span`; gives the worst cpu's
/// absence.
pub fn worst(span: Duration) -> Absence {
    let watchers: Vec<_> = (0..thread::available_parallelism().map_or(1, usize::from))
        .map(|number| {
            thread::spawn(move || {
                super::pin_to(number);
                watch(span)
            })
        })
        .collect();
    let absences = watchers.into_iter().filter_map(|watcher| watcher.join().ok());
    absences.max_by_key(|absence| absence.total).unwrap_or_default()
}

fn watch(span: Duration) -> Absence {
    let began = Instant::now();
    let (mut absence, mut before) = (Absence::default(), Duration::ZERO);
    while before < span {
        let now = began.elapsed();
        absence.note(before, now);
        before = now;
    }
    absence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_longer_than_an_interrupt_counts() {
        let mut absence = Absence::default();
        let us = Duration::from_micros;
        for (before, now) in [(0, 1), (1, 200), (200, 400), (400, 5_400), (5_400, 5_401)] {
            absence.note(us(before), us(now));
        }
        assert_eq!(absence, Absence { total: us(5_200), longest: us(5_000) });
    }
}
