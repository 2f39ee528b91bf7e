//! What a node shows its operator.

use crate::config::sections::Config;
use crate::config::table::settings;

/// What an end of a connection may weigh where it is kept: its entry, the longest name of a user, the longest reason.
pub const CLOSED_BYTES: u64 = 448;
/// More ends than anybody reads: half a gigabyte of them.
const CLOSED_KEPT_MAX: u32 = 1_000_000;

settings! {
    /// What a node shows its operator.
    pub struct Observe {
        /// Ends of connections that this node remembers, for `GET /api/closed` and `trunkline why`, 448 bytes of memory each; at
        /// most what a hundredth of what this process may use has room for. 0: none.
        pub closed_kept: u32 = 100_000;
    }
}

pub(super) fn check_observe(config: &Config, require: &mut impl FnMut(bool, &str, &str)) {
    require(config.observe.closed_kept <= CLOSED_KEPT_MAX, "observe.closed_kept", "must be at most 1000000");
}
