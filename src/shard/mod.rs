//! One pinned thread: its connections, its channels, and the tick that serves them.
//!
//! Inputs: completions of its [`Driver`], messages. Outputs: operations on the driver, messages to other shards, calls to the
//! control plane. This is where driver, codecs, sessions and hub meet; they do not know each other.
//!
//! [`Shard`] owns the driver and runs the tick; `Core` owns everything else and never touches a socket: what it wants
//! done to one it leaves in a list of actions, which the tick carries out.
//!
//! A connection is a `Link` (the socket's side) and a `Peer` (who speaks over it). `Core` has six parts: links, peers,
//! delivery, owned channels and users, messages between shards, and the environment. What they are made of imports no
//! method of `Core`; a test holds that no file here imports another in a circle.
//!
//! Between a socket and a protocol stands nothing, or a [`Layer`](crate::layer::Layer): what is received passes
//! `sealed.rs` before it is decoded, what is sent is sealed in the flush.

mod addresses;
mod admission;
mod admitted;
mod api_commands;
mod audience;
mod catch_up;
pub mod channel_owner;
pub mod client_ids;
mod clients;
mod closing;
mod compressed;
mod compression;
mod connections;
pub mod control_request;
mod core;
mod cors;
mod debts;
mod delivery;
mod departures;
mod directory;
mod drain;
mod draining;
pub mod emulated;
mod emulation;
mod ends;
mod environment;
mod events;
mod fanout;
mod framing;
mod gather;
pub mod handover;
mod handshakes;
mod holders;
mod hook_calls;
mod http;
mod inbox;
mod input;
mod keep_alive;
mod layers;
mod link;
mod links;
mod load;
mod look;
pub mod mailbox;
mod mailer;
mod messages;
mod observe;
pub mod options;
mod outbox;
mod owned;
pub mod owner;
mod owner_and_follower;
mod paces;
mod packing;
mod peer;
mod peers;
mod pings;
mod pipeline;
mod places;
mod proxied;
pub mod pushes;
mod rate_limits;
pub mod rates;
mod receive;
mod record;
mod reload;
mod requests;
pub mod router;
mod sealed;
mod seen;
pub mod stages;
mod stats;
mod subscriber_pace;
mod subscriptions;
mod sync;
mod tell;
mod timers;
mod trace;
pub mod tunnel;
mod unidirectional;
mod user_messages;
pub mod user_rates;
mod view;

#[cfg(test)]
mod core_tests;

use std::sync::Arc;
use std::time::Duration;

use crate::base::event::EventKind;
use crate::base::ids::ShardId;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::driver::{AcceptFailure, Driver, DriverEvent, SendFailure};
use crate::hub::OwnedChannels;
use crate::shard::channel_owner::ChannelOwner;
use crate::shard::client_ids::ClientIds;
use crate::shard::control_request::ControlPlane;
use crate::shard::links::Action;
use crate::shard::mailbox::ShardInbox;
use crate::shard::router::Router;
use crate::shard::stats::Cause;

use self::core::Core;
pub use self::core::Footprint;
pub use self::layers::ListenerOptions;
pub use self::options::{ClientHooks, HttpLimits, ShardOptions};
use self::outbox::SendTarget;

/// How long accepting pauses after a failure: long enough for descriptors or memory to come back, short enough that
/// the kernel's backlog holds those who knock meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One shard. [`Shard::tick`] until it says that it has ended.
pub struct Shard<D: Driver> {
    driver: D,
    core: Core,
    inbox: Arc<ShardInbox>,
    events: Vec<DriverEvent>,
    failures: Vec<SendFailure>,
    accept_again_at: Option<Time>,
}

/// Whether there will be another tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    Goes,
    Ended,
}

