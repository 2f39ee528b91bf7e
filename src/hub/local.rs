//! The subscriber's side of channels on one shard: who is subscribed here, and what is still to be delivered.
//!
//! Each channel with subscribers on this shard has a short [`Stream`] of items from its home, numbered by a sequence
//! of this shard's own (joins and leaves have no offset). A batch of items is delivered to the whole list of
//! subscribers, possibly in slices; a subscriber that could not take it keeps a cursor into the stream and comes back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use crate::base::ids::{ChannelName, Offset, Position, SLOT_BITS, SLOT_MAX};
use crate::base::publication::{Encoded, Publication};
use crate::hub::asks::Notice;
use crate::hub::options::ChannelOptions;

/// Index of a channel on this shard. Reused after the channel's last subscriber has gone.
pub type ChannelIndex = u32;

/// Position in a channel's stream on this shard: the next item to deliver.
pub type Seq = u64;

/// One subscriber in a channel's list: the connection's slot, and in the high byte what delivery needs to know
/// without touching the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subscriber(u32);

impl Subscriber {
    /// Joins and leaves are delivered to it.
    pub const NOTICES: u32 = 1 << SLOT_BITS;
    /// It has a cursor: it lags, or joined between an item's arrival and its delivery.
    pub const CURSOR: u32 = 2 << SLOT_BITS;
    /// What it gets is made for it alone.
    pub const SINGULAR: u32 = 4 << SLOT_BITS;
    const KIND_SHIFT: u32 = SLOT_BITS + 4;

    pub fn new(slot: u32, kind: u8, notices: bool) -> Subscriber {
        assert!(slot <= SLOT_MAX && kind < 16);
        Subscriber(slot | u32::from(kind) << Self::KIND_SHIFT | if notices { Self::NOTICES } else { 0 })
    }

    /// The same subscriber, to be delivered to by itself.
    pub fn singular(self) -> Subscriber {
        Subscriber(self.0 | Self::SINGULAR)
    }

    pub fn slot(self) -> u32 {
        self.0 & SLOT_MAX
    }

    /// Index of the wire kind.
    pub fn kind(self) -> usize {
        (self.0 >> Self::KIND_SHIFT) as usize
    }

    pub fn notices(self) -> bool {
        self.0 & Self::NOTICES != 0
    }

    pub fn has_cursor(self) -> bool {
        self.0 & Self::CURSOR != 0
    }

    pub fn is_singular(self) -> bool {
        self.0 & Self::SINGULAR != 0
    }
}

/// What a channel's home sends to the shards of its subscribers.
#[derive(Clone, Debug)]
pub enum Item {
    Publication(Arc<Publication>),
    Notice(Arc<Notice>),
}

impl Item {
    pub fn encoded(&self) -> &Encoded {
        match self {
            Item::Publication(publication) => &publication.encoded,
            Item::Notice(notice) => &notice.encoded,
        }
    }

    pub fn is_notice(&self) -> bool {
        matches!(self, Item::Notice(_))
    }

    /// The place in the log, of those that have one: joins, leaves and publications kept out of history have none.
    pub fn offset(&self) -> Option<Offset> {
        match self {
            Item::Publication(publication) => {
                Some(publication.offset()).filter(|offset| *offset != Offset(0))
            }
            Item::Notice(_) => None,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Item::Publication(publication) => publication.weight(),
            Item::Notice(notice) => notice.info.user.len() + notice.info.client.len(),
        }
    }
}

/// Where a subscriber stands that has not had everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The next item to deliver, while the stream reaches back to it.
    pub seq: Seq,
    /// The last publication before that: where to go on in the channel's log when the stream does not.
    pub after: Offset,
    /// The log has been asked.
    pub asked: bool,
}

/// Items not yet delivered to everyone, oldest first.
#[derive(Default)]
pub struct Stream {
    items: VecDeque<Item>,
    /// Sequence of the first item kept.
    base: Seq,
    /// Offset of the last publication before that.
    base_offset: Offset,
    weight: usize,
}

