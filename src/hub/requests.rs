//! What is asked of a channel's owner, and what it answers. Plain data, so that it crosses threads as it is.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::except::Except;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Offset, Position, UserName};
use crate::base::publication::{ClientInfo, Contents, PayloadForm, Publication, Publications, Visibility};
pub use crate::base::publication::{Since, SinceEpoch};
use crate::base::time::Time;
use crate::base::trace::TraceContext;
use crate::hub::creators::Creator;
use crate::hub::cursors::{AckRequest, MemberCursor, NamedCursor, UserCursors};
use crate::hub::log_store::Ticket;

/// How a publication is handed to those who are connected. What is kept and read later does not know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Milliseconds over which deliveries are spread evenly; 0 delivers at once.
    pub spread_ms: u32,
    /// Delivered while nothing else is to be.
    pub bulk: bool,
}

impl Pace {
    pub fn is_at_once(self) -> bool {
        self == Pace::default()
    }
}

/// One publication on its way to its channel's owner.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    pub channel: ChannelName,
    pub data: Bytes,
    /// What `data` was found to be.
    pub contents: Contents,
    pub info: Option<ClientInfo>,
    pub tags: Vec<(String, String)>,
    pub except: Option<Arc<Except>>,
    pub skip_history: bool,
    /// A second publish with the same key within five minutes is answered like the first and delivers nothing.
    pub idempotency_key: Option<Box<str>>,
    /// Above 0: delivered only when higher than the highest seen in the same `version_epoch`.
    pub version: u64,
    pub version_epoch: Option<Box<str>>,
    /// It is of a key, by its tags: the channel must be one of values.
    pub keyed: bool,
    pub pace: Pace,
    pub by: Creator,
    /// When this node had the request, by the clock of its shards; zero: now.
    pub accepted: Time,
    /// The request that it came with, where that is traced.
    pub trace: Option<TraceContext>,
}

impl PublishRequest {
    /// A plain publication of the backend, of JSON: no tags, no key, kept in history.
    pub fn new(channel: ChannelName, data: Bytes) -> PublishRequest {
        PublishRequest {
            channel,
            data,
            contents: Contents::Line,
            info: None,
            tags: Vec::new(),
            except: None,
            skip_history: false,
            idempotency_key: None,
            version: 0,
            version_epoch: None,
            keyed: false,
            pace: Pace::default(),
            by: Creator::Backend,
            accepted: Time::ZERO,
            trace: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Published {
    /// Of the publication; of the earlier one when this was a repeat.
    pub position: Position,
    /// What to deliver; `None` for a repeat of an idempotency key or an old version.
    pub publication: Option<Arc<Publication>>,
    /// It, or what it repeats, is not kept yet: delivered and answered when [`crate::hub::OwnedChannels::take_released`] gives this.
    pub ticket: Option<Ticket>,
}

/// One connection becomes a subscriber.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    pub channel: ChannelName,
    pub conn: ConnId,
    /// Kept while the member is shown to others, and shared by all channels that show it; of one that is not shown it has the
    /// user alone.
    pub info: Arc<ClientInfo>,
    pub shown: Visibility,
    pub recover: Option<Since>,
    /// In the place of `recover`: it begins behind what this device of the user has received (empty: any device of the user), and
    /// with all that is kept where nothing is known of the device.
    pub device: Option<Box<UserName>>,
    pub by: Creator,
}

#[derive(Clone, Debug)]
pub struct Joined {
    /// What the recovery was from.
    pub since: Option<Since>,
    /// The log's end: what is published from now on comes after it.
    pub position: Position,
    /// Only when the ask had `recover`.
    pub recovery: Option<Recovery>,
    /// To deliver to the channel's other subscribers when the member is announced.
    pub join_leave: Option<Arc<JoinLeaveEvent>>,
    /// Where the subscriber's user stands, where the namespace says that it hears of that.
    pub cursors: Option<Box<UserCursors>>,
}

#[derive(Clone, Debug)]
pub enum Recovery {
    /// Every publication after the asked position, in order.
    Recovered(Publications),
    /// The log does not reach back to the asked position, or has another epoch.
    Lost,
    /// The same of a value channel: here are all values, in the place of those that the client has.
    Replaced(Publications),
    /// The log is read: [`crate::hub::OwnedChannels::take_released`] gives the rest.
    Later(Ticket),
}

/// Somebody joined or left a channel.
#[derive(Debug)]
pub struct JoinLeaveEvent {
    pub channel: ChannelName,
    pub joined: bool,
    pub info: Arc<ClientInfo>,
    pub encoded: crate::base::publication::Encoded,
}

#[derive(Clone, Debug)]
pub struct HistoryRequest {
    pub channel: ChannelName,
    /// `None`: up to the server's own bound. `Some(0)`: the position only.
    pub limit: Option<usize>,
    pub since: Option<Since>,
    /// Only what was published at or after this, in milliseconds since 1970. Not together with `since`.
    pub since_ms: Option<u64>,
    pub reverse: bool,
    pub by: Creator,
}

#[derive(Clone, Debug)]
pub struct History {
    pub publications: Publications,
    pub position: Position,
    pub payload: PayloadForm,
}

/// A follower asks a channel's owner for what comes after a position of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub channel: ChannelName,
    /// The follower's own number of the channel, and of this read: they come back with the answer.
    pub index: u32,
    pub number: u32,
    pub after: Position,
    /// About as many payload bytes are given at once; at least one publication is.
    pub bytes_max: usize,
}

/// What the owner says to a [`Read`].
#[derive(Clone, Debug)]
pub enum ReadAnswer {
    /// What comes next, without a hole, as much as one answer holds; and where the log ends.
    Page { publications: Publications, position: Position },
    /// The log does not reach back to there, or has another epoch. Where it ends.
    Lost(Position),
    /// The owner cannot be asked now.
    Unavailable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    pub clients: u32,
    pub users: u32,
}

/// What the acknowledgements of one device in one channel came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// By their places in the call.
    pub outcomes: Vec<(u8, AckOutcome)>,
    /// They hold when this is kept: [`OwnedChannels::take_released`](crate::hub::OwnedChannels::take_released) says so.
    pub ticket: Option<Ticket>,
}

