//! The memory plan: what the configuration allows to grow, summed, and held against the machine.

use std::fmt;

use crate::base::event::EventKind;
use crate::base::limits::{
    BACKLOG_BYTES_MAX, PARTED_BYTES_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS, UNFINISHED_HANDSHAKES_MAX,
};
use crate::base::networks::{IDLE_NETWORKS_MAX, NETWORK_BYTES};
use crate::config::fault::{Fault, SettingOrigin};
use crate::config::observe::CLOSED_BYTES;
use crate::config::sections::Config;
use crate::config::value::Size;
use crate::hub::limits::HELD_BYTES_MAX;

/// Of ours for an idle connection: its slot (128), its client's entry in the tables, a few subscriptions.
const CONNECTION_BYTES: u64 = 512;
/// The same for its keys, where it speaks TLS.
const CONNECTION_TLS_BYTES: u64 = 512;
/// Of the kernel for an idle TCP socket (socket, inode, file, dentry: 3.9 KB of slab) and its poll (330).
const CONNECTION_KERNEL_BYTES: u64 = 4_300;
/// The same for its address, and another one where proxies speak for clients, where anybody wants to know them.
const CONNECTION_ADDRESS_BYTES: u64 = 32;
/// What its shard knows of it for admission, where something is limited: its entry, in a table that has just grown.
const CONNECTION_ADMISSION_BYTES: u64 = 192;
/// Of a TLS handshake that is not finished, beside what has come of it, which counts for clients' buffers: the state of the
/// library, keys of both sides, a chain of certificates.
const HANDSHAKE_BYTES: u64 = 8 * 1024;
/// What a shard keeps to compress and inflate messages one after the other, beside the message that it works on: the states
/// of both (some 300 and 40 KiB), and scratch space.
const COMPRESSOR_BYTES: u64 = 512 * 1024;
/// What is counted of a connection for the event of its end, where that is sent.
const CONNECTION_LIFE_BYTES: u64 = 32;
/// The queue of events: 65,536 places of 144 bytes, and 32 MiB of clients' messages.
pub const EVENT_QUEUE_BYTES: u64 = 65_536 * 144 + (32 << 20);
/// A message of an inbox: its place in the queue and the ask behind it, in each of the three queues of an inbox.
const INBOX_MESSAGE_BYTES: u64 = 3 * 512;
/// Program, stacks, allocator, control plane: what a node without any client takes.
const BASE_BYTES: u64 = 32 << 20;
/// What calls that wait for one hook, and answers to it that are being read, may weigh. A thousandth of it is in use
/// while the backend keeps up: a storm of connects and answers of the greatest length are what it is for.
pub const HOOK_WAITING_BYTES: u64 = 16 << 20;
pub const HOOK_ANSWERS_BYTES: u64 = 16 << 20;
/// What shards have taken in and not yet delivered, and what they hold back to spread or gather it, payload.
const BACKLOG_BYTES: u64 = (BACKLOG_BYTES_MAX + HELD_BYTES_MAX) as u64;
/// What "a sixteenth of the machine" comes to for clients' buffers: a node that serves anybody needs the one, and nobody
/// needs more than the other.
const CLIENT_BUFFERS_MIN: u64 = 64 << 20;
const CLIENT_BUFFERS_MAX: u64 = 2 << 30;
/// Of ours for a channel: its entry at its owner, a name of the usual length, its place in the tables, and as much again for
/// tables that have just grown.
const CHANNEL_BYTES: u64 = 512;
/// What "a thirty-second of the machine" comes to for channels: fewer are a small node's, more a mistake of somebody's.
const CHANNELS_AUTO_MIN: u64 = 100_000;
const CHANNELS_AUTO_MAX: u64 = 1_000_000;
/// What "as many as fit" may come to.
const CONNECTIONS_AUTO_MAX: u64 = 1_000_000;
/// Fewer are not worth a start: "as many as fit" then ends in a refusal that names what is too large.
const CONNECTIONS_AUTO_MIN: u64 = 1_000;

