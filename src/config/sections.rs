//! The settings themselves: the one place where a key, its meaning and its default stand.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::address::{ListenAddress, Serves};
use crate::base::address_mask::AddressMask;
use crate::base::pattern::Pattern;
use crate::base::trusted::{AddressField, Trusted};
use crate::config::authorities::Authorities;
use crate::config::engine::EngineSettings;
use crate::config::listeners::{FileMode, Listeners};
use crate::config::observe::{Objective, Observe};
use crate::config::paths::Paths;
use crate::config::sandbox::SandboxSettings;
use crate::config::shutdown::Shutdown;
use crate::config::store::StoreSettings;
use crate::config::table::{Named, settings};
use crate::config::tls::TlsSettings;
use crate::config::traces::Traces;
use crate::config::value::{DriverChoice, Secret, Size, TimeSetting, WhenUnavailable};
use crate::hub::users::UserPolicy;
use crate::hub::{ChannelOptions, Namespaces};
use crate::session::permissions::Permissions;
use crate::session::rules::{ChannelRules, NamespaceOptions};
use crate::telemetry::{LogFormat, LogLevel};

settings! {
    /// The whole configuration of a node.
    pub struct Config {
        /// Where clients connect: an address and port, a unix socket ("unix:/run/trunkline/client.sock"), or a list of up to
        /// 16. `[[listener]]` says more about one; beside one that serves clients the default is not listened at. On an address
        /// that is not loopback an API key and a way for clients to prove who they are must be configured. A unix socket
        /// counts as loopback: its programs, like a proxy, are of this machine.
        pub listen: Listeners = Listeners::default(), flag "listen" "ADDR";
        /// Where clients connect with TLS (https, wss), as `listen`. Needs `tls.cert` and `tls.key`.
        pub listen_tls: Option<Listeners> = None, flag "listen-tls" "ADDR", example "\"0.0.0.0:8443\"";
        /// Who may connect to the unix sockets of `listen`: permission bits of their files. Only who may write does.
        pub unix_socket_mode: FileMode = FileMode(0o660);
        /// Networks of proxies whose word about a client's address is taken: the PROXY header where a `[[listener]]` has it, and
        /// `client_address_field` of a request. "unix:" is every program that comes by a unix socket. Empty: nobody's.
        pub trusted_networks: Vec<Trusted> = Vec::new(), example "[\"10.0.0.0/8\", \"unix:\"]";
        /// The header field in which those proxies say whom a request is of: "x-forwarded-for" or "forwarded" (RFC 7239). The
        /// other one is not read: a proxy passes on what a client has written there.
        pub client_address_field: AddressField = AddressField::XForwardedFor;
        /// How much of clients' addresses is left out of logs, metrics and answers of the API: "none", "network" (what is left
        /// is a /24 of IPv4, a /48 of IPv6), or "all". Hooks, events and tunnels get them whole.
        pub address_mask: AddressMask = AddressMask::None;
        /// Where the server API and /metrics are served instead of on `listen`. Unset: on `listen`, where /metrics
        /// needs the API key, but for a node in development.
        pub api_listen: Option<SocketAddr> = None, flag "api-listen" "ADDR", example "\"127.0.0.1:9000\"";
        /// This node's name in `info` and in logs. Empty: host name and port.
        pub name: String = String::new();
        /// How sockets are driven: "io-uring", "mio" (epoll), or "auto": io_uring where the kernel grants it.
        pub driver: DriverChoice = DriverChoice::Auto, flag "driver" "NAME";
        /// Shards: threads that hold connections. 0: one for each cpu this process may use.
        pub shards: u16 = 0, flag "shards" "N";
        /// Serve /echo: a WebSocket and an HTTP endpoint that send back what they get. For measuring and for
        /// conformance suites.
        pub echo: bool = false, flag "echo" "";
    } with {
        pub log: LogSettings,
        pub tls: TlsSettings,
        pub api: ApiSettings,
        pub client: ClientSettings,
        pub channel: NamespaceOptions,
        pub namespace: Vec<Namespace>,
        pub hook: Vec<Hook>,
        pub tunnel: Vec<TunnelEntry>,
        pub listener: Vec<ListenerEntry>,
        pub objective: Vec<Objective>,
        pub events: EventSettings,
        pub limits: LimitSettings,
        pub observe: Observe,
        pub store: StoreSettings,
        pub admission: AdmissionSettings,
        pub shutdown: Shutdown,
        pub engine: EngineSettings,
        pub sandbox: SandboxSettings,
        pub traces: Traces,
        pub mode: NodeMode,
    }
}

