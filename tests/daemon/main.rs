//! The binary as a stranger meets it: a separate process, real sockets, exact bytes.
//!
//! Inputs: the built `trunkline`, port 0 on loopback. Outputs: what its clients see. Must not know: any type of the
//! library, so that a fault in our codec cannot hide behind the same fault in the test's.
//!
//! Every case runs on both drivers. Nothing here asserts how long a thing takes: a wait is for a condition and ends at
//! a deadline that no working machine reaches.

mod admission;
mod conformance;
mod crowd;
mod disk_full;
mod drivers;
mod durable;
mod events;
mod fanout;
mod flood;
mod frame;
mod http;
mod https;
mod limits;
mod listeners;
mod origins;
mod pace;
mod ports;
mod process;
mod proxied;
mod requests;
mod seeing;
mod socket;
mod temporary;
mod tls;
mod token;
mod unidirectional;

pub(crate) use drivers::on_both_drivers;
