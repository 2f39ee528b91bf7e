//! The drain of this node: when its clients begin to leave, and how far they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::control::readiness::{NotReady, Readiness};
use crate::control::requests::Shards;
use crate::shard::control_request::{ControlReply, ControlRequest, Departure};

/// Between two tries at a shard whose inbox was full.
pub const RETRY: Duration = Duration::from_millis(5);

/// What is used where an order does not say it.
#[derive(Clone, Copy, Debug)]
pub struct DrainDefaults {
    pub over: Duration,
    pub delay: Duration,
}

/// The drain of this node, if there is one.
pub struct Drains {
    pub shards: Shards,
    readiness: Arc<Readiness>,
    current: Mutex<Option<Drain>>,
}

struct Drain {
    began: Instant,
    delay: Duration,
    departure: Departure,
    /// All shards have begun.
    begun: bool,
    /// Orders it.
    task: Option<AbortHandle>,
}

/// A drain as `GET /api/drain` shows it.
#[derive(Debug, Serialize)]
pub struct ShownDrain {
    draining: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ShownProgress>,
}

#[derive(Debug, Serialize)]
pub struct ShownProgress {
    delay_ms: u64,
    over_ms: u64,
    elapsed_ms: u64,
    /// Those that were here when the closes began.
    clients: u64,
    closed: u64,
    done: bool,
}

impl Drains {
    pub fn new(shards: Shards, readiness: Arc<Readiness>) -> Drains {
        Drains { shards, readiness, current: Mutex::new(None) }
    }

    /// Begins one. False when there is one already.
    pub fn begin(self: &Arc<Drains>, runtime: &Handle, delay: Duration, over: Duration) -> bool {
        let mut current = self.current.lock();
        if current.is_some() {
            return false;
        }
        self.start(runtime, &mut current, delay, over);
        true
    }

    /// Begins one in the place of any other: the node is to end. What is left of a delay is waited for no more.
    pub fn begin_end(self: &Arc<Drains>, runtime: &Handle, over: Duration) {
        let mut current = self.current.lock();
        if let Some(task) = current.take().and_then(|drain| drain.task) {
            task.abort();
        }
        self.start(runtime, &mut current, Duration::ZERO, over);
    }

    fn start(
        self: &Arc<Drains>,
        runtime: &Handle,
        current: &mut Option<Drain>,
        delay: Duration,
        over: Duration,
    ) {
        self.readiness.set(NotReady::Draining, true);
        let departure = Departure::new(over);
        let (drains, order) = (Arc::clone(self), departure.clone());
        let task = runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            drains.every(|reply| ControlRequest::Drain(order.clone(), reply)).await;
            if let Some(drain) = &mut *drains.current.lock() {
                drain.begun = true;
                tracing::info!(
                    "draining: {} clients are closed over {over:?}",
                    order.progress.clients.load(Ordering::Relaxed)
                );
            }
        });
        let task = Some(task.abort_handle());
        *current = Some(Drain { began: Instant::now(), delay, departure, begun: false, task });
    }

    /// Every shard gets the order, one with a full inbox a little later.
    async fn every(&self, make: impl Fn(ControlReply<()>) -> ControlRequest) {
        for shard in self.shards.router().every_shard() {
            loop {
                match self.shards.send(shard, &make) {
                    Ok(pending) => {
                        if pending.wait().await.is_err() {
                            tracing::warn!(
                                "shard {} did not confirm an order about draining in time",
                                shard.0
                            );
                        }
                        break;
                    }
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        }
    }

    /// Clients that are still here stay. False when there was none to stop.
    pub async fn stop(&self) -> bool {
        let Some(drain) = self.current.lock().take() else { return false };
        if let Some(task) = drain.task {
            task.abort();
        }
        self.every(ControlRequest::DrainStop).await;
        self.readiness.set(NotReady::Draining, false);
        tracing::info!("draining has been stopped");
        true
    }

    /// Everybody has been closed.
    pub fn is_done(&self) -> bool {
        self.current.lock().as_ref().is_some_and(Drain::is_done)
    }

    pub fn shown(&self) -> ShownDrain {
        let current = self.current.lock();
        ShownDrain { draining: current.is_some(), progress: current.as_ref().map(Drain::shown) }
    }
}

impl Drain {
    fn is_done(&self) -> bool {
        let progress = &self.departure.progress;
        self.begun && progress.closed.load(Ordering::Relaxed) >= progress.clients.load(Ordering::Relaxed)
    }

    pub fn shown(&self) -> ShownProgress {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ShownProgress {
            delay_ms: ms(self.delay),
            over_ms: ms(self.departure.over),
            elapsed_ms: ms(self.began.elapsed()),
            clients: self.departure.progress.clients.load(Ordering::Relaxed),
            closed: self.departure.progress.closed.load(Ordering::Relaxed),
            done: self.is_done(),
        }
    }
}
