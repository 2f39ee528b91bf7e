//! From the shards' threads to the runtime: bounded in number and bytes, without a lock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use tokio::sync::Notify;

use crate::base::event::Event;
use crate::config::memory::EVENT_QUEUE_BYTES;
use crate::shard::control_request::Busy;

/// Events that may wait to be numbered, for the few milliseconds between two turns of the reader: ten million a second.
/// A larger burst, as when a node with a million clients ends, shows as a gap.
pub const QUEUE_EVENTS_MAX: usize = 64 * 1024;
/// What clients' messages among them may weigh, in bytes.
const QUEUE_BYTES_MAX: usize = 32 << 20;

// Places are made at once: the memory plan counts them.
const _: () = assert!(QUEUE_EVENTS_MAX * size_of::<Event>() + QUEUE_BYTES_MAX <= EVENT_QUEUE_BYTES as usize);

pub struct EventQueue {
    /// Bound: `QUEUE_EVENTS_MAX`; a full queue loses the event, which is counted.
    places: ArrayQueue<Event>,
    bytes: AtomicUsize,
    /// Set by the reader before it sleeps, taken by the first writer after: one wake for each change from empty.
    asleep: AtomicBool,
    wake: Notify,
}

impl EventQueue {
    pub fn new() -> EventQueue {
        EventQueue {
            places: ArrayQueue::new(QUEUE_EVENTS_MAX),
            bytes: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// # Errors
    /// [`Busy`] when it is full.
    pub fn push(&self, event: Event) -> Result<(), Busy> {
        let bytes = weight(&event);
        if bytes > 0 && self.bytes.fetch_add(bytes, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Busy);
        }
        if self.places.push(event).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Busy);
        }
        // Pairs with the store in `filled`: either this sees `asleep`, or the reader sees the event.
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub fn pop(&self) -> Option<Event> {
        let event = self.places.pop()?;
        self.bytes.fetch_sub(weight(&event), Ordering::Relaxed);
        Some(event)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Until something is there. One reader only.
    pub async fn filled(&self) {
        loop {
            self.asleep.store(true, Ordering::SeqCst);
            if !self.is_empty() {
                self.asleep.store(false, Ordering::SeqCst);
                return;
            }
            self.wake.notified().await;
        }
    }
}

/// Of what a stranger chooses the size.
fn weight(event: &Event) -> usize {
    event.what.weight()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event::{What, Who};
    use crate::base::ids::ClientId;

    fn message(bytes: usize) -> Event {
        let who = Who { client: ClientId(1), user: "u".into(), transport: "websocket", address: None };
        Event { time_ms: 1, what: What::Message(who, vec![b'1'; bytes].into()) }
    }

    #[test]
    fn it_is_full_by_number_and_by_bytes_and_empties_again() {
        let queue = EventQueue::new();
        for round in 0..2 {
            let pushed = (0..).take_while(|_| queue.push(message(1)).is_ok()).count();
            assert_eq!(pushed, QUEUE_EVENTS_MAX, "round {round}");
            while queue.pop().is_some() {}
            let pushed = (0..).take_while(|_| queue.push(message(1 << 20)).is_ok()).count();
            assert_eq!(pushed, QUEUE_BYTES_MAX / (1 << 20) + 1, "round {round}");
            assert!(queue.push(Event { time_ms: 1, what: What::Lost(1) }).is_ok(), "what has no weight fits");
            while queue.pop().is_some() {}
        }
        assert!(queue.is_empty());
    }
}
