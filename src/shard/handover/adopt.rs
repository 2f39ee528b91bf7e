//! Takes in what another process had.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::budget::BudgetHeld;
use crate::base::certificate::ClientCertificate;
use crate::base::ids::{ConnId, ListenerId, Position, ShardId, Sock};
use crate::base::prng::Prng;
use crate::driver::Driver;
use crate::hub::followed::ChannelIndex;
use crate::hub::places::{PlaceVerdict, UserLimit};
use crate::layer::Sealed;
use crate::proto::websocket::{Decoder, Role};
use crate::record::{
    self, CertificateRecord, ChannelRecord, KeysPart, LinkRecord, LogPart, MembersPart, PeerRecord,
    RecordFault, RecordKind, ShardRecord, StreamRecord, SubRecord, TunnelRecord, UnreadRecord, UserRecord,
};
use crate::session::Sub;
use crate::session::tunnel::Tunnel;
use crate::shard::Shard;
use crate::shard::admitted::{AdmittedEntry, Standing};
use crate::shard::client_ids::ClientIds;
use crate::shard::connections::Connection;
use crate::shard::control_request::ControlPlane;
use crate::shard::core::Core;
use crate::shard::draining::Drained;
use crate::shard::events::Life;
use crate::shard::handover::destination::{take_number, take_stream_head};
use crate::shard::handover::order::{Parcel, ParcelKind, Said};
use crate::shard::handover::state::{Adopting, HandoverStage, Leaver};
use crate::shard::link::{PendingOutput, Phase};
use crate::shard::look::transport_of;
use crate::shard::mailbox::ShardMessage;
use crate::shard::options::ShardOptions;
use crate::shard::router::Router;
use crate::shard::subscriber_pace::SubscriberPace;
use crate::shard::timers::{ShortTick, tick_after, tick_of};

type AdoptOutcome = Result<(), RecordFault>;

impl<D: Driver> Shard<D> {
    /// As [`Shard::new`], in a process that takes over: it serves nobody before [`Order::Resume`](super::Order::Resume).
    pub fn adopting(
        id: ShardId,
        driver: D,
        options: Arc<ShardOptions>,
        router: Router,
        client_ids: ClientIds,
        control: Option<Arc<dyn ControlPlane>>,
        prng: Prng,
    ) -> Shard<D> {
        let mut shard = Shard::idle(id, driver, options, router, client_ids, control, prng);
        shard.core.handover.stage = Some(Box::new(HandoverStage::Adopting(Adopting::default())));
        shard
    }

    pub(super) fn adopt(&mut self, parcel: Parcel) {
        let taken = self.try_adopt(parcel);
        if let (Err(problem), Some(adopting)) = (taken, self.core.handover.adopting()) {
            adopting.fault.get_or_insert(problem);
        }
    }

    fn try_adopt(&mut self, parcel: Parcel) -> Result<(), String> {
        let failed = |fault: RecordFault| fault.to_string();
        if self.core.handover.adopting().is_none() {
            return Err("this shard serves already".into());
        }
        let Parcel { kind, record, fd } = parcel;
        if !matches!(kind, ParcelKind::Peer | ParcelKind::Seated | ParcelKind::Socket | ParcelKind::Closed) {
            return self.core.adopt_records(kind, &record).map_err(failed);
        }
        if kind == ParcelKind::Seated {
            return self.core.adopt_seated(&record);
        }
        let (conn, bytes) = take_number(&record).map_err(failed)?;
        let sock = match fd.map(|fd| self.driver.adopt(fd)).transpose() {
            Ok(sock) => sock,
            Err(error) => return Err(format!("a socket cannot be taken over: {error}")),
        };
        let sockets = self.core.handover.adopting().map(|adopting| &mut adopting.sockets);
        let Some(sockets) = sockets else { return Ok(()) };
        let sock = match kind {
            ParcelKind::Socket => {
                let Some(sock) = sock else { return Ok(()) };
                if let Some(earlier) = sockets.insert(conn, sock) {
                    self.driver.close(earlier);
                }
                self.core.links.connections.prepare(sock.slot);
                return Ok(());
            }
            ParcelKind::Closed => {
                if let Some(sock) = sockets.take(conn) {
                    self.driver.close(sock);
                }
                return Ok(());
            }
            _ => sock,
        };
        let peer = record::read::<PeerRecord>(bytes).map_err(failed)?;
        match sock {
            Some(sock) => self.core.adopt_peer(peer, sock).map_err(failed),
            None => self.core.adopt_departed(peer).map_err(failed),
        }
    }
}

