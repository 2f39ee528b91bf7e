//! Configuration files in JSON, YAML or TOML as one tree, each node with the line that it stands on.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::fault::{Fault, SettingOrigin};

/// A value, and where it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeNode {
    pub value: TreeValue,
    pub origin: SettingOrigin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TreeValue {
    Null,
    Boolean(bool),
    Integer(i64),
    Text(String),
    /// Text of the environment or of a flag: its type is the setting's.
    Loose(String),
    List(Vec<TreeNode>),
    Table(Vec<(String, TreeNode)>),
    /// What no setting takes, by its name.
    Other(&'static str),
}

impl TreeNode {
    pub fn loose(text: &str, origin: SettingOrigin) -> TreeNode {
        TreeNode { value: TreeValue::Loose(text.to_string()), origin }
    }

    pub fn table(&self) -> Option<&[(String, TreeNode)]> {
        match &self.value {
            TreeValue::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// Of a table.
    pub fn get(&self, key: &str) -> Option<&TreeNode> {
        self.table()?.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// As it would be written in the environment; `None` for what has no such form.
    pub fn plain(&self) -> Option<String> {
        Some(match &self.value {
            TreeValue::Null => String::new(),
            TreeValue::Boolean(boolean) => boolean.to_string(),
            TreeValue::Integer(integer) => integer.to_string(),
            TreeValue::Text(text) | TreeValue::Loose(text) => text.trim().to_string(),
            TreeValue::List(items) if items.is_empty() => String::new(),
            TreeValue::Table(entries) if entries.is_empty() => String::new(),
            _ => return None,
        })
    }
}

/// The file called `name`, by its ending or, without a known one, by its first byte. Keys come in small letters, as those of
/// Centrifugo have no case.
///
/// # Errors
/// Why it cannot be read, with the line.
pub fn parse(name: &str, text: &str) -> Result<TreeNode, Fault> {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    let fault = |line: usize, problem: String| Fault {
        key: String::new(),
        origin: SettingOrigin::File(name.to_string(), line),
        problem,
    };
    let file = TreeFile { name, text };
    if text.trim().is_empty() {
        return Ok(TreeNode { value: TreeValue::Table(Vec::new()), origin: file.origin(0) });
    }
    let root = match ending.as_str() {
        "yaml" | "yml" => {
            let documents = MarkedYaml::load_from_str(text)
                .map_err(|error| fault(error.marker().line(), format!("not YAML: {}", error.info())))?;
            if documents.len() > 1 {
                return Err(fault(1, "has several YAML documents: only one can be the configuration".into()));
            }
            documents.first().map_or(TreeValue::Table(Vec::new()), |root| file.yaml(root).value)
        }
        "toml" => match DeTable::parse(text) {
            Ok(table) => file.toml_table(table.get_ref()),
            Err(error) => {
                let line = error.span().map_or(1, |span| file.line(span.start));
                return Err(fault(line, format!("not TOML: {}", error.message())));
            }
        },
        _ if ending == "json" || text.trim_start().starts_with('{') => {
            let root: &RawValue = serde_json::from_str(text)
                .map_err(|error| fault(error.line(), format!("not JSON: {error}")))?;
            file.json(root).value
        }
        _ => return Err(fault(1, "must end in .json, .yaml, .yml or .toml".to_string())),
    };
    match root {
        TreeValue::Table(_) => Ok(TreeNode { value: root, origin: file.origin(0) }),
        TreeValue::Null => Ok(TreeNode { value: TreeValue::Table(Vec::new()), origin: file.origin(0) }),
        _ => Err(fault(1, "holds no table of keys".to_string())),
    }
}

/// JSON as the environment holds it: every node is of the variable.
pub fn json_text(text: &str, origin: &SettingOrigin) -> Option<TreeNode> {
    fn of(value: serde_json::Value, origin: &SettingOrigin) -> TreeNode {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => TreeValue::Null,
            Json::Bool(boolean) => TreeValue::Boolean(boolean),
            Json::Number(number) => {
                number.as_i64().map_or(TreeValue::Other("a fraction"), TreeValue::Integer)
            }
            Json::String(text) => TreeValue::Text(text),
            Json::Array(items) => TreeValue::List(items.into_iter().map(|item| of(item, origin)).collect()),
            Json::Object(entries) => TreeValue::Table(
                entries.into_iter().map(|(key, node)| (key.to_ascii_lowercase(), of(node, origin))).collect(),
            ),
        };
        TreeNode { value, origin: origin.clone() }
    }
    serde_json::from_str(text).ok().map(|value| of(value, origin))
}

struct TreeFile<'f> {
    name: &'f str,
    text: &'f str,
}

impl TreeFile<'_> {
    /// The line of the byte at `at`, counted from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&b| b == b'\n').count()
    }

    fn origin(&self, at: usize) -> SettingOrigin {
        SettingOrigin::File(self.name.to_string(), self.line(at))
    }

    /// `raw` is a part of the file's text: its place there gives the line.
    fn json(&self, raw: &RawValue) -> TreeNode {
        let raw = raw.get();
        let origin = self.origin((raw.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize));
        let value = match raw.as_bytes().first() {
            Some(b'{') => {
                let entries: BTreeMap<String, &RawValue> = serde_json::from_str(raw).unwrap_or_default();
                let entries = entries.into_iter();
                TreeValue::Table(
                    entries.map(|(key, raw)| (key.to_ascii_lowercase(), self.json(raw))).collect(),
                )
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
                TreeValue::List(items.into_iter().map(|raw| self.json(raw)).collect())
            }
            _ => json_text(raw, &origin).map_or(TreeValue::Null, |node| node.value),
        };
        TreeNode { value, origin }
    }

    fn toml_table(&self, table: &DeTable<'_>) -> TreeValue {
        let entries = table.iter().map(|(key, value)| {
            let origin = self.origin(key.span().start);
            (key.get_ref().to_ascii_lowercase(), TreeNode { value: self.toml(value), origin })
        });
        TreeValue::Table(entries.collect())
    }

    fn toml(&self, value: &Spanned<DeValue<'_>>) -> TreeValue {
        match value.get_ref() {
            DeValue::String(text) => TreeValue::Text(text.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(TreeValue::Other("an integer of more than 64 bits"), TreeValue::Integer),
            DeValue::Boolean(boolean) => TreeValue::Boolean(*boolean),
            DeValue::Array(items) => {
                let node = |item: &Spanned<DeValue<'_>>| TreeNode {
                    value: self.toml(item),
                    origin: self.origin(item.span().start),
                };
                TreeValue::List(items.iter().map(node).collect())
            }
            DeValue::Float(_) => TreeValue::Other("a fraction"),
            DeValue::Datetime(_) => TreeValue::Other("a date"),
            DeValue::Table(inner) => self.toml_table(inner),
        }
    }

    fn yaml(&self, node: &MarkedYaml<'_>) -> TreeNode {
        let origin = SettingOrigin::File(self.name.to_string(), node.span.start.line());
        let value = match &node.data {
            YamlData::Value(Scalar::Null) => TreeValue::Null,
            YamlData::Value(Scalar::Boolean(boolean)) => TreeValue::Boolean(*boolean),
            YamlData::Value(Scalar::Integer(integer)) => TreeValue::Integer(*integer),
            YamlData::Value(Scalar::String(text)) => TreeValue::Text(text.to_string()),
            YamlData::Value(Scalar::FloatingPoint(_)) => TreeValue::Other("a fraction"),
            YamlData::Sequence(items) => TreeValue::List(items.iter().map(|item| self.yaml(item)).collect()),
            YamlData::Mapping(entries) => {
                let mut own: Vec<(String, TreeNode)> = Vec::new();
                let mut merged: Vec<(String, TreeNode)> = Vec::new();
                for (key, value) in entries {
                    let node = self.yaml(value);
                    let key_origin = SettingOrigin::File(self.name.to_string(), key.span.start.line());
                    match &self.yaml(key).plain() {
                        Some(name) if name == "<<" => merged.extend(merge(node)),
                        Some(name) => {
                            own.push((name.to_ascii_lowercase(), TreeNode { origin: key_origin, ..node }));
                        }
                        None => own.push(("?".to_string(), TreeNode { origin: key_origin, ..node })),
                    }
                }
                merged.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
                merged.extend(own);
                TreeValue::Table(merged)
            }
            _ => TreeValue::Other("a tagged value"),
        };
        TreeNode { value, origin }
    }
}

