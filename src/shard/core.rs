//! Everything of a shard but its driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::base::ids::{ClientId, ConnId, ShardId, Sock};
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::base::prng::Prng;
use crate::base::slots::Slots;
use crate::base::time::Time;
use crate::hub::home::Home;
use crate::hub::local::{Local, Moved};
use crate::hub::places::Places;
use crate::hub::users::Users;
use crate::session::Effect;
use crate::shard::ask::{ControlPlane, ShardStats};
use crate::shard::client_ids::ClientIds;
use crate::shard::connections::{Connection, State};
use crate::shard::events::Events;
use crate::shard::mailbox::Inbox;
use crate::shard::mailer::Mailer;
use crate::shard::outbox::{Chain, Outbox};
use crate::shard::packing::Packer;
use crate::shard::pushes::Pushes;
use crate::shard::rates::Rates;
use crate::shard::router::Router;
use crate::shard::stats::{Cause, Stats};
use crate::shard::timers::{self, Wheel};
use crate::shard::tunnel::Parted;
use crate::shard::{Action, RETRY, ShardOptions};

/// Messages taken from the inbox in one tick, so that connections are served between two runs of a full inbox.
const MAIL_PER_TICK: usize = 1024;
/// Own messages, those of other shards, those of the control plane.
const MAIL_SOURCES: usize = 3;
/// Bytes of answers to clients above which a tick handles no further messages of shards: about a millisecond of
/// encoding. One answer is never cut.
const ANSWER_BYTES_PER_TICK: usize = 1024 * 1024;
/// Connections closed in one tick when the shard ends.
const CLOSES_PER_TICK: usize = 4096;
/// Expired history entries and forgotten channels looked at in one tick.
const SWEEP_PER_TICK: usize = 64;
/// A timer that is handled later than this shows that the shard does not keep up.
const LATE: Duration = Duration::from_millis(100);
/// Longest time for which silent clients are excused: a broadcast to a million takes seconds, not minutes.
const EXCUSED_MAX: Duration = Duration::from_secs(60);
/// How often the sweep runs when nothing else wakes the shard.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same while more is due: a million channels that are over go in ten seconds, at a tenth of a shard's time.
const SWEEP_AGAIN: Duration = Duration::from_millis(10);

pub(in crate::shard) struct Core {
    pub id: ShardId,
    pub options: Arc<ShardOptions>,
    pub control: Option<Arc<dyn ControlPlane>>,
    pub client_ids: ClientIds,
    pub prng: Prng,
    pub now: Time,
    pub wall_ms: u64,

    pub connections: Slots<Connection>,
    pub wheel: Wheel,
    pub home: Home,
    pub users: Users,
    /// Of users whose connections are limited.
    pub places: Places,
    pub local: Local,
    /// Messages to users, on their way to connections here.
    pub pushes: Pushes,
    /// What clients may do in a time; `None` when nothing is limited.
    pub rates: Option<Box<Rates>>,
    pub outbox: Outbox,
    pub mailer: Mailer,
    pub stats: Stats,
    pub events: Events,
    pub clients: u64,
    /// Connections here that have no seat, because there is none: on their way out.
    pub unseated: u32,
    /// Connections that something is kept for, and how much of it the node's account has.
    pub debtors: BTreeMap<u32, u64>,
    /// Connections of tunnels that have gone and still have something for their backend.
    pub parted: Parted,
    /// Joins ever asked of homes, wrapping: numbers that tell their answers apart.
    pub joins_asked: u32,
    /// Questions ever put to the backend, wrapping: numbers that tell their answers apart.
    pub questions_asked: u32,
    /// Numbers what readers ask of homes.
    pub reader_ids: u32,
    /// Set by the order to end: whoever is still here then is cut off.
    pub ending: Option<Time>,

    /// The last stretch of time in which the shard did not keep up.
    pub behind: Option<Behind>,

    /// What is to be done to sockets.
    pub actions: Vec<Action>,
    /// Connections whose FIN is due once their last bytes have left.
    pub finishing: Vec<u32>,
    /// Connections with cursors that may move on.
    pub catching_up: Vec<u32>,
    /// Bytes of answers made in this tick.
    pub answered_bytes: usize,
    /// When the shard ends: connections that are still to be closed, and why.
    closes: Vec<u32>,
    closes_with: Disconnect,
    /// Clients whose commands were held and may go on; each at most once.
    pub commands_resuming: Vec<u32>,
    /// Connections whose sends found no kernel memory, to be tried at the time.
    pub starved: Vec<(Time, u32, u32)>,
    sweep_at: Time,
    /// Connections of HTTP that may take the next of the requests that they hold.
    pub resuming: Vec<Sock>,
    pub packer: Packer,

