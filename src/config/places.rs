//! Where connections come in: ports and unix sockets, each with who is served there.
//!
//! `listen` and `api_listen` are short forms; `[[listener]]` says more. [`Config::listeners`] has all of them.

use crate::base::address::{ListenAddress, Serves};
use crate::base::limits::LISTENERS_MAX;
use crate::base::trusted::TrustedNetworks;
use crate::config::fault::Require;
use crate::config::listeners::Listeners;
use crate::config::sections::{AdmissionSettings, Config, ListenerSettings};

/// What one listener is, however it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The key that names its address: `listen`, `api_listen`, `listener[0].address`.
    pub key: String,
    pub address: ListenAddress,
    /// `None`: as the kernel has it.
    pub ipv6_only: Option<bool>,
    /// Permission bits of a unix socket.
    pub mode: u32,
    pub serves: Serves,
    pub proxy_protocol: bool,
    pub tls: bool,
}

impl Listener {
    /// Whether it has bounds of its own, apart from clients'. What a proxy or a layer is in front of comes by the clients' way.
    pub fn is_api_port(&self) -> bool {
        self.serves == Serves::Api && self.is_plain()
    }

    /// HTTP is spoken there as it is: programs that know no more than the address can ask.
    pub fn is_plain(&self) -> bool {
        !self.proxy_protocol && !self.tls
    }

    /// What stands behind the scheme of its URL.
    pub fn scheme_suffix(&self) -> &'static str {
        if self.tls { "s" } else { "" }
    }

    /// What stands behind its address where people read it.
    pub fn note(&self) -> &'static str {
        if self.tls { " (TLS)" } else { "" }
    }
}

impl AdmissionSettings {
    /// It matters where clients come from.
    pub fn limits_networks(&self) -> bool {
        self.network_connections_max > 0
            || self.network_unauthenticated_max > 0
            || self.network_connects_per_second > 0
    }

    /// The node as a whole has a limit.
    pub fn limits_node(&self) -> bool {
        self.connects_per_second > 0
            || self.unauthenticated_max > 0
            || !matches!(self.busy_percent_max, 0 | 100)
    }
}

impl Config {
    /// Every listener: those of `listen`, `listen_tls`, `[[listener]]` and `api_listen`.
    pub fn listeners(&self) -> Vec<Listener> {
        let short = |key: &str, address: &ListenAddress, serves| Listener {
            key: key.to_string(),
            address: address.clone(),
            ipv6_only: None,
            mode: self.unix_socket_mode.0,
            serves,
            proxy_protocol: false,
            tls: false,
        };
        let own_api = self.api_listen.is_some()
            || self.listener.iter().any(|entry| entry.options.serves == Serves::Api);
        let serves = if own_api { Serves::Clients } else { Serves::Both };
        let listen = self.listen.addresses().map(|address| short("listen", address, serves));
        let listen_tls = self.listen_tls.iter().flat_map(|all| all.addresses());
        let listen_tls =
            listen_tls.map(|address| Listener { tls: true, ..short("listen_tls", address, serves) });
        let tables = self.listener.iter().enumerate().filter_map(|(at, entry)| {
            let ListenerSettings { address, mode, ipv6_only, serves, tls, proxy_protocol } = &entry.options;
            Some(Listener {
                key: format!("listener[{at}].address"),
                address: address.clone()?,
                ipv6_only: Some(*ipv6_only),
                mode: mode.unwrap_or(self.unix_socket_mode).0,
                serves: *serves,
                proxy_protocol: *proxy_protocol,
                tls: *tls,
            })
        });
        let api = self.api_listen.map(|address| short("api_listen", &address.into(), Serves::Api));
        listen.chain(listen_tls).chain(tables).chain(api).collect()
    }

    pub fn speaks_tls(&self) -> bool {
        self.listeners().iter().any(|listener| listener.tls)
    }

    /// Those that shards accept from: the place in this list is a listener's [`crate::base::ids::ListenerId`].
    pub fn shard_listeners(&self) -> Vec<Listener> {
        self.listeners().into_iter().filter(|listener| !listener.is_api_port()).collect()
    }

    /// Those of the API alone.
    pub fn api_listeners(&self) -> Vec<Listener> {
        self.listeners().into_iter().filter(Listener::is_api_port).collect()
    }

    pub fn trusted(&self) -> TrustedNetworks {
        TrustedNetworks::new(&self.trusted_networks, self.client_address_field)
    }

    /// Somebody gets to know where clients come from, or is judged by it.
    pub fn needs_addresses(&self) -> bool {
        !self.hook.is_empty()
            || !self.tunnel.is_empty()
            || !self.events.types.is_empty()
            || !self.trusted_networks.is_empty()
            || self.admission.limits_networks()
    }

