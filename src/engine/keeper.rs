//! The one task that knows which channels this node follows, who is in them and where their logs stand.
//!
//! Inputs: [`InletEvent`]s, in the order in which they came. Outputs: tasks for servers, messages for shards. It waits for
//! nothing but its inlet, so that requests of one follower about one channel are handled in their order: a channel
//! whose next request waits for a server is [`BusyWith`], and what comes for it waits behind.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use tokio::time::{Instant, timeout};

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, Position, ShardId};
use crate::base::publication::Publication;
use crate::engine::commands::Emulations;
use crate::engine::followed::{BusyWith, Followed, Tail};
use crate::engine::handing::Cut;
use crate::engine::inlet::{Inlet, InletEvent};
use crate::engine::job::{EngineJob, JobTarget, LogEntries, LogRead, LogTerms, Task, Then};
use crate::engine::limits::{KEY_BYTES_MAX, POST_RETRY, TAILS_BYTES_MAX, TICK};
use crate::engine::link::{EngineLink, LinkChange};
use crate::engine::nats::is_subject;
use crate::engine::nodes::Nodes;
use crate::engine::posts::Posts;
use crate::engine::redis::layout::server_of;
use crate::engine::shared::{Limits, Shared};
use crate::hub::ChannelOptions;
use crate::hub::requests::{Acked, HistoryRequest, PublishRequest, Read, ReadAnswer};
use crate::proto::centrifuge::shared::SharedPublication;
use crate::shard::control_request::{ChannelCount, ControlReply, ControlRequest, PageQuery};
use crate::shard::owner::{FromOwner, OwnerAnswer, OwnerRequest, ReadBy};

pub struct EngineKeeper {
    pub(super) shared: Arc<Shared>,
    pub(super) inlet: Arc<Inlet>,
    pub(super) links: Vec<Arc<EngineLink>>,
    pub(super) posts: Posts,
    pub(super) limits: Limits,
    pub(super) channels: HashMap<ChannelName, Followed, RandomState>,
    /// By the number of the subscribe.
    pub(super) subscribing: HashMap<u64, ChannelName>,
    pub(super) subscribes: u64,
    /// Payload in all tails.
    pub(super) tails_bytes: usize,
    /// Channels whose position is to be checked.
    /// Bound: one for each channel followed.
    pub(super) to_check: VecDeque<ChannelName>,
    pub(super) checking: usize,
    /// Channels whose members are to be named again in this round.
    /// Bound: one for each channel with members that are listed.
    pub(super) to_refresh: VecDeque<ChannelName>,
    pub(super) refresh_at: Instant,
    pub(super) refresh_each_tick: usize,
    pub(super) tick_at: Instant,
    pub(super) nodes: Nodes,
    pub(super) emulations: Emulations,
    /// In an upgrade.
    pub(super) cut: Option<Box<Cut>>,
}

impl EngineKeeper {
    pub fn new(
        shared: Arc<Shared>,
        inlet: Arc<Inlet>,
        links: Vec<Arc<EngineLink>>,
        posts: Posts,
        limits: Limits,
        nodes: Nodes,
    ) -> EngineKeeper {
        let now = Instant::now();
        EngineKeeper {
            shared,
            inlet,
            links,
            posts,
            limits,
            channels: HashMap::with_hasher(RandomState::new()),
            subscribing: HashMap::new(),
            subscribes: 0,
            tails_bytes: 0,
            to_check: VecDeque::new(),
            checking: 0,
            to_refresh: VecDeque::new(),
            refresh_at: now,
            refresh_each_tick: 0,
            tick_at: now,
            nodes,
            emulations: Emulations::default(),
            cut: None,
        }
    }

    /// For the life of the process.
    pub async fn run(mut self) {
        loop {
            let waits = self.posts.retry();
            self.step_cut(waits);
            if Instant::now() >= self.tick_at {
                self.tick_at = Instant::now() + TICK;
                self.handle_tick();
            }
            // A burst of events does not keep posts and time waiting.
            let mut left = 1024;
            while left > 0
                && let Some(event) = self.inlet.pop()
            {
                left -= 1;
                self.handle(event);
            }
            self.check_next();
            if left > 0 {
                let pause = if waits { POST_RETRY } else { self.tick_at.duration_since(Instant::now()) };
                let _ = timeout(pause, self.inlet.filled()).await;
            }
        }
    }

