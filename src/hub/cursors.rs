//! How far the members of one channel have come: a cursor for each device of each user.
//!
//! A cursor is two offsets of the channel's log: the highest that the device has received, and the highest that was read there.
//! Both only grow, so that a repeat and a late acknowledgement do nothing. What a user has read is the highest of all devices.
//! A cursor without a device is that of a user that was made a member and has said nothing yet, or that never names a device; it
//! becomes that of the first device that the user names.
//!
//! ```text
//!  rows, by user and device:  │ ann, phone │ ann, desktop │ bob, – │ …      24 bytes each; names are numbers of [`Names`]
//! ```

use std::collections::HashMap;

use ahash::RandomState;

use crate::base::event::UnackedUser;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, UserName};
use crate::base::publication::SinceEpoch;

/// Devices of one user in one channel. One more takes the place of the one that is farthest behind: who changes its device's name
/// with every start must not fill the channel.
pub const DEVICES_MAX: usize = 8;
/// Acknowledgements of one call.
pub const ACKS_MAX: usize = 100;
/// Most members of one channel that a namespace may allow: a look at who has read what walks all of them.
pub const CURSORS_MAX: usize = 100_000;
/// Members that were taken out while the store took nothing. More are refused.
pub const GONE_MAX: usize = 100_000;
/// Holes of one log that are remembered: each is the end of a process that had not written everything.
const HOLES_MAX: usize = 16;

/// What one device has of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCursor {
    /// Never below `read`.
    pub received: Offset,
    pub read: Offset,
}

impl MemberCursor {
    /// The higher of both.
    fn merge(self, other: MemberCursor) -> MemberCursor {
        let read = self.read.max(other.read);
        MemberCursor { received: self.received.max(other.received).max(read), read }
    }
}

/// Up to where something has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    Received,
    /// Received as well.
    Read,
}

/// One acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its place in the call.
    pub place: u8,
    pub offset: Offset,
    pub epoch: SinceEpoch,
    pub kind: AckKind,
}

/// What a device acknowledges in one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckRequest {
    pub channel: ChannelName,
    pub user: UserName,
    /// Empty: none was named.
    pub device: UserName,
    /// Bound: [`ACKS_MAX`].
    pub acks: Vec<Ack>,
}

/// Acknowledgements on their way to the owners of their channels.
#[derive(Clone, Debug)]
pub struct AckCall {
    /// One for each channel.
    pub requests: Vec<AckRequest>,
    /// What is known already, by the places in the call. The others are to be filled in.
    pub outcomes: Vec<Result<MemberCursor, ErrorCode>>,
}

/// A cursor and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCursor {
    pub user: UserName,
    /// Empty: none.
    pub device: UserName,
    pub cursor: MemberCursor,
}

/// How far a user has come in one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserCursors {
    pub unread: u64,
    /// What it has read on any device.
    pub read: Offset,
    /// In the order of names; an empty one is that of no device.
    /// Bound: [`DEVICES_MAX`].
    pub devices: Vec<(UserName, MemberCursor)>,
}

/// There is no room for one cursor more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorsFull;

/// Number of a name in [`Names`]; 0 is the empty one.
type NameId = u32;

/// Place of a cursor among those of its channel, for who goes through them in steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CursorKey(NameId, NameId);

#[derive(Clone, Copy, Debug)]
struct Row {
    user: NameId,
    device: NameId,
    /// Halves, so that a row has no padding: `received`, then `read`.
    offsets: [u32; 4],
}

const _: () = assert!(size_of::<Row>() == 24, "what a group's cursors cost");

/// In the high half of what was received: the backend has not heard of it. No offset is as large.
const MOVED: u32 = 1 << 31;

impl Row {
    fn new(user: NameId, device: NameId, cursor: MemberCursor) -> Row {
        let halves = |offset: Offset| [offset.0 as u32, (offset.0 >> 32) as u32];
        let ([a, b], [c, d]) = (halves(cursor.received), halves(cursor.read));
        Row { user, device, offsets: [a, b & !MOVED, c, d] }
    }

