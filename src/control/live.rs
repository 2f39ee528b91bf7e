//! Another configuration for a running control plane: made first, with everything that can go wrong, then put in place.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::base::event::EventKinds;
use crate::config::Config;
use crate::config::reload::PlacedTunnel;
use crate::control::app::App;
use crate::control::auth::AcceptedKeys;
use crate::control::drain::DrainDefaults;
use crate::control::events::{EventOptions, EventsHandle};
use crate::control::hooks::{Hooks, HooksByName};
use crate::control::jwks::{self, Issuer};
use crate::control::options::{accepted_keys, drain_defaults};
use crate::control::tunnel::Backends;

/// The parts of a control plane that another configuration changes.
pub struct Live {
    state: Arc<App>,
    hooks: Arc<Hooks>,
    runtime: Handle,
    issuers: Mutex<Vec<(Issuer, AbortHandle)>>,
}

/// Another configuration, ready to be put in place.
pub struct PreparedControl {
    keys: AcceptedKeys,
    drain: DrainDefaults,
    event_kinds: EventKinds,
    hooks: HooksByName,
    hooks_named: Vec<crate::config::Hook>,
    tunnels: Backends,
    events: Option<EventOptions>,
    issuers: Vec<Issuer>,
}

impl Live {
    pub(in crate::control) fn new(
        state: Arc<App>,
        hooks: Arc<Hooks>,
        runtime: Handle,
        issuers: &[Issuer],
    ) -> Live {
        let live = Live { state, hooks, runtime, issuers: Mutex::default() };
        live.exchange_issuers(issuers);
        live
    }

    /// Makes what `config` says, `tunnels` in their places, and keeps it apart.
    ///
    /// # Errors
    /// What of it cannot be made.
    pub fn prepare(
        &self,
        config: &Config,
        tunnels: &[PlacedTunnel],
        issuers: Vec<Issuer>,
    ) -> io::Result<PreparedControl> {
        let events = EventOptions::new(&config.events);
        if let Some(options) = &events {
            EventsHandle::check(options)?;
        }
        Ok(PreparedControl {
            keys: accepted_keys(config),
            drain: drain_defaults(config),
            event_kinds: config.events.kinds(),
            hooks: self.hooks.prepare(&config.hook)?,
            hooks_named: config.hook.clone(),
            tunnels: self.state.tunnels.prepare(tunnels)?,
            events,
            issuers,
        })
    }

    /// Puts it in place. Hooks that shards may still ask stay until [`Live::finish`].
    ///
    /// # Errors
    /// When the operating system gives no randomness for a log of events that begins: then nothing is changed.
    pub fn exchange(&self, prepared: PreparedControl) -> io::Result<Finish> {
        match (prepared.events, self.state.events.get()) {
            (Some(options), Some(events)) => events.exchange(options),
            (Some(options), None) => {
                let _inside = self.runtime.enter();
                self.state.events.start(&options)?;
            }
            // What was told goes on to the backend; shards tell nothing more.
            (None, _) => {}
        }
        self.state.keys.exchange(prepared.keys);
        self.state.set_drain_defaults(prepared.drain);
        self.state.set_event_kinds(prepared.event_kinds);
        self.hooks.exchange(prepared.hooks);
        self.state.tunnels.exchange(prepared.tunnels);
        self.exchange_issuers(&prepared.issuers);
        Ok(Finish(prepared.hooks_named))
    }

    /// Shards have their options: what only the ones before named is forgotten.
    pub fn finish(&self, finish: Finish) {
        self.hooks.retain(&finish.0);
    }

    /// Keys of these issuers are kept current, of others not any more.
    fn exchange_issuers(&self, issuers: &[Issuer]) {
        let mut kept = self.issuers.lock();
        let wanted = |known: &Issuer| issuers.iter().any(|issuer| Arc::ptr_eq(&issuer.keys, &known.keys));
        kept.retain(|(issuer, task)| {
            let keeps = wanted(issuer);
            if !keeps {
                task.abort();
            }
            keeps
        });
        for issuer in issuers {
            if !kept.iter().any(|(known, _)| Arc::ptr_eq(&issuer.keys, &known.keys)) {
                let task =
                    self.runtime.spawn(jwks::keep(issuer.clone(), self.state.metrics().jwks_fetches()));
                kept.push((issuer.clone(), task.abort_handle()));
            }
        }
    }
}

/// What is still to be done when shards have their options.
pub struct Finish(Vec<crate::config::Hook>);
