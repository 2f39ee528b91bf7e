//! What several keys of theirs make together: listeners, limits, channels.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::centrifugo::convert::list;
use crate::config::centrifugo::hooks::CentrifugoHooks;
use crate::config::centrifugo::keys::{
    As, CentrifugoKey, Concern, KEYS, PROXY_KEYS, RPC_KEYS, To, channel_keys, find, find_old, part,
};
use crate::config::centrifugo::output::SettingSource;
use crate::config::centrifugo::tree::{TreeNode, TreeValue, json_text};
use crate::config::centrifugo::{GivenKey, Import, KeyPlace, is_map};
use crate::config::fault::SettingOrigin;
use crate::config::value::quote;

/// Keys whose value is a list of tables with names.
pub const LISTS: [&str; 4] = ["channel.namespaces", "rpc.namespaces", "proxies", "consumers"];

const ACCESS_NOT_A_FILE: &str = "certificates and keys come from files: write it into one";

/// Sections that are one row of the table, with their own keys.
pub fn sections() -> Vec<(&'static str, Vec<CentrifugoKey>)> {
    let switched = || PROXY_KEYS.iter().copied().chain([part("enabled")]).collect::<Vec<CentrifugoKey>>();
    let tokens = KEYS.iter().filter_map(|key| {
        let path = key.path.strip_prefix("client.token.")?;
        Some(CentrifugoKey { path, ..*key })
    });
    vec![
        ("channel.without_namespace", channel_keys()),
        ("client.subscription_token", tokens.chain([part("enabled")]).collect()),
        ("client.proxy.connect", switched()),
        ("client.proxy.refresh", switched()),
        ("channel.proxy.subscribe", PROXY_KEYS.to_vec()),
        ("channel.proxy.publish", PROXY_KEYS.to_vec()),
        ("channel.proxy.sub_refresh", PROXY_KEYS.to_vec()),
        ("channel.proxy.subscribe_stream", PROXY_KEYS.to_vec()),
        ("rpc.proxy", PROXY_KEYS.to_vec()),
        ("rpc.without_namespace", RPC_KEYS.to_vec()),
    ]
}

/// The keys of the entries of a list.
pub fn keys_of(list: &str) -> Vec<CentrifugoKey> {
    match list {
        "channel.namespaces" => channel_keys(),
        "rpc.namespaces" => RPC_KEYS.to_vec(),
        "proxies" => PROXY_KEYS.to_vec(),
        _ => Vec::new(),
    }
}

/// The path of version 6 for a name from before that is a part of a section which is one row.
pub fn old_part(name: &str) -> Option<String> {
    let path = match name {
        "separate_subscription_token_config" => "client.subscription_token.enabled".to_string(),
        "connect_proxy_name" => "client.proxy.connect.name".to_string(),
        "refresh_proxy_name" => "client.proxy.refresh.name".to_string(),
        "rpc_proxy_name" => "rpc.without_namespace.proxy_name".to_string(),
        "proxy_static_http_headers" => "proxy.http.static_headers".to_string(),
        "proxy_http_headers"
        | "proxy_grpc_metadata"
        | "proxy_binary_encoding"
        | "proxy_include_connection_meta" => name.replacen('_', ".", 1),
        _ => match name.strip_prefix("subscription_token_") {
            Some(key) => format!("client.subscription_token.{key}"),
            None => {
                let (event, key) = name.strip_prefix("proxy_")?.rsplit_once('_')?;
                match (event, key) {
                    ("rpc", "endpoint" | "timeout") => format!("rpc.proxy.{key}"),
                    ("connect" | "refresh", "endpoint" | "timeout") => format!("client.proxy.{event}.{key}"),
                    (_, "endpoint" | "timeout") => format!("channel.proxy.{event}.{key}"),
                    _ => return None,
                }
            }
        },
    };
    Some(path)
}

/// A list of tables, as the environment writes one: JSON, or names apart by blanks.
pub fn entries(node: TreeNode) -> TreeNode {
    let (TreeValue::Loose(text) | TreeValue::Text(text)) = &node.value else { return node };
    if let Some(list @ TreeNode { value: TreeValue::List(_), .. }) = json_text(text, &node.origin) {
        return list;
    }
    let entry = |name: &str| {
        let name = TreeNode { value: TreeValue::Text(name.to_string()), origin: node.origin.clone() };
        TreeNode { value: TreeValue::Table(vec![("name".to_string(), name)]), origin: node.origin.clone() }
    };
    TreeNode {
        value: TreeValue::List(text.split_whitespace().map(entry).collect()),
        origin: node.origin.clone(),
    }
}

