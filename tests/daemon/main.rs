//! The binary as a stranger meets it: a separate process, real sockets, exact bytes.
//!
//! Inputs: the built `trunkline`, port 0 on loopback. Outputs: what its clients see. Must not know: any type of the
//! library, so that a fault in our codec cannot hide behind the same fault in the test's.
//!
//! Every case runs on both drivers. Nothing here asserts how long a thing takes: a wait is for a condition and ends at
//! a deadline that no working machine reaches.

mod conformance;
mod crowd;
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
mod readers;
mod requests;
mod socket;
mod temporary;

/// Runs the function once on each driver, as two tests: `name::io_uring` and `name::mio`.
///
/// io_uring is asked for by name, so that a machine without it fails the test and does not pass it on mio.
macro_rules! on_both_drivers {
    ($($(#[$attribute:meta])* fn $name:ident($driver:ident: Driver) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn run($driver: $crate::process::Driver) $body

            #[test]
            fn io_uring() {
                run($crate::process::Driver::IoUring);
            }

            #[test]
            fn mio() {
                run($crate::process::Driver::Mio);
            }
        }
    )*};
}
pub(crate) use on_both_drivers;
