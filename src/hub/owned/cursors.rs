//! Cursors of the members of channels: what devices acknowledge, and what the backend wants to know of it.

use super::OwnedChannels;
use super::copying::{StoredMoment, Taken};
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, UserName};
use crate::base::publication::{Since, SinceEpoch};
use crate::base::time::Time;
use crate::hub::creators::Creator;
use crate::hub::cursors::{
    AckKind, AckRequest, CursorKey, Cursors, GONE_MAX, MemberCursor, NamedCursor, UserCursors,
};
use crate::hub::log_store::{Append, Durable, Ticket};
use crate::hub::options::ChannelOptions;
use crate::hub::requests::{AckOutcome, Acked, CursorsPage, MembersPage, Unread};
use crate::record::{MemberCursorRecord, StoredCursors};

/// Cursors of one entry of the store: about 100 KB.
const CURSORS_STORED: usize = 2_000;

impl OwnedChannels {
    /// Moves the cursors of a device. The highest of what it says holds; a repeat changes nothing.
    ///
    /// Each acknowledgement has its own error: [`ErrorCode::NotAvailable`] where the namespace has no cursors,
    /// [`ErrorCode::UnrecoverablePosition`] for an epoch that is not the channel's, [`ErrorCode::BadRequest`] for an offset above the
    /// top, [`ErrorCode::LimitExceeded`] when there is no room for one more cursor.
    pub fn ack(&mut self, ask: &AckRequest, now: Time) -> Acked {
        self.advance(now);
        let acked = self.try_ack(ask).unwrap_or_else(|error_code| Acked::refused(ask, error_code));
        let outcomes = &acked.outcomes;
        let refused = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count() as u64;
        self.counts.acks_refused_total += refused;
        self.counts.acks_total += outcomes.len() as u64 - refused;
        acked
    }

    fn try_ack(&mut self, ask: &AckRequest) -> Result<Acked, ErrorCode> {
        let rows_max = with_cursors(self.options(&ask.channel)?)?.cursors_max;
        // Of one that is not known nothing was published.
        let top = self.known(&ask.channel).map(|channel| channel.position());
        let top = top.ok_or(ErrorCode::BadRequest)?;
        let (mut to, mut valid) = (MemberCursor::default(), false);
        let mut outcomes: Vec<(u8, AckOutcome)> = Vec::with_capacity(ask.acks.len());
        for ack in &ask.acks {
            let outcome = if !ack.epoch.matches(top.epoch) {
                Err(ErrorCode::UnrecoverablePosition)
            } else if ack.offset > top.offset {
                Err(ErrorCode::BadRequest)
            } else {
                valid = true;
                let offset = match ack.kind {
                    AckKind::Received => &mut to.received,
                    AckKind::Read => &mut to.read,
                };
                *offset = ack.offset.max(*offset);
                Ok(MemberCursor::default())
            };
            outcomes.push((ack.place, outcome));
        }
        if !valid {
            return Ok(Acked { outcomes, ticket: None });
        }
        let moved = self.move_cursor(ask, to, rows_max);
        for (_, outcome) in &mut outcomes {
            if let Ok(cursor) = outcome {
                match &moved {
                    Ok((now, _)) => *cursor = *now,
                    Err(error_code) => *outcome = Err(*error_code),
                }
            }
        }
        Ok(Acked { outcomes, ticket: moved.ok().and_then(|(_, ticket)| ticket) })
    }

