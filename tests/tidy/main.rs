//! What the compiler does not hold: which folder may know which, where `unsafe` and clocks may stand, how long a file
//! may be. Reads the sources as text; a rule names its reason, so that its breaker can judge.

mod features;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::source::{
    Source, assert_none, imports_of, is_whole_word, named_modules, occurrences, paths, read, root, sources,
};

/// A folder (or file) under `src/` and the folders of this crate that it may name.
///
/// The design's arrows. What is not listed here is the top: `node`, `main.rs`, `lib.rs` may know everything.
const MAY_KNOW: [(&str, &[&str]); 13] = [
    ("base", &[]),
    ("driver", &["base"]),
    // Records are plain data: a layer goes to another process as one.
    ("layer", &["base", "record"]),
    ("record", &["base"]),
    ("proto", &["base", "record"]),
    ("hub", &["base", "record"]),
    ("session", &["base", "record", "proto", "hub"]),
    ("shard", &["base", "record", "driver", "layer", "proto", "hub", "session"]),
    ("store", &["base", "record", "hub"]),
    // It speaks to shards by their inboxes, and writes the messages of nodes.
    ("engine", &["base", "record", "proto", "hub", "session", "shard", "telemetry"]),
    // What anything may log with.
    ("telemetry", &["base"]),
    // It makes the settings of those that it names, who do not know where they come from.
    ("config", &["base", "hub", "session", "layer", "shard", "engine", "telemetry"]),
    ("control", &["base", "record", "proto", "hub", "shard", "config", "telemetry", "session", "engine"]),
];

/// The control plane reaches shards by their mailboxes only.
const SHARD_BORDER: [&str; 3] = ["control_request", "mailbox", "router"];

/// Folders where asynchronous code may stand. Below them nothing waits but the shard itself.
const TOKIO_HOMES: [&str; 4] = ["control", "engine", "node", "main.rs"];

const FILE_LINES_MAX: usize = 700;
const LINE_CHARACTERS_MAX: usize = 140;

