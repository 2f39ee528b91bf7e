//! The circuit breaker: whether a backend is asked at all. A pure state machine; time is an argument.
//!
//! ```text
//!              failed and slow ones >= percent of the last 10 s
//!   Closed ────────────────────────────────────────────────────▶ Open: one probe in each interval
//!      ▲                                                           │
//!      └───────────────────── a probe is answered well ────────────┘
//! ```
//! Probes are real hook calls. A probe that hangs does not hold up the next one, so that the backend is found well again
//! one interval after it is, however long the last probe would still wait.

use std::time::Duration;

use crate::base::time::Time;

/// The window that the percentage is of, in seconds, and the parts in which it slides.
const WINDOW_SECONDS: u64 = 10;
/// Fewer hook calls in the window say nothing about the backend: one client's bad luck closes it to nobody.
const QUESTIONS_MIN: u32 = 10;

#[derive(Clone, Copy, Debug)]
pub struct BreakerOptions {
    /// 0: never opens.
    pub percent: u32,
    pub probe_interval: Duration,
}

/// Between two changes of state. The outcome of a hook call counts only in the round in which it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerChange {
    Opened,
    Closed,
}

#[derive(Debug)]
pub struct Breaker {
    options: BreakerOptions,
    round: u64,
    state: BreakerState,
}

#[derive(Debug)]
enum BreakerState {
    Closed(BreakerWindow),
    Open { next_probe: Time },
}

/// What was answered in each of the last seconds.
#[derive(Debug, Default)]
struct BreakerWindow {
    seconds: [Second; WINDOW_SECONDS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    answers: u32,
    failures: u32,
}

impl Breaker {
    pub fn new(options: BreakerOptions) -> Breaker {
        Breaker { options, round: 0, state: BreakerState::Closed(BreakerWindow::default()) }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, BreakerState::Open { .. })
    }

    /// Takes a hook call that is going to be asked now; `None`: it must not be.
    pub fn admit(&mut self, now: Time) -> Option<Round> {
        if let BreakerState::Open { next_probe } = &mut self.state {
            if now < *next_probe {
                return None;
            }
            *next_probe = now + self.options.probe_interval;
        }
        Some(Round(self.round))
    }

    /// Takes the outcome of a hook call of `round`.
    pub fn record(&mut self, round: Round, well: bool, now: Time) -> Option<BreakerChange> {
        if round.0 != self.round {
            return None;
        }
        match &mut self.state {
            BreakerState::Open { .. } if well => {
                self.round += 1;
                self.state = BreakerState::Closed(BreakerWindow::default());
                Some(BreakerChange::Closed)
            }
            BreakerState::Open { .. } => None,
            BreakerState::Closed(window) => {
                window.add(well, now);
                let (answers, failures) = window.sums(now);
                let reached =
                    u64::from(failures) * 100 >= u64::from(self.options.percent) * u64::from(answers);
                if self.options.percent == 0 || well || answers < QUESTIONS_MIN || !reached {
                    return None;
                }
                self.round += 1;
                self.state = BreakerState::Open { next_probe: now + self.options.probe_interval };
                Some(BreakerChange::Opened)
            }
        }
    }
}

impl BreakerWindow {
    fn add(&mut self, well: bool, now: Time) {
        let number = second_of(now);
        let second = &mut self.seconds[(number % WINDOW_SECONDS) as usize];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        second.answers += 1;
        second.failures += u32::from(!well);
    }

    fn sums(&self, now: Time) -> (u32, u32) {
        let number = second_of(now);
        let recent = self.seconds.iter().filter(|second| second.number + WINDOW_SECONDS > number);
        recent.fold((0, 0), |(answers, failures), second| {
            (answers + second.answers, failures + second.failures)
        })
    }
}

