//! Numbers of peers: what their public ids are made of, and where a number's peer is.
//!
//! A number is not the slot of a connection: a peer keeps it wherever it is kept, and when it gets another link.

use crate::base::ids::{ConnId, GENERATION_MASK, SLOT_BITS, SLOT_MAX, ShardId, Sock};

/// A peer among those of its shard; below 2^24 in its book, and used again when the peer is gone.
///
/// ```text
///  29      24                        0
///  ├─ book ─┼─ number in that book ──┤
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u32);

const BOOK_BITS: u32 = 6;
/// Books of one shard. An upgrade to fewer shards than a 64th of those that there were is refused.
pub const BOOKS_MAX: usize = 1 << BOOK_BITS;

impl Number {
    fn of(book: usize, number: u32) -> Number {
        Number((book as u32) << SLOT_BITS | number)
    }

    fn book(self) -> usize {
        (self.0 >> SLOT_BITS) as usize
    }

    fn place(self) -> u32 {
        self.0 & SLOT_MAX
    }
}

/// Entries a page: 4 KiB, so that growing copies nothing.
const PAGE: usize = 512;
const NONE: u32 = u32::MAX;

/// Eight bytes.
#[derive(Clone, Copy)]
struct DirectoryEntry {
    /// Of the peer's connection; while nobody has the number, the next free number.
    slot: u32,
    /// Tells the uses of a number apart. The highest bit: somebody has it.
    used: u32,
}

const TAKEN: u32 = 1 << 31;
const _: () = assert!(GENERATION_MASK < TAKEN && size_of::<DirectoryEntry>() == 8);

/// Who has which number: a book for the shard's own numbers, and one for each shard of an earlier process whose peers are
/// here now.
pub(in crate::shard) struct Directory {
    books: Vec<Book>,
}

/// The numbers that have one shard in them.
struct Book {
    label: ShardId,
    pages: Vec<Box<[DirectoryEntry; PAGE]>>,
    /// Numbers ever given.
    given: u32,
    free: u32,
}

impl Directory {
    pub fn new(shard: ShardId) -> Directory {
        Directory { books: vec![Book::new(shard)] }
    }

    /// A number for the peer at `slot`. There are as many as connections at most: those of slots.
    pub fn insert(&mut self, slot: u32) -> Number {
        Number::of(0, self.books[0].insert(slot))
    }

    /// The peer is gone.
    pub fn remove(&mut self, number: Number) {
        self.books[number.book()].remove(number.place());
    }

    /// Another peer follows on the same connection, under the same number: the names before lead nowhere.
    pub fn rename(&mut self, number: Number) {
        let entry = self.books[number.book()].entry_mut(number.place());
        debug_assert!(entry.used & TAKEN != 0, "only a peer has a name");
        entry.used = (entry.used + 1) & GENERATION_MASK | TAKEN;
    }

    /// The peer's name among shards.
    pub fn id(&self, number: Number) -> ConnId {
        let book = &self.books[number.book()];
        let generation = book.entry(number.place()).used & GENERATION_MASK;
        ConnId::new(book.label, Sock { slot: number.place(), generation })
    }

    /// The slot of the peer of that name; `None` when it is gone.
    pub fn slot(&self, id: ConnId) -> Option<u32> {
        let Sock { slot: number, generation } = id.sock();
        let book = self.books.iter().find(|book| book.label == id.shard())?;
        if number >= book.given {
            return None;
        }
        let entry = book.entry(number);
        (entry.used == generation | TAKEN).then_some(entry.slot)
    }

    // --- from one process to the next

    /// What the next process has to know of each book, besides the numbers of the peers that it takes: how many were given,
    /// and a generation that none of them has had.
    pub fn books(&self) -> impl Iterator<Item = (ShardId, u32, u32)> {
        self.books.iter().map(|book| {
            let entries = (0..book.given).map(|number| book.entry(number).used & GENERATION_MASK);
            (book.label, book.given, entries.max().map_or(0, |last| (last + 1) & GENERATION_MASK))
        })
    }

