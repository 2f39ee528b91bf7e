//! The surface for unidirectional clients, over exact bytes: `/sse`, `/poll`, `/history`, `/stream`, `/ws`, `/publish`.

pub mod client;
mod foreign;
mod input;
mod memory;
mod polls;
pub mod rights;
mod streams;
mod websocket;
