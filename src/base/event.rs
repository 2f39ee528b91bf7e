//! Events for the backend: plain data, made by shards, numbered and sent by the control plane.
//!
//! What each looks like on the wire is said in `control/events`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::certificate::ClientCertificate;
use crate::base::fault::Unsubscribed;
use crate::base::ids::{ChannelName, ClientId, Epoch, Offset, UserName};

/// A kind of event, by which the configuration chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    Connected,
    Disconnected,
    Subscribed,
    Unsubscribed,
    Occupied,
    Vacated,
    Message,
    ObjectiveMissed,
    UserOnline,
    UserOffline,
    Acked,
    Unacked,
}

impl EventKind {
    pub const ALL: [EventKind; 12] = [
        EventKind::Connected,
        EventKind::Disconnected,
        EventKind::Subscribed,
        EventKind::Unsubscribed,
        EventKind::Occupied,
        EventKind::Vacated,
        EventKind::Message,
        EventKind::ObjectiveMissed,
        EventKind::UserOnline,
        EventKind::UserOffline,
        EventKind::Acked,
        EventKind::Unacked,
    ];

    /// As the wire and the configuration call it.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Connected => "connected",
            EventKind::Disconnected => "disconnected",
            EventKind::Subscribed => "subscribed",
            EventKind::Unsubscribed => "unsubscribed",
            EventKind::Occupied => "occupied",
            EventKind::Vacated => "vacated",
            EventKind::Message => "message",
            EventKind::ObjectiveMissed => "objective_missed",
            EventKind::UserOnline => "user_online",
            EventKind::UserOffline => "user_offline",
            EventKind::Acked => "acked",
            EventKind::Unacked => "unacked",
        }
    }

    pub fn from_name(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Some of the kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> EventKinds {
        EventKinds(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u16))
    }
}

/// Something that happened on a shard. Those of one shard come in the order in which they happened: so do all of one
/// client, all `Occupied` and `Vacated` of one channel, and all `UserOnline` and `UserOffline` of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Wall clock, milliseconds since 1970.
    pub time_ms: u64,
    pub what: What,
}

/// A client as the backend knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub client: ClientId,
    /// Empty for the anonymous.
    pub user: UserName,
    /// `websocket`, `sse`, `http_stream`, `uni_websocket`.
    pub transport: &'static str,
    /// Where it comes from; `None` where that is not known.
    pub address: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// With the certificate that it has shown.
    Connected(Who, Option<Arc<ClientCertificate>>),
    Disconnected(Who, Box<Farewell>),
    Subscribed(Who, ChannelName),
    Unsubscribed(Who, ChannelName, Unsubscribed),
    /// The channel has a subscriber and had none.
    Occupied(ChannelName),
    /// The channel has had no subscriber for a while.
    Vacated(ChannelName),
    /// JSON that a client sent to the backend.
    Message(Who, Bytes),
    /// Something takes longer than it is to.
    ObjectiveMissed(Box<ObjectiveMissed>),
    /// The user has a connection and had none.
    UserOnline(UserName),
    /// The user has had no connection for a while.
    UserOffline(UserName),
    /// Devices have received or read something.
    Acked(Box<AckedEvent>),
    /// Members have not acknowledged something in time.
    Unacked(Box<UnackedEvent>),
    /// So many events found no room here and are lost.
    Lost(u64),
}

/// How a client's connection was, and why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    pub code: u16,
    pub reason: Cow<'static, str>,
    /// Since the client was connected.
    pub duration_ms: u64,
    /// Of the connection since it was accepted.
    pub received_bytes: u64,
    /// Handed to the kernel by now.
    pub sent_bytes: u64,
}

/// How far some devices have come in one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckedEvent {
    pub channel: ChannelName,
    pub epoch: Epoch,
    /// Bounded by who makes it.
    pub acks: Vec<DeviceAck>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAck {
    pub user: UserName,
    /// Empty: none was named.
    pub device: UserName,
    pub received: Offset,
    pub read: Offset,
}

/// Publications whose time is over, and who lacks some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnackedEvent {
    pub channel: ChannelName,
    pub epoch: Epoch,
    pub from: Offset,
    pub to: Offset,
    /// Bounded by who makes it.
    pub users: Vec<UnackedUser>,
    /// How many they are, named or not.
    pub total: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnackedUser {
    pub user: UserName,
    /// Of the device that is farthest behind.
    pub received: Offset,
    /// Those that lack something. Empty: the user has named none.
    pub devices: Vec<UserName>,
    /// Another device of the user has all of it.
    pub elsewhere: bool,
}

impl What {
    /// Bytes of its texts, where others choose how long they are.
    pub fn weight(&self) -> usize {
        match self {
            What::Message(_, data) => data.len(),
            What::Acked(event) => {
                event.acks.iter().map(|ack| size_of::<DeviceAck>() + ack.user.len() + ack.device.len()).sum()
            }
            What::Unacked(event) => event
                .users
                .iter()
                .map(|user| {
                    let devices = user.devices.iter().map(|device| size_of::<UserName>() + device.len());
                    size_of::<UnackedUser>() + user.user.len() + devices.sum::<usize>()
                })
                .sum(),
            _ => 0,
        }
    }
}

/// Which objective is not met, and where it is worst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectiveMissed {
    pub objective: Box<str>,
    pub stage: &'static str,
    /// `None`: the engine.
    pub shard: Option<u16>,
    /// What ninety-nine of a hundred took at most, in microseconds, as exactly as times are counted.
    pub p99_us: u64,
}

impl What {
    /// `None` for a loss, which is told whatever was chosen.
    pub fn kind(&self) -> Option<EventKind> {
        Some(match self {
            What::Connected(..) => EventKind::Connected,
            What::Disconnected(..) => EventKind::Disconnected,
            What::Subscribed(..) => EventKind::Subscribed,
            What::Unsubscribed(..) => EventKind::Unsubscribed,
            What::Occupied(_) => EventKind::Occupied,
            What::Vacated(_) => EventKind::Vacated,
            What::Message(..) => EventKind::Message,
            What::ObjectiveMissed(_) => EventKind::ObjectiveMissed,
            What::UserOnline(_) => EventKind::UserOnline,
            What::UserOffline(_) => EventKind::UserOffline,
            What::Acked(_) => EventKind::Acked,
            What::Unacked(_) => EventKind::Unacked,
            What::Lost(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_names_and_kept_apart() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.name()), Some(kind));
            let only = EventKinds::from_iter([kind]);
            let held: Vec<_> = EventKind::ALL.into_iter().filter(|&other| only.contains(other)).collect();
            assert_eq!(held, [kind]);
        }
        assert_eq!(EventKind::from_name("Connected"), None);
        assert!(EventKinds::default().is_empty() && !EventKinds::from_iter(EventKind::ALL).is_empty());
    }
}
