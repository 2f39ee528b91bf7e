//! Observers are shown what one peer or channel does, as it happens. Without any, each place costs one comparison, and
//! nothing is looked at for a delivery: what goes out is read from the tick's writes.

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, UserName};
use crate::hub::requests::PublishRequest;
use crate::shard::control_request::observer::{
    Observation, Observer, ObserverEvent, ObserverTarget, SHOWN_BYTES_MAX,
};
use crate::shard::core::Core;
use crate::shard::owner::OwnerRequest;

/// Copied, unless it is longer than is shown.
pub(in crate::shard) fn copied(bytes: &[u8]) -> Option<Bytes> {
    (bytes.len() <= SHOWN_BYTES_MAX).then(|| Bytes::copy_from_slice(bytes))
}

impl Core {
    pub fn add_observer(&mut self, observer: Observer) {
        self.env.observers.retain(|observer| observer.sink.is_open());
        self.env.observers.push(observer);
    }

    /// Forgets those that nobody reads any more.
    pub fn forget_observers(&mut self) {
        if !self.env.observers.is_empty() {
            self.env.observers.retain(|observer| observer.sink.is_open());
        }
    }

    pub fn is_observed(&self) -> bool {
        !self.env.observers.is_empty()
    }

    /// Something happened to a peer.
    pub fn show(&self, slot: u32, what: impl FnOnce() -> Observation) {
        if self.env.observers.is_empty() {
            return;
        }
        let Some(connection) = self.links.connections.get(slot) else { return };
        let peer = &connection.peer;
        let tunnel = peer.tunnel().map(|tunnel| tunnel.place);
        self.show_peer(slot, peer.user(), tunnel, what);
    }

    /// The same of a peer that has left its place already.
    pub fn show_peer(
        &self,
        slot: u32,
        user: Option<&UserName>,
        tunnel: Option<u16>,
        what: impl FnOnce() -> Observation,
    ) {
        let conn = self.conn_id(slot);
        let mut wanted = self.env.observers.iter().filter(|observer| match &observer.selector {
            ObserverTarget::User(name) => user.map_or("", |user| user) == &**name,
            ObserverTarget::Client(client) => *client == conn,
            ObserverTarget::Tunnel(place) => tunnel == Some(*place),
            ObserverTarget::Network(network) => {
                self.client_address(slot).is_some_and(|address| network.contains(&address))
            }
            ObserverTarget::Channel(_) => false,
        });
        let Some(first) = wanted.next() else { return };
        let event = ObserverEvent {
            time_ms: self.env.wall_ms,
            shard: self.env.id,
            client: Some(self.client_id(slot)),
            user: user.cloned().unwrap_or_else(|| "".into()),
            what: what(),
        };
        wanted.for_each(|observer| observer.sink.take(event.clone()));
        first.sink.take(event);
    }

    /// Something happened to a channel whose owner is here.
    pub fn show_channel(&self, channel: &ChannelName, what: impl Fn() -> Observation) {
        for observer in &self.env.observers {
            if let ObserverTarget::Channel(name) = &observer.selector
                && name == channel
            {
                observer.sink.take(ObserverEvent {
                    time_ms: self.env.wall_ms,
                    shard: self.env.id,
                    client: None,
                    user: "".into(),
                    what: what(),
                });
            }
        }
    }

    /// Something is asked of the owner of a channel, which is here.
    pub fn show_owner_request(&self, request: &OwnerRequest) {
        match request {
            OwnerRequest::Publish { ask, .. } => self.show_publication(ask),
            OwnerRequest::Join { ask, .. } => {
                self.show_channel(&ask.channel, || Observation::Joined { channel: ask.channel.clone() });
            }
            OwnerRequest::Leave { channel, .. } => {
                self.show_channel(channel, || Observation::Left { channel: channel.clone() });
            }
            _ => {}
        }
    }

    pub fn show_publication(&self, ask: &PublishRequest) {
        self.show_channel(&ask.channel, || Observation::Published {
            channel: ask.channel.clone(),
            bytes: ask.data.len(),
            payload: copied(&ask.data),
            trace: ask.trace,
        });
    }

    /// What the tick is about to write to peers that are observed.
    pub fn show_writes(&self) {
        self.links.outbox.each_write(|slot, bytes, pieces| {
            let peer = self.links.connections.get(slot).map(|connection| &connection.peer);
            let websocket = peer.is_some_and(|peer| peer.takes_frames());
            self.show(slot, || Observation::Out {
                bytes,
                websocket,
                payload: (bytes <= SHOWN_BYTES_MAX).then(|| pieces.concat().into()),
            });
        });
    }
}
