//! Configurations as Centrifugo's documents show them, and what they come to here.

use std::collections::BTreeSet;

use super::*;
use crate::config::Config;
use crate::config::load;
use crate::hub::options::RecoveryMode;
use crate::telemetry::LogLevel;

fn sources(name: &str, text: &str) -> CentrifugoSources {
    CentrifugoSources { file: (name.to_string(), text.to_string()), ..CentrifugoSources::default() }
}

fn import_of(name: &str, text: &str) -> Imported {
    import(&sources(name, text)).unwrap_or_else(|faults| panic!("{name}: {faults:#?}"))
}

/// What the text that was made comes to.
fn loaded(imported: &Imported) -> Config {
    let file = Some(("made.toml".to_string(), imported.text.clone()));
    let loaded = load::load(&load::Sources { file, ..load::Sources::default() });
    loaded.unwrap_or_else(|faults| panic!("{faults:#?}\n{}", imported.text)).config
}

fn refused(sources: &CentrifugoSources) -> Vec<String> {
    match import(sources) {
        Ok(imported) => panic!("is taken:\n{}", imported.text),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

fn with_environment(mut sources: CentrifugoSources, pairs: &[(&str, &str)]) -> CentrifugoSources {
    sources.environment = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    sources
}

/// The configuration that `centrifugo genconfig` writes, of version 5 and of version 6, in all three formats.
#[test]
fn a_generated_file_means_the_same_in_both_versions_and_all_formats() {
    let five = [
        (
            "config.json",
            "{\n  \"allowed_origins\": [\"http://localhost:3000\"],\n  \"token_hmac_secret_key\": \"secret of tokens, long\",\n  \
             \"api_key\": \"key of the api, long\",\n  \"log_level\": \"debug\"\n}",
        ),
        (
            "config.toml",
            "allowed_origins = [ \"http://localhost:3000\" ]\ntoken_hmac_secret_key = \"secret of tokens, long\"\n\
             api_key = \"key of the api, long\"\nlog_level = \"debug\"\n",
        ),
        (
            "config.yaml",
            "allowed_origins:\n  - \"http://localhost:3000\"\ntoken_hmac_secret_key: \"secret of tokens, long\"\n\
             api_key: \"key of the api, long\"\nlog_level: debug\n",
        ),
    ];
    let six = [
        (
            "config.json",
            "{\"client\": {\"token\": {\"hmac_secret_key\": \"secret of tokens, long\"}, \"allowed_origins\": \
             [\"http://localhost:3000\"]}, \"http_api\": {\"key\": \"key of the api, long\"}, \"log\": {\"level\": \"debug\"}}",
        ),
        (
            "config.toml",
            "[client]\nallowed_origins = [\"http://localhost:3000\"]\n[client.token]\n\
             hmac_secret_key = \"secret of tokens, long\"\n[http_api]\nkey = \"key of the api, long\"\n[log]\nlevel = \"debug\"\n",
        ),
        (
            "config.yaml",
            "client:\n  allowed_origins: [\"http://localhost:3000\"]\n  token:\n    hmac_secret_key: secret of tokens, long\n\
             http_api:\n  key: key of the api, long\nlog:\n  level: debug\n",
        ),
    ];
    let model = loaded(&import_of(five[0].0, five[0].1));
    assert_eq!(model.client.allowed_origins, ["http://localhost:3000"]);
    assert_eq!(model.client.token.hmac_secret.as_ref().unwrap().reveal(), "secret of tokens, long");
    assert_eq!(model.api.key.as_ref().unwrap().reveal(), "key of the api, long");
    assert_eq!(model.log.level, LogLevel::Debug);
    for (name, text) in five.iter().chain(&six) {
        let imported = import_of(name, text);
        assert_eq!(loaded(&imported), model, "{name}: {text}");
        assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    }
}

#[test]
fn their_defaults_are_carried_over_where_ours_differ() {
    let config = loaded(&import_of(
        "c.json",
        "{\"http_api\": {\"key\": \"key of the api, long\"}, \"client\": {\"token\": \
        {\"hmac_secret_key\": \"secret of tokens, long\"}}, \"channel\": {\"namespaces\": [{\"name\": \"n\"}]}}",
    ));
    assert_eq!(config.listen.addresses().next().unwrap().to_string(), "[::]:8000");
    assert_eq!(config.client.message_bytes_max.0, 65_536);
    assert_eq!(config.shutdown.grace.as_secs(), 30);
    assert_eq!((config.client.commands_per_second, config.client.token.leeway.as_secs()), (0, 0));
    for options in [&config.channel, &config.namespace[0].options] {
        assert!(!options.rules.allow_positioning && !options.rules.allow_recovery);
        for (at, permission) in crate::session::permissions::PERMISSIONS.iter().enumerate() {
            assert_eq!(options.rules.permissions.row(at), Some(false), "{}", permission.key);
        }
    }
}

/// A chat with a namespace, a proxy that is asked about connections, and a port for the backend.
#[test]
fn a_whole_configuration_of_version_6_comes_over() {
    let text = "
http_server:
  address: 127.0.0.1
  port: 8000
  internal_port: 9000
client:
  allowed_origins: ['https://*.example.com', '*.other.example']
  ping_interval: 20s
  pong_timeout: 5000ms
  stale_close_delay: 15s
  channel_limit: 64
  queue_max_size: 2097152
  connection_limit: 1000
  user_connection_limit: 5
  connection_rate_limit: 100
  token:
    hmac_secret_key: secret of tokens, long
    audience: chat
  subscription_token:
    enabled: true
    hmac_secret_key: another secret, long
  subscribe_to_user_personal_channel:
    enabled: true
    personal_channel_namespace: chat
  proxy:
    connect:
      enabled: true
      endpoint: http://127.0.0.1:3000/connect
      timeout: 2s
      http_headers: [Cookie, X-Request-Id]
      http:
        static_headers: {X-Node: one}
        status_to_code_transforms:
          - status_code: 404
            to_error: {code: 404, message: not found, temporary: true}
          - status_code: 403
            to_disconnect: {code: 4501, reason: go away}
channel:
  max_length: 100
  proxy:
    subscribe: {endpoint: 'http://127.0.0.1:3000/subscribe'}
  without_namespace: {history_size: 10, history_ttl: 1m}
  namespaces:
    - name: chat
      presence: true
      join_leave: true
      history_size: 100
      history_ttl: 300s
      history_meta_ttl: 48h
      allow_recovery: true
      force_recovery: true
      force_recovery_mode: cache
      allowed_delta_types: [fossil]
      allow_subscribe_for_client: true
      allow_user_limited_channels: true
      subscribe_proxy_enabled: true
      publish_proxy_enabled: true
      publish_proxy_name: censor
proxies:
  - name: censor
    endpoint: http://127.0.0.1:3000/censor
    binary_encoding: true
    include_connection_meta: true
websocket: {compression: true, message_size_limit: 131072}
http_api: {key: 'key of the api, long'}
node: {name: chat-1}
shutdown: {timeout: 10s}
";
    let imported = import_of("c.yaml", text);
    let config = loaded(&imported);
    assert_eq!(config.listen.addresses().next().unwrap().to_string(), "127.0.0.1:8000");
    assert_eq!(config.api_listen.unwrap().to_string(), "127.0.0.1:9000");
    let client = &config.client;
    assert_eq!(client.allowed_origins, ["https://*.example.com", "*://*.other.example"]);
    assert_eq!((client.ping_interval.as_secs(), client.pong_timeout.as_secs()), (20, 5));
    assert_eq!((client.connect_timeout.as_secs(), client.channels_max), (15, 64));
    assert_eq!((client.outbox_bytes_max.0, client.message_bytes_max.0), (2 << 20, 131_072));
    assert_eq!((client.connections_max, client.user_connections_max), (1000, 5));
    assert_eq!((config.admission.connects_per_second, config.admission.connects_burst), (100, 100));
    assert_eq!(client.token.audience.as_deref(), Some("chat"));
    assert_eq!(client.subscription_token.hmac_secret.as_ref().unwrap().reveal(), "another secret, long");
    assert!(client.personal_channel && client.personal_channel_namespace == "chat");
    assert_eq!((client.compression, client.compression_level, client.compression_min_bytes.0), (true, 1, 0));
    assert_eq!((client.channel_name_bytes_max, &*config.name), (100, "chat-1"));
    assert_eq!(config.shutdown.grace.as_secs(), 10);
    let hook = |name: &str| &config.hook.iter().find(|hook| hook.name == name).unwrap().options;
    let connect = hook(client.connect_hook.as_deref().unwrap());
    assert_eq!((connect.endpoint.as_str(), connect.timeout.as_secs()), ("http://127.0.0.1:3000/connect", 2));
    assert_eq!(connect.forward_headers, ["Cookie", "X-Request-Id"]);
    assert_eq!(connect.static_headers[0].reveal(), "x-node: one");
    assert_eq!(connect.status_codes, ["404=404:not found:temporary", "403=4501:go away"]);
    let chat = &config.namespace[0].options;
    assert_eq!((chat.channel.history_size, chat.channel.history_ttl.as_secs()), (100, 300));
    assert_eq!(chat.channel.history_meta_ttl.as_secs(), 48 * 3600);
    assert!(chat.channel.presence && chat.channel.join_leave && chat.rules.force_recovery);
    assert!(chat.channel.recovery_mode == RecoveryMode::Cache && chat.rules.allow_delta);
    assert!(chat.rules.allow_recovery && chat.rules.allow_user_limited_channels);
    assert_eq!(
        hook(chat.rules.subscribe_hook.as_deref().unwrap()).endpoint,
        "http://127.0.0.1:3000/subscribe"
    );
    let censor = hook(chat.rules.publish_hook.as_deref().unwrap());
    assert!(censor.binary_encoding && censor.include_connection_meta);
    assert_eq!(chat.rules.sub_refresh_hook, None);
    assert_eq!(config.channel.channel.history_size, 10);
    for line in [
        "channels_max = 64  # c.yaml:11: client.channel_limit",
        "message_bytes_max = 131072  # c.yaml:64: websocket.message_size_limit",
        "grace = \"10s\"  # c.yaml:67: shutdown.timeout",
        "allow_positioning = false  # default of allow_positioning",
    ] {
        assert!(imported.text.lines().any(|found| found == line), "{line}\n{}", imported.text);
    }
}

/// Before version 6: one endpoint for each event, and what holds for all of them.
#[test]
fn proxies_of_version_5_come_over() {
    let flat = "{\"proxy_connect_endpoint\": \"http://b/connect\", \"proxy_connect_timeout\": \"3s\", \
                \"proxy_rpc_endpoint\": \"http://b/rpc\", \"proxy_publish_endpoint\": \"http://b/publish\", \
                \"proxy_http_headers\": [\"Cookie\"], \"proxy_static_http_headers\": {\"X-A\": \"${CENTRIFUGO_VAR_A}\"}, \
                \"api_key\": \"key of the api, long\", \"namespaces\": [{\"name\": \"n\", \"proxy_publish\": true}]}";
    let flat = with_environment(sources("c.json", flat), &[("CENTRIFUGO_VAR_A", "b")]);
    let config = loaded(&import(&flat).unwrap());
    let hook = |name: &Option<String>| {
        let name = name.as_deref().unwrap();
        config.hook.iter().find(|hook| hook.name == name).unwrap().options.clone()
    };
    let connect = hook(&config.client.connect_hook);
    assert_eq!((connect.endpoint.as_str(), connect.timeout.as_secs()), ("http://b/connect", 3));
    assert_eq!(
        (connect.forward_headers, connect.static_headers[0].reveal()),
        (vec!["Cookie".into()], "x-a: b")
    );
    assert_eq!(hook(&config.client.rpc_hook).endpoint, "http://b/rpc");
    assert_eq!(hook(&config.namespace[0].options.rules.publish_hook).endpoint, "http://b/publish");
    assert_eq!(config.client.refresh_hook, None);

    let granular = "{\"granular_proxy_mode\": true, \"connect_proxy_name\": \"a\", \"api_key\": \"key of the api, long\", \
                    \"subscribe_proxy_name\": \"b\", \"proxies\": [{\"name\": \"a\", \"endpoint\": \"http://a\"}, \
                    {\"name\": \"b\", \"endpoint\": \"http://b\", \"static_http_headers\": {\"X-A\": \"b\"}}]}";
    let config = loaded(&import_of("c.json", granular));
    assert_eq!(config.client.connect_hook.as_deref(), Some("a"));
    assert_eq!(config.channel.rules.subscribe_hook.as_deref(), Some("b"));
    assert_eq!(config.hook[1].options.static_headers[0].reveal(), "x-a: b");
}

/// Most transports are off there and on here: what is off has no path.
#[test]
fn transports_are_served_as_they_were() {
    let secret = "http_api: {key: 'key of the api, long'}\nclient: {token: {hmac_secret_key: 'secret of tokens, long'}}\n";
    let paths = |text: &str| {
        let config = loaded(&import_of("c.yaml", &format!("{secret}{text}")));
        let paths = config.client.paths.clone();
        (config.client.connect_statuses, paths)
    };
    let (_, quiet) = paths("");
    assert_eq!(quiet.websocket, "/connection/websocket");
    for off in [
        quiet.http_stream,
        quiet.sse,
        quiet.emulation,
        quiet.uni_websocket,
        quiet.uni_http_stream,
        quiet.uni_sse,
    ] {
        assert_eq!(off, "");
    }
    let text = "websocket: {handler_prefix: /rt}\nsse: {enabled: true}\nemulation: {handler_prefix: /rt/up}\n\
                uni_sse:\n  enabled: true\n  handler_prefix: /rt/listen\n  connect_code_to_http_response:\n    enabled: true\n    \
                transforms: [{code: 3507, to: {status_code: 403}}, {code: 109, to: {status_code: 401}}]\n";
    let (statuses, some) = paths(text);
    assert_eq!((some.websocket.as_str(), some.sse.as_str()), ("/rt", "/connection/sse"));
    assert_eq!((some.emulation.as_str(), some.uni_sse.as_str()), ("/rt/up", "/rt/listen"));
    assert_eq!((some.http_stream.as_str(), some.uni_http_stream.as_str()), ("", ""));
    assert_eq!(statuses, ["3507=403", "109=401"]);
    let (_, old) = paths("http_stream: true\nuni_http_stream: true\nwebsocket_disable: true\n");
    assert_eq!((old.http_stream.as_str(), old.emulation.as_str()), ("/connection/http_stream", "/emulation"));
    assert_eq!((old.uni_http_stream.as_str(), old.websocket.as_str()), ("/connection/uni_http_stream", ""));
    let bodies = "uni_sse_connect_code_to_http_response:\n  enabled: true\n  transforms: [{code: 109, to: {status_code: 401, body: x}}]\n";
    let imported = import_of("c.yaml", bodies);
    assert!(imported.warnings[0].contains("to.body is ignored"), "{:?}", imported.warnings);
    let wrong = refused(&sources("c.yaml", &bodies.replace("code: 109, ", "")));
    assert!(wrong[0].contains("lacks a code or a status"), "{wrong:?}");
}

/// Rules of access that are more than a name and a secret.
#[test]
fn rules_of_access_come_over() {
    let text = "
client:
  disallow_anonymous_connection_tokens: true
  token:
    hmac_secret_key: secret of tokens, long
    hmac_previous_secret_key: the one of before, long
    hmac_previous_secret_key_valid_until: 1704240000
    audience_regex: ^app-
    issuer_regex: ^https://
    user_id_claim: user_id
  subscription_token: {enabled: true, hmac_secret_key: a third secret of tokens, hmac_previous_secret_key: another of before}
channel:
  namespaces: [{name: room, channel_regex: '^[0-9]+$'}]
rpc:
  proxy: {endpoint: 'http://b/rpc'}
  without_namespace: {proxy_enabled: true}
  namespaces:
    - {name: chat, proxy_enabled: true, proxy_name: chat}
    - {name: closed}
proxies: [{name: chat, endpoint: 'http://b/chat'}]
http_api: {key: 'key of the api, long'}
";
    let config = loaded(&import_of("c.yaml", text));
    let client = &config.client;
    assert!(client.require_user && !config.api.centrifugo_metrics);
    let further: Vec<_> = client.token.further_secrets().map(Result::unwrap).collect();
    assert_eq!(further, [(b"the one of before, long".to_vec(), Some(1_704_240_000))]);
    let further: Vec<_> = client.subscription_token.further_secrets().map(Result::unwrap).collect();
    assert_eq!(further, [(b"another of before".to_vec(), None)]);
    let pattern =
        |pattern: &Option<crate::base::pattern::Pattern>| pattern.as_ref().unwrap().text().to_string();
    assert_eq!(pattern(&client.token.audience_pattern), "^app-");
    assert_eq!(pattern(&client.token.issuer_pattern), "^https://");
    assert_eq!(client.token.user_claim, "user_id");
    assert_eq!(pattern(&config.namespace[0].options.rules.channel_regex), "^[0-9]+$");
    assert_eq!(client.rpc_hook.as_deref(), Some("rpc.proxy"));
    assert_eq!(client.rpc_hooks, ["chat:=chat", "closed:="]);
}

/// The arguments and variables that the Helm chart starts Centrifugo with.
#[test]
fn the_arguments_of_the_helm_chart() {
    let line = "trunkline --centrifugo /centrifugo/config.json --health --prometheus --port 8000 --internal_port 9000 \
                --grpc_api --grpc_api_port 10000 --uni_grpc_port 11000";
    let of = |line: &str| split(line.split_whitespace().map(std::ffi::OsString::from).collect()).unwrap();
    let (ours, flags) = of(line);
    assert_eq!(ours.len(), 3, "{ours:?}");
    let secrets = [
        ("CENTRIFUGO_ADMIN_PASSWORD", "p"),
        ("CENTRIFUGO_ADMIN_SECRET", "s"),
        ("CENTRIFUGO_TOKEN_HMAC_SECRET_KEY", "secret of tokens, long"),
        ("CENTRIFUGO_API_KEY", "key of the api, long"),
        ("CENTRIFUGO_GRPC_API_KEY", ""),
        ("CENTRIFUGO_PORT", "tcp://10.0.0.1:8000"),
        ("CENTRIFUGO_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("CENTRIFUGO_SERVICE_HOST", "10.0.0.1"),
    ];
    let chart =
        CentrifugoSources { flags, ..with_environment(sources("/centrifugo/config.json", "{}"), &secrets) };
    let faults = refused(&chart);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("flag --grpc_api: grpc_api: has no counterpart"), "{faults:?}");
    assert!(faults[0].contains("--allow-missing grpc_api"), "{faults:?}");
    for name in ["grpc_api", "grpc_api.enabled"] {
        let allowed = BTreeSet::from([name.to_string()]);
        let config = loaded(&import(&CentrifugoSources { allowed, ..chart.clone() }).unwrap());
        assert_eq!(config.listen.addresses().next().unwrap().to_string(), "[::]:8000");
        assert_eq!(config.api_listen.unwrap().to_string(), "[::]:9000");
        assert!(config.api.centrifugo_metrics, "of --prometheus");
        assert_eq!(config.api.key.as_ref().unwrap().reveal(), "key of the api, long");
        assert_eq!(config.client.token.hmac_secret.as_ref().unwrap().reveal(), "secret of tokens, long");
    }
    let (_, flags) =
        of("trunkline --centrifugo c.json --health.enabled --http_server.port=8001 --http_api.external");
    let six = CentrifugoSources { flags, ..chart };
    let six = with_environment(
        six,
        &[
            ("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", "secret of tokens, long"),
            ("CENTRIFUGO_HTTP_API_KEY", "key of the api, long"),
            ("CENTRIFUGO_HTTP_SERVER_INTERNAL_PORT", "9000"),
        ],
    );
    let config = loaded(&import(&six).unwrap());
    let places: Vec<_> = config.listeners().iter().map(|at| (at.address.to_string(), at.serves)).collect();
    use crate::base::address::Serves;
    assert_eq!(places, [("[::]:8001".into(), Serves::Both), ("[::]:9000".into(), Serves::Api)]);
}

#[test]
fn variables_set_what_a_file_sets_and_are_stronger() {
    let file = "channel:\n  namespaces:\n    - name: my-chat\n      history_size: 1\n      history_ttl: 1m\n";
    let variables = [
        ("CENTRIFUGO_HTTP_API_KEY", "key of the api, long"),
        ("CENTRIFUGO_CLIENT_ALLOWED_ORIGINS", "https://a.example https://b.example"),
        ("CENTRIFUGO_CHANNEL_NAMESPACES_MY_CHAT_HISTORY_SIZE", "7"),
        ("CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_PRESENCE", "1"),
        ("CENTRIFUGO_CLIENT_PROXY_CONNECT_ENABLED", "true"),
        ("CENTRIFUGO_CLIENT_PROXY_CONNECT_ENDPOINT", "http://b/connect"),
        ("CENTRIFUGO_CLIENT_PROXY_CONNECT_HTTP_STATIC_HEADERS", "{\"X-A\": \"b\"}"),
        ("CENTRIFUGO_ENGINE_REDIS_ADDRESS", "redis://r"),
    ];
    let config = loaded(&import(&with_environment(sources("c.yaml", file), &variables)).unwrap());
    assert_eq!(config.client.allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.namespace[0].options.channel.history_size, 7);
    assert!(config.channel.channel.presence);
    assert_eq!(config.hook[0].options.endpoint, "http://b/connect");
    assert_eq!(config.hook[0].options.static_headers[0].reveal(), "x-a: b");
    let lists = [
        ("CENTRIFUGO_NAMESPACES", "[{\"name\": \"a\", \"presence\": true}, {\"name\": \"b\"}]"),
        ("CENTRIFUGO_API_KEY", "key of the api, long"),
        ("CENTRIFUGO_TOKEN_HMAC_SECRET_KEY", "secret of tokens, long"),
    ];
    let config = loaded(&import(&with_environment(sources("/dev/null", ""), &lists)).unwrap());
    assert!(config.namespace[0].options.channel.presence && config.namespace[1].name == "b");
    let unknown = with_environment(sources("/dev/null", ""), &[("CENTRIFUGO_CLIENT_CHANEL_LIMIT", "1")]);
    assert!(
        refused(&unknown)[0].contains("CENTRIFUGO_CLIENT_CHANEL_LIMIT: is no key"),
        "{:?}",
        refused(&unknown)
    );
}

/// Nothing that controls access, delivery or scale is ignored.
#[test]
fn what_has_no_counterpart_is_refused_by_its_name_and_line() {
    for (text, named) in [
        (
            "{\"client\": {\n\"insecure\": true}}",
            "c.json:2: client.insecure: has no counterpart, and is about who may do what",
        ),
        ("{\"client_insecure\": true}", "client_insecure"),
        (
            "{\"client\": {\"token\": {\"jwks_public_endpoint\": \"https://a.example/{{realm}}\"}}}",
            "client.token.jwks_public_endpoint",
        ),
        ("{\"client\": {\"user_id_http_header\": \"X-User\"}}", "client.user_id_http_header"),
        ("{\"http_api\": {\"insecure\": true}}", "http_api.insecure"),
        ("{\"channel\": {\"user_boundary\": \"@\"}}", "channel.user_boundary"),
        (
            "{\"channel\": {\"namespaces\": [{\"name\": \"n\", \"subscribe_cel\": \"x\"}]}}",
            "channel.namespaces.n.subscribe_cel",
        ),
        (
            "{\"engine\": {\"type\": \"redis\", \"redis\": {\"cluster_address\": \"r:1\"}}}",
            "engine.redis.cluster_address: has no counterpart, and is about how far it scales",
        ),
        ("{\"engine\": \"redis\", \"redis_use_lists\": true}", "redis_use_lists"),
        ("{\"broker\": \"nats\"}", "broker"),
        (
            "{\"grpc_api\": {\"enabled\": true, \"port\": 1}}",
            "grpc_api.enabled: has no counterpart, and is about what is delivered",
        ),
        ("{\"consumers\": [{\"name\": \"k\", \"enabled\": true, \"type\": \"kafka\"}]}", "consumers.k"),
        ("{\"user_block\": {\"enabled\": true}}", "user_block.enabled"),
        ("{\"proxies\": [{\"name\": \"p\", \"endpoint\": \"grpc://b\"}]}", "proxies.p.endpoint"),
        (
            "{\"proxies\": [{\"name\": \"p\", \"endpoint\": \"https://b\", \"http\": {\"tls\": {\"insecure_skip_verify\": true}}}]}",
            "proxies.p.http.tls.insecure_skip_verify",
        ),
        (
            "{\"http_server\": {\"tls\": {\"enabled\": true, \"cert_pem\": \"-----BEGIN\"}}}",
            "http_server.tls.cert_pem",
        ),
        ("{\"no_such_key\": 1}", "no_such_key: is no key of Centrifugo that is known here"),
        ("{\"client\": {\"no_such\": {\"key\": 1}}}", "client.no_such"),
        ("{\"channel\": {\"without_namespace\": {\"no_such\": 1}}}", "channel.without_namespace.no_such"),
    ] {
        let faults = refused(&sources("c.json", text));
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].contains(named), "{text}: {faults:?}");
        let name = faults[0].rsplit_once("--allow-missing ").unwrap().1.to_string();
        let imported =
            import(&CentrifugoSources { allowed: BTreeSet::from([name]), ..sources("c.json", text) })
                .unwrap();
        assert_eq!(imported.warnings.len(), 1, "{text}: {:?}", imported.warnings);
        assert!(imported.warnings[0].contains("as --allow-missing says"), "{:?}", imported.warnings);
        assert!(imported.text.contains("# warning: "));
    }
}

