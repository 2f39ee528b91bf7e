//! Records of users that are blocked and tokens that are revoked.

use crate::base::blocks::{BlockChange, BlockOf, Terms};
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::record;

record! {
    pub struct BlockRecord {
        /// [`BlockOf::kind`].
        kind: u8,
        name: Box<str>,
        /// Seconds since 1970; 0: until it is taken back.
        until_s: u64,
        /// Seconds since 1970.
        before_s: u64,
        /// It was taken back.
        removed: bool,
    }

    pub struct BlocksPart {
        blocks: Vec<BlockRecord>,
    }
}

impl Record for BlocksPart {
    const KIND: RecordKind = RecordKind::Blocks;
}

impl BlockRecord {
    pub fn of(change: &BlockChange) -> BlockRecord {
        let Terms { until_s, before_s } = change.terms.unwrap_or_default();
        let (kind, name) = (change.of.kind(), change.of.name().into());
        BlockRecord { kind, name, until_s, before_s, removed: change.terms.is_none() }
    }

    /// `None` for a kind that this build does not know.
    pub fn change(&self) -> Option<BlockChange> {
        let BlockRecord { kind, name, until_s, before_s, removed } = self;
        let terms = (!removed).then_some(Terms { until_s: *until_s, before_s: *before_s });
        Some(BlockChange { of: BlockOf::from_parts(*kind, name)?, terms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_comes_back() {
        let of = BlockOf::Issued("ann".into());
        for terms in [None, Some(Terms { until_s: 1, before_s: 2 })] {
            let change = BlockChange { of: of.clone(), terms };
            assert_eq!(BlockRecord::of(&change).change(), Some(change));
        }
        let strange = BlockRecord { kind: 77, ..BlockRecord::of(&BlockChange { of, terms: None }) };
        assert_eq!(strange.change(), None);
    }
}
