//! Holds the connections: one thread, one [`Net`], a slice of all connection numbers.
//!
//! Inputs: [`Command`]s of the scenario's runner. Outputs: [`Measured`] when collected, [`Live`] at any time. Must
//! not know: scenarios, reports, the server's process.

mod conn;
mod inflated;
mod input;
mod response;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use trunkline::base::time::Time;

pub(crate) use self::conn::{Conn, State};
pub(crate) use self::inflated::Inflated;
pub(crate) use self::input::{Desk, KEY, write_upgrade};
pub(crate) use self::response::whole_response;
use self::worker::Worker;
use crate::measure::Measured;
use crate::net::mio::MioNet;
use crate::net::uring::UringNet;
use crate::net::{Net, NetOptions, Sources};
use crate::profile::{Audience, Profile};
use crate::tls::Tls;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DriverChoice {
    /// io_uring if it can be used here, else mio.
    #[default]
    Auto,
    IoUring,
    Mio,
}

/// One of those that connections go to.
#[derive(Clone, Debug)]
pub struct Server {
    pub target: SocketAddr,
    /// The Host field.
    pub host: String,
}

/// What all threads share. Nothing in it changes but by atomics.
pub struct Shared {
    pub profile: Arc<dyn Profile>,
    pub audience: Audience,
    /// At least one.
    pub servers: Arc<[Server]>,
    /// Connections speak TLS, and how.
    pub tls: Option<Tls>,
    /// Further header fields of the upgrade or GET.
    pub headers: Vec<(String, String)>,
    /// permessage-deflate is among `headers`.
    pub compression: bool,
    pub sources: Sources,
    /// Tells this run's marks from those of another.
    pub run: u32,
    /// Publications planned before this are a warm-up and enter no histogram.
    pub measure_from: AtomicU64,
    /// How long a connection may take to become ready.
    pub handshake_timeout: Duration,
    /// Connections that one thread has under way at a time.
    pub in_flight_max: u32,
    /// A ready connection that hears nothing for so long is lost.
    pub silence_max: Option<Duration>,
    /// Longest message.
    pub message_bytes_max: usize,
    /// Bytes of a request's data.
    pub payload_bytes: usize,
}

pub enum Command {
    /// Opens connections until `total` have been begun in all threads together, at most `rate` a second in this one.
    /// Infinite: as fast as the bound on those under way allows.
    Open {
        total: u32,
        rate: f64,
    },
    /// Cuts the share of connections, and opens each again after a random time up to `spread`.
    Cut {
        share: f64,
        spread: Duration,
    },
    /// The first so many connections, counted over all threads, stop reading or read again.
    Stall {
        first: u32,
        on: bool,
    },
    /// Sends so many requests a second from now on.
    Request {
        rate: f64,
    },
    /// Cuts so many connections a second, one after the other; each is opened again after a random time up to `spread`.
    Reconnect {
        rate: f64,
        spread: Duration,
    },
    Collect(Sender<Measured>),
    Quit,
}

/// One thread's state for everybody to look at. Written after each turn.
#[derive(Debug, Default)]
pub struct Live {
    pub ready: AtomicU64,
    /// Not ready and not given up: under way, waiting to be opened, or away.
    pub pending: AtomicU64,
    pub failed: AtomicU64,
    pub deliveries: AtomicU64,
    pub replies: AtomicU64,
    pub outstanding: AtomicU64,
    pub pings: AtomicU64,
}

/// The sums of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveSum {
    pub ready: u64,
    pub pending: u64,
    pub failed: u64,
    pub deliveries: u64,
    pub replies: u64,
    pub outstanding: u64,
    pub pings: u64,
}

/// Threads that hold connections.
pub struct Engine {
    pub shared: Arc<Shared>,
    pub driver: &'static str,
    /// The reason for the driver, for people.
    pub driver_reason: String,
    threads: Vec<Thread>,
    /// Why a thread ended early.
    broken: Arc<Mutex<Option<io::Error>>>,
}

struct Thread {
    commands: Sender<Command>,
    live: Arc<Live>,
    handle: Option<JoinHandle<()>>,
}

/// How the threads and their sockets are made.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    pub connections: u32,
    pub threads: u32,
    /// Rings of all threads together; 0: as few as RLIMIT_NOFILE allows.
    pub rings: u32,
    pub driver: DriverChoice,
    pub receive_bytes: u32,
}

