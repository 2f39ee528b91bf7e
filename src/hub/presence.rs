//! Who is subscribed to one channel: connections, their infos and users, and how many on which shard.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use ahash::RandomState;

use crate::base::ids::{ConnId, ShardId, UserName};
use crate::base::publication::{ClientInfo, Encoded, Visibility};
use crate::hub::options::PresenceBy;
use crate::hub::requests::PresenceStats;

/// Entries a map walks instead of hashing: four cache lines of connections.
const FEW_MAX: usize = 16;

/// The subscribers of one channel. Most channels have one or a few, so those are kept without a table.
#[derive(Debug)]
pub enum Members {
    /// Nobody is shown: connections only.
    Plain(SmallMap<ConnId, ()>),
    /// The namespace has presence or join and leave, or has had a member that is shown all the same.
    Known(Box<KnownMembers>),
}

#[derive(Debug, Default)]
pub struct KnownMembers {
    /// Those who are shown at all.
    infos: SmallMap<ConnId, Box<ClientInfo>>,
    /// How, as the namespace says.
    usual: Visibility,
    /// How those of `infos` are shown that differ from it.
    unusual: SmallMap<ConnId, Visibility>,
    /// Those who have left and are listed until others hear of it.
    lingering: SmallMap<ConnId, Box<ClientInfo>>,
    /// Whom the list and its pages name.
    by: PresenceBy,
    /// Those who are not shown.
    unseen: SmallMap<ConnId, ()>,
    /// The roster of the listed members, while somebody still has it.
    roster: Weak<Roster>,
    /// How many are listed.
    listed: u32,
    /// How many of these of each user.
    users: SmallMap<UserName, u32>,
}

/// Who was in a channel at one moment. Shared by everybody who asks before somebody joins or leaves.
#[derive(Debug, Default)]
pub struct Roster {
    /// In no order.
    pub infos: Vec<ClientInfo>,
    /// The list as it stands in answers.
    pub encoded: Encoded,
}

/// What became of [`Members::insert`].
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// It was there already; its info is the new one now.
    Again,
}

