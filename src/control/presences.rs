//! Who is in a channel and who is online, as the API answers it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::{ChannelName, ShardId, UserName};
use crate::control::answers::{ApiAnswer, Info};
use crate::control::api::{Api, channel_name};
use crate::control::options::OtherNodes;
use crate::control::requests::ControlError;
use crate::control::wire::{OnlineBody, PresenceBody};
use crate::shard::control_request::{ControlRequest, PageQuery};

/// Most members of one page: what a caller makes one answer cost.
const PRESENCE_PAGE_MAX: usize = 10_000;
/// Most users of one `online`.
const ONLINE_USERS_MAX: usize = 10_000;

impl Api {
    pub(super) async fn presence(&self, body: PresenceBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        if body.limit > 0 {
            return self.presence_page(channel, body.limit as usize, body.cursor).await;
        }
        let ask = |reply| ControlRequest::Presence(channel.clone(), reply);
        let roster = self.shards().ask_owner(&channel, ask).await?;
        let presence = roster.infos.iter().map(|info| (info.client.clone(), Info::from(&**info))).collect();
        Ok(ApiAnswer::Presence { presence })
    }

    async fn presence_page(
        &self,
        channel: ChannelName,
        limit: usize,
        cursor: String,
    ) -> Result<ApiAnswer, ControlError> {
        if limit > PRESENCE_PAGE_MAX {
            return Err(ControlError::Invalid("limit may be at most 10000"));
        }
        let query = PageQuery { channel: channel.clone(), after: cursor, limit };
        let ask = |reply| ControlRequest::PresencePage(query, reply);
        let infos = self.shards().ask_owner(&channel, ask).await?;
        // As many as asked for may be the last ones: the next page is empty then.
        let cursor = infos.last().filter(|_| infos.len() >= limit).map(|last| last.client.clone());
        let presence = infos.iter().map(|info| (info.client.clone(), Info::from(&**info))).collect();
        Ok(ApiAnswer::PresencePage { presence, cursor })
    }

    /// How many connections each user has, of those that have any.
    pub(super) async fn online(&self, body: OnlineBody) -> Result<ApiAnswer, ControlError> {
        let users = body.users;
        match users.len() {
            0 => return Err(ControlError::Invalid("users must name somebody")),
            1..=ONLINE_USERS_MAX if users.iter().any(String::is_empty) => {
                return Err(ControlError::Invalid("a name in users is empty"));
            }
            1..=ONLINE_USERS_MAX => {}
            _ => return Err(ControlError::Invalid("users names more than 10000")),
        }
        let mut by_owner: BTreeMap<ShardId, BTreeSet<UserName>> = BTreeMap::new();
        for user in &users {
            by_owner.entry(self.shards().router().user_owner(user)).or_default().insert(user.as_str().into());
        }
        let mut sent = Vec::with_capacity(by_owner.len());
        for (owner, names) in by_owner {
            let names: Vec<UserName> = names.into_iter().collect();
            let pending = self.shards().send(owner, |reply| ControlRequest::Online(names.clone(), reply))?;
            sent.push((names, pending));
        }
        let mut online: BTreeMap<String, u64> = BTreeMap::new();
        let mut missing = Vec::new();
        if let Some(OtherNodes(engine)) = self.others() {
            let elsewhere = engine.online(&users).await;
            (online, missing) = (elsewhere.users, elsewhere.missing);
        }
        for (names, pending) in sent {
            for (name, connections) in names.iter().zip(pending.wait().await?) {
                if connections > 0 {
                    *online.entry(name.to_string()).or_default() += u64::from(connections);
                }
            }
        }
        Ok(ApiAnswer::Online { online, missing })
    }
}
