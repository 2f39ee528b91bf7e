//! What must hold of the engine's settings, and of all others with an engine.

use std::time::Duration;

use crate::base::event::EventKind;
use crate::config::engine::EngineKind;
use crate::config::fault::Require;
use crate::config::sections::Config;
use crate::hub::PresenceBy;
use crate::hub::log_store::Durable;
use crate::session::rules::NamespaceOptions;

pub(super) fn check_engine(config: &Config, require: &mut Require<'_>) {
    let engine = &config.engine;
    let times = [("engine.connect_timeout", engine.connect_timeout), ("engine.timeout", engine.timeout)];
    for (key, time) in times {
        let right = (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&time);
        require(right, key, "must be from 10ms to 1m");
    }
    require(
        !engine.prefix.is_empty()
            && engine.prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)),
        "engine.prefix",
        "must be of letters, digits, \"-\", \"_\", \".\" and \":\", at least one",
    );
    let pair = engine.cert_file.is_some() == engine.key_file.is_some();
    require(pair, "engine.cert_file", "and engine.key_file go together");
    if engine.kind == EngineKind::Memory {
        return;
    }
    if engine.kind == EngineKind::Redis
        && let Err(problem) = engine.addresses()
    {
        require(false, "engine.address", &problem);
    }
    if engine.kind == EngineKind::Redis {
        let of_nats = "is for engine.kind = \"nats\": Redis takes a user and a password";
        require(engine.credentials_file.is_none(), "engine.credentials_file", of_nats);
    }
    if engine.kind == EngineKind::Nats
        && let Err(problem) = engine.nats()
    {
        require(false, "engine.address", &problem);
    }
    if let Err(problem) = engine.tls() {
        require(false, "engine.ca_file", &problem);
    }
    // Of what one node knows alone, and the engine's servers do not.
    for kind in [EventKind::Occupied, EventKind::Vacated] {
        let told = config.events.types.iter().any(|name| EventKind::from_name(name) == Some(kind));
        let problem = format!("{:?} is of channels of one node alone: not with an engine", kind.name());
        require(!told, "events.types", &problem);
    }
    for kind in [EventKind::UserOnline, EventKind::UserOffline] {
        let told = config.events.types.iter().any(|name| EventKind::from_name(name) == Some(kind));
        let problem =
            format!("{:?} is of a user's connections to one node alone: not with an engine", kind.name());
        require(!told, "events.types", &problem);
    }
    let of_node = "is of one node alone: an engine keeps no cursors of devices";
    require(config.client.inbox_namespace.is_none(), "client.inbox_namespace", of_node);
    for (path, options) in config.channel_options() {
        check_namespace(engine.kind, options, &path, require);
    }
}

fn check_namespace(kind: EngineKind, options: &NamespaceOptions, path: &str, require: &mut Require<'_>) {
    let NamespaceOptions { channel, rules } = options;
    for (key, rate) in [
        ("publish_per_second", rules.publish_per_second as usize),
        ("publish_bytes_per_second", rules.publish_bytes_per_second),
    ] {
        require(rate == 0, &format!("{path}.{key}"), "is counted by one node alone: not with an engine");
    }
    let paced = [
        ("presence_by", channel.presence_by == PresenceBy::Client),
        ("leave_delay", channel.leave_delay.is_zero()),
        ("join_leave_per_second", channel.join_leave_per_second == 0),
        ("join_leave_members_max", channel.join_leave_members_max == 0),
    ];
    for (key, default) in paced {
        let problem = "is of the members at one node alone: not with an engine";
        require(default, &format!("{path}.{key}"), problem);
    }
    let kept = "is of channels of one node alone: the engine keeps what it keeps";
    require(channel.durable == Durable::No, &format!("{path}.durable"), kept);
    let of_node = "\"value\" is of channels of one node alone: the engine's logs have no keys";
    require(!channel.is_value(), &format!("{path}.kind"), of_node);
    let of_one = "are of channels of one node alone: the engine keeps none beside its logs";
    require(!channel.cursors, &format!("{path}.cursors"), of_one);
    let of_node = "counts the subscribers at one node alone: not with an engine";
    require(channel.occupancy.is_none(), &format!("{path}.occupancy"), of_node);
    let of_node = "is set, and notices are of channels of one node alone: not with an engine";
    require(!channel.is_notice(), &format!("{path}.deliver"), of_node);
    if kind != EngineKind::Nats {
        return;
    }
    let of_nats = "is not to be had with engine.kind = \"nats\", which keeps nothing";
    require(channel.history_size == 0, &format!("{path}.history_size"), of_nats);
    require(!channel.presence, &format!("{path}.presence"), of_nats);
    require(!rules.force_recovery, &format!("{path}.force_recovery"), of_nats);
    require(!rules.force_positioning, &format!("{path}.force_positioning"), of_nats);
}