    pub(super) fn handle(&mut self, event: InletEvent) {
        match event {
            InletEvent::Request(request) => self.handle_request(request),
            InletEvent::Ask(ask) => self.handle_control_request(ask),
            InletEvent::Up(link) => self.handle_up(link),
            InletEvent::Down(link) => self.handle_down(link),
            InletEvent::Message(incoming) => {
                if self.cut.is_none() {
                    self.handle_incoming(incoming);
                } else if let Some(incoming) = self.passes(incoming) {
                    self.handle_incoming(incoming);
                }
            }
            InletEvent::PassOn(commands) => self.pass_on(commands),
            InletEvent::PassedOn(node, number, outcome) => self.passed_on(node, number, outcome),
            InletEvent::Handing(handing) => self.handle_handing(handing),
            InletEvent::Subscribed(numbers) => self.handle_subscribed(&numbers),
            InletEvent::Finished(then, outcome) => {
                self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
                self.handle_finished(then, outcome);
            }
            InletEvent::Tell(word) => self.tell(word, None),
            InletEvent::TellNode(word, node) => self.tell(word, Some(node)),
        }
    }

    // --- requests

    fn handle_request(&mut self, request: OwnerRequest) {
        if let Some(followed) = self.channels.get_mut(request.channel())
            && (followed.busy != BusyWith::No || !followed.waiting.is_empty())
        {
            followed.waiting.push_back(request);
            return;
        }
        self.begin(request);
    }

    /// What waited for a channel goes on.
    pub(super) fn go_on(&mut self, channel: &str) {
        while let Some(followed) = self.channels.get_mut(channel)
            && followed.busy == BusyWith::No
            && let Some(request) = followed.waiting.pop_front()
        {
            self.begin(request);
        }
        self.forget_if_unused(channel);
    }

    fn begin(&mut self, request: OwnerRequest) {
        match request {
            OwnerRequest::Join { ask, tag } => self.begin_join(ask, tag),
            OwnerRequest::Leave { channel, conn } => {
                self.leave(&channel, conn);
                self.forget_if_unused(&channel);
            }
            OwnerRequest::Renew { channel, conn, info } => self.renew(&channel, conn, info),
            OwnerRequest::Publish { conn, id, ask, receipt: false } => {
                self.publish(ask, JobTarget::Connection(conn, id));
            }
            OwnerRequest::Publish { conn, id, ask, receipt: true } => {
                self.publish(ask, JobTarget::Receipt(conn, id))
            }
            // Value channels are refused with an engine.
            OwnerRequest::Occupancy { .. } => {}
            OwnerRequest::History { conn, id, ask } => self.history(ask, JobTarget::Connection(conn, id)),
            OwnerRequest::Read { by, read } => self.read(by, read),
            // The configuration has no cursors with an engine.
            OwnerRequest::Ack { ask, done } => {
                if let Some(outcomes) = done.answered(Acked::refused(&ask, ErrorCode::NotAvailable)) {
                    let (conn, id) = (done.conn, done.id);
                    self.posts.answer(OwnerAnswer::Acked { conn, id, outcomes });
                }
            }
            OwnerRequest::Presence { conn, id, channel } => {
                match self.listing(&channel) {
                    Ok(()) => self.do_at(
                        &channel.clone(),
                        Task::Presence(channel),
                        Then::Presence(JobTarget::Connection(conn, id)),
                    ),
                    Err(error_code) => self.answer_presence(JobTarget::Connection(conn, id), Err(error_code)),
                };
            }
            OwnerRequest::PresenceStats { conn, id, channel } => {
                match self.listing(&channel) {
                    Ok(()) => self.do_at(
                        &channel.clone(),
                        Task::Presence(channel),
                        Then::PresenceStats(JobTarget::Connection(conn, id)),
                    ),
                    Err(error_code) => self.answer_stats(JobTarget::Connection(conn, id), Err(error_code)),
                };
            }
        }
    }