/// What `<<` of YAML brings into a mapping.
fn merge(node: TreeNode) -> Vec<(String, TreeNode)> {
    match node.value {
        TreeValue::Table(entries) => entries,
        TreeValue::List(items) => items.into_iter().rev().flat_map(merge).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path=text@line` of every leaf.
    fn leaves(node: &TreeNode, path: &str, into: &mut Vec<String>) {
        match &node.value {
            TreeValue::Table(entries) => {
                entries.iter().for_each(|(key, node)| leaves(node, &format!("{path}.{key}"), into));
            }
            TreeValue::List(items) => {
                items.iter().enumerate().for_each(|(at, node)| leaves(node, &format!("{path}[{at}]"), into));
            }
            _ => {
                let SettingOrigin::File(_, line) = &node.origin else { panic!("{node:?}") };
                into.push(format!("{path}={}@{line}", node.plain().unwrap()));
            }
        }
        into.sort();
    }

    fn of(name: &str, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        leaves(&parse(name, text).unwrap(), "", &mut all);
        all
    }

    #[test]
    fn the_three_formats_give_one_tree_with_its_lines() {
        let expected = [
            ".client.channel_limit=5@3",
            ".client.insecure=true@4",
            ".list[0].name=a\"é@7",
            ".list[1].name=b@8",
        ];
        let json = "{\n \"Client\": {\n  \"channel_limit\": 5,\n  \"insecure\": true\n },\n \"list\": [\n\
                    {\"name\": \"a\\\"\\u00e9\"},\n{\"name\": \"b\"}]}";
        assert_eq!(of("c.json", json), expected);
        assert_eq!(of("/etc/c", json), expected, "by its first byte");
        let yaml =
            "---\nclient:\n  Channel_limit: 5\n  insecure: true\n\nlist:\n  - name: a\"é\n  - name: 'b'\n";
        assert_eq!(of("c.yml", yaml), expected);
        let toml = "\n[client]\nchannel_limit = 5\ninsecure = true\n\n\
                    list = 1\n[[x]]\ny = 2\n";
        assert_eq!(
            of("c.toml", toml),
            [".client.channel_limit=5@3", ".client.insecure=true@4", ".client.list=1@6", ".x[0].y=2@8"]
        );
    }

    #[test]
    fn anchors_of_yaml_are_merged_and_an_own_key_wins() {
        let yaml = "base: &base\n  a: 1\n  b: 2\nuse:\n  <<: *base\n  b: 3\n";
        assert_eq!(of("c.yaml", yaml), [".base.a=1@2", ".base.b=2@3", ".use.a=1@2", ".use.b=3@6"]);
    }

    #[test]
    fn what_is_no_configuration_is_a_fault_with_its_line() {
        for (name, text, fault) in [
            ("c.json", "{\n\"a\": }", "c.json:2: not JSON"),
            ("c.yaml", "a: 1\nb: [1\n", "not YAML"),
            ("c.toml", "a = 1\nb =\n", "c.toml:2: not TOML"),
            ("c.conf", "a=1", "must end in"),
            ("c.json", "[1]", "no table"),
            ("c.yaml", "a: 1\n---\nb: 1\n", "several YAML documents"),
        ] {
            let found = parse(name, text).unwrap_err().to_string();
            assert!(found.contains(fault), "{name}: {found}");
        }
        for empty in ["", "\n# nothing\n"] {
            assert_eq!(of("c.yaml", empty), [""; 0]);
        }
        assert_eq!(of("/dev/null", ""), [""; 0]);
    }

    /// Broken files end in faults, never in a panic.
    #[test]
    fn any_cut_of_a_file_is_a_fault_or_fine() {
        let json = "{\"a\": [1, {\"é\": null, \"b\": \"x\\ny\"}], \"c\": {\"d\": -1.5e3}}";
        let yaml = "a:\n  - &x {b: é, c: \"d\"}\n  - *x\n? [k]\n: |\n  text\n";
        let toml = "a = [1, {b = \"é\"}]\n[c]\nd = 2020-01-01\n";
        for (name, text) in [("c.json", json), ("c.yaml", yaml), ("c.toml", toml)] {
            for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
                let _ = parse(name, &text[..cut]);
            }
        }
    }
}
