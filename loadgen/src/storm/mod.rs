//! Connections that come and go beside those that are measured: so many new ones a second, each closed once its
//! handshakes are done. One thread with sockets of its own, open loop.
//!
//! Inputs: a rate. Outputs: how long each took, and what failed. Must not know: channels, publications.
//!
//! ```text
//!  Free ─▶ Connecting ─▶ [Securing] ─▶ [Upgrading] ─▶ Held ─▶ Closing ─▶ Free
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use trunkline::base::time::Time;
use trunkline::proto::http1::parse_response_head;
use trunkline::proto::websocket::{check_response, check_upgrade};

use crate::engine::{Conn, DriverChoice, KEY, Pace, Shared, make_net, write_upgrade};
use crate::measure::{Cause, Measured};
use crate::net::{Event, Net, NetOptions, Sources, now};
use crate::profile::{Outgoing, Wire};
use crate::tls::Secure;

/// Connections under way at a time, beside those that are held. When all are, the plan waits and the report says how many were begun: two thousand
/// a second that take two seconds each.
const UNDER_WAY_MAX: u32 = 4096;
/// Begun in one turn, so that reading goes on between them.
const STARTS_MAX: u32 = 64;
/// The thread wakes at least so often.
const BEAT: Duration = Duration::from_millis(10);
/// They come from addresses that no connection of the run has: ports of closed ones stay taken for a minute.
const FIRST_NUMBER: u32 = 1 << 30;

/// What came of it since the last collection.
#[derive(Debug, Default)]
pub struct StormReport {
    /// Started, ready (all handshakes done), failed; TLS; how long.
    pub measured: Measured,
    /// Under way.
    pub open: u32,
}

enum Command {
    Rate(f64),
    Collect(Sender<StormReport>),
    Quit,
}

pub struct Storm {
    commands: Sender<Command>,
    handle: Option<JoinHandle<()>>,
}