impl<D: Driver> Shard<D> {
    pub fn new(
        id: ShardId,
        driver: D,
        options: Arc<ShardOptions>,
        router: Router,
        client_ids: ClientIds,
        control: Option<Arc<dyn ControlPlane>>,
        prng: Prng,
    ) -> Shard<D> {
        let mut shard = Shard::idle(id, driver, options, router, client_ids, control, prng);
        shard.driver.accept_start();
        shard
    }

    /// One that does not accept yet.
    fn idle(
        id: ShardId,
        driver: D,
        options: Arc<ShardOptions>,
        router: Router,
        client_ids: ClientIds,
        control: Option<Arc<dyn ControlPlane>>,
        prng: Prng,
    ) -> Shard<D> {
        let inbox = router.inbox(id).clone();
        inbox.set_waker(driver.waker());
        let core = Core::new(id, options, router, client_ids, control, prng, driver.now());
        Shard { driver, core, inbox, events: Vec::new(), failures: Vec::new(), accept_again_at: None }
    }

    /// Owns these channels, which a store has, in the place of none. Before the first tick.
    pub fn with_channels(mut self, channels: OwnedChannels) -> Shard<D> {
        self.core.owned.channels = ChannelOwner::new(channels);
        let tells = self.core.env.options.events.contains(EventKind::Acked);
        self.core.owned.channels.owned.tell_acked(tells);
        self
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// What is held here, for tests that nothing leaks.
    pub fn footprint(&self) -> Footprint {
        self.core.footprint()
    }

    /// What was here is another process's, and this shard has ended.
    pub fn is_handed_over(&self) -> bool {
        self.core.handover.is_over
    }

    /// One turn: wait, harvest, receive, messages, deliver, timers, flush, close, account.
    ///
    /// # Errors
    /// The driver cannot wait any more: a bug of ours or the end of the kernel's patience. The shard cannot go on.
    pub fn tick(&mut self) -> std::io::Result<Tick> {
        if self.core.handover.is_under_way() {
            return self.tick_in_handover();
        }
        // Wait.
        let before = self.driver.now();
        let mut timeout = self.core.timeout(before, self.accept_again_at);
        if !self.events.is_empty() && !self.core.messages_are_full() {
            timeout = Some(Duration::ZERO);
        }
        if timeout != Some(Duration::ZERO) && !self.inbox.about_to_sleep() {
            timeout = Some(Duration::ZERO);
        }
        let waited = self.driver.wait(&mut self.events, timeout);
        self.inbox.awake();
        waited?;
        let now = self.driver.now();
        self.core.env.look_at_load(before, now);
        self.core.begin(now);

        // Requests that waited for the last tick's answers; then receive and decode. While too many messages wait, nothing
        // that leads to more: it stays with the driver's events, of which there is at most one of each kind a socket.
        self.core.resume_http();
        self.core.inflate_unread();
        let mut events = std::mem::take(&mut self.events);
        let mut kept = Vec::new();
        for event in events.drain(..) {
            match self.core.messages_are_full() {
                true => kept.push(event),
                false => self.handle_event(event, now),
            }
        }
        self.events = if kept.is_empty() { events } else { kept };
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.driver.accept_start();
        }

        // Held commands, messages, deliveries, timers, handshakes.
        self.core.resume_commands();
        self.core.env.inbox_messages = self.inbox.len();
        self.core.handle_messages(&self.inbox);
        self.core.handle_stored();
        self.core.ask_owners();
        self.core.catch_up();
        self.core.deliver_pushes();
        self.core.deliver();
        self.core.handle_timers();
        self.core.step_handshakes();

        // Flush: one write a connection, then what did not fit.
        self.act();
        self.flush();
        if self.core.env.stages.has_sent() {
            self.core.env.stages.flushed(self.driver.now());
        }
        self.core.collect_debts();
        self.core.collect_input();
        self.core.finish_closed();
        self.act();

        self.handle_orders();
        self.send_ahead();
        self.settle_some();
        self.core.account(self.driver.stale_total());
        if self.core.has_ended() {
            self.inbox.close();
            return Ok(Tick::Ended);
        }
        Ok(Tick::Goes)
    }