    fn move_cursor(
        &mut self,
        ask: &AckRequest,
        to: MemberCursor,
        rows_max: usize,
    ) -> Result<(MemberCursor, Option<Ticket>), ErrorCode> {
        let AckRequest { channel, user, device, .. } = ask;
        let slot = self.slot_named(channel).ok_or(ErrorCode::BadRequest)?;
        let (all, all_max) = (self.counts.cursors, self.limits.cursors_max);
        let cursors = self.cursors.entry(slot).or_default();
        let room = |rows: usize| rows < rows_max && all < all_max;
        let moved = cursors.ack(user, device, to, room, &mut self.cursor_names);
        let moved = moved.map_err(|_| ErrorCode::LimitExceeded);
        let unkept = cursors.unkept;
        if cursors.is_needless() {
            self.cursors.remove(&slot);
        }
        let moved = moved?;
        self.counts.cursors += moved.added;
        self.counts.cursors_moved_total += u64::from(moved.moved);
        if moved.moved {
            self.cursor_moved(slot, user, device);
        }
        let ticket = if moved.moved || unkept {
            // All of the user's, in the place of what was written of them: a device may have taken the place of another.
            let devices =
                self.cursors.get(&slot).into_iter().flat_map(|it| it.of_user(user, &self.cursor_names));
            let named = devices.map(|(device, cursor)| NamedCursor {
                user: user.clone(),
                device: device.clone(),
                cursor,
            });
            let named: Vec<NamedCursor> = named.collect();
            self.keep_cursors(slot, &named, vec![user.clone()])?
        } else {
            self.behind_pending(slot)?
        };
        Ok((MemberCursor { received: moved.cursor.received, read: moved.read }, ticket))
    }

    /// Gives the store what has changed. With a ticket it holds when that is kept.
    fn keep_cursors(
        &mut self,
        slot: u32,
        changed: &[NamedCursor],
        removed: Vec<UserName>,
    ) -> Result<Option<Ticket>, ErrorCode> {
        let Some(channel) = self.channels.get(slot) else { return Ok(None) };
        let durable = channel.options.durable;
        if durable == Durable::No {
            return Ok(None);
        }
        let cursors = changed.iter().map(MemberCursorRecord::of).collect();
        // Of others everything is written again.
        let gone = if changed.is_empty() { removed.clone() } else { Vec::new() };
        let stored =
            StoredCursors { cursors, removed, ..StoredCursors::of(&channel.name, channel.position()) };
        match self.store.keep_cursors(stored, durable == Durable::Sync) {
            Append::Done => Ok(None),
            Append::Later(ticket) => {
                self.cursors_pending = Some(ticket);
                Ok(Some(ticket))
            }
            Append::Refused(error_code) => {
                self.cursors_unkept(slot, gone);
                if durable == Durable::Sync { Err(error_code) } else { Ok(None) }
            }
        }
    }

    /// For what changes nothing: it may repeat what is on its way to the store, and is not answered before that is kept.
    fn behind_pending(&mut self, slot: u32) -> Result<Option<Ticket>, ErrorCode> {
        match self.cursors_pending {
            Some(_) => self.keep_cursors(slot, &[], Vec::new()),
            None => Ok(None),
        }
    }

    /// Makes users members that have everything up to `at`, or up to the top. Who is one already stays as it is. How many are new.
    ///
    /// # Errors
    /// As [`OwnedChannels::publish`]; [`ErrorCode::NotAvailable`] where the namespace has no cursors, [`ErrorCode::BadRequest`] for an
    /// offset above the top or an empty name, [`ErrorCode::LimitExceeded`] when there is no room for all of them: none is added then.
    pub fn add_members(
        &mut self,
        channel: &ChannelName,
        users: &[UserName],
        at: Option<Offset>,
        now: Time,
    ) -> Result<(usize, Option<Ticket>), ErrorCode> {
        let now = self.advance(now);
        let rows_max = with_cursors(self.options(channel)?)?.cursors_max;
        let slot = self.mention(channel, &Creator::Backend, now)?;
        let top = self.channels.get(slot).expect("just mentioned").position().offset;
        if at.is_some_and(|at| at > top) || users.iter().any(|user| user.is_empty()) {
            return Err(ErrorCode::BadRequest);
        }
        let cursors = self.cursors.entry(slot).or_default();
        let left = rows_max.saturating_sub(cursors.len());
        let left = left.min(self.limits.cursors_max.saturating_sub(self.counts.cursors));
        if users.len() > left {
            let is_new = |user: &&UserName| cursors.read_of(user, &self.cursor_names).is_none();
            if users.iter().filter(is_new).count() > left {
                return Err(ErrorCode::LimitExceeded);
            }
        }
        let mut added = Vec::new();
        let at = at.unwrap_or(top);
        for user in users {
            if cursors.add(user, at, |_| true, &mut self.cursor_names) == Ok(true) {
                let (user, device) = (user.clone(), UserName::default());
                added.push(NamedCursor { user, device, cursor: MemberCursor { received: at, read: at } });
            }
        }
        self.counts.cursors += added.len();
        let mut ticket = None;
        for some in added.chunks(CURSORS_STORED) {
            ticket = self.keep_cursors(slot, some, Vec::new())?.or(ticket);
        }
        if added.is_empty() {
            ticket = self.behind_pending(slot)?;
        }
        Ok((added.len(), ticket))
    }

