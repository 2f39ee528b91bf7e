//! The seam between a channel's owner and its followers.
//!
//! A channel has one owner: the only writer of its log, which knows who is subscribed. It is a shard of this node, which
//! keeps a [`ChannelOwner`](crate::shard::channel_owner::ChannelOwner), or an [`Engine`], which this node shares with others.
//! Followers are the shards with subscribers. They say the same to any owner ([`OwnerRequest`]) and hear the same from it
//! ([`FromOwner`]); [`Router::owner`](crate::shard::router::Router::owner) says which it is.
//!
//! What an owner owes its followers:
//! - A request that has an answer is answered once. An engine whose server is away answers in its place: a read as
//!   unavailable, anything else with an error code; after a join that was answered so the connection is not in.
//! - Requests of one follower about one channel are handled in the order in which they came.
//! - Items of a log should come once and in order. When they do not, followers find out and read what is missing
//!   ([`crate::hub::followed`]). What is outside the log (join and leave events, publications without an offset) may be lost but
//!   not repeated: nothing tells a repeated one.

use std::fmt;
use std::sync::Arc;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Position, ShardId};
use crate::base::publication::{ClientInfo, Publication, Since};
use crate::hub::Roster;
use crate::hub::cursors::{AckRequest, UserCursors};
use crate::hub::followed::Item;
use crate::hub::requests::{
    AckOutcome, History, HistoryRequest, JoinRequest, Pace, PresenceStats, PublishRequest, Read, ReadAnswer,
};
use crate::session::{JoinOutcome, JoinTerms};
use crate::shard::control_request::{Busy, ControlRequest};
use crate::shard::emulated::{EmulationOutcome, ForeignCommands};
use crate::shard::gather::{AckGather, Gather};

/// What a follower says to a channel's owner, for one of its connections or for itself.
#[derive(Debug)]
pub enum OwnerRequest {
    Join {
        ask: JoinRequest,
        tag: JoinTag,
    },
    Leave {
        channel: ChannelName,
        conn: ConnId,
    },
    /// A member's info has changed.
    Renew {
        channel: ChannelName,
        conn: ConnId,
        info: Arc<ClientInfo>,
    },
    Publish {
        conn: ConnId,
        id: u32,
        ask: PublishRequest,
        /// The client wants to know the position.
        receipt: bool,
    },
    /// How many are subscribed to another channel. Nobody waits for an answer.
    Occupancy {
        ask: PublishRequest,
    },
    History {
        conn: ConnId,
        id: u32,
        ask: HistoryRequest,
    },
    /// Something is missing: what comes after a position?
    Read {
        by: ReadBy,
        read: Read,
    },
    Presence {
        conn: ConnId,
        id: u32,
        channel: ChannelName,
    },
    PresenceStats {
        conn: ConnId,
        id: u32,
        channel: ChannelName,
    },
    /// A device has received or read something.
    Ack {
        ask: AckRequest,
        done: Arc<AckGather>,
    },
}

impl OwnerRequest {
    /// Who said it hears what came of it.
    pub fn has_answer(&self) -> bool {
        // Of acknowledgements there is one for the whole call.
        !matches!(
            self,
            OwnerRequest::Leave { .. }
                | OwnerRequest::Renew { .. }
                | OwnerRequest::Ack { .. }
                | OwnerRequest::Occupancy { .. }
        )
    }

    pub fn channel(&self) -> &ChannelName {
        match self {
            OwnerRequest::Join { ask, .. } => &ask.channel,
            OwnerRequest::Publish { ask, .. } | OwnerRequest::Occupancy { ask } => &ask.channel,
            OwnerRequest::History { ask, .. } => &ask.channel,
            OwnerRequest::Read { read, .. } => &read.channel,
            OwnerRequest::Ack { ask, .. } => &ask.channel,
            OwnerRequest::Leave { channel, .. }
            | OwnerRequest::Renew { channel, .. }
            | OwnerRequest::Presence { channel, .. }
            | OwnerRequest::PresenceStats { channel, .. } => channel,
        }
    }
}

