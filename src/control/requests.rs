//! Asking shards from async code: an ask is sent at once or refused at once, and its answer has a deadline.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::base::fault::ErrorCode;
use crate::base::ids::ShardId;
use crate::shard::control_request::{Busy, ControlReply, ControlRequest};
use crate::shard::router::Router;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The shard's inbox is full: nothing was done, and trying again later is right.
    Busy,
    Refused(ErrorCode),
    /// Error 107 with a sentence that says what is wrong.
    Invalid(&'static str),
}

impl From<ErrorCode> for ControlError {
    fn from(error_code: ErrorCode) -> ControlError {
        ControlError::Refused(error_code)
    }
}

impl From<Busy> for ControlError {
    fn from(_: Busy) -> ControlError {
        ControlError::Busy
    }
}

/// The shards of this node as async code sees them.
#[derive(Clone)]
pub struct Shards {
    router: Router,
    timeout: Duration,
}

/// An answer that is under way.
pub struct PendingReply<T> {
    answer: oneshot::Receiver<Result<T, ErrorCode>>,
    deadline: Instant,
}

impl Shards {
    pub fn new(router: Router, timeout: Duration) -> Shards {
        Shards { router, timeout }
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// How long one ask may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends an ask without waiting: `make` builds it around the place where its answer goes.
    ///
    /// # Errors
    /// [`Busy`] when the shard's inbox is full.
    pub fn send<T: Send + 'static>(
        &self,
        shard: ShardId,
        make: impl FnOnce(ControlReply<T>) -> ControlRequest,
    ) -> Result<PendingReply<T>, Busy> {
        let (ask, pending) = self.prepare(make);
        self.router.ask(shard, ask)?;
        Ok(pending)
    }

    /// The same to the owner of the channel that the ask is about.
    ///
    /// # Errors
    /// As [`Shards::send`].
    pub fn send_to_owner<T: Send + 'static>(
        &self,
        channel: &str,
        make: impl FnOnce(ControlReply<T>) -> ControlRequest,
    ) -> Result<PendingReply<T>, Busy> {
        let (ask, pending) = self.prepare(make);
        self.router.ask_owner(channel, ask)?;
        Ok(pending)
    }

    /// The same, and its answer.
    pub async fn ask_owner<T: Send + 'static>(
        &self,
        channel: &str,
        make: impl FnOnce(ControlReply<T>) -> ControlRequest,
    ) -> Result<T, ControlError> {
        Ok(self.send_to_owner(channel, make)?.wait().await?)
    }

    /// An ask around the place where its answer goes.
    fn prepare<T: Send + 'static>(
        &self,
        make: impl FnOnce(ControlReply<T>) -> ControlRequest,
    ) -> (ControlRequest, PendingReply<T>) {
        let (sender, answer) = oneshot::channel();
        let reply = ControlReply::new(move |result| {
            // The caller may have given up at its deadline.
            let _ = sender.send(result);
        });
        (make(reply), PendingReply { answer, deadline: Instant::now() + self.timeout })
    }

    /// One ask and its answer.
    pub async fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        make: impl FnOnce(ControlReply<T>) -> ControlRequest,
    ) -> Result<T, ControlError> {
        Ok(self.send(shard, make)?.wait().await?)
    }

    /// The same ask to every shard, answered in the order of the shards.
    ///
    /// # Errors
    /// The first failure: half a sum is no answer.
    pub async fn ask_every<T: Send + 'static>(
        &self,
        make: impl Fn(ControlReply<T>) -> ControlRequest,
    ) -> Result<Vec<T>, ControlError> {
        let sent: Result<Vec<_>, Busy> =
            self.router.every_shard().map(|shard| self.send(shard, &make)).collect();
        let mut answers = Vec::with_capacity(self.router.shards());
        for pending in sent? {
            answers.push(pending.wait().await?);
        }
        Ok(answers)
    }
}

impl<T> PendingReply<T> {
    /// # Errors
    /// The shard's refusal; [`ErrorCode::Internal`] when the deadline passed or the shard is gone.
    pub async fn wait(self) -> Result<T, ErrorCode> {
        match tokio::time::timeout_at(self.deadline, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ErrorCode::Internal),
        }
    }
}