/// The leaves of a table by their paths.
pub fn leaves(node: &TreeNode, path: &str, into: &mut BTreeMap<String, TreeNode>) {
    for (key, node) in node.table().unwrap_or_default() {
        let whole = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match &node.value {
            TreeValue::Table(_) if !is_map(key) => leaves(node, &whole, into),
            _ => {
                into.insert(whole, node.clone());
            }
        }
    }
}

/// Where theirs would listen: without an address, at all of IPv6 and IPv4.
fn address(address: &str, port: u64) -> String {
    match address {
        "" => format!("[::]:{port}"),
        address if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{port}"),
        address => format!("{address}:{port}"),
    }
}

impl Import {
    /// The listeners of clients and, where it has its own, of the API; and the certificate.
    pub(super) fn listeners(&mut self) {
        let source = |given: Option<GivenKey>, key: &str| match given {
            Some(given) => given.source(),
            None => SettingSource { key: key.to_string(), origin: SettingOrigin::Default },
        };
        let host = self.text_of("http_server.address");
        let port = self.number_of("http_server.port");
        let said = port.clone().map(|(_, given)| given).or(host.clone().map(|(_, given)| given));
        let said = source(said, "http_server.port");
        let host = host.map_or(String::new(), |(host, _)| host);
        let port = port.map_or(8000, |(port, _)| port);
        let internal_host =
            self.text_of("http_server.internal_address").map_or(host.clone(), |(host, _)| host);
        let internal = self.number_of("http_server.internal_port");
        let (external_at, tls) = (address(&host, port), self.certificate());
        let internal = internal.map(|(port, given)| (address(&internal_host, port), given.source()));
        let internal = internal.filter(|(at, _)| *at != external_at);
        let api_everywhere = self.flag_of("http_api.external");
        let tls_inside = tls && !self.flag_of("http_server.tls_external");
        let external_at = quote(&external_at);
        let mut tables: Vec<(String, bool, &str, SettingSource)> = Vec::new();
        match internal {
            None if tls => {
                self.output.set("listen", "[]".to_string(), said.clone());
                self.output.set("listen_tls", external_at, said);
            }
            None => self.output.set("listen", external_at, said),
            Some((internal_at, internal_said)) => {
                let serves = if api_everywhere { "both" } else { "clients" };
                tables.push((external_at, tls, serves, said));
                tables.push((quote(&internal_at), tls_inside, "api", internal_said));
            }
        }
        for (at, tls, serves, said) in tables {
            match (serves, tls) {
                ("clients", false) => self.output.set("listen", at, said),
                ("api", false) => self.output.set("api_listen", at, said),
                _ => self.listener_tables.push((at, tls, serves.to_string(), said)),
            }
        }
    }

    /// The certificate of the server, if it speaks TLS.
    fn certificate(&mut self) -> bool {
        if !self.flag_of("http_server.tls.enabled") {
            return false;
        }
        for (theirs, ours) in [("cert", "tls.cert"), ("key", "tls.key"), ("client_ca", "tls.client_ca_file")]
        {
            let path = |kind: &str| format!("http_server.tls.{theirs}_pem{kind}");
            if let Some((file, given)) = self.text_of(&path("_file")) {
                self.output.set(ours, quote(&file), given.source());
            } else if let Some((text, given)) =
                self.text_of(&path("")).or_else(|| self.text_of(&path("_b64")))
            {
                // Theirs takes a file's name here as well.
                if text.contains('/') && text.lines().count() == 1 && text.len() < 4096 {
                    self.output.set(ours, quote(&text), given.source());
                } else {
                    let names = [given.said.clone(), path("")];
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let origin = given.node.origin.clone();
                    self.missing(Concern::Access, &names, &given.said, &origin, ACCESS_NOT_A_FILE);
                }
            }
            if theirs == "client_ca" && self.output.is_set(ours) {
                let said = SettingSource { key: path(""), origin: SettingOrigin::Default };
                self.output.set("tls.client_certificates", quote("require"), said);
            }
        }
        true
    }

