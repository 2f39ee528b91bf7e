//! Frames: commands out of one, messages into one, in either format.

use super::command::{Command, CommandFault};
use super::json::{self, Scanner};
use super::protobuf;
use super::reply::{ClientInfoRef, Push, Reply};
use crate::base::limits::COMMANDS_PER_FRAME_MAX;

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
    match format {
        Format::Protobuf => Commands::new(CommandSource::Protobuf(payload)),
        Format::Json => Commands::of_json(payload, json::command),
    }
}

/// The connect of a unidirectional client, in JSON: what the command `connect` of another one has, alone.
///
/// # Errors
/// As of [`decode_frame`], and for more than one object.
pub fn decode_connect(payload: &[u8]) -> Commands<'_> {
    Commands {
        most: (1, CommandFault("more than a connect")),
        ..Commands::of_json(payload, json::lone_connect)
    }
}

/// Iterator of [`decode_frame`].
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    source: CommandSource<'a>,
    decoded: usize,
    /// So many commands, and what is wrong with more.
    most: (usize, CommandFault),
    fault: Option<CommandFault>,
    ended: bool,
}

#[derive(Clone, Debug)]
enum CommandSource<'a> {
    /// With what reads one object of it.
    Json(Scanner<'a>, fn(&mut Scanner<'a>) -> Result<Command<'a>, CommandFault>),
    Protobuf(&'a [u8]),
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, CommandFault>;

    // A command is written where the caller has it. Copied when it has just been written, a pong takes twice as long; so what
    // decodes ends the frame at a fault, and nobody has to look at what was decoded.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.is_ahead() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(fault) => return Some(Err(fault)),
        }
        match &mut self.source {
            CommandSource::Json(scanner, object) => Some(object(scanner)),
            CommandSource::Protobuf(rest) => Some(protobuf::command(rest)),
        }
    }
}

impl std::iter::FusedIterator for Commands<'_> {}

impl<'a> Commands<'a> {
    fn new(source: CommandSource<'a>) -> Commands<'a> {
        let most = (COMMANDS_PER_FRAME_MAX, CommandFault("too many commands in one frame"));
        Commands { source, decoded: 0, most, fault: None, ended: false }
    }

    fn of_json(
        payload: &'a [u8],
        object: fn(&mut Scanner<'a>) -> Result<Command<'a>, CommandFault>,
    ) -> Commands<'a> {
        let text = std::str::from_utf8(payload);
        let fault = text.is_err().then_some(CommandFault("frame is not UTF-8"));
        Commands {
            fault,
            ..Commands::new(CommandSource::Json(Scanner::new(text.unwrap_or_default()), object))
        }
    }

    /// Whether another command is to be decoded. A fault is the last thing that comes.
    fn is_ahead(&mut self) -> Result<bool, CommandFault> {
        if self.ended {
            return Ok(false);
        }
        let at_end = match &mut self.source {
            CommandSource::Json(scanner, _) => scanner.at_end(),
            CommandSource::Protobuf(rest) => rest.is_empty(),
        };
        let (most, too_many) = self.most;
        let fault = match self.fault {
            Some(fault) => fault,
            None if at_end && self.decoded == 0 => CommandFault("frame without a command"),
            None if !at_end && self.decoded == most => too_many,
            None => {
                self.ended = at_end;
                self.decoded += 1;
                return Ok(!at_end);
            }
        };
        self.ended = true;
        Err(fault)
    }

    /// What has not been decoded yet, a frame of its own: for a caller that must keep the rest for later.
    pub fn remaining(&self) -> &'a [u8] {
        match &self.source {
            CommandSource::Json(scanner, _) => scanner.remaining().as_bytes(),
            CommandSource::Protobuf(rest) => rest,
        }
    }
}

/// Several replies or pushes in one frame.
#[derive(Debug)]
pub struct ReplyBatch<'b> {
    out: &'b mut Vec<u8>,
    from: usize,
    format: Format,
    /// For a unidirectional client.
    bare: bool,
}

impl<'b> ReplyBatch<'b> {
    /// A frame that starts at the present end of `out`.
    pub fn new(out: &'b mut Vec<u8>, format: Format) -> ReplyBatch<'b> {
        let from = out.len();
        ReplyBatch { out, from, format, bare: false }
    }

    /// Of a unidirectional client: it gets pushes alone, and its connect is answered by one.
    pub fn bare(out: &'b mut Vec<u8>) -> ReplyBatch<'b> {
        ReplyBatch { bare: true, ..ReplyBatch::new(out, Format::Json) }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends the reply to the command `id`.
    pub fn reply(&mut self, id: u32, reply: &Reply<'_>) {
        if self.bare {
            if let Reply::Connect(result) = reply {
                self.separate();
                json::encode_connect_push(self.out, result);
            }
            return;
        }
        self.separate();
        match self.format {
            Format::Json => json::encode_reply(self.out, id, reply),
            Format::Protobuf => protobuf::encode_reply(self.out, id, reply),
        }
    }

    /// Appends a push. An empty `channel` is left out: messages and refreshes have none.
    pub fn push(&mut self, channel: &str, push: &Push<'_>) {
        self.separate();
        match self.bare {
            true => encode_bare_push(self.out, channel, push),
            false => encode_push(self.out, self.format, channel, push),
        }
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

/// Appends a push that is a frame of its own, as [`ReplyBatch::push`].
///
/// The one that delivery runs through: a publication is written in one pass, without memory of its own.
pub fn encode_push(out: &mut Vec<u8>, format: Format, channel: &str, push: &Push<'_>) {
    match format {
        Format::Json => json::encode_push(out, channel, push),
        Format::Protobuf => protobuf::encode_push(out, channel, push),
    }
}

/// Appends a push for a unidirectional client, in JSON: no reply around it.
pub fn encode_bare_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    json::encode_bare_push(out, channel, push);
}

/// A JSON string of the text.
pub fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 4 + 2);
    json::write::string(&mut out, text);
    out
}
