//! How many are subscribed to a channel, as a value of another channel.
//!
//! The first change after a pause is said at once, then what has become of it once in [`OCCUPANCY_EVERY`]: joins in a crowd are
//! one publication. The last one says that nobody is there by removing the key.

use super::OwnedChannels;
use super::channel::Channel;
use crate::base::bytes::Bytes;
use crate::base::ids::ChannelName;
use crate::base::publication::{IS_REMOVED, KEY_TAG, REMOVED_TAG};
use crate::base::time::Time;
use crate::hub::limits::OCCUPANCY_EVERY;
use crate::hub::requests::{PresenceStats, PublishRequest};
use crate::record::SaidRecord;

impl OwnedChannels {
    /// Somebody has joined or left the channel of the slot.
    pub(super) fn occupancy_changed(&mut self, slot: u32, now: Time) {
        if !self.occupancies.due.contains(slot) {
            let said = self.occupancies.said.get(&slot);
            self.occupancies.due.set(slot, said.map_or(now, |(_, at)| now.max(*at + OCCUPANCY_EVERY)));
        }
    }

    /// A count that is to be published now; `None` when there are no more.
    pub fn take_occupancy(&mut self, now: Time) -> Option<PublishRequest> {
        if let Some(ask) = self.occupancies.gone.pop() {
            return Some(ask);
        }
        while let Some(slot) = self.occupancies.due.due(now) {
            self.occupancies.due.remove(slot);
            let Some(channel) = self.channels.get(slot) else { continue };
            let count = count_of(channel);
            let said =
                self.occupancies.said.get(&slot).map_or_else(PresenceStats::default, |(said, _)| *said);
            match count.clients {
                0 => drop(self.occupancies.said.remove(&slot)),
                _ => drop(self.occupancies.said.insert(slot, (count, now))),
            }
            if count != said
                && let Some(to) = &channel.options.occupancy
            {
                return Some(publication(to, &channel.name, channel.options.presence, count));
            }
        }
        None
    }

    /// When [`OwnedChannels::take_occupancy`] may have something.
    pub fn next_occupancy(&self) -> Option<Time> {
        if self.occupancies.gone.is_empty() { self.occupancies.due.next() } else { Some(Time::ZERO) }
    }

    /// A count could not be published.
    pub fn occupancy_refused(&mut self) {
        self.counts.occupancy_refused_total += 1;
    }

    /// The channel of the slot is not counted any more, or elsewhere: `to` hears that nobody is there.
    pub(super) fn forget_occupancy(&mut self, slot: u32, name: &ChannelName, to: Option<&str>) {
        self.occupancies.due.remove(slot);
        if self.occupancies.said.remove(&slot).is_some()
            && let Some(to) = to
        {
            self.occupancies.gone.push(publication(to, name, false, PresenceStats::default()));
        }
    }

    // --- records

    pub(super) fn said_record(&self, slot: u32) -> Option<SaidRecord> {
        let (said, _) = self.occupancies.said.get(&slot)?;
        Some(SaidRecord { clients: said.clients, users: said.users })
    }

    /// Said by a process before. What has become of it since is looked at once everybody has come.
    pub(super) fn restore_said(&mut self, slot: u32, record: &SaidRecord, now: Time) {
        let said = PresenceStats { clients: record.clients, users: record.users };
        self.occupancies.said.insert(slot, (said, now));
        self.occupancy_changed(slot, now);
    }
}

fn count_of(channel: &Channel) -> PresenceStats {
    let users = if channel.options.presence { channel.members.stats().users } else { 0 };
    PresenceStats { clients: channel.members.len() as u32, users }
}

fn publication(to: &str, name: &ChannelName, has_users: bool, count: PresenceStats) -> PublishRequest {
    let mut tags = vec![(KEY_TAG.to_owned(), name.to_string())];
    let data = match (count.clients, has_users) {
        (0, _) => {
            tags.push((REMOVED_TAG.to_owned(), IS_REMOVED.to_owned()));
            "null".to_owned()
        }
        (clients, false) => format!("{{\"num_clients\":{clients}}}"),
        (clients, true) => format!("{{\"num_clients\":{clients},\"num_users\":{}}}", count.users),
    };
    PublishRequest { tags, keyed: true, ..PublishRequest::new(to.into(), Bytes::from(data.into_bytes())) }
}

#[cfg(test)]
#[path = "occupancy_tests.rs"]
mod tests;
