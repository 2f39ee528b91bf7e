//! On which shards a channel has subscribers.

use crate::base::ids::ShardId;

/// Shards with subscribers and how many each, in shard order. One shard costs no allocation.
#[derive(Debug, Default)]
pub enum Interest {
    #[default]
    None,
    One((ShardId, u32)),
    /// Boxed: most channels have subscribers on few shards, and a list's own three words would make all of them larger.
    #[allow(clippy::box_collection)]
    Several(Box<Vec<(ShardId, u32)>>),
}

impl Interest {
    pub fn as_slice(&self) -> &[(ShardId, u32)] {
        match self {
            Interest::None => &[],
            Interest::One(one) => std::slice::from_ref(one),
            Interest::Several(several) => several,
        }
    }

    pub fn add(&mut self, shard: ShardId) {
        match self {
            Interest::None => *self = Interest::One((shard, 1)),
            Interest::One((known, count)) if *known == shard => *count += 1,
            Interest::One(one) => {
                let mut several = vec![*one, (shard, 1)];
                several.sort_unstable();
                *self = Interest::Several(Box::new(several));
            }
            Interest::Several(several) => match several.binary_search_by_key(&shard, |&(shard, _)| shard) {
                Ok(place) => several[place].1 += 1,
                Err(place) => several.insert(place, (shard, 1)),
            },
        }
    }

    /// Takes one subscriber off a shard that has some.
    pub fn remove(&mut self, shard: ShardId) {
        let left = match self {
            Interest::None => unreachable!("{shard:?} has no subscriber"),
            Interest::One((known, count)) => {
                assert_eq!(*known, shard);
                *count -= 1;
                usize::from(*count > 0)
            }
            Interest::Several(several) => {
                let place =
                    several.binary_search_by_key(&shard, |&(shard, _)| shard).expect("it has subscribers");
                several[place].1 -= 1;
                if several[place].1 == 0 {
                    several.remove(place);
                }
                several.len()
            }
        };
        match (left, &*self) {
            (0, _) => *self = Interest::None,
            (1, Interest::Several(several)) => *self = Interest::One(several[0]),
            _ => {}
        }
    }
}

const _: () = assert!(size_of::<Interest>() <= 16, "a million channels have one");

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn interest_is_sorted_and_has_no_empty_shard() {
        for seed in 0..100 {
            let mut prng = Prng::with_seed(seed);
            let mut interest = Interest::default();
            let mut naive = BTreeMap::<ShardId, u32>::new();
            for _ in 0..200 {
                let shard = ShardId(prng.u16(..4));
                if prng.bool() {
                    interest.add(shard);
                    *naive.entry(shard).or_default() += 1;
                } else if let Some(count) = naive.get_mut(&shard) {
                    *count -= 1;
                    interest.remove(shard);
                    naive.retain(|_, count| *count > 0);
                }
                assert_eq!(interest.as_slice(), naive.iter().map(|(&s, &n)| (s, n)).collect::<Vec<_>>());
            }
        }
    }
}
