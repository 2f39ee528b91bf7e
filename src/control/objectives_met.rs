//! Which objectives are met, as the control plane has seen them last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::config::Objective;

/// Which are met, for `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct ObjectivesMet(pub Arc<[(String, AtomicBool)]>);

impl ObjectivesMet {
    pub fn new(objectives: &[Objective]) -> ObjectivesMet {
        let met = objectives.iter().map(|objective| (objective.name.clone(), AtomicBool::new(true)));
        ObjectivesMet(met.collect())
    }
}

impl Collector for ObjectivesMet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let any = ConstGauge::new(0_i64);
        let help = "1 while publications take no longer than the objective says";
        let mut family = encoder.encode_descriptor("objective_met", help, None, any.metric_type())?;
        for (name, met) in &*self.0 {
            let labels = [("objective", name.as_str())];
            ConstGauge::new(i64::from(met.load(Ordering::Relaxed))).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
