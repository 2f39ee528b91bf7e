//! A configuration file: TOML in, settings and faults with their lines out.

use std::collections::BTreeMap;

use strsim::levenshtein;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::fault::{Fault, SettingOrigin};
use crate::config::sections::Config;
use crate::config::table::Entries;
use crate::config::value::{Given, Setting};

/// Where each key was given last.
pub type Origins = BTreeMap<String, SettingOrigin>;

/// Sets what `text`, a file called `name`, says. Every fault is found, not only the first.
pub fn apply(config: &mut Config, origins: &mut Origins, name: &str, text: &str) -> Vec<Fault> {
    let mut reading = FileReading { config, origins, name, text, faults: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reading.read_section("", table.get_ref()),
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            reading.faults.push(Fault {
                key: String::new(),
                origin: SettingOrigin::File(name.to_string(), line),
                problem: format!("not TOML: {}", error.message()),
            });
        }
    }
    reading.faults
}

struct FileReading<'r> {
    config: &'r mut Config,
    origins: &'r mut Origins,
    name: &'r str,
    text: &'r str,
    faults: Vec<Fault>,
}

impl FileReading<'_> {
    fn read_section(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in in_file_order(table) {
            let whole = join(path, key.get_ref());
            let origin = self.origin(key.span().start);
            if self.config.list_mut(&whole).is_some() {
                self.read_list(&whole, value);
                continue;
            }
            if let DeValue::Table(inner) = value.get_ref()
                && self.config.section_mut(&whole).is_some()
            {
                self.read_section(&whole, inner);
                continue;
            }
            let given = given(value.get_ref());
            let section = self.config.section_mut(path);
            let outcome = section.and_then(|section| section.set(key.get_ref(), &given));
            match outcome {
                Some(Ok(())) => {
                    self.origins.insert(whole, origin);
                }
                Some(Err(problem)) => {
                    let origin = self.origin(value.span().start);
                    self.faults.push(Fault { key: whole, origin, problem });
                }
                None => {
                    let problem = match self.config.section_mut(&whole) {
                        Some(_) => "is a section: write it as a table, like [section]".to_string(),
                        None => unknown(&whole, &self.config.every_key()),
                    };
                    self.faults.push(Fault { key: whole, origin, problem });
                }
            }
        }
    }

    /// A list like `[[namespace]]`: entries of a name and settings. They inherit nothing, so that what an entry does can
    /// be read where it stands.
    fn read_list(&mut self, list: &str, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(items) = value.get_ref() else {
            let origin = self.origin(value.span().start);
            let problem = format!("must be a list of tables: write it as [[{list}]]");
            self.faults.push(Fault { key: list.to_string(), origin, problem });
            return;
        };
        for (at, item) in items.iter().enumerate() {
            let path = format!("{list}[{at}]");
            let origin = self.origin(item.span().start);
            let DeValue::Table(table) = item.get_ref() else {
                let problem = format!("must be a table: write it as [[{list}]]");
                self.faults.push(Fault { key: path, origin, problem });
                continue;
            };
            if let Some(entries) = self.config.list_mut(list) {
                entries.push();
            }
            for (key, value) in in_file_order(table) {
                let whole = join(&path, key.get_ref());
                let given = given(value.get_ref());
                let key_origin = self.origin(key.span().start);
                let Some((name, options)) = self.config.list_mut(list).and_then(Entries::last_mut) else {
                    return;
                };
                let outcome = match key.get_ref().as_ref() {
                    "name" => Some(String::read(&given).map(|read| *name = read)),
                    key => options.set(key, &given),
                };
                match outcome {
                    Some(Ok(())) => {
                        self.origins.insert(whole, key_origin);
                    }
                    Some(Err(problem)) => {
                        let origin = self.origin(value.span().start);
                        self.faults.push(Fault { key: whole, origin, problem });
                    }
                    None => {
                        let keys = options.keys().iter().map(|key| join(&path, key.name));
                        let known: Vec<String> = keys.chain([join(&path, "name")]).collect();
                        let problem = unknown(&whole, &known);
                        self.faults.push(Fault { key: whole, origin: key_origin, problem });
                    }
                }
            }
            self.origins.entry(join(&path, "name")).or_insert(origin);
        }
    }

    fn origin(&self, byte: usize) -> SettingOrigin {
        SettingOrigin::File(self.name.to_string(), line_of(self.text, byte))
    }
}

/// A map forgets the order of its keys; faults are read best in the order of the file.
fn in_file_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The line of the byte at `at`, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