fn second_of(now: Time) -> u64 {
    now.as_millis() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    fn breaker(percent: u32) -> Breaker {
        Breaker::new(BreakerOptions { percent, probe_interval: INTERVAL })
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn fail(breaker: &mut Breaker, count: u32, now: Time) {
        for _ in 0..count {
            let round = breaker.admit(now).expect("closed");
            breaker.record(round, false, now);
        }
    }

    #[test]
    fn opens_at_the_percentage_and_closes_by_a_probe() {
        let mut breaker = breaker(50);
        fail(&mut breaker, QUESTIONS_MIN - 1, at(0));
        assert!(!breaker.is_open(), "too few to say");
        let round = breaker.admit(at(1)).unwrap();
        assert_eq!(breaker.record(round, false, at(1)), Some(BreakerChange::Opened));
        assert_eq!(breaker.admit(at(500)), None);
        let first = breaker.admit(at(501)).expect("a probe");
        assert_eq!(breaker.admit(at(501)), None, "one in an interval");
        let second = breaker.admit(at(1001)).expect("the first one hangs and holds up nobody");
        assert_eq!(breaker.record(first, false, at(1100)), None);
        assert_eq!(breaker.record(second, true, at(1101)), Some(BreakerChange::Closed));
        assert!(breaker.admit(at(1101)).is_some() && breaker.admit(at(1101)).is_some());
    }

    #[test]
    fn what_was_asked_before_a_change_does_not_count_after_it() {
        let mut breaker = breaker(50);
        let before = breaker.admit(at(0)).unwrap();
        fail(&mut breaker, QUESTIONS_MIN, at(0));
        assert!(breaker.is_open());
        assert_eq!(breaker.record(before, true, at(1)), None, "an answer from before closes nothing");
        assert!(breaker.is_open());
        let probe = breaker.admit(at(500)).unwrap();
        let late_probe = breaker.admit(at(1000)).unwrap();
        breaker.record(probe, true, at(1000));
        for _ in 0..QUESTIONS_MIN {
            breaker.record(late_probe, false, at(1001));
        }
        assert!(!breaker.is_open(), "nor does a late probe open it again");
    }

    #[test]
    fn failures_of_long_ago_are_forgotten() {
        let mut breaker = breaker(50);
        fail(&mut breaker, QUESTIONS_MIN - 1, at(0));
        let round = breaker.admit(at(10_000)).unwrap();
        breaker.record(round, false, at(10_000));
        assert!(!breaker.is_open());
    }

    #[test]
    fn zero_percent_never_opens() {
        let mut breaker = breaker(0);
        fail(&mut breaker, 10_000, at(0));
        assert!(!breaker.is_open());
    }

    /// Any sequence of hook calls and outcomes against a model that keeps every outcome and counts from the start each time.
    #[test]
    fn behaves_as_a_model_that_remembers_everything() {
        struct Model {
            open: bool,
            round: u64,
            outcomes: Vec<(u64, bool)>,
            last_probe_ms: u64,
        }
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let percent = random.u32(1..=100);
            let mut breaker = breaker(percent);
            let mut model = Model { open: false, round: 0, outcomes: Vec::new(), last_probe_ms: 0 };
            let mut asked: Vec<(Round, u64)> = Vec::new();
            let mut now_ms = random.u64(0..5000);
            let health = random.u32(0..=100);
            for _ in 0..500 {
                now_ms += random.u64(0..400);
                let now = at(now_ms);
                if random.bool() {
                    let admitted = breaker.admit(now);
                    let expected = !model.open || now_ms >= model.last_probe_ms + 500;
                    assert_eq!(admitted.is_some(), expected, "seed {seed} at {now_ms} ms");
                    if let Some(round) = admitted {
                        if model.open {
                            model.last_probe_ms = now_ms;
                        }
                        asked.push((round, model.round));
                    }
                } else if !asked.is_empty() {
                    let (round, model_round) = asked.swap_remove(random.usize(..asked.len()));
                    let well = random.u32(0..100) < health;
                    let change = breaker.record(round, well, now);
                    let mut expected = None;
                    if model_round == model.round {
                        if model.open {
                            if well {
                                expected = Some(BreakerChange::Closed);
                            }
                        } else {
                            model.outcomes.push((now_ms / 1000, well));
                            let recent = |outcome: &&(u64, bool)| outcome.0 + 10 > now_ms / 1000;
                            let answers = model.outcomes.iter().filter(recent).count();
                            let failures = model.outcomes.iter().filter(recent).filter(|o| !o.1).count();
                            let share = failures as f64 / answers as f64 * 100.0;
                            if !well && answers >= 10 && share >= f64::from(percent) - 1e-9 {
                                expected = Some(BreakerChange::Opened);
                            }
                        }
                    }
                    if let Some(change) = expected {
                        model.round += 1;
                        model.outcomes.clear();
                        model.open = change == BreakerChange::Opened;
                        model.last_probe_ms = now_ms;
                    }
                    assert_eq!(change, expected, "seed {seed} at {now_ms} ms");
                }
                assert_eq!(breaker.is_open(), model.open, "seed {seed} at {now_ms} ms");
            }
        }
    }
}
