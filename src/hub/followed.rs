//! The subscriber's side of channels on one shard: who is subscribed here, and what is still to be delivered.
//!
//! Each channel with subscribers on this shard has a short [`Stream`] of items from its owner, numbered by a sequence
//! of this shard's own (joins and leaves have no offset). A batch of items is delivered to the whole list of
//! subscribers, possibly in slices; a subscriber that could not take it keeps a cursor into the stream and comes back.
//!
//! # Pace
//! A batch of a publication with a [`Pace`] is held back: spread over a window, or until nothing else is to be delivered.
//! How much of a spread batch is due is a function of time (`Window`). Order in a channel always holds, so what comes
//! later decides:
//! - Something that is to be delivered at once (a publication, a join, a leave) ends the holding back: who has not been
//!   told the earlier ones gets them now, and then the new one.
//! - A later spread publication leaves what is under way at most half of its own window, and takes the rest.
//! - A bulk one behind a spread one is taken for one spread over [`BULK_WAIT_MAX`](crate::hub::limits::BULK_WAIT_MAX).
//! # Gathering
//! A channel with a [`batch_max_delay`](ChannelOptions::batch_max_delay) begins no batch sooner than that after it began
//! the one before: what comes meanwhile leaves with one write for each subscriber.
//! ```text
//!           at once                              batch done, more came
//!  Idle ──────────────▶ Ready ◀───────────────────────────┐
//!   │  too soon        ▲
//!   ├──────▶ Gather ───┘ in time
//!   │  spread    ┌──▶ Spread ─── at once, or full ───▶ Ready
//!   └────────────┤
//!     bulk       └──▶ Bulk ───── at once, overdue ───▶ Ready
//! ```

mod channel;
mod lanes;
mod options;
mod restore;
mod sequence;
mod stands;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::base::filter::Filters;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::Publication;
use crate::base::time::Time;
use crate::hub::class::{Class, Classes};
use crate::hub::deadlines::Deadlines;
use crate::hub::followed::channel::{Lane, OnWay, relocate};
use crate::hub::followed::sequence::{Filled, Sequence, Verdict};
use crate::hub::limits::{HELD_BYTES_MAX, READ_AGAIN, READ_BYTES_MAX};
use crate::hub::notice::notice;
use crate::hub::options::{ChannelOptions, GapPolicy, Namespaces};
use crate::hub::pace::Hold;
use crate::hub::requests::{Pace, Read, ReadAnswer};
use crate::hub::stream::{Spares, Stream};

pub use crate::hub::followed::channel::{Active, ChannelIndex, LocalChannel, Moved, Subscriber};
pub use crate::hub::stream::{Cursor, Item, Seq, StreamLimits};

/// Every channel with a subscriber on this shard.
pub struct FollowedChannels {
    channels: slab::Slab<LocalChannel>,
    /// By the names that channels have.
    by_name: HashTable<ChannelIndex>,
    hash: RandomState,
    limits: StreamLimits,
    /// Room for what is on its way, that channels have given up.
    spares: Spares,
    /// Bound: [`SPARE_WAYS_MAX`].
    #[allow(clippy::vec_box)]
    spare_ways: Vec<Box<OnWay>>,
    /// Channels with something to deliver, in turn.
    /// Bound: one entry for each channel with subscribers here.
    ready: VecDeque<ChannelIndex>,
    /// Channels of [`Lane::Spread`], and when the next delivery of each is due.
    spread: Deadlines,
    /// Channels of [`Lane::Bulk`], and when each takes its turn among the others.
    bulk: Deadlines,
    /// Channels of [`Lane::Gather`], and when each may begin its batch.
    gathering: Deadlines,
    /// Channels with a hole before their next item, and when each asks its owner for what is missing.
    reads: Deadlines,
    reads_total: u32,
    /// Items that came a second time.
    repeated: u64,
    subscriptions: u64,
    /// Payload bytes in all streams.
    stream_bytes: usize,
    /// Payload bytes that have come in and are not yet delivered to those who keep up.
    backlog_bytes: usize,
    /// The same of channels that are held back: no sign of a shard that does not keep up.
    held_bytes: usize,
    held_bytes_max: usize,
    windows_cut: u64,
    conflated: u64,
    /// Other options, and the next channel that takes them; `None`: all have.
    retaking: Option<(Arc<Namespaces>, ChannelIndex)>,
}

/// About as many channels deliver in one turn of a busy shard.
const SPARE_WAYS_MAX: usize = 512;

