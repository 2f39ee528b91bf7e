//! Whether a peer gets an item: what a publication is kept from, and what a subscriber has filtered out.

use std::sync::Arc;

use crate::base::filter::Filters;
use crate::base::publication::{Publication, Publications};
use crate::hub::class::Class;
use crate::hub::followed::{ChannelIndex, Item, LocalChannel, Subscriber};
use crate::session::Sub;
use crate::shard::connections::Connection;
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

/// Whether the peer has filtered the item of the channel out, or somebody has for it.
pub fn is_filtered(peer: &Peer, channel: ChannelIndex, item: &Item) -> bool {
    match item {
        Item::Publication(publication) => {
            peer.filters(channel).is_some_and(|filters| !filters.match_all(&publication.tags))
        }
        Item::JoinLeaveEvent(_) => false,
    }
}

/// How a subscriber gets what is delivered, of a class or for itself.
pub fn class_of(
    connection: &mut Connection,
    channel: &LocalChannel,
    subscriber: Subscriber,
    index: ChannelIndex,
) -> Option<Class> {
    channel.class_of(subscriber).or_else(|| {
        let join_leave = connection.peer.sub(index)?.is(Sub::NOTICES);
        let deflates = connection.link.deflates();
        connection.peer.class(index, join_leave, deflates)
    })
}

impl Core {
    /// Leaves of publications of the channel those that the subscriber gets.
    pub fn keep_own(&self, slot: u32, channel: ChannelIndex, publications: &mut Publications) {
        self.keep_not_excepted(slot, publications);
        let connection = self.links.connections.get(slot);
        keep_matching(connection.and_then(|connection| connection.peer.filters(channel)), publications);
    }

    /// Leaves of publications those that are not kept from the peer.
    pub fn keep_not_excepted(&self, slot: u32, publications: &mut Publications) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        publications.retain(|publication| !is_kept_from(&self.peers, &connection.peer, publication));
    }
}

/// Leaves of publications those that the filters match.
pub fn keep_matching(filters: Option<&Arc<Filters>>, publications: &mut Publications) {
    if let Some(filters) = filters {
        publications.retain(|publication| filters.match_all(&publication.tags));
    }
}

#[cfg(test)]
#[path = "audience_tests.rs"]
mod tests;