    /// Limits and tokens of clients.
    pub(super) fn clients(&mut self) {
        let of_theirs =
            |what: &str| SettingSource { key: format!("Centrifugo: {what}"), origin: SettingOrigin::Default };
        self.output.set("client.commands_per_second", "0".to_string(), of_theirs("any number"));
        self.output.set("client.token.leeway", quote("0s"), of_theirs("a token ends at its exp"));
        self.put("client.user_connections_max", As::Number, "client.user_connection_limit");
        let personal = "client.subscribe_to_user_personal_channel";
        if self.flag_of(&format!("{personal}.enabled"))
            && self.flag_of(&format!("{personal}.single_connection"))
            && let Some(given) = self.given.get(&format!("{personal}.single_connection")).cloned()
        {
            self.output.set("client.user_connections_max", "1".to_string(), given.source());
            self.output.set("client.user_connections_policy", quote("replace"), given.source());
        }
        if let Some((rate, given)) =
            self.number_of("client.connection_rate_limit").filter(|(rate, _)| *rate > 0)
        {
            self.output.set("admission.connects_per_second", rate.to_string(), given.source());
            self.output.set("admission.connects_burst", rate.to_string(), given.source());
        }
        if self.flag_of("websocket.compression") {
            self.put("client.compression", As::Flag, "websocket.compression");
            self.put("client.compression_level", As::Number, "websocket.compression_level");
            self.put("client.compression_min_bytes", As::Number, "websocket.compression_min_size");
            let default = |key: &str| SettingSource { key: key.to_string(), origin: SettingOrigin::Default };
            self.output.set(
                "client.compression_level",
                "1".to_string(),
                default("websocket.compression_level"),
            );
            let key = "websocket.compression_min_size";
            self.output.set("client.compression_min_bytes", "0".to_string(), default(key));
        }
        self.previous_secret("client.token");
        self.subscription_tokens();
    }

    /// The secret of before, behind the date until which it is taken.
    fn previous_secret(&mut self, section: &str) {
        let Some((secret, given)) = self.text_of(&format!("{section}.hmac_previous_secret_key")) else {
            return;
        };
        let until = self.number_of(&format!("{section}.hmac_previous_secret_key_valid_until"));
        let until =
            until.filter(|(until, _)| *until > 0).map_or("never".to_string(), |(until, _)| until.to_string());
        let secrets = list(&[format!("{until} {secret}")]);
        self.output.set(&format!("{section}.hmac_secrets"), secrets, given.source());
    }

    /// Keys of subscription tokens are as those of connections, in a section of their own.
    fn subscription_tokens(&mut self) {
        const SECTION: &str = "client.subscription_token";
        let enabled = self.flag_of(&format!("{SECTION}.enabled"));
        let mut named = BTreeSet::new();
        for (leaf, given) in self.below(SECTION) {
            if leaf == "enabled" {
                continue;
            }
            let Some(row) = find(KEYS, &format!("client.token.{leaf}")) else {
                self.unknown(&given.said.clone(), &given.node.origin.clone());
                continue;
            };
            if !enabled {
                let GivenKey { node, said } = &given;
                if node.plain().is_none_or(|plain| !plain.is_empty()) {
                    self.warnings
                        .push(format!("{}: {said} is of no use: {SECTION}.enabled is off", node.origin));
                }
                continue;
            }
            let row = match row.to {
                To::Ours(ours, to, default) => CentrifugoKey {
                    to: To::Ours(ours.trim_start_matches("client.token."), to, default),
                    ..*row
                },
                _ => *row,
            };
            let place = KeyPlace::Section(SECTION, SECTION);
            self.row(&row, &leaf, &given, &mut named, place);
        }
        if enabled {
            self.previous_secret(SECTION);
            let said = SettingSource {
                key: "Centrifugo: a token ends at its exp".into(),
                origin: SettingOrigin::Default,
            };
            self.output.set(&format!("{SECTION}.leeway"), quote("0s"), said);
        }
    }

    /// What was given below a section, by the rest of its path.
    pub(super) fn below(&self, section: &str) -> Vec<(String, GivenKey)> {
        let start = format!("{section}.");
        let of = |(path, given): (&String, &GivenKey)| {
            Some((path.strip_prefix(&start)?.to_string(), given.clone()))
        };
        self.given.iter().filter_map(of).collect()
    }

