//! The control plane's part of an upgrade: requests wait, what it knows goes to another process, requests go on.
//!
//! ```text
//!  old:  hold ──▶ connections ──▶ records ──▶ leave        new:  (started held) take_record … settle ──▶ open
//!                     └── release: everything as before ──┘
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::address::ListenAddress;
use crate::control::Control;
use crate::control::arriving::EventsHeld;
use crate::control::blocks_kept;
use crate::control::listener::Gate;
use crate::control::readiness::NotReady;
use crate::record::{self, BlocksPart, PushKeysPart, RecordFault, RecordKind, TicketsPart};

/// How long the requests that are under way may take to end before their answers are left behind.
const REST_MAX: Duration = Duration::from_millis(500);
/// How long the backend may take to accept the batch of events that is under way. After that it may get them twice.
const BATCH_MAX: Duration = Duration::from_millis(500);

impl Control {
    /// The id by which `info` names the node.
    pub fn uid(&self) -> &str {
        self.state.api.uid()
    }

    /// Copies of the API's own sockets that listen.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn api_listeners(&self) -> io::Result<Vec<(ListenAddress, OwnedFd)>> {
        self.api_port.as_ref().map_or(Ok(Vec::new()), |port| port.listeners())
    }

    /// Requests of the API's own ports wait from here on. Gives copies of the connections that are between two requests,
    /// when those under way are answered.
    pub fn hold(&self) -> Vec<OwnedFd> {
        self.readiness().set(NotReady::Upgrading, true);
        self.gate.send_replace(Gate::Held);
        match (&self.runtime, &self.api_port) {
            (Some(runtime), Some(port)) => runtime.block_on(port.rested(REST_MAX)),
            _ => Vec::new(),
        }
    }

    /// The node stays in this process.
    pub fn release(&self) {
        self.gate.send_replace(Gate::Open);
        self.readiness().set(NotReady::Upgrading, false);
    }

    /// Another process has everything that was given away.
    pub fn leave(&self) {
        self.gate.send_replace(Gate::Left);
    }

    /// Events wait, as long as what is given lives. In a process that takes over this is the state from the start.
    pub fn hold_events(&self) -> EventsHeld {
        let guard = match (&self.runtime, self.client_port.events.get()) {
            (Some(runtime), Some(events)) => runtime.block_on(events.hold(BATCH_MAX)),
            _ => None,
        };
        EventsHeld::new(guard)
    }

    /// Everything that is kept here for clients and backends, as records. Call it when shards say nothing any more.
    ///
    /// # Errors
    /// [`RecordFault::TooLong`] for an event that fits no record.
    pub fn records(&self) -> Result<Vec<Vec<u8>>, RecordFault> {
        fn add(records: &mut Vec<Vec<u8>>, part: &impl record::Record) -> Result<(), RecordFault> {
            let mut bytes = Vec::new();
            record::write(part, &mut bytes)?;
            records.push(bytes);
            Ok(())
        }
        let mut records = Vec::new();
        if let Some(kept) = &self.blocks_kept {
            kept.give(self.state.api.blocks());
        }
        if let Some(events) = self.client_port.events.get() {
            let (numbers, parts) = events.to_records();
            add(&mut records, &numbers)?;
            parts.iter().try_for_each(|part| add(&mut records, part))?;
        }
        self.client_port.tunnels.ticket_records().iter().try_for_each(|part| add(&mut records, part))?;
        let blocks = blocks_kept::parts(self.state.api.blocks());
        blocks.iter().try_for_each(|part| add(&mut records, part))?;
        let keys = self.state.api.push_keys().to_records(Instant::now());
        keys.iter().try_for_each(|part| add(&mut records, part))?;
        Ok(records)
    }

    /// Takes one of the [records](Control::records) of another process.
    ///
    /// # Errors
    /// It is none of them.
    pub fn take_record(&self, bytes: &[u8]) -> Result<(), RecordFault> {
        let (unread, _) = record::next(bytes)?;
        match unread.kind {
            RecordKind::Events => self.arriving.events.lock().0 = Some(unread.read()?),
            RecordKind::EventsLog => self.arriving.events.lock().1.push(unread.read()?),
            RecordKind::Tickets => {
                self.client_port.tunnels.restore_tickets(unread.read::<TicketsPart>()?)?;
            }
            RecordKind::PushKeys => {
                self.state.api.push_keys().restore(unread.read::<PushKeysPart>()?, Instant::now());
            }
            RecordKind::Blocks => blocks_kept::restore(self.state.api.blocks(), unread.read::<BlocksPart>()?),
            _ => return Err(RecordFault::OtherKind),
        }
        Ok(())
    }

    /// There are no more records.
    ///
    /// # Errors
    /// The records contradict each other.
    pub fn settle(&self) -> Result<(), RecordFault> {
        let (numbers, parts) = std::mem::take(&mut *self.arriving.events.lock());
        match (numbers, self.client_port.events.get(), &self.arriving.options) {
            (Some(numbers), Some(events), Some(options)) => events.restore(options, &numbers, parts),
            // One of the two has no events: they begin here, or end.
            _ => Ok(()),
        }
    }

    /// Serves, and goes on with connections of the process before this one.
    pub fn open(&self, connections: Vec<OwnedFd>) {
        self.gate.send_replace(Gate::Open);
        drop(self.arriving.sending.lock().take());
        let (Some(runtime), Some(port)) = (&self.runtime, &self.api_port) else { return };
        let _inside = runtime.enter();
        for connection in connections {
            if let Err(error) = port.adopt(connection) {
                tracing::warn!("a connection of the API cannot be taken over: {error}");
            }
        }
    }

    /// A process that takes over sends nothing yet.
    pub(super) fn start_held(&self) {
        *self.arriving.sending.lock() = Some(self.hold_events());
    }
}
