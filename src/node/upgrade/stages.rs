//! How long each part of a move took, for the log of the old process: which of them clients waited for, and where to look when it
//! is too long.

use std::fmt;
use std::time::{Duration, Instant};

/// What has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeStage {
    /// Sockets have gone ahead; clients were served.
    Ahead,
    /// All shards are at rest: nothing is on its way between two of them.
    Rest,
    /// Records of all shards are with the new process.
    Records,
    /// It has them in their places.
    Adopted,
    /// It serves.
    Serving,
}

/// The moments at which parts of one move ended.
pub struct UpgradeStages {
    began: Instant,
    ended: Vec<(UpgradeStage, Instant)>,
}

impl UpgradeStages {
    pub fn begin() -> UpgradeStages {
        UpgradeStages { began: Instant::now(), ended: Vec::new() }
    }

    pub fn next(&mut self, stage: UpgradeStage) {
        self.ended.push((stage, Instant::now()));
    }

    /// A shard gave something: after the first part that is the sign that all of them are at rest.
    pub fn spoken(&mut self) {
        if let [(UpgradeStage::Ahead, _)] = self.ended[..] {
            self.next(UpgradeStage::Rest);
        }
    }

    /// Since clients wait, up to now or to when they were served.
    pub fn silence(&self) -> Duration {
        match self.ended[..] {
            [] => Duration::ZERO,
            [(_, frozen), .., (UpgradeStage::Serving, served)] => served.duration_since(frozen),
            [(_, frozen), ..] => frozen.elapsed(),
        }
    }
}

impl fmt::Display for UpgradeStages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = self.began;
        for (place, (stage, at)) in self.ended.iter().enumerate() {
            let what = match stage {
                UpgradeStage::Ahead => "sockets went ahead in",
                UpgradeStage::Rest => "clients waited for shards to come to rest",
                UpgradeStage::Records => "for records",
                UpgradeStage::Adopted => "for the new process to arrange them",
                UpgradeStage::Serving => "for it to serve",
            };
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{what} {} ms", at.duration_since(before).as_millis())?;
            before = *at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_wait_for_begins_behind_what_went_ahead() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut stages = UpgradeStages { began, ended: Vec::new() };
        stages.spoken();
        assert_eq!((stages.ended.len(), stages.silence()), (0, Duration::ZERO), "those are sockets");
        stages.ended.push((UpgradeStage::Ahead, at(100)));
        stages.spoken();
        stages.spoken();
        assert_eq!(stages.ended.len(), 2, "the first is the sign");
        stages.ended = vec![
            (UpgradeStage::Ahead, at(100)),
            (UpgradeStage::Rest, at(103)),
            (UpgradeStage::Records, at(160)),
            (UpgradeStage::Adopted, at(170)),
            (UpgradeStage::Serving, at(175)),
        ];
        assert_eq!(stages.silence(), Duration::from_millis(75));
        assert_eq!(
            stages.to_string(),
            "sockets went ahead in 100 ms, clients waited for shards to come to rest 3 ms, for records 57 ms, \
             for the new process to arrange them 10 ms, for it to serve 5 ms"
        );
    }
}
