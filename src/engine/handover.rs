//! The engine's part of an upgrade: who is in which channel goes to the keeper of the next process, and what servers send is
//! handled by one of the two.
//!
//! Both processes hear the same from the servers. The old one has each of them say a mark to this node, which both hear in
//! its place between all other messages: what comes before it is the old process's, what comes behind it the new one's.
//! ```text
//!  old:  names ────────▶ cut: a mark at each server ──▶ what comes behind it waits ──▶ members ──▶ (go on: it is handled)
//!  new:  follow names    what comes before it is dropped, what comes behind it waits ──▶ stood, adopt ──▶ begin: it is handled
//! ```
//! While it is cut nobody joins: a join is answered with a temporary error, so that all shards stand at one place of a log.
//! Logs go on from there: what is between is read.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::ids::{ChannelName, ConnId, Epoch, Position};
use crate::base::publication::Visibility;
use crate::engine::RunningEngine;
use crate::engine::commands::OUTCOME;
use crate::engine::followed::{Followed, Member, Tail};
use crate::engine::handing::{Cut, Handing, Side};
use crate::engine::inlet::InletEvent;
use crate::engine::job::{EngineJob, Task, Then};
use crate::engine::keeper::EngineKeeper;
use crate::engine::limits::CUT_MESSAGES_MAX;
use crate::engine::message::Incoming;
use crate::proto::centrifuge::shared::{NodeMessage, NodeWord, decode_node_message, encode_node_message};
use crate::record::{InfoRecord, MemberRecord, MembersPart, PART_BYTES};
use crate::telemetry::sparing::log_peer_once_a_minute;

/// The mark of one process for its successor, which has its id.
const MARK: &str = "trunkline.mark";
/// What a member costs beside its texts, in bytes, about.
const MEMBER_BYTES: usize = 32;

/// How long a step of the keeper may take: a round trip to a server that has much to do.
const STEP_MAX: Duration = Duration::from_secs(5);

impl EngineKeeper {
    /// It follows the keeper of another process.
    pub fn arriving(mut self) -> EngineKeeper {
        self.cut = Some(Box::new(Cut {
            side: Side::New { awaited: HashSet::new(), stood: HashMap::new() },
            marked: vec![false; self.links.len()],
            kept: VecDeque::new(),
            said: None,
        }));
        self
    }

