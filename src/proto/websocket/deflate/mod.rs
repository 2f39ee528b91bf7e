//! permessage-deflate (RFC 7692), as a server uses it for many idle connections: without context takeover.
//!
//! Inputs: a request head's offers, messages, payloads of compressed messages. Outputs: the extension that is agreed on,
//! frames, messages. Must not know: connections, who gets a frame.
//!
//! Both sides begin each message with an empty window ([`Agreed`] always says so). Towards clients, one compressed frame
//! then serves every connection; from clients, nothing is kept between two messages. So one [`Deflater`] and one
//! [`Inflater`] serve a whole shard, and an idle connection owns neither.

mod compress;
mod inflate;
mod negotiate;

pub use compress::{CompressionOptions, Deflated, Deflater};
pub use inflate::{FINAL_BLOCKS_MAX, Inflater};
pub use negotiate::{Agreed, OFFER, check_extension, negotiate};

/// What a flush leaves at the end of each message, and what is left out on the wire (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Longest distance that deflate knows, in bytes: a window of 15 bits.
const WINDOW_BYTES: usize = 1 << 15;

#[cfg(test)]
mod tests;
