//! What follows from acknowledgements in channels, and from those that are missing. See [`crate::hub::watch`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::OwnedChannels;
use crate::base::bytes::Bytes;
use crate::base::event::{AckedEvent, DeviceAck, UnackedEvent, UnackedUser, What};
use crate::base::ids::{ChannelName, Epoch, Offset, UserName};
use crate::base::publication::Publication;
use crate::base::time::Time;
use crate::hub::cursors::{Cursors, MemberCursor, NamedCursor, Names};
use crate::hub::log_store::{Append, Durable};
use crate::hub::watch::{CursorNotice, SENT_MAX, Sent, Watch};
use crate::record::{MarkRecord, MemberCursorRecord, Moment, SentRecord, StoredCursors, WatchRecord};

/// Users of one event, and what their names and those of their devices weigh.
const NAMED_MAX: usize = 1_000;
const NAMED_BYTES_MAX: usize = 64 * 1024;
/// What an entry of an event costs beside its names, in bytes, about.
const ENTRY_BYTES: usize = 48;
/// Channels of which everything is given to the store once more in one turn.
const KEPT_AGAIN: usize = 16;
/// Cursors of one entry of the store.
const CURSORS_STORED: usize = 2_000;

impl OwnedChannels {
    /// Whether the backend hears how far devices have come.
    pub fn tell_acked(&mut self, tells: bool) {
        self.watches.tells_acked = tells;
    }

    /// A publication has its place in the log of a channel that says what comes of it.
    pub(super) fn watch_published(&mut self, slot: u32, publication: &Publication, now: Time) {
        let Some(channel) = self.channels.get(slot) else { return };
        let options = channel.options.clone();
        let offset = publication.offset();
        let mut is_new = false;
        let watch = self.watches.of.entry(slot).or_insert_with(|| {
            is_new = true;
            Box::new(Watch::at(Offset(offset.0 - 1)))
        });
        if options.receipts
            && let Some(info) = publication.info.as_ref().filter(|info| !info.user.is_empty())
        {
            watch.follow(offset, &info.user);
        }
        if !options.ack_timeout.is_zero() {
            watch.mark(offset, options.ack_timeout, now);
            self.watches.settle(slot);
            if is_new {
                self.keep_judged(slot);
            }
        }
    }

    /// The cursor of a device has moved.
    pub(super) fn cursor_moved(&mut self, slot: u32, user: &str, device: &str) {
        let Some(channel) = self.channels.get(slot) else { return };
        let tells_acked = self.watches.tells_acked;
        if tells_acked && let Some(cursors) = self.cursors.get_mut(&slot) {
            cursors.set_moved(user, device, &self.cursor_names);
            let judged = channel.position().offset;
            let keeps = !channel.options.ack_timeout.is_zero() && !self.watches.of.contains_key(&slot);
            self.watches.of.entry(slot).or_insert_with(|| Box::new(Watch::at(judged)));
            if keeps {
                self.keep_judged(slot);
            }
        }
        if let Some(watch) = self.watches.of.get_mut(&slot) {
            watch.moved(tells_acked, self.clock);
            self.watches.settle(slot);
        }
    }

    /// Something to be said now; `None` when there is no more.
    pub fn take_cursor_notice(&mut self, now: Time) -> Option<CursorNotice> {
        loop {
            if let Some(notice) = self.watches.ready.pop_front() {
                return Some(notice);
            }
            let slot = self.watches.due.due(now)?;
            self.make_notices(slot, now);
            self.watches.settle(slot);
        }
    }

    /// When [`OwnedChannels::take_cursor_notice`] may have something.
    pub fn next_cursor_notice(&self) -> Option<Time> {
        self.watches.due.next()
    }

