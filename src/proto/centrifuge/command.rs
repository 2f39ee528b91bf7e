//! What clients say, however it was written.

use std::borrow::Cow;
use std::fmt;

use crate::base::fault::Disconnect;
use crate::base::filter::{Filter, FilterFault};
use crate::base::limits::COMMANDS_PER_FRAME_MAX;

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

/// What an application says, opaque here: JSON everywhere but in the publications of a namespace of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a>(Written<'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written<'a> {
    /// One value, with whitespace around it or not.
    Json(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Data<'a> {
    /// Text that has been read as one JSON value.
    pub(super) fn of_json(text: &'a str) -> Data<'a> {
        Data(Written::Json(text))
    }

    /// Bytes that are not JSON.
    pub(super) fn of_bytes(bytes: &'a [u8]) -> Data<'a> {
        Data(Written::Bytes(bytes))
    }

    /// Checked JSON as it was written, without the whitespace around it. `None`: it is none.
    pub fn as_json(self) -> Option<&'a str> {
        match self.0 {
            Written::Json(text) => Some(text.trim_matches([' ', '\n', '\r', '\t'])),
            Written::Bytes(_) => None,
        }
    }

    /// Exactly what was written.
    pub fn as_bytes(self) -> &'a [u8] {
        match self.0 {
            Written::Json(text) => text.as_bytes(),
            Written::Bytes(bytes) => bytes,
        }
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
    Connect(Box<Connect<'a>>),
    Subscribe(Box<Subscribe<'a>>),
    Unsubscribe {
        channel: Cow<'a, str>,
    },
    Publish(Publish<'a>),
    History(HistoryCommand<'a>),
    Presence {
        channel: Cow<'a, str>,
    },
    PresenceStats {
        channel: Cow<'a, str>,
    },
    Rpc {
        method: Cow<'a, str>,
        data: Option<Data<'a>>,
    },
    /// One-way message; no reply, whatever the id.
    Send {
        data: Option<Data<'a>>,
    },
    Refresh {
        token: Cow<'a, str>,
    },
    SubRefresh {
        channel: Cow<'a, str>,
        token: Cow<'a, str>,
    },
    /// A client's own ping. The SDKs do not send it and the published server closes with 3501; an empty `ping` reply
    /// exists ([`super::Reply::Ping`]) for callers that prefer to answer.
    Ping,
    /// The answer to the server's ping: the empty object, or anything without an id that is not `send`.
    Pong,
    /// An id and no method of this protocol. The published server closes with 3501.
    Unknown,
    /// Its payload is not JSON, which Protobuf cannot tell: refused by itself, the frame is sound.
    NotJson,
}

// It is moved several times on its way: what is large is rare and boxed, so that a pong costs no more than it is.
const _: () = assert!(size_of::<Command<'_>>() <= 96);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    pub token: Cow<'a, str>,
    pub data: Option<Data<'a>>,
    /// Positions of server-side subscriptions to recover, sorted by channel, each channel once.
    pub subs: Vec<(Cow<'a, str>, SinceField<'a>)>,
    pub name: Cow<'a, str>,
    pub version: Cow<'a, str>,
    /// Emulated request headers: the text of a JSON object, its values not looked at here.
    pub headers: Option<Cow<'a, str>>,
}

impl<'a> Connect<'a> {
    /// The position the client holds for `channel`.
    pub fn since(&self, channel: &str) -> Option<&SinceField<'a>> {
        let at = self.subs.binary_search_by(|(name, _)| name.as_ref().cmp(channel)).ok()?;
        Some(&self.subs[at].1)
    }
}

/// Most positions a `connect` may carry. They are resumed like subscribe commands of the same frame, so the same bound.
pub(super) const CONNECT_SUBS_MAX: usize = COMMANDS_PER_FRAME_MAX;

/// Brings the positions of a connect into order.
///
/// # Errors
/// A channel that comes twice.
pub(super) fn by_channel(subs: &mut [(Cow<'_, str>, SinceField<'_>)]) -> Result<(), CommandFault> {
    // Sorted once rather than searched at each insertion, which a hostile list would make quadratic.
    subs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    match subs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        true => Err(DUPLICATE),
        false => Ok(()),
    }
}

/// Where a client's copy of a channel ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinceField<'a> {
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
    pub data: Option<Data<'a>>,
    pub recover: bool,
    pub offset: u64,
    pub epoch: Cow<'a, str>,
    pub positioned: bool,
    pub recoverable: bool,
    pub join_leave: bool,
    /// Name of the shape in which publications are wanted (`fossil`: as deltas); empty: whole.
    pub shape: Cow<'a, str>,
    /// Bits: 1 is set by every current SDK; 2 asks to refuse (112) what cannot be recovered.
    pub flag: i64,
    /// By the tags of publications. One that is no filter is refused, and the frame is sound.
    pub filter: Option<Result<Box<Filter>, FilterFault>>,
    /// Zero for a channel that is a stream; other kinds of channel exist in the published server.
    pub kind: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    pub channel: Cow<'a, str>,
    pub data: Option<Data<'a>>,
    /// As [`Subscribe::kind`].
    pub kind: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryCommand<'a> {
    pub channel: Cow<'a, str>,
    /// Publications asked for: 0 for none but the top position, negative for as many as the server gives.
    pub limit: i32,
    pub since: Option<SinceField<'a>>,
    pub reverse: bool,
}

/// Which fields of an object have been read. The published server refuses a field that comes twice: which of the two
/// was checked by a proxy in between cannot be known.
#[derive(Default)]
pub(super) struct SeenFields(u32);

impl SeenFields {
    pub(super) fn once(&mut self, field: usize) -> Result<(), CommandFault> {
        let bit = 1 << field;
        if self.0 & bit != 0 {
            return Err(DUPLICATE);
        }
        self.0 |= bit;
        Ok(())
    }
}

const DUPLICATE: CommandFault = CommandFault("a field comes twice");
