//! The store on disk: what happens to durable channels, in segment files.
//!
//! Inputs: entries of the shards' owners ([`StoredRecord`](crate::record::StoredRecord)), a [`Disk`]. Outputs: what of them is
//! on disk, and at the next start everything that was. Must not know: shards, sockets, the clock.
//!
//! ```text
//!  shard ─▶ ShardStore ─▶ Queue (bounded) ─┐                     ┌─▶ segment file
//!  shard ─▶ ShardStore ─▶ Queue (bounded) ─┴─▶ Writer: a batch ──┤
//!    ▲                                         of all queues     └─▶ fdatasync ─▶ done ─┐
//!    └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! One writer for the node: what comes while it waits for the disk makes the next batch, so that any number of publishes share
//! a sync. Shards know each other's entries only by their order; a directory may be opened with another number of them.
//!
//! # A segment file, `00000000000000000001.seg`
//! ```text
//!  0          8         12       16       24            32       40               48           64
//!  ├ TKSTORE\0 ┼ version ┼ CRC-32 ┼ number ┼ first batch ┼ oldest ┼ previous bytes ┼ store's id ┤ batch │ batch │ … │ 0 0 0
//!                          of all other bytes of the head
//!
//!  batch:   0      4        8        16              20        24             32
//!           ├ BTCH ┼ CRC-32 ┼ number ┼ bytes behind  ┼ records ┼ half of id ──┤ record │ record │ …
//!
//!  record:  0       4        8
//!           ├ bytes ┼ CRC-32 ┼ body: CBOR, see record/stored.rs ┤        CRC-32 of the length and the body
//! ```
//! Numbers are little-endian. A file is taken from the disk when it is made, so that a write finds its room, and is cut to its
//! length when the next one begins; that one's head says how long it is (`previous bytes`), and from which file on all are needed
//! (`oldest`). A new process begins a new file.
//!
//! # What a reader does with bad bytes
//! A batch is written when the one before is on disk. A bad one that no other one follows is what a power loss leaves: it was
//! never acknowledged, and is cut off. A bad one with batches behind it was on disk and no longer is: reading goes on at the next
//! batch, and what is missing of a channel is found where its offsets do not go on. Channels of which nothing comes after it get
//! another epoch: what they had last cannot be known.
//!
//! # Room
//! From time to time each shard writes again what it holds (a copy, see `hub/owned/stored.rs`), into files from a number on; files before
//! that are removed when all have, and are on disk.
//!
//! # When the disk fails
//! - Full, or `bytes_max`: what is on its way is not kept, `sync` publishes are refused, `async` ones stay in memory. It is tried
//!   again every second; then a copy brings what is in memory.
//! - A write or sync fails otherwise: the same, until the process ends. After a failed sync nobody knows what is on disk, and the
//!   kernel may take the bytes for clean.

mod disk;
mod fault;
mod format;
mod queue;
mod read;
mod restore;
pub mod sim;
mod stats;
pub mod tools;
mod writer;

pub use disk::{Disk, StoreDirectory};
pub use fault::StoreFault;
pub use format::{Segment, StoreId};
pub use queue::{Queues, ShardStore, StoreWork, WriterWake};
pub use read::{Damage, Found, StoreRead, read_all};
pub use restore::{Restored, RestoredEvents, Restoring};
pub use stats::{Health, StatsView, StoreStats};
pub use writer::{Writer, WriterOptions, WriterTurn};