impl Acked {
    /// Nothing of it is taken.
    pub fn refused(ask: &AckRequest, error_code: ErrorCode) -> Acked {
        let outcomes = ask.acks.iter().map(|ack| (ack.place, Err(error_code))).collect();
        Acked { outcomes, ticket: None }
    }

    /// The store has kept what it had of it, or has not.
    pub fn kept(mut self, kept: Result<(), ErrorCode>) -> Acked {
        self.ticket = None;
        if let Err(error_code) = kept {
            for (_, outcome) in &mut self.outcomes {
                *outcome = outcome.and(Err(error_code));
            }
        }
        self
    }
}

/// What the device has received by now, and what its user has read on any device.
pub type AckOutcome = Result<MemberCursor, ErrorCode>;

/// Some cursors of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorsPage {
    pub cursors: Vec<NamedCursor>,
    /// Where the log ends. `None`: nothing is known of the channel.
    pub position: Option<Position>,
    /// Behind the last of these there are more.
    pub more: bool,
}

/// Some members of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersPage {
    /// In the order of names.
    pub users: Vec<UserName>,
    /// Of all pages together.
    pub total: usize,
    /// Behind the last of these there are more.
    pub more: bool,
}

/// What a user has not read of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    pub unread: u64,
    pub read: Offset,
    pub top: Offset,
}

/// What waited for the store is done.
#[derive(Debug)]
pub enum Released {
    /// Of [`OwnedChannels::publish`](crate::hub::OwnedChannels::publish). With an error it was never
    /// published: nobody has seen it.
    Published(Ticket, Result<Published, ErrorCode>),
    /// What a join or a follower's read was waiting for: for [`Recovery::of`] or [`ReadAnswer::page`].
    Read(Ticket, Publications),
    /// Of [`OwnedChannels::ack`](crate::hub::OwnedChannels::ack) and its like.
    Cursors(Ticket, Result<(), ErrorCode>),
}

/// What came of a follower's read.
#[derive(Debug)]
pub enum Reading {
    Ready(ReadAnswer),
    /// The page comes with [`Released::Read`]; the log ends here.
    Later(Ticket, Position),
}