impl Storm {
    /// At most `rate` a second; each stays for `hold` once it is made.
    ///
    /// # Errors
    /// When it cannot have its sockets.
    pub fn start(shared: Arc<Shared>, driver: DriverChoice, rate: f64, hold: Duration) -> io::Result<Storm> {
        let held = (rate * hold.as_secs_f64()).min(f64::from(u32::MAX / 2)) as u32;
        let slots = UNDER_WAY_MAX + held;
        let (commands, inbox) = channel();
        let (started, ready) = channel();
        let handle = std::thread::Builder::new().name("storm".into()).spawn(move || {
            let options = NetOptions { connections_max: slots, rings: 0, receive_bytes: 0 };
            match make_net(options, driver) {
                Ok((net, _)) => {
                    let _ = started.send(Ok(()));
                    // A thread that can go on no more answers no collection: its connections are missing in the report.
                    let _ = Desk::new(net, shared, hold).run(&inbox);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        ready.recv().map_err(io::Error::other)??;
        Ok(Storm { commands, handle: Some(handle) })
    }

    pub fn rate(&self, per_second: f64) {
        let _ = self.commands.send(Command::Rate(per_second));
    }

    pub fn collect(&self) -> StormReport {
        let (answer, answers) = channel();
        let _ = self.commands.send(Command::Collect(answer));
        answers.recv().unwrap_or_default()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Quit);
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Connecting,
    Securing,
    Upgrading,
    Held,
    Closing,
}

struct Slot {
    state: State,
    since: Time,
    attempt: u32,
    /// Of the connection: which server it goes to.
    number: u32,
    secure: Option<Box<Secure>>,
    /// The answer's head, as far as it has come.
    head: Vec<u8>,
}

struct Desk {
    net: Box<dyn Net>,
    shared: Arc<Shared>,
    sources: Sources,
    wire: Wire,
    hold: Duration,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pace: Pace,
    number: u32,
    /// Made ones, in the order in which they are to be closed.
    held: VecDeque<(Time, u32, u32)>,
    /// All that are under way, in the order of their deadlines.
    deadlines: VecDeque<(Time, u32, u32)>,
    next_beat: Time,
    conn: Conn,
    out: Outgoing,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    measured: Measured,
}

impl Desk {
    fn new(net: Box<dyn Net>, shared: Arc<Shared>, hold: Duration) -> Desk {
        let slot = |_| Slot {
            state: State::Free,
            since: Time::ZERO,
            attempt: 0,
            number: 0,
            secure: None,
            head: Vec::new(),
        };
        let sources = match &shared.sources {
            Sources::List(list) => Sources::List(list.clone()),
            // The ports of one address would not last for 15 s of 2,000 a second.
            _ => Sources::default_for(shared.servers[0].target, u32::MAX),
        };
        let now = now();
        Desk {
            sources,
            slots: (0..net.capacity()).map(slot).collect(),
            free: (0..net.capacity()).collect(),
            wire: shared.profile.wire(),
            conn: Conn::new(0, &shared.audience),
            net,
            shared,
            hold,
            pace: Pace::new(now, 0.0),
            number: FIRST_NUMBER,
            held: VecDeque::new(),
            deadlines: VecDeque::new(),
            next_beat: now + BEAT,
            out: Outgoing::new(),
            sealed: Vec::new(),
            plain: Vec::new(),
            measured: Measured::default(),
        }
    }

    fn run(&mut self, inbox: &Receiver<Command>) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let turn = now();
            loop {
                match inbox.try_recv() {
                    Ok(Command::Rate(rate)) => {
                        self.pace = Pace::new(turn, rate);
                        if rate == 0.0 {
                            // Over: those that are held go too.
                            self.hold = Duration::ZERO;
                            self.close_due(Time::NEVER);
                        }
                    }
                    Ok(Command::Collect(answer)) => {
                        let open = self.slots.len() - self.free.len();
                        let measured = std::mem::take(&mut self.measured);
                        let _ = answer.send(StormReport { measured, open: open as u32 });
                    }
                    Ok(Command::Quit) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.start_due(turn);
            self.close_due(turn);
            self.expire(turn);
            let mut due = self.next_beat;
            if !self.free.is_empty() {
                due = due.min(self.pace.due());
            }
            if let Some((at, ..)) = self.held.front() {
                due = due.min(*at);
            }
            self.net.poll(&mut events, due.since(turn))?;
            let now = now();
            for event in events.drain(..) {
                self.handle(event, now);
            }
            if now >= self.next_beat {
                self.measured.beat_lag.record(now.since(self.next_beat));
                self.next_beat = now + BEAT;
            }
        }
    }

    fn start_due(&mut self, now: Time) {
        for _ in 0..STARTS_MAX {
            if self.pace.due() > now {
                return;
            }
            let Some(slot) = self.free.pop() else { return };
            self.pace.advance();
            self.measured.counters.started += 1;
            let (source, target) = (self.sources.of(self.number), self.shared.server(self.number).target);
            let entry = &mut self.slots[slot as usize];
            entry.number = self.number;
            self.number = self.number.wrapping_add(1).max(FIRST_NUMBER);
            entry.state = State::Connecting;
            entry.since = now;
            entry.attempt = entry.attempt.wrapping_add(1);
            self.deadlines.push_back((now + self.shared.handshake_timeout, slot, entry.attempt));
            if let Err(errno) = self.net.connect(slot, target, source) {
                self.slots[slot as usize].state = State::Free;
                self.free.push(slot);
                self.count_failed(Cause::of_connect(errno));
            }
        }
    }

    fn close_due(&mut self, now: Time) {
        while let Some(&(at, slot, attempt)) = self.held.front()
            && at <= now
        {
            self.held.pop_front();
            let entry = &self.slots[slot as usize];
            if entry.attempt == attempt && entry.state == State::Held {
                self.close(slot);
            }
        }
    }

    /// Gives up those that take too long.
    fn expire(&mut self, now: Time) {
        while let Some(&(at, slot, attempt)) = self.deadlines.front() {
            let entry = &self.slots[slot as usize];
            let under_way = matches!(entry.state, State::Connecting | State::Securing | State::Upgrading);
            let is_current = under_way && entry.attempt == attempt;
            if is_current && at > now {
                return;
            }
            self.deadlines.pop_front();
            if is_current {
                self.fail(slot, Cause::HandshakeTimeout);
            }
        }
    }

    fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Connected { slot } => self.connected(slot, now),
            Event::ConnectFailed { slot, errno } => self.fail(slot, Cause::of_connect(errno)),
            Event::Data { slot, buffer, len, .. } => {
                if let Err(cause) = self.data(slot, buffer, len, now) {
                    self.send_sealed(slot);
                    self.fail(slot, cause);
                }
            }
            Event::Ended { slot, errno } | Event::SendFailed { slot, errno } => {
                self.fail(slot, Cause::of_end(errno));
            }
            Event::Closed { slot } => {
                self.slots[slot as usize].state = State::Free;
                self.free.push(slot);
            }
        }
    }

    fn connected(&mut self, slot: u32, now: Time) {
        let entry = &mut self.slots[slot as usize];
        if entry.state != State::Connecting {
            return;
        }
        let Some(tls) = &self.shared.tls else {
            if let Err(cause) = self.upgrade(slot, now) {
                self.fail(slot, cause);
            }
            return;
        };
        entry.state = State::Securing;
        match tls.begin(false, now, &mut self.sealed) {
            Ok(secure) => {
                entry.secure = Some(Box::new(secure));
                self.send_sealed(slot);
            }
            Err(cause) => self.fail(slot, cause),
        }
    }

    /// Asks for WebSocket, where that is spoken; else the connection is made.
    fn upgrade(&mut self, slot: u32, now: Time) -> Result<(), Cause> {
        let (Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols }) = &self.wire else {
            self.made(slot, now);
            return Ok(());
        };
        self.out.begin(true);
        self.conn.step = 0;
        let entry = &mut self.slots[slot as usize];
        let host = &self.shared.server(entry.number).host;
        write_upgrade(&mut self.out, &self.shared, host, 0, &mut self.conn, subprotocols);
        entry.state = State::Upgrading;
        match &mut entry.secure {
            None => self.net.send(slot, self.out.bytes()),
            Some(secure) => {
                secure.seal(self.out.bytes(), &mut self.sealed)?;
                self.send_sealed(slot);
            }
        }
        Ok(())
    }

    fn data(&mut self, slot: u32, buffer: u16, len: u32, now: Time) -> Result<(), Cause> {
        let entry = &mut self.slots[slot as usize];
        if matches!(entry.state, State::Free | State::Closing) {
            return Ok(());
        }
        self.measured.counters.reads += 1;
        self.measured.counters.bytes += u64::from(len);
        let bytes = self.net.data(buffer, len);
        let Some(secure) = &mut entry.secure else {
            if entry.state == State::Upgrading {
                entry.head.extend_from_slice(bytes);
            }
            return self.take_head(slot, now);
        };
        self.plain.clear();
        let taken = secure.take(bytes, &mut self.plain, &mut self.sealed)?;
        if let Some(agreed) = &taken.agreed {
            self.measured.agreed(agreed, now);
            self.upgrade(slot, now)?;
        }
        self.send_sealed(slot);
        let entry = &mut self.slots[slot as usize];
        if entry.state == State::Upgrading {
            entry.head.extend_from_slice(&self.plain);
        }
        self.take_head(slot, now)?;
        if taken.ended { Err(Cause::Ended) } else { Ok(()) }
    }

    fn take_head(&mut self, slot: u32, now: Time) -> Result<(), Cause> {
        let entry = &self.slots[slot as usize];
        if entry.state != State::Upgrading {
            return Ok(());
        }
        let parsed = parse_response_head(&entry.head).map_err(|fault| Cause::Garbage(fault.reason))?;
        let Some((head, _)) = parsed else { return Ok(()) };
        if head.status != 101 {
            return Err(Cause::Status(head.status));
        }
        if let Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols } = &self.wire {
            let offered: Vec<&str> = subprotocols.iter().map(String::as_str).collect();
            let check = if self.shared.compression { check_upgrade } else { check_response };
            check(&head, KEY, &offered).map_err(Cause::Garbage)?;
        }
        self.made(slot, now);
        Ok(())
    }

