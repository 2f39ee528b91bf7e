//! What settings must satisfy together, and what a node needs before strangers may reach it.

use std::time::Duration;

use crate::base::limits::{HTTP_HEAD_BYTES_MAX, RECV_BUFFERS};
use crate::config::authorities::{NO_TLS, fits, is_http};
use crate::config::dated::FURTHER_SECRETS_MAX;
use crate::config::fault::{Fault, Require, SettingOrigin};
use crate::config::file::Origins;
use crate::config::inboxes::check_inboxes;
use crate::config::places::Listener;
use crate::config::secrets::{SECRET_BYTES_MIN, weak};
use crate::config::sections::{Config, SHARDS_MAX, TokenSettings};
use crate::config::value::Size;
use crate::session::origins::OriginPattern;
use crate::session::permissions::{Deed, Grantee, Permission};
use crate::session::token::keys::{KeyFault, TokenKey};

/// Longest API body and longest client message that may be configured: both are held in memory whole.
const BODY_BYTES_MAX: Size = Size::mib(64);
const MESSAGE_BYTES_MAX: Size = Size::mib(16);
/// Longest patience with connections of HTTP: what idles for a day is forgotten on the other side.
const HTTP_KEEP_ALIVE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Everything that is wrong with `config`: of each section and list, and of it as a whole.
pub fn check(config: &Config, origins: &Origins) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut require = |holds: bool, key: &str, problem: &str| {
        if !holds {
            let origin = origins.get(key).cloned().unwrap_or(SettingOrigin::Default);
            faults.push(Fault { key: key.to_string(), origin, problem: problem.to_string() });
        }
    };
    let checks = config.parts().into_iter().map(|part| part.check);
    for check in checks.chain(config.lists().into_iter().map(|list| list.check)) {
        check(config, &mut require);
    }
    faults.extend(check_exposure(config, origins));
    faults
}

pub(super) fn check_node(config: &Config, require: &mut Require<'_>) {
    require(config.shards <= SHARDS_MAX, "shards", &format!("at most {SHARDS_MAX}"));
}

pub(super) fn check_client(config: &Config, require: &mut Require<'_>) {
    let client = &config.client;
    require(
        (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&client.ping_interval),
        "client.ping_interval",
        "must be from 1s to 24h",
    );
    // The client gets whole seconds and waits for the next ping by them.
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
        (1..=9).contains(&client.compression_level),
        "client.compression_level",
        "must be from 1 to 9: to switch compression off, set client.compression to false",
    );
    require(
        client.outbox_bytes_max >= client.message_bytes_max,
        "client.outbox_bytes_max",
        "must be at least client.message_bytes_max, or one reply could close a client",
    );
    require(
        client.send_buffer_bytes == Size(0)
            || (Size::kib(16)..=Size::mib(64)).contains(&client.send_buffer_bytes),
        "client.send_buffer_bytes",
        "must be 0 or from 16KiB to 64MiB",
    );
    require(
        client.send_timeout.is_zero()
            || (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&client.send_timeout),
        "client.send_timeout",
        "must be 0s or from 1s to 24h",
    );
    require(
        client.commands_burst > 0,
        "client.commands_burst",
        "must be above 0: to switch the limit off, set client.commands_per_second to 0",
    );
    require(client.channels_max > 0, "client.channels_max", "must be above 0");
    for (limit, key) in [
        (client.history_max_publication_limit, "client.history_max_publication_limit"),
        (client.recovery_max_publication_limit, "client.recovery_max_publication_limit"),
    ] {
        require((1..=100_000).contains(&limit), key, "must be from 1 to 100000");
    }
    require(
        (1..=4096).contains(&client.channel_name_bytes_max),
        "client.channel_name_bytes_max",
        "must be from 1 to 4096",
    );
    // A channel of a namespace, or of users, must not be private by its kind.
    require(
        client.private_channel_prefix.len() <= 16
            && client.private_channel_prefix.bytes().all(|b| b.is_ascii_graphic() && !b":#".contains(&b)),
        "client.private_channel_prefix",
        "must be at most 16 printable ASCII characters, none of them \":\", \"#\" or a blank",
    );
    for text in &client.allowed_origins {
        if let Err(reason) = OriginPattern::parse(text) {
            require(false, "client.allowed_origins", &format!("\"{text}\" {reason}"));
        }
    }
    check_personal_channel(config, require);
    check_inboxes(config, require);
}

