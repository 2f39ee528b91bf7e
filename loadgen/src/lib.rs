//! Load generator for servers of long connections.
//!
//! Inputs: a command line. Outputs: figures as a table, JSON, HdrHistogram logs and a page. It measures from outside:
//! of the daemon it uses the codecs only, never its state.
//!
//! # Design
//! - **A connection is 80 bytes and a poll.** [`engine`] keeps a slot for each; decoders and buffers exist while
//!   something is incomplete. [`net`] keeps sockets as io_uring direct descriptors, which RLIMIT_NOFILE does not count,
//!   in as many rings as their tables need, several of them to a thread.
//! - **A delivery is a mark.** Every payload carries one ([`measure::Mark`]): whose it is, its place in its channel,
//!   and the time it was planned for. So [`profile`] needs to know how a protocol opens and pings, not what its messages
//!   look like, and servers of different protocols are measured by the same code.
//! - **Open loop.** [`publish`] and the requests of [`engine`] follow a plan whether or not the server keeps up, and
//!   latency counts from the plan.
//! - **The generator suspects itself.** How long what had arrived waited to be read, how late threads woke, how late
//!   publications left: when these make up more than half of what was measured, the run is invalid.
//! - **Beside the floor.** [`floor`] is the least server that does the same; [`run`] drives both in the same way, so
//!   that each figure has a ratio that holds on any host.
//! - **TLS is the connection's own layer.** [`tls`] stands between the sockets and the codecs where `--url` asks for it;
//!   plain connections do not know of it. Connections of a [`storm`] live beside those that are measured.
//!
//! Scenarios are lists of [`run::Phase`]; [`report`] turns a [`run::RunResult`] into something to read. `unsafe` is in
//! `net/sys.rs` only.

pub mod cli;
pub mod engine;
pub mod floor;
pub mod host;
pub mod measure;
pub mod net;
pub mod profile;
pub mod publish;
pub mod report;
pub mod run;
pub mod storm;
pub mod tls;
