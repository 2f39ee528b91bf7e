//! What comes to the keeper, from shards, the control plane and servers.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::handing::Handing;
use crate::engine::job::{Done, EngineFault, Then};
pub use crate::engine::message::Incoming;
use crate::proto::centrifuge::shared::NodeWord;
use crate::shard::control_request::ControlRequest;
use crate::shard::emulated::{EmulationOutcome, ForeignCommands};
use crate::shard::owner::OwnerRequest;

pub enum InletEvent {
    Request(OwnerRequest),
    Ask(ControlRequest),
    /// A server is there: what was subscribed on an earlier connection is not.
    Up(usize),
    /// It is not.
    Down(usize),
    /// A message of a channel's, as the server names it.
    Message(Incoming),
    /// The subscriptions of these numbers hold.
    Subscribed(Vec<u64>),
    Finished(Then, Result<Done, EngineFault>),
    /// Something for other nodes.
    Tell(NodeWord),
    /// Commands of a client of another node.
    PassOn(ForeignCommands),
    /// What became of commands that a node has passed on, with their number there.
    PassedOn(Box<str>, u64, EmulationOutcome),
    /// A step of an upgrade.
    Handing(Handing),
    /// Something for one of them.
    TellNode(NodeWord, String),
}

/// Filled from any thread, emptied by the keeper alone.
pub struct Inlet {
    /// Bound: what connections, callers and a server's connection have under way. The keeper waits for nothing but this.
    events: Mutex<VecDeque<InletEvent>>,
    filled: Notify,
}

impl Inlet {
    pub fn new() -> Inlet {
        Inlet { events: Mutex::default(), filled: Notify::new() }
    }

    pub fn push(&self, event: InletEvent) {
        self.events.lock().push_back(event);
        self.filled.notify_one();
    }

    pub fn pop(&self) -> Option<InletEvent> {
        self.events.lock().pop_front()
    }

    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.lock().is_empty()
    }

    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}
