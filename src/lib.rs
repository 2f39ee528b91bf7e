//! trunkline: the long-connection daemon in front of an HTTP backend.
//!
//! Clients stay connected by WebSocket; the backend publishes to channels by HTTP; every subscriber hears of it at once,
//! in order, and knows when it missed something.
//!
//! # The ideas
//! - **A channel is a log, a subscriber is a cursor.** Publishing appends to the log of the channel's owner
//!   ([`hub::OwnedChannels`]); delivery moves along a short stream of it on every shard with subscribers
//!   ([`hub::followed::FollowedChannels`]).
//!   A subscriber that keeps up stores no cursor; one whose socket is full stores one and catches up from the stream,
//!   then from the log. No queue per connection exists.
//! - **A shard owns what it touches.** One pinned thread, one [`driver`], one table of connections ([`shard::Shard`]).
//!   A channel has one owner and a user one shard ([`shard::router::Router`]), the only writer of their state; shards talk
//!   through bounded inboxes ([`shard::mailbox::ShardInbox`]), and nothing on the data path takes a lock.
//! - **An owner may be elsewhere.** Followers take the items of a log only in sequence and read what is missing; what they and
//!   an owner say to each other is [`shard::owner`], and an owner is a shard of this node or an engine that nodes share. An
//!   acknowledgement leaves when the append is kept ([`hub::log_store`]); what is durable is kept in segment files ([`store`]).
//! - **A peer is not a socket.** A connection is a link (framing, unsent bytes) and a peer (client, unidirectional client,
//!   tunnel): the peer has the number that its public id is made of, so that it can move to another process.
//! - **Bytes pass a [`layer`]**, chosen by the listener that a connection came by. Plain ones pass none.
//! - **An idle connection costs a slot** of at most 128 bytes: no buffer, no task, no timer object.
//! - **Encode once, send in place.** A publication is framed once for each [class](hub::class) of subscribers; a tick ends in
//!   one write for each connection with something to say.
//! - **Protocols are sans-IO** ([`proto`], [`session`]): bytes in, events and bytes out, time as an argument. The same
//!   shard runs on io_uring, on epoll and in a simulator ([`driver::Driver`]).
//! - **The control plane is ordinary** ([`control`]): HTTP on tokio, which reaches shards by mailbox only.
//!
//! # How a publish walks
//! ```text
//! POST /api/publish ─▶ control::api, or control::publish_here on the shard's thread
//!    ─▶ Router: the channel's owner ─▶ Inbox (full: 503)
//!    ─▶ OwnedChannels::publish: offset, log ─▶ one Arc<Publication> to each interested shard
//!    ─▶ FollowedChannels: a batch over the list of subscribers, in slices ─▶ outbox ─▶ one write a connection ─▶ flush
//! ```
//!
//! # Who knows whom
//! ```text
//! base      ◀─ all others
//! record    ◀─ proto, hub, layer, session, shard, store, engine, control, node
//! driver    ◀─ shard, node
//! layer     ◀─ shard, config, node
//! proto     ◀─ session, shard, engine, control, node
//! hub       ◀─ session, shard, store, engine, config, control, node
//! session   ◀─ shard, engine, config, control, node
//! shard     ◀─ engine, config, control, node
//! store     ◀─ node
//! telemetry ◀─ engine, config, control, node
//! engine    ◀─ config, control, node
//! config    ◀─ control, node
//! control   ◀─ node
//! ```
//! The hub never sees a descriptor, a codec never sees a socket, a session never sees a log, and tokio never appears
//! below `control` and [`engine`]. `tests/tidy` holds these directions.

pub mod base;
pub mod config;
pub mod control;
pub mod driver;
pub mod engine;
pub mod hub;
pub mod layer;
pub mod node;
pub mod proto;
pub mod record;
pub mod session;
pub mod shard;
pub mod store;
pub mod telemetry;
