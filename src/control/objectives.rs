//! Objectives: whether publications take no longer than they are to. Judged from the times that shards count anyway, off the data
//! path; a change is a line in the log, and a miss an event for the backend.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::base::event::{Event, EventKind, ObjectiveMissed, What};
use crate::base::histogram::Histogram;
use crate::base::ids::ShardId;
use crate::config::Objective;
use crate::control::app::App;
use crate::control::process::wall_ms;
use crate::shard::control_request::ShardStats;
use crate::shard::control_request::seen::Stage;

/// How often one is looked at: a tenth of its window, within these.
const LOOK_MIN: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Looks at each as long as the control plane runs.
pub fn watch(handle: &Handle, app: &Arc<App>, objectives: &[Objective]) {
    for (at, objective) in objectives.iter().enumerate() {
        let Some(judge) = Judge::new(objective) else { continue };
        handle.spawn(look(Arc::clone(app), at, objective.name.clone(), judge));
    }
}

async fn look(app: Arc<App>, at: usize, name: String, mut judge: Judge) {
    let pause = (judge.window / 10).clamp(LOOK_MIN, LOOK_MAX);
    let mut was_met = true;
    loop {
        // A busy shard is looked at the next time.
        if let Ok(stats) = app.api.stats().await {
            let verdict = judge.judge(Instant::now(), &stats);
            if let Some((_, met)) = app.objectives.0.get(at) {
                met.store(verdict.is_none(), Ordering::Relaxed);
            }
            match verdict {
                Some(missed) if was_met => {
                    let (stage, p99) = (judge.stage.name(), missed.p99);
                    tracing::warn!(
                        objective = name,
                        stage,
                        shard = missed.shard.0,
                        "objective missed: p99 is up to {p99:?}, more than {:?}",
                        judge.p99
                    );
                    let told = ObjectiveMissed {
                        objective: name.as_str().into(),
                        stage,
                        shard: missed.shard.0,
                        p99_us: u64::try_from(p99.as_micros()).unwrap_or(u64::MAX),
                    };
                    if app.tells(EventKind::ObjectiveMissed)
                        && let Some(events) = app.events.get()
                    {
                        // Without room for it the log has it still.
                        let what = What::ObjectiveMissed(Box::new(told));
                        let _ = events.tell(Event { time_ms: wall_ms(), what });
                    }
                    was_met = false;
                }
                None if !was_met => {
                    tracing::info!(objective = name, "objective met again");
                    was_met = true;
                }
                _ => {}
            }
        }
        sleep(pause).await;
    }
}

/// What was counted until a moment, by shard.
type Look = (Instant, Vec<(ShardId, Histogram)>);

struct Judge {
    stage: Stage,
    p99: Duration,
    window: Duration,
    /// Bound: a window of looks, which come a tenth of it apart or, in long ones, every `LOOK_MAX`.
    looks: VecDeque<Look>,
}

/// What ninety-nine of a hundred took at most, and the shard where it is worst.
#[derive(Debug, PartialEq, Eq)]
struct Missed {
    p99: Duration,
    shard: ShardId,
}

impl Judge {
    fn new(objective: &Objective) -> Option<Judge> {
        let options = &objective.options;
        let stage = Stage::from_name(&options.stage)?;
        Some(Judge { stage, p99: options.p99, window: options.window, looks: VecDeque::new() })
    }

    /// What is missed in the window that ends now; `None` while the objective is met, or nothing was published.
    fn judge(&mut self, now: Instant, shards: &[ShardStats]) -> Option<Missed> {
        let counted: Vec<(ShardId, Histogram)> =
            shards.iter().map(|shard| (shard.shard, times(shard, self.stage))).collect();
        // The newest look that is older than the window stays: what came since then is judged.
        while self.looks.get(1).is_some_and(|(at, _)| *at + self.window <= now) {
            self.looks.pop_front();
        }
        let none = Histogram::default();
        let before = |shard: ShardId| {
            let first = self.looks.front().and_then(|(_, all)| all.iter().find(|(of, _)| *of == shard));
            first.map_or(&none, |(_, times)| times)
        };
        let recent: Vec<(ShardId, Histogram)> =
            counted.iter().map(|(shard, times)| (*shard, times.since(before(*shard)))).collect();
        self.looks.push_back((now, counted));
        let mut all = Histogram::default();
        recent.iter().for_each(|(_, times)| all.add(times));
        if all.above(self.p99) * 100 <= all.total() {
            return None;
        }
        let worst = recent.iter().max_by_key(|(_, times)| times.above(self.p99))?;
        Some(Missed { p99: all.quantile(0.99)?, shard: worst.0 })
    }
}

fn times(shard: &ShardStats, stage: Stage) -> Histogram {
    let mut sum = Histogram::default();
    shard.stages.iter().for_each(|times| sum.add(&times.stages[stage as usize]));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::observe::ObjectiveOptions;
    use crate::shard::control_request::seen::StageTimes;

    fn shard(number: u16, fast: u64, slow: u64) -> ShardStats {
        let mut stages: [Histogram; crate::shard::control_request::seen::STAGES] = Default::default();
        (0..fast).for_each(|_| stages[Stage::LastWrite as usize].record(Duration::from_millis(2)));
        (0..slow).for_each(|_| stages[Stage::LastWrite as usize].record(Duration::from_millis(700)));
        let stages = vec![StageTimes { namespace: "".into(), stages }];
        ShardStats { shard: ShardId(number), stages, ..ShardStats::default() }
    }

    #[test]
    fn one_of_a_hundred_may_be_slow_and_a_miss_is_over_with_its_window() {
        let options = ObjectiveOptions {
            stage: "last_write".into(),
            p99: Duration::from_millis(100),
            window: Duration::from_secs(10),
        };
        let objective = Objective { name: "fast".into(), options };
        let mut judge = Judge::new(&objective).unwrap();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(judge.judge(at(0), &[shard(0, 0, 0), shard(1, 0, 0)]), None, "nothing was published");
        assert_eq!(judge.judge(at(1), &[shard(0, 99, 1), shard(1, 0, 0)]), None);
        let missed = judge.judge(at(2), &[shard(0, 99, 1), shard(1, 10, 3)]);
        assert_eq!(missed, Some(Missed { p99: Duration::from_secs(1), shard: ShardId(1) }));
        assert!(judge.judge(at(11), &[shard(0, 99, 1), shard(1, 10, 3)]).is_some());
        assert_eq!(judge.judge(at(13), &[shard(0, 199, 1), shard(1, 10, 3)]), None, "the window has gone on");
        assert!(judge.looks.len() <= 5);
    }
}
