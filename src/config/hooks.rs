//! What the settings of hooks must satisfy, and those of them that are little languages of their own: header fields and
//! what HTTP statuses mean.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use crate::config::authorities::{NO_TLS, fits, is_http};
use crate::config::fault::Require;
use crate::config::sections::{ClientSettings, Config, HookOptions};

/// Codes that a backend may refuse with: the others are the protocol's own.
pub const ERROR_CODES: RangeInclusive<u16> = 400..=1999;
/// Codes that a backend may disconnect with: from 4500 on clients do not come back.
pub const DISCONNECT_CODES: RangeInclusive<u16> = 4000..=4999;
/// Longest reason of a disconnect, in bytes: what the clients' SDKs expect.
pub const REASON_BYTES_MAX: usize = 32;
/// Names that all hooks may forward together: they are looked for in the head of every request that opens a connection,
/// one by one.
const FORWARD_HEADERS_MAX: usize = 32;
/// Longest a hook call may take or wait. Clients have long gone by then.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// One of `status_codes`: what an HTTP status of the backend means to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCode {
    pub status: u16,
    /// Of [`ERROR_CODES`] or of [`DISCONNECT_CODES`].
    pub code: u16,
    pub message: String,
    /// Of errors: SDKs try again.
    pub temporary: bool,
}

impl std::str::FromStr for StatusCode {
    type Err = &'static str;

    /// `429=429:too many requests:temporary`
    fn from_str(text: &str) -> Result<StatusCode, &'static str> {
        const WRITTEN: &str = "must be written like \"404=404:not found\" or \"429=429:busy:temporary\"";
        let (status, rest) = text.split_once('=').ok_or(WRITTEN)?;
        let (code, message) = rest.split_once(':').unwrap_or((rest, ""));
        let status: u16 = status.trim().parse().map_err(|_| WRITTEN)?;
        let code: u16 = code.trim().parse().map_err(|_| WRITTEN)?;
        let (message, temporary) = match message.strip_suffix(":temporary") {
            Some(message) => (message, true),
            None => (message, false),
        };
        if !(100..=599).contains(&status) || status == 200 {
            return Err("must begin with an HTTP status other than 200");
        }
        if DISCONNECT_CODES.contains(&code) {
            if message.len() > REASON_BYTES_MAX {
                return Err("has a reason of more than 32 bytes");
            }
            if temporary {
                return Err("is a disconnect, of which the code says whether clients come back");
            }
        } else if !ERROR_CODES.contains(&code) {
            return Err("must have an error code from 400 to 1999 or a disconnect code from 4000 to 4999");
        }
        Ok(StatusCode { status, code, message: message.to_string(), temporary })
    }
}

/// Reads one of `static_headers`: `Name: value`.
///
/// # Errors
/// What is wrong with it, without its value: that may be a secret.
pub fn static_header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = text.split_once(':').ok_or("must be written like \"Name: value\"")?;
    let name =
        HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| "must begin with a field's name")?;
    if is_ours(&name) {
        return Err("must not name a field that HTTP or this daemon sets itself");
    }
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| "has bytes that no field may have")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1) or to the body, which is ours.
fn is_ours(name: &HeaderName) -> bool {
    let fields = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        header::ACCEPT_ENCODING,
        header::CONTENT_ENCODING,
    ];
    fields.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Checks every `[[hook]]`, and that the hooks that others name exist.
