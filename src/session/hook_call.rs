//! What a session asks the backend, and what it may answer. Plain data: a hook call leaves the shard, its answer comes
//! back to it, and the session waits meanwhile as for anything else.
//!
//! The shapes on the wire are the control plane's business (`control/hooks`); the words here are the client protocol's.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::certificate::ClientCertificate;
use crate::base::except::Except;
use crate::base::fault::Disconnect;
use crate::base::ids::{ChannelName, ClientId, UserName};
use crate::base::publication::PayloadForm;
use crate::proto::centrifuge::Format;
use crate::session::token::SubscribeGrant;

/// One hook call. The hook is the name of a `[[hook]]` of the configuration.
#[derive(Clone, Debug)]
pub struct HookCall {
    pub hook: Box<str>,
    pub caller: Caller,
    pub hook_request: HookRequest,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    pub client: ClientId,
    /// Empty for the anonymous, and before the client is known.
    pub user: UserName,
    /// `websocket`; of unidirectional clients `sse`, `http_stream`, `uni_websocket`, `long_poll`, `history`, `publish`.
    pub transport: &'static str,
    /// What the client writes in.
    pub format: Format,
    /// JSON that the backend or a token gave and only the backend gets to see again.
    pub meta: Option<Bytes>,
    /// Header fields of the request that opened the connection: those that the configuration forwards.
    pub headers: Option<Arc<Headers>>,
    /// That the client has shown.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// `None` where it is not known.
    pub address: Option<IpAddr>,
}

/// Names in lower case, and values: bytes, as those of HTTP are.
pub type Headers = [(Box<str>, Box<[u8]>)];

/// What is asked. Data is JSON.
#[derive(Clone, Debug)]
pub enum HookRequest {
    Connect {
        data: Option<Bytes>,
        /// What the client calls itself, and which of it.
        name: Box<str>,
        version: Box<str>,
        /// Server-side subscriptions that the client had before and asks to recover.
        channels: Vec<ChannelName>,
    },
    Refresh,
    Subscribe {
        channel: ChannelName,
        token: Box<str>,
        data: Option<Bytes>,
    },
    SubRefresh {
        channel: ChannelName,
    },
    Publish {
        channel: ChannelName,
        data: Bytes,
        /// Of `data`, and of what the backend may have published instead.
        form: PayloadForm,
    },
    Rpc {
        method: Box<str>,
        data: Option<Bytes>,
    },
}

/// What the backend says to it. The variant is that of the [`HookRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Connect(Box<ConnectAnswer>),
    Refresh(RefreshAnswer),
    Subscribe(Box<SubscribeAnswer>),
    SubRefresh(SubRefreshAnswer),
    Publish(PublishAnswer),
    Rpc { data: Option<Bytes> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectAnswer {
    pub user: String,
    /// Unix seconds; 0 never.
    pub expire_at_s: u64,
    pub info: Option<Bytes>,
    /// Handed to the client with the answer to its connect.
    pub data: Option<Bytes>,
    /// Server-side subscriptions: of `channels` and `subs` both.
    pub subs: Vec<(ChannelName, Granted)>,
    pub meta: Option<Bytes>,
    /// What tells the device from others of the user.
    pub device: Option<String>,
}

/// A subscription that the backend grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    pub grant: SubscribeGrant,
    /// Unix seconds; 0 never.
    pub expire_at_s: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefreshAnswer {
    pub expired: bool,
    /// Unix seconds; 0 never.
    pub expire_at_s: u64,
    pub info: Option<Bytes>,
    pub meta: Option<Bytes>,
}

pub type SubscribeAnswer = Granted;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubRefreshAnswer {
    pub expired: bool,
    /// Unix seconds; 0 never.
    pub expire_at_s: u64,
    pub info: Option<Bytes>,
}

/// What is published in place of what the client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishAnswer {
    /// `None`: as the client sent it.
    pub data: Option<Bytes>,
    pub skip_history: bool,
    pub tags: Vec<(String, String)>,
    /// Who does not get it.
    pub except: Option<Except>,
    pub idempotency_key: Option<Box<str>>,
    pub version: u64,
    pub version_epoch: Option<Box<str>>,
}

/// Why there is no [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The backend refuses with an error of its own: code from 400 to 1999, message, and whether trying again may help.
    Error { code: u16, message: Box<str>, temporary: bool },
    /// The backend ends the connection.
    Disconnect(Disconnect),
    /// There is no telling what the backend wants: it is down, slow, talks nonsense, or is protected from more
    /// hook calls. `let_in`: the hook's policy is to go on as if there were no hook.
    Unavailable { let_in: bool },
}

/// Held while the answer is wanted. Dropped, it takes the hook call back, and nothing else: what the hook call is for
/// stands with whom it belongs to, so that a record of that needs nothing of this.
pub struct Waiting(Option<Box<dyn Cancel>>);

/// How the side that answers a request stops doing so.
pub trait Cancel: Send {
    fn cancel(self: Box<Self>);
}

impl Waiting {
    pub fn new(cancel: impl Cancel + 'static) -> Waiting {
        Waiting(Some(Box::new(cancel)))
    }

    /// Of a hook call that is not taken back.
    pub fn for_good() -> Waiting {
        Waiting(None)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel.cancel();
        }
    }
}
