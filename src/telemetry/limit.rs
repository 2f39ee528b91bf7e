//! Once for each cause and minute: what a peer can make happen a million times a second is logged rarely and counted
//! always.

use std::time::Duration;

use crate::base::time::Time;

/// How long a cause stays silent after it was logged.
const SILENCE: Duration = Duration::from_secs(60);

/// Owned by the caller that logs (a shard, a task): no lock, no clock of its own.
///
/// Causes are literals, so that their number is bounded by the program and not by a peer.
#[derive(Debug, Default)]
pub struct LogLimit {
    causes: Vec<LogCause>,
}

#[derive(Debug)]
struct LogCause {
    name: &'static str,
    logged: Time,
    /// Held back since.
    silenced: u64,
}

impl LogLimit {
    /// `Some(held_back)`: log it now; so many of this cause were held back since the last time. `None`: be silent.
    pub fn allow(&mut self, name: &'static str, now: Time) -> Option<u64> {
        // A handful of causes: looking through them is cheaper than hashing.
        let Some(cause) = self.causes.iter_mut().find(|cause| cause.name == name) else {
            self.causes.push(LogCause { name, logged: now, silenced: 0 });
            return Some(0);
        };
        if now.since(cause.logged) < SILENCE {
            cause.silenced += 1;
            return None;
        }
        cause.logged = now;
        Some(std::mem::take(&mut cause.silenced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_a_minute_with_what_was_held_back() {
        let mut limit = LogLimit::default();
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        assert_eq!(limit.allow("slow", at(5)), Some(0));
        assert_eq!(limit.allow("slow", at(6)), None);
        assert_eq!(limit.allow("accept", at(6)), Some(0));
        assert_eq!(limit.allow("slow", at(64)), None);
        assert_eq!(limit.allow("slow", at(65)), Some(2));
        assert_eq!(limit.allow("slow", at(66)), None);
        assert_eq!(limit.allow("slow", at(1000)), Some(1));
    }
}
