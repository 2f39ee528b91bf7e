//! What a node shows its operator.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::fault::Require;
use crate::config::table::{Named, settings};
use crate::shard::control_request::seen::Timed;

/// What an end of a connection may weigh where it is kept: its entry, the longest name of a user, the longest reason.
pub const CLOSED_BYTES: u64 = 448;
/// More ends than anybody reads: half a gigabyte of them.
const CLOSED_KEPT_MAX: u32 = 1_000_000;

settings! {
    /// What a node shows its operator.
    pub struct Observe {
        /// Ends of connections that this node remembers, for `GET /api/closed` and `trunkline why`, 448 bytes of memory each; at
        /// most what a hundredth of what this process may use has room for. 0: none.
        pub closed_kept: u32 = 100_000;
    }
}

settings! {
    /// How long something may take.
    pub struct ObjectiveOptions {
        /// From the request for a publication to which stage: "accepted", "appended", "first_write" or "last_write". Or "hook": from a hook
        /// call to its answer; or "caught_up": how long clients that do not read fast enough lag.
        pub stage: String = "last_write".to_string();
        /// Ninety-nine of a hundred are to take no longer. Times are counted as up to 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250 and
        /// 500 ms, 1, 2.5, 5 and 30 s: between two of these the lower one counts.
        pub p99: Duration = Duration::from_secs(1);
        /// Over how long it is looked at.
        pub window: Duration = Duration::from_secs(300);
    }
}

/// An objective, by the name that metrics and events have.
pub type Objective = Named<ObjectiveOptions>;

/// Objectives of a node: each is a series of metrics, and a look at every shard now and then.
const OBJECTIVES_MAX: usize = 16;

fn check_objectives(objectives: &[Objective], require: &mut Require<'_>) {
    require(objectives.len() <= OBJECTIVES_MAX, "objective", "there may be at most 16");
    let mut names = BTreeSet::new();
    for (at, objective) in objectives.iter().enumerate() {
        let key = |name: &str| format!("objective[{at}].{name}");
        require(!objective.name.is_empty(), &key("name"), "must not be empty");
        require(names.insert(&objective.name), &key("name"), "is the name of an earlier objective too");
        let options = &objective.options;
        let stages = Timed::ALL.map(Timed::name).join(", ");
        require(Timed::from_name(&options.stage).is_some(), &key("stage"), &format!("is none of {stages}"));
        require(
            (Duration::from_micros(100)..=Duration::from_secs(30)).contains(&options.p99),
            &key("p99"),
            "must be from 100us to 30s",
        );
        require(
            (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&options.window),
            &key("window"),
            "must be from 1s to 24h",
        );
    }
}

pub(super) fn check_observe(observe: &Observe, objectives: &[Objective], require: &mut Require<'_>) {
    require(observe.closed_kept <= CLOSED_KEPT_MAX, "observe.closed_kept", "must be at most 1000000");
    check_objectives(objectives, require);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_that_cannot_be_held_is_refused_by_its_key() {
        let faults = |change: fn(&mut Vec<Objective>)| {
            let good = Objective { name: "fast".into(), options: ObjectiveOptions::default() };
            let mut objectives = vec![good];
            change(&mut objectives);
            let mut faults = Vec::new();
            check_observe(&Observe::default(), &objectives, &mut |holds, key, _| {
                if !holds {
                    faults.push(key.to_string());
                }
            });
            faults
        };
        assert!(faults(|_| {}).is_empty());
        assert_eq!(faults(|all| all[0].options.stage = "sent".into()), ["objective[0].stage"]);
        assert_eq!(faults(|all| all[0].options.p99 = Duration::from_secs(31)), ["objective[0].p99"]);
        assert_eq!(faults(|all| all[0].options.window = Duration::ZERO), ["objective[0].window"]);
        assert_eq!(faults(|all| all.push(all[0].clone())), ["objective[1].name"]);
        assert_eq!(faults(|all| all[0].name.clear()), ["objective[0].name"]);
    }
}
