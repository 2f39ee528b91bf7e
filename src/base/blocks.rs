//! Users that are not let in, and tokens that are taken no more: one table for all shards of a node.
//!
//! Inputs: changes by the API, by other nodes, of a store or of the process before; the time. Outputs: whether a user or a
//! token is refused. Must not know: connections, tokens, where changes come from.
//!
//! A lock is taken for each connect, subscription and refresh while there is an entry at all, and never for a publication;
//! writers hold it for one change.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::base::limits::{BLOCK_NAME_BYTES_MAX, BLOCKS_MAX};

/// What is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockOf {
    /// The user, however it proves who it is.
    User(Box<str>),
    /// The token with this `jti`.
    Token(Box<str>),
    /// Tokens of the user that were issued before a time.
    Issued(Box<str>),
}

impl BlockOf {
    pub fn name(&self) -> &str {
        let (BlockOf::User(name) | BlockOf::Token(name) | BlockOf::Issued(name)) = self;
        name
    }

    /// A number that names the kind on wires and disks.
    pub fn kind(&self) -> u8 {
        match self {
            BlockOf::User(_) => 1,
            BlockOf::Token(_) => 2,
            BlockOf::Issued(_) => 3,
        }
    }

    pub fn from_parts(kind: u8, name: &str) -> Option<BlockOf> {
        Some(match kind {
            1 => BlockOf::User(name.into()),
            2 => BlockOf::Token(name.into()),
            3 => BlockOf::Issued(name.into()),
            _ => return None,
        })
    }
}

/// How it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Until when, in seconds since 1970; 0: until it is taken back.
    pub until_s: u64,
    /// Of [`BlockOf::Issued`]: before when, in seconds since 1970.
    pub before_s: u64,
}

impl Terms {
    pub fn is_over(self, now_s: u64) -> bool {
        self.until_s != 0 && self.until_s <= now_s
    }
}

/// One entry that was added, changed or (without terms) taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockChange {
    pub of: BlockOf,
    pub terms: Option<Terms>,
}

/// Why a change is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFault {
    /// There are [`BLOCKS_MAX`] entries.
    Full,
    /// The name is empty, or longer than [`BLOCK_NAME_BYTES_MAX`].
    Name,
}

/// See the module's head.
#[derive(Default)]
pub struct Blocks {
    /// Of the table: nothing is looked up while there is none.
    entries: AtomicUsize,
    table: RwLock<BTreeMap<BlockOf, Terms>>,
    counts: [AtomicU64; 2],
    /// Is told that there are changes to be kept.
    keeper: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Changes that it has not taken, in their order.
    /// Bound: [`BLOCKS_MAX`]; beyond, it is to keep everything again.
    unkept: Mutex<Unkept>,
}

/// What is to be kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unkept {
    pub changes: Vec<BlockChange>,
    /// More have come than were taken: what stands is to be kept whole.
    pub all: bool,
}

/// What has been refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Connects, subscriptions and refreshes of users that are blocked.
    User = 0,
    /// Tokens that were revoked.
    Token = 1,
}

impl Blocks {
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes are kept from now on: `changed` is called, from any thread, when there are some to be taken. Once.
    pub fn keep(&self, changed: impl Fn() + Send + Sync + 'static) {
        let _ = self.keeper.set(Box::new(changed));
    }

    /// What has changed since this was last called.
    pub fn take_unkept(&self) -> Unkept {
        std::mem::take(&mut *self.unkept.lock())
    }

