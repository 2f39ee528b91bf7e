//! How the node ends.

use std::time::Duration;

use crate::base::limits::DRAIN_MAX;
use crate::config::fault::Require;
use crate::config::table::settings;

settings! {
    /// How the node ends.
    pub struct Shutdown {
        /// How long after the signal to stop, or an order to drain, clients are still let in and served while `/health` and
        /// `/health/ready` answer 503, so that a load balancer sends no more. Comes before `drain`.
        pub delay: Duration = Duration::ZERO;
        /// Over which time clients are closed after SIGTERM, evenly and in random order, so that they come to other nodes
        /// one after the other. No others are let in meanwhile. SIGINT closes them at once. Who starts this process must give
        /// it the sum of all three to end; Docker gives 10s by default. 0s: all are closed at once.
        pub drain: Duration = Duration::from_secs(30);
        /// How long clients that were closed and requests under way are given to end. Comes after `drain`.
        pub grace: Duration = Duration::from_secs(10);
    }
}

pub(super) fn check_shutdown(shutdown: &Shutdown, require: &mut Require<'_>) {
    let Shutdown { delay, drain, grace: _ } = shutdown;
    for (key, time) in [("shutdown.delay", delay), ("shutdown.drain", drain)] {
        require(*time <= DRAIN_MAX, key, "at most 24h");
    }
}
