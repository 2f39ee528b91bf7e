//! Frames: commands out of one, messages into one, in either format.

use super::command::{Command, CommandFault};
use super::json::{self, Scanner};
use super::protobuf;
use super::reply::{ClientInfoRef, Push, Reply};
use crate::base::limits::COMMANDS_PER_FRAME_MAX;
use crate::proto::encoding::Encoding;

/// How a client's messages are written, in both directions. Chosen with the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    #[default]
    Json,
    Protobuf,
}

impl Format {
    /// As backends are told.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Protobuf => "protobuf",
        }
    }

    /// The server's ping, a whole frame: the empty message.
    pub const fn ping(self) -> &'static [u8] {
        match self {
            Format::Json => b"{}",
            Format::Protobuf => &[0],
        }
    }

    /// The format of an encoding, if it is one of this protocol's.
    pub fn of(encoding: Encoding) -> Option<Format> {
        [Format::Json, Format::Protobuf].into_iter().find(|format| format.encoding() == encoding)
    }

    /// What publications are framed as for clients of it.
    pub fn encoding(self) -> Encoding {
        match self {
            Format::Json => Encoding::CentrifugeJson,
            Format::Protobuf => Encoding::CentrifugeProtobuf,
        }
    }
}

/// The commands of one frame, in order.
///
/// JSON objects may be separated by newlines, other whitespace or nothing; Protobuf messages stand behind their length.
/// After a fault the iterator ends: what follows in the frame cannot be trusted. The frame is expected to be bounded by
/// the transport; the memory of one command is at most a small multiple of its bytes.
///
/// # Errors
/// Every fault is the peer's and ends the connection, see [`CommandFault::disconnect`]. A frame that holds no command at
/// all is a fault as well. Text that is not UTF-8 anywhere in a frame of JSON refuses the whole of it.
pub fn decode_frame(format: Format, payload: &[u8]) -> Commands<'_> {
    let (source, fault) = match format {
        Format::Protobuf => (Source::Protobuf(payload), None),
        Format::Json => match std::str::from_utf8(payload) {
            Ok(text) => (Source::Json(Scanner::new(text)), None),
            Err(_) => (Source::Json(Scanner::new("")), Some(CommandFault("frame is not UTF-8"))),
        },
    };
    Commands { source, decoded: 0, fault, ended: false }
}

/// Iterator of [`decode_frame`].
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    source: Source<'a>,
    decoded: usize,
    fault: Option<CommandFault>,
    ended: bool,
}

#[derive(Clone, Debug)]
enum Source<'a> {
    Json(Scanner<'a>),
    Protobuf(&'a [u8]),
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, CommandFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let decoded = if let Some(fault) = self.fault {
            Err(fault)
        } else if self.source.at_end() {
            self.ended = true;
            if self.decoded > 0 {
                return None;
            }
            Err(CommandFault("frame without a command"))
        } else if self.decoded == COMMANDS_PER_FRAME_MAX {
            Err(CommandFault("too many commands in one frame"))
        } else {
            match &mut self.source {
                Source::Json(scanner) => json::command(scanner),
                Source::Protobuf(rest) => protobuf::command(rest),
            }
        };
        self.decoded += 1;
        self.ended |= decoded.is_err();
        Some(decoded)
    }
}

impl std::iter::FusedIterator for Commands<'_> {}

impl<'a> Commands<'a> {
    /// What has not been decoded yet, a frame of its own: for a caller that must keep the rest for later.
    pub fn remaining(&self) -> &'a [u8] {
        match &self.source {
            Source::Json(scanner) => scanner.remaining().as_bytes(),
            Source::Protobuf(rest) => rest,
        }
    }
}

impl Source<'_> {
    fn at_end(&mut self) -> bool {
        match self {
            Source::Json(scanner) => scanner.at_end(),
            Source::Protobuf(rest) => rest.is_empty(),
        }
    }
}

/// Several replies or pushes in one frame.
#[derive(Debug)]
pub struct Batch<'b> {
    out: &'b mut Vec<u8>,
    from: usize,
    format: Format,
}

impl<'b> Batch<'b> {
    /// A frame that starts at the present end of `out`.
    pub fn new(out: &'b mut Vec<u8>, format: Format) -> Batch<'b> {
        let from = out.len();
        Batch { out, from, format }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends the reply to the command `id`.
    pub fn reply(&mut self, id: u32, reply: &Reply<'_>) {
        self.separate();
        match self.format {
            Format::Json => json::encode_reply(self.out, id, reply),
            Format::Protobuf => protobuf::encode_reply(self.out, id, reply),
        }
    }

    /// Appends a push. An empty `channel` is left out: messages and refreshes have none.
    pub fn push(&mut self, channel: &str, push: &Push<'_>) {
        self.separate();
        encode_push(self.out, self.format, channel, push);
    }

    pub fn is_empty(&self) -> bool {
        self.out.len() == self.from
    }

    fn separate(&mut self) {
        if self.format == Format::Json && !self.is_empty() {
            self.out.push(b'\n');
        }
    }
}

/// Appends a list of present clients, for [`Reply::PresenceEncoded`].
pub fn encode_presence(out: &mut Vec<u8>, format: Format, clients: &[(&str, ClientInfoRef<'_>)]) {
    match format {
        Format::Json => json::write_presence(out, clients),
        Format::Protobuf => protobuf::write_presence(out, clients),
    }
}

/// Appends a push that is a frame of its own, as [`Batch::push`].
///
/// The one that delivery runs through: a publication is written in one pass, without memory of its own.
pub fn encode_push(out: &mut Vec<u8>, format: Format, channel: &str, push: &Push<'_>) {
    match format {
        Format::Json => json::encode_push(out, channel, push),
        Format::Protobuf => protobuf::encode_push(out, channel, push),
    }
}