    /// What the backend has heard stays what it was.
    fn set(&mut self, cursor: MemberCursor) {
        let moved = self.offsets[1] & MOVED;
        *self = Row::new(self.user, self.device, cursor);
        self.offsets[1] |= moved;
    }

    fn cursor(&self) -> MemberCursor {
        let whole = |low: u32, high: u32| Offset(u64::from(high) << 32 | u64::from(low));
        let [a, b, c, d] = self.offsets;
        MemberCursor { received: whole(a, b & !MOVED), read: whole(c, d) }
    }

    fn key(&self) -> (NameId, NameId) {
        (self.user, self.device)
    }
}

/// The cursors of one channel.
#[derive(Debug, Default)]
pub struct Cursors {
    /// By user and device.
    rows: Vec<Row>,
    /// Behind which offset how many were skipped, in order.
    /// Bound: [`HOLES_MAX`].
    holes: Vec<(Offset, u64)>,
    /// A store did not take something of them: repeats are given to it as well.
    pub unkept: bool,
    /// They wait to be given to it once more, and who was removed meanwhile.
    /// Bound: see [`GONE_MAX`].
    pub kept_again: bool,
    pub gone: Vec<UserName>,
}

/// What became of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorMoved {
    /// Of the device, now.
    pub cursor: MemberCursor,
    /// What the user has read on any device.
    pub read: Offset,
    /// It is farther than before, or there was none.
    pub moved: bool,
    /// Rows more than before.
    pub added: usize,
}

impl Cursors {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// There is nothing to be known of them.
    pub fn is_needless(&self) -> bool {
        self.rows.is_empty() && self.holes.is_empty() && !self.kept_again
    }

    /// A device has come so far. At most `rows_max` rows, and one for this one where that is allowed by `room`.
    ///
    /// # Errors
    /// [`CursorsFull`]: it would need another row, and there is no room for it.
    pub fn ack(
        &mut self,
        user: &UserName,
        device: &UserName,
        to: MemberCursor,
        room: impl FnOnce(usize) -> bool,
        names: &mut Names,
    ) -> Result<CursorMoved, CursorsFull> {
        let known = names.find(user).map(|id| (id, self.range(id)));
        let at = known.as_ref().and_then(|(id, range)| {
            let device = names.find(device)?;
            let at = self.rows[range.clone()].binary_search_by_key(&(*id, device), Row::key).ok()?;
            Some(range.start + at)
        });
        if let Some(at) = at {
            let row = &mut self.rows[at];
            let before = row.cursor();
            let cursor = before.merge(to);
            row.set(cursor);
            let read = self.read_in(row_range(&self.rows, at));
            return Ok(CursorMoved { cursor, read, moved: cursor != before, added: 0 });
        }
        let (mut cursor, mut added) = (MemberCursor::default().merge(to), 1);
        if let Some((_, range)) = known.filter(|(_, range)| !range.is_empty()) {
            // The first of a user's rows is the one without a device, if there is one.
            let replaced = match self.rows[range.start].device {
                0 => Some(range.start),
                _ if range.len() >= DEVICES_MAX => range.min_by_key(|&at| self.rows[at].cursor().received),
                _ => None,
            };
            if let Some(at) = replaced {
                let row = self.rows.remove(at);
                names.release(row.user);
                names.release(row.device);
                added = 0;
                match row.device {
                    0 => cursor = cursor.merge(row.cursor()),
                    // What was read on it stays read.
                    _ => cursor = cursor.merge(MemberCursor { received: Offset(0), read: row.cursor().read }),
                }
            }
        }
        if added == 1 && !room(self.rows.len()) {
            return Err(CursorsFull);
        }
        let at = self.insert(user, device, cursor, names);
        let read = self.read_in(row_range(&self.rows, at));
        Ok(CursorMoved { cursor, read, moved: true, added })
    }

    /// Makes a user a member that has everything up to `at`. False: it is one already.
    ///
    /// # Errors
    /// [`CursorsFull`].
    pub fn add(
        &mut self,
        user: &UserName,
        at: Offset,
        room: impl FnOnce(usize) -> bool,
        names: &mut Names,
    ) -> Result<bool, CursorsFull> {
        if names.find(user).is_some_and(|id| !self.range(id).is_empty()) {
            return Ok(false);
        }
        if !room(self.rows.len()) {
            return Err(CursorsFull);
        }
        self.insert(user, &UserName::default(), MemberCursor { received: at, read: at }, names);
        Ok(true)
    }

