//! A table indexed by the slot its driver chose, grown in pages so that growing never copies what is there.

/// Entries a page. 512 entries of 128 bytes are 64 KiB: large enough to be cheap, small enough to waste little.
const PAGE: usize = 512;

/// Sparse array of `T` by slot number.
pub struct Slots<T> {
    pages: Vec<Option<Box<[Option<T>]>>>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { pages: Vec::new(), len: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts `value` at `slot`. A slot in use is a bug of ours: the driver hands a slot out once.
    pub fn insert(&mut self, slot: u32, value: T) -> &mut T {
        self.len += 1;
        let entry = &mut self.page(slot)[slot as usize % PAGE];
        assert!(entry.is_none(), "slot {slot} inserted twice");
        entry.insert(value)
    }

    /// Room for `slot`, so that inserting it takes none.
    pub fn prepare(&mut self, slot: u32) {
        self.page(slot);
    }

    fn page(&mut self, slot: u32) -> &mut [Option<T>] {
        let page = slot as usize / PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        self.pages[page].get_or_insert_with(|| (0..PAGE).map(|_| None).collect())
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.pages.get(slot as usize / PAGE)?.as_ref()?[slot as usize % PAGE].as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.pages.get_mut(slot as usize / PAGE)?.as_mut()?[slot as usize % PAGE].as_mut()
    }

    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let taken = self.pages.get_mut(slot as usize / PAGE)?.as_mut()?[slot as usize % PAGE].take();
        if taken.is_some() {
            self.len -= 1;
        }
        taken
    }

    /// Gives back the pages that nothing is in. Looks at every entry.
    pub fn trim(&mut self) {
        for page in &mut self.pages {
            if page.as_ref().is_some_and(|entries| entries.iter().all(Option::is_none)) {
                *page = None;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// No slot in use is this one or above.
    pub fn end(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every slot in use from `first` on, in slot order.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let page = (first as usize / PAGE).min(self.pages.len());
        let pages = self.pages[page..].iter().enumerate();
        let all = pages.flat_map(move |(at, entries)| {
            entries.iter().flat_map(move |entries| {
                let slots = entries.iter().enumerate();
                slots.filter_map(move |(entry, value)| {
                    Some((((page + at) * PAGE + entry) as u32, value.as_ref()?))
                })
            })
        });
        all.skip_while(move |(slot, _)| *slot < first)
    }

    /// Every slot in use, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages.iter().enumerate().flat_map(|(page, entries)| {
            entries.iter().flat_map(move |entries| {
                entries.iter().enumerate().filter_map(move |(at, entry)| {
                    entry.as_ref().map(|entry| ((page * PAGE + at) as u32, entry))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_put_across_pages() {
        let mut slots = Slots::default();
        for slot in [0, 1, 511, 512, 20_000] {
            slots.insert(slot, slot * 10);
        }
        assert_eq!(slots.len(), 5);
        assert_eq!(slots.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [0, 1, 511, 512, 20_000]);
        let from = |first| slots.iter_from(first).map(|(slot, _)| slot).collect::<Vec<_>>();
        assert_eq!(from(1), [1, 511, 512, 20_000]);
        assert_eq!(from(513), [20_000]);
        assert!(from(20_001).is_empty() && from(9_000_000).is_empty());
        slots.trim();
        assert_eq!(slots.get(512), Some(&5120));
        assert_eq!(slots.get(513), None);
        assert_eq!(slots.get(1_000_000), None);
        assert_eq!(slots.remove(512), Some(5120));
        assert_eq!(slots.remove(512), None);
        assert_eq!(slots.len(), 4);
    }

    #[test]
    #[should_panic(expected = "inserted twice")]
    fn a_slot_is_used_once_at_a_time() {
        let mut slots = Slots::default();
        slots.insert(3, ());
        slots.insert(3, ());
    }
}