#[test]
fn folders_know_only_what_the_design_lets_them() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let Some((_, allowed)) = MAY_KNOW.iter().find(|(folder, _)| *folder == source.folder) else {
            continue;
        };
        for (number, line) in source.code() {
            for known in named_modules(line) {
                if known != source.folder && !allowed.contains(&known) {
                    faults.push(format!("{}:{number}: {} must not know {known}", source.name, source.folder));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_control_plane_reaches_shards_by_mailbox_only() {
    let mut faults = Vec::new();
    for source in sources(&["src/control"]) {
        for (number, line) in source.code() {
            for (_, after) in occurrences(line, "crate::shard::") {
                if !SHARD_BORDER.iter().any(|module| after.starts_with(module)) && !after.starts_with('{') {
                    faults.push(format!(
                        "{}:{number}: not the border of a shard: {}",
                        source.name,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn asynchronous_code_stays_above_the_shards() {
    let mut faults = Vec::new();
    for source in sources(&["src"]).into_iter().filter(|s| !TOKIO_HOMES.contains(&s.folder.as_str())) {
        for (number, line) in source.code() {
            for name in ["tokio", "axum", "tower", "async fn", ".await"] {
                if occurrences(line, name).any(|(before, after)| is_whole_word(before, name, after)) {
                    faults.push(format!("{}:{number}: {name} below the control plane", source.name));
                }
            }
        }
    }
    assert_none(&faults);
}

/// Replay from a seed needs every time to come from the driver.
#[test]
fn only_the_edges_read_a_clock() {
    const CLOCK_HOMES: [&str; 6] = ["driver", "control", "engine", "node", "telemetry", "main.rs"];
    let mut faults = Vec::new();
    for source in sources(&["src"]).into_iter().filter(|s| !CLOCK_HOMES.contains(&s.folder.as_str())) {
        for (number, line) in source.code() {
            for name in ["Instant::now", "SystemTime::now", "thread::sleep"] {
                if line.contains(name) {
                    faults.push(format!("{}:{number}: {name} where time is an argument", source.name));
                }
            }
        }
    }
    assert_none(&faults);
}

/// A permission is a row of one table: a new one touches nothing else but the command that it is for.
#[test]
fn permissions_are_named_in_their_table_alone() {
    const TABLE: &str = "src/session/permissions.rs";
    let mut faults = Vec::new();
    let mut rows = 0;
    for source in sources(&["src"]) {
        for (number, line) in source.code() {
            for (_, after) in occurrences(line, "allow_") {
                let name = after.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or("");
                let is_permission = ["_for_client", "_for_subscriber", "_for_anonymous"].iter();
                if !is_permission.clone().any(|end| name.ends_with(end)) {
                    continue;
                }
                match source.name == TABLE {
                    true => rows += 1,
                    false => faults.push(format!("{}:{number}: allow_{name}", source.name)),
                }
            }
        }
    }
    assert_none(&faults);
    assert!(rows >= 11, "the table is where it was");
}

/// A name that means two types makes its reader look for the import first.
#[test]
fn a_type_has_a_name_of_its_own() {
    const KINDS: [&str; 5] = ["struct ", "enum ", "trait ", "type ", "union "];
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources(&["src"]).iter().filter(|source| source.name.ends_with(".rs")) {
        for (_, line) in source.code() {
            // What a macro defines is indented, and public.
            let trimmed = line.trim_start();
            let line = if trimmed.starts_with("pub struct ") { trimmed } else { line };
            let line = match line.strip_prefix("pub(") {
                Some(rest) => rest.split_once(") ").map_or("", |(_, rest)| rest),
                None => line.strip_prefix("pub ").unwrap_or(line),
            };
            if let Some(rest) = KINDS.iter().find_map(|kind| line.strip_prefix(kind)) {
                let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
                if !name.is_empty() {
                    places.entry(name.to_string()).or_default().push(source.name.clone());
                }
            }
        }
    }
    assert!(places.len() > 500, "types are found");
    let twice = places.iter().filter(|(_, places)| places.len() > 1);
    assert_none(&twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect::<Vec<_>>());
}

/// Every queue has a bound with a name. Tests may collect what comes.
#[test]
fn no_queue_is_unbounded() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        for (number, line) in source.code() {
            for name in ["mpsc::channel(", "mpsc::channel::<", "unbounded", "mem::forget"] {
                if line.contains(name) {
                    faults.push(format!("{}:{number}: {name}", source.name));
                }
            }
        }
    }
    assert_none(&faults);
}

/// A queue says what bounds it where it is kept. The simulator's own are as long as its scenarios.
#[test]
fn every_queue_names_its_bound() {
    const QUEUES: [&str; 6] =
        ["VecDeque<", "ArrayQueue<", "BinaryHeap<", "LinkedList<", "mpsc::Receiver<", "SegQueue<"];
    let (mut faults, mut found) = (Vec::new(), 0);
    for source in sources(&["src"]).into_iter().filter(|source| !source.name.contains("/sim/")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code() {
            // A field or a constant; what a function works with is a field of somebody's.
            let kept =
                line.starts_with("    ") && !line.starts_with("     ") && line.trim_end().ends_with(',');
            if !kept || !QUEUES.iter().any(|queue| line.contains(queue)) {
                continue;
            }
            found += 1;
            let doc =
                lines[..number - 1].iter().rev().take_while(|above| above.trim_start().starts_with("///"));
            if !doc.into_iter().any(|above| above.contains("Bound: ")) {
                faults.push(format!("{}:{number}: a queue without its `Bound: `", source.name));
            }
        }
    }
    assert!(found >= 15, "{found} queues seen");
    assert_none(&faults);
}

#[test]
fn unsafe_stays_in_the_driver_with_its_reason() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code() {
            let opens = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"]
                .iter()
                .any(|form| line.contains(form));
            if !opens {
                continue;
            }
            if source.folder != "driver" {
                faults.push(format!("{}:{number}: unsafe outside the driver", source.name));
            }
            // The reason stands in the comment right above, or on the line itself.
            let reasoned = line.contains("SAFETY:")
                || lines[..number - 1]
                    .iter()
                    .rev()
                    .take(12)
                    .take_while(|above| {
                        above.trim_start().starts_with("//") || !above.trim_end().ends_with(';')
                    })
                    .any(|above| above.contains("SAFETY:") || above.contains("# Safety"));
            if !reasoned {
                faults.push(format!("{}:{number}: unsafe without its reason", source.name));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_folder_opens_with_its_purpose() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        if (source.name.ends_with("/mod.rs") || source.name.ends_with("/lib.rs"))
            && !source.text.starts_with("//!")
        {
            faults.push(format!("{}: opens without what it is for", source.name));
        }
    }
    assert_none(&faults);
}

#[test]
fn files_are_short_and_clean() {
    let mut faults = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        let count = source.text.lines().count();
        if count > FILE_LINES_MAX {
            faults.push(format!("{}: {count} lines; {FILE_LINES_MAX} are the most", source.name));
        }
        if !source.text.is_empty() && (!source.text.ends_with('\n') || source.text.ends_with("\n\n")) {
            faults.push(format!("{}: ends without its one line break", source.name));
        }
        for (number, line) in source.text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            if line.ends_with([' ', '\t', '\r']) {
                faults.push(format!("{}:{number}: white space at the end", source.name));
            }
            if source.name.ends_with(".rs") && line.chars().count() > LINE_CHARACTERS_MAX {
                faults.push(format!("{}:{number}: over {LINE_CHARACTERS_MAX} characters", source.name));
            }
        }
    }
    assert_none(&faults);
}

/// A part that is read without knowing another is one whose imports end somewhere.
#[test]
fn files_do_not_import_each_other_in_circles() {
    let sources = sources(&["src"]);
    let graph: BTreeMap<&str, BTreeSet<&str>> = sources
        .iter()
        .filter(|source| source.code().next().is_some())
        .map(|source| (source.name.as_str(), imports_of(source, &sources)))
        .collect();
    assert!(graph["src/shard/clients.rs"].contains("src/shard/core.rs"), "imports are seen");
    let mut left = graph.clone();
    // What imports nothing that is left is in no circle.
    loop {
        let before = left.len();
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, imports| imports.iter().any(|name| names.contains(name)));
        if left.len() == before {
            break;
        }
    }
    // Nor is what nothing imports that is left.
    loop {
        let imported: BTreeSet<&str> = left.values().flatten().copied().collect();
        let before = left.len();
        left.retain(|name, _| imported.contains(name));
        if left.len() == before {
            break;
        }
    }
    let faults: Vec<String> = left
        .iter()
        .map(|(name, imports)| {
            let next: Vec<_> = imports.iter().filter(|import| left.contains_key(*import)).collect();
            format!("{name} imports {next:?}")
        })
        .collect();
    assert_none(&faults);
}

/// Words that are only true where they were written, and promises that nobody will keep.
#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two pieces, so that this file passes its own rule.
    let words: Vec<String> =
        [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("TO", "DO"), ("FIX", "ME"), ("XX", "X")]
            .iter()
            .map(|(a, b)| format!("{a}{b}"))
            .collect();
    let mut faults = Vec::new();
    let mut checked = sources(&["src", "tests", "benches"]);
    checked.extend(
        ["README.md", "CHANGELOG.md", "Cargo.toml", "deny.toml", "clippy.toml", ".ci/run", "tests/run"]
            .map(read),
    );
    for source in checked {
        for (number, line) in source.text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{number}: {word}", source.name));
            }
        }
    }
    assert_none(&faults);
}

/// A recipe that names a file which has moved sends its reader to nothing.
#[test]
fn documents_name_files_that_exist() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for document in ["CONTRIBUTING.md", "README.md", "SECURITY.md"].map(read) {
        for quoted in document.text.split('`').skip(1).step_by(2) {
            let is_path = [".rs", ".mjs", ".py", ".md", "/"].iter().any(|end| quoted.ends_with(end))
                && quoted.contains('/')
                && quoted.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
                && !quoted.starts_with('/');
            if is_path {
                seen += 1;
                let stands = ["", "src"].iter().any(|folder| root().join(folder).join(quoted).exists());
                if !stands {
                    faults.push(format!("{}: {quoted}", document.name));
                }
            }
        }
    }
    assert!(seen > 50, "{seen} paths seen");
    assert_none(&faults);
}

/// The design fixes what stands beside `src`: what a measurement leaves behind must not be committed.
#[test]
fn the_top_level_holds_what_the_design_names() {
    const ALLOWED: [&str; 21] = [
        "Cargo.lock",
        "Cargo.toml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "SECURITY.md",
        "benches",
        "clippy.toml",
        "deny.toml",
        "docs",
        "fuzz",
        "loadgen",
        "packaging",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "src",
        "target",
        "tests",
        "tuning",
    ];
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // What was unpacked from an archive has no other files than the project's.
    let names: Vec<String> = match listed {
        Some(listed) => {
            listed.lines().map(|path| path.split('/').next().unwrap_or(path).to_owned()).collect()
        }
        None => fs::read_dir(env!("CARGO_MANIFEST_DIR"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect(),
    };
    assert!(names.iter().any(|name| name == "Cargo.toml"));
    let faults: Vec<String> = names
        .into_iter()
        .filter(|name| !name.starts_with('.') && !ALLOWED.contains(&name.as_str()))
        .collect();
    assert_none(&faults);
}

/// The rules themselves: a checker that sees nothing passes everything.
#[test]
fn the_rules_of_this_file_see_what_they_look_for() {
    assert_eq!(named_modules("use crate::hub::{log, asks};").collect::<Vec<_>>(), ["hub"]);
    assert_eq!(named_modules("use crate::{base::ids, driver};").collect::<Vec<_>>(), ["base", "driver"]);
    assert_eq!(
        named_modules("let x = crate::shard::control_request::Busy; crate::proto::y()").collect::<Vec<_>>(),
        ["shard", "proto"]
    );
    let tree = paths("shard::{core, readers::{self, joins::Join}, Shard}; next::{x}");
    let tree: Vec<String> = tree.iter().map(|path| path.join("::")).collect();
    assert_eq!(tree, ["shard::core", "shard::readers::self", "shard::readers::joins::Join", "shard::Shard"]);
    let files = ["src/x/a.rs", "src/x/b/mod.rs", "src/x/b/c.rs", "src/y/d.rs"];
    let files: Vec<Source> = files.into_iter().map(|name| Source::new(name, String::new())).collect();
    let text =
        "use crate::x::{b::{self, B}, a::A};\npub(in crate::x) fn f() { b::c::g(); crate::y::d::h() }\n";
    let imports = imports_of(&Source::new("src/x/z.rs", text.into()), &files);
    assert_eq!(Vec::from_iter(imports), ["src/x/a.rs", "src/x/b/c.rs", "src/x/b/mod.rs"]);
    let text = "// crate::hub\n/// crate::hub\ncode(); // crate::hub\n#[cfg(test)]\nmod tests {}\n";
    let source = Source::new("src/x/y.rs", text.into());
    assert_eq!(source.code().collect::<Vec<_>>(), [(3, "code(); ")]);
    assert_eq!(source.folder, "x");
    let text = "use crate::a::{\n    tap,\n};\npub mod tap;\nlet tap = 1;\nmod inner {\n";
    assert_eq!(Source::new("src/x/y.rs", text.into()).statements(), ["let tap = 1;", "mod inner {"]);
    assert!(sources(&["src"]).len() > 10, "the sources are found");
}
