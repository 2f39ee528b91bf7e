//! What comes through the inbox of a shard ([`super::inbox`]).

use std::sync::Arc;

use http::Response;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, Unsubscribed};
use crate::base::ids::{ChannelName, ConnId, UserName};
use crate::base::time::Time;
use crate::hub::places::DeviceClass;
use crate::session::SubscribeEffect;
use crate::session::hook_call::{Answer, Denied};
use crate::session::tunnel::TunnelAnswer;
use crate::shard::control_request::{ControlRequest, UserMessage};
use crate::shard::emulated::{EmulationMessage, EmulationOutcome};
use crate::shard::gather::{Gather, Tally};
use crate::shard::handover::agreement::AgreementMark;
use crate::shard::owner::{FromOwner, OwnerRequest};

/// The answer to the hook call of this number, which the connection asked.
#[derive(Debug)]
pub struct HookAnswered {
    pub conn: ConnId,
    pub number: u32,
    pub asked_at: Time,
    pub outcome: Result<Answer, Denied>,
}

/// One message. Sixteen bytes: everything larger is boxed or shared.
#[derive(Debug)]
pub enum ShardMessage {
    /// From the control plane.
    ControlRequest(Box<ControlRequest>),
    /// The control plane's answer to a request of HTTP.
    Http(Box<(ConnId, Response<Bytes>)>),
    /// Commands of a client whose connection is here, which came by a request to another shard, or to this one.
    Emulation(Box<EmulationMessage>),
    /// What became of them, for the connection that asked.
    Emulated(Box<(ConnId, EmulationOutcome)>),
    /// The backend's, or the control plane's for it.
    Backend(Box<HookAnswered>),
    /// What the backend of a tunnel says to one of its connections.
    Tunnel(Box<(ConnId, TunnelAnswer)>),
    /// From a follower of a channel that this shard owns.
    ToOwner(Box<OwnerRequest>),
    /// From the owner of a channel that this shard follows.
    FromOwner(FromOwner),
    /// To a user's owner: the user has one connection more, or one less.
    UserJoined(Box<UserJoined>),
    /// One more that takes no messages.
    UserJoinedByTunnel(Box<UserJoined>),
    UserLeft(Box<(UserName, ConnId)>),
    /// To the owner of the anonymous: so many connections of another process have come.
    AnonymousJoined(u32),
    /// From a user's owner, where users' connections are limited: the connection has a place and may be answered.
    Placed(ConnId),
    /// From a user's owner to one of the user's connections.
    Connection(Box<ConnectionCommand>),
    /// From a user's owner: a message to connections of its users.
    Push(Box<PushMessage>),
    /// From a shard that is about to be frozen.
    Quiet(Box<AgreementMark>),
}

const _: () = assert!(size_of::<ShardMessage>() == 16);

/// A connection more of a user.
#[derive(Debug)]
pub struct UserJoined {
    pub user: UserName,
    pub conn: ConnId,
    /// Where the connections of its device's class are limited.
    pub class: Option<DeviceClass>,
}

/// Something to do to one connection that must belong to `user`.
#[derive(Debug)]
pub struct ConnectionCommand {
    pub conn: ConnId,
    /// Checked before anything is done when the connection was named by its client id alone.
    pub user: UserName,
    pub command: ApiCommand,
    pub done: Arc<Gather>,
}

#[derive(Clone, Debug)]
pub enum ApiCommand {
    Subscribe(SubscribeEffect),
    Unsubscribe { channel: ChannelName, why: Unsubscribed },
    Disconnect(Disconnect),
    Refresh { expire_at_s: u64, info: Option<Bytes> },
}

impl ShardMessage {
    /// Says which users are connected: handled before any later request of the control plane.
    pub fn is_about_user(&self) -> bool {
        matches!(
            self,
            ShardMessage::UserJoined(_)
                | ShardMessage::UserJoinedByTunnel(_)
                | ShardMessage::UserLeft(_)
                | ShardMessage::AnonymousJoined(_)
        )
    }
}

/// A message to connections of the shard that gets this.
#[derive(Debug)]
pub struct PushMessage {
    pub message: Arc<UserMessage>,
    /// The connection, and its user's number in the ask.
    pub targets: Vec<(ConnId, u32)>,
    pub tally: Arc<Tally>,
}

/// A shard's inbox.
pub type ShardInbox = super::inbox::Inbox<ShardMessage>;
