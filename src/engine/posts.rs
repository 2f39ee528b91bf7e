//! The keeper's way to the shards. It never waits: what a full inbox does not take is kept here, in order.

use std::collections::VecDeque;

use crate::base::ids::{ConnId, ShardId};
use crate::engine::limits::POSTS_WAITING_MAX;
use crate::shard::mailbox::Mail;
use crate::shard::owner::{FromOwner, OwnerAnswer, ReadBy};
use crate::shard::router::Router;

pub struct Posts {
    router: Router,
    waiting: Vec<Waiting>,
    dropped: u64,
}

#[derive(Default)]
struct Waiting {
    /// Bound: [`POSTS_WAITING_MAX`] of what may be dropped, and what connections of the shard have under way.
    mail: VecDeque<Mail>,
}

impl Posts {
    pub fn new(router: Router) -> Posts {
        let waiting = (0..router.shards()).map(|_| Waiting::default()).collect();
        Posts { router, waiting, dropped: 0 }
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The shard that has a connection.
    pub fn home(&self, conn: ConnId) -> ShardId {
        self.router.home(conn)
    }

    pub fn post(&mut self, to: ShardId, message: FromOwner) {
        self.post_mail(to, Mail::FromOwner(message));
    }

    pub fn post_mail(&mut self, to: ShardId, mail: Mail) {
        let waiting = &mut self.waiting[to.index()].mail;
        let refused = match waiting.is_empty() {
            true => self.router.inbox(to).push(mail).err(),
            false => Some(mail),
        };
        let Some(mail) = refused else { return };
        if waiting.len() >= POSTS_WAITING_MAX && may_be_lost(&mail) {
            self.dropped += 1;
            return;
        }
        waiting.push_back(mail);
    }

    pub fn answer(&mut self, answer: OwnerAnswer) {
        let to = match &answer {
            OwnerAnswer::Read { by: ReadBy::Channel(shard), .. } => Some(*shard),
            _ => answer.conn().map(|conn| self.router.home(conn)),
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
            while let Some(mail) = waiting.mail.pop_front() {
                if let Err(mail) = inbox.push(mail) {
                    waiting.mail.push_front(mail);
                    waits = true;
                    break;
                }
            }
        }
        waits
    }
}

/// Followers read again what has an offset, and what has none is delivered at most once.
fn may_be_lost(mail: &Mail) -> bool {
    matches!(mail, Mail::FromOwner(FromOwner::Item(_)))
}
