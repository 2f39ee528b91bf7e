//! What a shard is made with, from the configuration.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::budget::Budget;
use crate::base::debts::Debts;
use crate::base::inboxes::Inboxes;
use crate::base::rate::Rate;
use crate::base::seats::Seats;
use crate::base::secret;
use crate::base::time::Time;
use crate::base::trace::TRACEPARENT;
use crate::config::hooks::rpc_by_prefix;
use crate::config::inboxes::class_limit;
use crate::config::memory::request_bytes;
use crate::config::paths::connect_status;
use crate::config::places::Listener;
use crate::config::reload::PlacedTunnel;
use crate::config::{Config, MemoryPlan};
use crate::control;
use crate::hub::followed::StreamLimits;
use crate::hub::limits::HubLimits;
use crate::hub::places::ClassLimit;
use crate::node::layers::NodeLayers;
use crate::node::limits::{self, Room};
use crate::proto::websocket::deflate::CompressionOptions;
use crate::session::origins::AllowedOrigins;
use crate::session::token::Verifier;
use crate::session::tunnel::WaitingLimits;
use crate::shard::options::{ClientLimits, SeeingOptions, TunnelOptions};
use crate::shard::stages::StageNamespaces;
use crate::shard::user_rates::UserRates;
use crate::shard::{ClientHooks, HttpLimits, ShardOptions};

/// Time between expiry and the close, for the client to send a new token: one ping interval of the usual clients.
const EXPIRED_CLOSE_DELAY: Duration = Duration::from_secs(25);
/// How much longer than a hook call may wait and be asked a shard waits for its answer. The control plane keeps both
/// times; this is for an answer that is lost.
const HOOK_CALL_PATIENCE: Duration = Duration::from_secs(5);
/// Items that one channel keeps for those who lag, whatever they weigh: an entry costs memory of its own.
const STREAM_ITEMS_MAX: usize = 16 * 1024;

pub(super) fn client_limits(config: &Config) -> io::Result<ClientLimits> {
    let client = &config.client;
    let of_users = Rate::new(client.user_commands_per_second.into(), client.commands_burst.into());
    // As for one connection: a message of the longest kind may always come after a rest.
    let user_bytes = client.user_bytes_per_second.0;
    let of_bytes = Rate::new(user_bytes, user_bytes.saturating_add(client.message_bytes_max.0));
    let table = |rate| secret::words().map(|key| Arc::new(UserRates::new(rate, key)));
    Ok(ClientLimits {
        user_connections_max: client.user_connections_max,
        user_connections_policy: client.user_connections_policy,
        device_connections_max: client
            .device_connections_max
            .iter()
            .filter_map(|text| class_limit(text))
            .map(|(class, connections_max)| ClassLimit { class: class.into(), connections_max })
            .collect(),
        commands_per_second: client.commands_per_second,
        commands_burst: client.commands_burst,
        bytes_per_second: client.bytes_per_second.0,
        users: of_users.map(table).transpose()?,
        user_bytes: of_bytes.map(table).transpose()?,
    })
}

