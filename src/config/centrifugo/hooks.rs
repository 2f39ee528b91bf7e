//! Their proxies as our hooks: what they are called, and who asks them.

use std::collections::BTreeSet;

use crate::config::centrifugo::convert::{self, convert};
use crate::config::centrifugo::keys::{CentrifugoKey, Concern, PROXY_KEYS, RPC_KEYS, To, find};
use crate::config::centrifugo::output::{Output, SettingSource};
use crate::config::centrifugo::tree::{TreeNode, TreeValue};
use crate::config::centrifugo::{GivenKey, Import};
use crate::config::fault::SettingOrigin;
use crate::config::value::quote;

/// What the proxy of each event is called here, for it has no name there.
const DEFAULTS: [&str; 6] = [
    "client.proxy.connect",
    "client.proxy.refresh",
    "channel.proxy.subscribe",
    "channel.proxy.publish",
    "channel.proxy.sub_refresh",
    "rpc.proxy",
];

/// Hooks as they will be written.
#[derive(Debug, Default)]
pub struct CentrifugoHooks {
    entries: Vec<Vec<(String, String, SettingSource)>>,
    names: BTreeSet<String>,
    /// Those that cannot be, and were named as missing.
    dropped: BTreeSet<String>,
}

impl CentrifugoHooks {
    pub fn write(&self, output: &mut Output) {
        for entry in &self.entries {
            output.entry("hook");
            for (key, value, source) in entry {
                output.set_in_entry(key, value.clone(), source.clone());
            }
        }
    }
}

impl Import {
    /// Every proxy that has an endpoint, and those that are asked about connections and calls.
    pub(super) fn hooks(&mut self) -> CentrifugoHooks {
        let mut hooks = CentrifugoHooks::default();
        let mut emulated: Vec<(Vec<String>, SettingSource)> = Vec::new();
        // Before version 6 these held for every proxy of an event.
        let shared = self.below("proxy");
        for section in DEFAULTS {
            let mut given = self.below(section);
            for (leaf, of_all) in &shared {
                if given.iter().all(|(known, _)| known != leaf) {
                    given.push((leaf.clone(), of_all.clone()));
                }
            }
            self.hook(section, section, &given, &mut hooks, &mut emulated);
        }
        for item in self.items("proxies") {
            let (name, given) = self.entry(PROXY_KEYS, "proxies", &item);
            self.hook(&name, &format!("proxies.{name}"), &given, &mut hooks, &mut emulated);
        }
        for (names, source) in emulated {
            self.output.set("client.emulated_headers", convert::list(&names), source);
        }
        for (section, ours) in
            [("client.proxy.connect", "client.connect_hook"), ("client.proxy.refresh", "client.refresh_hook")]
        {
            let path = |key: &str| format!("{section}.{key}");
            let by_old = self.old.contains(&path("endpoint"));
            let named = self.given.get(&path("name")).cloned();
            let on = self.given.get(&path("enabled")).cloned();
            let on = on.or_else(|| self.given.get(&path("endpoint")).filter(|_| by_old).cloned());
            if let Some((hook, source)) = self.hook_named(on.as_ref(), named.as_ref(), section, &hooks) {
                self.output.set(ours, quote(&hook), source);
            }
        }
        self.calls(&hooks);
        hooks
    }

    /// Who answers calls.
    fn calls(&mut self, hooks: &CentrifugoHooks) {
        let by_old = self.old.contains("rpc.proxy.endpoint");
        let on = self.given.get("rpc.without_namespace.proxy_enabled").cloned();
        let on = on.or_else(|| self.given.get("rpc.proxy.endpoint").filter(|_| by_old).cloned());
        let named = self.given.get("rpc.without_namespace.proxy_name").cloned();
        if let Some((hook, source)) = self.hook_named(on.as_ref(), named.as_ref(), "rpc.proxy", hooks) {
            self.output.set("client.rpc_hook", quote(&hook), source);
        }
        let (mut pairs, mut said) = (Vec::new(), None);
        for item in self.items("rpc.namespaces") {
            let (name, given) = self.entry(&RPC_KEYS, "rpc.namespaces", &item);
            let get =
                |leaf: &str| given.iter().find(|(known, _)| known == leaf).map(|(_, given)| given.clone());
            let hook = self.hook_named(
                get("proxy_enabled").as_ref(),
                get("proxy_name").as_ref(),
                "rpc.proxy",
                hooks,
            );
            said.get_or_insert(SettingSource {
                key: "rpc.namespaces".to_string(),
                origin: item.origin.clone(),
            });
            // Without a proxy its calls are refused, whatever answers those of no namespace.
            pairs.push(format!("{name}:={}", hook.map_or(String::new(), |(hook, _)| hook)));
        }
        if let Some(said) = said {
            self.output.set("client.rpc_hooks", convert::list(&pairs), said);
        }
    }

