//! What the control plane of another process has sent to this one.

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::control::events::EventOptions;
use crate::record::{EventsPart, EventsRecord};

/// Nothing is sent to the backend while this lives.
#[derive(Debug)]
pub struct EventsHeld {
    _guard: Option<OwnedMutexGuard<()>>,
}

impl EventsHeld {
    /// With the turn to send, where there are events.
    pub(super) fn new(guard: Option<OwnedMutexGuard<()>>) -> EventsHeld {
        EventsHeld { _guard: guard }
    }
}

/// What another process has sent so far.
#[derive(Default)]
pub(super) struct ArrivingApi {
    pub(super) events: Mutex<(Option<EventsRecord>, Vec<EventsPart>)>,
    /// Held from the start of a process that takes over to its [`Control::open`](crate::control::Control::open).
    pub(super) sending: Mutex<Option<EventsHeld>>,
    pub(super) options: Option<EventOptions>,
}

impl ArrivingApi {
    pub(super) fn new(options: Option<EventOptions>) -> ArrivingApi {
        ArrivingApi { options, ..ArrivingApi::default() }
    }
}
