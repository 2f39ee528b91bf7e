//! What waits for the next batch of a value channel: the newest publication of each key.
//!
//! Between two batches a key may change often; subscribers get what it is when the batch begins. What waits is bounded by the
//! keys, however long that takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::ids::Offset;
use crate::base::publication::Publication;
use crate::hub::stream::{Item, Stream};

/// Values on their way into a channel's stream.
#[derive(Debug)]
pub struct WaitingValues {
    /// The last publication before them: the stream's end.
    before: Offset,
    /// Bound: `keys_max` values and as many removals, as the owner has.
    newest: BTreeMap<Offset, Arc<Publication>>,
    keys: BTreeMap<Box<str>, Offset>,
}

impl WaitingValues {
    pub fn behind(before: Offset) -> WaitingValues {
        WaitingValues { before, newest: BTreeMap::new(), keys: BTreeMap::new() }
    }

    pub fn before(&self) -> Offset {
        self.before
    }

    /// Takes the newest publication of its key. Gives the one that it replaces.
    pub fn put(&mut self, publication: Arc<Publication>) -> Option<Arc<Publication>> {
        let at = publication.offset();
        let replaced = match self.keys.get_mut(publication.key()) {
            Some(known) => self.newest.remove(&std::mem::replace(known, at)),
            None => {
                self.keys.insert(publication.key().into(), at);
                None
            }
        };
        self.newest.insert(at, publication);
        replaced
    }

    pub fn publications(&self) -> impl Iterator<Item = &Arc<Publication>> {
        self.newest.values()
    }

    /// Puts all of them into the stream, in their order. Gives their payload bytes.
    pub fn flow_into(self, stream: &mut Stream) -> usize {
        let before = stream.weight();
        self.newest.into_values().for_each(|publication| stream.push(Item::Publication(publication)));
        stream.weight() - before
    }
}
