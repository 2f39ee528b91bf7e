//! What of a peer's input is taken, and what of it is kept.

use crate::base::limits::ECHO_MESSAGE_BYTES_MAX;
use crate::session::unidirectional::TURN_MESSAGES_MAX;
use crate::shard::peer::{Kind, Peer};
use crate::shard::requests::Request;

impl Peer {
    /// Whether reading from it is paused for another reason than what it owes: its backend does not keep up, or its
    /// commands wait.
    pub fn input_is_paused(&self) -> bool {
        match &self.kind {
            Kind::Tunnel(tunnel) => tunnel.is_paused(),
            Kind::Client(session) => session.input_paused,
            Kind::Unidirectional(uni) => uni.is_websocket() && uni.holds_input(),
            Kind::Http(_) | Kind::Echo | Kind::Nobody => false,
        }
    }

    /// Whether further input of it would have to wait: it is not read from. `owes`: an answer to it has not gone to the
    /// kernel.
    pub fn input_waits(&self, owes: bool) -> bool {
        match &self.kind {
            Kind::Http(Some(http)) => http.input_waits(owes),
            Kind::Unidirectional(uni) => uni.holds_input(),
            Kind::Tunnel(tunnel) => tunnel.is_paused() || tunnel.holds_input(),
            Kind::Client(_) => self.input_is_paused(),
            Kind::Http(None) | Kind::Echo | Kind::Nobody => false,
        }
    }

    /// Bytes of its input that are kept. Requests have a budget of their own.
    pub fn held_bytes(&self) -> usize {
        match &self.kind {
            Kind::Client(session) => session.held_bytes(),
            Kind::Tunnel(tunnel) => tunnel.waiting().1,
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Nobody => 0,
        }
    }

    /// What it sends is counted against the limit of bytes.
    pub fn bytes_are_limited(&self) -> bool {
        match &self.kind {
            Kind::Client(_) => true,
            Kind::Unidirectional(uni) => uni.is_websocket(),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => false,
        }
    }

    /// How long a message of it may be, by what is allowed to others.
    pub fn message_bytes_max(&self, message_bytes_max: usize) -> usize {
        match &self.kind {
            Kind::Echo => ECHO_MESSAGE_BYTES_MAX,
            _ => message_bytes_max,
        }
    }

    /// Messages of it that are handled in one turn. Commands of the client protocol have bounds of their own, which count what
    /// a message holds.
    pub fn turn_messages_max(&self) -> usize {
        match &self.kind {
            Kind::Unidirectional(_) => TURN_MESSAGES_MAX,
            _ => usize::MAX,
        }
    }

    /// What it keeps of its input, of the budget of requests, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Http(Some(http)) => {
                let of_client = |request: &&Request| request.publish.is_some() || request.client.is_some();
                let body = http.request.as_ref().filter(of_client);
                http.unread.leased_bytes() + body.map_or(0, |request| request.body.leased_bytes())
            }
            Kind::Unidirectional(uni) => {
                let unread = uni.work.as_ref().and_then(|work| work.unread.as_ref());
                unread.map_or(0, |unread| unread.leased_bytes())
            }
            Kind::Tunnel(tunnel) => tunnel.held_input_bytes(),
            Kind::Http(None) | Kind::Client(_) | Kind::Echo | Kind::Nobody => 0,
        }
    }
}
