//! Which channel delivers next: at once, gathered, in bulk, or spread over a time. A batch begins here and ends here.

use crate::base::time::Time;
use crate::hub::followed::channel::{Lane, OnWay};
use crate::hub::followed::{Active, ChannelIndex, FollowedChannels, ITEM_BYTES, LocalChannel};
use crate::hub::pace::{Hold, Window};

impl FollowedChannels {
    /// Nothing of the channel is held back any more.
    pub(super) fn let_go(&mut self, channel: ChannelIndex, now: Time) {
        let entry = &mut self.channels[channel as usize];
        let conflates = entry.options.conflates();
        let on_way = entry.on_way();
        let cut = match &mut on_way.pacing {
            // What waits in a value channel leaves with its next batch.
            Some(pacing) if conflates => pacing.window.take().is_some() | pacing.held.take().is_some(),
            pacing => pacing.take().is_some(),
        };
        self.windows_cut += u64::from(cut);
        match on_way.lane {
            Lane::Ready | Lane::Gather => {}
            _ if on_way.active.is_some() => self.set_lane(channel, Lane::Ready),
            _ => self.make_ready(channel, now),
        }
        if self.channels[channel as usize].lane() == Lane::Gather && self.held_bytes > self.held_bytes_max {
            self.set_lane(channel, Lane::Ready);
        }
    }

    /// What is to be delivered at once takes its turn, or gathers until it may. No batch is running.
    pub(super) fn make_ready(&mut self, channel: ChannelIndex, now: Time) {
        let until = self.channels[channel as usize].on_way().gathers_until;
        if until <= now {
            return self.set_lane(channel, Lane::Ready);
        }
        self.set_lane(channel, Lane::Gather);
        self.gathering.set(channel, until);
    }

    /// Finds the lane of what is not yet delivered, if there is any. No batch is running.
    pub(super) fn schedule(&mut self, channel: ChannelIndex, now: Time) {
        let entry = &mut self.channels[channel as usize];
        let batched = entry.batched();
        if !entry.has_more() {
            entry.on_way().pacing = None;
            return self.set_lane(channel, Lane::Idle);
        }
        match entry.on_way().pacing.as_mut().and_then(|pacing| pacing.due_from(batched)) {
            None => self.make_ready(channel, now),
            Some(Hold::Bulk { until, .. }) => {
                self.set_lane(channel, Lane::Bulk);
                self.bulk.set(channel, until);
            }
            Some(Hold::Spread { until, .. }) => {
                let remaining = self.begin(channel, now).remaining;
                self.set_lane(channel, Lane::Spread);
                let on_way = self.channels[channel as usize].on_way();
                let window = Window { last: now, until };
                on_way.pacing.get_or_insert_default().window = Some(window);
                self.spread.set(channel, window.next(remaining, now));
            }
        }
    }

    pub(super) fn set_lane(&mut self, channel: ChannelIndex, lane: Lane) {
        let entry = &mut self.channels[channel as usize];
        if entry.on_way.is_none() && lane == Lane::Idle {
            return;
        }
        let on_way = entry.on_way();
        match on_way.lane {
            Lane::Spread => self.spread.remove(channel),
            Lane::Bulk => self.bulk.remove(channel),
            Lane::Gather => self.gathering.remove(channel),
            Lane::Idle | Lane::Ready => {}
        }
        if on_way.lane.holds_back() != lane.holds_back() {
            let (from, to) = match lane.holds_back() {
                true => (&mut self.backlog_bytes, &mut self.held_bytes),
                false => (&mut self.held_bytes, &mut self.backlog_bytes),
            };
            *from -= on_way.backlog_bytes;
            *to += on_way.backlog_bytes;
        }
        on_way.lane = lane;
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
            if entry.lane() != Lane::Ready {
                continue;
            }
            let active = entry.active();
            return Some((index, active.unwrap_or_else(|| self.begin(index, now))));
        }
        None
    }

    /// The bulk channel that has waited longest, its batch begun. [`FollowedChannels::advance`] must follow.
    pub fn take_bulk(&mut self, now: Time) -> Option<(ChannelIndex, Active)> {
        let index = self.bulk.first()?;
        let active = self.channels[index as usize].active();
        Some((index, active.unwrap_or_else(|| self.begin(index, now))))
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
            if self.channels[index as usize].active().is_none() {
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
        let on_way = self.channels[index as usize].on_way();
        let active = on_way.active.expect("a spread batch is under way");
        let window =
            on_way.pacing.as_mut().and_then(|pacing| pacing.window.as_mut()).expect("it has a window");
        let due = window.take(active.remaining, now, slice);
        Some((index, active, active.remaining - due))
    }

    /// Begins the next batch: everything, or what stands before that which is held back.
    pub(super) fn begin(&mut self, channel: ChannelIndex, now: Time) -> Active {
        self.take_waiting(channel);
        let LocalChannel { stream, on_way, subscribers, classes, options, .. } =
            &mut self.channels[channel as usize];
        let mut end = stream.end();
        let on_way = on_way.get_or_insert_with(|| Box::new(OnWay::from(end)));
        let gathers = options.gathers();
        on_way.gathers_until = if gathers.is_zero() { Time::ZERO } else { now + gathers };
        let mut bytes = on_way.backlog_bytes;
        if let Some(pacing) = &mut on_way.pacing
            && let Some(hold) = pacing.held
        {
            if hold.from() > on_way.batched {
                end = hold.from();
                let items = stream.between(on_way.batched, end);
                bytes = items.map(|item| item.weight() + ITEM_BYTES).sum();
            } else {
                pacing.held = None;
            }
        }
        let start = on_way.batched;
        let active = Active { start, end, remaining: subscribers.len() as u32 };
        on_way.active = Some(active);
        classes.begin_batch(stream.between(start, end));
        on_way.batched = end;
        on_way.active_bytes = bytes;
        active
    }

    /// The batch has been delivered to the last ones of its remaining subscribers, down to `remaining`.
    pub fn advance(&mut self, channel: ChannelIndex, remaining: u32, now: Time) {
        let LocalChannel { stream, on_way, classes, .. } = &mut self.channels[channel as usize];
        let on_way = on_way.as_mut().expect("a batch is under way");
        let active = on_way.active.as_mut().expect("a batch is under way");
        assert!(remaining <= active.remaining);
        if remaining > 0 {
            active.remaining = remaining;
            match on_way.lane {
                Lane::Idle | Lane::Gather => unreachable!("a batch is under way"),
                Lane::Ready => self.ready.push_back(channel),
                // It stays the one that has waited longest.
                Lane::Bulk => {}
                Lane::Spread => {
                    let pacing = on_way.pacing.as_mut().and_then(|pacing| pacing.window.as_mut());
                    let window = pacing.expect("a spread batch has a window");
                    self.spread.set(channel, window.next(remaining, now));
                }
            }
            return;
        }
        if classes.has_chained() {
            classes.end_batch(stream.between(active.start, active.end));
        }
        on_way.active = None;
        let bytes = std::mem::take(&mut on_way.active_bytes);
        on_way.backlog_bytes -= bytes;
        *if on_way.lane.holds_back() { &mut self.held_bytes } else { &mut self.backlog_bytes } -= bytes;
        if let Some(pacing) = &mut on_way.pacing {
            pacing.window = None;
        }
        self.schedule(channel, now);
        self.trim(channel);
    }
}
