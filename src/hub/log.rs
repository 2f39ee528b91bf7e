//! A channel's log: publications in the order of their offsets.

use std::sync::{Arc, OnceLock};

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Offset, Position, UserName, WireKind};

/// Who published or joined, as other clients may see it. JSON texts are kept as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub user: UserName,
    /// The public id, as text; empty for a publication of the server.
    pub client: String,
    /// JSON from the connection token or connect hook.
    pub conn_info: Option<Bytes>,
    /// JSON from the subscription token or subscribe hook.
    pub chan_info: Option<Bytes>,
}

impl Default for ClientInfo {
    fn default() -> Self {
        ClientInfo { user: "".into(), client: String::new(), conn_info: None, chan_info: None }
    }
}

/// The frames of one publication, one for each wire kind that has had a reader. Filled in by whoever delivers;
/// the hub itself knows no wire.
#[derive(Debug, Default)]
pub struct Encoded([OnceLock<Bytes>; WireKind::COUNT]);

impl Encoded {
    /// The frame for `kind`, encoding it now if nobody has before.
    pub fn get_or_encode(&self, kind: WireKind, encode: impl FnOnce() -> Bytes) -> &Bytes {
        self.0[kind.index()].get_or_init(encode)
    }
}

/// One entry of a log: immutable, shared by every shard that delivers it.
#[derive(Debug)]
pub struct Publication {
    pub channel: ChannelName,
    pub position: Position,
    /// JSON, checked once at the edge and opaque here.
    pub data: Bytes,
    /// Set when a client published it.
    pub info: Option<ClientInfo>,
    pub tags: Vec<(String, String)>,
    /// Wall clock of the append, milliseconds since 1970.
    pub time_ms: u64,
    pub encoded: Encoded,
}

impl Publication {
    pub fn offset(&self) -> Offset {
        self.position.offset
    }

    /// Bytes this entry counts for in a bound: its payload, info and tags.
    pub fn weight(&self) -> usize {
        let info = self.info.as_ref().map_or(0, |info| {
            info.user.len()
                + info.client.len()
                + info.conn_info.as_ref().map_or(0, Bytes::len)
                + info.chan_info.as_ref().map_or(0, Bytes::len)
        });
        self.data.len() + info + self.tags.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }
}

/// Shared publications in offset order.
pub type Publications = Vec<Arc<Publication>>;