    fn handle_event(&mut self, event: DriverEvent, now: Time) {
        match event {
            DriverEvent::Accepted { sock, listener, address } => {
                if !self.core.handle_accepted(sock, listener, address) {
                    self.driver.close(sock);
                }
            }
            DriverEvent::AcceptFailed { cause } => {
                self.core.fault(match cause {
                    AcceptFailure::Full => Cause::AcceptFull,
                    AcceptFailure::NoMemory => Cause::AcceptNoMemory,
                    AcceptFailure::Other(_) => Cause::AcceptOther,
                });
                self.core.env.options.seats.accept_failed();
                self.accept_again_at = Some(now + ACCEPT_PAUSE);
            }
            DriverEvent::Received { sock, lent } => {
                if self.core.is_current(sock) {
                    let bytes = self.driver.received(&lent);
                    self.core.handle_received(sock.slot, bytes);
                }
                self.driver.give_back(lent);
            }
            DriverEvent::Ended { sock, cause } => {
                if self.core.is_current(sock) {
                    self.core.handle_ended(sock.slot, cause);
                }
            }
            DriverEvent::Writable { sock } => {
                if self.core.is_current(sock) {
                    self.core.handle_writable(sock.slot);
                }
            }
            DriverEvent::Closed { sock } => {
                self.core.handle_closed(sock);
                // There is room again for who waits in the kernel's queue.
                if let Some(at) = &mut self.accept_again_at {
                    *at = now;
                }
            }
        }
    }

    fn flush(&mut self) {
        let core = &mut self.core;
        let connections = &core.links.connections;
        core.links.outbox.send_all(&mut self.driver, &mut core.links.layers, |slot| {
            let link = &connections.get(slot)?.link;
            let sock = link.sock(slot);
            match (link.is_gone(), link.is_layered()) {
                (true, _) => None,
                (false, false) => Some(SendTarget::Plain(sock)),
                (false, true) => Some(SendTarget::Layered { sock, last: link.is_closing() }),
            }
        });
        core.owned.events.sent(|count| core.links.outbox.each_size(count));
        if core.is_observed() {
            core.show_writes();
        }
        self.driver.flush(&mut self.failures);
        for failure in self.failures.drain(..) {
            core.handle_send_failed(&failure);
        }
        core.outbox_sent();
    }

    /// Carries out what the core has left.
    fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.core.links.actions);
        for action in actions.drain(..) {
            match action {
                Action::AcceptEnd => {
                    self.accept_again_at = None;
                    self.driver.accept_end();
                }
                Action::ReadStart(slot)
                | Action::ReadPause(slot)
                | Action::WriteWatch(slot)
                | Action::Finish(slot)
                | Action::Close(slot)
                | Action::GiveUp(slot)
                | Action::Reset(slot) => {
                    let Some(sock) = self.core.sock(slot) else { continue };
                    // What was wanted before the connection was given up is wanted no more.
                    let ends = matches!(action, Action::Close(_) | Action::GiveUp(_) | Action::Reset(_));
                    if !ends && !self.core.is_current(sock) {
                        continue;
                    }
                    if matches!(action, Action::Close(_) | Action::Reset(_)) {
                        self.core.closed_ahead(slot);
                    }
                    match action {
                        Action::ReadStart(_) => self.driver.read_start(sock),
                        Action::ReadPause(_) => self.driver.read_pause(sock),
                        Action::WriteWatch(_) => self.driver.write_watch(sock),
                        Action::Finish(_) => self.driver.finish(sock),
                        Action::Reset(_) => self.driver.reset(sock),
                        Action::GiveUp(_) => self.driver.give_up(sock),
                        Action::Close(_) | Action::AcceptEnd => self.driver.close(sock),
                    }
                }
            }
        }
        self.core.links.actions = actions;
    }
}
