//! Once for each cause and minute, for the whole process: what a peer can make happen a million times a second is
//! logged rarely and counted always.

use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;

use crate::base::time::Time;
use crate::telemetry::LogLimit;

/// Logs a warning unless one of this cause was logged within the last minute; tells how many were held back since.
///
/// `cause` is a literal: the number of causes is bounded by the program and not by a peer. Takes a lock for the length of
/// a comparison, so it is for what goes wrong and not for the path of publications.
pub fn log_once_a_minute(cause: &'static str, what: &str) {
    log_peer_once_a_minute(cause, what, || None);
}

/// The same of something that a peer did: `address` is asked when it is logged.
pub fn log_peer_once_a_minute(cause: &'static str, what: &str, address: impl FnOnce() -> Option<String>) {
    static LIMIT: Mutex<Option<LogLimit>> = Mutex::new(None);
    let held_back = LIMIT.lock().get_or_insert_default().allow(cause, now());
    if let Some(held_back) = held_back {
        tracing::warn!(cause, held_back, address = address(), "{what}");
    }
}

/// Since the first call: only differences count.
fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Time::from_millis(start.elapsed().as_millis() as u64)
}
