//! Records: what a node holds for its clients, as bytes that another process or a later start can read.
//!
//! Inputs: plain data that the state machines give ([`crate::session::Session::to_record`] and its like), bytes. Outputs:
//! the same data, or a [`RecordFault`]. Must not know: sessions, logs, sockets; who sends or stores the bytes.
//!
//! Two use it: the upgrade of a running node, where the old process writes each peer, channel and the events log for
//! the new one, and the store on disk.
//!
//! # On the wire
//! ```text
//!  0        4         5      6       8               12             16
//!  ├ "TKLR" ┼ version ┼ kind ┼ 0   0 ┼ length (LE) ──┼ CRC-32 (LE) ─┼ body, `length` bytes ┤
//!                                                      of 4..12 and the body
//! ```
//! The body is CBOR (RFC 8949): one array for each struct, its fields in the order of the source, so that any tool for
//! CBOR shows what is in a record.
//!
//! # Versions
//! - A field is added at the end, behind a `;`, with what it means when it is absent. Older readers skip it.
//! - The version changes when an older reader would understand something else than what was written. A reader refuses
//!   versions above its own by name ([`RecordFault::Version`]) and reads those below.
//! - `golden/` holds records of version 1 as their bytes, which every later build reads.
//!
//! # Bounds
//! One record has at most [`RECORD_BYTES_MAX`]; what may be longer (a log, a roster) goes in parts of about [`PART_BYTES`].
//! Reading allocates in proportion to the bytes that are there, never to a length that they claim
//! (`tests/records.rs`).
//!
//! # Time
//! Clocks of two processes differ. A [`Moment`] is a time counted from the writing; a keeper of records for longer than the
//! blink of an upgrade notes beside them when they were written, and takes that off.

#[cfg(test)]
pub(crate) mod arbitrary;
mod blocks;
mod channel;
mod envelope;
mod events;
mod fault;
mod field;
mod handover;
mod link;
mod moment;
mod peer;
mod shard;
mod stored;
#[cfg(test)]
mod tests;
mod ticket;
mod user;

pub use blocks::{BlockRecord, BlocksPart};
pub use channel::{
    ChannelRecord, CreatorRecord, InfoRecord, KeyRecord, KeyVersionRecord, KeysPart, LogEntry, LogPart,
    MarkRecord, MemberCursorRecord, MemberRecord, MembersPart, PublicationRecord, SaidRecord, SentRecord,
    StreamItem, StreamRecord, ValuesRecord, VersionRecord, WaitingRecord, WatchRecord,
};
pub use envelope::{RECORD_BYTES_MAX, Record, RecordKind, UnreadRecord, next, read, write};
pub use events::{EventEntry, EventsPart, EventsRecord};
pub use fault::RecordFault;
pub use field::{Field, FieldWriter, Reader};
pub use handover::{
    HelloRecord, ListenerRecord, ListenerUse, ListenersRecord, NodeRecord, ParcelRecord, ParcelsPart,
    PushKeyRecord, PushKeysPart, StoreRecord, TotalsRecord, UpgradesRecord,
};
pub use link::{
    CertificateRecord, CursorRecord, DecoderRecord, FrameRecord, LayerRecord, LinkRecord, PaceRecord,
    TrafficKeyRecord,
};
pub use moment::Moment;
pub use peer::{
    AdmissionRecord, AskedChannelRecord, AskingRecord, CallRecord, ClientRecord, ConnectCall, ConnectPurpose,
    ConnectRecord, FarewellRecord, FiltersRecord, HeaderRecord, HookCallRecord, IdentityRecord, JoinRecord,
    ModeRecord, PayloadRecord, PeerRecord, PeerState, PublishCall, PublishPurpose, PurposeRecord,
    RecoveryRecord, RenewalRecord, ReplyRecord, RequestsRecord, RpcCall, SinceEpochRecord, SinceRecord,
    SubRecord, SubscribeCall, SubscribePurpose, SubscribedRecord, TermsRecord, TunnelAskingRecord,
    TunnelRecord, TunnelStageRecord, TunnelWorkRecord, UnidirectionalRecord, WaitsRecord, WorkRecord,
};
pub use shard::{BookRecord, ShardRecord};
pub use stored::{
    StoredBlocks, StoredChannel, StoredCursors, StoredEvents, StoredKey, StoredKeys, StoredLog,
    StoredPublication, StoredRecord, StoredRemoval, StoredRun,
};
pub use ticket::{TicketRecord, TicketsPart};
pub use user::UserRecord;

/// Bytes after which a log, a roster or an events log goes on in the next part: a few milliseconds of encoding, so that
/// a shard can write one between two deliveries. An entry is never cut.
pub const PART_BYTES: usize = 256 * 1024;
