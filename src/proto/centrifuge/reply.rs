//! What clients get, however it is written: views that borrow everything.
//!
//! Whoever holds a publication, a client's info or a result describes it without copying. Fields marked raw are JSON text
//! that was checked when it came in; empty raw text counts as absent.

use crate::base::fault::{ErrorCode, Unsubscribed};
use crate::base::ids::{Epoch, Offset};
use crate::base::shape::Shape;

/// What is answered to a command.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    Error(ErrorRef<'a>),
    Connect(ConnectResult<'a>),
    Subscribe(SubscribeResult<'a>),
    Unsubscribe,
    Publish,
    /// Present clients by their public id.
    Presence(&'a [(&'a str, ClientInfoRef<'a>)]),
    /// The same, as [`super::encode_presence`] has written it in the client's format.
    PresenceEncoded(&'a [u8]),
    PresenceStats {
        clients: u32,
        users: u32,
    },
    History(HistoryResult<'a>),
    Ping,
    /// Raw data.
    Rpc(Option<&'a [u8]>),
    Refresh(RefreshResult<'a>),
    SubRefresh(Lifetime),
}

/// What comes without having been asked for. All but the last three belong to a channel.
#[derive(Clone, Copy, Debug)]
pub enum Push<'a> {
    Publication(PublicationRef<'a>),
    Join(ClientInfoRef<'a>),
    Leave(ClientInfoRef<'a>),
    Unsubscribe(Unsubscribed),
    Subscribe(SubscribePush<'a>),
    /// Raw data.
    Message(Option<&'a [u8]>),
    Refresh(Lifetime),
    /// The connection ends, where what carries it has no words for that.
    Disconnect {
        code: u32,
        reason: &'a str,
    },
}

/// An error reply. Ours come from a [`ErrorCode`]; a backend may send its own code and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRef<'a> {
    pub code: u32,
    pub message: &'a str,
    pub temporary: bool,
}

impl From<ErrorCode> for ErrorRef<'static> {
    fn from(error_code: ErrorCode) -> Self {
        ErrorRef {
            code: error_code.code().into(),
            message: error_code.message(),
            temporary: error_code.temporary(),
        }
    }
}

/// Whether something ends unless it is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    pub expires: bool,
    /// Seconds until then.
    pub ttl_s: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectResult<'a> {
    pub client: &'a str,
    pub version: &'a str,
    pub lifetime: Lifetime,
    /// Raw.
    pub data: Option<&'a [u8]>,
    /// Server-side subscriptions by channel.
    pub subs: &'a [(&'a str, SubscribeResult<'a>)],
    /// Seconds between the server's pings; 0 when there are none.
    pub ping_s: u32,
    /// Whether the client has to answer pings.
    pub pong: bool,
    /// Echoed by the client in emulated upstream requests, with `node`.
    pub session: &'a str,
    pub node: &'a str,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeResult<'a> {
    pub lifetime: Lifetime,
    pub recoverable: bool,
    pub epoch: Option<Epoch>,
    /// What was missed, oldest first.
    pub publications: &'a [PublicationRef<'a>],
    pub recovered: bool,
    /// The top of the log; when `recovered`, the offset of the request instead, from which `publications` go on.
    pub offset: Offset,
    pub positioned: bool,
    /// Raw.
    pub data: Option<&'a [u8]>,
    pub was_recovering: bool,
    /// In which publications come.
    pub shape: Shape,
}

/// A server-side subscription that has begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribePush<'a> {
    pub recoverable: bool,
    pub epoch: Option<Epoch>,
    pub offset: Offset,
    pub positioned: bool,
    /// Raw.
    pub data: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryResult<'a> {
    pub publications: &'a [PublicationRef<'a>],
    pub epoch: Option<Epoch>,
    pub offset: Offset,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RefreshResult<'a> {
    pub client: &'a str,
    pub version: &'a str,
    pub lifetime: Lifetime,
}

/// Who a client is, as others may see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfoRef<'a> {
    pub user: &'a str,
    pub client: &'a str,
    /// Raw.
    pub conn_info: Option<&'a [u8]>,
    /// Raw.
    pub chan_info: Option<&'a [u8]>,
}

/// One publication. Its channel is said by what it stands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublicationRef<'a> {
    /// Raw; in a shape that is chained a JSON string.
    pub data: &'a [u8],
    /// Zero in a channel without history.
    pub offset: Offset,
    pub info: Option<ClientInfoRef<'a>>,
    pub tags: &'a [(String, String)],
    /// `data` is a patch of the publication before.
    pub patched: bool,
    /// Wall clock, milliseconds since 1970; 0 leaves it out.
    pub time_ms: u64,
}
