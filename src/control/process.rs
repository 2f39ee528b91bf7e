//! This process as the kernel accounts for it, names for it, and the wall clock.

use std::fs;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::ids::ClientId;
use crate::base::secret;
use crate::base::time::Time;

/// Clock ticks a second in /proc: USER_HZ, 100 on every Linux that Rust builds for.
const TICKS_PER_SECOND: f64 = 100.0;
/// A shorter span gives no meaningful share of a cpu: one tick is 10 ms.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// Which process of which name this is, and what it uses.
#[derive(Debug)]
pub struct Process {
    pub uid: String,
    pub started: Instant,
    reading: Mutex<CpuReading>,
}

#[derive(Clone, Copy, Debug)]
struct CpuReading {
    at: Instant,
    seconds: f64,
    percent: f64,
}

impl Process {
    /// # Errors
    /// When the operating system gives no randomness for the id.
    pub fn new() -> io::Result<Process> {
        let now = Instant::now();
        Ok(Process {
            uid: random_id()?.to_string(),
            started: now,
            reading: Mutex::new(CpuReading { at: now, seconds: cpu_seconds(), percent: 0.0 }),
        })
    }

    /// Share of one cpu since the last call, in percent: above 100 when several were used.
    pub fn cpu_percent(&self) -> f64 {
        let now = Instant::now();
        let mut reading = self.reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let span = now.duration_since(reading.at);
        if span >= SPAN_MIN {
            let seconds = cpu_seconds();
            let percent = (seconds - reading.seconds).max(0.0) / span.as_secs_f64() * 100.0;
            *reading = CpuReading { at: now, seconds, percent };
        }
        reading.percent
    }
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The clock of shards: monotonic, the same for all.
pub fn shard_time() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Processor time of this process since its start, user and system.
pub fn cpu_seconds() -> f64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|text| ticks_of_stat(&text)).unwrap_or(0) as f64
        / TICKS_PER_SECOND
}

/// Resident memory of this process.
pub fn rss_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| rss_of_status(&text)).unwrap_or(0)
}

/// Memory that the kernel of this host has for TCP, of all its programs.
pub fn host_tcp_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/net/sockstat").ok().and_then(|text| tcp_pages(&text));
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

/// The pages in the line of TCP, `TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3`.
fn tcp_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The machine's name, for naming the node.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node".to_string() } else { name.to_string() }
}

/// A random version 4 UUID (RFC 9562 section 5.4).
/// A random UUID of version 4.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn random_id() -> io::Result<ClientId> {
    let bits = u128::from_be_bytes(secret::bytes()?);
    Ok(ClientId(bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62)))
}

/// utime and stime, the 14th and 15th field of proc(5)'s stat. The second field is a name in brackets that may hold
/// anything, so fields are counted from its end.
fn ticks_of_stat(text: &str) -> Option<u64> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn rss_of_status(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_as_it_writes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1 2";
        assert_eq!(ticks_of_stat(stat), Some(300));
        assert_eq!(ticks_of_stat(""), None);
        assert_eq!(rss_of_status("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(
            tcp_pages("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 31\nUDP: mem 2\n"),
            Some(31)
        );
        assert_eq!(tcp_pages("UDP: mem 2\n"), None);
        assert!(rss_bytes() > 1 << 20);
        assert!(!host_name().is_empty());
    }

    #[test]
    fn a_process_has_an_id_of_its_own() {
        let process = Process::new().unwrap();
        assert_eq!(&process.uid[14..15], "4");
        assert!("89ab".contains(&process.uid[19..20]));
        assert_ne!(process.uid, Process::new().unwrap().uid);
        assert!(process.cpu_percent() >= 0.0);
    }
}
