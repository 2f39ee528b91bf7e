//! The settings of `[channel]` and of each `[[namespace]]`: those of its log, of its rules, and the table of permissions.

use std::sync::LazyLock;
use std::time::Duration;

use crate::base::pattern::Pattern;
use crate::base::publication::PayloadForm;
use crate::base::rewind::Rewind;
use crate::config::table::{Key, Section, section};
use crate::config::value::{Given, Setting};
use crate::hub::log_store::Durable;
use crate::hub::{ChannelKind, ChannelOptions, Deliver, GapPolicy, PresenceBy, RecoveryMode};
use crate::session::permissions::PERMISSIONS;
use crate::session::rules::{ChannelRules, NamespaceOptions};

section! {
    ChannelOptions {
        /// What the log keeps: "stream" is every publication, up to history_size and history_ttl; "value" is the newest publication of each
        /// key, which a new subscriber gets all of and one that lags skips to. Taken by a restart alone.
        kind: ChannelKind;
        /// Of kind "value": keys of one channel that may have a value. A publication of one more is refused (106).
        keys_max: usize;
        /// Of kind "value": bytes of a key. Longer ones are refused (107).
        key_bytes_max: usize;
        /// Publications kept for recovery and history. 0: none.
        history_size: usize;
        /// How long each is kept. 0s: none is kept; of kind "value": until it is replaced or removed.
        history_ttl: Duration;
        /// How long a channel without subscribers and history remembers its position.
        history_meta_ttl: Duration;
        /// Keep who is subscribed, for presence calls.
        presence: bool;
        /// Tell subscribers that asked for it who joins and leaves.
        join_leave: bool;
        /// Who is a member in presence and in join and leave events: every "client", or every "user", however many connections it
        /// has: it joins with the first and leaves with the last. Clients without a user are counted by client. Taken by a restart
        /// alone. Not with an engine.
        presence_by: PresenceBy;
        /// How long somebody must be away before the leave event; who is back by then has neither left nor joined to others, and
        /// stays in presence. A client that connects again has another id: set `presence_by` to "user" to have that count as coming
        /// back. Needs `join_leave`. Not with an engine.
        leave_delay: Duration;
        /// Join and leave events a second in one channel, evenly. More wait for their turn; of one that leaves before its join was
        /// said, nothing is. 0: any number. Not with an engine.
        join_leave_per_second: u32;
        /// Most members of a channel in which join and leave events are sent: with more, `presence_stats` tells how many there are.
        /// 0: any number. Not with an engine.
        join_leave_members_max: u32;
        /// A channel of kind "value" that hears how many are subscribed to each channel: by its name as key, at most once a second
        /// each. With presence the number of users as well. Not with an engine.
        occupancy: Option<String>, example "\"lobby:rooms\"";
        /// What happens to a subscriber that falls behind what is kept: "tell" it that state is lost,
        /// skip to the "latest" publication, or "close" its connection as slow.
        gap: GapPolicy;
        /// What a client that was away gets: "stream" is all that it missed, or the word that it cannot; "cache" is the newest
        /// publication alone, for channels whose every publication is the whole state.
        recovery_mode: RecoveryMode;
        /// What publications hold: "json", or any "bytes". Bytes are for clients of the Centrifuge protocol in Protobuf; a client that
        /// reads JSON and subscribes, or reads the history, is closed (3506). Everywhere else they are base64 (`b64data`).
        /// Taken by a restart alone.
        payload: PayloadForm;
        /// What a publication survives: "no" keeps it in memory; "async" writes it to the store soon after it was acknowledged, so that
        /// the end of the process or of the machine loses at most the last 100 ms; "sync" acknowledges what is on disk.
        /// Needs `store.path` and history.
        durable: Durable;
        /// Publications that come within this time of the last delivery leave together, with one write for each
        /// subscriber: less cpu a message at high rates for as much more latency. A publication after a pause leaves
        /// at once. 0: none waits.
        batch_max_delay: Duration;
        /// What subscribers get of a publication: "publication" is all of it; "notice" is its position alone, with `null` for data: of
        /// several that come together the last; "notice_with_ping" is the same together with the next ping of each connection, so that
        /// it costs no packet of its own. Clients read the history when they want to. Needs history. Taken by a restart alone.
        deliver: Deliver;
        /// A subscriber gets what has come at most once in this time, in one write: of kind "value" the newest of each key, of a
        /// stream all of it. A token, a hook, the API or the query of a client without an SDK may slow one subscription down further. At
        /// most an hour. 0: as it comes.
        deliver_every: Duration;
        /// Members have cursors: clients say what they have received and read (`trunkline.ack`), and the API tells who has what and how
        /// much is unread. Needs history. Not with an engine.
        cursors: bool;
        /// Cursors of one channel, one for each device of each member. An acknowledgement that needs one more is refused (106).
        cursors_max: usize;
        /// Who subscribes gets its user's cursors and what is unread, as `cursors` in the `data` of the reply: to subscribe, or to
        /// connect for what the server subscribes it to. Needs `cursors`.
        cursors_in_data: bool;
        /// How long members have to acknowledge a publication. After it, one event (`unacked`) says to the backend which of them have not
        /// received it, so that it can use the push service of their phones. Up to 24h; needs `cursors`, and "unacked" in `events.types`.
        /// 0s: it does not hear of it.
        ack_timeout: Duration;
        /// A client that publishes here hears how many members have received and read it, by messages to its user, at most once a
        /// second from one channel. Needs `cursors`.
        receipts: bool;
    }
}

