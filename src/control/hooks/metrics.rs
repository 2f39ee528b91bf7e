//! What hooks count. Labels come from closed lists: names of the configuration, kinds, outcomes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From a backend on the same machine to one that is waited for half a minute, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Of all hooks.
#[derive(Clone, Debug)]
pub struct HooksMetrics {
    hook_calls: Family<HookCallLabels, Counter>,
    retries: Family<HookLabel, Counter>,
    opened: Family<HookLabel, Counter>,
    open: Family<HookLabel, Gauge>,
    in_flight: Family<HookLabel, Gauge>,
    limit: Family<HookLabel, Gauge>,
    waiting: Family<HookLabel, Gauge>,
    waited: Family<HookLabel, Histogram, fn() -> Histogram>,
    answered: Family<HookLabel, Histogram, fn() -> Histogram>,
}

/// Of one hook.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    hook: String,
    hook_calls: Family<HookCallLabels, Counter>,
    pub retries: Counter,
    pub opened: Counter,
    pub open: Gauge,
    pub in_flight: Gauge,
    pub limit: Gauge,
    pub waiting: Gauge,
    pub waited: Histogram,
    pub answered: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HookLabel {
    hook: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HookCallLabels {
    hook: String,
    kind: &'static str,
    /// `result`, `error`, `disconnect`, `cancelled`, or the cause of a fault.
    outcome: &'static str,
}

impl Default for HooksMetrics {
    fn default() -> Self {
        fn histogram() -> Histogram {
            Histogram::new(SECONDS)
        }
        HooksMetrics {
            hook_calls: Family::default(),
            retries: Family::default(),
            opened: Family::default(),
            open: Family::default(),
            in_flight: Family::default(),
            limit: Family::default(),
            waiting: Family::default(),
            waited: Family::new_with_constructor(histogram),
            answered: Family::new_with_constructor(histogram),
        }
    }
}

impl HooksMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("hook_questions", "Hook calls, by outcome", self.hook_calls.clone());
        registry.register(
            "hook_retries",
            "Hook calls made again after a failed connection",
            self.retries.clone(),
        );
        registry.register(
            "hook_breaker_opened",
            "How often the backend was taken for down",
            self.opened.clone(),
        );
        registry.register("hook_breaker_open", "1 while the backend is taken for down", self.open.clone());
        registry.register("hook_in_flight", "Hook calls that the backend has now", self.in_flight.clone());
        registry.register("hook_in_flight_limit", "Hook calls that it gets at a time", self.limit.clone());
        registry.register("hook_waiting", "Hook calls that wait for their turn", self.waiting.clone());
        let help = "How long hook calls waited for their turn";
        registry.register_with_unit("hook_wait", help, Unit::Seconds, self.waited.clone());
        let help = "How long the backend took for an answer";
        registry.register_with_unit("hook_answer", help, Unit::Seconds, self.answered.clone());
    }

    pub fn of(&self, hook: &str) -> HookMetrics {
        let label = HookLabel { hook: hook.to_string() };
        HookMetrics {
            hook: hook.to_string(),
            hook_calls: self.hook_calls.clone(),
            retries: self.retries.get_or_create_owned(&label),
            opened: self.opened.get_or_create_owned(&label),
            open: self.open.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            limit: self.limit.get_or_create_owned(&label),
            waiting: self.waiting.get_or_create_owned(&label),
            waited: self.waited.get_or_create_owned(&label),
            answered: self.answered.get_or_create_owned(&label),
        }
    }
}

impl HookMetrics {
    pub fn count(&self, kind: &'static str, outcome: &'static str) {
        let labels = HookCallLabels { hook: self.hook.clone(), kind, outcome };
        self.hook_calls.get_or_create(&labels).inc();
    }

    #[cfg(test)]
    pub fn counted(&self, kind: &'static str, outcome: &'static str) -> u64 {
        let labels = HookCallLabels { hook: self.hook.clone(), kind, outcome };
        self.hook_calls.get_or_create(&labels).get()
    }
}
