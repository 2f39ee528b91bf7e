//! Frames into commands.

use std::borrow::Cow;
use std::fmt;

use super::scan::Scanner;
use crate::base::fault::Disconnect;
use crate::base::limits::COMMANDS_PER_FRAME_MAX;

/// The commands of one frame, in order.
///
/// Objects may be separated by newlines, other whitespace or nothing. After a fault the iterator ends: what follows in
/// the frame cannot be trusted. The frame is expected to be bounded by the transport; the memory of one command is at
/// most a small multiple of its bytes.
///
/// # Errors
/// Every fault is the peer's and ends the connection, see [`CommandFault::disconnect`]. A frame that holds no command at
/// all is a fault as well. Text that is not UTF-8 anywhere in the frame refuses the whole of it.
pub fn decode_frame(payload: &[u8]) -> Commands<'_> {
    let (text, fault) = match std::str::from_utf8(payload) {
        Ok(text) => (text, None),
        Err(_) => ("", Some(CommandFault("frame is not UTF-8"))),
    };
    Commands { scanner: Scanner::new(text), decoded: 0, fault, ended: false }
}

/// Iterator of [`decode_frame`].
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    scanner: Scanner<'a>,
    decoded: usize,
    fault: Option<CommandFault>,
    ended: bool,
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, CommandFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let decoded = if let Some(fault) = self.fault {
            Err(fault)
        } else if self.scanner.at_end() {
            self.ended = true;
            if self.decoded > 0 {
                return None;
            }
            Err(CommandFault("frame without a command"))
        } else if self.decoded == COMMANDS_PER_FRAME_MAX {
            Err(CommandFault("too many commands in one frame"))
        } else {
            command(&mut self.scanner)
        };
        self.decoded += 1;
        self.ended |= decoded.is_err();
        Some(decoded)
    }
}

impl std::iter::FusedIterator for Commands<'_> {}

impl<'a> Commands<'a> {
    /// What has not been decoded yet: for a caller that must keep the rest of a frame for later.
    pub fn remaining(&self) -> &'a str {
        self.scanner.remaining()
    }
}

/// What is wrong with a frame, in words for a log. The peer learns only the code of the disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandFault(pub &'static str);

impl CommandFault {
    /// What the connection is closed with: 3501, after which the client does not come back by itself.
    pub fn disconnect(self) -> Disconnect {
        Disconnect::BAD_REQUEST
    }
}

impl fmt::Display for CommandFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CommandFault {}

/// JSON text of the peer's, checked and as it was written: an opaque payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    pub fn as_str(self) -> &'a str {
        self.0
    }

    pub fn as_bytes(self) -> &'a [u8] {
        self.0.as_bytes()
    }
}

/// One command. A reply to it carries the same `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Zero only with [`Method::Pong`] and [`Method::Send`], which get no reply.
    pub id: u32,
    pub method: Method<'a>,
}

/// What is asked. A field that is absent or null has its zero value; text may be empty, and it is for the session to
/// require what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    Connect(Connect<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    Publish(Publish<'a>),
    History(History<'a>),
    Presence {
        channel: Cow<'a, str>,
    },
    PresenceStats {
        channel: Cow<'a, str>,
    },
    Rpc {
        method: Cow<'a, str>,
        data: Option<Json<'a>>,
    },
    /// One-way message; no reply, whatever the id.
    Send {
        data: Option<Json<'a>>,
    },
    Refresh {
        token: Cow<'a, str>,
    },
    SubRefresh {
        channel: Cow<'a, str>,
        token: Cow<'a, str>,
    },
    /// A client's own ping. The SDKs do not send it and the published server closes with 3501; an empty `ping` reply
    /// exists ([`super::Reply::Ping`]) for whoever prefers to answer.
    Ping,
    /// The answer to the server's ping: the empty object, or anything without an id that is not `send`.
    Pong,
    /// An id and no method of this protocol. The published server closes with 3501.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    pub token: Cow<'a, str>,
    pub data: Option<Json<'a>>,
    /// Positions of server-side subscriptions to recover, sorted by channel, each channel once.
    pub subs: Vec<(Cow<'a, str>, Since<'a>)>,
    pub name: Cow<'a, str>,
    pub version: Cow<'a, str>,
    /// Emulated request headers: a JSON object, its values not looked at here.
    pub headers: Option<Json<'a>>,
}

impl<'a> Connect<'a> {
    /// The position the client holds for `channel`.
    pub fn since(&self, channel: &str) -> Option<&Since<'a>> {
        let at = self.subs.binary_search_by(|(name, _)| name.as_ref().cmp(channel)).ok()?;
        Some(&self.subs[at].1)
    }
}

/// Most positions a `connect` may carry. They are resumed like subscribe commands of the same frame, so the same bound.
const CONNECT_SUBS_MAX: usize = COMMANDS_PER_FRAME_MAX;