    /// Forgets all cursors of a user. How many there were.
    pub fn remove(&mut self, user: &str, names: &mut Names) -> usize {
        let Some(range) = names.find(user).map(|id| self.range(id)) else { return 0 };
        let removed = range.len();
        for row in self.rows.drain(range) {
            names.release(row.user);
            names.release(row.device);
        }
        if self.rows.len() * 2 < self.rows.capacity() {
            self.rows.shrink_to_fit();
        }
        removed
    }

    /// Puts a cursor as it was elsewhere, beside those that are there. How many rows more there are; `None`: there is no room.
    pub fn restore(
        &mut self,
        named: &NamedCursor,
        room: impl FnOnce(usize) -> bool,
        names: &mut Names,
    ) -> Option<usize> {
        let cursor = MemberCursor::default().merge(named.cursor);
        let known = names.find(&named.user).zip(names.find(&named.device));
        let at = known.and_then(|key| self.rows.binary_search_by_key(&key, Row::key).ok());
        if let Some(at) = at {
            let row = &mut self.rows[at];
            row.set(row.cursor().merge(cursor));
            return Some(0);
        }
        if !room(self.rows.len()) {
            return None;
        }
        self.insert(&named.user, &named.device, cursor, names);
        Some(1)
    }

    /// Gives all names back.
    pub fn clear(&mut self, names: &mut Names) {
        for row in std::mem::take(&mut self.rows) {
            names.release(row.user);
            names.release(row.device);
        }
    }

