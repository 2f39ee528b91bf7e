//! What is wrong with a configuration: which key, where it was given, and what would be right.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    Default,
    /// A file's name and line, counted from 1.
    File(String, usize),
    /// The variable's name.
    Environment(String),
    /// The flag with its dashes.
    Flag(String),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::Default => f.write_str("default"),
            SettingOrigin::File(name, line) => write!(f, "{name}:{line}"),
            SettingOrigin::Environment(variable) => write!(f, "environment variable {variable}"),
            SettingOrigin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One fault. Several are found and reported at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key's whole path, like `client.ping_interval`; empty when the source itself could not be read.
    pub key: String,
    pub origin: SettingOrigin,
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != SettingOrigin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// Says what is wrong with a key, unless it holds.
pub(super) type Require<'r> = dyn FnMut(bool, &str, &str) + 'r;
