//! What an operator looks at: the last ends, connections, channels, what is busiest. Read in bounded steps.

use std::collections::BinaryHeap;

use crate::base::fault::Disconnect;
use crate::base::ids::{ChannelName, UserName};
use crate::session::tunnel::Tunnel;
use crate::shard::control_request::observer::Observation;
use crate::shard::control_request::seen::{
    Busiest, ChannelSeen, ClosedPage, ClosedQuery, ConnectionSeen, ConnectionsPage, ConnectionsQuery, End,
    kept,
};
use crate::shard::core::Core;
use crate::shard::peer::Peer;

/// Connections looked at for one request: about a millisecond. A request that needs more comes again.
const LOOKED_AT_MAX: usize = 4096;
/// The transport of those whose protocol is their backend's.
pub(in crate::shard) const TUNNEL: &str = "tunnel";
/// Names of channels that are shown of one connection.
const NAMES_MAX: usize = 16;
/// The most of the busiest that a shard tells.
const BUSIEST_MAX: usize = 50;

impl Core {
    /// A client has answered a ping.
    pub fn ping_answered(&mut self, slot: u32) {
        if let Some(ms) = self.links.seen.answered(slot, self.env.now) {
            self.env.stats.pings.record(std::time::Duration::from_millis(ms.into()));
        }
    }

    /// A peer is in.
    pub fn show_connected(&self, slot: u32) {
        let transport = || {
            self.links.connections.get(slot).map_or("unknown", |connection| transport_of(&connection.peer))
        };
        self.show(slot, || Observation::Connected { transport: transport(), trace: self.trace_of(slot) });
    }

    // --- ends

    /// The peer of the connection is about to leave. `note`: why, where it is not the peer's own doing.
    pub fn keep_end(&mut self, slot: u32, note: Option<&Disconnect>) {
        if self.links.ends.is_off() && !self.is_observed() {
            return;
        }
        let Some(connection) = self.links.connections.get(slot) else { return };
        let peer = &connection.peer;
        // One that has left before it was in, and was not closed, was no client.
        if !peer.ends_as_client() || (note.is_none() && !peer.listed()) {
            return;
        }
        let user = peer.user().cloned();
        let transport = transport_of(peer);
        self.add_end(slot, user, transport, None, note.unwrap_or(&Disconnect::CONNECTION_CLOSED));
    }

    /// The same of a connection of a tunnel, with what its client or its backend has said.
    pub fn keep_tunnels_end(&mut self, slot: u32, tunnel: &Tunnel, code: u16, reason: &str) {
        if !self.links.ends.is_off() || self.is_observed() {
            let why = Disconnect { code, reason: reason.to_owned().into() };
            self.add_end(slot, tunnel.user.clone(), TUNNEL, Some(tunnel.place), &why);
        }
    }

    fn add_end(
        &mut self,
        slot: u32,
        user: Option<UserName>,
        transport: &'static str,
        tunnel: Option<u16>,
        why: &Disconnect,
    ) {
        let by = self.links.ends.take_blame(slot, why);
        self.show_peer(slot, user.as_ref(), tunnel, || Observation::Ended {
            code: why.code,
            reason: why.reason.as_ref().into(),
            by: by.name(),
        });
        let user = match user {
            Some(user) if kept(&user).len() == user.len() => user,
            Some(user) => kept(&user).into(),
            None => "".into(),
        };
        let life = self.owned.events.life(slot);
        let end = End {
            time_ms: self.env.wall_ms,
            conn: self.conn_id(slot),
            user,
            address: self.client_address(slot),
            transport,
            code: why.code,
            reason: why.reason.clone(),
            by,
            duration_ms: self.links.seen.duration_ms(slot, self.env.now),
            bytes: life.map(|(_, received, sent)| (received, sent)),
            owed_bytes: self.owed_bytes(slot),
            ping_ms: self.links.seen.ping_ms(slot),
        };
        self.links.ends.keep(end);
    }

    /// What it was given and its socket has not taken.
    fn owed_bytes(&self, slot: u32) -> u64 {
        let pending =
            self.links.connections.get(slot).and_then(|connection| connection.link.pending.as_ref());
        pending.map_or(0, |pending| pending.owed_bytes as u64)
    }

