//! The short stream of a channel on a shard with subscribers: what is not yet delivered to everyone.
//!
//! Inputs: items from the channel's owner, in order. Outputs: runs of them by sequence, and the cursors of those who lag.
//! Must not know: who is subscribed, when an item is due.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Encoded, Publication};
use crate::hub::requests::JoinLeaveEvent;
use crate::record::{CursorRecord, InfoRecord, PublicationRecord, StreamItem, StreamRecord};

/// Position in a channel's stream on this shard: the next item to deliver.
pub type Seq = u64;

/// Bounds of the streams of a shard.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Payload bytes one channel keeps for its laggards.
    pub channel_bytes_max: usize,
    /// Items one channel keeps for its laggards.
    pub channel_items_max: usize,
    /// Payload bytes all channels of the shard together keep for laggards.
    pub shard_bytes_max: usize,
}

/// What a channel's owner sends to the shards of its subscribers.
#[derive(Clone, Debug)]
pub enum Item {
    Publication(Arc<Publication>),
    JoinLeaveEvent(Arc<JoinLeaveEvent>),
}

impl Item {
    pub fn encoded(&self) -> &Encoded {
        match self {
            Item::Publication(publication) => &publication.encoded,
            Item::JoinLeaveEvent(join_leave) => &join_leave.encoded,
        }
    }

    pub fn channel(&self) -> &ChannelName {
        match self {
            Item::Publication(publication) => &publication.channel,
            Item::JoinLeaveEvent(join_leave) => &join_leave.channel,
        }
    }

    /// Some subscribers do not get it.
    pub fn is_kept_from_some(&self) -> bool {
        matches!(self, Item::Publication(publication) if publication.except.is_some())
    }

    pub fn is_join_leave(&self) -> bool {
        matches!(self, Item::JoinLeaveEvent(_))
    }

    /// The place in the log, of those that have one: joins, leaves and publications kept out of history have none.
    pub fn offset(&self) -> Option<Offset> {
        match self {
            Item::Publication(publication) => {
                Some(publication.offset()).filter(|offset| *offset != Offset(0))
            }
            Item::JoinLeaveEvent(_) => None,
        }
    }

    /// Payload bytes.
    pub fn weight(&self) -> usize {
        match self {
            Item::Publication(publication) => publication.weight(),
            Item::JoinLeaveEvent(join_leave) => join_leave.info.user.len() + join_leave.info.client.len(),
        }
    }
}

/// Where a subscriber stands that has not had everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The next item to deliver, while the stream reaches back to it.
    pub seq: Seq,
    /// The last publication before that: where to go on in the channel's log when the stream does not.
    pub after: Offset,
    /// The log has been asked.
    pub asked: bool,
    /// `after` is past what the stream has: what still comes up to there is not for this subscriber.
    pub skips: bool,
}

impl Cursor {
    /// Whether the item is one that its subscriber has had before the stream has it.
    pub fn has_had(self, item: &Item) -> bool {
        self.skips && item.offset().is_some_and(|offset| self.has_had_offset(offset))
    }

    /// The same of a publication's offset; one outside the log has 0.
    pub fn has_had_offset(self, offset: Offset) -> bool {
        self.skips && offset != Offset(0) && offset <= self.after
    }
}

/// Items not yet delivered to everyone, oldest first.
#[derive(Default)]
pub struct Stream {
    /// Sequence of the first item.
    base: Seq,
    /// Offset of the last publication before that.
    base_offset: Offset,
    /// The items. Most channels have none most of the time.
    held: Option<Box<StreamItems>>,
}

const _: () = assert!(size_of::<Stream>() == 24, "what every channel with subscribers has");

/// What a stream has while it has items.
#[derive(Default)]
pub struct StreamItems {
    /// Bound: `StreamLimits`, in bytes; what is not delivered yet by the backlog of the shard.
    items: VecDeque<Item>,
    /// Something was lost before the item with this sequence, up to this offset. While `base` is before it, who stands before
    /// it cannot be brought past it.
    broken_at: (Seq, Offset),
    weight: usize,
}

/// Room for items that streams of a shard have given up: the next ones take it without an allocation.
pub type Spares = Vec<Box<StreamItems>>;

