//! Records of the events log.

use crate::base::bytes::Bytes;
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::record;

record! {
    /// The log of events; its entries follow in parts.
    pub struct EventsRecord {
        /// Names the numbering: it goes on, so that `Idempotency-Key`s and readers of pages go on.
        epoch: Box<str>,
        /// The newest number given.
        last: u64,
        /// The newest number that has fallen off.
        fallen: u64,
        /// Up to which number the backend has accepted.
        accepted: u64,
    }

    /// In order of their numbers.
    pub struct EventsPart {
        entries: Vec<EventEntry>,
    }

    pub struct EventEntry {
        /// Of a gap: the last that it stands for.
        seq: u64,
        /// As the backend sees it.
        json: Bytes,
    }
}

impl Record for EventsRecord {
    const KIND: RecordKind = RecordKind::Events;
}

impl Record for EventsPart {
    const KIND: RecordKind = RecordKind::EventsLog;
}
