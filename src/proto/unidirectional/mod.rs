//! The wires of unidirectional clients without an SDK: SSE, long-poll, streamed lines, an iframe's script calls, plain
//! WebSocket.
//!
//! Inputs: publications and positions; a request's query. Outputs: frames, bodies and problems in the caller's buffer.
//! Must not know: sockets, sessions, the hub, who reads.
//!
//! One publication is one frame for each [encoding](crate::proto::encoding::Encoding), made once and shared. A frame is
//! a *head*, which holds the position after the publication in its own channel, and a *tail* with all the rest. A
//! unidirectional client of one channel gets both as they are. A unidirectional client of several gets the shared tail
//! behind a head of its own that holds its position in all of them: see [`frames::tail`] and
//! [`frames::write_own_head`].

pub mod answer;
pub mod frames;
pub mod notes;
pub mod position;
pub mod problem;
pub mod query;
