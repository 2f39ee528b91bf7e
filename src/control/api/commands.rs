//! The methods by name, and one call of each as its body says it.

use std::collections::BTreeMap;

use crate::base::json::object;
use crate::control::wire::{
    ApiBatchBody, ChannelBody, ChannelsBody, HistoryBody, PublishBody, PushBody, RpcBody, UserBody,
};
use crate::control::wire::{
    BlockBody, BlockedBody, CursorsBody, InboxBody, MembersBody, OnlineBody, PresenceBody, ReadByBody,
    UnreadBody,
};

/// A method by its name in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiMethod {
    Publish,
    Broadcast,
    Inbox,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Presence,
    PresenceStats,
    Online,
    Block,
    Unblock,
    Revoke,
    Blocked,
    Cursors,
    Unread,
    ReadBy,
    Members,
    History,
    HistoryRemove,
    Channels,
    Info,
    Push,
    Rpc,
    Batch,
}

impl ApiMethod {
    pub const ALL: [ApiMethod; 25] = [
        ApiMethod::Publish,
        ApiMethod::Broadcast,
        ApiMethod::Inbox,
        ApiMethod::Subscribe,
        ApiMethod::Unsubscribe,
        ApiMethod::Disconnect,
        ApiMethod::Refresh,
        ApiMethod::Presence,
        ApiMethod::PresenceStats,
        ApiMethod::Online,
        ApiMethod::Block,
        ApiMethod::Unblock,
        ApiMethod::Revoke,
        ApiMethod::Blocked,
        ApiMethod::Cursors,
        ApiMethod::Unread,
        ApiMethod::ReadBy,
        ApiMethod::Members,
        ApiMethod::History,
        ApiMethod::HistoryRemove,
        ApiMethod::Channels,
        ApiMethod::Info,
        ApiMethod::Push,
        ApiMethod::Rpc,
        ApiMethod::Batch,
    ];

    pub fn from_name(name: &str) -> Option<ApiMethod> {
        ApiMethod::ALL.into_iter().find(|method| method.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            ApiMethod::Publish => "publish",
            ApiMethod::Broadcast => "broadcast",
            ApiMethod::Inbox => "inbox",
            ApiMethod::Subscribe => "subscribe",
            ApiMethod::Unsubscribe => "unsubscribe",
            ApiMethod::Disconnect => "disconnect",
            ApiMethod::Refresh => "refresh",
            ApiMethod::Presence => "presence",
            ApiMethod::PresenceStats => "presence_stats",
            ApiMethod::Online => "online",
            ApiMethod::Block => "block",
            ApiMethod::Unblock => "unblock",
            ApiMethod::Revoke => "revoke",
            ApiMethod::Blocked => "blocked",
            ApiMethod::Cursors => "cursors",
            ApiMethod::Unread => "unread",
            ApiMethod::ReadBy => "read_by",
            ApiMethod::Members => "members",
            ApiMethod::History => "history",
            ApiMethod::HistoryRemove => "history_remove",
            ApiMethod::Channels => "channels",
            ApiMethod::Info => "info",
            ApiMethod::Push => "push",
            ApiMethod::Rpc => "rpc",
            ApiMethod::Batch => "batch",
        }
    }
}

/// One call, read but not yet judged.
#[derive(Debug)]
pub enum ApiCommandBody {
    Publish(PublishBody),
    Broadcast(PublishBody),
    Inbox(InboxBody),
    Subscribe(UserBody),
    Unsubscribe(UserBody),
    Disconnect(UserBody),
    Refresh(UserBody),
    Presence(PresenceBody),
    PresenceStats(ChannelBody),
    Online(OnlineBody),
    Block(BlockBody),
    Unblock(BlockBody),
    Revoke(BlockBody),
    Blocked(BlockedBody),
    Cursors(CursorsBody),
    Unread(UnreadBody),
    ReadBy(ReadByBody),
    Members(MembersBody),
    History(HistoryBody),
    HistoryRemove(ChannelBody),
    Channels(ChannelsBody),
    Info,
    Push(PushBody),
    Rpc(RpcBody),
    /// In a batch: no method that is known.
    Unknown,
}