/// How the node was started. Not a setting: follows from what was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMode {
    #[default]
    Production,
    /// No configuration file, no API key, no token secret: loopback only, everything allowed, a key made up for
    /// this run, and a page at `/` to try it with.
    Development,
}

settings! {
    /// What is logged, and how. Logs go to stderr.
    pub struct LogSettings {
        /// "text" for people, "json" for machines.
        pub format: LogFormat = LogFormat::Text, flag "log" "FORMAT";
        /// The least severe level that is logged.
        pub level: LogLevel = LogLevel::Info, flag "log-level" "LEVEL";
    }
}

settings! {
    /// The server API: what the backend calls to publish.
    pub struct ApiSettings {
        /// The key a backend sends as `X-API-Key`. Unset: every call is refused. Where strangers reach the node, at least
        /// 16 bytes. A flag can be read by every user of the machine: use the environment or `key_file` there.
        pub key: Option<Secret> = None, flag "api-key" "KEY", example "\"a long random text\"";
        /// A file that holds the key, instead of `key`: the text without the line's end.
        pub key_file: Option<String> = None, flag "api-key-file" "FILE", example "\"/run/secrets/api-key\"";
        /// Further keys that are accepted too, to change keys without a gap.
        pub keys: Vec<Secret> = Vec::new();
        /// Keys that are accepted until `previous_until`: for callers that have not learned a new key yet.
        pub previous_keys: Vec<Secret> = Vec::new();
        /// Until when, in UTC.
        pub previous_until: Option<TimeSetting> = None, example "\"2030-01-31T12:00:00Z\"";
        /// Longest request body, in bytes. A longer one is answered 413.
        pub body_bytes_max: Size = Size::mib(1);
        /// Connections of `api_listen`. A caller beyond is answered 503.
        pub connections_max: u32 = 1024;
        /// Serve the console at /console where nothing but the API is served, and in development mode: a page that asks for a key.
        pub console: bool = true;
        /// Show in /metrics the names of Centrifugo too (`centrifugo_node_num_clients` and its like), for dashboards that have them.
        pub centrifugo_metrics: bool = false;
        /// Bytes that the bodies of all requests under way on `api_listen` may have together. A request beyond is answered 503.
        pub bodies_bytes_max: Size = Size::mib(64);
    }
}

