//! The places of a user's connections, where their number is limited: who may be answered as connected, and when.
//!
//! A connection asks for a place before it is answered. Whoever is replaced keeps its place until its shard says that it
//! has left, so that never more than the limit are connected, on whichever shards they are.
//!
//! ```text
//!  join ──▶ waiting ──a place is free──▶ granted ──▶ left
//!    │         └──replaced──▶ (out)         └──replaced──▶ leaving ──left──▶ (out, its place is free)
//!    └──over the limit, policy reject──▶ (out)
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use crate::base::ids::{ConnId, UserName};
use crate::base::inboxes::device_class;
use crate::base::prng::Prng;
use crate::hub::users::{UserPolicy, Users};
use crate::record::{RecordFault, UserRecord};

/// What the owner of a user says to one of the user's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceVerdict {
    Granted(ConnId),
    /// The new connection is to be closed.
    Rejected(ConnId),
    /// An old connection is to be closed for a newer one.
    Replaced(ConnId),
}

/// How many connections a user may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLimit {
    /// Of all devices together.
    pub connections_max: usize,
    pub policy: UserPolicy,
    pub classes: Arc<[ClassLimit]>,
}

/// How many connections of one class of devices a user may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLimit {
    /// As the names of its devices begin: see [`crate::base::inboxes::device_class`].
    pub class: Box<str>,
    pub connections_max: u32,
}

/// A limited class, by its place among [`UserLimit::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceClass(u8);

impl DeviceClass {
    /// The class of a device. `None`: its connections are not limited, but with all others of the user.
    pub fn of(device: &str, classes: &[ClassLimit]) -> Option<DeviceClass> {
        DeviceClass::named(device_class(device), classes)
    }

    fn named(name: &str, classes: &[ClassLimit]) -> Option<DeviceClass> {
        let at = classes.iter().position(|limit| *limit.class == *name)?;
        u8::try_from(at).ok().map(DeviceClass)
    }
}

impl UserLimit {
    /// Where nothing is limited.
    pub fn none() -> UserLimit {
        UserLimit { connections_max: usize::MAX, policy: UserPolicy::Replace, classes: Arc::default() }
    }

    fn of_class(&self, class: DeviceClass) -> usize {
        self.classes.get(usize::from(class.0)).map_or(usize::MAX, |limit| limit.connections_max as usize)
    }
}

/// Users of whom a connection is being replaced; usually none.
pub struct Places {
    turnovers: HashMap<UserName, Turnover, RandomState>,
    /// Of connections of limited classes. Apart, so that others pay nothing for it.
    classes: HashMap<ConnId, DeviceClass, RandomState>,
}

/// Neither list is longer than the limit: who waits is among the user's connections, who leaves had a place.
#[derive(Default)]
struct Turnover {
    /// Without a place yet, the oldest first. They are among the user's connections.
    /// Bound: the limit of connections of a user.
    waiting: VecDeque<ConnId>,
    /// Still holding a place. They are no longer among the user's connections.
    leaving: Vec<ConnId>,
}

