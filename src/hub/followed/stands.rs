//! An owner that says where its log stands.

use crate::base::ids::Position;
use crate::base::time::Time;
use crate::hub::followed::FollowedChannels;

impl FollowedChannels {
    /// The owner has said where the log stands, in the place of items that were lost on the way: what is missing is read, or
    /// found to be lost.
    pub fn handle_stands(&mut self, name: &str, position: Position, now: Time) {
        let Some(index) = self.find(name) else { return };
        let entry = &mut self.channels[index as usize];
        if !entry.subscribers.is_empty() && entry.sequence.stand(position) && !self.reads.contains(index) {
            self.reads.set(index, now);
        }
    }
}
