//! What the process gives up at its start, so that a fault in it is worth less to an attacker.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

/// Before any thread is started: threads inherit it.
pub fn drop_what_is_not_needed() {
    // No program that this one might start gains rights by setuid or file capabilities. The daemon starts only itself, in an
    // upgrade, and needs none: what it listens on it inherits.
    if let Err(error) = set_no_new_privs(true) {
        eprintln!("trunkline: no_new_privs cannot be set: {error}");
    }
    // No core file and no debugger of the same user: keys of tokens and of the API lie in memory. /proc/PID belongs to
    // root afterwards; what any user may read of it (stat, status) stays readable.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("trunkline: the process stays dumpable: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process of the tests gives it up as well, for good: nothing in it needs either.
    #[test]
    fn the_process_gains_no_rights_and_leaves_no_core() {
        drop_what_is_not_needed();
        assert!(rustix::thread::no_new_privs().unwrap());
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
