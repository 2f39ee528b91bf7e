//! Messages to users: from the users' owner to their connections, and the count of those who were told.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::shard::control_request::{ControlReply, UserMessage};
use crate::shard::mailbox::PushMessage;

/// Connections one push may have on the users of one owner: a hundred for each of the most users that one may name.
pub const PUSH_CONNECTIONS_MAX: usize = 1_000_000;
/// Connections waiting to be told above which a shard lets its inbox fill.
const PUSHES_WAITING_MAX: usize = 1_000_000;

/// Messages to everybody that wait for their turn on a shard: each takes a tick for every 512 connections. More are
/// refused (111).
pub const EVERYONE_WAITING_MAX: usize = 16;

/// A message on its way to every connection of the shard.
pub struct Everyone {
    pub message: Arc<UserMessage>,
    /// The slot that is looked at next.
    pub next: u32,
    pub told: u64,
    pub reply: ControlReply<u64>,
}

/// What is to be told to connections of this shard, the oldest first.
#[derive(Default)]
pub struct Pushes {
    /// Bound: [`PUSHES_WAITING_MAX`] connections, at which the shard lets its inbox fill.
    pub queue: VecDeque<PushMessage>,
    pub waiting: usize,
    /// Bound: [`EVERYONE_WAITING_MAX`].
    pub everyone: VecDeque<Everyone>,
}

impl Pushes {
    pub fn has_any(&self) -> bool {
        !self.queue.is_empty() || !self.everyone.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.waiting > PUSHES_WAITING_MAX
    }
}
