//! A shard's part of an upgrade: what it holds goes to the shards of another process, or stays as it was.
//!
//! Inputs: orders of the node. Outputs: parcels, each a record and perhaps a socket. Must not know: how processes find each
//! other, what carries parcels between them, when the new one takes over.
//!
//! ```text
//!  old:  serves ──Ahead──▶ serves, says sockets ──▶ Ahead
//!        serves ──Begin──▶ quieting ──all shards are quiet──▶ frozen, says its parcels ──▶ Done ──Commit──▶ ends
//!          ▲                  │                                  │                           │
//!          └──────────────────┴────────────── Abort ─────────────┴───────────────────────────┘
//!  new:  adopting: Adopt, Adopt, … Arm ──▶ Armed ──Resume──▶ serves
//! ```
//! All shards are frozen at one moment: no message is on its way between two of them, so that what each holds fits what
//! the others hold, in whatever order it is written. A frozen shard neither reads nor writes.
//!
//! Sockets go ahead of all that while the old process serves ([`ahead`]): a second descriptor does no harm, and takes most of the
//! time. Those that are closed meanwhile are said as well, for no end reaches a peer while a descriptor is open.
//!
//! A peer keeps its number, and so its client id. The shard in a number is a label: its peers are on the shard
//! `label % shards` of the process that runs ([`Router::peer_shard`](crate::shard::router::Router::peer_shard)). Channels and users
//! go to the shards that their names lead to.

mod adopt;
pub(in crate::shard) mod agreement;
mod ahead;
mod destination;
mod export;
pub(in crate::shard) mod order;
mod resume;
pub(in crate::shard) mod state;
mod tick;

pub use self::destination::{Destination, destination, streams_of};
pub use self::order::{Afloat, Counts, Order, Outlet, Parcel, ParcelKind, Said};
