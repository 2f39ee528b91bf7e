//! Immutable shared bytes: what a publication, an encoded frame and a reply are made of.

pub use bytes::{Bytes, BytesMut};
