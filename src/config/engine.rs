//! The settings of the engine: where channels live.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::table::settings;
use crate::config::value::{Given, Secret, Setting, word_settings};
use crate::engine::{Address, EngineTls, NatsLogin, NatsPlace};

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
        /// "redis+cluster://host:7000?addr=host2:7001"; "nats://host:4222", with TLS "tls://". A user and a password
        /// may stand before the host, for NATS a token as well. Unset: the usual port of this machine.
        pub address: EngineAddresses = EngineAddresses(Vec::new()), example "\"redis://127.0.0.1:6379\"";
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
pub struct EngineAddresses(pub Vec<Secret>);

impl Setting for EngineAddresses {
    const KIND: &'static str = "a URL, or a list of URLs";
    const SECRET: bool = true;
    const LIST: bool = true;

    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Text(text) if text.is_empty() => Ok(EngineAddresses::default()),
            Given::Text(_) => Ok(EngineAddresses(vec![Secret::read(given)?])),
            given => Vec::<Secret>::read(given).map(EngineAddresses),
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

    /// Where NATS is, and what it is shown. Servers of one NATS know the same users.
    ///
    /// # Errors
    /// What is wrong with a URL, without its secrets.
    pub fn nats(&self) -> Result<NatsPlace, String> {
        let given = self.address.0.iter().map(Secret::reveal);
        let texts: Vec<&str> = if self.address.0.is_empty() { vec![NATS_URL] } else { given.collect() };
        let (mut urls, mut login) = (Vec::new(), NatsLogin::default());
        for text in texts {
            let (of_url, url) = NatsLogin::take_from(text)?;
            if of_url != NatsLogin::default() {
                if login != NatsLogin::default() && login != of_url {
                    return Err("names two users: all servers are shown the same one".to_owned());
                }
                login = of_url;
            }
            urls.push(url);
        }
        if login.password.is_none() {
            login.password = self.password.as_ref().map(|password| password.reveal().to_owned());
            login.user = login.user.or_else(|| self.user.clone());
        }
        let path = |file: &Option<String>| file.as_ref().map(PathBuf::from);
        Ok(NatsPlace {
            urls,
            user: login.user,
            password: login.password,
            credentials_file: path(&self.credentials_file),
            ca_file: path(&self.ca_file),
            client_files: path(&self.cert_file).zip(path(&self.key_file)),
        })
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
        let ca = self.ca_file.as_ref().map(read).transpose()?;
        // With none of them no server would be trusted, for another reason than it looks.
        let begin = b"-----BEGIN CERTIFICATE-----";
        if let (Some(path), Some(pem)) = (&self.ca_file, &ca)
            && !pem.windows(begin.len()).any(|part| part == begin)
        {
            return Err(format!("{path} holds no certificate in PEM"));
        }
        Ok(EngineTls { ca, client })
    }
}
