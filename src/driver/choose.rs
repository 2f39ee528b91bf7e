//! Which of the real drivers the daemon runs on.
//!
//! Inputs: what the configuration asks for, and what the kernel allows. Outputs: a kind and the reason for the log.
//! Must not know: shards; each makes its own driver of the kind that was chosen once for all.

use std::io;

use super::DriverOptions;
use super::uring::UringDriver;

/// As the configuration says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring if it can be used here, else mio.
    #[default]
    Auto,
    IoUring,
    Mio,
}

/// As the shards run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChosen {
    IoUring,
    Mio,
}

/// Finds out by trying, without binding the listener. The sentence is for the log.
///
/// # Errors
/// When io_uring is asked for and cannot be used; the text says why.
pub fn choose(kind: DriverKind, options: &DriverOptions) -> io::Result<(DriverChosen, String)> {
    match kind {
        DriverKind::Mio => Ok((DriverChosen::Mio, "mio, as configured".into())),
        DriverKind::IoUring => {
            UringDriver::probe(options)?;
            Ok((DriverChosen::IoUring, "io_uring, as configured".into()))
        }
        DriverKind::Auto => Ok(match UringDriver::probe(options) {
            Ok(()) => (DriverChosen::IoUring, "io_uring, which this kernel allows".into()),
            Err(error) => (DriverChosen::Mio, format!("mio, because {error}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_finds_a_driver_unless_one_is_asked_for() {
        let options = DriverOptions {
            listeners: Vec::new(),
            sockets_max: 16,
            recv_buffer_bytes: 1024,
            recv_buffers: 2,
            socket: Default::default(),
        };
        let (auto, reason) = choose(DriverKind::Auto, &options).expect("auto");
        assert!(!reason.is_empty());
        assert_eq!(choose(DriverKind::Mio, &options).expect("mio").0, DriverChosen::Mio);
        let asked = choose(DriverKind::IoUring, &options).map(|(chosen, _)| chosen);
        match auto {
            DriverChosen::IoUring => assert_eq!(asked.expect("as auto found"), DriverChosen::IoUring),
            DriverChosen::Mio => assert!(asked.is_err()),
        }
    }
}
