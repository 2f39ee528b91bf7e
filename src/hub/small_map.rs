//! A map for what most channels have one or a few of.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use ahash::RandomState;

/// Entries a map walks instead of hashing: four cache lines of connections.
const FEW_MAX: usize = 16;

/// A map that costs nothing for no entry, no allocation for one, a short list for a few, and hashes only above that.
#[derive(Debug, Default)]
pub enum SmallMap<K, V> {
    #[default]
    Empty,
    One((K, V)),
    /// Boxed, as the table is: the words of either would make every small map as large.
    #[allow(clippy::box_collection)]
    Few(Box<Vec<(K, V)>>),
    #[allow(clippy::box_collection)]
    Many(Box<HashMap<K, V, RandomState>>),
}

impl<K: Hash + Eq, V> SmallMap<K, V> {
    pub fn len(&self) -> usize {
        match self {
            SmallMap::Empty => 0,
            SmallMap::One(_) => 1,
            SmallMap::Few(few) => few.len(),
            SmallMap::Many(many) => many.len(),
        }
    }

    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, value)) => (Borrow::<Q>::borrow(known) == key).then_some(value),
            SmallMap::Few(few) => {
                few.iter_mut().find(|(known, _)| Borrow::<Q>::borrow(known) == key).map(|(_, value)| value)
            }
            SmallMap::Many(many) => many.get_mut(key),
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, value)) => (known == key).then_some(value),
            SmallMap::Few(few) => few.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            SmallMap::Many(many) => many.get(key),
        }
    }

    /// Returns the value that was there for `key`.
    pub fn insert(&mut self, key: K, value: V, hash: &RandomState) -> Option<V> {
        if let SmallMap::Many(many) = self {
            return many.insert(key, value);
        }
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        *self = match std::mem::take(self) {
            SmallMap::Empty => SmallMap::One((key, value)),
            SmallMap::One(one) => SmallMap::Few(Box::new(vec![one, (key, value)])),
            SmallMap::Few(mut few) if few.len() < FEW_MAX => {
                few.push((key, value));
                SmallMap::Few(few)
            }
            SmallMap::Few(few) => {
                let mut many = HashMap::with_capacity_and_hasher(2 * FEW_MAX, hash.clone());
                many.extend(*few);
                many.insert(key, value);
                SmallMap::Many(Box::new(many))
            }
            SmallMap::Many(_) => unreachable!("handled above"),
        };
        None
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, _)) if Borrow::<Q>::borrow(known) != key => None,
            SmallMap::One(_) => match std::mem::take(self) {
                SmallMap::One((_, value)) => Some(value),
                _ => unreachable!("matched above"),
            },
            SmallMap::Few(few) => {
                let place = few.iter().position(|(known, _)| Borrow::<Q>::borrow(known) == key)?;
                let (_, value) = few.swap_remove(place);
                if few.len() == 1 {
                    *self = few.pop().map_or(SmallMap::Empty, SmallMap::One);
                }
                Some(value)
            }
            SmallMap::Many(many) => {
                let value = many.remove(key)?;
                // Half of the border, so that a channel that stands on it does not change form all day.
                if many.len() <= FEW_MAX / 2 {
                    *self = SmallMap::Few(Box::new(many.drain().collect()));
                } else if many.len() < many.capacity() / 8 {
                    many.shrink_to(2 * many.len());
                }
                Some(value)
            }
        }
    }

    pub fn for_each<'m>(&'m self, mut f: impl FnMut(&'m K, &'m V)) {
        match self {
            SmallMap::Empty => {}
            SmallMap::One((key, value)) => f(key, value),
            SmallMap::Few(few) => few.iter().for_each(|(key, value)| f(key, value)),
            SmallMap::Many(many) => many.iter().for_each(|(key, value)| f(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::prng::Prng;

    fn hash() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    #[test]
    fn a_small_map_agrees_with_a_map_as_it_grows_and_shrinks() {
        for seed in 0..100 {
            let mut prng = Prng::with_seed(seed);
            let mut small = SmallMap::Empty;
            let mut naive = BTreeMap::new();
            for step in 0..1_000 {
                // Waves: up to about 60 entries and back to none.
                let (key, value) = (prng.u64(..60), prng.u32(..));
                if prng.u32(..400) > step % 400 {
                    assert_eq!(small.insert(key, value, &hash()), naive.insert(key, value), "seed {seed}");
                } else {
                    assert_eq!(small.remove(&key), naive.remove(&key), "seed {seed}");
                }
                assert_eq!(small.len(), naive.len(), "seed {seed}");
                let probe = prng.u64(..60);
                assert_eq!(small.get(&probe), naive.get(&probe), "seed {seed}");
                assert_eq!(small.get_mut(&probe), naive.get_mut(&probe), "seed {seed}");
            }
            let mut all = Vec::new();
            small.for_each(|&key, &value| all.push((key, value)));
            all.sort_unstable();
            assert_eq!(all, naive.into_iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
