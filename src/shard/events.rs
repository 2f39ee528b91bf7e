//! What the backend is told of this shard: who came and went, what channels have subscribers, what clients sent.
//!
//! Inputs: what happens here, in its order. Outputs: events, handed to the control plane without waiting. Must not know:
//! how they are numbered, kept and sent.
//!
//! A held poll is no client: it is told of as a subscriber of its channels (`occupied`, `vacated`), and as a connection of its user
//! (`user_online`, `user_offline`), and not otherwise.
//! What finds no room is counted, and the count is the next event to go out: a loss is told in its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::base::event::{Event, EventKind, EventKinds, What};
use crate::base::fault::Disconnect;
use crate::base::ids::ChannelName;
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::shard::control_request::ControlPlane;
use crate::shard::environment::RETRY;

/// Empty channels of one shard that may wait to be told as vacated: what a million clients that leave in one second
/// come to on 16 shards, each with a channel of its own. Beyond, one is told at once.
const VACATED_WAITING_MAX: usize = 64 * 1024;

/// A shard's side of telling the backend.
pub(in crate::shard) struct Events {
    pub kinds: EventKinds,
    pub control: Option<Arc<dyn ControlPlane>>,
    /// Of every connection, for `disconnected`; does not exist when that is not told.
    pub lives: Option<Slots<Life>>,
    pub occupancy: Occupancy,
    /// Of users whose owner is here.
    pub users: Occupancy,
    /// Why the connection that is about to be forgotten ends.
    pub noted: Option<(u32, Disconnect)>,
    /// Events that found no room, not told yet.
    pub lost: u64,
    /// Events told and lost, since the start.
    pub totals: (u64, u64),
    /// Everything was told as vacated: nothing that comes after counts.
    pub last_told: bool,
}

