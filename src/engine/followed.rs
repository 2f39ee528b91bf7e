//! One channel as this node follows it: who is subscribed here, and the newest of its log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use tokio::time::Instant;

use crate::base::ids::{ConnId, Offset, Position};
use crate::base::publication::{ClientInfo, Publication, Publications, Visibility};
use crate::engine::limits::{TAIL_BYTES_MAX, TAIL_ITEMS_MAX};
use crate::hub::requests::{Since, SinceEpoch};
use crate::hub::{ChannelOptions, Interest};
use crate::shard::owner::OwnerRequest;

pub struct Followed {
    /// Of the server that has the channel.
    pub link: usize,
    pub options: Arc<ChannelOptions>,
    /// Those who are shown to others with how.
    pub members: HashMap<ConnId, Option<Box<Member>>, RandomState>,
    pub listed: usize,
    pub interest: Interest,
    /// The server sends what is published, on the connection that it has now.
    pub subscribed: bool,
    /// Of the last subscribe that was asked for.
    pub subscribe_number: u64,
    pub busy: BusyWith,
    /// What waits behind it, in the order in which it came.
    /// Bound: what connections here may have under way.
    pub waiting: VecDeque<OwnerRequest>,
    /// `None`: it has none, or where it stands is not known yet.
    pub log: Option<Tail>,
    /// When a publication came or its position was checked.
    pub heard: Instant,
    pub checking: bool,
}

impl Followed {
    /// A channel of the server `link`, without members.
    pub fn new(link: usize, options: Arc<ChannelOptions>) -> Followed {
        Followed {
            link,
            options,
            members: HashMap::with_hasher(RandomState::new()),
            listed: 0,
            interest: Interest::default(),
            subscribed: false,
            subscribe_number: 0,
            busy: BusyWith::No,
            waiting: VecDeque::new(),
            log: None,
            heard: Instant::now(),
            checking: false,
        }
    }
}

pub struct Member {
    pub info: Arc<ClientInfo>,
    pub shown: Visibility,
}

/// What a channel's next request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyWith {
    No,
    /// The server's word that it sends what is published.
    Subscribing,
    /// The answer to a join's read.
    Reading,
}

/// Where a log stands, and its newest publications without a hole.
pub struct Tail {
    pub top: Position,
    /// Bound: [`TAIL_ITEMS_MAX`], and [`TAIL_BYTES_MAX`] of payload but for the newest.
    items: VecDeque<Arc<Publication>>,
    bytes: usize,
}