    /// The hook that is asked: by its name, or the one of the event. `on`: what switches it on, a flag or, before version 6,
    /// an endpoint; without it a name does, where each event has its own proxy.
    pub(super) fn hook_named(
        &mut self,
        on: Option<&GivenKey>,
        name: Option<&GivenKey>,
        default: &str,
        hooks: &CentrifugoHooks,
    ) -> Option<(String, SettingSource)> {
        let name_text = name.and_then(|given| given.node.plain()).unwrap_or_default();
        let is_on = match on {
            Some(given) => match convert::flag(&given.node) {
                Ok(on) => on,
                // The endpoint of before.
                Err(_) if given.node.plain().is_some_and(|text| text.contains("://")) => true,
                Err(problem) => {
                    self.wrong(&given.clone(), problem);
                    false
                }
            },
            None => !name_text.is_empty() && self.flag_of("granular_proxy_mode"),
        };
        let source = on.or(name).filter(|_| is_on)?.source();
        let hook = if matches!(name_text.as_str(), "" | "default") { default } else { &name_text };
        if hooks.names.contains(hook) {
            return Some((hook.to_string(), source));
        }
        if !hooks.dropped.contains(hook) {
            let problem = match hook == default {
                true => format!("asks a proxy, and {default}.endpoint is not set"),
                false => format!("asks the proxy {hook:?}, and there is none of that name"),
            };
            let key = source.key.clone();
            self.faults.push(crate::config::fault::Fault { key, origin: source.origin, problem });
        }
        None
    }