    /// Forgets the cursors of users. How many of them were members.
    ///
    /// # Errors
    /// [`ErrorCode::NotAvailable`] where the namespace has no cursors; [`ErrorCode::BadRequest`] and [`ErrorCode::UnknownChannel`] as
    /// [`Namespaces::resolve`](crate::hub::Namespaces::resolve).
    pub fn remove_members(
        &mut self,
        channel: &str,
        users: &[UserName],
    ) -> Result<(usize, Option<Ticket>), ErrorCode> {
        with_cursors(self.options(channel)?)?;
        let Some(slot) = self.slot_named(channel) else { return Ok((0, None)) };
        let Some(cursors) = self.cursors.get_mut(&slot) else { return Ok((0, self.behind_pending(slot)?)) };
        if cursors.gone.len() + users.len() > GONE_MAX {
            return Err(ErrorCode::TooManyRequests);
        }
        let mut members = Vec::new();
        for user in users {
            let removed = cursors.remove(user, &mut self.cursor_names);
            self.counts.cursors -= removed;
            if removed > 0 {
                members.push(user.clone());
            }
        }
        let count = members.len();
        let ticket =
            if count > 0 { self.keep_cursors(slot, &[], members) } else { self.behind_pending(slot) };
        if self.cursors.get(&slot).is_some_and(|cursors| cursors.is_needless()) {
            self.cursors.remove(&slot);
        }
        let ticket = ticket?;
        Ok((count, ticket))
    }

    /// The first `limit` members behind the name `after`. Walks all of them, and copies only these.
    ///
    /// # Errors
    /// As [`OwnedChannels::remove_members`].
    pub fn members_page(&self, channel: &str, after: &str, limit: usize) -> Result<MembersPage, ErrorCode> {
        with_cursors(self.options(channel)?)?;
        let all =
            self.cursors_of(channel).into_iter().flat_map(|cursors| cursors.members(&self.cursor_names));
        Ok(page(all.map(|(user, _)| user), after, limit))
    }

    /// The first `limit` of the members behind the name `after` that have read, or received, what is at the offset.
    ///
    /// # Errors
    /// As [`OwnedChannels::remove_members`], and [`ErrorCode::BadRequest`] for an offset above the top.
    pub fn read_by(
        &self,
        channel: &str,
        offset: Offset,
        kind: AckKind,
        after: &str,
        limit: usize,
    ) -> Result<MembersPage, ErrorCode> {
        with_cursors(self.options(channel)?)?;
        if offset > self.known(channel).map_or(Offset(0), |channel| channel.position().offset) {
            return Err(ErrorCode::BadRequest);
        }
        let has = |cursor: &MemberCursor| match kind {
            AckKind::Received => cursor.received >= offset,
            AckKind::Read => cursor.read >= offset,
        };
        let all =
            self.cursors_of(channel).into_iter().flat_map(|cursors| cursors.members(&self.cursor_names));
        Ok(page(all.filter(|(_, cursor)| has(cursor)).map(|(user, _)| user), after, limit))
    }

