//! One client as a state machine.
//!
//! Inputs: commands, answers of channel owners, the time. Outputs: replies and pushes into the caller's buffer, and
//! [`Effect`]s for the shard to carry out. Must not know: sockets, frames, channels' logs, threads.
//!
//! ```text
//!  Fresh ──connect──▶ Connecting ──the backend and every server-side subscription answered──▶ Connected
//!    │                     └──refused──▶ Refused
//!    └──────────────── connect with nothing to wait for ──────────────────────────────────────▲
//! ```
//! While `Connecting`, while the backend is asked about a command, and while too many are under way to the owners of
//! channels, further commands are held in order, bounded.

pub mod acks;
mod answers;
mod asked_channel;
mod builtin;
mod commands;
mod context;
mod cursors_in_data;
pub mod delta;
pub mod gaps;
mod held;
pub mod hook_call;
mod identity;
mod joins;
pub mod origins;
pub mod paths;
pub mod permissions;
mod record;
pub mod request;
pub mod request_token;
pub mod rights;
pub mod rules;
pub mod sends;
mod state;
mod subscribed;
mod subscription;
pub mod token;
pub mod tunnel;
pub mod unidirectional;
mod unidirectional_connect;
mod waits;

pub use commands::CommandProgress;
pub use context::{Context, Effect, Emulation, Rights, SessionEnvironment, SubscribeEffect, WantedHooks};
pub use held::{HELD_BYTES_MAX, READ_WEIGHT, RECOVERY_WEIGHT, TURN_COMMANDS_MAX, UNDER_WAY_MAX};
pub use identity::{Identity, Renewal, info_of, shared_info};
pub use joins::{JoinAnswer, JoinOutcome, JoinTerms, JoinVerdict};
pub use record::PlaceOf;
pub use state::{Opening, Session};
pub use subscribed::{info_view, view};
pub use subscription::{ChannelIndex, Sub};
