//! What a connection says, framed for its wire.

use trunkline::proto::websocket::{Opcode, write_close_masked, write_frame_masked};

/// A mask must be unpredictable to protect proxies between a browser and a server (RFC 6455 section 10.3); a load
/// generator's own payloads need no such protection, and a constant keeps a million pongs equal.
const MASK: [u8; 4] = *b"tlnk";

/// Collects the bytes of one connection's turn.
pub struct Outgoing {
    bytes: Vec<u8>,
    frames: bool,
}

impl Outgoing {
    pub fn new() -> Outgoing {
        Outgoing { bytes: Vec::new(), frames: false }
    }

    /// Begins a connection's turn. `frames`: messages become WebSocket frames.
    pub fn begin(&mut self, frames: bool) {
        self.bytes.clear();
        self.frames = frames;
    }

    /// A message: text where the wire tells text from bytes.
    pub fn text(&mut self, message: &[u8]) {
        self.message(Opcode::Text, message);
    }

    pub fn binary(&mut self, message: &[u8]) {
        self.message(Opcode::Binary, message);
    }

    pub fn pong(&mut self, payload: &[u8]) {
        write_frame_masked(&mut self.bytes, Opcode::Pong, payload, MASK);
    }

    pub fn close(&mut self, code: u16) {
        write_close_masked(&mut self.bytes, code, "", MASK);
    }

    /// Bytes as they are, before the wire is open.
    pub fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn message(&mut self, opcode: Opcode, message: &[u8]) {
        if self.frames {
            write_frame_masked(&mut self.bytes, opcode, message, MASK);
        } else {
            self.bytes.extend_from_slice(message);
        }
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing::new()
    }
}