pub(super) fn check_hooks(config: &Config, require: &mut Require<'_>) {
    let mut names = BTreeSet::new();
    for (at, hook) in config.hook.iter().enumerate() {
        let key = |name: &str| format!("hook[{at}].{name}");
        let well_named = !hook.name.is_empty()
            && hook.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        require(well_named, &key("name"), "must be of letters, digits, \"-\", \"_\" and \".\", at least one");
        require(names.insert(&*hook.name), &key("name"), "is the name of an earlier hook too");
        check_hook(&hook.options, &mut |holds, name, problem| require(holds, &key(name), problem));
    }
    require(
        config.forwarded_headers().len() <= FORWARD_HEADERS_MAX,
        "hook",
        &format!("all forward_headers together: at most {FORWARD_HEADERS_MAX} names"),
    );
    let forwarded = config.forwarded_headers();
    for name in config.emulated_headers() {
        let problem = format!("{name:?} is not in the forward_headers of any hook: nobody would see it");
        require(forwarded.contains(&name), "client.emulated_headers", &problem);
    }
    for text in &config.client.rpc_hooks {
        let is_pair = text.split_once('=').is_some_and(|(prefix, _)| !prefix.is_empty());
        let problem = format!("{text:?} must be what methods begin with and a hook, like \"chat:=backend\"");
        require(is_pair, "client.rpc_hooks", &problem);
    }
    let mut exists = |name: &Option<String>, key: &str| {
        if let Some(name) = name {
            let problem = format!("there is no [[hook]] of the name {name:?}");
            require(names.contains(&**name), key, &problem);
        }
    };
    exists(&config.client.connect_hook, "client.connect_hook");
    exists(&config.client.refresh_hook, "client.refresh_hook");
    exists(&config.client.rpc_hook, "client.rpc_hook");
    for (_, hook) in rpc_by_prefix(&config.client) {
        exists(&hook.map(String::from), "client.rpc_hooks");
    }
    for (path, options) in config.channel_options() {
        exists(&options.rules.subscribe_hook, &format!("{path}.subscribe_hook"));
        exists(&options.rules.sub_refresh_hook, &format!("{path}.sub_refresh_hook"));
        exists(&options.rules.publish_hook, &format!("{path}.publish_hook"));
    }
}

/// What methods begin with, and the hook that answers their calls; without one they are refused.
pub type HookToCall = (Box<str>, Option<Box<str>>);

/// `rpc_hooks` as they are looked through: the longest beginning of a method first.
pub fn rpc_by_prefix(client: &ClientSettings) -> Box<[HookToCall]> {
    let pair = |text: &String| {
        let (prefix, hook) = text.split_once('=')?;
        Some((Box::from(prefix), (!hook.is_empty()).then(|| Box::from(hook))))
    };
    let mut pairs: Vec<HookToCall> = client.rpc_hooks.iter().filter_map(pair).collect();
    pairs.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    pairs.into()
}