impl Core {
    fn adopt_seated(&mut self, mut rest: &[u8]) -> Result<(), String> {
        let failed = |fault: RecordFault| fault.to_string();
        while !rest.is_empty() {
            let (conn, bytes) = take_number(rest).map_err(failed)?;
            let (unread, behind) = record::next(bytes).map_err(failed)?;
            let adopting = self.handover.adopting();
            let sock = adopting.and_then(|adopting| adopting.sockets.take(conn));
            let sock = sock.ok_or("a peer came without its socket")?;
            self.adopt_peer(unread.read().map_err(failed)?, sock).map_err(failed)?;
            rest = behind;
        }
        Ok(())
    }

    fn adopt_records(&mut self, kind: ParcelKind, bytes: &[u8]) -> AdoptOutcome {
        let mut rest = match kind {
            ParcelKind::Stream => take_stream_head(bytes)?.1,
            _ => bytes,
        };
        while !rest.is_empty() {
            let (unread, behind) = record::next(rest)?;
            match kind {
                ParcelKind::Shard => self.adopt_numbers(&unread.read()?)?,
                ParcelKind::Stream => self.adopt_stream(unread.read()?)?,
                ParcelKind::Channel => self.adopt_channel(&unread)?,
                ParcelKind::Keys => self.adopt_keys(unread.read()?)?,
                ParcelKind::User => self.adopt_user(&unread.read()?)?,
                ParcelKind::Peer | ParcelKind::Seated | ParcelKind::Socket | ParcelKind::Closed => {
                    return Err(RecordFault::OtherKind);
                }
            }
            rest = behind;
        }
        Ok(())
    }

    fn adopt_numbers(&mut self, shard: &ShardRecord) -> AdoptOutcome {
        let shards = self.messages.mailer.router().shards() as u16;
        for book in &shard.books {
            let label = ShardId(book.label);
            if label.among(shards) == self.env.id
                && !self.peers.directory.restore(label, book.given, book.generation)
            {
                return Err(RecordFault::Impossible("numbers of peers"));
            }
        }
        Ok(())
    }

    fn adopt_stream(&mut self, stream: StreamRecord) -> AdoptOutcome {
        let options = self.env.options.namespaces.resolve(&stream.channel);
        let options = options.map_err(|_| RecordFault::Impossible("a channel of no namespace"))?;
        self.delivery.followed.restore(stream, options);
        Ok(())
    }

    fn adopt_channel(&mut self, unread: &UnreadRecord<'_>) -> AdoptOutcome {
        let (owned, now) = (&mut self.owned.channels.owned, self.env.now);
        match unread.kind {
            RecordKind::Channel => {
                owned.restore(&unread.read::<ChannelRecord>()?, now)?;
                if let Some(adopting) = self.handover.adopting() {
                    adopting.counts.channels += 1;
                }
                Ok(())
            }
            RecordKind::ChannelLog => owned.restore_log(unread.read::<LogPart>()?, now),
            // Peers keep their numbers. Those that stayed behind leave later.
            _ => {
                let part = unread.read::<MembersPart>()?;
                owned.restore_members(part, &|peer| Some(ConnId::from_bits(peer)), now)
            }
        }
    }

    /// Those of channels that are here.
    fn adopt_keys(&mut self, mut part: KeysPart) -> AdoptOutcome {
        let owned = &mut self.owned.channels.owned;
        part.keys.retain(|key| owned.has(&key.channel));
        owned.restore_keys(part, self.env.now)
    }

    fn adopt_user(&mut self, user: &UserRecord) -> AdoptOutcome {
        let limit = self.user_limit().unwrap_or_else(UserLimit::none);
        let mut verdicts: Vec<PlaceVerdict> = Vec::new();
        let conn_of = |peer| Some(ConnId::from_bits(peer));
        self.owned.places.restore(&mut self.owned.users, user, &conn_of, &limit, &mut verdicts)?;
        self.tell_verdicts(&user.user, verdicts);
        if let Some(adopting) = self.handover.adopting() {
            adopting.counts.users += 1;
        }
        Ok(())
    }

