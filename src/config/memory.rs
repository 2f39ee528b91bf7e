//! The memory plan: what the configuration allows to grow, summed, and held against the machine.

use std::fmt;
use std::fs;

use crate::base::event::EventKind;
use crate::base::limits::{RECV_BUFFER_BYTES, RECV_BUFFERS};
use crate::config::fault::{Fault, Origin};
use crate::config::sections::Config;
use crate::config::value::Size;

/// Of ours for an idle connection: its slot (128), its client's entry in the tables, a few subscriptions.
const CONNECTION_BYTES: u64 = 512;
/// Of the kernel for an idle TCP socket (socket, inode, file, dentry: 3.9 KB of slab) and its poll (330).
const CONNECTION_KERNEL_BYTES: u64 = 4_300;
/// What is counted of a connection for the event of its end, where that is told.
const CONNECTION_LIFE_BYTES: u64 = 32;
/// The queue of events: 65,536 places of 128 bytes, and 32 MiB of clients' messages.
pub const EVENT_QUEUE_BYTES: u64 = 65_536 * 128 + (32 << 20);
/// A message of an inbox: its place in the queue and the ask behind it.
const INBOX_MESSAGE_BYTES: u64 = 512;
/// Program, stacks, allocator, control plane: what a node without any client takes.
const BASE_BYTES: u64 = 32 << 20;
/// What questions that wait for one hook, and answers to it that are being read, may weigh. A thousandth of it is in use
/// while the backend keeps up: a storm of connects and answers of the greatest length are what it is for.
pub const HOOK_WAITING_BYTES: u64 = 16 << 20;
pub const HOOK_ANSWERS_BYTES: u64 = 16 << 20;
/// What "as many as fit" may come to.
const CONNECTIONS_AUTO_MAX: u64 = 1_000_000;
/// Fewer are not worth a start: "as many as fit" then ends in a refusal that names what is too large.
const CONNECTIONS_AUTO_MIN: u64 = 1_000;

/// Bounds of what grows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Connections of this node: as configured, or as many as fit.
    pub connections_max: u32,
    pub connections_bytes: u64,
    pub history_bytes: u64,
    pub inbox_bytes: u64,
    pub receive_bytes: u64,
    /// HTTP requests: bodies of the API's until they are answered, and what is kept of others.
    pub request_bytes: u64,
    /// The log of events and what waits to come into it; nothing when none are told.
    pub events_bytes: u64,
    /// Questions to the backend and their answers.
    pub hook_bytes: u64,
    /// What this process may use: the machine's memory, or its control group's limit when that is less.
    pub machine_bytes: u64,
}

impl MemoryPlan {
    /// Sums the plan of `config` for a machine of `machine_bytes` ([`machine_bytes`]).
    ///
    /// # Errors
    /// A fault that says which keys to lower when the plan exceeds the machine.
    pub fn new(config: &Config, machine_bytes: u64) -> Result<MemoryPlan, Fault> {
        let shards = u64::from(config.shard_count());
        let limits = &config.limits;
        let told = config.events.kinds();
        let life = if told.contains(EventKind::Disconnected) { CONNECTION_LIFE_BYTES } else { 0 };
        let each = CONNECTION_BYTES + CONNECTION_KERNEL_BYTES + life;
        let mut plan = MemoryPlan {
            connections_max: 0,
            connections_bytes: 0,
            history_bytes: limits.history_bytes_max.0,
            inbox_bytes: (limits.inbox_messages as u64).saturating_mul(INBOX_MESSAGE_BYTES * shards),
            receive_bytes: RECV_BUFFER_BYTES as u64 * u64::from(RECV_BUFFERS) * shards,
            request_bytes: request_bytes(config)
                .saturating_add(limits.http_input_bytes_max.0)
                .saturating_add(config.api_listen.map_or(0, |_| config.api.bodies_bytes_max.0)),
            events_bytes: if told.is_empty() { 0 } else { config.events.log_bytes_max.0 + EVENT_QUEUE_BYTES },
            hook_bytes: (HOOK_WAITING_BYTES + HOOK_ANSWERS_BYTES) * config.hook.len() as u64,
            machine_bytes,
        };
        let connections = match config.client.connections_max {
            // A quarter of the machine stays free for what bursts: buffers of slow readers, the page cache, others.
            0 => ((machine_bytes / 4 * 3).saturating_sub(plan.total()) / each)
                .clamp(CONNECTIONS_AUTO_MIN, CONNECTIONS_AUTO_MAX),
            connections => u64::from(connections),
        };
        plan.connections_max = u32::try_from(connections).unwrap_or(u32::MAX);
        plan.connections_bytes = connections * each;
        if plan.total() <= machine_bytes {
            return Ok(plan);
        }
        Err(Fault {
            key: "memory plan".to_string(),
            origin: Origin::Default,
            problem: format!(
                "{} exceeds the {} this process may use ({}): lower limits.history_bytes_max (now {}), \
                 client.connections_max, limits.http_requests_max, api.body_bytes_max or limits.http_input_bytes_max",
                Size(plan.total()),
                Size(machine_bytes),
                plan.parts(),
                limits.history_bytes_max,
            ),
        })
    }

