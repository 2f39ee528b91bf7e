//! The ends of connections: ordered ones, by the peer, and by force.

use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, Unsubscribed};
use crate::base::ids::UserName;
use crate::base::limits::WS_CLOSE_REASON_BYTES_MAX;
use crate::driver::SocketEnd;
use crate::shard::control_request::seen::EndedBy;
use crate::shard::core::Core;
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::links::Action;
use crate::shard::look::transport_of;
use crate::shard::mailbox::ShardMessage;
use crate::shard::owner::OwnerRequest;
use crate::shard::peer::AfterEnd;
use crate::shard::stats::Cause;
use crate::shard::unidirectional::spread;

/// How long a peer may take to end its side after our last word.
const LINGER: Duration = Duration::from_secs(3);

const _: () = assert!(WS_CLOSE_REASON_BYTES_MAX >= 32, "reasons of the protocol fit");

impl Core {
    /// Ends a peer that is in the middle of something with the last bytes of its kind.
    pub fn end_stream(&mut self, slot: u32, disconnect: &Disconnect) {
        let least_ms = self.retry_least_ms();
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let prng = &mut self.env.prng;
        let (last, end) = connection.peer.last_bytes(disconnect, || spread(least_ms, prng));
        self.owned.events.note_end(slot, disconnect);
        self.end_with(slot, disconnect, last, end);
    }

    /// Ends a peer with these bytes, unless it would not read them.
    pub fn end_with(&mut self, slot: u32, disconnect: &Disconnect, last: Vec<u8>, end: ClosingEnd) {
        self.env.stats.disconnect(disconnect);
        let blocked = self.links.connections.get(slot).is_some_and(|connection| connection.link.is_blocked());
        match blocked && *disconnect == Disconnect::SLOW {
            // What it owes is what it does not read: a Close frame behind that would not be read either.
            true => self.give_up(slot),
            false => self.leave_protocol(slot, last.into(), end),
        }
    }

    /// Sends the last bytes of a connection; what it still says is not heard.
    pub fn leave_protocol(&mut self, slot: u32, last: Bytes, end: ClosingEnd) {
        self.forget_client(slot);
        self.send(slot, last);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.link.is_gone() {
            return;
        }
        if end != ClosingEnd::PeersClose {
            self.links.finishing.push(slot);
        }
        connection.set_closing(end);
        // Behind our last bytes a layer says that they were the last.
        self.seal_soon(slot);
        self.settle(slot);
        // Reading goes on: input left unread would turn the close into a reset that destroys our last bytes.
        self.read_on(slot);
        self.timer_in(slot, LINGER);
    }

    /// Cuts a connection off.
    pub fn give_up(&mut self, slot: u32) {
        self.forget_client(slot);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.link.is_gone() {
            return;
        }
        // Whose socket takes nothing, or who has been silent, does not read: what the kernel holds for it would stay
        // there for minutes, with nobody left to count it.
        let reset = connection.link.silent() || connection.link.is_blocked();
        connection.set_gone();
        self.settle(slot);
        self.links.wheel.cancel(&mut self.links.connections, slot);
        self.links.actions.push(if reset { Action::Reset(slot) } else { Action::Close(slot) });
    }

    /// The peer has ended its side, or the socket is broken.
    pub fn handle_ended(&mut self, slot: u32, end: SocketEnd) {
        if self.in_handshake(slot) && self.links.connections.requests(slot).is_some() {
            self.env.stats.fault(Cause::HandshakeAborted);
        }
        self.take_up_last(slot);
        if end != SocketEnd::Finished {
            // It may have left without a word.
            self.env.stats.fault(if end.is_silence() { Cause::PeerTimeout } else { Cause::PeerReset });
            self.links.ends.blame(slot, EndedBy::Network);
            self.give_up(slot);
            return;
        }
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.link.peer_ended() {
            // Its layer has said so before its FIN.
            return;
        }
        connection.link.set_peer_ended();
        let owes = connection.link.owes();
        match connection.peer.handle_link_ended(owes) {
            AfterEnd::Stays => {}
            AfterEnd::LeavesBehindAnswer => self.leave_protocol(slot, Bytes::new(), ClosingEnd::Both),
            // Our last bytes may still be on their way; the close follows them.
            AfterEnd::HasLeft if self.links.finishing.contains(&slot) => {}
            AfterEnd::HasLeft | AfterEnd::Leaves => self.give_up(slot),
        }
    }