impl ApiCommandBody {
    /// # Errors
    /// When `json` is no JSON or has other types than the method's.
    pub fn read(method: ApiMethod, json: &[u8]) -> serde_json::Result<ApiCommandBody> {
        Ok(match method {
            ApiMethod::Publish => ApiCommandBody::Publish(object(json)?),
            ApiMethod::Broadcast => ApiCommandBody::Broadcast(object(json)?),
            ApiMethod::Inbox => ApiCommandBody::Inbox(object(json)?),
            ApiMethod::Subscribe => ApiCommandBody::Subscribe(object(json)?),
            ApiMethod::Unsubscribe => ApiCommandBody::Unsubscribe(object(json)?),
            ApiMethod::Disconnect => ApiCommandBody::Disconnect(object(json)?),
            ApiMethod::Refresh => ApiCommandBody::Refresh(object(json)?),
            ApiMethod::Presence => ApiCommandBody::Presence(object(json)?),
            ApiMethod::PresenceStats => ApiCommandBody::PresenceStats(object(json)?),
            ApiMethod::Online => ApiCommandBody::Online(object(json)?),
            ApiMethod::Block => ApiCommandBody::Block(object(json)?),
            ApiMethod::Unblock => ApiCommandBody::Unblock(object(json)?),
            ApiMethod::Revoke => ApiCommandBody::Revoke(object(json)?),
            ApiMethod::Blocked => ApiCommandBody::Blocked(object(json)?),
            ApiMethod::Cursors => ApiCommandBody::Cursors(object(json)?),
            ApiMethod::Unread => ApiCommandBody::Unread(object(json)?),
            ApiMethod::ReadBy => ApiCommandBody::ReadBy(object(json)?),
            ApiMethod::Members => ApiCommandBody::Members(object(json)?),
            ApiMethod::History => ApiCommandBody::History(object(json)?),
            ApiMethod::HistoryRemove => ApiCommandBody::HistoryRemove(object(json)?),
            ApiMethod::Channels => ApiCommandBody::Channels(object(json)?),
            ApiMethod::Info => {
                object::<BTreeMap<String, serde::de::IgnoredAny>>(json)?;
                ApiCommandBody::Info
            }
            ApiMethod::Push => ApiCommandBody::Push(object(json)?),
            ApiMethod::Rpc => ApiCommandBody::Rpc(object(json)?),
            ApiMethod::Batch => ApiCommandBody::Unknown,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            ApiCommandBody::Publish(_) => "publish",
            ApiCommandBody::Broadcast(_) => "broadcast",
            ApiCommandBody::Inbox(_) => "inbox",
            ApiCommandBody::Subscribe(_) => "subscribe",
            ApiCommandBody::Unsubscribe(_) => "unsubscribe",
            ApiCommandBody::Disconnect(_) => "disconnect",
            ApiCommandBody::Refresh(_) => "refresh",
            ApiCommandBody::Presence(_) => "presence",
            ApiCommandBody::PresenceStats(_) => "presence_stats",
            ApiCommandBody::Online(_) => "online",
            ApiCommandBody::Block(_) => "block",
            ApiCommandBody::Unblock(_) => "unblock",
            ApiCommandBody::Revoke(_) => "revoke",
            ApiCommandBody::Blocked(_) => "blocked",
            ApiCommandBody::Cursors(_) => "cursors",
            ApiCommandBody::Unread(_) => "unread",
            ApiCommandBody::ReadBy(_) => "read_by",
            ApiCommandBody::Members(_) => "members",
            ApiCommandBody::History(_) => "history",
            ApiCommandBody::HistoryRemove(_) => "history_remove",
            ApiCommandBody::Channels(_) => "channels",
            ApiCommandBody::Info => "info",
            ApiCommandBody::Push(_) => "push",
            ApiCommandBody::Rpc(_) => "rpc",
            ApiCommandBody::Unknown => "unknown",
        }
    }
}

/// One request of the API.
#[derive(Debug)]
pub enum ApiRequest {
    One(Box<ApiCommandBody>),
    Batch { commands: Vec<ApiCommandBody>, parallel: bool },
}

impl ApiRequest {
    /// # Errors
    /// When `json` is no JSON, or has other types than the method's, anywhere.
    pub fn read(method: ApiMethod, json: &[u8]) -> serde_json::Result<ApiRequest> {
        if method != ApiMethod::Batch {
            return Ok(ApiRequest::One(Box::new(ApiCommandBody::read(method, json)?)));
        }
        let body: ApiBatchBody<'_> = object(json)?;
        let commands: serde_json::Result<Vec<ApiCommandBody>> = body
            .commands
            .into_iter()
            .map(|command| {
                let named = command.iter().find_map(|(name, body)| {
                    let method = ApiMethod::from_name(name).filter(|&method| method != ApiMethod::Batch)?;
                    Some((method, (*body)?))
                });
                match named {
                    Some((method, body)) => ApiCommandBody::read(method, body.get().as_bytes()),
                    None => Ok(ApiCommandBody::Unknown),
                }
            })
            .collect();
        Ok(ApiRequest::Batch { commands: commands?, parallel: body.parallel })
    }
}
