//! The limit on the size of files (RLIMIT_FSIZE), which would end the process by a signal.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A file that may not grow (RLIMIT_FSIZE) is a write that fails, as on a full disk, and not the end of the process.
///
/// # Errors
/// When no handler can be installed.
pub fn outlive() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    // It stays for the life of the process.
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}
