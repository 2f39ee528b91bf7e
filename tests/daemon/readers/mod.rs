//! The surface for readers without an SDK, over exact bytes: `/sse`, `/poll`, `/history`, `/stream`, `/ws`, `/publish`.

pub mod client;
mod foreign;
mod input;
mod memory;
mod polls;
pub mod rights;
mod streams;
mod websocket;
