//! The Centrifuge client protocol as its server side: bytes in, commands out; replies and pushes in, bytes out.
//!
//! Inputs: the payload of one frame; views of what to answer. Outputs: typed commands that borrow from the payload;
//! messages appended to the caller's buffer. Must not know: sockets, WebSocket, the hub, sessions, the time.
//!
//! What is said ([`command`], [`reply`]) is apart from how it is written ([`Format`]):
//! - [`json`]: objects joined by newlines,
//! - [`protobuf`]: messages of the published schema, each behind its length.
//!
//! A frame holds one or more of them in both directions ([`frame`]). Fields with a zero value are left out of the wire,
//! except where the published server writes them always.
//!
//! Payloads are JSON in both formats: checked once while they are decoded and copied from then on, so that subscribers
//! of one channel may read in either. Two bytes of them change on their way out as JSON: raw line feeds and carriage
//! returns, which valid JSON has only between its tokens, are dropped, because they end a message in a frame and a line
//! in an event stream.

pub mod command;
mod emulation;
mod frame;
mod json;
mod protobuf;
pub mod reply;

pub use self::protobuf::shared;
pub use command::{Command, CommandFault, Data, Method, SinceField};
pub use emulation::{EmulationRequest, decode_emulation};
pub use frame::quoted;
pub use frame::{
    Commands, Format, ReplyBatch, decode_connect, decode_frame, encode_bare_push, encode_presence,
    encode_push,
};
pub(in crate::proto) use json::write;
pub use reply::{ErrorRef, Push, Reply};
