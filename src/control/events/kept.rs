//! The log of events beyond this process: what a store had of it, and what goes there.
//!
//! It is kept as what is "async" is: soon after, and without anybody waiting for it. What is not there yet is known by its number,
//! so that what the store did not take is given to it again.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::event::{Event, What};
use crate::control::events::log::EventLog;
use crate::control::keeper::Keeper;
use crate::control::process::wall_ms;
use crate::record::{EventEntry, EventsPart, EventsRecord, RecordFault, StoredEvents, StoredRecord};

/// What a store has of an earlier process, in order.
#[derive(Debug, Default)]
pub struct FoundEvents {
    pub epoch: Box<str>,
    /// The newest number that may have been given.
    pub last: u64,
    /// The newest number that has fallen off.
    pub fallen: u64,
    pub accepted: u64,
    pub entries: Vec<EventEntry>,
}

impl FoundEvents {
    /// Up to which number the store has it.
    pub(super) fn here(&self) -> u64 {
        self.entries.last().map_or(self.fallen, |newest| newest.seq)
    }

    /// The log of it, and up to which number it is accepted. Numbers that may have been given and are not here are a gap.
    ///
    /// # Errors
    /// As [`EventLog::restore`].
    pub(super) fn restore(self, bytes_max: usize) -> Result<(EventLog, u64), RecordFault> {
        let here = self.here();
        let accepted = self.accepted.min(here);
        let record = EventsRecord { epoch: self.epoch, last: here, fallen: self.fallen, accepted };
        let mut log = EventLog::restore(bytes_max, &record, [EventsPart { entries: self.entries }])?;
        if self.last > here {
            log.push(&Event { time_ms: wall_ms(), what: What::Lost(self.last - here) });
        }
        Ok((log, accepted))
    }
}

/// What the events of a node begin with, where there is a store.
pub struct KeptEvents {
    pub found: Option<FoundEvents>,
    pub keeper: Box<dyn Keeper>,
    /// The keeper wants something.
    pub wake: Arc<Notify>,
}

/// It is taken by the events when they begin: at the start, or by a configuration that is read later.
#[derive(Clone, Default)]
pub struct KeptPlace(Arc<Mutex<Option<KeptEvents>>>);

impl KeptPlace {
    pub fn new(kept: KeptEvents) -> KeptPlace {
        KeptPlace(Arc::new(Mutex::new(Some(kept))))
    }

    pub(super) fn take(&self) -> Option<KeptEvents> {
        self.0.lock().take()
    }
}

impl fmt::Debug for KeptPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptPlace")
    }
}

/// What the keeper has been given.
pub(super) struct KeepingEvents {
    keeper: Box<dyn Keeper>,
    /// Up to which number it has the log, and what it knows to be accepted.
    last: u64,
    accepted: u64,
    /// The copy that it wants, and up to which number that has the log.
    copying: Option<(u64, u64)>,
}

impl KeepingEvents {
    /// It has the log up to `last`.
    pub fn new(mut keeper: Box<dyn Keeper>, last: u64) -> KeepingEvents {
        keeper.begin();
        KeepingEvents { keeper, last, accepted: 0, copying: None }
    }

    /// The process before has given it the log up to `last`, or a copy that it wants soon brings what is missing.
    pub fn goes_on(&mut self, last: u64) {
        self.last = last;
    }

