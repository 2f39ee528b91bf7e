//! What becomes of requests when their server has answered, and of channels when a server comes or goes.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Epoch, Offset, Position};
use crate::base::publication::{ClientInfo, Encoded, Missed, PayloadForm, Publications};
use crate::engine::followed::{BusyWith, goes_on};
use crate::engine::inlet::Incoming;
use crate::engine::job::{Done, EngineFault, LogEntries, LogRead, Task, Then};
use crate::engine::keeper::{EngineKeeper, terms};
use crate::engine::limits::{CHECK_AFTER, CHECKS_MAX, PRESENCE_EVERY, READ_ITEMS_MAX, TICK};
use crate::engine::redis::layout::RedisMessage;
use crate::hub::followed::Item;
use crate::hub::requests::{
    History, HistoryRequest, JoinLeaveEvent, JoinRequest, PresenceStats, ReadAnswer, SinceEpoch,
};
use crate::hub::{RecoveryMode, Roster};
use crate::shard::owner::{FromOwner, JoinTag, OwnerAnswer};

impl EngineKeeper {
    pub(super) fn handle_finished(&mut self, then: Then, outcome: Result<Done, EngineFault>) {
        match (then, outcome) {
            (Then::Nobody, _) => {}
            (Then::Publish(to, since), Ok(Done::Published(position))) => {
                self.shared.publishes.lock().record(since.elapsed());
                self.answer_publish(to, Ok(position));
            }
            (Then::Join(join), Ok(Done::Log(read, position))) => {
                let (ask, tag) = *join;
                self.handle_join_read(ask, tag, read, position);
            }
            (Then::Read(by, read), Ok(Done::Log(publications, position))) => {
                let answer = match position.epoch == read.after.epoch && position.offset >= read.after.offset
                {
                    true => match publications.is_empty() && position.offset > read.after.offset {
                        true => ReadAnswer::Lost(position),
                        false => ReadAnswer::page(publications, read.after, position, read.bytes_max),
                    },
                    false => ReadAnswer::Lost(position),
                };
                self.posts.answer(OwnerAnswer::Read { by, read, answer });
            }
            (Then::History(ask, to), Ok(Done::Log(publications, position))) => {
                let publications = from_time(publications, &ask);
                let same = ask.since.is_none_or(|since| since.epoch.matches(position.epoch));
                let payload = self.options(&ask.channel).map_or(PayloadForm::Json, |options| options.payload);
                let history = History { publications, position, payload };
                self.answer_history(
                    to,
                    if same { Ok(history) } else { Err(ErrorCode::UnrecoverablePosition) },
                );
            }
            (Then::HistoryRemove(reply), Ok(_)) => reply.send(Ok(())),
            (Then::Presence(to), Ok(Done::Members(infos))) => {
                self.answer_presence(to, Ok(Arc::new(Roster { infos, encoded: Encoded::default() })));
            }
            (Then::PresenceStats(to), Ok(Done::Members(infos))) => {
                let users: HashSet<&str> = infos.iter().map(|info| &*info.user).collect();
                let stats = PresenceStats { clients: infos.len() as u32, users: users.len() as u32 };
                self.answer_stats(to, Ok(stats));
            }
            (Then::Check(channel, stood), outcome) => {
                self.checking -= 1;
                if let Some(followed) = self.channels.get_mut(&channel) {
                    followed.checking = false;
                }
                if let Ok(Done::Log(publications, position)) = outcome {
                    self.handle_checked(&channel, stood, publications, position);
                }
            }
            (then, Ok(_)) => self.refuse(then, ErrorCode::Internal),
            (then, Err(fault)) => {
                // Who waits for nothing must not make an engine look fast that is away.
                if let (Then::Publish(_, since), EngineFault::Away) = (&then, &fault) {
                    self.shared.publishes.lock().record(since.elapsed().max(self.shared.timeout));
                }
                self.refuse(then, fault.error_code());
            }
        }
    }

