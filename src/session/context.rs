//! What a session is given to act with, and what it wants done.

use std::sync::Arc;

use crate::base::blocks::Blocks;
use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::filter::Filters;
use crate::base::ids::{ChannelName, ClientId, UserName};
use crate::base::publication::{PayloadForm, Since, Visibility};
use crate::base::rewind::Rewind;
use crate::base::shape::Shapes;
use crate::hub::cursors::AckCall;
use crate::proto::centrifuge::{Push, Reply, ReplyBatch};
use crate::proto::wire::Carrier;
use crate::session::hook_call::{Granted, HookRequest, PublishAnswer};
use crate::session::identity::Renewal;
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::subscription::ChannelIndex;
use crate::session::token::{TokenFault, Verifier};

/// What a channel's namespace lets a client do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rights {
    /// A `#` in the channel's name begins the users that it is for.
    pub user_limited: bool,
    /// Of a user-limited channel: whether its name lists the user. One who is listed needs no token, and no hook is
    /// asked. Set by [`crate::session::rights::of_user`] alone.
    pub listed: Option<bool>,
    /// The namespace does not allow the channel's name: nobody may have it by asking.
    pub misnamed: bool,
    pub permissions: Permissions,
    /// A subscription needs a token, whatever else is allowed.
    pub private: bool,
    /// What its publications hold.
    pub payload: PayloadForm,
    pub keeps_history: bool,
    pub keeps_presence: bool,
    /// Members have cursors, which acknowledgements move.
    pub cursors: bool,
    pub join_leave: bool,
    /// A new subscriber gets the newest publication.
    pub gets_newest: bool,
    /// A new subscriber gets what was published last.
    pub rewind: Option<Rewind>,
    /// What subscribers may ask to get of publications.
    pub shapes: Shapes,
    /// Subscribers may filter by tags.
    pub tags_filter: bool,
    /// A subscriber's own join and leave are told to others.
    pub announced: bool,
    pub force_push_join_leave: bool,
    pub positioning: bool,
    pub recovery: bool,
    pub force_positioning: bool,
    pub force_recovery: bool,
    /// The backend is asked about it: see [`crate::session::hook_call`].
    pub subscribe_hook: bool,
    pub sub_refresh_hook: bool,
    pub publish_hook: bool,
    /// Who publishes gets the publication as any subscriber does.
    pub publisher_gets_own: bool,
}

impl Rights {
    /// Whether a subscription token counts. Who is listed needs none, but for a private channel; nor does it help those
    /// whom the channel's name leaves out.
    pub fn reads_token(&self) -> bool {
        self.listed.is_none_or(|listed| listed && self.private)
    }

    /// How others see a subscriber.
    pub fn visibility(&self) -> Visibility {
        Visibility { listed: self.keeps_presence, announced: self.announced }
    }

    /// Whether the backend is asked about a publication. It is not bothered by those whom the channel's name leaves out;
    /// one whom the server itself has subscribed is a subscriber, and what subscribers say must not slip by the hook.
    pub fn asks_about_publishing(&self, subscribed: bool) -> bool {
        self.publish_hook && (self.listed != Some(false) || subscribed)
    }

    /// Whether a client may do it without the backend being asked.
    pub fn may(&self, deed: Deed, subscribed: bool) -> bool {
        self.permissions.allows(deed, Grantee::Client)
            || subscribed && self.permissions.allows(deed, Grantee::Subscriber)
    }

    /// Whether it depends on being a subscriber.
    pub fn is_for_subscribers(&self, deed: Deed) -> bool {
        !self.may(deed, false) && self.may(deed, true)
    }
}

/// What the backend is asked whatever the channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedHooks {
    pub connect: bool,
    pub refresh: bool,
    pub rpc: bool,
}

/// What a session may ask of its surroundings without waiting.
pub trait SessionEnvironment {
    /// # Errors
    /// 107 for a name that cannot be one, 102 for a namespace that does not exist.
    fn rights(&self, channel: &str) -> Result<Rights, ErrorCode>;

