//! Delivery: a channel's batch to its subscribers, in slices.
//!
//! First what is due of spread publications, a slice of it; then what is to be delivered at once; then the rest of what
//! is due; and only when nothing is left of all these, a slice of what was published as bulk.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::base::bytes::BytesMut;
use crate::base::publication::Publication;
use crate::hub::class::{Class, ClassId};
use crate::hub::followed::{Active, Cursor, Item, LocalChannel, Seq};
use crate::proto::websocket::deflate::Deflater;
use crate::shard::audience::{class_of, is_filtered, item_is_kept_from};
use crate::shard::core::Core;
use crate::shard::framing::{encode_chained, encode_item};
use crate::shard::outbox::{FrameId, Outbox};
use crate::shard::unidirectional::append_item;

/// Deliveries in one tick: at some microseconds each, reads and other channels wait about a millisecond.
const DELIVERIES_PER_TICK: u32 = 512;
/// Deliveries of one channel before the next one has its turn.
const SLICE: u32 = 128;

impl Core {
    /// Delivers what has come in, as much as one tick may.
    pub fn deliver(&mut self) {
        let now = self.env.now;
        let mut budget = DELIVERIES_PER_TICK;
        self.delivery.followed.promote_due(now);
        // A share of its own: a shard that is always busy must not hold up what has a time.
        self.deliver_spread(SLICE, &mut budget);
        while budget > 0 {
            let Some((index, active)) = self.delivery.followed.take_ready(now) else { break };
            let until = active.remaining.saturating_sub(SLICE.min(budget));
            budget -= self.deliver_slice(index, active, until).min(budget);
        }
        if self.delivery.followed.has_ready() {
            self.delivery.fell_behind(self.env.now);
            return;
        }
        let left = budget;
        self.deliver_spread(left, &mut budget);
        if budget > 0
            && !self.delivery.pushes.has_any()
            && let Some((index, active)) = self.delivery.followed.take_bulk(now)
        {
            // Little at a time: what comes in meanwhile goes first in the next turn.
            self.deliver_slice(index, active, active.remaining.saturating_sub(SLICE.min(budget)));
        }
    }

    /// Delivers what is due of spread publications, `share` at most.
    fn deliver_spread(&mut self, mut share: u32, budget: &mut u32) {
        while share > 0 {
            let Some((index, active, until)) =
                self.delivery.followed.take_spread(self.env.now, share.min(SLICE))
            else {
                return;
            };
            let cost = self.deliver_slice(index, active, until);
            share -= cost.min(share);
            *budget -= cost.min(*budget);
        }
    }

    /// Delivers a batch to its remaining subscribers down to `until`; gives how many turns of the budget that took, at
    /// least one.
    fn deliver_slice(&mut self, index: u32, active: Active, until: u32) -> u32 {
        let stream = self.delivery.followed.get(index).stream();
        let some = stream.between(active.start, active.end).any(Item::is_kept_from_some);
        let passed_over = match some {
            false => self.append_frames::<false>(index, active, until),
            true => self.append_frames::<true>(index, active, until),
        };
        let visited = active.remaining - until;
        self.env.stats.counters.deliveries_total +=
            u64::from(visited - passed_over) * (active.end - active.start);
        let mut special = std::mem::take(&mut self.delivery.special);
        special.retain(|&(place, slot)| {
            if self.is_held_poll(slot) {
                return self.meets(slot, index, active);
            }
            self.deliver_to_one(index, place, slot, active);
            false
        });
        // Polls leave with what they get, and the list must not change under the batch.
        let items = match special.is_empty() {
            true => Vec::new(),
            false => publications(self.delivery.followed.get(index), active),
        };
        self.env.stages.delivered(self.delivery.followed.get(index), active, until);
        self.delivery.followed.advance(index, until, self.env.now);
        for (_, slot) in special.drain(..) {
            self.answer_held(slot, index, active, &items);
        }
        self.delivery.special = special;
        visited.max(1)
    }

    /// Appends the frames of a batch's classes for the subscribers that get what their class gets; the others are noted.
    /// `SOME`: something in the batch is kept from some of them. Gives for how many nothing is in it.
    fn append_frames<const SOME: bool>(&mut self, index: u32, active: Active, until: u32) -> u32 {
        let mut passed_over = 0;
        let channel = self.delivery.followed.get(index);
        let subscribers = channel.subscribers();
        let mut batch = Batch::new(active, channel);
        for place in (until..active.remaining).rev() {
            let subscriber = subscribers[place as usize];
            if subscriber.has_cursor() || subscriber.has_own_frames() {
                self.delivery.special.push((place, subscriber.slot()));
                continue;
            }
            if SOME && let Some(connection) = self.links.connections.get(subscriber.slot()) {
                let mut items = channel.stream().between(active.start, active.end);
                if items.any(|item| item_is_kept_from(&self.peers, &connection.peer, item)) {
                    self.delivery.special.push((place, subscriber.slot()));
                    continue;
                }
            }
            let deflater = &mut self.links.compression.deflater;
            let Some(frame) = batch.frame(channel, subscriber.class(), &mut self.links.outbox, deflater)
            else {
                passed_over += 1;
                continue;
            };
            if let Some(connection) = self.links.connections.get_mut(subscriber.slot()) {
                self.links.outbox.append(subscriber.slot(), &mut connection.link.chain, frame);
            }
        }
        passed_over
    }