/// What is known of a connection when it ends. 32 bytes a connection, with what tells it from none.
pub(in crate::shard) struct Life {
    pub connected: Time,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl Events {
    /// `delays`: of `vacated` and of `user_offline`.
    pub fn new(
        kinds: EventKinds,
        delays: (Duration, Duration),
        control: Option<Arc<dyn ControlPlane>>,
    ) -> Events {
        Events {
            kinds,
            control,
            lives: kinds.contains(EventKind::Disconnected).then(Slots::default),
            occupancy: Occupancy::new(delays.0),
            users: Occupancy::new(delays.1),
            noted: None,
            lost: 0,
            totals: (0, 0),
            last_told: false,
        }
    }

    /// Tells other kinds from now on. Of connections that are here, what they were is counted from now.
    pub fn exchange(
        &mut self,
        kinds: EventKinds,
        delays: (Duration, Duration),
        connections: impl Iterator<Item = u32>,
        now: Time,
    ) {
        self.kinds = kinds;
        (self.occupancy.delay, self.users.delay) = delays;
        if !kinds.contains(EventKind::Disconnected) {
            self.lives = None;
        } else if self.lives.is_none() {
            self.lives = Some(Slots::default());
            connections.for_each(|slot| self.begin(slot, now));
        }
    }

    pub fn wants(&self, kind: EventKind) -> bool {
        self.kinds.contains(kind)
    }

    /// Events told, and events that found no room.
    pub fn totals(&self) -> (u64, u64) {
        self.totals
    }

    /// Events wait for room at the control plane.
    pub fn is_waiting(&self) -> bool {
        self.lost > 0
    }

    /// When there is something to do without anything having happened.
    pub fn next(&self, now: Time) -> Option<Time> {
        let retry = self.is_waiting().then(|| now + RETRY);
        retry.into_iter().chain(self.occupancy.next()).chain(self.users.next()).min()
    }

    pub fn tell(&mut self, time_ms: u64, what: What) {
        self.tell_lost(time_ms);
        // Not before the loss is told: it would look as if it had come first.
        let room = self.lost == 0
            && self
                .control
                .as_ref()
                .is_none_or(|control| control.tell_backend(Event { time_ms, what }).is_ok());
        if room {
            self.totals.0 += 1;
        } else {
            self.totals.1 += 1;
            self.lost += 1;
        }
    }

    pub fn tell_lost(&mut self, time_ms: u64) {
        if self.lost > 0
            && let Some(control) = &self.control
            && control.tell_backend(Event { time_ms, what: What::Lost(self.lost) }).is_ok()
        {
            self.lost = 0;
        }
    }

    // --- what a connection was

    /// A socket was accepted.
    pub fn begin(&mut self, slot: u32, now: Time) {
        if let Some(lives) = &mut self.lives {
            lives.insert(slot, Life { connected: now, received_bytes: 0, sent_bytes: 0 });
        }
    }

    /// What was known of it in another process.
    pub fn restore(&mut self, slot: u32, life: Life) {
        if let Some(lives) = &mut self.lives {
            lives.insert(slot, life);
        }
    }

    /// Since when a connection is one, or a client, and the bytes received from it and sent to it.
    pub fn life(&self, slot: u32) -> Option<(Time, u64, u64)> {
        let life = self.lives.as_ref()?.get(slot)?;
        Some((life.connected, life.received_bytes, life.sent_bytes))
    }

    /// Its socket is closed.
    pub fn end(&mut self, slot: u32) {
        if let Some(lives) = &mut self.lives {
            lives.remove(slot);
        }
    }

    pub fn received(&mut self, slot: u32, bytes: usize) {
        if let Some(life) = self.lives.as_mut().and_then(|lives| lives.get_mut(slot)) {
            life.received_bytes += bytes as u64;
        }
    }

    /// A tick's writes are with the kernel: `of` gives the bytes for each connection.
    pub fn sent(&mut self, of: impl FnOnce(&mut dyn FnMut(u32, u64))) {
        if let Some(lives) = &mut self.lives {
            of(&mut |slot, bytes| {
                if let Some(life) = lives.get_mut(slot) {
                    life.sent_bytes += bytes;
                }
            });
        }
    }

    /// The kernel did not take so many bytes of the tick's write.
    pub fn unsent(&mut self, slot: u32, bytes: u64) {
        if let Some(life) = self.lives.as_mut().and_then(|lives| lives.get_mut(slot)) {
            life.sent_bytes = life.sent_bytes.saturating_sub(bytes);
        }
    }

    /// Says why a connection ends, right before it is made to end. Without, it was the peer who left.
    pub fn note_end(&mut self, slot: u32, disconnect: &Disconnect) {
        self.noted = Some((slot, disconnect.clone()));
    }

    /// What [`Events::note_end`] said of this connection.
    pub fn take_note(&mut self, slot: u32) -> Option<Disconnect> {
        self.noted.take().filter(|(noted, _)| *noted == slot).map(|(_, disconnect)| disconnect)
    }
}

/// Channels that are empty and not told as vacated yet: one that fills again in time is not told of at all. The same of users
/// without connections.
pub(in crate::shard) struct Occupancy {
    delay: Duration,
    /// By the moment at which it is told, and a number that tells equal moments apart.
    waiting: BTreeMap<(Time, u64), ChannelName>,
    places: HashMap<ChannelName, (Time, u64)>,
    numbers: u64,
}

impl Occupancy {
    pub fn new(delay: Duration) -> Occupancy {
        Occupancy { delay, waiting: BTreeMap::new(), places: HashMap::new(), numbers: 0 }
    }

    /// The channel has its first subscriber. True when the backend does not know it as occupied.
    pub fn filled(&mut self, channel: &str) -> bool {
        match self.places.remove(channel) {
            Some(place) => {
                self.waiting.remove(&place);
                false
            }
            None => true,
        }
    }

    /// The channel has lost its last subscriber.
    pub fn emptied(&mut self, channel: ChannelName, now: Time) {
        let room = self.waiting.len() < VACATED_WAITING_MAX;
        let place = (if room { now + self.delay } else { Time::ZERO }, self.numbers);
        self.numbers += 1;
        self.places.insert(channel.clone(), place);
        self.waiting.insert(place, channel);
    }

