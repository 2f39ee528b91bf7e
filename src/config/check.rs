//! What settings must satisfy together, and what a node needs before strangers may reach it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::limits::{HTTP_HEAD_BYTES_MAX, RECV_BUFFERS};
use crate::config::events::check_events;
use crate::config::fault::{Fault, Origin};
use crate::config::file::Origins;
use crate::config::hooks::check_hooks;
use crate::config::sections::{Config, SHARDS_MAX};
use crate::config::value::Size;
use crate::hub::ChannelOptions;

/// Longest API body and longest client message that may be configured: both are held in memory whole.
const BODY_BYTES_MAX: Size = Size::mib(64);
const MESSAGE_BYTES_MAX: Size = Size::mib(16);

/// Names looked for in the head of every request that opens a connection, one by one.
const FORWARD_HEADERS_MAX: usize = 32;

/// Whether a header field may be passed on: what is about one hop or one body alone would make another request of it
/// (RFC 9110 section 7.6.1).
fn is_forwardable(name: &str) -> bool {
    const OWN: [&str; 12] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    http::HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !OWN.contains(&name.as_str()))
}

/// Everything that is wrong with `config` as a whole.
pub fn check(config: &Config, origins: &Origins) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut require = |holds: bool, key: &str, problem: &str| {
        if !holds {
            let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
            faults.push(Fault { key: key.to_string(), origin, problem: problem.to_string() });
        }
    };
    let client = &config.client;
    require(config.shards <= SHARDS_MAX, "shards", &format!("at most {SHARDS_MAX}"));
    require(
        config.api_listen.is_none_or(|api| api != config.listen || api.port() == 0),
        "api_listen",
        "is the same as listen: leave it unset to serve the API there",
    );
    require(
        (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&client.ping_interval),
        "client.ping_interval",
        "must be from 1s to 24h",
    );
    // The client is told whole seconds and waits for the next ping by them.
    require(
        client.ping_interval.subsec_nanos() == 0,
        "client.ping_interval",
        "must be whole seconds: the protocol tells clients no finer",
    );
    require(
        client.pong_timeout > Duration::ZERO && client.pong_timeout < client.ping_interval,
        "client.pong_timeout",
        "must be above 0s and less than client.ping_interval",
    );
    require(client.connect_timeout > Duration::ZERO, "client.connect_timeout", "must be above 0s");
    require(
        (Size(128)..=MESSAGE_BYTES_MAX).contains(&client.message_bytes_max),
        "client.message_bytes_max",
        "must be from 128 to 16MiB",
    );
    require(
        client.outbox_bytes_max >= client.message_bytes_max,
        "client.outbox_bytes_max",
        "must be at least client.message_bytes_max, or one reply could close a client",
    );
    require(client.channels_max > 0, "client.channels_max", "must be above 0");
    require(
        (1..=4096).contains(&client.channel_name_bytes_max),
        "client.channel_name_bytes_max",
        "must be from 1 to 4096",
    );
    require(
        client.allowed_origins.iter().all(|origin| {
            origin == "*" || (origin.contains("://") && !origin.ends_with('/') && !origin.contains(' '))
        }),
        "client.allowed_origins",
        "each must be \"*\" or a scheme and host, like \"https://example.com\", without a path",
    );
    require(
        client.forward_headers.len() <= FORWARD_HEADERS_MAX,
        "client.forward_headers",
        &format!("at most {FORWARD_HEADERS_MAX} names"),
    );
    require(
        client.forward_headers.iter().all(|name| is_forwardable(name)),
        "client.forward_headers",
        "each must be the name of a header field, and not one of those that frame a request (Content-Length, \
         Connection, Host, Upgrade, ...)",
    );
    require(
        (Size(HTTP_HEAD_BYTES_MAX as u64)..=BODY_BYTES_MAX).contains(&config.api.body_bytes_max),
        "api.body_bytes_max",
        "must be from 16KiB to 64MiB",
    );
    require(config.limits.channels_max > 0, "limits.channels_max", "must be above 0");
    require(
        (usize::from(RECV_BUFFERS)..=1 << 20).contains(&config.limits.inbox_messages),
        "limits.inbox_messages",
        "must be from 64 to 1048576",
    );
    require(
        (1..=65_536).contains(&config.limits.http_requests_max),
        "limits.http_requests_max",
        "must be from 1 to 65536",
    );
    require(config.limits.api_timeout > Duration::ZERO, "limits.api_timeout", "must be above 0s");
    check_events(&config.events, &mut require);
    check_channel(&config.channel, "channel", &mut require);
    let mut names = BTreeSet::new();
    for (at, namespace) in config.namespace.iter().enumerate() {
        let path = format!("namespace[{at}]");
        let well_named = !namespace.name.is_empty()
            && namespace.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        require(
            well_named,
            &format!("{path}.name"),
            "must be of letters, digits, \"-\", \"_\" and \".\", at least one",
        );
        require(
            names.insert(&namespace.name),
            &format!("{path}.name"),
            "is the name of an earlier namespace too",
        );
        check_channel(&namespace.options, &path, &mut require);
    }
    check_hooks(config, &mut require);
    faults.extend(check_exposure(config, origins));
    faults
}

fn check_channel(options: &ChannelOptions, path: &str, require: &mut impl FnMut(bool, &str, &str)) {
    require(
        options.history_size == 0 || options.keeps_history(),
        &format!("{path}.history_size"),
        "needs history_ttl, or nothing is kept",
    );
    require(
        !options.force_recovery || options.keeps_history(),
        &format!("{path}.force_recovery"),
        "needs history_size and history_ttl",
    );
    require(
        options.history_meta_ttl >= options.history_ttl,
        &format!("{path}.history_meta_ttl"),
        "must be at least history_ttl, or a kept publication would outlive its position",
    );
}

/// A node that strangers can reach needs a key for the API and a way to tell clients apart.
fn check_exposure(config: &Config, origins: &Origins) -> Vec<Fault> {
    let listens = [("listen", Some(config.listen)), ("api_listen", config.api_listen)];
    let exposed = listens.into_iter().find_map(|(key, address)| {
        address.filter(|address| !address.ip().is_loopback()).map(|address| (key, address))
    });
    let Some((key, address)) = exposed else { return Vec::new() };
    let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
    let mut faults = Vec::new();
    if config.is_development() || config.api_keys().next().is_none() {
        faults.push(Fault {
            key: key.to_string(),
            origin: origin.clone(),
            problem: format!(
                "{address} is not a loopback address, so the server API needs a key: set api.key in the file, \
                 TRUNKLINE_API_KEY in the environment, or --api-key KEY"
            ),
        });
    }
    // Development's own generosity is no decision to let everybody in.
    let anonymous = config.client.allow_anonymous
        && (!config.is_development() || origins.contains_key("client.allow_anonymous"));
    let known = config.client.token.hmac_secret.is_some() || config.client.connect_hook.is_some();
    if !anonymous && !known {
        faults.push(Fault {
            key: key.to_string(),
            origin,
            problem: format!(
                "{address} is not a loopback address, so clients must prove who they are: set \
                 client.token.hmac_secret in the file or TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET in the environment \
                 (there is no flag: other users of the machine can read flags), have the backend asked with \
                 client.connect_hook, or let everyone in with \
                 client.allow_anonymous = true or TRUNKLINE_CLIENT_ALLOW_ANONYMOUS=true"
            ),
        });
    }
    faults
}