    /// What an entry of a list says, by the paths of its keys.
    pub(super) fn entry(
        &mut self,
        keys: &[CentrifugoKey],
        list: &str,
        entry: &TreeNode,
    ) -> (String, Vec<(String, GivenKey)>) {
        let mut all = BTreeMap::new();
        leaves(entry, "", &mut all);
        let name = all.remove("name").and_then(|node| node.plain()).unwrap_or_default();
        let mut given = Vec::new();
        for (key, node) in all {
            let row = find(keys, &key).or_else(|| find_old(keys, &key));
            let said = format!("{list}.{name}.{key}");
            match row {
                None => {
                    let origin = node.origin.clone();
                    self.missing(
                        Concern::Access,
                        &[&said, &key],
                        &said,
                        &origin,
                        "is no key that is known here",
                    );
                }
                Some(row) => {
                    let is_old = find(keys, &key).is_none();
                    let path = if is_old { row.path.to_string() } else { key };
                    given.push((path, GivenKey { node, said }));
                }
            }
        }
        (name, given)
    }

    pub(super) fn items(&self, list: &str) -> Vec<TreeNode> {
        match self.given.get(list).map(|given| &given.node.value) {
            Some(TreeValue::List(items)) => items.clone(),
            _ => Vec::new(),
        }
    }

    /// The options of channels, with a namespace and without.
    pub(super) fn channels(&mut self, hooks: &CentrifugoHooks) {
        let keys = channel_keys();
        let own = self.below("channel.without_namespace");
        self.channel(&keys, own, KeyPlace::Section("channel.without_namespace", "channel"), hooks);
        for (at, tls, serves, said) in std::mem::take(&mut self.listener_tables) {
            self.output.entry("listener");
            self.output.set_in_entry("address", at, said.clone());
            self.output.set_in_entry("serves", quote(&serves), said.clone());
            if tls {
                self.output.set_in_entry("tls", "true".to_string(), said);
            }
        }
        hooks.write(&mut self.output);
        for item in self.items("channel.namespaces") {
            let (name, given) = self.entry(&keys, "channel.namespaces", &item);
            let place = format!("channel.namespaces.{name}");
            self.output.entry("namespace");
            let said = SettingSource { key: "channel.namespaces".to_string(), origin: item.origin.clone() };
            self.output.set_in_entry("name", quote(&name), said);
            self.channel(&keys, given, KeyPlace::Entry(&place), hooks);
        }
    }

    fn channel(
        &mut self,
        keys: &[CentrifugoKey],
        given: Vec<(String, GivenKey)>,
        place: KeyPlace<'_>,
        hooks: &CentrifugoHooks,
    ) {
        let mut named = BTreeSet::new();
        for (path, given) in &given {
            match find(keys, path) {
                Some(row) => self.row(row, path, given, &mut named, place),
                None => self.unknown(&given.said.clone(), &given.node.origin.clone()),
            }
        }
        let get = |path: &str| given.iter().find(|(known, _)| known == path).map(|(_, given)| given);
        for row in keys {
            if let To::Ours(ours, _, Some(default)) = row.to
                && get(row.path).is_none()
            {
                let source = SettingSource { key: row.path.to_string(), origin: SettingOrigin::Default };
                self.set(place, ours, default.to_string(), source);
            }
        }
        // Zero is theirs for the global one.
        let own = get("history_meta_ttl")
            .filter(|given| !matches!(given.node.plain().as_deref(), Some("0" | "0s" | "")));
        if let Some(given) = own.cloned().or_else(|| self.given.get("channel.history_meta_ttl").cloned()) {
            let row = CentrifugoKey {
                path: "history_meta_ttl",
                old: &[],
                to: To::Ours("history_meta_ttl", As::Time, None),
            };
            self.row(&row, "history_meta_ttl", &given, &mut BTreeSet::new(), place);
        }
        for (event, ours) in [
            ("subscribe", "subscribe_hook"),
            ("publish", "publish_hook"),
            ("sub_refresh", "sub_refresh_hook"),
        ] {
            let (on, name) = (get(&format!("{event}_proxy_enabled")), get(&format!("{event}_proxy_name")));
            let default = format!("channel.proxy.{event}");
            if let Some((hook, source)) = self.hook_named(on, name, &default, hooks) {
                self.set(place, ours, quote(&hook), source);
            }
        }
    }

    /// What has no place of its own.
    pub(super) fn rest(&mut self) {
        for item in self.items("consumers") {
            let is_on = item
                .get("enabled")
                .is_some_and(|on| crate::config::centrifugo::convert::flag(on) == Ok(true));
            // Before version 6 there was no switch.
            if is_on || item.get("enabled").is_none() && item.get("type").is_some() {
                let name = item.get("name").and_then(TreeNode::plain).unwrap_or_default();
                let said = format!("consumers.{name}");
                let why = "messages come by the API alone";
                self.missing(Concern::Delivery, &[&said, "consumers"], &said, &item.origin, why);
            }
        }
    }
}
