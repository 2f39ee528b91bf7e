//! What connections make the node keep, and the end of the worst when it is too much in sum: see [`crate::base::debts`].

use crate::base::fault::Disconnect;
use crate::shard::connections::Connection;
use crate::shard::core::Core;
use crate::shard::stats::Cause;

/// What the kernel may keep for a socket that takes nothing where it is free to choose: a part of tcp_wmem's usual 4 MiB.
const SEND_BUFFER_BYTES: u64 = 1 << 20;

impl Connection {
    /// Bytes kept for it, in the kernel as well.
    fn debt(&self, send_buffer_bytes: usize) -> u64 {
        let owed = self.link.pending.as_ref().map_or(0, |pending| {
            let kernel = match (pending.blocked, send_buffer_bytes) {
                (false, _) => 0,
                (true, 0) => SEND_BUFFER_BYTES,
                (true, bytes) => bytes as u64,
            };
            kernel + pending.owed_bytes as u64
        });
        // Of a connection that is closing as well: what it still sends is read up to its Close frame.
        let half = self.link.decoder.as_ref().map_or(0, |decoder| decoder.stored_bytes());
        owed + (half + self.peer.held_bytes()) as u64
    }
}

impl Core {
    /// Brings the node's account of a connection up to date. Cheap for those that owe nothing and did not.
    pub fn settle(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let mut debt = connection.debt(self.env.options.send_buffer_bytes);
        if connection.link.is_layered() && !connection.link.is_gone() {
            debt += self.links.layers.stored_bytes(slot) as u64;
        }
        if debt == 0 && !connection.link.indebted() {
            return;
        }
        connection.link.set_indebted(debt > 0);
        let before = match debt {
            0 => self.links.debtors.remove(&slot),
            debt => self.links.debtors.insert(slot, debt),
        };
        self.env.options.debts.change(before.unwrap_or(0), debt);
    }

    /// Closes the worst debtors when all connections of the node together owe too much.
    pub fn collect_debts(&mut self) {
        let debts = self.env.options.debts.clone();
        if !debts.is_pressed() || self.links.debtors.is_empty() {
            return;
        }
        let bound = if debts.is_exceeded() { 0 } else { debts.bound() };
        let mut worst: Vec<(u64, u32)> = self
            .links
            .debtors
            .iter()
            .filter(|(_, debt)| **debt >= bound)
            .map(|(slot, debt)| (*debt, *slot))
            .collect();
        worst.sort_unstable_by(|a, b| b.cmp(a));
        for (_, slot) in worst {
            if debts.is_eased() {
                return;
            }
            self.env.stats.fault(Cause::DebtLimit);
            debts.collected();
            self.close(slot, Disconnect::SLOW);
            // An orderly end that would keep what it owes until its client reads it is none.
            if self.links.debtors.contains_key(&slot) {
                self.give_up(slot);
            }
        }
    }
}
