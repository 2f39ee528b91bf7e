//! Numbers of peers: what their public ids are made of, and where a number's peer is.
//!
//! A number is not the slot of a connection: a peer keeps it wherever it is kept, and when it gets another link.

use crate::base::ids::{ConnId, GENERATION_MASK, SLOT_MAX, ShardId, Sock};

/// A peer among those of its shard; below 2^24, and used again when the peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u32);

/// Entries a page: 4 KiB, so that growing copies nothing.
const PAGE: usize = 512;
const NONE: u32 = u32::MAX;

/// Eight bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// Of the peer's connection; while nobody has the number, the next free number.
    slot: u32,
    /// Tells the uses of a number apart. The highest bit: somebody has it.
    used: u32,
}

const TAKEN: u32 = 1 << 31;
const _: () = assert!(GENERATION_MASK < TAKEN && size_of::<Entry>() == 8);

/// Who has which number.
pub(in crate::shard) struct Directory {
    shard: ShardId,
    pages: Vec<Box<[Entry; PAGE]>>,
    /// Numbers ever given.
    given: u32,
    free: u32,
}

impl Directory {
    pub fn new(shard: ShardId) -> Directory {
        Directory { shard, pages: Vec::new(), given: 0, free: NONE }
    }

    /// A number for the peer at `slot`. There are as many as connections at most: those of slots.
    pub fn insert(&mut self, slot: u32) -> Number {
        let number = match self.free {
            NONE => {
                let number = self.given;
                assert!(number <= SLOT_MAX, "as many numbers as slots");
                if number as usize / PAGE == self.pages.len() {
                    self.pages.push(Box::new([Entry { slot: NONE, used: 0 }; PAGE]));
                }
                self.given += 1;
                number
            }
            free => {
                self.free = self.entry(Number(free)).slot;
                free
            }
        };
        let entry = self.entry_mut(Number(number));
        *entry = Entry { slot, used: entry.used | TAKEN };
        Number(number)
    }

    /// The peer is gone.
    pub fn remove(&mut self, number: Number) {
        let free = self.free;
        let entry = self.entry_mut(number);
        debug_assert!(entry.used & TAKEN != 0, "a number is given back once");
        *entry = Entry { slot: free, used: (entry.used + 1) & GENERATION_MASK };
        self.free = number.0;
    }

    /// Another peer follows on the same connection, under the same number: the names before lead nowhere.
    pub fn rename(&mut self, number: Number) {
        let entry = self.entry_mut(number);
        debug_assert!(entry.used & TAKEN != 0, "only a peer has a name");
        entry.used = (entry.used + 1) & GENERATION_MASK | TAKEN;
    }

    /// The peer's name among shards.
    pub fn id(&self, number: Number) -> ConnId {
        let generation = self.entry(number).used & GENERATION_MASK;
        ConnId::new(self.shard, Sock { slot: number.0, generation })
    }

    /// The slot of the peer of that name; `None` when it is gone.
    pub fn slot(&self, id: ConnId) -> Option<u32> {
        let Sock { slot: number, generation } = id.sock();
        if id.shard() != self.shard || number >= self.given {
            return None;
        }
        let entry = self.entry(Number(number));
        (entry.used == generation | TAKEN).then_some(entry.slot)
    }

    fn entry(&self, Number(number): Number) -> Entry {
        self.pages[number as usize / PAGE][number as usize % PAGE]
    }

    fn entry_mut(&mut self, Number(number): Number) -> &mut Entry {
        &mut self.pages[number as usize / PAGE][number as usize % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    #[test]
    fn a_name_leads_to_its_peer_and_to_no_later_one() {
        let mut prng = Prng::with_seed(1);
        let mut directory = Directory::new(ShardId(3));
        let (mut here, mut gone) = (BTreeMap::new(), Vec::new());
        for step in 0..20_000 {
            if here.len() < 1500 && prng.u32(0..5) < 3 {
                // Slots repeat while the number of another peer is free: the two have nothing to do with each other.
                let number = directory.insert(step % 7);
                let id = directory.id(number);
                assert!(here.insert(id, (number, step % 7)).is_none(), "two peers of one name");
            } else if let Some((&id, _)) = here.iter().nth(prng.usize(0..here.len().max(1))) {
                let (number, _) = here.remove(&id).unwrap();
                directory.remove(number);
                gone.push(id);
            }
        }
        assert!(here.len() > 1000 && gone.len() > 1000);
        for (id, (number, slot)) in &here {
            assert_eq!((directory.slot(*id), directory.id(*number)), (Some(*slot), *id));
        }
        assert!(gone.iter().all(|id| directory.slot(*id).is_none()));
        assert!(directory.given <= 1500, "numbers are used again");
    }

    #[test]
    fn a_peer_that_follows_on_a_connection_has_another_name() {
        let mut directory = Directory::new(ShardId(3));
        let number = directory.insert(9);
        let mut before = vec![directory.id(number)];
        for _ in 0..3 {
            directory.rename(number);
            let id = directory.id(number);
            assert_eq!(directory.slot(id), Some(9));
            assert!(before.iter().all(|&before| before != id && directory.slot(before).is_none()));
            before.push(id);
        }
        directory.remove(number);
        assert!(before.iter().all(|&before| directory.slot(before).is_none()));
        let next = directory.insert(4);
        assert!(before.iter().all(|&before| before != directory.id(next)));
    }

    #[test]
    fn a_name_is_used_again_only_after_all_others() {
        let mut directory = Directory::new(ShardId(0));
        let number = directory.insert(1);
        directory.entry_mut(number).used = GENERATION_MASK | TAKEN;
        let last = directory.id(number);
        directory.rename(number);
        assert_eq!((directory.slot(last), directory.slot(directory.id(number))), (None, Some(1)));
    }

    #[test]
    fn names_of_other_shards_and_of_nobody_lead_nowhere() {
        let mut directory = Directory::new(ShardId(3));
        let number = directory.insert(9);
        let id = directory.id(number);
        assert_eq!((id.shard(), directory.slot(id)), (ShardId(3), Some(9)));
        assert_eq!(directory.slot(ConnId::new(ShardId(2), id.sock())), None);
        for slot in [1, SLOT_MAX] {
            assert_eq!(directory.slot(ConnId::new(ShardId(3), Sock { slot, generation: 0 })), None);
        }
    }
}