settings! {
    /// What a client connection may do and cost.
    pub struct ClientSettings {
        /// Let clients in that show no token; their user is empty. All clients without a user count as clients then, unless
        /// a namespace's `allow_..._for_anonymous` differ. Without it they may do nothing but what is granted to them.
        pub allow_anonymous: bool = false;
        /// Refuse connection tokens that name no user. `allow_anonymous` is about clients without a token.
        pub require_user: bool = false;
        /// How often a silent client is pinged.
        pub ping_interval: Duration = Duration::from_secs(25);
        /// How long a pinged client may take to answer before it is closed (3012). Less than `ping_interval`.
        pub pong_timeout: Duration = Duration::from_secs(8);
        /// How long a new connection may take to say who it is before it is closed (3502).
        pub connect_timeout: Duration = Duration::from_secs(10);
        /// Longest message a client may send, in bytes. An SDK sends connect and all its subscriptions in one: room for
        /// `channels_max` of them, each with a token of 1.5 KB.
        pub message_bytes_max: Size = Size::kib(256);
        /// Let clients of WebSocket compress messages (permessage-deflate), and compress for those that offer it. A
        /// publication is compressed once, whatever the number of its subscribers.
        pub compression: bool = false;
        /// Shorter messages are sent as they are, in bytes: below some hundred, compressing saves next to nothing.
        pub compression_min_bytes: Size = Size(512);
        /// How hard to try, from 1 (fast) to 9 (small). At 1 KB of JSON, 6 takes twice the time of 1 and saves half as
        /// much again.
        pub compression_level: u8 = 6;
        /// Publications in one answer to a history command, and of one read over HTTP. A larger limit is cut to this.
        pub history_max_publication_limit: usize = 300;
        /// Publications that a recovery may give. A client that missed more hears that it cannot recover.
        pub recovery_max_publication_limit: usize = 300;
        /// Channels one connection may be subscribed to at a time.
        pub channels_max: usize = 128;
        /// Longest channel name, in bytes.
        pub channel_name_bytes_max: usize = 255;
        /// What a client that reads slowly may owe, in bytes, before it is closed as slow (3008).
        pub outbox_bytes_max: Size = Size::mib(1);
        /// What the kernel may keep for a client that reads slowly, in bytes of payload; it needs about as much again for
        /// itself, and cuts this at net.core.wmem_max. What is beyond waits in `outbox_bytes_max`. 0: as the kernel finds
        /// right, up to 4 MiB (net.ipv4.tcp_wmem).
        pub send_buffer_bytes: Size = Size::kib(128);
        /// How long a client may leave what was sent unacknowledged, or its window shut, before the kernel breaks the
        /// connection, also after it was closed. 0s: until the kernel gives up, some 15 minutes.
        pub send_timeout: Duration = Duration::from_secs(60);
        /// Connections of this node. More are answered 503 and closed.
        /// 0: as many as the memory plan finds room for, at most 1,000,000.
        pub connections_max: u32 = 0;
        /// Connections one user may have at a time, of clients and of streams. 0: any number. Polls and clients without
        /// a user are not counted.
        pub user_connections_max: u32 = 0;
        /// What happens to one too many: "reject" closes the new connection (3504), "replace" closes the user's oldest
        /// (3510). After neither does a client come back by itself.
        pub user_connections_policy: UserPolicy = UserPolicy::Reject;
        /// Connections that one user may have at a time of a class of devices, like "phone=1". The class is what the `device` of the
        /// token or of the connect hook says up to a colon: `phone` of `phone` and of `phone:7c9e`. One too many is treated as
        /// `user_connections_policy` says. Others of the user are not counted here. Empty: any number.
        pub device_connections_max: Vec<String> = Vec::new(), example "[\"phone=1\", \"desktop=1\"]";
        /// Commands one connection may send a second: subscribe, publish, history, presence, rpc, refresh, send. More are
        /// refused (111), to be tried again. The default is far above what people do, and below what hurts others.
        /// 0: any number.
        pub commands_per_second: u32 = 100;
        /// Commands a connection, or a user, may send at once after a rest. At least as many as the channels that a client
        /// subscribes to when it connects: the default is eight times the default of `channels_max`.
        pub commands_burst: u32 = 1024;
        /// Bytes one connection may send a second, frames included. Who sends more is closed (3013). A message of
        /// `message_bytes_max` may always come after a rest. 0: any number.
        pub bytes_per_second: Size = Size(0);
        /// Commands one user may send a second over all connections to this node, as `commands_per_second`. 0: any
        /// number.
        pub user_commands_per_second: u32 = 0;
        /// Bytes one user may send a second over all connections to this node, as `bytes_per_second`: the connection that
        /// sends more is closed (3013). 0: any number.
        pub user_bytes_per_second: Size = Size(0);
        /// Origins a browser may connect from, like `https://example.com` or `https://*.example.com`. A `*` stands for
        /// one or more characters of the scheme or the host, or, behind the colon, for any port; without a port the
        /// scheme's default one is meant (`https://*`: any host and any port). `ws` and `wss` are `http` and `https`.
        /// `null` is a sandboxed frame, of whose page ever; `file://` a page from a file. "*" alone allows all, without
        /// their cookies unless they are named beside it. Empty: only pages of the same host. Clients that send no Origin
        /// are not browsers and are not held to this.
        pub allowed_origins: Vec<String> = Vec::new(), example "[\"https://example.com\"]";
        /// Channels whose name begins with this need a subscription token, whatever their namespace allows; the rest of the
        /// name has the namespace (`$chat:1` is of `chat`). Empty: no channel is private.
        pub private_channel_prefix: String = "$".to_string();
        /// Subscribe every connection that has a user to its personal channel: `#` and the user.
        pub personal_channel: bool = false;
        /// The namespace of personal channels. Empty: they are channels without a namespace.
        pub personal_channel_namespace: String = String::new();
        /// The namespace of users' inboxes, which `POST /api/inbox` appends to. Every connection that has a user is subscribed to
        /// its own (`inbox:#ann` in the namespace `inbox`), from what its device lacks on. The namespace needs `cursors` and a
        /// history. Unset: there are none.
        pub inbox_namespace: Option<String> = None, example "\"inbox\"";
        /// Header fields that a client may send as `headers` of its connect command, if its request lacks them, for
        /// hooks that forward them: a browser's WebSocket cannot set any. They are the client's word: never name what a
        /// proxy sets, like `x-forwarded-for`.
        pub emulated_headers: Vec<String> = Vec::new(), example "[\"authorization\"]";
        /// The hook that is asked who connects, if they show no token. Unset: a token is needed.
        pub connect_hook: Option<String> = None, example "\"backend\"";
        /// The hook that is asked whether a connection that the connect hook let in may go on when it expires.
        pub refresh_hook: Option<String> = None, example "\"backend\"";
        /// The hook that answers the calls of clients. Unset: they are refused (108).
        pub rpc_hook: Option<String> = None, example "\"backend\"";
        /// Answer a unidirectional client of HTTP whose connect is refused with a status instead of a stream that ends: by the
        /// code of the error or of the disconnect, like "3507=403".
        pub connect_statuses: Vec<String> = Vec::new(), example "[\"3507=403\", \"109=401\"]";
        /// Hooks that answer the calls whose method begins with a text, like "chat:=backend"; the longest that fits counts, and
        /// one without a hook ("internal:=") refuses them (108). Others are `rpc_hook`'s.
        pub rpc_hooks: Vec<String> = Vec::new(), example "[\"chat:=backend\"]";
    } with {
        pub paths: Paths,
        pub token: TokenSettings,
        pub subscription_token: TokenSettings,
    }
}

