//! Where a shard stands in an upgrade. Imports no method of `Core`.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::base::ids::{ChannelName, ConnId, Sock, UserName};
use crate::base::time::Time;
use crate::shard::handover::agreement::{Agreement, AgreementMark};
use crate::shard::handover::order::{Counts, Order, Outlet, Said};
use crate::shard::mailbox::ShardMessage;

/// Nothing, in an ordinary life.
#[derive(Default)]
pub(in crate::shard) struct Handover {
    /// To be carried out at the end of the tick.
    /// Bound: those of one tick, which the inbox has room for.
    pub orders: VecDeque<Order>,
    /// For the node.
    /// Bound: an answer to each of its orders, and one for each socket that has gone ahead.
    pub unsaid: VecDeque<(Outlet, Said)>,
    /// Marks of shards that have begun before this one.
    pub early: Vec<AgreementMark>,
    pub stage: Option<Box<HandoverStage>>,
    /// In the old process, from `Ahead` to `Abort` or the end.
    pub ahead: Option<Box<Ahead>>,
    /// In the new process, from `Resume` until it has settled.
    pub settling: Option<Box<Settling>>,
    /// In the old process: another one serves.
    pub is_over: bool,
}

/// Those that came from another process and have not gone on yet: they are written to, and not read from.
pub(in crate::shard) struct Settling {
    pub outlet: Outlet,
    /// Taken from the end.
    /// Bound: those that came.
    pub peers: Vec<Sock>,
    /// When some more go on.
    pub next: Time,
}

/// Sockets that go ahead of their peers.
pub(in crate::shard) struct Ahead {
    pub outlet: Outlet,
    /// Slots to be looked at, from the end.
    /// Bound: those of the connections when it began.
    pub left: Vec<u32>,
    /// By slot: whose sockets the other process has.
    /// Bound: the slots that were in use when it began.
    pub gone: Vec<Option<ConnId>>,
    /// All have gone, and it has been said.
    pub done: bool,
}

pub(in crate::shard) enum HandoverStage {
    Quieting(Quieting),
    Frozen(Frozen),
    Adopting(Adopting),
}

/// Takes in nothing new, and answers what it has been asked, until all shards are at rest.
pub(in crate::shard) struct Quieting {
    pub outlet: Outlet,
    pub agreement: Agreement,
    pub since: Time,
    /// What the mailer had posted when the last mark was sent.
    pub posted: u64,
    /// Connections with a request under way, which can be answered but not moved. Found once.
    pub busy: Option<Vec<u32>>,
    /// Of the control plane: for when this shard goes on.
    /// Bound: what is under way there.
    pub kept: VecDeque<ShardMessage>,
}

/// Nothing changes any more.
pub(in crate::shard) struct Frozen {
    pub outlet: Outlet,
    /// Bound: as [`Quieting::kept`].
    pub kept: VecDeque<ShardMessage>,
    pub step: ExportStep,
    /// For the outlet.
    /// Bound: one batch.
    pub ready: VecDeque<Said>,
    /// Connections whose sockets are the other process's as well.
    pub moved: Vec<u32>,
    pub counts: Counts,
}

/// What is exported next. The lists are taken from the end.
pub(in crate::shard) enum ExportStep {
    Shard,
    Streams(Vec<u32>),
    Peers(Vec<u32>),
    Departed,
    Channels(Vec<ChannelName>),
    Keys(usize),
    Users(Vec<UserName>),
    Over,
}

/// Takes what another process had, and serves nobody yet.
#[derive(Default)]
pub(in crate::shard) struct Adopting {
    /// The first thing that went wrong.
    pub fault: Option<String>,
    pub counts: Counts,
    /// Sockets whose peers are to come.
    /// Bound: those that the driver holds.
    pub sockets: Sockets,
    /// Peers of no user in particular.
    pub anonymous: u32,
    /// Slots of those that have cursors, and of those that cannot read what their channels carry now.
    /// Bound: the peers that came.
    pub cursors: Vec<u32>,
    pub unreading: BTreeSet<u32>,
    /// Of peers that did not come along: they leave when this process serves.
    pub leavers: Vec<Leaver>,
    /// Of the control plane, for when this shard serves.
    /// Bound: as [`Quieting::kept`].
    pub kept: VecDeque<ShardMessage>,
}