    fn handle_control_request(&mut self, ask: ControlRequest) {
        match ask {
            ControlRequest::Publish(ask, reply) => self.publish(ask, JobTarget::Control(reply)),
            ControlRequest::History(ask, reply) => self.history(ask, JobTarget::Control(reply)),
            ControlRequest::HistoryRemove(channel, reply) => match self.logged(&channel) {
                Ok(_) => {
                    if let Some(tail) =
                        self.channels.get_mut(&channel).and_then(|followed| followed.log.as_mut())
                    {
                        self.tails_bytes -= tail.bytes();
                        tail.clear();
                    }
                    self.do_at(&channel.clone(), Task::HistoryRemove(channel), Then::HistoryRemove(reply));
                }
                Err(error_code) => reply.send(Err(error_code)),
            },
            ControlRequest::Presence(channel, reply) => match self.listing(&channel) {
                Ok(()) => self.do_at(
                    &channel.clone(),
                    Task::Presence(channel),
                    Then::Presence(JobTarget::Control(reply)),
                ),
                Err(error_code) => reply.send(Err(error_code)),
            },
            ControlRequest::PresencePage(query, reply) => {
                let PageQuery { channel, after, limit } = query;
                // The server gives its members in no order: all of them are read for a page.
                let page = ControlReply::new(move |roster: Result<Arc<crate::hub::Roster>, ErrorCode>| {
                    reply.send(roster.map(|roster| roster.page(&after, limit)));
                });
                self.handle_control_request(ControlRequest::Presence(channel, page));
            }
            ControlRequest::Cursors(ask) => ask.refuse(ErrorCode::NotAvailable),
            ControlRequest::PresenceStats(channel, reply) => match self.listing(&channel) {
                Ok(()) => {
                    self.do_at(
                        &channel.clone(),
                        Task::Presence(channel),
                        Then::PresenceStats(JobTarget::Control(reply)),
                    );
                }
                Err(error_code) => reply.send(Err(error_code)),
            },
            ControlRequest::Channels(filter, reply) => {
                let all = self
                    .channels
                    .iter()
                    .filter(|(name, followed)| !followed.members.is_empty() && (filter.0)(name));
                let counts = all.map(|(name, followed)| ChannelCount {
                    channel: name.clone(),
                    clients: followed.members.len() as u32,
                });
                reply.send(Ok(counts.collect()));
            }
            // Dropped unanswered, it answers for itself.
            _ => {}
        }
    }

    pub(super) fn options(&self, channel: &str) -> Result<Arc<ChannelOptions>, ErrorCode> {
        if self.limits.subjects && !is_subject(channel) {
            return Err(ErrorCode::BadRequest);
        }
        self.shared.namespaces.read().resolve(channel).cloned()
    }

    fn logged(&self, channel: &str) -> Result<LogTerms, ErrorCode> {
        let options = self.options(channel)?;
        if options.keeps_history() { Ok(terms(&options)) } else { Err(ErrorCode::NotAvailable) }
    }

    fn listing(&self, channel: &str) -> Result<(), ErrorCode> {
        if self.options(channel)?.presence { Ok(()) } else { Err(ErrorCode::NotAvailable) }
    }

    pub(super) fn link_of(&self, channel: &str) -> usize {
        server_of(channel, self.links.len())
    }