impl Shared {
    /// Where a connection goes: to each server in turn.
    pub fn server(&self, number: u32) -> &Server {
        &self.servers[number as usize % self.servers.len()]
    }
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot have its sockets; the text says why.
    pub fn start(shared: Arc<Shared>, options: EngineOptions) -> io::Result<Engine> {
        let threads = options.threads.max(1);
        let net = NetOptions {
            connections_max: options.connections.div_ceil(threads).max(1),
            rings: options.rings.div_ceil(threads),
            receive_bytes: options.receive_bytes,
        };
        let broken = Arc::new(Mutex::new(None));
        let mut engine = Engine {
            shared: Arc::clone(&shared),
            driver: "",
            driver_reason: String::new(),
            threads: Vec::new(),
            broken: Arc::clone(&broken),
        };
        for index in 0..threads {
            let (commands, inbox) = channel();
            let live = Arc::new(Live::default());
            let (ready, started) = channel();
            let seat = Seat { index, threads, net, driver: options.driver };
            let (shared, live_there, broken) = (Arc::clone(&shared), Arc::clone(&live), Arc::clone(&broken));
            let handle = std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || seat.run(shared, live_there, inbox, ready, broken))?;
            engine.threads.push(Thread { commands, live, handle: Some(handle) });
            let (name, reason) = started.recv().map_err(io::Error::other)??;
            engine.driver = name;
            engine.driver_reason = reason;
        }
        Ok(engine)
    }

    pub fn thread_count(&self) -> u32 {
        self.threads.len() as u32
    }

    /// Gives each thread its own command.
    pub fn order(&self, mut command: impl FnMut(u32) -> Command) {
        for (index, thread) in self.threads.iter().enumerate() {
            // A thread that is gone has left its reason in `broken`.
            let _ = thread.commands.send(command(index as u32));
        }
    }

    pub fn live(&self) -> LiveSum {
        let mut sum = LiveSum::default();
        for Thread { live, .. } in &self.threads {
            sum.pending += live.pending.load(Ordering::Acquire);
            sum.ready += live.ready.load(Ordering::Relaxed);
            sum.failed += live.failed.load(Ordering::Relaxed);
            sum.deliveries += live.deliveries.load(Ordering::Relaxed);
            sum.replies += live.replies.load(Ordering::Relaxed);
            sum.outstanding += live.outstanding.load(Ordering::Relaxed);
            sum.pings += live.pings.load(Ordering::Relaxed);
        }
        sum
    }

    /// What was measured since the last call, each thread's own.
    pub fn collect(&self) -> Vec<Measured> {
        let (answer, answers) = channel();
        self.order(|_| Command::Collect(answer.clone()));
        drop(answer);
        answers.into_iter().collect()
    }

    /// Why a thread ended early, if one did.
    pub fn broken(&self) -> Option<io::Error> {
        self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.order(|_| Command::Quit);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// What one thread starts with.
struct Seat {
    index: u32,
    threads: u32,
    net: NetOptions,
    driver: DriverChoice,
}

type Started = io::Result<(&'static str, String)>;

impl Seat {
    fn run(
        self,
        shared: Arc<Shared>,
        live: Arc<Live>,
        inbox: Receiver<Command>,
        started: Sender<Started>,
        broken: Arc<Mutex<Option<io::Error>>>,
    ) {
        let (net, reason) = match make_net(self.net, self.driver) {
            Ok(made) => made,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok((net.name(), reason)));
        let mut worker = Worker::new(self.index, self.threads, net, shared, live, inbox);
        if let Err(error) = worker.run() {
            broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
        }
    }
}

/// One thread's sockets, and the reason for their driver.
///
/// # Errors
/// When it cannot have them; the text says why.
pub(crate) fn make_net(options: NetOptions, driver: DriverChoice) -> io::Result<(Box<dyn Net>, String)> {
    let mio = |reason: String| Ok((Box::new(MioNet::try_new(options)?) as Box<dyn Net>, reason));
    let uring = |reason: &str| {
        UringNet::try_new(options).map(|net| (Box::new(net) as Box<dyn Net>, reason.to_string()))
    };
    match driver {
        DriverChoice::Mio => mio("as asked for".into()),
        DriverChoice::IoUring => uring("as asked for"),
        DriverChoice::Auto => match uring("which this kernel allows") {
            Ok(made) => Ok(made),
            // A plan that fits no table fits epoll even less: its own text is the better one.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(error),
            Err(error) => mio(format!("because io_uring cannot be used: {error}")),
        },
    }
}

/// A rate as times: the next is due when [`Pace::due`] says so, however late the one before was.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Time,
    per_second: f64,
    count: u64,
}

impl Pace {
    /// `per_second` 0: never. Infinite: always.
    pub fn new(start: Time, per_second: f64) -> Pace {
        Pace { start, per_second, count: 0 }
    }

    /// When the next one is planned.
    pub fn due(&self) -> Time {
        if self.per_second <= 0.0 {
            return Time::NEVER;
        }
        Time(self.start.0.saturating_add((self.count as f64 * 1e9 / self.per_second) as u64))
    }

    pub fn advance(&mut self) {
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_keeps_its_plan_when_late() {
        let mut pace = Pace::new(Time(1_000), 1_000.0);
        assert_eq!(pace.due(), Time(1_000));
        for _ in 0..1_000 {
            pace.advance();
        }
        assert_eq!(pace.due(), Time(1_000_001_000));
        assert_eq!(Pace::new(Time(5), 0.0).due(), Time::NEVER);
        assert_eq!(Pace::new(Time(5), f64::INFINITY).due(), Time(5));
    }
}
