//! Other options for a running shard. What is read each time is read from the new ones at once; what was copied when
//! a channel was made is taken over in steps, between other work.

use std::sync::Arc;

use crate::base::event::EventKind;
use crate::shard::control_request::{ControlReply, OptionsBox};
use crate::shard::core::Core;
use crate::shard::rates::Rates;

/// Channels that take their options in one tick: a millisecond.
const RETAKEN_PER_TICK: u32 = 4096;

impl Core {
    /// These options hold from now on. What shards share beside them (seats, debts, budgets, admission) and what shaped the
    /// driver stays as it is.
    pub fn exchange_options(&mut self, options: OptionsBox, reply: ControlReply<()>) {
        let options = options.0;
        let (limits, rules) = (&options.client_limits, &options.rules);
        let rates = Rates::new(limits, rules, options.message_bytes_max);
        self.peers.rates = Rates::exchange(self.peers.rates.take(), rates);
        let connections = self.links.connections.iter().map(|(slot, _)| slot);
        self.owned.events.exchange(options.events, options.event_delays(), connections, self.env.now);
        self.owned.channels.owned.tell_acked(options.events.contains(EventKind::Acked));
        self.env.stages.exchange(options.seeing.namespaces.clone());
        self.links.ends.set_max(options.seeing.ends_max);
        self.links.seen.turn(options.seeing.ends_max > 0);
        self.owned.channels.owned.exchange_options(Arc::clone(&options.namespaces), options.hub.clone());
        self.delivery.followed.exchange_options(Arc::clone(&options.namespaces), options.streams);
        self.env.options = options;
        self.retake_options();
        reply.send(Ok(()));
    }

    /// Goes on with channels that have their old options still.
    pub fn retake_options(&mut self) {
        let owned = self.owned.channels.owned.retake_options(RETAKEN_PER_TICK);
        let followed = self.delivery.followed.retake_options(RETAKEN_PER_TICK);
        self.env.retaking = owned || followed;
    }
}
