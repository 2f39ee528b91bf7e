//! What ends an upgrade in the old process: something else that happens, or the new process that serves.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

use super::leave::MovedToNext;
use super::request::AskedUpgrade;
use crate::control::{Control, NotReady};
use crate::node::incident::{Incident, Incidents, LOG_PATIENCE, failed};
use crate::node::listener;
use crate::node::notify::Notify;
use crate::shard::control_request::ControlRequest;
use crate::shard::handover::Order;
use crate::shard::router::Router;

/// Of threads whose work nobody waits for: they get a seventieth of a cpu that others want as well.
const NICENESS: i32 = 19;
/// How long shards may take to close what could not move, once the new process does not need the cpu any more.
const DEPART_MAX: Duration = Duration::from_secs(1);
/// How long the new process may take to settle: a few seconds with a million connections.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Shards of this process whose connections are another one's. Their threads stay, and so do their rings: the kernel takes
/// 3 us for each connection of a ring that ends, from those who serve.
#[derive(Clone, Default)]
pub(in crate::node) struct EndedShards {
    count: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<Pid>>>,
}

impl EndedShards {
    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Of a shard's thread, before its first tick.
    pub fn enter(&self) {
        self.threads.lock().push(gettid());
    }

    /// What they do from now on waits for those who serve.
    fn stand_back(&self) {
        self.threads.lock().iter().copied().for_each(stand_back);
    }

    /// Of a shard's thread, which ends with its process.
    pub fn stay(&self) -> ! {
        self.count.fetch_add(1, Ordering::Release);
        loop {
            thread::park();
        }
    }
}

fn stand_back(thread: Pid) {
    // An error means that its shard has failed.
    let _ = setpriority_process(Some(thread), NICENESS);
}

/// Why an upgrade is not wanted any more: something else has happened, which is kept for later.
pub(in crate::node) fn interruption(
    happened: &Incidents,
    next: &RefCell<Option<Incident>>,
) -> Option<String> {
    let mut next = next.borrow_mut();
    while next.is_none() {
        match happened.try_recv().ok()? {
            Incident::Ready(_) | Incident::Upgrade(_) | Incident::Reload(None) => {}
            incident => *next = Some(incident),
        }
    }
    match next.as_ref()? {
        Incident::Signal(name) => Some(format!("{name} came")),
        Incident::ShardFailed(id, problem) => Some(failed(*id, problem).to_string()),
        Incident::EngineRefused(problem) => Some(problem.clone()),
        Incident::Reload(_) => Some("the configuration is to be read again".into()),
        Incident::Ready(_) | Incident::Upgrade(_) => None,
    }
}

/// Why clients that are to leave this node do not go to another process: there they would stay.
pub(in crate::node) fn draining(control: &Control) -> Option<String> {
    let drains = control.readiness().has(NotReady::Draining);
    drains.then(|| "this node drains: stop that first (DELETE /api/drain)".into())
}

/// The end of a process in whose place another one serves: it closes what could not move, and nothing that could.
pub(in crate::node) fn depart(
    asked: &AskedUpgrade,
    mut moved: MovedToNext,
    router: &Router,
    control: &Control,
    files: &listener::Files,
    shards: &EndedShards,
) -> ! {
    files.lend(true);
    control.leave();
    Notify::from_env().main_pid(moved.pid);
    shards.stand_back();
    for id in router.every_shard() {
        // A full inbox empties soon, and a shard that does not end is ended with the process.
        let _ = router.ask(id, ControlRequest::Handover(Order::Commit));
    }
    asked.done(&moved.to_string());
    // The end of the process is work for the kernel, and this thread's.
    stand_back(gettid());
    if !moved.successor.wait_settled(Instant::now() + SETTLE_MAX) {
        tracing::warn!(
            "upgrade: the new process has not settled in {SETTLE_MAX:?}: this one ends all the same"
        );
    }
    let until = Instant::now() + DEPART_MAX;
    while shards.count() < router.shards() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    crate::telemetry::flush(LOG_PATIENCE);
    // Without destructors: what they would close is the other process's.
    std::process::exit(0)
}
