//! Commands of clients without WebSocket that came to another node than the one that has their client.
//!
//! They are passed on as they come, one message each, which another one answers. Servers keep the order of what one node says
//! to another, and so do inboxes: commands reach a client in the order of their requests.
//! ```text
//!  to the node:  number (8 bytes) ┼ 0 JSON, 1 Protobuf ┼ length of the session ┼ session ┼ commands
//!  and back:     number (8 bytes) ┼ what became of them
//! ```

use std::collections::HashMap;

use tokio::time::Instant;

use crate::base::ids::ConnId;
use crate::proto::centrifuge::Format;
use crate::shard::emulated::EmulationOutcome;

pub(super) const COMMANDS: &str = "trunkline.commands";
pub(super) const OUTCOME: &str = "trunkline.outcome";

pub(super) const OUTCOMES: [EmulationOutcome; 5] = [
    EmulationOutcome::Taken,
    EmulationOutcome::Unknown,
    EmulationOutcome::WrongFormat,
    EmulationOutcome::TooLong,
    EmulationOutcome::Full,
];

/// Commands that other nodes have not answered.
#[derive(Default)]
pub(super) struct Emulations {
    /// By their number: who asked, and until when an answer is waited for.
    /// Bound: [`EMULATIONS_MAX`](super::limits::EMULATIONS_MAX).
    pub asked: HashMap<u64, (ConnId, Instant)>,
    pub numbers: u64,
}

pub(super) fn write_commands(number: u64, format: Format, session: &str, commands: &[u8]) -> Vec<u8> {
    let mut data = number.to_le_bytes().to_vec();
    // One that is longer is nobody's: the shard has read it as an id.
    let session = &session.as_bytes()[..session.len().min(u8::MAX.into())];
    data.extend_from_slice(&[u8::from(format == Format::Protobuf), session.len() as u8]);
    data.extend_from_slice(session);
    data.extend_from_slice(commands);
    data
}

pub(super) fn read_commands(data: &[u8]) -> Option<(u64, Format, &str, &[u8])> {
    let (number, rest) = data.split_first_chunk()?;
    let ([format, length], rest) = rest.split_first_chunk()?;
    let format = match format {
        0 => Format::Json,
        1 => Format::Protobuf,
        _ => return None,
    };
    let (session, commands) = rest.split_at_checked((*length).into())?;
    Some((u64::from_le_bytes(*number), format, std::str::from_utf8(session).ok()?, commands))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_back_and_no_cut_of_their_head_does() {
        for format in [Format::Json, Format::Protobuf] {
            let data = write_commands(1 << 40, format, "session", b"{}");
            assert_eq!(read_commands(&data), Some((1 << 40, format, "session", &b"{}"[..])));
            for end in 0..data.len() - 2 {
                assert_eq!(read_commands(&data[..end]), None, "{end}");
            }
        }
        let mut other = write_commands(1, Format::Json, "s", b"");
        other[8] = 2;
        assert_eq!(read_commands(&other), None);
    }
}