    /// Whether nobody may join now.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.as_deref().is_some_and(|cut| matches!(cut.side, Side::Old))
    }

    pub(super) fn handle_handing(&mut self, handing: Handing) {
        match handing {
            Handing::Names(reply) => drop(reply.try_send(self.channels.keys().cloned().collect())),
            Handing::Cut(said) => self.begin_cut(said),
            Handing::Members(reply) => drop(reply.try_send(self.members())),
            Handing::GoOn => self.end_cut(),
            Handing::Leave => self.leave_all(),
            Handing::Follow(names, said) => self.follow(names, said),
            Handing::Stood(channel, position) => {
                if let Some(Side::New { stood, .. }) = self.cut.as_deref_mut().map(|cut| &mut cut.side) {
                    let known = stood.entry(channel).or_insert(position);
                    if position.epoch == known.epoch && position.offset < known.offset {
                        *known = position;
                    }
                }
            }
            Handing::Adopt(part) => self.adopt(part),
            Handing::Begin => self.begin_here(),
        }
    }

    /// What is to be handled of what a server sent: all of it, outside of an upgrade.
    pub(super) fn passes(&mut self, incoming: Incoming) -> Option<Incoming> {
        self.cut.as_ref()?;
        let link = match &incoming {
            Incoming::Channel(channel, _) => self.link_of(channel),
            Incoming::Node(message) => match decode_node_message(message) {
                Ok(NodeMessage { uid, what: NodeWord::Notification { op, data } })
                    if uid == self.nodes.uid && op == MARK =>
                {
                    let marked = std::str::from_utf8(&data).ok().and_then(|number| number.parse().ok());
                    self.handle_mark(marked);
                    return None;
                }
                Ok(NodeMessage { what: NodeWord::Node(_) | NodeWord::Shutdown, .. }) => {
                    return Some(incoming);
                }
                // Of what the old process has asked.
                Ok(NodeMessage { what: NodeWord::Notification { op, .. }, .. }) if op == OUTCOME => {
                    return self.is_cut().then_some(incoming);
                }
                // Nodes say commands at the first of their servers that is there.
                _ => 0,
            },
        };
        let cut = self.cut.as_deref_mut()?;
        match (&cut.side, cut.marked.get(link).copied().unwrap_or(true)) {
            (Side::Old, false) => Some(incoming),
            (Side::New { .. }, false) | (Side::Gone, _) => None,
            (_, true) => {
                match cut.kept.len() < CUT_MESSAGES_MAX {
                    true => cut.kept.push_back(incoming),
                    false => log_peer_once_a_minute(
                        "engine_cut",
                        "an upgrade takes so long that messages are dropped: what has an offset is read again",
                        || None,
                    ),
                }
                None
            }
        }
    }

    fn handle_mark(&mut self, link: Option<usize>) {
        let marked = self.cut.as_deref_mut().and_then(|cut| cut.marked.get_mut(link?));
        if let Some(marked) = marked {
            *marked = true;
        }
    }

    /// Whether what was cut is at rest, to be looked at now and then. `waits`: something has no room in an inbox yet.
    pub(super) fn step_cut(&mut self, waits: bool) {
        let under_way = waits || self.checking > 0;
        if let Some(cut) = self.cut.as_deref_mut()
            && matches!(cut.side, Side::Old)
            && !under_way
            && cut.marked.iter().all(|marked| *marked)
            && let Some(said) = cut.said.take()
        {
            let _ = said.try_send(());
        }
    }

    // --- the old process

    fn begin_cut(&mut self, said: SyncSender<()>) {
        let mut marked = Vec::with_capacity(self.links.len());
        for (number, link) in self.links.iter().enumerate() {
            // One that is away sends nothing.
            marked.push(!link.is_up());
            if link.is_up() {
                let data = number.to_string().into_bytes().into();
                let what = NodeWord::Notification { op: MARK.to_owned(), data };
                let mut message = Vec::new();
                encode_node_message(&mut message, &NodeMessage { uid: self.nodes.uid.clone(), what });
                let node = Some(self.nodes.uid.clone());
                self.count_job();
                link.push(EngineJob { what: Task::Say { node, message }, then: Then::Nobody });
            }
        }
        self.cut = Some(Box::new(Cut { side: Side::Old, marked, kept: VecDeque::new(), said: Some(said) }));
    }

    /// It goes on here.
    fn end_cut(&mut self) {
        let Some(cut) = self.cut.take() else { return };
        cut.kept.into_iter().for_each(|incoming| self.handle_incoming(incoming));
    }

    /// Members are the next process's: this one would name again who has left there.
    fn leave_all(&mut self) {
        self.channels.clear();
        self.subscribing.clear();
        self.to_refresh.clear();
        self.to_check.clear();
        if let Some(cut) = self.cut.as_deref_mut() {
            cut.side = Side::Gone;
            cut.kept.clear();
        }
    }

    /// The next process serves.
    pub(super) fn is_gone(&self) -> bool {
        self.cut.as_deref().is_some_and(|cut| matches!(cut.side, Side::Gone))
    }

    fn members(&self) -> Vec<MembersPart> {
        let mut parts = Vec::new();
        for (channel, followed) in &self.channels {
            let (mut bytes, mut members) = (0, Vec::new());
            for (conn, member) in &followed.members {
                let (info, shown) = match member.as_deref() {
                    Some(Member { info, shown }) => (Some(InfoRecord::of(info)), *shown),
                    None => (None, Visibility { listed: false, announced: false }),
                };
                bytes += MEMBER_BYTES + info.as_ref().map_or(0, InfoRecord::weight);
                let Visibility { listed, announced } = shown;
                members.push(MemberRecord { peer: conn.to_bits(), info, listed, announced });
                if bytes > PART_BYTES {
                    bytes = 0;
                    let members = std::mem::take(&mut members);
                    parts.push(MembersPart { members, ..MembersPart::of(channel) });
                }
            }
            if !members.is_empty() {
                parts.push(MembersPart { members, ..MembersPart::of(channel) });
            }
        }
        parts
    }

    // --- the new process

    fn follow(&mut self, names: Vec<ChannelName>, said: SyncSender<()>) {
        for channel in names {
            self.follow_one(&channel);
        }
        let Some(cut) = self.cut.as_deref_mut() else { return };
        cut.said = Some(said);
        self.say_followed();
    }

    /// Follows a channel whose members come later.
    fn follow_one(&mut self, channel: &ChannelName) {
        if self.channels.contains_key(channel) {
            return;
        }
        // One that this configuration does not have stays behind with its subscribers.
        let Ok(options) = self.options(channel) else { return };
        let link = self.link_of(channel);
        self.channels.insert(channel.clone(), Followed::new(link, options));
        if let Some(Side::New { awaited, .. }) = self.cut.as_deref_mut().map(|cut| &mut cut.side) {
            awaited.insert(channel.clone());
        }
        if self.links[link].is_up() {
            self.subscribe(channel);
        }
    }

    /// A server sends what is published there.
    pub(super) fn handle_follows(&mut self, channel: &ChannelName) {
        if let Some(Side::New { awaited, .. }) = self.cut.as_deref_mut().map(|cut| &mut cut.side) {
            awaited.remove(channel);
            self.say_followed();
        }
    }

    fn say_followed(&mut self) {
        if let Some(cut) = self.cut.as_deref_mut()
            && matches!(&cut.side, Side::New { awaited, .. } if awaited.is_empty())
            && let Some(said) = cut.said.take()
        {
            let _ = said.try_send(());
        }
    }

    fn adopt(&mut self, part: MembersPart) {
        let MembersPart { channel, members, .. } = part;
        self.follow_one(&channel);
        let stood = match self.cut.as_deref().map(|cut| &cut.side) {
            Some(Side::New { stood, .. }) => stood.get(&channel).copied(),
            _ => None,
        };
        let shards: Vec<_> =
            members.iter().map(|member| self.posts.peer_shard(ConnId::from_bits(member.peer))).collect();
        let Some(followed) = self.channels.get_mut(&channel) else { return };
        if followed.log.is_none()
            && followed.options.keeps_history()
            && let Some(stood) = stood.filter(|stood| stood.epoch != Epoch::NONE)
        {
            followed.log = Some(Tail::new(stood));
        }
        for (MemberRecord { peer, info, listed, announced }, shard) in members.into_iter().zip(shards) {
            let shown = Visibility { listed, announced };
            let member = info.map(|info| Box::new(Member { info: Arc::new(info.info()), shown }));
            followed.listed += usize::from(listed && member.is_some());
            if followed.members.insert(ConnId::from_bits(peer), member).is_none() {
                followed.interest.add(shard);
            }
        }
    }

    fn begin_here(&mut self) {
        let Some(cut) = self.cut.take() else { return };
        cut.kept.into_iter().for_each(|incoming| self.handle_incoming(incoming));
        let names: Vec<ChannelName> = self.channels.keys().cloned().collect();
        for channel in names {
            // Whoever was there has left meanwhile.
            self.forget_if_unused(&channel);
            if self
                .channels
                .get(&channel)
                .is_some_and(|followed| followed.subscribed && followed.log.is_some())
            {
                self.to_check.push_back(channel);
            }
        }
        // Members are named by this process now.
        self.refresh_at = Instant::now();
    }
}

