//! What was published and where it went, learnt from answers and from what clients were told; each says the same or
//! the run fails.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use trunkline::base::bytes::Bytes;
use trunkline::base::ids::Position;
use trunkline::base::prng::Prng;
use trunkline::hub::options::GapPolicy;

use crate::audience::{Audience, Kept, Tags};
use crate::coverage::Coverage;
use crate::protobuf::shown;

/// Index in the scenario's list of channels.
pub type ChannelNo = usize;
/// Index in the list of payloads.
pub type PayloadNo = usize;

/// A place in a log: epoch, then offset.
pub type Place = (u64, u64);

/// Everything ever handed to the shards to publish.
#[derive(Default)]
pub struct Log {
    payloads: Vec<Payload>,
    /// Which payload is at each place that is known.
    places: BTreeMap<(ChannelNo, Place), PayloadNo>,
    /// The highest place that an answer named, and the life of the log it belongs to: the newest answer's.
    heads: BTreeMap<ChannelNo, Place>,
    /// Publications may be kept from some.
    keeps: bool,
    /// What was passed over before it was known what it is.
    passed_over: Vec<PassedOver>,
}

/// A place that a listener went past without being given what is there.
struct PassedOver {
    channel: ChannelNo,
    epoch: Option<u64>,
    offset: u64,
    audience: Audience,
}

struct Payload {
    channel: ChannelNo,
    data: Bytes,
    tags: Tags,
    kept: Option<Kept>,
    /// It takes no offset.
    fleeting: bool,
    /// It was refused: nobody may see it.
    void: bool,
    epoch: Option<u64>,
    offset: Option<u64>,
}

impl Log {
    pub fn new(keeps: bool) -> Log {
        Log { keeps, ..Log::default() }
    }