/// A cursor with its part of the names.
const CURSOR_BYTES: u64 = 32;
/// What one shard may have on its way to the store (`store::QUEUE_BYTES_MAX`).
const STORE_QUEUE_BYTES: u64 = 4 << 20;

/// Bounds of what grows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Connections of this node: as configured, or as many as fit.
    pub connections_max: u32,
    pub connections_bytes: u64,
    /// Channels of this node: as configured, or what a thirty-second of the machine has room for.
    pub channels_max: usize,
    pub history_bytes: u64,
    pub inbox_bytes: u64,
    pub receive_bytes: u64,
    /// HTTP requests: bodies of the API's until they are answered, and what is kept of others.
    pub request_bytes: u64,
    /// The log of events and what waits to come into it; nothing without kinds of events.
    pub events_bytes: u64,
    /// Ends of connections that are remembered: as configured, or what a hundredth of the machine has room for.
    pub closed_kept: u32,
    pub closed_bytes: u64,
    /// Hook calls and the backend's answers.
    pub hook_bytes: u64,
    /// What clients make the node keep: unread answers, the kernel's buffers behind them, half messages, waiting commands.
    pub client_buffers_bytes: u64,
    /// What is kept of channels for subscribers that read slowly.
    pub streams_bytes: u64,
    /// What is not yet delivered, or held back.
    pub backlog_bytes: u64,
    /// Messages of tunnels on their way to the backend, and those whose client has gone.
    pub tunnel_bytes: u64,
    /// Entries of channels, without their history.
    pub channels_bytes: u64,
    /// Cursors of members; nothing where no namespace has them.
    pub cursors_bytes: u64,
    /// TLS handshakes that are not finished; nothing where no listener speaks TLS.
    pub handshakes_bytes: u64,
    /// Networks without connections that are remembered; nothing where networks are not limited.
    pub networks_bytes: u64,
    /// What compresses and inflates messages; nothing where none are.
    pub compressors_bytes: u64,
    /// What is on its way to the store, and the file that is read at the start; nothing without one.
    pub store_bytes: u64,
    /// What this process may use: the machine's memory, or its control group's limit when that is less.
    pub machine_bytes: u64,
}

