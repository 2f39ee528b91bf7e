//! One client as a state machine: typed commands in, effects out.
//!
//! Inputs: decoded commands, answers of the hub and the backend, the time. Outputs: replies and effects. Must not
//! know: sockets, threads, clocks.

pub mod token;
