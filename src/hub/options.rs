//! What a channel may do, by its namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::fault::Refusal;

/// What happens to a subscriber whose cursor has fallen off the log's tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GapPolicy {
    /// The client gets "insufficient state" and resubscribes from a position it can know.
    #[default]
    Tell,
    /// The client skips to the newest publication: right for values, wrong for messages.
    Latest,
    /// The connection is closed as slow (3008).
    Close,
}

/// The options of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    /// Publications kept for recovery and history; 0 keeps none.
    pub history_size: usize,
    /// How long each is kept; zero keeps none.
    pub history_ttl: Duration,
    /// How long an empty, unused channel remembers its offset and epoch.
    pub history_meta_ttl: Duration,
    pub presence: bool,
    pub join_leave: bool,
    /// Join and leave go to every subscriber, asked for or not.
    pub force_push_join_leave: bool,
    pub force_positioning: bool,
    pub force_recovery: bool,
    pub allow_positioning: bool,
    pub allow_recovery: bool,
    pub allow_subscribe_for_client: bool,
    /// A `#` in a channel's name begins the users that it is for.
    pub allow_user_limited_channels: bool,
    pub allow_publish_for_client: bool,
    /// Only while the client is subscribed to the channel.
    pub allow_publish_for_subscriber: bool,
    pub allow_history_for_subscriber: bool,
    pub allow_history_for_client: bool,
    pub allow_presence_for_subscriber: bool,
    pub allow_presence_for_client: bool,
    /// Whether the permissions of clients and subscribers count for those without a user as well. Unset: where clients
    /// without a token are let in.
    pub allow_subscribe_for_anonymous: Option<bool>,
    pub allow_publish_for_anonymous: Option<bool>,
    pub allow_history_for_anonymous: Option<bool>,
    pub allow_presence_for_anonymous: Option<bool>,
    /// Publications of clients a second, and at once after a rest; 0 does not limit them.
    pub publish_per_second: u32,
    /// Payload bytes of clients a second, and at once after a rest; 0 does not limit them.
    pub publish_bytes_per_second: usize,
    /// Names of hooks: whom the session asks.
    pub subscribe_hook: Option<String>,
    pub sub_refresh_hook: Option<String>,
    pub publish_hook: Option<String>,
    pub gap: GapPolicy,
    /// How long after the start of a batch the next one begins at the earliest; zero does not wait.
    pub batch_max_delay: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions {
            history_size: 0,
            history_ttl: Duration::ZERO,
            history_meta_ttl: Duration::from_secs(30 * 24 * 3600),
            presence: false,
            join_leave: false,
            force_push_join_leave: false,
            force_positioning: false,
            force_recovery: false,
            allow_positioning: true,
            allow_recovery: true,
            allow_subscribe_for_client: false,
            allow_user_limited_channels: false,
            allow_publish_for_client: false,
            allow_publish_for_subscriber: false,
            allow_history_for_subscriber: false,
            allow_history_for_client: false,
            allow_presence_for_subscriber: false,
            allow_presence_for_client: false,
            allow_subscribe_for_anonymous: None,
            allow_publish_for_anonymous: None,
            allow_history_for_anonymous: None,
            allow_presence_for_anonymous: None,
            publish_per_second: 0,
            publish_bytes_per_second: 0,
            subscribe_hook: None,
            sub_refresh_hook: None,
            publish_hook: None,
            gap: GapPolicy::Tell,
            batch_max_delay: Duration::ZERO,
        }
    }
}

impl ChannelOptions {
    pub fn keeps_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }
}

/// All namespaces of a node. A channel's namespace is what stands before the first `:` of its name, the private prefix
/// apart; a name without one belongs to the default namespace.
#[derive(Clone, Debug)]
pub struct Namespaces {
    default: Arc<ChannelOptions>,
    named: BTreeMap<Box<str>, Arc<ChannelOptions>>,
    name_bytes_max: usize,
    /// Begins the names of private channels; empty: no channel is private.
    private_prefix: Box<str>,
}

impl Namespaces {
    pub fn new(
        default: ChannelOptions,
        named: impl IntoIterator<Item = (String, ChannelOptions)>,
        name_bytes_max: usize,
    ) -> Namespaces {
        Namespaces {
            default: Arc::new(default),
            named: named.into_iter().map(|(name, options)| (name.into(), Arc::new(options))).collect(),
            name_bytes_max,
            private_prefix: Box::default(),
        }
    }

    /// Channels whose name begins with `prefix` are private.
    pub fn with_private_prefix(mut self, prefix: &str) -> Namespaces {
        self.private_prefix = prefix.into();
        self
    }

    pub fn is_private(&self, name: &str) -> bool {
        !self.private_prefix.is_empty() && name.starts_with(&*self.private_prefix)
    }

    /// The options of every namespace, the default one included.
    pub fn all(&self) -> impl Iterator<Item = &ChannelOptions> {
        std::iter::once(&*self.default).chain(self.named.values().map(|options| &**options))
    }

    /// The options of the channel `name`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for a name that is empty, too long, or has control characters;
    /// [`Refusal::UnknownChannel`] for a namespace that is not configured.
    pub fn resolve(&self, name: &str) -> Result<&Arc<ChannelOptions>, Refusal> {
        if name.is_empty() || name.len() > self.name_bytes_max || name.bytes().any(|b| b < 0x20 || b == 0x7f)
        {
            return Err(Refusal::BadRequest);
        }
        let name = name.strip_prefix(&*self.private_prefix).unwrap_or(name);
        match name.split_once(':') {
            None => Ok(&self.default),
            Some((namespace, _)) => self.named.get(namespace).ok_or(Refusal::UnknownChannel),
        }
    }
}
