//! What was said of how many are subscribed to channels, and what is to be said. See `owned/occupancy.rs`.

use std::collections::HashMap;

use ahash::RandomState;

use crate::base::time::Time;
use crate::hub::deadlines::Deadlines;
use crate::hub::requests::{PresenceStats, PublishRequest};

/// Of the channels whose namespaces have it.
#[derive(Default)]
pub struct Occupancies {
    /// By slot: what was said last, and when. Bound: channels that are known.
    pub said: HashMap<u32, (PresenceStats, Time), RandomState>,
    /// Channels whose count may have changed, and when that may be said.
    pub due: Deadlines,
    /// Forgotten before it was said that they are empty. Taken in the next turn.
    pub gone: Vec<PublishRequest>,
}