/// Where a client's copy of a channel ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since<'a> {
    /// Whether recovery is asked for. Always set in a history request.
    pub recover: bool,
    pub offset: u64,
    /// As the client has it: any text, an epoch of ours or not.
    pub epoch: Cow<'a, str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub channel: Cow<'a, str>,
    pub token: Cow<'a, str>,
    pub data: Option<Json<'a>>,
    pub recover: bool,
    pub offset: u64,
    pub epoch: Cow<'a, str>,
    pub positioned: bool,
    pub recoverable: bool,
    pub join_leave: bool,
    /// Name of the delta format asked for (`fossil`); empty for none.
    pub delta: Cow<'a, str>,
    /// Bits: 1 is set by every current SDK; 2 asks to refuse (112) what cannot be recovered.
    pub flag: i64,
    /// A filter by tags. Unsupported: it must be refused, not ignored, or the client gets what it did not ask for.
    pub tags_filter: Option<Json<'a>>,
    /// Zero for a channel that is a stream; other kinds of channel exist in the published server.
    pub kind: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    pub channel: Cow<'a, str>,
    pub data: Option<Json<'a>>,
    /// As [`Subscribe::kind`].
    pub kind: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History<'a> {
    pub channel: Cow<'a, str>,
    /// Publications asked for: 0 for none but the top position, negative for as many as the server gives.
    pub limit: i32,
    pub since: Option<Since<'a>>,
    pub reverse: bool,
}

fn command<'a>(scanner: &mut Scanner<'a>) -> Result<Command<'a>, CommandFault> {
    let (mut id, mut method, mut seen) = (0u32, None, Seen::default());
    scanner.object(|scanner, key| {
        let Some(place) = METHODS.iter().position(|&(name, _)| name == key) else {
            if key == "id" {
                seen.once(METHODS.len())?;
                return scanner.unsigned(&mut id);
            }
            return scanner.value().map(drop);
        };
        seen.once(place)?;
        if scanner.null() {
            return Ok(());
        }
        let decoded = METHODS[place].1(scanner)?;
        match method.replace(decoded) {
            None => Ok(()),
            Some(_) => Err(CommandFault("more than one method in a command")),
        }
    })?;
    let method = match method {
        Some(Method::Send { data }) => Method::Send { data },
        _ if id == 0 => Method::Pong,
        Some(method) => method,
        None => Method::Unknown,
    };
    Ok(Command { id, method })
}

type Decode = for<'a> fn(&mut Scanner<'a>) -> Result<Method<'a>, CommandFault>;

/// The methods by their key, the frequent ones first.
const METHODS: [(&str, Decode); 12] = [
    ("publish", publish),
    ("subscribe", |scanner| subscribe(scanner).map(Method::Subscribe)),
    ("rpc", rpc),
    ("send", send),
    ("connect", connect),
    ("unsubscribe", |scanner| Ok(Method::Unsubscribe { channel: only_text(scanner, "channel")? })),
    ("presence", |scanner| Ok(Method::Presence { channel: only_text(scanner, "channel")? })),
    ("presence_stats", |scanner| Ok(Method::PresenceStats { channel: only_text(scanner, "channel")? })),
    ("history", history),
    ("refresh", |scanner| Ok(Method::Refresh { token: only_text(scanner, "token")? })),
    ("sub_refresh", sub_refresh),
    ("ping", |scanner| scanner.object(|scanner, _| scanner.value().map(drop)).map(|()| Method::Ping)),
];

fn connect<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut connect, mut seen) = (Connect::default(), Seen::default());
    scanner.object(|scanner, key| match key {
        "token" => seen.once(0).and_then(|()| scanner.text(&mut connect.token)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut connect.data)),
        "subs" => {
            seen.once(2)?;
            connect.subs = subs(scanner)?;
            Ok(())
        }
        "name" => seen.once(3).and_then(|()| scanner.text(&mut connect.name)),
        "version" => seen.once(4).and_then(|()| scanner.text(&mut connect.version)),
        "headers" => {
            seen.once(5)?;
            if scanner.null() {
                return Ok(());
            }
            payload(scanner, &mut connect.headers)?;
            match connect.headers {
                Some(Json(text)) if text.starts_with('{') => Ok(()),
                _ => Err(CommandFault("headers are not an object")),
            }
        }
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Connect(connect))
}

fn subs<'a>(scanner: &mut Scanner<'a>) -> Result<Vec<(Cow<'a, str>, Since<'a>)>, CommandFault> {
    let mut subs = Vec::new();
    if scanner.null() {
        return Ok(subs);
    }
    scanner.entries(|scanner, channel| {
        if subs.len() == CONNECT_SUBS_MAX {
            return Err(CommandFault("too many subscriptions in a connect"));
        }
        let sub = if scanner.null() { Subscribe::default() } else { subscribe(scanner)? };
        subs.push((channel, Since { recover: sub.recover, offset: sub.offset, epoch: sub.epoch }));
        Ok(())
    })?;
    // Sorted once rather than searched at each insertion, which a hostile list would make quadratic.
    subs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if subs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(DUPLICATE);
    }
    Ok(subs)
}

