//! The bounded, lock-free inbox of a shard and what comes through it.
//!
//! Many producers, one consumer. Messages of one producer keep their order, and a home shard's messages to another
//! shard are everything that order in a channel rests on.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::driver::Wake;
use crate::shard::ask::Ask;

/// One message. Sixteen bytes: everything larger is boxed or shared.
#[derive(Debug)]
pub enum Mail {
    /// From the control plane.
    Ask(Box<Ask>),
}

/// A shard's inbox.
pub struct Inbox {
    queue: ArrayQueue<Mail>,
    /// Set by the shard before it sleeps, taken by the first producer after: one wake for each empty-to-non-empty change.
    asleep: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl Inbox {
    pub fn new(capacity: usize) -> Inbox {
        Inbox { queue: ArrayQueue::new(capacity), asleep: AtomicBool::new(false), waker: OnceLock::new() }
    }

    /// Called once, by the shard, when its driver exists.
    pub fn set_waker(&self, waker: Arc<dyn Wake>) {
        if self.waker.set(waker).is_err() {
            panic!("an inbox belongs to one shard");
        }
    }

    /// # Errors
    /// Gives the message back when the inbox is full.
    pub fn push(&self, mail: Mail) -> Result<(), Mail> {
        self.queue.push(mail)?;
        // Pairs with the store in `about_to_sleep`: either this sees `asleep`, or the shard sees the message.
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
        Ok(())
    }

    pub fn pop(&self) -> Option<Mail> {
        self.queue.pop()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The shard is about to wait. False when mail is there: do not wait.
    pub fn about_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.asleep.store(false, Ordering::SeqCst);
        false
    }

    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}
