//! Input that is kept: heads and bodies that are not whole, requests behind others, messages whose turn to be inflated has
//! not come.
//!
//! All of a node have one budget (`limits.http_input_bytes_max`). When it is nearly used, those who hold most of it pay, on
//! whichever shard they are, and not who comes next with a few bytes: see [`Debts`](crate::base::debts::Debts).

use std::sync::Arc;

use crate::base::budget::{BudgetHeld, Full};
use crate::base::fault::Disconnect;
use crate::base::ids::Sock;
use crate::shard::core::Core;
use crate::shard::holders::{CLEAN_AT_LEAST, WORST_MAX};
use crate::shard::pipeline::INPUT_FULL;
use crate::shard::stats::Cause;

impl Core {
    /// Keeps `bytes` of the connection's input behind what is in `held`, which is elsewhere meanwhile. Where there is no room,
    /// one of this shard that holds more is ended for it.
    ///
    /// # Errors
    /// [`Full`]: nobody here holds more.
    pub fn keep_input(&mut self, slot: u32, held: &mut BudgetHeld, bytes: &[u8]) -> Result<(), Full> {
        let budget = Arc::clone(&self.env.options.http.input);
        let wants = held.leased_bytes().max((held.bytes().len() + bytes.len()) as u64);
        while held.push(&budget, bytes).is_err() {
            if !self.make_room(slot, wants) {
                return Err(Full);
            }
        }
        self.note_holder(slot);
        Ok(())
    }

    fn note_holder(&mut self, slot: u32) {
        if self.links.holders.all.len() >= self.links.holders.clean_at.max(CLEAN_AT_LEAST) {
            self.clean_holders();
        }
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if !connection.link.holds_input() {
            connection.link.set_holds_input(true);
            self.links.holders.all.push(connection.link.sock(slot));
        }
    }

    /// Ends those who hold most while too much is held in sum.
    pub fn collect_input(&mut self) {
        let budget = Arc::clone(&self.env.options.http.input);
        let Some(debts) = budget.debts().filter(|debts| debts.is_pressed()) else { return };
        if self.links.holders.all.is_empty() {
            return;
        }
        let bound = debts.bound();
        self.find_worst();
        while !debts.is_eased()
            && let Some((_, sock)) = self.links.holders.worst.pop_if(|(bytes, _)| *bytes >= bound)
        {
            self.end_holder(sock);
        }
    }

    /// Ends the one of this shard that holds most, if that is more than `bytes`.
    fn make_room(&mut self, slot: u32, bytes: u64) -> bool {
        if !self.links.holders.looked {
            self.find_worst();
        }
        while let Some((held, sock)) = self.links.holders.worst.pop_if(|(held, _)| *held > bytes) {
            // It may have less by now.
            if sock.slot != slot && self.input_bytes(sock) >= held {
                self.end_holder(sock);
                return true;
            }
        }
        false
    }

    fn find_worst(&mut self) {
        self.clean_holders();
        let held = self.links.holders.all.iter().map(|&sock| (self.input_bytes(sock), sock));
        let mut worst: Vec<(u64, Sock)> = held.collect();
        let by_size = |(bytes, sock): &(u64, Sock)| (*bytes, sock.slot);
        if worst.len() > WORST_MAX {
            let others = worst.len() - WORST_MAX;
            worst.select_nth_unstable_by_key(others, by_size);
            worst.drain(..others);
        }
        worst.sort_unstable_by_key(by_size);
        self.links.holders.worst = worst;
        self.links.holders.looked = true;
    }

    fn clean_holders(&mut self) {
        let mut all = std::mem::take(&mut self.links.holders.all);
        all.retain(|&sock| {
            let holds = self.input_bytes(sock) > 0;
            if !holds
                && self.is_current(sock)
                && let Some(at) = self.links.connections.get_mut(sock.slot)
            {
                at.link.set_holds_input(false);
            }
            holds
        });
        self.links.holders.clean_at = all.len() * 2;
        self.links.holders.all = all;
    }

    /// What is kept of the input of a connection; nothing of one that is gone.
    fn input_bytes(&self, sock: Sock) -> u64 {
        let Some(connection) = self.links.connections.get(sock.slot).filter(|_| self.is_current(sock)) else {
            return 0;
        };
        let unread = match connection.link.awaits_inflating() {
            true => self.links.compression.unread.leased_bytes(sock),
            false => 0,
        };
        connection.peer.kept_bytes() + unread
    }

    /// It is told so in its own way, where it can be, and keeps nothing.
    fn end_holder(&mut self, sock: Sock) {
        let slot = sock.slot;
        self.env.stats.fault(Cause::HttpInputFull);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        connection.link.set_awaits_inflating(false);
        self.links.compression.unread.forget(sock);
        let tunnel = self.links.connections.tunnel(slot);
        if let Some(Some(http)) = self.links.connections.requests(slot) {
            let origin = match &http.request {
                Some(request) => request.origin.clone(),
                None => self.raw_origin(http.unread.bytes()),
            };
            self.answer_fault(slot, INPUT_FULL, origin.as_deref());
        } else if tunnel.is_some_and(|tunnel| !tunnel.is_open()) {
            self.refuse_for_now(slot);
        } else {
            self.close(slot, Disconnect::SLOW);
        }
        // One whose orderly end would keep it.
        if self.input_bytes(sock) > 0 {
            self.give_up(slot);
        }
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