#[test]
fn what_nobody_depends_on_is_a_warning() {
    for text in [
        "{\"admin\": {\"enabled\": true, \"password\": \"p\", \"secret\": \"s\"}}",
        "{\"admin\": true, \"admin_password\": \"p\"}",
        "{\"log\": {\"file\": \"/var/log/c\"}}",
        "{\"graphite\": {\"enabled\": true, \"host\": \"h\"}}",
        "{\"websocket\": {\"write_timeout\": \"5s\"}}",
        "{\"client\": {\"subscription_token\": {\"hmac_secret_key\": \"unused\"}}}",
    ] {
        let imported = import_of("c.json", text);
        assert_eq!(imported.warnings.len(), 1, "{text}: {:?}", imported.warnings);
    }
    // What is off, or as it always is here, is not even that.
    let quiet = "{\"grpc_api\": {\"enabled\": false, \"port\": 10000}, \"engine\": {\"type\": \"memory\"}, \"usage_stats\": \
                 {\"disabled\": true}, \"sse\": {\"enabled\": false}, \"channel\": {\"user_boundary\": \"#\"}, \"health\": true}";
    assert!(import_of("c.json", quiet).warnings.is_empty());
    let unneeded =
        CentrifugoSources { allowed: BTreeSet::from(["grpc_api".to_string()]), ..sources("c.json", quiet) };
    assert_eq!(import(&unneeded).unwrap().warnings, ["--allow-missing grpc_api: it is not missing"]);
}

