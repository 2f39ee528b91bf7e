//! The members of a channel that others see, with their infos: a list, and above [`SCANNED_MAX`] an index into it.
//!
//! An info is shared by all channels that its connection is in: a member costs two words here. Must not know: who is listed,
//! who is announced.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::base::ids::ConnId;
use crate::base::publication::ClientInfo;

/// Members that are looked for by walking the list: 2 KiB, which costs about what two cache misses of a table do.
pub(super) const SCANNED_MAX: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Shown {
    /// In no order.
    list: Vec<(ConnId, Arc<ClientInfo>)>,
    /// Places in the list. Present while there are more than half of [`SCANNED_MAX`], made above all of it.
    #[allow(clippy::box_collection)]
    index: Option<Box<HashTable<u32>>>,
}

const _: () = assert!(size_of::<(ConnId, Arc<ClientInfo>)>() == 16 && size_of::<Shown>() <= 32);

impl Shown {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn get(&self, conn: ConnId) -> Option<&Arc<ClientInfo>> {
        self.place(conn).map(|at| &self.list[at].1)
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Arc<ClientInfo>> {
        self.place(conn).map(|at| &mut self.list[at].1)
    }

    /// Gives the info that was there for the connection.
    pub fn insert(&mut self, conn: ConnId, info: Arc<ClientInfo>) -> Option<Arc<ClientInfo>> {
        let list = &mut self.list;
        let at = list.len() as u32;
        if let Some(index) = &mut self.index {
            let hash_at = |at: &u32| hash_of(list[*at as usize].0);
            match index.entry(hash_of(conn), |known| list[*known as usize].0 == conn, hash_at) {
                Entry::Vacant(vacant) => drop(vacant.insert(at)),
                Entry::Occupied(known) => {
                    return Some(std::mem::replace(&mut list[*known.get() as usize].1, info));
                }
            }
        } else if let Some((_, known)) = list.iter_mut().find(|(known, _)| *known == conn) {
            return Some(std::mem::replace(known, info));
        }
        if list.len() == list.capacity() {
            // By an eighth: twice as much would be a third empty in the mean.
            list.reserve_exact(1 + list.len() / 8);
        }
        list.push((conn, info));
        if self.index.is_none() && list.len() > SCANNED_MAX {
            let mut index = HashTable::with_capacity(2 * SCANNED_MAX);
            for (at, (conn, _)) in (0..).zip(&*list) {
                index.insert_unique(hash_of(*conn), at, |&at: &u32| hash_of(list[at as usize].0));
            }
            self.index = Some(Box::new(index));
        }
        None
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Arc<ClientInfo>> {
        let list = &self.list;
        let at = match &mut self.index {
            None => list.iter().position(|(known, _)| *known == conn)?,
            Some(index) => {
                let is_at = |at: &u32| list[*at as usize].0 == conn;
                let (at, _) = index.find_entry(hash_of(conn), is_at).ok()?.remove();
                let last = list.len() - 1;
                if let Some(moved) = index.find_mut(hash_of(list[last].0), |&at| at as usize == last) {
                    *moved = at;
                }
                at as usize
            }
        };
        let (_, info) = self.list.swap_remove(at);
        let list = &mut self.list;
        if list.len() <= list.capacity() / 2 {
            list.shrink_to(list.len() + list.len() / 8);
            if let Some(index) = &mut self.index {
                index.shrink_to(list.capacity(), |&at| hash_of(list[at as usize].0));
            }
        }
        if list.len() <= SCANNED_MAX / 2 {
            self.index = None;
        }
        Some(info)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Arc<ClientInfo>)> {
        self.list.iter().map(|(conn, info)| (*conn, info))
    }

    fn place(&self, conn: ConnId) -> Option<usize> {
        let is_at = |at: &u32| self.list[*at as usize].0 == conn;
        match &self.index {
            None => self.list.iter().position(|(known, _)| *known == conn),
            Some(index) => index.find(hash_of(conn), is_at).map(|&at| at as usize),
        }
    }
}

/// Names of connections are given by us, so no stranger chooses them to collide.
fn hash_of(conn: ConnId) -> u64 {
    let mixed = conn.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::ids::{ShardId, Sock};
    use crate::base::prng::Prng;

    #[test]
    fn agrees_with_a_map_as_it_grows_and_shrinks() {
        for seed in 0..20 {
            let mut prng = Prng::with_seed(seed);
            let (mut shown, mut naive) = (Shown::default(), BTreeMap::new());
            let mut indexed = false;
            for step in 0..4_000 {
                // Waves: up to about 400 members and back to none.
                let sock = Sock { slot: prng.u32(..400), generation: 0 };
                let conn = ConnId::new(ShardId(prng.u16(..2)), sock);
                if prng.u32(..2_000) > step % 2_000 {
                    let info = Arc::new(ClientInfo { client: step.to_string(), ..ClientInfo::default() });
                    let before = shown.insert(conn, Arc::clone(&info));
                    assert_eq!(before, naive.insert(conn, info), "seed {seed}");
                } else {
                    assert_eq!(shown.remove(conn), naive.remove(&conn), "seed {seed}");
                }
                assert_eq!((shown.len(), shown.get(conn)), (naive.len(), naive.get(&conn)), "seed {seed}");
                indexed |= shown.index.is_some();
            }
            assert!(indexed);
            let mut all: Vec<_> = shown.iter().map(|(conn, info)| (conn, info.client.clone())).collect();
            all.sort_unstable();
            let naive = naive.into_iter().map(|(conn, info)| (conn, info.client.clone()));
            assert_eq!(all, naive.collect::<Vec<_>>(), "seed {seed}");
        }
    }

    /// What a member of a group costs: its two words, and at most an eighth of them that is not used.
    #[test]
    fn a_list_is_not_half_empty() {
        let mut shown = Shown::default();
        for slot in 0..1_000 {
            shown.insert(ConnId::new(ShardId(0), Sock { slot, generation: 0 }), Arc::default());
            let capacity = shown.list.capacity();
            assert!(capacity <= shown.len() + shown.len() / 8 + 1, "{capacity} for {}", shown.len());
        }
        (0..1_000).for_each(|slot| {
            shown.remove(ConnId::new(ShardId(0), Sock { slot, generation: 0 }));
        });
        assert_eq!((shown.list.capacity(), shown.index.is_none()), (0, true));
    }
}