impl Stream {
    pub fn base(&self) -> Seq {
        self.base
    }

    /// Sequence that the next item will get.
    pub fn end(&self) -> Seq {
        self.base + self.items.len() as u64
    }

    /// Items from `seq` on; empty at the end. `seq` must not have fallen off.
    pub fn from(&self, seq: Seq) -> impl Iterator<Item = &Item> {
        debug_assert!(seq >= self.base);
        self.items.range((seq.saturating_sub(self.base) as usize).min(self.items.len())..)
    }

    /// Items of `start..end`.
    pub fn between(&self, start: Seq, end: Seq) -> impl Iterator<Item = &Item> {
        self.from(start).take((end - start) as usize)
    }

    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The cursor of a subscriber that has had everything before `seq`.
    pub fn cursor(&self, seq: Seq) -> Cursor {
        let before = self.items.range(..((seq - self.base) as usize).min(self.items.len()));
        let after = before.rev().find_map(Item::offset).unwrap_or(self.base_offset);
        Cursor { seq, after, asked: false }
    }

    /// The cursor of a subscriber that has had every publication up to `after`; `None` when the stream does not reach
    /// back to there.
    pub fn cursor_after(&self, after: Offset) -> Option<Cursor> {
        if after < self.base_offset {
            return None;
        }
        let later = self.items.iter().position(|item| item.offset().is_some_and(|offset| offset > after));
        let seq = later.map_or(self.end(), |at| self.base + at as u64);
        Some(Cursor { seq, after, asked: false })
    }

    fn push(&mut self, item: Item) {
        self.weight += item.weight();
        self.items.push_back(item);
    }

    fn pop(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.weight -= item.weight();
            self.base += 1;
            self.base_offset = item.offset().unwrap_or(self.base_offset);
        }
    }
}

/// A batch on its way: items `start..end`, undelivered to the subscribers at `0..remaining` of the list.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    pub start: Seq,
    pub end: Seq,
    pub remaining: u32,
}

/// One channel as this shard's subscribers see it.
pub struct LocalChannel {
    pub name: ChannelName,
    pub options: Arc<ChannelOptions>,
    stream: Stream,
    /// Where the channel's log stands at the stream's end, once its home has said so.
    top: Option<Position>,
    /// Items before this have been taken into a batch: delivered, on their way, or left to a cursor.
    batched: Seq,
    active: Option<Active>,
    subscribers: Vec<Subscriber>,
    /// Joins asked of the home and not yet answered: the channel is kept for them.
    pending_joins: u32,
    /// Subscribers with a cursor: while there are any, the stream keeps what they may still need.
    cursors: u32,
    /// In the shard's queue of channels with something to deliver.
    queued: bool,
    /// Payload bytes of the items that no finished batch has delivered.
    backlog_bytes: usize,
    /// Of these, those in the running batch.
    active_bytes: usize,
}

impl LocalChannel {
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn active(&self) -> Option<Active> {
        self.active
    }

    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// Where the log stands at the stream's end. Known as soon as somebody here is subscribed.
    pub fn top(&self) -> Option<Position> {
        self.top
    }

    /// Where a subscriber at `position` of the list stands if it has kept up so far.
    pub fn cursor_of(&self, position: u32) -> Seq {
        match self.active {
            Some(active) if position < active.remaining => active.start,
            _ => self.batched,
        }
    }
}

/// Bounds of one shard's streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Payload bytes one channel keeps for its laggards.
    pub channel_bytes_max: usize,
    /// Items one channel keeps for its laggards.
    pub channel_items_max: usize,
}

