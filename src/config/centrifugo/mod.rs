//! The configuration of Centrifugo, versions 5 and 6, made into ours.
//!
//! Inputs: its file, its environment, its flags, each stronger than the one before. Outputs: the text of a configuration of
//! ours, in which each line says where it comes from, or faults. A key without counterpart is named: one that concerns
//! access, delivery or scale is a fault until its name is in `allowed`, others are warnings. Where Centrifugo's default is
//! another one than ours, theirs is written out. Must not know: how a configuration of ours is read and checked.

mod compose;
mod convert;
mod flags;
mod hooks;
mod keys;
mod output;
#[cfg(test)]
mod tests;
mod transports;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::centrifugo::convert::convert;
use crate::config::centrifugo::keys::{As, CentrifugoKey, Concern, KEYS, To, find, find_old, is_section};
use crate::config::centrifugo::output::{Output, SettingSource};
use crate::config::centrifugo::tree::{TreeNode, TreeValue};
use crate::config::fault::{Fault, SettingOrigin};

pub use flags::{TheirFlags, split};
pub use output::blame;

/// What variables of Centrifugo begin with.
pub const ENVIRONMENT_PREFIX: &str = "CENTRIFUGO_";

/// Everything that says how Centrifugo is configured.
#[derive(Clone, Debug, Default)]
pub struct CentrifugoSources {
    /// The file's name and text.
    pub file: (String, String),
    /// Variables that begin with [`ENVIRONMENT_PREFIX`].
    pub environment: BTreeMap<String, String>,
    /// Flags without their dashes, and their values.
    pub flags: TheirFlags,
    /// Keys that may be missing.
    pub allowed: BTreeSet<String>,
}

/// A configuration of ours.
#[derive(Clone, Debug)]
pub struct Imported {
    pub text: String,
    pub warnings: Vec<String>,
    /// By the lines of the text.
    pub sources: BTreeMap<usize, SettingSource>,
}

/// Makes a configuration of ours from Centrifugo's.
///
/// # Errors
/// Every key that is wrong or has no counterpart, by its name and place.
pub fn import(sources: &CentrifugoSources) -> Result<Imported, Vec<Fault>> {
    let (name, text) = &sources.file;
    let root = tree::parse(name, text).map_err(|fault| vec![fault])?;
    let mut import = Import { allowed: sources.allowed.clone(), ..Import::default() };
    import.variables = sources.environment.clone();
    import.read_table("", &root);
    for (variable, text) in &sources.environment {
        import.read_variable(variable, text);
    }
    for (flag, text) in &sources.flags {
        let node = TreeNode::loose(text, SettingOrigin::Flag(format!("--{flag}")));
        import.read_flat(flag, flag, node);
    }
    import.compose();
    for key in import.allowed.difference(&import.used).cloned().collect::<Vec<_>>() {
        import.warnings.push(format!("--allow-missing {key}: it is not missing"));
    }
    if !import.faults.is_empty() {
        return Err(import.faults);
    }
    let head = format!(
        "# Made from Centrifugo's configuration {name}. Behind each line stands where it comes from.\n{}",
        import.warnings.iter().map(|warning| format!("# warning: {warning}\n")).collect::<String>()
    );
    let (text, sources) = import.output.write(&head);
    Ok(Imported { text, warnings: import.warnings, sources })
}

/// A value, and the name that it was given by.
#[derive(Clone, Debug)]
struct GivenKey {
    node: TreeNode,
    said: String,
}

impl GivenKey {
    fn source(&self) -> SettingSource {
        SettingSource { key: self.said.clone(), origin: self.node.origin.clone() }
    }
}

/// An import under way.
#[derive(Debug, Default)]
struct Import {
    /// By paths of version 6.
    given: BTreeMap<String, GivenKey>,
    /// Those that came by a name from before.
    old: BTreeSet<String>,
    /// For `${CENTRIFUGO_VAR_...}` in values.
    variables: BTreeMap<String, String>,
    output: Output,
    /// `[[listener]]`: address, TLS, who is served. They are written behind all sections.
    listener_tables: Vec<(String, bool, String, SettingSource)>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    allowed: BTreeSet<String>,
    /// Those of `allowed` that were missing.
    used: BTreeSet<String>,
}

