//! Everything of a shard but its driver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::event::EventKind;
use crate::base::fault::Disconnect;
use crate::base::ids::{ClientId, ConnId, GENERATION_MASK, ListenerId, SLOT_MAX, ShardId, Sock, UserName};
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::hub::creators::Creator;
use crate::hub::followed::FollowedChannels;
use crate::hub::owned::{OwnedChannels, StoredMoment};
use crate::shard::client_ids::ClientIds;
use crate::shard::connections::Connection;
use crate::shard::control_request::seen::Stage;
use crate::shard::control_request::{ControlPlane, ShardStats};
use crate::shard::delivery::{Delivery, LATE};
use crate::shard::departures::Departures;
use crate::shard::environment::{Environment, RETRY};
use crate::shard::events::Events;
use crate::shard::handover::state::Handover;
use crate::shard::layers::ListenerOptions;
use crate::shard::links::{Action, Links};
use crate::shard::mailbox::ShardInbox;
use crate::shard::messages::Messages;
use crate::shard::options::ShardOptions;
use crate::shard::outbox::Chain;
use crate::shard::owned::Owned;
use crate::shard::peers::Peers;
use crate::shard::router::Router;
use crate::shard::stats::Cause;
use crate::shard::timers;

/// Messages taken from the inbox in one tick, so that connections are served between two runs of a full inbox.
const MESSAGES_PER_TICK: usize = 1024;
/// Own messages, those of other shards, those about users, those of the control plane.
const MESSAGE_SOURCES: usize = 4;
/// Bytes of answers to clients above which a tick handles no further messages of shards: about a millisecond of
/// encoding. One answer is never cut.
const ANSWER_BYTES_PER_TICK: usize = 1024 * 1024;
/// Timers that are handled in one tick, at some 10 us for a ping. When more are due at a time, as behind an upgrade, messages
/// between shards go between them.
const TIMERS_PER_TICK: usize = 32;
/// Connections closed in one tick when the shard ends.
const CLOSES_PER_TICK: usize = 4096;
/// Expired history entries and forgotten channels looked at in one tick.
const SWEEP_PER_TICK: usize = 64;
/// No connection has it.
const NO_SOCK: Sock = Sock { slot: SLOT_MAX, generation: GENERATION_MASK };
/// How often the sweep runs when nothing else wakes the shard.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same while more is due: a million channels that are over go in ten seconds, at a tenth of a shard's time.
const SWEEP_AGAIN: Duration = Duration::from_millis(10);

/// A shard but for its driver, by owner.
pub(in crate::shard) struct Core {
    pub env: Environment,
    pub links: Links,
    pub peers: Peers,
    pub delivery: Delivery,
    pub owned: Owned,
    pub messages: Messages,
    pub handover: Handover,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    pub connections: usize,
    pub clients: u64,
    pub users: usize,
    /// With subscribers here.
    pub local_channels: usize,
    pub subscriptions: u64,
    pub stream_bytes: usize,
    /// Held back for spread and bulk deliveries; of the streams' bytes, and what items cost besides.
    pub held_bytes: usize,
    pub waiting_messages: usize,
}

impl Core {
    pub fn new(
        id: ShardId,
        options: Arc<ShardOptions>,
        router: Router,
        client_ids: ClientIds,
        control: Option<Arc<dyn ControlPlane>>,
        mut prng: Prng,
        now: Time,
    ) -> Core {
        let events = Events::new(options.events, options.event_delays(), control.clone());
        let owned = OwnedChannels::new(options.namespaces.clone(), options.hub.clone(), prng.fork())
            .among(router.shards() as u16);
        let mut owned = Owned::new(owned, &mut prng, events, now + SWEEP_INTERVAL);
        owned.channels.owned.tell_acked(options.events.contains(EventKind::Acked));
        Core {
            links: Links::new(now, options.compression, &options.seeing),
            peers: Peers::new(id, client_ids, &options),
            delivery: Delivery::new(FollowedChannels::new(options.streams, prng.u64(..))),
            owned,
            messages: Messages::new(id, router),
            handover: Handover::default(),
            env: Environment::new(id, options, control, prng, now),
        }
    }

