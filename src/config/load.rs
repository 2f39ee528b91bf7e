//! The sources in their order: defaults, file, environment, flags; then the check of the whole.

use std::collections::BTreeMap;

use crate::base::secret;
use crate::config::check;
use crate::config::fault::{Fault, SettingOrigin};
use crate::config::file::{self, Origins};
use crate::config::secrets;
use crate::config::sections::Config;
use crate::config::table::Key;
use crate::config::value::{Given, Secret};

/// What every variable of ours begins with.
pub const ENVIRONMENT_PREFIX: &str = "TRUNKLINE_";
/// Names the configuration file, like `--config`.
pub const ENVIRONMENT_FILE: &str = "TRUNKLINE_CONFIG";
/// Names the socket to the process before this one, in an upgrade.
pub const ENVIRONMENT_HANDOVER: &str = "TRUNKLINE_HANDOVER_FD";

/// Everything that says what the configuration is.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's name and text.
    pub file: Option<(String, String)>,
    /// Variables that begin with [`ENVIRONMENT_PREFIX`].
    pub environment: BTreeMap<String, String>,
    /// Keys by their whole path, with the text their flag gave.
    pub flags: Vec<(String, String)>,
    /// Seconds since 1970: what has expired by now is warned about.
    pub unix_s: u64,
}

/// A configuration and what should be said about how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Odd but not wrong: logged at start.
    pub warnings: Vec<String>,
}

/// Reads all sources, each stronger than the one before, and checks the whole.
///
/// # Errors
/// Every fault that was found.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Fault>> {
    let (mut config, mut origins, mut faults, mut warnings) = merge(sources, Config::default());
    let unconfigured =
        sources.file.is_none() && config.api_keys().next().is_none() && !config.client.token.has_keys();
    if unconfigured && faults.is_empty() {
        let key = random_key().map_err(|error| {
            let problem = format!("no random bytes for a development key: {error}");
            vec![Fault { key: "api.key".to_string(), origin: SettingOrigin::Default, problem }]
        })?;
        (config, origins, faults, _) = merge(sources, Config::development(key));
    }
    warnings.extend(secrets::warnings(&config, &origins));
    config.parts().iter().for_each(|part| warnings.extend((part.warn)(&config, sources.unix_s)));
    if faults.is_empty() {
        faults = check::check(&config, &origins);
    }
    if faults.is_empty() { Ok(Loaded { config, warnings }) } else { Err(faults) }
}

fn merge(sources: &Sources, mut config: Config) -> (Config, Origins, Vec<Fault>, Vec<String>) {
    let mut origins = Origins::new();
    let mut faults = match &sources.file {
        Some((name, text)) => file::apply(&mut config, &mut origins, name, text),
        None => Vec::new(),
    };
    let rows = config.rows();
    let mut warnings = Vec::new();
    for (variable, text) in &sources.environment {
        let row = rows.iter().find(|row| row.variable() == *variable);
        match row {
            Some(row) => {
                set(
                    &mut config,
                    &mut origins,
                    &mut faults,
                    row,
                    text,
                    SettingOrigin::Environment(variable.clone()),
                );
            }
            None if [ENVIRONMENT_FILE, ENVIRONMENT_HANDOVER].contains(&variable.as_str()) => {}
            // Not a fault: Kubernetes sets TRUNKLINE_PORT and the like for a service of that name.
            None => warnings.push(format!("environment variable {variable} is no setting and is ignored")),
        }
    }
    for (path, text) in &sources.flags {
        if let Some(row) = rows.iter().find(|row| row.path() == *path) {
            let flag = row.key.flag.map_or(String::new(), |(flag, _)| format!("--{flag}"));
            set(&mut config, &mut origins, &mut faults, row, text, SettingOrigin::Flag(flag));
        }
    }
    config.settle_listen(origins.contains_key("listen"));
    faults.extend(secrets::read_files(&mut config, &origins));
    (config, origins, faults, warnings)
}

fn set(
    config: &mut Config,
    origins: &mut Origins,
    faults: &mut Vec<Fault>,
    row: &SettingRow,
    text: &str,
    origin: SettingOrigin,
) {
    let given = Given::Loose(text.to_string());
    match config.section_mut(row.section).and_then(|section| section.set(row.key.name, &given)) {
        Some(Ok(())) => {
            origins.insert(row.path(), origin);
        }
        Some(Err(problem)) => faults.push(Fault { key: row.path(), origin, problem }),
        None => unreachable!("the table lists {} and its section does not take it", row.path()),
    }
}

