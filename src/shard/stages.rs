//! How long publications take from stage to stage: accepted, appended, first write, last write. Pure.
//!
//! Counted once for each publication and shard, never for a delivery. A time runs from the moment at which the node had the
//! whole request; publications of a process before, and those read back from a log, have no such moment and are not counted.

use std::sync::Arc;

use crate::base::histogram::Histogram;
use crate::base::publication::Publication;
use crate::base::time::Time;
use crate::hub::followed::{Active, Item, LocalChannel};
use crate::shard::control_request::seen::{STAGES, Stage, StageTimes};

/// Namespaces with times of their own. Those beyond are counted together: a metric has a bounded number of series.
pub const NAMESPACES_MAX: usize = 32;

/// Namespaces by the place at which their times are kept: that of channels without one is 0, that of all others the last.
#[derive(Clone, Debug, Default)]
pub struct StageNamespaces(Arc<[Box<str>]>);

impl StageNamespaces {
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> StageNamespaces {
        StageNamespaces(names.into_iter().take(NAMESPACES_MAX).map(Box::from).collect())
    }

    fn place(&self, channel: &str) -> usize {
        let Some((namespace, _)) = channel.split_once(':') else { return 0 };
        self.0.iter().position(|name| **name == *namespace).map_or(NAMESPACES_MAX + 1, |place| place + 1)
    }

    fn name(&self, place: usize) -> &str {
        match place {
            0 => "",
            place => self.0.get(place - 1).map_or("other", |name| name),
        }
    }
}

/// A batch has begun or ended: a publication of it, and what of its writes is in this tick.
struct SentStage {
    place: usize,
    accepted: Time,
    first: bool,
    last: bool,
}

#[derive(Default)]
pub(in crate::shard) struct Stages {
    namespaces: StageNamespaces,
    /// By place; made when the first of a namespace is counted.
    times: Vec<Option<Box<[Histogram; STAGES]>>>,
    /// Of this tick, counted when its writes are with the kernel.
    sent: Vec<SentStage>,
    /// Where something is traced: what was reached in this tick, and when the node had that.
    pub traced: Option<Vec<(Time, Stage, Time)>>,
}

impl Stages {
    pub fn new(namespaces: StageNamespaces, traced: bool) -> Stages {
        Stages { namespaces, traced: traced.then(Vec::new), ..Stages::default() }
    }

    /// Other namespaces are counted from now on. What was counted of those before stays with its place where they are alike.
    pub fn exchange(&mut self, namespaces: StageNamespaces) {
        if self.namespaces.0 != namespaces.0 {
            *self = Stages::new(namespaces, self.traced.is_some());
        }
    }

    /// The owner of a channel has got to a publication, or its append is done.
    pub fn reached(&mut self, stage: Stage, channel: &str, accepted: Time, now: Time) {
        if accepted != Time::ZERO {
            self.record(self.namespaces.place(channel), stage, accepted, now);
        }
    }

    /// A slice of a batch is in the tick's writes, down to the subscribers before `until`.
    pub fn delivered(&mut self, channel: &LocalChannel, active: Active, until: u32) {
        let first = active.remaining as usize == channel.subscribers().len();
        let last = until == 0;
        if !first && !last {
            return;
        }
        let place = self.namespaces.place(&channel.name);
        for item in channel.stream().between(active.start, active.end) {
            if let Item::Publication(publication) = item
                && let Some(accepted) = accepted(publication)
            {
                self.sent.push(SentStage { place, accepted, first, last });
            }
        }
    }

    /// Something is to be counted when the tick's writes are with the kernel.
    pub fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// They are.
    pub fn flushed(&mut self, now: Time) {
        let mut sent = std::mem::take(&mut self.sent);
        for SentStage { place, accepted, first, last } in sent.drain(..) {
            if first {
                self.record(place, Stage::FirstWrite, accepted, now);
            }
            if last {
                self.record(place, Stage::LastWrite, accepted, now);
            }
        }
        self.sent = sent;
    }

    fn record(&mut self, place: usize, stage: Stage, accepted: Time, now: Time) {
        if let Some(traced) = &mut self.traced {
            traced.push((accepted, stage, now));
        }
        if self.times.len() <= place {
            self.times.resize_with(place + 1, || None);
        }
        self.times[place].get_or_insert_default()[stage as usize].record(now.since(accepted));
    }

    pub fn report(&self) -> Vec<StageTimes> {
        let known = self.times.iter().enumerate().filter_map(|(place, times)| Some((place, times.as_ref()?)));
        known
            .map(|(place, times)| StageTimes {
                namespace: self.namespaces.name(place).into(),
                stages: (**times).clone(),
            })
            .collect()
    }
}

/// When the node had it.
fn accepted(publication: &Publication) -> Option<Time> {
    let accepted = publication.encoded.accepted();
    (accepted != Time::ZERO).then_some(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_by_namespace_and_the_number_of_these_is_bounded() {
        let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
        let mut stages = Stages::new(StageNamespaces::new(names.iter().map(String::as_str)), true);
        let at = Time::from_millis;
        for name in names.iter().map(|name| format!("{name}:x")).chain(["plain".into(), "unknown:x".into()]) {
            stages.reached(Stage::Accepted, &name, at(5), at(7));
        }
        stages.reached(Stage::Appended, "plain", Time::ZERO, at(9));
        let traced = stages.traced.take().expect("it was wanted");
        assert_eq!((traced.len(), traced[0]), (names.len() + 2, (at(5), Stage::Accepted, at(7))));
        let report = stages.report();
        assert_eq!(report.len(), NAMESPACES_MAX + 2);
        let count = |name: &str| {
            let times = report.iter().find(|times| &*times.namespace == name).unwrap();
            [Stage::Accepted, Stage::Appended].map(|stage| times.stages[stage as usize].total())
        };
        assert_eq!((count(""), count("n31"), count("other")), ([1, 0], [1, 0], [69, 0]));
    }
}
