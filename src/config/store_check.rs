//! What must hold of the store's settings, and of channels that are to be kept in it.

use std::time::Duration;

use crate::config::fault::Require;
use crate::config::sections::Config;
use crate::config::value::Size;
use crate::hub::log_store::Durable;

/// The files hold at least a few segments: one that is written, and some of a copy beside those that it replaces.
const SEGMENTS_MIN: u64 = 8;

pub(super) fn check_store(config: &Config, require: &mut Require<'_>) {
    let store = &config.store;
    require(store.path.as_deref() != Some(""), "store.path", "must name a directory");
    require(
        (Size::mib(1)..=Size::mib(256)).contains(&store.segment_bytes),
        "store.segment_bytes",
        "must be from 1MiB to 256MiB",
    );
    require(
        store.bytes_max.0 / SEGMENTS_MIN >= store.segment_bytes.0,
        "store.bytes_max",
        "must be at least eight times store.segment_bytes",
    );
    require(
        store.compact_interval >= Duration::from_secs(1),
        "store.compact_interval",
        "must be at least 1s",
    );
    for (path, options) in config.channel_options() {
        let channel = &options.channel;
        let is_durable = channel.durable != Durable::No;
        let key = format!("{path}.durable");
        require(
            !is_durable || store.path.is_some(),
            &key,
            "needs store.path: there is no disk to keep it on",
        );
        require(!is_durable || channel.keeps_history(), &key, "needs history_size and history_ttl");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::check;
    use crate::config::file::Origins;

    fn faults(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let found = check(&config, &Origins::default());
        found.into_iter().map(|fault| format!("{}: {}", fault.key, fault.problem)).collect()
    }

    #[test]
    fn a_durable_channel_needs_a_store_and_history() {
        assert_eq!(faults(|_| {}), [""; 0]);
        let kept = |config: &mut Config| {
            config.channel.channel.history_size = 10;
            config.channel.channel.history_ttl = Duration::from_secs(60);
        };
        let found = faults(|config| {
            kept(config);
            config.channel.channel.durable = Durable::Async;
        });
        assert_eq!(found, ["channel.durable: needs store.path: there is no disk to keep it on"]);
        let found = faults(|config| {
            config.store.path = Some("/var/lib/trunkline".to_owned());
            config.channel.channel.durable = Durable::Sync;
        });
        assert_eq!(found, ["channel.durable: needs history_size and history_ttl"]);
        let found = faults(|config| {
            kept(config);
            config.store.path = Some("/var/lib/trunkline".to_owned());
            config.channel.channel.durable = Durable::Sync;
        });
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_store_has_room_for_a_few_files() {
        let found = faults(|config| config.store.bytes_max = Size::mib(64));
        assert_eq!(found, ["store.bytes_max: must be at least eight times store.segment_bytes"]);
        let found = faults(|config| config.store.segment_bytes = Size::kib(1));
        assert_eq!(found, ["store.segment_bytes: must be from 1MiB to 256MiB"]);
    }
}