    /// A payload unlike any other.
    pub fn write(&mut self, channel: ChannelNo, fleeting: bool, prng: &mut Prng) -> (PayloadNo, Bytes) {
        let number = self.payloads.len();
        let padding = if prng.u8(..8) == 0 { prng.usize(..600) } else { prng.usize(..60) };
        let data = Bytes::from(format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(padding)));
        self.put_down(channel, fleeting, data.clone());
        (number, data)
    }

    /// The same of bytes that no text can hold.
    pub fn write_bytes(&mut self, channel: ChannelNo, fleeting: bool, prng: &mut Prng) -> (PayloadNo, Bytes) {
        let number = self.payloads.len();
        let mut data = vec![0xff, b'\n'];
        data.extend_from_slice(&(number as u32).to_be_bytes());
        data.extend((0..prng.usize(..60)).map(|_| prng.u8(..)));
        let data = Bytes::from(data);
        self.put_down(channel, fleeting, data.clone());
        (number, data)
    }

    fn put_down(&mut self, channel: ChannelNo, fleeting: bool, data: Bytes) {
        self.payloads.push(Payload {
            channel,
            data,
            tags: Tags::new(),
            kept: None,
            fleeting,
            void: false,
            epoch: None,
            offset: None,
        });
    }

    /// What tells who gets it.
    pub fn address(&mut self, payload: PayloadNo, tags: Tags, kept: Option<Kept>) {
        let entry = &mut self.payloads[payload];
        (entry.tags, entry.kept) = (tags, kept);
    }

    pub fn addressed(&self, payload: PayloadNo) -> (&Tags, Option<&Kept>) {
        let entry = &self.payloads[payload];
        (&entry.tags, entry.kept.as_ref())
    }

    /// A payload that was written before, for a publish that is repeated.
    pub fn data(&self, payload: PayloadNo) -> (ChannelNo, Bytes) {
        (self.payloads[payload].channel, self.payloads[payload].data.clone())
    }

    /// The publish was refused.
    pub fn refused(&mut self, payload: PayloadNo) {
        let entry = &mut self.payloads[payload];
        assert!(entry.offset.is_none(), "payload {payload} was seen, and then refused");
        entry.void = true;
    }

    /// A client's publish was answered: it is in the log, at a place that only those who see it learn.
    pub fn accepted(&mut self, payload: PayloadNo) {
        assert!(!self.payloads[payload].void, "payload {payload} was refused and accepted");
    }

    /// The publish was answered.
    pub fn published(&mut self, payload: PayloadNo, position: Position) {
        let entry = &self.payloads[payload];
        assert!(!entry.void, "payload {payload} was refused and published");
        let (channel, fleeting) = (entry.channel, entry.fleeting);
        let place = (position.epoch.0, position.offset.0);
        if !fleeting {
            self.put(payload, Some(place.0), place.1);
        }
        self.reached(channel, place);
    }

    /// Somebody was shown a publication.
    ///
    /// # Panics
    /// When nobody published it so, or it is not for this listener.
    pub fn seen(
        &mut self,
        channel: ChannelNo,
        epoch: Option<u64>,
        offset: u64,
        data: &str,
        audience: &Audience,
    ) {
        let number = number_of(data).unwrap_or_else(|| panic!("nobody published {data}"));
        let entry = self.payloads.get(number).unwrap_or_else(|| panic!("nobody published {data}"));
        assert_eq!(entry.channel, channel, "payload {number} in another channel");
        assert_eq!(shown(&entry.data), data, "payload {number} changed on its way");
        assert!(
            audience.gets(&entry.tags, entry.kept.as_ref()),
            "payload {number} with {:?}, kept from {:?}, came to {audience:?}",
            entry.tags,
            entry.kept,
        );
        assert!(!entry.void, "payload {number} was refused and is delivered");
        assert_eq!(entry.fleeting, offset == 0, "payload {number} at offset {offset}");
        if offset > 0 {
            self.put(number, epoch, offset);
        }
    }

    /// The highest place known to be taken, and so a place that every later read must reach unless the log has begun
    /// a new life.
    pub fn head(&self, channel: ChannelNo) -> Option<Place> {
        self.heads.get(&channel).copied()
    }

    /// A listener went past these places without being given what is there: none of it may be for it. What is there may
    /// be learnt only later.
    ///
    /// # Panics
    /// When something there is for it.
    pub fn passed_over(
        &mut self,
        channel: ChannelNo,
        epoch: Option<u64>,
        offsets: RangeInclusive<u64>,
        audience: &Audience,
    ) {
        for offset in offsets {
            let excusable = self.keeps || !audience.filters.is_empty();
            assert!(excusable, "a silent gap: offset {offset} is missing");
            let known = epoch.and_then(|epoch| self.places.get(&(channel, (epoch, offset))));
            match known {
                Some(&payload) => self.must_not_get(payload, offset, audience),
                None => {
                    let audience = audience.clone();
                    self.passed_over.push(PassedOver { channel, epoch, offset, audience });
                }
            }
        }
    }

    fn must_not_get(&self, payload: PayloadNo, offset: u64, audience: &Audience) {
        let Payload { tags, kept, .. } = &self.payloads[payload];
        assert!(
            !audience.gets(tags, kept.as_ref()),
            "payload {payload} at {offset}, with {tags:?}, kept from {kept:?}, never came to {audience:?}"
        );
    }

    /// Everything that the backend published has been answered: what is still unknown at a place was published by a client,
    /// without tags, and is kept from nobody.
    pub fn check_passed_over(&mut self, coverage: &mut Coverage) {
        for PassedOver { channel, epoch, offset, audience } in std::mem::take(&mut self.passed_over) {
            let in_any_life = || {
                let there = self.places.iter().filter(|((of, place), _)| *of == channel && place.1 == offset);
                there.map(|(_, &payload)| payload).collect::<Vec<_>>()
            };
            let known = match epoch {
                Some(epoch) => self.places.get(&(channel, (epoch, offset))).copied().into_iter().collect(),
                None => in_any_life(),
            };
            let plain = !audience.gets(&Tags::new(), None);
            coverage.add("passed_over_by_a_client", known.is_empty().into());
            coverage.count("passed_over");
            match (&known[..], epoch) {
                ([payload], Some(_)) => self.must_not_get(*payload, offset, &audience),
                ([], _) => assert!(plain, "a publication of a client at {offset} never came to {audience:?}"),
                (lives, _) => {
                    let excused = |&payload: &PayloadNo| {
                        let Payload { tags, kept, .. } = &self.payloads[payload];
                        !audience.gets(tags, kept.as_ref())
                    };
                    assert!(plain || lives.iter().any(excused), "offset {offset} never came to {audience:?}");
                }
            }
        }
    }

    fn reached(&mut self, channel: ChannelNo, place: Place) {
        let head = self.heads.entry(channel).or_insert(place);
        if head.0 != place.0 || head.1 < place.1 {
            *head = place;
        }
    }

    fn put(&mut self, payload: PayloadNo, epoch: Option<u64>, offset: u64) {
        let entry = &mut self.payloads[payload];
        let known = *entry.offset.get_or_insert(offset);
        assert_eq!(known, offset, "payload {payload} is at two offsets");
        let Some(epoch) = epoch else { return };
        let known = *entry.epoch.get_or_insert(epoch);
        assert_eq!(known, epoch, "payload {payload} is in two lives of its channel");
        let other = *self.places.entry((entry.channel, (epoch, offset))).or_insert(payload);
        assert_eq!(other, payload, "two payloads at {offset} of epoch {epoch:08x}");
    }
}

