//! What a session may look at: the shard's options and its channels.

use crate::base::fault::Refusal;
use crate::base::ids::ChannelName;
use crate::hub::local::Local;
use crate::session::token::Verifier;
use crate::session::{Hooks, Rights, World};
use crate::shard::ShardOptions;

/// What a session may look at.
pub(in crate::shard) struct View<'a> {
    pub options: &'a ShardOptions,
    pub local: &'a Local,
}

impl World for View<'_> {
    fn rights(&self, channel: &str) -> Result<Rights, Refusal> {
        let options = self.options.namespaces.resolve(channel)?;
        // A node that lets in clients without a token counts them as clients, unless the namespace differs.
        let anonymous = |option: Option<bool>| option.unwrap_or(self.options.allow_anonymous);
        Ok(Rights {
            private: self.options.namespaces.is_private(channel),
            user_limited: options.allow_user_limited_channels,
            listed: None,
            subscribe: options.allow_subscribe_for_client,
            publish_for_client: options.allow_publish_for_client,
            publish_for_subscriber: options.allow_publish_for_subscriber,
            history_for_client: options.allow_history_for_client,
            history_for_subscriber: options.allow_history_for_subscriber,
            presence_for_client: options.allow_presence_for_client,
            presence_for_subscriber: options.allow_presence_for_subscriber,
            subscribe_for_anonymous: anonymous(options.allow_subscribe_for_anonymous),
            publish_for_anonymous: anonymous(options.allow_publish_for_anonymous),
            history_for_anonymous: anonymous(options.allow_history_for_anonymous),
            presence_for_anonymous: anonymous(options.allow_presence_for_anonymous),
            keeps_history: options.keeps_history(),
            keeps_presence: options.presence,
            join_leave: options.join_leave,
            announced: options.join_leave,
            force_push_join_leave: options.force_push_join_leave,
            positioning: options.allow_positioning,
            recovery: options.allow_recovery,
            force_positioning: options.force_positioning,
            force_recovery: options.force_recovery,
            subscribe_hook: options.subscribe_hook.is_some(),
            sub_refresh_hook: options.sub_refresh_hook.is_some(),
            publish_hook: options.publish_hook.is_some(),
        })
    }

    fn find(&self, channel: &str) -> Option<u32> {
        self.local.find(channel)
    }

    fn verifier(&self) -> Option<&Verifier> {
        self.options.verifier.as_deref()
    }

    fn allows_anonymous(&self) -> bool {
        self.options.allow_anonymous
    }

    fn channels_max(&self) -> usize {
        self.options.channels_max
    }

    fn limits_users(&self) -> bool {
        self.options.client_limits.user_connections_max > 0
    }

    fn personal_channel(&self, user: &str) -> Option<ChannelName> {
        let namespace = self.options.personal_channels.as_deref().filter(|_| !user.is_empty())?;
        Some(format!("{namespace}#{user}").into())
    }

    fn name(&self, channel: u32) -> ChannelName {
        self.local.get(channel).name.clone()
    }

    fn hooks(&self) -> Hooks {
        let hooks = &self.options.hooks;
        Hooks { connect: hooks.connect.is_some(), refresh: hooks.refresh.is_some(), rpc: hooks.rpc.is_some() }
    }

    fn emulated_headers(&self) -> &[Box<str>] {
        &self.options.emulated_headers
    }
}