settings! {
    /// Tokens (JWT): keys, and what a token must say.
    pub struct TokenSettings {
        /// The secret tokens are signed with (HS256, HS384, HS512). Unset: none of these is accepted. Where strangers reach
        /// the node, at least 16 bytes: somebody who guesses it can be any user.
        pub hmac_secret: Option<Secret> = None, example "\"a long random text\"";
        /// A file that holds the secret, instead of `hmac_secret`: the text without the line's end.
        pub hmac_secret_file: Option<String> = None, example "\"/run/secrets/token-secret\"";
        /// Further secrets that are accepted too, to change secrets without a gap: each behind the date until which it is,
        /// like "2027-01-31", "2027-01-31T12:00:00Z" or seconds since 1970, or "never". At most 16.
        pub hmac_secrets: Vec<Secret> = Vec::new(), example "[\"2027-01-31 the secret of before\"]";
        /// The public key (PEM) of RS256, RS384, RS512, PS256, PS384, PS512: 2048 to 4096 bits.
        pub rsa_public_key: Option<String> = None, example "\"-----BEGIN PUBLIC KEY-----\\n...\"";
        /// The public key (PEM) of ES256 (curve P-256), ES384 (P-384) or ES512 (P-521).
        pub ecdsa_public_key: Option<String> = None, example "\"-----BEGIN PUBLIC KEY-----\\n...\"";
        /// The public key (PEM) of EdDSA (Ed25519).
        pub eddsa_public_key: Option<String> = None, example "\"-----BEGIN PUBLIC KEY-----\\n...\"";
        /// A secret whose tokens are accepted until `previous_until`: those that were made before the change.
        pub previous_hmac_secret: Option<Secret> = None, example "\"a long random text\"";
        /// A public key (PEM) of any kind, whose tokens are accepted until then.
        pub previous_public_key: Option<String> = None, example "\"-----BEGIN PUBLIC KEY-----\\n...\"";
        /// Until when tokens of the previous keys are accepted, in UTC.
        pub previous_until: Option<TimeSetting> = None, example "\"2030-01-31T12:00:00Z\"";
        /// Where the issuer publishes its keys (a JSON Web Key Set), by http or https. A token that names its key (`kid`)
        /// is held against the published one. HMAC stays with hmac_secret.
        pub jwks_url: Option<String> = None, example "\"https://example.com/.well-known/jwks.json\"";
        /// A file of certificates (PEM): that of jwks_url must come from one of these authorities, instead of those that
        /// this machine trusts.
        pub jwks_ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// How often published keys are fetched again. A token with an unknown key has them fetched at once.
        pub jwks_refresh: Duration = Duration::from_secs(3600);
        /// How far the clocks of hosts that sign tokens and of this one may differ: `exp`, `expire_at` and `nbf` are
        /// taken as this much wider when a client connects or subscribes. It makes no token renew what has ended.
        pub leeway: Duration = Duration::from_secs(5);
        /// The `aud` a token must name. Unset: any.
        pub audience: Option<String> = None, example "\"trunkline\"";
        /// A regular expression that must be found in an `aud` of the token. Unset: any.
        pub audience_pattern: Option<Pattern> = None, example "\"^app-[a-z]+$\"";
        /// The `iss` a token must name. Unset: any.
        pub issuer: Option<String> = None, example "\"backend\"";
        /// A regular expression that must be found in the `iss` of the token. Unset: any.
        pub issuer_pattern: Option<Pattern> = None, example "\"^https://[a-z]+\\\\.example\\\\.com$\"";
        /// The claim that holds the user.
        pub user_claim: String = "sub".to_string();
    }
}

