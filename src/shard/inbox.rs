//! The bounded, lock-free inbox of a shard.
//!
//! Many producers, one consumer. Messages of one producer keep their order, and a owner shard's messages to another
//! shard are everything that order in a channel rests on. `tests/inbox.rs` runs this file through all interleavings
//! of its threads, with a queue and atomics of a model checker in place of [`crate::shard::sync`].

use crate::driver::Wake;
use crate::shard::sync::{Arc, ArrayQueue, AtomicBool, OnceLock, Ordering};

/// A shard's inbox. The control plane has a queue of its own, so that a flood between shards does not hold up the API,
/// nor the other way round. What says which users are connected has one too: a client that was answered is known to its
/// user's owner before any request that the control plane makes afterwards.
pub struct Inbox<M> {
    /// Of other shards.
    /// Bound: `inbox_messages`; the sender keeps what does not fit, see `mailer.rs`.
    shards: ArrayQueue<M>,
    /// Of other shards, handled before the control plane's.
    /// Bound: `inbox_messages`, as `shards`.
    users: ArrayQueue<M>,
    /// Bound: `inbox_messages`; the API answers 503 at it.
    control: ArrayQueue<M>,
    /// Set by the shard before it sleeps, taken by the first producer after: one wake for each empty-to-non-empty change.
    /// Only exchanged, never just stored: of an exchange by each side, the later one sees what came before the earlier one.
    asleep: AtomicBool,
    /// Something is there that is no message. Taken by the shard when it begins a tick.
    nudged: AtomicBool,
    /// Set when the shard has ended: nobody will read what comes.
    closed: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl<M> Inbox<M> {
    /// `capacity` is that of each queue, in messages.
    pub fn new(capacity: usize) -> Inbox<M> {
        Inbox {
            shards: ArrayQueue::new(capacity),
            users: ArrayQueue::new(capacity),
            control: ArrayQueue::new(capacity),
            asleep: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// Called once, by the shard, when its driver exists.
    pub fn set_waker(&self, waker: Arc<dyn Wake>) {
        assert!(self.waker.set(waker).is_ok(), "an inbox belongs to one shard");
    }

    /// A message of another shard. Dropped when the shard has ended: other shards end as well, and must not wait for room
    /// here.
    ///
    /// # Errors
    /// Gives the message back when the queue is full.
    pub fn push(&self, message: M) -> Result<(), M> {
        self.put(&self.shards, message)
    }

    /// A message of another shard about a user's connections. As [`Inbox::push`].
    ///
    /// # Errors
    /// Gives the message back when the queue is full.
    pub fn push_user(&self, message: M) -> Result<(), M> {
        self.put(&self.users, message)
    }

    /// A message of the control plane.
    ///
    /// # Errors
    /// As [`Inbox::push`].
    pub fn push_control(&self, message: M) -> Result<(), M> {
        self.put(&self.control, message)
    }

    fn put(&self, queue: &ArrayQueue<M>, message: M) -> Result<(), M> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        queue.push(message)?;
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

    /// Makes the shard do another tick, for what has come by another way.
    pub fn nudge(&self) {
        self.nudged.swap(true, Ordering::AcqRel);
        // As in `put`.
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// The next message of another shard.
    pub fn pop(&self) -> Option<M> {
        self.shards.pop()
    }

    /// The next message about a user's connections.
    pub fn pop_user(&self) -> Option<M> {
        self.users.pop()
    }

    /// How many of those are here.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// The next message of the control plane. What [`Inbox::pop_user`] has after this call is to be handled before it.
    pub fn pop_control(&self) -> Option<M> {
        self.control.pop()
    }

    /// The shard has ended: what is here and what still comes is dropped, and asks are answered by that.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.drop_all();
    }

    fn drop_all(&self) {
        while self.shards.pop().or_else(|| self.users.pop()).or_else(|| self.control.pop()).is_some() {}
    }

    pub fn len(&self) -> usize {
        self.shards.len() + self.users.len() + self.control.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.users.is_empty() && self.control.is_empty()
    }

    /// The shard is about to wait. False when a message is there: do not wait.
    pub fn about_to_sleep(&self) -> bool {
        self.asleep.swap(true, Ordering::AcqRel);
        if self.is_empty() && !self.nudged.load(Ordering::Acquire) {
            return true;
        }
        self.awake();
        false
    }

    pub fn awake(&self) {
        self.nudged.swap(false, Ordering::AcqRel);
        self.asleep.swap(false, Ordering::Relaxed);
    }
}