fn check_hook(hook: &HookOptions, require: &mut Require<'_>) {
    require(
        is_http(&hook.endpoint),
        "endpoint",
        "must be a URL like \"http://127.0.0.1:3000/trunkline\" or \"https://backend.example.com/\"",
    );
    require(fits(&hook.ca_file, Some(&hook.endpoint)), "ca_file", NO_TLS);
    let patience = Duration::from_millis(1)..=PATIENCE_MAX;
    require(patience.contains(&hook.timeout), "timeout", "must be from 1ms to 10m");
    require(patience.contains(&hook.wait_timeout), "wait_timeout", "must be from 1ms to 10m");
    require(
        hook.breaker_slow.is_none_or(|slow| slow > Duration::ZERO && slow <= hook.timeout),
        "breaker_slow",
        "must be above 0s and at most timeout",
    );
    require(patience.contains(&hook.probe_interval), "probe_interval", "must be from 1ms to 10m");
    require(hook.breaker_percent <= 100, "breaker_percent", "must be from 0 to 100");
    require((1..=65_536).contains(&hook.in_flight_max), "in_flight_max", "must be from 1 to 65536");
    require(hook.wait_max <= 1_000_000, "wait_max", "must be at most 1000000");
    require(hook.retries <= 10, "retries", "must be at most 10");
    for name in &hook.forward_headers {
        let fits = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !is_ours(&name));
        let problem = format!("{name:?} is no field's name, or one that HTTP or this daemon sets itself");
        require(fits, "forward_headers", &problem);
    }
    for header in &hook.static_headers {
        if let Err(problem) = static_header(header.reveal()) {
            require(false, "static_headers", problem);
        }
    }
    let mut statuses = BTreeSet::new();
    for text in &hook.status_codes {
        let problem = match text.parse::<StatusCode>() {
            Ok(code) if statuses.insert(code.status) => continue,
            Ok(_) => "has its status twice",
            Err(problem) => problem,
        };
        require(false, "status_codes", &format!("{text:?} {problem}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::faults_of as faults;
    use crate::config::file::{Origins, apply};

    #[test]
    fn what_clients_may_give_themselves_is_what_some_hook_forwards() {
        let hook = "[[hook]]\nname = \"a\"\nendpoint = \"http://b\"\nforward_headers = [\"Authorization\"]\n";
        let told = |emulated: &str| faults(&format!("[client]\nemulated_headers = [{emulated}]\n{hook}"));
        assert_eq!(told("\"AUTHORIZATION\""), [""; 0]);
        assert!(told("\"x-forwarded-for\"")[0].contains("client.emulated_headers"));
    }

    #[test]
    fn a_hook_that_is_named_must_exist() {
        let hook = "[[hook]]\nname = \"backend\"\nendpoint = \"http://127.0.0.1:3000/ask\"\n";
        let asks = "[client]\nconnect_hook = \"backend\"\nrpc_hook = \"backend\"\n[channel]\npublish_hook = \"backend\"\n";
        assert_eq!(faults(&format!("{asks}{hook}")), [""; 0]);
        assert_eq!(
            faults(asks),
            [
                "t.toml:2: client.connect_hook: there is no [[hook]] of the name \"backend\"",
                "t.toml:3: client.rpc_hook: there is no [[hook]] of the name \"backend\"",
                "t.toml:5: channel.publish_hook: there is no [[hook]] of the name \"backend\"",
            ]
        );
        let namespace = "[[namespace]]\nname = \"a\"\nsubscribe_hook = \"b\"\nsub_refresh_hook = \"c\"\n";
        assert_eq!(
            faults(namespace),
            [
                "t.toml:3: namespace[0].subscribe_hook: there is no [[hook]] of the name \"b\"",
                "t.toml:4: namespace[0].sub_refresh_hook: there is no [[hook]] of the name \"c\"",
            ]
        );
    }

    #[test]
    fn calls_go_to_the_hook_of_the_longest_beginning() {
        use crate::shard::ClientHooks;
        let hooks = "[[hook]]\nname = \"a\"\nendpoint = \"http://b\"\n[[hook]]\nname = \"b\"\nendpoint = \"http://b\"\n";
        let text = |list: &str| format!("[client]\nrpc_hook = \"a\"\nrpc_hooks = [{list}]\n{hooks}");
        let list = "\"chat:=b\", \"chat:admin:=\"";
        assert_eq!(faults(&text(list)), [""; 0]);
        let mut config = Config::default();
        apply(&mut config, &mut Origins::new(), "t.toml", &text(list));
        let rpc_by_prefix = rpc_by_prefix(&config.client);
        let of = ClientHooks { rpc: Some("a".into()), rpc_by_prefix, ..ClientHooks::default() };
        let calls =
            ["other", "chat", "chat:send", "chat:admin:ban", "chat:admin"].map(|method| of.of_call(method));
        assert_eq!(calls, [Some("a"), Some("a"), Some("b"), None, Some("b")]);
        assert_eq!(
            faults(&text("\"=b\", \"chat\", \"x=c\"")),
            [
                "t.toml:3: client.rpc_hooks: \"=b\" must be what methods begin with and a hook, like \"chat:=backend\"",
                "t.toml:3: client.rpc_hooks: \"chat\" must be what methods begin with and a hook, like \"chat:=backend\"",
                "t.toml:3: client.rpc_hooks: there is no [[hook]] of the name \"c\"",
            ]
        );
    }

    #[test]
    fn each_wrong_setting_of_a_hook_is_named() {
        let one = |line: &str| {
            let endpoint =
                if line.starts_with("endpoint") { "" } else { "endpoint = \"https://b.example.com\"\n" };
            faults(&format!("[[hook]]\nname = \"b\"\n{endpoint}{line}\n"))
        };
        for fine in [
            "timeout = \"5s\"",
            "static_headers = [\"Authorization: Bearer x:y\", \"x-empty:\"]",
            "forward_headers = [\"Cookie\", \"X-Real-IP\"]",
            "status_codes = [\"404=404:not found\", \"429=429:too many: wait:temporary\", \"403=4501:forbidden\"]",
            "when_unavailable = \"let-in\"",
        ] {
            assert_eq!(one(fine), [""; 0], "{fine}");
        }
        for (wrong, key) in [
            ("endpoint = \"\"", "endpoint"),
            ("endpoint = \"grpc://b\"", "endpoint"),
            ("endpoint = \"http:///path\"", "endpoint"),
            ("endpoint = \"b.example.com/ask\"", "endpoint"),
            ("timeout = \"0s\"", "timeout"),
            ("wait_timeout = \"1h\"", "wait_timeout"),
            ("breaker_slow = \"2s\"", "breaker_slow"),
            ("breaker_percent = 101", "breaker_percent"),
            ("probe_interval = \"0s\"", "probe_interval"),
            ("in_flight_max = 0", "in_flight_max"),
            ("retries = 11", "retries"),
            ("when_unavailable = \"guess\"", "when_unavailable"),
            ("forward_headers = [\"Host\"]", "forward_headers"),
            ("forward_headers = [\"two words\"]", "forward_headers"),
            ("static_headers = [\"hunter2\"]", "static_headers"),
            ("static_headers = [\"Content-Length: hunter2\"]", "static_headers"),
            ("static_headers = [\"x: hunter2\\u0001\"]", "static_headers"),
            ("status_codes = [\"404\"]", "status_codes"),
            ("status_codes = [\"200=404:x\"]", "status_codes"),
            ("status_codes = [\"404=399:x\"]", "status_codes"),
            ("status_codes = [\"404=2000:x\"]", "status_codes"),
            ("status_codes = [\"404=5000:x\"]", "status_codes"),
            ("status_codes = [\"404=4500:a reason that is longer than a close frame\"]", "status_codes"),
            ("status_codes = [\"404=404:x\", \"404=405:y\"]", "status_codes"),
        ] {
            let found = one(wrong);
            assert_eq!(found.len(), 1, "{wrong}: {found:?}");
            assert!(found[0].contains(&format!(": hook[0].{key}: ")), "{wrong}: {found:?}");
            assert!(!found[0].contains("hunter2"), "a header's value may be a secret: {found:?}");
        }
        let many: Vec<String> = (0..33).map(|number| format!("\"x-{number}\"")).collect();
        assert!(one(&format!("forward_headers = [{}]", many.join(",")))[0].contains("at most 32 names"));
        let named = "[[hook]]\nendpoint = \"http://b\"\n";
        assert!(faults(named)[0].starts_with("t.toml:1: hook[0].name: must be of letters"));
        let twice = "[[hook]]\nname = \"a\"\nendpoint = \"http://b\"\n";
        assert_eq!(
            faults(&format!("{twice}{twice}")),
            ["t.toml:5: hook[1].name: is the name of an earlier hook too"]
        );
    }

    #[test]
    fn a_connect_hook_is_a_way_for_strangers_to_prove_who_they_are() {
        let text = "listen = \"0.0.0.0:8000\"\n[api]\nkey = \"a key of sixteen\"\n[client]\nconnect_hook = \"b\"\n\
                    [[hook]]\nname = \"b\"\nendpoint = \"http://b\"\n";
        assert_eq!(faults(text), [""; 0]);
        assert!(faults(&text.replace("connect_hook", "rpc_hook"))[0].contains("prove who they are"));
    }

    #[test]
    fn what_hooks_forward_is_one_list() {
        let text = "[[hook]]\nname = \"a\"\nendpoint = \"http://b\"\nforward_headers = [\"X-B\", \"Cookie\"]\n\
                    [[hook]]\nname = \"b\"\nendpoint = \"http://b\"\nforward_headers = [\"cookie\"]\n";
        let mut config = Config::default();
        assert_eq!(apply(&mut config, &mut Origins::new(), "t.toml", text), []);
        assert_eq!(config.forwarded_headers(), ["cookie", "x-b"]);
    }
}
