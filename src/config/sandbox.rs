//! What the process gives up when it has read its configuration.

use crate::config::table::settings;

settings! {
    /// What the process gives up when it has read its configuration.
    pub struct SandboxSettings {
        /// Files are out of reach where the kernel has Landlock (Linux 5.13). What may be read: /etc, /usr, /opt, /proc, /sys, and the
        /// folders of the program, of the configuration and of the files that it names. What may be written: the store, and the
        /// folders of unix sockets. A process that follows by an upgrade inherits it.
        pub landlock: bool = true;
        /// Folders and files that may be read as well: certificates and files of secrets that a reload may name from now on, programs and
        /// configurations that an upgrade may.
        pub read: Vec<String> = Vec::new(), example "[\"/srv/certificates\"]";
        /// Folders that may be written as well: for unix sockets that an upgrade may listen at from now on.
        pub write: Vec<String> = Vec::new(), example "[\"/run/other\"]";
        /// System calls that no node makes are refused (EPERM): mounts, namespaces, tracing, modules, clocks, keys of the kernel.
        /// A unit of systemd or the profile of a container does more.
        pub seccomp: bool = false;
    }
}
