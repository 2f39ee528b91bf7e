//! Join and leave events that are not each said at once: the channels of some runs hold leaves back.
//!
//! What clients hear must still come in turns (`client/hear.rs`), through upgrades as well. Who has left may be listed a little
//! longer; that nobody is for too long is held by the model beside the code.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline::hub::ChannelOptions;

/// The longest delay of a leave.
pub const LEAVE_DELAY_MAX: Duration = Duration::from_millis(80);

/// By the seed alone, so that everything else is drawn as before.
pub fn paced(seed: u64, options: &mut ChannelOptions) {
    if options.join_leave {
        options.leave_delay =
            [Duration::ZERO, Duration::from_millis(15), LEAVE_DELAY_MAX][(seed / 3 % 3) as usize];
    }
}

/// Somebody who has left may be listed until others hear of it.
pub fn lingers(options: &ChannelOptions) -> bool {
    !options.leave_delay.is_zero()
}

/// Everybody who is there is listed, and nobody else but those who have left just now.
pub fn check(
    channel: &str,
    found: &BTreeMap<String, String>,
    members: &BTreeMap<String, String>,
    lingers: bool,
) {
    match lingers {
        false => assert_eq!(found, members, "presence of {channel}"),
        true => {
            let missing = members.iter().find(|(client, user)| found.get(*client) != Some(user));
            assert!(missing.is_none(), "{missing:?} is in {channel} and not in its presence");
        }
    }
}