    /// A batch meets a subscriber with a cursor, or one whose frames are its own.
    fn deliver_to_one(&mut self, index: u32, place: u32, slot: u32, active: Active) {
        let subscriber = self.delivery.followed.get(index).subscribers()[place as usize];
        if subscriber.has_cursor() && self.meets_paced(slot, index) {
            return;
        }
        let channel = self.delivery.followed.get(index);
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let connecting = connection.peer.is_connecting();
        let cursor = match &connection.link.pending {
            // Nothing may be given to it: it stays where it is.
            Some(pending) if subscriber.has_cursor() && (pending.blocked || pending.held || connecting) => {
                return;
            }
            Some(pending) if subscriber.has_cursor() => match pending.cursor_in(index) {
                Some(cursor) => cursor,
                None => return,
            },
            _ => Cursor { seq: active.start, ..Cursor::default() },
        };
        // Behind the batch, it is catching up by itself; past it, it waits for the next.
        if cursor.seq < active.start || cursor.seq > active.end {
            return;
        }
        // Before something that is not here: the log is asked.
        if subscriber.has_cursor() && !channel.stream().reaches(cursor) {
            return;
        }
        let Some(class) = class_of(connection, channel, subscriber, index) else { return };
        // Whether it has had the last publication that its class gets, if there was one.
        let mut in_step = None;
        for item in channel.stream().between(cursor.seq, active.end) {
            if item.is_join_leave() && !class.join_leave || cursor.has_had(item) {
                continue;
            }
            if is_filtered(&connection.peer, index, item) {
                continue;
            }
            let kept_from_it = item_is_kept_from(&self.peers, &connection.peer, item);
            if !item.is_join_leave() {
                in_step = Some(!kept_from_it);
            }
            if kept_from_it {
                continue;
            }
            append_item(
                &mut self.links.outbox,
                &self.delivery.followed,
                slot,
                connection,
                index,
                class.shape,
                item,
                &mut self.links.compression.deflater,
            );
        }
        if !subscriber.has_cursor() {
            if class.shape.is_chained()
                && let Some(in_step) = in_step
            {
                self.delivery.followed.set_in_step(index, place, in_step);
            }
            return;
        }
        self.cursor_moved(slot, index, place, cursor, active.end);
    }

    /// A subscriber with a cursor has had the stream up to `seq`, the end of a batch: from there on it keeps up, unless
    /// it stands past that.
    pub fn cursor_moved(&mut self, slot: u32, index: u32, place: u32, cursor: Cursor, seq: Seq) {
        let channel = self.delivery.followed.get(index);
        let moved = channel.stream().moved(cursor, seq);
        if !moved.skips {
            return self.drop_cursor(slot, index, place);
        }
        let pending =
            self.links.connections.get_mut(slot).and_then(|connection| connection.link.pending.as_mut());
        if let Some(cursor) = pending.and_then(|pending| pending.cursor(index)) {
            *cursor = moved;
        }
    }
}

/// The publications of a batch, each with its place in the stream.
fn publications(channel: &LocalChannel, active: Active) -> Vec<(Seq, Arc<Publication>)> {
    let items = channel.stream().between(active.start, active.end);
    let numbered = (active.start..).zip(items);
    numbered
        .filter_map(|(seq, item)| match item {
            Item::Publication(publication) => Some((seq, Arc::clone(publication))),
            Item::JoinLeaveEvent(_) => None,
        })
        .collect()
}

/// The frames of a batch, made for each class when the first subscriber of it is met.
struct Batch {
    active: Active,
    frames: SmallVec<[Option<Option<FrameId>>; 8]>,
}

impl Batch {
    fn new(active: Active, channel: &LocalChannel) -> Batch {
        Batch { active, frames: smallvec![None; channel.classes().len()] }
    }

    /// `None`: nothing in the batch is for this class.
    fn frame(
        &mut self,
        channel: &LocalChannel,
        class: ClassId,
        outbox: &mut Outbox,
        deflater: &mut Deflater,
    ) -> Option<FrameId> {
        let Active { start, end, .. } = self.active;
        *self.frames[class.index()].get_or_insert_with(|| {
            let Class { encoding, join_leave, shape, filter, .. } = channel.classes().get(class)?;
            let passes = |&(at, item): &(usize, &Item)| match item.is_join_leave() {
                true => join_leave,
                false => filter.is_none_or(|filter| channel.classes().passed(filter, at)),
            };
            let items = || channel.stream().between(start, end).enumerate();
            let wanted = || items().filter(passes).map(|(_, item)| item);
            let first = wanted().next()?;
            if shape.is_chained() {
                let mut base = channel.delivered(filter);
                let mut whole = BytesMut::new();
                for item in wanted() {
                    whole.extend_from_slice(encode_chained(item, encoding, base, deflater));
                    if let Item::Publication(publication) = item {
                        base = Some(&publication.data);
                    }
                }
                return Some(outbox.frame(whole.freeze()));
            }
            if wanted().nth(1).is_none() {
                return Some(outbox.frame(encode_item(first, encoding, deflater).clone()));
            }
            // Many become one: each subscriber then costs one piece of one write.
            let length = wanted().map(|item| encode_item(item, encoding, deflater).len()).sum();
            let mut whole = BytesMut::with_capacity(length);
            for item in wanted() {
                whole.extend_from_slice(encode_item(item, encoding, deflater));
            }
            Some(outbox.frame(whole.freeze()))
        })
    }
}

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;
