//! Other nodes: which there are, what they have this one do, and what this one has them do.
//!
//! The messages are Centrifugo's: a command given to one node reaches the connections of all, of either kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::except::Except;
use crate::base::fault::Disconnect;
use crate::base::ids::{Offset, ShardId, UserName};
use crate::base::limits::WS_CLOSE_REASON_BYTES_MAX;
use crate::engine::commands::{COMMANDS, OUTCOME};
use crate::engine::job::{EngineJob, Task, Then};
use crate::engine::keeper::EngineKeeper;
use crate::engine::limits::{NODE_EVERY, NODE_TTL};
use crate::engine::nodes::{PUSH, PushNotification};
use crate::engine::redis::layout::is_json;
use crate::engine::{asked, blocks};
use crate::hub::requests::{Since, SinceEpoch};
use crate::proto::centrifuge::shared::{
    NodeMessage, NodeSubscribe, NodeWord, decode_node_message, encode_node_message,
};
use crate::session::token::Overrides;
use crate::shard::control_request::{
    ControlReply, ControlRequest, DisconnectUser, PushUsers, RefreshUser, ShardStats, SubscribeUser, Target,
    UnsubscribeUser, UserMessage,
};
use crate::telemetry::sparing::log_peer_once_a_minute;

impl EngineKeeper {
    /// Has other nodes do something.
    pub(super) fn tell(&mut self, what: NodeWord, node: Option<String>) {
        let mut message = Vec::new();
        encode_node_message(&mut message, &NodeMessage { uid: self.nodes.uid.clone(), what });
        // Each node listens at every server: one that is there will do.
        let Some(link) = self.links.iter().find(|link| link.is_up()) else { return };
        self.shared.under_way.fetch_add(1, Ordering::Relaxed);
        link.push(EngineJob { what: Task::Say { node, message }, then: Then::Nobody });
    }

    pub(super) fn tick_nodes(&mut self, now: Instant) {
        if now < self.nodes.say_at {
            return;
        }
        self.nodes.say_at = now + NODE_EVERY;
        self.shared.others.lock().retain(|_, (_, heard)| now.duration_since(*heard) < NODE_TTL);
        let word = NodeWord::Node(self.nodes.standing());
        self.tell(word, None);
        let shards: Vec<ShardId> = self.posts.router().every_shard().collect();
        for shard in shards {
            let counts = Arc::clone(&self.nodes.counts);
            let reply = ControlReply::new(move |stats| {
                if let Ok(stats) = stats {
                    counts
                        .lock()
                        .insert(shard, ShardStats { counters: Vec::new(), faults: Vec::new(), ..stats });
                }
            });
            let _ = self.posts.router().ask(shard, ControlRequest::Stats(reply));
        }
    }

    pub(super) fn handle_node(&mut self, message: &[u8]) {
        let NodeMessage { uid, what } = match decode_node_message(message) {
            Ok(message) => message,
            Err(_) => {
                log_peer_once_a_minute(
                    "engine_node",
                    "what a node says cannot be read: it is dropped",
                    || None,
                );
                return;
            }
        };
        if uid == self.nodes.uid {
            return;
        }
        match what {
            NodeWord::Node(standing) => {
                // A node that is new hears of this one before its next turn.
                let known =
                    self.shared.others.lock().insert(uid.clone(), (standing, Instant::now())).is_some();
                if !known {
                    self.tell_blocks(&uid);
                    self.nodes.say_at = self.nodes.say_at.min(Instant::now() + Duration::from_millis(100));
                }
            }
            NodeWord::Shutdown => {
                self.shared.others.lock().remove(&uid);
            }
            NodeWord::Unsubscribe { channel, user, client, session, .. } => {
                let Some(target) = target(&user, &client, &session, &[]) else { return };
                let ask = UnsubscribeUser { target, channel: channel.as_str().into() };
                self.order(self.user_owner(&user), |reply| ControlRequest::Unsubscribe(ask, reply));
            }
            NodeWord::Disconnect { user, whitelist, code, reason, client, session } => {
                let Some(target) = target(&user, &client, &session, &whitelist) else { return };
                let disconnect = match u16::try_from(code) {
                    Ok(code @ 3000..=4999) if reason.len() <= WS_CLOSE_REASON_BYTES_MAX => {
                        Disconnect { code, reason: reason.into() }
                    }
                    _ => Disconnect::FORCE_NO_RECONNECT,
                };
                let ask = DisconnectUser { target, disconnect };
                self.order(self.user_owner(&user), |reply| ControlRequest::Disconnect(ask, reply));
            }
            NodeWord::Subscribe(sub) => self.handle_node_subscribe(*sub),
            NodeWord::Refresh { user, client, expired, expire_at, info, session } => {
                let Some(target) = target(&user, &client, &session, &[]) else { return };
                let ask = RefreshUser {
                    target,
                    expired,
                    expire_at: expire_at.max(0).cast_unsigned(),
                    info: json(info),
                };
                self.order(self.user_owner(&user), |reply| ControlRequest::Refresh(ask, reply));
            }
            NodeWord::Notification { op, data } if op == PUSH => self.handle_push(&data),
            NodeWord::Notification { op, data } if op == COMMANDS => self.handle_commands(uid, &data),
            NodeWord::Notification { op, data } if op == OUTCOME => self.handle_outcome(&data),
            NodeWord::Notification { op, data } if op == asked::ASK => self.handle_online(uid, &data),
            NodeWord::Notification { op, data } if op == blocks::BLOCK => self.handle_blocks(&data),
            NodeWord::Notification { op, data } if op == asked::ANSWER => {
                self.shared.asked.handle_answer(&uid, &data);
            }
            NodeWord::Notification { .. } | NodeWord::Other => {}
        }
    }

