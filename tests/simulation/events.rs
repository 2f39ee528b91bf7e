//! What the backend is told by one shard: every event must follow from those before it, and in the end all is undone.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::base::event::{Event, What, Who};
use trunkline::base::ids::{ChannelName, ClientId, UserName};
use trunkline::shard::control_request::Busy;

use crate::coverage::Coverage;
use crate::scenario::Telling;

/// While events may find no room, one in so many does.
const REFUSED_EVERY: u64 = 5;

pub struct Books {
    telling: Telling,
    /// Connected clients and their channels.
    clients: BTreeMap<ClientId, (Who, BTreeSet<ChannelName>)>,
    /// Clients of whom the end was told: none comes back.
    gone: BTreeSet<ClientId>,
    occupied: BTreeSet<ChannelName>,
    online: BTreeSet<UserName>,
    time_ms: u64,
    tried: u64,
    /// Something was refused: the next to come is the word of it.
    owes_loss: bool,
    counts: Coverage,
}

impl Books {
    pub fn new(telling: Telling) -> Books {
        Books {
            telling,
            clients: BTreeMap::new(),
            gone: BTreeSet::new(),
            occupied: BTreeSet::new(),
            online: BTreeSet::new(),
            time_ms: 0,
            tried: 0,
            owes_loss: false,
            counts: Coverage::default(),
        }
    }

    /// Takes an event, or has no room for it.
    ///
    /// # Panics
    /// When it cannot follow what was told before.
    pub fn take(&mut self, event: Event) -> Result<(), Busy> {
        assert_ne!(self.telling, Telling::Nothing, "nobody asked for {event:?}");
        self.tried += 1;
        if self.telling == Telling::Some && self.tried.is_multiple_of(REFUSED_EVERY) {
            self.owes_loss = true;
            return Err(Busy);
        }
        assert!(event.time_ms >= self.time_ms, "{event:?} is before its time");
        self.time_ms = event.time_ms;
        let loss = matches!(event.what, What::Lost(_));
        assert_eq!(std::mem::take(&mut self.owes_loss), loss, "a loss is told at once and once: {event:?}");
        self.counts.count(match event.what {
            What::Connected(..) => "told_connected",
            What::Disconnected(..) => "told_disconnected",
            What::Subscribed(..) => "told_subscribed",
            What::Unsubscribed(..) => "told_unsubscribed",
            What::Occupied(_) => "told_occupied",
            What::Vacated(_) => "told_vacated",
            What::UserOnline(_) => "told_user_online",
            What::UserOffline(_) => "told_user_offline",
            What::Message(..) => "told_message",
            What::Lost(_) => "told_loss",
            What::Acked(_) | What::Unacked(_) => unreachable!("no channel has cursors"),
            What::ObjectiveMissed(_) => unreachable!("the control plane tells it"),
        });
        if self.telling == Telling::All {
            self.note(event.what);
        }
        Ok(())
    }

    fn note(&mut self, what: What) {
        match what {
            What::Connected(who, _) => {
                assert!(!self.gone.contains(&who.client), "{who:?} comes back");
                let known = self.clients.insert(who.client, (who, BTreeSet::new()));
                assert!(known.is_none(), "connected twice: {known:?}");
            }
            What::Disconnected(who, farewell) => {
                let channels = self.channels(&who);
                assert!(channels.is_empty(), "{who:?} leaves and is in {channels:?}");
                assert!(farewell.received_bytes > 0, "{who:?} has said something: {farewell:?}");
                assert!(farewell.code >= 1000, "{farewell:?}");
                self.clients.remove(&who.client);
                self.gone.insert(who.client);
            }
            What::Subscribed(who, channel) => {
                assert!(self.channels(&who).insert(channel.clone()), "{who:?} is in {channel} already");
            }
            What::Unsubscribed(who, channel, _) => {
                assert!(self.channels(&who).remove(&channel), "{who:?} is not in {channel}");
            }
            What::Occupied(channel) => {
                assert!(self.occupied.insert(channel.clone()), "{channel} is occupied already");
            }
            What::Vacated(channel) => {
                assert!(self.occupied.remove(&channel), "{channel} is not occupied");
            }
            What::UserOnline(user) => {
                assert!(self.online.insert(user.clone()), "{user} is online already");
            }
            What::UserOffline(user) => {
                assert!(self.online.remove(&user), "{user} is not online");
            }
            What::Message(who, data) => {
                self.channels(&who);
                let json = serde_json::from_slice::<serde_json::Value>(&data);
                assert!(json.is_ok(), "{data:?} is no JSON");
            }
            What::Lost(_) => unreachable!("there is always room"),
            What::Acked(_) | What::Unacked(_) => unreachable!("no channel has cursors"),
            What::ObjectiveMissed(_) => unreachable!("the control plane tells it"),
        }
    }

    fn channels(&mut self, who: &Who) -> &mut BTreeSet<ChannelName> {
        let Some((known, channels)) = self.clients.get_mut(&who.client) else {
            panic!("{who:?} is not connected")
        };
        assert_eq!(known, who, "who it is changes");
        channels
    }

    pub fn clients(&self) -> Vec<(String, BTreeSet<String>)> {
        let names = |channels: &BTreeSet<ChannelName>| channels.iter().map(|name| name.to_string()).collect();
        self.clients.iter().map(|(client, (_, channels))| (client.to_string(), names(channels))).collect()
    }

    pub fn occupied(&self) -> Vec<String> {
        self.occupied.iter().map(|channel| channel.to_string()).collect()
    }

    /// The shard has ended.
    pub fn close(&self, coverage: &mut Coverage) {
        assert!(self.clients.is_empty(), "clients of whose end nothing was told: {:?}", self.clients);
        assert!(self.occupied.is_empty(), "channels that stay occupied: {:?}", self.occupied);
        assert!(self.online.is_empty(), "users that stay online: {:?}", self.online);
        coverage.merge(&self.counts);
    }
}