/// Bound of [`Spares`]: about as many channels deliver in one turn of a busy shard.
const SPARES_MAX: usize = 512;
/// Room for more items than this is given back.
const SPARE_ITEMS_MAX: usize = 64;

impl Stream {
    /// If nothing is kept: the last publication before the next item has the offset `top`.
    pub fn begin_after(&mut self, top: Offset) {
        if self.is_empty() {
            self.base_offset = top;
        }
    }

    /// An empty stream whose sequence goes on from here.
    pub fn restarted(&self) -> Stream {
        Stream { base: self.end(), ..Stream::default() }
    }

    /// Sequence of the first item kept.
    pub fn base(&self) -> Seq {
        self.base
    }

    /// Sequence that the next item will get.
    pub fn end(&self) -> Seq {
        self.base + self.items() as u64
    }

    /// Items from `seq` on; empty at the end. `seq` must not have fallen off.
    pub fn from(&self, seq: Seq) -> impl Iterator<Item = &Item> {
        debug_assert!(seq >= self.base);
        self.list().range((seq.saturating_sub(self.base) as usize).min(self.items())..)
    }

    /// Items of `start..end`.
    pub fn between(&self, start: Seq, end: Seq) -> impl Iterator<Item = &Item> {
        self.from(start).take((end - start) as usize)
    }

    /// How many are kept.
    pub fn items(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.items.len())
    }

    fn is_empty(&self) -> bool {
        self.items() == 0
    }

    fn list(&self) -> &VecDeque<Item> {
        static NONE: VecDeque<Item> = VecDeque::new();
        self.held.as_ref().map_or(&NONE, |held| &held.items)
    }

    /// Payload bytes of all items.
    pub fn weight(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.weight)
    }

    /// An item is going to come: takes what another stream has given up.
    pub fn make_room(&mut self, spares: &mut Spares) {
        if self.held.is_none() {
            self.held = spares.pop();
        }
    }

    /// Gives up what holds nothing.
    pub fn give_room_back(&mut self, spares: &mut Spares) {
        if !self.is_empty() {
            return;
        }
        if let Some(mut held) = self.held.take()
            && held.items.capacity() <= SPARE_ITEMS_MAX
            && spares.len() < SPARES_MAX
        {
            held.broken_at = Default::default();
            spares.push(held);
        }
    }

    /// The cursor of a subscriber that has had everything before `seq`.
    pub fn cursor(&self, seq: Seq) -> Cursor {
        let (from, start) = match self.unbroken() {
            (from, start) if seq >= from => (from, start),
            _ => (self.base, self.base_offset),
        };
        let place = |seq: Seq| ((seq - self.base) as usize).min(self.items());
        let before = self.list().range(place(from)..place(seq));
        let after = before.rev().find_map(Item::offset).unwrap_or(start);
        Cursor { seq, after, asked: false, skips: false }
    }

    /// The cursor of a subscriber that has had every publication up to `after`; `None` when the stream does not reach
    /// back to there.
    pub fn cursor_after(&self, after: Offset) -> Option<Cursor> {
        let (from, start) = self.unbroken();
        if after < start {
            return None;
        }
        let mut later = self.list().range((from - self.base) as usize..);
        let later = later.position(|item| item.offset().is_some_and(|offset| offset > after));
        let seq = later.map_or(self.end(), |at| from + at as u64);
        Some(Cursor { seq, after, asked: false, skips: false })
    }

    /// From where on nothing is missing, and the offset before that.
    fn unbroken(&self) -> (Seq, Offset) {
        match &self.held {
            Some(held) if self.base < held.broken_at.0 => held.broken_at,
            _ => (self.base, self.base_offset),
        }
    }

    /// The last item that is kept behind everything that was lost, or the end.
    pub fn newest(&self) -> Seq {
        self.end().saturating_sub(1).max(self.unbroken().0)
    }

    /// Everything between the last item and `offset` is lost.
    pub fn break_at(&mut self, offset: Offset) {
        let end = self.end();
        match &mut self.held {
            Some(held) if !held.items.is_empty() => held.broken_at = (end, offset),
            _ => self.base_offset = offset,
        }
    }

    /// Whether everything that a cursor may still need is here.
    pub fn reaches(&self, cursor: Cursor) -> bool {
        let (from, start) = self.unbroken();
        cursor.seq >= from && cursor.after >= start
    }

    /// Whether there is something to be done for a cursor before the next item comes.
    pub fn is_before_end(&self, cursor: Cursor) -> bool {
        cursor.seq < self.end() || !self.reaches(cursor)
    }

    /// The cursor moved on to `seq`, with everything before that given to its subscriber.
    pub fn moved(&self, cursor: Cursor, seq: Seq) -> Cursor {
        let moved = self.cursor(seq);
        match cursor.skips && cursor.after > moved.after {
            true => Cursor { after: cursor.after, skips: true, ..moved },
            false => moved,
        }
    }

    pub fn push(&mut self, item: Item) {
        let held = self.held.get_or_insert_default();
        held.weight += item.weight();
        held.items.push_back(item);
    }

    /// Drops items before `keep_from`: all of them, or as many as `kept` has no room for. Gives the payload bytes dropped.
    pub fn trim(&mut self, keep_from: Seq, kept: Option<StreamLimits>) -> usize {
        let before = self.weight();
        while self.base < keep_from
            && kept.is_none_or(|limits| {
                self.weight() > limits.channel_bytes_max || self.items() > limits.channel_items_max
            })
        {
            self.pop();
        }
        before - self.weight()
    }

    fn pop(&mut self) {
        let Some(held) = &mut self.held else { return };
        if let Some(item) = held.items.pop_front() {
            held.weight -= item.weight();
            self.base += 1;
            self.base_offset = match held.broken_at {
                (seq, offset) if seq == self.base => offset,
                _ => item.offset().unwrap_or(self.base_offset),
            };
        }
    }
}

