//! What the settings of a namespace must satisfy together: those of logs, values, notices and counts of subscribers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::event::EventKind;
use crate::base::publication::PayloadForm;
use crate::config::fault::Require;
use crate::config::sections::Config;
use crate::hub::cursors::CURSORS_MAX;
use crate::hub::limits::{ACK_TIMEOUT_MAX, BATCH_DELAY_MAX, DELIVER_EVERY_MAX, KEY_BYTES_MAX, KEYS_MAX};
use crate::hub::log_store::Durable;
use crate::hub::{GapPolicy, RecoveryMode};
use crate::session::rules::NamespaceOptions;

/// Longest time that somebody who has left stays in presence: channels that nobody needs are kept for about as long.
const LEAVE_DELAY_MAX: Duration = Duration::from_secs(600);

/// A client that acknowledges at once needs a round trip for it.
const ACK_TIMEOUT_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// The options of all channels, each with the path of its keys: of those without a namespace, and of every namespace.
    pub(super) fn channel_options(&self) -> impl Iterator<Item = (String, &NamespaceOptions)> {
        let named = self.namespace.iter().enumerate();
        let named = named.map(|(at, namespace)| (format!("namespace[{at}]"), &namespace.options));
        std::iter::once(("channel".to_owned(), &self.channel)).chain(named)
    }
}

pub(super) fn check_default_channel(config: &Config, require: &mut Require<'_>) {
    check_channel(&config.channel, "channel", require);
}

pub(super) fn check_namespaces(config: &Config, require: &mut Require<'_>) {
    let mut names = BTreeSet::new();
    for (at, namespace) in config.namespace.iter().enumerate() {
        let path = format!("namespace[{at}]");
        let well_named = !namespace.name.is_empty()
            && namespace.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        require(
            well_named,
            &format!("{path}.name"),
            "must be of letters, digits, \"-\", \"_\" and \".\", at least one",
        );
        require(
            names.insert(&namespace.name),
            &format!("{path}.name"),
            "is the name of an earlier namespace too",
        );
        check_channel(&namespace.options, &path, require);
    }
    check_occupancy(config, require);
    check_unacked(config, require);
}

fn check_channel(options: &NamespaceOptions, path: &str, require: &mut Require<'_>) {
    let channel = &options.channel;
    require(
        channel.history_size == 0 || channel.keeps_history(),
        &format!("{path}.history_size"),
        "needs history_ttl, or nothing is kept",
    );
    require(
        channel.leave_delay.is_zero() || channel.join_leave,
        &format!("{path}.leave_delay"),
        "needs join_leave: it is about leave events",
    );
    require(
        channel.leave_delay <= LEAVE_DELAY_MAX,
        &format!("{path}.leave_delay"),
        "must be at most 10m: who has left is kept for so long",
    );
    require(
        !options.rules.force_recovery || channel.keeps_history(),
        &format!("{path}.force_recovery"),
        "needs history_size and history_ttl",
    );
    require(
        options.rules.rewind.is_none() || channel.keeps_history(),
        &format!("{path}.rewind"),
        "needs history_size and history_ttl",
    );
    require(
        channel.history_meta_ttl >= channel.history_ttl,
        &format!("{path}.history_meta_ttl"),
        "must be at least history_ttl, or a kept publication would outlive its position",
    );
    require(
        channel.batch_max_delay <= BATCH_DELAY_MAX,
        &format!("{path}.batch_max_delay"),
        "must be at most 1s: subscribers wait for it",
    );
    require(
        channel.deliver_every <= DELIVER_EVERY_MAX,
        &format!("{path}.deliver_every"),
        "must be at most 1h: who hears less often reads the history",
    );
    require(
        !channel.cursors || !channel.is_value(),
        &format!("{path}.cursors"),
        "are of streams: values are not read one after the other",
    );
    require(
        !channel.cursors || channel.keeps_history(),
        &format!("{path}.cursors"),
        "needs history_size and history_ttl: who comes back gets what it lacks from there",
    );
    require(
        (1..=CURSORS_MAX).contains(&channel.cursors_max),
        &format!("{path}.cursors_max"),
        "must be from 1 to 100000: a look at who has read what walks all of them",
    );
    require(
        !channel.cursors_in_data || channel.cursors,
        &format!("{path}.cursors_in_data"),
        "needs cursors: they are what it is about",
    );
    require(
        channel.ack_timeout.is_zero() || channel.cursors,
        &format!("{path}.ack_timeout"),
        "needs cursors: members acknowledge by them",
    );
    require(
        channel.ack_timeout.is_zero() || (ACK_TIMEOUT_MIN..=ACK_TIMEOUT_MAX).contains(&channel.ack_timeout),
        &format!("{path}.ack_timeout"),
        "must be from 100ms to 24h",
    );
    require(
        !channel.receipts || channel.cursors,
        &format!("{path}.receipts"),
        "needs cursors: they say who has got what",
    );
    if channel.is_value() {
        check_value_channel(options, path, require);
    }
    if channel.is_notice() {
        check_notices(options, path, require);
    }
}