fn subscribe<'a>(scanner: &mut Scanner<'a>) -> Result<Subscribe<'a>, CommandFault> {
    let (mut sub, mut seen) = (Subscribe::default(), Seen::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut sub.channel)),
        "token" => seen.once(1).and_then(|()| scanner.text(&mut sub.token)),
        "data" => seen.once(2).and_then(|()| payload(scanner, &mut sub.data)),
        "recover" => seen.once(3).and_then(|()| scanner.boolean(&mut sub.recover)),
        "offset" => seen.once(4).and_then(|()| scanner.unsigned(&mut sub.offset)),
        "epoch" => seen.once(5).and_then(|()| scanner.text(&mut sub.epoch)),
        "positioned" => seen.once(6).and_then(|()| scanner.boolean(&mut sub.positioned)),
        "recoverable" => seen.once(7).and_then(|()| scanner.boolean(&mut sub.recoverable)),
        "join_leave" => seen.once(8).and_then(|()| scanner.boolean(&mut sub.join_leave)),
        "delta" => seen.once(9).and_then(|()| scanner.text(&mut sub.delta)),
        "flag" => seen.once(10).and_then(|()| scanner.signed(&mut sub.flag)),
        "type" => seen.once(11).and_then(|()| scanner.signed(&mut sub.kind)),
        "tf" => {
            seen.once(12)?;
            if scanner.null() { Ok(()) } else { payload(scanner, &mut sub.tags_filter) }
        }
        _ => scanner.value().map(drop),
    })?;
    Ok(sub)
}

fn publish<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut publish, mut seen) = (Publish::default(), Seen::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut publish.channel)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut publish.data)),
        "type" => seen.once(2).and_then(|()| scanner.signed(&mut publish.kind)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Publish(publish))
}

fn history<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut history, mut seen) = (History::default(), Seen::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut history.channel)),
        "limit" => seen.once(1).and_then(|()| scanner.signed(&mut history.limit)),
        "since" => {
            seen.once(2)?;
            if !scanner.null() {
                history.since = Some(since(scanner)?);
            }
            Ok(())
        }
        "reverse" => seen.once(3).and_then(|()| scanner.boolean(&mut history.reverse)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::History(history))
}

fn since<'a>(scanner: &mut Scanner<'a>) -> Result<Since<'a>, CommandFault> {
    let (mut since, mut seen) = (Since { recover: true, ..Since::default() }, Seen::default());
    scanner.object(|scanner, key| match key {
        "offset" => seen.once(0).and_then(|()| scanner.unsigned(&mut since.offset)),
        "epoch" => seen.once(1).and_then(|()| scanner.text(&mut since.epoch)),
        _ => scanner.value().map(drop),
    })?;
    Ok(since)
}

fn rpc<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut method, mut data, mut seen) = (Cow::default(), None, Seen::default());
    scanner.object(|scanner, key| match key {
        "method" => seen.once(0).and_then(|()| scanner.text(&mut method)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut data)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Rpc { method, data })
}

fn send<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut data, mut seen) = (None, Seen::default());
    scanner.object(|scanner, key| match key {
        "data" => seen.once(0).and_then(|()| payload(scanner, &mut data)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Send { data })
}

fn sub_refresh<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut channel, mut token, mut seen) = (Cow::default(), Cow::default(), Seen::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut channel)),
        "token" => seen.once(1).and_then(|()| scanner.text(&mut token)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::SubRefresh { channel, token })
}

/// An object of which one text field matters.
fn only_text<'a>(scanner: &mut Scanner<'a>, name: &str) -> Result<Cow<'a, str>, CommandFault> {
    let (mut text, mut seen) = (Cow::default(), Seen::default());
    scanner.object(|scanner, key| {
        if key != name {
            return scanner.value().map(drop);
        }
        seen.once(0)?;
        scanner.text(&mut text)
    })?;
    Ok(text)
}

/// A payload. Null is a payload like any other, as in the published server.
fn payload<'a>(scanner: &mut Scanner<'a>, into: &mut Option<Json<'a>>) -> Result<(), CommandFault> {
    *into = Some(Json(scanner.value()?));
    Ok(())
}

/// Which fields of an object have been read. The published server refuses a field that comes twice: which of the two
/// was checked by a proxy in between cannot be known.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn once(&mut self, field: usize) -> Result<(), CommandFault> {
        let bit = 1 << field;
        if self.0 & bit != 0 {
            return Err(DUPLICATE);
        }
        self.0 |= bit;
        Ok(())
    }
}

const DUPLICATE: CommandFault = CommandFault("a field comes twice");