    // Scratch space, empty between uses.
    pub text: Vec<u8>,
    pub effects: Vec<Effect>,
    pub moved: Vec<Moved>,
    pub fired: Vec<u32>,
    pub special: Vec<(u32, u32)>,
}

/// A stretch of time in which deliveries waited for their turn, or timers were late.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Behind {
    since: Time,
    until: Time,
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
    pub waiting_mail: usize,
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
        Core {
            id,
            events: Events::new(options.events, options.vacated_delay, control.clone()),
            control,
            client_ids,
            now,
            wall_ms: (options.wall_ms)(now),
            connections: Slots::default(),
            wheel: Wheel::new(now),
            home: Home::new(options.namespaces.clone(), options.hub.clone(), prng.fork()),
            users: Users::new(&mut prng),
            places: Places::new(&mut prng),
            local: Local::new(options.streams, prng.u64(..)),
            pushes: Pushes::default(),
            rates: Rates::new(&options),
            outbox: Outbox::default(),
            mailer: Mailer::new(id, router),
            stats: Stats::default(),
            clients: 0,
            unseated: 0,
            debtors: BTreeMap::new(),
            parted: Parted::default(),
            joins_asked: 0,
            questions_asked: 0,
            reader_ids: 0,
            ending: None,
            behind: None,
            actions: Vec::new(),
            finishing: Vec::new(),
            catching_up: Vec::new(),
            answered_bytes: 0,
            closes: Vec::new(),
            closes_with: Disconnect::SHUTDOWN,
            commands_resuming: Vec::new(),
            starved: Vec::new(),
            sweep_at: now + SWEEP_INTERVAL,
            resuming: Vec::new(),
            packer: Packer::default(),
            text: Vec::new(),
            effects: Vec::new(),
            moved: Vec::new(),
            fired: Vec::new(),
            special: Vec::new(),
            options,
            prng,
        }
    }

    /// How long the tick may wait: not at all while something can be done, else until the next thing is due.
    pub fn timeout(&self, now: Time, accept_again_at: Option<Time>) -> Option<Duration> {
        if self.local.has_ready()
            || self.local.has_bulk()
            || self.pushes.has_any()
            || self.mailer.has_own()
            || !self.catching_up.is_empty()
            || !self.commands_resuming.is_empty()
            || !self.closes.is_empty()
            || self.answered_bytes > ANSWER_BYTES_PER_TICK
            || !self.actions.is_empty()
            || !self.resuming.is_empty()
            || !self.outbox.is_empty()
        {
            return Some(Duration::ZERO);
        }
        let retry = (self.mailer.waiting() > 0).then(|| now + RETRY);
        let starved = self.starved.iter().map(|(at, ..)| *at).min();
        // Once the grace is over there is only the driver to be waited for.
        let events = self.events.next(now);
        let ending = self.ending.filter(|until| *until > now);
        let due = self.local.next_due();
        [self.wheel.next(), accept_again_at, retry, starved, events, ending, due, Some(self.sweep_at)]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.since(now))
    }

    pub fn begin(&mut self, now: Time) {
        self.now = now;
        self.answered_bytes = 0;
        self.wall_ms = (self.options.wall_ms)(now);
        self.packer.begin();
        self.mailer.retry();
        self.handle_events();
        if self.sweep_at <= now {
            self.home.forget_roster();
            let more = self.home.sweep(now, SWEEP_PER_TICK * 16);
            self.sweep_at = now + if more { SWEEP_AGAIN } else { SWEEP_INTERVAL };
        } else {
            self.home.sweep(now, SWEEP_PER_TICK);
        }
    }

    /// Nothing new is taken in.
    pub fn mail_is_full(&self) -> bool {
        self.mailer.is_full()
    }

    pub fn unix_s(&self) -> u64 {
        self.wall_ms / 1000
    }

    pub fn fault(&mut self, cause: Cause) {
        self.stats.fault(cause);
    }

    // --- names of connections

    pub fn sock(&self, slot: u32) -> Option<Sock> {
        self.connections.get(slot).map(|connection| Sock { slot, generation: connection.generation })
    }

    /// Whether the event is for the connection that has the slot now, and for one that is still ours to serve.
    pub fn is_current(&self, sock: Sock) -> bool {
        self.connections.get(sock.slot).is_some_and(|connection| {
            connection.generation == sock.generation && !matches!(connection.state, State::Gone)
        })
    }

    pub fn conn_id(&self, slot: u32) -> ConnId {
        let generation = self.connections.get(slot).map_or(0, |connection| connection.generation);
        ConnId::new(self.id, Sock { slot, generation })
    }

    /// The slot of a connection of this shard that still lives.
    pub fn live(&self, conn: ConnId) -> Option<u32> {
        debug_assert_eq!(conn.shard(), self.id);
        let sock = conn.sock();
        self.is_current(sock).then_some(sock.slot)
    }

    pub fn client_id(&self, slot: u32) -> ClientId {
        self.client_ids.id(self.conn_id(slot))
    }

    // --- the life of a connection

    /// False when there is no room for it: the caller closes it.
    pub fn handle_accepted(&mut self, sock: Sock) -> bool {
        self.stats.counters.connections_accepted_total += 1;
        self.connections.insert(sock.slot, Connection::new(sock.generation));
        self.events.begin(sock.slot, self.now);
        let Some(connection) = self.connections.get_mut(sock.slot) else { return false };
        if self.ending.is_some() {
            // Kept as Gone until the driver has closed it, so that the slot is accounted for.
            connection.state = State::Gone;
            self.unseated += 1;
            return false;
        }
        if !self.take_seat(sock.slot) {
            self.refuse_connection(sock.slot);
            return true;
        }
        self.timer_in(sock.slot, self.options.connect_timeout);
        self.actions.push(Action::ReadStart(sock.slot));
        true
    }

    pub fn handle_closed(&mut self, sock: Sock) {
        let gone = self.connections.get(sock.slot).is_some_and(|connection| {
            connection.generation == sock.generation && matches!(connection.state, State::Gone)
        });
        assert!(gone, "only what was given up is closed");
        self.wheel.cancel(&mut self.connections, sock.slot);
        match self.connections.remove(sock.slot) {
            Some(connection) if connection.seated => self.options.seats.give_back(),
            _ => self.unseated -= 1,
        }
        self.events.end(sock.slot);
        self.stats.counters.connections_closed_total += 1;
    }

    /// Sets the connection's one timer.
    pub fn timer_in(&mut self, slot: u32, after: Duration) {
        let due = timers::tick_after(self.now, after.as_millis() as u64);
        self.wheel.set(&mut self.connections, slot, due);
    }

    /// Puts bytes in line for a connection, behind whatever it has been sent already.
    pub fn send(&mut self, slot: u32, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if matches!(connection.state, State::Gone) || bytes.is_empty() {
            return;
        }
        match &mut connection.lag {
            Some(lag) if lag.blocked => {
                lag.push(bytes);
                self.check_debt(slot);
                self.settle(slot);
            }
            _ => {
                let frame = self.outbox.frame(bytes);
                self.outbox.append(slot, &mut connection.chain, frame);
            }
        }
    }

    /// The tick's writes have been handed over and their failures dealt with.
    pub fn outbox_sent(&mut self) {
        for slot in self.outbox.dirty() {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.chain = Chain::default();
            }
        }
        self.outbox.clear();
    }

    // --- the tick's chores

    /// In turns: this shard's own messages, those of other shards, those of the control plane.
    pub fn handle_mail(&mut self, inbox: &Inbox) {
        let (mut taken, mut refused) = (0, 0);
        for turn in 0.. {
            if taken == MAIL_PER_TICK || refused == MAIL_SOURCES {
                break;
            }
            // Deliveries come first: the inbox may fill, and those who publish learn that they are too fast. So does what
            // was answered: it leaves before more is made.
            let open = self.local.backlog_bytes() <= BACKLOG_BYTES_MAX
                && !self.pushes.is_full()
                && self.answered_bytes <= ANSWER_BYTES_PER_TICK;
            let mail = match turn % MAIL_SOURCES {
                0 => open.then(|| self.mailer.take_own()).flatten(),
                1 => open.then(|| inbox.pop()).flatten(),
                _ => {
                    (!self.mailer.is_full() && !self.pushes.is_full()).then(|| inbox.pop_control()).flatten()
                }
            };
            let Some(mail) = mail else {
                refused += 1;
                continue;
            };
            (taken, refused) = (taken + 1, 0);
            self.handle_message(mail);
        }
    }

    pub fn handle_timers(&mut self) {
        self.close_next();
        self.handle_due();
        if self.ending.is_some_and(|until| until <= self.now) {
            let left: Vec<u32> = self.connections.iter().map(|(slot, _)| slot).collect();
            for slot in left {
                self.give_up(slot);
            }
        }
    }

    fn handle_due(&mut self) {
        // Those that time closes leave their channels.
        if self.mailer.is_full() {
            return;
        }
        if self.wheel.next().is_some_and(|due| due + LATE < self.now) {
            self.fell_behind();
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(&mut self.connections, self.now, &mut fired);
        for slot in fired.drain(..) {
            self.handle_timer(slot);
        }
        self.fired = fired;
    }

    /// Deliveries wait for their turn, or a timer was late.
    pub fn fell_behind(&mut self) {
        let now = self.now;
        match &mut self.behind {
            Some(behind) if now <= behind.until + LATE * 10 => behind.until = now,
            _ => self.behind = Some(Behind { since: now, until: now }),
        }
    }

    /// While a shard does not keep up, the silence of its clients proves nothing: a broadcast to a crowd delays their
    /// pongs, and closing them for it would bring all of them back at once. They have a whole timeout from its end.
    /// A shard that never keeps up closes the silent all the same.
    pub fn silence_excused_until(&self) -> Option<timers::TimerTick> {
        let Behind { since, until } = self.behind?;
        let until = (until + self.options.pong_timeout).min(since + EXCUSED_MAX);
        (until > self.now).then(|| timers::tick_of(until) + 1)
    }

    pub fn account(&mut self, stale: u64) {
        let counters = &mut self.stats.counters;
        counters.ticks_total += 1;
        counters.stale_completions_total = stale;
        counters.mail_delayed_total = self.mailer.delayed_total();
        counters.windows_cut_total = self.local.windows_cut_total();
        (counters.sends_total, counters.sent_bytes_total) = self.outbox.totals();
        (counters.events_told_total, counters.events_lost_total) = self.events.totals();
    }

    /// Every client is to be closed, and the shard to end when they are gone.
    pub fn end(&mut self, disconnect: Disconnect) {
        if self.ending.is_some() {
            return;
        }
        self.actions.push(Action::AcceptEnd);
        self.ending = Some(self.now + self.options.shutdown_grace);
        self.closes = self.connections.iter().map(|(slot, _)| slot).collect();
        self.closes_with = disconnect;
        self.close_next();
    }

    /// Closes those that the shard's end has not come to: in steps, since each of them leaves its channels.
    fn close_next(&mut self) {
        for _ in 0..CLOSES_PER_TICK {
            if self.mailer.is_full() {
                return;
            }
            let Some(slot) = self.closes.pop() else { return };
            self.close(slot, self.closes_with.clone());
        }
    }

    pub fn has_ended(&mut self) -> bool {
        let Some(until) = self.ending else { return false };
        let is_over = until <= self.now;
        let has_mail = self.mailer.waiting() > 0 || self.mailer.has_own();
        if !self.connections.is_empty() || (has_mail || !self.parted.is_empty()) && !is_over {
            return false;
        }
        self.tell_last();
        !self.events.is_waiting() || is_over
    }

    pub fn report(&self) -> ShardStats {
        let mut report = ShardStats {
            shard: self.id,
            connections: self.connections.len() as u64,
            clients: self.clients,
            users: self.users.len() as u64,
            channels: self.home.counts().channels as u64,
            subscriptions: self.local.subscriptions(),
            client_buffers_bytes: self.debtors.values().sum(),
            ..ShardStats::default()
        };
        self.stats.report(&mut report);
        report
    }

    pub fn footprint(&self) -> Footprint {
        Footprint {
            connections: self.connections.len(),
            clients: self.clients,
            users: self.users.len(),
            local_channels: self.local.channels(),
            subscriptions: self.local.subscriptions(),
            stream_bytes: self.local.stream_bytes(),
            held_bytes: self.local.held_bytes(),
            waiting_mail: self.mailer.waiting(),
        }
    }
}
