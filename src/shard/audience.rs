//! Whether a peer gets an item: what a publication is kept from, and what a subscriber has filtered out.

use crate::base::publication::{Publication, Publications};
use crate::hub::followed::{ChannelIndex, Item};
use crate::shard::core::Core;
use crate::shard::peer::Peer;
use crate::shard::peers::Peers;

/// Whether the publication names the peer as one who does not get it.
pub fn is_kept_from(peers: &Peers, peer: &Peer, publication: &Publication) -> bool {
    publication.except.as_ref().is_some_and(|except| {
        except.covers(peer.user().map(|user| &**user), peer.origin(), || {
            peers.client_ids.id(peers.directory.id(peer.number()))
        })
    })
}

/// The same of an item of any kind.
pub fn item_is_kept_from(peers: &Peers, peer: &Peer, item: &Item) -> bool {
    match item {
        Item::Publication(publication) => is_kept_from(peers, peer, publication),
        Item::JoinLeaveEvent(_) => false,
    }
}

impl Core {
    /// Leaves of publications those that the subscriber gets.
    pub fn keep_own(&self, slot: u32, _channel: ChannelIndex, publications: &mut Publications) {
        self.keep_not_excepted(slot, publications);
    }

    /// Leaves of publications those that are not kept from the peer.
    pub fn keep_not_excepted(&self, slot: u32, publications: &mut Publications) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        publications.retain(|publication| !is_kept_from(&self.peers, &connection.peer, publication));
    }
}

#[cfg(test)]
#[path = "audience_tests.rs"]
mod tests;
