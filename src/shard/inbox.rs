//! The bounded, lock-free inbox of a shard.
//!
//! Many producers, one consumer. Messages of one producer keep their order, and a home shard's messages to another
//! shard are everything that order in a channel rests on. `tests/inbox.rs` runs this file through all interleavings
//! of its threads, with a queue and atomics of a model checker in place of [`crate::shard::sync`].

use crate::driver::Wake;
use crate::shard::sync::{Arc, ArrayQueue, AtomicBool, OnceLock, Ordering};

/// A shard's inbox.
pub struct Inbox<M> {
    queue: ArrayQueue<M>,
    /// Set by the shard before it sleeps, taken by the first producer after: one wake for each empty-to-non-empty change.
    /// Only exchanged, never just stored: of an exchange by each side, the later one sees what came before the earlier one.
    asleep: AtomicBool,
    /// Set when the shard has ended: nobody will read what comes.
    closed: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl<M> Inbox<M> {
    pub fn new(capacity: usize) -> Inbox<M> {
        Inbox {
            queue: ArrayQueue::new(capacity),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// Called once, by the shard, when its driver exists.
    pub fn set_waker(&self, waker: Arc<dyn Wake>) {
        assert!(self.waker.set(waker).is_ok(), "an inbox belongs to one shard");
    }

    /// Drops the message when the shard has ended: other shards end as well, and must not wait for room here.
    ///
    /// # Errors
    /// Gives the message back when the inbox is full.
    pub fn push(&self, mail: M) -> Result<(), M> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.queue.push(mail)?;
        // Pairs with the store in `close`: either this sees that it ended, or the shard saw the message and dropped it.
        if self.closed.load(Ordering::SeqCst) {
            self.drop_all();
            return Ok(());
        }
        // Pairs with the exchange in `about_to_sleep`: either this sees `asleep`, or the shard sees the message.
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
        Ok(())
    }

    pub fn pop(&self) -> Option<M> {
        self.queue.pop()
    }

    /// The shard has ended: what is here and what still comes is dropped, and asks are answered by that.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.drop_all();
    }

    fn drop_all(&self) {
        while self.queue.pop().is_some() {}
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The shard is about to wait. False when mail is there: do not wait.
    pub fn about_to_sleep(&self) -> bool {
        self.asleep.swap(true, Ordering::AcqRel);
        if self.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    pub fn awake(&self) {
        self.asleep.swap(false, Ordering::Relaxed);
    }
}
