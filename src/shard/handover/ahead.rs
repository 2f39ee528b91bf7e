//! Sockets go to the other process ahead of their peers, while those are served here: it is most of the work of a move, and
//! nobody waits for it.

use std::time::Duration;

use crate::base::ids::{ConnId, Sock};
use crate::driver::Driver;
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::handover::destination::number_alone;
use crate::shard::handover::order::{Outlet, Parcel, ParcelKind, Said};
use crate::shard::handover::state::Ahead;

/// Sockets exported at a time: as many as one submit of io_uring takes.
const SOCKETS_AT_ONCE: usize = 128;
/// How long a tick may take longer for it.
const SLICE: Duration = Duration::from_millis(1);

impl<D: Driver> Shard<D> {
    pub(super) fn begin_ahead(&mut self, outlet: Outlet) {
        if let Some(refused) = self.refuses_handover() {
            return self.core.say(&outlet, Said::Failed(refused.into()));
        }
        let connections = &self.core.links.connections;
        let left = connections.iter().map(|(slot, _)| slot).collect();
        let gone = vec![None; connections.end() as usize];
        self.core.handover.ahead = Some(Box::new(Ahead { outlet, left, gone, done: false }));
    }

    /// Some of them, in an ordinary tick.
    pub(in crate::shard) fn send_ahead(&mut self) {
        if self.core.handover.ahead.is_none() {
            return;
        }
        let until = self.driver.now() + SLICE;
        while self.core.handover.has_more_ahead() {
            self.send_some_ahead();
            if self.driver.now() >= until {
                return;
            }
        }
    }

    fn send_some_ahead(&mut self) {
        let Some(mut ahead) = self.core.handover.ahead.take() else { return };
        let from = ahead.left.len().saturating_sub(SOCKETS_AT_ONCE);
        let some: Vec<(ConnId, Sock)> =
            ahead.left.split_off(from).into_iter().filter_map(|slot| self.core.goes_ahead(slot)).collect();
        let socks: Vec<Sock> = some.iter().map(|(_, sock)| *sock).collect();
        let mut exported = Vec::new();
        self.driver.export(&socks, &mut exported);
        let mut parcels = Vec::with_capacity(SOCKETS_AT_ONCE);
        for ((conn, sock), fd) in some.into_iter().zip(exported) {
            // One that cannot go now goes with its peer, or says there why not.
            let Ok(fd) = fd else { continue };
            ahead.gone[sock.slot as usize] = Some(conn);
            parcels.push(Parcel { kind: ParcelKind::Socket, record: number_alone(conn), fd: Some(fd) });
        }
        self.core.say(&ahead.outlet, Said::Parcels(parcels));
        if ahead.left.is_empty() {
            ahead.done = true;
            self.core.say(&ahead.outlet, Said::Ahead);
        }
        self.core.handover.ahead = Some(ahead);
    }
}

impl Core {
    /// Peers that [keep their numbers](crate::shard::peer::Peer::keeps_number). All others go at once or not at all.
    fn goes_ahead(&self, slot: u32) -> Option<(ConnId, Sock)> {
        let connection = self.links.connections.get(slot)?;
        if !connection.peer.keeps_number() || connection.link.is_gone() || connection.link.is_closing() {
            return None;
        }
        Some((self.conn_id(slot), connection.link.sock(slot)))
    }

    /// The connection is closed here: the other process has a descriptor that keeps it open.
    pub(in crate::shard) fn closed_ahead(&mut self, slot: u32) {
        let Some(ahead) = &mut self.handover.ahead else { return };
        let Some(conn) = ahead.gone.get_mut(slot as usize).and_then(Option::take) else { return };
        let outlet = ahead.outlet.clone();
        let parcel = Parcel { kind: ParcelKind::Closed, record: number_alone(conn), fd: None };
        self.say(&outlet, Said::Parcels(vec![parcel]));
    }

    /// The other process has the socket of this peer.
    pub(super) fn has_gone_ahead(&self, slot: u32) -> bool {
        let ahead = self.handover.ahead.as_ref();
        ahead.and_then(|ahead| *ahead.gone.get(slot as usize)?) == Some(self.conn_id(slot))
    }
}