    /// The cursors of one user, or those of the first `limit` members behind the name `after`, the devices of a user together.
    ///
    /// # Errors
    /// As [`OwnedChannels::remove_members`].
    pub fn cursors_page(
        &self,
        channel: &str,
        user: Option<&str>,
        after: &str,
        limit: usize,
    ) -> Result<CursorsPage, ErrorCode> {
        let (users, more) = match user {
            Some(user) => {
                with_cursors(self.options(channel)?)?;
                (vec![UserName::from(user)], false)
            }
            None => {
                let page = self.members_page(channel, after, limit)?;
                (page.users, page.more)
            }
        };
        let position = self.known(channel).map(|channel| channel.position());
        let Some(cursors) = self.cursors_of(channel) else {
            return Ok(CursorsPage { cursors: Vec::new(), position, more: false });
        };
        let mut page = Vec::new();
        for user in users {
            let devices = cursors.of_user(&user, &self.cursor_names);
            page.extend(devices.map(|(device, cursor)| NamedCursor {
                user: user.clone(),
                device: device.clone(),
                cursor,
            }));
        }
        Ok(CursorsPage { cursors: page, position, more })
    }

    /// How much a user has not read. Who is no member has read nothing.
    ///
    /// # Errors
    /// As [`OwnedChannels::remove_members`].
    pub fn unread(&self, channel: &str, user: &str) -> Result<Unread, ErrorCode> {
        with_cursors(self.options(channel)?)?;
        let Some(known) = self.known(channel) else { return Ok(Unread::default()) };
        let top = known.position().offset;
        let cursors = self.cursors_of(channel);
        let read = cursors.and_then(|cursors| cursors.read_of(user, &self.cursor_names)).unwrap_or_default();
        let unread = cursors.map_or(top.0, |cursors| cursors.between(read, top));
        Ok(Unread { unread, read, top })
    }

    /// How far a user has come in the channel of the slot, whose log ends at `top`.
    pub(super) fn user_cursors(&self, slot: u32, user: &str, top: Offset) -> UserCursors {
        let Some(cursors) = self.cursors.get(&slot) else {
            return UserCursors { unread: top.0, ..UserCursors::default() };
        };
        let devices = cursors.of_user(user, &self.cursor_names);
        let mut devices: Vec<_> = devices.map(|(device, cursor)| (device.clone(), cursor)).collect();
        devices.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let read = devices.iter().map(|(_, cursor)| cursor.read).max().unwrap_or_default();
        UserCursors { unread: cursors.between(read, top), read, devices }
    }

    /// Where a device goes on that says no position of its own: behind what it has received, or with all that is kept.
    pub(super) fn behind_device(&self, slot: u32, user: &str, device: &str) -> Since {
        let received =
            self.cursors.get(&slot).and_then(|it| it.received_of(user, device, &self.cursor_names));
        let channel = self.channels.get(slot).expect("known");
        match received {
            Some(offset) => Since { offset, epoch: SinceEpoch::Known(channel.position().epoch) },
            None => Since::KEPT,
        }
    }

    pub(super) fn forget_cursors(&mut self, slot: u32) {
        if let Some(mut cursors) = self.cursors.remove(&slot) {
            self.counts.cursors -= cursors.len();
            cursors.clear(&mut self.cursor_names);
        }
        self.watches.forget(slot);
    }

    // --- records

    /// Some cursors of the channel behind `after` for a copy, and the last of them if there are more.
    pub(super) fn cursors_copied(
        &self,
        slot: u32,
        after: CursorKey,
    ) -> Option<(StoredCursors, Option<CursorKey>)> {
        let channel = self.channels.get(slot)?;
        let cursors = self.cursors.get(&slot).filter(|_| channel.options.cursors)?;
        let (some, last) = cursors.some(after, CURSORS_STORED, &self.cursor_names);
        let part = StoredCursors {
            channel: channel.name.clone(),
            position: channel.position(),
            cursors: some.iter().map(MemberCursorRecord::of).collect(),
            removed: Vec::new(),
            skipped: Some(cursors.holes().to_vec()),
            judged: self.judged(slot),
        };
        Some((part, last))
    }

    pub(super) fn take_cursors(&mut self, stored: StoredCursors, at: StoredMoment) -> Taken {
        let StoredCursors { channel, position, cursors, removed, skipped, judged } = stored;
        if !self.options(&channel).is_ok_and(|options| options.cursors) {
            return Taken::NotWanted;
        }
        let Some((slot, is_new)) = self.slot_of(&channel, position, at) else { return Taken::NotWanted };
        if is_new {
            self.placed_by_cursors.insert(slot);
        }
        for user in removed {
            if let Some(known) = self.cursors.get_mut(&slot) {
                self.counts.cursors -= known.remove(&user, &mut self.cursor_names);
            }
        }
        self.restore_cursors(slot, &cursors, skipped);
        if let Some(judged) = judged {
            self.take_judged(slot, judged);
        }
        Taken::Yes
    }