#[test]
fn a_wrong_value_is_a_fault_of_its_key_and_line() {
    let text = "client:\n  channel_limit: many\n  ping_interval: 25\n  token: {hmac_secret_key: [1]}\n\
                channel:\n  namespaces:\n    - {name: n, presence: maybe}\n    - {name: m, subscribe_proxy_enabled: true}\n";
    let faults = refused(&sources("c.yaml", text));
    for named in [
        "c.yaml:2: client.channel_limit: \"many\" is not a whole number",
        "c.yaml:3: client.ping_interval: is not a duration",
        "c.yaml:4: client.token.hmac_secret_key: is not a text",
        "c.yaml:7: channel.namespaces.n.presence: \"maybe\" is neither",
        "c.yaml:8: channel.namespaces.m.subscribe_proxy_enabled: asks a proxy, and channel.proxy.subscribe.endpoint is not set",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(named)), "{named}: {faults:#?}");
    }
    assert_eq!(faults.len(), 5, "{faults:#?}");
}

/// What is wrong with what was made is said of what it was made from.
#[test]
fn faults_of_the_whole_name_the_line_of_theirs() {
    let text = "{\"http_api\": {\"key\": \"key of the api, long\"},\n\"client\": {\"allow_anonymous_connect_without_token\": true,\n\
                \"ping_interval\": \"1500ms\"}}";
    let imported = import_of("c.json", text);
    let file = Some(("made".to_string(), imported.text.clone()));
    let faults = load::load(&load::Sources { file, ..load::Sources::default() }).unwrap_err();
    let faults: Vec<String> =
        blame("made", &imported.sources, faults).iter().map(ToString::to_string).collect();
    assert!(
        faults
            .iter()
            .any(|fault| fault
                .starts_with("c.json:3: client.ping_interval: (from client.ping_interval): must be")),
        "{faults:?}"
    );
}

