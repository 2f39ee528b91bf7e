//! Our configuration as it is made: sections of lines, each with where it comes from.

use std::collections::BTreeMap;

use crate::config::fault::{Fault, SettingOrigin};

/// Where a line of ours comes from: theirs by the name that it was given by, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingSource {
    pub key: String,
    pub origin: SettingOrigin,
}

#[derive(Debug)]
struct OutputLine {
    key: String,
    /// TOML.
    value: String,
    source: SettingSource,
}

#[derive(Debug)]
struct OutputSection {
    /// `[client]`; empty for what stands before all sections.
    header: String,
    lines: Vec<OutputLine>,
}

#[derive(Debug)]
pub struct Output(Vec<OutputSection>);

impl Default for Output {
    fn default() -> Output {
        Output(vec![OutputSection { header: String::new(), lines: Vec::new() }])
    }
}

impl Output {
    /// Begins an entry of a list, like `[[namespace]]`.
    pub fn entry(&mut self, list: &str) {
        self.0.push(OutputSection { header: format!("[[{list}]]"), lines: Vec::new() });
    }

    /// Sets a key of the entry that was begun last.
    pub fn set_in_entry(&mut self, key: &str, value: String, source: SettingSource) {
        if let Some(section) = self.0.last_mut() {
            section.lines.push(OutputLine { key: key.to_string(), value, source });
        }
    }

    /// Sets a key by its whole path. A key that is set already stays as it is.
    pub fn set(&mut self, path: &str, value: String, source: SettingSource) {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]") };
        let at = self.0.iter().position(|known| known.header == header).unwrap_or_else(|| {
            self.0.push(OutputSection { header, lines: Vec::new() });
            self.0.len() - 1
        });
        if self.0[at].lines.iter().all(|line| line.key != key) {
            self.0[at].lines.push(OutputLine { key: key.to_string(), value, source });
        }
    }

    pub fn is_set(&self, path: &str) -> bool {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]") };
        let section = self.0.iter().find(|known| known.header == header);
        section.is_some_and(|section| section.lines.iter().any(|line| line.key == key))
    }

    /// The text below `head`, which is comments, and what each of its lines comes from.
    pub fn write(&self, head: &str) -> (String, BTreeMap<usize, SettingSource>) {
        let (mut text, mut sources) = (head.to_string(), BTreeMap::new());
        let mut number = head.matches('\n').count();
        for section in self.0.iter().filter(|section| !section.lines.is_empty()) {
            if !section.header.is_empty() {
                text.push_str(&format!("\n{}\n", section.header));
                number += 2;
            }
            for OutputLine { key, value, source } in &section.lines {
                let place = match &source.origin {
                    SettingOrigin::Default => format!("default of {}", source.key),
                    origin => format!("{origin}: {}", source.key),
                };
                text.push_str(&format!("{key} = {value}  # {place}\n"));
                number += 1;
                sources.insert(number, source.clone());
            }
        }
        (text, sources)
    }
}

/// Faults of the text that was made, as faults of what it was made from.
pub fn blame(name: &str, sources: &BTreeMap<usize, SettingSource>, faults: Vec<Fault>) -> Vec<Fault> {
    let of = |fault: Fault| match &fault.origin {
        SettingOrigin::File(file, line) if file == name => match sources.get(line) {
            Some(SettingSource { key, origin }) => Fault {
                problem: format!("(from {key}): {}", fault.problem),
                origin: origin.clone(),
                key: fault.key,
            },
            None => Fault { origin: SettingOrigin::Default, ..fault },
        },
        _ => fault,
    };
    faults.into_iter().map(of).collect()
}
