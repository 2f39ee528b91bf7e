//! Who subscribes to what: by arithmetic, so that a million connections need no table of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Channels, their members, and what is known of each.
#[derive(Debug)]
pub struct Audience {
    pub channels: u32,
    /// Channels of one connection; not more than there are.
    pub per_connection: u32,
    /// Channel names are this and a number.
    pub prefix: String,
    /// Connections ask for recovery when they come back.
    pub recover: bool,
    state: Vec<Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    subscribers: AtomicU32,
    /// The stream's epoch, as the first subscriber was told it.
    epoch: OnceLock<String>,
}

impl Audience {
    pub fn new(channels: u32, per_connection: u32, prefix: String, recover: bool) -> Audience {
        let state = (0..channels).map(|_| Channel::default()).collect();
        Audience { channels, per_connection: per_connection.min(channels), prefix, recover, state }
    }

    /// The channels of a connection: consecutive ones, so that each has as many members as the next, and as many
    /// consecutive connections as there are channels for reach every channel once.
    pub fn channels_of(&self, number: u32) -> impl Iterator<Item = u32> + use<> {
        let (channels, per) = (u64::from(self.channels.max(1)), u64::from(self.per_connection));
        let first = u64::from(number) * per;
        (first..first + per).map(move |at| (at % channels) as u32)
    }

    /// Which of a connection's subscriptions a channel is.
    pub fn index_of(&self, number: u32, channel: u32) -> Option<usize> {
        let channels = u64::from(self.channels.max(1));
        let first = u64::from(number) * u64::from(self.per_connection) % channels;
        let index = (u64::from(channel) + channels - first) % channels;
        (channel < self.channels && index < u64::from(self.per_connection)).then_some(index as usize)
    }

    pub fn write_name(&self, channel: u32, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let _ = write!(out, "{}{channel}", self.prefix);
    }

    pub fn name(&self, channel: u32) -> String {
        format!("{}{channel}", self.prefix)
    }

    /// The number of a channel that is one of ours.
    pub fn number_of(&self, name: &str) -> Option<u32> {
        name.strip_prefix(&self.prefix)?.parse().ok().filter(|&channel| channel < self.channels)
    }

    /// Connections subscribed to it now.
    pub fn subscribers(&self, channel: u32) -> u32 {
        self.state[channel as usize].subscribers.load(Ordering::Relaxed)
    }

    /// A connection became ready (`true`) or a ready one is gone.
    pub fn enter(&self, number: u32, comes: bool) {
        for channel in self.channels_of(number) {
            let subscribers = &self.state[channel as usize].subscribers;
            if comes {
                subscribers.fetch_add(1, Ordering::Relaxed);
            } else {
                subscribers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    pub fn epoch(&self, channel: u32) -> &str {
        self.state[channel as usize].epoch.get().map_or("", String::as_str)
    }

    pub fn set_epoch(&self, channel: u32, epoch: &str) {
        self.state[channel as usize].epoch.get_or_init(|| epoch.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_spread_evenly_and_found_again() {
        let audience = Audience::new(100, 10, "c".into(), false);
        let mut members = [0; 100];
        for number in 0..10_000 {
            for (index, channel) in audience.channels_of(number).enumerate() {
                members[channel as usize] += 1;
                assert_eq!(audience.index_of(number, channel), Some(index));
            }
        }
        assert!(members.iter().all(|&count| count == 1000));
        assert_eq!(audience.index_of(0, 10), None);
        assert_eq!(audience.index_of(0, 1000), None);
        let reached: std::collections::HashSet<u32> = (7..17).flat_map(|n| audience.channels_of(n)).collect();
        assert_eq!(reached.len(), 100);
        assert_eq!(audience.number_of("c99"), Some(99));
        assert_eq!(audience.number_of("c100"), None);
        assert_eq!(Audience::new(1, 5, "c".into(), false).channels_of(u32::MAX).collect::<Vec<_>>(), [0]);
    }
}