/// One row of the table with the section it stands in.
#[derive(Clone, Copy, Debug)]
pub struct SettingRow {
    pub section: &'static str,
    pub key: &'static Key,
}

impl SettingRow {
    /// `client.ping_interval`.
    pub fn path(&self) -> String {
        let dot = if self.section.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.section, self.key.name)
    }

    /// `TRUNKLINE_CLIENT_PING_INTERVAL`.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.path().replace('.', "_").to_ascii_uppercase())
    }
}

impl Config {
    /// The whole table, namespaces aside.
    pub fn rows(&self) -> Vec<SettingRow> {
        let parts = self.parts();
        parts
            .iter()
            .flat_map(|part| part.section.keys().iter().map(|key| SettingRow { section: part.path, key }))
            .collect()
    }

    /// Every path that a file may name, sections included.
    pub(super) fn every_key(&self) -> Vec<String> {
        let sections = self.parts().into_iter().map(|part| part.path.to_string());
        let keys = self.rows().into_iter().map(|row| row.path());
        sections
            .into_iter()
            .filter(|path| !path.is_empty())
            .chain(keys)
            .chain(self.lists().into_iter().map(|list| list.name.to_string()))
            .collect()
    }
}

/// 128 bits of the operating system's randomness in hex.
fn random_key() -> std::io::Result<Secret> {
    Ok(Secret::new(format!("dev-{:032x}", u128::from_be_bytes(secret::bytes()?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeMode;

    fn sources(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
        };
        Sources {
            file: file.map(|text| ("t.toml".to_string(), text.to_string())),
            environment: own(environment).into_iter().collect(),
            flags: own(flags),
            unix_s: 0,
        }
    }

    fn faults(sources: &Sources) -> Vec<String> {
        load(sources).expect_err("should be refused").iter().map(Fault::to_string).collect()
    }

    #[test]
    fn each_source_is_stronger_than_the_one_before() {
        let file = "[api]\nkey = \"f\"\n[client]\nping_interval = \"20s\"\npong_timeout = \"3s\"\n";
        let loaded = load(&sources(
            Some(file),
            &[("TRUNKLINE_API_KEY", "e"), ("TRUNKLINE_CLIENT_PING_INTERVAL", "30s")],
            &[("api.key", "g")],
        ))
        .unwrap();
        assert_eq!(loaded.config.api.key.unwrap().reveal(), "g");
        assert_eq!(loaded.config.client.ping_interval.as_secs(), 30);
        assert_eq!(loaded.config.client.pong_timeout.as_secs(), 3);
        assert_eq!(loaded.config.mode, NodeMode::Production);
    }

    #[test]
    fn with_nothing_configured_it_is_development_with_a_key_of_its_own() {
        let first = load(&sources(None, &[], &[("echo", "true")])).unwrap().config;
        let second = load(&sources(None, &[], &[])).unwrap().config;
        assert!(first.is_development() && first.echo && first.client.allow_anonymous);
        assert!(first.listen.addresses().all(|address| address.is_local()));
        assert_eq!(first.channel.channel.history_size, 1000);
        assert_ne!(first.api.key, second.api.key);
        assert!(first.api.key.unwrap().reveal().len() > 30);
    }

    #[test]
    fn a_file_a_key_or_a_secret_ends_development_mode() {
        for sources in [
            sources(Some(""), &[], &[]),
            sources(None, &[("TRUNKLINE_API_KEY", "k")], &[]),
            sources(None, &[("TRUNKLINE_API_KEYS", "k,l")], &[]),
            sources(None, &[("TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET", "s")], &[]),
        ] {
            let config = load(&sources).unwrap().config;
            assert_eq!(
                (config.mode, config.client.allow_anonymous),
                (NodeMode::Production, false),
                "{sources:?}"
            );
        }
    }

    #[test]
    fn strangers_may_not_reach_a_node_without_credentials() {
        let refused = faults(&sources(None, &[], &[("listen", "0.0.0.0:8000")]));
        assert_eq!(refused.len(), 2, "{refused:#?}");
        for name in ["flag --listen", "api.key", "TRUNKLINE_API_KEY", "--api-key"] {
            assert!(refused[0].contains(name), "{name} is missing in {}", refused[0]);
        }
        for name in
            ["client.token.hmac_secret", "TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET", "client.allow_anonymous"]
        {
            assert!(refused[1].contains(name), "{name} is missing in {}", refused[1]);
        }
        let api = faults(&sources(None, &[], &[("api_listen", "[::]:9000")]));
        assert!(api[0].starts_with("flag --api-listen: api_listen: [::]:9000 is not a loopback"), "{api:?}");
        let no_clients =
            faults(&sources(None, &[("TRUNKLINE_API_KEY", "a key of sixteen")], &[("listen", "10.0.0.1:1")]));
        assert_eq!(no_clients.len(), 1);
        let anonymous = [("TRUNKLINE_CLIENT_ALLOW_ANONYMOUS", "true")];
        assert_eq!(faults(&sources(None, &anonymous, &[("listen", "10.0.0.1:1")])).len(), 1);
        let open = [("TRUNKLINE_CLIENT_ALLOW_ANONYMOUS", "true"), ("TRUNKLINE_API_KEY", "a key of sixteen")];
        assert!(load(&sources(None, &open, &[("listen", "0.0.0.0:1")])).is_ok());
        // Each of several counts, unix sockets as loopback.
        let local = "127.0.0.1:1,unix:/a.sock,[::1]:1";
        assert!(load(&sources(None, &[], &[("listen", local)])).unwrap().config.is_development());
        let mixed = faults(&sources(None, &[], &[("listen", &format!("{local},0.0.0.0:2"))]));
        assert_eq!(mixed.len(), 2);
        assert!(mixed[0].starts_with("flag --listen: listen: 0.0.0.0:2 is not a loopback"), "{mixed:?}");
        let twice = faults(&sources(None, &[], &[("listen", &format!("{local},localhost:1"))]));
        assert_eq!(twice, ["flag --listen: listen: names 127.0.0.1:1 twice"]);
        let api = [("listen", local), ("api_listen", "[::1]:1")];
        assert!(faults(&sources(None, &[], &api))[0].contains("is the same as listen"));
    }

    #[test]
    fn settings_that_contradict_each_other_are_named_with_their_place() {
        let file = "[client]\nping_interval = \"5s\"\n[channel]\nforce_recovery = true\n[[namespace]]\nname = \"a:b\"\n";
        assert_eq!(
            faults(&sources(Some(file), &[], &[("shards", "5000")])),
            [
                "flag --shards: shards: at most 4096",
                "client.pong_timeout: must be above 0s and less than client.ping_interval",
                "t.toml:4: channel.force_recovery: needs history_size and history_ttl",
                "t.toml:6: namespace[0].name: must be of letters, digits, \"-\", \"_\" and \".\", at least one",
            ]
        );
        let wrong = faults(&sources(None, &[("TRUNKLINE_SHARDS", "two")], &[]));
        assert!(
            wrong[0].starts_with("environment variable TRUNKLINE_SHARDS: shards: \"two\" is not"),
            "{wrong:?}"
        );
    }

    #[test]
    fn foreign_variables_are_warned_about() {
        let loaded =
            load(&sources(None, &[("TRUNKLINE_PORT", "tcp://1"), ("TRUNKLINE_CONFIG", "")], &[])).unwrap();
        assert_eq!(loaded.warnings, ["environment variable TRUNKLINE_PORT is no setting and is ignored"]);
    }

    #[test]
    fn no_two_rows_share_a_variable_or_a_flag() {
        let rows = Config::default().rows();
        let variables: std::collections::BTreeSet<String> = rows.iter().map(SettingRow::variable).collect();
        assert_eq!(variables.len(), rows.len());
        assert!(!variables.contains(ENVIRONMENT_FILE));
        let flags: Vec<_> = rows.iter().filter_map(|row| row.key.flag).collect();
        let distinct: std::collections::BTreeSet<_> = flags.iter().map(|(flag, _)| flag).collect();
        assert_eq!(distinct.len(), flags.len());
    }
}