/// Where a stream that came from a record ends, however long it is: cursors are counted from there, and one may come before
/// the record that reaches back to it.
const RESTORED_END: Seq = 1 << 40;

impl Stream {
    /// What laggards of this shard may still need of `channel`, whose log stands at `top` at the stream's end.
    pub fn to_record(&self, channel: &ChannelName, top: Option<Position>) -> StreamRecord {
        let (from, base) = self.unbroken();
        let items = self.list().range((from - self.base) as usize..).map(|item| match item {
            Item::Publication(publication) => StreamItem::Publication(PublicationRecord::of(publication)),
            Item::JoinLeaveEvent(join_leave) if join_leave.joined => {
                StreamItem::Joined(InfoRecord::of(&join_leave.info))
            }
            Item::JoinLeaveEvent(join_leave) => StreamItem::Left(InfoRecord::of(&join_leave.info)),
        });
        StreamRecord { channel: channel.clone(), top, base, items: items.collect() }
    }

    /// The stream of a record. Shards that have been sent everything have streams with the same end: of several records of
    /// one channel the longest serves the laggards of all.
    pub fn from_record(record: StreamRecord) -> Stream {
        let base = RESTORED_END - record.items.len() as Seq;
        let mut stream = Stream { base, base_offset: record.base, ..Stream::default() };
        for item in record.items {
            let join_leave = |joined, info: InfoRecord| {
                let (channel, info) = (record.channel.clone(), Arc::new(info.info()));
                Item::JoinLeaveEvent(Arc::new(JoinLeaveEvent {
                    channel,
                    joined,
                    info,
                    encoded: Encoded::default(),
                }))
            };
            stream.push(match item {
                StreamItem::Publication(publication) => {
                    Item::Publication(publication.publication(&record.channel))
                }
                StreamItem::Joined(info) => join_leave(true, info),
                StreamItem::Left(info) => join_leave(false, info),
            });
        }
        stream
    }

    /// Where a subscriber of `channel` stands, counted from the end: that is the same on every shard.
    pub fn cursor_to_record(&self, channel: &ChannelName, cursor: Cursor) -> CursorRecord {
        let behind = self.end().saturating_sub(cursor.seq);
        CursorRecord { channel: channel.clone(), behind, after: cursor.after }
    }

