//! What comes from a server by itself.

use crate::engine::redis::layout::RedisMessage;

/// What a server's connection has brought.
pub enum Incoming {
    Channel(String, RedisMessage),
    /// Of nodes.
    Node(Vec<u8>),
}