    pub(super) fn count_job(&self) {
        self.shared.under_way.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn do_at(&mut self, channel: &str, what: Task, then: Then) {
        let link = &self.links[self.link_of(channel)];
        let may_be_refused = !matches!(then, Then::Nobody | Then::Join(_) | Then::Check(..));
        if !link.is_up() {
            return self.handle_finished(then, Err(crate::engine::job::EngineFault::Away));
        }
        if may_be_refused && link.is_full() {
            return self.refuse(then, ErrorCode::TooManyRequests);
        }
        self.count_job();
        link.push(EngineJob { what, then });
    }

    // --- publishing

    fn publish(&mut self, mut ask: PublishRequest, to: JobTarget<Position>) {
        let options = match self.options(&ask.channel) {
            Ok(options) => options,
            Err(error_code) => return self.answer_publish(to, Err(error_code)),
        };
        if let Err(error_code) = options.admit(&mut ask.data, ask.contents) {
            return self.answer_publish(to, Err(error_code));
        }
        // The messages of nodes have no place for it, and nodes of other kinds would deliver it to those.
        if ask.except.is_some() {
            return self.answer_publish(to, Err(ErrorCode::NotAvailable));
        }
        let too_long = |text: &Option<Box<str>>| text.as_ref().is_some_and(|text| text.len() > KEY_BYTES_MAX);
        if too_long(&ask.idempotency_key) || too_long(&ask.version_epoch) {
            return self.answer_publish(to, Err(ErrorCode::BadRequest));
        }
        let log = (options.keeps_history() && !ask.skip_history).then(|| terms(&options));
        let publication = SharedPublication {
            data: ask.data,
            info: ask.info,
            offset: 0,
            tags: ask.tags,
            time_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        };
        let what = Task::Publish {
            channel: ask.channel.clone(),
            publication: Box::new(publication),
            log,
            key: ask.idempotency_key,
            version: ask.version,
            version_epoch: ask.version_epoch.unwrap_or_default(),
        };
        self.do_at(&ask.channel, what, Then::Publish(to, Instant::now()));
    }

    pub(super) fn answer_publish(&mut self, to: JobTarget<Position>, outcome: Result<Position, ErrorCode>) {
        match to {
            JobTarget::Connection(conn, id) => {
                self.posts.answer(OwnerAnswer::Published { conn, id, outcome, receipt: false });
            }
            JobTarget::Receipt(conn, id) => {
                self.posts.answer(OwnerAnswer::Published { conn, id, outcome, receipt: true });
            }
            JobTarget::Control(reply) => reply.send(outcome),
        }
    }

    // --- reading

    fn history(&mut self, ask: HistoryRequest, to: JobTarget<crate::hub::requests::History>) {
        let terms = match self.logged(&ask.channel) {
            Ok(terms) => terms,
            Err(error_code) => return self.answer_history(to, Err(error_code)),
        };
        let before_first = ask.reverse && ask.since.is_some_and(|since| since.offset == Offset(0));
        if before_first || ask.since.is_some() && ask.since_ms.is_some() {
            return self.answer_history(to, Err(ErrorCode::BadRequest));
        }
        // The server knows entries by their offsets alone: what is not read in one piece cannot be searched for a time.
        if ask.since_ms.is_some() && terms.size > self.limits.history_read_max {
            return self.answer_history(to, Err(ErrorCode::NotAvailable));
        }
        let limit = ask.limit.unwrap_or(usize::MAX).min(self.limits.history_read_max);
        if ask.since_ms.is_some() && limit > 0 {
            let entries = Some(LogEntries { from: 0, limit: self.limits.history_read_max, backwards: true });
            let read = LogRead { channel: ask.channel.clone(), entries, terms };
            return self.do_at(&ask.channel.clone(), Task::History(read), Then::History(ask, to));
        }
        let from = match (ask.since, ask.reverse) {
            (None, _) => 0,
            (Some(since), false) => since.offset.0.saturating_add(1),
            (Some(since), true) => since.offset.0 - 1,
        };
        // Nothing is before the first.
        let none = limit == 0 || (ask.reverse && ask.since.is_some() && from == 0);
        let entries = (!none).then_some(LogEntries { from, limit, backwards: ask.reverse });
        let read = LogRead { channel: ask.channel.clone(), entries, terms };
        self.do_at(&ask.channel.clone(), Task::History(read), Then::History(ask, to));
    }

    pub(super) fn answer_history(
        &mut self,
        to: JobTarget<crate::hub::requests::History>,
        outcome: Result<crate::hub::requests::History, ErrorCode>,
    ) {
        match to {
            JobTarget::Connection(conn, id) | JobTarget::Receipt(conn, id) => {
                self.posts.answer(OwnerAnswer::History { conn, id, outcome });
            }
            JobTarget::Control(reply) => reply.send(outcome),
        }
    }

    /// What a follower is missing: from what is here, or from the log.
    fn read(&mut self, by: ReadBy, read: Read) {
        let known = self.channels.get(&read.channel).and_then(|followed| followed.log.as_ref());
        if let Some(tail) = known
            && tail.top.epoch == read.after.epoch
            && let Some(publications) = tail.after(read.after.offset)
            && !publications.is_empty()
        {
            let answer = ReadAnswer::page(publications, read.after, tail.top, read.bytes_max);
            return self.posts.answer(OwnerAnswer::Read { by, read, answer });
        }
        let terms = match self.logged(&read.channel) {
            Ok(terms) => terms,
            Err(_) => {
                let answer = ReadAnswer::Lost(Position::UNKNOWN);
                return self.posts.answer(OwnerAnswer::Read { by, read, answer });
            }
        };
        let entries = LogEntries {
            from: read.after.offset.0 + 1,
            limit: crate::engine::limits::READ_ITEMS_MAX,
            backwards: false,
        };
        let task = Task::History(LogRead { channel: read.channel.clone(), entries: Some(entries), terms });
        self.do_at(&read.channel.clone(), task, Then::Read(by, read));
    }

    pub(super) fn forget_if_unused(&mut self, channel: &str) {
        let Some(followed) = self.channels.get(channel) else { return };
        if !followed.members.is_empty() || followed.busy != BusyWith::No || !followed.waiting.is_empty() {
            return;
        }
        let Some((name, followed)) = self.channels.remove_entry(channel) else { return };
        self.tails_bytes -= followed.log.as_ref().map_or(0, Tail::bytes);
        self.subscribing.remove(&followed.subscribe_number);
        if self.links[followed.link].is_up() {
            self.links[followed.link].change(LinkChange::Unsubscribe(name));
        }
    }

    // --- what comes to followers

    /// A publication goes to the shards with subscribers.
    pub(super) fn deliver(&mut self, publication: Publication) {
        let Some(followed) = self.channels.get_mut(&publication.channel) else { return };
        let publication = Arc::new(publication);
        followed.heard = Instant::now();
        if publication.offset() != Offset(0)
            && let Some(tail) = &mut followed.log
        {
            self.tails_bytes -= tail.bytes();
            let alone = self.tails_bytes > TAILS_BYTES_MAX;
            tail.push(&publication, alone);
            self.tails_bytes += tail.bytes();
        }
        for &(shard, _) in followed.interest.as_slice() {
            let item = crate::hub::followed::Item::Publication(Arc::clone(&publication));
            self.posts.post(shard, FromOwner::Item(item));
        }
    }

    /// The log stands elsewhere than its items say.
    pub(super) fn say_where(&mut self, channel: &ChannelName, position: Position) {
        let Some(followed) = self.channels.get_mut(channel) else { return };
        if let Some(tail) = &mut followed.log {
            self.tails_bytes -= tail.bytes();
            *tail = Tail::new(position);
        }
        let shards: Vec<ShardId> = followed.interest.as_slice().iter().map(|&(shard, _)| shard).collect();
        for shard in shards {
            self.posts.post(shard, FromOwner::Stands(Box::new((channel.clone(), position))));
        }
    }

    pub(super) fn answer_presence(
        &mut self,
        to: JobTarget<Arc<crate::hub::Roster>>,
        outcome: Result<Arc<crate::hub::Roster>, ErrorCode>,
    ) {
        match to {
            JobTarget::Connection(conn, id) | JobTarget::Receipt(conn, id) => {
                self.posts.answer(OwnerAnswer::Presence { conn, id, outcome });
            }
            JobTarget::Control(reply) => reply.send(outcome),
        }
    }

    pub(super) fn answer_stats(
        &mut self,
        to: JobTarget<crate::hub::requests::PresenceStats>,
        outcome: Result<crate::hub::requests::PresenceStats, ErrorCode>,
    ) {
        match to {
            JobTarget::Connection(conn, id) | JobTarget::Receipt(conn, id) => {
                self.posts.answer(OwnerAnswer::PresenceStats { conn, id, outcome });
            }
            JobTarget::Control(reply) => reply.send(outcome),
        }
    }

    /// Asks a shard of this node something that nobody waits for.
    pub(super) fn order<T>(&self, shard: ShardId, make: impl FnOnce(ControlReply<T>) -> ControlRequest) {
        let _ = self.posts.router().ask(shard, make(ControlReply::new(|_| ())));
    }
}

pub(super) fn terms(options: &ChannelOptions) -> LogTerms {
    LogTerms {
        size: options.history_size,
        ttl_s: options.history_ttl.as_secs().max(1),
        meta_ttl_s: options.history_meta_ttl.as_secs(),
        payload: options.payload,
    }
}