/// What an item counts for in the backlog besides its payload, so that empty ones are bounded as well.
const ITEM_BYTES: usize = 128;

impl FollowedChannels {
    pub fn new(limits: StreamLimits, hash_seed: u64) -> FollowedChannels {
        FollowedChannels {
            channels: slab::Slab::new(),
            by_name: HashTable::new(),
            hash: RandomState::with_seeds(hash_seed, 1, 2, 3),
            spares: Spares::new(),
            spare_ways: Vec::new(),
            limits,
            ready: VecDeque::new(),
            spread: Deadlines::default(),
            bulk: Deadlines::default(),
            gathering: Deadlines::default(),
            reads: Deadlines::default(),
            reads_total: 0,
            repeated: 0,
            subscriptions: 0,
            stream_bytes: 0,
            backlog_bytes: 0,
            held_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            windows_cut: 0,
            conflated: 0,
            retaking: None,
        }
    }

    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        let is_it = |index: &ChannelIndex| *self.channels[*index as usize].name == *name;
        self.by_name.find(self.hash.hash_one(name), is_it).copied()
    }

    pub fn get(&self, channel: ChannelIndex) -> &LocalChannel {
        &self.channels[channel as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (ChannelIndex, &LocalChannel)> {
        self.channels.iter().map(|(index, channel)| (index as ChannelIndex, channel))
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    pub fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    pub fn stream_bytes(&self) -> usize {
        self.stream_bytes
    }

    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Payload bytes held back: of spread and bulk deliveries, and of what gathers.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How often deliveries that were held back were let go early, because something came that may not wait for them or
    /// because there was no room to hold them.
    pub fn windows_cut_total(&self) -> u64 {
        self.windows_cut
    }

    /// A connection of this shard asks the channel's owner to join: the channel exists here from now on.
    pub fn join_asked(&mut self, name: &ChannelName, options: &Arc<ChannelOptions>) -> ChannelIndex {
        let index = match self.find(name) {
            Some(index) => index,
            None => {
                let index = self.channels.insert(LocalChannel {
                    name: name.clone(),
                    options: options.clone(),
                    stream: Stream::default(),
                    sequence: Sequence::default(),
                    on_way: None,
                    subscribers: SmallVec::new(),
                    classes: Classes::default(),
                    pending_joins: 0,
                    cursors: 0,
                }) as ChannelIndex;
                let (channels, hash) = (&self.channels, &self.hash);
                let hash_of = |index: &ChannelIndex| hash.hash_one(&*channels[*index as usize].name);
                self.by_name.insert_unique(hash_of(&index), index, hash_of);
                index
            }
        };
        self.channels[index as usize].pending_joins += 1;
        index
    }

    /// The owner has said where the log stands. When its items come in order that is at the end of the stream; if not, it
    /// is asked for what is missing.
    pub fn top_learned(&mut self, channel: ChannelIndex, top: Position, now: Time) {
        let entry = &mut self.channels[channel as usize];
        if entry.sequence.learn(top, !entry.subscribers.is_empty()) && !self.reads.contains(channel) {
            self.reads.set(channel, now);
        }
    }

    /// The owner has answered a join. [`FollowedChannels::subscribe`] comes before this when it is a yes.
    pub fn join_answered(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        assert!(entry.pending_joins > 0, "an answer to a join that nobody asked");
        entry.pending_joins -= 1;
        self.forget_if_unused(channel);
    }

    /// Adds a subscriber that has had everything up to `top`. Gives its place in the list, and the cursor it needs when
    /// that is not where those stand that keep up.
    pub fn subscribe(
        &mut self,
        channel: ChannelIndex,
        slot: u32,
        class: Class,
        filters: Option<&Arc<Filters>>,
        top: Offset,
    ) -> (u32, Option<Cursor>) {
        let entry = &mut self.channels[channel as usize];
        entry.stream.begin_after(entry.top().map_or(top, |known| known.offset));
        let cursor = entry.cursor_at(top);
        let position = entry.subscribers.len() as u32;
        let id = entry.classes.intern(class, filters);
        // A chain begins behind the first publication that it gets whole. Who is of no class is looked at for itself.
        let own_frames = class.own_frames || class.shape.is_chained() || id.is_none();
        entry.subscribers.push(Subscriber::new(slot, id, own_frames));
        self.subscriptions += 1;
        (position, cursor)
    }

    /// Takes the subscriber at `position` out. Those that changed places are appended to `moved`.
    pub fn unsubscribe(&mut self, channel: ChannelIndex, position: u32, moved: &mut Vec<Moved>) {
        let entry = &mut self.channels[channel as usize];
        let gone = entry.subscribers[position as usize];
        if gone.has_cursor() {
            entry.cursors -= 1;
        }
        entry.classes.release(gone.class());
        let mut hole = position;
        // The part of the list that a batch has still to visit must stay together: its last one fills the hole,
        // and the list's last one fills that one's place.
        if let Some(active) = entry.on_way.as_mut().and_then(|on_way| on_way.active.as_mut())
            && hole < active.remaining
        {
            active.remaining -= 1;
            let last = active.remaining;
            relocate(&mut entry.subscribers, last, hole, moved);
            hole = last;
        }
        let last = entry.subscribers.len() as u32 - 1;
        relocate(&mut entry.subscribers, last, hole, moved);
        entry.subscribers.pop();
        // A list that once was long gives its memory back.
        if entry.subscribers.capacity() > 64 && entry.subscribers.len() < entry.subscribers.capacity() / 4 {
            entry.subscribers.shrink_to_fit();
        }
        self.subscriptions -= 1;
        if entry.cursors == 0 {
            // It may have been the last that something was kept for.
            self.trim(channel);
        }
        self.forget_if_unused(channel);
    }

    /// The subscriber at `position` gets frames of its own from now on.
    pub fn give_own_frames(&mut self, channel: ChannelIndex, position: u32) {
        let entry = &mut self.channels[channel as usize];
        let subscriber = &mut entry.subscribers[position as usize];
        let id = entry.classes.change(subscriber.class(), |class| Class { own_frames: true, ..class });
        let cursor = subscriber.0 & Subscriber::CURSOR;
        *subscriber = Subscriber::new(subscriber.slot(), id, true);
        subscriber.0 |= cursor;
    }

    /// Whether a subscriber whose shape is chained has had the last publication of the running batch; if not, the next one is whole.
    pub fn set_in_step(&mut self, channel: ChannelIndex, position: u32, in_step: bool) {
        let entry = &mut self.channels[channel as usize];
        let subscriber = &mut entry.subscribers[position as usize];
        debug_assert!(!subscriber.has_cursor());
        // Of who is of no class, the last publication is known to nobody.
        if let Some(class) = entry.classes.get(subscriber.class()) {
            debug_assert!(class.shape.is_chained());
            subscriber.set_own_frames(!in_step);
        }
    }

    /// Marks the subscriber at `position` as one with a cursor.
    pub fn cursor_set(&mut self, channel: ChannelIndex, position: u32) {
        let entry = &mut self.channels[channel as usize];
        let subscriber = &mut entry.subscribers[position as usize];
        if !subscriber.has_cursor() {
            subscriber.0 |= Subscriber::CURSOR;
            entry.cursors += 1;
        }
    }

    pub fn cursor_cleared(&mut self, channel: ChannelIndex, position: u32) {
        let entry = &mut self.channels[channel as usize];
        let subscriber = &mut entry.subscribers[position as usize];
        assert!(subscriber.has_cursor(), "a cursor is cleared once");
        subscriber.0 &= !Subscriber::CURSOR;
        // What it has had last is known to nobody.
        if entry.classes.get(subscriber.class()).is_some_and(|class| class.shape.is_chained()) {
            subscriber.set_own_frames(true);
        }
        entry.cursors -= 1;
        if entry.cursors == 0 {
            self.trim(channel);
        }
    }

    /// An item has come from the channel's owner, to be delivered at once. False when nobody here is subscribed, or when it
    /// is not the next.
    pub fn handle_item(&mut self, name: &str, item: Item, now: Time) -> bool {
        let Some(index) = self.take_in(name, item, now) else { return false };
        self.let_go(index, now);
        self.trim_behind_item(index);
        true
    }

    /// A publication has come from the channel's owner, to be delivered as `pace` says. False as for
    /// [`FollowedChannels::handle_item`].
    pub fn handle_paced(&mut self, name: &str, publication: Arc<Publication>, pace: Pace, now: Time) -> bool {
        if pace.is_at_once() {
            return self.handle_item(name, Item::Publication(publication), now);
        }
        let Some(index) = self.take_in(name, Item::Publication(publication), now) else { return false };
        let entry = &mut self.channels[index as usize];
        // A notice waits where it will stand.
        let conflates = entry.options.conflates();
        let from = entry.stream.end() - u64::from(!conflates);
        let on_way = entry.on_way();
        let pacing = on_way.pacing.get_or_insert_default();
        pacing.hold(from, pace, now);
        if let (Some(window), Some(active)) = (pacing.window, on_way.active) {
            // It may have less time now.
            self.spread.set(index, window.next(active.remaining, now));
        } else if conflates && on_way.lane == Lane::Bulk && on_way.active.is_none() {
            // What waited as bulk is part of what comes now.
            self.schedule(index, now);
        } else if let (Lane::Bulk, Some(Hold::Spread { until, .. })) = (on_way.lane, pacing.held) {
            // What stands before it may not use up its time.
            let half = now + until.since(now) / 2;
            self.bulk.set(index, self.bulk.get(index).map_or(half, |wait| wait.min(half)));
        } else if on_way.lane == Lane::Idle {
            self.schedule(index, now);
        }
        if self.held_bytes > self.held_bytes_max {
            self.let_go(index, now);
        }
        self.trim_behind_item(index);
        true
    }

    fn take_in(&mut self, name: &str, item: Item, now: Time) -> Option<ChannelIndex> {
        let index = self.find(name)?;
        let entry = &mut self.channels[index as usize];
        if let Item::Publication(publication) = &item
            && publication.offset() != Offset(0)
        {
            if entry.subscribers.is_empty() {
                entry.sequence.hear(publication);
                return None;
            }
            let before = entry.sequence.top().map_or(Offset(0), |top| top.offset);
            match entry.sequence.accept(publication) {
                Verdict::Next if entry.options.conflates() => {
                    // The first of all: what was before is not known here.
                    let before = before.max(Offset(publication.offset().0 - 1));
                    let waits = match entry.options.is_notice() {
                        true => {
                            let (options, accepted) = (&entry.options, publication.encoded.accepted());
                            notice(entry.name.clone(), publication.position, options, accepted)
                        }
                        false => Arc::clone(publication),
                    };
                    self.put_waiting(index, waits, before);
                    return Some(index);
                }
                Verdict::Next => {}
                Verdict::Repeated => {
                    self.repeated += 1;
                    return None;
                }
                Verdict::Ahead => {
                    if !self.reads.contains(index) {
                        self.reads.set(index, now);
                    }
                    return None;
                }
            }
        } else if entry.subscribers.is_empty() {
            return None;
        }
        let bytes = item.weight() + ITEM_BYTES;
        self.stream_bytes += item.weight();
        self.make_room(index);
        let entry = &mut self.channels[index as usize];
        let on_way = entry.on_way();
        on_way.backlog_bytes += bytes;
        *if on_way.lane.holds_back() { &mut self.held_bytes } else { &mut self.backlog_bytes } += bytes;
        entry.stream.push(item);
        Some(index)
    }

    /// The next channel whose owner is to be asked for what is missing. Asked again after [`READ_AGAIN`] unless
    /// [`FollowedChannels::handle_read`] comes before.
    pub fn take_read(&mut self, now: Time) -> Option<Read> {
        while self.reads.next().is_some_and(|due| due <= now)
            && let Some(index) = self.reads.first()
        {
            let entry = &mut self.channels[index as usize];
            let Some(after) = entry.sequence.ask(self.reads_total.wrapping_add(1)) else {
                // What was missing has come by itself.
                self.reads.remove(index);
                continue;
            };
            self.reads_total = self.reads_total.wrapping_add(1);
            self.reads.set(index, now + READ_AGAIN);
            return Some(Read {
                channel: entry.name.clone(),
                index,
                number: self.reads_total,
                after,
                bytes_max: READ_BYTES_MAX,
            });
        }
        None
    }

    /// The owner has answered a [`Read`]. Gives the channel when its subscribers have lost something that nobody can give
    /// them, for its [`GapPolicy`] to be applied.
    pub fn handle_read(&mut self, read: &Read, answer: ReadAnswer, now: Time) -> Option<ChannelIndex> {
        let index = self.find(&read.channel).filter(|&index| index == read.index)?;
        if !self.channels[index as usize].sequence.is_asked(read.number) {
            return None;
        }
        let position = match answer {
            // It is asked again in its time.
            ReadAnswer::Unavailable => return None,
            ReadAnswer::Lost(position) => position,
            ReadAnswer::Page { publications, position } => {
                for publication in publications {
                    // Of values only the newest is there: nothing is missing between two of them.
                    let entry = &mut self.channels[index as usize];
                    if entry.options.is_value() {
                        entry.sequence.leap_before(publication.position);
                    }
                    self.handle_item(&read.channel, Item::Publication(publication), now);
                }
                position
            }
        };
        let entry = &mut self.channels[index as usize];
        let filled = entry.sequence.fill(read.after, position);
        match filled {
            Filled::Whole => self.reads.remove(index),
            Filled::Part => self.reads.set(index, now),
            Filled::Lost { newest } => {
                self.reads.remove(index);
                // Those that go on from the newest go on from here.
                let newest = newest.filter(|_| entry.options.gap == GapPolicy::Latest);
                if let Some(newest) = &newest {
                    entry.sequence.begin_before(newest.position);
                }
                self.drop_waiting(index);
                let entry = &mut self.channels[index as usize];
                entry.stream.break_at(entry.sequence.top().map_or(Offset(0), |top| top.offset));
                if let Some(newest) = newest {
                    self.handle_item(&read.channel, Item::Publication(newest), now);
                }
                return Some(index);
            }
        }
        None
    }

    pub fn repeated_total(&self) -> u64 {
        self.repeated
    }

    /// How often an owner was asked for what a channel was missing.
    pub fn reads_total(&self) -> u64 {
        self.reads_total.into()
    }

    /// Drops items that nobody can need any more, or that no bound allows to keep.
    fn trim(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        // What the running batch and the next one hold is not a laggard's and not trimmed.
        let keep_from = entry.active().map_or(entry.batched(), |active| active.start);
        // Who lags in a value channel goes on from the log, which has the newest of each key; a notice is made again.
        let kept = (entry.cursors > 0 && !entry.options.conflates()).then(|| {
            // What others have left of the bound in sum. Who adds pays: channels that rest keep what they have.
            let others = self.stream_bytes - entry.stream.weight();
            let free = self.limits.shard_bytes_max.saturating_sub(others);
            StreamLimits { channel_bytes_max: self.limits.channel_bytes_max.min(free), ..self.limits }
        });
        self.stream_bytes -= entry.stream.trim(keep_from, kept);
        entry.stream.give_room_back(&mut self.spares);
        self.give_way_back(channel);
    }

    /// The same behind an item that has come. Without laggards nothing is kept that it could push out; only what waits to replace
    /// others is not in the stream, which gives its room back.
    fn trim_behind_item(&mut self, channel: ChannelIndex) {
        let entry = &self.channels[channel as usize];
        if entry.cursors > 0 || entry.options.conflates() {
            self.trim(channel);
        }
    }

    /// An item is going to come.
    fn make_room(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        entry.stream.make_room(&mut self.spares);
        if entry.on_way.is_none()
            && let Some(mut spare) = self.spare_ways.pop()
        {
            *spare = OnWay::from(entry.stream.end());
            entry.on_way = Some(spare);
        }
    }

    /// Gives up what holds nothing.
    fn give_way_back(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        let end = entry.stream.end();
        let over = |on_way: &mut Box<OnWay>| {
            on_way.lane == Lane::Idle
                && on_way.batched == end
                && on_way.active.is_none()
                && on_way.pacing.is_none()
                // Until when it gathers is to be known when the next item comes.
                && on_way.gathers_until == Time::ZERO
        };
        if let Some(on_way) = entry.on_way.take_if(over)
            && self.spare_ways.len() < SPARE_WAYS_MAX
        {
            debug_assert_eq!((on_way.backlog_bytes, on_way.active_bytes), (0, 0));
            self.spare_ways.push(on_way);
        }
    }

    fn forget_if_unused(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        if !entry.subscribers.is_empty() {
            return;
        }
        self.set_lane(channel, Lane::Idle);
        self.reads.remove(channel);
        let entry = &mut self.channels[channel as usize];
        entry.sequence = Sequence::default();
        self.stream_bytes -= entry.stream.weight();
        // The joins under way begin after these items: nobody here will get them.
        self.backlog_bytes -= entry.on_way.take().map_or(0, |on_way| on_way.backlog_bytes);
        entry.stream = entry.stream.restarted();
        if entry.pending_joins == 0 {
            let hash = self.hash.hash_one(&*entry.name);
            if let Ok(known) = self.by_name.find_entry(hash, |known| *known == channel) {
                known.remove();
            }
            self.channels.remove(channel as usize);
        }
    }
}

#[cfg(test)]
#[path = "followed_tests.rs"]
mod tests;
