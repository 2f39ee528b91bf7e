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
    /// Each connection has a channel of its own besides: its name is this and the connection's number.
    personal: Option<String>,
    /// Channels that connections share; behind them are those of their own.
    shared: u32,
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
        let per_connection = per_connection.min(channels);
        Audience { channels, per_connection, prefix, personal: None, shared: channels, recover, state }
    }

    /// Each of so many connections has a channel of its own besides, with names of another prefix.
    pub fn with_personal(mut self, prefix: String, connections: u32) -> Audience {
        self.channels = self.shared.saturating_add(connections);
        self.per_connection += 1;
        self.state.resize_with(self.channels as usize, Channel::default);
        self.personal = Some(prefix);
        self
    }

    /// Of those that connections share, how many one has.
    fn shared_each(&self) -> u32 {
        self.per_connection.saturating_sub(u32::from(self.personal.is_some()))
    }

    /// The channels of a connection: its own if it has one, then consecutive ones, so that each has as many members as the
    /// next, and as many consecutive connections as there are channels for reach every channel once.
    pub fn channels_of(&self, number: u32) -> impl Iterator<Item = u32> + use<> {
        let (channels, per) = (u64::from(self.shared.max(1)), u64::from(self.shared_each()));
        let first = u64::from(number) * per;
        let own = self
            .personal
            .as_ref()
            .and_then(|_| self.shared.checked_add(number))
            .filter(|own| *own < self.channels);
        own.into_iter().chain((first..first + per).map(move |at| (at % channels) as u32))
    }

    /// Which of a connection's subscriptions a channel is.
    pub fn index_of(&self, number: u32, channel: u32) -> Option<usize> {
        let own = usize::from(self.personal.is_some());
        if channel >= self.shared {
            return (channel - self.shared == number && channel < self.channels).then_some(0);
        }
        let channels = u64::from(self.shared.max(1));
        let first = u64::from(number) * u64::from(self.shared_each()) % channels;
        let index = (u64::from(channel) + channels - first) % channels;
        (index < u64::from(self.shared_each())).then_some(index as usize + own)
    }

    pub fn write_name(&self, channel: u32, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let _ = match (channel.checked_sub(self.shared), &self.personal) {
            (Some(number), Some(prefix)) => write!(out, "{prefix}{number}"),
            _ => write!(out, "{}{channel}", self.prefix),
        };
    }

    pub fn name(&self, channel: u32) -> String {
        let mut name = Vec::new();
        self.write_name(channel, &mut name);
        String::from_utf8_lossy(&name).into_owned()
    }

    /// The number of a channel that is one of ours.
    pub fn number_of(&self, name: &str) -> Option<u32> {
        let of = |prefix: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
        if let Some(number) = of(&self.prefix).filter(|&channel| channel < self.shared) {
            return Some(number);
        }
        let own = of(self.personal.as_deref()?)?.checked_add(self.shared)?;
        (own < self.channels).then_some(own)
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
    fn a_channel_of_ones_own_comes_first_and_has_nobody_else() {
        let audience = Audience::new(4, 2, "g".into(), false).with_personal("u".into(), 10);
        assert_eq!((audience.channels, audience.per_connection), (14, 3));
        for number in 0..10 {
            let channels: Vec<u32> = audience.channels_of(number).collect();
            assert_eq!(channels, [4 + number, number * 2 % 4, number * 2 % 4 + 1]);
            for (index, &channel) in channels.iter().enumerate() {
                assert_eq!(audience.index_of(number, channel), Some(index));
                assert_eq!(audience.number_of(&audience.name(channel)), Some(channel));
            }
            assert_eq!(audience.name(channels[0]), format!("u{number}"));
            assert_eq!(audience.index_of(number, 4 + (number + 1) % 10), None);
        }
        assert_eq!([audience.number_of("g4"), audience.number_of("u10")], [None, None]);
    }

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
