//! Blocks and revocations beyond this process: given to a store, and to the process that takes over.
//!
//! They are kept as what is "async" is: soon after, and without anybody waiting for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::blocks::{BlockChange, Blocks, Unkept};
use crate::control::keeper::Keeper;
use crate::control::process::wall_ms;
use crate::record::{BlockRecord, BlocksPart, StoredBlocks, StoredRecord};

/// Entries of one part: about 100 KB.
const PART_ENTRIES: usize = 1_000;
/// How soon the store is offered again what it had no room for: half of what "async" may lose.
const KEEP_AGAIN: Duration = Duration::from_millis(50);
/// How often what is over is dropped.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// What keeps the blocks of a node, where there is a store.
#[derive(Clone)]
pub struct BlocksKept {
    keeper: Arc<Mutex<KeepingBlocks>>,
    /// The keeper wants something.
    wake: Arc<Notify>,
}

struct KeepingBlocks {
    keeper: Box<dyn Keeper>,
    /// Not taken yet.
    waiting: Vec<BlockChange>,
    /// What waits is everything: nothing that was given before stands.
    reset: bool,
    begun: bool,
}

impl BlocksKept {
    pub fn new(keeper: Box<dyn Keeper>, wake: Arc<Notify>) -> BlocksKept {
        let keeping = KeepingBlocks { keeper, waiting: Vec::new(), reset: false, begun: false };
        BlocksKept { keeper: Arc::new(Mutex::new(keeping)), wake }
    }

    /// What has changed goes to the keeper. False when it has no room for all now.
    pub fn give(&self, blocks: &Blocks) -> bool {
        self.keeper.lock().give(blocks)
    }
}

impl fmt::Debug for BlocksKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlocksKept")
    }
}

impl KeepingBlocks {
    fn give(&mut self, blocks: &Blocks) -> bool {
        let Unkept { changes, all } = blocks.take_unkept();
        if all {
            (self.waiting, self.reset) = (standing(blocks), true);
        }
        self.waiting.extend(changes);
        if !self.begun && (!self.waiting.is_empty() || self.reset || !blocks.is_empty()) {
            self.begun = true;
            self.keeper.begin();
        }
        let number = self.keeper.wants_copy();
        if self.begun && number != 0 {
            // Whole or not at all: what changes meanwhile waits behind it.
            for part in standing(blocks).chunks(PART_ENTRIES) {
                if !self.keeper.keep(stored(part, false), true) {
                    return false;
                }
            }
            self.keeper.copied(number);
        }
        while !self.waiting.is_empty() || self.reset {
            let some = self.waiting.len().min(PART_ENTRIES);
            if !self.keeper.keep(stored(&self.waiting[..some], self.reset), false) {
                return false;
            }
            self.waiting.drain(..some);
            self.reset = false;
        }
        true
    }
}

fn stored(changes: &[BlockChange], reset: bool) -> StoredRecord {
    StoredRecord::Blocks(StoredBlocks { changes: changes.iter().map(BlockRecord::of).collect(), reset })
}

/// Everything that stands.
fn standing(blocks: &Blocks) -> Vec<BlockChange> {
    let page = blocks.page(None, usize::MAX, wall_ms() / 1000);
    page.into_iter().map(|(of, terms)| BlockChange { of, terms: Some(terms) }).collect()
}

/// The same as records.
pub fn parts(blocks: &Blocks) -> Vec<BlocksPart> {
    let all = standing(blocks);
    let part = |some: &[BlockChange]| BlocksPart { blocks: some.iter().map(BlockRecord::of).collect() };
    all.chunks(PART_ENTRIES).map(part).collect()
}

/// Adds those of another process. What has no room here, or is of another version, is left out.
pub fn restore(blocks: &Blocks, part: BlocksPart) {
    for change in part.blocks.iter().filter_map(BlockRecord::change) {
        let _ = blocks.apply(&change, wall_ms() / 1000);
    }
}

/// For the life of the node: drops what is over, and gives what changes to its keeper.
pub async fn look_after(blocks: Arc<Blocks>, kept: Option<BlocksKept>) {
    let wake = kept.as_ref().map_or_else(Arc::default, |kept| Arc::clone(&kept.wake));
    if kept.is_some() {
        let wake = Arc::clone(&wake);
        blocks.keep(move || wake.notify_one());
    }
    let mut is_behind = kept.is_some();
    loop {
        let pause = if is_behind { KEEP_AGAIN } else { EXPIRE_EVERY };
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(pause) => blocks.expire(wall_ms() / 1000),
        }
        is_behind = kept.as_ref().is_some_and(|kept| !kept.give(&blocks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::blocks::{BlockOf, Terms};
    use crate::control::shelf::{Handle, Shelf};

    fn change(number: usize, stands: bool) -> BlockChange {
        let of = BlockOf::User(format!("{number:05}").into());
        BlockChange { of, terms: stands.then(Terms::default) }
    }

    /// What a start after it would find.
    fn found(shelf: &Shelf) -> Vec<BlockChange> {
        let blocks = Blocks::default();
        for (record, _) in &shelf.records {
            let StoredRecord::Blocks(part) = record else { panic!("{record:?}") };
            restore(&blocks, BlocksPart { blocks: part.changes.clone() });
        }
        standing(&blocks)
    }

    #[test]
    fn what_is_not_taken_is_given_again_and_a_copy_has_everything() {
        let shelf = Arc::new(Mutex::new(Shelf { room: 2, ..Shelf::default() }));
        let kept = BlocksKept::new(Box::new(Handle(Arc::clone(&shelf))), Arc::default());
        let blocks = Blocks::default();
        blocks.keep(|| {});
        for number in 0..3_500 {
            blocks.apply(&change(number, true), 0).unwrap();
        }
        assert!(!kept.give(&blocks), "two parts have room");
        blocks.apply(&change(7, false), 0).unwrap();
        shelf.lock().room = 9;
        assert!(kept.give(&blocks));
        assert_eq!(found(&shelf.lock()), standing(&blocks));
        assert_eq!(shelf.lock().records.len(), 4);
        // A copy, and what changed before it was asked for.
        blocks.apply(&change(8, false), 0).unwrap();
        *shelf.lock() = Shelf { room: 3, wanted: 5, ..Shelf::default() };
        assert!(!kept.give(&blocks), "the copy has no room");
        assert_eq!(shelf.lock().copied, 0);
        shelf.lock().room = 99;
        assert!(kept.give(&blocks));
        let shelf = shelf.lock();
        assert_eq!((found(&shelf), shelf.copied), (standing(&blocks), 5));
    }

    #[test]
    fn another_process_has_the_same() {
        let (old, new) = (Blocks::default(), Blocks::default());
        (0..2_500).for_each(|number| assert_eq!(old.apply(&change(number, true), 0), Ok(true)));
        parts(&old).into_iter().for_each(|part| restore(&new, part));
        assert_eq!(standing(&new), standing(&old));
    }
}
