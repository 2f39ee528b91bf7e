//! The way to one server: what is to be done there waits here until its connection takes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::ids::ChannelName;
use crate::engine::job::{EngineJob, weight};
use crate::engine::limits::{BATCH_BYTES_MAX, BATCH_TASKS_MAX, SUBSCRIBE_MAX, TASKS_MAX};

/// A change of what a server sends here.
#[derive(Debug)]
pub enum LinkChange {
    /// With the number by which it is confirmed.
    Subscribe(ChannelName, u64),
    Unsubscribe(ChannelName),
}

pub struct EngineLink {
    /// Bound: [`TASKS_MAX`] of what may be refused, and one for each member that joins, leaves or is named again.
    jobs: Mutex<VecDeque<EngineJob>>,
    pub job_came: Notify,
    /// Bound: two for each channel with subscribers here.
    changes: Mutex<VecDeque<LinkChange>>,
    pub change_came: Notify,
    up: AtomicBool,
}

impl EngineLink {
    pub fn new() -> EngineLink {
        EngineLink {
            jobs: Mutex::default(),
            job_came: Notify::new(),
            changes: Mutex::default(),
            change_came: Notify::new(),
            up: AtomicBool::new(false),
        }
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Release);
    }

    pub fn is_full(&self) -> bool {
        self.jobs.lock().len() >= TASKS_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.lock().is_empty()
    }

    /// Jobs that its connection has not taken.
    pub fn waiting(&self) -> usize {
        self.jobs.lock().len()
    }

    pub fn push(&self, job: EngineJob) {
        self.jobs.lock().push_back(job);
        self.job_came.notify_one();
    }

    pub fn change(&self, change: LinkChange) {
        self.changes.lock().push_back(change);
        self.change_came.notify_one();
    }

    /// What one write takes.
    pub fn take_batch(&self) -> Vec<EngineJob> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut jobs = self.jobs.lock();
        while batch.len() < BATCH_TASKS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Some(job) = jobs.pop_front()
        {
            bytes += weight(&job.what);
            batch.push(job);
        }
        batch
    }

    /// The next changes, in their order.
    pub fn take_changes(&self) -> Vec<LinkChange> {
        let mut changes = self.changes.lock();
        let taken = changes.len().min(SUBSCRIBE_MAX);
        changes.drain(..taken).collect()
    }

    /// The connection is lost: what was to change there is not.
    pub fn drop_changes(&self) {
        self.changes.lock().clear();
    }
}
