//! Which channel delivers next: at once, gathered, in bulk, or spread over a time. A batch begins here and ends here.

use crate::base::time::Time;
use crate::hub::followed::channel::Lane;
use crate::hub::followed::{Active, ChannelIndex, FollowedChannels, ITEM_BYTES, Item};
use crate::hub::pace::{Hold, Window};

impl FollowedChannels {
    /// Nothing of the channel is held back any more.
    pub(super) fn let_go(&mut self, channel: ChannelIndex, now: Time) {
        let entry = &mut self.channels[channel as usize];
        let cut = match &mut entry.pacing {
            // What waits in a value channel leaves with its next batch.
            Some(pacing) if entry.options.conflates() => {
                pacing.window.take().is_some() | pacing.held.take().is_some()
            }
            pacing => pacing.take().is_some(),
        };
        self.windows_cut += u64::from(cut);
        match entry.lane {
            Lane::Ready | Lane::Gather => {}
            _ if entry.active.is_some() => self.set_lane(channel, Lane::Ready),
            _ => self.make_ready(channel, now),
        }
        if self.channels[channel as usize].lane == Lane::Gather && self.held_bytes > self.held_bytes_max {
            self.set_lane(channel, Lane::Ready);
        }
    }

    /// What is to be delivered at once takes its turn, or gathers until it may. No batch is running.
    pub(super) fn make_ready(&mut self, channel: ChannelIndex, now: Time) {
        let until = self.channels[channel as usize].gathers_until;
        if until <= now {
            return self.set_lane(channel, Lane::Ready);
        }
        self.set_lane(channel, Lane::Gather);
        self.gathering.set(channel, until);
    }

    /// Finds the lane of what is not yet delivered, if there is any. No batch is running.
    pub(super) fn schedule(&mut self, channel: ChannelIndex, now: Time) {
        let entry = &mut self.channels[channel as usize];
        let batched = entry.batched;
        if !entry.has_more() {
            entry.pacing = None;
            return self.set_lane(channel, Lane::Idle);
        }
        match entry.pacing.as_mut().and_then(|pacing| pacing.due_from(batched)) {
            None => self.make_ready(channel, now),
            Some(Hold::Bulk { until, .. }) => {
                self.set_lane(channel, Lane::Bulk);
                self.bulk.set(channel, until);
            }
            Some(Hold::Spread { until, .. }) => {
                self.begin(channel, now);
                self.set_lane(channel, Lane::Spread);
                let entry = &mut self.channels[channel as usize];
                let remaining = entry.active.map_or(0, |active| active.remaining);
                let window = Window { last: now, until };
                entry.pacing.get_or_insert_default().window = Some(window);
                self.spread.set(channel, window.next(remaining, now));
            }
        }
    }