/// The number in a payload of ours.
fn number_of(data: &str) -> Option<PayloadNo> {
    match data.strip_prefix("\"~ff0a") {
        Some(hex) => Some(u32::from_str_radix(hex.get(..8)?, 16).ok()? as PayloadNo),
        None => data.strip_prefix(r#"{"n":"#)?.split(',').next()?.parse().ok(),
    }
}

/// Checks that a list of publications has no hole but for what is not for the listener; gives the last offset.
pub fn unbroken(
    log: &mut Log,
    channel: ChannelNo,
    epoch: u64,
    from: u64,
    list: &[(u64, &str)],
    audience: &Audience,
) -> u64 {
    let mut last = from;
    for &(offset, data) in list {
        assert!(offset > last, "offset {offset} after {last} in what was recovered");
        log.passed_over(channel, Some(epoch), last + 1..=offset - 1, audience);
        log.seen(channel, Some(epoch), offset, data, audience);
        last = offset;
    }
    last
}

/// Checks one page of history.
pub fn check_page(
    channel: ChannelNo,
    top: Place,
    mut list: Vec<(u64, &str)>,
    floor: Option<Place>,
    reverse: bool,
    log: &mut Log,
    audience: &Audience,
) {
    if let Some(floor) = floor
        && floor.0 == top.0
    {
        assert!(top.1 >= floor.1, "history ends at {}, before {}", top.1, floor.1);
    }
    if reverse {
        list.reverse();
    }
    if let Some(&(first, _)) = list.first() {
        let last = unbroken(log, channel, top.0, first - 1, &list, audience);
        assert!(last <= top.1, "an entry behind the top");
    }
}

/// One subscription as its client follows it.
#[derive(Clone, Debug)]
pub struct Follower {
    /// `None` when the reply named none.
    pub epoch: Option<u64>,
    /// `None` before the first publication of a subscription without a position.
    pub last: Option<u64>,
    pub audience: Audience,
    gap: GapPolicy,
    /// Publications that take no offset, by payload: each comes once.
    fleeting: Vec<String>,
    pub skipped: u64,
}

impl Follower {
    pub fn new(epoch: Option<u64>, last: Option<u64>, gap: GapPolicy, audience: Audience) -> Follower {
        Follower { epoch, last, audience, gap, fleeting: Vec::new(), skipped: 0 }
    }

    /// # Panics
    /// When something is missing, doubled or out of order, or not for this listener.
    pub fn pushed(&mut self, channel: ChannelNo, offset: u64, data: &str, log: &mut Log) {
        log.seen(channel, self.epoch, offset, data, &self.audience);
        if offset == 0 {
            assert!(!self.fleeting.iter().any(|seen| seen == data), "{data} came twice");
            self.fleeting.push(data.to_string());
            return;
        }
        if let Some(last) = self.last {
            assert!(offset > last, "offset {offset} after {last}");
            match self.gap {
                GapPolicy::Latest => self.skipped += u64::from(offset != last + 1),
                _ => log.passed_over(channel, self.epoch, last + 1..=offset - 1, &self.audience),
            }
        }
        self.last = Some(offset);
    }

    /// Checks that it has come to a place that has this payload, and has missed nothing that is for it.
    ///
    /// # Panics
    /// When it has.
    pub fn check_place(&self, channel: ChannelNo, place: Place, payload: PayloadNo, log: &mut Log) {
        let (tags, kept) = log.addressed(payload);
        if self.audience.gets(tags, kept) {
            return assert_eq!(self.last, Some(place.1), "where it stands of what goes to {}", place.1);
        }
        let Some(last) = self.last.filter(|_| self.gap != GapPolicy::Latest) else { return };
        assert!(last <= place.1, "it stands at {last}, and the channel goes to {}", place.1);
        log.passed_over(channel, Some(place.0), last + 1..=place.1, &self.audience);
    }

    /// It stands at `place` without having been given more than it was.
    ///
    /// # Panics
    /// When something up to there is for it.
    pub fn stands_at(&mut self, channel: ChannelNo, place: Place, log: &mut Log) {
        let Some(last) = self.last else { return self.last = Some(place.1) };
        assert!(last <= place.1, "it stands at {}, and has been given {last}", place.1);
        log.passed_over(channel, Some(place.0), last + 1..=place.1, &self.audience);
        self.last = Some(place.1);
    }
}
