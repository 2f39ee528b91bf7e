//! Publications and who made them: the words that hub, sessions and shards share.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::base::bytes::Bytes;
use crate::base::except::Except;
use crate::base::ids::{ChannelName, EncodingId, Epoch, Offset, Position, UserName};
use crate::base::time::Time;

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

/// How others see a member of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visibility {
    /// In the channel's presence.
    pub listed: bool,
    /// By a join and a leave event.
    pub announced: bool,
}

impl Visibility {
    pub fn at_all(self) -> bool {
        self.listed || self.announced
    }
}

/// The frames of one item, each made once, by the first delivery that needs it. Nothing is made for an encoding without
/// subscribers.
#[derive(Default)]
pub struct Encoded {
    /// When this node had the request for it; zero where that is not known.
    accepted: Time,
    first: OnceLock<EncodedFrame>,
    patch: OnceLock<Box<Patch>>,
}

/// What changes from another payload to this one.
#[derive(Debug)]
struct Patch {
    base: Bytes,
    /// `None`: nothing that is shorter than the payload.
    bytes: Option<Bytes>,
}

/// A frame, and the one that was needed after it. Most entries of a log are read in one encoding: the first frame needs no
/// allocation of its own.
#[derive(Debug)]
struct EncodedFrame {
    encoding: EncodingId,
    bytes: Bytes,
    next: OnceLock<Box<EncodedFrame>>,
}

impl fmt::Debug for Encoded {
    /// Without the moment, which is of this process alone: the same item of another one is no other item.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("first", &self.first)
            .field("patch", &self.patch)
            .finish_non_exhaustive()
    }
}

impl Encoded {
    /// Nothing is made yet, of an item that was accepted then.
    pub fn of(accepted: Time) -> Encoded {
        Encoded { accepted, ..Encoded::default() }
    }

    pub fn accepted(&self) -> Time {
        self.accepted
    }

    /// What changes from `base` to this item, by the first that needs it. `None` as well where another base came first: a
    /// channel's publications have one order.
    pub fn patch(&self, base: &Bytes, make: impl FnOnce() -> Option<Bytes>) -> Option<&Bytes> {
        let Patch { base: known, bytes } =
            &**self.patch.get_or_init(|| Box::new(Patch { base: base.clone(), bytes: make() }));
        let bytes = bytes.as_ref()?;
        let is_same = known.as_ptr() == base.as_ptr() && known.len() == base.len();
        (is_same || known == base).then_some(bytes)
    }

    /// The frame in `encoding`, if somebody has needed it before.
    pub fn get(&self, encoding: EncodingId) -> Option<&Bytes> {
        let mut at = self.first.get()?;
        while at.encoding != encoding {
            at = at.next.get()?;
        }
        Some(&at.bytes)
    }

    /// The frame in `encoding`, made now if nobody has needed it before.
    pub fn get_or_encode(&self, encoding: EncodingId, encode: impl FnOnce() -> Bytes) -> &Bytes {
        let mut encode = Some(encode);
        let mut frame = || {
            let bytes = encode.take().map_or_else(Bytes::new, |encode| encode());
            EncodedFrame { encoding, bytes, next: OnceLock::new() }
        };
        let mut at = self.first.get_or_init(&mut frame);
        while at.encoding != encoding {
            at = at.next.get_or_init(|| Box::new(frame()));
        }
        &at.bytes
    }
}

/// What the publications of a namespace hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadForm {
    /// JSON alone, which clients of every kind read.
    #[default]
    Json,
    /// Any bytes, as they came: only clients that read bytes may subscribe.
    Bytes,
}

/// What is known of a payload when it comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    /// JSON, to be delivered as it is.
    #[default]
    Line,
    /// JSON, with line breaks between its tokens.
    Json,
    /// Any bytes.
    Bytes,
}

impl From<PayloadForm> for Contents {
    /// Of what has been checked to be of the namespace's form.
    fn from(form: PayloadForm) -> Contents {
        match form {
            PayloadForm::Json => Contents::Line,
            PayloadForm::Bytes => Contents::Bytes,
        }
    }
}

