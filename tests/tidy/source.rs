//! Sources, read as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// From the crate's root, with slashes.
    pub name: String,
    /// The first component below `src/`: a folder, or the file itself.
    pub folder: String,
    pub text: String,
}

impl Source {
    pub fn new(name: &str, text: String) -> Source {
        let folder = name.split('/').nth(1).unwrap_or_default();
        Source { name: name.to_string(), folder: folder.to_string(), text }
    }

    /// The lines of what is shipped without their comments, numbered from 1: documentation may name what code may not,
    /// and tests may use what the tested may not know.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        let all_tests = name == "tests.rs"
            || ["/tests/", "/suite/"].iter().any(|folder| self.name.contains(folder))
            || ["_test.rs", "_tests.rs"].iter().any(|end| name.ends_with(end));
        // A `mod tests {` is the last thing of its file; a `mod tests;` is another file.
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").map_or(self.text.len(), |at| at + 1);
        let shipped = if all_tests { "" } else { &self.text[..end] }.lines();
        shipped.enumerate().filter_map(|(at, line)| {
            // `://` is an address inside a string, not a comment.
            let comment = line.match_indices("//").find(|(at, _)| *at == 0 || !line[..*at].ends_with(':'));
            let code = comment.map_or(line, |(start, _)| &line[..start]);
            (!code.trim().is_empty()).then_some((at + 1, code))
        })
    }

    /// The same without imports, and without the list of a folder's files.
    pub fn statements(&self) -> Vec<&str> {
        let mut in_import = false;
        let begins = |line: &str| {
            let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
            line.starts_with("use ") || line.starts_with("mod ") && line.trim_end().ends_with(';')
        };
        let mut statements = Vec::new();
        for (_, line) in self.code() {
            in_import |= begins(line);
            if !in_import {
                statements.push(line);
            }
            in_import &= !line.contains(';');
        }
        statements
    }
}

/// The first path components after each `crate::` of a line.
pub fn named_modules(line: &str) -> impl Iterator<Item = &str> {
    occurrences(line, "crate::").flat_map(|(_, after)| {
        let group = after.strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
        let names: Vec<&str> = group.map_or_else(|| vec![after], |group| group.split(',').collect());
        names.into_iter().filter_map(|name| {
            let name = name.trim_start();
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            let name = &name[..end];
            // Macros and items of the crate's root are nobody's folder.
            (!name.is_empty() && Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name).exists()
                || ["shard", "proto", "driver", "hub"].contains(&name))
            .then_some(name)
        })
    })
}

/// The files of the same folder that a file names in its paths, or by way of a module that it imports.
pub fn imports_of<'a>(source: &Source, sources: &'a [Source]) -> BTreeSet<&'a str> {
    let code: Vec<&str> = source.code().map(|(_, line)| line.trim()).collect();
    // Where something may be seen is no import.
    let code = code.join(" ").replace("pub(in crate", "pub(in ");
    let own: Vec<&str> = module_of(&source.name);
    let is_file = |path: &[&str]| sources.iter().any(|other| module_of(&other.name) == path);
    // Each path as it is from the crate's root.
    let mut named: Vec<Vec<&str>> = Vec::new();
    for root in ["crate", "super", "self"] {
        for (before, after) in occurrences(&code, root) {
            if !after.starts_with("::") || before.ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c))
            {
                continue;
            }
            let base = match root {
                "crate" => &own[..0],
                "super" => &own[..own.len() - 1],
                _ => &own[..],
            };
            for path in paths(&after[2..]) {
                let mut whole: Vec<&str> = base.to_vec();
                for part in path {
                    match part {
                        "super" => drop(whole.pop()),
                        "self" => {}
                        part => whole.push(part),
                    }
                }
                named.push(whole);
            }
        }
    }
    // `use crate::a::b;` makes `b::c` another file.
    for module in named.clone().into_iter().filter(|path| is_file(path)) {
        let Some(name) = module.last() else { continue };
        for (before, after) in occurrences(&code, name) {
            if after.starts_with("::") && !before.ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c))
            {
                named.extend(paths(&after[2..]).into_iter().map(|path| [module.clone(), path].concat()));
            }
        }
    }
    let mut found = BTreeSet::new();
    for path in named {
        // The longest beginning that is a file.
        let file = (1..=path.len())
            .rev()
            .find_map(|length| sources.iter().find(|other| module_of(&other.name) == path[..length]));
        found.extend(file.filter(|other| other.folder == source.folder).map(|other| &*other.name));
    }
    found.remove(source.name.as_str());
    found
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are both `a::b`.
pub fn module_of(name: &str) -> Vec<&str> {
    let name = name.strip_prefix("src/").and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
    name.strip_suffix("/mod").unwrap_or(name).split('/').collect()
}

/// The paths of an import's tree that begins here: `a::{b, c::{d, e}}` has three.
pub fn paths(text: &str) -> Vec<Vec<&str>> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let stem: Vec<&str> = text[..end].split("::").filter(|part| !part.is_empty()).collect();
    if !text[end..].starts_with('{') || !text[..end].ends_with("::") {
        return vec![stem];
    }
    let mut all = Vec::new();
    let (mut depth, mut start) = (0, end + 1);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < end) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 1 || depth == 0 {
            let branch = text[start..at].trim();
            if !branch.is_empty() {
                all.extend(paths(branch).into_iter().map(|path| [stem.clone(), path].concat()));
            }
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    all
}

pub fn occurrences<'a>(line: &'a str, wanted: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    line.match_indices(wanted).map(move |(at, _)| (&line[..at], &line[at + wanted.len()..]))
}

pub fn is_whole_word(before: &str, name: &str, after: &str) -> bool {
    let joins = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (name.starts_with('.') || !before.ends_with(joins)) && !after.starts_with(joins)
}

/// Every file we wrote below these folders, in a stable order.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        let path = root().join(folder);
        if path.exists() {
            walk(&path, &mut found);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    /// What the test command installs, what tools leave behind, and files of others that are kept as they were published: to
    /// change their lines would make them ours to maintain.
    const NOT_OURS: [&str; 4] = ["node_modules", ".venv", "__pycache__", "vendored"];
    const TEXT: [&str; 9] = ["rs", "mjs", "js", "py", "html", "css", "toml", "json", "md"];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !NOT_OURS.contains(&name) {
                walk(&path, found);
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| TEXT.contains(&e)) {
            let name =
                path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
            found.push(read(&name));
        }
    }
}

pub fn read(name: &str) -> Source {
    let path = root().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Source::new(name, text)
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
