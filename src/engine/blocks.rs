//! Users that are blocked and tokens that are revoked, between nodes: each change goes to all, and a node that is new hears of
//! everything that stands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::base::blocks::{BlockChange, BlockOf, Terms};
use crate::base::fault::Disconnect;
use crate::engine::keeper::EngineKeeper;
use crate::proto::centrifuge::shared::NodeWord;
use crate::shard::control_request::{ControlRequest, DisconnectUser, Target};

pub const BLOCK: &str = "trunkline.block";

/// Entries of one message to a node that is new: about 100 KB.
const PART_ENTRIES: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct BlockNotification {
    changes: Vec<ChangeBody>,
}

#[derive(Serialize, Deserialize)]
struct ChangeBody {
    kind: u8,
    name: String,
    #[serde(default)]
    until_s: u64,
    #[serde(default)]
    before_s: u64,
    #[serde(default)]
    removed: bool,
}

impl ChangeBody {
    fn change(self) -> Option<BlockChange> {
        let ChangeBody { kind, name, until_s, before_s, removed } = self;
        let terms = (!removed).then_some(Terms { until_s, before_s });
        Some(BlockChange { of: BlockOf::from_parts(kind, &name)?, terms })
    }
}

/// The word by which other nodes take the changes over.
pub fn block_word(changes: &[BlockChange]) -> NodeWord {
    let body = |change: &BlockChange| {
        let Terms { until_s, before_s } = change.terms.unwrap_or_default();
        let (kind, name) = (change.of.kind(), change.of.name().to_owned());
        ChangeBody { kind, name, until_s, before_s, removed: change.terms.is_none() }
    };
    let data = serde_json::to_vec(&BlockNotification { changes: changes.iter().map(body).collect() });
    NodeWord::Notification { op: BLOCK.to_owned(), data: data.unwrap_or_default().into() }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl EngineKeeper {
    pub(super) fn handle_blocks(&mut self, data: &[u8]) {
        let Ok(BlockNotification { changes }) = serde_json::from_slice(data) else { return };
        let mut changed: Vec<BlockChange> = changes.into_iter().filter_map(ChangeBody::change).collect();
        // What has no room here is kept out by the node that was asked: it counts there.
        changed.retain(|change| self.shared.blocks.apply(change, now_s()).unwrap_or(false));
        changed.retain(|change| change.terms.is_some());
        match &changed[..] {
            [] => {}
            [BlockChange { of: of @ (BlockOf::User(name) | BlockOf::Issued(name)), .. }] => {
                let disconnect = match of {
                    BlockOf::User(_) => Disconnect::PERMISSION_DENIED,
                    _ => Disconnect::FORCE_RECONNECT,
                };
                let target = Target { user: (&**name).into(), client: None, except: Vec::new() };
                let ask = DisconnectUser { target, disconnect };
                self.order(self.user_owner(name), |reply| ControlRequest::Disconnect(ask, reply));
            }
            _ => {
                for shard in self.posts.router().every_shard() {
                    self.order(shard, ControlRequest::Enforce);
                }
            }
        }
    }

    /// A node that was not known is there.
    pub(super) fn tell_blocks(&mut self, uid: &str) {
        let mut after = None;
        loop {
            let page = self.shared.blocks.page(after.as_ref(), PART_ENTRIES, now_s());
            let Some((last, _)) = page.last() else { return };
            after = Some(last.clone());
            let changes: Vec<BlockChange> =
                page.into_iter().map(|(of, terms)| BlockChange { of, terms: Some(terms) }).collect();
            self.tell(block_word(&changes), Some(uid.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_from_their_word() {
        let stands =
            BlockChange { of: BlockOf::Issued("ann".into()), terms: Some(Terms { until_s: 5, before_s: 7 }) };
        let removed = BlockChange { of: BlockOf::Token("t".into()), terms: None };
        let changes = [stands, removed];
        let NodeWord::Notification { op, data } = block_word(&changes) else { panic!("a notification") };
        assert_eq!(op, BLOCK);
        let read: BlockNotification = serde_json::from_slice(&data).unwrap();
        let read: Vec<BlockChange> = read.changes.into_iter().filter_map(ChangeBody::change).collect();
        assert_eq!(read, changes);
        let strange: ChangeBody = serde_json::from_str(r#"{"kind":9,"name":"x"}"#).unwrap();
        assert_eq!(strange.change(), None, "of a later version");
    }
}