/// One entry of a log: immutable, shared by every shard that delivers it.
#[derive(Debug)]
pub struct Publication {
    pub channel: ChannelName,
    pub position: Position,
    /// Opaque here: checked JSON, or any bytes where the namespace has [`PayloadForm::Bytes`].
    pub data: Bytes,
    /// Set when a client published it.
    pub info: Option<ClientInfo>,
    pub tags: Vec<(String, String)>,
    /// Who does not get it, wherever it is read from.
    pub except: Option<Arc<Except>>,
    /// Wall clock of the append, milliseconds since 1970.
    pub time_ms: u64,
    pub encoded: Encoded,
}

/// The tag that names the key of a value: so it reaches clients, filters, the store and other nodes as any tag does.
pub const KEY_TAG: &str = "key";
/// The tag of a removal; its value is [`IS_REMOVED`].
pub const REMOVED_TAG: &str = "removed";
pub const IS_REMOVED: &str = "true";

/// The key that tags name; empty when they name none.
pub fn key_of(tags: &[(String, String)]) -> &str {
    tags.iter().find(|(name, _)| name == KEY_TAG).map_or("", |(_, key)| key)
}

/// Whether tags say that the value of their key is removed.
pub fn removes(tags: &[(String, String)]) -> bool {
    tags.iter().any(|(name, value)| name == REMOVED_TAG && value == IS_REMOVED)
}

impl Publication {
    pub fn offset(&self) -> Offset {
        self.position.offset
    }

    /// Of a value channel: the key whose value it is.
    pub fn key(&self) -> &str {
        key_of(&self.tags)
    }

    /// Of a value channel: its key has no value any more.
    pub fn is_removal(&self) -> bool {
        removes(&self.tags)
    }

    /// Bytes this entry counts for in a bound: its payload, info, tags and whom it is kept from.
    pub fn weight(&self) -> usize {
        let info = self.info.as_ref().map_or(0, |info| {
            info.user.len()
                + info.client.len()
                + info.conn_info.as_ref().map_or(0, Bytes::len)
                + info.chan_info.as_ref().map_or(0, Bytes::len)
        });
        let except = self.except.as_ref().map_or(0, |except| except.weight());
        self.data.len() + info + except + self.tags.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }
}

/// Shared publications in offset order.
pub type Publications = Vec<Arc<Publication>>;

/// What somebody who joins gets of what it missed.
#[derive(Clone, Debug, Default)]
pub enum Missed {
    /// It did not ask.
    #[default]
    NotAsked,
    /// Some of it is not there any more.
    Lost,
    /// All of it, in order.
    Given(Publications),
}

impl Missed {
    /// Of one that asked: `None` is lost.
    pub fn of(publications: Option<Publications>) -> Missed {
        publications.map_or(Missed::Lost, Missed::Given)
    }
}

/// A position as a client names it. An epoch that no log of ours ever had is `Foreign`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    pub offset: Offset,
    pub epoch: SinceEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinceEpoch {
    /// The client sent none: any epoch will do.
    Any,
    Known(Epoch),
    Foreign,
    /// No position: what was published last, at most so many and none before a time in milliseconds since 1970.
    Newest {
        count: u32,
        from_ms: u64,
    },
}

impl Since {
    /// Everything that is kept.
    pub const WHOLE: Since =
        Since { offset: Offset(0), epoch: SinceEpoch::Newest { count: u32::MAX, from_ms: 0 } };

    /// The same of a stream, of which a part is of use as well: one publication less than of values.
    pub const KEPT: Since =
        Since { offset: Offset(0), epoch: SinceEpoch::Newest { count: u32::MAX - 1, from_ms: 0 } };

    /// It is not a return to a place in the log.
    pub fn is_rewind(&self) -> bool {
        matches!(self.epoch, SinceEpoch::Newest { .. })
    }
}

impl SinceEpoch {
    /// Reads the wire's epoch text.
    pub fn from_wire(text: &str) -> SinceEpoch {
        match text {
            "" => SinceEpoch::Any,
            text => text.parse().map_or(SinceEpoch::Foreign, SinceEpoch::Known),
        }
    }

    pub fn matches(self, epoch: Epoch) -> bool {
        match self {
            SinceEpoch::Any | SinceEpoch::Newest { .. } => true,
            SinceEpoch::Known(known) => known == epoch,
            SinceEpoch::Foreign => false,
        }
    }
}
