//! One thread's loop: commands, what is due, what happened.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use trunkline::base::prng::Prng;
use trunkline::base::time::Time;

use super::conn::{CHUNKED, COMPRESSED, COUNTED, Conn, ENTERED, RETURNS, STALLED, State, WAITING};
use super::inflated::Inflated;
use super::input::{Desk, client, write_get, write_upgrade};
use super::{Command, Live, Pace, Shared};
use crate::measure::{Cause, Mark, MarkFinder, MarkKind, Measured, Tally, write_payload};
use crate::net::{Event, Net, now};
use crate::profile::{Outgoing, Wire};
use crate::tls::Secure;

/// The thread wakes at least so often, and records how late it was: its own lag.
const BEAT: Duration = Duration::from_millis(10);
/// Connections looked at for silence in one beat: a million take four seconds, one beat 50 us.
const SWEEP: u32 = 4096;
/// Connections asked for one that has no request waiting, before the request is put off to the next turn.
const REQUEST_TRIES: u32 = 64;
/// Requests and connects begun in one turn, so that reading goes on between them.
const STARTS_MAX: u32 = 256;

/// What reading one connection needs, borrowed apart from the connections and the sockets.
macro_rules! desk {
    ($worker:ident, $number:expr, $now:expr, $waited:expr) => {
        Desk {
            shared: &$worker.shared,
            wire: &$worker.wire,
            finder: &$worker.finder,
            measured: &mut $worker.measured,
            tally: &mut $worker.tally,
            inflated: &mut $worker.inflated,
            out: &mut $worker.out,
            number: $number,
            now: $now,
            waited: $waited,
        }
    };
}

pub struct Worker {
    index: u32,
    threads: u32,
    net: Box<dyn Net>,
    shared: Arc<Shared>,
    live: Arc<Live>,
    inbox: Receiver<Command>,
    wire: Wire,
    /// By slot; slot n holds the connection numbered n * threads + index.
    conns: Vec<Conn>,
    /// By slot; empty where nothing speaks TLS.
    secures: Vec<Option<Box<Secure>>>,
    /// Plain bytes of one read, and sealed ones of one connection's turn.
    plain: Vec<u8>,
    sealed: Vec<u8>,
    start: Time,
    /// Slots that were begun; the next one to open.
    opened: u32,
    open_until: u32,
    open_pace: Pace,
    /// Connections that are to come back, and when.
    away: BinaryHeap<Reverse<(Time, u32)>>,
    /// Cut connections that are not closed yet.
    leaving: u32,
    in_flight: u32,
    /// Deadlines of connections under way, in order as all have the same time.
    deadlines: VecDeque<(Time, u32, u16)>,
    ready: u64,
    outstanding: u64,
    request_pace: Pace,
    request_next: u32,
    request_number: u32,
    reconnect_pace: Pace,
    reconnect_next: u32,
    next_beat: Time,
    sweep_next: u32,
    cut_spread: Duration,
    prng: Prng,
    finder: MarkFinder,
    tally: Tally,
    inflated: Inflated,
    out: Outgoing,
    measured: Measured,
    failed: u64,
    /// Sums since start, for [`Live`]; `measured` is emptied by each collection.
    live_before: (u64, u64, u64),
}

impl Worker {
    pub fn new(
        index: u32,
        threads: u32,
        net: Box<dyn Net>,
        shared: Arc<Shared>,
        live: Arc<Live>,
        inbox: Receiver<Command>,
    ) -> Worker {
        let number = |slot| slot * threads + index;
        let conns = (0..net.capacity()).map(|slot| Conn::new(number(slot), &shared.audience)).collect();
        let start = now();
        let sealed_slots = if shared.tls.is_some() { net.capacity() } else { 0 };
        Worker {
            index,
            threads,
            secures: (0..sealed_slots).map(|_| None).collect(),
            plain: Vec::new(),
            sealed: Vec::new(),
            net,
            wire: shared.profile.wire(),
            live,
            inbox,
            conns,
            start,
            opened: 0,
            open_until: 0,
            open_pace: Pace::new(start, 0.0),
            away: BinaryHeap::new(),
            leaving: 0,
            in_flight: 0,
            deadlines: VecDeque::new(),
            ready: 0,
            outstanding: 0,
            request_pace: Pace::new(start, 0.0),
            request_next: 0,
            request_number: 0,
            reconnect_pace: Pace::new(start, 0.0),
            reconnect_next: 0,
            next_beat: start + BEAT,
            sweep_next: 0,
            cut_spread: Duration::ZERO,
            prng: Prng::with_seed(u64::from(shared.run) << 32 | u64::from(index)),
            finder: MarkFinder::default(),
            tally: Tally::default(),
            inflated: Inflated::default(),
            out: Outgoing::new(),
            measured: Measured::default(),
            failed: 0,
            live_before: (0, 0, 0),
            shared,
        }
    }

