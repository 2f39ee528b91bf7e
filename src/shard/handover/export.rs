//! What a frozen shard holds, as parcels.

use crate::base::ids::{ConnId, Offset, ShardId, Sock};
use crate::driver::Driver;
use crate::record::{self, BookRecord, PeerRecord, Record, RecordFault, ShardRecord};
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::handover::destination::{PEER_BYTES, put_number, stream_head};
use crate::shard::handover::order::{Parcel, ParcelKind, Said};
use crate::shard::handover::state::ExportStep;

/// Connections written and exported at a time: as many as one submit of io_uring takes, and less than a slice.
const PEERS_AT_ONCE: usize = 128;
/// Of all else.
const OTHERS_AT_ONCE: usize = 64;

/// What becomes of a connection.
enum Leaves {
    /// With its record.
    With,
    /// Its socket is closed here, and its peer leaves over there.
    Without,
    /// It is closed here, and nobody has to know.
    Alone,
    /// It was closed already.
    NotAtAll,
}

impl<D: Driver> Shard<D> {
    /// The next parcels; which they are says [`ExportStep`].
    pub(super) fn export_some(&mut self) {
        let Some(frozen) = self.core.handover.frozen() else { return };
        let step = std::mem::replace(&mut frozen.step, ExportStep::Over);
        let next = match step {
            ExportStep::Peers(slots) => self.export_peers(slots),
            other => self.core.export_step(other),
        };
        match next {
            Ok(step) => {
                if let Some(frozen) = self.core.handover.frozen() {
                    frozen.step = step;
                }
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn export_peers(&mut self, mut slots: Vec<u32>) -> Result<ExportStep, String> {
        let (mut socks, mut records): (Vec<Sock>, Vec<Vec<u8>>) = Default::default();
        let mut parcels = Vec::with_capacity(PEERS_AT_ONCE);
        let (mut seated, mut bytes) = (Seated::default(), Vec::with_capacity(PEER_BYTES));
        for slot in slots.split_off(slots.len().saturating_sub(PEERS_AT_ONCE)) {
            bytes.clear();
            let leaves = self.core.peer_parcel(slot, &mut bytes);
            let leaves = leaves.map_err(|fault| format!("a connection: {fault}"))?;
            let (is_seated, conn) = (self.core.has_gone_ahead(slot), self.core.conn_id(slot));
            let Some(frozen) = self.core.handover.frozen() else { break };
            match leaves {
                Leaves::With if is_seated => {
                    frozen.moved.push(slot);
                    frozen.counts.peers += 1;
                    seated.add(conn, &bytes);
                }
                Leaves::With => {
                    frozen.moved.push(slot);
                    socks.extend(self.core.sock(slot));
                    records.push(bytes.clone());
                }
                Leaves::Without => {
                    frozen.counts.left_behind += 1;
                    parcels.push(Parcel { kind: ParcelKind::Peer, record: bytes.clone(), fd: None });
                }
                Leaves::Alone => frozen.counts.left_behind += 1,
                Leaves::NotAtAll => {}
            }
        }
        parcels.extend(seated.parcels());
        let mut exported = Vec::new();
        self.driver.export(&socks, &mut exported);
        let Some(frozen) = self.core.handover.frozen() else { return Ok(ExportStep::Over) };
        for (record, fd) in records.into_iter().zip(exported) {
            let fd = fd.map_err(|error| format!("a socket cannot be handed over: {error}"))?;
            frozen.counts.peers += 1;
            parcels.push(Parcel { kind: ParcelKind::Peer, record, fd: Some(fd) });
        }
        frozen.ready.push_back(Said::Parcels(parcels));
        Ok(if slots.is_empty() { ExportStep::Departed } else { ExportStep::Peers(slots) })
    }
}

/// Peers whose sockets have gone ahead: those whose numbers have one label in common, and so one destination, are one parcel.
#[derive(Default)]
struct Seated(Vec<(ShardId, Vec<u8>)>);

impl Seated {
    fn add(&mut self, conn: ConnId, bytes: &[u8]) {
        let label = conn.shard();
        match self.0.iter_mut().find(|(of, _)| *of == label) {
            Some((_, record)) => record.extend_from_slice(bytes),
            None => {
                let mut record = Vec::with_capacity(PEERS_AT_ONCE * PEER_BYTES);
                record.extend_from_slice(bytes);
                self.0.push((label, record));
            }
        }
    }

    fn parcels(self) -> impl Iterator<Item = Parcel> {
        self.0.into_iter().map(|(_, record)| Parcel { kind: ParcelKind::Seated, record, fd: None })
    }
}

impl Core {
    fn export_step(&mut self, step: ExportStep) -> Result<ExportStep, String> {
        let now = self.env.now;
        let mut parcels = Vec::new();
        let mut put = |kind, record| parcels.push(Parcel { kind, record, fd: None });
        let (mut channels, mut users) = (0, 0);
        let owned = &self.owned.channels.owned;
        let failed = |fault: RecordFault| fault.to_string();
        let next = match step {
            ExportStep::Shard => {
                let books = self.peers.directory.books();
                // Who follows in the other process goes on from the end of the stream.
                self.delivery.followed.take_all_waiting();
                let books =
                    books.map(|(label, given, generation)| BookRecord { label: label.0, given, generation });
                put(ParcelKind::Shard, written(&ShardRecord { books: books.collect() }).map_err(failed)?);
                ExportStep::Streams(self.delivery.followed.iter().map(|(index, _)| index).collect())
            }
            ExportStep::Streams(mut left) => {
                let mut labels = self.peers.directory.books().map(|(label, ..)| label);
                let label = labels.next().filter(|_| labels.next().is_none());
                let mut bytes = stream_head(label);
                for index in left.split_off(left.len().saturating_sub(OTHERS_AT_ONCE)) {
                    let channel = self.delivery.followed.get(index);
                    let stream = channel.stream().to_record(&channel.name, channel.top());
                    record::write(&stream, &mut bytes).map_err(failed)?;
                }
                put(ParcelKind::Stream, bytes);
                match left.is_empty() {
                    true => ExportStep::Peers(self.links.connections.iter().map(|(slot, _)| slot).collect()),
                    false => ExportStep::Streams(left),
                }
            }
            ExportStep::Departed => {
                for peer in self.departed_records() {
                    let mut bytes = Vec::with_capacity(PEER_BYTES);
                    write_peer(&peer, &mut bytes).map_err(failed)?;
                    put(ParcelKind::Peer, bytes);
                }
                ExportStep::Channels(owned.names().cloned().collect())
            }
            ExportStep::Channels(mut left) => {
                for name in left.split_off(left.len().saturating_sub(OTHERS_AT_ONCE)) {
                    let Some(channel) = owned.to_record(&name, now) else { continue };
                    channels += 1;
                    put(ParcelKind::Channel, written(&channel).map_err(failed)?);
                    let mut after = Offset(0);
                    while let Some(part) = owned.log_part(&name, after, now) {
                        after = part.entries.last().map_or(Offset(u64::MAX), |last| last.publication.offset);
                        put(ParcelKind::Channel, written(&part).map_err(failed)?);
                    }
                    let mut fault = None;
                    owned.members_parts(&name, now, |part| match written(&part) {
                        Ok(record) => put(ParcelKind::Channel, record),
                        Err(found) => fault = Some(found),
                    });
                    fault.map_or(Ok(()), |fault| Err(failed(fault)))?;
                }
                if left.is_empty() { ExportStep::Keys(0) } else { ExportStep::Channels(left) }
            }
            ExportStep::Keys(from) => match owned.keys_part(from, now) {
                Some((part, next)) => {
                    put(ParcelKind::Keys, written(&part).map_err(failed)?);
                    ExportStep::Keys(next)
                }
                None => ExportStep::Users(self.owned.places.names(&self.owned.users).cloned().collect()),
            },
            ExportStep::Users(mut left) => {
                let classes = &self.env.options.client_limits.device_connections_max;
                for name in left.split_off(left.len().saturating_sub(OTHERS_AT_ONCE)) {
                    if let Some(user) = self.owned.places.to_record(&self.owned.users, &name, classes) {
                        users += 1;
                        put(ParcelKind::User, written(&user).map_err(failed)?);
                    }
                }
                if left.is_empty() { ExportStep::Over } else { ExportStep::Users(left) }
            }
            ExportStep::Peers(_) | ExportStep::Over => ExportStep::Over,
        };
        let Some(frozen) = self.handover.frozen() else { return Ok(ExportStep::Over) };
        frozen.counts.channels += channels;
        frozen.counts.users += users;
        frozen.ready.push_back(Said::Parcels(parcels));
        if matches!(next, ExportStep::Over) {
            frozen.ready.push_back(Said::Done(frozen.counts));
        }
        Ok(next)
    }

    /// Writes what goes along, if anything does.
    fn peer_parcel(&self, slot: u32, bytes: &mut Vec<u8>) -> Result<Leaves, RecordFault> {
        let Some(connection) = self.links.connections.get(slot) else { return Ok(Leaves::NotAtAll) };
        let link = &connection.link;
        if link.is_gone() {
            return Ok(Leaves::NotAtAll);
        }
        let known =
            connection.peer.listed() || connection.peer.of_user() || !connection.peer.subs().is_empty();
        // A layer in its handshake has no record, nor has one of another kind than ours.
        let sealed =
            link.is_layered() && self.links.layers.get(slot).is_none_or(|at| at.to_record().is_none());
        let Some(mut record) = self.peer_record(slot) else { return Ok(Leaves::Alone) };
        if !link.seated() || link.awaits_proxy() || sealed || record.state.awaits_join() {
            if !known {
                return Ok(Leaves::Alone);
            }
            record.link = None;
            write_peer(&record, bytes)?;
            return Ok(Leaves::Without);
        }
        write_peer(&record, bytes)?;
        Ok(Leaves::With)
    }

    /// Those that were moved are another process's: their sockets are closed here without a word, and nobody hears that
    /// they leave. All others are closed as at any end.
    pub(super) fn forget_moved(&mut self, moved: &[u32]) {
        self.delivery.followed.stop();
        self.messages.mailer.fall_silent();
        self.env.control = None;
        self.owned.events.control = None;
        self.peers.draining = Default::default();
        self.peers.commands_resuming.clear();
        self.delivery.catching_up.clear();
        self.links.starved.clear();
        for &slot in moved {
            let Some(connection) = self.links.connections.get_mut(slot) else { continue };
            connection.set_gone();
            self.settle(slot);
            self.links.wheel.cancel(&mut self.links.connections, slot);
            self.links.actions.push(crate::shard::links::Action::GiveUp(slot));
        }
        self.end(crate::base::fault::Disconnect::SHUTDOWN);
    }
}

fn written<R: Record>(record: &R) -> Result<Vec<u8>, RecordFault> {
    let mut bytes = Vec::new();
    record::write(record, &mut bytes)?;
    Ok(bytes)
}

fn write_peer(record: &PeerRecord, bytes: &mut Vec<u8>) -> Result<(), RecordFault> {
    put_number(ConnId::from_bits(record.number), bytes);
    record::write(record, bytes)
}