/// Options of the channels whose name begins with `name` and a colon.
pub type Namespace = Named<NamespaceOptions>;

settings! {
    /// How the backend is asked over one endpoint.
    pub struct HookOptions {
        /// Where hook calls are POSTed to: an http or https URL.
        pub endpoint: String = String::new();
        /// How long the backend may take for one hook call, retries included. What it costs to wait for one's turn
        /// does not count: that is `wait_timeout`.
        pub timeout: Duration = Duration::from_secs(1);
        /// Speak HTTP/2 at once over plain http. With https both sides agree on it by themselves.
        pub http2: bool = false;
        /// A file of certificates (PEM): that of the https endpoint must come from one of these authorities, instead of
        /// those that this machine trusts. For an authority of one's own.
        pub ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// Header fields of the client's request that the backend gets to see, by name. They are kept with every
        /// connection. See `client.emulated_headers` for those of clients that cannot set any.
        pub forward_headers: Vec<String> = Vec::new(), example "[\"cookie\", \"x-forwarded-for\"]";
        /// Header fields of every hook call, like "Authorization: Bearer text". A forwarded one of the same name wins.
        pub static_headers: Vec<Secret> = Vec::new();
        /// Send the `meta` of the connection along.
        pub include_connection_meta: bool = false;
        /// Send the client's data as base64 (`b64data`) instead of JSON.
        pub binary_encoding: bool = false;
        /// What an HTTP status other than 200 means to the client, like "404=404:not found" (error 404),
        /// "429=429:busy:temporary" (an error after which SDKs try again) or "403=4501:forbidden" (disconnected).
        /// A status that is not listed means that the backend failed.
        pub status_codes: Vec<String> = Vec::new(), example "[\"404=404:not found\"]";
        /// How often a hook call is made again, within `timeout`, when its connection failed before any answer.
        /// Not for `publish` and `rpc`, once they may have arrived.
        pub retries: u32 = 1;
        /// Hook calls that the backend gets to answer at a time. Fewer while it does not keep up.
        pub in_flight_max: u32 = 64;
        /// Hook calls that may wait for their turn. More are refused at once.
        pub wait_max: u32 = 10_000;
        /// How long a hook call may wait for its turn before it is refused.
        pub wait_timeout: Duration = Duration::from_secs(30);
        /// The percentage of failed and slow hook calls among those of the last 10 s from which on the backend is
        /// taken for down and not asked, but for a probe now and then. 0: it is always asked.
        pub breaker_percent: u32 = 50;
        /// An answer that takes longer is slow. Unset: only one that takes longer than `timeout`.
        pub breaker_slow: Option<Duration> = None, example "\"500ms\"";
        /// How often a backend that is taken for down gets a hook call to see whether it is back.
        pub probe_interval: Duration = Duration::from_millis(500);
        /// What becomes of a hook call that the backend does not answer: "refuse" it with an error after which SDKs try
        /// again, or "let-in": go on as if there were no hook.
        pub when_unavailable: WhenUnavailable = WhenUnavailable::Refuse;
    }
}

