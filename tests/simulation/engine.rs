//! An owner of channels that is no shard: what an engine behind a network is to a node. It keeps its channels as a shard does,
//! but what it sends comes late, twice, in another order or not at all, and a read may find it away.
//!
//! Its log is on a slow disk in half of the runs: what is published leaves when it is kept, and recoveries may have to be read.
//!
//! What it promises is held (see `shard::owner`): requests are handled in order, each is answered once, and what has no
//! number is neither repeated nor overtaken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use trunkline::base::ids::{Offset, Position, ShardId};
use trunkline::base::prng::Prng;
use trunkline::base::publication::Publication;
use trunkline::base::time::Time;
use trunkline::hub::OwnedChannels;
use trunkline::hub::followed::Item;
use trunkline::hub::log_store::{Append, LogStore, ReadBack, StoreDone, StoreEntry, Ticket};
use trunkline::hub::requests::ReadAnswer;
use trunkline::shard::channel_owner::{ChannelOwner, OwnerMoment};
use trunkline::shard::control_request::{Busy, ChannelCount, ControlRequest};
use trunkline::shard::mailbox::ShardMessage;
use trunkline::shard::owner::{Engine, FromOwner, OwnerAnswer, OwnerRequest, ReadBy};
use trunkline::shard::router::Router;

use crate::coverage::Coverage;
use crate::scenario::wall_ms;

/// Longest way there or back while all goes wrong, and while nothing does.
const ROUGH_DELAY_US: u64 = 30_000;
const CALM_DELAY_US: u64 = 2_000;

pub struct FarOwner {
    /// Names of the channels that it owns.
    names: Vec<String>,
    state: Mutex<State>,
}

struct State {
    owner: ChannelOwner,
    disk: Option<SlowDisk>,
    prng: Prng,
    now: Time,
    calm: bool,
    /// In the order in which they are handled.
    requests: VecDeque<(Time, Request)>,
    sent: Sent,
    coverage: Coverage,
}

enum Request {
    Follower(OwnerRequest),
    Control(ControlRequest),
}

/// Messages on their way to shards.
#[derive(Default)]
struct Sent {
    number: u64,
    /// By when they arrive; those at the same time in the order in which they were sent.
    on_the_way: BTreeMap<(Time, u64), (ShardId, ShardMessage)>,
    /// When the last message that must not be overtaken arrives.
    in_order_until: Time,
}

impl FarOwner {
    pub fn new(names: Vec<String>, owned: OwnedChannels, mut prng: Prng) -> Arc<FarOwner> {
        let disk = prng.bool().then(|| SlowDisk::new(prng.fork()));
        let owned = match &disk {
            Some(disk) => owned.with_store(Box::new(disk.clone())),
            None => owned,
        };
        let state = State {
            owner: ChannelOwner::new(owned),
            disk,
            prng,
            now: Time::ZERO,
            calm: false,
            requests: VecDeque::new(),
            sent: Sent::default(),
            coverage: Coverage::default(),
        };
        Arc::new(FarOwner { names, state: Mutex::new(state) })
    }

    /// Handles what has arrived here, and hands over what has arrived there.
    pub fn run(&self, now: Time, calm: bool, router: &Router) {
        let state = &mut *self.state();
        (state.now, state.calm) = (now, calm);
        while state.requests.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, request)) = state.requests.pop_front()
        {
            state.handle(request);
        }
        state.handle_stored();
        state.owner.owned.sweep(now, 16);
        let later = state.sent.on_the_way.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.sent.on_the_way, later);
        let mut full: Vec<ShardId> = Vec::new();
        for (at, (shard, message)) in due {
            // What finds an inbox full waits for room, and what comes after it behind it.
            let message = match full.contains(&shard) {
                true => message,
                false => match router.inbox(shard).push(message) {
                    Ok(()) => continue,
                    Err(message) => message,
                },
            };
            full.push(shard);
            state.sent.on_the_way.insert(at, (shard, message));
        }
    }

    /// When there is something to do next.
    pub fn next(&self) -> Option<Time> {
        let state = self.state();
        let request = state.requests.front().map(|(due, _)| *due);
        let message = state.sent.on_the_way.keys().next().map(|(due, _)| *due);
        let disk = state.disk.as_ref().and_then(SlowDisk::next);
        request.into_iter().chain(message).chain(disk).min()
    }

    /// Nobody reads any more: what is on its way is dropped.
    pub fn end(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.owner.end();
        state.sent.on_the_way.clear();
    }

    pub fn take_coverage(&self) -> Coverage {
        std::mem::take(&mut self.state().coverage)
    }

    fn take(&self, request: Request) {
        let state = &mut *self.state();
        let due = state.now + state.delay();
        let due = state.requests.back().map_or(due, |(before, _)| due.max(*before));
        state.requests.push_back((due, request));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }
}

