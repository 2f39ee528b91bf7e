//! Taps: what one peer or channel does is shown to somebody who debugs it. Without any, each place costs one comparison, and
//! nothing is looked at for a delivery: what goes out is read from the tick's writes.

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, UserName};
use crate::hub::requests::PublishRequest;
use crate::shard::control_request::tap::{TAP_PAYLOAD_BYTES_MAX, Tap, TapEvent, TapSelector, TapWhat};
use crate::shard::core::Core;
use crate::shard::owner::OwnerRequest;

/// Copied, unless it is longer than is shown.
pub(in crate::shard) fn copied(bytes: &[u8]) -> Option<Bytes> {
    (bytes.len() <= TAP_PAYLOAD_BYTES_MAX).then(|| Bytes::copy_from_slice(bytes))
}

impl Core {
    pub fn add_tap(&mut self, tap: Tap) {
        self.env.taps.retain(|tap| tap.sink.is_open());
        self.env.taps.push(tap);
    }

    /// Forgets those that nobody reads any more.
    pub fn forget_taps(&mut self) {
        if !self.env.taps.is_empty() {
            self.env.taps.retain(|tap| tap.sink.is_open());
        }
    }

    pub fn is_tapped(&self) -> bool {
        !self.env.taps.is_empty()
    }

    /// Something happened to a peer.
    pub fn tap(&self, slot: u32, what: impl FnOnce() -> TapWhat) {
        if self.env.taps.is_empty() {
            return;
        }
        let Some(connection) = self.links.connections.get(slot) else { return };
        let peer = &connection.peer;
        let tunnel = peer.tunnel().map(|tunnel| tunnel.place);
        self.tap_of(slot, peer.user(), tunnel, what);
    }

    /// The same of a peer that has left its place already.
    pub fn tap_of(
        &self,
        slot: u32,
        user: Option<&UserName>,
        tunnel: Option<u16>,
        what: impl FnOnce() -> TapWhat,
    ) {
        let conn = self.conn_id(slot);
        let mut wanted = self.env.taps.iter().filter(|tap| match &tap.selector {
            TapSelector::User(name) => user.map_or("", |user| user) == &**name,
            TapSelector::Client(client) => *client == conn,
            TapSelector::Tunnel(place) => tunnel == Some(*place),
            TapSelector::Network(network) => {
                self.client_address(slot).is_some_and(|address| network.contains(&address))
            }
            TapSelector::Channel(_) => false,
        });
        let Some(first) = wanted.next() else { return };
        let event = TapEvent {
            time_ms: self.env.wall_ms,
            shard: self.env.id,
            client: Some(self.client_id(slot)),
            user: user.cloned().unwrap_or_else(|| "".into()),
            what: what(),
        };
        wanted.for_each(|tap| tap.sink.take(event.clone()));
        first.sink.take(event);
    }

    /// Something happened to a channel whose owner is here.
    pub fn tap_channel(&self, channel: &ChannelName, what: impl Fn() -> TapWhat) {
        for tap in &self.env.taps {
            if let TapSelector::Channel(name) = &tap.selector
                && name == channel
            {
                tap.sink.take(TapEvent {
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
    pub fn tap_owner_request(&self, request: &OwnerRequest) {
        match request {
            OwnerRequest::Publish { ask, .. } => self.tap_publication(ask),
            OwnerRequest::Join { ask, .. } => {
                self.tap_channel(&ask.channel, || TapWhat::Joined { channel: ask.channel.clone() });
            }
            OwnerRequest::Leave { channel, .. } => {
                self.tap_channel(channel, || TapWhat::Left { channel: channel.clone() });
            }
            _ => {}
        }
    }

    pub fn tap_publication(&self, ask: &PublishRequest) {
        self.tap_channel(&ask.channel, || TapWhat::Published {
            channel: ask.channel.clone(),
            bytes: ask.data.len(),
            payload: copied(&ask.data),
            trace: ask.trace,
        });
    }

    /// What the tick is about to write to those who are tapped.
    pub fn tap_writes(&self) {
        self.links.outbox.each_write(|slot, bytes, pieces| {
            let peer = self.links.connections.get(slot).map(|connection| &connection.peer);
            let websocket = peer.is_some_and(|peer| peer.takes_frames());
            self.tap(slot, || TapWhat::Out {
                bytes,
                websocket,
                payload: (bytes <= TAP_PAYLOAD_BYTES_MAX).then(|| pieces.concat().into()),
            });
        });
    }
}
