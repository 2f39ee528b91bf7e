//! The last days of a node: its clients are sent away while everything else is served.

use std::io;
use std::time::{Duration, Instant};

use crate::control::{Control, NotReady};
use crate::node::incident::{Incident, Incidents, failed};

/// How much longer than planned clients may take to be closed, on a host that is slow.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How soon the end of a drain is seen.
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// Sends clients away before the end, while everything else is served.
pub(in crate::node) fn leave(
    control: &Control,
    happened: &Incidents,
    delay: Duration,
    drain: Duration,
) -> io::Result<()> {
    // Those who balance load find out by /health, and send no more, while those that come are still served.
    let drains_already = control.readiness().has(NotReady::Draining);
    control.readiness().set(NotReady::Ending, true);
    if !drains_already {
        wait(happened, Instant::now() + delay, || false)?;
    }
    if drain.is_zero() {
        return Ok(());
    }
    control.drain(drain);
    wait(happened, Instant::now() + drain + DRAIN_PATIENCE, || control.is_drained())
}

/// Until `is_done`, and at most until `end`. Nothing that happens meanwhile counts but a shard that fails.
fn wait(happened: &Incidents, end: Instant, is_done: impl Fn() -> bool) -> io::Result<()> {
    while !is_done() && Instant::now() < end {
        if let Ok(Incident::ShardFailed(id, problem)) = happened.recv_timeout(DRAIN_STEP) {
            return Err(failed(id, &problem));
        }
    }
    Ok(())
}
