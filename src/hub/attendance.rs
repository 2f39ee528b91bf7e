//! Which joins and leaves of a channel are still to be said, where not each is said at once.
//!
//! Others were told that somebody is there, or not; here stands for whom that is not true any more. What is undone in time is
//! said to nobody: a leave of somebody who is back, a join of somebody who has left again. So at most one event of each waits,
//! and those of one come in turns.
//!
//! Inputs: joins and leaves, the time, how many there are. Outputs: what is to be said now. Must not know: logs, shards.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

use crate::base::ids::{ConnId, UserName};
use crate::base::publication::ClientInfo;
use crate::base::time::Time;
use crate::hub::options::PresenceBy;

/// Joins and leaves of one channel that may wait: about 10 MB. More are not said, and counted.
pub const EVENTS_WAITING_MAX: usize = 64 * 1024;
/// What waits for its turn goes in batches of this time: one write for each subscriber instead of one for each event.
pub const BATCH_PERIOD: Duration = Duration::from_millis(100);

/// Whose joins and leaves are said as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Attendee {
    User(UserName),
    Client(ConnId),
}

/// One event that waits.
#[derive(Debug)]
pub struct AttendanceChange {
    pub joined: bool,
    pub info: Arc<ClientInfo>,
    /// The connection that presence lists until its leave is said.
    pub lingers: Option<ConnId>,
    place: (Time, u64),
}

/// What [`Attendance::take`] has.
#[derive(Debug)]
pub enum Due {
    Change(AttendanceChange),
    /// Nothing before then.
    At(Time),
    Nothing,
}

/// A connection that has left.
#[derive(Debug)]
pub struct Left {
    pub conn: ConnId,
    pub info: Arc<ClientInfo>,
    /// Presence had it.
    pub listed: bool,
}

/// Of one channel.
#[derive(Debug, Default)]
pub struct Attendance {
    by: PresenceBy,
    /// Announced connections of each user; by user only.
    users: HashMap<UserName, u32, RandomState>,
    /// By the time at which they may be said, and a number that tells equal times apart.
    waiting: BTreeMap<(Time, u64), Attendee>,
    /// Bound: [`EVENTS_WAITING_MAX`].
    changes: HashMap<Attendee, AttendanceChange, RandomState>,
    numbers: u64,
    /// Events said are paid for up to here.
    paid_until: Time,
    /// Events that were not said: undone before, or more than may wait. Only grows.
    pub unsaid: u64,
}

impl Attendance {
    pub fn new(by: PresenceBy, hash: &RandomState) -> Attendance {
        Attendance {
            by,
            users: HashMap::with_hasher(hash.clone()),
            changes: HashMap::with_hasher(hash.clone()),
            ..Attendance::default()
        }
    }

    /// Nothing waits, and nobody is here by user.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.changes.is_empty()
    }

    /// Users with announced connections.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn who(&self, conn: ConnId, user: &UserName) -> Attendee {
        match self.by {
            // The anonymous are nobody in particular.
            PresenceBy::User if !user.is_empty() => Attendee::User(user.clone()),
            _ => Attendee::Client(conn),
        }
    }

    /// One that is announced already, of whom others were told before this process.
    pub fn restore(&mut self, conn: ConnId, user: &UserName) {
        if let Attendee::User(user) = self.who(conn, user) {
            *self.users.entry(user).or_default() += 1;
        }
    }

    /// An announced connection has joined. Gives the one that need not linger any more.
    pub fn join(&mut self, conn: ConnId, info: &Arc<ClientInfo>, now: Time) -> Option<ConnId> {
        let who = self.who(conn, &info.user);
        if let Attendee::User(user) = &who {
            let connections = self.users.entry(user.clone()).or_default();
            *connections += 1;
            if *connections > 1 {
                return None;
            }
        }
        if let Some(undone) = self.undo(&who, false) {
            return undone.lingers;
        }
        self.wait(
            who,
            AttendanceChange { joined: true, info: Arc::clone(info), lingers: None, place: (now, 0) },
        );
        None
    }

    /// An announced connection has left. Gives the one that lingers from now on.
    pub fn leave(&mut self, left: Left, delay: Duration, now: Time) -> Option<(ConnId, Arc<ClientInfo>)> {
        let Left { conn, info, listed } = left;
        let who = self.who(conn, &info.user);
        if let Attendee::User(user) = &who {
            let connections = self.users.get_mut(user)?;
            *connections -= 1;
            if *connections > 0 {
                return None;
            }
            self.users.remove(user);
        }
        if self.undo(&who, true).is_some() {
            return None;
        }
        let lingers = (listed && !delay.is_zero()).then(|| (conn, info.clone()));
        let place = (now + delay, 0);
        let change =
            AttendanceChange { joined: false, info, lingers: lingers.as_ref().map(|(conn, _)| *conn), place };
        if self.wait(who, change) { lingers } else { None }
    }

    /// Takes back the event of this kind that waits, if there is one: it and its opposite are said to nobody.
    fn undo(&mut self, who: &Attendee, joined: bool) -> Option<AttendanceChange> {
        let change = self.changes.get(who).filter(|change| change.joined == joined)?;
        self.waiting.remove(&change.place);
        self.unsaid += 2;
        self.changes.remove(who)
    }

    /// False when there is no room.
    fn wait(&mut self, who: Attendee, mut change: AttendanceChange) -> bool {
        if self.changes.len() >= EVENTS_WAITING_MAX || self.changes.contains_key(&who) {
            self.unsaid += 1;
            return false;
        }
        change.place.1 = self.numbers;
        self.numbers += 1;
        self.waiting.insert(change.place, who.clone());
        self.changes.insert(who, change);
        true
    }

    /// When something may be said, or earlier.
    pub fn next(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next event is a leave.
    pub fn next_leaves(&self) -> bool {
        let next = self.waiting.first_key_value().and_then(|(_, who)| self.changes.get(who));
        next.is_some_and(|change| !change.joined)
    }

    /// The first event that may be said now. `per_second`: at most so many of them a second, evenly; 0: any number.
    pub fn take(&mut self, per_second: u32, now: Time) -> Due {
        let Some((&(at, _), _)) = self.waiting.first_key_value() else { return Due::Nothing };
        if at > now {
            return Due::At(at);
        }
        if per_second > 0 {
            let step = Duration::from_secs(1) / per_second;
            if self.paid_until > now + BATCH_PERIOD.saturating_sub(step) {
                return Due::At(self.paid_until);
            }
            self.paid_until = self.paid_until.max(now) + step;
        }
        let first = self.waiting.pop_first().and_then(|(_, who)| self.changes.remove(&who));
        first.map_or(Due::Nothing, Due::Change)
    }

    /// What waits, in its order: the connection or the last one of the user, and when it may be said.
    pub fn each_waiting(&self) -> impl Iterator<Item = (&AttendanceChange, Option<ConnId>, Time)> {
        self.waiting.iter().filter_map(|((at, _), who)| {
            let conn = match who {
                Attendee::Client(conn) => Some(*conn),
                Attendee::User(_) => None,
            };
            Some((self.changes.get(who)?, conn, *at))
        })
    }

    /// Adds what waited in another process.
    pub fn restore_waiting(
        &mut self,
        joined: bool,
        info: Arc<ClientInfo>,
        conn: Option<ConnId>,
        lingers: Option<ConnId>,
        at: Time,
    ) -> bool {
        let who = match conn {
            Some(conn) => Attendee::Client(conn),
            None => Attendee::User(info.user.clone()),
        };
        self.wait(who, AttendanceChange { joined, info, lingers, place: (at, 0) })
    }
}