/// Who is missing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBy {
    /// A channel of the shard, with all of its subscribers there.
    Channel(ShardId),
    /// A subscriber whose cursor has fallen off its shard's stream.
    Laggard(ConnId),
}

/// What comes back unchanged with a join's answer.
#[derive(Debug)]
pub struct JoinTag {
    /// The asking shard's number of the channel.
    pub index: u32,
    /// What the asking shard's peer gets back.
    pub terms: JoinTerms,
    /// Dropped when the join is answered.
    pub done: Option<Arc<Gather>>,
}

/// What an owner says to a follower.
#[derive(Debug)]
pub enum FromOwner {
    Item(Item),
    /// A publication to be delivered at a pace.
    Paced(Box<(Arc<Publication>, Pace)>),
    /// Where a log stands, when that does not follow from its items: it is another one, or some were lost on the way.
    Stands(Box<(ChannelName, Position)>),
    Answer(Box<OwnerAnswer>),
}

#[derive(Debug)]
pub enum OwnerAnswer {
    Joined {
        conn: ConnId,
        channel: ChannelName,
        since: Option<Since>,
        tag: JoinTag,
        outcome: JoinOutcome,
        /// Where its user stands, if it is to hear of that.
        cursors: Option<Box<UserCursors>>,
    },
    Read {
        by: ReadBy,
        read: Read,
        answer: ReadAnswer,
    },
    Published {
        conn: ConnId,
        id: u32,
        outcome: Result<Position, ErrorCode>,
        receipt: bool,
    },
    History {
        conn: ConnId,
        id: u32,
        outcome: Result<History, ErrorCode>,
    },
    Presence {
        conn: ConnId,
        id: u32,
        outcome: Result<Arc<Roster>, ErrorCode>,
    },
    PresenceStats {
        conn: ConnId,
        id: u32,
        outcome: Result<PresenceStats, ErrorCode>,
    },
    Acked {
        conn: ConnId,
        id: u32,
        outcomes: Vec<AckOutcome>,
    },
}

impl OwnerAnswer {
    /// The connection that asked, unless its shard did.
    pub fn conn(&self) -> Option<ConnId> {
        match *self {
            OwnerAnswer::Read { by: ReadBy::Channel(_), .. } => None,
            OwnerAnswer::Joined { conn, .. }
            | OwnerAnswer::Read { by: ReadBy::Laggard(conn), .. }
            | OwnerAnswer::Published { conn, .. }
            | OwnerAnswer::History { conn, .. }
            | OwnerAnswer::Presence { conn, .. }
            | OwnerAnswer::PresenceStats { conn, .. }
            | OwnerAnswer::Acked { conn, .. } => Some(conn),
        }
    }
}

/// An owner of channels that is not a shard of this node. Its items and answers come to the shards' inboxes as
/// [`ShardMessage::FromOwner`](crate::shard::mailbox::ShardMessage::FromOwner).
pub trait Engine: Send + Sync {
    fn owns(&self, channel: &str) -> bool;

    /// From a shard's thread: must not block there.
    fn request(&self, request: OwnerRequest);

    /// From the control plane, about one channel.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    fn ask(&self, ask: ControlRequest) -> Result<(), Busy>;

    /// Passes commands on to the node of their client, in the order in which they come. What became of them comes as
    /// [`ShardMessage::Emulated`](crate::shard::mailbox::ShardMessage::Emulated). False: it knows no other nodes.
    fn pass_on(&self, commands: ForeignCommands) -> bool {
        drop(commands);
        false
    }

    /// What became of commands that another node has passed on, by the number that it gave them.
    fn passed_on(&self, node: Box<str>, number: u64, outcome: EmulationOutcome) {
        drop((node, number, outcome));
    }
}

/// Which owner a channel has.
#[derive(Clone, Copy)]
pub enum Owner<'a> {
    Shard(ShardId),
    Engine(&'a dyn Engine),
}

impl fmt::Debug for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Shard(shard) => write!(f, "shard {}", shard.0),
            Owner::Engine(_) => f.write_str("engine"),
        }
    }
}
