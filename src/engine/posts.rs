//! The keeper's way to the shards. It never waits: what a full inbox does not take is kept here, in order.

use std::collections::VecDeque;

use crate::base::ids::{ConnId, ShardId};
use crate::engine::limits::POSTS_WAITING_MAX;
use crate::shard::mailbox::ShardMessage;
use crate::shard::owner::{FromOwner, OwnerAnswer, ReadBy};
use crate::shard::router::Router;

pub struct Posts {
    router: Router,
    waiting: Vec<WaitingPost>,
    dropped: u64,
}

#[derive(Default)]
struct WaitingPost {
    /// Bound: [`POSTS_WAITING_MAX`] of what may be dropped, and what connections of the shard have under way.
    messages: VecDeque<ShardMessage>,
}

impl Posts {
    pub fn new(router: Router) -> Posts {
        let waiting = (0..router.shards()).map(|_| WaitingPost::default()).collect();
        Posts { router, waiting, dropped: 0 }
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The shard that has a connection.
    pub fn peer_shard(&self, conn: ConnId) -> ShardId {
        self.router.peer_shard(conn)
    }

    pub fn post(&mut self, to: ShardId, message: FromOwner) {
        self.post_message(to, ShardMessage::FromOwner(message));
    }

    pub fn post_message(&mut self, to: ShardId, message: ShardMessage) {
        let waiting = &mut self.waiting[to.index()].messages;
        let refused = match waiting.is_empty() {
            true => self.router.inbox(to).push(message).err(),
            false => Some(message),
        };
        let Some(message) = refused else { return };
        if waiting.len() >= POSTS_WAITING_MAX && may_be_lost(&message) {
            self.dropped += 1;
            return;
        }
        waiting.push_back(message);
    }

    pub fn answer(&mut self, answer: OwnerAnswer) {
        let to = match &answer {
            OwnerAnswer::Read { by: ReadBy::Channel(shard), .. } => Some(*shard),
            _ => answer.conn().map(|conn| self.router.peer_shard(conn)),
        };
        if let Some(to) = to {
            self.post(to, FromOwner::Answer(Box::new(answer)));
        }
    }

    /// Tries once more. Whether something still waits.
    pub fn retry(&mut self) -> bool {
        let mut waits = false;
        for (shard, waiting) in self.waiting.iter_mut().enumerate() {
            let inbox = self.router.inbox(ShardId(shard as u16));
            while let Some(message) = waiting.messages.pop_front() {
                if let Err(message) = inbox.push(message) {
                    waiting.messages.push_front(message);
                    waits = true;
                    break;
                }
            }
        }
        waits
    }
}

/// Followers read again what has an offset, and what has none is delivered at most once.
fn may_be_lost(message: &ShardMessage) -> bool {
    matches!(message, ShardMessage::FromOwner(FromOwner::Item(_)))
}
