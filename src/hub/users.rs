//! Which connections a user has.

use std::collections::{BTreeMap, HashMap, HashSet};

use ahash::RandomState;

use crate::base::ids::{ConnId, UserName};
use crate::base::prng::Prng;

/// From this many connections on a user's are also indexed, so that taking one out of many does not walk them all.
const INDEX_FROM: usize = 64;

/// What happens when a user has more connections than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserPolicy {
    /// The new connection is closed (3504).
    #[default]
    Reject,
    /// The oldest connection is closed (3510).
    Replace,
}

/// User → connections. A user with one connection, which is nearly every user, costs one table entry of 40 bytes.
///
/// Anonymous connections (the empty user) are only counted: nobody can address them by user, and they may be
/// most of a shard's connections.
pub struct Users {
    named: HashMap<UserName, Connections, RandomState>,
    /// Of named users, those that take no messages. Apart, so that the others pay nothing for it.
    silent: HashSet<ConnId, RandomState>,
    /// Of named users.
    connections: usize,
    anonymous: usize,
}

enum Connections {
    One(ConnId),
    /// Two and more, the oldest first.
    Several(Vec<ConnId>),
    Crowd(Box<Crowd>),
}

/// By number, the oldest lowest: a limit takes the oldest out of many as cheaply as any other.
struct Crowd {
    by_age: BTreeMap<u64, ConnId>,
    numbers: HashMap<ConnId, u64, RandomState>,
    /// Of the next one.
    next: u64,
}

const _: () = assert!(size_of::<(UserName, Connections)>() <= 40, "what the common user costs");

impl Users {
    /// The table is keyed from `prng`, so that a stranger cannot choose names that collide.
    pub fn new(prng: &mut Prng) -> Users {
        let hash = RandomState::with_seeds(prng.u64(..), prng.u64(..), prng.u64(..), prng.u64(..));
        let silent = HashSet::with_hasher(hash.clone());
        Users { named: HashMap::with_hasher(hash), silent, connections: 0, anonymous: 0 }
    }

    /// Adds a connection, which must not be there yet: connections have one user for life.
    pub fn add(&mut self, user: &UserName, conn: ConnId) {
        if user.is_empty() {
            self.anonymous += 1;
            return;
        }
        self.connections += 1;
        let hash = self.named.hasher().clone();
        match self.named.get_mut(&**user) {
            Some(connections) => connections.add(conn, hash),
            None => {
                self.named.insert(user.clone(), Connections::One(conn));
            }
        }
    }

    /// So many connections of nobody in particular.
    pub fn add_anonymous(&mut self, count: usize) {
        self.anonymous += count;
    }

    /// As [`Users::add`], of a connection that takes no messages.
    pub fn add_silent(&mut self, user: &UserName, conn: ConnId) {
        self.add(user, conn);
        if !user.is_empty() {
            self.silent.insert(conn);
        }
    }

    /// Takes a connection out. False when it is not there.
    pub fn remove(&mut self, user: &str, conn: ConnId) -> bool {
        if user.is_empty() {
            let known = self.anonymous > 0;
            self.anonymous -= usize::from(known);
            return known;
        }
        let Some(connections) = self.named.get_mut(user) else { return false };
        match connections {
            Connections::One(only) if *only != conn => return false,
            Connections::One(_) => {
                self.named.remove(user);
                if self.named.is_empty() {
                    self.named.shrink_to_fit();
                }
            }
            _ => {
                if !connections.remove(conn) {
                    return false;
                }
            }
        }
        self.connections -= 1;
        self.silent.remove(&conn);
        true
    }

