//! Payloads of compressed messages into messages.

use flate2::{Decompress, FlushDecompress, Status};

use super::super::{Message, WsFault};
use super::{TAIL, WINDOW_BYTES};

/// Blocks of one message that say they are the last one. A message may hold several (section 7.2.1), and each begins the
/// decoder again, which costs more than the two bytes that an empty one takes; no client is known to write more than one.
pub const FINAL_BLOCKS_MAX: usize = 16;

/// Space that is kept from one message to the next, in bytes: most messages need no more.
const KEPT_BYTES: usize = 64 * 1024;
/// Space for the beginning of a message, in bytes.
const FIRST_BYTES: usize = 4 * 1024;

/// What one message costs besides its bytes, in bytes that could be inflated meanwhile.
const MESSAGE_WORK_BYTES: usize = 512;

const TOO_MANY_BLOCKS: WsFault = WsFault { close_code: 1009, reason: "too many final blocks in a message" };

/// Inflates one message after another, none of which refers to another.
#[derive(Default)]
pub struct Inflater {
    /// Made for the first message that needs it: some 40 KiB.
    state: Option<Box<Decompress>>,
    pub(super) message: Vec<u8>,
    messages: u64,
    bytes: u64,
    work_bytes: u64,
}

impl Inflater {
    /// Messages inflated so far, and their bytes.
    pub fn done(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// What has been done so far, as if it were bytes: a message costs something even when it is empty.
    pub fn work_bytes(&self) -> u64 {
        self.work_bytes
    }

    /// The message of a compressed payload. Valid until the next one.
    ///
    /// # Errors
    /// 1007 for a payload that is no deflate data, or for text that is not UTF-8; 1009 for a message of more than
    /// `message_bytes_max`, as soon as that many bytes have come out of it.
    pub fn message(
        &mut self,
        text: bool,
        payload: &[u8],
        message_bytes_max: usize,
    ) -> Result<Message<'_>, WsFault> {
        self.inflate(payload, message_bytes_max)?;
        self.messages += 1;
        match text {
            false => Ok(Message::Binary(&self.message)),
            true => std::str::from_utf8(&self.message).map(Message::Text).map_err(|_| WsFault::NOT_UTF8),
        }
    }

    fn inflate(&mut self, payload: &[u8], message_bytes_max: usize) -> Result<(), WsFault> {
        self.message.clear();
        self.message.shrink_to(KEPT_BYTES);
        let state = self.state.get_or_insert_with(|| Box::new(Decompress::new(false)));
        state.reset(false);
        let result = inflate(state, payload, &mut self.message, message_bytes_max);
        self.bytes += self.message.len() as u64;
        self.work_bytes += (self.message.len() + MESSAGE_WORK_BYTES) as u64;
        result
    }
}

fn inflate(
    state: &mut Decompress,
    payload: &[u8],
    message: &mut Vec<u8>,
    message_bytes_max: usize,
) -> Result<(), WsFault> {
    let mut final_blocks = 0;
    for (mut input, last) in [(payload, false), (&TAIL[..], true)] {
        loop {
            if message.len() == message.capacity() {
                // Twice what has come, and one byte beyond the bound, which shows that it is passed.
                let capacity = (message.len() * 2).max(FIRST_BYTES).min(message_bytes_max.saturating_add(1));
                message.reserve_exact(capacity.saturating_sub(message.len()).max(1));
            }
            let (taken, room) = (state.total_in(), message.capacity() - message.len());
            let before = message.len();
            let status = state
                .decompress_vec(input, message, FlushDecompress::Sync)
                .map_err(|_| WsFault::NOT_DEFLATE)?;
            input = &input[(state.total_in() - taken) as usize..];
            if message.len() > message_bytes_max {
                return Err(WsFault::TOO_BIG);
            }
            match status {
                // Complete, and behind it is only what was left out by the rules: some leave out more.
                Status::StreamEnd if input.is_empty() => {
                    if !last {
                        return Ok(());
                    }
                    break;
                }
                // What follows a final block begins at the next byte, and may refer to what came before.
                Status::StreamEnd => {
                    final_blocks += 1;
                    if final_blocks == FINAL_BLOCKS_MAX {
                        return Err(TOO_MANY_BLOCKS);
                    }
                    state.reset(false);
                    let window = &message[message.len().saturating_sub(WINDOW_BYTES)..];
                    if !window.is_empty() {
                        state.set_dictionary(window).map_err(|_| WsFault::NOT_DEFLATE)?;
                    }
                }
                // Everything is taken and written.
                Status::Ok | Status::BufError if input.is_empty() && message.len() - before < room => break,
                Status::Ok => {}
                // No progress with input and room left.
                Status::BufError if message.len() < message.capacity() => return Err(WsFault::NOT_DEFLATE),
                Status::BufError => {}
            }
        }
    }
    Ok(())
}
