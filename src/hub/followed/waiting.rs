//! Publications of value channels wait for the batch that they are delivered with.

use std::sync::Arc;

use crate::base::ids::Offset;
use crate::base::publication::Publication;
use crate::hub::followed::{ChannelIndex, FollowedChannels, ITEM_BYTES};
use crate::hub::waiting::WaitingValues;

fn bytes_of(publication: &Publication) -> usize {
    publication.weight() + ITEM_BYTES
}

impl FollowedChannels {
    /// The next publication of a value channel waits for its batch.
    pub(super) fn put_waiting(&mut self, index: ChannelIndex, publication: Arc<Publication>, before: Offset) {
        self.make_room(index);
        let on_way = self.channels[index as usize].on_way();
        let pacing = on_way.pacing.get_or_insert_default();
        let waiting = pacing.waiting.get_or_insert_with(|| Box::new(WaitingValues::behind(before)));
        let added = bytes_of(&publication);
        let freed = waiting.put(publication).map_or(0, |replaced| bytes_of(&replaced));
        self.conflated += u64::from(freed > 0);
        let sum = if on_way.lane.holds_back() { &mut self.held_bytes } else { &mut self.backlog_bytes };
        *sum = *sum + added - freed;
        on_way.backlog_bytes = on_way.backlog_bytes + added - freed;
    }

    /// What waits belongs to the stream from now on.
    pub(super) fn take_waiting(&mut self, index: ChannelIndex) {
        let entry = &mut self.channels[index as usize];
        let pacing = entry.on_way.as_mut().and_then(|on_way| on_way.pacing.as_mut());
        if let Some(waiting) = pacing.and_then(|pacing| pacing.waiting.take()) {
            self.stream_bytes += waiting.flow_into(&mut entry.stream);
        }
    }

    /// What waits is from before a loss.
    pub(super) fn drop_waiting(&mut self, index: ChannelIndex) {
        let Some(on_way) = &mut self.channels[index as usize].on_way else { return };
        if let Some(waiting) = on_way.pacing.as_mut().and_then(|pacing| pacing.waiting.take()) {
            let bytes: usize = waiting.publications().map(|publication| bytes_of(publication)).sum();
            on_way.backlog_bytes -= bytes;
            *if on_way.lane.holds_back() { &mut self.held_bytes } else { &mut self.backlog_bytes } -= bytes;
        }
    }

