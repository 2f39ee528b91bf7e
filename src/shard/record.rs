//! Everything that a shard holds, as records.
//!
//! For the process that follows this one: the upgrade of a running node writes what a shard has between two of its
//! ticks, peer by peer, and stops it before that. Not here is what is on its way: shard messages, which are plain data,
//! are to be handled before; and what only the control plane's requests wait for, which ends with them.

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Offset};
use crate::base::time::Time;
use crate::driver::Driver;
use crate::hub::followed::ChannelIndex;
use crate::hub::owned::OwnedCounts;
use crate::record::{
    self, CertificateRecord, CursorRecord, FarewellRecord, LayerRecord, LinkRecord, Moment, PeerRecord,
    PeerState, RecordFault,
};
use crate::session::Sub;
use crate::shard::Shard;
use crate::shard::admitted::Standing;
use crate::shard::core::Core;
use crate::shard::link::{Link, Phase};
use crate::shard::peer::Peer;
use crate::shard::timers::{TICK_MS, TimerTick, tick_of};

impl<D: Driver> Shard<D> {
    /// Its peers, except those that have an HTTP request under way: those are to be answered first, or told to come
    /// back.
    pub fn peer_records(&self) -> Vec<PeerRecord> {
        let slots = self.core.links.connections.iter().map(|(slot, _)| slot);
        slots.filter_map(|slot| self.core.peer_record(slot)).chain(self.core.departed_records()).collect()
    }

    /// How much it owns.
    pub fn owned_counts(&self) -> OwnedCounts {
        self.core.owned.channels.owned.counts()
    }

    /// Appends what it owns, and what its subscribers have not been given: channels, logs, members, keys, users,
    /// streams.
    ///
    /// # Errors
    /// [`RecordFault::TooLong`] for a stream that fits no record; what was appended is to be dropped.
    pub fn write_owned(&self, out: &mut Vec<u8>) -> Result<(), RecordFault> {
        let (core, now) = (&self.core, self.core.env.now);
        let owned = &core.owned.channels.owned;
        for name in owned.names() {
            owned.to_record(name, now).map_or(Ok(()), |channel| record::write(&channel, out))?;
            let mut after = Offset(0);
            while let Some(part) = owned.log_part(name, after, now) {
                after = part.entries.last().map_or(Offset(u64::MAX), |last| last.publication.offset);
                record::write(&part, out)?;
            }
            let mut written = Ok(());
            owned.members_parts(name, now, |part| {
                if written.is_ok() {
                    written = record::write(&part, out);
                }
            });
            written?;
        }
        let mut from = 0;
        while let Some((part, next)) = owned.keys_part(from, now) {
            from = next;
            record::write(&part, out)?;
        }
        let classes = &core.env.options.client_limits.device_connections_max;
        for name in core.owned.places.names(&core.owned.users) {
            let user = core.owned.places.to_record(&core.owned.users, name, classes);
            user.map_or(Ok(()), |user| record::write(&user, out))?;
        }
        for (_, channel) in core.delivery.followed.iter() {
            // Nothing is kept when nobody may need it.
            if channel.stream().base() < channel.stream().end() {
                record::write(&channel.stream().to_record(&channel.name, channel.top()), out)?;
            }
        }
        Ok(())
    }
}

impl Core {
    /// `None` for a connection that is gone, and for one with a request under way.
    pub(in crate::shard) fn peer_record(&self, slot: u32) -> Option<PeerRecord> {
        let connection = self.links.connections.get(slot)?;
        let (link, peer) = (&connection.link, &connection.peer);
        let now = self.env.now;
        let name_of = |channel: ChannelIndex| self.delivery.followed.get(channel).name.clone();
        let state = match link.phase {
            Phase::Closing(end) => end.to_record(),
            Phase::Open => peer.to_record(&name_of, &|tunnel| self.tunnel_name(tunnel).into(), now)?,
            Phase::Gone => return None,
        };
        let paid =
            self.peers.rates.as_ref().map(|rates| rates.paid(slot, link.generation)).unwrap_or_default();
        let (connected, received_bytes, sent_bytes) = self.owned.events.life(slot).unwrap_or((now, 0, 0));
        Some(PeerRecord {
            number: self.conn_id(slot).to_bits(),
            client: self.client_id(slot),
            state,
            link: Some(self.link_record(slot, link, peer, &name_of)),
            due: peer.timer.due(tick_of(now)).map(|tick| Moment::of(time_of(tick), now)),
            ping_due: peer.liveness().map(|_| Moment::of(time_of(link.ping_due.near(tick_of(now))), now)),
            awaits_pong: link.awaits_pong(),
            listed: peer.listed(),
            of_user: peer.of_user(),
            commands_paid_until: Moment::of(paid.0, now),
            bytes_paid_until: Moment::of(paid.1, now),
            connected: Moment::of(connected, now),
            received_bytes,
            sent_bytes,
        })
    }

