//! Who is a member of a channel and how far each has come, as the API answers it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, ShardId, UserName};
use crate::control::answers::ApiAnswer;
use crate::control::answers::{CursorBody, CursorsAnswer, UnreadEntry, UnreadError};
use crate::control::api::{Api, channel_name};
use crate::control::requests::ControlError;
use crate::control::wire::{CursorsBody, MembersBody, ReadByBody, UnreadBody};
use crate::hub::cursors::AckKind;
use crate::hub::requests::MembersPage;
use crate::shard::control_request::cursors::{CursorsQuery, ReadByQuery};
use crate::shard::control_request::{ControlRequest, CursorsRequest};

/// Most members of one page, and users of one change: what a caller makes one answer cost.
const MEMBERS_PAGE_MAX: usize = 10_000;
/// Members of a page whose size is not given.
const MEMBERS_PAGE: usize = 1_000;
/// Most channels of one `unread`.
const UNREAD_CHANNELS_MAX: usize = 1_000;
/// Longest name of a user, bytes.
const USER_BYTES_MAX: usize = 256;

impl From<MembersPage> for ApiAnswer {
    fn from(page: MembersPage) -> ApiAnswer {
        let MembersPage { users, total, more } = page;
        let users: Vec<String> = users.iter().map(|user| user.to_string()).collect();
        let cursor = users.last().filter(|_| more).cloned();
        ApiAnswer::Cursors(CursorsAnswer::Users { users, total, cursor })
    }
}

impl Api {
    pub(super) async fn cursors(&self, body: CursorsBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        let user = (!body.user.is_empty()).then(|| body.user.as_str().into());
        let (after, limit) = (body.cursor, page_size(body.limit)?);
        let query = CursorsQuery { channel: channel.clone(), user, after, limit };
        let ask = |reply| ControlRequest::Cursors(CursorsRequest::Page(query, reply));
        let page = self.shards().ask_owner(&channel, ask).await?;
        let cursor = page.cursors.last().filter(|_| page.more).map(|last| last.user.to_string());
        let cursors = page.cursors.into_iter().map(|named| CursorBody {
            user: named.user.to_string(),
            device: (!named.device.is_empty()).then(|| named.device.to_string()),
            received: named.cursor.received.0,
            read: named.cursor.read.0,
        });
        Ok(ApiAnswer::Cursors(CursorsAnswer::Cursors {
            cursors: cursors.collect(),
            offset: page.position.map_or(0, |position| position.offset.0),
            epoch: page.position.map_or_else(String::new, |position| position.epoch.to_string()),
            cursor,
        }))
    }

    pub(super) async fn unread(&self, body: UnreadBody) -> Result<ApiAnswer, ControlError> {
        if body.user.is_empty() {
            return Err(ControlError::Invalid("user must name somebody"));
        }
        match body.channels.len() {
            0 => return Err(ControlError::Invalid("channels must name one")),
            1..=UNREAD_CHANNELS_MAX => {}
            _ => return Err(ControlError::Invalid("channels names more than 1000")),
        }
        let user = UserName::from(body.user.as_str());
        let mut by_owner: BTreeMap<ShardId, BTreeSet<ChannelName>> = BTreeMap::new();
        let mut unread = BTreeMap::new();
        let wrong = |error_code: ErrorCode| UnreadEntry::Wrong {
            error: UnreadError { code: error_code.code(), message: error_code.message() },
        };
        for channel in &body.channels {
            match self.shards().router().owning_shard(channel) {
                Some(shard) => {
                    by_owner.entry(shard).or_default().insert(channel.as_str().into());
                }
                None => drop(unread.insert(channel.clone(), wrong(ErrorCode::NotAvailable))),
            }
        }
        let mut sent = Vec::with_capacity(by_owner.len());
        for (shard, channels) in by_owner {
            let channels: Vec<ChannelName> = channels.into_iter().collect();
            let ask = |reply| {
                ControlRequest::Cursors(CursorsRequest::Unread(user.clone(), channels.clone(), reply))
            };
            let pending = self.shards().send(shard, ask)?;
            sent.push((channels, pending));
        }
        let mut total = 0;
        for (channels, pending) in sent {
            for (channel, outcome) in channels.into_iter().zip(pending.wait().await?) {
                let entry = match outcome {
                    Ok(of) => {
                        total += of.unread;
                        UnreadEntry::Known { unread: of.unread, read: of.read.0, offset: of.top.0 }
                    }
                    Err(error_code) => wrong(error_code),
                };
                unread.insert(channel.to_string(), entry);
            }
        }
        Ok(ApiAnswer::Cursors(CursorsAnswer::Unread { unread, total }))
    }

    pub(super) async fn read_by(&self, body: ReadByBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        let Some(offset) = body.offset else {
            return Err(ControlError::Invalid("offset must be given"));
        };
        let kind = match body.kind.as_str() {
            "" | "read" => AckKind::Read,
            "received" => AckKind::Received,
            _ => return Err(ControlError::Invalid("kind must be read or received")),
        };
        let (after, limit) = (body.cursor, page_size(body.limit)?);
        let query = ReadByQuery { channel: channel.clone(), offset: Offset(offset), kind, after, limit };
        let ask = |reply| ControlRequest::Cursors(CursorsRequest::ReadBy(query, reply));
        Ok(self.shards().ask_owner(&channel, ask).await?.into())
    }

    /// Adds and removes members, or lists them.
    pub(super) async fn members(&self, body: MembersBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        if body.add.is_none() && body.remove.is_none() {
            let (after, limit) = (body.cursor, page_size(body.limit)?);
            let query = CursorsQuery { channel: channel.clone(), user: None, after, limit };
            let ask = |reply| ControlRequest::Cursors(CursorsRequest::Members(query, reply));
            return Ok(self.shards().ask_owner(&channel, ask).await?.into());
        }
        let add = user_names(body.add.unwrap_or_default())?;
        let remove = user_names(body.remove.unwrap_or_default())?;
        let (mut added, mut removed) = (0, 0);
        if !remove.is_empty() {
            let ask = |reply| {
                ControlRequest::Cursors(CursorsRequest::Remove(channel.clone(), remove.clone(), reply))
            };
            removed = self.shards().ask_owner(&channel, ask).await?;
        }
        if !add.is_empty() {
            let offset = body.offset.map(Offset);
            let ask = |reply| {
                ControlRequest::Cursors(CursorsRequest::Add(channel.clone(), add.clone(), offset, reply))
            };
            added = self.shards().ask_owner(&channel, ask).await?;
        }
        Ok(ApiAnswer::Cursors(CursorsAnswer::Changed { added, removed }))
    }
}

fn page_size(limit: u32) -> Result<usize, ControlError> {
    match limit as usize {
        0 => Ok(MEMBERS_PAGE),
        limit if limit <= MEMBERS_PAGE_MAX => Ok(limit),
        _ => Err(ControlError::Invalid("limit may be at most 10000")),
    }
}

fn user_names(users: Vec<String>) -> Result<Vec<UserName>, ControlError> {
    if users.len() > MEMBERS_PAGE_MAX {
        return Err(ControlError::Invalid("a list of users names more than 10000"));
    }
    if users.iter().any(|user| user.is_empty() || user.len() > USER_BYTES_MAX) {
        return Err(ControlError::Invalid("a user's name must have 1 to 256 bytes"));
    }
    let mut named = BTreeSet::new();
    Ok(users.iter().filter(|user| named.insert(user.as_str())).map(|user| user.as_str().into()).collect())
}