/// A way to ask the backend, by the name that others use for it.
pub type Hook = Named<HookOptions>;

settings! {
    /// Where the messages of any WebSocket client go that connects to `/tunnel/` and the tunnel's name.
    pub struct TunnelSettings {
        /// Where they are POSTed to: an http or https URL.
        pub endpoint: String = String::new();
        /// How long the backend may take for one of them, waiting for its turn and trying again included. A client that
        /// connects is answered 503 then; a client whose message was not taken is closed (1011).
        pub timeout: Duration = Duration::from_secs(5);
        /// Speak HTTP/2 at once over plain http. With https both sides agree on it by themselves.
        pub http2: bool = false;
        /// A file of certificates (PEM): that of the https endpoint must come from one of these authorities, instead of
        /// those that this machine trusts. For an authority of one's own.
        pub ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// Header fields of the client's request that the backend gets to see when it connects, by name.
        pub forward_headers: Vec<String> = Vec::new(), example "[\"cookie\", \"x-forwarded-for\"]";
        /// Header fields of every request to the backend, like "Authorization: Bearer text".
        pub static_headers: Vec<Secret> = Vec::new();
        /// WebSocket subprotocols that are spoken here: the first that a client offers is chosen, unless the backend
        /// chooses another of those offered.
        pub subprotocols: Vec<String> = Vec::new(), example "[\"chat.v2\"]";
        /// Messages of one client that may wait for the backend. At this many, reading from the client pauses.
        pub messages_waiting_max: usize = 16;
        /// The same in bytes.
        pub bytes_waiting_max: Size = Size::kib(256);
        /// Requests that the backend gets to answer at a time. Others wait for their turn within `timeout`.
        pub in_flight_max: u32 = 256;
    }
}

/// A way from any WebSocket client to the backend, by the name in its path.
pub type TunnelEntry = Named<TunnelSettings>;

settings! {
    /// One place where connections come in.
    pub struct ListenerSettings {
        /// Where it is: an address and port, `[::]:8000` for both IPv6 and IPv4, or a unix socket.
        pub address: Option<ListenAddress> = None, example "\"[::]:8000\"";
        /// Who may connect to a unix socket, instead of `unix_socket_mode`.
        pub mode: Option<FileMode> = None, example "\"660\"";
        /// An address of IPv6 takes no clients of IPv4: for `[::]`, which has both otherwise.
        pub ipv6_only: bool = false;
        /// What is served: "clients", "api" (the server API and /metrics), or "both". Where one has "api", or `api_listen` is
        /// set, `listen` serves clients only. "api" has the bounds of `[api]`, apart from clients'.
        pub serves: Serves = Serves::Clients;
        /// TLS is spoken here, with the certificates of `[tls]`.
        pub tls: bool = false;
        /// A proxy in front says by the PROXY protocol (version 1 or 2) whom each connection is of. Those without it, and
        /// those from outside of `trusted_networks`, are closed.
        pub proxy_protocol: bool = false;
    }
}

/// A listener; its name is for people.
pub type ListenerEntry = Named<ListenerSettings>;

