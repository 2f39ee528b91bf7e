//! Who gets in: connections within the bound of the node and of the shard, and the answer to those beyond it.

use std::time::Duration;

use crate::proto::http1;
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;
use crate::shard::stats::Cause;

/// How long a refused client may take to end its side.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
/// What a refused client is told to wait at most, in seconds. How long each is told is random, so that they come back
/// one after the other.
const RETRY_AFTER_S_MAX: u8 = 9;
const _: () = assert!(RETRY_AFTER_S_MAX < 10, "it is written as one digit");

impl Core {
    /// Counts a new connection. False when there is no room for it, here or in the node.
    pub fn take_seat(&mut self, slot: u32) -> bool {
        let seats = &self.env.options.seats;
        let here = self.links.connections.len() - self.links.unseated as usize;
        let seated = match here > self.env.options.connections_max as usize {
            true => {
                seats.refuse();
                false
            }
            false => seats.take(),
        };
        match self.links.connections.get_mut(slot) {
            Some(connection) if seated => connection.link.set_seated(),
            _ => self.links.unseated += 1,
        }
        seated
    }

    /// Answers a connection beyond the bound: 503, and the end.
    pub fn refuse_connection(&mut self, slot: u32) {
        self.env.stats.fault(Cause::ConnectionLimit);
        let retry_after = [b'0' + self.env.prng.u8(1..=RETRY_AFTER_S_MAX)];
        let fields: &[(&str, &[u8])] = &[
            ("Retry-After", &retry_after),
            ("Connection", b"close"),
            ("Content-Type", b"text/plain"),
            // A page of any origin may see why it is refused.
            ("Access-Control-Allow-Origin", b"*"),
        ];
        let mut answer = Vec::new();
        http1::write_response(&mut answer, 503, fields, b"too many connections\n");
        // An orderly end waits for the request and the peer's end. A crowd gets the answer and is closed behind it.
        let end = match self.links.unseated <= self.env.options.refused_max {
            true => ClosingEnd::Fin,
            false => ClosingEnd::Both,
        };
        self.leave_protocol(slot, answer.into(), end);
        if self.links.connections.get(slot).is_some_and(|connection| !connection.link.is_gone()) {
            self.timer_in(slot, REFUSED_LINGER);
        }
    }
}
