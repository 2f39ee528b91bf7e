//! What the keeper is asked in an upgrade, and how far it is: see `handover.rs`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::SyncSender;

use crate::base::ids::{ChannelName, Position};
use crate::engine::message::Incoming;
use crate::record::MembersPart;

/// What the node wants of the keeper.
pub enum Handing {
    /// Old: the names of the channels that are followed.
    Names(SyncSender<Vec<ChannelName>>),
    /// Old: from a mark on nothing is handled. Said when all servers have said it.
    Cut(SyncSender<()>),
    /// Old: everybody who is in a channel.
    Members(SyncSender<Vec<MembersPart>>),
    /// Old: everything stays here.
    GoOn,
    /// Old: the new process serves. Nothing is said to servers or shards any more.
    Leave,
    /// New: channels that will have members. Said when the servers send what is published there.
    Follow(Vec<ChannelName>, SyncSender<()>),
    /// New: where subscribers of a shard stand.
    Stood(ChannelName, Position),
    /// New: some who are in a channel.
    Adopt(MembersPart),
    /// New: this process serves.
    Begin,
}

/// How far a keeper is in an upgrade.
pub struct Cut {
    pub side: Side,
    /// Servers that have said the mark.
    pub marked: Vec<bool>,
    /// What came behind it.
    /// Bound: [`CUT_MESSAGES_MAX`](crate::engine::limits::CUT_MESSAGES_MAX).
    pub kept: VecDeque<Incoming>,
    pub said: Option<SyncSender<()>>,
}

pub enum Side {
    Old,
    /// The old one, when the new one serves.
    Gone,
    New {
        /// Channels that servers do not send yet.
        awaited: HashSet<ChannelName>,
        /// The oldest place at which a shard stands.
        stood: HashMap<ChannelName, Position>,
    },
}