    pub(super) fn set_lane(&mut self, channel: ChannelIndex, lane: Lane) {
        let entry = &mut self.channels[channel as usize];
        match entry.lane {
            Lane::Spread => self.spread.remove(channel),
            Lane::Bulk => self.bulk.remove(channel),
            Lane::Gather => self.gathering.remove(channel),
            Lane::Idle | Lane::Ready => {}
        }
        if entry.lane.holds_back() != lane.holds_back() {
            let (from, to) = match lane.holds_back() {
                true => (&mut self.backlog_bytes, &mut self.held_bytes),
                false => (&mut self.held_bytes, &mut self.backlog_bytes),
            };
            *from -= entry.backlog_bytes;
            *to += entry.backlog_bytes;
        }
        entry.lane = lane;
        if lane == Lane::Ready {
            self.ready.push_back(channel);
        }
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Something waits for a moment without other deliveries.
    pub fn has_bulk(&self) -> bool {
        self.bulk.next().is_some()
    }

    /// When something that waits for its time is due: a spread delivery, a batch that gathers, or a read.
    pub fn next_due(&self) -> Option<Time> {
        self.spread.next().into_iter().chain(self.gathering.next()).chain(self.reads.next()).min()
    }

    /// The next channel with something to deliver, its batch begun. [`FollowedChannels::advance`] must follow.
    pub fn take_ready(&mut self, now: Time) -> Option<(ChannelIndex, Active)> {
        while let Some(index) = self.ready.pop_front() {
            // The channel may have been forgotten, and its index taken by another, since it was queued.
            let Some(entry) = self.channels.get_mut(index as usize) else { continue };
            if entry.lane != Lane::Ready {
                continue;
            }
            if entry.active.is_none() {
                self.begin(index, now);
            }
            return self.channels[index as usize].active.map(|active| (index, active));
        }
        None
    }

    /// The bulk channel that has waited longest, its batch begun. [`FollowedChannels::advance`] must follow.
    pub fn take_bulk(&mut self, now: Time) -> Option<(ChannelIndex, Active)> {
        let index = self.bulk.first()?;
        if self.channels[index as usize].active.is_none() {
            self.begin(index, now);
        }
        self.channels[index as usize].active.map(|active| (index, active))
    }

    /// Lets those that have gathered, or waited as bulk, for long enough take their turns.
    pub fn promote_due(&mut self, now: Time) {
        while self.gathering.next().is_some_and(|until| until <= now)
            && let Some(index) = self.gathering.first()
        {
            self.set_lane(index, Lane::Ready);
        }
        while self.bulk.next().is_some_and(|until| until <= now)
            && let Some(index) = self.bulk.first()
        {
            if self.channels[index as usize].active.is_none() {
                self.begin(index, now);
            }
            self.set_lane(index, Lane::Ready);
        }
    }

    /// The next channel of which a spread delivery is due, and down to where it is, `slice` at most.
    /// [`FollowedChannels::advance`] must follow.
    pub fn take_spread(&mut self, now: Time, slice: u32) -> Option<(ChannelIndex, Active, u32)> {
        if self.spread.next()? > now {
            return None;
        }
        let index = self.spread.first()?;
        let entry = &mut self.channels[index as usize];
        let active = entry.active.expect("a spread batch is under way");
        let window =
            entry.pacing.as_mut().and_then(|pacing| pacing.window.as_mut()).expect("it has a window");
        let due = window.take(active.remaining, now, slice);
        Some((index, active, active.remaining - due))
    }

    /// Begins the next batch: everything, or what stands before that which is held back.
    pub(super) fn begin(&mut self, channel: ChannelIndex, now: Time) {
        self.take_waiting(channel);
        let entry = &mut self.channels[channel as usize];
        entry.gathers_until = now + entry.options.gathers();
        let mut end = entry.stream.end();
        let mut bytes = entry.backlog_bytes;
        if let Some(pacing) = &mut entry.pacing
            && let Some(hold) = pacing.held
        {
            if hold.from() > entry.batched {
                end = hold.from();
                let items = entry.stream.between(entry.batched, end);
                bytes = items.map(|item| item.weight() + ITEM_BYTES).sum();
            } else {
                pacing.held = None;
            }
        }
        entry.active = Some(Active { start: entry.batched, end, remaining: entry.subscribers.len() as u32 });
        entry.classes.begin_batch(entry.stream.between(entry.batched, end));
        entry.batched = end;
        entry.active_bytes = bytes;
    }

    /// The batch has been delivered to the last ones of its remaining subscribers, down to `remaining`.
    pub fn advance(&mut self, channel: ChannelIndex, remaining: u32, now: Time) {
        let entry = &mut self.channels[channel as usize];
        let active = entry.active.as_mut().expect("a batch is under way");
        assert!(remaining <= active.remaining);
        active.remaining = remaining;
        if remaining > 0 {
            match entry.lane {
                Lane::Idle | Lane::Gather => unreachable!("a batch is under way"),
                Lane::Ready => self.ready.push_back(channel),
                // It stays the one that has waited longest.
                Lane::Bulk => {}
                Lane::Spread => {
                    let pacing = entry.pacing.as_mut().and_then(|pacing| pacing.window.as_mut());
                    let window = pacing.expect("a spread batch has a window");
                    self.spread.set(channel, window.next(remaining, now));
                }
            }
            return;
        }
        let done = *active;
        entry.active = None;
        if entry.classes.has_delta() {
            let last = entry.stream.between(done.start, done.end).filter_map(|item| match item {
                Item::Publication(publication) => Some(&publication.data),
                Item::JoinLeaveEvent(_) => None,
            });
            if let Some(last) = last.last() {
                entry.delivered = Some(last.clone());
            }
            entry.classes.end_batch(entry.stream.between(done.start, done.end));
        }
        let bytes = std::mem::take(&mut entry.active_bytes);
        entry.backlog_bytes -= bytes;
        *if entry.lane.holds_back() { &mut self.held_bytes } else { &mut self.backlog_bytes } -= bytes;
        if let Some(pacing) = &mut entry.pacing {
            pacing.window = None;
        }
        self.schedule(channel, now);
        self.trim(channel);
    }
}