    /// All cursors of the channel in parts of some, and what its log skipped.
    pub(super) fn cursor_records(&self, slot: u32) -> (Vec<MemberCursorRecord>, Vec<(Offset, u64)>) {
        let Some(cursors) = self.cursors.get(&slot) else { return Default::default() };
        let all = cursors.iter(&self.cursor_names);
        (all.map(|named| MemberCursorRecord::of(&named)).collect(), cursors.holes().to_vec())
    }

    /// Cursors as they were elsewhere. Those that there is no room for are left out.
    pub(super) fn restore_cursors(
        &mut self,
        slot: u32,
        records: &[MemberCursorRecord],
        skipped: Option<Vec<(Offset, u64)>>,
    ) {
        let Some(channel) = self.channels.get(slot).filter(|channel| channel.options.cursors) else { return };
        let rows_max = channel.options.cursors_max;
        if records.is_empty()
            && skipped.as_ref().is_none_or(Vec::is_empty)
            && !self.cursors.contains_key(&slot)
        {
            return;
        }
        let cursors = self.cursors.entry(slot).or_default();
        for record in records.iter().filter(|record| !record.user.is_empty()) {
            let (all, all_max) = (self.counts.cursors, self.limits.cursors_max);
            let room = |rows: usize| rows < rows_max && all < all_max;
            let added = cursors.restore(&record.named(), room, &mut self.cursor_names);
            self.counts.cursors += added.unwrap_or(0);
        }
        if let Some(skipped) = skipped {
            cursors.restore_holes(skipped);
        }
    }

    /// Offsets between these two were never given, or not to what is known.
    pub(super) fn cursors_jumped(&mut self, slot: u32, before: Offset, after: Offset) {
        if self.channels.get(slot).is_some_and(|channel| channel.options.cursors) {
            self.cursors.entry(slot).or_default().skipped(before, after.0 - before.0);
        }
    }

    /// The log begins again.
    pub(super) fn restart_cursors(&mut self, slot: u32) {
        if let Some(cursors) = self.cursors.get_mut(&slot) {
            cursors.restart();
        }
        self.watches.forget(slot);
    }

    fn cursors_of(&self, channel: &str) -> Option<&Cursors> {
        self.cursors.get(&self.slot_named(channel)?).map(|cursors| &**cursors)
    }
}

impl MemberCursorRecord {
    pub fn of(named: &NamedCursor) -> MemberCursorRecord {
        let NamedCursor { user, device, cursor: MemberCursor { received, read } } = named;
        MemberCursorRecord { user: user.clone(), device: device.clone(), received: *received, read: *read }
    }

    pub fn named(&self) -> NamedCursor {
        let MemberCursorRecord { user, device, received, read } = self;
        NamedCursor {
            user: user.clone(),
            device: device.clone(),
            cursor: MemberCursor { received: *received, read: *read },
        }
    }
}

fn with_cursors(options: &ChannelOptions) -> Result<&ChannelOptions, ErrorCode> {
    if options.cursors { Ok(options) } else { Err(ErrorCode::NotAvailable) }
}

/// The first `limit` of the names behind `after`, in their order.
fn page<'n>(names: impl Iterator<Item = &'n UserName>, after: &str, limit: usize) -> MembersPage {
    let (mut total, mut behind) = (0, Vec::new());
    for name in names {
        total += 1;
        if **name > *after {
            behind.push(name);
        }
    }
    let more = behind.len() > limit;
    if more {
        behind.select_nth_unstable(limit);
        behind.truncate(limit);
    }
    behind.sort_unstable();
    MembersPage { users: behind.into_iter().cloned().collect(), total, more }
}

#[cfg(test)]
#[path = "cursors_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "devices_tests.rs"]
mod devices_tests;