    /// A peer without a socket: one that its tunnel's backend still has to hear of, or one that stayed behind.
    fn adopt_departed(&mut self, record: PeerRecord) -> AdoptOutcome {
        let conn = ConnId::from_bits(record.number);
        if let Some((tunnel, farewell)) = record.state.farewell() {
            let (code, reason) = (farewell.code, farewell.reason.clone());
            let tunnel = Box::new(self.adopt_tunnel(tunnel)?);
            self.peers.draining.bytes += tunnel.waiting().1;
            self.peers.draining.connections.insert(conn, Drained { tunnel, address: None, code, reason });
            return Ok(());
        }
        let channels = record.state.subs().iter().map(|sub| sub.channel.clone()).collect();
        let user = record.state.user().filter(|_| record.of_user).cloned();
        if let Some(adopting) = self.handover.adopting() {
            adopting.leavers.push(Leaver { conn, channels, user });
        }
        Ok(())
    }

    fn adopt_tunnel(&self, record: &TunnelRecord) -> Result<Tunnel, RecordFault> {
        let place = self.env.options.tunnels.iter().position(|tunnel| tunnel.name == record.tunnel);
        let place = place.ok_or(RecordFault::Impossible("a tunnel that is not configured"))?;
        Tunnel::from_record(record, place as u16, &self.env.options.http.input)
    }

    fn adopt_peer(&mut self, record: PeerRecord, sock: Sock) -> AdoptOutcome {
        let (conn, slot, now) = (ConnId::from_bits(record.number), sock.slot, self.env.now);
        let link = record.link.as_ref().ok_or(RecordFault::Impossible("a socket without a connection"))?;
        let number = self.peers.directory.adopt(conn, slot);
        let number = number.ok_or(RecordFault::Impossible("a peer's number"))?;
        let mut connection = Connection::new(sock.generation, number);
        let followed = &self.delivery.followed;
        // The place follows when it is in the list.
        let mut place_of = |sub: &SubRecord| {
            let index = followed.find(&sub.channel);
            index.map(|index| (index, 0)).ok_or(RecordFault::Impossible("a subscription without a stream"))
        };
        let (tunnel, input) = (|record: &_| self.adopt_tunnel(record), &self.env.options.http.input);
        connection.peer.restore(&record.state, &mut place_of, tunnel, input, now)?;
        if record.listed {
            connection.peer.set_listed();
            self.peers.clients.enter(transport_of(&connection.peer));
        }
        if record.of_user {
            connection.peer.set_of_user();
            let anonymous = connection.peer.user().is_none_or(|user| user.is_empty());
            if let Some(adopting) = self.handover.adopting().filter(|_| anonymous) {
                adopting.anonymous += 1;
            }
        }
        self.adopt_link(link, &record, &mut connection)?;
        self.links.connections.insert(slot, connection);
        self.env.options.seats.take_over();
        self.adopt_place(link, slot);
        if let Some(layer) = &link.layer {
            let maker = self.listener(slot).layer.clone();
            let restored = maker.and_then(|maker| maker.restore(layer));
            self.links.layers.insert(slot, restored.ok_or(RecordFault::Impossible("a sealed connection"))?);
            if let Some(CertificateRecord { subject, fingerprint }) = &layer.certificate {
                let fingerprint = (**fingerprint).try_into();
                let fingerprint = fingerprint.map_err(|_| RecordFault::Impossible("a certificate"))?;
                let shown = ClientCertificate { subject: subject.clone(), fingerprint };
                self.links.layers.set_certificate(slot, Arc::new(shown));
            }
        }
        self.adopt_subscriptions(link, slot)?;
        let pending =
            self.links.connections.get(slot).and_then(|connection| connection.link.pending.as_ref());
        let has_cursors = pending.is_some_and(|pending| !pending.cursors.is_empty());
        let is_left_unread = self.is_left_unread(slot);
        if let Some(adopting) = self.handover.adopting() {
            adopting.cursors.extend(has_cursors.then_some(slot));
            adopting.unreading.extend(is_left_unread.then_some(slot));
        }
        if !link.unread.is_empty() {
            let mut held = BudgetHeld::default();
            let kept = held.push(&self.env.options.http.input, &link.unread);
            kept.map_err(|_| RecordFault::Impossible("room for input"))?;
            self.links.compression.unread.insert(sock, held);
            if let Some(connection) = self.links.connections.get_mut(slot) {
                connection.link.set_awaits_inflating(true);
            }
        }
        if let Some(due) = record.due {
            let due = tick_after(due.at(now), 0);
            self.links.wheel.set(&mut self.links.connections, slot, due);
        }
        if let Some(rates) = &mut self.peers.rates {
            let paid = (record.commands_paid_until.at(now), record.bytes_paid_until.at(now));
            rates.restore(slot, sock.generation, paid, now);
        }
        let (connected, received_bytes, sent_bytes) =
            (record.connected.at(now), record.received_bytes, record.sent_bytes);
        // When it came is known to the process before.
        self.links.seen.forget(slot);
        self.owned.events.restore(slot, Life { connected, received_bytes, sent_bytes });
        if let Some(adopting) = self.handover.adopting() {
            adopting.counts.peers += 1;
        }
        Ok(())
    }

