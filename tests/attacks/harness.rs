//! The daemon under attack, and the watch over its memory and over the honest client beside it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::honest::Honest;
use crate::process::{Daemon, Driver};
use crate::socket::Socket;

pub const MIB: u64 = 1 << 20;
/// No attack comes near it unless a bound is missing; the machine stays usable then.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What is none of the attack's: pages of the allocator that are partly used, stacks and tables that are touched for the
/// first time, receive buffers (1 MiB a shard).
pub const SPARE_BYTES: u64 = 12 * MIB;
/// From the end of the attack: timeouts of its connections, and the allocator's own pace.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(20);
/// Longest that one round may take beside an attack: against standing still.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// The attackers, the honest and the daemon share the cores of this machine, perhaps with more: in what waits for a core
/// alone, the slow rounds of an ordinary stretch of an attack stay below this.
const NOISE: Duration = Duration::from_millis(400);
/// The time of an attack in stretches, and that before it in parts of one attack.
const STRETCHES: u32 = 7;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long each attack lasts.
pub fn duration() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    Duration::from_secs(seconds)
}

/// An attack, and its bounds.
pub struct Attack<'a> {
    pub name: &'a str,
    /// What it may add to the memory of the idle daemon beside [`SPARE_BYTES`]; each gives the reason.
    pub added_bytes_max: u64,
    /// Of these, what stays by design.
    pub stays_bytes_max: u64,
    /// By the part of their variable's name behind `TRUNKLINE_`.
    pub settings: &'a [(&'a str, &'a str)],
    /// Further tables of the configuration.
    pub tables: &'a str,
}

impl<'a> Attack<'a> {
    pub fn new(name: &'a str, added_bytes_max: u64) -> Attack<'a> {
        Attack { name, added_bytes_max, stays_bytes_max: 0, settings: &[], tables: "" }
    }

    /// `prepare` makes what the attack needs, `strike` attacks until the time that it is given.
    pub fn run<T: Send>(
        &self,
        driver: Driver,
        prepare: impl FnOnce(&Daemon) -> T,
        strike: impl FnOnce(&Daemon, T, Instant) + Send,
    ) {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start_written(driver, &["--shards", "2"], self.settings, self.tables);
        let prepared = prepare(&daemon);
        let honest = Honest::start(&daemon);
        let stretch = duration() / STRETCHES;
        honest.take();
        busy_cores(stretch * 2);
        let quiet = percentile(honest.take(), 99);
        let idle = resident_bytes(daemon.pid()).expect("a process");
        let watch = Watch::start(daemon.pid());

        // The last stretch is what is left of the attack behind the others.
        let mut stretches = Vec::new();
        let until = Instant::now() + duration();
        thread::scope(|scope| {
            let attack = scope.spawn(|| {
                while Instant::now() + stretch < until {
                    thread::sleep(stretch);
                    stretches.push(honest.take());
                }
            });
            scope.spawn(|| {
                take_spare_time_only();
                strike(&daemon, prepared, until);
            });
            attack.join().expect("it only waits");
        });
        let peak = watch.finish();
        // The round under way belongs to the attack.
        stretches.push(honest.finish());

        let rounds: usize = stretches.iter().map(Vec::len).sum();
        let slowest = stretches.iter().flatten().copied().max().unwrap_or(ROUND_MAX);
        let usual = percentile(stretches.into_iter().map(|took| percentile(took, 99)).collect(), 50);
        let added = peak.saturating_sub(idle);
        println!(
            "{} on {driver:?}: {} MiB added of at most {}; {rounds} rounds, slow ones {:.1} ms, when quiet {:.1} ms \
             (ratio {:.1}), slowest {:.1} ms",
            self.name,
            added / MIB,
            (self.added_bytes_max + SPARE_BYTES) / MIB,
            ms(usual),
            ms(quiet),
            ms(usual) / ms(quiet),
            ms(slowest),
        );
        assert!(peak < MEMORY_BYTES_MAX, "{}: killed at {} MiB", self.name, peak / MIB);
        assert!(
            added <= self.added_bytes_max + SPARE_BYTES,
            "{}: {} MiB more than idle",
            self.name,
            added / MIB
        );
        assert!(usual <= (quiet * 2).max(NOISE), "{}: {usual:?} instead of {quiet:?}", self.name);
        assert!(slowest < ROUND_MAX, "{}: one round took {slowest:?}", self.name);
        let mut health = Socket::raw(&daemon);
        assert_eq!(health.get("/health").status, 200, "{}", self.name);
        drop(health);
        // Back to near idle.
        let end = Instant::now() + GIVEN_BACK_WITHIN;
        loop {
            let left = resident_bytes(daemon.pid()).expect("the process lives").saturating_sub(idle);
            if left <= self.stays_bytes_max + SPARE_BYTES {
                break;
            }
            assert!(Instant::now() < end, "{}: {} MiB are not given back", self.name, left / MIB);
            thread::sleep(Duration::from_millis(100));
        }
        assert!(daemon.stop().success(), "{}", self.name);
    }
}

/// Work that concerns the daemon as little as possible: a machine whose cores are busy has slower rounds than an idle one,
/// whoever keeps them so.
fn busy_cores(time: Duration) {
    let until = Instant::now() + time;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                take_spare_time_only();
                while Instant::now() < until {}
            });
        }
    });
}

/// This thread runs when no other wants its core: an attacker works on a machine of its own, and what the honest notice is
/// what the daemon does about it.
fn take_spare_time_only() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(done.is_ok_and(|status| status.success()), "chrt of util-linux");
}

/// The least value that `percent` of them do not exceed; nothing came at all: the longest.
fn percentile(mut values: Vec<Duration>, percent: usize) -> Duration {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(ROUND_MAX)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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
