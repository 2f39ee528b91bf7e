//! The table: every key of Centrifugo that is known here, what it was called before version 6, and what becomes of it. A new
//! key is a line here, and one more in `compose.rs` where several of theirs make one of ours.

use crate::config::centrifugo::keys::Concern::{Access, Comfort, Delivery, Scale};
use crate::config::centrifugo::keys::To::{Missing, Moot, Ours, Part, Under};
use crate::session::permissions::{Grantee, PERMISSIONS};

/// What a key is about: who ignores one of the first three serves something else than what was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    Access,
    Delivery,
    Scale,
    /// Nothing that clients or the backend depend on.
    Comfort,
}

/// How a value of theirs is written in ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    Flag,
    Number,
    /// `1m30s`
    Time,
    Text,
    /// A list of texts; in the environment they stand apart by blanks.
    Texts,
    Level,
    Origins,
    /// A list of kinds of deltas, of which there is one.
    Deltas,
    /// `json` or `binary`.
    Payload,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A key of ours, and its value there while theirs is not given, if that is another than our default.
    Ours(&'static str, As, Option<&'static str>),
    /// Read where several keys make one thing: `compose.rs`.
    Part,
    /// Nothing is lost: it is always so, or means nothing here.
    Moot,
    /// A detail of what another key switches on: that one decides.
    Under,
    /// No counterpart. Values that mean nothing is wanted are fine; for all others the last text says what is the case here.
    Missing(Concern, &'static [&'static str], &'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct CentrifugoKey {
    /// Its path in version 6. All that begins with it and a dot is meant too, unless that has a row of its own.
    pub path: &'static str,
    /// Names before version 6. A `*` at the end stands for anything.
    pub old: &'static [&'static str],
    pub to: To,
}

