//! The bar on a terminal, and the log of seconds beside it.

use indicatif::{ProgressBar, ProgressStyle};

use super::hdr::HdrLog;
use crate::measure::Latencies;
use crate::run::{Observer, Progress, Second};

/// Shows a run while it goes, and writes its seconds down.
pub struct Bar {
    bar: ProgressBar,
    hdr: Option<HdrLog>,
    /// The first failure to write the log.
    pub hdr_fault: Option<std::io::Error>,
}

/// Parts of a phase on the bar.
const LENGTH: u64 = 1000;

impl Bar {
    /// `quiet`: no bar. Without a terminal on stderr there is none either.
    pub fn new(quiet: bool, hdr: Option<HdrLog>) -> Bar {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(LENGTH) };
        let style = ProgressStyle::with_template("{elapsed_precise} {prefix} [{bar:30}] {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Bar { bar, hdr, hdr_fault: None }
    }

    pub fn finish(self) -> Option<std::io::Error> {
        self.bar.finish_and_clear();
        self.hdr_fault
    }
}

impl Observer for Bar {
    fn progress(&mut self, progress: &Progress<'_>) {
        let Progress { run, phase, live, wanted, sent, done } = progress;
        self.bar.set_prefix(format!("{run}: {phase}"));
        self.bar.set_position((done.clamp(0.0, 1.0) * LENGTH as f64) as u64);
        self.bar.set_message(format!(
            "{}/{wanted} ready, {} failed, {sent} published, {} delivered, {} replies, {} pings",
            live.ready, live.failed, live.deliveries, live.replies, live.pings
        ));
    }

    fn second(&mut self, second: &Second, latencies: &Latencies) {
        if let Some(hdr) = &mut self.hdr
            && let Err(error) = hdr.second(second, latencies)
        {
            self.hdr_fault.get_or_insert(error);
            self.hdr = None;
        }
    }
}