impl Tail {
    pub fn new(top: Position) -> Tail {
        Tail { top, items: VecDeque::new(), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn newest(&self) -> Option<&Arc<Publication>> {
        self.items.back()
    }

    /// A publication of the log has come. `alone`: nothing before it is kept.
    pub fn push(&mut self, publication: &Arc<Publication>, alone: bool) {
        let position = publication.position;
        if position.epoch == self.top.epoch && position.offset <= self.top.offset {
            return;
        }
        if alone || position.epoch != self.top.epoch || position.offset != self.top.offset.next() {
            self.clear();
        }
        self.top = position;
        self.bytes += publication.weight();
        self.items.push_back(Arc::clone(publication));
        while self.items.len() > TAIL_ITEMS_MAX || (self.bytes > TAIL_BYTES_MAX && self.items.len() > 1) {
            if let Some(oldest) = self.items.pop_front() {
                self.bytes -= oldest.weight();
            }
        }
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }

    /// What came after an offset, if all of it is here.
    pub fn after(&self, offset: Offset) -> Option<Publications> {
        if offset > self.top.offset {
            return None;
        }
        let missing = usize::try_from(self.top.offset.0 - offset.0).ok()?;
        let skipped = self.items.len().checked_sub(missing)?;
        Some(self.items.iter().skip(skipped).cloned().collect())
    }

    /// What somebody has missed who stood there, as far as this can be said without the log. A position of another
    /// epoch may be of a log that is not known here yet.
    pub fn missed(&self, since: Since, limit: usize) -> Option<Publications> {
        let same = match since.epoch {
            SinceEpoch::Any => true,
            SinceEpoch::Known(epoch) => epoch == self.top.epoch,
            SinceEpoch::Newest { count, from_ms } => return self.last(count, from_ms, limit),
            SinceEpoch::Foreign => false,
        };
        if same { self.after(since.offset).filter(|missed| missed.len() <= limit) } else { None }
    }

    /// The newest, at most `limit` and `count` of them and none before `from_ms`, if they are all here.
    fn last(&self, count: u32, from_ms: u64, limit: usize) -> Option<Publications> {
        let count = limit.min(count as usize);
        let mut last: Publications = self.items.iter().rev().take(count).cloned().collect();
        last.reverse();
        let old = last.partition_point(|publication| publication.time_ms < from_ms);
        let is_all = old > 0 || last.len() == count;
        is_all.then(|| last.split_off(old))
    }

    /// What was read of the log, to its top: it reaches farther back than what is here.
    pub fn extend_back(&mut self, read: &[Arc<Publication>], top: Position) {
        if top.epoch != self.top.epoch || read.len() <= self.items.len() {
            return;
        }
        let newer = self.after(top.offset).unwrap_or_default();
        if top.offset < self.top.offset && newer.is_empty() {
            return;
        }
        let all: Vec<_> = read.iter().chain(&newer).cloned().collect();
        self.clear();
        let first = all.len().saturating_sub(TAIL_ITEMS_MAX);
        self.bytes = all[first..].iter().map(|publication| publication.weight()).sum();
        self.items = all[first..].iter().cloned().collect();
        if self.top.offset < top.offset {
            self.top = top;
        }
        while self.bytes > TAIL_BYTES_MAX && self.items.len() > 1 {
            if let Some(oldest) = self.items.pop_front() {
                self.bytes -= oldest.weight();
            }
        }
    }
}

/// Whether these are the publications behind an offset, without a hole.
pub fn goes_on(publications: &[Arc<Publication>], after: Offset) -> bool {
    publications.iter().zip(after.0 + 1..).all(|(publication, offset)| publication.offset().0 == offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::Epoch;
    use crate::base::publication::Encoded;

    fn publication(offset: u64, epoch: u64, bytes: usize) -> Arc<Publication> {
        Arc::new(Publication {
            channel: "c".into(),
            position: at(offset, epoch),
            data: Bytes::from(vec![b'1'; bytes]),
            info: None,
            tags: Vec::new(),
            time_ms: 0,
            except: None,
            encoded: Encoded::default(),
        })
    }

    fn at(offset: u64, epoch: u64) -> Position {
        Position { offset: Offset(offset), epoch: Epoch(epoch) }
    }

    fn offsets(publications: Option<Publications>) -> Option<Vec<u64>> {
        publications.map(|all| all.iter().map(|publication| publication.offset().0).collect())
    }

    #[test]
    fn a_tail_has_no_hole_and_says_what_it_does_not_know() {
        let mut tail = Tail::new(at(4, 1));
        assert_eq!(offsets(tail.after(Offset(4))), Some(vec![]));
        assert_eq!(tail.after(Offset(3)).map(|_| ()), None);
        for offset in [5, 6, 6, 5] {
            tail.push(&publication(offset, 1, 1), false);
        }
        assert_eq!(offsets(tail.after(Offset(4))), Some(vec![5, 6]));
        assert_eq!(offsets(tail.after(Offset(7))), None);
        tail.push(&publication(8, 1, 1), false);
        assert_eq!((offsets(tail.after(Offset(7))), offsets(tail.after(Offset(6)))), (Some(vec![8]), None));
        let since = |offset, epoch| Since { offset: Offset(offset), epoch };
        assert_eq!(offsets(tail.missed(since(7, SinceEpoch::Any), 9)), Some(vec![8]));
        assert_eq!(offsets(tail.missed(since(7, SinceEpoch::Any), 0)), None);
        assert_eq!(offsets(tail.missed(since(8, SinceEpoch::Known(Epoch(2))), 9)), None);
        assert_eq!(offsets(tail.missed(since(8, SinceEpoch::Foreign), 9)), None);
        tail.push(&publication(1, 2, 1), false);
        assert_eq!((offsets(tail.after(Offset(0))), tail.top), (Some(vec![1]), at(1, 2)));
    }

    #[test]
    fn what_was_read_makes_a_tail_longer() {
        let mut tail = Tail::new(at(4, 1));
        tail.push(&publication(5, 1, 1), false);
        let read: Vec<_> = (2..=4).map(|offset| publication(offset, 1, 1)).collect();
        tail.extend_back(&read, at(4, 1));
        assert_eq!(offsets(tail.after(Offset(1))), Some(vec![2, 3, 4, 5]));
        assert_eq!(tail.top, at(5, 1));
        // Another log's, or one that is behind what is here, changes nothing.
        tail.extend_back(&(1..=9).map(|offset| publication(offset, 2, 1)).collect::<Vec<_>>(), at(9, 2));
        assert_eq!(offsets(tail.after(Offset(1))), Some(vec![2, 3, 4, 5]));
    }

    #[test]
    fn a_tail_is_bounded_in_items_and_bytes() {
        let mut tail = Tail::new(at(0, 1));
        for offset in 1..=TAIL_ITEMS_MAX as u64 + 10 {
            tail.push(&publication(offset, 1, 1), false);
        }
        assert_eq!(offsets(tail.after(Offset(10))).map(|all| all.len()), Some(TAIL_ITEMS_MAX));
        assert_eq!(offsets(tail.after(Offset(9))), None);
        let top = TAIL_ITEMS_MAX as u64 + 10;
        tail.push(&publication(top + 1, 1, TAIL_BYTES_MAX * 2), false);
        assert_eq!((tail.items.len(), tail.bytes()), (1, TAIL_BYTES_MAX * 2));
        tail.push(&publication(top + 2, 1, 1), true);
        assert_eq!((tail.items.len(), tail.bytes()), (1, 1));
        assert!(goes_on(&[], Offset(9)) && !goes_on(&[publication(9, 1, 1)], Offset(9)));
    }
}
