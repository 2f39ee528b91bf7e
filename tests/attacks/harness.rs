//! The daemon under attack, the honest subscriber beside it, and the watch over its memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::{Frame, TEXT};
use crate::process::{Api, Daemon, Driver};
use crate::socket::Socket;

/// No attack comes near it unless a bound is missing; the machine stays usable then.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What an attack may add to the memory of an idle daemon unless its test says otherwise: the budgets of a small node.
pub const ADDED_BYTES_MAX: u64 = 96 << 20;
/// What may remain: the allocator gives pages back late, and tables keep what they grew to.
const LEFT_BYTES_MAX: u64 = 48 << 20;
/// From the end of the attack: timeouts of its connections, and the allocator's own pace.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(20);
/// Longest that one delivery may take beside an attack. Against standing still, not a figure.
const DELIVERY_MAX: Duration = Duration::from_secs(5);
const PUBLISH_EVERY: Duration = Duration::from_millis(25);
const QUIET: Duration = Duration::from_millis(700);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long each attack lasts.
pub fn duration() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    Duration::from_secs(seconds)
}

/// Bounds of one attack.
pub struct Attack<'a> {
    pub name: &'a str,
    pub arguments: &'a [&'a str],
    pub settings: &'a [(&'a str, &'a str)],
    /// Further tables of the configuration.
    pub tables: &'a str,
    pub added_bytes_max: u64,
}

impl Default for Attack<'_> {
    fn default() -> Self {
        Attack {
            name: "",
            arguments: &["--shards", "2"],
            settings: &[],
            tables: "",
            added_bytes_max: ADDED_BYTES_MAX,
        }
    }
}

impl Attack<'_> {
    /// `prepare` makes what the attack needs, `strike` attacks until the time that it is given.
    pub fn run<T>(
        &self,
        driver: Driver,
        prepare: impl FnOnce(&Daemon) -> T,
        strike: impl FnOnce(&Daemon, T, Instant),
    ) {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start_written(driver, self.arguments, self.settings, self.tables);
        let prepared = prepare(&daemon);
        let honest = Honest::start(&daemon);
        thread::sleep(QUIET);
        let quiet = honest.slowest();
        let idle = resident_bytes(daemon.pid()).expect("a process");
        let watch = Watch::start(daemon.pid());

        strike(&daemon, prepared, Instant::now() + duration());

        let peak = watch.finish();
        let delivered = honest.finish();
        let added = peak.saturating_sub(idle);
        println!(
            "{} on {driver:?}: idle {}, peak {} MB; slowest of {} deliveries {} ms, when quiet {} ms",
            self.name,
            idle >> 20,
            peak >> 20,
            delivered.count,
            delivered.slowest.as_millis(),
            quiet.as_millis()
        );
        assert!(peak < MEMORY_BYTES_MAX, "{}: killed at {} MB", self.name, peak >> 20);
        assert!(added <= self.added_bytes_max, "{}: {} MB more than idle", self.name, added >> 20);
        assert!(delivered.slowest < DELIVERY_MAX, "{}: a delivery took {:?}", self.name, delivered.slowest);
        let mut health = Socket::raw(&daemon);
        assert_eq!(health.get("/health").status, 200, "{}", self.name);
        drop(health);
        // Back to near idle.
        let end = Instant::now() + GIVEN_BACK_WITHIN;
        loop {
            let left = resident_bytes(daemon.pid()).expect("the process lives").saturating_sub(idle);
            if left <= LEFT_BYTES_MAX {
                break;
            }
            assert!(Instant::now() < end, "{}: {} MB are not given back", self.name, left >> 20);
            thread::sleep(Duration::from_millis(100));
        }
        assert!(daemon.stop().success(), "{}", self.name);
    }
}

/// A subscriber that keeps up and the backend that publishes to it.
struct Honest {
    ended: Arc<AtomicBool>,
    slowest_us: Arc<AtomicU64>,
    thread: thread::JoinHandle<u64>,
}

struct Delivered {
    count: u64,
    slowest: Duration,
}

impl Honest {
    fn start(daemon: &Daemon) -> Honest {
        let mut subscriber = Socket::open(daemon, "/connection/websocket");
        subscriber.send(Frame::text(
            "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"honest\"}}",
        ));
        let mut api = Api::new(daemon);
        let ended = Arc::new(AtomicBool::new(false));
        let slowest_us = Arc::new(AtomicU64::new(0));
        let (end, slowest) = (ended.clone(), slowest_us.clone());
        let thread = thread::spawn(move || {
            let mut lines = Lines { socket: subscriber, ready: Vec::new() };
            lines.await_text("\"id\":2");
            let mut count = 0;
            while !end.load(Ordering::Relaxed) {
                let began = Instant::now();
                count += 1;
                let answer = api.call("publish", &format!("{{\"channel\":\"honest\",\"data\":{count}}}"));
                assert_eq!(answer["result"]["offset"], count, "{answer}");
                let push = lines.await_text("\"pub\":");
                assert!(push.contains(&format!("\"offset\":{count}")), "wanted {count}: {push}");
                slowest.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                thread::sleep(PUBLISH_EVERY);
            }
            count
        });
        Honest { ended, slowest_us, thread }
    }

    fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.swap(0, Ordering::Relaxed))
    }

    fn finish(self) -> Delivered {
        self.ended.store(true, Ordering::Relaxed);
        let slowest_us = self.slowest_us;
        let count = self.thread.join().expect("the honest subscriber is served");
        Delivered { count, slowest: Duration::from_micros(slowest_us.load(Ordering::Relaxed)) }
    }
}

/// The messages of a client, one by one; pings are answered.
struct Lines {
    socket: Socket,
    ready: Vec<String>,
}

impl Lines {
    fn await_text(&mut self, wanted: &str) -> String {
        loop {
            while !self.ready.is_empty() {
                let line = self.ready.remove(0);
                if line == "{}" {
                    self.socket.send(Frame::text("{}"));
                } else if line.contains(wanted) {
                    return line;
                }
            }
            let frame = self.socket.recv().expect("the honest subscriber stays connected");
            assert_eq!(frame.opcode, TEXT, "{frame:?}");
            let text = String::from_utf8(frame.payload).expect("text");
            self.ready.extend(text.lines().map(str::to_owned));
        }
    }
}

/// Looks at a process's memory until it is finished; kills it at [`MEMORY_BYTES_MAX`].
struct Watch {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Watch {
    fn start(pid: rustix::process::Pid) -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !end.load(Ordering::Relaxed) {
                let Some(now) = resident_bytes(pid) else { break };
                peak = peak.max(now);
                if peak >= MEMORY_BYTES_MAX {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            peak
        });
        Watch { ended, thread }
    }

    fn finish(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only reads")
    }
}

/// `None`: the process has ended.
fn resident_bytes(pid: rustix::process::Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
