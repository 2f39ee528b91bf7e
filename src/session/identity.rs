//! Who a client is, and how long that holds.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::ids::UserName;
use crate::base::publication::ClientInfo;

/// Who the client is. Absent for an anonymous client of whom nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: Option<UserName>,
    pub conn_info: Option<Bytes>,
    /// JSON that only the backend gets to see. Boxed: many have none.
    pub meta: Option<Box<Bytes>>,
    /// Unix seconds at which the connection expires; 0 never.
    pub expire_at_s: u64,
    pub renewal: Renewal,
    /// The tag that it named when it connected: see [`crate::base::except`]. Boxed twice, as the next two: most have none.
    pub origin: Option<Box<Box<str>>>,
    /// What tells the device from others of its user, as the token or the connect hook says: at most
    /// [`DEVICE_BYTES_MAX`](crate::base::inboxes::DEVICE_BYTES_MAX) bytes.
    pub device: Option<Box<UserName>>,
    /// `jti` of the token that it has shown, if that has one.
    pub token_id: Option<Box<Box<str>>>,
    /// What others see of it, once for all channels that show it: see [`shared_info`].
    pub shared: Option<Arc<ClientInfo>>,
}

const _: () = assert!(size_of::<Identity>() <= 112, "what every client with a token has");

impl Identity {
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_ref().map(|origin| &***origin)
    }

    pub fn device(&self) -> Option<&UserName> {
        self.device.as_deref()
    }
}

/// Who somebody is to others, but for what a subscription adds.
pub fn info_of(identity: Option<&Identity>, client: String) -> ClientInfo {
    ClientInfo {
        user: identity.and_then(|identity| identity.user.clone()).unwrap_or_else(|| "".into()),
        client,
        conn_info: identity.and_then(|identity| identity.conn_info.clone()),
        chan_info: None,
    }
}

/// The same, shared by all channels that have it, as long as it stays what it is.
pub fn shared_info(identity: &mut Option<Box<Identity>>, client: String) -> Arc<ClientInfo> {
    let info = info_of(identity.as_deref(), client);
    let shared = &mut identity.get_or_insert_default().shared;
    match shared {
        Some(known) if **known == info => Arc::clone(known),
        _ => Arc::clone(shared.insert(Arc::new(info))),
    }
}

/// Who makes last longer what expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renewal {
    /// The client, with another token: it gets to know how long it has.
    #[default]
    Token,
    /// The backend, which is asked at this time (unix seconds): the client has nothing to show and hears nothing of it.
    Hook { ask_at_s: u64 },
}

/// Nobody is asked: what the hook granted ends when it ends.
pub(super) const NEVER_S: u64 = u64::MAX;

impl Renewal {
    /// Of what a hook granted until `expire_at_s`; `asks`: there is a hook for what comes then.
    pub(super) fn by_hook(expire_at_s: u64, asks: bool) -> Renewal {
        Renewal::Hook { ask_at_s: if asks && expire_at_s != 0 { expire_at_s } else { NEVER_S } }
    }

    /// When the backend is to be asked; `None` never.
    pub(super) fn ask_at_s(self) -> Option<u64> {
        match self {
            Renewal::Hook { ask_at_s } if ask_at_s != NEVER_S => Some(ask_at_s),
            _ => None,
        }
    }

    /// `expire_at_s` as the client gets it.
    pub(super) fn shown_expiry(self, expire_at_s: u64) -> u64 {
        if self == Renewal::Token { expire_at_s } else { 0 }
    }
}
