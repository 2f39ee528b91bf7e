//! Records of channels at their owner: the log, idempotency keys, subscribers. And of a channel's stream on a shard.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::except::Except;
use crate::base::ids::{ChannelName, ClientId, Epoch, Offset, Position, UserName};
use crate::base::publication::{ClientInfo, Encoded, Publication};
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::{choice, record};
use crate::record::moment::Moment;

record! {
    /// One channel of its owner. Its namespace is in its name; its log and its members follow in parts, and the keys of all.
    pub struct ChannelRecord {
        channel: ChannelName,
        epoch: Epoch,
        /// Of the newest publication, kept or not.
        top: Offset,
        /// The newest version published.
        version: Option<VersionRecord>,
        /// Without subscribers it is idle from here on.
        active_until: Moment,
        /// Only clients have used it.
        creator: Option<CreatorRecord>,
        ;
        /// Its publications are any bytes.
        bytes: bool = false,
        /// Where its log ends, when that is not its top: offsets that were never given lie between.
        log_end: Option<Offset> = None,
        /// What was published last of how many are subscribed.
        occupancy_said: Option<SaidRecord> = None,
    }

    pub struct SaidRecord {
        clients: u32,
        users: u32,
    }

    pub struct VersionRecord {
        number: u64,
        epoch: Box<str>,
    }

    /// Channels with the same number were made by one client, or by some that share their fate.
    pub struct CreatorRecord {
        bucket: u16,
    }

    /// Entries of a log without a hole, oldest first. A channel's parts come in order.
    pub struct LogPart {
        channel: ChannelName,
        entries: Vec<LogEntry>,
        ;
        /// Of a value channel: each key has its newest entry alone.
        values: Option<ValuesRecord> = None,
    }

    /// What a value channel knows beside its entries.
    pub struct ValuesRecord {
        /// Positions below cannot be brought up to date.
        floor: Offset,
        /// Nor can those between these two, which are of what was lost.
        lost_after: Offset,
        lost_before: Offset,
        /// Of the entries that stand beside this, those whose key has one.
        versions: Vec<KeyVersionRecord>,
    }

    pub struct KeyVersionRecord {
        /// Of the entry.
        offset: Offset,
        version: VersionRecord,
    }

    pub struct LogEntry {
        publication: PublicationRecord,
        expires: Moment,
    }

    /// A publication of a channel that is known from around it.
    pub struct PublicationRecord {
        /// 0: kept out of the log.
        offset: Offset,
        epoch: Epoch,
        /// JSON.
        data: Bytes,
        info: Option<InfoRecord>,
        tags: Vec<(String, String)>,
        /// Milliseconds since 1970.
        time_ms: u64,
        ;
        /// Whom it is kept from.
        except: Option<ExceptRecord> = None,
    }

    pub struct ExceptRecord {
        client: Option<ClientId>,
        user: Option<UserName>,
        origin: Option<Box<str>>,
    }

    /// A client as others see it.
    pub struct InfoRecord {
        user: UserName,
        client: String,
        conn_info: Option<Bytes>,
        chan_info: Option<Bytes>,
    }

    /// Idempotency keys of one owner's channels, the oldest first.
    pub struct KeysPart {
        keys: Vec<KeyRecord>,
    }

    pub struct KeyRecord {
        channel: ChannelName,
        key: Box<str>,
        /// What the publication that brought it was answered.
        position: Position,
        expires: Moment,
    }

    pub struct MembersPart {
        channel: ChannelName,
        members: Vec<MemberRecord>,
        ;
        /// Joins and leaves that are still to be said, in their order; with the last part.
        waiting: Vec<WaitingRecord> = Vec::new(),
        /// How far members have come.
        cursors: Vec<MemberCursorRecord> = Vec::new(),
        /// Behind which offset how many of the log were skipped; with the last part.
        skipped: Vec<(Offset, u64)> = Vec::new(),
        /// What follows from acknowledgements; with the last part.
        watch: Option<WatchRecord> = None,
    }

    pub struct WatchRecord {
        /// The backend has heard who lacks something up to there.
        judged: Offset,
        marks: Vec<MarkRecord>,
        sent: Vec<SentRecord>,
    }

    /// Who lacks something up to there is said at that time.
    pub struct MarkRecord {
        to: Offset,
        due: Moment,
    }