    /// True when it changes anything.
    ///
    /// # Errors
    /// The change is not taken.
    pub fn apply(&self, change: &BlockChange, now_s: u64) -> Result<bool, BlockFault> {
        let name = change.of.name();
        if name.is_empty() || name.len() > BLOCK_NAME_BYTES_MAX {
            return Err(BlockFault::Name);
        }
        let mut table = self.table.write();
        let changes = match change.terms.filter(|terms| !terms.is_over(now_s)) {
            None => table.remove(&change.of).is_some(),
            Some(terms) => {
                if table.len() >= BLOCKS_MAX && !table.contains_key(&change.of) {
                    table.retain(|_, terms| !terms.is_over(now_s));
                    if table.len() >= BLOCKS_MAX {
                        return Err(BlockFault::Full);
                    }
                }
                table.insert(change.of.clone(), terms) != Some(terms)
            }
        };
        self.entries.store(table.len(), Ordering::Release);
        // Under the table's lock: they are kept in the order in which they were made.
        if changes && let Some(changed) = self.keeper.get() {
            let mut unkept = self.unkept.lock();
            if unkept.changes.len() >= BLOCKS_MAX {
                *unkept = Unkept { changes: Vec::new(), all: true };
            }
            unkept.changes.push(change.clone());
            changed();
        }
        Ok(changes)
    }

    /// Drops what is over. Walks all entries.
    pub fn expire(&self, now_s: u64) {
        if self.is_empty() {
            return;
        }
        let mut table = self.table.write();
        table.retain(|_, terms| !terms.is_over(now_s));
        self.entries.store(table.len(), Ordering::Release);
    }

    /// Whether it is refused, without counting.
    pub fn stands(&self, of: &BlockOf, now_s: u64) -> bool {
        !self.is_empty() && self.terms(of, now_s).is_some()
    }

    fn terms(&self, of: &BlockOf, now_s: u64) -> Option<Terms> {
        self.table.read().get(of).copied().filter(|terms| !terms.is_over(now_s))
    }

    /// Whether the user is not let in. Counts if so.
    pub fn refuses_user(&self, user: &str, now_s: u64) -> bool {
        let refused = !self.is_empty() && !user.is_empty() && self.stands(&BlockOf::User(user.into()), now_s);
        self.count(refused, Turned::User)
    }

    /// Whether a token of the user is taken no more. One that does not say when it was issued may be older than any time.
    /// Counts if so.
    pub fn refuses_token(&self, id: Option<&str>, user: &str, issued_at_s: Option<u64>, now_s: u64) -> bool {
        if self.is_empty() {
            return false;
        }
        let by_id = || id.is_some_and(|id| self.stands(&BlockOf::Token(id.into()), now_s));
        let by_time = || {
            let terms = self.terms(&BlockOf::Issued(user.into()), now_s).filter(|_| !user.is_empty());
            terms.is_some_and(|terms| issued_at_s.is_none_or(|issued| issued < terms.before_s))
        };
        self.count(by_id() || by_time(), Turned::Token)
    }

    fn count(&self, refused: bool, turned: Turned) -> bool {
        if refused {
            self.counts[turned as usize].fetch_add(1, Ordering::Relaxed);
        }
        refused
    }

    /// How often it refused.
    pub fn refused_total(&self, turned: Turned) -> u64 {
        self.counts[turned as usize].load(Ordering::Relaxed)
    }

    /// The first entries behind one (from the first on without), in order: at most `limit` that are not over.
    pub fn page(&self, after: Option<&BlockOf>, limit: usize, now_s: u64) -> Vec<(BlockOf, Terms)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.table.read();
        let entries = table.range::<BlockOf, _>((from, Bound::Unbounded));
        let standing = entries.filter(|(_, terms)| !terms.is_over(now_s)).take(limit);
        standing.map(|(of, terms)| (of.clone(), *terms)).collect()
    }
}