    /// The connections of `user`, the oldest first. None for the anonymous.
    pub fn connections(&self, user: &str) -> impl DoubleEndedIterator<Item = ConnId> + '_ {
        let (list, crowd) = match self.named.get(user) {
            None => (&[][..], None),
            Some(Connections::One(conn)) => (std::slice::from_ref(conn), None),
            Some(Connections::Several(list)) => (&list[..], None),
            Some(Connections::Crowd(crowd)) => (&[][..], Some(&crowd.by_age)),
        };
        list.iter().copied().chain(crowd.into_iter().flat_map(BTreeMap::values).copied())
    }

    /// The connection of `user` that was made last among those that take messages. None for the anonymous.
    pub fn newest_told(&self, user: &str) -> Option<ConnId> {
        self.connections(user).rev().find(|conn| !self.silent.contains(conn))
    }

    /// Named users, in no order.
    pub fn names(&self) -> impl Iterator<Item = &UserName> {
        self.named.keys()
    }

    /// Whether a connection takes no messages.
    pub fn is_silent(&self, conn: ConnId) -> bool {
        self.silent.contains(&conn)
    }

    /// How many connections `user` has. None for the anonymous.
    pub fn count(&self, user: &str) -> usize {
        self.named.get(user).map_or(0, Connections::len)
    }

    /// Distinct users; all anonymous connections together are one.
    pub fn len(&self) -> usize {
        self.named.len() + usize::from(self.anonymous > 0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections of named users and anonymous ones.
    pub fn connections_total(&self) -> usize {
        self.connections + self.anonymous
    }
}

impl Connections {
    fn len(&self) -> usize {
        match self {
            Connections::One(_) => 1,
            Connections::Several(list) => list.len(),
            Connections::Crowd(crowd) => crowd.by_age.len(),
        }
    }

    fn add(&mut self, conn: ConnId, hash: RandomState) {
        match self {
            Connections::One(first) => {
                assert!(*first != conn, "{conn:?} added twice");
                *self = Connections::Several(vec![*first, conn]);
            }
            Connections::Several(list) => {
                assert!(!list.contains(&conn), "{conn:?} added twice");
                list.push(conn);
                if list.len() >= INDEX_FROM {
                    let mut crowd =
                        Crowd { by_age: BTreeMap::new(), numbers: HashMap::with_hasher(hash), next: 0 };
                    list.drain(..).for_each(|conn| crowd.push(conn));
                    *self = Connections::Crowd(Box::new(crowd));
                }
            }
            Connections::Crowd(crowd) => crowd.push(conn),
        }
    }

    /// Of two and more.
    fn remove(&mut self, conn: ConnId) -> bool {
        match self {
            Connections::One(_) => unreachable!("the last connection takes its user along"),
            Connections::Several(list) => {
                let Some(place) = list.iter().position(|&other| other == conn) else { return false };
                list.remove(place);
                if let [only] = list[..] {
                    *self = Connections::One(only);
                }
            }
            Connections::Crowd(crowd) => {
                let Some(number) = crowd.numbers.remove(&conn) else { return false };
                crowd.by_age.remove(&number);
                // Half of the border, so that a user who stands on it does not build and drop the index all day.
                if crowd.by_age.len() < INDEX_FROM / 2 {
                    *self = Connections::Several(crowd.by_age.values().copied().collect());
                }
            }
        }
        true
    }
}

impl Crowd {
    fn push(&mut self, conn: ConnId) {
        let before = self.numbers.insert(conn, self.next);
        assert!(before.is_none(), "{conn:?} added twice");
        self.by_age.insert(self.next, conn);
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_lists_in_order_of_age() {
        for seed in 0..50 {
            let mut prng = Prng::with_seed(seed);
            let mut users = Users::new(&mut prng);
            let mut naive: BTreeMap<UserName, Vec<ConnId>> = BTreeMap::new();
            let names: Vec<UserName> = ["", "a", "b", "crowd"].map(Into::into).to_vec();
            // A third of the connections, also when their numbers are given out again.
            let silent = |conn: ConnId| (conn.to_bits() / 4).is_multiple_of(3);
            let growing = 400;
            for step in 0..1_200 {
                let at = prng.usize(..6).min(3);
                let user = &names[at];
                // One user for life.
                let conn = ConnId::from_bits(prng.u64(..150) * 4 + at as u64);
                let known = naive.get(user).is_some_and(|all| all.contains(&conn));
                if prng.u8(..4) < if step < growing { 3 } else { 1 } {
                    if !known {
                        match silent(conn) {
                            true => users.add_silent(user, conn),
                            false => users.add(user, conn),
                        }
                        naive.entry(user.clone()).or_default().push(conn);
                    }
                } else if known || !user.is_empty() {
                    assert_eq!(users.remove(user, conn), known, "seed {seed}");
                    if let Some(all) = naive.get_mut(user) {
                        all.retain(|&other| other != conn);
                        if all.is_empty() {
                            naive.remove(user);
                        }
                    }
                }
                for name in ["a", "b", "crowd", "nobody"] {
                    let mine: Vec<_> = users.connections(name).collect();
                    let theirs: Vec<_> = naive.get(name).into_iter().flatten().copied().collect();
                    assert_eq!(mine, theirs, "seed {seed}");
                    assert_eq!(users.count(name), theirs.len(), "seed {seed}");
                    assert_eq!(users.connections(name).next_back(), theirs.last().copied());
                    let told = theirs.iter().rfind(|&&conn| !silent(conn));
                    assert_eq!(users.newest_told(name), told.copied(), "seed {seed}");
                }
                assert_eq!(users.len(), naive.len(), "seed {seed}");
                assert_eq!(users.connections_total(), naive.values().map(Vec::len).sum::<usize>());
            }
            for (user, all) in naive {
                for conn in all {
                    assert!(users.remove(&user, conn), "seed {seed}");
                }
            }
            assert!(users.is_empty());
            assert_eq!((users.connections_total(), users.silent.len()), (0, 0));
        }
    }

    #[test]
    fn the_anonymous_are_counted_and_not_listed() {
        let mut users = Users::new(&mut Prng::with_seed(1));
        let anonymous: UserName = "".into();
        users.add(&anonymous, ConnId::from_bits(1));
        users.add(&anonymous, ConnId::from_bits(2));
        assert_eq!((users.connections("").count(), users.count("")), (0, 0));
        assert_eq!((users.len(), users.connections_total()), (1, 2));
        assert!(users.remove("", ConnId::from_bits(1)));
        assert!(users.remove("", ConnId::from_bits(2)));
        assert!(!users.remove("", ConnId::from_bits(3)));
        assert!(users.is_empty());
        users.add_anonymous(2);
        assert_eq!((users.len(), users.connections_total()), (1, 2));
        assert!(users.remove("", ConnId::from_bits(1)) && users.remove("", ConnId::from_bits(2)));
        assert!(users.is_empty());
    }
}
