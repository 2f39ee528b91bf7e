//! What the node and its shards say to each other in an upgrade.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use crate::base::ids::{ListenerId, ShardId};

/// What the node wants of a shard.
#[derive(Debug)]
pub enum Order {
    /// Of the old process, while it serves: [`Said::Listeners`] follows.
    Listeners(Outlet),
    /// Of all shards of the old process, while they serve: sockets go ahead, as [`Said::Parcels`] of
    /// [`ParcelKind::Socket`], and [`Said::Ahead`] when they all have gone. Those that are closed behind that are said as well,
    /// until `Begin` or `Abort`.
    Ahead(Outlet),
    /// Of all shards of the old process, with clones of one outlet: [`Said::Parcels`] follow and [`Said::Done`], or
    /// [`Said::Failed`]. Each attempt has a number that is greater than those before.
    Begin { outlet: Outlet, attempt: u32 },
    /// At any time after `Ahead` or `Begin` and before `Commit`: everything goes on here. [`Said::Aborted`] follows.
    Abort,
    /// The new process serves. What was moved is forgotten, what was not is closed, and the shard ends.
    Commit,
    /// Of the new process: parts of what its shard will hold.
    Adopt(Vec<Parcel>, Afloat),
    /// After the last `Adopt`: [`Said::Armed`] follows, or [`Said::Failed`] with the first of what went wrong.
    Arm(Outlet),
    /// The old process has stopped for good. The shard serves from now on, and [`Said::Settled`] follows when it reads from
    /// everybody.
    Resume(Outlet),
}

/// Descriptors on their way to a shard, which count against the process's limit of open files until its driver has them.
#[derive(Debug, Default)]
pub struct Afloat(Option<(Arc<AtomicUsize>, usize)>);

impl Afloat {
    /// Counts that many in `total`, until this is dropped.
    pub fn new(total: &Arc<AtomicUsize>, count: usize) -> Afloat {
        total.fetch_add(count, Ordering::Relaxed);
        Afloat(Some((Arc::clone(total), count)))
    }
}

impl Drop for Afloat {
    fn drop(&mut self) {
        if let Some((total, count)) = &self.0 {
            total.fetch_sub(*count, Ordering::Relaxed);
        }
    }
}

/// Where a shard says what comes of an order. When there is no room it tries again in its next tick; when nobody listens
/// any more, it takes that for an abort.
pub type Outlet = SyncSender<(ShardId, Said)>;

#[derive(Debug)]
pub enum Said {
    /// A second descriptor of each socket that listens.
    Listeners(Vec<(ListenerId, OwnedFd)>),
    /// Those of one step. Bound: 128 of connections, or what 64 channels or users have.
    Parcels(Vec<Parcel>),
    /// All sockets have gone ahead.
    Ahead,
    /// There are no more parcels.
    Done(Counts),
    /// Nothing is lost: the order is to be aborted.
    Failed(String),
    Aborted,
    Armed(Counts),
    /// Nothing of the move is left to be done.
    Settled,
}

/// Records, one behind the other, and the socket that they are of.
#[derive(Debug)]
pub struct Parcel {
    pub kind: ParcelKind,
    pub record: Vec<u8>,
    pub fd: Option<OwnedFd>,
}

impl Parcel {
    /// The same for one shard more. Only of one without a socket.
    pub fn duplicate(&self) -> Parcel {
        debug_assert!(self.fd.is_none(), "a socket goes to one shard");
        Parcel { kind: self.kind, record: self.record.clone(), fd: None }
    }
}

/// What is in a parcel. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ParcelKind {
    /// The shard itself: the first of its parcels.
    Shard = 1,
    /// What subscribers of the shard follow, before those.
    Stream = 2,
    /// One participant, with its socket if it has one.
    Peer = 3,
    /// A part of a channel of its owner; parts of one channel come in order.
    Channel = 4,
    /// Idempotency keys of channels that came before.
    Keys = 5,
    User = 6,
    /// The socket of a participant that is still served: its number alone.
    Socket = 7,
    /// That socket was closed.
    Closed = 8,
    /// Participants whose sockets have gone ahead, which all go to one shard.
    Seated = 9,
}

impl ParcelKind {
    pub const ALL: [ParcelKind; 9] = [
        ParcelKind::Shard,
        ParcelKind::Stream,
        ParcelKind::Peer,
        ParcelKind::Channel,
        ParcelKind::Keys,
        ParcelKind::User,
        ParcelKind::Socket,
        ParcelKind::Closed,
        ParcelKind::Seated,
    ];

    pub fn from_number(number: u8) -> Option<ParcelKind> {
        ParcelKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// How much was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub peers: u64,
    pub channels: u64,
    pub users: u64,
    /// Connections that cannot be moved in the state in which they are. The old process closes them at the commit.
    pub left_behind: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        let Counts { peers, channels, users, left_behind } = other;
        self.peers += peers;
        self.channels += channels;
        self.users += users;
        self.left_behind += left_behind;
    }
}