    fn link_record(
        &self,
        slot: u32,
        link: &Link,
        peer: &Peer,
        name_of: &dyn Fn(ChannelIndex) -> ChannelName,
    ) -> LinkRecord {
        let pending = link.pending.as_deref();
        LinkRecord {
            decoder: link.decoder.as_ref().and_then(|decoder| decoder.to_record()),
            pending_output: pending
                .map_or_else(Vec::new, |pending| pending.remainder.iter().cloned().collect()),
            cursors: peer.subs().iter().filter_map(|sub| self.cursor_record(link, *sub, name_of)).collect(),
            paces: pending
                .into_iter()
                .flat_map(|pending| &pending.paces)
                .map(|pace| pace.to_record(name_of))
                .collect(),
            blocked: link.is_blocked(),
            read_paused: pending.is_some_and(|pending| pending.read_paused),
            held: pending.is_some_and(|pending| pending.held),
            peer_ended: link.peer_ended(),
            deflate: u8::from(link.inflates()) + u8::from(link.deflates()),
            unread: Bytes::copy_from_slice(self.links.compression.unread.of(link.sock(slot))),
            listener: self.links.came_by.get(slot as usize).map_or(0, |listener| listener.0),
            address: self.links.addresses.peer(slot).map(|address| address.to_string()),
            claimed: self.links.addresses.claimed(slot).map(|address| address.to_string()),
            sealed: pending.map_or_else(Vec::new, |pending| {
                pending.sealed.iter().map(|at| at.bytes().clone()).collect()
            }),
            layer: self.links.layers.get(slot).and_then(|layer| layer.to_record()).map(|layer| {
                let shown = self.links.layers.certificate(slot);
                let certificate = shown.map(|shown| CertificateRecord {
                    subject: shown.subject.clone(),
                    fingerprint: Bytes::copy_from_slice(&shown.fingerprint),
                });
                LayerRecord { certificate, ..layer }
            }),
            admitted: match self.links.admitted.get(slot).map(|entry| entry.standing) {
                Some(Standing::Unauthenticated) => 1,
                Some(Standing::Authenticated) => 2,
                _ => 0,
            },
        }
    }

    /// Where a subscriber stands that has not been given everything: it lags, or a batch has not come to it.
    fn cursor_record(
        &self,
        link: &Link,
        sub: Sub,
        name_of: &dyn Fn(ChannelIndex) -> ChannelName,
    ) -> Option<CursorRecord> {
        let channel = self.delivery.followed.get(sub.channel());
        let stream = channel.stream();
        let lagging = link.pending.as_ref().and_then(|pending| pending.cursor_in(sub.channel()));
        let cursor = match (lagging, sub.place()) {
            (Some(cursor), _) => cursor,
            (None, Some(place)) => stream.cursor(channel.cursor_of(place)),
            (None, None) => return None,
        };
        (cursor.seq < stream.end()).then(|| stream.cursor_to_record(&name_of(sub.channel()), cursor))
    }

    /// Connections of tunnels that have gone and still have something for their backend.
    pub(in crate::shard) fn departed_records(&self) -> impl Iterator<Item = PeerRecord> {
        let now = self.env.now;
        self.peers.draining.each().map(move |(conn, tunnel, code, reason)| {
            let farewell = FarewellRecord { code, reason: reason.into() };
            PeerRecord {
                number: conn.to_bits(),
                client: self.peers.client_ids.id(conn),
                state: PeerState::Tunnel(tunnel.to_record(self.tunnel_name(tunnel.place), Some(farewell))),
                link: None,
                due: None,
                ping_due: None,
                awaits_pong: false,
                listed: false,
                of_user: false,
                commands_paid_until: Moment::of(now, now),
                bytes_paid_until: Moment::of(now, now),
                connected: Moment::of(now, now),
                received_bytes: 0,
                sent_bytes: 0,
            }
        })
    }

    fn tunnel_name(&self, place: u16) -> &str {
        &self.env.options.tunnels[usize::from(place)].name
    }
}

fn time_of(tick: TimerTick) -> Time {
    Time::from_millis(tick.saturating_mul(TICK_MS))
}
