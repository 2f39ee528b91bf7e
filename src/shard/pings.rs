//! When a peer is pinged, and what its silence means: pure.

use std::time::Duration;

use crate::base::fault::Disconnect;
use crate::shard::timers::{TICK_MS, TimerTick};

/// How a kind of peer shows that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers a ping within the pong timeout.
    Pong,
    /// It answers a ping before the next one.
    PongUntilNext,
    /// It answers nothing; it is known only that it reads.
    Reads,
}

/// What is known of a peer whose ping, or pong, is due.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    pub liveness: Liveness,
    /// A ping went out.
    pub awaits_pong: bool,
    /// And was not answered.
    pub outstanding: bool,
    /// Its socket takes nothing.
    pub blocked: bool,
    /// We do not read from it: its pong may be behind what we have not read.
    pub input_paused: bool,
    /// Until when silence proves nothing, because the shard does not keep up.
    pub excused_until: Option<TimerTick>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PingVerdict {
    Close(Disconnect),
    /// Look again then.
    Wait {
        due: TimerTick,
        awaits_pong: bool,
    },
    /// Send a ping, and look again then.
    Ping {
        due: TimerTick,
        awaits_pong: bool,
    },
}

/// Pings that were due while nobody served go out within this time, or a quarter of their interval: all at once they would hold
/// up for a second what is published to a million connections.
const LATE_PINGS_OVER: Duration = Duration::from_secs(3);

/// Pings that were due before this process served its connections, if others had them before.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatePings(Option<TimerTick>);

impl LatePings {
    pub fn before(served: TimerTick) -> LatePings {
        LatePings(Some(served))
    }

    /// How many ticks later a ping goes out that was due before. Others are not late by that.
    pub fn delay(self, slot: u32, due: TimerTick, interval: Duration) -> Option<u64> {
        if self.0.is_none_or(|served| due >= served) {
            return None;
        }
        let over = (LATE_PINGS_OVER.min(interval / 4).as_millis() as u64 / TICK_MS).max(1);
        // Even for any slots: by the golden ratio.
        Some(1 + ((u64::from(slot.wrapping_mul(0x9E37_79B1)) * over) >> 32))
    }
}

impl Beat {
    pub fn judge(self, now: TimerTick, interval: Duration, pong_timeout: Duration) -> PingVerdict {
        let after = |time| ticks_after(now, time);
        if self.liveness != Liveness::Pong {
            // Of a peer without pongs, only a full socket says something.
            let heard = (self.liveness == Liveness::PongUntilNext || self.blocked) && !self.input_paused;
            let due = after(interval);
            return match self {
                _ if self.awaits_pong && heard => PingVerdict::Close(self.silence()),
                // A ping would only lie behind what it does not read.
                _ if self.blocked || self.input_paused => PingVerdict::Wait { due, awaits_pong: heard },
                _ => PingVerdict::Ping { due, awaits_pong: heard },
            };
        }
        match (self.awaits_pong, self.outstanding) {
            (false, _) => PingVerdict::Ping { due: after(pong_timeout), awaits_pong: true },
            (true, false) => {
                PingVerdict::Wait { due: after(interval.saturating_sub(pong_timeout)), awaits_pong: false }
            }
            (true, true) if self.blocked => PingVerdict::Close(self.silence()),
            (true, true) if self.input_paused => {
                PingVerdict::Wait { due: after(pong_timeout), awaits_pong: true }
            }
            (true, true) => match self.excused_until {
                Some(due) => PingVerdict::Wait { due, awaits_pong: true },
                None => PingVerdict::Close(self.silence()),
            },
        }
    }

    fn silence(self) -> Disconnect {
        if self.blocked { Disconnect::SLOW } else { Disconnect::NO_PONG }
    }
}