    /// Nothing came of a request.
    pub(super) fn refuse(&mut self, then: Then, error_code: ErrorCode) {
        match then {
            Then::Nobody | Then::Check(..) => {}
            Then::Publish(to, _) => self.answer_publish(to, Err(error_code)),
            Then::Join(join) => {
                let (ask, tag) = *join;
                let channel = ask.channel.clone();
                self.answer_join(ask, tag, Err(error_code));
                self.set_free(&channel);
            }
            Then::Read(by, read) => {
                let answer = ReadAnswer::Unavailable;
                self.posts.answer(OwnerAnswer::Read { by, read, answer });
            }
            Then::History(_, to) => self.answer_history(to, Err(error_code)),
            Then::HistoryRemove(reply) => reply.send(Err(error_code)),
            Then::Presence(to) => self.answer_presence(to, Err(error_code)),
            Then::PresenceStats(to) => self.answer_stats(to, Err(error_code)),
        }
    }

    fn set_free(&mut self, channel: &str) {
        if let Some(followed) = self.channels.get_mut(channel)
            && followed.busy == BusyWith::Reading
        {
            followed.busy = BusyWith::No;
        }
        self.go_on(channel);
    }

    fn handle_join_read(
        &mut self,
        ask: JoinRequest,
        tag: JoinTag,
        mut read: Publications,
        position: Position,
    ) {
        let channel = ask.channel.clone();
        let recovery_max = self.limits.recovery_max;
        let Some(followed) = self.channels.get_mut(&channel) else { return };
        let rewinds = ask.recover.is_some_and(|since| since.is_rewind());
        let cache = followed.options.recovery_mode == RecoveryMode::Cache && !rewinds;
        if rewinds {
            // It was read from the newest back.
            read.reverse();
        }
        let mut top = position;
        let missed = ask.recover.map(|since| {
            if let SinceEpoch::Newest { from_ms, .. } = since.epoch {
                return Some(
                    read.iter().skip_while(|publication| publication.time_ms < from_ms).cloned().collect(),
                );
            }
            if cache {
                return (!read.is_empty()).then(|| read.clone());
            }
            let same = match since.epoch {
                SinceEpoch::Foreign => false,
                epoch => epoch.matches(position.epoch),
            };
            let reaches = match read.last() {
                Some(newest) => newest.offset() == position.offset,
                None => since.offset == position.offset,
            };
            let whole = same && reaches && read.len() <= recovery_max && goes_on(&read, since.offset);
            whole.then(|| read.clone())
        });
        let mut missed = missed.map_or(Missed::NotAsked, Missed::of);
        // What has come through Pub/Sub meanwhile is behind what was read: shards that follow have had it.
        if let Some(tail) = &mut followed.log
            && tail.top.epoch == position.epoch
        {
            let is_whole =
                !rewinds || goes_on(&read, Offset(position.offset.0.saturating_sub(read.len() as u64)));
            if !cache
                && is_whole
                && let Missed::Given(_) = &missed
            {
                self.tails_bytes -= tail.bytes();
                tail.extend_back(&read, position);
                self.tails_bytes += tail.bytes();
            }
            if tail.top.offset > position.offset {
                let newer = tail.after(position.offset);
                match (&mut missed, newer) {
                    (Missed::Given(known), Some(newer)) if !cache => {
                        known.extend(newer);
                        top = tail.top;
                    }
                    (Missed::Given(known), Some(newer)) => {
                        *known = newer.last().cloned().into_iter().collect();
                        top = tail.top;
                    }
                    (Missed::NotAsked | Missed::Lost, _) => top = tail.top,
                    // It hears of a hole, and reads.
                    (Missed::Given(_), None) => {}
                }
            }
        } else if followed.log.is_some() && !followed.members.is_empty() {
            // The log is another one than those here follow.
            self.say_where(&channel, position);
        }
        let fresh = self.channels.get(&channel).is_some_and(|followed| followed.log.is_none());
        self.finish_join(ask, tag, (top, missed));
        if fresh
            && !cache
            && let Some(tail) = self.channels.get_mut(&channel).and_then(|followed| followed.log.as_mut())
            && goes_on(&read, Offset(position.offset.0.saturating_sub(read.len() as u64)))
        {
            tail.extend_back(&read, position);
            self.tails_bytes += tail.bytes();
        }
        self.set_free(&channel);
    }

