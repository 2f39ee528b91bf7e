//! What was published and where it went, learnt from answers and from what clients were told; each says the same or
//! the run fails.

use std::collections::BTreeMap;

use trunkline::base::bytes::Bytes;
use trunkline::base::ids::Position;
use trunkline::base::prng::Prng;
use trunkline::hub::options::GapPolicy;

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
}

struct Payload {
    channel: ChannelNo,
    data: Bytes,
    /// It takes no offset.
    fleeting: bool,
    /// It was refused: nobody may see it.
    void: bool,
    epoch: Option<u64>,
    offset: Option<u64>,
}

impl Log {
    /// A payload unlike any other.
    pub fn write(&mut self, channel: ChannelNo, fleeting: bool, prng: &mut Prng) -> (PayloadNo, Bytes) {
        let number = self.payloads.len();
        let padding = if prng.u8(..8) == 0 { prng.usize(..600) } else { prng.usize(..60) };
        let data = Bytes::from(format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(padding)));
        self.payloads.push(Payload {
            channel,
            data: data.clone(),
            fleeting,
            void: false,
            epoch: None,
            offset: None,
        });
        (number, data)
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
    pub fn seen(&mut self, channel: ChannelNo, epoch: Option<u64>, offset: u64, data: &str) {
        let number = data.strip_prefix(r#"{"n":"#).and_then(|rest| rest.split(',').next()?.parse().ok());
        let number: PayloadNo = number.unwrap_or_else(|| panic!("nobody published {data}"));
        let entry = self.payloads.get(number).unwrap_or_else(|| panic!("nobody published {data}"));
        assert_eq!(entry.channel, channel, "payload {number} in another channel");
        assert_eq!(entry.data, data.as_bytes(), "payload {number} changed on its way");
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

/// Checks that a list of publications has no hole; gives the last offset.
pub fn unbroken(log: &mut Log, channel: ChannelNo, epoch: u64, from: u64, list: &[(u64, &str)]) -> u64 {
    let mut last = from;
    for &(offset, data) in list {
        assert_eq!(offset, last + 1, "a hole in what was recovered");
        log.seen(channel, Some(epoch), offset, data);
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
        let last = unbroken(log, channel, top.0, first - 1, &list);
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
    gap: GapPolicy,
    /// Publications that take no offset, by payload: each comes once.
    fleeting: Vec<String>,
    pub skipped: u64,
}

impl Follower {
    pub fn new(epoch: Option<u64>, last: Option<u64>, gap: GapPolicy) -> Follower {
        Follower { epoch, last, gap, fleeting: Vec::new(), skipped: 0 }
    }

    /// # Panics
    /// When something is missing, doubled or out of order.
    pub fn pushed(&mut self, offset: u64, data: &str) {
        if offset == 0 {
            assert!(!self.fleeting.iter().any(|seen| seen == data), "{data} came twice");
            self.fleeting.push(data.to_string());
            return;
        }
        if let Some(last) = self.last
            && offset != last + 1
        {
            assert!(offset > last, "offset {offset} after {last}");
            assert_eq!(self.gap, GapPolicy::Latest, "a silent gap: offset {offset} after {last}");
            self.skipped += 1;
        }
        self.last = Some(offset);
    }
}
