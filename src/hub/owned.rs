//! The owner side of the hub: the single writer of every channel whose owner is this shard.
//!
//! # Life of a channel
//! ```text
//!            first mention               last leave; history and keys over
//!  unknown ────────────────▶ in use ───────────────────────────────────────▶ idle ── grace is over ──▶ forgotten
//!                              ▲                                              │
//!                              └────────── publish, join, history ────────────┘
//! ```
//! A mention is a publish, a join or a history ask. Every channel has an offset sequence and an epoch from its first
//! mention, also without history. An idle one is forgotten after its namespace's `history_meta_ttl`, or after
//! [`FORGET_AFTER`] when the namespace keeps no history, counted from when its last entry and last key would be over by
//! age; its successor has another epoch. One with subscribers is never forgotten. Over
//! [`channels_max`](HubLimits::channels_max) the idle one that has the least time left goes first.
//!
//! # Shares
//! Clients that may subscribe or publish to any name must not take the table from the backend, nor one client from the
//! others. A channel that only clients have used counts for the client that made it; once the backend uses it, it is the
//! backend's. Over [`client_channels_max`](HubLimits::client_channels_max) the creator with most of them loses one that has
//! no subscribers, with all that is retained of it: who makes many pays for the next.
//!
//! [`FORGET_AFTER`]: crate::hub::limits::FORGET_AFTER
//!
//! # Offsets
//! A publication takes the next offset, and the log has no hole. One with `skip_history` takes none: it carries
//! [`Offset`] 0, is delivered live only, cannot be recovered, and is answered with the channel's top.
//!
//! # Time
//! Answers depend on `now` alone and not on how often [`OwnedChannels::sweep`] runs: what is over by age is not shown, and a
//! channel whose grace is over is unknown, swept or not. A thing that lives `ttl` is there while `now < start + ttl`.
//! A `now` before an earlier one is taken as that earlier one.
//!
//! # When history is full
//! Over [`history_bytes_max`](HubLimits::history_bytes_max) entries that are over by age go first, then the oldest
//! entry of the heaviest log among the growing one and seven chosen at random, until there is room: a channel that grows
//! pays for itself, and a small one does not pay for a large. A publication larger than the whole bound is delivered and
//! not kept.

mod attendance;
mod channel;
mod copying;
mod cursors;
mod logs;
mod occupancy;
mod options;
mod publish;
mod record;
mod stored;
mod table;
mod values;
mod watches;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Offset, Position, ShardId};
use crate::base::prng::Prng;
use crate::base::publication::ClientInfo;
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::hub::attendance::{Attendance, Left};
use crate::hub::creators::Creators;
use crate::hub::cursors::{Cursors, Names};
use crate::hub::deadlines::Deadlines;
#[cfg(test)]
use crate::hub::history::Log;
use crate::hub::idempotency::IdempotencyKeys;
use crate::hub::limits::HubLimits;
use crate::hub::log_store::{Appends, Durable, LogStore, MemoryOnly, Ticket};
use crate::hub::occupancies::Occupancies;
use crate::hub::options::Namespaces;
use crate::hub::owned::channel::Channel;
use crate::hub::owned::copying::Copying;
pub use crate::hub::owned::copying::{OFFSET_JUMP, StoredMoment, Taken};
use crate::hub::presence::{Inserted, Roster};
use crate::hub::requests::{
    History, HistoryRequest, JoinLeaveEvent, JoinRequest, Joined, PresenceStats, Recovery,
};
use crate::hub::watch::Watches;

