//! Channels as logs, subscribers as cursors: order, history, recovery, presence, users. Pure.
//!
//! Inputs: typed asks and the time. Outputs: answers and what to deliver to whom. Must not know: sockets, wires,
//! threads, mailboxes.

pub mod asks;
pub mod local;
pub mod log;
pub mod options;

pub use log::{Encoded, Publication};
pub use options::{ChannelOptions, GapPolicy, Namespaces};
