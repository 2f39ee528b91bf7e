//! What surrounds a shard and nobody in it owns: who it is, its options, the time, randomness, the way to the control
//! plane, and its counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::ids::ShardId;
use crate::base::prng::Prng;
use crate::base::sketch::Sketch;
use crate::base::time::Time;
use crate::shard::control_request::ControlPlane;
use crate::shard::control_request::observer::Observer;
use crate::shard::load::Load;
use crate::shard::options::ShardOptions;
use crate::shard::stages::Stages;
use crate::shard::stats::Stats;

/// How soon a message that found an inbox full, or a send that found the kernel without buffers, is tried again.
pub(in crate::shard) const RETRY: Duration = Duration::from_millis(1);

pub(in crate::shard) struct Environment {
    pub id: ShardId,
    pub options: Arc<ShardOptions>,
    pub control: Option<Arc<dyn ControlPlane>>,
    pub prng: Prng,
    /// Of this tick.
    pub now: Time,
    /// The same moment, milliseconds since 1970.
    pub wall_ms: u64,
    pub stats: Stats,
    pub load: Load,
    pub busiest: BusiestNames,
    pub stages: Stages,
    /// Bound: those of the node, see `control/tap.rs`.
    pub observers: Vec<Observer>,
    /// When sockets were accepted whose clients are not connected, where connects are traced.
    /// Bound: one for each slot of a connection.
    pub accepted: HashMap<u32, Time>,
    /// That were in the inbox when the turn came to it.
    pub inbox_messages: usize,
    /// Channels have yet to take other options.
    pub retaking: bool,
    /// Set by the order to end: connections that are still here then are cut off.
    pub ending: Option<Time>,
}

/// What there is most of lately.
pub(in crate::shard) struct BusiestNames {
    /// By publications, of channels whose owner is here.
    pub channels: Sketch,
    /// By frames of commands, of clients that are here.
    pub users: Sketch,
}

impl BusiestNames {
    fn new(now: Time) -> BusiestNames {
        BusiestNames { channels: Sketch::new(now), users: Sketch::new(now) }
    }

    pub fn turn(&mut self, now: Time) {
        self.channels.turn(now);
        self.users.turn(now);
    }
}

impl Environment {
    pub fn new(
        id: ShardId,
        options: Arc<ShardOptions>,
        control: Option<Arc<dyn ControlPlane>>,
        prng: Prng,
        now: Time,
    ) -> Environment {
        let wall_ms = (options.wall_ms)(now);
        let namespaces = options.seeing.namespaces.clone();
        let traced = options.seeing.traced;
        let load = Load::new(now, (options.thread_time)());
        Environment {
            id,
            options,
            control,
            prng,
            now,
            wall_ms,
            stats: Stats::default(),
            load,
            busiest: BusiestNames::new(now),
            stages: Stages::new(namespaces, traced),
            observers: Vec::new(),
            accepted: HashMap::new(),
            inbox_messages: 0,
            retaking: false,
            ending: None,
        }
    }

    pub fn set_now(&mut self, now: Time) {
        self.now = now;
        self.wall_ms = (self.options.wall_ms)(now);
    }

    /// The driver was waited for from `before` to `now`.
    pub fn look_at_load(&mut self, before: Time, now: Time) {
        // Since the moment of the last turn: what a client waits for its turn, at worst.
        self.stats.turns.record(before.since(self.now));
        self.load.waited(now.since(before));
        self.load.measure(now, self.options.thread_time);
    }

    pub fn unix_s(&self) -> u64 {
        self.wall_ms / 1000
    }
}
