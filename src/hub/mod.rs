//! Channels as logs, subscribers as cursors: order, history, recovery, presence, users. Pure.
//!
//! Inputs: typed asks and the time. Outputs: answers and what to deliver to whom. Must not know: sockets, wires,
//! threads, mailboxes.
//!
//! [`Home`] is the side of the one shard that writes a channel's log; [`local::Local`] the side of every shard with
//! subscribers.

pub mod asks;
pub mod class;
pub mod creators;
mod deadlines;
mod history;
pub mod home;
#[cfg(test)]
mod home_test;
mod idempotency;
pub mod limits;
pub mod local;
pub mod log_store;
#[cfg(test)]
mod model_test;
pub mod options;
mod pace;
pub mod places;
mod presence;
mod sequencer;
mod stream;
pub mod users;

pub use crate::base::publication::{Encoded, Publication};
pub use home::{Home, HomeCounts};
pub use limits::HubLimits;
pub use options::{ChannelOptions, GapPolicy, Namespaces};
pub use presence::Roster;
pub use users::Users;
