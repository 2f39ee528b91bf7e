//! Channel → its owner, user → its shard, and the way into every shard's inbox.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use ahash::RandomState;

use crate::base::ids::{ClientId, ConnId, ShardId};
use crate::shard::client_ids::ClientIds;
use crate::shard::control_request::{Busy, ControlRequest};
use crate::shard::mailbox::{ShardInbox, ShardMessage};
use crate::shard::owner::{Engine, Owner};

/// Shared by everyone who addresses shards. Cloning is cheap.
#[derive(Clone)]
pub struct Router {
    inboxes: Arc<[Arc<ShardInbox>]>,
    hash: RandomState,
    client_ids: Option<ClientIds>,
    engine: Option<Arc<dyn Engine>>,
}

impl Router {
    /// `seed` keys the placement, so that a stranger cannot aim many names at one shard.
    pub fn new(inboxes: Arc<[Arc<ShardInbox>]>, seed: [u64; 4]) -> Router {
        assert!(!inboxes.is_empty() && inboxes.len() <= 1 << crate::base::ids::SHARD_BITS);
        let hash = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        Router { inboxes, hash, client_ids: None, engine: None }
    }

    pub fn engine(&self) -> Option<&dyn Engine> {
        self.engine.as_deref()
    }

    /// Channels that the engine owns are not this node's.
    pub fn with_engine(self, engine: Arc<dyn Engine>) -> Router {
        Router { engine: Some(engine), ..self }
    }

    /// Makes it know which shard has the connection of a client id.
    pub fn with_client_ids(self, client_ids: ClientIds) -> Router {
        Router { client_ids: Some(client_ids), ..self }
    }

    /// The connection of that id, which may be gone by now. `None` for an id that this run of the daemon never gave.
    pub fn connection(&self, client: ClientId) -> Option<ConnId> {
        let conn = self.client_ids.as_ref()?.conn(client)?;
        Some(conn)
    }

    /// As [`Router::connection`], of the session that a client shows with commands that come by other connections.
    pub fn connection_of_session(&self, session: ClientId) -> Option<ConnId> {
        self.client_ids.as_ref()?.conn_of_session(session)
    }

    /// The shard that has the peer of a number: its own, unless the number was given where there were more of them.
    pub fn peer_shard(&self, conn: ConnId) -> ShardId {
        conn.shard().among(self.inboxes.len() as u16)
    }

    pub fn shards(&self) -> usize {
        self.inboxes.len()
    }

    pub fn every_shard(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.inboxes.len() as u16).map(ShardId)
    }

    /// The only writer of this channel's offsets, history and presence.
    pub fn owner(&self, channel: &str) -> Owner<'_> {
        match &self.engine {
            Some(engine) if engine.owns(channel) => Owner::Engine(&**engine),
            _ => Owner::Shard(self.shard_of(b'c', channel)),
        }
    }

    /// The shard that owns this channel. `None`: an engine does.
    pub fn owning_shard(&self, channel: &str) -> Option<ShardId> {
        match self.owner(channel) {
            Owner::Shard(shard) => Some(shard),
            Owner::Engine(_) => None,
        }
    }

    /// The shard that knows this user's connections.
    pub fn user_owner(&self, user: &str) -> ShardId {
        self.shard_of(b'u', user)
    }

    /// # Errors
    /// [`Busy`] when the inbox is full; the ask (and the reply in it) is dropped unanswered by the shard.
    pub fn ask(&self, shard: ShardId, ask: ControlRequest) -> Result<(), Busy> {
        self.inbox(shard).push_control(ShardMessage::ControlRequest(Box::new(ask))).map_err(|_| Busy)
    }

    /// As [`Router::ask`], and gives back what finds no room.
    ///
    /// # Errors
    /// The request, when the inbox is full.
    pub fn offer(&self, shard: ShardId, request: Box<ControlRequest>) -> Result<(), Box<ControlRequest>> {
        match self.inbox(shard).push_control(ShardMessage::ControlRequest(request)) {
            Err(ShardMessage::ControlRequest(request)) => Err(request),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Asks the owner of the channel that the ask is about.
    ///
    /// # Errors
    /// As [`Router::ask`].
    pub fn ask_owner(&self, channel: &str, ask: ControlRequest) -> Result<(), Busy> {
        match self.owner(channel) {
            Owner::Shard(shard) => self.ask(shard, ask),
            Owner::Engine(engine) => engine.ask(ask),
        }
    }

    pub fn inbox(&self, shard: ShardId) -> &Arc<ShardInbox> {
        &self.inboxes[shard.index()]
    }

    fn shard_of(&self, kind: u8, name: &str) -> ShardId {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u8(kind);
        hasher.write(name.as_bytes());
        // The high half: the low bits also pick buckets in tables keyed alike.
        ShardId(((hasher.finish() >> 32) % self.inboxes.len() as u64) as u16)
    }
}
