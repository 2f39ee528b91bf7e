//! The writer of the store stands while another process takes over: what is said to its thread, and by it.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use crate::driver;
use crate::record::{StoreRecord, StoredRun};
use crate::store::{Disk, Writer, WriterTurn};

/// How long the writer may take to stop, or to go on: a disk under load takes a second for a sync.
pub(super) const WRITER_MAX: Duration = Duration::from_secs(5);

/// What the writer's thread is asked.
pub(super) type Pauses = Receiver<Pause>;

/// What a process keeps of its store for one that may follow.
pub struct Relay {
    pub(super) lock: OwnedFd,
    pub(super) run: StoredRun,
    pub(super) pauses: SyncSender<Pause>,
}

/// The writer is to stop.
pub(super) struct Pause {
    pub run: StoredRun,
    pub said: SyncSender<Result<StoreRecord, String>>,
    pub goes_on: Receiver<SyncSender<Result<(), String>>>,
}

/// The writer stands as long as this lives, or until it [goes on](Paused::go_on).
#[derive(Debug)]
pub struct Paused {
    pub state: StoreRecord,
    pub(super) goes_on: SyncSender<SyncSender<Result<(), String>>>,
}

impl Relay {
    pub(super) fn new(lock: OwnedFd, run: StoredRun) -> (Relay, Pauses) {
        let (pauses, asked) = mpsc::sync_channel(1);
        (Relay { lock, run, pauses }, asked)
    }
}

impl Paused {
    /// The next process has ended.
    ///
    /// # Errors
    /// It has written before that: this process has not what is on disk.
    pub fn go_on(self) -> Result<(), String> {
        let (said, heard) = mpsc::sync_channel(1);
        let stands = "the store's writer does not go on".to_owned();
        self.goes_on.send(said).map_err(|_| stands.clone())?;
        heard.recv_timeout(WRITER_MAX).map_err(|_| stands)?
    }
}

impl Pause {
    /// For the writer's thread: stands until it is to go on. `Break`: it never is.
    pub(super) fn hold<D: Disk>(
        self,
        writer: &mut Writer<D>,
        mut say: impl FnMut(WriterTurn),
    ) -> ControlFlow<()> {
        let (turn, state) = writer.pause(&self.run, driver::now());
        say(turn);
        let stands = state.is_ok();
        if self.said.send(state).is_err() || !stands {
            return ControlFlow::Continue(());
        }
        let asked = self.goes_on.recv();
        let goes_on = writer.goes_on();
        let flow = if goes_on.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        // Without a question, who asked for the pause did not hear that it had come.
        if let Ok(asked) = asked {
            let _ = asked.send(goes_on);
        }
        flow
    }
}