impl MemoryPlan {
    /// Sums the plan of `config` for a machine of `machine_bytes` ([`Machine`](crate::config::machine::Machine)).
    ///
    /// # Errors
    /// A fault that says which keys to lower when the plan exceeds the machine.
    pub fn new(config: &Config, machine_bytes: u64) -> Result<MemoryPlan, Fault> {
        let shards = u64::from(config.shard_count());
        let limits = &config.limits;
        let kinds = config.events.kinds();
        let life = if kinds.contains(EventKind::Disconnected) { CONNECTION_LIFE_BYTES } else { 0 };
        let of = |is_there: bool, bytes: u64| if is_there { bytes } else { 0 };
        let speaks_tls = config.speaks_tls();
        let tls = of(speaks_tls, CONNECTION_TLS_BYTES);
        let address = of(config.needs_addresses(), CONNECTION_ADDRESS_BYTES);
        let (by_network, by_node) = (config.admission.limits_networks(), config.admission.limits_node());
        let admission = of(by_network || by_node, CONNECTION_ADMISSION_BYTES);
        // Each may come from a network of its own.
        let network = of(by_network, NETWORK_BYTES);
        let each = CONNECTION_BYTES + CONNECTION_KERNEL_BYTES + life + tls + address + admission + network;
        let channels_max = match limits.channels_max {
            0 => (machine_bytes / 32 / CHANNEL_BYTES).clamp(CHANNELS_AUTO_MIN, CHANNELS_AUTO_MAX) as usize,
            channels => channels,
        };
        let room = u32::try_from(machine_bytes / 100 / CLOSED_BYTES).unwrap_or(u32::MAX);
        let closed_kept = config.observe.closed_kept.min(room);
        let mut plan = MemoryPlan {
            connections_max: 0,
            channels_max,
            connections_bytes: 0,
            history_bytes: limits.history_bytes_max.0,
            inbox_bytes: (limits.inbox_messages as u64).saturating_mul(INBOX_MESSAGE_BYTES * shards),
            receive_bytes: RECV_BUFFER_BYTES as u64 * u64::from(RECV_BUFFERS) * shards,
            request_bytes: request_bytes(config)
                .saturating_add(limits.http_input_bytes_max.0)
                .saturating_add(config.api_listeners().len() as u64 * config.api.bodies_bytes_max.0),
            events_bytes: if kinds.is_empty() {
                0
            } else {
                config.events.log_bytes_max.0 + EVENT_QUEUE_BYTES
            },
            closed_kept,
            closed_bytes: u64::from(closed_kept) * CLOSED_BYTES,
            hook_bytes: (HOOK_WAITING_BYTES + HOOK_ANSWERS_BYTES) * config.hook.len() as u64,
            client_buffers_bytes: match limits.client_buffers_bytes_max.0 {
                0 => (machine_bytes / 16).clamp(CLIENT_BUFFERS_MIN, CLIENT_BUFFERS_MAX),
                bytes => bytes,
            },
            streams_bytes: limits.streams_bytes_max.0,
            backlog_bytes: BACKLOG_BYTES * shards,
            tunnel_bytes: tunnel_bytes(config, shards),
            channels_bytes: CHANNEL_BYTES.saturating_mul(channels_max as u64),
            cursors_bytes: of(
                config.namespaces().all().any(|options| options.channel.cursors),
                CURSOR_BYTES.saturating_mul(limits.cursors_max as u64),
            ),
            handshakes_bytes: of(speaks_tls, UNFINISHED_HANDSHAKES_MAX as u64 * HANDSHAKE_BYTES * shards),
            // In the table, and in the order in which they are forgotten.
            networks_bytes: of(by_network, IDLE_NETWORKS_MAX as u64 * 2 * NETWORK_BYTES),
            compressors_bytes: compressors_bytes(config, shards),
            store_bytes: of(
                config.store.path.is_some(),
                // A shard fills one while the other is written; each may be longer by an entry.
                (2 * STORE_QUEUE_BYTES + config.api.body_bytes_max.0) * shards
                    + 2 * config.store.segment_bytes.0,
            ),
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
            origin: SettingOrigin::Default,
            problem: format!(
                "{} exceeds the {} this process may use ({}): lower limits.history_bytes_max (now {}), \
                 client.connections_max, limits.http_requests_max, api.body_bytes_max, \
                 limits.http_input_bytes_max, limits.client_buffers_bytes_max, limits.streams_bytes_max or \
                 limits.channels_max",
                Size(plan.total()),
                Size(machine_bytes),
                plan.listed(),
                limits.history_bytes_max,
            ),
        })
    }

    pub fn total(&self) -> u64 {
        self.parts().into_iter().map(|(_, bytes)| bytes).fold(0, u64::saturating_add)
    }

    /// Every part of the sum and how it is called. All fields are named here: a new one cannot be forgotten.
    fn parts(&self) -> [(String, u64); 19] {
        let &MemoryPlan {
            connections_max,
            connections_bytes,
            channels_max,
            history_bytes,
            inbox_bytes,
            receive_bytes,
            request_bytes,
            events_bytes,
            closed_kept: _,
            closed_bytes,
            hook_bytes,
            client_buffers_bytes,
            streams_bytes,
            backlog_bytes,
            tunnel_bytes,
            channels_bytes,
            cursors_bytes,
            handshakes_bytes,
            networks_bytes,
            compressors_bytes,
            store_bytes,
            machine_bytes: _,
        } = self;
        [
            (format!("{connections_max} connections"), connections_bytes),
            ("history".to_string(), history_bytes),
            ("inboxes".to_string(), inbox_bytes),
            ("receive buffers".to_string(), receive_bytes),
            ("requests".to_string(), request_bytes),
            ("events".to_string(), events_bytes),
            ("ends of connections".to_string(), closed_bytes),
            ("hooks".to_string(), hook_bytes),
            ("clients' buffers".to_string(), client_buffers_bytes),
            ("slow subscribers".to_string(), streams_bytes),
            ("undelivered".to_string(), backlog_bytes),
            ("tunnels".to_string(), tunnel_bytes),
            (format!("{channels_max} channels"), channels_bytes),
            ("cursors".to_string(), cursors_bytes),
            ("TLS handshakes".to_string(), handshakes_bytes),
            ("networks".to_string(), networks_bytes),
            ("compressors".to_string(), compressors_bytes),
            ("store".to_string(), store_bytes),
            ("base".to_string(), BASE_BYTES),
        ]
    }

    fn listed(&self) -> String {
        let parts = self.parts().map(|(name, bytes)| format!("{name} {}", Size(bytes)));
        parts.join(", ")
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
            self.listed()
        )
    }
}

