//! What the control plane is told for traces. Where nothing is traced, each place costs one comparison.

use crate::base::trace::{TRACEPARENT, TraceContext};
use crate::shard::control_request::trace::{TracedConnect, TracedStage};
use crate::shard::core::Core;

impl Core {
    /// Stages of this tick.
    pub fn tell_traced(&mut self) {
        let Some(traced) = self.env.stages.traced.as_mut().filter(|traced| !traced.is_empty()) else {
            return;
        };
        let shard = self.env.id;
        let stages: Vec<TracedStage> = traced
            .drain(..)
            .map(|(accepted, stage, at)| TracedStage { accepted, stage, shard, at })
            .collect();
        if let Some(control) = &self.env.control {
            control.traced(&stages);
        }
    }

    /// A socket was accepted.
    pub fn trace_accepted(&mut self, slot: u32) {
        if self.env.options.seeing.traced {
            self.env.accepted.insert(slot, self.env.now);
        }
    }

    /// A peer is in.
    pub fn trace_connected(&mut self, slot: u32) {
        if !self.env.options.seeing.traced {
            return;
        }
        let now = self.env.now;
        let since = self.env.accepted.remove(&slot).unwrap_or(now);
        let (Some(control), Some(connection)) = (&self.env.control, self.links.connections.get(slot)) else {
            return;
        };
        control.trace_connected(TracedConnect {
            client: self.client_id(slot),
            shard: self.env.id,
            transport: connection.peer.transport().unwrap_or("unknown"),
            remote: self.trace_of(slot),
            since,
            now,
        });
    }

    /// The trace that a client came with. Its field is kept with those that are forwarded, where traces are wanted.
    pub fn trace_of(&self, slot: u32) -> Option<TraceContext> {
        if !self.env.options.seeing.traced {
            return None;
        }
        let session = self.links.connections.get(slot)?.peer.client()?;
        let (_, value) = session.headers()?.iter().find(|(name, _)| &**name == TRACEPARENT)?;
        TraceContext::parse(value)
    }
}
