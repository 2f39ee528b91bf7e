//! Who is subscribed to one channel: connections, their infos and users.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use ahash::RandomState;

use crate::base::ids::{ConnId, UserName};
use crate::base::publication::{ClientInfo, Encoded, Visibility};
use crate::hub::options::PresenceBy;
use crate::hub::requests::PresenceStats;
use crate::hub::shown::{SCANNED_MAX, Shown};
use crate::hub::small_map::SmallMap;

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
    infos: Shown,
    /// What few channels have of their members.
    rare: Option<Box<Rare>>,
    /// How many of the listed ones of each user. Made when there are more than [`SCANNED_MAX`], given up at half of them:
    /// below they are counted when somebody asks.
    users: Option<UserMembers>,
    /// The roster of the listed members, while somebody still has it.
    roster: Weak<Roster>,
    /// How many are listed.
    listed: u32,
    /// How they are shown, as the namespace says.
    usual: Visibility,
    /// Whom the list and its pages name.
    by: PresenceBy,
}

#[allow(clippy::box_collection)]
type UserMembers = Box<HashMap<UserName, u32, RandomState>>;

const _: () = assert!(size_of::<Members>() <= 16 && size_of::<KnownMembers>() <= 64);

#[derive(Debug, Default)]
struct Rare {
    /// How those are shown that are not shown as the namespace says.
    unusual: SmallMap<ConnId, Visibility>,
    /// Those who have left and are listed until others hear of it.
    lingering: SmallMap<ConnId, Arc<ClientInfo>>,
    /// Those who are not shown.
    unseen: SmallMap<ConnId, ()>,
}

