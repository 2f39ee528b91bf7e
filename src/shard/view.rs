//! What a session may look at: the shard's options and its channels.

use crate::base::blocks::Blocks;
use crate::base::fault::ErrorCode;
use crate::base::ids::ChannelName;
use crate::base::rewind::Rewind;
use crate::hub::followed::FollowedChannels;
use crate::hub::options::RecoveryMode;
use crate::session::token::Verifier;
use crate::session::{Rights, SessionEnvironment, WantedHooks};
use crate::shard::options::ShardOptions;

/// What a session may look at.
pub(in crate::shard) struct View<'a> {
    pub options: &'a ShardOptions,
    pub followed: &'a FollowedChannels,
}

impl SessionEnvironment for View<'_> {
    fn rights(&self, channel: &str) -> Result<Rights, ErrorCode> {
        let rules = self.options.rules.resolve(channel)?;
        let options = self.options.namespaces.resolve(channel)?;
        Ok(Rights {
            private: self.options.rules.is_private(channel),
            user_limited: rules.allow_user_limited_channels,
            listed: None,
            misnamed: rules
                .channel_regex
                .as_ref()
                .is_some_and(|pattern| !pattern.is_in(self.options.rules.behind_namespace(channel))),
            // A node that lets in clients without a token counts them as clients, unless the namespace differs.
            permissions: rules.permissions.settled(self.options.allow_anonymous),
            payload: options.payload,
            keeps_history: options.keeps_history(),
            keeps_presence: options.presence,
            join_leave: options.join_leave,
            cursors: options.cursors,
            shapes: rules.shapes(),
            tags_filter: rules.allow_tags_filter,
            rewind: if options.is_value() { Some(Rewind::Count(u32::MAX)) } else { rules.rewind },
            gets_newest: rules.auto_cache_recover && options.recovery_mode == RecoveryMode::Cache,
            announced: options.join_leave,
            force_push_join_leave: rules.force_push_join_leave,
            positioning: rules.allow_positioning,
            recovery: rules.allow_recovery,
            force_positioning: rules.force_positioning,
            // Who comes back gets what has changed, and not all of it.
            force_recovery: rules.force_recovery || options.is_value(),
            subscribe_hook: rules.subscribe_hook.is_some(),
            sub_refresh_hook: rules.sub_refresh_hook.is_some(),
            publish_hook: rules.publish_hook.is_some(),
            publisher_gets_own: !rules.exclude_publisher,
        })
    }

    fn find(&self, channel: &str) -> Option<u32> {
        self.followed.find(channel)
    }

    fn verifier(&self) -> Option<&Verifier> {
        self.options.verifier.as_deref()
    }

    fn blocks(&self) -> Option<&Blocks> {
        Some(&self.options.blocks)
    }

    fn allows_anonymous(&self) -> bool {
        self.options.allow_anonymous
    }

    fn channels_max(&self) -> usize {
        self.options.channels_max
    }

    fn limits_users(&self) -> bool {
        self.options.client_limits.limits_users()
    }

    fn personal_channel(&self, user: &str) -> Option<ChannelName> {
        let namespace = self.options.personal_channels.as_deref().filter(|_| !user.is_empty())?;
        Some(format!("{namespace}#{user}").into())
    }

    fn inbox(&self, user: &str) -> Option<ChannelName> {
        let inboxes = self.options.inboxes.as_ref().filter(|_| !user.is_empty())?;
        Some(inboxes.of(user))
    }

    fn tells_devices_apart(&self) -> bool {
        self.options.inboxes.is_some() || !self.options.client_limits.device_connections_max.is_empty()
    }

    fn name(&self, channel: u32) -> ChannelName {
        self.followed.get(channel).name.clone()
    }

    fn hooks(&self) -> WantedHooks {
        let hooks = &self.options.hooks;
        WantedHooks {
            connect: hooks.connect.is_some(),
            refresh: hooks.refresh.is_some(),
            rpc: hooks.rpc.is_some(),
        }
    }

    fn answers_calls(&self, method: &str) -> bool {
        self.options.hooks.of_call(method).is_some()
    }

    fn emulated_headers(&self) -> &[Box<str>] {
        &self.options.emulated_headers
    }
}