/// Every key of the documents, with its value's form aside, is known: a row of the table says what becomes of it.
#[test]
fn every_documented_key_is_in_the_table() {
    let mut faults = Vec::new();
    for name in include_str!("documented.txt").lines().filter(|line| !line.starts_with('#')) {
        let name = name.trim();
        let known = name.is_empty()
            || find(KEYS, name).is_some()
            || old_path(name).is_some()
            || super::paths().iter().any(|path| path == name);
        if !known {
            faults.push(name);
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn no_two_rows_are_of_one_key() {
    let mut paths = paths();
    let all = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), all);
    let mut old: Vec<&str> = KEYS.iter().flat_map(|key| key.old).copied().collect();
    let all = old.len();
    old.sort_unstable();
    old.dedup();
    assert_eq!(old.len(), all);
}

/// A fleet on Redis moves node by node: the engine's keys are ours.
#[test]
fn an_engine_of_theirs_is_ours() {
    use crate::config::engine::EngineKind;
    for file in [
        "{\"http_server\": {\"address\": \"127.0.0.1\"}, \"engine\": {\"type\": \"redis\", \"redis\": {\"address\": \"redis://r:1/2\", \
         \"prefix\": \"p\", \"password\": \"pw\"}}}",
        "{\"address\": \"127.0.0.1\", \"engine\": \"redis\", \"redis_address\": \"redis://r:1/2\", \
         \"redis_prefix\": \"p\", \"redis_password\": \"pw\"}",
        "{\"address\": \"127.0.0.1\", \"engine\": \"redis\", \"redis_address\": [\"redis://r:1/2\"], \
         \"redis_prefix\": \"p\", \"redis_password\": \"pw\"}",
    ] {
        let config = loaded(&import(&sources("c.json", file)).unwrap());
        assert_eq!((config.engine.kind, config.engine.prefix.as_str()), (EngineKind::Redis, "p"), "{file}");
        let addresses = config.engine.addresses().unwrap();
        assert_eq!(
            (addresses.len(), addresses[0].to_string().as_str(), addresses[0].db),
            (1, "redis://r:1", 2)
        );
        assert_eq!(addresses[0].password.as_deref(), Some("pw"));
    }
}
