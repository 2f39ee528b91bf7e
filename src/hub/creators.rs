//! Who made the channels that only clients have used, and which of those could go.
//!
//! Creators fall into [`BUCKETS`] by a keyed hash, so that what is known of them is bounded: a count of channels, and a
//! list of those without subscribers, the longest without first. Two creators in one bucket share their fate.

use crate::base::ids::{ConnId, UserName};

/// Buckets of creators. A creator shares its bucket with one in a thousand others; to find the greediest, 12 KiB are read,
/// and only where a channel has to go.
pub const BUCKETS: u16 = 1024;

/// Who needs a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Creator {
    /// The backend, by the API or by what it subscribes clients to.
    #[default]
    Backend,
    User(UserName),
    /// Of nobody in particular.
    Connection(ConnId),
}

impl Creator {
    /// A client of that user, on that connection.
    pub fn client(user: Option<&UserName>, conn: ConnId) -> Creator {
        match user {
            Some(user) if !user.is_empty() => Creator::User(user.clone()),
            _ => Creator::Connection(conn),
        }
    }
}

/// The channels of clients, by slot of the table.
#[derive(Default)]
pub struct Creators {
    /// Empty until a client makes the first channel.
    buckets: Vec<Bucket>,
    /// By slot.
    links: Vec<CreatorLink>,
    channels: usize,
}

#[derive(Clone)]
struct Bucket {
    channels: u32,
    first: u32,
    last: u32,
}

#[derive(Clone, Copy)]
struct CreatorLink {
    before: u32,
    after: u32,
}

/// Nothing is before or after.
const END: u32 = u32::MAX;
/// Both of its sides, of a slot that is in no list.
const ABSENT: u32 = u32::MAX - 1;

impl Creators {
    /// Channels that only clients have used.
    pub fn channels(&self) -> usize {
        self.channels
    }

    pub fn add(&mut self, bucket: u16) {
        if self.buckets.is_empty() {
            self.buckets.resize(usize::from(BUCKETS), Bucket { channels: 0, first: END, last: END });
        }
        self.buckets[usize::from(bucket)].channels += 1;
        self.channels += 1;
    }

    /// The channel is none of a client's any more.
    pub fn remove(&mut self, slot: u32, bucket: u16) {
        self.unlist(slot, bucket);
        self.buckets[usize::from(bucket)].channels -= 1;
        self.channels -= 1;
    }

    /// The channel has no subscribers: it could go. Keeps its turn when it is listed already.
    pub fn list(&mut self, slot: u32, bucket: u16) {
        let at = slot as usize;
        if self.links.len() <= at {
            self.links.resize(at + 1, CreatorLink { before: ABSENT, after: ABSENT });
        }
        if self.links[at].before != ABSENT {
            return;
        }
        let last = std::mem::replace(&mut self.buckets[usize::from(bucket)].last, slot);
        self.links[at] = CreatorLink { before: last, after: END };
        match last {
            END => self.buckets[usize::from(bucket)].first = slot,
            last => self.links[last as usize].after = slot,
        }
    }

    /// It has some again, or is no more.
    pub fn unlist(&mut self, slot: u32, bucket: u16) {
        let Some(link) = self.links.get_mut(slot as usize) else { return };
        let CreatorLink { before, after } =
            std::mem::replace(link, CreatorLink { before: ABSENT, after: ABSENT });
        if before == ABSENT {
            return;
        }
        match before {
            END => self.buckets[usize::from(bucket)].first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            END => self.buckets[usize::from(bucket)].last = before,
            after => self.links[after as usize].before = before,
        }
    }

    /// The channel to go: of the creators of one that could, the one with most channels pays.
    pub fn first_to_go(&self) -> Option<u32> {
        let could = self.buckets.iter().filter(|bucket| bucket.first != END);
        could.max_by_key(|bucket| bucket.channels).map(|bucket| bucket.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn agrees_with_lists() {
        for seed in 0..300 {
            let mut prng = Prng::with_seed(seed);
            let mut creators = Creators::default();
            // Bucket and whether it is listed, by slot; and the order in which they were.
            let mut naive: Vec<Option<u16>> = vec![None; 30];
            let mut order: Vec<u32> = Vec::new();
            for _ in 0..400 {
                let slot = prng.u32(..30);
                match (naive[slot as usize], prng.u8(..4)) {
                    (None, _) => {
                        let bucket = prng.u16(..4);
                        creators.add(bucket);
                        naive[slot as usize] = Some(bucket);
                    }
                    (Some(bucket), 0) => {
                        creators.remove(slot, bucket);
                        naive[slot as usize] = None;
                        order.retain(|&other| other != slot);
                    }
                    (Some(bucket), 1) => {
                        creators.unlist(slot, bucket);
                        order.retain(|&other| other != slot);
                    }
                    (Some(bucket), _) => {
                        creators.list(slot, bucket);
                        if !order.contains(&slot) {
                            order.push(slot);
                        }
                    }
                }
                let count = |bucket| naive.iter().flatten().filter(|&&other| other == bucket).count();
                let of = |slot: u32| naive[slot as usize].unwrap();
                let most = order.iter().map(|&slot| count(of(slot))).max();
                match creators.first_to_go() {
                    None => assert!(order.is_empty(), "seed {seed}"),
                    Some(slot) => {
                        assert_eq!(Some(count(of(slot))), most, "seed {seed}");
                        let first = order.iter().find(|&&other| of(other) == of(slot));
                        assert_eq!(first, Some(&slot), "seed {seed}: the longest without subscribers");
                    }
                }
                assert_eq!(creators.channels(), naive.iter().flatten().count());
            }
        }
    }
}