    /// After the flush: connections whose last bytes have left get their FIN, or are closed.
    pub fn finish_closed(&mut self) {
        let mut at = 0;
        while at < self.links.finishing.len() {
            let slot = self.links.finishing[at];
            if let Some(connection) = self.links.connections.get_mut(slot)
                && let Phase::Closing(end) = connection.link.phase
            {
                if connection.link.pending.is_some() || !connection.link.chain.is_empty() {
                    at += 1;
                    continue;
                }
                match end {
                    ClosingEnd::Fin if !connection.link.peer_ended() => {
                        self.links.actions.push(Action::Finish(slot));
                        self.timer_in(slot, LINGER);
                    }
                    _ => {
                        // It has answered: an orderly end.
                        connection.link.set_silent(false);
                        self.give_up(slot);
                    }
                }
            }
            self.links.finishing.swap_remove(at);
        }
    }

    /// The client of this connection, if it has one, leaves its channels and its user.
    pub fn forget_client(&mut self, slot: u32) {
        // It was sent no last words: the connection broke.
        self.part_tunnel(slot, 1006, "", true);
        let conn = self.conn_id(slot);
        let note = self.owned.events.take_note(slot);
        self.keep_end(slot, note.as_ref());
        let why = note.unwrap_or(Disconnect::CONNECTION_CLOSED);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if !connection.peer.subscribes() {
            return;
        }
        let (subs, user) = (connection.peer.take_subs(), connection.peer.user().cloned());
        let transport = transport_of(&connection.peer);
        for sub in subs {
            let name = self.delivery.followed.get(sub.channel()).name.clone();
            if let Some(place) = sub.place() {
                self.leave_list(sub.channel(), place);
                self.tell_unsubscribed(slot, &name, Unsubscribed::Disconnected);
            }
            self.messages.mailer.request(OwnerRequest::Leave { channel: name, conn });
        }
        if let Some(connection) = self.links.connections.get_mut(slot)
            && let Some(pending) = &mut connection.link.pending
        {
            self.env.stats.lagged(std::mem::take(&mut pending.since), self.env.now);
            pending.cursors.clear();
            pending.paces.clear();
            pending.held = false;
            // What follows decides whether it is read.
            pending.read_paused = false;
            if pending.is_over() {
                connection.link.pending = None;
            }
        }
        if self.unlist(slot, user, transport) {
            self.tell_disconnected(slot, why);
        }
    }

    /// It is no client any more, and its user's owner learns it. False when it was none.
    pub fn unlist(&mut self, slot: u32, user: Option<UserName>, transport: &'static str) -> bool {
        let conn = self.conn_id(slot);
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        let listed = connection.peer.take_listed();
        if connection.peer.take_of_user()
            && let Some(user) = user
        {
            let owned = self.messages.mailer.router().user_owner(&user);
            self.messages.mailer.post(owned, ShardMessage::UserLeft(Box::new((user, conn))));
        }
        if listed {
            self.peers.clients.leave(transport);
        }
        listed
    }

    /// Takes a subscriber out of a channel's list, and tells those that change places.
    pub fn leave_list(&mut self, channel: u32, place: u32) {
        let mut moved = std::mem::take(&mut self.delivery.moved);
        self.delivery.followed.unsubscribe(channel, place, &mut moved);
        for moved in moved.drain(..) {
            if let Some(connection) = self.links.connections.get_mut(moved.slot) {
                connection.peer.set_place(channel, moved.to);
            }
        }
        self.delivery.moved = moved;
    }
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod tests;