impl fmt::Debug for Blocks {
    /// Without names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("entries", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> BlockOf {
        BlockOf::User(name.into())
    }

    fn set(blocks: &Blocks, of: BlockOf, until_s: u64, before_s: u64) -> Result<(), BlockFault> {
        blocks.apply(&BlockChange { of, terms: Some(Terms { until_s, before_s }) }, 100).map(drop)
    }

    #[test]
    fn a_user_is_refused_until_its_time_is_over_or_it_is_taken_back() {
        let blocks = Blocks::default();
        assert!(!blocks.refuses_user("ann", 100));
        set(&blocks, user("ann"), 0, 0).unwrap();
        set(&blocks, user("bob"), 200, 0).unwrap();
        let refused = |name: &str, now_s| blocks.refuses_user(name, now_s);
        assert!(refused("ann", 100) && refused("ann", u64::MAX));
        assert!(refused("bob", 199) && !refused("bob", 200) && !refused("eve", 100) && !refused("", 100));
        assert_eq!(blocks.refused_total(Turned::User), 3);
        blocks.apply(&BlockChange { of: user("ann"), terms: None }, 100).unwrap();
        assert!(!refused("ann", 100));
        blocks.expire(150);
        assert_eq!(blocks.len(), 1);
        blocks.expire(200);
        assert!(blocks.is_empty());
        set(&blocks, user("late"), 99, 0).unwrap();
        assert!(blocks.is_empty(), "over before it began");
    }

    #[test]
    fn tokens_are_refused_by_their_id_and_by_their_user_and_time() {
        let blocks = Blocks::default();
        set(&blocks, BlockOf::Token("t1".into()), 0, 0).unwrap();
        set(&blocks, BlockOf::Issued("ann".into()), 0, 50).unwrap();
        let refused = |id, user, issued| blocks.refuses_token(id, user, issued, 100);
        assert!(refused(Some("t1"), "bob", None) && !refused(Some("t2"), "bob", None));
        assert!(refused(None, "ann", Some(49)) && !refused(None, "ann", Some(50)));
        assert!(refused(None, "ann", None), "it may be older");
        assert!(!refused(None, "", None) && !refused(None, "bob", Some(1)));
        assert!(!blocks.refuses_user("ann", 100), "with another token it is let in");
        assert_eq!(blocks.refused_total(Turned::Token), 3);
    }

    #[test]
    fn names_and_entries_have_their_bounds() {
        let blocks = Blocks::default();
        assert_eq!(set(&blocks, user(""), 0, 0), Err(BlockFault::Name));
        assert_eq!(set(&blocks, user(&"x".repeat(BLOCK_NAME_BYTES_MAX + 1)), 0, 0), Err(BlockFault::Name));
        set(&blocks, user("first"), 150, 0).unwrap();
        for number in 1..BLOCKS_MAX {
            set(&blocks, user(&number.to_string()), 0, 0).unwrap();
        }
        assert_eq!(set(&blocks, user("more"), 0, 0), Err(BlockFault::Full));
        assert_eq!(set(&blocks, user("1"), 500, 0), Ok(()), "one that is there can be changed");
        let change = BlockChange { of: user("more"), terms: Some(Terms::default()) };
        assert_eq!(blocks.apply(&change, 150), Ok(true), "what is over makes room");
    }

    #[test]
    fn changes_wait_for_their_keeper_in_order() {
        let blocks = Blocks::default();
        set(&blocks, user("before"), 0, 0).unwrap();
        let told = std::sync::Arc::new(AtomicUsize::new(0));
        blocks.keep({
            let told = std::sync::Arc::clone(&told);
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        set(&blocks, user("ann"), 0, 0).unwrap();
        set(&blocks, user("ann"), 0, 0).unwrap();
        let removed = BlockChange { of: user("ann"), terms: None };
        assert_eq!((blocks.apply(&removed, 100), blocks.apply(&removed, 100)), (Ok(true), Ok(false)));
        assert_eq!(told.load(Ordering::Relaxed), 2, "what changes nothing is not kept");
        let unkept = blocks.take_unkept();
        let added = BlockChange { of: user("ann"), terms: Some(Terms::default()) };
        assert_eq!(unkept, Unkept { changes: vec![added, removed], all: false });
        assert_eq!(blocks.take_unkept(), Unkept::default());
    }

    #[test]
    fn pages_come_to_everything_once() {
        let blocks = Blocks::default();
        for number in 0..25_u64 {
            set(&blocks, user(&number.to_string()), if number % 5 == 0 { 120 } else { 0 }, 0).unwrap();
            set(&blocks, BlockOf::Token(number.to_string().into()), 0, 0).unwrap();
        }
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = blocks.page(after.as_ref(), 7, 120);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
        assert_eq!(all.len(), 20 + 25, "five are over");
        assert!(all.is_sorted_by(|one, other| one.0 < other.0));
    }
}
