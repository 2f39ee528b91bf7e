//! Objectives: whether publications, hook calls and slow clients take no longer than they are to. Judged from the times that shards
//! and the engine count anyway, off the data path; a change is a line in the log, and a miss an event for the backend.

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
use crate::control::options::OtherNodes;
use crate::control::process::wall_ms;
use crate::shard::control_request::ShardStats;
use crate::shard::control_request::seen::{Stage, Timed};

/// How often one is looked at: a tenth of its window, within these.
const LOOK_MIN: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Looks at each as long as the control plane runs.
pub fn watch(handle: &Handle, app: &Arc<App>, objectives: &[Objective], engine: Option<&OtherNodes>) {
    for (at, objective) in objectives.iter().enumerate() {
        let Some(judge) = ObjectiveJudge::new(objective) else { continue };
        handle.spawn(look(Arc::clone(app), at, objective.name.clone(), judge, engine.cloned()));
    }
}

async fn look(app: Arc<App>, at: usize, name: String, mut judge: ObjectiveJudge, engine: Option<OtherNodes>) {
    let pause = (judge.window / 10).clamp(LOOK_MIN, LOOK_MAX);
    let mut was_met = true;
    loop {
        // A busy shard is looked at the next time.
        if let Ok(stats) = app.api.stats().await {
            let engine = engine.as_ref().map(|engine| engine.0.publishes());
            let verdict = judge.judge(Instant::now(), &stats, engine.as_ref());
            if let Some((_, met)) = app.objectives.0.get(at) {
                met.store(verdict.is_none(), Ordering::Relaxed);
            }
            match verdict {
                Some(missed) if was_met => {
                    let (stage, p99) = (judge.timed.name(), missed.p99);
                    tracing::warn!(
                        objective = name,
                        stage,
                        shard = missed.shard.map(|shard| shard.0),
                        "objective missed: p99 is up to {p99:?}, more than {:?}",
                        judge.p99
                    );
                    let told = ObjectiveMissed {
                        objective: name.as_str().into(),
                        stage,
                        shard: missed.shard.map(|shard| shard.0),
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

/// Where something was counted: in a shard, or by the engine.
type ObjectivePlace = Option<ShardId>;

/// What was counted until a moment, by place.
type ObjectiveLook = (Instant, Vec<(ObjectivePlace, Histogram)>);

struct ObjectiveJudge {
    timed: Timed,
    p99: Duration,
    window: Duration,
    /// Bound: a window of looks, which come a tenth of it apart or, in long ones, every `LOOK_MAX`.
    looks: VecDeque<ObjectiveLook>,
}

/// What ninety-nine of a hundred took at most, and where it is worst.
#[derive(Debug, PartialEq, Eq)]
struct MissedObjective {
    p99: Duration,
    shard: ObjectivePlace,
}

impl ObjectiveJudge {
    fn new(objective: &Objective) -> Option<ObjectiveJudge> {
        let options = &objective.options;
        let timed = Timed::from_name(&options.stage)?;
        Some(ObjectiveJudge { timed, p99: options.p99, window: options.window, looks: VecDeque::new() })
    }

    /// What is missed in the window that ends now; `None` while the objective is met, or nothing was counted. What the engine
    /// was given to publish is appended there and nowhere else.
    fn judge(
        &mut self,
        now: Instant,
        shards: &[ShardStats],
        engine: Option<&Histogram>,
    ) -> Option<MissedObjective> {
        let mut counted: Vec<(ObjectivePlace, Histogram)> =
            shards.iter().map(|shard| (Some(shard.shard), times(shard, self.timed))).collect();
        if self.timed == Timed::Stage(Stage::Appended) {
            counted.extend(engine.map(|publishes| (None, publishes.clone())));
        }
        // The newest look that is older than the window stays: what came since then is judged.
        while self.looks.get(1).is_some_and(|(at, _)| *at + self.window <= now) {
            self.looks.pop_front();
        }
        let none = Histogram::default();
        let before = |shard: ObjectivePlace| {
            let first = self.looks.front().and_then(|(_, all)| all.iter().find(|(of, _)| *of == shard));
            first.map_or(&none, |(_, times)| times)
        };
        let recent: Vec<(ObjectivePlace, Histogram)> =
            counted.iter().map(|(shard, times)| (*shard, times.since(before(*shard)))).collect();
        self.looks.push_back((now, counted));
        let mut all = Histogram::default();
        recent.iter().for_each(|(_, times)| all.add(times));
        if all.above(self.p99) * 100 <= all.total() {
            return None;
        }
        let worst = recent.iter().max_by_key(|(_, times)| times.above(self.p99))?;
        Some(MissedObjective { p99: all.quantile(0.99)?, shard: worst.0 })
    }
}

fn times(shard: &ShardStats, timed: Timed) -> Histogram {
    match timed {
        Timed::Hook => shard.hook_calls.clone(),
        Timed::CaughtUp => shard.lags.clone(),
        Timed::Stage(stage) => {
            let mut sum = Histogram::default();
            shard.stages.iter().for_each(|times| sum.add(&times.stages[stage as usize]));
            sum
        }
    }
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
        let mut judge = ObjectiveJudge::new(&objective).unwrap();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(
            judge.judge(at(0), &[shard(0, 0, 0), shard(1, 0, 0)], None),
            None,
            "nothing was published"
        );
        assert_eq!(judge.judge(at(1), &[shard(0, 99, 1), shard(1, 0, 0)], None), None);
        let missed = judge.judge(at(2), &[shard(0, 99, 1), shard(1, 10, 3)], None);
        assert_eq!(missed, Some(MissedObjective { p99: Duration::from_secs(1), shard: Some(ShardId(1)) }));
        assert!(judge.judge(at(11), &[shard(0, 99, 1), shard(1, 10, 3)], None).is_some());
        assert_eq!(
            judge.judge(at(13), &[shard(0, 199, 1), shard(1, 10, 3)], None),
            None,
            "the window has gone on"
        );
        assert!(judge.looks.len() <= 5);
    }

    #[test]
    fn each_objective_looks_at_what_it_is_about() {
        let slow = |count: u64| {
            let mut times = Histogram::default();
            (0..count).for_each(|_| times.record(Duration::from_millis(700)));
            times
        };
        let shards = [
            ShardStats { hook_calls: slow(3), ..ShardStats::default() },
            ShardStats { shard: ShardId(1), lags: slow(2), ..ShardStats::default() },
        ];
        let missed = |stage: &str| {
            let p99 = Duration::from_millis(100);
            let options = ObjectiveOptions { stage: stage.into(), p99, window: Duration::from_secs(10) };
            let mut judge = ObjectiveJudge::new(&Objective { name: "it".into(), options }).unwrap();
            judge.judge(Instant::now(), &shards, Some(&slow(1))).map(|missed| missed.shard)
        };
        assert_eq!(missed("hook"), Some(Some(ShardId(0))));
        assert_eq!(missed("caught_up"), Some(Some(ShardId(1))));
        assert_eq!(missed("appended"), Some(None), "by the engine");
        assert_eq!((missed("accepted"), missed("last_write")), (None, None));
    }
}