    /// How long the tick may wait: not at all while something can be done, else until the next thing is due.
    pub fn timeout(&self, now: Time, accept_again_at: Option<Time>) -> Option<Duration> {
        if self.delivery.followed.has_ready()
            || self.delivery.followed.has_bulk()
            || self.delivery.pushes.has_any()
            || self.messages.mailer.has_own()
            || !self.delivery.catching_up.is_empty()
            || !self.peers.commands_resuming.is_empty()
            || !self.links.closes.is_empty()
            || self.messages.answered_bytes > ANSWER_BYTES_PER_TICK
            || !self.links.actions.is_empty()
            || !self.links.resuming.is_empty()
            || self.links.compression.has_unread()
            || !self.links.outbox.is_empty()
            || self.links.handshakes.waiting() > 0
            || self.env.retaking
            || self.handover.has_more_ahead()
        {
            return Some(Duration::ZERO);
        }
        let waits = self.messages.mailer.waiting() > 0 || !self.handover.unsaid.is_empty();
        let retry = waits.then(|| now + RETRY);
        let starved = self.links.starved.iter().map(|(at, ..)| *at).min();
        // Once the grace is over there is only the driver to be waited for.
        let events = self.owned.events.next(now);
        let ending = self.env.ending.filter(|until| *until > now);
        let due = self.delivery.followed.next_due();
        let departure = self.peers.departures.next();
        let settling = self.handover.settling.as_ref().map(|settling| settling.next);
        let join_leave = self.owned.channels.owned.next_join_leave();
        [
            self.links.wheel.next(),
            accept_again_at,
            retry,
            starved,
            events,
            ending,
            due,
            self.delivery.paced.next(),
            departure,
            settling,
            join_leave,
            self.owned.channels.owned.next_occupancy(),
            self.owned.channels.owned.next_cursor_notice(),
            Some(self.owned.sweep_at),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.since(now))
    }

    pub fn begin(&mut self, now: Time) {
        self.env.set_now(now);
        self.messages.answered_bytes = 0;
        self.peers.turn.begin();
        self.links.packer.begin();
        self.links.compression.begin();
        self.links.holders.begin();
        self.messages.mailer.retry();
        self.env.busiest.turn(now);
        if self.env.retaking {
            self.retake_options();
        }
        self.handle_events();
        if self.owned.sweep_at <= now {
            self.owned.channels.owned.forget_roster();
            self.owned.channels.owned.keep_cursors_again();
            let mut more = self.owned.channels.owned.sweep(now, SWEEP_PER_TICK * 16);
            if self.owned.channels.owned.has_store() {
                let at = StoredMoment { now, wall_ms: self.env.wall_ms };
                more |= self.owned.channels.owned.copy_to_store(at);
            }
            self.owned.sweep_at = now + if more { SWEEP_AGAIN } else { SWEEP_INTERVAL };
        } else {
            self.owned.channels.owned.sweep(now, SWEEP_PER_TICK);
        }
    }

    /// Nothing new is taken in.
    pub fn messages_are_full(&self) -> bool {
        self.messages.mailer.is_full()
    }

    pub fn unix_s(&self) -> u64 {
        self.env.unix_s()
    }

    pub fn fault(&mut self, cause: Cause) {
        self.env.stats.fault(cause);
    }

    // --- names of connections

    pub fn sock(&self, slot: u32) -> Option<Sock> {
        self.links.connections.get(slot).map(|connection| connection.link.sock(slot))
    }

    /// Whether the event is for the connection that has the slot now, and for one that is still ours to serve.
    pub fn is_current(&self, sock: Sock) -> bool {
        self.links.connections.get(sock.slot).is_some_and(|connection| {
            connection.link.generation == sock.generation && !connection.link.is_gone()
        })
    }

    pub fn conn_id(&self, slot: u32) -> ConnId {
        let number = self.links.connections.get(slot).map(|connection| connection.peer.number());
        number.map_or(ConnId::new(self.env.id, NO_SOCK), |number| self.peers.directory.id(number))
    }

    /// A request is answered, and its connection speaks HTTP again: as another peer, so that nothing which is on its way
    /// to the one before reaches it.
    pub fn begin_next_peer(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        connection.peer.set_requests();
        self.peers.directory.rename(connection.peer.number());
    }

    /// Who makes a channel that a peer of the connection needs. Without a user it is the link, which is the same for all
    /// of its requests.
    pub fn creator(&self, slot: u32, user: Option<&UserName>) -> Creator {
        let sock = self.sock(slot).unwrap_or(NO_SOCK);
        Creator::client(user, ConnId::new(self.env.id, sock))
    }

    /// The slot of a connection of this shard that still lives.
    pub fn live(&self, conn: ConnId) -> Option<u32> {
        debug_assert_eq!(self.messages.mailer.router().peer_shard(conn), self.env.id);
        let slot = self.peers.directory.slot(conn)?;
        self.links.connections.get(slot).is_some_and(|connection| !connection.link.is_gone()).then_some(slot)
    }

