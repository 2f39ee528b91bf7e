//! WebSocket (RFC 6455), both roles, with the extension permessage-deflate (RFC 7692).
//!
//! Inputs: a request head, then bytes from the peer, writable so that masks come off in place. Outputs: a handshake's
//! answer, [`Message`]s that borrow from those bytes, frames in the caller's `Vec<u8>`. Must not know: sockets,
//! sessions, what a message means.
//!
//! An idle connection needs no [`Decoder`] at all: making one is free, and one that [is idle](Decoder::is_idle) may be
//! dropped. The fast path, a whole message in one read, neither copies nor allocates.
//!
//! # After a fault or a Close
//! On [`WsFault`] the caller sends a Close frame with its code and ends the connection; on [`Message::Close`] it
//! answers with the same code and ends it (section 5.5.1). In both cases what follows in the input is not decoded.

mod close;
mod decode;
pub mod deflate;
mod encode;
mod handshake;
mod mask;
mod record;
mod utf8;

pub use close::is_close_code;
pub use decode::Decoder;
pub use encode::{
    FRAME_HEADER_BYTES_MAX, frame_header, frame_header_masked, write_close, write_close_masked,
    write_fragment, write_fragment_masked, write_frame, write_frame_masked, write_frame_with,
};
pub use handshake::{
    ACCEPT_LEN, Handshake, HandshakeFault, accept, accept_key, check_response, check_upgrade, write_request,
};
pub use mask::apply_mask;

/// Which end of the connection we are. A server's peer must mask every frame, a client's peer none (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// What a frame is (section 5.2). The other ten values are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return None,
        })
    }

    /// Close, Ping and Pong: never fragmented, at most 125 bytes (section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// What the peer said: a whole data message, however many frames it came in, or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A data message as it is on the wire: an [`Inflater`](deflate::Inflater) makes it one of the above. Only where
    /// compression was [agreed on](Decoder::deflating).
    Compressed {
        text: bool,
        payload: &'a [u8],
    },
    /// To be answered with a Pong of the same payload, at most 125 bytes (section 5.5.2).
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// `code` is `None` for an empty Close frame; else [`is_close_code`] holds for it.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
}

/// Why the connection is failed (section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsFault {
    /// For the Close frame: 1002 protocol error, 1007 invalid payload data, 1009 message too big.
    pub close_code: u16,
    /// For the Close frame and the log; never contains anything the peer sent.
    pub reason: &'static str,
}

impl WsFault {
    const fn protocol(reason: &'static str) -> WsFault {
        WsFault { close_code: 1002, reason }
    }

    const NOT_UTF8: WsFault = WsFault { close_code: 1007, reason: "text is not UTF-8" };
    /// Compressed data that cannot be inflated (RFC 7692 section 6.2).
    pub const NOT_DEFLATE: WsFault = WsFault { close_code: 1007, reason: "compressed data is not valid" };
    const TOO_BIG: WsFault = WsFault { close_code: 1009, reason: "message too big" };
}

impl std::fmt::Display for WsFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.close_code, self.reason)
    }
}

impl std::error::Error for WsFault {}

#[cfg(test)]
mod tests;