/// Who was in a channel at one moment. Shared by everybody who asks before somebody joins or leaves.
#[derive(Debug, Default)]
pub struct Roster {
    /// In no order.
    pub infos: Vec<Arc<ClientInfo>>,
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
            Members::Known(known) => {
                known.infos.len() + known.rare.as_ref().map_or(0, |rare| rare.unseen.len())
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn insert(
        &mut self,
        conn: ConnId,
        info: Arc<ClientInfo>,
        shown: Visibility,
        hash: &RandomState,
    ) -> Inserted {
        let again = match self {
            Members::Plain(conns) if !shown.at_all() => conns.insert(conn, (), hash).is_some(),
            Members::Plain(conns) => {
                let rare = Rare { unseen: std::mem::take(conns), ..Rare::default() };
                let mut known = Box::new(KnownMembers { rare: Some(Box::new(rare)), ..Default::default() });
                let again = known.insert(conn, info, shown, hash);
                *self = Members::Known(known);
                again
            }
            Members::Known(known) => known.insert(conn, info, shown, hash),
        };
        if again { Inserted::Again } else { Inserted::New }
    }

    /// Replaces the info of a connection that is there. Its user stays: a connection has one for all its life.
    pub fn renew(&mut self, conn: ConnId, info: Arc<ClientInfo>) {
        if let Members::Known(known) = self
            && let Some(kept) = known.infos.get_mut(conn)
            && kept.user == info.user
        {
            *kept = info;
            known.roster = Weak::new();
        }
    }

    /// `None` when it is not there; else its info if others are to be told.
    pub fn remove(&mut self, conn: ConnId) -> Option<Option<Arc<ClientInfo>>> {
        match self {
            Members::Plain(conns) => conns.remove(&conn).map(|()| None),
            Members::Known(known) => known.remove(conn),
        }
    }

    pub fn is_listed(&self, conn: ConnId) -> bool {
        match self {
            Members::Plain(_) => false,
            Members::Known(known) => known.infos.get(conn).is_some() && known.shown_as(conn).listed,
        }
    }

    /// One that has left is listed as before.
    pub fn linger(&mut self, conn: ConnId, info: Arc<ClientInfo>, hash: &RandomState) {
        let Members::Known(known) = self else { return };
        let rare = known.rare.get_or_insert_default();
        if let Some(before) = rare.lingering.insert(conn, Arc::clone(&info), hash) {
            known.unlist(&before.user);
        }
        known.list(&info.user, hash);
    }

    /// It is listed no more.
    pub fn linger_no_more(&mut self, conn: ConnId) {
        if let Members::Known(known) = self
            && let Some(info) = known.rare.as_mut().and_then(|rare| rare.lingering.remove(&conn))
        {
            known.unlist(&info.user);
            known.trim();
        }
    }

    /// Every subscriber, in no order: how it is shown, and its info if that is kept.
    pub fn for_each(&self, mut f: impl FnMut(ConnId, Visibility, Option<&ClientInfo>)) {
        let nowhere = Visibility::default();
        match self {
            Members::Plain(conns) => conns.for_each(|conn, ()| f(*conn, nowhere, None)),
            Members::Known(known) => {
                known.infos.iter().for_each(|(conn, info)| f(conn, known.shown_as(conn), Some(info)));
                if let Some(rare) = &known.rare {
                    rare.unseen.for_each(|conn, ()| f(*conn, nowhere, None));
                }
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
    pub fn page(&self, after: &str, limit: usize) -> Vec<Arc<ClientInfo>> {
        let Members::Known(known) = self else { return Vec::new() };
        let behind = known.shown(|info| *info.client > *after);
        first_of(behind, limit).into_iter().cloned().collect()
    }

    /// Costs at most what [`SCANNED_MAX`] members cost to look at, at any number.
    pub fn stats(&self) -> PresenceStats {
        match self {
            Members::Plain(_) => PresenceStats::default(),
            Members::Known(known) => {
                let users = match &known.users {
                    Some(users) => users.len(),
                    None => known.users_now().len(),
                };
                PresenceStats { clients: known.listed, users: users as u32 }
            }
        }
    }
}

/// The `limit` first infos of these, in the order of clients' ids.
fn first_of(mut infos: Vec<&Arc<ClientInfo>>, limit: usize) -> Vec<&Arc<ClientInfo>> {
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
    pub fn page(&self, after: &str, limit: usize) -> Vec<Arc<ClientInfo>> {
        let behind = self.infos.iter().filter(|info| *info.client > *after).collect();
        first_of(behind, limit).into_iter().cloned().collect()
    }
}

impl KnownMembers {
    fn shown_as(&self, conn: ConnId) -> Visibility {
        self.rare.as_ref().and_then(|rare| rare.unusual.get(&conn)).copied().unwrap_or(self.usual)
    }

    fn each_listed<'m>(&'m self, mut f: impl FnMut(&'m Arc<ClientInfo>)) {
        self.infos.iter().for_each(|(conn, info)| {
            if self.shown_as(conn).listed {
                f(info);
            }
        });
        if let Some(rare) = &self.rare {
            rare.lingering.for_each(|_, info| f(info));
        }
    }

    /// How many listed members each user has. Looks at all of them.
    fn users_now(&self) -> HashMap<&UserName, u32, RandomState> {
        let mut users = HashMap::default();
        self.each_listed(|info| *users.entry(&info.user).or_default() += 1);
        users
    }

    /// Those that the list names and `wanted` takes. By user each is named by its connection with the lowest id, so that pages
    /// agree.
    fn shown<'m>(&'m self, wanted: impl Fn(&ClientInfo) -> bool) -> Vec<&'m Arc<ClientInfo>> {
        let mut shown = Vec::with_capacity(self.listed as usize);
        let mut users: HashMap<&str, &'m Arc<ClientInfo>, RandomState> = HashMap::default();
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

    /// One more is listed, who is among the others already.
    fn list(&mut self, user: &UserName, hash: &RandomState) {
        self.roster = Weak::new();
        self.listed += 1;
        if let Some(users) = &mut self.users {
            match users.get_mut(user) {
                Some(connections) => *connections += 1,
                None => {
                    users.insert(UserName::clone(user), 1);
                }
            }
        } else if self.listed as usize > SCANNED_MAX {
            let mut users = HashMap::with_capacity_and_hasher(2 * SCANNED_MAX, hash.clone());
            self.each_listed(|info| *users.entry(UserName::clone(&info.user)).or_default() += 1);
            self.users = Some(Box::new(users));
        }
    }

    /// One is listed no more, who is not among the others any more.
    fn unlist(&mut self, user: &UserName) {
        self.roster = Weak::new();
        self.listed -= 1;
        let Some(users) = &mut self.users else { return };
        let connections = users.get_mut(user).expect("every listed member is counted for its user");
        *connections -= 1;
        if *connections == 0 {
            users.remove(user);
            if users.len() < users.capacity() / 8 {
                users.shrink_to(2 * users.len());
            }
        }
        if self.listed as usize <= SCANNED_MAX / 2 {
            self.users = None;
        }
    }

    /// Whether it was there already.
    fn insert(&mut self, conn: ConnId, info: Arc<ClientInfo>, shown: Visibility, hash: &RandomState) -> bool {
        if !shown.at_all() {
            let again = self.remove(conn).is_some();
            self.rare.get_or_insert_default().unseen.insert(conn, (), hash);
            return again;
        }
        let before = self.infos.insert(conn, Arc::clone(&info));
        if let Some(before) = &before
            && self.shown_as(conn).listed
        {
            self.unlist(&before.user);
        }
        let mut again = before.is_some();
        if shown != self.usual {
            self.rare.get_or_insert_default().unusual.insert(conn, shown, hash);
        }
        if let Some(rare) = &mut self.rare {
            again |= rare.unseen.remove(&conn).is_some();
            if shown == self.usual {
                rare.unusual.remove(&conn);
            }
            self.trim();
        }
        if shown.listed {
            self.list(&info.user, hash);
        }
        again
    }

    fn remove(&mut self, conn: ConnId) -> Option<Option<Arc<ClientInfo>>> {
        let Some(info) = self.infos.remove(conn) else {
            self.rare.as_mut()?.unseen.remove(&conn)?;
            self.trim();
            return Some(None);
        };
        let shown = self.shown_as(conn);
        if let Some(rare) = &mut self.rare {
            rare.unusual.remove(&conn);
            self.trim();
        }
        if shown.listed {
            self.unlist(&info.user);
        }
        Some(shown.announced.then_some(info))
    }

    /// Gives up what holds nothing.
    fn trim(&mut self) {
        if let Some(rare) = &self.rare
            && rare.unusual.len() + rare.lingering.len() + rare.unseen.len() == 0
        {
            self.rare = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::ids::{ShardId, Sock};
    use crate::base::prng::Prng;

    fn hash() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    const EVERYWHERE: Visibility = Visibility { listed: true, announced: true };
    const NOWHERE: Visibility = Visibility { listed: false, announced: false };

    fn conn(slot: u32) -> ConnId {
        ConnId::new(ShardId(1), Sock { slot, generation: 3 })
    }

    fn info(user: &str) -> Arc<ClientInfo> {
        Arc::new(ClientInfo { user: user.into(), ..ClientInfo::default() })
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
        assert_eq!(members.remove(conn).unwrap(), Some(info("bob")));
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
            members.insert(conn(at), Arc::new(info), shown, &hash());
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
                all.extend(page.iter().map(|info| info.client.clone()));
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
        members.insert(conn(1), Arc::default(), EVERYWHERE, &hash());
        let first = members.roster();
        assert!(Arc::ptr_eq(&first, &members.roster()));
        members.insert(conn(2), Arc::default(), EVERYWHERE, &hash());
        let second = members.roster();
        assert_eq!((first.infos.len(), second.infos.len()), (1, 2));
        members.remove(conn(1));
        assert_eq!(members.roster().infos.len(), 1);
        let renewed = Arc::new(ClientInfo { client: "other".into(), ..ClientInfo::default() });
        let before = members.roster();
        members.renew(conn(2), renewed.clone());
        assert_eq!((before.infos.len(), &members.roster().infos), (1, &vec![renewed]));
    }

    /// Members and users are counted alike in a small channel, where nothing but the list is kept, and in a large one.
    #[test]
    fn users_are_counted_at_any_number() {
        for seed in 0..20 {
            let mut prng = Prng::with_seed(seed);
            let mut members = Members::new(EVERYWHERE, PresenceBy::Client);
            let (mut here, mut lingering) = (BTreeMap::new(), BTreeMap::new());
            let mut tabled = false;
            for step in 0..3_000 {
                let slot = prng.u32(..300);
                let user = format!("user {}", prng.u32(..100));
                match prng.u8(..8) {
                    0 => {
                        members.linger(conn(slot), info(&user), &hash());
                        lingering.insert(slot, user);
                    }
                    1 => {
                        members.linger_no_more(conn(slot));
                        lingering.remove(&slot);
                    }
                    _ if prng.u32(..1_500) > step % 1_500 => {
                        let shown = [EVERYWHERE, NOWHERE][usize::from(prng.u8(..10) == 0)];
                        members.insert(conn(slot), info(&user), shown, &hash());
                        here.insert(slot, (user, shown.listed));
                    }
                    _ => {
                        members.remove(conn(slot));
                        here.remove(&slot);
                    }
                }
                let listed = here.values().filter(|(_, listed)| *listed).map(|(user, _)| user);
                let listed: Vec<&String> = listed.chain(lingering.values()).collect();
                let users = listed.iter().collect::<std::collections::BTreeSet<_>>().len() as u32;
                let expected = PresenceStats { clients: listed.len() as u32, users };
                assert_eq!((members.stats(), members.len()), (expected, here.len()), "seed {seed}");
                assert_eq!(members.roster().infos.len(), listed.len());
                tabled |= matches!(&members, Members::Known(known) if known.users.is_some());
            }
            assert!(tabled, "seed {seed}");
        }
    }
}