    /// The cursors of one user, in no order.
    pub fn of_user<'c>(
        &'c self,
        user: &str,
        names: &'c Names,
    ) -> impl Iterator<Item = (&'c UserName, MemberCursor)> + use<'c> {
        let range = names.find(user).map_or(0..0, |id| self.range(id));
        self.rows[range].iter().map(|row| (names.get(row.device), row.cursor()))
    }

    /// What a device has received, or, with an empty name, what any of the user's devices has. `None`: nothing is known of it.
    ///
    /// A cursor without a device counts for one that has none yet, as it becomes that one's with its first acknowledgement.
    pub fn received_of(&self, user: &str, device: &str, names: &Names) -> Option<Offset> {
        let rows = &self.rows[names.find(user).map(|id| self.range(id))?];
        let of = |device: NameId| rows.iter().find(|row| row.device == device);
        let row = match device {
            "" => rows.iter().max_by_key(|row| row.cursor().received),
            device => names.find(device).and_then(of).or_else(|| of(0)),
        };
        row.map(|row| row.cursor().received)
    }

    /// What the user has read on any device. `None`: it is no member.
    pub fn read_of(&self, user: &str, names: &Names) -> Option<Offset> {
        let range = names.find(user).map(|id| self.range(id)).filter(|range| !range.is_empty())?;
        Some(self.read_in(range))
    }

    /// Every cursor, the devices of a user together.
    pub fn iter<'c>(&'c self, names: &'c Names) -> impl Iterator<Item = NamedCursor> + use<'c> {
        self.rows.iter().map(|row| NamedCursor {
            user: names.get(row.user).clone(),
            device: names.get(row.device).clone(),
            cursor: row.cursor(),
        })
    }

    /// The first `count` behind `after`, and the place of the last, if there may be more.
    pub fn some(
        &self,
        after: CursorKey,
        count: usize,
        names: &Names,
    ) -> (Vec<NamedCursor>, Option<CursorKey>) {
        let from = self.rows.partition_point(|row| CursorKey(row.user, row.device) <= after);
        let rows = &self.rows[from..self.rows.len().min(from + count)];
        let last = rows.last().filter(|_| from + count < self.rows.len());
        let named = |row: &Row| NamedCursor {
            user: names.get(row.user).clone(),
            device: names.get(row.device).clone(),
            cursor: row.cursor(),
        };
        (rows.iter().map(named).collect(), last.map(|row| CursorKey(row.user, row.device)))
    }

    /// The log begins again: members stay, and have nothing of it.
    pub fn restart(&mut self) {
        self.holes.clear();
        for row in &mut self.rows {
            *row = Row::new(row.user, row.device, MemberCursor::default());
        }
    }

    /// Every member, and what it has of all its devices together.
    pub fn members<'c>(
        &'c self,
        names: &'c Names,
    ) -> impl Iterator<Item = (&'c UserName, MemberCursor)> + use<'c> {
        self.rows.chunk_by(|a, b| a.user == b.user).map(|rows| {
            let all = rows.iter().map(Row::cursor).fold(MemberCursor::default(), MemberCursor::merge);
            (names.get(rows[0].user), all)
        })
    }

    /// What a user has of all devices together, and whether it is a member.
    pub fn all_of(&self, user: &str, names: &Names) -> (MemberCursor, bool) {
        let range = names.find(user).map_or(0..0, |id| self.range(id));
        let is_member = !range.is_empty();
        (
            self.rows[range].iter().map(Row::cursor).fold(MemberCursor::default(), MemberCursor::merge),
            is_member,
        )
    }

    /// Who has not received what is at the offset on some device.
    pub fn behind<'c>(&'c self, to: Offset, names: &'c Names) -> impl Iterator<Item = UnackedUser> + use<'c> {
        self.rows.chunk_by(|a, b| a.user == b.user).filter_map(move |rows| {
            let lacks = |row: &&Row| row.cursor().received < to;
            let behind = rows.iter().filter(lacks);
            let received = behind.clone().map(|row| row.cursor().received).min()?;
            let named = behind.clone().filter(|row| row.device != 0);
            Some(UnackedUser {
                user: names.get(rows[0].user).clone(),
                received,
                devices: named.map(|row| names.get(row.device).clone()).collect(),
                elsewhere: behind.count() < rows.len(),
            })
        })
    }

    /// The backend has not heard of the cursor as it is now.
    pub fn set_moved(&mut self, user: &str, device: &str, names: &Names) {
        let key = names.find(user).zip(names.find(device));
        let at = key.and_then(|key| self.rows.binary_search_by_key(&key, Row::key).ok());
        if let Some(at) = at {
            self.rows[at].offsets[1] |= MOVED;
        }
    }

    /// Gives what has moved, each once.
    pub fn take_moved(&mut self, names: &Names, mut take: impl FnMut(NamedCursor)) {
        for row in &mut self.rows {
            if row.offsets[1] & MOVED != 0 {
                row.offsets[1] &= !MOVED;
                let (user, device) = (names.get(row.user).clone(), names.get(row.device).clone());
                take(NamedCursor { user, device, cursor: row.cursor() });
            }
        }
    }

    // --- what the log left out

    /// Offsets behind `after` were skipped.
    pub fn skipped(&mut self, after: Offset, count: u64) {
        if self.holes.len() >= HOLES_MAX {
            let (_, oldest) = self.holes.remove(0);
            self.holes[0].1 += oldest;
        }
        self.holes.push((after, count));
    }

    pub fn holes(&self) -> &[(Offset, u64)] {
        &self.holes
    }

    pub fn restore_holes(&mut self, holes: impl IntoIterator<Item = (Offset, u64)>) {
        self.holes = holes.into_iter().take(HOLES_MAX).collect();
    }

    /// How many publications stand between an offset and the top.
    pub fn between(&self, from: Offset, top: Offset) -> u64 {
        let skipped: u64 = self
            .holes
            .iter()
            .filter(|(after, _)| *after >= from && *after < top)
            .map(|(_, count)| count)
            .sum();
        top.0.saturating_sub(from.0).saturating_sub(skipped)
    }

    // --- rows

    fn range(&self, user: NameId) -> std::ops::Range<usize> {
        let start = self.rows.partition_point(|row| row.user < user);
        let end = start + self.rows[start..].iter().take_while(|row| row.user == user).count();
        start..end
    }

    fn read_in(&self, range: std::ops::Range<usize>) -> Offset {
        self.rows[range].iter().map(|row| row.cursor().read).max().unwrap_or_default()
    }

    /// There must be none yet. Where it is.
    fn insert(
        &mut self,
        user: &UserName,
        device: &UserName,
        cursor: MemberCursor,
        names: &mut Names,
    ) -> usize {
        let row = Row::new(names.take(user), names.take(device), cursor);
        let at = self.rows.partition_point(|other| other.key() < row.key());
        if self.rows.len() == self.rows.capacity() {
            // By a sixteenth, not by twice: a large group must not hold room for one as large.
            self.rows.reserve_exact((self.rows.len() / 16).max(1));
        }
        self.rows.insert(at, row);
        at
    }
}

