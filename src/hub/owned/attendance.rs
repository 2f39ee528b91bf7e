//! Joins and leaves of channels whose namespaces do not have each said at once.

use std::sync::Arc;

use ahash::RandomState;

use super::OwnedChannels;
use super::channel::Channel;
use crate::base::ids::ConnId;
use crate::base::publication::ClientInfo;
use crate::base::time::Time;
use crate::hub::attendance::{Attendance, AttendanceChange, Due, Left};
use crate::hub::options::PresenceBy;
use crate::hub::requests::JoinLeaveEvent;
use crate::record::{InfoRecord, Moment, WaitingRecord};

impl OwnedChannels {
    /// An announced connection has joined the channel of the slot. Gives the event if it is said at once.
    pub(super) fn member_joined(
        &mut self,
        slot: u32,
        conn: ConnId,
        info: Arc<ClientInfo>,
        now: Time,
    ) -> Option<Arc<JoinLeaveEvent>> {
        let channel = self.channels.get_mut(slot)?;
        if !channel.options.paces_events() {
            return Some(channel.join_leave(true, info));
        }
        let attendance = self.attendances.entry(slot).or_insert_with(|| new(channel, &self.hash));
        if let Some(gone) = attendance.join(conn, &info, now) {
            channel.members.linger_no_more(gone);
        }
        self.settle_attendance(slot);
        None
    }

    /// The same of one that has left.
    pub(super) fn member_left(&mut self, slot: u32, left: Left, now: Time) -> Option<Arc<JoinLeaveEvent>> {
        let channel = self.channels.get_mut(slot)?;
        // What waits is taken back also where the options have changed since.
        if !channel.options.paces_events() && !self.attendances.contains_key(&slot) {
            return Some(channel.join_leave(false, left.info));
        }
        let delay = channel.options.leave_delay;
        let attendance = self.attendances.entry(slot).or_insert_with(|| new(channel, &self.hash));
        if let Some((conn, info)) = attendance.leave(left, delay, now) {
            channel.members.linger(conn, info, &self.hash);
        }
        self.settle_attendance(slot);
        None
    }

    /// A join or a leave that is to be said now; `None` when there are no more.
    pub fn take_join_leave(&mut self, now: Time) -> Option<Arc<JoinLeaveEvent>> {
        while let Some(slot) = self.announcements.due(now) {
            let Some(channel) = self.channels.get_mut(slot) else {
                self.announcements.remove(slot);
                continue;
            };
            let options = &channel.options;
            let attendance = self.attendances.get_mut(&slot);
            let members = match (&attendance, options.presence_by) {
                (Some(attendance), PresenceBy::User) => attendance.users(),
                _ => channel.members.len(),
            };
            // Who leaves was one of them.
            let leaves = attendance.as_ref().is_some_and(|attendance| attendance.next_leaves());
            let members = members + usize::from(leaves);
            let most = options.join_leave_members_max as usize;
            let quiet = most > 0 && members > most || !options.join_leave;
            let per_second = if quiet { 0 } else { options.join_leave_per_second };
            match attendance.map_or(Due::Nothing, |attendance| attendance.take(per_second, now)) {
                Due::Nothing => self.settle_attendance(slot),
                Due::At(at) => self.announcements.set(slot, at),
                Due::Change(change) => {
                    if let Some(gone) = change.lingers {
                        channel.members.linger_no_more(gone);
                    }
                    let event = channel.join_leave(change.joined, change.info);
                    match quiet {
                        true => self.counts.join_leave_unsaid_total += 1,
                        false => return Some(event),
                    }
                }
            }
        }
        None
    }

    /// When [`OwnedChannels::take_join_leave`] may have something.
    pub fn next_join_leave(&self) -> Option<Time> {
        self.announcements.next()
    }

    /// Brings the deadline in line with what waits.
    fn settle_attendance(&mut self, slot: u32) {
        let Some(attendance) = self.attendances.get_mut(&slot) else {
            return self.announcements.remove(slot);
        };
        self.counts.join_leave_unsaid_total += std::mem::take(&mut attendance.unsaid);
        match attendance.next() {
            Some(at) => self.announcements.set(slot, at),
            None => {
                self.announcements.remove(slot);
                if attendance.is_empty() && self.channels.get(slot).is_none_or(|it| it.members.is_empty()) {
                    self.attendances.remove(&slot);
                }
            }
        }
    }

    // --- records

    /// What waits in a channel, in its order.
    pub(super) fn waiting_records(&self, slot: u32, now: Time) -> Vec<WaitingRecord> {
        let waiting = self.attendances.get(&slot).into_iter().flat_map(Attendance::each_waiting);
        let record = |(change, conn, at): (&AttendanceChange, Option<ConnId>, Time)| WaitingRecord {
            joined: change.joined,
            info: InfoRecord::of(&change.info),
            peer: conn.map(ConnId::to_bits),
            lingers: change.lingers.map(ConnId::to_bits),
            at: Moment::of(at, now),
        };
        waiting.map(record).collect()
    }

    /// One that was announced before is here again.
    pub(super) fn member_restored(&mut self, slot: u32, conn: ConnId, info: &ClientInfo) {
        if let Some(channel) = self.channels.get_mut(slot)
            && channel.options.paces_events()
        {
            let attendance = self.attendances.entry(slot).or_insert_with(|| new(channel, &self.hash));
            attendance.restore(conn, &info.user);
        }
    }

    /// What waited in the channel waits here.
    pub(super) fn restore_waiting(
        &mut self,
        slot: u32,
        waiting: Vec<WaitingRecord>,
        conn_of: &dyn Fn(u64) -> Option<ConnId>,
        written: Time,
    ) {
        let Some(channel) = self.channels.get_mut(slot) else { return };
        if waiting.is_empty() || !channel.options.paces_events() {
            return;
        }
        for record in waiting {
            let info = Arc::new(record.info.info());
            let (conn, gone) = (record.peer.and_then(conn_of), record.lingers.and_then(conn_of));
            if record.peer.is_some() != conn.is_some() {
                continue;
            }
            let at = record.at.at(written);
            let attendance = self.attendances.entry(slot).or_insert_with(|| new(channel, &self.hash));
            let kept = attendance.restore_waiting(record.joined, info.clone(), conn, gone, at);
            if let (true, Some(gone)) = (kept, gone) {
                channel.members.linger(gone, info, &self.hash);
            }
        }
        self.settle_attendance(slot);
    }
}

fn new(channel: &Channel, hash: &RandomState) -> Attendance {
    Attendance::new(channel.options.presence_by, hash)
}

#[cfg(test)]
#[path = "attendance_tests.rs"]
mod tests;
