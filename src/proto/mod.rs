//! Wire protocols as sans-IO codecs.
//!
//! Inputs: bytes as they came from a peer. Outputs: events that borrow from those bytes, and bytes appended to the
//! caller's buffer. Must not know: sockets, clocks, threads, sessions, channels; of this crate only `base`, and `record` for
//! what moves to another process.
//!
//! Shared manner: "need more" is not an error; malformed input carries a static reason and the code that goes out for
//! it; nothing here panics on what a peer sent.

pub mod centrifuge;
pub mod encoding;
pub mod forwarded;
pub mod fossil;
pub mod http1;
pub mod proxy_protocol;
pub mod unidirectional;
pub mod websocket;
pub mod wire;
