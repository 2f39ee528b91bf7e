//! Records of users at their owner.

use crate::base::ids::UserName;
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::record;

record! {
    /// The connections of one user, by [`crate::record::PeerRecord::number`].
    pub struct UserRecord {
        user: UserName,
        /// The oldest first; whether it takes no messages.
        peers: Vec<(u64, bool)>,
        /// Of these, those without a place yet where users' connections are limited, the oldest first.
        waiting: Vec<u64>,
        /// No longer among them, and holding a place until their shard says that they have left.
        leaving: Vec<u64>,
        ;
        /// Of those whose class of devices is limited, the class.
        classes: Vec<(u64, Box<str>)> = Vec::new(),
    }
}

impl Record for UserRecord {
    const KIND: RecordKind = RecordKind::User;
}