#[cfg(test)]
mod tests {
    use crate::config::check::{faults_of, only_fault as only};

    #[test]
    fn an_engine_is_refused_by_name_where_it_cannot_do_what_is_asked() {
        let none: [&str; 0] = [];
        assert_eq!(faults_of("[engine]\nkind = \"redis\"\naddress = [\"redis://a\", \"b:1\"]\n"), none);
        assert_eq!(faults_of("[engine]\nkind = \"nats\"\n"), none);
        let redis = |rest: &str| only(&format!("[engine]\nkind = \"redis\"\n{rest}"));
        assert!(redis("address = \"http://:hunter2@a\"\n").contains("engine.address"));
        assert!(!redis("address = \"http://:hunter2@a\"\n").contains("hunter2"));
        assert!(redis("prefix = \"a b\"\n").contains("engine.prefix"));
        assert!(redis("timeout = \"0s\"\n").contains("engine.timeout"));
        assert!(redis("ca_file = \"/no/such/file\"\n").contains("cannot be read"));
        assert!(redis("ca_file = \"/dev/null\"\n").contains("holds no certificate"));
        assert!(redis("credentials_file = \"/a\"\n").contains("engine.credentials_file"));
        assert!(redis("[channel]\npublish_per_second = 5\n").contains("channel.publish_per_second"));
        assert!(redis("[channel]\nkind = \"value\"\n").contains("channel.kind"));
        assert!(redis("[events]\ntypes = [\"vacated\"]\nendpoint = \"http://a/b\"\n").contains("vacated"));
        let log = "history_size = 5\nhistory_ttl = \"1m\"\n";
        for (setting, key, reason) in [
            ("kind = \"value\"", "channel.kind", "the engine's logs have no keys"),
            ("cursors = true", "channel.cursors", "the engine keeps none"),
            ("deliver = \"notice\"", "channel.deliver", "of one node alone"),
        ] {
            let log = if key == "channel.kind" { "" } else { log };
            let said = redis(&format!("[channel]\n{setting}\n{log}"));
            assert!(said.contains(key) && said.contains(reason), "{said}");
        }
        for setting in ["presence_by = \"user\"", "join_leave_members_max = 5", "join_leave_per_second = 5"] {
            let key = setting.split(' ').next().unwrap();
            assert!(redis(&format!("[channel]\n{setting}\n")).contains(&format!("channel.{key}")));
        }
        let durable = "[store]\npath = \"/tmp/a\"\n[channel]\nhistory_size = 1\nhistory_ttl = \"1m\"\ndurable = \"sync\"\n";
        assert!(redis(durable).contains("channel.durable"));
        let nats = |rest: &str| only(&format!("[engine]\nkind = \"nats\"\n{rest}"));
        assert!(nats("[channel]\npresence = true\n").contains("channel.presence"));
        assert!(nats("address = \"redis://:hunter2@a\"\n").contains("nats://"));
        assert!(nats("address = [\"nats://a:b@x\", \"nats://hunter2@y\"]\n").contains("two users"));
        let log = "[[namespace]]\nname = \"chat\"\nhistory_size = 5\nhistory_ttl = \"1m\"\n";
        assert!(nats(log).contains("namespace[0].history_size"));
    }
}
