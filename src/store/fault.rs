//! Why a store cannot be opened.

use std::fmt;
use std::io;

use super::format::VERSION;

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum StoreFault {
    InUse,
    /// It is no store: why not.
    Foreign(String),
    /// A later version has written it.
    Newer(u32),
    /// The configuration has no room for what it holds.
    TooMuch(String),
    Io(io::Error),
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreFault::InUse => f.write_str("another process has it open"),
            StoreFault::Foreign(why) => write!(f, "it is no store of this program: {why}"),
            StoreFault::Newer(version) => write!(
                f,
                "a newer version of this program has written it (format {version}; this one reads {VERSION})"
            ),
            StoreFault::TooMuch(why) => f.write_str(why),
            StoreFault::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StoreFault {}

impl From<io::Error> for StoreFault {
    fn from(error: io::Error) -> StoreFault {
        StoreFault::Io(error)
    }
}
