//! A shard's way to the others.

use std::collections::VecDeque;

use crate::base::ids::{ConnId, ShardId};
use crate::shard::mailbox::{ShardInbox, ShardMessage};
use crate::shard::owner::{Owner, OwnerRequest};
use crate::shard::router::Router;

/// Messages that may wait here before the shard takes nothing new: no input, no new connection, no control request, no
/// timer. As many as four inboxes of the usual size, 512 KiB of places.
///
/// What other shards send is still taken, or two full shards would wait for each other. Each of those messages adds at
/// most its answer and one join/leave event or publication for each shard, and their senders stop at the same bound.
pub const MAIL_WAITING_MAX: usize = 32 * 1024;

/// A shard's way to all shards, itself included. Never waits and never loses: what a full inbox does not take is kept
/// here, in order, and tried again each tick. Bounded by [`MAIL_WAITING_MAX`], at which the shard stops to take in what
/// leads to more.
pub struct Mailer {
    shard: ShardId,
    router: Router,
    /// Messages to this shard itself.
    /// Bound: [`MAIL_WAITING_MAX`].
    own: VecDeque<ShardMessage>,
    /// Of it, what is about users' connections.
    /// Bound: [`MAIL_WAITING_MAX`].
    own_users: VecDeque<ShardMessage>,
    /// Messages that another shard's inbox had no room for: all but what is about users, and that.
    /// Bound: [`MAIL_WAITING_MAX`], in sum.
    waiting: Vec<[VecDeque<ShardMessage>; 2]>,
    waiting_total: usize,
    delayed: u64,
    /// Ever posted.
    posted: u64,
    /// Requests to an engine that are not answered.
    asked: u64,
    /// What is posted is dropped: others own what this shard knew.
    mute: bool,
}

impl Mailer {
    pub fn new(shard: ShardId, router: Router) -> Mailer {
        let waiting = (0..router.shards()).map(|_| Default::default()).collect();
        Mailer {
            shard,
            router,
            own: VecDeque::new(),
            own_users: VecDeque::new(),
            waiting,
            waiting_total: 0,
            delayed: 0,
            posted: 0,
            asked: 0,
            mute: false,
        }
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    pub fn post(&mut self, to: ShardId, message: ShardMessage) {
        if self.mute {
            return;
        }
        self.posted += 1;
        let about_user = message.is_about_user();
        if to == self.shard {
            let own = if about_user { &mut self.own_users } else { &mut self.own };
            own.push_back(message);
            return;
        }
        let waiting = &mut self.waiting[to.index()][usize::from(about_user)];
        let refused = match waiting.is_empty() {
            true => push(self.router.inbox(to), message).err(),
            false => Some(message),
        };
        if let Some(message) = refused {
            waiting.push_back(message);
            self.waiting_total += 1;
            self.delayed += 1;
        }
    }

    /// To the shard that has the peer of a number.
    pub fn post_to_peer(&mut self, conn: ConnId, message: ShardMessage) {
        self.post_label(conn.shard(), message);
    }

    /// To the shard that has the peers whose numbers have this shard.
    pub fn post_label(&mut self, label: ShardId, message: ShardMessage) {
        let to = label.among(self.waiting.len() as u16);
        self.post(to, message);
    }

    /// Says something to a channel's owner.
    pub fn request(&mut self, request: OwnerRequest) {
        match self.router.owner(request.channel()) {
            Owner::Shard(shard) => self.post(shard, ShardMessage::ToOwner(Box::new(request))),
            Owner::Engine(_) if self.mute => {}
            Owner::Engine(engine) => {
                self.asked += u64::from(request.has_answer());
                engine.request(request);
            }
        }
    }

    /// An owner has answered.
    pub fn answered(&mut self) {
        self.asked = self.asked.saturating_sub(1);
    }

    /// Requests to an engine that are not answered.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    pub fn take_own(&mut self) -> Option<ShardMessage> {
        self.own.pop_front()
    }

    pub fn take_own_user(&mut self) -> Option<ShardMessage> {
        self.own_users.pop_front()
    }

    pub fn own_users(&self) -> usize {
        self.own_users.len()
    }

    pub fn has_own(&self) -> bool {
        !self.own.is_empty() || !self.own_users.is_empty()
    }

    /// Messages that wait for room elsewhere.
    pub fn waiting(&self) -> usize {
        self.waiting_total
    }

    /// Nothing that leads to more messages is to be taken in.
    pub fn is_full(&self) -> bool {
        self.waiting_total + self.own.len() + self.own_users.len() >= MAIL_WAITING_MAX
    }

    pub fn posted_total(&self) -> u64 {
        self.posted
    }

    /// From now on nothing is said to anybody. What waits is dropped.
    pub fn fall_silent(&mut self) {
        self.mute = true;
        self.own.clear();
        self.own_users.clear();
        self.waiting.iter_mut().flatten().for_each(VecDeque::clear);
        self.waiting_total = 0;
    }

    /// How many messages ever had to wait.
    pub fn delayed_total(&self) -> u64 {
        self.delayed
    }

