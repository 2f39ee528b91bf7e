//! Options and bounds that change while channels live.

use std::sync::Arc;

use super::OwnedChannels;
use crate::hub::limits::HubLimits;
use crate::hub::options::Namespaces;

impl OwnedChannels {
    /// These hold from now on. Channels that are known take their options in the steps of
    /// [`OwnedChannels::retake_options`]; each keeps its log, its positions and its subscribers. One whose namespace is gone
    /// keeps the options that it had.
    pub fn exchange_options(&mut self, namespaces: Arc<Namespaces>, limits: HubLimits) {
        self.namespaces = namespaces;
        self.limits = limits;
        self.retaken = Some(0);
    }

    /// Goes on with at most `count` channels. True while there are more.
    pub fn retake_options(&mut self, count: u32) -> bool {
        let Some(from) = self.retaken else { return false };
        let until = from.saturating_add(count).min(self.slots_used);
        for slot in from..until {
            let Some(channel) = self.channels.get_mut(slot) else { continue };
            if let Ok(options) = self.namespaces.resolve(&channel.name)
                && *channel.options != **options
            {
                let is_counted = options.occupancy.is_some() && !channel.members.is_empty();
                let name = channel.name.clone();
                let before = std::mem::replace(&mut channel.options, Arc::clone(options));
                if before.occupancy != channel.options.occupancy {
                    self.forget_occupancy(slot, &name, before.occupancy.as_deref());
                    if is_counted {
                        self.occupancy_changed(slot, self.clock);
                    }
                }
                self.settle(slot);
            }
        }
        self.retaken = (until < self.slots_used).then_some(until);
        self.retaken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::prng::Prng;
    use crate::base::time::Time;
    use crate::hub::creators::Creator;
    use crate::hub::options::ChannelOptions;
    use crate::hub::requests::{HistoryRequest, PublishRequest};

    fn namespaces(size: usize) -> Arc<Namespaces> {
        let options = ChannelOptions {
            history_size: size,
            history_ttl: Duration::from_secs(60),
            ..ChannelOptions::default()
        };
        Arc::new(Namespaces::new(options.clone(), [("gone".to_owned(), options)], 255))
    }

    fn offsets(owned: &mut OwnedChannels, channel: &str) -> Vec<u64> {
        let ask = HistoryRequest {
            channel: channel.into(),
            limit: Some(100),
            since: None,
            since_ms: None,
            reverse: false,
            by: Creator::Backend,
        };
        let history = owned.history(&ask, Time::ZERO).expect("history is kept");
        history.publications.iter().map(|publication| publication.offset().0).collect()
    }

    /// The log stays as it is until the next publication, which is held to the new bound; positions go on.
    #[test]
    fn channels_keep_their_logs_and_take_the_new_bounds() {
        let mut owned = OwnedChannels::new(namespaces(10), HubLimits::default(), Prng::with_seed(3));
        let publish = |owned: &mut OwnedChannels, channel: &str| {
            let ask = PublishRequest::new(channel.into(), Bytes::from_static(b"1"));
            owned.publish(ask, Time::ZERO, 0).expect("it is taken");
        };
        let names: Vec<String> =
            (0..50).map(|number| format!("c{number}")).chain(["gone:1".into()]).collect();
        for name in &names {
            (0..8).for_each(|_| publish(&mut owned, name));
        }
        let default = ChannelOptions { history_size: 3, ..(**namespaces(3).resolve("c").unwrap()).clone() };
        owned.exchange_options(Arc::new(Namespaces::new(default, [], 255)), HubLimits::default());
        let mut steps = 1;
        while owned.retake_options(7) {
            steps += 1;
        }
        assert_eq!(steps, 8, "51 channels, seven a step");
        assert!(!owned.retake_options(7));
        for name in &names {
            assert_eq!(offsets(&mut owned, name).len(), 8, "{name}");
            publish(&mut owned, name);
            let kept = offsets(&mut owned, name);
            let wanted: &[u64] = if name == "gone:1" { &[1, 2, 3, 4, 5, 6, 7, 8, 9] } else { &[7, 8, 9] };
            assert_eq!(kept, wanted, "{name}");
        }
    }
}
