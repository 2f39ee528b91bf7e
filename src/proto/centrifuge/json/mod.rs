//! The protocol in JSON.

mod decode;
#[cfg(test)]
mod decode_tests;
mod encode;
#[cfg(test)]
mod encode_tests;
mod scan;
pub(in crate::proto) mod write;

pub(super) use decode::{command, emulation, lone_connect};
pub(super) use encode::{encode_bare_push, encode_connect_push, encode_push, encode_reply, write_presence};
pub(super) use scan::{Scanner, one_value};