    /// What has moved and was not said: another process would not know of it.
    pub fn take_acked(&mut self) -> Vec<CursorNotice> {
        let mut all = Vec::new();
        let slots: Vec<u32> = self.watches.of.keys().copied().collect();
        for slot in slots {
            let (Some(channel), Some(watch)) = (self.channels.get(slot), self.watches.of.get_mut(&slot))
            else {
                continue;
            };
            if watch.take_moved(Time::NEVER)
                && let Some(cursors) = self.cursors.get_mut(&slot)
            {
                let epoch = channel.position().epoch;
                acked(&channel.name, epoch, cursors, &self.cursor_names, &mut |notice| all.push(notice));
            }
            self.watches.settle(slot);
        }
        all
    }

    fn make_notices(&mut self, slot: u32, now: Time) {
        let (Some(channel), Some(watch)) = (self.channels.get(slot), self.watches.of.get_mut(&slot)) else {
            return self.watches.forget(slot);
        };
        let (name, epoch) = (channel.name.clone(), channel.position().epoch);
        let mut nobody = Cursors::default();
        let cursors = self.cursors.get_mut(&slot).map_or(&mut nobody, |cursors| &mut **cursors);
        let (names, ready) = (&self.cursor_names, &mut self.watches.ready);
        let judged = watch.take_marks(now).filter(|to| *to > watch.judged);
        if let Some(to) = judged {
            let from = watch.judged.next();
            let (users, total) = who_lacks(cursors, to, names);
            if total > 0 {
                let channel = name.clone();
                let event = UnackedEvent { channel, epoch, from, to, users, total };
                ready.push_back(CursorNotice::Event(What::Unacked(Box::new(event))));
            }
            watch.judged = to;
        }
        if watch.take_moved(now) {
            acked(&name, epoch, cursors, names, &mut |notice| ready.push_back(notice));
        }
        if watch.take_receipts(now) {
            for (user, data) in receipts(&name, watch, cursors, names) {
                ready.push_back(CursorNotice::Receipts { user, data });
            }
        }
        if judged.is_some() {
            self.keep_judged(slot);
        }
    }

    /// Gives the store up to where it was said who lacks something. Where that is lost, it is said once more after a restart.
    fn keep_judged(&mut self, slot: u32) {
        let (Some(channel), Some(watch)) = (self.channels.get(slot), self.watches.of.get(&slot)) else {
            return;
        };
        if channel.options.durable != Durable::No && self.has_store {
            let stored = StoredCursors {
                judged: Some(watch.judged),
                ..StoredCursors::of(&channel.name, channel.position())
            };
            let _ = self.store.keep_cursors(stored, false);
        }
    }

    // --- records

    pub(super) fn judged(&self, slot: u32) -> Option<Offset> {
        self.watches.of.get(&slot).map(|watch| watch.judged)
    }

    /// Read from the store: it was said up to there who lacks something.
    pub(super) fn take_judged(&mut self, slot: u32, judged: Offset) {
        let Some(channel) = self.channels.get(slot).filter(|channel| !channel.options.ack_timeout.is_zero())
        else {
            return;
        };
        let judged = judged.min(channel.position().offset);
        let watch = self.watches.of.entry(slot).or_default();
        watch.judged = watch.judged.max(judged);
    }

    /// Everything was read from the store: what was published last before has its time from now on.
    pub(super) fn mark_stored(&mut self) {
        let now = self.clock;
        let slots: Vec<u32> = self.watches.of.keys().copied().collect();
        for slot in slots {
            let Some(channel) = self.channels.get(slot) else { continue };
            let newest = channel.log.as_deref().and_then(|log| log.newest()).map(|(newest, _)| newest);
            let Some(watch) = self.watches.of.get_mut(&slot) else { continue };
            if let Some(newest) = newest.filter(|newest| *newest > watch.judged) {
                watch.mark(newest, channel.options.ack_timeout, now);
                self.watches.settle(slot);
            }
        }
    }

    pub(super) fn watch_record(&self, slot: u32, now: Time) -> Option<WatchRecord> {
        let watch = self.watches.of.get(&slot)?;
        let mark =
            |mark: &crate::hub::watch::Mark| MarkRecord { to: mark.to, due: Moment::of(mark.due, now) };
        let sent = |sent: &Sent| {
            let Sent { offset, user, received, read } = sent.clone();
            SentRecord { offset, user, received, read }
        };
        Some(WatchRecord {
            judged: watch.judged,
            marks: watch.marks().map(mark).collect(),
            sent: watch.sent.iter().map(sent).collect(),
        })
    }

