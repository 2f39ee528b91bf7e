//! The store's part of an upgrade: its writer stops, and that of the next process goes on in the same directory.
//!
//! Inputs: the lock of the directory, as a descriptor that both processes have, and where the writer has stopped. Outputs: one
//! writer at any time. Must not know: what is in the store.
//!
//! ```text
//!  old:  writes ── pause: everything is on disk ──▶ stands ── goes_on ──▶ writes
//!  new:                    behind: stands there  ──▶ commit ── begin ──▶ writes, into a file of its own
//! ```
//! What the next process may lose the end of is written before it begins, so that no offset is given twice however either ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use prometheus_client::collector::Collector;
use prometheus_client::metrics::histogram::Histogram;

use crate::config::Config;
use crate::driver;
use crate::node::file_limit;
use crate::node::store::{
    Channels, Keepers, Store, TimedDisk, collector, ends_of, owners, queues_of, run_of, syncs, write_from,
    writer_options,
};
use crate::node::store_pause::{Pause, Paused, Relay, WRITER_MAX};
use crate::record::{StoreRecord, StoredRun};
use crate::shard::ShardOptions;
use crate::shard::router::Router;
use crate::store::{Queues, StoreDirectory, Writer, WriterOptions};

impl Store {
    /// Shards say nothing more: all that they gave is on disk when this returns, and nothing is written. `theirs` is what the
    /// next process would begin with.
    ///
    /// # Errors
    /// Why it goes on.
    pub fn pause(&self, theirs: &StoredRun) -> Result<Paused, String> {
        let (said, heard) = mpsc::sync_channel(1);
        let (goes_on, told) = mpsc::sync_channel(1);
        let pause = Pause { run: of_both(&self.relay.run, theirs), said, goes_on: told };
        self.relay.pauses.try_send(pause).map_err(|_| "the store's writer does not stop".to_owned())?;
        self.queues.wake();
        // Late, it finds that nobody waits, and goes on.
        let state =
            heard.recv_timeout(WRITER_MAX).map_err(|_| "the store's writer does not stop in time")??;
        Ok(Paused { state, goes_on })
    }

    /// The lock of its directory, for the next process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.relay.lock.as_fd().try_clone_to_owned()
    }
}

/// Channels whose end either process may lose.
fn of_both(ours: &StoredRun, theirs: &StoredRun) -> StoredRun {
    let mut both = theirs.clone();
    both.default_is_loose |= ours.default_is_loose;
    both.loose.extend(ours.loose.iter().filter(|name| !theirs.loose.contains(name)).cloned());
    both
}

/// The directory of the configuration's store, by which two processes know that they mean the same.
pub fn path_of(config: &Config) -> Option<Box<str>> {
    let path = config.store.path.as_deref()?;
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Some(real.to_string_lossy().into())
}

/// The store of the process before, which has it still.
pub struct Coming {
    path: PathBuf,
    queues: Arc<Queues>,
    syncs: Histogram,
    options: WriterOptions,
    run: StoredRun,
    /// The thread stands and waits.
    standing: Option<(Store, SyncSender<SyncSender<()>>)>,
}

/// What shards begin with where the process before has a store, as [`open`](super::store::open) gives it.
///
/// # Errors
/// The system gives no randomness, or the limit on files cannot be outlived.
pub fn coming(
    config: &Config,
    options: &ShardOptions,
    router: &Router,
    wall_ms: u64,
) -> io::Result<(Option<Coming>, Channels, Keepers)> {
    let shards = router.shards();
    let Some(path) = &config.store.path else {
        return Ok((None, (0..shards).map(|_| None).collect(), Keepers::default()));
    };
    file_limit::outlive()?;
    let (queues, wakes) = queues_of(router);
    let (channels, keepers) = ends_of(&queues, owners(options, shards)?, None, wakes);
    let coming = Coming {
        path: Path::new(path).to_owned(),
        queues,
        syncs: syncs(),
        options: writer_options(config),
        run: run_of(&options.namespaces, wall_ms),
        standing: None,
    };
    Ok((Some(coming), channels, keepers))
}

impl Coming {
    pub fn run(&self) -> &StoredRun {
        &self.run
    }

    pub fn collector(&self) -> Arc<dyn Collector> {
        collector(&self.queues, &self.syncs)
    }

    /// The process before has stopped writing. Nothing is written here before [`Coming::begin`].
    ///
    /// # Errors
    /// It is another directory, or another store.
    pub fn take(&mut self, state: &StoreRecord, lock: OwnedFd) -> Result<(), String> {
        let failed = |problem: String| format!("store.path = {:?}: {problem}", self.path);
        let directory = StoreDirectory::inherit(&self.path, lock, driver::allocate)
            .map_err(|fault| failed(fault.to_string()))?;
        let lock = directory.lock().map_err(|error| failed(error.to_string()))?;
        let disk = TimedDisk { directory, syncs: self.syncs.clone() };
        let mut writer = Writer::behind(disk, state, self.options, Arc::clone(&self.queues), driver::now())
            .map_err(|fault| failed(fault.to_string()))?;
        let (relay, pauses) = Relay::new(lock, self.run.clone());
        let (begins, begun) = mpsc::sync_channel::<SyncSender<()>>(1);
        let queues = Arc::clone(&self.queues);
        let thread = thread::Builder::new().name("store".into()).spawn(move || {
            // Nobody says so: this process ends.
            let Ok(said) = begun.recv() else { return };
            let turn = writer.begin(driver::now());
            let _ = said.send(());
            write_from(turn, writer, &queues, &pauses);
        });
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        let store = Store { queues: Arc::clone(&self.queues), thread, syncs: self.syncs.clone(), relay };
        self.standing = Some((store, begins));
        Ok(())
    }

    /// It has come.
    pub fn is_here(&self) -> bool {
        self.standing.is_some()
    }

    /// The commit: this process writes from now on.
    pub fn begin(self) -> Option<Store> {
        let (store, begins) = self.standing?;
        let (said, heard) = mpsc::sync_channel(1);
        // A disk that takes longer is found out by publishes, which wait for it.
        if begins.send(said).is_err() || heard.recv_timeout(WRITER_MAX).is_err() {
            tracing::error!("the store's writer has not begun yet");
        }
        Some(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_either_process_may_lose_the_end_of_is_of_both() {
        let run = |default_is_loose, loose: &[&str]| StoredRun {
            time_ms: 7,
            private_prefix: "$".into(),
            default_is_loose,
            loose: loose.iter().map(|name| (*name).to_owned()).collect(),
        };
        let both = of_both(&run(true, &["a", "b"]), &run(false, &["b", "c"]));
        assert_eq!(both, run(true, &["b", "c", "a"]));
    }
}