impl Engine for FarOwner {
    fn owns(&self, channel: &str) -> bool {
        self.names.iter().any(|name| name == channel)
    }

    fn request(&self, request: OwnerRequest) {
        self.take(Request::Follower(request));
    }

    fn ask(&self, ask: ControlRequest) -> Result<(), Busy> {
        self.take(Request::Control(ask));
        Ok(())
    }
}

impl State {
    fn delay(&mut self) -> Duration {
        let most = if self.calm { CALM_DELAY_US } else { ROUGH_DELAY_US };
        Duration::from_micros(self.prng.u64(..most))
    }

    fn handle(&mut self, request: Request) {
        let at = OwnerMoment { now: self.now, wall_ms: wall_ms(self.now) };
        let mut said = Vec::new();
        let mut post = |shard, message| said.push((shard, message));
        match request {
            Request::Follower(OwnerRequest::Read { by, read }) if self.is_away() => {
                self.coverage.count("engine_away");
                let answer = OwnerAnswer::Read { by, read, answer: ReadAnswer::Unavailable };
                let shard = match by {
                    ReadBy::Channel(shard) => shard,
                    ReadBy::Laggard(conn) => conn.shard(),
                };
                post(shard, FromOwner::Answer(Box::new(answer)));
            }
            Request::Follower(request) => self.owner.handle_request(request, at, &mut post),
            Request::Control(ControlRequest::Channels(filter, reply)) => {
                let counts = self.owner.owned.channels(&*filter.0).into_iter();
                let counts = counts.map(|(channel, clients)| ChannelCount { channel, clients });
                reply.send(Ok(counts.collect()));
            }
            Request::Control(ask) => _ = self.owner.handle_control_request(ask, at, &mut post),
        }
        for (shard, message) in said {
            self.send(shard, message);
        }
    }

    fn handle_stored(&mut self) {
        let Some(disk) = &self.disk else { return };
        disk.0.lock().expect("one thread").now = self.now;
        let at = OwnerMoment { now: self.now, wall_ms: wall_ms(self.now) };
        let mut said = Vec::new();
        self.owner.handle_stored(at, &mut |shard, message| said.push((shard, message)));
        self.coverage.add("engine_stored", said.len() as u64);
        for (shard, message) in said {
            self.send(shard, message);
        }
    }

    fn is_away(&mut self) -> bool {
        !self.calm && self.prng.u8(..8) == 0
    }