/// What the bodies of requests that show an API key may weigh in all, until they are answered.
pub fn request_bytes(config: &Config) -> u64 {
    config.api.body_bytes_max.0.saturating_mul(u64::from(config.limits.http_requests_max))
}

/// What each shard's compressor takes, and the longest message that it may work on.
fn compressors_bytes(config: &Config, shards: u64) -> u64 {
    if !config.client.compression {
        return 0;
    }
    let message = config.client.message_bytes_max.0.saturating_add(config.api.body_bytes_max.0);
    COMPRESSOR_BYTES.saturating_add(message).saturating_mul(shards)
}

/// Requests to backends of tunnels under way, a message in each, and the last messages of clients that have gone.
fn tunnel_bytes(config: &Config, shards: u64) -> u64 {
    if config.tunnel.is_empty() {
        return 0;
    }
    let message = config.client.message_bytes_max.0;
    let under_way = config.tunnel.iter().map(|tunnel| u64::from(tunnel.options.in_flight_max) * message);
    under_way.fold(PARTED_BYTES_MAX as u64 * shards, u64::saturating_add)
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
        assert!(small.total() <= (2u64 << 30) / 4 * 3 && small.connections_max > 20_000, "{small}");
        let large = MemoryPlan::new(&config(), 64 << 30).unwrap();
        assert_eq!(large.connections_max, 1_000_000);
        assert_eq!(large.history_bytes, 512 << 20);
        let line = large.to_string();
        assert!(line.starts_with("memory plan: at most ") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn every_budget_is_in_the_sum() {
        let base = MemoryPlan::new(&config(), 64 << 30).unwrap();
        type Change<'a> = (u64, &'a dyn Fn(&mut Config));
        let changes: [Change<'_>; 6] = [
            (CLOSED_BYTES * 900_000, &|config| config.observe.closed_kept = 1_000_000),
            (CHANNEL_BYTES * 1_000_000, &|config| config.limits.channels_max = 2_000_000),
            (1 << 30, &|config| {
                config.limits.streams_bytes_max = Size(config.limits.streams_bytes_max.0 + (1 << 30))
            }),
            ((3 << 30) - CLIENT_BUFFERS_MAX, &|config| {
                config.limits.client_buffers_bytes_max = Size(3 << 30)
            }),
            (1 << 30, &|config| {
                config.limits.history_bytes_max = Size(config.limits.history_bytes_max.0 + (1 << 30))
            }),
            (BACKLOG_BYTES, &|config| config.shards = 3),
        ];
        for (at, (more, change)) in changes.into_iter().enumerate() {
            let mut config = config();
            change(&mut config);
            let plan = MemoryPlan::new(&config, 64 << 30).unwrap();
            assert!(plan.total() >= base.total() + more, "{at}: {plan}");
        }
        assert_eq!(base.tunnel_bytes, 0);
    }

    #[test]
    fn what_only_the_edge_needs_is_in_the_sum_where_it_is_configured() {
        let base = MemoryPlan::new(&config(), 64 << 30).unwrap();
        assert_eq!((base.handshakes_bytes, base.networks_bytes, base.compressors_bytes), (0, 0, 0));
        let of = |change: &dyn Fn(&mut Config)| {
            let mut config = Config { shards: 2, ..Config::default() };
            config.client.connections_max = 1_000_000;
            change(&mut config);
            MemoryPlan::new(&config, 64 << 30).unwrap()
        };
        let more = |plan: &MemoryPlan| plan.total() - base.total();
        let million = 1_000_000;

        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let tls = of(&|config| config.listen_tls = Some(address.into()));
        assert_eq!(tls.handshakes_bytes, 2 * 4096 * HANDSHAKE_BYTES, "as many as two shards take");
        assert_eq!(more(&tls), tls.handshakes_bytes + million * CONNECTION_TLS_BYTES);

        let compressing = of(&|config| config.client.compression = true);
        assert_eq!(compressing.compressors_bytes, 2 * (COMPRESSOR_BYTES + (256 << 10) + (1 << 20)));
        assert_eq!(more(&compressing), compressing.compressors_bytes);

        let networks = of(&|config| config.admission.network_connections_max = 10);
        let each = CONNECTION_ADDRESS_BYTES + CONNECTION_ADMISSION_BYTES + NETWORK_BYTES;
        assert_eq!(networks.networks_bytes, 65_536 * 2 * NETWORK_BYTES);
        assert_eq!(more(&networks), networks.networks_bytes + million * each);

        let node = of(&|config| config.admission.unauthenticated_max = 10);
        assert_eq!((node.networks_bytes, more(&node)), (0, million * CONNECTION_ADMISSION_BYTES));
    }

    #[test]
    fn the_sum_is_that_of_the_parts_that_are_printed() {
        let plan = MemoryPlan::new(&config(), 64 << 30).unwrap();
        let line = plan.to_string();
        let sum: u64 = plan.parts().into_iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, plan.total());
        for (name, bytes) in plan.parts() {
            assert!(line.contains(&format!("{name} {}", Size(bytes))), "{name} in {line}");
        }
    }

    #[test]
    fn a_small_machine_remembers_fewer_ends() {
        let of = |machine: u64| MemoryPlan::new(&config(), machine).unwrap().closed_kept;
        assert_eq!((of(2 << 30), of(64 << 30)), (47_934, 100_000));
    }

    #[test]
    fn a_store_is_counted_where_there_is_one() {
        let without = MemoryPlan::new(&config(), 64 << 30).unwrap();
        let mut config = config();
        config.store.path = Some("/var/lib/trunkline".to_owned());
        let with = MemoryPlan::new(&config, 64 << 30).unwrap();
        assert_eq!((without.store_bytes, with.store_bytes), (0, (8 + 8 + 2 + 32) << 20));
        assert_eq!(with.total() - without.total(), with.store_bytes);
    }

    #[test]
    fn clients_buffers_follow_the_machine() {
        let of = |machine: u64| MemoryPlan::new(&config(), machine).unwrap().client_buffers_bytes;
        assert_eq!((of(2 << 30), of(16 << 30), of(u64::MAX / 2)), (128 << 20, 1 << 30, CLIENT_BUFFERS_MAX));
    }

    #[test]
    fn channels_are_counted_as_many_as_there_may_be() {
        let of = |machine: u64| MemoryPlan::new(&config(), machine).unwrap().channels_max;
        assert_eq!((of(1 << 30 | 1 << 29), of(8 << 30), of(16 << 30)), (100_000, 524_288, 1_000_000));
        let mut config = config();
        for channels in [1, 20_000, 3_000_000] {
            config.limits.channels_max = channels;
            let plan = MemoryPlan::new(&config, 64 << 30).unwrap();
            assert_eq!((plan.channels_max, plan.channels_bytes), (channels, CHANNEL_BYTES * channels as u64));
        }
        config.limits.channels_max = usize::MAX;
        let fault = MemoryPlan::new(&config, 64 << 30).unwrap_err().to_string();
        assert!(fault.contains("limits.channels_max"), "{fault}");
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
}