section! {
    ChannelRules {
        /// Tell every subscriber who joins and leaves.
        force_push_join_leave: bool;
        /// Track every subscriber's position, asked for or not.
        force_positioning: bool;
        /// Make every subscription recoverable, asked for or not. Needs history.
        force_recovery: bool;
        /// Subscribers may ask for position tracking.
        allow_positioning: bool;
        /// Subscribers may ask for recovery.
        allow_recovery: bool;
        /// Subscribers may ask for deltas ("fossil"): each publication as what changes in the one before, where that is
        /// shorter. Made once for all subscribers that had that.
        allow_delta: bool;
        /// Subscribers may leave out publications by their tags (`tagsFilter` of the SDK; `tf=` of clients without one). What a
        /// token, a hook or the API imposes as `server_tags_filter` holds whatever stands here.
        allow_tags_filter: bool;
        /// With `recovery_mode` "cache", a new subscriber gets the newest publication as well, asked for or not.
        auto_cache_recover: bool;
        /// What a new subscriber gets of what was published before: a number of publications or a duration, like "10" or "5m", within
        /// `client.recovery_max_publication_limit`. Tokens and hooks may grant another one. Needs history. Unset: nothing.
        rewind: Option<Rewind>, example "\"5m\"";
        /// Channels whose name ends in `#` and users, like `chat#ann,bob`, are for these users alone, who need no
        /// subscription token.
        allow_user_limited_channels: bool;
        /// What a client publishes is kept from that client itself, also when it recovers or reads the history.
        exclude_publisher: bool;
        /// Publications a second that clients may make in one channel; as many may come at once after a rest. More are
        /// refused (111). The server API is not limited. 0: any number.
        publish_per_second: u32;
        /// The same in payload bytes. What is larger passes after a rest and is paid for afterwards. 0: any number.
        publish_bytes_per_second: usize;
        /// A regular expression that must be found in what stands behind the namespace in a channel's name. Whom a client
        /// asks to be subscribed to, or to read, elsewhere is denied (103). Not for what the server subscribes clients to.
        channel_regex: Option<Pattern>, example "\"^[0-9]+$\"";
        /// The hook that is asked about subscriptions without a token.
        subscribe_hook: Option<String>, example "\"backend\"";
        /// The hook that is asked whether a subscription that the subscribe hook granted may go on when it expires.
        sub_refresh_hook: Option<String>, example "\"backend\"";
        /// The hook that is asked about what clients publish.
        publish_hook: Option<String>, example "\"backend\"";
    } but [permissions]
}

/// One after the other; the table of permissions last.
impl Section for NamespaceOptions {
    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
            let NamespaceOptions { channel, rules } = NamespaceOptions::default();
            let permissions = PERMISSIONS.iter().map(|permission| Key {
                name: permission.key,
                doc: permission.doc,
                kind: bool::KIND,
                flag: None,
                example: permission.default().is_none().then_some("false"),
                secret: false,
                list: false,
            });
            channel.keys().iter().chain(rules.keys()).copied().chain(permissions).collect()
        });
        &KEYS
    }

    fn set(&mut self, key: &str, given: &Given) -> Option<Result<(), String>> {
        if let Some(at) = PERMISSIONS.iter().position(|permission| permission.key == key) {
            let read = bool::read(given);
            return Some(read.map(|allowed| self.rules.permissions.set_row(at, Some(allowed))));
        }
        self.channel.set(key, given).or_else(|| self.rules.set(key, given))
    }

    fn get(&self, key: &str) -> Option<String> {
        if let Some(at) = PERMISSIONS.iter().position(|permission| permission.key == key) {
            return self.rules.permissions.row(at).and_then(|allowed| allowed.write());
        }
        self.channel.get(key).or_else(|| self.rules.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::document::documented;
    use crate::session::permissions::Permissions;

    /// Each row of the table is a setting that is documented and read, and changes nothing else.
    #[test]
    fn a_permission_is_a_setting_by_its_row_alone() {
        let text = documented(&Config::default());
        for (at, permission) in PERMISSIONS.iter().enumerate() {
            for given in [true, false] {
                let mut options = NamespaceOptions::default();
                options.set(permission.key, &Given::Loose(given.to_string())).unwrap().unwrap();
                let mut expected = Permissions::default();
                expected.set(permission.deed, permission.who, given);
                assert_eq!(options.rules.permissions, expected, "{}", permission.key);
                assert_eq!(options.rules.permissions.row(at), Some(given));
                assert_eq!(options.get(permission.key), Some(given.to_string()));
                assert_eq!(options.channel, ChannelOptions::default());
            }
            assert!(options_refuse(permission.key), "{}", permission.key);
            assert!(text.contains(&format!("{} = false", permission.key)), "{}", permission.key);
            assert!(text.contains(permission.doc.lines().next().unwrap()), "{}", permission.key);
        }
    }

    fn options_refuse(key: &str) -> bool {
        NamespaceOptions::default().set(key, &Given::Loose("perhaps".to_owned())).unwrap().is_err()
    }

    /// Settings of different structs share a section: each needs a name of its own.
    #[test]
    fn no_two_settings_have_one_name() {
        let mut names: Vec<&str> = NamespaceOptions::default().keys().iter().map(|key| key.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
