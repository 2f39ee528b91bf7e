//! A shard that has taken over begins to serve.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::fault::Disconnect;
use crate::base::ids::Sock;
use crate::driver::Driver;
use crate::proto::centrifuge::Format;
use crate::session::{Sub, rights};
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::handover::order::{Outlet, Said};
use crate::shard::handover::state::{Adopting, HandoverStage, Leaver, Settling};
use crate::shard::link::{ClosingEnd, Phase};
use crate::shard::links::Action;
use crate::shard::mailbox::ShardMessage;
use crate::shard::owner::OwnerRequest;
use crate::shard::pings::LatePings;
use crate::shard::timers::tick_of;

/// Connections that go on in one tick, ...
const PEERS_AT_ONCE: usize = 512;
/// ... unless as many are to be read: what comes on those that have gone on already is read behind that.
const READS_AT_ONCE: usize = 64;
/// Between two such ticks: while all shards did that at once, and without a rest, nobody would be served.
const PEERS_PAUSE: Duration = Duration::from_millis(2);

impl<D: Driver> Shard<D> {
    /// Some of those that came from another process go on. Until then they are written to, and not read from.
    pub(in crate::shard) fn settle_some(&mut self) {
        let now = self.core.env.now;
        let Some(mut settling) = self.core.handover.settling.take() else { return };
        if settling.next <= now {
            let mut left = PEERS_AT_ONCE;
            while !settling.peers.is_empty() && left > 0 {
                let from = settling.peers.len().saturating_sub(READS_AT_ONCE);
                for sock in settling.peers.split_off(from).into_iter().rev() {
                    if self.core.is_current(sock) {
                        self.core.resume_peer(sock.slot);
                    }
                }
                self.act();
                left = left.saturating_sub(READS_AT_ONCE);
                if self.driver.reads_waiting() >= READS_AT_ONCE {
                    break;
                }
            }
            settling.next = now + PEERS_PAUSE;
        }
        match settling.peers.is_empty() {
            true => self.core.say(&settling.outlet, Said::Settled),
            false => self.core.handover.settling = Some(settling),
        }
    }

    /// Reads, writes, accepts; time counts.
    pub(super) fn resume(&mut self, outlet: Outlet) {
        let Some(HandoverStage::Adopting(adopting)) = self.core.handover.stage.take().map(|stage| *stage)
        else {
            return;
        };
        self.core.links.late_pings = LatePings::before(tick_of(self.core.env.now));
        let Adopting { leavers, kept, sockets, anonymous, unreading, .. } = adopting;
        self.core.count_anonymous(anonymous);
        // Their peers stayed behind, or came with another descriptor.
        let mut unclaimed: Vec<Sock> = sockets.rest().collect();
        unclaimed.sort_unstable_by_key(|sock| sock.slot);
        unclaimed.into_iter().for_each(|sock| self.driver.close(sock));
        self.core.leave_behind(leavers);
        let connections = self.core.links.connections.iter();
        let connections = connections.filter(|(slot, _)| !unreading.contains(slot));
        let mut peers: Vec<Sock> = connections.map(|(slot, connection)| connection.link.sock(slot)).collect();
        // Who has just said something goes on first: the next thing that it says may be there already.
        let mut stirred = self.driver.take_stirred();
        stirred.retain(|sock| self.core.is_current(*sock) && !unreading.contains(&sock.slot));
        if !stirred.is_empty() {
            let early: HashSet<u32> = stirred.iter().map(|sock| sock.slot).collect();
            peers.retain(|sock| !early.contains(&sock.slot));
            peers.append(&mut stirred);
        }
        // Before anything is delivered.
        for slot in unreading {
            self.core.resume_peer(slot);
            self.core.close(slot, Disconnect::INAPPROPRIATE_PROTOCOL);
        }
        self.core.handover.settling = Some(Box::new(Settling { outlet, peers, next: self.core.env.now }));
        self.core.resume_drained();
        for message in kept {
            self.core.handle_message(message);
        }
        self.act();
        self.driver.accept_start();
    }
}

impl Core {
    /// Peers that stayed in the other process leave what they were in.
    fn leave_behind(&mut self, leavers: Vec<Leaver>) {
        for Leaver { conn, channels, user } in leavers {
            for channel in channels {
                self.messages.mailer.request(OwnerRequest::Leave { channel, conn });
            }
            if let Some(user) = user.filter(|user| !user.is_empty()) {
                let owner = self.messages.mailer.router().user_owner(&user);
                self.messages.mailer.post(owner, ShardMessage::UserLeft(Box::new((user, conn))));
            }
        }
    }

    /// A namespace of its channels takes any bytes now, which it cannot read.
    pub(super) fn is_left_unread(&mut self, slot: u32) -> bool {
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        let peer = &mut connection.peer;
        let format = peer.session().map_or(Format::Json, |session| session.wire().format);
        let form = |sub: &Sub| self.delivery.followed.get(sub.channel()).options.payload;
        peer.subs().iter().any(|sub| rights::reads(format, form(sub)).is_err())
    }

    fn resume_peer(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let sock = connection.link.sock(slot);
        let pending = connection.link.pending.as_deref();
        let blocked = pending.is_some_and(|pending| pending.blocked);
        if pending.is_some_and(|pending| !pending.cursors.is_empty()) {
            self.delivery.catching_up.push(slot);
        }
        if blocked {
            self.links.actions.push(Action::WriteWatch(slot));
        }
        if connection.may_be_read() {
            self.links.actions.push(Action::ReadStart(slot));
        }
        if let Phase::Closing(end) = connection.link.phase
            && end != ClosingEnd::PeersClose
        {
            self.links.finishing.push(slot);
        }
        self.resume_protocol(slot, sock);
        self.settle(slot);
        // A layer may have had something to say.
        self.seal_soon(slot);
    }
}