settings! {
    /// Events for the backend.
    pub struct EventSettings {
        /// Kinds of events: "connected", "disconnected", "subscribed", "unsubscribed", "occupied", "vacated" (of channels:
        /// with subscribers, and without any more), "user_online", "user_offline" (with a connection, and without any more),
        /// "acked", "unacked" (of members with cursors: what devices have received and read, and who lacks something after `ack_timeout`),
        /// "message" (what clients `send`), "objective_missed" (see `[[objective]]`). Empty: nothing.
        pub types: Vec<String> = Vec::new();
        /// Where batches of events are POSTed to. Unset: they are only kept for `GET /api/events`.
        pub endpoint: Option<String> = None, example "\"http://127.0.0.1:3000/trunkline/events\"";
        /// A file of certificates (PEM): that of the https endpoint must come from one of these authorities, instead of
        /// those that this machine trusts. For an authority of one's own.
        pub ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// What batches are signed with (HMAC-SHA256, in `X-Trunkline-Signature`). Unset: they are not signed. Where
        /// strangers reach the node, at least 16 bytes.
        pub secret: Option<Secret> = None, example "\"a long random text\"";
        /// How long the backend may take for one batch before it is tried again.
        pub timeout: Duration = Duration::from_secs(5);
        /// Most events of one batch.
        pub batch_max: usize = 500;
        /// What the log of events may weigh, in bytes. Above it the oldest go first; a backend that has not had them
        /// gets an event that says which.
        pub log_bytes_max: Size = Size::mib(64);
        /// How long a channel must have been without subscribers before it is reported as vacated. One that has some
        /// again by then is not reported.
        pub vacated_delay: Duration = Duration::from_secs(1);
        /// How long a user must have been without connections before it is reported as offline. One that is back by then is not
        /// reported.
        pub user_offline_delay: Duration = Duration::from_secs(5);
        /// Header fields that every batch carries, like "Authorization: Bearer ...".
        pub static_headers: Vec<Secret> = Vec::new();
    }
}

settings! {
    /// Bounds of the whole node.
    pub struct LimitSettings {
        /// What all histories of this node may weigh, in bytes. Above it the oldest publications go first.
        pub history_bytes_max: Size = Size::mib(512);
        /// What clients may make this node keep for them in sum, in bytes: what they do not read (in the kernel's buffers as
        /// well), half messages, commands that wait for the backend. Near it those with the most are closed (3008), never those
        /// with little. 0: a sixteenth of what this process may use, from 64 MiB to 2 GiB.
        pub client_buffers_bytes_max: Size = Size(0);
        /// What shards may keep of channels in sum for subscribers that read slowly, in bytes. Beyond it they are taken care of
        /// as the channel's `gap` says.
        pub streams_bytes_max: Size = Size::mib(64);
        /// Channels of this node, 512 bytes of memory each. A subscription or publication beyond is refused (106). 0: what a
        /// thirty-second of what this process may use has room for, from 100,000 to 1,000,000.
        pub channels_max: usize = 0;
        /// How many percent of these may be channels that only clients have used; the rest is the backend's. At the bound the
        /// user with most of them (or the connection, without a user) loses one without subscribers, and when there is
        /// none, a client that needs a new one is refused (106).
        pub client_channels_percent: u32 = 50;
        /// Cursors of members in all channels of this node, about 32 bytes of memory each. An acknowledgement that needs one more is
        /// refused (106).
        pub cursors_max: usize = 1_000_000;
        /// Messages that may wait for one shard. The API answers 503 when its inbox is full.
        pub inbox_messages: usize = 8192;
        /// HTTP requests of client ports that may be under way in the control plane. More are answered 503.
        pub http_requests_max: u32 = 256;
        /// How long an idle HTTP connection is kept for its next request, on `listen` and `api_listen`. A load balancer in
        /// front must close its idle connections sooner, or a request meets the close.
        pub http_keep_alive: Duration = Duration::from_secs(75);
        /// How long the body of an HTTP request on `listen` may take to arrive. Its head has `client.connect_timeout`;
        /// in each stretch of that length a body must bring 1 KiB a second. A slower one is answered 408.
        pub http_body_timeout: Duration = Duration::from_secs(60);
        /// What this node keeps of incomplete and waiting HTTP requests of clients, in bytes. From three quarters of it on
        /// those who hold most are answered 503 and closed, so that there is room for others. Bodies of requests with an API key
        /// have `api.body_bytes_max` times `http_requests_max` for themselves.
        pub http_input_bytes_max: Size = Size::mib(64);
        /// How long the API waits for a shard before it answers error 100.
        pub api_timeout: Duration = Duration::from_secs(5);
    }
}