/// The rows of the user of the row at `at`.
fn row_range(rows: &[Row], at: usize) -> std::ops::Range<usize> {
    let user = rows[at].user;
    let before = rows[..at].iter().rev().take_while(|row| row.user == user).count();
    let after = rows[at..].iter().take_while(|row| row.user == user).count();
    at - before..at + after
}

/// Users and devices of all channels of an owner, each once.
#[derive(Debug)]
pub struct Names {
    /// By a part of the hash: the first of the names that have it. So an entry is a third of one that has the name as well.
    numbers: HashMap<u32, NameId, RandomState>,
    /// The first is the empty one, and stays.
    names: Vec<KnownName>,
    free: Vec<NameId>,
}

#[derive(Debug, Default)]
struct KnownName {
    name: UserName,
    /// How many rows have it.
    rows: u32,
    /// Another name with the same part of the hash; 0: none.
    next: NameId,
}

impl Names {
    /// `hash` is keyed, so that a stranger cannot choose names that collide.
    pub fn new(hash: RandomState) -> Names {
        Names { numbers: HashMap::with_hasher(hash), names: vec![KnownName::default()], free: Vec::new() }
    }

    fn part(&self, name: &str) -> u32 {
        part_of(self.numbers.hasher().hash_one(name))
    }

    fn find(&self, name: &str) -> Option<NameId> {
        if name.is_empty() {
            return Some(0);
        }
        let mut id = self.numbers.get(&self.part(name)).copied().unwrap_or(0);
        while id != 0 && *self.names[id as usize].name != *name {
            id = self.names[id as usize].next;
        }
        (id != 0).then_some(id)
    }

    fn get(&self, id: NameId) -> &UserName {
        &self.names[id as usize].name
    }

    fn take(&mut self, name: &UserName) -> NameId {
        if let Some(id) = self.find(name) {
            self.names[id as usize].rows += 1;
            return id;
        }
        let part = self.part(name);
        let next = self.numbers.get(&part).copied().unwrap_or(0);
        let known = KnownName { name: name.clone(), rows: 1, next };
        let id = match self.free.pop() {
            Some(id) => {
                self.names[id as usize] = known;
                id
            }
            None => {
                if self.names.len() == self.names.capacity() {
                    self.names.reserve_exact(self.names.len() / 8 + 1);
                }
                self.names.push(known);
                self.names.len() as NameId - 1
            }
        };
        self.numbers.insert(part, id);
        id
    }

    fn release(&mut self, id: NameId) {
        if id == 0 {
            return;
        }
        let known = &mut self.names[id as usize];
        known.rows -= 1;
        if known.rows > 0 {
            return;
        }
        let KnownName { name, next, .. } = std::mem::take(known);
        let part = self.part(&name);
        let mut at = self.numbers.get(&part).copied().unwrap_or(0);
        if at == id {
            match next {
                0 => self.numbers.remove(&part),
                next => self.numbers.insert(part, next),
            };
        } else {
            while self.names[at as usize].next != id {
                at = self.names[at as usize].next;
            }
            self.names[at as usize].next = next;
        }
        self.free.push(id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len() - 1 - self.free.len()
    }
}

/// In tests so few that names share them.
fn part_of(hash: u64) -> u32 {
    if cfg!(test) { hash as u32 % 4 } else { hash as u32 }
}

#[cfg(test)]
#[path = "cursors_tests.rs"]
mod tests;
