//! The settings of the engine: where channels live, and what must hold of the rest then.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::event::EventKind;
use crate::config::sections::Config;
use crate::config::table::settings;
use crate::config::value::{Given, Secret, Setting, word_settings};
use crate::engine::{Address, EngineTls, NatsPlace};
use crate::session::rules::NamespaceOptions;

const REDIS_URL: &str = "redis://127.0.0.1:6379";
const NATS_URL: &str = "nats://127.0.0.1:4222";

settings! {
    /// Where channels live: in this node's memory, or where other nodes find them too. docs/scaling.md says what each promises.
    pub struct EngineSettings {
        /// "memory": this node alone. "redis": nodes share channels, their logs and who is present, also with nodes of Centrifugo.
        /// "nats": nodes share what is published, at most once: no log, no recovery, no presence.
        pub kind: EngineKind = EngineKind::Memory, flag "engine" "KIND";
        /// Where it is: a URL, or a list of URLs of servers that each have a part of the channels. "redis://host:6379/0", with TLS
        /// "rediss://"; "redis+sentinel://host:26379?sentinel_master_name=NAME&addr=host2:26379";
        /// "redis+cluster://host:7000?addr=host2:7001"; "nats://host:4222", with TLS "tls://". Unset: the usual port of this machine.
        pub address: Addresses = Addresses(Vec::new()), example "\"redis://127.0.0.1:6379\"";
        /// What the names of all keys and channels there begin with. Nodes that share channels have the same; others another.
        pub prefix: String = "centrifugo".to_owned();
        /// The user there, where the URL names none.
        pub user: Option<String> = None, example "\"trunkline\"";
        /// The password there, where the URL has none.
        pub password: Option<Secret> = None, example "\"a long random text\"";
        /// A file that holds the password, instead of `password`.
        pub password_file: Option<String> = None, example "\"/run/secrets/engine\"";
        /// A file of NATS credentials (a JWT and its seed).
        pub credentials_file: Option<String> = None, example "\"/run/secrets/nats.creds\"";
        /// Certificates (PEM) of authorities that the server's is checked with. Unset: those of this machine.
        pub ca_file: Option<String> = None, example "\"/etc/trunkline/engine-ca.pem\"";
        /// This node's certificate (PEM), for a server that asks for one.
        pub cert_file: Option<String> = None, example "\"/etc/trunkline/engine.pem\"";
        /// The key of it (PEM).
        pub key_file: Option<String> = None, example "\"/etc/trunkline/engine-key.pem\"";
        /// How long a connection may take to be made.
        pub connect_timeout: Duration = Duration::from_secs(1);
        /// How long the server may take to answer before it counts as away.
        pub timeout: Duration = Duration::from_secs(2);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    #[default]
    Memory,
    Redis,
    Nats,
}

word_settings!(EngineKind, "\"memory\", \"redis\" or \"nats\"",
    "memory" => EngineKind::Memory, "redis" => EngineKind::Redis, "nats" => EngineKind::Nats);

/// URLs, which may have passwords in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<Secret>);

impl Setting for Addresses {
    const KIND: &'static str = "a URL, or a list of URLs";
    const SECRET: bool = true;
    const LIST: bool = true;

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) if text.is_empty() => Ok(Addresses::default()),
            Given::Text(_) => Ok(Addresses(vec![Secret::read(given)?])),
            given => Vec::<Secret>::read(given).map(Addresses),
        }
    }

    fn write(&self) -> Option<String> {
        if self.0.is_empty() { None } else { self.0.write() }
    }
}

impl EngineSettings {
    /// Where the servers are, each with the user and password that hold there.
    ///
    /// # Errors
    /// What is wrong with a URL, without its password.
    pub fn addresses(&self) -> Result<Vec<Address>, String> {
        let given = self.address.0.iter().map(Secret::reveal);
        let texts: Vec<&str> = if self.address.0.is_empty() { vec![REDIS_URL] } else { given.collect() };
        let mut addresses = Vec::new();
        for text in texts {
            let mut address = Address::parse(text)?;
            if address.password.is_none() {
                address.password = self.password.as_ref().map(|password| password.reveal().to_owned());
                address.user = address.user.or_else(|| self.user.clone());
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Where NATS is, and what it is shown.
    pub fn nats(&self) -> NatsPlace {
        let given = self.address.0.iter().map(|url| url.reveal().to_owned());
        let path = |file: &Option<String>| file.as_ref().map(PathBuf::from);
        NatsPlace {
            urls: if self.address.0.is_empty() { vec![NATS_URL.to_owned()] } else { given.collect() },
            user: self.user.clone(),
            password: self.password.as_ref().map(|password| password.reveal().to_owned()),
            credentials_file: path(&self.credentials_file),
            ca_file: path(&self.ca_file),
            client_files: path(&self.cert_file).zip(path(&self.key_file)),
        }
    }

    /// The files of certificates, as they are now.
    ///
    /// # Errors
    /// Which cannot be read.
    pub fn tls(&self) -> Result<EngineTls, String> {
        let read = |path: &String| fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"));
        let client = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(EngineTls { ca: self.ca_file.as_ref().map(read).transpose()?, client })
    }
}

pub(super) fn check_engine(config: &Config, require: &mut impl FnMut(bool, &str, &str)) {
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
    if engine.kind == EngineKind::Nats {
        for url in &engine.address.0 {
            let right = ["nats://", "tls://"].iter().any(|scheme| url.reveal().starts_with(scheme));
            require(right, "engine.address", "must begin with nats:// or tls://");
        }
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
    check_namespace(engine.kind, &config.channel, "channel", require);
    for (at, namespace) in config.namespace.iter().enumerate() {
        check_namespace(engine.kind, &namespace.options, &format!("namespace[{at}]"), require);
    }
}

fn check_namespace(
    kind: EngineKind,
    options: &NamespaceOptions,
    path: &str,
    require: &mut impl FnMut(bool, &str, &str),
) {
    let NamespaceOptions { channel, rules } = options;
    for (key, rate) in [
        ("publish_per_second", rules.publish_per_second as usize),
        ("publish_bytes_per_second", rules.publish_bytes_per_second),
    ] {
        require(rate == 0, &format!("{path}.{key}"), "is counted by one node alone: not with an engine");
    }
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
    use crate::config::check::faults_of;

    fn only(text: &str) -> String {
        let faults = faults_of(text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].clone()
    }

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
        assert!(redis("[channel]\npublish_per_second = 5\n").contains("channel.publish_per_second"));
        assert!(redis("[events]\ntypes = [\"vacated\"]\nendpoint = \"http://a/b\"\n").contains("vacated"));
        let nats = |rest: &str| only(&format!("[engine]\nkind = \"nats\"\n{rest}"));
        assert!(nats("[channel]\npresence = true\n").contains("channel.presence"));
        let log = "[[namespace]]\nname = \"chat\"\nhistory_size = 5\nhistory_ttl = \"1m\"\n";
        assert!(nats(log).contains("namespace[0].history_size"));
    }
}