impl Import {
    /// A table of the file, at `path`.
    fn read_table(&mut self, path: &str, node: &TreeNode) {
        for (key, node) in node.table().unwrap_or_default() {
            let whole = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match &node.value {
                TreeValue::Table(_) if is_map(key) => self.read_flat(&whole, &whole, node.clone()),
                // Before version 6 some tables had other names.
                TreeValue::Table(_) if find(KEYS, &whole).is_none() && !is_section(KEYS, &whole) => {
                    self.read_flat(&whole, &whole, node.clone());
                }
                TreeValue::Table(_) => self.read_table(&whole, node),
                _ => self.read_flat(&whole, &whole, node.clone()),
            }
        }
    }

    /// One value by its path of version 6, or a name from before.
    fn read_flat(&mut self, name: &str, said: &str, node: TreeNode) {
        // A scalar where version 6 has a section is the switch of before: `admin`, `engine`.
        let is_new = (name.contains('.') || !is_section(KEYS, name)) && find(KEYS, name).is_some();
        let path = match is_new {
            true => Some(name.to_string()),
            false => old_path(name).or_else(|| find(KEYS, name).map(|_| name.to_string())),
        };
        match path {
            Some(path) => {
                if !is_new {
                    self.old.insert(path.clone());
                }
                let node = if compose::LISTS.contains(&&*path) { compose::entries(node) } else { node };
                self.given.insert(path, GivenKey { node, said: said.to_string() });
            }
            None => self.unknown(said, &node.origin),
        }
    }

    fn unknown(&mut self, said: &str, origin: &SettingOrigin) {
        self.missing(Concern::Access, &[said], said, origin, "is no key of Centrifugo that is known here");
    }

    /// Names a key that has no counterpart. `names` are those that may be allowed.
    fn missing(&mut self, concern: Concern, names: &[&str], said: &str, origin: &SettingOrigin, why: &str) {
        let allowed: Vec<&str> = names.iter().copied().filter(|name| self.allowed.contains(*name)).collect();
        self.used.extend(allowed.iter().map(|name| name.to_string()));
        if concern != Concern::Comfort && allowed.is_empty() {
            let about = match concern {
                Concern::Access => "who may do what",
                Concern::Delivery => "what is delivered",
                _ => "how far it scales",
            };
            let problem = match why.starts_with("is no key") {
                true => format!("{why}: to start without it, --allow-missing {said}"),
                false => format!(
                    "has no counterpart, and is about {about}: {why}. To start without it, --allow-missing {said}"
                ),
            };
            self.faults.push(Fault { key: said.to_string(), origin: origin.clone(), problem });
        } else if allowed.is_empty() {
            self.warnings.push(format!("{origin}: {said} is ignored: {why}"));
        } else {
            self.warnings.push(format!("{origin}: {said} is ignored, as --allow-missing says: {why}"));
        }
    }

    fn wrong(&mut self, given: &GivenKey, problem: String) {
        let origin = given.node.origin.clone();
        self.faults.push(Fault { key: given.said.clone(), origin, problem });
    }

    /// A variable: the path in capitals with `_` for dots.
    fn read_variable(&mut self, variable: &str, text: &str) {
        let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { return };
        let origin = SettingOrigin::Environment(variable.to_string());
        // Centrifugo takes an empty variable for an unset one.
        if text.is_empty() || name.starts_with("VAR_") {
            return;
        }
        let found = self.variable_path(&name.to_ascii_lowercase());
        match found {
            // What Kubernetes sets for a service of this name.
            _ if text.starts_with("tcp://") && name.ends_with("PORT") => {
                self.warnings.push(format!("{origin} is of a service and is ignored"));
            }
            Some(VariablePath::Top(path)) => self.read_flat(&path, variable, TreeNode::loose(text, origin)),
            Some(VariablePath::Entry { list, at, key }) => self.set_in_list(&list, at, &key, text, origin),
            None if is_of_kubernetes(name) => {}
            None => self.unknown(variable, &origin),
        }
    }

