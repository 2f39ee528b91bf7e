//! The configuration: one table of settings, read from a TOML file, the environment and flags, each stronger than the
//! one before.
//!
//! Inputs: the command line, the environment, one file. Outputs: a checked [`Config`], or a [`Fault`] that names the
//! key and where it was given. Must not know: what any setting does; sockets, the control plane, and of shards
//! more than the types that settings are made of.

pub mod authorities;
pub mod centrifugo;
mod channel;
mod channel_check;
mod check;
pub mod cli;
mod dated;
pub mod document;
pub mod engine;
mod engine_check;
mod events;
pub mod fault;
mod file;
pub mod hooks;
pub mod inboxes;
pub mod kit;
pub mod listeners;
pub mod load;
pub mod look;
pub mod machine;
pub mod memory;
mod named_files;
pub mod observe;
pub mod orders;
mod parts;
pub mod paths;
pub mod places;
pub mod reload;
pub mod sandbox;
mod secrets;
mod sections;
mod sentences;
mod shares;
mod shutdown;
mod snapshot;
mod store;
mod store_check;
mod store_command;
pub mod storm;
mod table;
pub mod tls;
mod token_command;
mod traces;
mod traces_check;
mod tunnels;
mod upgrade_command;
pub mod value;

pub use authorities::Authorities;
pub use fault::Fault;
pub use load::Loaded;
pub use memory::MemoryPlan;
pub use observe::Objective;
pub use sections::{
    AdmissionSettings, ApiSettings, ClientSettings, Config, EventSettings, Hook, HookOptions, LimitSettings,
    ListenerEntry, ListenerSettings, LogSettings, Namespace, NodeMode, TokenSettings, TunnelEntry,
    TunnelSettings,
};
pub use shutdown::Shutdown;
pub use store::StoreSettings;
pub use tls::{TlsCertificate, TlsSettings};
pub use traces::Traces;
pub use value::{DriverChoice, Secret, Size, WhenUnavailable};