    /// The cursor of a record, in a stream that came from one. Whatever was asked of the log is to be asked once more.
    pub fn cursor_from_record(&self, record: &CursorRecord) -> Cursor {
        let seq = self.end().saturating_sub(record.behind);
        Cursor { seq, after: record.after, asked: false, skips: false }
    }

    /// The same when all records of the channel have come. It has fallen off when no stream reached back to it.
    pub fn settled(&self, cursor: Cursor) -> Cursor {
        let skips = cursor.seq >= self.base && cursor.after > self.cursor(cursor.seq).after;
        Cursor { skips, ..cursor }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::Epoch;
    use crate::base::prng::Prng;
    use crate::base::publication::ClientInfo;
    use crate::record;

    /// Of ten bytes; outside the log with offset 0.
    pub fn publication(offset: u64) -> Item {
        Item::Publication(Arc::new(Publication {
            channel: "c".into(),
            position: Position { offset: Offset(offset), epoch: Epoch(1) },
            data: Bytes::from_static(b"0123456789"),
            info: None,
            tags: Vec::new(),
            except: None,
            time_ms: 0,
            encoded: Encoded::default(),
        }))
    }

    /// Offsets after `top`, with an item outside the log behind every second.
    fn stream(top: u64, count: u64) -> Stream {
        let mut stream = Stream::default();
        stream.begin_after(Offset(top));
        for offset in top + 1..=top + count {
            stream.push(publication(offset));
            if offset % 2 == 0 {
                stream.push(publication(0));
            }
        }
        stream
    }

    #[test]
    fn a_cursor_names_its_place_in_the_log_wherever_the_stream_begins() {
        // Sequence: 0 is 11, 1 is 12, 2 has no offset, 3 is 13, 4 is 14, 5 has none, 6 is 15.
        let mut stream = stream(10, 5);
        stream.begin_after(Offset(99));
        let afters =
            |stream: &Stream| (stream.base()..=7).map(|seq| stream.cursor(seq).after.0).collect::<Vec<_>>();
        assert_eq!(afters(&stream), [10, 11, 12, 12, 13, 14, 14, 15]);
        let seq = |stream: &Stream, after| stream.cursor_after(Offset(after)).map(|cursor| cursor.seq);
        assert_eq!(
            [9, 10, 12, 15, 20].map(|after| seq(&stream, after)),
            [None, Some(0), Some(3), Some(7), Some(7)]
        );
        stream.trim(3, None);
        assert_eq!(afters(&stream), [12, 13, 14, 14, 15]);
        assert_eq!([11, 12, 13].map(|after| seq(&stream, after)), [None, Some(3), Some(4)]);
        stream.trim(7, None);
        assert_eq!((afters(&stream), seq(&stream, 15)), (vec![15], Some(7)));
    }

    /// Two shards have been sent the same; one keeps more of it. The longer stream serves the laggards of both.
    #[test]
    fn laggards_go_on_in_a_stream_that_came_from_a_record() {
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let (mut longer, mut shorter) = (Stream::default(), Stream::default());
            // As if the two shards had begun at different times.
            let begun = prng.u64(..10);
            (longer.base, shorter.base) = (7, 7 + begun);
            for offset in 1..begun + prng.u64(..10) {
                let join_leave = || {
                    let info = ClientInfo { client: offset.to_string(), ..ClientInfo::default() };
                    let info = Arc::new(info);
                    let (channel, encoded) = ("c".into(), Encoded::default());
                    Item::JoinLeaveEvent(Arc::new(JoinLeaveEvent {
                        channel,
                        joined: offset % 2 == 0,
                        info,
                        encoded,
                    }))
                };
                let item = if prng.u8(..4) == 0 { join_leave() } else { publication(offset) };
                if offset > begun {
                    shorter.push(item.clone());
                }
                longer.push(item);
            }
            let mut bytes = Vec::new();
            record::write(&longer.to_record(&"c".into(), None), &mut bytes).unwrap();
            let restored = Stream::from_record(record::read(&bytes).unwrap());
            assert_eq!(restored.weight(), longer.weight());
            let told =
                |stream: &Stream, seq| stream.from(seq).map(|item| format!("{item:?}")).collect::<Vec<_>>();
            for stream in [&longer, &shorter] {
                for seq in stream.base()..=stream.end() {
                    let cursor = stream.cursor(seq);
                    let moved = restored.cursor_from_record(&stream.cursor_to_record(&"c".into(), cursor));
                    let moved = restored.settled(moved);
                    assert_eq!(told(&restored, moved.seq), told(stream, seq), "seed {seed}");
                    assert_eq!((moved.after, moved.asked), (cursor.after, false));
                }
                let fallen = Cursor { seq: 0, after: Offset(3), asked: true, skips: false };
                let moved = restored.cursor_from_record(&stream.cursor_to_record(&"c".into(), fallen));
                assert!(moved.seq < restored.base() && moved.after == Offset(3) || stream.base() == 0);
            }
        }
    }