/// Every channel whose owner is this shard. See the module's head.
pub struct OwnedChannels {
    namespaces: Arc<Namespaces>,
    limits: HubLimits,
    prng: Prng,
    hash: RandomState,
    /// Slots, by the names that their channels have.
    names: HashTable<u32>,
    channels: Slots<Channel>,
    /// Slots below `slots_used` that hold no channel.
    free: Vec<u32>,
    slots_used: u32,
    /// The next slot whose channel takes other options; `None`: all have.
    retaken: Option<u32>,
    lives: u64,
    /// Of this process: [`ShardId::among`].
    shards: u16,
    keys: IdempotencyKeys,
    store: Box<dyn LogStore>,
    /// There is one beside memory.
    has_store: bool,
    store_takes_all: bool,
    /// Everything is written to the store again.
    copying: Option<Copying>,
    /// Publications that the store does not have yet.
    appends: Appends,
    /// The roster that [`OwnedChannels::presence`] gave last.
    asked_last: Option<Arc<Roster>>,
    /// While channels come from another process: those whose log has bytes, which their namespace does not take any more.
    /// Bound: those channels.
    logs_lost: HashSet<u32>,
    /// The same, those whose log does not end at their top.
    /// Bound: those channels.
    log_ends: HashMap<u32, Offset>,
    /// The same while: what is known of connections, so that all their channels share it.
    /// Bound: those connections.
    infos_restored: HashMap<ConnId, Arc<ClientInfo>, RandomState>,
    /// Slots with a log, in no order, for [`OwnedChannels::heaviest`]. A log knows its place here.
    logs: Vec<u32>,
    /// When the oldest entry of each log is over, or earlier.
    expiries: Deadlines,
    /// Idle channels and when they may be forgotten, or earlier.
    forgets: Deadlines,
    /// By slot, where joins and leaves are paced. Apart, so that other channels pay nothing for it.
    attendances: HashMap<u32, Attendance, RandomState>,
    /// Channels with joins and leaves that wait, and when one of them may be said, or earlier.
    announcements: Deadlines,
    /// By slot, of channels whose members have cursors. Apart, so that other channels pay nothing for it.
    cursors: HashMap<u32, Box<Cursors>, RandomState>,
    /// Of all of them.
    cursor_names: Names,
    /// The last change of cursors that the store does not have yet, where answers wait for that.
    cursors_pending: Option<Ticket>,
    watches: Watches,
    /// While a store is read: channels of which only cursors were found yet. Where they stand says nothing about their logs.
    /// Bound: those channels.
    placed_by_cursors: HashSet<u32>,
    occupancies: Occupancies,
    /// Channels that only clients have used.
    creators: Creators,
    clock: Time,
    counts: OwnedCounts,
}

/// What a [`OwnedChannels`] holds, and what has happened to it. Totals only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnedCounts {
    pub channels: usize,
    /// Of these, channels that only clients have used. Never above [`HubLimits::client_channels_max`].
    pub client_channels: usize,
    /// Connections in channels, each counted in every channel it is in.
    pub subscriptions: usize,
    pub history_publications: usize,
    /// Never above [`HubLimits::history_bytes_max`].
    pub history_bytes: usize,
    pub idempotency_keys: usize,
    /// Of members, in all channels. Never above [`HubLimits::cursors_max`].
    pub cursors: usize,
    /// Acknowledgements that were taken, whether they moved something or not.
    pub acks_total: u64,
    /// Of these, those that moved a cursor.
    pub cursors_moved_total: u64,
    /// Acknowledgements that were refused.
    pub acks_refused_total: u64,
    /// Joins of a connection that was in already.
    pub joins_repeated_total: u64,
    /// Leaves of a connection that was not in: its join was refused, or a bug of ours.
    pub leaves_unknown_total: u64,
    /// Joins and leaves of paced namespaces that nobody was told of.
    pub join_leave_unsaid_total: u64,
    /// Counts of subscribers that the channel which is for them did not take.
    pub occupancy_refused_total: u64,
    /// Publications dropped from history before their time, for want of bytes.
    pub history_evicted_total: u64,
    /// Keys dropped before their five minutes.
    pub keys_evicted_total: u64,
    /// Channels without subscribers forgotten before their time.
    pub channels_evicted_total: u64,
    /// Asks refused because no channel could make room.
    pub channels_refused_total: u64,
}

/// What one channel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelSize {
    pub clients: u32,
    /// Publications that are kept, and what they weigh.
    pub history: usize,
    pub history_bytes: usize,
    /// Of the newest publication.
    pub offset: Offset,
}