    /// What tells this node from others of its host: the first port of clients, or the name of a unix socket.
    pub fn tag(&self) -> String {
        let listeners = self.listeners();
        let addresses = || listeners.iter().map(|listener| &listener.address);
        let port = addresses().find_map(ListenAddress::tcp).map(|address| address.port().to_string());
        port.unwrap_or_else(|| {
            let stem = addresses().find_map(|address| match address {
                ListenAddress::Unix(path) => path.file_stem(),
                ListenAddress::Tcp(_) => None,
            });
            stem.map_or(String::new(), |stem| stem.to_string_lossy().into_owned())
        })
    }

    /// `listen` has a default only while nothing else serves clients.
    pub(super) fn settle_listen(&mut self, is_given: bool) {
        let serves_clients = |serves: Serves| serves != Serves::Api;
        if !is_given && self.listener.iter().any(|entry| serves_clients(entry.options.serves)) {
            self.listen = Listeners::none();
        }
    }
}

/// Checks every listener, and all of them together.
pub(super) fn check_listeners(config: &Config, require: &mut Require<'_>) {
    for (at, entry) in config.listener.iter().enumerate() {
        let mut require =
            |holds, key: &str, problem: &str| require(holds, &format!("listener[{at}].{key}"), problem);
        let ListenerSettings { address, mode, ipv6_only, serves: _, tls, proxy_protocol } = &entry.options;
        let Some(address) = address else {
            require(false, "address", "must be set: an address and port, or a unix socket");
            continue;
        };
        require(
            !ipv6_only || address.tcp().is_some_and(|address| address.is_ipv6()),
            "ipv6_only",
            &format!("is for an address of IPv6: {address} is none"),
        );
        require(
            mode.is_none() || address.tcp().is_none(),
            "mode",
            &format!("is for unix sockets: {address} is none"),
        );
        require(
            !tls || config.tls.has_certificates(),
            "tls",
            "needs a certificate and its key: set tls.cert and tls.key, or a [[tls.certificate]]",
        );
        let trusted = config.trusted();
        let somebody = match address {
            ListenAddress::Tcp(_) => !trusted.has_no_network(),
            ListenAddress::Unix(_) => trusted.trusts_unix(),
        };
        require(
            !proxy_protocol || somebody,
            "proxy_protocol",
            "needs trusted_networks to name the proxies: nobody else may connect there",
        );
    }
    let listeners = config.listeners();
    require(
        listeners.len() <= LISTENERS_MAX,
        "listener",
        &format!("at most {LISTENERS_MAX}, with listen and api_listen"),
    );
    for (at, listener) in listeners.iter().enumerate() {
        let is_free = listener.address.tcp().is_some_and(|address| address.port() == 0);
        let same = listeners[..at].iter().find(|earlier| earlier.address == listener.address && !is_free);
        let Some(same) = same else { continue };
        let problem = match (same.key.as_str(), listener.key.as_str()) {
            ("listen", "listen") => format!("names {} twice", listener.address),
            ("listen", "api_listen") => {
                "is the same as listen: leave it unset to serve the API there".to_string()
            }
            (same, _) => format!("{} is the same as {same}", listener.address),
        };
        require(false, &listener.key, &problem);
    }
    let serves = |unserved: Serves| listeners.iter().any(|listener| listener.serves != unserved);
    require(
        serves(Serves::Api),
        "listen",
        "nothing serves clients: set listen, or serves = \"clients\" or \"both\" of a [[listener]]",
    );
    require(
        serves(Serves::Clients),
        "listener",
        "nothing serves the API: set api_listen, or serves = \"both\" or \"api\" of a [[listener]]",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Sources;
    use crate::config::value::{Given, Setting as _};

    fn load(text: &str) -> Result<Config, Vec<String>> {
        let sources = Sources { file: Some(("t.toml".to_string(), text.to_string())), ..Sources::default() };
        let said = |faults: Vec<crate::config::Fault>| faults.iter().map(ToString::to_string).collect();
        crate::config::load::load(&sources).map(|loaded| loaded.config).map_err(said)
    }

    #[test]
    fn short_forms_and_tables_combine() {
        let config = load(
            "listen = [\"127.0.0.1:1\", \"unix:/run/a.sock\"]\napi_listen = \"127.0.0.1:2\"\n\
             unix_socket_mode = \"600\"\ntrusted_networks = [\"127.0.0.1\", \"unix:\"]\n\
             [[listener]]\naddress = \"[::1]:3\"\nipv6_only = true\nproxy_protocol = true\n\
             [[listener]]\naddress = \"unix:/run/b.sock\"\nmode = \"666\"\nserves = \"both\"\n\
             [[listener]]\naddress = \"127.0.0.1:4\"\nserves = \"api\"\n",
        )
        .unwrap();
        let all = config.listeners();
        let of = |listener: &Listener| (listener.address.to_string(), listener.serves, listener.mode);
        let expected = [
            ("127.0.0.1:1", Serves::Clients, 0o600),
            ("unix:/run/a.sock", Serves::Clients, 0o600),
            ("[::1]:3", Serves::Clients, 0o600),
            ("unix:/run/b.sock", Serves::Both, 0o666),
            ("127.0.0.1:4", Serves::Api, 0o600),
            ("127.0.0.1:2", Serves::Api, 0o600),
        ];
        let expected = expected.map(|(address, serves, mode)| (address.to_string(), serves, mode));
        assert_eq!(all.iter().map(of).collect::<Vec<_>>(), expected);
        assert_eq!((all[0].ipv6_only, all[2].ipv6_only, all[4].ipv6_only), (None, Some(true), Some(false)));
        assert!(all[2].proxy_protocol && !all[0].proxy_protocol);
        assert_eq!((config.shard_listeners().len(), config.api_listeners().len()), (4, 2));
        assert_eq!(load("").unwrap().listeners()[0].serves, Serves::Both, "no other serves the API");
    }

    #[test]
    fn the_default_of_listen_gives_way_to_a_table_that_serves_clients() {
        let addresses = |text: &str| {
            let listeners = load(text).unwrap().listeners();
            listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>()
        };
        let both = "[[listener]]\naddress = \"127.0.0.1:3\"\nserves = \"both\"\n";
        assert_eq!(addresses(both), ["127.0.0.1:3"]);
        assert_eq!(addresses(&format!("listen = \"127.0.0.1:4\"\n{both}")), ["127.0.0.1:4", "127.0.0.1:3"]);
        assert_eq!(addresses(&both.replace("both", "api")), ["127.0.0.1:8000", "127.0.0.1:3"]);
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        let refused = |text: &str| load(text).unwrap_err();
        let entry = |lines: &str| format!("[[listener]]\nserves = \"both\"\n{lines}\n");
        for (text, fault) in [
            (entry(""), "listener[0].address: must be set"),
            (entry("address = \"8000\""), "listener[0].address: \"8000\" is not an address and port"),
            (entry("address = \"unix:/a/\""), "listener[0].address: \"unix:/a/\" is not the path"),
            (entry("address = \"[::1]:1\"\nserves = \"all\""), "not TOML"),
            ("[[listener]]\nserves = \"all\"".into(), "listener[0].serves: \"all\" is not"),
            (
                entry("address = \"127.0.0.1:1\"\nipv6_only = true"),
                "listener[0].ipv6_only: is for an address of IPv6",
            ),
            (entry("address = \"127.0.0.1:1\"\nmode = \"666\""), "listener[0].mode: is for unix sockets"),
            (
                entry("address = \"127.0.0.1:1\"\nproxy_protocol = true"),
                "listener[0].proxy_protocol: needs trusted_networks",
            ),
            (
                format!(
                    "trusted_networks = [\"10.0.0.0/8\"]\n{}",
                    entry("address = \"unix:/a\"\nproxy_protocol = true")
                ),
                "listener[0].proxy_protocol: needs trusted_networks",
            ),
            (
                "trusted_networks = [\"10.0.0.0/64\"]".into(),
                "t.toml:1: trusted_networks: \"10.0.0.0/64\" is not a network",
            ),
            (
                format!("listen = \"127.0.0.1:1\"\n{}", entry("address = \"localhost:1\"")),
                "t.toml:4: listener[0].address: 127.0.0.1:1 is the same as listen",
            ),
            (
                format!("api_listen = \"127.0.0.1:1\"\n{}", entry("address = \"localhost:1\"")),
                "t.toml:1: api_listen: 127.0.0.1:1 is the same as listener[0].address",
            ),
            (
                format!("{}{}", entry("address = \"unix:/a\""), entry("address = \"unix:/a\"")),
                "t.toml:6: listener[1].address: unix:/a is the same as listener[0].address",
            ),
            ("listen = []".into(), "t.toml:1: listen: nothing serves clients"),
            ("[[listener]]\naddress = \"127.0.0.1:1\"".into(), "listener: nothing serves the API"),
            (
                entry("address = \"0.0.0.0:1\""),
                "t.toml:3: listener[0].address: 0.0.0.0:1 is not a loopback address",
            ),
        ] {
            let faults = refused(&text);
            assert!(faults.iter().any(|said| said.contains(fault)), "{text}: {faults:?}");
        }
        let many: String = (1..18).map(|port| entry(&format!("address = \"127.0.0.1:{port}\""))).collect();
        assert!(refused(&many)[0].contains("listener: at most 16"), "{:?}", refused(&many));
        // Port 0 is another port each time.
        let free = "listen = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
                    [[listener]]\naddress = \"127.0.0.1:0\"\nserves=\"api\"";
        assert_eq!(load(free).unwrap().listeners().len(), 3);
    }

    #[test]
    fn a_node_is_named_by_its_first_port_or_its_socket() {
        let tag = |all: &str| {
            let listen = Listeners::read(&Given::Loose(all.into())).unwrap();
            Config { listen, ..Config::default() }.tag()
        };
        assert_eq!(tag("unix:/run/a.sock,[::]:1,127.0.0.1:2"), "1");
        assert_eq!(tag("unix:/run/a.sock"), "a");
    }
}
