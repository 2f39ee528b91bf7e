//! Commands of the API as other nodes are given them, and other nodes as `info` shows them.

use crate::base::bytes::Bytes;
use crate::control::answers::{MetricsBody, NodeAnswer, ProcessBody};
use crate::control::options::OtherNodes;
use crate::control::requests::ControlError;
use crate::hub::requests::SinceEpoch;
use crate::proto::centrifuge::shared::{NodeStanding, NodeSubscribe, NodeWord};
use crate::shard::control_request::{DisconnectUser, RefreshUser, SubscribeUser, Target, UnsubscribeUser};

/// Connections of other nodes are meant as well.
pub fn tell(others: &Option<OtherNodes>, word: impl FnOnce() -> NodeWord) {
    if let Some(OtherNodes(others)) = others {
        others.tell(word());
    }
}

/// Other nodes would subscribe their clients without the filter.
///
/// # Errors
/// There are other nodes, and it has one.
pub fn may_be_told(others: &Option<OtherNodes>, filtered: bool) -> Result<(), ControlError> {
    match filtered && others.is_some() {
        true => Err(ControlError::Invalid(
            "a filter or deliver_every is not passed to other nodes: not with an engine",
        )),
        false => Ok(()),
    }
}

/// What other nodes are to do of a command of the API.
pub trait AsWord {
    fn as_word(&self) -> NodeWord;
}

fn client(target: &Target) -> String {
    target.client.map(|client| client.to_string()).unwrap_or_default()
}

fn raw(bytes: &Option<Bytes>) -> Bytes {
    bytes.clone().unwrap_or_default()
}

fn date(expire_at: u64) -> i64 {
    i64::try_from(expire_at).unwrap_or(i64::MAX)
}

impl AsWord for SubscribeUser {
    fn as_word(&self) -> NodeWord {
        let on = |switch: Option<bool>| switch.unwrap_or(false);
        NodeWord::Subscribe(Box::new(NodeSubscribe {
            user: self.target.user.to_string(),
            channel: self.channel.to_string(),
            presence: on(self.overrides.presence),
            join_leave: on(self.overrides.join_leave),
            expire_at: date(self.expire_at),
            position: on(self.overrides.force_positioning),
            recover: on(self.overrides.force_recovery),
            channel_info: raw(&self.info),
            client: client(&self.target),
            data: raw(&self.data),
            recover_since: self.recover.map(|since| {
                let epoch = match since.epoch {
                    SinceEpoch::Known(epoch) => epoch.to_string(),
                    _ => String::new(),
                };
                (since.offset.0, epoch)
            }),
            session: String::new(),
        }))
    }
}

impl AsWord for UnsubscribeUser {
    fn as_word(&self) -> NodeWord {
        NodeWord::Unsubscribe {
            channel: self.channel.to_string(),
            user: self.target.user.to_string(),
            client: client(&self.target),
            session: String::new(),
            code: 2000,
            reason: "server unsubscribed".to_owned(),
        }
    }
}

impl AsWord for DisconnectUser {
    fn as_word(&self) -> NodeWord {
        NodeWord::Disconnect {
            user: self.target.user.to_string(),
            whitelist: self.target.except.iter().map(ToString::to_string).collect(),
            code: self.disconnect.code.into(),
            reason: self.disconnect.reason.to_string(),
            client: client(&self.target),
            session: String::new(),
        }
    }
}

impl AsWord for RefreshUser {
    fn as_word(&self) -> NodeWord {
        NodeWord::Refresh {
            user: self.target.user.to_string(),
            client: client(&self.target),
            expired: self.expired,
            expire_at: date(self.expire_at),
            info: raw(&self.info),
            session: String::new(),
        }
    }
}

impl From<NodeStanding> for NodeAnswer {
    fn from(node: NodeStanding) -> NodeAnswer {
        NodeAnswer {
            uid: node.uid,
            name: node.name,
            version: node.version.into(),
            num_clients: node.clients.into(),
            num_users: node.users.into(),
            num_channels: node.channels.into(),
            num_subs: node.subs.into(),
            uptime: node.uptime_s.into(),
            // Its own `/metrics` has them.
            metrics: MetricsBody { interval: 0.0, items: Default::default() },
            process: ProcessBody { cpu: 0.0, rss: 0 },
        }
    }
}
