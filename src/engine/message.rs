//! What comes from a server by itself.

use crate::engine::redis::layout::Message;

/// What a server's connection has brought.
pub enum Incoming {
    Channel(String, Message),
    /// Of nodes.
    Node(Vec<u8>),
}
