//! Channels as logs, subscribers as cursors: order, history, recovery, presence, users. Pure.
//!
//! Inputs: typed asks and the time. Outputs: answers and what to deliver to whom. Must not know: sockets, wires,
//! threads, mailboxes.
//!
//! [`OwnedChannels`] is the side of the one shard that writes a channel's log; [`followed::FollowedChannels`] the side of every shard with
//! subscribers.

mod attendance;
pub mod class;
pub mod creators;
pub mod cursors;
pub mod deadlines;
mod entry;
pub mod followed;
mod history;
mod idempotency;
mod interest;
pub mod limits;
pub mod log_store;
#[cfg(test)]
mod model_tests;
pub mod notice;
mod occupancies;
pub mod options;
pub mod owned;
#[cfg(test)]
mod owned_tests;
mod pace;
pub mod places;
mod presence;
pub mod requests;
mod sequencer;
mod shown;
mod small_map;
mod stream;
pub mod users;
mod values;
mod waiting;
pub mod watch;

pub use crate::base::publication::{Encoded, Publication};
pub use interest::Interest;
pub use limits::HubLimits;
pub use options::{ChannelKind, ChannelOptions, Deliver, GapPolicy, Namespaces, PresenceBy, RecoveryMode};
pub use owned::{OwnedChannels, OwnedCounts};
pub use presence::Roster;
pub use users::Users;
