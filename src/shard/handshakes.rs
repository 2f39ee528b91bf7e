//! Handshakes of layers: how many may be unfinished, whose turn it is, and how long they may take.
//!
//! A step is asymmetric cryptography: 0.1 to 1 ms. Those that are connected wait for a few of them in a tick at most. The
//! steps that are due wait in the order in which they came, those of handshakes that have begun before others.

use crate::base::bytes::Bytes;
use crate::layer::{LayerStep, StepKind};
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::stats::Cause;

/// Steps of handshakes in one tick: what they delay others by, 2 ms with RSA keys of 2048 bits. More ticks follow at once
/// while any wait.
const STEPS_PER_TICK: usize = 2;

impl Core {
    /// The layer of a connection wants a step: until then it is not read from.
    pub fn handshake_due(&mut self, slot: u32, kind: StepKind) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if self.links.handshakes.waiting() >= STEPS_PER_TICK {
            self.env.stats.counters.tls_handshakes_delayed_total += 1;
        }
        if self.links.handshakes.push(connection.link.sock(slot), kind) {
            connection.link.set_awaits_step(true);
            self.links.actions.push(Action::ReadPause(slot));
        } else {
            self.env.stats.fault(Cause::HandshakesFull);
            self.leave_protocol(slot, Bytes::new(), ClosingEnd::Both);
        }
    }

    /// Takes the steps that there is time for in this tick.
    pub fn step_handshakes(&mut self) {
        let mut steps = 0;
        while steps < STEPS_PER_TICK
            && let Some(sock) = self.links.handshakes.pop()
        {
            let closing = |slot| self.links.connections.get(slot).is_some_and(|at| at.link.is_closing());
            if self.is_current(sock) && !closing(sock.slot) {
                steps += 1;
                self.step_handshake(sock.slot);
            }
        }
    }

    fn step_handshake(&mut self, slot: u32) {
        let Some(layer) = self.links.layers.get_mut(slot) else { return };
        let step = layer.step();
        let speaks = layer.wants_to_speak();
        if let Some(connection) = self.links.connections.get_mut(slot) {
            connection.link.set_awaits_step(false);
        }
        self.read_on(slot);
        match step {
            LayerStep::Nothing => {}
            LayerStep::Ready { resumed, certificate, mut rest } => {
                if let Some(certificate) = certificate {
                    self.links.layers.set_certificate(slot, certificate);
                }
                self.links.handshakes.unfinished -= 1;
                self.env.stats.counters.tls_handshakes_total += 1;
                self.env.stats.counters.tls_handshakes_resumed_total += u64::from(resumed);
                self.timer_in(slot, self.head_patience(slot));
                self.open(slot, &mut rest);
            }
            LayerStep::Fault(fault) => {
                self.env.stats.layer_fault(fault);
                self.leave_protocol(slot, Bytes::new(), ClosingEnd::Fin);
            }
        }
        if speaks {
            self.seal_soon(slot);
        }
        self.settle(slot);
    }

    /// Those under way, as a metric.
    pub fn handshakes_active(&self) -> (&'static str, &'static str, u64) {
        const HELP: &str = "TLS handshakes under way, failed ones until their connection is closed";
        ("tls_handshakes_active", HELP, self.links.handshakes.unfinished as u64)
    }

    /// A connection whose layer is not ready yet.
    pub fn in_handshake(&self, slot: u32) -> bool {
        self.links.connections.get(slot).is_some_and(|connection| connection.link.is_layered())
            && self.links.layers.get(slot).is_some_and(|layer| !layer.is_ready())
    }

    /// It took too long.
    pub fn handle_handshake_timer(&mut self, slot: u32) {
        self.env.stats.fault(Cause::HandshakeTimeout);
        self.leave_protocol(slot, Bytes::new(), ClosingEnd::Both);
    }
}
