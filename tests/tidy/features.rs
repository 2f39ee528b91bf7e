//! Which files a feature touches.

use std::collections::BTreeSet;

use crate::source::{Source, assert_none, is_whole_word, occurrences, sources};

/// What a feature is called in code, and where it is at home.
struct Feature {
    name: &'static str,
    words: &'static [&'static str],
    own: &'static [&'static str],
}

/// What counts as one file: the importer of another product's settings, and a page.
const WHOLE: [&str; 2] = ["src/config/centrifugo/", "src/control/console/"];

const FEATURES: [Feature; 6] = [
    Feature {
        name: "TLS of listeners",
        words: &["tls", "listen_tls", "Certificates", "TlsOnPlainPort", "tls_handshakes_total"],
        own: &[
            "src/layer/",
            "src/config/tls.rs",
            "src/node/tls.rs",
            "src/shard/handshakes.rs",
            // TLS to an engine's servers, and to the backend.
            "src/control/outbound.rs",
            "src/engine/",
            "src/config/engine",
            "src/node/engine.rs",
        ],
    },
    Feature {
        name: "deltas",
        words: &["delta", "allow_delta", "Deltas", "Shape::Delta"],
        // What a Redis of others holds, and what their publishers say, is read without the feature as well.
        own: &[
            "src/base/shape.rs",
            "src/session/delta.rs",
            "src/proto/fossil",
            "src/engine/redis/layout.rs",
            "src/control/wire.rs",
        ],
    },
    Feature {
        name: "taps",
        words: &["tap", "Tap", "taps", "Taps", "tap_line"],
        own: &["src/control/tap.rs", "src/control/taps.rs"],
    },
    Feature {
        name: "upgrades of a running node",
        words: &[
            "handover",
            "Handover",
            "UpgradeTask",
            "upgrade::",
            "Upgrade(AskedUpgrade)",
            "Incident::Upgrade",
        ],
        own: &[
            "src/node/upgrade/",
            "src/shard/handover/",
            "src/config/upgrade_command.rs",
            "src/engine/handover.rs",
            "src/record/",
        ],
    },
    Feature {
        name: "the store",
        words: &["crate::store", "store::", "Store", "StoreTask", "StoreSettings"],
        own: &["src/store/", "src/node/store", "src/config/store", "src/record/", "src/node/upgrade/wire.rs"],
    },
    Feature {
        name: "Redis",
        words: &["redis", "Redis", "rediss"],
        own: &["src/engine/redis/", "src/config/centrifugo/"],
    },
];

/// Each feature is an addition: what it needs of others has a name of its own there, which says nothing of who needs it.
#[test]
fn a_feature_is_named_in_few_files_beside_its_own() {
    const FILES_MAX: usize = 8;
    let sources = sources(&["src"]);
    let mut faults = Vec::new();
    for Feature { name, words, own } in &FEATURES {
        let names = |source: &&Source| {
            source.statements().iter().any(|line| {
                let word_of = |word: &&str| {
                    let ends = |before: &str, after: &str| {
                        let is_path = word.ends_with([':', ')']);
                        is_whole_word(before, word, if is_path { "" } else { after })
                    };
                    occurrences(line, word).any(|(before, after)| ends(before, after))
                };
                words.iter().any(word_of)
            })
        };
        let (at_home, elsewhere): (Vec<&Source>, Vec<&Source>) = sources
            .iter()
            .filter(names)
            .partition(|source| own.iter().any(|own| source.name.starts_with(own)));
        let place = |source: &'_ Source| {
            let whole = WHOLE.into_iter().find(|whole| source.name.starts_with(whole));
            whole.map_or_else(|| source.name.clone(), str::to_string)
        };
        let elsewhere = BTreeSet::from_iter(elsewhere.into_iter().map(place));
        assert!(!at_home.is_empty(), "{name} is where it was");
        if elsewhere.len() > FILES_MAX {
            faults.push(format!("{name}: {} files: {elsewhere:?}", elsewhere.len()));
        }
    }
    assert_none(&faults);
}
