//! What the server and the kernel take on this host, from /proc.
//!
//! Inputs: a process id. Outputs: memory in bytes, cpu time in nanoseconds. Must not know: what the server does.
//!
//! The process' own memory is its Rss; the kernel's share of a connection is the growth of its slab, which is of both
//! ends of a loopback connection: what a server adds shows only beside another server's figure on the same host.

use std::collections::HashMap;
use std::fs;
use std::io;

use serde::Serialize;

/// One look at a process and the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Memory of the process, in bytes. 0 when no process is watched.
    pub rss_bytes: u64,
    /// Cpu time of the process' threads since each began, in nanoseconds.
    pub cpu_ns: u64,
    /// The same of this generator.
    pub own_cpu_ns: u64,
    pub own_rss_bytes: u64,
    /// Kernel slab of the host that is in use, in bytes.
    pub slab_bytes: u64,
    /// Memory of TCP buffers of the host, in bytes.
    pub tcp_buffer_bytes: u64,
    /// TCP sockets of this network namespace, both ends.
    pub tcp_sockets: u64,
}

/// Watches one process beside this one.
#[derive(Debug)]
pub struct Host {
    pid: Option<u32>,
    server: Threads,
    own: Threads,
}

impl Host {
    /// # Errors
    /// When there is no such process, or its figures cannot be read.
    pub fn new(pid: Option<u32>) -> io::Result<Host> {
        if let Some(pid) = pid {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))?;
        }
        let mut host = Host { pid, server: Threads::default(), own: Threads::default() };
        host.sample();
        Ok(host)
    }

    /// What cannot be read counts as 0.
    pub fn sample(&mut self) -> Sample {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let (tcp_sockets, tcp_pages) = tcp_of_sockstat(&sockstat);
        let server = self.pid.map(|pid| format!("/proc/{pid}"));
        Sample {
            rss_bytes: server.as_deref().map_or(0, rss_bytes),
            cpu_ns: server.as_deref().map_or(0, |path| self.server.cpu_ns(path)),
            own_cpu_ns: self.own.cpu_ns("/proc/self"),
            own_rss_bytes: rss_bytes("/proc/self"),
            slab_bytes: slab_bytes(&fs::read_to_string("/proc/slabinfo").unwrap_or_default())
                .or_else(|| kib_field(&meminfo, "Slab:"))
                .unwrap_or(0),
            tcp_buffer_bytes: tcp_pages * rustix::param::page_size() as u64,
            tcp_sockets,
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

/// Cpu time by thread, so that a thread's time stays in the sum after its end.
#[derive(Debug, Default)]
struct Threads(HashMap<u32, u64>);

impl Threads {
    fn cpu_ns(&mut self, process: &str) -> u64 {
        let Ok(tasks) = fs::read_dir(format!("{process}/task")) else { return self.0.values().sum() };
        for task in tasks.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Ok(text) = fs::read_to_string(task.path().join("schedstat"))
                && let Some(ns) = text.split_whitespace().next().and_then(|word| word.parse().ok())
            {
                self.0.insert(id, ns);
            }
        }
        self.0.values().sum()
    }
}

/// The exact sum where the kernel gives it; `status` is off by up to 32 pages a cpu.
fn rss_bytes(process: &str) -> u64 {
    let rollup = fs::read_to_string(format!("{process}/smaps_rollup")).ok();
    rollup.and_then(|text| kib_field(&text, "Rss:")).unwrap_or_else(|| {
        let status = fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        kib_field(&status, "VmRSS:").unwrap_or(0)
    })
}

/// Bytes of objects in use, by /proc/slabinfo, which only root may read. Its sum beats `Slab:` of meminfo, which also
/// counts the freed room of the run before. What is left of closed connections (TIME_WAIT) is not of the open ones.
fn slab_bytes(slabinfo: &str) -> Option<u64> {
    let mut sum = 0;
    for line in slabinfo.lines().skip(2) {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let active: u64 = words.next()?.parse().ok()?;
        let size: u64 = words.nth(1)?.parse().ok()?;
        if !name.starts_with("tw_sock") && !name.starts_with("request_sock") {
            sum += active * size;
        }
    }
    (sum > 0).then_some(sum)
}

/// `name   123 kB`, in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line[name.len()..].split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Sockets in use and pages of their buffers.
fn tcp_of_sockstat(text: &str) -> (u64, u64) {
    let Some(line) = text.lines().find(|line| line.starts_with("TCP:")) else { return (0, 0) };
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |name| {
        let at = words.iter().position(|&word| word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    (after("inuse").unwrap_or(0), after("mem").unwrap_or(0))
}

/// The host, for the head of a report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpus: usize,
    pub cpu_model: String,
    pub memory_bytes: u64,
}

impl Machine {
    pub fn read() -> Machine {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            kernel: text("/proc/sys/kernel/osrelease").trim().into(),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            cpu_model: model.map_or("", |(_, name)| name).into(),
            memory_bytes: kib_field(&text("/proc/meminfo"), "MemTotal:").unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_their_files() {
        assert_eq!(kib_field("MemTotal: 9 kB\nSlab:      123 kB\n", "Slab:"), Some(123 * 1024));
        assert_eq!(kib_field("x", "Slab:"), None);
        let text = "sockets: used 1\nTCP: inuse 12 orphan 0 tw 3 alloc 14 mem 5\nUDP: inuse 0 mem 9\n";
        assert_eq!(tcp_of_sockstat(text), (12, 5));
        assert_eq!(tcp_of_sockstat(""), (0, 0));
        let text =
            "slabinfo - version: 2.1\n# name ...\nTCP 70 182 2368 13 8 : x\ntw_sock_TCP 9 9 256 16 1 : x\n";
        assert_eq!(slab_bytes(text), Some(70 * 2368));
        assert_eq!(slab_bytes(""), None);
        assert_eq!(slab_bytes("a\nb\nbroken line"), None);
    }

    #[test]
    fn this_process_has_memory_and_cpu_time() {
        let mut host = Host::new(Some(std::process::id())).unwrap();
        let sample = host.sample();
        assert!(sample.rss_bytes > 100_000 && sample.own_rss_bytes > 100_000);
        assert!(sample.cpu_ns > 0 && sample.own_cpu_ns > 0);
        assert!(Host::new(Some(u32::MAX)).is_err());
    }
}