pub(super) fn shard_options(
    config: &Config,
    verifier: Option<Arc<Verifier>>,
    plan: &MemoryPlan,
    room: Room,
    layers: &NodeLayers,
) -> io::Result<ShardOptions> {
    let shards = config.shard_count();
    let limits = HubLimits {
        history_bytes_max: config.limits.history_bytes_max.bytes() / usize::from(shards),
        history_read_max: config.client.history_max_publication_limit,
        recovery_publications_max: config.client.recovery_max_publication_limit,
        channels_max: plan.channels_max.div_ceil(usize::from(shards)),
        client_channels_max: config
            .limits
            .client_channels_max(plan.channels_max)
            .div_ceil(usize::from(shards)),
        cursors_max: config.limits.cursors_max.div_ceil(usize::from(shards)),
        ..HubLimits::default()
    };
    let client = &config.client;
    let (namespaces, rules) = config.namespaces().split();
    let hooks = config.hook.iter().map(|hook| &hook.options);
    Ok(ShardOptions {
        listeners: config.shard_listeners().iter().map(|listener| shard_listener(listener, layers)).collect(),
        trusted: Arc::new(config.trusted()),
        namespaces: Arc::new(namespaces),
        rules: Arc::new(rules),
        hub: limits,
        streams: StreamLimits {
            channel_bytes_max: client.outbox_bytes_max.bytes(),
            channel_items_max: STREAM_ITEMS_MAX,
            shard_bytes_max: config.limits.streams_bytes_max.bytes() / usize::from(shards),
        },
        verifier,
        allow_anonymous: client.allow_anonymous,
        personal_channels: client.personal_channel.then(|| {
            match client.personal_channel_namespace.as_str() {
                "" => "".into(),
                namespace => format!("{namespace}:").into(),
            }
        }),
        inboxes: client.inbox_namespace.as_deref().map(Inboxes::new),
        tunnels: config
            .tunnel
            .iter()
            .map(|tunnel| tunnel_options(&PlacedTunnel { tunnel: tunnel.clone(), served: true }))
            .collect(),
        allowed_origins: AllowedOrigins::new(&client.allowed_origins, config.is_development())
            .map_err(io::Error::other)?,
        connections_max: room.shard_connections_max,
        seats: Seats::new(room.connections_max),
        debts: Debts::new(plan.client_buffers_bytes),
        send_buffer_bytes: client.send_buffer_bytes.bytes(),
        admission: limits::admission(&config.admission)?.map(Arc::new),
        refused_max: room.refused_max,
        channels_max: client.channels_max,
        message_bytes_max: client.message_bytes_max.bytes(),
        compression: client.compression.then(|| CompressionOptions {
            bytes_min: client.compression_min_bytes.bytes(),
            level: client.compression_level,
        }),
        outbox_bytes_max: client.outbox_bytes_max.bytes(),
        http_body_bytes_max: config.api.body_bytes_max.bytes(),
        http: HttpLimits {
            keep_alive: config.limits.http_keep_alive,
            body_timeout: config.limits.http_body_timeout,
            input: Budget::with_debts("http_input", config.limits.http_input_bytes_max.0),
            bodies: Budget::new("http_bodies", request_bytes(config)),
        },
        ping_interval: client.ping_interval,
        pong_timeout: client.pong_timeout,
        connect_timeout: client.connect_timeout,
        handshake_timeout: NodeLayers::handshake_timeout(config),
        expired_close_delay: EXPIRED_CLOSE_DELAY,
        hooks: ClientHooks {
            connect: client.connect_hook.as_deref().map(Box::from),
            refresh: client.refresh_hook.as_deref().map(Box::from),
            rpc: client.rpc_hook.as_deref().map(Box::from),
            rpc_by_prefix: rpc_by_prefix(client),
        },
        forward_headers: kept_headers(config),
        emulated_headers: config.emulated_headers().into_iter().map(Box::from).collect(),
        hook_call_patience: HOOK_CALL_PATIENCE
            + hooks.map(|hook| hook.wait_timeout + hook.timeout).max().unwrap_or_default(),
        shutdown_grace: config.shutdown.grace,
        client_limits: client_limits(config)?,
        echo: config.echo,
        client_paths: client.paths.for_shards(),
        connect_statuses: client.connect_statuses.iter().filter_map(|text| connect_status(text)).collect(),
        node_uid: Box::default(),
        events: config.events.kinds(),
        vacated_delay: config.events.vacated_delay,
        user_offline_delay: config.events.user_offline_delay,
        blocks: Arc::default(),
        seeing: SeeingOptions {
            traced: control::traces::endpoint(config).is_some(),
            ends_max: (plan.closed_kept as usize).div_ceil(usize::from(shards)),
            namespaces: StageNamespaces::new(
                config.namespace.iter().map(|namespace| namespace.name.as_str()),
            ),
        },
        version: concat!("trunkline ", env!("CARGO_PKG_VERSION")),
        wall_ms,
        thread_time,
    })
}

/// Those that hooks forward, and what traces of clients begin with.
pub(super) fn kept_headers(config: &Config) -> Vec<Box<str>> {
    let mut kept = config.forwarded_headers();
    let traced = config.traces.from_clients && control::traces::endpoint(config).is_some();
    if traced && !kept.iter().any(|name| name == TRACEPARENT) {
        kept.push(TRACEPARENT.to_owned());
    }
    kept.into_iter().map(Box::from).collect()
}

pub(super) fn shard_listener(listener: &Listener, layers: &NodeLayers) -> crate::shard::ListenerOptions {
    crate::shard::ListenerOptions {
        layer: layers.maker(listener),
        serves: listener.serves,
        proxy_protocol: listener.proxy_protocol,
        is_unix: listener.address.tcp().is_none(),
    }
}

pub(super) fn tunnel_options(PlacedTunnel { tunnel, served }: &PlacedTunnel) -> TunnelOptions {
    let options = &tunnel.options;
    let forwarded = options.forward_headers.iter().map(|name| name.to_ascii_lowercase().into_boxed_str());
    TunnelOptions {
        name: tunnel.name.as_str().into(),
        served: *served,
        forward_headers: forwarded.collect(),
        waiting: WaitingLimits {
            messages_max: options.messages_waiting_max,
            bytes_max: options.bytes_waiting_max.bytes(),
        },
        timeout: options.timeout,
    }
}

pub(super) fn wall_ms(_now: Time) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