impl Members {
    /// `usual`: how members are shown, and `by` whom the list names, as the namespace says.
    pub fn new(usual: Visibility, by: PresenceBy) -> Members {
        match usual.at_all() {
            true => Members::Known(Box::new(KnownMembers { usual, by, ..KnownMembers::default() })),
            false => Members::Plain(SmallMap::Empty),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Members::Plain(conns) => conns.len(),
            Members::Known(known) => known.infos.len() + known.unseen.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn insert(
        &mut self,
        conn: ConnId,
        info: ClientInfo,
        shown: Visibility,
        hash: &RandomState,
    ) -> Inserted {
        let again = match self {
            Members::Plain(conns) if !shown.at_all() => conns.insert(conn, (), hash).is_some(),
            Members::Plain(conns) => {
                let unseen = std::mem::take(conns);
                let mut known = Box::new(KnownMembers { unseen, ..KnownMembers::default() });
                let again = known.insert(conn, info, shown, hash);
                *self = Members::Known(known);
                again
            }
            Members::Known(known) => known.insert(conn, info, shown, hash),
        };
        if again { Inserted::Again } else { Inserted::New }
    }

    /// Replaces the info of a connection that is there. Its user stays: a connection has one for all its life.
    pub fn renew(&mut self, conn: ConnId, info: ClientInfo) {
        if let Members::Known(known) = self
            && let Some(kept) = known.infos.get_mut(&conn)
            && kept.user == info.user
        {
            **kept = info;
            known.roster = Weak::new();
        }
    }

    /// `None` when it is not there; else its info if others are to be told.
    pub fn remove(&mut self, conn: ConnId) -> Option<Option<Box<ClientInfo>>> {
        match self {
            Members::Plain(conns) => conns.remove(&conn).map(|()| None),
            Members::Known(known) => known.remove(conn),
        }
    }

    pub fn is_listed(&self, conn: ConnId) -> bool {
        match self {
            Members::Plain(_) => false,
            Members::Known(known) => {
                known.infos.get(&conn).is_some()
                    && known.unusual.get(&conn).copied().unwrap_or(known.usual).listed
            }
        }
    }

    /// One that has left is listed as before.
    pub fn linger(&mut self, conn: ConnId, info: Box<ClientInfo>, hash: &RandomState) {
        let Members::Known(known) = self else { return };
        known.list(&info.user, hash);
        if let Some(before) = known.lingering.insert(conn, info, hash) {
            known.unlist(&before.user);
        }
    }

    /// It is listed no more.
    pub fn linger_no_more(&mut self, conn: ConnId) {
        if let Members::Known(known) = self
            && let Some(info) = known.lingering.remove(&conn)
        {
            known.unlist(&info.user);
        }
    }

    /// Every subscriber, in no order: how it is shown, and its info if that is kept.
    pub fn for_each(&self, mut f: impl FnMut(ConnId, Visibility, Option<&ClientInfo>)) {
        let nowhere = Visibility::default();
        match self {
            Members::Plain(conns) => conns.for_each(|conn, ()| f(*conn, nowhere, None)),
            Members::Known(known) => {
                known.infos.for_each(|conn, info| {
                    f(*conn, known.unusual.get(conn).copied().unwrap_or(known.usual), Some(info));
                });
                known.unseen.for_each(|conn, ()| f(*conn, nowhere, None));
            }
        }
    }

    /// The infos of those who are listed.
    pub fn roster(&mut self) -> Arc<Roster> {
        let Members::Known(known) = self else { return Arc::default() };
        if let Some(roster) = known.roster.upgrade() {
            return roster;
        }
        let infos = known.shown(|_| true).into_iter().cloned().collect();
        let roster = Arc::new(Roster { infos, encoded: Encoded::default() });
        known.roster = Arc::downgrade(&roster);
        roster
    }

    /// Of the same, the first `limit` behind the client `after`, in the order of clients' ids.
    pub fn page(&self, after: &str, limit: usize) -> Vec<ClientInfo> {
        let Members::Known(known) = self else { return Vec::new() };
        let behind = known.shown(|info| *info.client > *after);
        first_of(behind, limit).into_iter().cloned().collect()
    }

    pub fn stats(&self) -> PresenceStats {
        match self {
            Members::Plain(_) => PresenceStats::default(),
            Members::Known(known) => PresenceStats { clients: known.listed, users: known.users.len() as u32 },
        }
    }
}

/// The `limit` first infos of these, in the order of clients' ids.
fn first_of(mut infos: Vec<&ClientInfo>, limit: usize) -> Vec<&ClientInfo> {
    if limit == 0 {
        return Vec::new();
    }
    if infos.len() > limit {
        infos.select_nth_unstable_by(limit - 1, |one, other| one.client.cmp(&other.client));
        infos.truncate(limit);
    }
    infos.sort_unstable_by(|one, other| one.client.cmp(&other.client));
    infos
}

impl Roster {
    /// The first `limit` members behind the client `after`, in the order of clients' ids.
    pub fn page(&self, after: &str, limit: usize) -> Vec<ClientInfo> {
        let behind = self.infos.iter().filter(|info| *info.client > *after).collect();
        first_of(behind, limit).into_iter().cloned().collect()
    }
}

impl KnownMembers {
    fn each_listed<'m>(&'m self, mut f: impl FnMut(&'m ClientInfo)) {
        self.infos.for_each(|conn, info| {
            if self.unusual.get(conn).unwrap_or(&self.usual).listed {
                f(info);
            }
        });
        self.lingering.for_each(|_, info| f(info));
    }

    /// Those that the list names and `wanted` takes. By user each is named by its connection with the lowest id, so that pages
    /// agree.
    fn shown<'m>(&'m self, wanted: impl Fn(&ClientInfo) -> bool) -> Vec<&'m ClientInfo> {
        let mut shown = Vec::with_capacity(self.listed as usize);
        let mut users: HashMap<&str, &'m ClientInfo, RandomState> = HashMap::default();
        self.each_listed(|info| {
            if self.by == PresenceBy::Client || info.user.is_empty() {
                shown.push(info);
            } else {
                let known = users.entry(&*info.user).or_insert(info);
                if info.client < known.client {
                    *known = info;
                }
            }
        });
        shown.extend(users.into_values());
        shown.retain(|info| wanted(info));
        shown
    }