    /// A channel that has been empty for long enough: it is to be told as vacated now.
    pub fn due(&mut self, now: Time) -> Option<ChannelName> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let channel = first.remove();
        self.places.remove(&channel);
        Some(channel)
    }

    pub fn next(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::base::bytes::Bytes;
    use crate::shard::control_request::{Busy, HttpReply};

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_channel_that_fills_again_in_time_is_not_told_of() {
        let mut occupancy = Occupancy::new(Duration::from_millis(1000));
        assert!(occupancy.filled("a"), "told");
        occupancy.emptied("a".into(), at(5000));
        assert_eq!(occupancy.next(), Some(at(6000)));
        assert_eq!(occupancy.due(at(5999)), None);
        assert!(!occupancy.filled("a"), "it is occupied to the backend still");
        assert_eq!((occupancy.due(at(9000)), occupancy.next()), (None, None));
        // Emptied again, its time begins again.
        occupancy.emptied("a".into(), at(9500));
        assert_eq!(occupancy.due(at(10_499)), None);
        assert_eq!(occupancy.due(at(10_500)).as_deref(), Some("a"));
        assert!(occupancy.filled("a"), "told as vacated, it is told as occupied again");
    }

    #[test]
    fn channels_are_vacated_in_the_order_in_which_they_emptied() {
        let mut occupancy = Occupancy::new(Duration::from_millis(10));
        for (ms, channel) in [(1, "a"), (1, "b"), (2, "c"), (3, "d")] {
            occupancy.emptied(channel.into(), at(ms));
        }
        assert!(!occupancy.filled("b"));
        let told: Vec<_> = std::iter::from_fn(|| occupancy.due(at(12))).collect();
        assert_eq!(told, ["a".into(), "c".into()] as [ChannelName; 2]);
        assert_eq!(occupancy.due(Time::NEVER).as_deref(), Some("d"));
    }

    #[test]
    fn more_empty_channels_than_may_wait_are_told_at_once() {
        let mut occupancy = Occupancy::new(Duration::from_secs(1));
        for number in 0..VACATED_WAITING_MAX {
            occupancy.emptied(number.to_string().into(), at(1));
        }
        assert_eq!(occupancy.due(at(1)), None);
        occupancy.emptied("more".into(), at(1));
        assert_eq!(occupancy.due(at(1)).as_deref(), Some("more"));
        assert_eq!(occupancy.due(at(1)), None);
    }

    /// Takes as many events as there is room for.
    struct Plane(Mutex<(usize, Vec<What>)>);

    impl ControlPlane for Plane {
        fn handle(&self, _: http::Request<Bytes>, _: HttpReply) -> Result<(), Busy> {
            Err(Busy)
        }

        fn tell_backend(&self, event: Event) -> Result<(), Busy> {
            let (room, told) = &mut *self.0.lock();
            *room = room.checked_sub(1).ok_or(Busy)?;
            told.push(event.what);
            Ok(())
        }
    }

    #[test]
    fn a_loss_is_told_in_its_place() {
        let plane = Arc::new(Plane(Mutex::new((2, Vec::new()))));
        let kinds = EventKinds::from_iter(EventKind::ALL);
        let mut events = Events::new(kinds, Default::default(), Some(Arc::clone(&plane) as _));
        let channel = |number: u64| What::Occupied(number.to_string().into());
        for number in 1..=5 {
            events.tell(0, channel(number));
        }
        assert_eq!((events.is_waiting(), events.totals()), (true, (2, 3)));
        // Room for the loss, and for nothing behind it.
        plane.0.lock().0 = 1;
        events.tell(0, channel(6));
        plane.0.lock().0 = 10;
        events.tell(0, channel(7));
        events.tell_lost(0);
        let told = std::mem::take(&mut plane.0.lock().1);
        assert_eq!(
            told,
            [channel(1), channel(2), What::Lost(3), What::Lost(1), channel(7)],
            "what is told and what is lost come to seven, in order"
        );
        assert!(!events.is_waiting());
    }
}
