//! What a node says about itself, and how it has others push to users.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::base::except::Except;
use crate::base::ids::ShardId;
use crate::proto::centrifuge::shared::{NodeStanding, NodeWord};
use crate::shard::control_request::ShardStats;

/// A message to users, of one trunkline node to the others.
pub const PUSH: &str = "trunkline.push";

#[derive(Serialize, Deserialize)]
pub struct PushNotification<'p> {
    /// Empty: everyone.
    pub users: Vec<String>,
    #[serde(borrow)]
    pub data: &'p RawValue,
    pub newest: bool,
    /// Whom it is kept from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_origin: Option<String>,
}

/// What this node says of itself, and when.
pub struct Nodes {
    pub uid: String,
    pub name: String,
    started: Instant,
    pub say_at: Instant,
    pub counts: Arc<Mutex<BTreeMap<ShardId, ShardStats>>>,
}

/// The nodes that were heard of, by their ids, and when.
pub type Others = Mutex<BTreeMap<String, (NodeStanding, Instant)>>;

impl Nodes {
    pub fn new(uid: String, name: String) -> Nodes {
        let now = Instant::now();
        Nodes { uid, name, started: now, say_at: now, counts: Arc::default() }
    }

    /// Others have forgotten this node.
    pub fn hurry(&mut self) {
        self.say_at = Instant::now();
    }

    pub fn standing(&self) -> NodeStanding {
        let counts = self.counts.lock();
        let sum = |of: fn(&ShardStats) -> u64| {
            u32::try_from(counts.values().map(of).sum::<u64>()).unwrap_or(u32::MAX)
        };
        NodeStanding {
            uid: self.uid.clone(),
            name: self.name.clone(),
            version: concat!("trunkline ", env!("CARGO_PKG_VERSION")).to_owned(),
            clients: sum(|shard| shard.clients),
            users: sum(|shard| shard.users),
            channels: sum(|shard| shard.channels),
            uptime_s: u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX),
            subs: sum(|shard| shard.subscriptions),
        }
    }
}

/// The word by which other nodes push to users; to everyone, without users.
pub fn push_word(users: &[String], data: &[u8], except: Option<&Except>, newest: bool) -> NodeWord {
    // What is no JSON was refused before.
    let data: &RawValue = serde_json::from_slice(data).unwrap_or(RawValue::NULL);
    let push = PushNotification {
        users: users.to_vec(),
        data,
        newest,
        except_client: except.and_then(|except| Some(except.client?.to_string())),
        except_user: except.and_then(|except| Some(except.user.as_ref()?.to_string())),
        except_origin: except.and_then(|except| Some(except.origin.as_ref()?.to_string())),
    };
    let data = serde_json::to_vec(&push).unwrap_or_default();
    NodeWord::Notification { op: PUSH.to_owned(), data: data.into() }
}
