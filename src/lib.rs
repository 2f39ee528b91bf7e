//! trunkline: the long-connection daemon in front of an HTTP backend.

pub mod base;
pub mod config;
pub mod control;
pub mod driver;
pub mod hub;
pub mod node;
pub mod proto;
pub mod session;
pub mod shard;
pub mod telemetry;
