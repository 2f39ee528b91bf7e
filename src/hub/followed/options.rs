//! Options and bounds that change while channels have subscribers.

use std::sync::Arc;

use super::{ChannelIndex, FollowedChannels, StreamLimits};
use crate::hub::options::Namespaces;

impl FollowedChannels {
    /// These bounds hold from now on. Channels take their options in the steps of [`FollowedChannels::retake_options`]; one
    /// whose namespace is gone keeps those that it had.
    pub fn exchange_options(&mut self, namespaces: Arc<Namespaces>, limits: StreamLimits) {
        self.limits = limits;
        self.retaking = Some((namespaces, 0));
    }

    /// Goes on with at most `count` channels. True while there are more.
    pub fn retake_options(&mut self, count: u32) -> bool {
        let Some((namespaces, from)) = self.retaking.take() else { return false };
        let end = self.channels.capacity() as ChannelIndex;
        let until = from.saturating_add(count).min(end);
        for index in from..until {
            if let Some(channel) = self.channels.get_mut(index as usize)
                && let Ok(options) = namespaces.resolve(&channel.name)
            {
                channel.options = Arc::clone(options);
            }
        }
        if until < end {
            self.retaking = Some((namespaces, until));
        }
        self.retaking.is_some()
    }
}