/// Every channel with a subscriber on this shard.
pub struct Local {
    channels: slab::Slab<LocalChannel>,
    by_name: HashMap<ChannelName, ChannelIndex, RandomState>,
    limits: StreamLimits,
    /// Channels with something to deliver, in turn.
    ready: VecDeque<ChannelIndex>,
    subscriptions: u64,
    /// Payload bytes in all streams.
    stream_bytes: usize,
    /// Payload bytes that have come in and are not yet delivered to those who keep up.
    backlog_bytes: usize,
}

/// What an item counts for in the backlog besides its payload, so that empty ones are bounded as well.
const ITEM_BYTES: usize = 128;

/// A subscriber that moved to another place of its channel's list, because one before it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub slot: u32,
    pub from: u32,
    pub to: u32,
}

impl Local {
    pub fn new(limits: StreamLimits, hash_seed: u64) -> Local {
        Local {
            channels: slab::Slab::new(),
            by_name: HashMap::with_hasher(RandomState::with_seeds(hash_seed, 1, 2, 3)),
            limits,
            ready: VecDeque::new(),
            subscriptions: 0,
            stream_bytes: 0,
            backlog_bytes: 0,
        }
    }

    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, channel: ChannelIndex) -> &LocalChannel {
        &self.channels[channel as usize]
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

    /// A connection of this shard asks the channel's home to join: the channel exists here from now on.
    pub fn join_asked(&mut self, name: &ChannelName, options: &Arc<ChannelOptions>) -> ChannelIndex {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                let index = self.channels.insert(LocalChannel {
                    name: name.clone(),
                    options: options.clone(),
                    stream: Stream::default(),
                    top: None,
                    batched: 0,
                    active: None,
                    subscribers: Vec::new(),
                    pending_joins: 0,
                    cursors: 0,
                    queued: false,
                    backlog_bytes: 0,
                    active_bytes: 0,
                }) as ChannelIndex;
                self.by_name.insert(name.clone(), index);
                index
            }
        };
        self.channels[index as usize].pending_joins += 1;
        index
    }

    /// The home has said where the log stands now: at the end of the stream, as its messages come in order.
    pub fn top_learned(&mut self, channel: ChannelIndex, top: Position) {
        self.channels[channel as usize].top = Some(top);
    }

    /// The home has answered a join. [`Local::subscribe`] comes before this when it is a yes.
    pub fn join_answered(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        assert!(entry.pending_joins > 0, "an answer to a join that nobody asked");
        entry.pending_joins -= 1;
        self.forget_if_unused(channel);
    }

    /// Adds a subscriber whose position `top` is the end of the stream as it stands. Gives its place in the list, and
    /// the cursor it needs when items before its position are still to be delivered to others.
    pub fn subscribe(
        &mut self,
        channel: ChannelIndex,
        subscriber: Subscriber,
        top: Offset,
    ) -> (u32, Option<Cursor>) {
        let entry = &mut self.channels[channel as usize];
        if entry.stream.items.is_empty() {
            entry.stream.base_offset = top;
        }
        let position = entry.subscribers.len() as u32;
        entry.subscribers.push(subscriber);
        self.subscriptions += 1;
        let end = entry.stream.end();
        (position, (entry.batched != end).then(|| entry.stream.cursor(end)))
    }

    /// Takes the subscriber at `position` out. Those that changed places are appended to `moved`.
    pub fn unsubscribe(&mut self, channel: ChannelIndex, position: u32, moved: &mut Vec<Moved>) {
        let entry = &mut self.channels[channel as usize];
        if entry.subscribers[position as usize].has_cursor() {
            entry.cursors -= 1;
        }
        let mut hole = position;
        // The part of the list that a batch has still to visit must stay together: its last one fills the hole,
        // and the list's last one fills that one's place.
        if let Some(active) = &mut entry.active
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
            entry.subscribers.shrink_to(entry.subscribers.len() * 2);
        }
        self.subscriptions -= 1;
        if entry.cursors == 0 {
            // It may have been the last that something was kept for.
            self.trim(channel);
        }
        self.forget_if_unused(channel);
    }

    /// Marks the subscriber at `position` as one that is delivered to by itself.
    pub fn make_singular(&mut self, channel: ChannelIndex, position: u32) {
        let subscriber = &mut self.channels[channel as usize].subscribers[position as usize];
        *subscriber = subscriber.singular();
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
        entry.cursors -= 1;
        if entry.cursors == 0 {
            self.trim(channel);
        }
    }

    /// An item has come from the channel's home. False when nobody here is subscribed.
    pub fn handle_item(&mut self, name: &str, item: Item) -> bool {
        let Some(index) = self.find(name) else { return false };
        let entry = &mut self.channels[index as usize];
        if entry.subscribers.is_empty() {
            return false;
        }
        if let Item::Publication(publication) = &item
            && publication.offset() != Offset(0)
        {
            entry.top = Some(publication.position);
        }
        self.stream_bytes += item.weight();
        self.backlog_bytes += item.weight() + ITEM_BYTES;
        entry.backlog_bytes += item.weight() + ITEM_BYTES;
        entry.stream.push(item);
        if !entry.queued {
            entry.queued = true;
            self.ready.push_back(index);
        }
        self.trim(index);
        true
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next channel with something to deliver, its batch begun. [`Local::advance`] must follow.
    pub fn take_ready(&mut self) -> Option<(ChannelIndex, Active)> {
        while let Some(index) = self.ready.pop_front() {
            // The channel may have been forgotten, and its index taken by another, since it was queued.
            let Some(entry) = self.channels.get_mut(index as usize) else { continue };
            if !entry.queued {
                continue;
            }
            if entry.active.is_none() {
                let end = entry.stream.end();
                entry.active =
                    Some(Active { start: entry.batched, end, remaining: entry.subscribers.len() as u32 });
                entry.batched = end;
                entry.active_bytes = entry.backlog_bytes;
            }
            return entry.active.map(|active| (index, active));
        }
        None
    }

    /// The batch has been delivered to the last ones of its remaining subscribers, down to `remaining`.
    pub fn advance(&mut self, channel: ChannelIndex, remaining: u32) {
        let entry = &mut self.channels[channel as usize];
        let active = entry.active.as_mut().expect("a batch is under way");
        assert!(remaining <= active.remaining);
        active.remaining = remaining;
        if remaining == 0 {
            entry.active = None;
            self.backlog_bytes -= entry.active_bytes;
            entry.backlog_bytes -= std::mem::take(&mut entry.active_bytes);
            entry.queued = entry.batched != entry.stream.end();
            if entry.queued {
                self.ready.push_back(channel);
            }
            self.trim(channel);
        } else {
            self.ready.push_back(channel);
        }
    }

    /// Drops items that nobody can need any more, or that no bound allows to keep.
    fn trim(&mut self, channel: ChannelIndex) {
        let limits = self.limits;
        let entry = &mut self.channels[channel as usize];
        // What the running batch and the next one hold is not a laggard's and not trimmed.
        let keep_from = entry.active.map_or(entry.batched, |active| active.start);
        let before = entry.stream.weight();
        while entry.stream.base < keep_from
            && (entry.cursors == 0
                || entry.stream.weight > limits.channel_bytes_max
                || entry.stream.items.len() > limits.channel_items_max)
        {
            entry.stream.pop();
        }
        self.stream_bytes -= before - entry.stream.weight();
        if entry.stream.items.is_empty() && entry.stream.items.capacity() > 64 {
            entry.stream.items = VecDeque::new();
        }
    }

    fn forget_if_unused(&mut self, channel: ChannelIndex) {
        let entry = &mut self.channels[channel as usize];
        if !entry.subscribers.is_empty() {
            return;
        }
        self.stream_bytes -= entry.stream.weight();
        self.backlog_bytes -= std::mem::take(&mut entry.backlog_bytes);
        entry.active_bytes = 0;
        if entry.pending_joins == 0 {
            let entry = self.channels.remove(channel as usize);
            self.by_name.remove(&entry.name);
        } else {
            // Nobody here will get these items: the joins under way begin after them.
            let end = entry.stream.end();
            entry.stream = Stream { base: end, ..Stream::default() };
            entry.batched = end;
            entry.active = None;
            entry.queued = false;
        }
    }
}