impl OwnedChannels {
    pub fn new(namespaces: Arc<Namespaces>, limits: HubLimits, mut prng: Prng) -> OwnedChannels {
        // Keyed from the seed: strangers choose names, and a simulation must repeat.
        let hash = RandomState::with_seeds(prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..));
        let cursor_names = Names::new(hash.clone());
        OwnedChannels {
            namespaces,
            asked_last: None,
            store: Box::new(MemoryOnly),
            has_store: false,
            store_takes_all: false,
            copying: None,
            appends: Appends::default(),
            keys: IdempotencyKeys::new(limits.idempotency_keys_max, hash.clone()),
            limits,
            prng,
            names: HashTable::new(),
            hash,
            channels: Slots::default(),
            free: Vec::new(),
            slots_used: 0,
            retaken: None,
            lives: 0,
            shards: u16::MAX,
            logs_lost: HashSet::new(),
            log_ends: HashMap::new(),
            infos_restored: HashMap::default(),
            logs: Vec::new(),
            expiries: Deadlines::default(),
            forgets: Deadlines::default(),
            announcements: Deadlines::default(),
            occupancies: Occupancies::default(),
            attendances: HashMap::default(),
            cursors: HashMap::default(),
            cursor_names,
            cursors_pending: None,
            watches: Watches::default(),
            placed_by_cursors: HashSet::new(),
            creators: Creators::default(),
            clock: Time::ZERO,
            counts: OwnedCounts::default(),
        }
    }

    /// Among so many shards: peers that came where there were more of them are at others now.
    pub fn among(self, shards: u16) -> OwnedChannels {
        OwnedChannels { shards, ..self }
    }

    /// Keeps logs besides its memory from now on.
    pub fn with_store(self, store: Box<dyn LogStore>) -> OwnedChannels {
        let store_takes_all = store.takes_all();
        OwnedChannels { store, has_store: true, store_takes_all, ..self }
    }

    /// Makes a connection a subscriber: everything published after this call is after the answer's position,
    /// and a recovery ends exactly there. A connection that is in already stays in with the new info, without a join/leave event,
    /// and is counted: a shard may then announce its subscribers again without harm.
    ///
    /// Recovery: the asked epoch is none or the channel's, and the asked offset is the top, or the log goes back to
    /// it with at most [`recovery_publications_max`](HubLimits::recovery_publications_max) publications since. Of a cache it is
    /// the newest publication, whatever was asked, if that is kept. Of values it is what has changed, or all of them in the place
    /// of what the client has.
    ///
    /// # Errors
    /// As [`OwnedChannels::publish`].
    pub fn join(&mut self, ask: JoinRequest, now: Time) -> Result<Joined, ErrorCode> {
        let now = self.advance(now);
        let slot = self.mention(&ask.channel, &ask.by, now)?;
        let since = match &ask.device {
            Some(device) => Some(self.behind_device(slot, &ask.info.user, device)),
            None => ask.recover,
        };
        let channel = self.channels.get_mut(slot).expect("just mentioned");
        let position = channel.position();
        let publications_max = self.limits.recovery_publications_max;
        let mut recovery = since.map(|since| channel.recover(since, now, publications_max));
        if let (Some(Recovery::Lost), Some(since), false) = (&recovery, since, channel.is_cache()) {
            recovery = Some(match channel.state(now) {
                Some(state) => Recovery::Replaced(state),
                None => self.recover_from_store(slot, since),
            });
        }
        let channel = self.channels.get(slot).expect("just mentioned");
        let cursors = match channel.options.cursors_in_data && !ask.info.user.is_empty() {
            true => Some(Box::new(self.user_cursors(slot, &ask.info.user, position.offset))),
            false => None,
        };
        let channel = self.channels.get_mut(slot).expect("just mentioned");
        let (conn, info) = (ask.conn, ask.shown.announced.then(|| ask.info.clone()));
        let join_leave = match channel.members.insert(conn, ask.info, ask.shown, &self.hash) {
            Inserted::Again => {
                self.counts.joins_repeated_total += 1;
                None
            }
            Inserted::New => {
                channel.interest.add(conn.shard().among(self.shards));
                self.counts.subscriptions += 1;
                if channel.options.occupancy.is_some() {
                    self.occupancy_changed(slot, now);
                }
                info.and_then(|info| self.member_joined(slot, conn, info, now))
            }
        };
        self.settle(slot);
        Ok(Joined { since, position, recovery, join_leave, cursors })
    }

    /// What others see of a member has changed: presence and the leave event to come have the new info. Nothing for a
    /// connection that is not in, or a channel that shows nobody.
    pub fn renew(&mut self, channel: &str, conn: ConnId, info: Arc<ClientInfo>) {
        if let Some((_, channel)) = self.known_mut(channel) {
            channel.members.renew(conn, info);
        }
    }

    /// Ends a subscription. Returns the join/leave event for the others when the member was announced. A connection that is not in
    /// is counted and ignored: its join may have been refused.
    pub fn leave(&mut self, channel: &str, conn: ConnId, now: Time) -> Option<Arc<JoinLeaveEvent>> {
        let now = self.advance(now);
        let shards = self.shards;
        let Some((slot, found)) = self.known_mut(channel) else {
            self.counts.leaves_unknown_total += 1;
            return None;
        };
        let listed = found.options.paces_events() && found.members.is_listed(conn);
        let Some(info) = found.members.remove(conn) else {
            self.counts.leaves_unknown_total += 1;
            return None;
        };
        found.interest.remove(conn.shard().among(shards));
        found.active_until = found.active_until.max(now);
        if found.options.occupancy.is_some() {
            self.occupancy_changed(slot, now);
        }
        let join_leave = info.and_then(|info| self.member_left(slot, Left { conn, info, listed }, now));
        self.counts.subscriptions -= 1;
        self.settle(slot);
        join_leave
    }

    /// Shards with subscribers to `channel` and how many each, in shard order.
    pub fn interested(&self, channel: &str) -> &[(ShardId, u32)] {
        self.known(channel).map_or(&[], |channel| channel.interest.as_slice())
    }

    /// Reads the log. Without `since` from the oldest on, or with `reverse` from the newest back. With `since`
    /// the entries after it (from the oldest when the log does not reach back to it), or with `reverse` those before
    /// it (none when the one before it is not there). With `since_ms` those published at or after it, in either order. At most
    /// `limit` and never more than
    /// [`history_read_max`](HubLimits::history_read_max).
    ///
    /// # Errors
    /// As [`OwnedChannels::publish`], and [`ErrorCode::NotAvailable`] when the namespace keeps no history,
    /// [`ErrorCode::BadRequest`] for what is before offset 0 and for a position together with a time,
    /// [`ErrorCode::UnrecoverablePosition`] for an epoch that is not the channel's.
    pub fn history(&mut self, ask: &HistoryRequest, now: Time) -> Result<History, ErrorCode> {
        let now = self.advance(now);
        if !self.options(&ask.channel)?.keeps_history() {
            return Err(ErrorCode::NotAvailable);
        }
        let before_first = ask.reverse && ask.since.is_some_and(|since| since.offset == Offset(0));
        if before_first || ask.since.is_some() && ask.since_ms.is_some() {
            return Err(ErrorCode::BadRequest);
        }
        let slot = self.mention(&ask.channel, &ask.by, now)?;
        let channel = self.channels.get(slot).expect("just mentioned");
        if ask.since.is_some_and(|since| !since.epoch.matches(channel.position().epoch)) {
            return Err(ErrorCode::UnrecoverablePosition);
        }
        let limit = ask.limit.unwrap_or(usize::MAX).min(self.limits.history_read_max);
        let since = ask.since.map(|since| since.offset);
        let publications = match (&channel.log, ask.since_ms) {
            (None, _) => Vec::new(),
            (Some(log), Some(from_ms)) => log.since_time(from_ms, now, limit, ask.reverse),
            (Some(log), None) if ask.reverse => log.reverse(since, now, limit),
            (Some(log), None) => log.forward(since, now, limit),
        };
        Ok(History { publications, position: channel.position(), payload: channel.options.payload })
    }

    /// Drops what is kept of a channel's log. Offset and epoch go on: who is at the top has missed nothing.
    ///
    /// # Errors
    /// [`ErrorCode::NotAvailable`] when the namespace keeps no history; [`ErrorCode::BadRequest`] and
    /// [`ErrorCode::UnknownChannel`] as [`Namespaces::resolve`].
    pub fn history_remove(&mut self, channel: &str, now: Time) -> Result<(), ErrorCode> {
        self.advance(now);
        if !self.options(channel)?.keeps_history() {
            return Err(ErrorCode::NotAvailable);
        }
        if let Some((slot, channel)) = self.known_mut(channel) {
            if channel.options.durable != Durable::No {
                let (name, until) = (channel.name.clone(), channel.position());
                self.store.removed(&name, until);
            }
            while self.drop_oldest(slot) {}
            self.settle(slot);
        }
        Ok(())
    }

    /// All subscribers that are listed. The roster asked for last is kept until the next sweep, so that it is made and encoded once for
    /// those who ask in a row.
    ///
    /// # Errors
    /// [`ErrorCode::NotAvailable`] when the namespace has no presence; [`ErrorCode::BadRequest`] and
    /// [`ErrorCode::UnknownChannel`] as [`Namespaces::resolve`].
    pub fn presence(&mut self, channel: &str) -> Result<Arc<Roster>, ErrorCode> {
        if !self.options(channel)?.presence {
            return Err(ErrorCode::NotAvailable);
        }
        let Some((slot, _)) = self.known_mut(channel) else { return Ok(Arc::default()) };
        let roster = self.channels.get_mut(slot).map(|channel| channel.members.roster()).unwrap_or_default();
        self.asked_last = Some(Arc::clone(&roster));
        Ok(roster)
    }

    /// The first `limit` of the same behind the client `after`, in the order of clients' ids. Walks all members, and copies only
    /// these.
    ///
    /// # Errors
    /// As [`OwnedChannels::presence`].
    pub fn presence_page(
        &self,
        channel: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Arc<ClientInfo>>, ErrorCode> {
        if !self.options(channel)?.presence {
            return Err(ErrorCode::NotAvailable);
        }
        Ok(self.known(channel).map_or_else(Vec::new, |channel| channel.members.page(after, limit)))
    }

    /// Gives up the roster that [`OwnedChannels::presence`] keeps.
    pub fn forget_roster(&mut self) {
        self.asked_last = None;
    }

    /// How many listed subscribers and distinct users; all anonymous ones are one user. Costs the same at any number.
    ///
    /// # Errors
    /// As [`OwnedChannels::presence`].
    pub fn presence_stats(&self, channel: &str) -> Result<PresenceStats, ErrorCode> {
        if !self.options(channel)?.presence {
            return Err(ErrorCode::NotAvailable);
        }
        Ok(self.known(channel).map_or_else(PresenceStats::default, |channel| channel.members.stats()))
    }

    /// Channels with subscribers and how many, of those that `filter` chooses, in no order. Walks all channels.
    pub fn channels(&self, filter: &dyn Fn(&str) -> bool) -> Vec<(ChannelName, u32)> {
        self.channels
            .iter()
            .filter(|(_, channel)| !channel.members.is_empty() && filter(&channel.name))
            .map(|(_, channel)| (channel.name.clone(), channel.members.len() as u32))
            .collect()
    }

    /// How large a channel is; `None` when it is not known.
    pub fn size(&self, channel: &str) -> Option<ChannelSize> {
        let channel = self.known(channel)?;
        let log = channel.log.as_ref();
        Some(ChannelSize {
            clients: channel.members.len() as u32,
            history: log.map_or(0, |log| log.len()),
            history_bytes: log.map_or(0, |log| log.bytes()),
            offset: channel.position().offset,
        })
    }

    /// Where the log of a channel ends, if it is remembered at the latest `now` that this owner was given.
    pub fn position(&self, channel: &str) -> Option<Position> {
        let channel = self.known(channel)?;
        (!channel.is_over(self.clock)).then(|| channel.position())
    }

    /// Gives back what is over by age: keys, log entries, channels. Does at most `budget` of these; call it every
    /// tick with a small one. Without anything due it costs three comparisons. True when the budget was used up: more may be
    /// due.
    pub fn sweep(&mut self, now: Time, budget: usize) -> bool {
        let now = self.advance(now);
        let mut left = budget;
        while left > 0
            && let Some(owner) = self.keys.drop_expired(now)
        {
            left -= 1;
            self.key_dropped(owner);
        }
        while left > 0
            && let Some(slot) = self.expiries.due(now)
        {
            left -= 1;
            self.expire_oldest(slot, now);
        }
        while left > 0
            && let Some(slot) = self.forgets.due(now)
        {
            left -= 1;
            let channel = self.channels.get(slot).expect("a deadline belongs to a channel");
            if channel.is_over(now) {
                self.forget(slot);
            } else {
                // It was mentioned since.
                self.forgets.set(slot, channel.forget_at());
            }
        }
        self.trim();
        left == 0
    }

    /// Whether there is a store beside memory, which has work of its own to do ([`OwnedChannels::copy_to_store`]).
    pub fn has_store(&self) -> bool {
        self.has_store
    }

    pub fn counts(&self) -> OwnedCounts {
        OwnedCounts {
            channels: self.names.len(),
            client_channels: self.creators.channels(),
            idempotency_keys: self.keys.len(),
            ..self.counts
        }
    }

    /// Entries held for a channel, over by age or not: lets the model follow evictions.
    #[cfg(test)]
    pub(super) fn retained(&self, channel: &str) -> usize {
        self.known(channel).and_then(|channel| channel.log.as_deref()).map_or(0, Log::len)
    }
}
