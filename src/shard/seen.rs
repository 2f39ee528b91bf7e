//! What is known of a connection beside its slot: since when it is here, and how long its last ping took.

use crate::base::time::Time;
use crate::shard::connections::Connection;

/// Entries of a page: 8 KiB.
const PAGE: usize = 1024;
/// What moments are counted in: 2^30 of them are two years.
const UNIT_MS: u64 = 64;
const SINCE_BITS: u32 = 30;
const PINGED_BITS: u32 = 20;
const PING_BITS: u32 = 14;
/// The longest round trip that is kept: 16 s. More is written as this.
const PING_MS_MAX: u32 = (1 << PING_BITS) - 1;

/// Of one connection, in 8 bytes. Zeros mean that it is not known.
#[derive(Clone, Copy, Default)]
struct Seen(u64);

const _: () = assert!(SINCE_BITS + PINGED_BITS + PING_BITS == u64::BITS);

const _: () = assert!(
    size_of::<Option<Connection>>() + 8 + size_of::<Seen>() <= 128,
    "an idle connection costs 128 bytes with what is seen of it"
);

impl Seen {
    fn new(since: u32, pinged: u32, ping_ms: u32) -> Seen {
        let (since, pinged) = (u64::from(since), u64::from(pinged));
        Seen((since << PINGED_BITS | pinged) << PING_BITS | u64::from(ping_ms.min(PING_MS_MAX)))
    }

    /// In units, counted from 1.
    fn since(self) -> u32 {
        (self.0 >> (PINGED_BITS + PING_BITS)) as u32
    }

    /// When a ping went out that is not answered, in milliseconds that wrap after 17 minutes.
    fn pinged(self) -> u32 {
        (self.0 >> PING_BITS) as u32 & PINGED_MASK
    }

    fn ping_ms(self) -> u32 {
        self.0 as u32 & PING_MS_MAX
    }
}

const PINGED_MASK: u32 = (1 << PINGED_BITS) - 1;

/// By slot, in pages that are made when a slot of theirs is used.
#[derive(Default)]
pub(in crate::shard) struct SeenTable {
    pages: Vec<Option<Box<[Seen; PAGE]>>>,
    on: bool,
}

impl SeenTable {
    pub fn new(on: bool) -> SeenTable {
        SeenTable { pages: Vec::new(), on }
    }

    /// Turned off, it forgets what it has.
    pub fn turn(&mut self, on: bool) {
        if self.on != on {
            *self = SeenTable::new(on);
        }
    }

    fn get(&self, slot: u32) -> Option<&Seen> {
        Some(&self.pages.get(slot as usize / PAGE)?.as_ref()?[slot as usize % PAGE])
    }

    fn entry(&mut self, slot: u32) -> Option<&mut Seen> {
        if !self.on {
            return None;
        }
        let page = slot as usize / PAGE;
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([Seen::default(); PAGE]));
        Some(&mut page[slot as usize % PAGE])
    }

    /// A socket was accepted.
    pub fn begin(&mut self, slot: u32, now: Time) {
        if let Some(seen) = self.entry(slot) {
            *seen = Seen::new(unit(now), 0, 0);
        }
    }

    /// Nothing is known of what the slot has now.
    pub fn forget(&mut self, slot: u32) {
        if let Some(seen) = self.entry(slot) {
            *seen = Seen::default();
        }
    }

    /// A ping goes out.
    pub fn pinged(&mut self, slot: u32, now: Time) {
        if let Some(seen) = self.entry(slot) {
            let pinged = (now.as_millis() as u32 & PINGED_MASK).max(1);
            *seen = Seen::new(seen.since(), pinged, seen.ping_ms());
        }
    }

    /// It was answered: how long that took, in milliseconds. `None` when no ping was out.
    pub fn answered(&mut self, slot: u32, now: Time) -> Option<u32> {
        let seen = self.entry(slot)?;
        let pinged = seen.pinged();
        if pinged == 0 {
            return None;
        }
        let ms = ((now.as_millis() as u32).wrapping_sub(pinged) & PINGED_MASK).max(1);
        *seen = Seen::new(seen.since(), 0, ms);
        Some(ms)
    }

    pub fn duration_ms(&self, slot: u32, now: Time) -> Option<u64> {
        let since = self.get(slot)?.since();
        (since != 0).then(|| u64::from(unit(now).saturating_sub(since)) * UNIT_MS)
    }

    pub fn ping_ms(&self, slot: u32) -> Option<u32> {
        self.get(slot).map(|seen| seen.ping_ms()).filter(|&ms| ms != 0)
    }
}

fn unit(now: Time) -> u32 {
    (now.as_millis() / UNIT_MS + 1).min((1 << SINCE_BITS) - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_since_it_came_and_by_its_last_answered_ping() {
        let at = Time::from_millis;
        let mut table = SeenTable::new(true);
        table.begin(2000, at(1_000));
        assert_eq!((table.duration_ms(2000, at(11_000)), table.ping_ms(2000)), (Some(9_984), None));
        table.pinged(2000, at(20_000));
        assert_eq!(table.answered(2000, at(20_031)), Some(31));
        assert_eq!(table.answered(2000, at(20_041)), None, "answered once");
        table.pinged(2000, at(45_000));
        assert_eq!(table.ping_ms(2000), Some(31), "while the next is out");
        table.forget(2000);
        assert_eq!((table.duration_ms(2000, at(50_000)), table.ping_ms(2000)), (None, None));
        assert_eq!(table.duration_ms(9, at(1)), None);
    }

    /// Each of the three keeps to its bits.
    #[test]
    fn what_is_too_long_is_as_long_as_can_be_kept() {
        let at = Time::from_millis;
        let mut table = SeenTable::new(true);
        let now = 1 << 40;
        table.begin(7, at(now));
        table.pinged(7, at(now + 5));
        assert_eq!(table.answered(7, at(now + 20_005)), Some(20_000));
        assert_eq!(table.ping_ms(7), Some(PING_MS_MAX), "what is kept is shorter");
        table.pinged(7, at((1 << 20) * 3));
        assert_eq!(table.answered(7, at((1 << 20) * 3 + 40)), Some(39), "one that would be 0 is 1");
        assert_eq!(table.duration_ms(7, at(now + 60_000)), Some(0), "at the end of two years");
        table.begin(7, at(640_000));
        assert_eq!(table.duration_ms(7, at(640_000 + 320_000)), Some(320_000));
    }

    #[test]
    fn a_table_that_is_off_takes_no_memory() {
        let mut table = SeenTable::new(false);
        table.begin(5, Time::ZERO);
        table.pinged(5, Time::ZERO);
        assert!(table.pages.is_empty() && table.answered(5, Time::ZERO).is_none());
    }
}
