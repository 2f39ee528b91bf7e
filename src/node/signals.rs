//! What the node does about signals.
//!
//! SIGTERM and SIGINT end it in order, a second one at once. SIGHUP has the configuration and certificates read again, and
//! SIGUSR2 what [`OnUser2`] says. SIGUSR1 does nothing and is logged.
//! SIGXFSZ is for the writer of the store: see [`super::file_limit`].
//! SIGQUIT keeps the system's way: the process ends at once.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Incident;

/// What SIGUSR2 asks for (an upgrade), or why it is ignored.
pub type OnUser2 = Box<dyn FnMut() -> Result<Incident, &'static str> + Send>;

/// Signals that come meanwhile reach the node by `incidents`.
///
/// # Errors
/// When no handler can be installed, or no thread started.
pub fn watch(incidents: mpsc::SyncSender<Incident>, on_user_2: OnUser2) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut watched = {
        let _inside = runtime.enter();
        WatchedSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            incidents: incidents.clone(),
            on_user_2,
        }
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        let name = runtime.block_on(watched.end());
        let _ = incidents.send(Incident::Signal(name));
        // A second one does not wait for the grace.
        runtime.block_on(watched.end());
        std::process::exit(1);
    })?;
    Ok(())
}

struct WatchedSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
    incidents: mpsc::SyncSender<Incident>,
    on_user_2: OnUser2,
}

impl WatchedSignals {
    /// The name of the next signal that ends the node.
    async fn end(&mut self) -> &'static str {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    match self.incidents.try_send(Incident::Reload(None)) {
                        Ok(()) => continue,
                        Err(_) => "SIGHUP is ignored: the configuration is being read already, or the node ends",
                    }
                }
                _ = self.user_1.recv() => "SIGUSR1 is ignored",
                _ = self.user_2.recv() => {
                    let asked = (self.on_user_2)().and_then(|asked| {
                        self.incidents.try_send(asked).map_err(|_| "the node ends, or is busy")
                    });
                    match asked {
                        Ok(()) => continue,
                        Err(why) => &format!("SIGUSR2 is ignored: {why}"),
                    }
                }
            };
            tracing::warn!("{ignored}");
        }
    }
}