    /// Until told to quit.
    ///
    /// # Errors
    /// When the kernel can be used no longer.
    pub fn run(&mut self) -> io::Result<()> {
        // Waits are for microseconds here; the kernel's default slack of 50 us would be our own lag.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let mut events = Vec::new();
        loop {
            let before = now();
            if !self.take_commands(before) {
                return Ok(());
            }
            self.start_due(before);
            self.request_due(before);
            self.reconnect_due(before);
            self.expire(before);
            self.net.poll(&mut events, self.until_due(before))?;
            let now = now();
            for event in events.drain(..) {
                self.handle(event, now);
            }
            self.beat(now);
            self.publish_live();
        }
    }

    fn take_commands(&mut self, now: Time) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Open { total, rate }) => {
                    let ours = (total + self.threads - 1).saturating_sub(self.index) / self.threads;
                    self.open_until = ours.min(self.net.capacity());
                    self.open_pace = Pace::new(now, rate);
                }
                Ok(Command::Cut { share, spread }) => self.cut(share, spread, now),
                Ok(Command::Stall { first, on }) => self.stall(first, on),
                Ok(Command::Request { rate }) => self.request_pace = Pace::new(now, rate),
                Ok(Command::Reconnect { rate, spread }) => {
                    self.reconnect_pace = Pace::new(now, rate);
                    self.cut_spread = spread;
                }
                Ok(Command::Collect(answer)) => {
                    self.tally.settle(&mut self.measured);
                    let measured = std::mem::take(&mut self.measured);
                    self.live_before.0 += measured.counters.deliveries + measured.counters.deliveries_stalled;
                    self.live_before.1 += measured.counters.replies;
                    self.live_before.2 += measured.counters.pings;
                    // Who has the answer sees the live figures as the orders before it have left them.
                    self.publish_live();
                    let _ = answer.send(measured);
                }
                Ok(Command::Quit) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// How long nothing is planned.
    fn until_due(&self, now: Time) -> Duration {
        let mut due = self.next_beat.min(self.request_pace.due()).min(self.reconnect_pace.due());
        if self.in_flight < self.shared.in_flight_max {
            if self.opened < self.open_until {
                due = due.min(self.open_pace.due());
            }
            if let Some(Reverse((at, _))) = self.away.peek() {
                due = due.min(*at);
            }
        }
        due.since(now)
    }

    /// Begins the connects that are due, new ones and those that come back.
    fn start_due(&mut self, now: Time) {
        for _ in 0..STARTS_MAX {
            if self.in_flight >= self.shared.in_flight_max {
                return;
            }
            if let Some(&Reverse((at, slot))) = self.away.peek()
                && at <= now
            {
                self.away.pop();
                self.start(slot, now);
            } else if self.opened < self.open_until && self.open_pace.due() <= now {
                self.open_pace.advance();
                self.opened += 1;
                self.start(self.opened - 1, now);
            } else {
                return;
            }
        }
    }

    fn start(&mut self, slot: u32, now: Time) {
        let number = self.number(slot);
        let conn = &mut self.conns[slot as usize];
        debug_assert_eq!(conn.state, State::Free);
        conn.state = State::Connecting;
        conn.flags &= STALLED;
        conn.step = 0;
        conn.attempt = conn.attempt.wrapping_add(1);
        conn.since = now;
        let attempt = conn.attempt;
        self.measured.counters.started += 1;
        self.in_flight += 1;
        self.deadlines.push_back((now + self.shared.handshake_timeout, slot, attempt));
        if let Err(errno) =
            self.net.connect(slot, self.shared.server(number).target, self.shared.sources.of(number))
        {
            self.conns[slot as usize].state = State::Free;
            self.in_flight -= 1;
            self.failed += 1;
            self.measured.counters.failed += 1;
            self.measured.fail(Cause::of_connect(errno));
        }
    }

    fn number(&self, slot: u32) -> u32 {
        slot * self.threads + self.index
    }

    fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Connected { slot } => self.connected(slot, now),
            Event::ConnectFailed { slot, errno } => self.fail(slot, Cause::of_connect(errno)),
            Event::Data { slot, buffer, len, since } => self.data(slot, buffer, len, since, now),
            Event::Ended { slot, errno } | Event::SendFailed { slot, errno } => {
                self.fail(slot, Cause::of_end(errno));
            }
            Event::Closed { slot } => self.closed(slot, now),
        }
    }

    fn connected(&mut self, slot: u32, now: Time) {
        let conn = &mut self.conns[slot as usize];
        if conn.state != State::Connecting {
            return;
        }
        let Some(tls) = &self.shared.tls else { return self.open_wire(slot, now) };
        conn.state = State::Securing;
        let returns = conn.attempt > 1;
        match tls.begin(returns, now, &mut self.sealed) {
            Ok(secure) => {
                self.secures[slot as usize] = Some(Box::new(secure));
                self.send_sealed(slot);
            }
            Err(cause) => self.fail(slot, cause),
        }
    }

    /// The stream stands, sealed or not: the wire's first bytes go out.
    fn open_wire(&mut self, slot: u32, now: Time) {
        let number = self.number(slot);
        let conn = &mut self.conns[slot as usize];
        let shared = &*self.shared;
        self.out.begin(self.wire.is_framed());
        match &self.wire {
            Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols } => {
                conn.state = State::Upgrading;
                write_upgrade(&mut self.out, shared, &shared.server(number).host, number, conn, subprotocols);
            }
            Wire::Http => {
                conn.state = State::Upgrading;
                write_get(&mut self.out, shared, number, conn, &[]);
            }
            Wire::LongPoll | Wire::Tcp => {
                if self.wire == Wire::LongPoll {
                    write_get(&mut self.out, shared, number, conn, &[]);
                }
                let mut desk = desk!(self, number, now, Duration::ZERO);
                let conn = &mut self.conns[slot as usize];
                if desk.open(conn) {
                    self.became_ready(slot, now);
                }
            }
        }
        self.send(slot);
    }

    fn data(&mut self, slot: u32, buffer: u16, len: u32, since: Time, now: Time) {
        let conn = &mut self.conns[slot as usize];
        if !matches!(conn.state, State::Securing | State::Upgrading | State::Subscribing | State::Ready) {
            return;
        }
        self.measured.counters.reads += 1;
        self.measured.counters.bytes += u64::from(len);
        conn.heard_s = (now.since(self.start).as_secs()) as u32;
        if self.secures.is_empty() {
            let number = self.number(slot);
            let waiting = self.conns[slot as usize].is(WAITING);
            self.out.begin(self.wire.is_framed());
            let mut desk = desk!(self, number, now, now.since(since));
            let conn = &mut self.conns[slot as usize];
            let taken = desk.take(conn, self.net.data(buffer, len));
            self.took(slot, waiting, taken, now);
        } else {
            self.open_sealed(slot, buffer, len, since, now);
        }
    }

    /// Takes what a read has given of a sealed stream.
    fn open_sealed(&mut self, slot: u32, buffer: u16, len: u32, since: Time, now: Time) {
        let Some(secure) = &mut self.secures[slot as usize] else { return };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let opened = secure.take(self.net.data(buffer, len), &mut plain, &mut self.sealed);
        if let Ok(opened) = &opened
            && let Some(agreed) = &opened.agreed
        {
            self.measured.agreed(agreed, now);
            // What the handshake says last leaves together with this.
            self.open_wire(slot, now);
        }
        // A failure above has closed it.
        if !plain.is_empty() && self.conns[slot as usize].state != State::Closing {
            let number = self.number(slot);
            let waiting = self.conns[slot as usize].is(WAITING);
            self.out.begin(self.wire.is_framed());
            let mut desk = desk!(self, number, now, now.since(since));
            let taken = desk.take(&mut self.conns[slot as usize], &mut plain);
            self.took(slot, waiting, taken, now);
        }
        self.plain = plain;
        self.send_sealed(slot);
        match opened {
            Ok(opened) if opened.ended => self.fail(slot, Cause::Ended),
            Ok(_) => {}
            Err(cause) => self.fail(slot, cause),
        }
    }

    /// What plain bytes have come to: `waiting`, the connection waited for a reply before them.
    fn took(&mut self, slot: u32, waiting: bool, taken: Result<bool, Cause>, now: Time) {
        let conn = &self.conns[slot as usize];
        self.outstanding -= u64::from(waiting && !conn.is(WAITING));
        if !self.out.bytes().is_empty() {
            self.send(slot);
        }
        match taken {
            Ok(false) => {}
            Ok(true) => self.became_ready(slot, now),
            Err(cause) => self.fail(slot, cause),
        }
    }

    /// Sends what this turn has to say.
    fn send(&mut self, slot: u32) {
        let secure = self.secures.get_mut(slot as usize).and_then(Option::as_mut);
        match secure.map(|secure| secure.seal(self.out.bytes(), &mut self.sealed)) {
            None => self.net.send(slot, self.out.bytes()),
            Some(Ok(())) => self.send_sealed(slot),
            Some(Err(cause)) => self.fail(slot, cause),
        }
    }

    fn send_sealed(&mut self, slot: u32) {
        if !self.sealed.is_empty() && self.conns[slot as usize].state != State::Closing {
            self.net.send(slot, &self.sealed);
        }
        self.sealed.clear();
    }

    fn became_ready(&mut self, slot: u32, now: Time) {
        let number = self.number(slot);
        let conn = &mut self.conns[slot as usize];
        conn.flags |= ENTERED;
        conn.heard_s = (now.since(self.start).as_secs()) as u32;
        self.measured.connects.record(now.since(conn.since));
        self.measured.counters.ready += 1;
        self.in_flight -= 1;
        self.ready += 1;
        if !conn.is(STALLED) {
            conn.flags |= COUNTED;
            self.shared.audience.enter(number, true);
        }
    }

    /// Counts a connection that is lost or was never made, and closes it.
    fn fail(&mut self, slot: u32, cause: Cause) {
        let conn = &self.conns[slot as usize];
        if matches!(conn.state, State::Free | State::Closing) {
            return;
        }
        self.failed += 1;
        self.measured.counters.failed += 1;
        self.measured.counters.failed_stalled += u64::from(conn.is(STALLED));
        self.measured.fail(cause);
        self.close(slot);
    }

    fn close(&mut self, slot: u32) {
        let number = self.number(slot);
        let conn = &mut self.conns[slot as usize];
        if conn.is(ENTERED) {
            self.ready -= 1;
        } else {
            self.in_flight -= 1;
        }
        if conn.is(COUNTED) {
            self.shared.audience.enter(number, false);
        }
        self.outstanding -= u64::from(conn.is(WAITING));
        conn.flags &= !(ENTERED | COUNTED | WAITING | CHUNKED | COMPRESSED);
        conn.state = State::Closing;
        conn.partial = None;
        if let Some(secure) = self.secures.get_mut(slot as usize) {
            *secure = None;
        }
        self.net.close(slot);
    }

    fn closed(&mut self, slot: u32, now: Time) {
        let conn = &mut self.conns[slot as usize];
        conn.state = State::Free;
        if conn.is(RETURNS) {
            conn.flags &= !RETURNS;
            self.leaving -= 1;
            let spread = self.cut_spread.as_nanos() as u64;
            let after = Duration::from_nanos(self.prng.u64(0..=spread));
            self.away.push(Reverse((now + after, slot)));
        }
    }

    /// Gives up connections that take too long.
    fn expire(&mut self, now: Time) {
        while let Some(&(deadline, slot, attempt)) = self.deadlines.front() {
            let conn = &self.conns[slot as usize];
            let under_way = matches!(
                conn.state,
                State::Connecting | State::Securing | State::Upgrading | State::Subscribing
            );
            let current = under_way && conn.attempt == attempt;
            if current && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if current {
                self.fail(slot, Cause::HandshakeTimeout);
            }
        }
    }

    fn beat(&mut self, now: Time) {
        if now < self.next_beat {
            return;
        }
        self.measured.beat_lag.record(now.since(self.next_beat));
        self.next_beat = now + BEAT;
        let Some(silence_max) = self.shared.silence_max else { return };
        let now_s = now.since(self.start).as_secs() as u32;
        let silence_max_s = silence_max.as_secs() as u32;
        for _ in 0..SWEEP.min(self.opened) {
            let slot = self.sweep_next;
            self.sweep_next = if slot + 1 < self.opened { slot + 1 } else { 0 };
            let conn = &self.conns[slot as usize];
            let silent = now_s.saturating_sub(conn.heard_s) > silence_max_s;
            if conn.state == State::Ready && !conn.is(STALLED) && silent {
                self.fail(slot, Cause::Silent);
            }
        }
    }

    fn cut(&mut self, share: f64, spread: Duration, now: Time) {
        self.cut_spread = spread;
        let _ = now;
        for slot in 0..self.opened {
            let conn = &self.conns[slot as usize];
            if conn.state == State::Ready && self.prng.f64() < share {
                self.cut_one(slot);
            }
        }
    }

    /// Cuts a connection that comes back.
    fn cut_one(&mut self, slot: u32) {
        self.conns[slot as usize].flags |= RETURNS;
        self.leaving += 1;
        self.measured.counters.cut += 1;
        self.close(slot);
    }

    /// Cuts those whose turn it is.
    fn reconnect_due(&mut self, now: Time) {
        for _ in 0..STARTS_MAX {
            if self.reconnect_pace.due() > now || self.opened == 0 {
                return;
            }
            self.reconnect_pace.advance();
            let slot = self.reconnect_next % self.opened;
            self.reconnect_next = slot + 1;
            // One that waits for a reply would lose it by our own doing.
            let conn = &self.conns[slot as usize];
            if conn.state == State::Ready && !conn.is(WAITING) {
                self.cut_one(slot);
            }
        }
    }

    fn stall(&mut self, first: u32, on: bool) {
        for slot in 0..self.net.capacity() {
            let number = self.number(slot);
            if number >= first {
                break;
            }
            // A stalled one stays marked when it reads again: it catches up with what is old.
            let conn = &mut self.conns[slot as usize];
            conn.flags |= STALLED;
            if conn.is(COUNTED) {
                conn.flags &= !COUNTED;
                self.shared.audience.enter(number, false);
            }
            if on {
                self.net.pause(slot);
            } else {
                self.net.resume(slot);
            }
        }
    }

    /// Sends the requests that are due, each on a connection that waits for none.
    fn request_due(&mut self, now: Time) {
        for _ in 0..STARTS_MAX {
            let planned = self.request_pace.due();
            if planned > now || self.ready == 0 {
                return;
            }
            let Some(slot) = self.free_connection() else { return };
            self.request_pace.advance();
            let number = self.number(slot);
            let conn = &mut self.conns[slot as usize];
            conn.flags |= WAITING;
            conn.since = planned;
            self.outstanding += 1;
            self.measured.counters.requests += 1;
            self.request_number = self.request_number.wrapping_add(1);
            let mark = Mark {
                kind: MarkKind::Request,
                run: self.shared.run,
                channel: number,
                number: self.request_number,
                sequence: 0,
                floor: 0,
                planned,
            };
            let mut payload = Vec::with_capacity(self.shared.payload_bytes + 16);
            write_payload(&mut payload, &mark, self.shared.payload_bytes);
            self.out.begin(self.wire.is_framed());
            let shared = &*self.shared;
            if !shared.profile.request(&mut client(shared, number, conn), &payload, &mut self.out) {
                self.measured.fail(Cause::Protocol("no request can be written"));
                conn.flags &= !WAITING;
                self.outstanding -= 1;
                return;
            }
            self.send(slot);
        }
    }

    fn free_connection(&mut self) -> Option<u32> {
        for _ in 0..REQUEST_TRIES.min(self.opened) {
            let slot = self.request_next;
            self.request_next = if slot + 1 < self.opened { slot + 1 } else { 0 };
            let conn = &self.conns[slot as usize];
            if conn.state == State::Ready && !conn.is(WAITING) && !conn.is(STALLED) {
                return Some(slot);
            }
        }
        None
    }

    fn publish_live(&self) {
        let counters = &self.measured.counters;
        let pending = u64::from(self.open_until - self.opened.min(self.open_until))
            + u64::from(self.in_flight)
            + u64::from(self.leaving)
            + self.away.len() as u64;
        self.live.ready.store(self.ready, Ordering::Relaxed);
        self.live.failed.store(self.failed, Ordering::Relaxed);
        let deliveries = self.live_before.0 + counters.deliveries + counters.deliveries_stalled;
        self.live.deliveries.store(deliveries, Ordering::Relaxed);
        self.live.replies.store(self.live_before.1 + counters.replies, Ordering::Relaxed);
        self.live.outstanding.store(self.outstanding, Ordering::Relaxed);
        self.live.pings.store(self.live_before.2 + counters.pings, Ordering::Relaxed);
        // Last, and read first: a reader that sees nothing pending sees the outcome too.
        self.live.pending.store(pending, Ordering::Release);
    }
}