    /// Everything that waits belongs to the streams, for a process that goes on from there.
    pub fn take_all_waiting(&mut self) {
        let all: Vec<ChannelIndex> = self.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.take_waiting(index));
    }

    /// Values that were replaced before they were delivered.
    pub fn conflated_total(&self) -> u64 {
        self.conflated
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::{EncodingId, Epoch, Position};
    use crate::base::prng::Prng;
    use crate::base::publication::KEY_TAG;
    use crate::base::time::Time;
    use crate::hub::class::Class;
    use crate::hub::followed::{Item, StreamLimits};
    use crate::hub::requests::{Pace, ReadAnswer};
    use crate::hub::{ChannelKind, ChannelOptions, Deliver};
    use std::time::Duration;

    const CLASS: Class = Class::shared(EncodingId(0));
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];

    fn value(offset: u64, key: &str) -> Arc<Publication> {
        Arc::new(Publication {
            channel: "c".into(),
            position: Position { offset: Offset(offset), epoch: Epoch(1) },
            data: Bytes::copy_from_slice(offset.to_string().as_bytes()),
            info: None,
            tags: vec![(KEY_TAG.to_owned(), key.to_owned())],
            except: None,
            time_ms: 0,
            encoded: Default::default(),
        })
    }

    /// What is delivered up to `now`, batch by batch, as offsets.
    fn deliver(followed: &mut FollowedChannels, now: Time) -> Vec<Vec<u64>> {
        followed.promote_due(now);
        let mut batches = Vec::new();
        while let Some((index, active)) = followed.take_ready(now) {
            let items = followed.get(index).stream().between(active.start, active.end);
            batches.push(items.filter_map(Item::offset).map(|offset| offset.0).collect());
            followed.advance(index, 0, now);
        }
        batches
    }

    fn subscribed(deliver_every: Duration) -> (FollowedChannels, ChannelIndex) {
        let limits =
            StreamLimits { channel_bytes_max: 1 << 20, channel_items_max: 1000, shard_bytes_max: 1 << 20 };
        let mut followed = FollowedChannels::new(limits, 7);
        let kind = ChannelKind::Value;
        let options = Arc::new(ChannelOptions { kind, deliver_every, ..ChannelOptions::default() });
        let index = followed.join_asked(&"c".into(), &options);
        followed.top_learned(index, Position { offset: Offset(0), epoch: Epoch(1) }, Time::ZERO);
        followed.subscribe(index, 1, CLASS, None, Offset(0));
        followed.join_answered(index);
        (followed, index)
    }

    /// Some items are lost on the way, and read from a log that has the newest of each key. Whoever keeps up has, in the end, what the
    /// log has; who joins in between gets nothing that it has had.
    #[test]
    fn a_subscriber_that_keeps_up_ends_at_the_newest_of_each_key() {
        for seed in 0..300 {
            let mut prng = Prng::with_seed(seed);
            let every = Duration::from_millis([0, 100][seed as usize % 2]);
            let (mut followed, index) = subscribed(every);
            let mut truth: BTreeMap<&str, Arc<Publication>> = BTreeMap::new();
            let mut has: BTreeMap<String, u64> = BTreeMap::new();
            let key_at: Vec<&str> = (0..=200).map(|_| KEYS[prng.usize(..4)]).collect();
            let (mut now, mut begun) = (Time::from_millis(1), Vec::new());
            for (offset, &key) in key_at.iter().enumerate().skip(1) {
                let publication = value(offset as u64, key);
                truth.insert(key, Arc::clone(&publication));
                // The last one comes, so that a loss is seen.
                if prng.u8(..10) > 0 || offset == 200 {
                    followed.handle_item("c", Item::Publication(publication), now);
                }
                if prng.u8(..20) == 0 {
                    let (place, cursor) = followed.subscribe(index, 2, CLASS, None, Offset(offset as u64));
                    let stands = followed.get(index).top().unwrap().offset.0;
                    assert_eq!(cursor.is_some_and(|cursor| cursor.skips), stands < offset as u64);
                    followed.unsubscribe(index, place, &mut Vec::new());
                }
                if prng.u8(..6) == 0 || offset == 200 {
                    now = now + Duration::from_millis(prng.u64(..250) + 200 * u64::from(offset == 200));
                    while let Some(read) = followed.take_read(now) {
                        let mut publications: Vec<_> = truth.values().cloned().collect();
                        publications.sort_by_key(|publication| publication.offset());
                        publications.retain(|publication| publication.offset() > read.after.offset);
                        publications.truncate(2);
                        let position = Position { offset: Offset(offset as u64), epoch: Epoch(1) };
                        let page = ReadAnswer::Page { publications, position };
                        assert_eq!(followed.handle_read(&read, page, now), None, "nothing is lost");
                    }
                    for batch in deliver(&mut followed, now) {
                        begun.push(now);
                        let keys: Vec<&str> = batch.iter().map(|offset| key_at[*offset as usize]).collect();
                        let distinct: std::collections::BTreeSet<&&str> = keys.iter().collect();
                        assert_eq!(distinct.len(), keys.len(), "seed {seed}: a key once in a batch");
                        assert!(batch.is_sorted());
                        has.extend(keys.iter().zip(&batch).map(|(key, at)| ((*key).to_owned(), *at)));
                    }
                }
            }
            now = now + Duration::from_secs(1);
            for batch in deliver(&mut followed, now) {
                has.extend(batch.iter().map(|at| (key_at[*at as usize].to_owned(), *at)));
            }
            let newest = truth.iter().map(|(key, publication)| ((*key).to_owned(), publication.offset().0));
            assert_eq!(has, newest.collect(), "seed {seed}");
            for pair in begun.windows(2) {
                assert!(pair[1].since(pair[0]) >= every, "seed {seed}: too soon");
            }
            let left = (followed.backlog_bytes(), followed.held_bytes(), followed.stream_bytes());
            assert_eq!(left, (0, 0, 0), "seed {seed}: all is accounted for");
        }
    }

    #[test]
    fn what_waits_is_bounded_by_the_keys() {
        let (mut followed, index) = subscribed(Duration::from_secs(10));
        followed.handle_item("c", Item::Publication(value(1, "a")), Time::from_millis(1));
        assert_eq!(deliver(&mut followed, Time::from_millis(1)), [[1]], "the first goes out at once");
        for offset in 2..10_000 {
            let publication = value(offset, KEYS[offset as usize % 4]);
            followed.handle_item("c", Item::Publication(publication), Time::from_millis(2));
        }
        assert!(followed.held_bytes() < 4 * (ITEM_BYTES + 20), "{}", followed.held_bytes());
        assert_eq!((followed.conflated_total(), followed.get(index).stream().items()), (9_998 - 4, 0));
        assert_eq!(deliver(&mut followed, Time::from_millis(10_001)), [[9_996, 9_997, 9_998, 9_999]]);
    }

    /// Another process goes on: what waited is in the stream by then.
    #[test]
    fn what_waits_goes_to_the_next_process_with_the_stream() {
        let (mut followed, index) = subscribed(Duration::from_secs(10));
        let now = Time::from_millis(1);
        followed.handle_item("c", Item::Publication(value(1, "a")), now);
        deliver(&mut followed, now);
        (2..8).for_each(|offset| {
            followed.handle_item("c", Item::Publication(value(offset, KEYS[offset as usize % 4])), now);
        });
        assert_eq!(followed.get(index).top().unwrap().offset, Offset(1));
        followed.take_all_waiting();
        let channel = followed.get(index);
        assert_eq!(channel.top().unwrap().offset, Offset(7));
        let record = channel.stream().to_record(&channel.name, channel.top());
        assert_eq!(record.items.len(), 4);
    }

    /// Of three that are to be spread, the first is on its way when the others come: the last of these is delivered after it.
    #[test]
    fn a_newer_notice_replaces_the_one_that_waits() {
        let limits =
            StreamLimits { channel_bytes_max: 1 << 20, channel_items_max: 1000, shard_bytes_max: 1 << 20 };
        let mut followed = FollowedChannels::new(limits, 7);
        let options = Arc::new(ChannelOptions { deliver: Deliver::Notice, ..ChannelOptions::default() });
        let index = followed.join_asked(&"c".into(), &options);
        followed.top_learned(index, Position { offset: Offset(0), epoch: Epoch(1) }, Time::ZERO);
        for slot in 0..4 {
            followed.subscribe(index, slot, CLASS, None, Offset(0));
        }
        followed.join_answered(index);
        let (mut now, mut heard) = (Time::from_millis(1), Vec::new());
        for offset in 1..4 {
            let pace = Pace { spread_ms: 1_000, bulk: false };
            assert!(followed.handle_paced("c", value(offset, "a"), pace, now));
        }
        while let Some(due) = followed.next_due() {
            now = now.max(due);
            while let Some((index, active, until)) = followed.take_spread(now, 4) {
                for item in followed.get(index).stream().between(active.start, active.end) {
                    let Item::Publication(notice) = item else { panic!("it is one") };
                    assert!(&*notice.data == b"null" && notice.tags.is_empty());
                    (until..active.remaining).for_each(|_| heard.push(notice.offset().0));
                }
                followed.advance(index, until, now);
            }
        }
        assert_eq!(heard, [1, 1, 1, 1, 3, 3, 3, 3]);
        assert!(now <= Time::from_millis(1_001), "{now:?}");
        // One that may not wait takes what waits with it.
        followed.handle_paced("c", value(4, "a"), Pace { spread_ms: 0, bulk: true }, now);
        followed.handle_item("c", Item::Publication(value(5, "a")), now);
        assert_eq!(deliver(&mut followed, now), [[5]]);
        let left = (followed.backlog_bytes(), followed.held_bytes(), followed.stream_bytes());
        assert_eq!((left, followed.conflated_total()), ((0, 0, 0), 2));
    }
}