    fn adopt_link(
        &self,
        record: &LinkRecord,
        peer: &PeerRecord,
        connection: &mut Connection,
    ) -> AdoptOutcome {
        let now = self.env.now;
        let link = &mut connection.link;
        link.phase = Phase::of_record(&peer.state);
        link.set_seated();
        link.restore_compression(record.deflate);
        link.set_awaits_pong(peer.awaits_pong);
        if record.peer_ended {
            link.set_peer_ended();
        }
        if record.layer.is_some() {
            link.set_layered();
        }
        if let Some(due) = peer.ping_due {
            link.ping_due = ShortTick::new(tick_of(due.at(now)), tick_of(now));
        }
        if let Some(decoder) = &record.decoder {
            let message_bytes_max = connection.peer.message_bytes_max(self.env.options.message_bytes_max);
            let decoder = Decoder::from_record(Role::Server, message_bytes_max, link.inflates(), decoder)?;
            link.decoder = Some(Box::new(decoder));
        }
        let owes = !record.pending_output.is_empty() || !record.sealed.is_empty();
        let mut pending =
            PendingOutput { read_paused: record.read_paused, held: record.held, ..PendingOutput::default() };
        record.sealed.iter().for_each(|bytes| pending.push_sealed(Sealed::new(bytes.clone())));
        record.pending_output.iter().for_each(|bytes| pending.push(bytes.clone()));
        // What it is owed leaves when its socket takes it.
        pending.blocked = record.blocked || owes;
        if pending.blocked || pending.read_paused || pending.held {
            link.pending = Some(Box::new(pending));
        }
        Ok(())
    }

    /// Where its client came in, and from where.
    fn adopt_place(&mut self, link: &LinkRecord, slot: u32) {
        if self.env.options.listeners.len() > 1 {
            let at = slot as usize;
            if self.links.came_by.len() <= at {
                self.links.came_by.resize(at + 1, ListenerId(0));
            }
            self.links.came_by[at] = ListenerId(link.listener);
        }
        let address = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
        if let Some(address) = address(&link.address) {
            self.links.addresses.insert(slot, address);
        }
        self.links.addresses.claim(slot, address(&link.claimed));
        let standing = match link.admitted {
            1 => Standing::Unauthenticated,
            2 => Standing::Authenticated,
            _ => return,
        };
        let Some(admission) = self.env.options.admission.clone() else { return };
        let network = self.network(slot, &admission);
        // Without room it is not counted: it was let in.
        if admission.enter(network, self.env.now).is_ok() {
            self.links.admitted.insert(slot, AdmittedEntry::new(network, standing));
            self.links.admitted.set_connected(slot);
            if standing == Standing::Authenticated {
                admission.authenticate(network);
            }
        }
    }