pub(super) fn check_api(config: &Config, require: &mut Require<'_>) {
    require(
        (Size(HTTP_HEAD_BYTES_MAX as u64)..=BODY_BYTES_MAX).contains(&config.api.body_bytes_max),
        "api.body_bytes_max",
        "must be from 16KiB to 64MiB",
    );
    require(
        (1..=65_536).contains(&config.api.connections_max),
        "api.connections_max",
        "must be from 1 to 65536",
    );
    require(
        (config.api.body_bytes_max..=Size::mib(1024)).contains(&config.api.bodies_bytes_max),
        "api.bodies_bytes_max",
        "must be from api.body_bytes_max to 1GiB",
    );
}

pub(super) fn check_limits(config: &Config, require: &mut Require<'_>) {
    require(
        (1..=100).contains(&config.limits.client_channels_percent),
        "limits.client_channels_percent",
        "must be from 1 to 100",
    );
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
    require(
        (Duration::from_secs(1)..=HTTP_KEEP_ALIVE_MAX).contains(&config.limits.http_keep_alive),
        "limits.http_keep_alive",
        "must be from 1s to 24h",
    );
    require(
        (Duration::from_secs(1)..=HTTP_KEEP_ALIVE_MAX).contains(&config.limits.http_body_timeout),
        "limits.http_body_timeout",
        "must be from 1s to 24h",
    );
    require(
        config.limits.http_input_bytes_max >= config.client.message_bytes_max.max(Size::mib(1)),
        "limits.http_input_bytes_max",
        "must be at least 1MiB, and room for one client.message_bytes_max",
    );
    require(config.limits.api_timeout > Duration::ZERO, "limits.api_timeout", "must be above 0s");
}

pub(super) fn check_tokens(config: &Config, require: &mut Require<'_>) {
    check_token(&config.client.token, "client.token", require);
}

pub(super) fn check_subscription_tokens(config: &Config, require: &mut Require<'_>) {
    let token = &config.client.subscription_token;
    check_token(token, "client.subscription_token", require);
    require(
        *token == TokenSettings::default() || token.has_keys(),
        "client.subscription_token",
        "needs a key (hmac_secret, rsa_public_key, ecdsa_public_key, eddsa_public_key or jwks_url)",
    );
}

pub(super) fn check_admission(config: &Config, require: &mut Require<'_>) {
    let admission = &config.admission;
    let bursts = [
        ("admission.network_connects_burst", admission.network_connects_burst),
        ("admission.connects_burst", admission.connects_burst),
    ];
    for (key, burst) in bursts {
        require(burst > 0, key, "must be above 0: to switch the limit off, set its rate to 0");
    }
    require(admission.network_prefix_ipv4 <= 32, "admission.network_prefix_ipv4", "must be from 0 to 32");
    require(admission.network_prefix_ipv6 <= 128, "admission.network_prefix_ipv6", "must be from 0 to 128");
    require(admission.busy_percent_max <= 100, "admission.busy_percent_max", "must be from 0 to 100");
    require(
        (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&admission.retry_after_max),
        "admission.retry_after_max",
        "must be from 1s to 1h",
    );
}

/// Keys are read here, so that one that is none ends the start with its name.
fn check_token(token: &TokenSettings, path: &str, require: &mut Require<'_>) {
    type Read = fn(&str) -> Result<TokenKey, KeyFault>;
    let keys: [(&str, &Option<String>, Read); 3] = [
        ("rsa_public_key", &token.rsa_public_key, TokenKey::rsa),
        ("ecdsa_public_key", &token.ecdsa_public_key, TokenKey::ecdsa),
        ("eddsa_public_key", &token.eddsa_public_key, TokenKey::eddsa),
    ];
    for (name, text, read) in keys {
        if let Some(Err(fault)) = text.as_deref().map(read) {
            require(false, &format!("{path}.{name}"), &fault.to_string());
        }
    }
    let further = format!("{path}.hmac_secrets");
    require(
        token.hmac_secrets.len() <= FURTHER_SECRETS_MAX,
        &further,
        &format!("at most {FURTHER_SECRETS_MAX}: every token that none has signed is tried with all"),
    );
    if let Some(problem) = token.further_secrets().find_map(Result::err) {
        require(false, &further, problem);
    }
    require(!token.user_claim.is_empty(), &format!("{path}.user_claim"), "must name a claim, like \"sub\"");
    require(
        token.jwks_url.as_deref().is_none_or(is_http),
        &format!("{path}.jwks_url"),
        "must be a URL that begins with http:// or https://",
    );
    require(fits(&token.jwks_ca_file, token.jwks_url.as_deref()), &format!("{path}.jwks_ca_file"), NO_TLS);
    require(
        (Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600)).contains(&token.jwks_refresh),
        &format!("{path}.jwks_refresh"),
        "must be from 1s to 7d",
    );
}