    /// All handshakes are done.
    fn made(&mut self, slot: u32, now: Time) {
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Held;
        self.measured.counters.ready += 1;
        self.measured.connects.record(now.since(entry.since));
        if self.hold.is_zero() {
            self.close(slot);
        } else {
            self.held.push_back((now + self.hold, slot, entry.attempt));
        }
    }

    fn fail(&mut self, slot: u32, cause: Cause) {
        let state = self.slots[slot as usize].state;
        if matches!(state, State::Free | State::Closing) {
            return;
        }
        self.count_failed(cause);
        self.close(slot);
    }

    fn count_failed(&mut self, cause: Cause) {
        self.measured.counters.failed += 1;
        self.measured.fail(cause);
    }

    fn close(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let was_made = entry.state == State::Held;
        entry.state = State::Closing;
        entry.head = Vec::new();
        if let Some(mut secure) = entry.secure.take()
            && was_made
        {
            secure.close(&mut self.sealed);
            self.net.send(slot, &self.sealed);
        }
        self.sealed.clear();
        self.net.close(slot);
    }

    fn send_sealed(&mut self, slot: u32) {
        if !self.sealed.is_empty() && self.slots[slot as usize].state != State::Closing {
            self.net.send(slot, &self.sealed);
        }
        self.sealed.clear();
    }
}