    /// Gives it what it does not have. False when it has no room for all now.
    pub fn keep(&mut self, epoch: &str, log: &Mutex<EventLog>, accepted: u64) -> bool {
        let record = |after: u64| {
            let log = log.lock();
            let entries = log.part(after).map_or_else(Vec::new, |part| part.entries);
            let (last, fallen) = (entries.last().map_or(log.last(), |newest| newest.seq), log.fallen());
            StoredEvents { epoch: epoch.into(), last, fallen, accepted: accepted.min(last), entries }
        };
        let wanted = self.keeper.wants_copy();
        if self.copying.is_none_or(|(number, _)| number != wanted) {
            self.copying = (wanted != 0).then_some((wanted, 0));
        }
        while let Some((number, after)) = self.copying {
            let part = record(after);
            let (last, is_end) = (part.last, part.entries.is_empty());
            if !self.keeper.keep(StoredRecord::Events(part), true) {
                return false;
            }
            self.copying = Some((number, last));
            if is_end {
                self.keeper.copied(number);
                (self.copying, self.last) = (None, self.last.max(last));
            }
        }
        loop {
            let part = record(self.last);
            if part.entries.is_empty() && part.last == self.last && part.accepted == self.accepted {
                return true;
            }
            let (last, accepted) = (part.last, part.accepted);
            if !self.keeper.keep(StoredRecord::Events(part), false) {
                return false;
            }
            (self.last, self.accepted) = (last, accepted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::shelf::{Handle, Shelf};

    /// What it has been given, and whether for a copy.
    fn parts(shelf: &Shelf) -> Vec<(&StoredEvents, bool)> {
        let mut parts = Vec::new();
        for (record, copies) in &shelf.records {
            let StoredRecord::Events(part) = record else { panic!("{record:?}") };
            parts.push((part, *copies));
        }
        parts
    }

    fn log(events: usize) -> Mutex<EventLog> {
        let mut log = EventLog::new(1 << 20);
        (0..events).for_each(|_| log.push(&Event { time_ms: 1, what: What::Occupied("c".into()) }));
        Mutex::new(log)
    }

    fn numbers(shelf: &Shelf) -> Vec<u64> {
        parts(shelf).into_iter().flat_map(|(part, _)| part.entries.iter().map(|entry| entry.seq)).collect()
    }

    #[test]
    fn what_is_not_taken_is_given_again_and_a_copy_has_everything() {
        let shelf = Arc::new(Mutex::new(Shelf { room: 9, ..Shelf::default() }));
        let mut keeping = KeepingEvents::new(Box::new(Handle(Arc::clone(&shelf))), 0);
        let log = log(3);
        assert!(keeping.keep("e", &log, 0));
        assert_eq!(numbers(&shelf.lock()), [1, 2, 3]);
        assert!(keeping.keep("e", &log, 0));
        assert_eq!(shelf.lock().records.len(), 1, "nothing new");
        assert!(keeping.keep("e", &log, 2));
        assert_eq!(parts(&shelf.lock())[1].0.accepted, 2, "that it is accepted is kept by itself");
        shelf.lock().room = 0;
        log.lock().push(&Event { time_ms: 1, what: What::Lost(5) });
        assert!(!keeping.keep("e", &log, 2));
        *shelf.lock() = Shelf { room: 1, wanted: 7, ..Shelf::default() };
        assert!(!keeping.keep("e", &log, 2), "the end of the copy has no room");
        shelf.lock().room = 9;
        assert!(keeping.keep("e", &log, 2));
        let shelf = shelf.lock();
        assert_eq!((numbers(&shelf), shelf.copied), (vec![1, 2, 3, 8], 7));
        assert!(parts(&shelf).into_iter().all(|(part, copies)| copies && part.last == 8));
    }

    #[test]
    fn numbers_that_may_have_been_given_are_a_gap_behind_what_was_found() {
        let entries = log(3).into_inner().part(0).unwrap().entries;
        let found = FoundEvents { epoch: "e".into(), last: 103, fallen: 0, accepted: 9, entries };
        let (mut log, accepted) = found.restore(1 << 20).unwrap();
        assert_eq!((log.last(), accepted), (103, 3));
        let mut text = b"[".to_vec();
        log.write(3, 9, 1 << 20, 0, &mut text);
        text.push(b']');
        let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!([&text[0]["from"], &text[0]["to"]], [4, 103]);
        log.push(&Event { time_ms: 1, what: What::Occupied("c".into()) });
        assert_eq!(log.last(), 104);
        // All had fallen off, and the process ended well.
        let found = FoundEvents { last: 40, fallen: 40, accepted: 38, ..FoundEvents::default() };
        let (log, accepted) = found.restore(1 << 20).unwrap();
        assert_eq!((log.last(), log.fallen(), accepted), (40, 40, 38));
    }
}