    /// Numbers of a book that were given elsewhere: each is free until its peer is adopted. False for a book that is here
    /// already, or one too many, or one of more numbers than there are.
    pub fn restore(&mut self, label: ShardId, given: u32, generation: u32) -> bool {
        let known = self.books.iter().position(|book| book.label == label);
        let fits = given <= SLOT_MAX + 1 && generation <= GENERATION_MASK;
        let at = match known {
            Some(at) if self.books[at].given == 0 && fits => at,
            None if self.books.len() < BOOKS_MAX && fits => {
                self.books.push(Book::new(label));
                self.books.len() - 1
            }
            _ => return false,
        };
        let book = &mut self.books[at];
        for _ in 0..given {
            book.grow(generation);
        }
        true
    }

    /// The number of a peer that another process gave it. `None` when somebody has it, or it is not in a book.
    pub fn adopt(&mut self, id: ConnId, slot: u32) -> Option<Number> {
        let at = self.books.iter().position(|book| book.label == id.shard())?;
        let Sock { slot: number, generation } = id.sock();
        let book = &mut self.books[at];
        if number >= book.given || book.entry(number).used & TAKEN != 0 {
            return None;
        }
        *book.entry_mut(number) = DirectoryEntry { slot, used: generation | TAKEN };
        Some(Number::of(at, number))
    }

    /// All peers have come: the numbers that nobody has may be given.
    pub fn finish_restoring(&mut self) {
        for book in &mut self.books {
            book.free = NONE;
            for number in (0..book.given).rev() {
                if book.entry(number).used & TAKEN == 0 {
                    let free = book.free;
                    book.entry_mut(number).slot = free;
                    book.free = number;
                }
            }
        }
    }
}

impl Book {
    fn new(label: ShardId) -> Book {
        Book { label, pages: Vec::new(), given: 0, free: NONE }
    }

    fn insert(&mut self, slot: u32) -> u32 {
        let number = match self.free {
            NONE => self.grow(0),
            free => {
                self.free = self.entry(free).slot;
                free
            }
        };
        let entry = self.entry_mut(number);
        *entry = DirectoryEntry { slot, used: entry.used | TAKEN };
        number
    }

    fn grow(&mut self, generation: u32) -> u32 {
        let number = self.given;
        assert!(number <= SLOT_MAX, "as many numbers as slots");
        if number as usize / PAGE == self.pages.len() {
            self.pages.push(Box::new([DirectoryEntry { slot: NONE, used: 0 }; PAGE]));
        }
        self.given += 1;
        self.entry_mut(number).used = generation;
        number
    }

    fn remove(&mut self, number: u32) {
        let free = self.free;
        let entry = self.entry_mut(number);
        debug_assert!(entry.used & TAKEN != 0, "a number is given back once");
        *entry = DirectoryEntry { slot: free, used: (entry.used + 1) & GENERATION_MASK };
        self.free = number;
    }

    fn entry(&self, number: u32) -> DirectoryEntry {
        self.pages[number as usize / PAGE][number as usize % PAGE]
    }

    fn entry_mut(&mut self, number: u32) -> &mut DirectoryEntry {
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
        assert!(directory.books[0].given <= 1500, "numbers are used again");
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
        directory.books[0].entry_mut(number.place()).used = GENERATION_MASK | TAKEN;
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

    /// The next process knows every peer by the name that it had, and gives no name twice.
    #[test]
    fn peers_keep_their_names_in_the_next_process() {
        let mut prng = Prng::with_seed(1);
        let mut old = Directory::new(ShardId(5));
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for slot in 0..3000 {
            let number = old.insert(slot);
            here.push((old.id(number), number));
            if prng.u32(0..3) == 0 {
                let (id, number) = here.swap_remove(prng.usize(0..here.len()));
                old.remove(number);
                gone.push(id);
            }
        }
        for shard in [ShardId(5), ShardId(1)] {
            let mut new = Directory::new(shard);
            for (label, given, generation) in old.books() {
                assert!(new.restore(label, given, generation));
                assert!(!new.restore(label, given, generation), "once");
            }
            for (at, (id, _)) in here.iter().enumerate() {
                assert!(new.adopt(*id, at as u32).is_some());
                assert!(new.adopt(*id, at as u32).is_none(), "once");
            }
            new.finish_restoring();
            for (at, (id, _)) in here.iter().enumerate() {
                assert_eq!(new.slot(*id), Some(at as u32));
            }
            for slot in 10_000..13_000 {
                let number = new.insert(slot);
                let id = new.id(number);
                assert!(!gone.contains(&id) && here.iter().all(|(other, _)| *other != id), "given before");
                assert_eq!(new.slot(id), Some(slot));
            }
        }
    }
}