/// Personal channels must be somebody's: of a namespace that exists and does not let everybody in.
fn check_personal_channel(config: &Config, require: &mut Require<'_>) {
    let client = &config.client;
    if !client.personal_channel {
        return;
    }
    let name = &client.personal_channel_namespace;
    let options = match name.as_str() {
        "" => Some(&config.channel),
        name => config.namespace.iter().find(|known| known.name == name).map(|known| &known.options),
    };
    require(
        options.is_some(),
        "client.personal_channel_namespace",
        &format!("there is no namespace {name:?}"),
    );
    let Some(options) = options else { return };
    require(
        !options.rules.permissions.allows(Deed::Subscribe, Grantee::Client)
            || options.rules.allow_user_limited_channels,
        "client.personal_channel",
        &format!(
            "the namespace of personal channels has {}, so that anybody could listen to them: \
             set allow_user_limited_channels there as well",
            Permission::key_of(Deed::Subscribe, Grantee::Client)
        ),
    );
}

/// A node that strangers can reach needs a key for the API and a way to tell clients apart.
fn check_exposure(config: &Config, origins: &Origins) -> Vec<Fault> {
    let exposed = config.listeners().into_iter().find(|listener| !listener.address.is_local());
    let Some(Listener { key, address, .. }) = exposed else { return Vec::new() };
    let origin = origins.get(&key).cloned().unwrap_or(SettingOrigin::Default);
    let mut faults: Vec<Fault> = weak(config)
        .into_iter()
        .map(|name| Fault {
            key: name.to_string(),
            origin: origins.get(name).cloned().unwrap_or(SettingOrigin::Default),
            problem: format!(
                "must be at least {SECRET_BYTES_MIN} bytes, because {key} = {address} is not a loopback address: \
                 strangers could guess it"
            ),
        })
        .collect();
    if config.is_development() || config.api_keys().next().is_none() {
        faults.push(Fault {
            key: key.to_string(),
            origin: origin.clone(),
            problem: format!(
                "{address} is not a loopback address, so the server API needs a key: set api.key in the file, \
                 TRUNKLINE_API_KEY in the environment, --api-key-file FILE, or --api-key KEY"
            ),
        });
    }
    // Development's own generosity is no decision to let everybody in.
    let anonymous = config.client.allow_anonymous
        && (!config.is_development() || origins.contains_key("client.allow_anonymous"));
    let known = config.client.token.has_keys() || config.client.connect_hook.is_some();
    if !anonymous && !known {
        faults.push(Fault {
            key: key.to_string(),
            origin,
            problem: format!(
                "{address} is not a loopback address, so clients must prove who they are: set \
                 client.token.hmac_secret in the file or TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET in the environment \
                 (there is no flag: other users of the machine can read flags), or one of client.token.jwks_url, \
                 rsa_public_key, ecdsa_public_key and eddsa_public_key, have the backend asked with \
                 client.connect_hook, or let everyone in with \
                 client.allow_anonymous = true or TRUNKLINE_CLIENT_ALLOW_ANONYMOUS=true"
            ),
        });
    }
    faults
}

/// What is wrong with the text of a file, for the tests of sections.
#[cfg(test)]
pub(super) fn faults_of(text: &str) -> Vec<String> {
    let (mut config, mut origins) = (Config::default(), Origins::new());
    let mut faults = crate::config::file::apply(&mut config, &mut origins, "t.toml", text);
    faults.extend(check(&config, &origins));
    faults.iter().map(ToString::to_string).collect()
}

/// The one thing that is wrong with it.
#[cfg(test)]
pub(super) fn only_fault(text: &str) -> String {
    let faults = faults_of(text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

/// What a file without a fault in it says.
#[cfg(test)]
pub(super) fn config_of(text: &str) -> Config {
    let (mut config, mut origins) = (Config::default(), Origins::new());
    let faults = crate::config::file::apply(&mut config, &mut origins, "t.toml", text);
    assert!(faults.is_empty(), "{faults:?}");
    config
}
