//! Sealed connections: opening what they send, and having their layers asked when something is to be sealed.

use crate::base::bytes::Bytes;
use crate::driver::SocketEnd;
use crate::layer::OpenedBytes;
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;

impl Core {
    /// Bytes from the socket of a sealed connection.
    pub fn open(&mut self, slot: u32, mut bytes: &mut [u8]) {
        // Out of its place meanwhile: what the plain bytes lead to may look at the connection, and seals nothing before the
        // flush.
        let Some(mut layer) = self.links.layers.take(slot) else { return };
        while !bytes.is_empty() && self.links.connections.get(slot).is_some_and(|at| !at.link.is_gone()) {
            let (consumed, opened) = layer.open(bytes);
            let over = match opened {
                OpenedBytes::Plain(plain) => {
                    self.handle_bytes(slot, plain);
                    false
                }
                OpenedBytes::Nothing => false,
                OpenedBytes::End => {
                    self.handle_ended(slot, SocketEnd::Finished);
                    true
                }
                OpenedBytes::Fault(fault) => {
                    self.env.stats.layer_fault(fault);
                    self.leave_protocol(slot, Bytes::new(), ClosingEnd::Fin);
                    true
                }
            };
            if over {
                break;
            }
            debug_assert!(consumed > 0, "a layer that takes nothing is never done");
            bytes = &mut bytes[consumed..];
        }
        layer.release();
        let (speaks, due) = (layer.wants_to_speak(), layer.wants_step());
        self.links.layers.insert(slot, layer);
        if let Some(kind) = due {
            self.handshake_due(slot, kind);
        }
        if speaks {
            self.seal_soon(slot);
        }
    }

    /// Has the layer of a sealed connection asked in this tick, also when no plain bytes leave.
    pub fn seal_soon(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let link = &mut connection.link;
        // What a full socket keeps waiting goes first: the layer is asked behind it.
        if link.is_layered() && !link.is_gone() && !link.is_blocked() && link.chain.is_empty() {
            let nothing = self.links.outbox.frame(Bytes::new());
            self.links.outbox.append(slot, &mut link.chain, nothing);
        }
    }
}