    pub fn ends_seen(&self, query: &ClosedQuery) -> ClosedPage {
        let (ends, next) = self.links.ends.look(self.env.id, query);
        let shown = |(place, end): (_, &End)| (place, self.peers.client_ids.id(end.conn), end.clone());
        ClosedPage { ends: ends.into_iter().map(shown).collect(), next }
    }

    // --- connections

    pub fn connections_seen(&self, query: &ConnectionsQuery) -> ConnectionsPage {
        let channel = match &query.channel {
            Some(name) => match self.delivery.followed.find(name) {
                Some(channel) => Some(channel),
                None => return ConnectionsPage::default(),
            },
            None => None,
        };
        // One is found by its number; the shards that do not have it do not look for it.
        let one = match query.conn {
            Some(conn) => match self.peers.directory.slot(conn) {
                Some(slot) if slot >= query.from => Some(slot),
                _ => return ConnectionsPage::default(),
            },
            None => None,
        };
        let mut page = ConnectionsPage::default();
        for (looked_at, (slot, connection)) in
            self.links.connections.iter_from(one.unwrap_or(query.from)).enumerate()
        {
            if one.is_some_and(|one| one != slot) {
                break;
            }
            if looked_at == LOOKED_AT_MAX || page.connections.len() == query.connections_max {
                page.next = Some(slot);
                break;
            }
            let peer = &connection.peer;
            let is_wanted = peer.listed()
                && query.user.as_ref().is_none_or(|user| peer.user().map_or("", |own| own) == &**user)
                && channel.is_none_or(|channel| peer.sub(channel).is_some())
                && query.network.as_ref().is_none_or(|network| {
                    self.client_address(slot).is_some_and(|address| network.contains(&address))
                });
            if is_wanted {
                page.connections.push(self.connection_seen(slot, peer));
            }
        }
        page
    }

    fn connection_seen(&self, slot: u32, peer: &Peer) -> ConnectionSeen {
        let subs = peer.subs();
        let names =
            subs.iter().take(NAMES_MAX).map(|sub| self.delivery.followed.get(sub.channel()).name.clone());
        let duration = self.links.seen.duration_ms(slot, self.env.now);
        ConnectionSeen {
            client: self.client_id(slot),
            user: peer.user().cloned().unwrap_or_else(|| "".into()),
            address: self.client_address(slot),
            transport: transport_of(peer),
            since_ms: duration.map(|duration| self.env.wall_ms.saturating_sub(duration)),
            channels: subs.len(),
            names: names.collect(),
            owed_bytes: self.owed_bytes(slot),
            ping_ms: self.links.seen.ping_ms(slot),
        }
    }

    // --- channels

    /// The first `max` behind `after` that pass the filter, in the order of names.
    pub fn channels_seen(&self, filter: &dyn Fn(&str) -> bool, after: &str, max: usize) -> Vec<ChannelSeen> {
        let mut first: BinaryHeap<&ChannelName> = BinaryHeap::new();
        let owned = &self.owned.channels.owned;
        for name in owned.names().filter(|name| &***name > after && filter(name)) {
            if first.len() == max {
                match first.peek() {
                    Some(last) if name < *last => drop(first.pop()),
                    _ => continue,
                }
            }
            first.push(name);
        }
        first.into_sorted_vec().into_iter().filter_map(|name| self.channel_seen(name)).collect()
    }

    fn channel_seen(&self, name: &ChannelName) -> Option<ChannelSeen> {
        let size = self.owned.channels.owned.size(name)?;
        Some(ChannelSeen {
            channel: name.clone(),
            clients: size.clients,
            history: size.history,
            history_bytes: size.history_bytes,
            offset: size.offset.0,
            rate: self.env.busiest.channels.rate(name),
        })
    }

    pub fn busiest_seen(&self) -> Busiest {
        let first = |all: &[(ChannelName, f64)]| all.iter().take(BUSIEST_MAX).cloned().collect();
        Busiest {
            channels: first(self.env.busiest.channels.busiest()),
            users: first(self.env.busiest.users.busiest()),
        }
    }
}

pub(in crate::shard) fn transport_of(peer: &Peer) -> &'static str {
    match peer.tunnel() {
        Some(_) => TUNNEL,
        None => peer.transport().unwrap_or("unknown"),
    }
}
