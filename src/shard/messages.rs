//! Messages between shards on their way out, and the numbers that tell their answers apart.

use crate::base::ids::ShardId;
use crate::shard::mailer::Mailer;
use crate::shard::router::Router;

pub(in crate::shard) struct Messages {
    pub mailer: Mailer,
    /// Joins ever asked of owners, wrapping.
    pub joins_asked: u32,
    /// Calls ever made to the backend, wrapping.
    pub hook_calls_made: u32,
    /// Numbers what unidirectional clients ask of owners, wrapping.
    pub uni_ids: u32,
    /// Bytes of answers made in this tick.
    pub answered_bytes: usize,
}

impl Messages {
    pub fn new(id: ShardId, router: Router) -> Messages {
        Messages {
            mailer: Mailer::new(id, router),
            joins_asked: 0,
            hook_calls_made: 0,
            uni_ids: 0,
            answered_bytes: 0,
        }
    }
}