fn given(value: &DeValue<'_>) -> Given {
    match value {
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Given::Other("an integer of more than 64 bits"), Given::Integer),
        DeValue::Boolean(boolean) => Given::Boolean(*boolean),
        DeValue::Array(items) => Given::List(items.iter().map(|item| given(item.get_ref())).collect()),
        DeValue::Float(_) => Given::Other("a fraction"),
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Table(_) => Given::Other("a table"),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// The sentence for a key that is none of `known`.
pub(super) fn unknown(key: &str, known: &[String]) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => "unknown key".to_string(),
    }
}

/// The known key that `key` most likely was meant to be: the same name in another section, or few letters away.
fn nearest<'k>(key: &str, known: &'k [String]) -> Option<&'k str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let name = last(key);
    let by_distance = known.iter().map(|candidate| {
        let whole = levenshtein(key, candidate);
        // In the wrong section: one edit worse than being right, so that a sibling's typo wins over a namesake.
        let elsewhere = levenshtein(&name, &last(candidate)) + 1;
        (whole.min(elsewhere), candidate)
    });
    let (distance, candidate) = by_distance.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.chars().count() / 3).then_some(candidate.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut config = Config::default();
        apply(&mut config, &mut Origins::new(), "t.toml", text).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_file_sets_what_it_names() {
        let mut config = Config::default();
        let mut origins = Origins::new();
        let text = "listen = \"0.0.0.0:1\"\n[client]\nping_interval = \"5s\"\n[client.token]\nissuer = \"me\"\n\
                    [[namespace]]\nname = \"chat\"\nhistory_size = 7\ngap = \"latest\"\n[[namespace]]\nname = \"game\"\n";
        assert_eq!(apply(&mut config, &mut origins, "t.toml", text), []);
        assert_eq!(config.listen, "0.0.0.0:1".parse::<std::net::SocketAddr>().unwrap().into());
        assert_eq!(config.client.ping_interval.as_secs(), 5);
        assert_eq!(config.client.token.issuer.as_deref(), Some("me"));
        assert_eq!(config.namespace.len(), 2);
        assert_eq!(config.namespace[0].options.channel.history_size, 7);
        assert_eq!(config.namespace[0].options.channel.gap, crate::hub::GapPolicy::Latest);
        assert_eq!(origins["client.ping_interval"], SettingOrigin::File("t.toml".into(), 3));
        assert_eq!(origins["namespace[1].name"], SettingOrigin::File("t.toml".into(), 11));
    }

    #[test]
    fn every_fault_has_its_line_and_key() {
        assert_eq!(
            faults(
                "lisen = \"127.0.0.1:1\"\n\n[client]\nping_interval = 25\nchannels_max = \"many\"\n[clint]\nx = 1\n"
            ),
            [
                "t.toml:1: lisen: unknown key; did you mean listen?",
                "t.toml:4: client.ping_interval: 25 is not a duration: write it like \"300ms\", \"25s\", \"5m\" or \"24h\"",
                "t.toml:5: client.channels_max: \"many\" is not a whole number from 0 to 18446744073709551615",
                "t.toml:6: clint: unknown key; did you mean client?",
            ]
        );
        assert_eq!(
            faults("ping_interval = \"5s\""),
            ["t.toml:1: ping_interval: unknown key; did you mean client.ping_interval?"]
        );
        assert_eq!(faults("qqqqqqqq = 1"), ["t.toml:1: qqqqqqqq: unknown key"]);
        assert_eq!(
            faults("client = 1"),
            ["t.toml:1: client: is a section: write it as a table, like [section]"]
        );
        assert_eq!(
            faults("[[namespace]]\nname = \"a\"\nhistory_sise = 1"),
            ["t.toml:3: namespace[0].history_sise: unknown key; did you mean namespace[0].history_size?"]
        );
        assert_eq!(
            faults("namespace = 3"),
            ["t.toml:1: namespace: must be a list of tables: write it as [[namespace]]"]
        );
        assert!(faults("listen = ").concat().starts_with("t.toml:1: not TOML:"), "{:?}", faults("listen = "));
        assert!(faults("a = 1\na = 2\n").concat().starts_with("t.toml:2: not TOML: duplicate"));
        assert_eq!(faults("mode = \"development\""), ["t.toml:1: mode: unknown key"]);
    }

    /// Hostile or broken files end in faults, never in a panic.
    #[test]
    fn any_cut_of_a_file_is_a_fault_or_fine() {
        let text = "listen = \"0.0.0.0:1\"\n[client]\nallowed_origins = [\"é\", 1]\n[[namespace]]\nname = \"chät\"\n";
        for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            faults(&text[..cut]);
        }
        faults(&"[".repeat(100_000));
    }
}
