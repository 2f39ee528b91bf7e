//! What a session waits for, and what waits meanwhile.

use std::collections::VecDeque;

use crate::base::bytes::Bytes;
use crate::base::filter::Filter;
use crate::base::ids::ChannelName;
use crate::base::publication::Since;
use crate::base::shape::Shape;
use crate::base::time::Time;
use crate::session::context::SubscribeEffect;
use crate::session::hook_call::{HookRequest, Waiting};
use crate::session::subscribed::Subscribed;
use crate::session::subscription::ChannelIndex;

/// Not the number of a channel: those are below 2^24.
pub(super) const NO_CHANNEL: ChannelIndex = u32::MAX;

/// What a held command costs beside its bytes: its place in the queue, and the allocator's share.
pub(super) const COMMAND_BYTES: usize = 48;

/// What a session waits for before it looks at its next command. One thing at a time.
pub(super) enum Waits {
    Joins(Connecting),
    Answer(AwaitedCall),
}

/// A connect that waits for its server-side subscriptions.
#[derive(Default)]
pub(super) struct Connecting {
    pub(super) id: u32,
    pub(super) outstanding: u32,
    pub(super) done: Vec<(ChannelName, Subscribed)>,
    /// JSON for the client, from the backend.
    pub(super) data: Option<Bytes>,
    /// `Some` until the client has its place among the connections of its user: what it is to be subscribed to then. A
    /// client that gets none is never seen in a channel.
    pub(super) behind_place: Option<Vec<SubscribeEffect>>,
}

/// A hook call whose answer is awaited.
pub(super) struct AwaitedCall {
    pub about: About,
    /// What was asked, to ask it once more of another process.
    pub hook_request: HookRequest,
    /// As given to [`Session::set_waiting`](crate::session::Session::set_waiting).
    pub number: u32,
    /// When the shard stops waiting, whatever the control plane does.
    pub until: Time,
    /// Dropped with the session: that cancels.
    pub _waiting: Option<Waiting>,
}

/// What a hook call is for, with all that is needed to go on.
pub(super) enum About {
    Connect {
        id: u32,
        /// Where the client was in the channels that it asks to recover.
        recover: Vec<(ChannelName, Since)>,
    },
    Refresh,
    Subscribe {
        wish: Wish,
        /// The server has ended the subscription before it began.
        revoked: bool,
    },
    SubRefresh {
        channel: ChannelIndex,
    },
    Publish {
        id: u32,
        channel: ChannelName,
        data: Bytes,
        /// The client's own name of it, which wants a receipt.
        receipt: Option<Box<str>>,
    },
    Rpc {
        id: u32,
    },
}

impl About {
    /// The command's; `None` where the server asks by itself.
    pub(super) fn id(&self) -> Option<u32> {
        match self {
            About::Connect { id, .. } | About::Publish { id, .. } | About::Rpc { id } => Some(*id),
            About::Subscribe { wish, .. } => Some(wish.id),
            About::Refresh | About::SubRefresh { .. } => None,
        }
    }
}

/// A subscription that a client asks for.
pub(super) struct Wish {
    pub id: u32,
    pub channel: ChannelName,
    pub positioned: bool,
    pub recoverable: bool,
    pub join_leave: bool,
    /// Where it was, if it asks to recover.
    pub since: Option<Since>,
    pub reject_unrecovered: bool,
    /// What it wants of publications.
    pub shape: Shape,
    /// By the tags of publications.
    pub filter: Option<Filter>,
}

/// In order, each one command of its own.
#[derive(Default)]
pub(super) struct HeldCommands {
    /// Bound: [`HELD_BYTES_MAX`](crate::session::HELD_BYTES_MAX), at which reading pauses.
    pub(super) commands: VecDeque<Box<[u8]>>,
    pub(super) bytes: usize,
}

impl HeldCommands {
    /// In order.
    pub(super) fn commands(&self) -> impl Iterator<Item = &[u8]> {
        self.commands.iter().map(|command| &**command)
    }

    pub(super) fn of(commands: impl Iterator<Item = Box<[u8]>>) -> HeldCommands {
        let commands: VecDeque<_> = commands.collect();
        let bytes = commands.iter().map(|command| command.len() + COMMAND_BYTES).sum();
        HeldCommands { commands, bytes }
    }
}
