//! Followed channels from one process to the next.

use std::sync::Arc;

use super::FollowedChannels;
use super::channel::ChannelIndex;
use crate::hub::deadlines::Deadlines;
use crate::hub::options::ChannelOptions;
use crate::hub::stream::Stream;
use crate::record::StreamRecord;

impl FollowedChannels {
    /// What subscribers of another process follow, before those come: of several records of one channel the longest serves
    /// all. Until [`FollowedChannels::finish_restoring`] it is kept without subscribers.
    pub fn restore(&mut self, record: StreamRecord, options: &Arc<ChannelOptions>) -> ChannelIndex {
        let known = self.find(&record.channel);
        let index = self.join_asked(&record.channel, options);
        let entry = &mut self.channels[index as usize];
        if known.is_some() {
            entry.pending_joins -= 1;
        }
        if let Some(top) = record.top {
            entry.sequence.learn(top, false);
        }
        if known.is_none() || entry.stream.items() < record.items.len() {
            self.stream_bytes -= entry.stream.weight();
            entry.stream = Stream::from_record(record);
            self.stream_bytes += entry.stream.weight();
            entry.on_way = None;
        }
        index
    }

    /// All subscribers have come.
    pub fn finish_restoring(&mut self) {
        let all: Vec<ChannelIndex> = self.iter().map(|(index, _)| index).collect();
        for index in all {
            self.join_answered(index);
            if self.channels.contains(index as usize) {
                self.trim(index);
            }
        }
    }

    /// Nothing is delivered any more: the subscribers are another process's.
    pub fn stop(&mut self) {
        self.ready.clear();
        (self.spread, self.bulk) = (Deadlines::default(), Deadlines::default());
        (self.gathering, self.reads) = (Deadlines::default(), Deadlines::default());
    }
}