    pub fn total(&self) -> u64 {
        let parts = [
            self.connections_bytes,
            self.history_bytes,
            self.inbox_bytes,
            self.receive_bytes,
            self.request_bytes,
            self.events_bytes,
            self.hook_bytes,
        ];
        parts.into_iter().fold(BASE_BYTES, u64::saturating_add)
    }

    fn parts(&self) -> String {
        format!(
            "{} connections {}, history {}, inboxes {}, receive buffers {}, requests {}, events {}, hooks {}, base {}",
            self.connections_max,
            Size(self.connections_bytes),
            Size(self.history_bytes),
            Size(self.inbox_bytes),
            Size(self.receive_bytes),
            Size(self.request_bytes),
            Size(self.events_bytes),
            Size(self.hook_bytes),
            Size(BASE_BYTES),
        )
    }
}

impl fmt::Display for MemoryPlan {
    /// One line, for the start of the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory plan: at most {} of {} ({})",
            Size(self.total()),
            Size(self.machine_bytes),
            self.parts()
        )
    }
}

/// What the bodies of requests that show an API key may weigh in all, until they are answered.
pub fn request_bytes(config: &Config) -> u64 {
    config.api.body_bytes_max.0.saturating_mul(u64::from(config.limits.http_requests_max))
}

/// Bytes this process may use: the machine's memory or its control group's limit, whichever is less.
/// Where neither can be read nothing is known to be exceeded.
pub fn machine_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of_meminfo(&text));
    let group =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min().unwrap_or(u64::MAX)
}

/// The `MemTotal` line of proc(5)'s meminfo, which counts in KiB and calls them kB.
fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { shards: 2, ..Config::default() }
    }

    #[test]
    fn the_plan_fills_the_machine_with_connections() {
        let small = MemoryPlan::new(&config(), 2 << 30).unwrap();
        assert!(small.total() <= (2u64 << 30) / 4 * 3 && small.connections_max > 100_000, "{small}");
        let large = MemoryPlan::new(&config(), 64 << 30).unwrap();
        assert_eq!(large.connections_max, 1_000_000);
        assert_eq!(large.history_bytes, 512 << 20);
        let line = large.to_string();
        assert!(line.starts_with("memory plan: at most ") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn a_plan_larger_than_the_machine_is_refused_with_what_to_lower() {
        let mut config = config();
        config.client.connections_max = 10_000_000;
        let fault = MemoryPlan::new(&config, 8 << 30).unwrap_err().to_string();
        assert!(
            fault.contains("10000000 connections") && fault.contains("client.connections_max"),
            "{fault}"
        );
        config.client.connections_max = 0;
        config.limits.history_bytes_max = Size(u64::MAX);
        assert!(MemoryPlan::new(&config, 8 << 30).is_err());
        assert!(MemoryPlan::new(&config, u64::MAX - 1).is_err());
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(total_of_meminfo("MemTotal:       24683520 kB\nMemFree: 1 kB\n"), Some(24683520 * 1024));
        for odd in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(total_of_meminfo(odd), None);
        }
        assert!(machine_bytes() > 1 << 20);
    }
}
