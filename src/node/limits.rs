//! What the operating system grants this process: descriptors, and how many connections they are enough for.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::base::address_mask::AddressMask;
use crate::base::admission::{Admission, AdmissionLimits};
use crate::base::limits::REFUSED_CONNECTIONS_MAX;
use crate::base::networks::NetworkLimits;
use crate::base::rate::Rate;
use crate::base::secret;
use crate::config::{self, Config};
use crate::driver::choose::DriverChosen;
use crate::shard::ShardOptions;

/// Descriptors of a node without clients: standard streams, listeners, epoll and rings, connections of the API.
const OWN_DESCRIPTORS: u64 = 256;

/// The limit on open descriptors (RLIMIT_NOFILE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub limit: u64,
    /// What the soft limit was before it was raised to the hard one.
    pub raised_from: Option<u64>,
}

impl Descriptors {
    /// Raises the soft limit to the hard one, which any process may do: shells and service managers start programs
    /// with a soft limit of 1024, for those that still use select(2).
    pub fn raise() -> Descriptors {
        let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let before = getrlimit(Resource::Nofile);
        let (soft, hard) = (unlimited(before.current), unlimited(before.maximum));
        // Refused when the hard limit is above what the host allows by now (fs.nr_open): the soft one stays.
        let raised = soft < hard
            && setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })
                .is_ok();
        match raised {
            true => Descriptors { limit: hard, raised_from: Some(soft) },
            false => Descriptors { limit: soft, raised_from: None },
        }
    }
}

/// How many connections there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of the node.
    pub connections_max: u32,
    /// Of one shard.
    pub shard_connections_max: u32,
    /// Sockets of one shard: its connections, and those that are being refused.
    pub sockets_max: u32,
    /// Of these, those being refused that are waited for.
    pub refused_max: u32,
}

impl Room {
    /// For `wanted` connections and `descriptors` of this process.
    pub fn new(config: &Config, chosen: DriverChosen, wanted: u32, descriptors: u64) -> Room {
        let shards = u64::from(config.shard_count());
        // io_uring's sockets are in a table of each shard, as long as the limit; those of epoll share the limit, with
        // everything else.
        let (table, all) = match chosen {
            DriverChosen::IoUring => (descriptors, descriptors.saturating_mul(shards)),
            DriverChosen::Mio => {
                let room = descriptors.saturating_sub(own(config).min(descriptors / 2));
                (room, room)
            }
        };
        // Twice as many as are waited for: the others are closed in the tick that accepts them.
        let refused = (u64::from(REFUSED_CONNECTIONS_MAX) * 2).min(all / shards / 4).min(table / 4);
        let room = all - refused * shards;
        let connections_max = u64::from(wanted).min(room);
        // The kernel spreads connections over the listeners by hash, not evenly: a shard may hold twice its share.
        let share = (connections_max / shards).saturating_mul(2).max(1024);
        let here = share.min(connections_max).min(table - refused);
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Room {
            connections_max: number(connections_max),
            shard_connections_max: number(here),
            sockets_max: number(here + refused).max(1),
            refused_max: number(refused / 2),
        }
    }
}

/// Logs what the limits really are.
pub fn say(wanted: u32, room: Room, descriptors: Descriptors, shards: u16) {
    let Room { connections_max, .. } = room;
    let Descriptors { limit, raised_from } = descriptors;
    let raised = raised_from.map(|from| format!(", raised from {from}")).unwrap_or_default();
    if connections_max < wanted {
        tracing::warn!(
            "connections: at most {connections_max} instead of {wanted}, because the limit on open files \
             (RLIMIT_NOFILE) is {limit}{raised}: raise its hard limit (LimitNOFILE of systemd)"
        );
    } else {
        tracing::info!(
            "connections: at most {connections_max}, {shards} shards; open files: {limit}{raised}"
        );
    }
}

/// What shards share of the limits of those that come; `None` where there are none.
///
/// # Errors
/// The operating system gives no randomness.
pub fn admission(config: &config::AdmissionSettings) -> io::Result<Option<Admission>> {
    let rate = |per_second: u32, burst: u32| Rate::new(per_second.into(), burst.into());
    let prefix = |bits: u16| u8::try_from(bits).unwrap_or(u8::MAX);
    let limits = AdmissionLimits {
        network: NetworkLimits {
            prefix_ipv4: prefix(config.network_prefix_ipv4),
            prefix_ipv6: prefix(config.network_prefix_ipv6),
            connections_max: config.network_connections_max,
            unauthenticated_max: config.network_unauthenticated_max,
            connects: rate(config.network_connects_per_second, config.network_connects_burst),
        },
        connects: rate(config.connects_per_second, config.connects_burst),
        unauthenticated_max: config.unauthenticated_max,
        // As busy as can be is what is never refused.
        busy_percent_max: if config.busy_percent_max == 100 { 0 } else { config.busy_percent_max },
        retry_after_max: config.retry_after_max,
    };
    Ok(Admission::new(limits, secret::words()?))
}