    /// What a variable's name in small letters, without the prefix, stands for.
    fn variable_path(&self, name: &str) -> Option<VariablePath> {
        let plain = |path: &str| path.replace('.', "_");
        let every = self::paths();
        if let Some(path) = every.iter().find(|path| plain(path) == name) {
            return Some(VariablePath::Top(path.clone()));
        }
        for list in compose::LISTS {
            let Some(GivenKey { node: TreeNode { value: TreeValue::List(items), .. }, .. }) =
                self.given.get(list)
            else {
                continue;
            };
            for (at, item) in items.iter().enumerate() {
                let entry = item.get("name").and_then(TreeNode::plain).unwrap_or_default();
                let entry = entry.to_ascii_lowercase().replace(['.', '-'], "_");
                let start = format!("{}_{entry}_", plain(list));
                let Some(rest) = name.strip_prefix(&start) else { continue };
                let keys = compose::keys_of(list);
                let key = keys.iter().find(|key| plain(key.path) == rest);
                let key = key.map_or(rest.to_string(), |key| key.path.to_string());
                return Some(VariablePath::Entry { list: list.to_string(), at, key });
            }
        }
        if old_path(name).is_some() {
            return Some(VariablePath::Top(name.to_string()));
        }
        // Below a section that is one row: the row's path, then the rest as it is.
        let below = KEYS.iter().filter(|key| name.starts_with(&format!("{}_", plain(key.path))));
        let row = below.max_by_key(|key| key.path.len())?;
        let rest = &name[row.path.len() + 1..];
        Some(VariablePath::Top(format!("{}.{rest}", row.path)))
    }

    /// A key of an entry of a list, by a variable.
    fn set_in_list(&mut self, list: &str, at: usize, key: &str, text: &str, origin: SettingOrigin) {
        let Some(GivenKey { node: TreeNode { value: TreeValue::List(items), .. }, .. }) =
            self.given.get_mut(list)
        else {
            return;
        };
        if let Some(TreeNode { value: TreeValue::Table(entries), .. }) = items.get_mut(at) {
            entries.push((key.to_string(), TreeNode::loose(text, origin)));
        }
    }

    /// All rows: each key that is given goes where its row says.
    fn compose(&mut self) {
        // A row that is missing is named once, by what was wanted of it first.
        let mut named = BTreeSet::new();
        for (path, given) in self.given.clone() {
            let Some(row) = find(KEYS, &path) else { continue };
            self.row(row, &path, &given, &mut named, KeyPlace::Top);
        }
        for row in KEYS {
            if let To::Ours(ours, _, Some(default)) = row.to {
                let source = SettingSource { key: row.path.to_string(), origin: SettingOrigin::Default };
                self.output.set(ours, default.to_string(), source);
            }
        }
        self.listeners();
        self.clients();
        self.transports();
        let hooks = self.hooks();
        self.channels(&hooks);
        self.rest();
    }

    /// What `given` comes to by its row. `place`: the entry of a list that it is of.
    fn row(
        &mut self,
        row: &CentrifugoKey,
        path: &str,
        given: &GivenKey,
        named: &mut BTreeSet<&'static str>,
        place: KeyPlace<'_>,
    ) {
        match row.to {
            // Theirs fills in what a pattern of the issuer has found.
            To::Ours(..) if path.ends_with("jwks_public_endpoint") && has_template(given) => {
                let why = "published keys are fetched from one URL";
                self.missing(Concern::Access, &[&given.said, path], &given.said, &given.node.origin, why);
            }
            To::Ours(ours, to, _) => match convert(to, &given.node) {
                Ok(Some(value)) => self.set(place, ours, value, given.source()),
                Ok(None) => {}
                Err(problem) => self.wrong(given, problem),
            },
            To::Missing(concern, off, why) => {
                let is_off = given.node.plain().is_some_and(|plain| off.contains(&plain.as_str()));
                let is_off =
                    is_off || given.node.get("enabled").is_some_and(|on| convert::flag(on) == Ok(false));
                if !is_off && named.insert(row.path) {
                    let whole = match place {
                        KeyPlace::Top => path.to_string(),
                        KeyPlace::Section(of, _) | KeyPlace::Entry(of) => format!("{of}.{path}"),
                    };
                    let names = [given.said.as_str(), path, row.path, whole.as_str()];
                    self.missing(concern, &names, &given.said, &given.node.origin, why);
                }
            }
            To::Part | To::Moot | To::Under => {}
        }
    }