    /// The shard's number of a channel that somebody here is subscribed to, or about to be.
    fn find(&self, channel: &str) -> Option<ChannelIndex>;

    /// `None`: no key is configured, no token can be valid.
    fn verifier(&self) -> Option<&Verifier>;

    /// Whom and which tokens this node does not let in. `None`: nobody is kept out.
    fn blocks(&self) -> Option<&Blocks> {
        None
    }

    fn allows_anonymous(&self) -> bool;

    /// Most subscriptions of one connection.
    fn channels_max(&self) -> usize;

    /// A client with a user is connected when it has got a place among the user's connections, and not before.
    fn limits_users(&self) -> bool;

    /// What every connection of the user is subscribed to. `None`: nothing, as for nobody known (empty).
    fn personal_channel(&self, user: &str) -> Option<ChannelName>;

    /// The user's inbox, to which every connection of the user is subscribed. `None`: there are none.
    fn inbox(&self, _user: &str) -> Option<ChannelName> {
        None
    }

    /// What a user's device is named decides what its connection gets.
    fn tells_devices_apart(&self) -> bool {
        false
    }

    /// The name behind a number of [`SessionEnvironment::find`].
    fn name(&self, channel: ChannelIndex) -> ChannelName;

    fn hooks(&self) -> WantedHooks;

    /// Whether some hook answers calls of the method.
    fn answers_calls(&self, _method: &str) -> bool {
        self.hooks().rpc
    }

    /// Names in lower case of the header fields that a client may send with its connect, for the backend to see.
    fn emulated_headers(&self) -> &[Box<str>];
}

/// A subscription to ask the channel's owner for.
#[derive(Clone, Debug)]
pub struct SubscribeEffect {
    /// The command's; 0 when the server subscribes. Of a unidirectional client's request, the channel's place in it.
    pub id: u32,
    pub channel: ChannelName,
    /// Of [`crate::session::Sub`].
    pub flags: u32,
    pub since: Option<Since>,
    pub reject_unrecovered: bool,
    pub chan_info: Option<Bytes>,
    /// Unix seconds; 0 never.
    pub expire_at_s: u64,
    pub renewal: Renewal,
    /// JSON that goes out with the subscription.
    pub data: Option<Bytes>,
    /// Publications are left out that these do not match.
    pub filters: Option<Arc<Filters>>,
    /// How often it is given something, where that is slower than its channel.
    pub deliver_every: DeliverEvery,
}

/// What the shard is to do for a session.
#[derive(Debug)]
pub enum Effect {
    /// The client is connected: count it, list it under its user, start its pings.
    Connected,
    /// Ask the user's owner for a place, then call [`crate::session::Session::handle_placed`].
    TakePlace,
    Subscribe(SubscribeEffect),
    /// A subscription ends: the client's doing, or for a reason that the client gets.
    Unsubscribe {
        channel: ChannelIndex,
        why: Option<Unsubscribed>,
    },
    Publish {
        id: u32,
        channel: ChannelName,
        /// Of the channel's form.
        data: Bytes,
        form: PayloadForm,
        /// What the backend wants done differently.
        changes: Option<Box<PublishAnswer>>,
        /// The client gets it as well, where it is subscribed.
        echoes: bool,
        /// The client's own name of it: a repeat of the same user is answered like the first, with the position.
        receipt: Option<Box<str>>,
    },
    History {
        id: u32,
        channel: ChannelName,
        /// `None`: as many as the server gives at once.
        limit: Option<usize>,
        since: Option<Since>,
        reverse: bool,
    },
    Presence {
        id: u32,
        channel: ChannelName,
    },
    PresenceStats {
        id: u32,
        channel: ChannelName,
    },
    /// The client has received or read something.
    Ack {
        id: u32,
        call: Box<AckCall>,
    },
    /// Put the hook call to the backend, then call [`crate::session::Session::set_waiting`].
    CallHook(HookRequest),
    /// Decode what [`crate::session::Session::next_held`] gives as if it came now.
    Resume,
    /// What others see of the client has changed: in one channel, or in all that it is subscribed to.
    InfoChanged {
        channel: Option<ChannelIndex>,
    },
    /// When something expires has changed.
    ExpiryChanged,
    /// The client sends the backend something, and wants no answer.
    Message {
        /// JSON.
        data: Bytes,
    },
    /// A token was refused; for the counters and the log.
    TokenRefused(TokenFault),
    /// An error reply went out; for the counters.
    Refused(ErrorCode),
    /// A command was over the limit of commands in a time; for the counters.
    Limited,
}