/// How often the watch looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two lines in the log about one bound.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Logs, once a minute at most, that clients are refused, and gives memory back that is no longer in use. Apart from the
/// shards: they wait for neither.
///
/// # Errors
/// No thread can be started.
pub fn watch(options: &ShardOptions, mask: AddressMask) -> io::Result<()> {
    let (seats, debts) = (Arc::clone(&options.seats), Arc::clone(&options.debts));
    let admission = options.admission.clone();
    thread::Builder::new().name("limits".into()).spawn(move || {
        let mut refused = Growth::default();
        let mut failed = Growth::default();
        let mut collected = Growth::default();
        let (mut of_networks, mut of_node) = (Growth::default(), Growth::default());
        loop {
            thread::sleep(WATCH_INTERVAL);
            crate::driver::give_memory_back();
            let now = Instant::now();
            if let Some(count) = refused.report(now, seats.refused_total()) {
                let (taken, max) = (seats.taken(), seats.max());
                tracing::warn!(
                    "{count} connections answered 503: {taken} of at most {max} are there \
                     (client.connections_max, limit on open files)"
                );
            }
            if let Some(count) = collected.report(now, debts.collected_total()) {
                tracing::warn!(
                    "{count} clients closed as slow (3008): all together made this node keep more than it may \
                     ({} bytes, limits.client_buffers_bytes_max), and these the most",
                    debts.bytes_max()
                );
            }
            if let Some(admission) = &admission {
                if let Some(count) = of_networks.report(now, admission.refused_total(true)) {
                    let last = admission.refused_network().and_then(|last| mask.network(last));
                    let last = last.map(|last| format!(", the last from {last}"));
                    tracing::warn!(
                        "{count} clients answered 429{}: too many or too fast for their network \
                         (admission.network_...)",
                        last.unwrap_or_default()
                    );
                }
                if let Some(count) = of_node.report(now, admission.refused_total(false)) {
                    tracing::warn!(
                        "{count} clients answered 503: this node is busy, or they connect too fast, or too many have \
                         not shown who they are (admission.busy_percent_max, connects_per_second, unauthenticated_max)"
                    );
                }
            }
            if let Some(count) = failed.report(now, seats.accepts_failed_total()) {
                tracing::warn!(
                    "{count} times a client could not be accepted for want of descriptors or memory: \
                     newcomers wait in the kernel's queue and are tried again at once when a connection ends, \
                     else every 100 ms"
                );
            }
        }
    })?;
    Ok(())
}

/// A counter whose growth is reported at once, and then once in [`LOG_INTERVAL`] while it lasts.
#[derive(Default)]
struct Growth {
    reported: u64,
    at: Option<Instant>,
}

impl Growth {
    /// By how much `total` has grown since the last report, when one is due.
    fn report(&mut self, now: Instant, total: u64) -> Option<u64> {
        let grown = total - self.reported;
        if grown == 0 || self.at.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            return None;
        }
        self.reported = total;
        self.at = Some(now);
        Some(grown)
    }
}

/// Descriptors that are not clients': those of the node, and of its connections to backends.
fn own(config: &Config) -> u64 {
    let hooks = config.hook.iter().map(|hook| u64::from(hook.options.in_flight_max));
    let tunnels = config.tunnel.iter().map(|tunnel| u64::from(tunnel.options.in_flight_max));
    let of_each_shard = 8 + config.shard_listeners().len() as u64;
    OWN_DESCRIPTORS + of_each_shard * u64::from(config.shard_count()) + hooks.chain(tunnels).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(shards: u16, chosen: DriverChosen, wanted: u32, descriptors: u64) -> Room {
        Room::new(&Config { shards, ..Config::default() }, chosen, wanted, descriptors)
    }

    #[test]
    fn what_is_wanted_holds_for_the_node_where_descriptors_are_enough() {
        for chosen in [DriverChosen::IoUring, DriverChosen::Mio] {
            for shards in [1, 2, 4] {
                let room = room(shards, chosen, 100, 1 << 20);
                assert_eq!((room.connections_max, room.shard_connections_max), (100, 100), "{chosen:?}");
                assert_eq!((room.sockets_max, room.refused_max), (100 + 256, 128), "{chosen:?}");
            }
        }
        let large = room(4, DriverChosen::IoUring, 1_000_000, 1 << 20);
        assert_eq!((large.connections_max, large.shard_connections_max), (1_000_000, 500_000));
    }

    #[test]
    fn descriptors_bound_sockets_of_the_process_with_epoll_and_of_a_shard_with_io_uring() {
        for limit in [1, 16, 256, 1024, 4096, 100_000] {
            for shards in [1u16, 2, 8] {
                let own = own(&Config { shards, ..Config::default() });
                let mio = room(shards, DriverChosen::Mio, 1_000_000, limit);
                let refused = u64::from(mio.sockets_max - mio.shard_connections_max);
                let all = u64::from(mio.connections_max) + refused * u64::from(shards);
                assert!(all <= limit.max(u64::from(shards)) - own.min(limit / 2), "{limit} {shards} {mio:?}");
                assert!(u64::from(mio.connections_max) >= limit / 4, "{limit} {shards}: {mio:?}");
                let uring = room(shards, DriverChosen::IoUring, 1_000_000, limit);
                assert!(u64::from(uring.sockets_max) <= limit, "{limit} {shards}: {uring:?}");
                assert!(u64::from(uring.connections_max) >= limit * u64::from(shards) / 2, "{uring:?}");
            }
        }
    }

    #[test]
    fn growth_is_reported_at_once_and_then_once_a_minute() {
        let mut growth = Growth::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let totals = [(0, 0), (1, 5), (2, 6), (60, 7), (61, 8), (62, 8), (200, 8), (201, 9)];
        let reports: Vec<_> = totals.map(|(at, total)| growth.report(after(at), total)).into();
        assert_eq!(reports, [None, Some(5), None, None, Some(3), None, None, Some(1)]);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = Descriptors::raise().limit;
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, limit), (now.maximum, now.maximum.unwrap_or(u64::MAX)));
        // A second time there is nothing to raise.
        assert_eq!(Descriptors::raise(), Descriptors { limit, raised_from: None });
    }
}
