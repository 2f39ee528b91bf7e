//! The methods by name, and one call of each as its body says it.

use std::collections::BTreeMap;

use crate::base::json::object;
use crate::control::wire::{
    BatchBody, ChannelBody, ChannelsBody, HistoryBody, PublishBody, PushBody, RpcBody, UserBody,
};
use crate::control::wire::{
    BlockBody, BlockedBody, CursorsBody, InboxBody, MembersBody, OnlineBody, PresenceBody, ReadByBody,
    UnreadBody,
};

/// A method by its name in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
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

impl Method {
    pub const ALL: [Method; 25] = [
        Method::Publish,
        Method::Broadcast,
        Method::Inbox,
        Method::Subscribe,
        Method::Unsubscribe,
        Method::Disconnect,
        Method::Refresh,
        Method::Presence,
        Method::PresenceStats,
        Method::Online,
        Method::Block,
        Method::Unblock,
        Method::Revoke,
        Method::Blocked,
        Method::Cursors,
        Method::Unread,
        Method::ReadBy,
        Method::Members,
        Method::History,
        Method::HistoryRemove,
        Method::Channels,
        Method::Info,
        Method::Push,
        Method::Rpc,
        Method::Batch,
    ];

    pub fn from_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Method::Publish => "publish",
            Method::Broadcast => "broadcast",
            Method::Inbox => "inbox",
            Method::Subscribe => "subscribe",
            Method::Unsubscribe => "unsubscribe",
            Method::Disconnect => "disconnect",
            Method::Refresh => "refresh",
            Method::Presence => "presence",
            Method::PresenceStats => "presence_stats",
            Method::Online => "online",
            Method::Block => "block",
            Method::Unblock => "unblock",
            Method::Revoke => "revoke",
            Method::Blocked => "blocked",
            Method::Cursors => "cursors",
            Method::Unread => "unread",
            Method::ReadBy => "read_by",
            Method::Members => "members",
            Method::History => "history",
            Method::HistoryRemove => "history_remove",
            Method::Channels => "channels",
            Method::Info => "info",
            Method::Push => "push",
            Method::Rpc => "rpc",
            Method::Batch => "batch",
        }
    }
}

/// One call, read but not yet judged.
#[derive(Debug)]
pub enum Command {
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

impl Command {
    /// # Errors
    /// When `json` is no JSON or has other types than the method's.
    pub fn read(method: Method, json: &[u8]) -> serde_json::Result<Command> {
        Ok(match method {
            Method::Publish => Command::Publish(object(json)?),
            Method::Broadcast => Command::Broadcast(object(json)?),
            Method::Inbox => Command::Inbox(object(json)?),
            Method::Subscribe => Command::Subscribe(object(json)?),
            Method::Unsubscribe => Command::Unsubscribe(object(json)?),
            Method::Disconnect => Command::Disconnect(object(json)?),
            Method::Refresh => Command::Refresh(object(json)?),
            Method::Presence => Command::Presence(object(json)?),
            Method::PresenceStats => Command::PresenceStats(object(json)?),
            Method::Online => Command::Online(object(json)?),
            Method::Block => Command::Block(object(json)?),
            Method::Unblock => Command::Unblock(object(json)?),
            Method::Revoke => Command::Revoke(object(json)?),
            Method::Blocked => Command::Blocked(object(json)?),
            Method::Cursors => Command::Cursors(object(json)?),
            Method::Unread => Command::Unread(object(json)?),
            Method::ReadBy => Command::ReadBy(object(json)?),
            Method::Members => Command::Members(object(json)?),
            Method::History => Command::History(object(json)?),
            Method::HistoryRemove => Command::HistoryRemove(object(json)?),
            Method::Channels => Command::Channels(object(json)?),
            Method::Info => {
                object::<BTreeMap<String, serde::de::IgnoredAny>>(json)?;
                Command::Info
            }
            Method::Push => Command::Push(object(json)?),
            Method::Rpc => Command::Rpc(object(json)?),
            Method::Batch => Command::Unknown,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Command::Publish(_) => "publish",
            Command::Broadcast(_) => "broadcast",
            Command::Inbox(_) => "inbox",
            Command::Subscribe(_) => "subscribe",
            Command::Unsubscribe(_) => "unsubscribe",
            Command::Disconnect(_) => "disconnect",
            Command::Refresh(_) => "refresh",
            Command::Presence(_) => "presence",
            Command::PresenceStats(_) => "presence_stats",
            Command::Online(_) => "online",
            Command::Block(_) => "block",
            Command::Unblock(_) => "unblock",
            Command::Revoke(_) => "revoke",
            Command::Blocked(_) => "blocked",
            Command::Cursors(_) => "cursors",
            Command::Unread(_) => "unread",
            Command::ReadBy(_) => "read_by",
            Command::Members(_) => "members",
            Command::History(_) => "history",
            Command::HistoryRemove(_) => "history_remove",
            Command::Channels(_) => "channels",
            Command::Info => "info",
            Command::Push(_) => "push",
            Command::Rpc(_) => "rpc",
            Command::Unknown => "unknown",
        }
    }
}

/// One request of the API.
#[derive(Debug)]
pub enum Request {
    One(Box<Command>),
    Batch { commands: Vec<Command>, parallel: bool },
}

impl Request {
    /// # Errors
    /// When `json` is no JSON, or has other types than the method's, anywhere.
    pub fn read(method: Method, json: &[u8]) -> serde_json::Result<Request> {
        if method != Method::Batch {
            return Ok(Request::One(Box::new(Command::read(method, json)?)));
        }
        let body: BatchBody<'_> = object(json)?;
        let commands: serde_json::Result<Vec<Command>> = body
            .commands
            .into_iter()
            .map(|command| {
                let named = command.iter().find_map(|(name, body)| {
                    let method = Method::from_name(name).filter(|&method| method != Method::Batch)?;
                    Some((method, (*body)?))
                });
                match named {
                    Some((method, body)) => Command::read(method, body.get().as_bytes()),
                    None => Ok(Command::Unknown),
                }
            })
            .collect();
        Ok(Request::Batch { commands: commands?, parallel: body.parallel })
    }
}
