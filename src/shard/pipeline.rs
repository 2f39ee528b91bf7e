//! Requests behind requests: the next one is taken when the answer before it has gone to the kernel.
//!
//! A client that sends requests and reads no answers is not read from: it costs one answer, what came with the request
//! in one read, and at most one read more. So the answers that connections of HTTP are owed are as many as connections.

use std::time::Duration;

use crate::base::ids::Sock;
use crate::proto::http1::HttpFault;
use crate::session::unidirectional::Unidirectional;
use crate::shard::core::Core;
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::links::Action;
use crate::shard::requests::Http;
use crate::shard::stats::Cause;

/// How long a peer may take no byte of an answer that the kernel has no room for. Long enough for a phone in a tunnel.
pub const ANSWER_STALL: Duration = Duration::from_secs(30);

/// What a client is told whose input would have to be kept while too much of it is.
pub const INPUT_FULL: HttpFault = HttpFault { status: 503, reason: "too many unfinished requests" };

impl Core {
    /// Whether an answer to this connection has not gone to the kernel yet.
    pub fn owes(&self, slot: u32) -> bool {
        self.links.connections.get(slot).is_some_and(|connection| connection.link.owes())
    }

    /// Keeps requests whose turn has not come, behind those in `http`, and reads no further.
    pub fn wait_in_line(&mut self, slot: u32, mut http: Box<Http>, bytes: &[u8]) {
        if self.keep_input(slot, &mut http.unread, bytes).is_err() {
            return self.refuse_full(slot, None);
        }
        self.keep_http(slot, http);
        self.links.actions.push(Action::ReadPause(slot));
        self.resume_later(slot);
    }

    /// The connection has its turn in the next tick, if it owes nothing by then.
    pub fn resume_later(&mut self, slot: u32) {
        if let Some(sock) = self.sock(slot) {
            self.links.resuming.push(sock);
        }
    }

    /// The last tick's answers are with the kernel: their connections go on with the next request. Those that the
    /// kernel had no room for wait until it has: see `catch_up.rs`.
    pub fn resume_http(&mut self) {
        // Those that wait once more have their turn in the next tick, so nobody is served twice in this one.
        for Sock { slot, generation } in std::mem::take(&mut self.links.resuming) {
            let Some(connection) = self.links.connections.get_mut(slot) else { continue };
            if connection.link.generation != generation {
                continue;
            }
            if connection.link.owes() {
                // What the end of a tick gave to somebody leaves in this one.
                if !connection.link.is_blocked() {
                    self.links.resuming.push(Sock { slot, generation });
                }
                continue;
            }
            let Some(kept) = connection.peer.requests_mut() else {
                self.resume_uni(slot);
                continue;
            };
            let Some(mut http) = kept.take_if(|http| http.is_waiting()) else { continue };
            let mut unread = http.unread.take();
            let before = self.links.actions.len();
            self.links.actions.push(Action::ReadStart(slot));
            self.handle_bytes(slot, &mut unread);
            // It waits once more: reading has not begun between.
            if let [Action::ReadStart(start), Action::ReadPause(pause)] = self.links.actions[before..]
                && (start, pause) == (slot, slot)
            {
                self.links.actions.truncate(before);
            }
        }
    }

    /// No room to keep what has come.
    pub fn refuse_full(&mut self, slot: u32, origin: Option<&str>) {
        self.env.stats.fault(Cause::HttpInputFull);
        self.answer_fault(slot, INPUT_FULL, origin);
    }

    /// A write of an answer was cut short: its peer has a while to take more of it.
    pub fn answer_cut(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let waits = match (connection.peer.requests(), connection.link.phase) {
            (Some(http), _) => http.as_ref().is_none_or(|http| http.is_waiting()),
            (_, Phase::Closing(end)) => end != ClosingEnd::PeersClose,
            _ => false,
        };
        if waits {
            self.timer_in(slot, ANSWER_STALL);
        }
    }

    /// The rest of an answer is with the kernel.
    pub fn answer_gone(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let holds_input = |uni: &Unidirectional| uni.is_websocket() && uni.holds_input();
        match connection.peer.requests() {
            Some(None) => self.timer_in(slot, self.env.options.http.keep_alive),
            Some(Some(http)) if http.is_waiting() => self.resume_later(slot),
            None if connection.peer.uni().is_some_and(holds_input) => self.resume_later(slot),
            Some(Some(_)) | None => {}
        }
    }
}
