//! What must hold of users' inboxes.

use std::collections::BTreeSet;

use crate::base::inboxes::{DEVICE_BYTES_MAX, device_class};
use crate::config::fault::Require;
use crate::config::sections::Config;
use crate::session::permissions::{Deed, Grantee, Permission};

pub(super) fn check_inboxes(config: &Config, require: &mut Require<'_>) {
    check_namespace(config, require);
    check_device_classes(&config.client.device_connections_max, require);
}

/// An inbox is read by its user alone, and knows what each device has: `cursors` needs a history as well.
fn check_namespace(config: &Config, require: &mut Require<'_>) {
    const KEY: &str = "client.inbox_namespace";
    let Some(name) = &config.client.inbox_namespace else { return };
    let known = config.namespace.iter().find(|known| known.name == *name);
    require(known.is_some(), KEY, &format!("there is no namespace {name:?}"));
    let Some(options) = known.map(|known| &known.options) else { return };
    let of_clients = |deed| {
        (Permission::key_of(deed, Grantee::Client), options.rules.permissions.allows(deed, Grantee::Client))
    };
    let open = [
        of_clients(Deed::Subscribe),
        of_clients(Deed::ReadHistory),
        ("allow_user_limited_channels", options.rules.allow_user_limited_channels),
    ];
    for (key, is_set) in open {
        let problem =
            format!("its namespace has {key}: others could read an inbox, and its user needs no such right");
        require(!is_set, KEY, &problem);
    }
    let needs = [
        (options.channel.cursors, "cursors = true"),
        (options.rules.allow_recovery || options.rules.force_recovery, "allow_recovery"),
    ];
    for (has, what) in needs {
        require(has, KEY, &format!("its namespace needs {what}"));
    }
}

/// Most classes of devices that may be limited.
const CLASSES_MAX: usize = 32;

/// `phone=1`
pub fn class_limit(text: &str) -> Option<(&str, u32)> {
    let (class, connections_max) = text.split_once('=')?;
    let (class, connections_max) = (class.trim(), connections_max.trim().parse().ok()?);
    let is_class = !class.is_empty() && class.len() <= DEVICE_BYTES_MAX && device_class(class) == class;
    (is_class && connections_max > 0).then_some((class, connections_max))
}

fn check_device_classes(limits: &[String], require: &mut Require<'_>) {
    const KEY: &str = "client.device_connections_max";
    require(limits.len() <= CLASSES_MAX, KEY, "names more than 32 classes");
    let mut named = BTreeSet::new();
    for text in limits {
        let limit = class_limit(text);
        let problem = format!(
            "{text:?} must be a class of devices without a colon and a number above 0, like \"phone=1\""
        );
        require(limit.is_some(), KEY, &problem);
        let is_new = limit.is_none_or(|(class, _)| named.insert(class));
        require(is_new, KEY, &format!("{text:?} names a class that was named before"));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::check::{faults_of, only_fault};

    fn inbox(namespace: &str) -> String {
        format!(
            "[client]\ninbox_namespace = \"inbox\"\n[[namespace]]\nname = \"inbox\"\n{namespace}\n\
             history_size = 10\nhistory_ttl = \"1h\"\n"
        )
    }

    #[test]
    fn an_inbox_is_its_users_alone_and_keeps_what_devices_lack() {
        let none: [&str; 0] = [];
        assert_eq!(faults_of(&inbox("cursors = true")), none);
        for (lacking, named) in [
            ("", "cursors = true"),
            ("cursors = true\nallow_recovery = false", "allow_recovery"),
            ("cursors = true\nallow_subscribe_for_client = true", "allow_subscribe_for_client"),
            ("cursors = true\nallow_history_for_client = true", "allow_history_for_client"),
            ("cursors = true\nallow_user_limited_channels = true", "allow_user_limited_channels"),
        ] {
            let said = only_fault(&inbox(lacking));
            assert!(said.contains("client.inbox_namespace") && said.contains(named), "{said}");
        }
        let missing = only_fault("[client]\ninbox_namespace = \"post\"\n");
        assert!(missing.contains("there is no namespace \"post\""), "{missing}");
        let engine =
            faults_of(&format!("[engine]\nkind = \"redis\"\naddress = \"a:1\"\n{}", inbox("cursors = true")));
        assert!(engine.iter().any(|said| said.contains("client.inbox_namespace")), "{engine:?}");
    }

    #[test]
    fn a_class_of_devices_has_one_limit() {
        let none: [&str; 0] = [];
        let faults = |list: &str| faults_of(&format!("[client]\ndevice_connections_max = [{list}]\n"));
        assert_eq!(faults("\"phone=1\", \"desktop = 2\""), none);
        for wrong in ["phone", "phone=0", "=1", "phone:a=1", "phone=x", "phone=-1"] {
            let said = faults(&format!("{wrong:?}"));
            assert!(
                said.len() == 1 && said[0].contains("client.device_connections_max"),
                "{wrong}: {said:?}"
            );
        }
        assert!(faults("\"phone=1\", \"phone=2\"")[0].contains("named before"));
        let many: Vec<String> = (0..33).map(|class| format!("\"c{class}=1\"")).collect();
        assert!(faults(&many.join(","))[0].contains("more than 32"));
    }
}
