//! One followed channel: its list of subscribers and what is on its way through it.
//!
//! Must not know: other channels, whose turn it is.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Offset, Position, SLOT_BITS, SLOT_MAX};
use crate::base::time::Time;
use crate::hub::class::{Class, ClassId, Classes, FilterId};
use crate::hub::followed::sequence::Sequence;
use crate::hub::options::ChannelOptions;
use crate::hub::pace::Pacing;
use crate::hub::stream::{Cursor, Seq, Stream};

/// Index of a channel on this shard. Reused after the channel's last subscriber has gone.
pub type ChannelIndex = u32;

/// One subscriber in a channel's list: the connection's slot, and in the high byte what delivery needs to know
/// without touching the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subscriber(pub(super) u32);

const _: () = assert!(SLOT_BITS + ClassId::BITS + 2 == 32);

impl Subscriber {
    const CLASS_SHIFT: u32 = SLOT_BITS;
    /// It has a cursor: it lags, or joined between an item's arrival and its delivery.
    pub(super) const CURSOR: u32 = 1 << 30;
    /// Its class has frames of their own, or its shape is chained and it did not have the publication before: repeated here, so that
    /// delivery need not look the class up.
    const OWN_FRAMES: u32 = 1 << 31;

    pub(super) fn set_own_frames(&mut self, own_frames: bool) {
        self.0 = if own_frames { self.0 | Self::OWN_FRAMES } else { self.0 & !Self::OWN_FRAMES };
    }

    pub(super) fn new(slot: u32, class: ClassId, own_frames: bool) -> Subscriber {
        assert!(slot <= SLOT_MAX);
        let own_frames = if own_frames { Self::OWN_FRAMES } else { 0 };
        Subscriber(slot | class.to_bits() << Self::CLASS_SHIFT | own_frames)
    }

    pub fn slot(self) -> u32 {
        self.0 & SLOT_MAX
    }

    pub fn class(self) -> ClassId {
        ClassId::from_bits(self.0 >> Self::CLASS_SHIFT & ((1 << ClassId::BITS) - 1))
    }

    pub fn has_cursor(self) -> bool {
        self.0 & Self::CURSOR != 0
    }

    pub fn has_own_frames(self) -> bool {
        self.0 & Self::OWN_FRAMES != 0
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
    pub(super) stream: Stream,
    /// What of the channel's log has come so far.
    pub(super) sequence: Sequence,
    /// What is on its way. Present while something is, and in channels that gather.
    pub(super) on_way: Option<Box<OnWay>>,
    pub(super) subscribers: SmallVec<[Subscriber; 4]>,
    pub(super) classes: Classes,
    /// Joins asked of the owner and not yet answered: the channel is kept for them.
    pub(super) pending_joins: u32,
    /// Subscribers with a cursor: while there are any, the stream keeps what they may still need.
    pub(super) cursors: u32,
}

const _: () = assert!(size_of::<LocalChannel>() <= 128, "what a personal channel costs where its user is");

/// What a channel has while something is to be delivered.
pub(super) struct OnWay {
    /// Items before this have been taken into a batch: delivered, on their way, or left to a cursor. Without anything on its
    /// way those are all.
    pub(super) batched: Seq,
    pub(super) active: Option<Active>,
    pub(super) lane: Lane,
    /// No batch of what is to be delivered at once begins before this.
    pub(super) gathers_until: Time,
    /// Present while something of the channel is held back.
    pub(super) pacing: Option<Box<Pacing>>,
    /// Payload bytes of the items that no finished batch has delivered.
    pub(super) backlog_bytes: usize,
    /// Of these, those in the running batch.
    pub(super) active_bytes: usize,
}

impl OnWay {
    /// Nothing, in a stream that everything before `batched` has been taken from.
    pub(super) fn from(batched: Seq) -> OnWay {
        OnWay {
            batched,
            active: None,
            lane: Lane::Idle,
            gathers_until: Time::ZERO,
            pacing: None,
            backlog_bytes: 0,
            active_bytes: 0,
        }
    }
}

/// Where a channel waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nothing is to be delivered.
    Idle,
    /// In the queue of those with something to deliver.
    Ready,
    /// The running batch is spread over a window.
    Spread,
    /// The next batch, or the running one, waits for a moment without other deliveries.
    Bulk,
    /// The next batch waits until it is long enough since the last one began. None is running.
    Gather,
}

impl Lane {
    pub(super) fn holds_back(self) -> bool {
        matches!(self, Lane::Spread | Lane::Bulk | Lane::Gather)
    }
}

impl LocalChannel {
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn active(&self) -> Option<Active> {
        self.on_way.as_ref()?.active
    }

    pub(super) fn batched(&self) -> Seq {
        self.on_way.as_ref().map_or(self.stream.end(), |on_way| on_way.batched)
    }

    pub(super) fn lane(&self) -> Lane {
        self.on_way.as_ref().map_or(Lane::Idle, |on_way| on_way.lane)
    }

    /// What is on its way, beginning with nothing.
    pub(super) fn on_way(&mut self) -> &mut OnWay {
        let end = self.stream.end();
        self.on_way.get_or_insert_with(|| Box::new(OnWay::from(end)))
    }

    pub(super) fn pacing(&self) -> Option<&Pacing> {
        self.on_way.as_ref()?.pacing.as_deref()
    }

    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The payload that those with the filter had last that keep up: a batch goes on from it.
    pub fn delivered(&self, filter: Option<FilterId>) -> Option<&Bytes> {
        self.classes.delivered(filter)
    }

    /// `None` for a subscriber that is of no class.
    pub fn class_of(&self, subscriber: Subscriber) -> Option<Class> {
        self.classes.get(subscriber.class())
    }

    /// The position of the log at the stream's end. Known from the first subscription here on.
    pub fn top(&self) -> Option<Position> {
        let top = self.sequence.top()?;
        let waiting = self.pacing().and_then(|pacing| pacing.waiting.as_ref());
        Some(waiting.map_or(top, |waiting| Position { offset: waiting.before(), ..top }))
    }

    /// Something is to be delivered that no batch has taken.
    pub(super) fn has_more(&self) -> bool {
        self.batched() != self.stream.end() || self.pacing().is_some_and(|pacing| pacing.waiting.is_some())
    }

    /// The cursor of a subscriber that has had everything up to `stands`, when it is not to be treated like those that keep
    /// up: the owner's answer to its join may come before or after the items that it speaks of.
    pub(super) fn cursor_at(&self, stands: Offset) -> Option<Cursor> {
        let end = self.stream.end();
        match self.top().map_or(stands, |top| top.offset) {
            top if top == stands => (self.batched() != end).then(|| self.stream.cursor(end)),
            top if top > stands => Some(self.stream.cursor_after(stands).unwrap_or(Cursor {
                seq: self.stream.base(),
                after: stands,
                asked: false,
                skips: false,
            })),
            _ => Some(Cursor { seq: end, after: stands, asked: false, skips: true }),
        }
    }

    /// Where a subscriber at `position` of the list stands if it has kept up so far.
    pub fn cursor_of(&self, position: u32) -> Seq {
        match self.active() {
            Some(active) if position < active.remaining => active.start,
            _ => self.batched(),
        }
    }
}

/// A subscriber that moved to another place of its channel's list, because one before it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub slot: u32,
    pub from: u32,
    pub to: u32,
}

pub(super) fn relocate(list: &mut [Subscriber], from: u32, to: u32, moved: &mut Vec<Moved>) {
    if from != to {
        let subscriber = list[from as usize];
        list[to as usize] = subscriber;
        moved.push(Moved { slot: subscriber.slot(), from, to });
    }
}