    fn adopt_subscriptions(&mut self, record: &LinkRecord, slot: u32) -> AdoptOutcome {
        let Some(connection) = self.links.connections.get_mut(slot) else { return Ok(()) };
        let subs: Vec<Sub> = connection.peer.subs().to_vec();
        let followed = &mut self.delivery.followed;
        let mut places: Vec<(ChannelIndex, u32)> = Vec::new();
        for sub in subs {
            let client = connection.peer.session().is_some();
            let class = connection.peer.class(
                sub.channel(),
                client && sub.is(Sub::NOTICES),
                connection.link.deflates(),
            );
            let class = class.ok_or(RecordFault::Impossible("a subscription of no subscriber"))?;
            let index = sub.channel();
            // A log of an engine that keeps none stands nowhere.
            let top = match followed.get(index).top() {
                None if self.messages.mailer.router().engine().is_some() => Position::UNKNOWN,
                top => top.ok_or(RecordFault::Impossible("a stream without a top"))?,
            };
            let filters = connection.peer.filters(index);
            let (place, _) = followed.subscribe(index, slot, class, filters, top.offset);
            connection.peer.set_place(index, place);
            places.push((index, place));
        }
        for cursor in &record.cursors {
            let index = followed.find(&cursor.channel);
            let (index, place) = places
                .iter()
                .find(|(at, _)| Some(*at) == index)
                .ok_or(RecordFault::Impossible("a cursor without a subscription"))?;
            let stands = followed.get(*index).stream().cursor_from_record(cursor);
            connection.link.pending.get_or_insert_default().cursors.push((*index, stands));
            followed.cursor_set(*index, *place);
        }
        for pace in &record.paces {
            let index = followed.find(&pace.channel);
            let (index, place) = places
                .iter()
                .find(|(at, _)| Some(*at) == index)
                .ok_or(RecordFault::Impossible("a pace without a subscription"))?;
            let pending = connection.link.pending.get_or_insert_default();
            if pending.cursor(*index).is_none() {
                let stream = followed.get(*index).stream();
                pending.cursors.push((*index, stream.cursor(stream.end())));
                followed.cursor_set(*index, *place);
            }
            let every = Duration::from_millis(pace.every_ms.into());
            pending.paces.push(SubscriberPace::new(*index, every, self.env.now));
        }
        // To whom nothing may be given now, what comes next waits in the stream.
        let pending = connection.link.pending.as_ref();
        if pending.is_some_and(|pending| pending.blocked || pending.held) || connection.peer.is_connecting() {
            let pending = connection.link.pending.get_or_insert_default();
            for (index, place) in places {
                if pending.cursor(index).is_none() {
                    let stream = followed.get(index).stream();
                    pending.cursors.push((index, stream.cursor(stream.end())));
                    followed.cursor_set(index, place);
                }
            }
        }
        Ok(())
    }

    /// All has come.
    pub(super) fn arm(&mut self) -> Said {
        let Some(adopting) = self.handover.adopting() else {
            return Said::Failed("this shard serves already".into());
        };
        if let Some(problem) = adopting.fault.take() {
            return Said::Failed(problem);
        }
        let (counts, cursors) = (adopting.counts, std::mem::take(&mut adopting.cursors));
        self.peers.directory.finish_restoring();
        if let Err(fault) = self.owned.channels.owned.finish_restoring() {
            return Said::Failed(fault.to_string());
        }
        self.settle_cursors(&cursors);
        self.delivery.followed.finish_restoring();
        Said::Armed(counts)
    }

    /// Cursors came with the streams of their own shards; another shard's may reach further back.
    fn settle_cursors(&mut self, slots: &[u32]) {
        for &slot in slots {
            let pending =
                self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
            for (channel, cursor) in pending.into_iter().flat_map(|pending| &mut pending.cursors) {
                *cursor = self.delivery.followed.get(*channel).stream().settled(*cursor);
            }
        }
    }

    /// Anonymous peers are counted at their owner, and in no record. One message says it of all of a shard: they may be
    /// most of a node's peers, and their owner is one shard, which everybody else would wait for.
    pub(super) fn count_anonymous(&mut self, count: u32) {
        if count > 0 {
            let owner = self.messages.mailer.router().user_owner("");
            self.messages.mailer.post(owner, ShardMessage::AnonymousJoined(count));
        }
    }
}
