//! The way of an answer back to its shard.

use std::time::Duration;

/// How often a response is offered to a shard whose inbox is full, a millisecond apart. A shard that has taken no message
/// for so long will not serve the connection either.
const DELIVERY_TRIES: usize = 5_000;

/// Brings an answer to its shard, waiting for room there: somebody waits for it. `offer` tells whether it was taken.
pub async fn deliver(mut offer: impl FnMut() -> bool) {
    for _ in 0..DELIVERY_TRIES {
        if offer() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
