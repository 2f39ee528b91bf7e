//! The Centrifuge client protocol in JSON, as its server side: bytes in, commands out; replies and pushes in, bytes out.
//!
//! Inputs: the payload of one text frame or request body; views of what to answer. Outputs: typed commands that borrow
//! from the payload; JSON objects appended to the caller's buffer. Must not know: sockets, WebSocket, the hub, sessions,
//! the time.
//!
//! A frame holds one or more JSON objects separated by newlines, in both directions. [`decode_frame`] walks them
//! without building a list; [`Batch`] writes several into one frame. Fields with a zero value are left out of the wire,
//! except where the published server writes them always (`user`, `client`, the counts of presence statistics, every
//! field of a history result).
//!
//! Payloads are raw JSON: checked once while they are decoded and copied from then on. Two bytes of them change on the
//! way out: raw line feeds and carriage returns, which valid JSON has only between its tokens, are dropped, because
//! they end a message in a frame and a line in an event stream.

pub mod decode;
#[cfg(test)]
mod decode_tests;
pub mod encode;
#[cfg(test)]
mod encode_tests;
mod scan;
pub(in crate::proto) mod write;

pub use decode::{Command, CommandFault, Commands, Json, Method, Since, decode_frame};
pub use encode::{Batch, ErrorRef, PING, Push, Reply, encode_push, encode_reply, encode_unidirectional_push};
