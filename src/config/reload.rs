//! What is different between two configurations, and which of it a running node takes.

use std::collections::BTreeSet;

use crate::config::parts::{List, LiveKeys};
use crate::config::sections::{Config, TunnelEntry};
use crate::config::table::{Entries, Section};

/// Of a namespace, what a running node does not take. What was given to clients must not be taken back by what is written from
/// now on, clients that read JSON must not get bytes, and a log is of one kind.
const FIXED: &[&str] = &["durable", "payload", "presence_by", "kind", "deliver"];

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `client.connect_timeout`, `namespace "chat": history_size`, `hook "backend"`.
    pub key: String,
    /// From what to what, without secrets.
    pub what: String,
    /// A running node takes it.
    pub live: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// A tunnel at the place by which shards and the control plane call it. Places are for the life of the process: one that was
/// taken out of the configuration stays for those who are connected.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedTunnel {
    pub tunnel: TunnelEntry,
    /// Clients may connect.
    pub served: bool,
}

/// Most places of tunnels, those included that are not served any more.
const PLACES_MAX: usize = 1024;

/// The tunnels of another configuration in their places.
///
/// # Errors
/// When all places are taken: too many have come and gone.
pub fn place_tunnels(old: &[PlacedTunnel], new: &[TunnelEntry]) -> Result<Vec<PlacedTunnel>, String> {
    let by_name = |name: &str| new.iter().find(|tunnel| tunnel.name == name);
    let mut placed: Vec<PlacedTunnel> = old
        .iter()
        .map(|old| match by_name(&old.tunnel.name) {
            Some(tunnel) => PlacedTunnel { tunnel: tunnel.clone(), served: true },
            None => PlacedTunnel { served: false, ..old.clone() },
        })
        .collect();
    for tunnel in new {
        if !placed.iter().any(|placed| placed.tunnel.name == tunnel.name) {
            placed.push(PlacedTunnel { tunnel: tunnel.clone(), served: true });
        }
    }
    match placed.len() <= PLACES_MAX {
        true => Ok(placed),
        false => Err(format!("tunnel: more than {PLACES_MAX} have come and gone since the start: restart")),
    }
}

/// Whether the entry of this key was added and keeps something in the store.
fn is_durable(list: &List<'_>, what: &str, key: &str) -> bool {
    let all = list.entries.all();
    let found = all.iter().find(|(name, _)| format!("{name:?}") == key);
    what == "added"
        && found.and_then(|(_, section)| section.get("durable")).is_some_and(|durable| durable != "\"no\"")
}

/// Every difference, in the order of the documented file.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for (old, new) in before.parts().iter().zip(after.parts()) {
        let dot = if new.path.is_empty() { "" } else { "." };
        for (name, what) in differences(old.section, new.section) {
            let live = new.live.takes(name) && !FIXED.contains(&name);
            changes.push(Change { key: format!("{}{dot}{name}", new.path), what, live });
        }
    }
    for (old, new) in before.lists().iter().zip(after.lists()) {
        let of = entries(old.entries, new.entries).into_iter();
        changes.extend(of.map(|(key, what)| {
            let fixed = FIXED.iter().any(|name| key.ends_with(&format!(": {name}")));
            let live = new.live == LiveKeys::All && !fixed && !is_durable(&new, &what, &key);
            Change { key: format!("{} {key}", new.name), what, live }
        }));
    }
    changes
}

/// The keys of a section that differ, and how.
fn differences(old: &dyn Section, new: &dyn Section) -> Vec<(&'static str, String)> {
    let differing = new.keys().iter().filter_map(|key| {
        let (before, after) = (old.get(key.name), new.get(key.name));
        if before == after {
            return None;
        }
        let show = |value: Option<String>| match value {
            None => "unset".to_owned(),
            Some(_) if key.secret => "another value".to_owned(),
            Some(value) => value,
        };
        let what = match (key.secret, before.is_some() && after.is_some()) {
            (true, true) => "another value".to_owned(),
            _ => format!("{} -> {}", show(before), show(after)),
        };
        Some((key.name, what))
    });
    differing.collect()
}

