//! Redis as what keeps channels: one server, a master that Sentinel names, a cluster, or several servers with a part of the
//! channels each.
//!
//! Inputs: tasks and changes of an [`EngineLink`](crate::engine::link::EngineLink). Outputs: what came of them, and what others publish, to
//! the keeper's [`Inlet`](crate::engine::inlet::Inlet). Must not know: who is subscribed.
//!
//! A server has two connections: one for tasks, written in batches, one for Pub/Sub. When either is lost both are made again:
//! what was published in between is found by the positions of the channels.

mod address;
mod command;
pub mod layout;
mod scripts;
mod server;

pub use address::{Address, percent};
pub use command::publication;
pub use server::{RedisTlsFiles, Server};
