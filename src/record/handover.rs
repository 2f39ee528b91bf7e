//! Records of a handover: what two processes say to each other beside the records of clients and channels.

use crate::base::bytes::Bytes;
use crate::record::envelope::{Record, RecordKind};
use crate::record::field::{choice, record};

record! {
    /// The first message of each side.
    pub struct HelloRecord {
        /// Of the messages of a handover: both sides speak the same.
        protocol: u16,
        /// As `trunkline --version` prints it, for people.
        build: Box<str>,
        pid: u32,
        shards: u16,
    }

    /// What a node is known by, whichever process serves it.
    pub struct NodeRecord {
        /// The id of `/api/info`.
        uid: Box<str>,
        /// Client ids are numbers of connections, encrypted: these make the keys.
        client_id_words: Vec<u64>,
        /// Of development mode: made at the first start.
        development_key: Option<Box<str>>,
        upgrades: UpgradesRecord,
        ;
        /// The directory of its store.
        store: Option<Box<str>> = None,
        /// The kind of its engine; empty: channels are in memory.
        engine: Box<str> = "".into(),
    }

    /// Where the writer of a store has stopped: the next process goes on there.
    pub struct StoreRecord {
        /// The store's id, in two halves.
        id_high: u64,
        id_low: u64,
        /// Number and bytes of each file, the oldest first. The last is written.
        segments: Vec<(u64, u64)>,
        /// Where the next batch goes in the last one.
        at: u64,
        /// Files from this one on are needed.
        oldest: u64,
        next_batch: u64,
        /// What the last copy of everything came to.
        live_bytes: u64,
    }

    /// What was counted about upgrades so far.
    pub struct UpgradesRecord {
        /// By the name of the result.
        results: Vec<(Box<str>, u64)>,
        connections_moved: u64,
        connections_closed: u64,
    }

    /// Listeners, in the order of the descriptors that come with them.
    pub struct ListenersRecord {
        listeners: Vec<ListenerRecord>,
    }

    pub struct ListenerRecord {
        /// The place where it listens, as it was bound.
        address: Box<str>,
        /// As the configuration has it: with port 0, not where it is bound.
        configured: Box<str>,
        serves: ListenerUse,
    }

    /// How many of what a shard has given, or taken.
    pub struct TotalsRecord {
        parcels: u64,
        peers: u64,
        /// Connections that cannot move: they are closed with a code to come back.
        left_behind: u64,
        channels: u64,
        users: u64,
        /// How long clients have waited by now.
        silence_us: u64,
    }

    /// Outcomes of pushes, by idempotency key, the oldest first.
    pub struct PushKeysPart {
        keys: Vec<PushKeyRecord>,
    }

    pub struct PushKeyRecord {
        key: Box<str>,
        age_ms: u64,
        connections: u64,
        users: u64,
        absent: Vec<Box<str>>,
    }
}

choice! {
    pub enum ListenerUse {
        /// One of a shard's, by the place in the configured list.
        1 => Clients(u8),
        /// One of the API alone.
        2 => Api,
    }
}

record! {
    /// Some of what a shard gives away, in its order.
    pub struct ParcelsPart {
        parcels: Vec<ParcelRecord>,
    }

    /// One thing that a shard gives away, without its descriptor.
    pub struct ParcelRecord {
        /// What is in it, by the number of its kind.
        kind: u8,
        /// The next of the message's descriptors belongs to it.
        has_descriptor: bool,
        record: Bytes,
    }
}

impl Record for HelloRecord {
    const KIND: RecordKind = RecordKind::Hello;
}

impl Record for NodeRecord {
    const KIND: RecordKind = RecordKind::Node;
}

impl Record for StoreRecord {
    const KIND: RecordKind = RecordKind::Store;
}

impl Record for ListenersRecord {
    const KIND: RecordKind = RecordKind::Listeners;
}

impl Record for ParcelsPart {
    const KIND: RecordKind = RecordKind::Parcels;
}

impl Record for TotalsRecord {
    const KIND: RecordKind = RecordKind::Totals;
}

impl Record for PushKeysPart {
    const KIND: RecordKind = RecordKind::PushKeys;
}