impl Places {
    pub fn new(prng: &mut Prng) -> Places {
        let hash = RandomState::with_seeds(prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..));
        Places { turnovers: HashMap::with_hasher(hash.clone()), classes: HashMap::with_hasher(hash) }
    }

    /// A connection that [`Users`] has just been given asks for a place.
    pub fn handle_joined(
        &mut self,
        users: &mut Users,
        user: &UserName,
        (conn, class): (ConnId, Option<DeviceClass>),
        limit: &UserLimit,
        verdicts: &mut Vec<PlaceVerdict>,
    ) {
        // The anonymous are nobody in particular, and count for nobody.
        if user.is_empty() {
            return verdicts.push(PlaceVerdict::Granted(conn));
        }
        if let Some(class) = class {
            self.classes.insert(conn, class);
        }
        // Its own class first: who makes room there may make room enough.
        for crowd in [class, None] {
            while self.is_over(users, user, crowd, limit) {
                let oldest = users.connections(user).find(|&conn| self.is_of(conn, crowd));
                let Some(oldest) = oldest.filter(|_| limit.policy == UserPolicy::Replace) else {
                    users.remove(user, conn);
                    self.classes.remove(&conn);
                    return verdicts.push(PlaceVerdict::Rejected(conn));
                };
                users.remove(user, oldest);
                verdicts.push(PlaceVerdict::Replaced(oldest));
                let turnover = self.turnovers.entry(user.clone()).or_default();
                match turnover.waiting.iter().position(|&waiting| waiting == oldest) {
                    Some(at) => drop(turnover.waiting.remove(at)),
                    None => turnover.leaving.push(oldest),
                }
            }
        }
        match self.turnovers.get_mut(user) {
            Some(turnover) => {
                turnover.waiting.push_back(conn);
                self.grant(users, user, limit, verdicts);
            }
            None => verdicts.push(PlaceVerdict::Granted(conn)),
        }
    }

    /// A connection of the user has gone, or has been closed as it was to be.
    pub fn handle_left(
        &mut self,
        users: &mut Users,
        user: &UserName,
        conn: ConnId,
        limit: &UserLimit,
        verdicts: &mut Vec<PlaceVerdict>,
    ) {
        users.remove(user, conn);
        self.classes.remove(&conn);
        if let Some(turnover) = self.turnovers.get_mut(user) {
            turnover.waiting.retain(|&waiting| waiting != conn);
            turnover.leaving.retain(|&leaving| leaving != conn);
            self.grant(users, user, limit, verdicts);
        }
    }

    /// Of the class, or, without one, of any.
    fn is_of(&self, conn: ConnId, class: Option<DeviceClass>) -> bool {
        class.is_none() || self.classes.get(&conn) == class.as_ref()
    }

    /// The user has more connections of the class, or, without one, of all, than it may.
    fn is_over(&self, users: &Users, user: &str, class: Option<DeviceClass>, limit: &UserLimit) -> bool {
        match class {
            Some(class) => {
                let of_class = users.connections(user).filter(|&conn| self.is_of(conn, Some(class)));
                of_class.count() > limit.of_class(class)
            }
            None => users.count(user) > limit.connections_max,
        }
    }

    /// Gives free places to those that wait, the oldest first; one whose class is full lets others pass.
    fn grant(&mut self, users: &Users, user: &UserName, limit: &UserLimit, verdicts: &mut Vec<PlaceVerdict>) {
        let Places { turnovers, classes } = self;
        let Some(Turnover { waiting, leaving }) = turnovers.get_mut(user) else { return };
        let mut at = 0;
        while users.count(user) - waiting.len() + leaving.len() < limit.connections_max
            && let Some(&conn) = waiting.get(at)
        {
            let is_full = classes.get(&conn).is_some_and(|class| {
                let of_class = |conn: &&ConnId| classes.get(conn) == Some(class);
                let all = users.connections(user).filter(|conn| of_class(&conn)).count();
                let held =
                    all - waiting.iter().filter(of_class).count() + leaving.iter().filter(of_class).count();
                held >= limit.of_class(*class)
            });
            if is_full {
                at += 1;
            } else {
                waiting.remove(at);
                verdicts.push(PlaceVerdict::Granted(conn));
            }
        }
        if waiting.is_empty() && leaving.is_empty() {
            turnovers.remove(user);
        }
    }

    /// A user's connections and places. `None` for one without either, and for the anonymous, who are only counted.
    pub fn to_record(&self, users: &Users, user: &UserName, limits: &[ClassLimit]) -> Option<UserRecord> {
        let peers: Vec<_> =
            users.connections(user).map(|conn| (conn.to_bits(), users.is_silent(conn))).collect();
        let turnover = self.turnovers.get(user);
        let bits = |conns: &mut dyn Iterator<Item = ConnId>| conns.map(ConnId::to_bits).collect();
        let known = !peers.is_empty() || turnover.is_some();
        let leaving = turnover.into_iter().flat_map(|turnover| turnover.leaving.iter().copied());
        let class_of = |conn: ConnId| {
            let DeviceClass(class) = self.classes.get(&conn)?;
            Some((conn.to_bits(), limits.get(usize::from(*class))?.class.clone()))
        };
        let classes = users.connections(user).chain(leaving).filter_map(class_of).collect();
        known.then(|| UserRecord {
            classes,
            user: user.clone(),
            peers,
            waiting: turnover.map_or_else(Vec::new, |turnover| bits(&mut turnover.waiting.iter().copied())),
            leaving: turnover.map_or_else(Vec::new, |turnover| bits(&mut turnover.leaving.iter().copied())),
        })
    }

    /// Users of whom there is a record to be written, each once, in no order.
    pub fn names<'a>(&'a self, users: &'a Users) -> impl Iterator<Item = &'a UserName> {
        users.names().chain(self.turnovers.keys().filter(|user| users.count(user) == 0))
    }

    /// Adds the connections of a user whom neither knows yet: those whose peer `conn_of` finds in this process.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for a user who is known already, is the anonymous, or has a connection twice; and for
    /// one that waits without being the user's.
    pub fn restore(
        &mut self,
        users: &mut Users,
        record: &UserRecord,
        conn_of: &dyn Fn(u64) -> Option<ConnId>,
        limit: &UserLimit,
        verdicts: &mut Vec<PlaceVerdict>,
    ) -> Result<(), RecordFault> {
        let user = &record.user;
        if user.is_empty() || users.count(user) > 0 || self.turnovers.contains_key(user) {
            return Err(RecordFault::Impossible("a user"));
        }
        let mut seen = HashSet::new();
        let all = record.peers.iter().map(|(peer, _)| peer).chain(&record.leaving);
        let conns: Vec<_> = all.filter_map(|peer| conn_of(*peer)).collect();
        let once = conns.iter().all(|conn| seen.insert(*conn));
        let own: HashSet<_> = record.peers.iter().map(|(peer, _)| peer).collect();
        let mut waits = HashSet::new();
        if !once || !record.waiting.iter().all(|peer| own.contains(peer) && waits.insert(peer)) {
            return Err(RecordFault::Impossible("a user's connections"));
        }
        for (peer, silent) in &record.peers {
            match conn_of(*peer) {
                Some(conn) if *silent => users.add_silent(user, conn),
                Some(conn) => users.add(user, conn),
                None => {}
            }
        }
        for (peer, class) in &record.classes {
            let class = DeviceClass::named(class, &limit.classes);
            if let Some((conn, class)) = conn_of(*peer).filter(|conn| seen.contains(conn)).zip(class) {
                self.classes.insert(conn, class);
            }
        }
        let waiting: VecDeque<_> = record.waiting.iter().filter_map(|peer| conn_of(*peer)).collect();
        let leaving: Vec<_> = record.leaving.iter().filter_map(|peer| conn_of(*peer)).collect();
        if !waiting.is_empty() || !leaving.is_empty() {
            self.turnovers.insert(user.clone(), Turnover { waiting, leaving });
            // A connection that held a place may not have come along.
            self.grant(users, user, limit, verdicts);
        }
        Ok(())
    }

    /// Users of whom a connection is being replaced.
    pub fn len(&self) -> usize {
        self.turnovers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.turnovers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::record;

    /// Connections come and go in any order, and what they are told arrives late: never are more connected than may be,
    /// and when all is quiet as many are as can.
    #[test]
    fn never_more_than_the_limit_are_connected_at_any_moment() {
        for seed in 0..2_000 {
            let mut prng = Prng::with_seed(seed);
            let policy = [UserPolicy::Reject, UserPolicy::Replace][prng.usize(..2)];
            let of = |class: &str, connections_max| ClassLimit { class: class.into(), connections_max };
            let classes = match prng.u8(..3) {
                0 => Vec::new(),
                _ => vec![of("phone", prng.u32(1..3)), of("desktop", prng.u32(1..4))],
            };
            let connections_max = if prng.u8(..4) == 0 { usize::MAX } else { prng.usize(1..6) };
            let limit = UserLimit { connections_max, policy, classes: classes.into() };
            // A third of them, or so, has a class that nothing limits.
            let device = |conn: ConnId| ["phone:1", "desktop", "watch"][conn.to_bits() as usize % 3];
            let class = |conn: ConnId| DeviceClass::of(device(conn), &limit.classes);
            let fits = |connected: &BTreeSet<ConnId>| {
                let of = |limit: &ClassLimit| {
                    connected.iter().filter(|&&conn| device_class(device(conn)) == &*limit.class).count()
                };
                connected.len() <= limit.connections_max
                    && limit.classes.iter().all(|class| of(class) <= class.connections_max as usize)
            };
            let (mut users, mut places) = (Users::new(&mut prng), Places::new(&mut prng));
            let user: UserName = "ann".into();
            // Where they live: asking, connected, and gone without the owner's knowing. Verdicts on their way.
            let (mut asking, mut connected) = (BTreeSet::new(), BTreeSet::new());
            let (mut verdicts, mut under_way, mut left) = (Vec::new(), Vec::new(), Vec::new());
            for step in 0..400_u64 {
                // Everything goes on in another process.
                if prng.u8(..100) == 0 {
                    let mut bytes = Vec::new();
                    for name in places.names(&users) {
                        record::write(&places.to_record(&users, name, &limit.classes).unwrap(), &mut bytes)
                            .unwrap();
                    }
                    (users, places) = (Users::new(&mut prng), Places::new(&mut prng));
                    if !bytes.is_empty() {
                        let here = |peer| Some(ConnId::from_bits(peer));
                        let record: UserRecord = record::read(&bytes).unwrap();
                        places.restore(&mut users, &record, &here, &limit, &mut verdicts).unwrap();
                        assert!(places.restore(&mut users, &record, &here, &limit, &mut verdicts).is_err());
                        assert_eq!(places.to_record(&users, &user, &limit.classes), Some(record));
                    }
                }
                match prng.u8(..6) {
                    0..=1 if step < 300 => {
                        let conn = ConnId::from_bits(step);
                        asking.insert(conn);
                        users.add(&user, conn);
                        places.handle_joined(&mut users, &user, (conn, class(conn)), &limit, &mut verdicts);
                    }
                    // It goes by itself.
                    2 if step < 300 => {
                        let all: Vec<ConnId> = asking.union(&connected).copied().collect();
                        if let Some(&conn) = all.get(prng.usize(..all.len().max(1))) {
                            asking.remove(&conn);
                            connected.remove(&conn);
                            left.push(conn);
                        }
                    }
                    3 if !left.is_empty() => {
                        let conn = left.swap_remove(prng.usize(..left.len()));
                        places.handle_left(&mut users, &user, conn, &limit, &mut verdicts);
                    }
                    _ if !under_way.is_empty() => {
                        // In any order between connections, as between shards.
                        let at = prng.usize(..under_way.len());
                        match under_way.remove(at) {
                            PlaceVerdict::Granted(conn) if asking.remove(&conn) => {
                                connected.insert(conn);
                            }
                            PlaceVerdict::Granted(_) => {}
                            PlaceVerdict::Rejected(conn) | PlaceVerdict::Replaced(conn) => {
                                if asking.remove(&conn) | connected.remove(&conn) {
                                    left.push(conn);
                                }
                            }
                        }
                    }
                    _ => {}
                }
                under_way.append(&mut verdicts);
                assert!(fits(&connected), "seed {seed}: {connected:?} {limit:?}");
            }
            while !left.is_empty() || !under_way.is_empty() {
                for conn in std::mem::take(&mut left) {
                    places.handle_left(&mut users, &user, conn, &limit, &mut verdicts);
                }
                under_way.append(&mut verdicts);
                for verdict in std::mem::take(&mut under_way) {
                    match verdict {
                        PlaceVerdict::Granted(conn) if asking.remove(&conn) => drop(connected.insert(conn)),
                        PlaceVerdict::Granted(_) => {}
                        PlaceVerdict::Rejected(conn) | PlaceVerdict::Replaced(conn) => {
                            if asking.remove(&conn) | connected.remove(&conn) {
                                left.push(conn);
                            }
                        }
                    }
                    assert!(fits(&connected), "seed {seed}");
                }
            }
            assert!(asking.is_empty(), "seed {seed}: {asking:?} wait for ever");
            assert_eq!(users.count(&user), connected.len(), "seed {seed}");
            assert!(places.is_empty() && places.classes.len() <= connected.len(), "seed {seed}");
        }
    }

    #[test]
    fn the_newest_stay_or_the_oldest_as_the_policy_says() {
        let story = |policy| {
            let mut prng = Prng::with_seed(1);
            let (mut users, mut places) = (Users::new(&mut prng), Places::new(&mut prng));
            let limit = UserLimit { connections_max: 2, policy, classes: Arc::default() };
            let mut verdicts = Vec::new();
            for number in 1..=4 {
                let conn = ConnId::from_bits(number);
                users.add(&"ann".into(), conn);
                places.handle_joined(&mut users, &"ann".into(), (conn, None), &limit, &mut verdicts);
            }
            for number in 1..=2 {
                places.handle_left(
                    &mut users,
                    &"ann".into(),
                    ConnId::from_bits(number),
                    &limit,
                    &mut verdicts,
                );
            }
            verdicts
        };
        let conn = ConnId::from_bits;
        use PlaceVerdict::{Granted, Rejected, Replaced};
        assert_eq!(
            story(UserPolicy::Reject),
            [Granted(conn(1)), Granted(conn(2)), Rejected(conn(3)), Rejected(conn(4))]
        );
        assert_eq!(
            story(UserPolicy::Replace),
            [
                Granted(conn(1)),
                Granted(conn(2)),
                Replaced(conn(1)),
                Replaced(conn(2)),
                Granted(conn(3)),
                Granted(conn(4))
            ]
        );
    }

    #[test]
    fn the_anonymous_have_no_limit() {
        let mut prng = Prng::with_seed(1);
        let (mut users, mut places) = (Users::new(&mut prng), Places::new(&mut prng));
        let limit = UserLimit { connections_max: 1, policy: UserPolicy::Reject, classes: Arc::default() };
        let mut verdicts = Vec::new();
        for number in 0..3 {
            users.add(&"".into(), ConnId::from_bits(number));
            places.handle_joined(
                &mut users,
                &"".into(),
                (ConnId::from_bits(number), None),
                &limit,
                &mut verdicts,
            );
        }
        assert!(verdicts.iter().all(|verdict| matches!(verdict, PlaceVerdict::Granted(_))));
        assert_eq!(verdicts.len(), 3);
    }
}