    fn hook(
        &mut self,
        name: &str,
        place: &str,
        given: &[(String, GivenKey)],
        hooks: &mut CentrifugoHooks,
        emulated: &mut Vec<(Vec<String>, SettingSource)>,
    ) {
        let get = |leaf: &str| given.iter().find(|(known, _)| known == leaf).map(|(_, given)| given);
        let Some(endpoint) =
            get("endpoint").filter(|given| given.node.plain().is_some_and(|text| !text.is_empty()))
        else {
            return;
        };
        let url = endpoint.node.plain().unwrap_or_default();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let names = [endpoint.said.as_str(), place];
            let origin = endpoint.node.origin.clone();
            self.missing(
                Concern::Access,
                &names,
                &endpoint.said,
                &origin,
                "hooks speak HTTP: give an http or https URL",
            );
            hooks.dropped.insert(name.to_string());
            return;
        }
        let mut entry = vec![
            ("name".to_string(), quote(name), endpoint.source()),
            ("endpoint".to_string(), quote(&url), endpoint.source()),
        ];
        let mut named = BTreeSet::new();
        for (leaf, given) in given {
            let outcome = match (leaf.as_str(), find(PROXY_KEYS, leaf)) {
                ("enabled" | "name" | "endpoint", _) => continue,
                ("http.static_headers", _) => {
                    self.static_headers(&given.node).map(|headers| Some(("static_headers", headers)))
                }
                ("http.status_to_code_transforms", _) => {
                    transforms(&given.node).map(|codes| Some(("status_codes", convert::list(&codes))))
                }
                ("emulated_headers", _) => convert::texts(&given.node).map(|names| {
                    emulated.extend((!names.is_empty()).then(|| (names, given.source())));
                    None
                }),
                (_, Some(CentrifugoKey { to: To::Ours(ours, to, _), .. })) => {
                    convert(*to, &given.node).map(|value| value.map(|value| (*ours, value)))
                }
                (_, Some(row)) => {
                    self.row(row, leaf, given, &mut named, crate::config::centrifugo::KeyPlace::Entry(place));
                    Ok(None)
                }
                (_, None) => {
                    self.unknown(&given.said.clone(), &given.node.origin.clone());
                    Ok(None)
                }
            };
            match outcome {
                Ok(Some((ours, value))) => entry.push((ours.to_string(), value, given.source())),
                Ok(None) => {}
                Err(problem) => self.wrong(given, problem),
            }
        }
        // What is emulated must be forwarded, or nobody would see it.
        if let Some(names) = get("emulated_headers").and_then(|given| convert::texts(&given.node).ok())
            && !names.is_empty()
        {
            let forwarded = get("http_headers").and_then(|given| convert::texts(&given.node).ok());
            let mut all = forwarded.unwrap_or_default();
            all.extend(
                names
                    .into_iter()
                    .filter(|name| !all.iter().any(|known| known.eq_ignore_ascii_case(name)))
                    .collect::<Vec<_>>(),
            );
            entry.retain(|(key, ..)| key != "forward_headers");
            entry.push(("forward_headers".to_string(), convert::list(&all), endpoint.source()));
        }
        hooks.names.insert(name.to_string());
        hooks.entries.push(entry);
    }

    /// A table of names and values, a list of `{key, value}`, or either as JSON; `${CENTRIFUGO_VAR_...}` in a value is that variable.
    fn static_headers(&self, node: &TreeNode) -> Result<String, String> {
        let wrong = || "is no table of header fields".to_string();
        let parsed;
        let node = match &node.value {
            TreeValue::Loose(text) | TreeValue::Text(text) => {
                parsed = crate::config::centrifugo::tree::json_text(text, &node.origin).ok_or_else(wrong)?;
                &parsed
            }
            _ => node,
        };
        let pairs: Vec<(String, String)> = match &node.value {
            TreeValue::Table(entries) => entries
                .iter()
                .map(|(name, node)| Ok((name.clone(), convert::text(node)?)))
                .collect::<Result<_, String>>()?,
            TreeValue::List(items) => items
                .iter()
                .map(|item| {
                    let part = |key: &str| item.get(key).ok_or_else(wrong).and_then(convert::text);
                    Ok((part("key")?, part("value")?))
                })
                .collect::<Result<_, String>>()?,
            TreeValue::Null => Vec::new(),
            _ => return Err(wrong()),
        };
        let fields: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}: {}", self.with_variables(&value)))
            .collect();
        Ok(convert::list(&fields))
    }

    fn with_variables(&self, text: &str) -> String {
        let custom = self.variables.iter().filter(|(name, _)| name.starts_with("CENTRIFUGO_VAR_"));
        custom.fold(text.to_string(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
    }
}

/// What HTTP statuses of a backend mean to clients, in our words.
fn transforms(node: &TreeNode) -> Result<Vec<String>, String> {
    let parsed;
    let node = match &node.value {
        TreeValue::Loose(text) | TreeValue::Text(text) => {
            parsed = crate::config::centrifugo::tree::json_text(text, &SettingOrigin::Default)
                .ok_or_else(|| "is no JSON".to_string())?;
            &parsed
        }
        _ => node,
    };
    let TreeValue::List(items) = &node.value else { return Ok(Vec::new()) };
    items
        .iter()
        .map(|item| {
            let number = |node: Option<&TreeNode>| {
                node.and_then(|node| convert::number(node).ok()).flatten().unwrap_or(0)
            };
            let text =
                |node: Option<&TreeNode>| node.and_then(|node| convert::text(node).ok()).unwrap_or_default();
            let status = number(item.get("status_code"));
            let (error, disconnect) = (item.get("to_error"), item.get("to_disconnect"));
            let of = |node: Option<&TreeNode>, key: &str| node.and_then(|node| node.get(key)).cloned();
            let error_code = number(of(error, "code").as_ref());
            if error_code > 0 {
                let temporary = of(error, "temporary").is_some_and(|node| convert::flag(&node) == Ok(true));
                let temporary = if temporary { ":temporary" } else { "" };
                return Ok(format!(
                    "{status}={error_code}:{}{temporary}",
                    text(of(error, "message").as_ref())
                ));
            }
            let code = number(of(disconnect, "code").as_ref());
            if code == 0 {
                return Err(format!("status {status} is neither an error nor a disconnect"));
            }
            Ok(format!("{status}={code}:{}", text(of(disconnect, "reason").as_ref())))
        })
        .collect()
}
