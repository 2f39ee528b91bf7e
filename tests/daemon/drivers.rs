//! Every case runs on both drivers.

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