    fn set(&mut self, place: KeyPlace<'_>, ours: &str, value: String, source: SettingSource) {
        match place {
            KeyPlace::Top => self.output.set(ours, value, source),
            KeyPlace::Section(_, section) => self.output.set(&format!("{section}.{ours}"), value, source),
            KeyPlace::Entry(_) => self.output.set_in_entry(ours, value, source),
        }
    }

    fn text_of(&mut self, path: &str) -> Option<(String, GivenKey)> {
        let given = self.given.get(path)?.clone();
        match convert::text(&given.node) {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some((text, given)),
            Err(problem) => {
                self.wrong(&given, problem);
                None
            }
        }
    }

    fn flag_of(&mut self, path: &str) -> bool {
        let Some(given) = self.given.get(path).cloned() else { return false };
        convert::flag(&given.node).unwrap_or_else(|problem| {
            self.wrong(&given, problem);
            false
        })
    }

    fn number_of(&mut self, path: &str) -> Option<(u64, GivenKey)> {
        let given = self.given.get(path)?.clone();
        match convert::number(&given.node) {
            Ok(number) => Some((number?, given)),
            Err(problem) => {
                self.wrong(&given, problem);
                None
            }
        }
    }

    /// One value as it is written in ours.
    fn put(&mut self, ours: &str, to: As, path: &str) {
        let Some(given) = self.given.get(path).cloned() else { return };
        match convert(to, &given.node) {
            Ok(Some(value)) => self.output.set(ours, value, given.source()),
            Ok(None) => {}
            Err(problem) => self.wrong(&given, problem),
        }
    }
}

/// Where a key of ours goes, with what the keys of theirs are of.
#[derive(Clone, Copy, Debug)]
enum KeyPlace<'p> {
    /// By its whole path.
    Top,
    /// Theirs, and the section of ours.
    Section(&'p str, &'p str),
    /// The entry of a list that was begun last.
    Entry(&'p str),
}

/// Where a variable goes.
enum VariablePath {
    Top(String),
    Entry { list: String, at: usize, key: String },
}

/// Names of what is a value although it is written as a table.
fn is_map(key: &str) -> bool {
    matches!(
        key,
        "static_headers" | "static_http_headers" | "proxy_static_http_headers" | "channel_replacements"
    )
}

/// Every path of version 6 that is one value.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = KEYS.iter().map(|key| key.path.to_string()).collect();
    for (section, keys) in compose::sections() {
        paths.extend(keys.iter().map(|key| format!("{section}.{}", key.path)));
    }
    paths
}

/// The path of version 6 for a name from before.
fn old_path(name: &str) -> Option<String> {
    let top = name.split('.').next().unwrap_or(name);
    let exact = KEYS.iter().find(|key| key.old.contains(&name)).map(|key| key.path.to_string());
    let composed = compose::old_part(name);
    let channel = || {
        let keys = keys::channel_keys();
        let key = keys.iter().find(|key| key.path == name || key.old.contains(&name))?;
        Some(format!("channel.without_namespace.{}", key.path))
    };
    composed
        .or(exact)
        .or_else(channel)
        .or_else(|| find_old(KEYS, top).map(|key| format!("{}.{name}", key.path)))
}

fn has_template(given: &GivenKey) -> bool {
    given.node.plain().is_some_and(|text| text.contains("{{"))
}

/// Kubernetes sets such variables for each service.
fn is_of_kubernetes(name: &str) -> bool {
    name.contains("_PORT") || name.contains("SERVICE_") || name.starts_with("PORT")
}