    #[test]
    fn no_cursor_is_brought_past_what_was_lost() {
        // Sequence: 0 is 11, 1 is 12, 2 has no offset; 13 to 19 are lost, 3 is 20.
        let mut stream = stream(10, 2);
        stream.break_at(Offset(19));
        assert_eq!(stream.newest(), 3, "who skips to the newest is not sent back before the loss");
        stream.push(publication(20));
        assert_eq!([0, 2, 3, 4].map(|seq| stream.cursor(seq).after.0), [10, 12, 19, 20]);
        let seq = |stream: &Stream, after| stream.cursor_after(Offset(after)).map(|cursor| cursor.seq);
        assert_eq!(
            [10, 12, 18, 19, 20].map(|after| seq(&stream, after)),
            [None, None, None, Some(3), Some(4)]
        );
        assert_eq!(stream.newest(), 3);
        assert_eq!([0, 2, 3, 4].map(|seq| stream.reaches(stream.cursor(seq))), [false, false, true, true]);
        stream.trim(3, None);
        assert_eq!((stream.cursor(3).after, seq(&stream, 18), seq(&stream, 19)), (Offset(19), None, Some(3)));
        stream.trim(4, None);
        assert_eq!((seq(&stream, 19), seq(&stream, 20)), (None, Some(4)));
        assert_eq!(stream.newest(), 4);
        // With nothing kept, and in another epoch.
        stream.break_at(Offset(2));
        assert_eq!((stream.cursor(4).after, seq(&stream, 1), seq(&stream, 2)), (Offset(2), None, Some(4)));
    }

    #[test]
    fn a_cursor_past_the_stream_skips_until_the_stream_has_passed_it() {
        let mut stream = stream(10, 1);
        let cursor = Cursor { seq: 1, after: Offset(13), asked: false, skips: true };
        for offset in [12, 0, 13, 14] {
            stream.push(publication(offset));
        }
        let had: Vec<bool> = stream.from(1).map(|item| cursor.has_had(item)).collect();
        assert_eq!(had, [true, false, true, false]);
        assert_eq!(stream.moved(cursor, 3), Cursor { seq: 3, ..cursor });
        assert_eq!(stream.moved(cursor, 4), stream.cursor(4));
    }

    #[test]
    fn only_what_has_no_room_is_dropped_while_somebody_lags() {
        let room = |bytes, items| {
            Some(StreamLimits {
                channel_bytes_max: bytes,
                channel_items_max: items,
                shard_bytes_max: usize::MAX,
            })
        };
        let mut stream = stream(0, 10);
        assert_eq!((stream.weight(), stream.end()), (150, 15));
        assert_eq!((stream.trim(10, room(1_000, 1_000)), stream.base()), (0, 0));
        assert_eq!((stream.trim(10, room(100, 1_000)), stream.base()), (50, 5));
        assert_eq!((stream.trim(10, room(1_000, 8)), stream.base()), (20, 7));
        assert_eq!((stream.trim(10, room(0, 0)), stream.base()), (30, 10), "not what may not be dropped");
        assert_eq!(stream.between(11, 13).count(), 2);
        assert_eq!((stream.trim(15, None), stream.weight(), stream.end()), (50, 0, 15));
        let restarted = stream.restarted();
        assert_eq!((restarted.base(), restarted.end(), restarted.from(15).count()), (15, 15, 0));
    }
}