    pub(super) fn restore_watch(&mut self, slot: u32, record: WatchRecord, written: Time) {
        let Some(channel) = self.channels.get(slot).filter(|channel| channel.options.watches()) else {
            return;
        };
        let top = channel.position().offset;
        let options = channel.options.clone();
        let watch = self.watches.of.entry(slot).or_default();
        watch.judged = record.judged.min(top);
        if !options.ack_timeout.is_zero() {
            for MarkRecord { to, due } in record.marks {
                watch.restore_mark(to.min(top), due.at(written));
            }
        }
        if options.receipts {
            let sent = record.sent.into_iter().take(SENT_MAX);
            watch.sent = sent
                .map(|SentRecord { offset, user, received, read }| Sent { offset, user, received, read })
                .collect();
            watch.sent.make_contiguous().sort_by_key(|sent| sent.offset);
            // What was acknowledged while it moved is said now.
            watch.moved(false, written);
        }
        self.watches.settle(slot);
    }

    // --- what the store did not take

    /// The store did not take something of the cursors of a channel: all of them are given to it once more.
    pub(super) fn cursors_unkept(&mut self, slot: u32, removed: Vec<UserName>) {
        let Some(cursors) = self.cursors.get_mut(&slot) else { return };
        if !cursors.kept_again {
            cursors.kept_again = true;
            self.watches.unkept.push_back(slot);
        }
        cursors.unkept = true;
        cursors.gone.extend(removed);
    }

    /// Gives the store once more what it did not take, of some channels. Call it once a second.
    pub fn keep_cursors_again(&mut self) {
        for _ in 0..KEPT_AGAIN.min(self.watches.unkept.len()) {
            let Some(slot) = self.watches.unkept.pop_front() else { return };
            let (Some(channel), Some(cursors)) = (self.channels.get(slot), self.cursors.get_mut(&slot))
            else {
                continue;
            };
            if !std::mem::take(&mut cursors.kept_again) {
                continue;
            }
            let sync = channel.options.durable == Durable::Sync;
            let all: Vec<NamedCursor> = cursors.iter(&self.cursor_names).collect();
            let gone = std::mem::take(&mut cursors.gone);
            let mut parts: Vec<(Vec<UserName>, &[NamedCursor])> = Vec::new();
            if !gone.is_empty() {
                parts.push((gone.clone(), &[]));
            }
            let mut rest = &all[..];
            while !rest.is_empty() {
                // The devices of a user stay together.
                let end = CURSORS_STORED.min(rest.len());
                let last = &rest[end - 1].user;
                let end = end + rest[end..].iter().take_while(|named| named.user == *last).count();
                let (some, behind) = rest.split_at(end);
                let mut users: Vec<UserName> = some.iter().map(|named| named.user.clone()).collect();
                users.dedup();
                parts.push((users, some));
                rest = behind;
            }
            let mut refused = false;
            for (removed, some) in parts {
                let cursors = some.iter().map(MemberCursorRecord::of).collect();
                let stored = StoredCursors {
                    cursors,
                    removed,
                    ..StoredCursors::of(&channel.name, channel.position())
                };
                if matches!(self.store.keep_cursors(stored, sync), Append::Refused(_)) {
                    refused = true;
                    break;
                }
            }
            if refused {
                return self.cursors_unkept(slot, gone);
            }
            if self.cursors.get(&slot).is_some_and(|cursors| cursors.is_needless()) {
                self.cursors.remove(&slot);
            }
        }
    }
}

/// Who has not received what is at the offset on some device, and how many that are.
fn who_lacks(cursors: &Cursors, to: Offset, names: &Names) -> (Vec<UnackedUser>, usize) {
    let (mut users, mut total, mut bytes) = (Vec::new(), 0, 0);
    for behind in cursors.behind(to, names) {
        total += 1;
        bytes +=
            ENTRY_BYTES + behind.user.len() + behind.devices.iter().map(|device| device.len()).sum::<usize>();
        if users.len() < NAMED_MAX && bytes <= NAMED_BYTES_MAX {
            users.push(behind);
        }
    }
    (users, total)
}