/// The entries of a list that came, went or differ. An order of their own matters to nobody but listeners and certificates,
/// where another order is another list.
fn entries(old: &dyn Entries, new: &dyn Entries) -> Vec<(String, String)> {
    let (old, new) = (old.all(), new.all());
    let mut found = Vec::new();
    for (name, section) in &new {
        match old.iter().find(|(other, _)| other == name) {
            None => found.push((format!("{name:?}"), "added".to_owned())),
            Some((_, before)) => {
                let differing = differences(*before, *section).into_iter();
                found.extend(differing.map(|(key, what)| (format!("{name:?}: {key}"), what)));
            }
        }
    }
    let kept: BTreeSet<&str> = new.iter().map(|(name, _)| *name).collect();
    let gone = old.iter().filter(|(name, _)| !kept.contains(name));
    found.extend(gone.map(|(name, _)| (format!("{name:?}"), "removed".to_owned())));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_durable_changes_by_a_restart_alone() {
        use crate::config::sections::Namespace;
        use crate::hub::log_store::Durable;
        let before = Config::default();
        let mut after = before.clone();
        after.channel.channel.durable = Durable::Sync;
        after.namespace = vec![Namespace::default(), Namespace::default()];
        after.namespace[0].name = "kept".into();
        after.namespace[0].options.channel.durable = Durable::Async;
        after.namespace[1].name = "other".into();
        let live: Vec<(String, bool)> =
            changes(&before, &after).into_iter().map(|change| (change.key, change.live)).collect();
        let expected =
            [("channel.durable", false), ("namespace \"kept\"", false), ("namespace \"other\"", true)];
        assert_eq!(live, expected.map(|(key, live)| (key.to_owned(), live)));
        let mut changed = after.clone();
        changed.namespace[1].options.channel.durable = Durable::Async;
        let found = changes(&after, &changed);
        assert_eq!(found.len(), 1);
        assert!(!found[0].live && found[0].key == "namespace \"other\": durable", "{found:?}");
    }

    #[test]
    fn what_publications_hold_changes_by_a_restart_alone() {
        use crate::base::publication::PayloadForm;
        use crate::config::sections::Namespace;
        let namespace = vec![Namespace { name: "files".into(), ..Namespace::default() }];
        let before = Config { namespace, ..Config::default() };
        let mut after = before.clone();
        after.channel.channel.payload = PayloadForm::Bytes;
        after.namespace[0].options.channel.payload = PayloadForm::Bytes;
        let found = changes(&before, &after);
        let keys: Vec<(&str, bool)> = found.iter().map(|change| (&*change.key, change.live)).collect();
        assert_eq!(keys, [("channel.payload", false), ("namespace \"files\": payload", false)]);
    }

    use crate::config::load::{Sources, load};

    fn config(text: &str) -> Config {
        let file = Some(("t.toml".to_owned(), format!("[api]\nkey = \"k\"\n{text}")));
        load(&Sources { file, ..Sources::default() }).expect("a good configuration").config
    }

    fn told(before: &str, after: &str) -> Vec<(String, bool)> {
        let changes = changes(&config(before), &config(after));
        changes.iter().map(|change| (change.to_string(), change.live)).collect()
    }

    #[test]
    fn what_differs_is_named_with_both_values_and_without_secrets() {
        assert_eq!(told("", ""), []);
        let before = "[client]\nconnect_timeout = \"5s\"\n[client.token]\nhmac_secret = \"old-secret\"\n";
        let after = "[client]\nconnect_timeout = \"7s\"\nping_interval = \"30s\"\n\
                     [client.token]\nhmac_secret = \"new-secret\"\naudience = \"a\"\n[log]\nlevel = \"debug\"\n";
        assert_eq!(
            told(before, after),
            [
                ("log.level: \"info\" -> \"debug\"".to_owned(), true),
                ("client.ping_interval: \"25s\" -> \"30s\"".to_owned(), false),
                ("client.connect_timeout: \"5s\" -> \"7s\"".to_owned(), true),
                ("client.token.hmac_secret: another value".to_owned(), true),
                ("client.token.audience: unset -> \"a\"".to_owned(), true),
            ]
        );
        let all = format!("{:?}", changes(&config(before), &config(after)));
        assert!(!all.contains("old-secret") && !all.contains("new-secret"), "{all}");
    }

    #[test]
    fn entries_of_lists_come_go_and_change() {
        let chat = |size: u32| {
            format!("[[namespace]]\nname = \"chat\"\nhistory_size = {size}\nhistory_ttl = \"1m\"\n")
        };
        let other = "[[namespace]]\nname = \"other\"\n";
        assert_eq!(
            told(&format!("{}{other}", chat(1)), &format!("{}[[namespace]]\nname = \"new\"\n", chat(2))),
            [
                ("namespace \"chat\": history_size: 1 -> 2".to_owned(), true),
                ("namespace \"new\": added".to_owned(), true),
                ("namespace \"other\": removed".to_owned(), true),
            ]
        );
        let listener = "[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:1\"\nserves = \"both\"\n";
        let told = told("", listener);
        assert!(told.contains(&("listener \"b\": added".to_owned(), false)), "{told:?}");
        assert!(told.iter().all(|(_, live)| !live), "{told:?}");
    }

    #[test]
    fn tunnels_keep_their_places() {
        let tunnel = |name: &str| TunnelEntry { name: name.to_owned(), ..TunnelEntry::default() };
        let places = |placed: &[PlacedTunnel]| -> Vec<(String, bool)> {
            placed.iter().map(|placed| (placed.tunnel.name.clone(), placed.served)).collect()
        };
        let first = place_tunnels(&[], &[tunnel("a"), tunnel("b")]).unwrap();
        let second = place_tunnels(&first, &[tunnel("c"), tunnel("b")]).unwrap();
        assert_eq!(places(&second), [("a".into(), false), ("b".into(), true), ("c".into(), true)]);
        let third = place_tunnels(&second, &[tunnel("a")]).unwrap();
        assert_eq!(places(&third), [("a".into(), true), ("b".into(), false), ("c".into(), false)]);
        let many: Vec<TunnelEntry> = (0..PLACES_MAX).map(|number| tunnel(&number.to_string())).collect();
        assert!(place_tunnels(&third, &many).is_err());
        assert!(place_tunnels(&[], &many).is_ok());
    }

    /// A name that is no setting's would promise what is not done.
    #[test]
    fn every_name_of_what_is_taken_is_a_setting() {
        let config = Config::default();
        for part in config.parts() {
            let LiveKeys::Keys(names) = part.live else { continue };
            for name in names {
                assert!(part.section.keys().iter().any(|key| key.name == *name), "{}.{name}", part.path);
            }
        }
        let takes = |path: &str, key: &str| {
            config.parts().into_iter().any(|part| part.path == path && part.live.takes(key))
        };
        for key in ["shards", "driver", "listen", "api_listen"] {
            assert!(!takes("", key), "{key}");
        }
        assert!(takes("client", "channels_max") && !takes("client", "connections_max"));
        let lists = config.lists().into_iter().filter(|list| list.live == LiveKeys::All);
        assert_eq!(
            lists.map(|list| list.name).collect::<Vec<_>>(),
            ["tls.certificate", "namespace", "hook", "tunnel"]
        );
    }
}