    fn list(&mut self, user: &UserName, hash: &RandomState) {
        self.roster = Weak::new();
        self.listed += 1;
        match self.users.get_mut(user) {
            Some(connections) => *connections += 1,
            None => {
                self.users.insert(user.clone(), 1, hash);
            }
        }
    }

    fn unlist(&mut self, user: &UserName) {
        self.roster = Weak::new();
        self.listed -= 1;
        let connections = self.users.get_mut(user).expect("every listed member is counted for its user");
        *connections -= 1;
        if *connections == 0 {
            self.users.remove(user);
        }
    }

    /// Whether it was there already.
    fn insert(&mut self, conn: ConnId, info: ClientInfo, shown: Visibility, hash: &RandomState) -> bool {
        if !shown.at_all() {
            let again = self.remove(conn).is_some();
            self.unseen.insert(conn, (), hash);
            return again;
        }
        if shown.listed {
            self.list(&info.user, hash);
        }
        let again = match self.infos.insert(conn, Box::new(info), hash) {
            None => self.unseen.remove(&conn).is_some(),
            Some(before) => {
                self.show_no_more(conn, &before);
                true
            }
        };
        if shown != self.usual {
            self.unusual.insert(conn, shown, hash);
        }
        again
    }

    fn remove(&mut self, conn: ConnId) -> Option<Option<Box<ClientInfo>>> {
        let Some(info) = self.infos.remove(&conn) else { return self.unseen.remove(&conn).map(|()| None) };
        let shown = self.show_no_more(conn, &info);
        Some(shown.announced.then_some(info))
    }

    /// How a member was shown whose info has just been taken out.
    fn show_no_more(&mut self, conn: ConnId, info: &ClientInfo) -> Visibility {
        let shown = self.unusual.remove(&conn).unwrap_or(self.usual);
        if shown.listed {
            self.unlist(&info.user);
        }
        shown
    }
}

/// Shards with subscribers and how many each, in shard order. One shard costs no allocation.
#[derive(Debug, Default)]
pub enum Interest {
    #[default]
    None,
    One((ShardId, u32)),
    Several(Vec<(ShardId, u32)>),
}

impl Interest {
    pub fn as_slice(&self) -> &[(ShardId, u32)] {
        match self {
            Interest::None => &[],
            Interest::One(one) => std::slice::from_ref(one),
            Interest::Several(several) => several,
        }
    }

    pub fn add(&mut self, shard: ShardId) {
        match self {
            Interest::None => *self = Interest::One((shard, 1)),
            Interest::One((known, count)) if *known == shard => *count += 1,
            Interest::One(one) => {
                let mut several = vec![*one, (shard, 1)];
                several.sort_unstable();
                *self = Interest::Several(several);
            }
            Interest::Several(several) => match several.binary_search_by_key(&shard, |&(shard, _)| shard) {
                Ok(place) => several[place].1 += 1,
                Err(place) => several.insert(place, (shard, 1)),
            },
        }
    }