    fn handle_node_subscribe(&mut self, sub: NodeSubscribe) {
        let Some(target) = target(&sub.user, &sub.client, &sub.session, &[]) else { return };
        let recover = sub
            .recover_since
            .map(|(offset, epoch)| Since { offset: Offset(offset), epoch: SinceEpoch::from_wire(&epoch) });
        let on = |flag: bool| flag.then_some(true);
        let ask = SubscribeUser {
            target,
            channel: sub.channel.as_str().into(),
            info: json(sub.channel_info),
            data: json(sub.data),
            recover,
            expire_at: sub.expire_at.max(0).cast_unsigned(),
            filters: None,
            deliver_every: DeliverEvery::default(),
            overrides: Overrides {
                presence: on(sub.presence),
                join_leave: on(sub.join_leave),
                force_push_join_leave: None,
                force_positioning: on(sub.position),
                force_recovery: on(sub.recover),
            },
        };
        self.order(self.user_owner(&sub.user), |reply| ControlRequest::Subscribe(ask, reply));
    }

    fn handle_push(&mut self, data: &Bytes) {
        let Ok(push) = serde_json::from_slice::<PushNotification<'_>>(data) else { return };
        let data = Bytes::copy_from_slice(push.data.get().as_bytes());
        let except = Except {
            client: push.except_client.and_then(|client| client.parse().ok()),
            user: push.except_user.map(Into::into),
            origin: push.except_origin.map(String::into_boxed_str),
        };
        let except = Some(except).filter(|except| !except.is_nobody());
        let message = Arc::new(UserMessage { data, except, encoded: Default::default() });
        if push.users.is_empty() {
            for shard in self.posts.router().every_shard() {
                let message = Arc::clone(&message);
                self.order(shard, |reply| ControlRequest::Everyone(message, reply));
            }
        }
        let mut by_owner: BTreeMap<ShardId, Vec<UserName>> = BTreeMap::new();
        for user in &push.users {
            by_owner.entry(self.user_owner(user)).or_default().push(user.as_str().into());
        }
        for (owner, users) in by_owner {
            let ask = PushUsers { users, message: Arc::clone(&message), newest: push.newest };
            self.order(owner, |reply| ControlRequest::Push(ask, reply));
        }
    }

    pub(super) fn user_owner(&self, user: &str) -> ShardId {
        self.posts.router().user_owner(user)
    }
}

fn json(bytes: Bytes) -> Option<Bytes> {
    Some(bytes).filter(|bytes| !bytes.is_empty() && is_json(bytes))
}

/// `None`: no connection here can be meant.
fn target(user: &str, client: &str, session: &str, except: &[String]) -> Option<Target> {
    // Sessions are not told to clients, so no connection has the one that is named.
    if !session.is_empty() {
        return None;
    }
    let client = match client {
        "" => None,
        client => Some(client.parse().ok()?),
    };
    if user.is_empty() && client.is_none() {
        return None;
    }
    let except = except.iter().filter_map(|client| client.parse().ok()).collect();
    Some(Target { user: user.into(), client, except })
}