    // --- servers that come and go

    pub(super) fn handle_up(&mut self, link: usize) {
        let channels: Vec<ChannelName> = self
            .channels
            .iter()
            .filter(|(_, followed)| followed.link == link)
            .map(|(name, _)| name.clone())
            .collect();
        for channel in &channels {
            if let Some(followed) = self.channels.get_mut(channel) {
                followed.subscribed = false;
            }
            self.subscribe(channel);
        }
        // Members are named again at once: the server may have forgotten all.
        self.refresh_at = Instant::now();
        self.nodes.hurry();
    }

    pub(super) fn handle_down(&mut self, link: usize) {
        let mut waiting = Vec::new();
        for (name, followed) in self.channels.iter_mut().filter(|(_, followed)| followed.link == link) {
            followed.subscribed = false;
            self.subscribing.remove(&followed.subscribe_number);
            if followed.busy == BusyWith::Subscribing {
                followed.busy = BusyWith::No;
                waiting.push(name.clone());
            }
        }
        // Joins that waited for it are answered: it is away.
        waiting.iter().for_each(|channel| self.go_on(channel));
    }

    pub(super) fn handle_subscribed(&mut self, numbers: &[u64]) {
        for number in numbers {
            let Some(channel) = self.subscribing.remove(number) else { continue };
            let Some(followed) = self.channels.get_mut(&channel) else { continue };
            if followed.subscribe_number != *number {
                continue;
            }
            followed.subscribed = true;
            self.handle_follows(&channel);
            let Some(followed) = self.channels.get_mut(&channel) else { continue };
            if followed.log.is_some() {
                self.to_check.push_back(channel.clone());
            }
            if followed.busy == BusyWith::Subscribing {
                followed.busy = BusyWith::No;
                self.go_on(&channel);
            }
        }
    }

    // --- positions

    /// Some channels at a time: what they have missed is read, and what is lost is said.
    pub(super) fn check_next(&mut self) {
        while self.checking < CHECKS_MAX
            && self.cut.is_none()
            && let Some(channel) = self.to_check.pop_front()
        {
            let link = self.link_of(&channel);
            let Some(followed) = self.channels.get_mut(&channel) else { continue };
            let Some(stood) = followed.log.as_ref().map(|tail| tail.top) else { continue };
            if followed.checking || !followed.subscribed || !self.links[link].is_up() {
                continue;
            }
            followed.checking = true;
            followed.heard = Instant::now();
            let entries = LogEntries { from: stood.offset.0 + 1, limit: READ_ITEMS_MAX, backwards: false };
            let terms = terms(&followed.options);
            let task = Task::History(LogRead { channel: channel.clone(), entries: Some(entries), terms });
            self.checking += 1;
            self.do_at(&channel.clone(), task, Then::Check(channel, stood));
        }
    }

    fn handle_checked(
        &mut self,
        channel: &ChannelName,
        stood: Position,
        read: Publications,
        position: Position,
    ) {
        let Some(stands) = self.channels.get(channel).and_then(|followed| Some(followed.log.as_ref()?.top))
        else {
            return;
        };
        if position.epoch != stands.epoch || position.offset < stood.offset {
            return self.say_where(channel, position);
        }
        if position.offset <= stands.offset {
            return;
        }
        if read.is_empty() || !goes_on(&read, stood.offset) {
            return self.say_where(channel, position);
        }
        let newest = read.last().map_or(stood.offset, |newest| newest.offset());
        for publication in read {
            self.hand_over(channel, publication);
        }
        if newest < position.offset {
            self.to_check.push_back(channel.clone());
        }
    }

