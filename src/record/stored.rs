//! Records of the store on disk: what has happened to channels, one after the other.

use crate::base::ids::{ChannelName, Epoch, Offset, Position, UserName};
use crate::record::blocks::BlockRecord;
use crate::record::channel::{MemberCursorRecord, PublicationRecord, ValuesRecord, VersionRecord};
use crate::record::events::EventEntry;
use crate::record::fault::RecordFault;
use crate::record::field::{Field, FieldWriter, Reader, choice, record};

choice! {
    /// One entry of the store. Numbers are never given twice.
    pub enum StoredRecord {
        1 => Publication(StoredPublication),
        2 => Channel(StoredChannel),
        3 => Log(StoredLog),
        4 => Keys(StoredKeys),
        5 => Removal(StoredRemoval),
        6 => Run(StoredRun),
        /// The run before has ended with everything written.
        7 => End,
        8 => Events(StoredEvents),
        12 => Blocks(StoredBlocks),
        13 => Cursors(StoredCursors),
    }
}

record! {
    /// A publication of a durable channel.
    pub struct StoredPublication {
        channel: ChannelName,
        publication: PublicationRecord,
        /// What it was answered: its own position, or where its log stood when it is kept out of it.
        position: Position,
        /// Empty: none.
        key: Box<str>,
        version: Option<VersionRecord>,
        /// Offsets above this one may have been given without being written.
        loose: bool,
        ;
        /// Its channel took any bytes.
        bytes: bool = false,
    }

    /// A channel as it stands here. Older parts of its log follow, newest first, and the keys of all channels.
    pub struct StoredChannel {
        channel: ChannelName,
        position: Position,
        version: Option<VersionRecord>,
        loose: bool,
        /// The newest part of its log, oldest first.
        entries: Vec<PublicationRecord>,
        ;
        /// Of a value channel: each key has its newest entry alone.
        values: Option<ValuesRecord> = None,
        /// The entries may be any bytes.
        bytes: bool = false,
    }

    /// An older part of the log, oldest first, of a channel that was written before.
    pub struct StoredLog {
        channel: ChannelName,
        entries: Vec<PublicationRecord>,
        ;
        /// As the channel had it then.
        values: Option<ValuesRecord> = None,
        /// The entries may be any bytes.
        bytes: bool = false,
    }

    pub struct StoredKeys {
        keys: Vec<StoredKey>,
    }

    pub struct StoredKey {
        channel: ChannelName,
        key: Box<str>,
        position: Position,
        /// Milliseconds since 1970.
        time_ms: u64,
    }

    /// What a log had up to there was removed.
    pub struct StoredRemoval {
        channel: ChannelName,
        epoch: Epoch,
        until: Offset,
    }

    /// Of the log of events, in order; the newest is `last`, which is given without entries as well.
    pub struct StoredEvents {
        /// Names the numbering.
        epoch: Box<str>,
        last: u64,
        /// The newest number that had fallen off by then.
        fallen: u64,
        /// Up to which number the backend had accepted.
        accepted: u64,
        entries: Vec<EventEntry>,
    }

    /// Users that were blocked, tokens that were revoked, and what was taken back.
    pub struct StoredBlocks {
        changes: Vec<BlockRecord>,
        /// Nothing of what was written before stands.
        reset: bool,
    }

    /// Cursors of members of a channel that have moved, or some of all.
    pub struct StoredCursors {
        channel: ChannelName,
        /// Where its log stood.
        position: Position,
        /// All of a user's that is in `removed` as well.
        cursors: Vec<MemberCursorRecord>,
        /// Users of whom nothing holds that was written before.
        removed: Vec<UserName>,
        /// Of a copy: behind which offset how many of the log were skipped.
        skipped: Option<Vec<(Offset, u64)>>,
        ;
        /// The backend has heard who lacks something up to there.
        judged: Option<Offset> = None,
    }

    /// A process opens the store.
    pub struct StoredRun {
        /// Milliseconds since 1970.
        time_ms: u64,
        private_prefix: String,
        /// Channels without a namespace may lose what they published last.
        default_is_loose: bool,
        /// Namespaces whose channels may.
        loose: Vec<String>,
    }
}

impl StoredCursors {
    /// Nothing of a channel whose log stands there.
    pub fn of(channel: &ChannelName, position: Position) -> StoredCursors {
        StoredCursors {
            channel: channel.clone(),
            position,
            cursors: Vec::new(),
            removed: Vec::new(),
            skipped: None,
            judged: None,
        }
    }
}

impl StoredRecord {
    /// Appends its bytes.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut writer = FieldWriter::new(std::mem::take(out));
        self.write(&mut writer);
        *out = writer.into_bytes();
    }

    /// # Errors
    /// The bytes are no record of this build.
    pub fn from_bytes(bytes: &[u8]) -> Result<StoredRecord, RecordFault> {
        let mut reader = Reader::new(bytes);
        let record = StoredRecord::read(&mut reader)?;
        match reader.skip(1) {
            Err(RecordFault::Cut) => Ok(record),
            _ => Err(RecordFault::Malformed("the end of the record")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use crate::record::arbitrary::Arbitrary;

    #[test]
    fn every_record_comes_back_and_no_cut_of_it_does() {
        let mut prng = Prng::with_seed(3);
        for _ in 0..500 {
            let record = StoredRecord::arbitrary(&mut prng);
            let mut bytes = Vec::new();
            record.write_to(&mut bytes);
            assert_eq!(StoredRecord::from_bytes(&bytes), Ok(record));
            for end in 0..bytes.len() {
                assert!(StoredRecord::from_bytes(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
            }
        }
    }
}
