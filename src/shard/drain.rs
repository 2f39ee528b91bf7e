//! The orders by which clients leave over a time: see [`departures`](crate::shard::departures).

use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::ConnId;
use crate::shard::control_request::{ControlReply, Departure, Movers};
use crate::shard::core::Core;
use crate::shard::departures::Paced;

/// Connections closed in one tick.
const CLOSES_PER_TICK: usize = 4096;

impl Core {
    /// No client is let in from now on, and those that are here leave.
    pub fn drain(&mut self, departure: &Departure, reply: ControlReply<()>) {
        let left = self.departing(&Movers::Percent(100));
        self.peers.departures.draining = true;
        self.peers.departures.drain = Some(Paced::new(left, self.env.now, departure, Disconnect::SHUTDOWN));
        reply.send(Ok(()));
    }

    /// Those that have not left stay, and others are let in again.
    pub fn drain_stop(&mut self, reply: ControlReply<()>) {
        self.peers.departures.draining = false;
        self.peers.departures.drain = None;
        reply.send(Ok(()));
    }

    /// Some clients leave, to come back elsewhere.
    pub fn reconnect(&mut self, movers: &Movers, departure: &Departure, reply: ControlReply<u64>) {
        if !self.peers.departures.has_room() {
            return reply.send(Err(ErrorCode::TooManyRequests));
        }
        let left = self.departing(movers);
        reply.send(Ok(left.len() as u64));
        if !left.is_empty() {
            let paced = Paced::new(left, self.env.now, departure, Disconnect::FORCE_RECONNECT);
            self.peers.departures.add_move(paced);
        }
    }

    /// The connections that an order is for: one look at each, as often as an operator orders it.
    fn departing(&mut self, movers: &Movers) -> Vec<ConnId> {
        let channel = match movers {
            Movers::Channel(name) => match self.delivery.followed.find(name) {
                Some(channel) => Some(channel),
                None => return Vec::new(),
            },
            Movers::Percent(_) | Movers::User(_) => None,
        };
        let chosen = self.links.connections.iter().filter(|(_, connection)| {
            let peer = &connection.peer;
            peer.departs()
                && match movers {
                    Movers::Percent(_) => true,
                    Movers::User(user) => peer.user() == Some(user),
                    Movers::Channel(_) => channel.is_some_and(|channel| peer.sub(channel).is_some()),
                }
        });
        let slots: Vec<u32> = chosen.map(|(slot, _)| slot).collect();
        let mut all: Vec<ConnId> = slots.into_iter().map(|slot| self.conn_id(slot)).collect();
        if let Movers::Percent(percent @ 0..100) = movers {
            let keep = (all.len() * *percent as usize).div_ceil(100);
            while all.len() > keep {
                let at = self.env.prng.usize(..all.len());
                all.swap_remove(at);
            }
        }
        all
    }

    /// Closes those whose turn has come.
    pub fn depart(&mut self) {
        for _ in 0..CLOSES_PER_TICK {
            // Each of them leaves its channels.
            if self.messages.mailer.is_full() {
                return;
            }
            let Some((conn, disconnect)) = self.peers.departures.take(self.env.now, &mut self.env.prng)
            else {
                return;
            };
            if let Some(slot) = self.live(conn) {
                self.close(slot, disconnect);
            }
        }
    }
}
