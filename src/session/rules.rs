//! The options of a namespace: what its channels need, and what rights in them need.

use crate::base::pattern::Pattern;
use crate::base::rewind::Rewind;
use crate::base::shape::Shapes;
use crate::hub::{ChannelOptions, Namespaces};
use crate::session::permissions::Permissions;

/// The options of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    pub channel: ChannelOptions,
    pub rules: ChannelRules,
}

/// What clients may do and ask for in the channels of a namespace, and who is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRules {
    pub permissions: Permissions,
    /// A `#` in a channel's name begins the users that it is for.
    pub allow_user_limited_channels: bool,
    pub allow_positioning: bool,
    pub allow_recovery: bool,
    pub allow_delta: bool,
    pub allow_tags_filter: bool,
    pub auto_cache_recover: bool,
    pub rewind: Option<Rewind>,
    pub force_positioning: bool,
    pub force_recovery: bool,
    /// Join and leave go to every subscriber, asked for or not.
    pub force_push_join_leave: bool,
    /// What a client publishes is kept from itself.
    pub exclude_publisher: bool,
    /// Publications of clients a second, and at once after a rest; 0 does not limit them.
    pub publish_per_second: u32,
    /// Payload bytes of clients a second, and at once after a rest; 0 does not limit them.
    pub publish_bytes_per_second: usize,
    /// Must be found behind the namespace in a name.
    pub channel_regex: Option<Pattern>,
    /// Names of hooks.
    pub subscribe_hook: Option<String>,
    pub sub_refresh_hook: Option<String>,
    pub publish_hook: Option<String>,
}

impl Default for ChannelRules {
    fn default() -> Self {
        ChannelRules {
            permissions: Permissions::default(),
            allow_user_limited_channels: false,
            allow_positioning: true,
            allow_recovery: true,
            allow_delta: false,
            allow_tags_filter: false,
            auto_cache_recover: false,
            rewind: None,
            force_positioning: false,
            force_recovery: false,
            force_push_join_leave: false,
            exclude_publisher: false,
            publish_per_second: 0,
            publish_bytes_per_second: 0,
            channel_regex: None,
            subscribe_hook: None,
            sub_refresh_hook: None,
            publish_hook: None,
        }
    }
}

impl ChannelRules {
    pub fn shapes(&self) -> Shapes {
        Shapes { delta: self.allow_delta }
    }
}

impl Namespaces<NamespaceOptions> {
    /// For the hub, and for sessions.
    pub fn split(self) -> (Namespaces<ChannelOptions>, Namespaces<ChannelRules>) {
        (self.map(|options| options.channel.clone()), self.map(|options| options.rules.clone()))
    }
}