    /// Tries what waits once more.
    pub fn retry(&mut self) {
        if self.waiting_total == 0 {
            return;
        }
        for (to, both) in self.waiting.iter_mut().enumerate() {
            let inbox = self.router.inbox(ShardId(to as u16));
            for waiting in both {
                while let Some(message) = waiting.pop_front() {
                    self.waiting_total -= 1;
                    if let Err(message) = push(inbox, message) {
                        waiting.push_front(message);
                        self.waiting_total += 1;
                        break;
                    }
                }
            }
        }
    }
}

/// Puts a message where its kind is expected.
fn push(inbox: &ShardInbox, message: ShardMessage) -> Result<(), ShardMessage> {
    if message.is_about_user() { inbox.push_user(message) } else { inbox.push(message) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::ids::Sock;

    /// Found by simulation (shards that never ended): leaves for a shard that had ended first waited for room in its
    /// inbox for ever.
    #[test]
    fn mail_for_a_shard_that_has_ended_is_dropped() {
        let inboxes: Arc<[Arc<ShardInbox>]> = (0..2).map(|_| Arc::new(ShardInbox::new(1))).collect();
        let router = Router::new(inboxes, [1, 2, 3, 4]);
        let mut mailer = Mailer::new(ShardId(0), router.clone());
        let conn = ConnId::new(ShardId(1), Sock { slot: 1, generation: 1 });
        for _ in 0..3 {
            mailer.post(ShardId(1), ShardMessage::UserLeft(Box::new(("u".into(), conn))));
        }
        assert_eq!(mailer.waiting(), 2);
        router.inbox(ShardId(1)).close();
        mailer.retry();
        assert_eq!((mailer.waiting(), router.inbox(ShardId(1)).len()), (0, 0));
    }

    #[test]
    fn mail_that_does_not_fit_waits_in_order() {
        let inboxes: Arc<[Arc<ShardInbox>]> = (0..2).map(|_| Arc::new(ShardInbox::new(2))).collect();
        let router = Router::new(inboxes, [1, 2, 3, 4]);
        let mut mailer = Mailer::new(ShardId(0), router.clone());
        let conn = |slot| ConnId::new(ShardId(1), Sock { slot, generation: 1 });
        for slot in 0..5 {
            mailer.post(ShardId(1), ShardMessage::UserLeft(Box::new(("u".into(), conn(slot)))));
        }
        let mut got = Vec::new();
        for _ in 0..5 {
            while let Some(ShardMessage::UserLeft(left)) = router.inbox(ShardId(1)).pop_user() {
                got.push(left.1.sock().slot);
            }
            mailer.retry();
        }
        assert_eq!((got, mailer.waiting(), mailer.delayed_total()), (vec![0, 1, 2, 3, 4], 0, 3));
    }

    /// Found with an SDK: a client was connected, and the API did not find its user.
    #[test]
    fn what_is_about_users_does_not_wait_behind_other_messages() {
        let inboxes: Arc<[Arc<ShardInbox>]> = (0..2).map(|_| Arc::new(ShardInbox::new(1))).collect();
        let router = Router::new(inboxes, [1, 2, 3, 4]);
        let mut mailer = Mailer::new(ShardId(0), router.clone());
        let conn = ConnId::new(ShardId(1), Sock { slot: 1, generation: 1 });
        for to in [ShardId(0), ShardId(1)] {
            mailer.post(to, ShardMessage::Placed(conn));
            mailer.post(to, ShardMessage::Placed(conn));
            mailer.post(
                to,
                ShardMessage::UserJoined(Box::new(crate::shard::mailbox::UserJoined {
                    user: "u".into(),
                    conn,
                    class: None,
                })),
            );
        }
        assert_eq!(mailer.waiting(), 1, "the other shard has room for one of each kind");
        assert!(matches!(mailer.take_own_user(), Some(ShardMessage::UserJoined(_))));
        assert!(matches!(router.inbox(ShardId(1)).pop_user(), Some(ShardMessage::UserJoined(_))));
        assert!(matches!(mailer.take_own(), Some(ShardMessage::Placed(_))));
    }

    /// Own messages and those for others count together, and taking some makes room.
    #[test]
    fn a_mailer_is_full_at_its_bound() {
        let inboxes: Arc<[Arc<ShardInbox>]> = (0..2).map(|_| Arc::new(ShardInbox::new(1))).collect();
        let router = Router::new(inboxes, [1, 2, 3, 4]);
        let mut mailer = Mailer::new(ShardId(0), router);
        let conn = ConnId::new(ShardId(1), Sock { slot: 1, generation: 1 });
        for number in 0..MAIL_WAITING_MAX {
            assert!(!mailer.is_full(), "{number}");
            // One of those for the other shard is in its inbox.
            let to = ShardId(if number < MAIL_WAITING_MAX / 2 { 0 } else { 1 });
            mailer.post(to, ShardMessage::UserLeft(Box::new(("u".into(), conn))));
        }
        mailer.post(ShardId(1), ShardMessage::UserLeft(Box::new(("u".into(), conn))));
        assert!(mailer.is_full());
        assert!(mailer.take_own_user().is_some());
        assert!(!mailer.is_full());
    }
}
