//! The protocol in Protobuf: messages of the published schema (`client.proto`), each behind its length as a varint.
//!
//! Written by hand as the JSON is: decoded texts borrow from the frame, a publication is encoded in one pass, and what a
//! hostile frame may cost is in sight. The wire format is that of the Protocol Buffers encoding guide: unknown fields are
//! skipped; groups, fields of another wire type than the schema's and fields that come twice are faults.

mod decode;
mod encode;
pub mod shared;
#[cfg(test)]
mod tests;
mod wire;

pub(super) use decode::{command, emulation};
pub(super) use encode::{encode_push, encode_reply, write_presence};
