//! Participants: their public ids, their number, what they may do in a time, whose commands wait.

use crate::base::ids::ShardId;
use crate::session::{Effect, TURN_COMMANDS_MAX};
use crate::shard::client_ids::ClientIds;
use crate::shard::departures::Departures;
use crate::shard::directory::Directory;
use crate::shard::draining::Draining;
use crate::shard::options::ShardOptions;
use crate::shard::rates::Rates;

/// How many clients there are, in all and by transport.
#[derive(Default)]
pub(in crate::shard) struct ClientCrowd {
    all: u64,
    /// Bound: the transports, which are fewer than ten.
    by_transport: Vec<(&'static str, u64)>,
}

impl ClientCrowd {
    pub fn enter(&mut self, transport: &'static str) {
        self.all += 1;
        match self.by_transport.iter_mut().find(|(name, _)| *name == transport) {
            Some((_, count)) => *count += 1,
            None => self.by_transport.push((transport, 1)),
        }
    }

    /// With the transport that it came by.
    pub fn leave(&mut self, transport: &'static str) {
        self.all -= 1;
        let found = self.by_transport.iter_mut().find(|(name, count)| *name == transport && *count > 0);
        debug_assert!(found.is_some(), "a client of {transport} leaves that has not come by it");
        if let Some((_, count)) = found {
            *count -= 1;
        }
    }

    pub fn all(&self) -> u64 {
        self.all
    }

    /// Those that somebody uses.
    pub fn by_transport(&self) -> Vec<(&'static str, u64)> {
        self.by_transport.iter().filter(|(_, count)| *count > 0).copied().collect()
    }
}

/// What one client may still get of a turn of the loop. What comes for it in a turn comes together: one is remembered.
#[derive(Default)]
pub(in crate::shard) struct Turn {
    of: Option<u32>,
    left: u16,
}

impl Turn {
    pub fn begin(&mut self) {
        self.of = None;
    }

    pub fn left(&self, slot: u32) -> u16 {
        match self.of == Some(slot) {
            true => self.left,
            false => TURN_COMMANDS_MAX,
        }
    }

    pub fn set_left(&mut self, slot: u32, left: u16) {
        *self = Turn { of: Some(slot), left };
    }
}

pub(in crate::shard) struct Peers {
    pub client_ids: ClientIds,
    pub directory: Directory,
    pub clients: ClientCrowd,
    /// What clients may do in a time; `None` when nothing is limited.
    pub rates: Option<Box<Rates>>,
    /// Clients whose commands were held and may go on; each at most once.
    pub commands_resuming: Vec<u32>,
    /// Of the client whose commands were looked at last, how many more this turn has room for.
    pub turn: Turn,
    /// Connections of tunnels that have gone and still have something for their backend.
    pub draining: Draining,
    /// Clients that are to leave.
    pub departures: Departures,

    // Scratch space, empty between uses.
    pub text: Vec<u8>,
    pub effects: Vec<Effect>,
}

impl Peers {
    pub fn new(id: ShardId, client_ids: ClientIds, options: &ShardOptions) -> Peers {
        Peers {
            client_ids,
            directory: Directory::new(id),
            clients: ClientCrowd::default(),
            rates: Rates::new(&options.client_limits, &options.rules, options.message_bytes_max),
            commands_resuming: Vec::new(),
            turn: Turn::default(),
            draining: Draining::default(),
            departures: Departures::default(),
            text: Vec::new(),
            effects: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_counted_by_transport() {
        let mut crowd = ClientCrowd::default();
        for transport in ["websocket", "sse", "websocket"] {
            crowd.enter(transport);
        }
        assert_eq!((crowd.all(), crowd.by_transport()), (3, vec![("websocket", 2), ("sse", 1)]));
        crowd.leave("sse");
        assert_eq!((crowd.all(), crowd.by_transport()), (2, vec![("websocket", 2)]));
    }
}
