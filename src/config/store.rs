//! The settings of `[store]`.

use std::time::Duration;

use crate::config::table::settings;
use crate::config::value::Size;

settings! {
    /// What durable channels are kept in: segment files in a directory of their own.
    pub struct StoreSettings {
        /// The directory, of this node alone. It is made if it is not there. Unset: nothing is kept on disk, and no channel may
        /// be `durable`.
        pub path: Option<String> = None, flag "store-path" "DIR", example "\"/var/lib/trunkline\"";
        /// What the files may take together, in bytes. Three times the history of all durable channels leaves room to write
        /// it again while new publications come. At the bound "sync" publishes are answered 503, and "async" ones are in memory
        /// alone.
        pub bytes_max: Size = Size::mib(4096);
        /// How long one file is, in bytes; it is taken from the disk at once.
        pub segment_bytes: Size = Size::mib(16);
        /// How often what is no longer wanted is looked for, at the latest, and its space given back. It is also when the files have
        /// grown by as much as they held.
        pub compact_interval: Duration = Duration::from_secs(600);
    }
}