    pub fn client_id(&self, slot: u32) -> ClientId {
        self.peers.client_ids.id(self.conn_id(slot))
    }

    /// Where the client of a connection comes from: `None` for a unix socket, and where no listener asks (see
    /// [`crate::driver::ListenOptions::addresses`]).
    pub fn client_address(&self, slot: u32) -> Option<IpAddr> {
        self.links.addresses.get(slot)
    }

    /// The listener that a connection came by.
    pub fn listener(&self, slot: u32) -> &ListenerOptions {
        let listener = self.links.came_by.get(slot as usize).copied().unwrap_or(ListenerId(0));
        self.env.options.listeners.get(listener.index()).unwrap_or(&ListenerOptions::PLAIN)
    }

    // --- the life of a connection

    /// False when there is no room for it: the caller closes it.
    pub fn handle_accepted(&mut self, sock: Sock, listener: ListenerId, address: Option<IpAddr>) -> bool {
        self.env.stats.counters.connections_accepted_total += 1;
        let number = self.peers.directory.insert(sock.slot);
        self.links.connections.insert(sock.slot, Connection::new(sock.generation, number));
        if self.env.options.listeners.len() > 1 {
            let at = sock.slot as usize;
            if self.links.came_by.len() <= at {
                self.links.came_by.resize(at + 1, ListenerId(0));
            }
            self.links.came_by[at] = listener;
        }
        if let Some(address) = address {
            self.links.addresses.insert(sock.slot, address);
        }
        self.owned.events.begin(sock.slot, self.env.now);
        self.links.seen.begin(sock.slot, self.env.now);
        self.trace_accepted(sock.slot);
        let Some(connection) = self.links.connections.get_mut(sock.slot) else { return false };
        let mut full = false;
        if let Some(layer) = self.env.options.new_layer(listener) {
            full = !layer.is_ready() && self.links.handshakes.is_full();
            if !full {
                self.links.handshakes.unfinished += usize::from(!layer.is_ready());
                connection.link.set_layered();
                self.links.layers.insert(sock.slot, layer);
            }
        }
        if full {
            self.env.stats.fault(Cause::HandshakesFull);
        }
        if self.env.ending.is_some() || full {
            // Kept as Gone until the driver has closed it, so that the slot is accounted for.
            connection.set_gone();
            self.links.unseated += 1;
            return false;
        }
        if self.listener(sock.slot).proxy_protocol && !self.expect_proxy_header(sock.slot) {
            if let Some(connection) = self.links.connections.get_mut(sock.slot) {
                connection.set_gone();
            }
            self.links.unseated += 1;
            return false;
        }
        if !self.take_seat(sock.slot) {
            self.refuse_connection(sock.slot);
            return true;
        }
        if !self.admit_connection(sock.slot) {
            return true;
        }
        self.timer_in(sock.slot, self.head_patience(sock.slot));
        self.links.actions.push(Action::ReadStart(sock.slot));
        true
    }

    pub fn handle_closed(&mut self, sock: Sock) {
        // A socket that went ahead of a peer that never came has no connection.
        let Some(connection) = self.links.connections.get(sock.slot) else { return };
        let gone = connection.link.generation == sock.generation && connection.link.is_gone();
        assert!(gone, "only what was given up is closed");
        self.links.wheel.cancel(&mut self.links.connections, sock.slot);
        let Some(connection) = self.links.connections.remove(sock.slot) else { return };
        self.peers.directory.remove(connection.peer.number());
        if connection.link.is_layered() {
            let layer = self.links.layers.remove(sock.slot);
            self.links.handshakes.unfinished -= usize::from(layer.is_some_and(|layer| !layer.is_ready()));
        }
        match connection.link.seated() {
            true => self.env.options.seats.give_back(),
            false => self.links.unseated -= 1,
        }
        self.links.addresses.remove(sock.slot);
        if connection.link.awaits_proxy() {
            self.links.proxied.remove(&sock.slot);
        }
        self.leave_admission(sock.slot);
        self.owned.events.end(sock.slot);
        self.env.stats.counters.connections_closed_total += 1;
    }

    /// Sets the connection's one timer.
    pub fn timer_in(&mut self, slot: u32, after: Duration) {
        let due = timers::tick_after(self.env.now, after.as_millis() as u64);
        self.links.wheel.set(&mut self.links.connections, slot, due);
    }

