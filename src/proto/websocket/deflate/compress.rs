//! Messages into frames whose payload is compressed.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::super::encode::{FIN, RSV1};
use super::super::{FRAME_HEADER_BYTES_MAX, Opcode, frame_header, write_frame};
use super::TAIL;
use crate::base::bytes::Bytes;

/// Scratch space that is kept from one message to the next, in bytes: most messages need no more.
const KEPT_BYTES: usize = 64 * 1024;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionOptions {
    /// A shorter message is sent as it is, in bytes.
    pub bytes_min: usize,
    /// 1, the fastest, to 9, the smallest.
    pub level: u8,
}

impl Default for CompressionOptions {
    fn default() -> CompressionOptions {
        CompressionOptions { bytes_min: 512, level: 6 }
    }
}

/// What became of messages: their bytes before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflated {
    pub messages: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Compresses one message after another, none of which refers to another.
pub struct Deflater {
    options: CompressionOptions,
    /// Made for the first message that needs it: some hundred KiB.
    state: Option<Box<Compress>>,
    scratch: Vec<u8>,
    done: Deflated,
    /// Bytes that may be compressed in one turn, and what is left of them in this one. Beyond, messages go as they are.
    turn_bytes: usize,
    left_bytes: usize,
}

impl Deflater {
    /// Allocates nothing yet.
    pub fn new(options: CompressionOptions) -> Deflater {
        Deflater::bounded(options, usize::MAX)
    }

    /// One that compresses so many bytes of messages in a turn.
    pub fn bounded(options: CompressionOptions, turn_bytes: usize) -> Deflater {
        let (scratch, done) = (Vec::new(), Deflated::default());
        Deflater { options, state: None, scratch, done, turn_bytes, left_bytes: turn_bytes }
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.left_bytes = self.turn_bytes;
    }

    /// What has been compressed so far.
    pub fn done(&self) -> Deflated {
        self.done
    }

    /// Whether a message of that length is worth it.
    pub fn takes(&self, message_bytes: usize) -> bool {
        message_bytes >= self.options.bytes_min.max(1)
    }

    /// A message as one frame, compressed if that makes it shorter.
    pub fn frame(&mut self, opcode: Opcode, message: &[u8]) -> Vec<u8> {
        debug_assert!(!opcode.is_control(), "control frames are never compressed (section 6.1)");
        if self.takes(message.len()) && self.compress(message) {
            return self.compressed(opcode as u8);
        }
        let mut out = Vec::with_capacity(message.len() + FRAME_HEADER_BYTES_MAX);
        write_frame(&mut out, opcode, message);
        out
    }

    /// The same message as `frame`, which must be a whole one without a mask: compressed if that makes it shorter.
    pub fn compress_frame(&mut self, frame: &Bytes) -> Bytes {
        let header_len = match frame.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        let message = frame.get(header_len..).unwrap_or_default();
        if !self.takes(message.len()) || !self.compress(message) {
            return frame.clone();
        }
        self.compressed(frame[0]).into()
    }

    /// The frame of what is in the scratch space.
    fn compressed(&mut self, opcode: u8) -> Vec<u8> {
        let (mut header, header_len) = frame_header(Opcode::Binary, self.scratch.len());
        header[0] = FIN | RSV1 | opcode;
        let frame = [&header[..header_len], &self.scratch].concat();
        self.scratch.shrink_to(KEPT_BYTES);
        frame
    }

    /// Fills the scratch space. False when the message does not become shorter.
    fn compress(&mut self, message: &[u8]) -> bool {
        if message.len() > self.left_bytes {
            return false;
        }
        if self.turn_bytes != usize::MAX {
            self.left_bytes -= message.len();
        }
        let level = Compression::new(u32::from(self.options.level));
        let state = self.state.get_or_insert_with(|| Box::new(Compress::new(level, false)));
        state.reset();
        self.scratch.clear();
        // What does not fit here is no shorter than the message; the tail is left out.
        self.scratch.reserve_exact(message.len() + TAIL.len());
        let status = state.compress_vec(message, &mut self.scratch, FlushCompress::Sync);
        let complete = matches!(status, Ok(Status::Ok)) && state.total_in() == message.len() as u64;
        if !complete || self.scratch.len() == self.scratch.capacity() {
            return false;
        }
        let Some(without_tail) = self.scratch.strip_suffix(&TAIL).map(<[u8]>::len) else { return false };
        if without_tail >= message.len() {
            return false;
        }
        self.scratch.truncate(without_tail);
        self.done.messages += 1;
        self.done.bytes_in += message.len() as u64;
        self.done.bytes_out += without_tail as u64;
        true
    }
}