    /// Takes one subscriber off a shard that has some.
    pub fn remove(&mut self, shard: ShardId) {
        let left = match self {
            Interest::None => unreachable!("{shard:?} has no subscriber"),
            Interest::One((known, count)) => {
                assert_eq!(*known, shard);
                *count -= 1;
                usize::from(*count > 0)
            }
            Interest::Several(several) => {
                let place =
                    several.binary_search_by_key(&shard, |&(shard, _)| shard).expect("it has subscribers");
                several[place].1 -= 1;
                if several[place].1 == 0 {
                    several.remove(place);
                }
                several.len()
            }
        };
        match (left, &*self) {
            (0, _) => *self = Interest::None,
            (1, Interest::Several(several)) => *self = Interest::One(several[0]),
            _ => {}
        }
    }
}

/// A map that costs nothing for no entry, no allocation for one, a short list for a few, and hashes only above that.
#[derive(Debug, Default)]
pub enum SmallMap<K, V> {
    #[default]
    Empty,
    One((K, V)),
    Few(Vec<(K, V)>),
    /// Boxed: a table's own 64 bytes would make every small one as large.
    #[allow(clippy::box_collection)]
    Many(Box<HashMap<K, V, RandomState>>),
}

impl<K: Hash + Eq, V> SmallMap<K, V> {
    pub fn len(&self) -> usize {
        match self {
            SmallMap::Empty => 0,
            SmallMap::One(_) => 1,
            SmallMap::Few(few) => few.len(),
            SmallMap::Many(many) => many.len(),
        }
    }

    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, value)) => (Borrow::<Q>::borrow(known) == key).then_some(value),
            SmallMap::Few(few) => {
                few.iter_mut().find(|(known, _)| Borrow::<Q>::borrow(known) == key).map(|(_, value)| value)
            }
            SmallMap::Many(many) => many.get_mut(key),
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, value)) => (known == key).then_some(value),
            SmallMap::Few(few) => few.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            SmallMap::Many(many) => many.get(key),
        }
    }

    /// Returns the value that was there for `key`.
    pub fn insert(&mut self, key: K, value: V, hash: &RandomState) -> Option<V> {
        if let SmallMap::Many(many) = self {
            return many.insert(key, value);
        }
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        *self = match std::mem::take(self) {
            SmallMap::Empty => SmallMap::One((key, value)),
            SmallMap::One(one) => SmallMap::Few(vec![one, (key, value)]),
            SmallMap::Few(mut few) if few.len() < FEW_MAX => {
                few.push((key, value));
                SmallMap::Few(few)
            }
            SmallMap::Few(few) => {
                let mut many = HashMap::with_capacity_and_hasher(2 * FEW_MAX, hash.clone());
                many.extend(few);
                many.insert(key, value);
                SmallMap::Many(Box::new(many))
            }
            SmallMap::Many(_) => unreachable!("handled above"),
        };
        None
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            SmallMap::Empty => None,
            SmallMap::One((known, _)) if Borrow::<Q>::borrow(known) != key => None,
            SmallMap::One(_) => match std::mem::take(self) {
                SmallMap::One((_, value)) => Some(value),
                _ => unreachable!("matched above"),
            },
            SmallMap::Few(few) => {
                let place = few.iter().position(|(known, _)| Borrow::<Q>::borrow(known) == key)?;
                let (_, value) = few.swap_remove(place);
                if few.len() == 1 {
                    *self = few.pop().map_or(SmallMap::Empty, SmallMap::One);
                }
                Some(value)
            }
            SmallMap::Many(many) => {
                let value = many.remove(key)?;
                // Half of the border, so that a channel that stands on it does not change form all day.
                if many.len() <= FEW_MAX / 2 {
                    *self = SmallMap::Few(many.drain().collect());
                } else if many.len() < many.capacity() / 8 {
                    many.shrink_to(2 * many.len());
                }
                Some(value)
            }
        }
    }

    pub fn for_each<'m>(&'m self, mut f: impl FnMut(&'m K, &'m V)) {
        match self {
            SmallMap::Empty => {}
            SmallMap::One((key, value)) => f(key, value),
            SmallMap::Few(few) => few.iter().for_each(|(key, value)| f(key, value)),
            SmallMap::Many(many) => many.iter().for_each(|(key, value)| f(key, value)),
        }
    }
}