fn relocate(list: &mut [Subscriber], from: u32, to: u32, moved: &mut Vec<Moved>) {
    if from != to {
        let subscriber = list[from as usize];
        list[to as usize] = subscriber;
        moved.push(Moved { slot: subscriber.slot(), from, to });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::Epoch;

    fn publication(offset: u64) -> Item {
        Item::Publication(Arc::new(Publication {
            channel: "c".into(),
            position: Position { offset: Offset(offset), epoch: Epoch(1) },
            data: Bytes::from_static(b"0123456789"),
            info: None,
            tags: Vec::new(),
            time_ms: 0,
            encoded: Encoded::default(),
        }))
    }

    fn local() -> Local {
        Local::new(StreamLimits { channel_bytes_max: 100, channel_items_max: 1000 }, 7)
    }

    fn subscribed(local: &mut Local, slots: std::ops::Range<u32>) -> ChannelIndex {
        let mut index = 0;
        for slot in slots {
            index = local.join_asked(&"c".into(), &Arc::default());
            local.subscribe(index, Subscriber::new(slot, 0, false), Offset(0));
            local.join_answered(index);
        }
        index
    }

    /// Delivers everything in slices of `slice`, calling `between` after each; gives every visit.
    fn deliver(local: &mut Local, slice: u32, mut between: impl FnMut(&mut Local)) -> Vec<(u32, Seq, Seq)> {
        let mut seen = Vec::new();
        while let Some((index, active)) = local.take_ready() {
            let until = active.remaining.saturating_sub(slice);
            for at in (until..active.remaining).rev() {
                seen.push((local.get(index).subscribers()[at as usize].slot(), active.start, active.end));
            }
            local.advance(index, until);
            between(local);
        }
        seen
    }

    #[test]
    fn everyone_is_visited_once_in_slices_while_others_leave_and_join() {
        for leaver in 0..10 {
            for slice in 1..5 {
                let mut local = local();
                let index = subscribed(&mut local, 0..10);
                assert!(local.handle_item("c", publication(1)));
                // Where each slot is, as its connection would know it.
                let mut places: HashMap<u32, u32> = (0..10).map(|slot| (slot, slot)).collect();
                let mut left = false;
                let seen = deliver(&mut local, slice, |local| {
                    if left {
                        return;
                    }
                    left = true;
                    let mut moved = Vec::new();
                    local.unsubscribe(index, places[&leaver], &mut moved);
                    places.remove(&leaver);
                    for moved in moved {
                        places.insert(moved.slot, moved.to);
                    }
                    let (position, cursor) = local.subscribe(index, Subscriber::new(99, 0, false), Offset(1));
                    assert_eq!(
                        cursor, None,
                        "the only item is in the running batch, which 99 is not part of"
                    );
                    places.insert(99, position);
                });
                let mut visited: Vec<u32> = seen.iter().map(|(slot, ..)| *slot).collect();
                visited.sort_unstable();
                let before = visited.len();
                visited.dedup();
                assert_eq!(visited.len(), before, "nobody twice");
                for slot in (0..10).filter(|&slot| slot != leaver) {
                    assert!(visited.contains(&slot), "slot {slot}, leaver {leaver}, slice {slice}");
                }
                assert!(!visited.contains(&99));
                for (place, subscriber) in local.get(index).subscribers().iter().enumerate() {
                    assert_eq!(places[&subscriber.slot()], place as u32);
                }
            }
        }
    }

    #[test]
    fn one_that_joins_before_an_older_item_is_delivered_gets_a_cursor_behind_it() {
        let mut local = local();
        let index = subscribed(&mut local, 0..2);
        local.handle_item("c", publication(1));
        let (position, cursor) = local.subscribe(index, Subscriber::new(9, 0, false), Offset(1));
        assert_eq!(cursor, Some(Cursor { seq: 1, after: Offset(1), asked: false }));
        local.cursor_set(index, position);
        assert!(local.get(index).subscribers()[position as usize].has_cursor());
    }

    #[test]
    fn the_stream_is_kept_for_cursors_within_its_bound_and_dropped_with_the_last() {
        let mut local = local();
        let index = subscribed(&mut local, 0..2);
        local.cursor_set(index, 0);
        for offset in 1..=5 {
            local.handle_item("c", publication(offset));
            deliver(&mut local, 100, |_| ());
        }
        assert_eq!((local.get(index).stream().base(), local.stream_bytes()), (0, 50));
        for offset in 6..=20 {
            local.handle_item("c", publication(offset));
            deliver(&mut local, 100, |_| ());
            assert!(local.stream_bytes() <= 100);
        }
        assert_eq!(local.get(index).stream().base(), 10);
        local.cursor_cleared(index, 0);
        assert_eq!((local.get(index).stream().base(), local.stream_bytes()), (20, 0));
    }

    /// Found by simulation, seed 1172: a poll left with its cursor, and what had been kept for it stayed until the next
    /// publication.
    #[test]
    fn the_stream_is_dropped_when_the_last_with_a_cursor_leaves() {
        let mut local = local();
        let index = subscribed(&mut local, 0..2);
        local.cursor_set(index, 0);
        local.handle_item("c", publication(1));
        deliver(&mut local, 100, |_| ());
        assert_eq!(local.stream_bytes(), 10);
        local.unsubscribe(index, 0, &mut Vec::new());
        assert_eq!((local.stream_bytes(), local.subscriptions()), (0, 1));
    }

    #[test]
    fn a_cursor_names_its_place_in_the_log_wherever_the_stream_begins() {
        let mut local = local();
        let index = subscribed(&mut local, 0..2);
        local.cursor_set(index, 0);
        for offset in 1..=20 {
            local.handle_item("c", publication(offset));
            deliver(&mut local, 100, |_| ());
        }
        let stream = local.get(index).stream();
        assert_eq!(
            (stream.base(), stream.cursor(10).after, stream.cursor(13).after),
            (10, Offset(10), Offset(13))
        );
        assert_eq!(stream.cursor_after(Offset(9)), None);
        assert_eq!(stream.cursor_after(Offset(10)).unwrap().seq, 10);
        assert_eq!(stream.cursor_after(Offset(15)).unwrap().seq, 15);
        assert_eq!(stream.cursor_after(Offset(20)).unwrap().seq, stream.end());
    }

    #[test]
    fn an_unused_channel_is_forgotten_even_in_the_middle_of_a_batch() {
        let mut local = local();
        let index = subscribed(&mut local, 0..3);
        local.handle_item("c", publication(1));
        let (_, active) = local.take_ready().unwrap();
        local.advance(index, active.remaining - 1);
        for _ in 0..3 {
            local.unsubscribe(index, 0, &mut Vec::new());
        }
        assert_eq!((local.channels(), local.subscriptions(), local.stream_bytes()), (0, 0, 0));
        assert_eq!(local.backlog_bytes(), 0);
        assert!(local.take_ready().is_none());
        assert!(!local.handle_item("c", publication(2)), "nobody is subscribed");
    }

    #[test]
    fn items_for_nobody_do_not_reach_a_later_subscriber() {
        let mut local = local();
        let index = local.join_asked(&"c".into(), &Arc::default());
        assert!(!local.handle_item("c", publication(1)));
        let (_, cursor) = local.subscribe(index, Subscriber::new(1, 0, false), Offset(1));
        local.join_answered(index);
        assert_eq!(cursor, None);
        assert!(deliver(&mut local, 10, |_| ()).is_empty());
    }
}
