//! The configuration written out: the documented file with every key, and the view of a running node.

use crate::config::parts::List;
use crate::config::sections::Config;
use crate::config::table::{Key, Section};
use crate::config::value::Setting as _;

/// The documented configuration file: every key with its meaning, what it takes and its default. Reading it gives
/// `config` again, development mode aside.
pub fn documented(config: &Config) -> String {
    let mut text = String::from(
        "# Configuration of trunkline. Every key is here with its default.\n\
         # A key can also be set in the environment: TRUNKLINE_ and its path in capitals, joined by _\n\
         # (client.ping_interval is TRUNKLINE_CLIENT_PING_INTERVAL). The environment is stronger than this file,\n\
         # a flag is stronger than both.\n",
    );
    for part in config.parts() {
        if !part.path.is_empty() {
            text.push_str(&format!("\n\n# {}\n[{}]\n", part.doc, part.path));
        }
        for key in part.section.keys() {
            write_key(&mut text, part.section, key);
        }
    }
    for list in config.lists() {
        text.push('\n');
        for line in list.doc.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let entries = list.entries.all();
        if entries.is_empty() {
            text.push_str(&format!("#\n# [[{}]]\n", list.name));
            for line in list.example.lines() {
                text.push_str(&format!("# {line}\n"));
            }
            write_entry_keys(&mut text, config, &list);
        }
        for (name, options) in entries {
            let name = String::write(&name.to_string()).unwrap_or_default();
            text.push_str(&format!("\n[[{}]]\nname = {name}\n", list.name));
            for key in options.keys() {
                if let Some(value) = options.get(key.name) {
                    text.push_str(&format!("{} = {value}\n", key.name));
                }
            }
        }
    }
    text
}

/// The keys of a list's entries, commented out: those that the example does not show, unless a section above has them.
fn write_entry_keys(text: &mut String, config: &Config, list: &List<'_>) {
    let defaults = list.entries.defaults();
    let names = |section: &dyn Section| section.keys().iter().map(|key| key.name).collect::<Vec<_>>();
    if config.parts().iter().any(|part| names(part.section) == names(&*defaults)) {
        return;
    }
    for key in defaults.keys() {
        text.push_str("#\n");
        for line in key.doc_lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let value = defaults.get(key.name);
        if value.is_none() {
            text.push_str(&format!("# Unset by default. Takes {}.\n", key.kind));
        }
        let shown = value.filter(|value| value != "\"\"" && value != "[]");
        let value = shown.as_deref().or(key.example).unwrap_or("[]");
        let in_example = list.example.lines().any(|line| line.split(' ').next() == Some(key.name));
        text.push_str(&if in_example {
            format!("# ({} is shown above.)\n", key.name)
        } else {
            format!("# {} = {value}\n", key.name)
        });
    }
}

fn write_key(text: &mut String, section: &dyn Section, key: &Key) {
    text.push('\n');
    for line in key.doc_lines() {
        text.push_str(&format!("# {line}\n"));
    }
    match section.get(key.name) {
        Some(value) => text.push_str(&format!("{} = {value}\n", key.name)),
        None => {
            let example = key.example.unwrap_or("...");
            text.push_str(&format!("# Unset by default. Takes {}.\n# {} = {example}\n", key.kind, key.name));
        }
    }
}

/// Every key's whole path with its value as TOML, secrets as stars, unset ones empty: the admin view.
pub fn view(config: &Config) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut add = |path: &str, section: &dyn Section| {
        for key in section.keys() {
            let value = match (key.secret, section.get(key.name)) {
                (true, Some(value)) if value != "[]" => "\"***\"".to_string(),
                (_, value) => value.unwrap_or_default(),
            };
            let dot = if path.is_empty() { "" } else { "." };
            rows.push((format!("{path}{dot}{}", key.name), value));
        }
    };
    for part in config.parts() {
        add(part.path, part.section);
    }
    for list in config.lists() {
        for (name, options) in list.entries.all() {
            add(&format!("{}.{name}", list.name), options);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::{Origins, apply};
    use crate::config::sections::Namespace;
    use crate::config::value::Secret;
    use crate::hub::ChannelOptions;
    use crate::session::rules::NamespaceOptions;

    fn read(text: &str) -> Config {
        let mut config = Config::default();
        assert_eq!(apply(&mut config, &mut Origins::new(), "t.toml", text), []);
        config
    }

    #[test]
    fn the_documented_file_reads_back_as_the_defaults() {
        assert_eq!(read(&documented(&Config::default())), Config::default());
    }

    #[test]
    fn any_configuration_reads_back_as_itself() {
        let mut config = Config::development(Secret::new("a \"quoted\" \\ key\n"));
        config.mode = crate::config::NodeMode::Production;
        config.api_listen = Some("[::1]:9".parse().unwrap());
        config.client.allowed_origins = vec!["https://*.example.com".to_string()];
        config.client.ping_interval = std::time::Duration::from_millis(1500);
        config.namespace.push(Namespace {
            name: "chat".to_string(),
            options: NamespaceOptions {
                channel: ChannelOptions { history_size: 3, ..Default::default() },
                ..Default::default()
            },
        });
        assert_eq!(read(&documented(&config)), config);
    }

    /// A default in the text below a comment that can be removed must be a value that is taken.
    #[test]
    fn examples_of_unset_keys_can_be_uncommented() {
        let text = documented(&Config::default());
        let mut uncommented = 0;
        let lines: Vec<String> = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
                    uncommented += 1;
                    rest.to_string()
                }
                Some(rest) if rest.starts_with("[[") => rest.to_string(),
                _ => line.to_string(),
            })
            .collect();
        assert_eq!(
            uncommented, 109,
            "64 unset keys, a certificate and a namespace of three, a hook of 18, a tunnel of 11, a listener of 6, an objective of 4"
        );
        // A file that is named is read with its setting.
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/certificate.pem");
        let config = read(&lines.join("\n").replace("/etc/trunkline/ca.pem", file));
        assert!(config.api.key.is_some() && config.client.token.hmac_secret.is_some());
        assert_eq!(config.namespace.len(), 1);
    }

    #[test]
    fn the_view_shows_no_secret() {
        let mut config = Config::development(Secret::new("hunter2"));
        config.api.keys = vec![Secret::new("hunter3")];
        let view = view(&config);
        assert!(!format!("{view:?} {config:?}").contains("hunter"));
        assert!(view.contains(&("api.key".to_string(), "\"***\"".to_string())));
        assert!(view.contains(&("client.token.hmac_secret".to_string(), String::new())));
        assert!(view.contains(&("listen".to_string(), "\"127.0.0.1:8000\"".to_string())));
    }
}
