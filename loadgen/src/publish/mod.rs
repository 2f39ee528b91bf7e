//! Publishes on a plan, whether or not the server keeps up: one thread, a few kept connections, open loop.
//!
//! Inputs: a rate. Outputs: what was published and acknowledged, and how late we were ourselves. Must not know: who
//! receives it.
//!
//! A publication's latency counts from its planned time, which its payload carries. When every connection waits for the
//! server's answer the plan goes on, and what is sent late is late by the server's doing; when one is free and it is
//! late all the same, that is our own lag and recorded apart.

mod http;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use trunkline::base::time::Time;

pub use self::http::HttpPublishing;
use self::link::{Link, Outcome};
use crate::engine::{Pace, Shared};
use crate::measure::{Cause, Latencies, Mark, MarkKind, write_payload};
use crate::net::now;

/// Commands are looked at, and broken connections renewed, at least so often.
const BEAT: Duration = Duration::from_millis(5);
/// Publications begun in one turn, so that answers are read between them.
const TURN_MAX: u32 = 64;

/// How publications reach the server.
#[derive(Clone, Debug)]
pub enum Publishing {
    Http(Box<HttpPublishing>),
    /// On connections of the profile itself. There is no acknowledgement: sent counts as published.
    Client,
}

/// A publication the server has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    pub number: u32,
    pub channel: u32,
    pub planned: Time,
    /// Subscribers when it was sent.
    pub expected: u32,
}

/// What was done since the last collection.
#[derive(Debug, Default)]
pub struct PublishReport {
    pub published: Vec<Published>,
    pub failures: BTreeMap<Cause, u64>,
    /// From the moment it could have been sent to when it was.
    pub own_lag: Latencies,
    /// From the planned time to the server's acknowledgement.
    pub answers: Latencies,
    pub sent: u64,
}

enum Command {
    Rate(f64),
    /// So many at once, now.
    Burst(u32),
    Collect(Sender<PublishReport>),
    Quit,
}

#[derive(Debug, Default)]
struct Live {
    sent: AtomicU64,
    settled: AtomicU64,
    waiting: AtomicU64,
    /// Ordered at once and not yet sent. Counted by who orders, so that nobody looks before the order is taken.
    bursting: AtomicU64,
}

pub struct Publisher {
    commands: Sender<Command>,
    live: Arc<Live>,
    handle: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Connects `links` times and waits for orders. `shared` has an audience of nobody's subscriptions; `audience_of`
    /// knows the subscribers.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn start(
        shared: Arc<Shared>,
        subscribers: Arc<Shared>,
        publishing: Publishing,
        links: u32,
    ) -> io::Result<Publisher> {
        let (commands, inbox) = channel();
        let live = Arc::new(Live::default());
        let mut desk = Desk::new(shared, subscribers, publishing, links, Arc::clone(&live))?;
        let handle = std::thread::Builder::new().name("publish".into()).spawn(move || desk.run(&inbox))?;
        Ok(Publisher { commands, live, handle: Some(handle) })
    }

    pub fn rate(&self, per_second: f64) {
        let _ = self.commands.send(Command::Rate(per_second));
    }

    pub fn burst(&self, count: u32) {
        self.live.bursting.fetch_add(count.into(), Ordering::Relaxed);
        let _ = self.commands.send(Command::Burst(count));
    }

    pub fn collect(&self) -> PublishReport {
        let (answer, answers) = channel();
        let _ = self.commands.send(Command::Collect(answer));
        answers.recv().unwrap_or_default()
    }

    pub fn sent(&self) -> u64 {
        self.live.sent.load(Ordering::Relaxed)
    }

    /// Publications that are due or sent, and not yet answered.
    pub fn unsettled(&self) -> u64 {
        let load = |count: &AtomicU64| count.load(Ordering::Acquire);
        let to_send = load(&self.live.bursting) + load(&self.live.waiting);
        to_send + load(&self.live.sent).saturating_sub(load(&self.live.settled))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Quit);
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

/// Sequences of one channel.
#[derive(Default)]
struct Sequences {
    next: u32,
    /// All below it are settled.
    floor: u32,
    settled: BTreeSet<u32>,
}

impl Sequences {
    fn settle(&mut self, sequence: u32) {
        self.settled.insert(sequence);
        while self.settled.remove(&self.floor) {
            self.floor += 1;
        }
    }
}

/// A publication under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    published: Published,
    sequence: u32,
}

struct Desk {
    shared: Arc<Shared>,
    subscribers: Arc<Shared>,
    publishing: Publishing,
    links: Vec<Link>,
    live: Arc<Live>,
    pace: Pace,
    /// Publications to be sent at once, planned for this time.
    burst: (u32, Time),
    channels: Vec<Sequences>,
    next_channel: u32,
    next_number: u32,
    /// When the last link became free: before, nothing could have been sent.
    free_since: Time,
    payload: Vec<u8>,
    report: PublishReport,
}

