//! Participants: their public ids, their number, what they may do in a time, whose commands wait.

use crate::base::ids::ShardId;
use crate::session::Effect;
use crate::shard::client_ids::ClientIds;
use crate::shard::departures::Departures;
use crate::shard::directory::Directory;
use crate::shard::draining::Draining;
use crate::shard::options::ShardOptions;
use crate::shard::rates::Rates;

pub(in crate::shard) struct Peers {
    pub client_ids: ClientIds,
    pub directory: Directory,
    pub clients: u64,
    /// What clients may do in a time; `None` when nothing is limited.
    pub rates: Option<Box<Rates>>,
    /// Clients whose commands were held and may go on; each at most once.
    pub commands_resuming: Vec<u32>,
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
            clients: 0,
            rates: Rates::new(&options.client_limits, &options.rules, options.message_bytes_max),
            commands_resuming: Vec::new(),
            draining: Draining::default(),
            departures: Departures::default(),
            text: Vec::new(),
            effects: Vec::new(),
        }
    }
}