/// Sockets that came ahead of their peers. Peers follow in the same order but for those that have come or gone meanwhile, and
/// so the next one is where the last one was: a search for each would be an eighth of what clients wait for.
#[derive(Default)]
pub(in crate::shard) struct Sockets {
    came: Vec<Option<(ConnId, Sock)>>,
    places: HashMap<ConnId, usize>,
    /// Where the next is, most likely.
    next: usize,
}

impl Sockets {
    /// Gives back the one that the peer had before.
    pub fn insert(&mut self, conn: ConnId, sock: Sock) -> Option<Sock> {
        let before = self.places.insert(conn, self.came.len());
        self.came.push(Some((conn, sock)));
        before.and_then(|place| self.came[place].take()).map(|(_, sock)| sock)
    }

    pub fn take(&mut self, conn: ConnId) -> Option<Sock> {
        let is_next = matches!(self.came.get(self.next), Some(Some((next, _))) if *next == conn);
        let place = if is_next { self.next } else { *self.places.get(&conn)? };
        self.next = place + 1;
        self.came[place].take().map(|(_, sock)| sock)
    }

    /// Those that nobody took.
    pub fn rest(self) -> impl Iterator<Item = Sock> {
        self.came.into_iter().flatten().map(|(_, sock)| sock)
    }
}

/// A peer that stayed behind, and what it was in.
pub(in crate::shard) struct Leaver {
    pub conn: ConnId,
    pub channels: Vec<ChannelName>,
    pub user: Option<UserName>,
}

impl Handover {
    pub fn is_under_way(&self) -> bool {
        self.stage.is_some()
    }

    /// There are sockets to go ahead, and room for them.
    pub fn has_more_ahead(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| !ahead.done) && self.unsaid.is_empty()
    }

    pub fn is_calm(&self) -> bool {
        matches!(self.stage.as_deref(), Some(HandoverStage::Quieting(quieting)) if quieting.agreement.is_calm())
    }

    /// Where messages of the control plane are kept that are not handled now.
    pub fn kept(&mut self) -> Option<&mut VecDeque<ShardMessage>> {
        match self.stage.as_deref_mut()? {
            HandoverStage::Quieting(quieting) => Some(&mut quieting.kept),
            HandoverStage::Frozen(frozen) => Some(&mut frozen.kept),
            HandoverStage::Adopting(adopting) => Some(&mut adopting.kept),
        }
    }

    pub fn frozen(&mut self) -> Option<&mut Frozen> {
        match self.stage.as_deref_mut() {
            Some(HandoverStage::Frozen(frozen)) => Some(frozen),
            _ => None,
        }
    }

    pub fn adopting(&mut self) -> Option<&mut Adopting> {
        match self.stage.as_deref_mut() {
            Some(HandoverStage::Adopting(adopting)) => Some(adopting),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;

    fn numbered(slot: u32) -> (ConnId, Sock) {
        let sock = Sock { slot, generation: 1 };
        (ConnId::new(ShardId(3), sock), sock)
    }

    #[test]
    fn sockets_are_found_in_any_order_and_once() {
        let mut sockets = Sockets::default();
        for slot in 0..8 {
            assert_eq!(sockets.insert(numbered(slot).0, numbered(slot).1), None);
        }
        for slot in [4, 5, 6, 1, 2, 7] {
            assert_eq!(sockets.take(numbered(slot).0), Some(numbered(slot).1), "{slot}");
            assert_eq!(sockets.take(numbered(slot).0), None, "{slot} again");
        }
        assert_eq!(sockets.take(numbered(9).0), None);
        assert_eq!(sockets.rest().collect::<Vec<_>>(), [numbered(0).1, numbered(3).1]);
    }

    #[test]
    fn a_socket_that_comes_again_gives_back_the_one_before() {
        let mut sockets = Sockets::default();
        let (conn, sock) = numbered(1);
        let later = Sock { slot: 5, generation: 2 };
        assert_eq!(sockets.insert(conn, sock), None);
        assert_eq!(sockets.insert(conn, later), Some(sock));
        assert_eq!(sockets.take(conn), Some(later));
        assert_eq!(sockets.rest().count(), 0);
    }
}