impl Desk {
    fn new(
        shared: Arc<Shared>,
        subscribers: Arc<Shared>,
        publishing: Publishing,
        links: u32,
        live: Arc<Live>,
    ) -> io::Result<Desk> {
        let start = now();
        let links: io::Result<Vec<Link>> =
            (0..links.max(1)).map(|_| Link::connect(&publishing, &shared)).collect();
        Ok(Desk {
            channels: (0..subscribers.audience.channels).map(|_| Sequences::default()).collect(),
            shared,
            subscribers,
            publishing,
            links: links?,
            live,
            pace: Pace::new(start, 0.0),
            burst: (0, start),
            next_channel: 0,
            next_number: 0,
            free_since: start,
            payload: Vec::new(),
            report: PublishReport::default(),
        })
    }

    fn run(&mut self, inbox: &Receiver<Command>) {
        // As for the threads with connections: slack would be our own lag.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        while self.take_commands(inbox) {
            let waiting = self.publish_due();
            self.live.waiting.store(waiting, Ordering::Relaxed);
            self.wait();
            self.read();
        }
    }

    fn take_commands(&mut self, inbox: &Receiver<Command>) -> bool {
        loop {
            match inbox.try_recv() {
                Ok(Command::Rate(per_second)) => self.pace = Pace::new(now(), per_second),
                Ok(Command::Burst(count)) => self.burst = (self.burst.0.saturating_add(count), now()),
                Ok(Command::Collect(answer)) => drop(answer.send(std::mem::take(&mut self.report))),
                Ok(Command::Quit) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// When the next publication is planned.
    fn due(&self) -> Time {
        if self.burst.0 > 0 { self.burst.1 } else { self.pace.due() }
    }

    /// Sends what is due, as far as links are free. Returns whether something had to wait.
    fn publish_due(&mut self) -> u64 {
        for _ in 0..TURN_MAX {
            let now = now();
            let planned = self.due();
            if planned > now || self.channels.is_empty() {
                return 0;
            }
            let Some(link) = self.links.iter().position(Link::is_free) else { return 1 };
            self.report.own_lag.record(now.since(planned.max(self.free_since)));
            if self.burst.0 > 0 {
                self.burst.0 -= 1;
                self.publish(link, planned);
                self.live.bursting.fetch_sub(1, Ordering::Release);
            } else {
                self.pace.advance();
                self.publish(link, planned);
            }
        }
        1
    }

    fn publish(&mut self, link: usize, planned: Time) {
        let channel = self.next_channel;
        self.next_channel = (channel + 1) % self.subscribers.audience.channels;
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let sequences = &mut self.channels[channel as usize];
        let sequence = sequences.next;
        sequences.next += 1;
        let mark = Mark {
            kind: MarkKind::Publication,
            run: self.shared.run,
            channel,
            number,
            sequence,
            floor: sequences.floor,
            planned,
        };
        self.payload.clear();
        write_payload(&mut self.payload, &mark, self.shared.payload_bytes);
        let expected = self.subscribers.audience.subscribers(channel);
        let job = Job { published: Published { number, channel, planned, expected }, sequence };
        self.report.sent += 1;
        self.live.sent.fetch_add(1, Ordering::Relaxed);
        let sent = self.links[link].publish(&self.publishing, &self.shared, job, &self.payload);
        if let Some(outcome) = sent {
            self.settle(outcome);
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let now = now();
        let Outcome { job, result } = outcome;
        self.channels[job.published.channel as usize].settle(job.sequence);
        self.live.settled.fetch_add(1, Ordering::Relaxed);
        self.free_since = now;
        match result {
            Ok(()) => {
                self.report.answers.record(now.since(job.published.planned));
                self.report.published.push(job.published);
            }
            Err(cause) => *self.report.failures.entry(cause).or_default() += 1,
        }
    }

    /// Waits for answers, or for what is due next if something can be sent then.
    fn wait(&self) {
        let now = now();
        let mut until = now + BEAT;
        if self.links.iter().any(Link::is_free) {
            until = until.min(self.due());
        }
        let timeout = until.since(now);
        let timeout = rustix::event::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut on: Vec<PollFd<'_>> = self
            .links
            .iter()
            .filter_map(|link| {
                let flags = if link.wants_writing() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
                link.socket().map(|socket| PollFd::from_borrowed_fd(socket, flags))
            })
            .collect();
        // A signal or no memory: the next turn tries again.
        let _ = rustix::event::poll(&mut on, Some(&timeout));
    }

    fn read(&mut self) {
        for index in 0..self.links.len() {
            if let Some(outcome) = self.links[index].advance(&self.publishing, &self.shared) {
                self.settle(outcome);
            }
        }
    }
}