    /// Puts bytes in line for a connection, behind whatever it has been sent already.
    pub fn send(&mut self, slot: u32, bytes: Bytes) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if connection.link.is_gone() || bytes.is_empty() {
            return;
        }
        match &mut connection.link.pending {
            Some(pending) if pending.blocked => {
                pending.push(bytes);
                self.check_debt(slot);
                self.settle(slot);
            }
            _ => {
                let frame = self.links.outbox.frame(bytes);
                self.links.outbox.append(slot, &mut connection.link.chain, frame);
            }
        }
    }

    /// The tick's writes have been handed over and their failures dealt with.
    pub fn outbox_sent(&mut self) {
        for slot in self.links.outbox.dirty() {
            if let Some(connection) = self.links.connections.get_mut(slot) {
                connection.link.chain = Chain::default();
            }
        }
        self.links.outbox.clear();
    }

    // --- the tick's chores

    /// In turns: this shard's own messages, those of other shards, those about users, those of the control plane.
    pub fn handle_messages(&mut self, inbox: &ShardInbox) {
        let (mut taken, mut refused) = (0, 0);
        for turn in 0.. {
            if taken == MESSAGES_PER_TICK || refused == MESSAGE_SOURCES {
                break;
            }
            // Deliveries come first: the inbox may fill, and those who publish learn that they are too fast. So does what
            // was answered: it leaves before more is made.
            let open = self.delivery.followed.backlog_bytes() <= BACKLOG_BYTES_MAX
                && !self.delivery.pushes.is_full()
                && self.messages.answered_bytes <= ANSWER_BYTES_PER_TICK;
            let message = match turn % MESSAGE_SOURCES {
                0 => open.then(|| self.messages.mailer.take_own()).flatten(),
                1 => open.then(|| inbox.pop()).flatten(),
                2 => self.messages.mailer.take_own_user().or_else(|| inbox.pop_user()),
                _ => (!self.messages.mailer.is_full() && !self.delivery.pushes.is_full())
                    .then(|| inbox.pop_control())
                    .flatten()
                    .inspect(|_| self.handle_users(inbox)),
            };
            let Some(message) = message else {
                refused += 1;
                continue;
            };
            (taken, refused) = (taken + 1, 0);
            self.handle_message(message);
        }
    }

    /// The control plane may ask for the users of clients that were answered: their owner hears of them first. What comes
    /// meanwhile can wait.
    fn handle_users(&mut self, inbox: &ShardInbox) {
        for _ in 0..self.messages.mailer.own_users() + inbox.users() {
            let Some(message) = self.messages.mailer.take_own_user().or_else(|| inbox.pop_user()) else {
                return;
            };
            self.handle_message(message);
        }
    }

    pub fn handle_timers(&mut self) {
        self.close_next();
        self.depart();
        self.handle_due();
        if self.env.ending.is_some_and(|until| until <= self.env.now) {
            let left: Vec<u32> = self.links.connections.iter().map(|(slot, _)| slot).collect();
            for slot in left {
                self.give_up(slot);
            }
        }
    }

    fn handle_due(&mut self) {
        // Those that time closes leave their channels.
        if self.messages.mailer.is_full() {
            return;
        }
        if self.links.wheel.next().is_some_and(|due| due + LATE < self.env.now) {
            self.delivery.fell_behind(self.env.now);
        }
        let mut fired = std::mem::take(&mut self.links.fired);
        let connections = &mut self.links.connections;
        self.links.wheel.advance(connections, self.env.now, TIMERS_PER_TICK, &mut fired);
        for slot in fired.drain(..) {
            self.handle_timer(slot);
        }
        self.links.fired = fired;
    }

    pub fn account(&mut self, stale: u64) {
        self.forget_observers();
        let appended = &mut self.owned.channels.appended;
        for publication in appended.drain(..) {
            let accepted = publication.encoded.accepted();
            self.env.stages.reached(Stage::Appended, &publication.channel, accepted, self.env.now);
        }
        self.tell_traced();
        let counters = &mut self.env.stats.counters;
        counters.ticks_total += 1;
        let ((messages, bytes), deflated) = self.links.compression.totals();
        (counters.messages_inflated_total, counters.inflated_bytes_total) = (messages, bytes);
        counters.messages_compressed_total = deflated.messages;
        counters.compressed_in_bytes_total = deflated.bytes_in;
        counters.compressed_out_bytes_total = deflated.bytes_out;
        counters.stale_completions_total = stale;
        counters.mail_delayed_total = self.messages.mailer.delayed_total();
        let publications = self.owned.channels.publications();
        counters.publications_total = publications.all;
        counters.publications_spread_total = publications.spread;
        counters.publications_bulk_total = publications.bulk;
        let owned = self.owned.channels.owned.counts();
        counters.join_leave_unsaid_total = owned.join_leave_unsaid_total;
        counters.occupancy_refused_total = owned.occupancy_refused_total;
        counters.acks_total = owned.acks_total;
        counters.cursors_moved_total = owned.cursors_moved_total;
        counters.acks_refused_total = owned.acks_refused_total;
        counters.values_replaced_total = self.delivery.followed.conflated_total();
        counters.windows_cut_total = self.delivery.followed.windows_cut_total();
        (counters.sends_total, counters.sent_bytes_total) = self.links.outbox.totals();
        (counters.events_told_total, counters.events_lost_total) = self.owned.events.totals();
    }

    /// Every client is to be closed, and the shard to end when they are gone.
    pub fn end(&mut self, disconnect: Disconnect) {
        if self.env.ending.is_some() {
            return;
        }
        self.links.actions.push(Action::AcceptEnd);
        self.peers.departures = Departures::default();
        self.env.ending = Some(self.env.now + self.env.options.shutdown_grace);
        let connections = self.links.connections.iter().filter(|(_, connection)| !connection.link.is_gone());
        self.links.closes = connections.map(|(slot, _)| slot).collect();
        self.links.closes_with = disconnect;
        self.close_next();
    }

    /// Closes those that the shard's end has not come to: in steps, since each of them leaves its channels.
    fn close_next(&mut self) {
        for _ in 0..CLOSES_PER_TICK {
            if self.messages.mailer.is_full() {
                return;
            }
            let Some(slot) = self.links.closes.pop() else { return };
            self.close(slot, self.links.closes_with.clone());
        }
    }

    pub fn has_ended(&mut self) -> bool {
        let Some(until) = self.env.ending else { return false };
        let is_over = until <= self.env.now;
        let has_messages = self.messages.mailer.waiting() > 0 || self.messages.mailer.has_own();
        if !self.links.connections.is_empty() || (has_messages || !self.peers.draining.is_empty()) && !is_over
        {
            return false;
        }
        self.tell_last();
        !self.owned.events.is_waiting() || is_over
    }

    pub fn report(&self) -> ShardStats {
        let mut report = ShardStats {
            shard: self.env.id,
            connections: self.links.connections.len() as u64,
            clients: self.peers.clients.all(),
            transports: self.peers.clients.by_transport(),
            users: self.owned.users.len() as u64,
            channels: self.owned.channels.owned.counts().channels as u64,
            subscriptions: self.delivery.followed.subscriptions(),
            client_buffers_bytes: self.links.debtors.values().sum(),
            sums: vec![self.handshakes_active()],
            busy_percent: self.env.load.percent(),
            gauges: vec![
                // As the turn found it. That somebody looks is one of them.
                (
                    "inbox_messages",
                    "Messages that wait for a shard",
                    self.env.inbox_messages.saturating_sub(1) as u64,
                ),
                (
                    "mail_waiting",
                    "Messages of a shard that others have no room for",
                    self.messages.mailer.waiting() as u64,
                ),
                (
                    "undelivered_bytes",
                    "Payload that a shard has taken in and not delivered",
                    self.delivery.followed.backlog_bytes() as u64,
                ),
                (
                    "held_back_bytes",
                    "Payload that is held back to spread or gather it",
                    self.delivery.followed.held_bytes() as u64,
                ),
                (
                    "streams_bytes",
                    "Payload kept for lagging subscribers",
                    self.delivery.followed.stream_bytes() as u64,
                ),
                (
                    "lagging_connections",
                    "Connections that something is kept for",
                    self.links.debtors.len() as u64,
                ),
                (
                    "cursors",
                    "Cursors of members in channels of a shard",
                    self.owned.channels.owned.counts().cursors as u64,
                ),
            ],
            pings: self.env.stats.pings.clone(),
            turns: self.env.stats.turns.clone(),
            hook_calls: self.env.stats.hook_calls.clone(),
            lags: self.env.stats.lags.clone(),
            stages: self.env.stages.report(),
            ..ShardStats::default()
        };
        self.env.stats.report(&mut report);
        report
    }

    pub fn footprint(&self) -> Footprint {
        Footprint {
            connections: self.links.connections.len(),
            clients: self.peers.clients.all(),
            users: self.owned.users.len(),
            local_channels: self.delivery.followed.channels(),
            subscriptions: self.delivery.followed.subscriptions(),
            stream_bytes: self.delivery.followed.stream_bytes(),
            held_bytes: self.delivery.followed.held_bytes(),
            waiting_messages: self.messages.mailer.waiting(),
        }
    }
}