const fn key(path: &'static str, old: &'static [&'static str], to: To) -> CentrifugoKey {
    CentrifugoKey { path, old, to }
}

const OFF: &[&str] = &["false", "0", ""];
const NOT_HERE: &str = "there is nothing like it here";
const OTHER_METRICS: &str = "only /metrics shows what the node does";
const BUFFERS: &str = "buffers have one size here";
const IN_THE_URL: &str =
    "engine.address says it: redis+cluster://, redis+sentinel://, rediss://, redis://host:port/db";
const PRESENCE: &str = "presence in Redis has one form here: a zset and a hash for each channel";
const MEMORY: &[&str] = &["memory", ""];

#[rustfmt::skip]
pub const KEYS: &[CentrifugoKey] = &[
    // The HTTP server: `compose::listeners`.
    key("http_server.address", &["address"], Part),
    key("http_server.port", &["port"], Part),
    key("http_server.internal_address", &["internal_address"], Part),
    key("http_server.internal_port", &["internal_port"], Part),
    key("http_server.tls.enabled", &["tls"], Part),
    key("http_server.tls.cert_pem", &["tls_cert_pem"], Part),
    key("http_server.tls.cert_pem_b64", &[], Part),
    key("http_server.tls.cert_pem_file", &["tls_cert"], Part),
    key("http_server.tls.key_pem", &["tls_key_pem"], Part),
    key("http_server.tls.key_pem_b64", &[], Part),
    key("http_server.tls.key_pem_file", &["tls_key"], Part),
    key("http_server.tls.client_ca_pem", &["tls_client_ca_pem"], Part),
    key("http_server.tls.client_ca_pem_b64", &[], Part),
    key("http_server.tls.client_ca_pem_file", &["tls_client_ca"], Part),
    key("http_server.tls.server_ca_pem", &["tls_root_ca", "tls_root_ca_pem"], Moot),
    key("http_server.tls.server_ca_pem_b64", &[], Moot),
    key("http_server.tls.server_ca_pem_file", &[], Moot),
    key("http_server.tls.server_name", &["tls_server_name"], Moot),
    key("http_server.tls.insecure_skip_verify", &["tls_insecure_skip_verify"], Moot),
    key("http_server.tls_external", &["tls_external"], Part),
    key("http_server.internal_tls.enabled", &[], Missing(Access, OFF, "all TLS listeners have the certificates of [tls]")),
    key("http_server.internal_tls", &[], Under),
    key("http_server.tls_autocert.enabled", &["tls_autocert"], Missing(Access, OFF, "certificates come from files: see docs/tls.md")),
    key("http_server.tls_autocert", &["tls_autocert_*"], Under),
    key("http_server.http3.enabled", &["http3"], Missing(Comfort, OFF, "clients are served by HTTP/1.1 and WebSocket")),
    key("http_server.read_header_timeout", &[], Missing(Comfort, OFF, "client.connect_timeout bounds it")),

    key("log.level", &["log_level"], Ours("log.level", As::Level, None)),
    key("log.file", &["log_file"], Missing(Comfort, OFF, "logs go to stderr")),

    key("engine.type", &["engine"], Ours("engine.kind", As::Text, None)),
    key("engine.redis.address", &["redis_address"], Ours("engine.address", As::Texts, None)),
    key("engine.redis.prefix", &["redis_prefix"], Ours("engine.prefix", As::Text, None)),
    key("engine.redis.user", &["redis_user"], Ours("engine.user", As::Text, None)),
    key("engine.redis.password", &["redis_password"], Ours("engine.password", As::Text, None)),
    key("engine.redis.connect_timeout", &["redis_connect_timeout"], Ours("engine.connect_timeout", As::Time, None)),
    key("engine.redis.io_timeout", &["redis_io_timeout"], Ours("engine.timeout", As::Time, None)),
    key("engine.redis.db", &["redis_db"], Missing(Scale, OFF, IN_THE_URL)),
    key("engine.redis.cluster_address", &["redis_cluster_address"], Missing(Scale, OFF, IN_THE_URL)),
    key("engine.redis.sentinel_address", &["redis_sentinel_address"], Missing(Scale, OFF, IN_THE_URL)),
    key("engine.redis.tls.enabled", &["redis_tls"], Missing(Scale, OFF, IN_THE_URL)),
    key("engine.redis.history_use_lists", &["redis_use_lists"], Missing(Scale, OFF, "logs are streams here")),
    key("engine.redis.presence_hash_field_ttl", &["redis_presence_hash_field_ttl"], Missing(Scale, OFF, PRESENCE)),
    key("engine.redis.presence_user_mapping", &["global_redis_presence_user_mapping"], Missing(Scale, OFF, PRESENCE)),
    key("engine.redis.presence_ttl", &["global_presence_ttl"], Missing(Scale, &["60s", "1m", "60", ""], "members are present for 60s")),
    key("engine.redis", &["redis_*"], Under),
    key("broker.type", &["broker"], Missing(Scale, MEMORY, "this node shares channels with no other")),
    key("broker.enabled", &[], Moot),
    key("broker.redis", &[], Under),
    key("broker.redisnats", &[], Under),
    key("broker.nats", &["nats_*"], Under),
    key("presence_manager.type", &[], Missing(Scale, MEMORY, "this node shares presence with no other")),
    key("presence_manager.enabled", &[], Moot),
    key("presence_manager.redis", &[], Under),
    key("map_broker.type", &[], Missing(Scale, MEMORY, "there are no map channels here")),
    key("map_broker", &[], Under),
    key("redis", &[], Under),
    key("tarantool", &["tarantool_*"], Under),

    key("client.allowed_origins", &["allowed_origins"], Ours("client.allowed_origins", As::Origins, None)),
    key("client.token.hmac_secret_key", &["token_hmac_secret_key"], Ours("client.token.hmac_secret", As::Text, None)),
    key("client.token.rsa_public_key", &["token_rsa_public_key"], Ours("client.token.rsa_public_key", As::Text, None)),
    key("client.token.ecdsa_public_key", &["token_ecdsa_public_key"], Ours("client.token.ecdsa_public_key", As::Text, None)),
    key("client.token.jwks_public_endpoint", &["token_jwks_public_endpoint"], Ours("client.token.jwks_url", As::Text, None)),
    key("client.token.audience", &["token_audience"], Ours("client.token.audience", As::Text, None)),
    key("client.token.audience_regex", &["token_audience_regex"], Ours("client.token.audience_pattern", As::Text, None)),
    key("client.token.issuer", &["token_issuer"], Ours("client.token.issuer", As::Text, None)),
    key("client.token.issuer_regex", &["token_issuer_regex"], Ours("client.token.issuer_pattern", As::Text, None)),
    key("client.token.user_id_claim", &["token_user_id_claim"], Ours("client.token.user_claim", As::Text, None)),
    key("client.token.hmac_previous_secret_key", &["token_hmac_previous_secret_key"], Part),
    key("client.token.hmac_previous_secret_key_valid_until", &["token_hmac_previous_secret_key_valid_until"], Part),
    key("client.token.jwks", &[], Missing(Access, OFF, "published keys are fetched as client.token.jwks_url says")),
    key("client.subscription_token", &["subscription_token_*", "separate_subscription_token_config"], Part),
    key("client.allow_anonymous_connect_without_token", &["allow_anonymous_connect_without_token"],
        Ours("client.allow_anonymous", As::Flag, None)),
    key("client.disallow_anonymous_connection_tokens", &["disallow_anonymous_connection_tokens"],
        Ours("client.require_user", As::Flag, None)),
    key("client.ping_interval", &["ping_interval"], Ours("client.ping_interval", As::Time, None)),
    key("client.pong_timeout", &["pong_timeout"], Ours("client.pong_timeout", As::Time, None)),
    key("client.expired_close_delay", &["client_expired_close_delay"], Missing(Access, &["25s"], "it is always 25 s")),
    key("client.expired_sub_close_delay", &["client_expired_sub_close_delay"], Missing(Access, &["25s"], "it is always 25 s")),
    key("client.stale_close_delay", &["client_stale_close_delay"], Ours("client.connect_timeout", As::Time, None)),
    key("client.channel_limit", &["client_channel_limit"], Ours("client.channels_max", As::Number, None)),
    key("client.queue_max_size", &["client_queue_max_size"], Ours("client.outbox_bytes_max", As::Number, None)),
    key("client.queue_initial_cap", &["client_queue_initial_cap"], Missing(Comfort, OFF, BUFFERS)),
    key("client.presence_update_interval", &["client_presence_update_interval"],
        Missing(Comfort, &["27s"], "presence follows connections and is not refreshed")),
    key("client.concurrency", &["client_concurrency"], Missing(Comfort, OFF, "commands of one client never wait for its other ones")),
    key("client.channel_position_check_delay", &["client_channel_position_check_delay"],
        Missing(Comfort, &["40s"], "a gap is seen at once")),
    key("client.channel_position_max_time_lag", &["client_channel_position_max_time_lag"],
        Missing(Comfort, &["0s", "0", ""], "a gap is seen at once")),
    key("client.connection_limit", &["client_connection_limit"], Ours("client.connections_max", As::Number, None)),
    key("client.user_connection_limit", &["client_user_connection_limit"], Part),
    key("client.connection_rate_limit", &["client_connection_rate_limit"], Part),
    key("client.connect_include_server_time", &["client_connect_include_server_time"],
        Missing(Comfort, OFF, "the reply to connect has no `time`")),
    key("client.history_max_publication_limit", &["client_history_max_publication_limit"],
        Ours("client.history_max_publication_limit", As::Number, None)),
    key("client.recovery_max_publication_limit", &["client_recovery_max_publication_limit"],
        Ours("client.recovery_max_publication_limit", As::Number, None)),
    key("client.insecure_skip_token_signature_verify", &["client_insecure_skip_token_signature_verify"],
        Missing(Access, OFF, "signatures are always verified")),
    key("client.user_id_http_header", &["client_user_id_http_header"],
        Missing(Access, OFF, "a user comes from a token or a hook, which can read forwarded header fields")),
    key("client.insecure", &["client_insecure"],
        Missing(Access, OFF, "set client.allow_anonymous and the permissions of channels instead")),
    key("client.subscribe_to_user_personal_channel.enabled", &["user_subscribe_to_personal"],
        Ours("client.personal_channel", As::Flag, None)),
    key("client.subscribe_to_user_personal_channel.personal_channel_namespace", &["user_personal_channel_namespace"],
        Ours("client.personal_channel_namespace", As::Text, None)),
    key("client.subscribe_to_user_personal_channel.single_connection", &["user_personal_single_connection"], Part),
    key("client.connect_code_to_unidirectional_disconnect", &["client_connect_code_to_unidirectional_disconnect"],
        Missing(Delivery, OFF, "refusals keep their codes")),
    key("client.proxy.connect", &["connect_proxy_name", "proxy_connect_endpoint", "proxy_connect_timeout"], Part),
    key("client.proxy.refresh", &["refresh_proxy_name", "proxy_refresh_endpoint", "proxy_refresh_timeout"], Part),
    key("client.rate_limit", &["client_command_rate_limit", "user_command_rate_limit", "redis_user_command_rate_limit",
        "client_error_limits"], Missing(Access, OFF, "see client.commands_per_second and client.user_commands_per_second")),
    key("client.write_delay", &["client_write_delay"], Missing(Comfort, &["0s", "0", ""], "see batch_max_delay of channels")),
    key("client.reply_without_queue", &["client_reply_without_queue"], Missing(Comfort, OFF, NOT_HERE)),
    key("client.max_messages_in_frame", &["client_max_messages_in_frame"], Missing(Comfort, OFF, NOT_HERE)),
    key("client.allowed_delta_types", &[], Missing(Delivery, OFF, NOT_HERE)),

    key("channel.without_namespace", &[], Part),
    key("channel.namespaces", &["namespaces"], Part),
    key("channel.proxy", &["proxy_subscribe_*", "proxy_publish_*", "proxy_sub_refresh_*", "proxy_state_*", "proxy_cache_empty_*"], Part),
    key("channel.history_meta_ttl", &["global_history_meta_ttl"], Part),
    key("channel.max_length", &["channel_max_length"], Ours("client.channel_name_bytes_max", As::Number, None)),
    key("channel.private_prefix", &["channel_private_prefix"], Ours("client.private_channel_prefix", As::Text, None)),
    key("channel.namespace_boundary", &["channel_namespace_boundary"], Missing(Access, &[":"], "it is always \":\"")),
    key("channel.user_boundary", &["channel_user_boundary"], Missing(Access, &["#"], "it is always \"#\"")),
    key("channel.user_separator", &["channel_user_separator"], Missing(Access, &[","], "it is always \",\"")),
    key("channel.patterns", &["channel_patterns"], Missing(Access, OFF, NOT_HERE)),

    key("rpc.proxy", &["rpc_proxy_name", "proxy_rpc_endpoint", "proxy_rpc_timeout"], Part),
    key("rpc.without_namespace", &[], Part),
    key("rpc.namespaces", &["rpc_namespaces"], Part),
    key("rpc.namespace_boundary", &["rpc_namespace_boundary"], Missing(Access, &[":"], "it is always \":\"")),
    key("rpc.ping.enabled", &["rpc_ping"], Missing(Comfort, OFF, "the backend answers every call")),
    key("rpc.ping.method", &["rpc_ping_method"], Under),
    key("proxies", &[], Part),
    key("granular_proxy_mode", &["granular_proxy_mode"], Part),
    // What holds for every proxy before version 6.
    key("proxy", &["proxy_http_headers", "proxy_grpc_metadata", "proxy_static_http_headers", "proxy_binary_encoding",
        "proxy_include_connection_meta"], Part),
    key("proxy_grpc", &["proxy_grpc_*"], Under),

    key("http_api.key", &["api_key"], Ours("api.key", As::Text, None)),
    key("http_api.disabled", &["api_disable"], Missing(Access, OFF, "the API is always served: keep its key to yourself")),
    key("http_api.handler_prefix", &["api_handler_prefix"], Missing(Delivery, &["/api"], "the API is served under /api")),
    key("http_api.error_mode", &["api_error_mode"],
        Missing(Delivery, OFF, "a caller asks for it by X-Centrifugo-Error-Mode: transport")),
    key("http_api.external", &["api_external"], Part),
    key("http_api.insecure", &["api_insecure"], Missing(Access, OFF, "the API always needs its key")),
    key("grpc_api.enabled", &["grpc_api"], Missing(Delivery, OFF, "the API speaks HTTP")),
    key("grpc_api", &["grpc_api_*"], Under),
    key("consumers", &["consumers"], Part),

    key("websocket.disabled", &["websocket_disable"], Part),
    key("websocket.handler_prefix", &["websocket_handler_prefix"], Part),
    key("websocket.compression", &["websocket_compression"], Part),
    key("websocket.compression_min_size", &["websocket_compression_min_size"], Part),
    key("websocket.compression_level", &["websocket_compression_level"], Part),
    key("websocket.compression_prepared_message_cache_size", &["websocket_compression_prepared_message_cache_size"], Moot),
    key("websocket.read_buffer_size", &["websocket_read_buffer_size"], Missing(Comfort, OFF, BUFFERS)),
    key("websocket.use_write_buffer_pool", &["websocket_use_write_buffer_pool"], Missing(Comfort, OFF, BUFFERS)),
    key("websocket.write_buffer_size", &["websocket_write_buffer_size"], Missing(Comfort, OFF, BUFFERS)),
    key("websocket.write_timeout", &["websocket_write_timeout"],
        Missing(Comfort, &["1s", "1000ms"], "a slow reader is judged by what it leaves unread")),
    key("websocket.message_size_limit", &["websocket_message_size_limit"],
        Ours("client.message_bytes_max", As::Number, Some("65536"))),

    key("sse.enabled", &["sse"], Part),
    key("sse.handler_prefix", &["sse_handler_prefix"], Part),
    key("sse.max_request_body_size", &["sse_max_request_body_size"], Under),
    key("http_stream.enabled", &["http_stream"], Part),
    key("http_stream.handler_prefix", &["http_stream_handler_prefix"], Part),
    key("http_stream.max_request_body_size", &["http_stream_max_request_body_size"], Under),
    key("emulation.handler_prefix", &["emulation_handler_prefix"], Part),
    key("emulation.max_request_body_size", &["emulation_max_request_body_size"], Under),
    key("webtransport.enabled", &["webtransport"], Missing(Delivery, OFF, NOT_HERE)),
    key("webtransport", &["webtransport_*"], Under),
    key("sockjs.enabled", &["sockjs"], Missing(Delivery, OFF, "clients without WebSocket use another transport")),
    key("sockjs", &["sockjs_*"], Under),
    key("uni_websocket.enabled", &["uni_websocket"], Part),
    key("uni_websocket.handler_prefix", &["uni_websocket_handler_prefix"], Part),
    key("uni_websocket", &["uni_websocket_*"], Under),
    key("uni_sse.enabled", &["uni_sse"], Part),
    key("uni_sse.handler_prefix", &["uni_sse_handler_prefix"], Part),
    key("uni_sse.connect_code_to_http_response", &["uni_sse_connect_code_to_http_response"], Part),
    key("uni_sse", &["uni_sse_*"], Under),
    key("uni_http_stream.enabled", &["uni_http_stream"], Part),
    key("uni_http_stream.handler_prefix", &["uni_http_stream_handler_prefix"], Part),
    key("uni_http_stream.connect_code_to_http_response", &["uni_http_stream_connect_code_to_http_response"], Part),
    key("uni_http_stream", &["uni_http_stream_*"], Under),
    key("uni_grpc.enabled", &["uni_grpc"], Missing(Delivery, OFF, "clients are served by HTTP and WebSocket")),
    key("uni_grpc", &["uni_grpc_*"], Under),
    key("init.enabled", &[], Missing(Delivery, OFF, NOT_HERE)),
    key("init", &[], Under),

    key("admin.enabled", &["admin"], Missing(Comfort, OFF, "the console is at /console of api_listen, and asks for the API key")),
    key("admin", &["admin_*"], Under),
    key("prometheus.enabled", &["prometheus"], Ours("api.centrifugo_metrics", As::Flag, None)),
    key("prometheus.handler_prefix", &["prometheus_handler_prefix"], Missing(Comfort, &["/metrics"], "it is always /metrics")),
    key("prometheus", &["channel_namespace_for_transport_messages_*"], Missing(Comfort, OFF, OTHER_METRICS)),
    key("health.enabled", &["health"], Moot),
    key("health.handler_prefix", &["health_handler_prefix"], Missing(Delivery, &["/health"], "it is always /health")),
    key("swagger.enabled", &["swagger"], Missing(Comfort, OFF, NOT_HERE)),
    key("swagger.handler_prefix", &["swagger_handler_prefix"], Under),
    key("debug.enabled", &["debug"], Missing(Comfort, OFF, NOT_HERE)),
    key("debug.handler_prefix", &["debug_handler_prefix"], Under),
    key("dev.enabled", &[], Missing(Comfort, OFF, "without a configuration there is a page at /")),
    key("opentelemetry.enabled", &["opentelemetry"], Missing(Comfort, OFF, OTHER_METRICS)),
    key("opentelemetry", &["opentelemetry_*"], Under),
    key("graphite.enabled", &["graphite"], Missing(Comfort, OFF, OTHER_METRICS)),
    key("graphite", &["graphite_*"], Under),
    key("usage_stats", &["usage_stats_disable"], Moot),
    key("node.name", &["name"], Ours("name", As::Text, None)),
    key("node.info_metrics_aggregate_interval", &["node_info_metrics_aggregate_interval"],
        Missing(Comfort, &["60s", "1m"], NOT_HERE)),
    key("shutdown.timeout", &["shutdown_timeout"], Ours("shutdown.grace", As::Time, Some("\"30s\""))),
    key("shutdown.termination_delay", &["shutdown_termination_delay"],
        Missing(Comfort, &["0s", "0", ""], "see shutdown.delay")),
    key("pid_file", &[], Missing(Comfort, OFF, NOT_HERE)),
    key("gomaxprocs", &[], Ours("shards", As::Number, None)),
    key("enable_unreleased_features", &[], Moot),

    // What only Centrifugo PRO has.
    key("license", &[], Moot),
    key("database", &[], Under),
    key("brokers", &[], Missing(Scale, OFF, NOT_HERE)),
    key("presence_managers", &[], Missing(Scale, OFF, NOT_HERE)),
    key("cache", &[], Missing(Comfort, OFF, NOT_HERE)),
    key("singleflight", &["use_singleflight"], Missing(Comfort, OFF, NOT_HERE)),
    key("clickhouse_analytics", &[], Missing(Comfort, OFF, "see the events of docs/backend.md")),
    key("user_tokens_invalidate", &[], Missing(Access, OFF, NOT_HERE)),
    key("user_block", &[], Missing(Access, OFF, NOT_HERE)),
    key("token_revoke", &[], Missing(Access, OFF, NOT_HERE)),
    key("push_notifications", &[], Missing(Delivery, OFF, NOT_HERE)),
    key("distributed_rate_limit", &[], Missing(Scale, OFF, NOT_HERE)),
    key("user_status", &[], Missing(Delivery, OFF, NOT_HERE)),
    key("state", &["state_vacated_event_delay", "partitioned_presence"], Missing(Comfort, OFF, "see events.vacated_delay")),
];

/// Options of channels, beside those that say what clients may do: these have the same names here. Paths are those of a
/// namespace, which stood without one at the top before version 6.
#[rustfmt::skip]
pub const CHANNEL_KEYS: &[CentrifugoKey] = &[
    key("presence", &[], Ours("presence", As::Flag, None)),
    key("join_leave", &[], Ours("join_leave", As::Flag, None)),
    key("force_push_join_leave", &[], Ours("force_push_join_leave", As::Flag, None)),
    key("history_size", &[], Ours("history_size", As::Number, None)),
    key("history_ttl", &[], Ours("history_ttl", As::Time, None)),
    key("history_meta_ttl", &[], Part),
    key("force_positioning", &[], Ours("force_positioning", As::Flag, None)),
    key("allow_positioning", &[], Ours("allow_positioning", As::Flag, Some("false"))),
    key("force_recovery", &[], Ours("force_recovery", As::Flag, None)),
    key("allow_recovery", &[], Ours("allow_recovery", As::Flag, Some("false"))),
    key("force_recovery_mode", &[], Ours("recovery_mode", As::Text, None)),
    key("allowed_delta_types", &[], Ours("allow_delta", As::Deltas, None)),
    // Here every publication is a delta for those who ask for deltas.
    key("delta_publish", &[], Moot),
    key("allow_tags_filter", &[], Ours("allow_tags_filter", As::Flag, None)),
    key("publication_data_format", &[], Ours("payload", As::Payload, None)),
    key("allow_user_limited_channels", &[], Ours("allow_user_limited_channels", As::Flag, None)),
    key("channel_regex", &[], Ours("channel_regex", As::Text, None)),
    key("subscribe_proxy_enabled", &["proxy_subscribe"], Part),
    key("subscribe_proxy_name", &[], Part),
    key("publish_proxy_enabled", &["proxy_publish"], Part),
    key("publish_proxy_name", &[], Part),
    key("sub_refresh_proxy_enabled", &["proxy_sub_refresh"], Part),
    key("sub_refresh_proxy_name", &[], Part),
    key("subscribe_stream_proxy_enabled", &["proxy_subscribe_stream"],
        Missing(Delivery, OFF, "a backend publishes: it does not stream")),
    key("subscribe_stream_proxy_name", &[], Under),
    key("subscribe_stream_proxy_bidirectional", &["proxy_subscribe_stream_bidirectional"], Under),
    key("subscribe_cel", &[], Missing(Access, OFF, NOT_HERE)),
    key("publish_cel", &[], Missing(Access, OFF, NOT_HERE)),
    key("presence_cel", &[], Missing(Access, OFF, NOT_HERE)),
    key("history_cel", &[], Missing(Access, OFF, NOT_HERE)),
    key("keep_latest_publication", &[], Missing(Comfort, OFF, NOT_HERE)),
    key("shared_position_sync", &[], Moot),
    key("state_events", &[], Missing(Delivery, OFF, "see events.types")),
    key("state_proxy_enabled", &["proxy_state"], Missing(Delivery, OFF, "see events.types")),
    key("state_proxy_name", &[], Under),
    key("cache_empty_proxy_enabled", &["proxy_cache_empty"], Missing(Delivery, OFF, NOT_HERE)),
    key("cache_empty_proxy_name", &[], Under),
    key("broker_name", &[], Missing(Scale, OFF, NOT_HERE)),
    key("presence_manager_name", &[], Missing(Scale, OFF, NOT_HERE)),
];

/// What the proxy of one event has.
#[rustfmt::skip]
pub const PROXY_KEYS: &[CentrifugoKey] = &[
    key("endpoint", &[], Part),
    key("timeout", &[], Ours("timeout", As::Time, None)),
    key("http_headers", &["proxy_http_headers"], Ours("forward_headers", As::Texts, None)),
    key("emulated_headers", &[], Part),
    key("grpc_metadata", &["proxy_grpc_metadata"], Moot),
    key("binary_encoding", &["proxy_binary_encoding"], Ours("binary_encoding", As::Flag, None)),
    key("include_connection_meta", &["proxy_include_connection_meta"], Ours("include_connection_meta", As::Flag, None)),
    key("http.static_headers", &["static_http_headers", "proxy_static_http_headers"], Part),
    key("http.status_to_code_transforms", &[], Part),
    key("http.tls.enabled", &[], Moot),
    key("http.tls.server_ca_pem_file", &[], Ours("ca_file", As::Text, None)),
    key("http.tls", &[], Missing(Access, OFF, "a hook's endpoint has the authorities of ca_file, and is shown no certificate")),
    key("grpc", &["grpc_*"], Under),
];

pub const fn part(path: &'static str) -> CentrifugoKey {
    CentrifugoKey { path, old: &[], to: Part }
}

/// What calls have, with a namespace and without.
pub const RPC_KEYS: [CentrifugoKey; 2] = [
    part("proxy_enabled"),
    // Before version 6 a name was all there was.
    CentrifugoKey { path: "proxy_name", old: &["rpc_proxy_name"], to: Part },
];

/// The rows of a channel's options, those of permissions made from our own table.
pub fn channel_keys() -> Vec<CentrifugoKey> {
    let permissions = PERMISSIONS.iter().map(|permission| {
        // Theirs are all off; ours for clients without a user depend on another setting.
        let unset = (permission.who == Grantee::Anonymous).then_some("false");
        key(permission.key, &[], Ours(permission.key, As::Flag, unset))
    });
    CHANNEL_KEYS.iter().copied().chain(permissions).collect()
}

/// The row that `path` of version 6 belongs to: its own, or the closest above.
pub fn find<'k>(keys: &'k [CentrifugoKey], path: &str) -> Option<&'k CentrifugoKey> {
    let mut above = Some(path);
    while let Some(path) = above {
        if let Some(key) = keys.iter().find(|key| key.path == path) {
            return Some(key);
        }
        above = path.rsplit_once('.').map(|(above, _)| above);
    }
    None
}

/// The row of a name before version 6: the one that writes it out, else one whose star covers it.
pub fn find_old<'k>(keys: &'k [CentrifugoKey], name: &str) -> Option<&'k CentrifugoKey> {
    let whole = keys.iter().find(|key| key.old.contains(&name));
    whole.or_else(|| {
        let covers = |old: &&str| old.strip_suffix('*').is_some_and(|start| name.starts_with(start));
        keys.iter().find(|key| key.old.iter().any(&covers))
    })
}

/// Whether rows stand below `path`.
pub fn is_section(keys: &[CentrifugoKey], path: &str) -> bool {
    keys.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}