    /// A publication whose publisher hears how many have got it.
    pub struct SentRecord {
        offset: Offset,
        user: UserName,
        received: u32,
        read: u32,
    }

    /// How far a device of a user has come.
    pub struct MemberCursorRecord {
        user: UserName,
        /// Empty: none was named.
        device: UserName,
        received: Offset,
        read: Offset,
    }

    pub struct WaitingRecord {
        joined: bool,
        info: InfoRecord,
        /// Whose it is; none: its user's.
        peer: Option<u64>,
        /// One that has left and is in presence until then.
        lingers: Option<u64>,
        at: Moment,
    }

    pub struct MemberRecord {
        /// The subscriber's [`crate::record::PeerRecord::number`].
        peer: u64,
        /// Of a member that others see.
        info: Option<InfoRecord>,
        /// Others see it in presence.
        listed: bool,
        /// Others see it by join and leave events.
        announced: bool,
    }

    /// What subscribers that lag have not been given. [`crate::record::CursorRecord::behind`] counts from its end.
    pub struct StreamRecord {
        channel: ChannelName,
        /// Where the log stands at the stream's end.
        top: Option<Position>,
        /// Of the last publication before the first item.
        base: Offset,
        items: Vec<StreamItem>,
    }
}

choice! {
    pub enum StreamItem {
        1 => Publication(PublicationRecord),
        2 => Joined(InfoRecord),
        3 => Left(InfoRecord),
    }
}

impl PublicationRecord {
    pub fn of(publication: &Publication) -> PublicationRecord {
        PublicationRecord {
            offset: publication.position.offset,
            epoch: publication.position.epoch,
            data: publication.data.clone(),
            info: publication.info.as_ref().map(InfoRecord::of),
            tags: publication.tags.clone(),
            time_ms: publication.time_ms,
            except: publication.except.as_deref().map(ExceptRecord::of),
        }
    }

    /// The publication of `channel`.
    pub fn publication(self, channel: &ChannelName) -> Arc<Publication> {
        Arc::new(Publication {
            channel: Arc::clone(channel),
            position: Position { offset: self.offset, epoch: self.epoch },
            data: self.data,
            info: self.info.map(InfoRecord::info),
            tags: self.tags,
            except: self.except.map(|except| Arc::new(except.except())),
            time_ms: self.time_ms,
            encoded: Encoded::default(),
        })
    }
}

impl ValuesRecord {
    /// The newest version of the key whose entry has the offset.
    pub fn version_of(&self, offset: Offset) -> Option<VersionRecord> {
        let found = self.versions.iter().find(|version| version.offset == offset);
        found.map(|found| found.version.clone())
    }
}

impl ExceptRecord {
    fn of(except: &Except) -> ExceptRecord {
        let Except { client, user, origin } = except.clone();
        ExceptRecord { client, user, origin }
    }

    fn except(self) -> Except {
        let ExceptRecord { client, user, origin } = self;
        Except { client, user, origin }
    }
}

impl InfoRecord {
    /// Bytes of its texts.
    pub fn weight(&self) -> usize {
        let json = [&self.conn_info, &self.chan_info].into_iter().flatten().map(Bytes::len).sum::<usize>();
        self.user.len() + self.client.len() + json
    }

    pub fn of(info: &ClientInfo) -> InfoRecord {
        let ClientInfo { user, client, conn_info, chan_info } = info.clone();
        InfoRecord { user, client, conn_info, chan_info }
    }

    pub fn info(self) -> ClientInfo {
        let InfoRecord { user, client, conn_info, chan_info } = self;
        ClientInfo { user, client, conn_info, chan_info }
    }
}

impl Record for ChannelRecord {
    const KIND: RecordKind = RecordKind::Channel;
}

impl Record for LogPart {
    const KIND: RecordKind = RecordKind::ChannelLog;
}

impl Record for KeysPart {
    const KIND: RecordKind = RecordKind::Keys;
}

impl MembersPart {
    /// Without anybody.
    pub fn of(channel: &ChannelName) -> MembersPart {
        MembersPart {
            channel: channel.clone(),
            members: Vec::new(),
            waiting: Vec::new(),
            cursors: Vec::new(),
            skipped: Vec::new(),
            watch: None,
        }
    }
}

impl Record for MembersPart {
    const KIND: RecordKind = RecordKind::ChannelMembers;
}

impl Record for StreamRecord {
    const KIND: RecordKind = RecordKind::ChannelStream;
}