settings! {
    /// Who of those that come is let in. Nothing is limited by default: behind a proxy that this node does not trust, all
    /// clients come from one address. Clients that are connected, the API and /health are not held to this.
    pub struct AdmissionSettings {
        /// Connections that one network of clients may have at a time, of whatever kind. More are answered 429. 0: any
        /// number, since behind a proxy that this node does not trust all clients come from one address. Clients that are
        /// connected, the API and /health are not held to any of these limits.
        pub network_connections_max: u32 = 0;
        /// Of these, connections that have not shown who they are: before their first request, their connect command, or
        /// the backend's answer. More are answered 429. 0: any number.
        pub network_unauthenticated_max: u32 = 0;
        /// Clients of one network that may connect a second: upgrades, streams, polls; a further request on the same
        /// connection is none. More are answered 429. 0: any number.
        pub network_connects_per_second: u32 = 0;
        /// Clients of one network that may connect at once after a rest.
        pub network_connects_burst: u32 = 100;
        /// How many bits of an IPv4 address make a network.
        pub network_prefix_ipv4: u16 = 32;
        /// How many bits of an IPv6 address make a network: providers give each customer 64 or fewer.
        pub network_prefix_ipv6: u16 = 64;
        /// Connections of this node that have not shown who they are. More are answered 503. 0: any number, up to
        /// `client.connections_max`.
        pub unauthenticated_max: u32 = 0;
        /// Clients that may connect to this node a second. More are answered 503. 0: any number.
        pub connects_per_second: u32 = 0;
        /// Clients that may connect to this node at once after a rest.
        pub connects_burst: u32 = 1000;
        /// How busy a shard may be, in percent of its cpu, when a client comes. A busier one answers 503, so that those who
        /// are connected do not wait. 0: whatever it does, like 100.
        pub busy_percent_max: u32 = 0;
        /// How long a client that is refused here is to stay away at most (`Retry-After`, `retry` of event streams). Each gets a
        /// random time, in whole seconds.
        pub retry_after_max: Duration = Duration::from_secs(30);
    }
}

impl Config {
    /// What an unconfigured node on a developer's machine runs with, `key` being its API key.
    pub fn development(key: Secret) -> Config {
        let mut config = Config { mode: NodeMode::Development, ..Config::default() };
        config.api.key = Some(key);
        config.shutdown.drain = Duration::ZERO;
        config.client.allow_anonymous = true;
        config.client.private_channel_prefix = String::new();
        config.channel = NamespaceOptions {
            channel: ChannelOptions {
                history_size: 1000,
                history_ttl: Duration::from_secs(600),
                presence: true,
                join_leave: true,
                ..ChannelOptions::default()
            },
            rules: ChannelRules { permissions: Permissions::ALL, ..ChannelRules::default() },
        };
        config
    }

    /// The options of every namespace.
    pub fn namespaces(&self) -> Namespaces<NamespaceOptions> {
        Namespaces::new(
            self.channel.clone(),
            self.namespace.iter().map(|namespace| (namespace.name.clone(), namespace.options.clone())),
            self.client.channel_name_bytes_max,
        )
        .with_private_prefix(&self.client.private_channel_prefix)
    }

    pub fn is_development(&self) -> bool {
        self.mode == NodeMode::Development
    }

    /// Names of the header fields that some hook forwards, in lower case and order: what is worth keeping of a
    /// client's request.
    pub fn forwarded_headers(&self) -> Vec<String> {
        let names = self.hook.iter().flat_map(|hook| &hook.options.forward_headers);
        let mut names: Vec<String> = names.map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Names of the header fields that clients may give themselves, in lower case.
    pub fn emulated_headers(&self) -> Vec<String> {
        self.client.emulated_headers.iter().map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Every API key that is accepted.
    pub fn api_keys(&self) -> impl Iterator<Item = &Secret> {
        self.api.key.iter().chain(&self.api.keys)
    }

    /// How many shards run: as configured, or one for each cpu this process may use.
    pub fn shard_count(&self) -> u16 {
        match self.shards {
            0 => std::thread::available_parallelism()
                .map_or(1, |cpus| u16::try_from(cpus.get()).unwrap_or(u16::MAX))
                .min(SHARDS_MAX),
            shards => shards,
        }
    }
}

/// What a `ConnId` has bits for.
pub const SHARDS_MAX: u16 = 1 << crate::base::ids::SHARD_BITS;