/// At least one tick later, so that the wheel moves on.
fn ticks_after(now: TimerTick, after: Duration) -> TimerTick {
    now.saturating_add((after.as_millis() as u64).div_ceil(TICK_MS).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_that_were_due_before_are_spread_and_others_are_not_late() {
        let interval = Duration::from_secs(25);
        assert_eq!(LatePings::default().delay(1, 5, interval), None, "nobody had them before");
        let late_pings = LatePings::before(100);
        assert_eq!(late_pings.delay(1, 100, interval), None);
        let over = LATE_PINGS_OVER.as_millis() as u64 / TICK_MS;
        let mut each = vec![0; over as usize];
        for slot in 0..15_000 {
            each[late_pings.delay(slot, 99, interval).unwrap() as usize - 1] += 1;
        }
        assert!(each.iter().all(|&count| (95..=105).contains(&count)), "{each:?}");
        // A short interval has short delays, and one tick at least.
        let most =
            |interval| (0..1_000).filter_map(|slot| late_pings.delay(slot, 0, interval)).max().unwrap();
        assert_eq!((most(Duration::from_secs(1)), most(Duration::from_millis(1))), (250 / TICK_MS, 1));
    }

    const NOW: TimerTick = 1_000;
    const INTERVAL: Duration = Duration::from_millis(25 * TICK_MS);
    const TIMEOUT: Duration = Duration::from_millis(10 * TICK_MS);

    fn judge(beat: Beat) -> PingVerdict {
        beat.judge(NOW, INTERVAL, TIMEOUT)
    }

    fn beat(liveness: Liveness) -> Beat {
        Beat {
            liveness,
            awaits_pong: false,
            outstanding: true,
            blocked: false,
            input_paused: false,
            excused_until: None,
        }
    }

    #[test]
    fn a_client_has_a_pong_timeout_and_then_rests_until_the_interval_is_over() {
        let quiet = beat(Liveness::Pong);
        assert_eq!(judge(quiet), PingVerdict::Ping { due: NOW + 10, awaits_pong: true });
        let pinged = Beat { awaits_pong: true, ..quiet };
        assert_eq!(judge(pinged), PingVerdict::Close(Disconnect::NO_PONG));
        let answered = Beat { outstanding: false, ..pinged };
        assert_eq!(judge(answered), PingVerdict::Wait { due: NOW + 15, awaits_pong: false });
    }

    #[test]
    fn silence_is_no_fault_of_a_client_that_was_not_read_from_or_of_a_late_shard() {
        let pinged = Beat { awaits_pong: true, ..beat(Liveness::Pong) };
        let unread = Beat { input_paused: true, ..pinged };
        assert_eq!(judge(unread), PingVerdict::Wait { due: NOW + 10, awaits_pong: true });
        let late = Beat { excused_until: Some(NOW + 77), ..pinged };
        assert_eq!(judge(late), PingVerdict::Wait { due: NOW + 77, awaits_pong: true });
        // One that reads nothing is slow, whatever else is the case.
        for slow in [unread, late].map(|beat| Beat { blocked: true, ..beat }) {
            assert_eq!(judge(slow), PingVerdict::Close(Disconnect::SLOW));
        }
    }

    #[test]
    fn who_answers_by_the_next_ping_is_pinged_each_interval() {
        let quiet = beat(Liveness::PongUntilNext);
        assert_eq!(judge(quiet), PingVerdict::Ping { due: NOW + 25, awaits_pong: true });
        let pinged = Beat { awaits_pong: true, ..quiet };
        assert_eq!(judge(pinged), PingVerdict::Close(Disconnect::NO_PONG));
        assert_eq!(judge(Beat { blocked: true, ..pinged }), PingVerdict::Close(Disconnect::SLOW));
        let unread = Beat { input_paused: true, ..pinged };
        assert_eq!(judge(unread), PingVerdict::Wait { due: NOW + 25, awaits_pong: false });
    }

    #[test]
    fn who_answers_nothing_is_closed_only_for_a_socket_that_stays_full() {
        let quiet = beat(Liveness::Reads);
        assert_eq!(judge(quiet), PingVerdict::Ping { due: NOW + 25, awaits_pong: false });
        let blocked = Beat { blocked: true, ..quiet };
        assert_eq!(judge(blocked), PingVerdict::Wait { due: NOW + 25, awaits_pong: true });
        assert_eq!(judge(Beat { awaits_pong: true, ..blocked }), PingVerdict::Close(Disconnect::SLOW));
        let free_again = Beat { awaits_pong: true, ..quiet };
        assert_eq!(judge(free_again), PingVerdict::Ping { due: NOW + 25, awaits_pong: false });
    }

    #[test]
    fn an_interval_of_nothing_moves_on() {
        let verdict = beat(Liveness::PongUntilNext).judge(NOW, Duration::ZERO, Duration::ZERO);
        assert_eq!(verdict, PingVerdict::Ping { due: NOW + 1, awaits_pong: true });
    }
}