const _: () =
    assert!(size_of::<Members>() <= 24 && size_of::<Interest>() <= 24, "a million channels have both");

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::ids::Sock;
    use crate::base::prng::Prng;

    fn hash() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    const EVERYWHERE: Visibility = Visibility { listed: true, announced: true };
    const NOWHERE: Visibility = Visibility { listed: false, announced: false };

    fn conn(slot: u32) -> ConnId {
        ConnId::new(ShardId(1), Sock { slot, generation: 3 })
    }

    fn info(user: &str) -> ClientInfo {
        ClientInfo { user: user.into(), ..ClientInfo::default() }
    }

    #[test]
    fn a_small_map_agrees_with_a_map_as_it_grows_and_shrinks() {
        for seed in 0..100 {
            let mut prng = Prng::with_seed(seed);
            let mut small = SmallMap::Empty;
            let mut naive = BTreeMap::new();
            for step in 0..1_000 {
                // Waves: up to about 60 entries and back to none.
                let (key, value) = (prng.u64(..60), prng.u32(..));
                if prng.u32(..400) > step % 400 {
                    assert_eq!(small.insert(key, value, &hash()), naive.insert(key, value), "seed {seed}");
                } else {
                    assert_eq!(small.remove(&key), naive.remove(&key), "seed {seed}");
                }
                assert_eq!(small.len(), naive.len(), "seed {seed}");
                let probe = prng.u64(..60);
                assert_eq!(small.get(&probe), naive.get(&probe), "seed {seed}");
                assert_eq!(small.get_mut(&probe), naive.get_mut(&probe), "seed {seed}");
            }
            let mut all = Vec::new();
            small.for_each(|&key, &value| all.push((key, value)));
            all.sort_unstable();
            assert_eq!(all, naive.into_iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn interest_is_sorted_and_has_no_empty_shard() {
        for seed in 0..100 {
            let mut prng = Prng::with_seed(seed);
            let mut interest = Interest::default();
            let mut naive = BTreeMap::<ShardId, u32>::new();
            for _ in 0..200 {
                let shard = ShardId(prng.u16(..4));
                if prng.bool() {
                    interest.add(shard);
                    *naive.entry(shard).or_default() += 1;
                } else if let Some(count) = naive.get_mut(&shard) {
                    *count -= 1;
                    interest.remove(shard);
                    naive.retain(|_, count| *count > 0);
                }
                assert_eq!(interest.as_slice(), naive.iter().map(|(&s, &n)| (s, n)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_insert_again_replaces_the_info_and_moves_the_user() {
        let conn = conn(2);
        let mut members = Members::new(EVERYWHERE, PresenceBy::Client);
        assert_eq!(members.insert(conn, info("ann"), EVERYWHERE, &hash()), Inserted::New);
        assert_eq!(members.insert(conn, info("ann"), EVERYWHERE, &hash()), Inserted::Again);
        assert_eq!(members.insert(conn, info("bob"), EVERYWHERE, &hash()), Inserted::Again);
        assert_eq!(members.roster().infos, [info("bob")]);
        assert_eq!(members.stats(), PresenceStats { clients: 1, users: 1 });
        assert_eq!(members.remove(conn).unwrap().as_deref(), Some(&info("bob")));
        assert_eq!(members.remove(conn), None);
        assert_eq!(members.stats(), PresenceStats::default());
    }

    #[test]
    fn a_member_is_shown_as_it_joined() {
        let mut members = Members::new(EVERYWHERE, PresenceBy::Client);
        let secret = Visibility { announced: true, ..NOWHERE };
        let silent = Visibility { listed: true, ..NOWHERE };
        for (slot, shown) in [(1, EVERYWHERE), (2, NOWHERE), (3, secret), (4, silent)] {
            members.insert(conn(slot), info(&format!("user {slot}")), shown, &hash());
        }
        assert_eq!((members.len(), members.stats()), (4, PresenceStats { clients: 2, users: 2 }));
        let mut users: Vec<String> =
            members.roster().infos.iter().map(|info| info.user.to_string()).collect();
        users.sort();
        assert_eq!(users, ["user 1", "user 4"]);
        let told = |members: &mut Members, slot| members.remove(conn(slot)).map(|info| info.is_some());
        let told: Vec<_> = (1..=5).map(|slot| told(&mut members, slot)).collect();
        assert_eq!(told, [Some(true), Some(false), Some(true), Some(false), None]);
        assert_eq!((members.len(), members.stats()), (0, PresenceStats::default()));
    }

    /// A namespace that shows nobody keeps no infos: the first member that is shown must not lose the others.
    #[test]
    fn one_who_is_shown_joins_those_who_are_not() {
        let mut members = Members::new(NOWHERE, PresenceBy::Client);
        members.insert(conn(1), info("ann"), NOWHERE, &hash());
        assert!(matches!(members, Members::Plain(_)));
        assert_eq!(members.insert(conn(2), info("bob"), EVERYWHERE, &hash()), Inserted::New);
        assert_eq!(members.insert(conn(1), info("ann"), NOWHERE, &hash()), Inserted::Again);
        assert_eq!((members.len(), members.stats().clients), (2, 1));
        assert_eq!(members.remove(conn(1)), Some(None));
        assert_eq!(members.insert(conn(2), info("bob"), NOWHERE, &hash()), Inserted::Again, "shown no more");
        assert_eq!((members.len(), members.stats().clients), (1, 0));
        assert_eq!(members.remove(conn(2)), Some(None));
        assert!(members.is_empty());
    }

    #[test]
    fn pages_are_in_the_order_of_ids_and_come_to_all() {
        let mut members = Members::new(EVERYWHERE, PresenceBy::Client);
        let id = |at: u32| format!("{:03}", at * 7 % 100);
        for at in 0..100 {
            let shown = if at % 10 == 3 { NOWHERE } else { EVERYWHERE };
            let info = ClientInfo { client: id(at), ..ClientInfo::default() };
            members.insert(conn(at), info, shown, &hash());
        }
        let roster = members.roster();
        for limit in [1, 7, 90, 200] {
            let (mut after, mut all) = (String::new(), Vec::new());
            loop {
                let page = members.page(&after, limit);
                assert_eq!(page, roster.page(&after, limit));
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after.clone_from(&last.client);
                all.extend(page.into_iter().map(|info| info.client));
            }
            let mut expected: Vec<String> = (0..100).filter(|at| at % 10 != 3).map(id).collect();
            expected.sort();
            assert_eq!(all, expected);
        }
        assert_eq!(members.page("", 0), []);
    }

    /// Made for each of a thousand asks, a list of nine thousand members came to gigabytes.
    #[test]
    fn those_who_ask_before_anything_changes_share_one_roster() {
        let mut members = Members::new(EVERYWHERE, PresenceBy::Client);
        members.insert(conn(1), ClientInfo::default(), EVERYWHERE, &hash());
        let first = members.roster();
        assert!(Arc::ptr_eq(&first, &members.roster()));
        members.insert(conn(2), ClientInfo::default(), EVERYWHERE, &hash());
        let second = members.roster();
        assert_eq!((first.infos.len(), second.infos.len()), (1, 2));
        members.remove(conn(1));
        assert_eq!(members.roster().infos.len(), 1);
        let renewed = ClientInfo { client: "other".into(), ..ClientInfo::default() };
        let before = members.roster();
        members.renew(conn(2), renewed.clone());
        assert_eq!((before.infos.len(), &members.roster().infos), (1, &vec![renewed]));
    }
}
