//! One client against everybody: what it may cost the daemon, and what the others notice.
//!
//! Each attack runs for [`harness::duration`] (`ATTACK_SECONDS`, three by default) against the binary in a process of its own,
//! while an honest subscriber counts what comes. Held every time: the process lives and answers /health, each
//! publication arrives, in order and within a deadline, and memory stays within a bound, which it leaves again
//! afterwards. A daemon that grows beyond [`harness::MEMORY_BYTES_MAX`] is killed before it takes the machine along.
//!
//! The attacks have the machine for themselves, one at a time.

#[allow(dead_code)]
#[path = "../daemon/frame.rs"]
mod frame;
mod harness;
#[allow(dead_code)]
#[path = "../daemon/http.rs"]
mod http;
mod line;
#[allow(dead_code)]
#[path = "../daemon/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../daemon/socket.rs"]
mod socket;

mod commands;
mod requests;
mod subscribers;

/// Runs the function once on each driver, as two tests: `name::io_uring` and `name::mio`.
macro_rules! on_both_drivers {
    ($($(#[$attribute:meta])* fn $name:ident($driver:ident: Driver) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
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