    fn send(&mut self, shard: ShardId, message: FromOwner) {
        let numbered = match &message {
            FromOwner::Item(Item::Publication(publication)) => publication.offset() != Offset(0),
            FromOwner::Paced(paced) => paced.0.offset() != Offset(0),
            FromOwner::Item(Item::JoinLeaveEvent(_)) | FromOwner::Answer(_) | FromOwner::Stands(_) => false,
        };
        if !numbered {
            let again = match &message {
                FromOwner::Answer(answer) => match &**answer {
                    OwnerAnswer::Read { by, read, answer } if !self.calm && self.prng.u8(..8) == 0 => {
                        Some(OwnerAnswer::Read { by: *by, read: read.clone(), answer: answer.clone() })
                    }
                    _ => None,
                },
                _ => None,
            };
            let due = (self.now + self.delay()).max(self.sent.in_order_until);
            self.sent.in_order_until = due;
            self.put(due, shard, message);
            if let Some(again) = again {
                self.coverage.count("engine_read_repeated");
                let due = self.now + self.delay() * 2;
                self.put(due, shard, FromOwner::Answer(Box::new(again)));
            }
            return;
        }
        let copies = match self.prng.u8(..16) {
            _ if self.calm => 1,
            0 => {
                self.coverage.count("engine_item_lost");
                0
            }
            1 => {
                self.coverage.count("engine_item_repeated");
                2
            }
            _ => 1,
        };
        // Half of the time in order, as from one socket.
        let in_order = self.calm || self.prng.bool();
        for _ in 0..copies {
            let due = self.now + self.delay();
            let due = if in_order { due.max(self.sent.in_order_until) } else { due };
            let message = match &message {
                FromOwner::Item(item) => FromOwner::Item(item.clone()),
                FromOwner::Paced(paced) => FromOwner::Paced(paced.clone()),
                FromOwner::Answer(_) | FromOwner::Stands(_) => unreachable!("it has no number"),
            };
            self.put(due, shard, message);
        }
    }

    fn put(&mut self, due: Time, shard: ShardId, message: FromOwner) {
        self.sent.number += 1;
        self.sent.on_the_way.insert((due, self.sent.number), (shard, ShardMessage::FromOwner(message)));
    }
}

/// Keeps everything that is appended to it, later.
#[derive(Clone)]
struct SlowDisk(Arc<Mutex<Disk>>);

struct Disk {
    prng: Prng,
    now: Time,
    tickets: u64,
    /// When each is done, in the order in which they were begun.
    under_way: VecDeque<(Time, Ticket, Task)>,
    kept: Vec<Arc<Publication>>,
}

enum Task {
    Append(Arc<Publication>),
    Read(Vec<Arc<Publication>>),
}

impl SlowDisk {
    fn new(prng: Prng) -> SlowDisk {
        let disk = Disk { prng, now: Time::ZERO, tickets: 0, under_way: VecDeque::new(), kept: Vec::new() };
        SlowDisk(Arc::new(Mutex::new(disk)))
    }

    fn next(&self) -> Option<Time> {
        self.0.lock().expect("one thread").under_way.front().map(|(due, ..)| *due)
    }
}

impl Disk {
    fn begin(&mut self, task: Task) -> Ticket {
        self.tickets += 1;
        let due = self.now + Duration::from_micros(self.prng.u64(..20_000));
        let due = self.under_way.back().map_or(due, |(before, ..)| due.max(*before));
        self.under_way.push_back((due, Ticket(self.tickets), task));
        Ticket(self.tickets)
    }
}

impl LogStore for SlowDisk {
    fn append(&mut self, entry: StoreEntry<'_>, now: Time) -> Append {
        let disk = &mut *self.0.lock().expect("one thread");
        disk.now = disk.now.max(now);
        Append::Later(disk.begin(Task::Append(Arc::clone(entry.publication))))
    }

    fn read(&mut self, channel: &str, after: Offset, end: Position, limit: usize) -> ReadBack {
        let disk = &mut *self.0.lock().expect("one thread");
        let wanted = disk.kept.iter().filter(|kept| {
            *kept.channel == *channel
                && kept.position.epoch == end.epoch
                && kept.offset() > after
                && kept.offset() <= end.offset
        });
        let found = wanted.take(limit).cloned().collect();
        ReadBack::Later(disk.begin(Task::Read(found)))
    }

    fn takes_all(&self) -> bool {
        true
    }

    fn take_done(&mut self) -> Option<(Ticket, StoreDone)> {
        let disk = &mut *self.0.lock().expect("one thread");
        disk.under_way.front().filter(|(due, ..)| *due <= disk.now)?;
        let (_, ticket, task) = disk.under_way.pop_front()?;
        Some((
            ticket,
            match task {
                Task::Read(found) => StoreDone::Read(found),
                Task::Append(publication) => {
                    disk.kept.push(publication);
                    StoreDone::Appended(Ok(()))
                }
            },
        ))
    }
}
