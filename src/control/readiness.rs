//! What keeps the node from getting clients.

use std::sync::atomic::{AtomicU8, Ordering};

/// Why a node should get no clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NotReady {
    /// Not all shards listen.
    Starting = 1,
    /// A signal ends it.
    Ending = 1 << 1,
    /// Its clients are to go elsewhere.
    Draining = 1 << 2,
    /// Another process takes over.
    Upgrading = 1 << 3,
    /// The engine that nodes share does not answer.
    EngineAway = 1 << 4,
    /// The store does not take what is to be kept.
    StoreAway = 1 << 5,
    /// A shard does not answer: see [`Readiness::lives`].
    Stuck = 1 << 6,
}

impl NotReady {
    /// The one that matters most comes first.
    const ALL: [NotReady; 7] = [
        NotReady::Stuck,
        NotReady::Ending,
        NotReady::Draining,
        NotReady::Upgrading,
        NotReady::Starting,
        NotReady::EngineAway,
        NotReady::StoreAway,
    ];

    pub fn reason(self) -> &'static str {
        match self {
            NotReady::Starting => "starting",
            NotReady::Ending => "ending",
            NotReady::Draining => "draining",
            NotReady::Upgrading => "upgrading",
            NotReady::EngineAway => "the engine is away",
            NotReady::StoreAway => "the store is away",
            NotReady::Stuck => "a shard does not answer",
        }
    }
}

/// Everything that keeps the node from being ready. Each is set and taken back by whom it concerns.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Default for Readiness {
    fn default() -> Readiness {
        Readiness(AtomicU8::new(NotReady::Starting as u8))
    }
}

impl Readiness {
    pub fn set(&self, why: NotReady, holds: bool) {
        match holds {
            true => self.0.fetch_or(why as u8, Ordering::Relaxed),
            false => self.0.fetch_and(!(why as u8), Ordering::Relaxed),
        };
    }

    pub fn has(&self, why: NotReady) -> bool {
        self.0.load(Ordering::Relaxed) & why as u8 != 0
    }

    /// Every shard answers.
    pub fn lives(&self) -> bool {
        !self.has(NotReady::Stuck)
    }

    pub fn why_not(&self) -> Option<&'static str> {
        NotReady::ALL.into_iter().find(|why| self.has(*why)).map(NotReady::reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_and_go_apart() {
        let readiness = Readiness::default();
        assert_eq!(readiness.why_not(), Some("starting"));
        readiness.set(NotReady::Draining, true);
        assert_eq!(readiness.why_not(), Some("draining"));
        readiness.set(NotReady::Starting, false);
        readiness.set(NotReady::StoreAway, true);
        readiness.set(NotReady::Draining, false);
        assert_eq!(readiness.why_not(), Some("the store is away"));
        readiness.set(NotReady::StoreAway, false);
        assert_eq!(readiness.why_not(), None);
        assert!(readiness.lives());
        // Each has a bit of its own.
        for why in NotReady::ALL {
            readiness.set(why, true);
            assert_eq!(NotReady::ALL.into_iter().filter(|other| readiness.has(*other)).count(), 1);
            assert_eq!(readiness.why_not(), Some(why.reason()));
            readiness.set(why, false);
        }
    }
}