    /// As [`EngineKeeper::deliver`], of one that is shared already.
    fn hand_over(&mut self, channel: &ChannelName, publication: Arc<crate::base::publication::Publication>) {
        let Some(followed) = self.channels.get_mut(channel) else { return };
        if let Some(tail) = &mut followed.log {
            self.tails_bytes -= tail.bytes();
            tail.push(&publication, false);
            self.tails_bytes += tail.bytes();
        }
        for &(shard, _) in followed.interest.as_slice() {
            self.posts.post(shard, FromOwner::Item(Item::Publication(Arc::clone(&publication))));
        }
    }

    // --- messages

    pub(super) fn handle_incoming(&mut self, incoming: Incoming) {
        let (channel, message) = match incoming {
            Incoming::Node(message) => return self.handle_node(&message),
            Incoming::Channel(channel, message) => (channel, message),
        };
        let Some((name, followed)) = self.channels.get_key_value(channel.as_str()) else { return };
        let name = name.clone();
        match message {
            RedisMessage::Publication(position, shared) => {
                let epoch = followed.log.as_ref().map_or(Epoch::NONE, |tail| tail.top.epoch);
                let position = position.unwrap_or(Position { offset: Offset(0), epoch });
                let publication =
                    crate::engine::redis::publication(&name, followed.options.payload, position, shared);
                self.deliver(publication);
            }
            RedisMessage::Join(info) => self.announce(&name, true, info),
            RedisMessage::Leave(info) => self.announce(&name, false, info),
        }
    }

    fn announce(&mut self, channel: &ChannelName, joined: bool, info: ClientInfo) {
        let Some(followed) = self.channels.get(channel) else { return };
        let info = Arc::new(info);
        let event =
            Arc::new(JoinLeaveEvent { channel: channel.clone(), joined, info, encoded: Encoded::default() });
        for &(shard, _) in followed.interest.as_slice() {
            self.posts.post(shard, FromOwner::Item(Item::JoinLeaveEvent(Arc::clone(&event))));
        }
    }

    // --- time

    pub(super) fn handle_tick(&mut self) {
        if self.is_gone() {
            return;
        }
        let now = Instant::now();
        if now >= self.refresh_at {
            self.refresh_at = now + PRESENCE_EVERY;
            let listed = self.channels.iter().filter(|(_, followed)| followed.listed > 0);
            self.to_refresh = listed.map(|(name, _)| name.clone()).collect();
            let ticks = (PRESENCE_EVERY.as_millis() / TICK.as_millis()) as usize / 2;
            self.refresh_each_tick = self.to_refresh.len().div_ceil(ticks.max(1));
            // The same round looks for channels that are silent.
            let silent = self.channels.iter().filter(|(_, followed)| {
                followed.log.is_some()
                    && followed.subscribed
                    && now.duration_since(followed.heard) >= CHECK_AFTER / 2
            });
            let silent: Vec<ChannelName> = silent.map(|(name, _)| name.clone()).collect();
            self.to_check.extend(silent);
        }
        for _ in 0..self.refresh_each_tick {
            let Some(channel) = self.to_refresh.pop_front() else { break };
            let Some(followed) = self.channels.get(&channel) else { continue };
            let members = followed.members.values().flatten().filter(|member| member.shown.listed);
            let infos: Vec<Arc<ClientInfo>> = members.map(|member| member.info.clone()).collect();
            for info in infos {
                let what = Task::PresenceAdd { channel: channel.clone(), info };
                self.do_at(&channel, what, Then::Nobody);
            }
        }
        self.expire_emulations(now);
        self.tick_nodes(now);
    }
}

/// Of what was read from the newest back for a time: what is from then on, as it was asked for.
fn from_time(mut publications: Publications, ask: &HistoryRequest) -> Publications {
    let Some(from_ms) = ask.since_ms else { return publications };
    publications.retain(|publication| publication.time_ms >= from_ms);
    if !ask.reverse {
        publications.reverse();
    }
    publications.truncate(ask.limit.unwrap_or(usize::MAX));
    publications
}
