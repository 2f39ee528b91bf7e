//! A keeper for tests, which takes so many records.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::control::keeper::Keeper;
use crate::record::StoredRecord;

#[derive(Default)]
pub struct Shelf {
    pub room: usize,
    pub wanted: u64,
    pub copied: u64,
    /// And whether each was of a copy.
    pub records: Vec<(StoredRecord, bool)>,
}

pub struct Handle(pub Arc<Mutex<Shelf>>);

impl Keeper for Handle {
    fn begin(&mut self) {}

    fn keep(&mut self, record: StoredRecord, copies: bool) -> bool {
        let mut shelf = self.0.lock();
        let has_room = shelf.room > 0;
        if has_room {
            shelf.room -= 1;
            shelf.records.push((record, copies));
        }
        has_room
    }

    fn wants_copy(&mut self) -> u64 {
        let shelf = self.0.lock();
        if shelf.wanted == shelf.copied { 0 } else { shelf.wanted }
    }

    fn copied(&mut self, number: u64) {
        self.0.lock().copied = number;
    }
}
