//! Channels page by page, with their sizes.

use crate::base::ids::ChannelName;
use crate::control::answers::{ApiAnswer, ChannelSizeAnswer};
use crate::control::api::Api;
use crate::control::requests::ControlError;
use crate::shard::control_request::seen::ChannelSeen;
use crate::shard::control_request::{ControlRequest, FilterBox};

/// Most channels of one page.
const CHANNELS_PAGE_MAX: usize = 10_000;

impl Api {
    /// Each owner gives its first so many behind the cursor: the first of all are among them.
    pub(super) async fn channels_page(
        &self,
        filter: FilterBox,
        cursor: &str,
        limit: usize,
    ) -> Result<ApiAnswer, ControlError> {
        if limit > CHANNELS_PAGE_MAX {
            return Err(ControlError::Invalid("limit may be at most 10000"));
        }
        let after: ChannelName = cursor.into();
        let ask = |reply| ControlRequest::ChannelsPage(filter.clone(), after.clone(), limit, reply);
        let mut all: Vec<_> = self.shards().ask_every(ask).await?.into_iter().flatten().collect();
        all.sort_unstable_by(|one, other| one.channel.cmp(&other.channel));
        // As many as asked for may be the last ones: the next page is empty then.
        let more = all.len() >= limit;
        all.truncate(limit);
        let cursor = all.last().filter(|_| more).map(|last| last.channel.to_string());
        let shown = |seen: ChannelSeen| {
            let size = ChannelSizeAnswer {
                num_clients: seen.clients,
                history: seen.history,
                history_bytes: seen.history_bytes,
                offset: seen.offset,
                publications_per_second: seen.rate,
            };
            (seen.channel.to_string(), size)
        };
        Ok(ApiAnswer::ChannelsPage { channels: all.into_iter().map(shown).collect(), cursor })
    }
}