/// One side of an upgrade, for the node. Each step waits for the keeper.
impl RunningEngine {
    /// Channels that are followed now.
    ///
    /// # Errors
    /// The keeper does not answer in time.
    pub fn names(&self) -> Result<Vec<ChannelName>, &'static str> {
        self.step(Handing::Names)
    }

    /// From here on the next process handles what servers send.
    ///
    /// # Errors
    /// A server does not answer in time.
    pub fn cut(&self) -> Result<(), &'static str> {
        self.step(Handing::Cut)
    }

    /// Who is in which channel.
    ///
    /// # Errors
    /// As [`RunningEngine::names`].
    pub fn members(&self) -> Result<Vec<MembersPart>, &'static str> {
        self.step(Handing::Members)
    }

    /// The next process serves.
    pub fn leave(&self) {
        self.inlet.push(InletEvent::Handing(Handing::Leave));
    }

    /// The next process does not come.
    pub fn go_on(&self) {
        self.inlet.push(InletEvent::Handing(Handing::GoOn));
    }

    /// Servers send what is published in these channels when this returns.
    ///
    /// # Errors
    /// As [`RunningEngine::cut`].
    pub fn follow(&self, names: Vec<ChannelName>) -> Result<(), &'static str> {
        self.step(|said| Handing::Follow(names, said))
    }

    /// Subscribers of a shard stand there in a channel's log.
    pub fn stood(&self, channel: ChannelName, position: Position) {
        self.inlet.push(InletEvent::Handing(Handing::Stood(channel, position)));
    }

    pub fn adopt(&self, part: MembersPart) {
        self.inlet.push(InletEvent::Handing(Handing::Adopt(part)));
    }

    /// This process serves.
    pub fn begin(&self) {
        self.inlet.push(InletEvent::Handing(Handing::Begin));
    }

    fn step<T>(&self, make: impl FnOnce(SyncSender<T>) -> Handing) -> Result<T, &'static str> {
        let (said, heard) = std::sync::mpsc::sync_channel(1);
        self.inlet.push(InletEvent::Handing(make(said)));
        heard.recv_timeout(STEP_MAX).map_err(|_| "the engine does not answer")
    }
}