/// What has moved in a channel, in as many events as it needs.
fn acked(
    channel: &ChannelName,
    epoch: Epoch,
    cursors: &mut Cursors,
    names: &Names,
    say: &mut dyn FnMut(CursorNotice),
) {
    let mut acks = Acks::default();
    cursors.take_moved(names, |named| {
        if acks.is_full() {
            say(acks.take_event(channel, epoch));
        }
        acks.push(named);
    });
    if !acks.entries.is_empty() {
        say(acks.take_event(channel, epoch));
    }
}

/// Entries of one event.
#[derive(Default)]
struct Acks {
    entries: Vec<DeviceAck>,
    bytes: usize,
}

impl Acks {
    fn is_full(&self) -> bool {
        self.entries.len() >= NAMED_MAX || self.bytes >= NAMED_BYTES_MAX
    }

    fn push(&mut self, named: NamedCursor) {
        let NamedCursor { user, device, cursor: MemberCursor { received, read } } = named;
        self.bytes += ENTRY_BYTES + user.len() + device.len();
        self.entries.push(DeviceAck { user, device, received, read });
    }

    fn take_event(&mut self, channel: &ChannelName, epoch: Epoch) -> CursorNotice {
        self.bytes = 0;
        let event = AckedEvent { channel: channel.clone(), epoch, acks: std::mem::take(&mut self.entries) };
        CursorNotice::Event(What::Acked(Box::new(event)))
    }
}

/// What publishers hear, each of what has changed. What everybody has read is followed no longer.
fn receipts(
    channel: &ChannelName,
    watch: &mut Watch,
    cursors: &Cursors,
    names: &Names,
) -> BTreeMap<UserName, Bytes> {
    let offsets: Vec<Offset> = watch.sent.iter().map(|sent| sent.offset).collect();
    // How many have come exactly so far among them; then, from behind, at least so far.
    let (mut received, mut read, mut members) = (vec![0u32; offsets.len()], vec![0u32; offsets.len()], 0);
    for (_, cursor) in cursors.members(names) {
        members += 1;
        for (counts, at) in [(&mut received, cursor.received), (&mut read, cursor.read)] {
            if let Some(place) = offsets.partition_point(|offset| *offset <= at).checked_sub(1) {
                counts[place] += 1;
            }
        }
    }
    for counts in [&mut received, &mut read] {
        let mut above = 0;
        for count in counts.iter_mut().rev() {
            above += *count;
            *count = above;
        }
    }
    let mut said: BTreeMap<UserName, String> = BTreeMap::new();
    let name = serde_json::to_string(&**channel).expect("a text is JSON");
    for (place, sent) in watch.sent.iter_mut().enumerate() {
        let (own, is_member) = cursors.all_of(&sent.user, names);
        let others = members - u32::from(is_member);
        let besides = |count: u32, at: Offset| count - u32::from(is_member && at >= sent.offset);
        let (received, read) = (besides(received[place], own.received), besides(read[place], own.read));
        if (received, read) == (sent.received, sent.read) {
            continue;
        }
        (sent.received, sent.read) = (received, read);
        let json = said.entry(sent.user.clone()).or_insert_with(|| "{\"receipts\":[".to_owned());
        let comma = if json.ends_with('[') { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"channel":{name},"offset":{},"received":{received},"read":{read},"members":{others}}}"#,
            sent.offset.0
        );
        if read == others {
            // Marked, and taken out below.
            sent.offset = Offset(0);
        }
    }
    watch.sent.retain(|sent| sent.offset != Offset(0));
    said.into_iter().map(|(user, json)| (user, Bytes::from((json + "]}").into_bytes()))).collect()
}

#[cfg(test)]
#[path = "watches_tests.rs"]
mod tests;