/// One call's surroundings.
pub struct Context<'a> {
    pub environment: &'a dyn SessionEnvironment,
    pub client: ClientId,
    /// Wall clock, unix seconds.
    pub unix_s: u64,
    pub version: &'static str,
    pub ping_s: u32,
    pub carrier: Carrier,
    /// What a client whose commands come by requests of their own names in them.
    pub emulation: Option<Emulation<'a>>,
    /// How many more commands the client may send now; those that keep a connection alive or end something do not count.
    pub allowance: u32,
    /// How many more commands of the client this turn of the shard's loop has room for; the next ones are held.
    pub turn: u16,
    /// The socket has not taken what was written before.
    pub blocked: bool,
    /// How long to wait before the backend is asked again about what expires, seconds.
    pub ask_again_s: u64,
    pub out: ReplyBatch<'a>,
    pub effects: &'a mut Vec<Effect>,
}

/// Whose commands they are, and where that one is.
#[derive(Clone, Copy, Debug)]
pub struct Emulation<'a> {
    /// A secret of the client, as its public id is none.
    pub session: ClientId,
    pub node: &'a str,
}

impl Context<'_> {
    pub fn reply(&mut self, id: u32, reply: &Reply<'_>) {
        self.out.reply(id, reply);
    }

    pub fn push(&mut self, channel: &str, push: &Push<'_>) {
        self.out.push(channel, push);
    }

    pub fn refuse(&mut self, id: u32, error_code: ErrorCode) {
        self.reply(id, &Reply::Error(error_code.into()));
        self.effects.push(Effect::Refused(error_code));
    }

    /// Counts a command. False when it is over the limit: it is refused, unless it has no reply that could say so.
    pub(super) fn admit(&mut self, id: u32) -> bool {
        if let Some(left) = self.allowance.checked_sub(1) {
            self.allowance = left;
            return true;
        }
        if id != 0 {
            self.refuse(id, ErrorCode::TooManyRequests);
        }
        self.effects.push(Effect::Limited);
        false
    }
}

/// Who connects, once the token has been read.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// `jti` of the token.
    pub token_id: Option<String>,
    pub device: Option<String>,
    pub user: Option<UserName>,
    pub conn_info: Option<Bytes>,
    pub meta: Option<Bytes>,
    pub expire_at_s: u64,
    pub renewal: Renewal,
    pub subs: Vec<(ChannelName, Granted)>,
    /// JSON for the client.
    pub data: Option<Bytes>,
}

/// How a command ends when it does not succeed.
pub(super) enum Failure {
    /// An error reply; the connection lives on.
    Refuse(ErrorCode),
    Close(Disconnect),
}

impl From<Result<ErrorCode, Disconnect>> for Failure {
    fn from(either: Result<ErrorCode, Disconnect>) -> Failure {
        either.map_or_else(Failure::Close, Failure::Refuse)
    }
}

impl From<ErrorCode> for Failure {
    fn from(error_code: ErrorCode) -> Failure {
        Failure::Refuse(error_code)
    }
}

impl From<Disconnect> for Failure {
    fn from(disconnect: Disconnect) -> Failure {
        Failure::Close(disconnect)
    }
}