/// Counts of subscribers go to a channel that has keys, and are of this process.
fn check_occupancy(config: &Config, require: &mut Require<'_>) {
    let named = |channel: &str| match channel.split_once(':') {
        None => Some(&config.channel),
        Some((name, _)) => {
            config.namespace.iter().find(|known| known.name == name).map(|known| &known.options)
        }
    };
    for (path, options) in config.channel_options() {
        let Some(to) = &options.channel.occupancy else { continue };
        let key = format!("{path}.occupancy");
        let target = named(to).map(|options| &options.channel);
        require(
            target.is_some_and(|channel| channel.is_value()),
            &key,
            "must name a channel of a namespace with kind \"value\", like \"lobby:rooms\"",
        );
        require(
            target.is_none_or(|channel| channel.durable == Durable::No),
            &key,
            "must be a channel that is not durable: after a restart nobody is subscribed",
        );
        require(
            target.is_none_or(|channel| channel.payload == PayloadForm::Json),
            &key,
            "must be a channel with payload \"json\": a count is an object",
        );
    }
}

/// Who has not acknowledged something is said to somebody.
fn check_unacked(config: &Config, require: &mut Require<'_>) {
    let is_said = config.events.kinds().contains(EventKind::Unacked);
    for (path, options) in config.channel_options() {
        require(
            is_said || options.channel.ack_timeout.is_zero(),
            &format!("{path}.ack_timeout"),
            "needs \"unacked\" in events.types: that is what it leads to",
        );
    }
}

/// What is of publications that subscribers get whole.
fn check_notices(options: &NamespaceOptions, path: &str, require: &mut Require<'_>) {
    let NamespaceOptions { channel, rules } = options;
    require(
        !channel.is_value(),
        &format!("{path}.deliver"),
        "is of streams: with kind \"value\" deliver_every has the newest of each key leave together",
    );
    require(
        channel.is_value() || channel.keeps_history(),
        &format!("{path}.deliver"),
        "needs history_size and history_ttl: clients read there what notices speak of",
    );
    let whole = "is of publications that subscribers get: with notices they read them from the history";
    if let Some(key) = rules.shapes().chained() {
        require(false, &format!("{path}.{key}"), whole);
    }
    require(!rules.allow_tags_filter, &format!("{path}.allow_tags_filter"), whole);
    require(!rules.exclude_publisher, &format!("{path}.exclude_publisher"), whole);
    require(rules.rewind.is_none(), &format!("{path}.rewind"), whole);
}

/// What is of streams, and what keys may be.
fn check_value_channel(options: &NamespaceOptions, path: &str, require: &mut Require<'_>) {
    let NamespaceOptions { channel, rules } = options;
    let all = "is of streams: with kind \"value\" every subscriber gets all values";
    require(
        channel.history_size == 0,
        &format!("{path}.history_size"),
        "is of streams: with kind \"value\" it is keys_max",
    );
    require(channel.recovery_mode == RecoveryMode::Stream, &format!("{path}.recovery_mode"), all);
    require(!rules.auto_cache_recover, &format!("{path}.auto_cache_recover"), all);
    require(rules.rewind.is_none(), &format!("{path}.rewind"), all);
    require(
        channel.gap != GapPolicy::Latest,
        &format!("{path}.gap"),
        "\"latest\" is of streams: with kind \"value\" who lags skips to the newest of each key",
    );
    if let Some(key) = rules.shapes().chained() {
        require(false, &format!("{path}.{key}"), "is of streams: the publication before is another key's");
    }
    require(
        (1..=KEYS_MAX).contains(&channel.keys_max),
        &format!("{path}.keys_max"),
        "must be from 1 to 100000: a new subscriber gets all values at once",
    );
    require(
        (1..=KEY_BYTES_MAX).contains(&channel.key_bytes_max),
        &format!("{path}.key_bytes_max"),
        "must be from 1 to 1024: a key goes out with each value",
    );
}

#[cfg(test)]
mod tests {
    use crate::config::check::{faults_of, only_fault as only};

    #[test]
    fn notices_are_of_streams_that_can_be_read() {
        let of = |rest: &str| format!("[channel]\ndeliver = \"notice\"\n{rest}");
        let kept = "history_size = 9\nhistory_ttl = \"1m\"\n";
        assert_eq!(faults_of(&of(kept)), [""; 0]);
        assert_eq!(faults_of(&of(&format!("batch_max_delay = \"1s\"\n{kept}"))), [""; 0]);
        assert!(only(&of("")).contains("channel.deliver: needs history_size"));
        assert!(only(&of("kind = \"value\"\n")).contains("channel.deliver: is of streams"));
        for setting in
            ["allow_delta = true", "allow_tags_filter = true", "exclude_publisher = true", "rewind = \"5\""]
        {
            let key = setting.split(' ').next().unwrap();
            assert!(
                only(&of(&format!("{setting}\n{kept}")))
                    .contains(&format!("channel.{key}: is of publications"))
            );
        }
        assert!(only("[channel]\ndeliver = \"sometimes\"\n").contains("notice_with_ping"));
    }

    #[test]
    fn counts_of_subscribers_need_a_channel_of_values() {
        let of = |name: &str, lobby: &str| {
            let lobby = format!("[[namespace]]\nname = \"lobby\"\n{lobby}\n");
            format!("{lobby}[[namespace]]\nname = \"room\"\noccupancy = \"{name}\"\n")
        };
        assert_eq!(faults_of(&of("lobby:rooms", "kind = \"value\"")), [""; 0]);
        for (name, lobby) in [("lobby:rooms", ""), ("rooms", ""), ("nowhere:rooms", "kind = \"value\"")] {
            assert!(only(&of(name, lobby)).contains("namespace[1].occupancy: must name a channel"), "{name}");
        }
        let bytes = "kind = \"value\"\npayload = \"bytes\"";
        assert!(only(&of("lobby:rooms", bytes)).contains("payload"));
    }
}
