//! The sections and lists of a configuration file, each said once: its name there, what it is for, which of it a running node
//! takes, and what must hold of it.

use crate::config::channel_check::{check_default_channel, check_namespaces};
use crate::config::check::{
    check_admission, check_api, check_client, check_limits, check_node, check_subscription_tokens,
    check_tokens,
};
use crate::config::engine_check::check_engine;
use crate::config::events::check_events;
use crate::config::fault::Require;
use crate::config::hooks::check_hooks;
use crate::config::observe::check_observe;
use crate::config::paths::check_paths;
use crate::config::places::check_listeners;
use crate::config::sections::Config;
use crate::config::shutdown::check_shutdown;
use crate::config::store_check::check_store;
use crate::config::table::{Entries, Section};
use crate::config::tls::{self, check_tls};
use crate::config::traces_check::check_traces;
use crate::config::tunnels::check_tunnels;

/// Says what is wrong with a section or list, also beside all others.
pub(super) type Check = fn(&Config, &mut Require<'_>);

/// Warnings at this time, in seconds since 1970: what is odd but not wrong.
pub(super) type Warn = fn(&Config, u64) -> Vec<String>;

/// A section of the file: its name, what it is for, and its rows.
pub struct Part<'c> {
    /// Empty for the keys that stand before any section.
    pub path: &'static str,
    pub doc: &'static str,
    pub section: &'c dyn Section,
    pub live: LiveKeys,
    pub(super) check: Check,
    pub(super) warn: Warn,
}

/// A list of the file, like `[[namespace]]`.
pub struct List<'c> {
    pub name: &'static str,
    /// What it is for, and what its entries take.
    pub doc: &'static str,
    /// An entry to show while there is none.
    pub example: &'static str,
    pub entries: &'c dyn Entries,
    pub live: LiveKeys,
    pub(super) check: Check,
}

/// What a running node takes of a section or list. What it does not take has shaped threads, rings or listeners, or is what
/// connected clients rely on: it takes an upgrade or a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveKeys {
    Nothing,
    Keys(&'static [&'static str]),
    All,
}

impl LiveKeys {
    pub fn takes(self, key: &str) -> bool {
        match self {
            LiveKeys::Nothing => false,
            LiveKeys::Keys(keys) => keys.contains(&key),
            LiveKeys::All => true,
        }
    }
}

/// What [`LiveKeys`], [`Check`] and [`Warn`] are where they are not said.
macro_rules! or_else {
    ($default:expr,) => {
        $default
    };
    ($default:expr, $said:expr) => {
        $said
    };
}

/// The methods of [`Config`] that list its sections, and those that find one by its name.
macro_rules! parts {
    (
        sections { $($path:literal, $doc:literal, $($at:ident).+ $(, live $live:expr)? $(, check $check:expr)?
            $(, warn $warn:expr)?;)+ }
        lists {
            $($name:literal, $entry:literal, example $example:literal, $($list:ident).+ $(, live $taken:expr)?
                $(, check $checked:expr)?;)+
        }
    ) => {
        impl Config {
            /// Every section but the namespaces, in the order of the documented file.
            pub fn parts(&self) -> Vec<Part<'_>> {
                vec![
                    Part {
                        path: "",
                        doc: "The node.",
                        section: self,
                        live: LiveKeys::Nothing,
                        check: check_node,
                        warn: |_, _| Vec::new(),
                    },
                    $(Part {
                        path: $path,
                        doc: $doc,
                        section: &self.$($at).+,
                        live: or_else!(LiveKeys::Nothing, $($live)?),
                        check: or_else!(|_, _| {}, $($check)?),
                        warn: or_else!(|_, _| Vec::new(), $($warn)?),
                    },)+
                ]
            }

            /// The section at `path`, as [`Config::parts`] names it.
            pub(super) fn section_mut(&mut self, path: &str) -> Option<&mut dyn Section> {
                Some(match path {
                    "" => self,
                    $($path => &mut self.$($at).+,)+
                    _ => return None,
                })
            }

            /// Every list, in the order of the documented file.
            pub fn lists(&self) -> Vec<List<'_>> {
                vec![$(List {
                    name: $name,
                    doc: $entry,
                    example: $example,
                    entries: &self.$($list).+,
                    live: or_else!(LiveKeys::Nothing, $($taken)?),
                    check: or_else!(|_, _| {}, $($checked)?),
                },)+]
            }

            /// The list called `name`, as [`Config::lists`] names it.
            pub(super) fn list_mut(&mut self, name: &str) -> Option<&mut dyn Entries> {
                Some(match name {
                    $($name => &mut self.$($list).+,)+
                    _ => return None,
                })
            }
        }
    };
}

parts! {
    sections {
        "log", "What is logged, and how. Logs go to stderr.", log, live LiveKeys::Keys(&["level"]);
        "tls", "TLS of the listeners that speak it: their certificate, and who may come.", tls,
            live LiveKeys::All, check |config, require| check_tls(&config.tls, config.listen_tls.is_some(), require),
            warn |config, unix_s| tls::warnings(&config.tls, config.speaks_tls(), unix_s);
        "api", "The server API: what the backend calls to publish.", api,
            live LiveKeys::Keys(&["key", "key_file", "keys", "previous_keys", "previous_until"]), check check_api;
        "client", "What a client connection may do and cost.", client,
            live LiveKeys::Keys(&[
                "allow_anonymous",
                "connect_timeout",
                "message_bytes_max",
                "channels_max",
                "history_max_publication_limit",
                "recovery_max_publication_limit",
                "connect_statuses",
                "channel_name_bytes_max",
                "user_connections_max",
                "user_connections_policy",
                "commands_per_second",
                "commands_burst",
                "bytes_per_second",
                "user_commands_per_second",
                "user_bytes_per_second",
                "allowed_origins",
                "require_user",
                "rpc_hooks",
                "private_channel_prefix",
                "personal_channel",
                "personal_channel_namespace",
                "emulated_headers",
                "connect_hook",
                "refresh_hook",
                "rpc_hook",
            ]),
            check check_client;
        "client.paths", "Where clients of the Centrifuge protocol connect. An empty path is not served.", client.paths,
            check |config, require| check_paths(&config.client.paths, &config.client.connect_statuses, require);
        "client.token", "Tokens (JWT) of connections, and of subscriptions unless they have keys of their own.",
            client.token, live LiveKeys::All, check check_tokens;
        "client.subscription_token",
            "Tokens of subscriptions, where they are signed with other keys than those of connections.",
            client.subscription_token, live LiveKeys::All, check check_subscription_tokens;
        "channel", "Options of channels whose name has no namespace.", channel,
            live LiveKeys::All, check check_default_channel;
        "events", "Events for the backend, in batches and in order.", events,
            live LiveKeys::Keys(&[
                "types",
                "endpoint",
                "ca_file",
                "secret",
                "timeout",
                "batch_max",
                "vacated_delay",
                "user_offline_delay",
                "static_headers",
            ]),
            check check_events;
        "limits", "Bounds of the whole node.", limits,
            live LiveKeys::Keys(&[
                "history_bytes_max",
                "streams_bytes_max",
                "channels_max",
                "cursors_max",
                "client_channels_percent",
                "http_body_timeout",
            ]),
            check check_limits;
        "observe", "What an operator may look at.", observe,
            live LiveKeys::All, check |config, require| check_observe(&config.observe, &config.objective, require);
        "store", "What durable channels are kept in.", store, check check_store;
        "admission", "Who of those that come is let in: by their network, and by what the node can take.", admission,
            live LiveKeys::All, check check_admission;
        "shutdown", "How the node ends.", shutdown,
            live LiveKeys::All, check |config, require| check_shutdown(&config.shutdown, require);
        "engine", "Where channels live.", engine, check check_engine;
        "traces", "Traces of publications, connects and hook calls (W3C traceparent, OpenTelemetry).", traces,
            check check_traces;
        "sandbox", "What the process gives up when it has read its configuration.", sandbox;
    }
    lists {
        "tls.certificate",
            "Further certificates. A client gets the first that is for the name it asks for, and that of [tls] for any\n\
             other name. The name of an entry is for its reader.",
            example "name = \"other\"\ncert = \"/etc/trunkline/other.pem\"\nkey = \"/etc/trunkline/other.key\"",
            tls.certificate, live LiveKeys::All;
        "namespace",
            "Options of channels whose name begins with a namespace's name and a colon (\"chat:lobby\").\n\
             They are not inherited from [channel]. Each namespace takes `name` and every key of [channel].",
            example "name = \"chat\"\nhistory_size = 100\nhistory_ttl = \"10m\"",
            namespace, live LiveKeys::All, check check_namespaces;
        "hook", "Where the backend is asked. Who asks names it: client.connect_hook, subscribe_hook of a namespace.",
            example "name = \"backend\"\nendpoint = \"http://127.0.0.1:3000/trunkline/connect\"",
            hook, live LiveKeys::All, check check_hooks;
        "tunnel",
            "Any WebSocket client that connects to /tunnel/ and a tunnel's name speaks with the tunnel's endpoint:\n\
             each message is a POST, each answer a message.",
            example "name = \"game\"\nendpoint = \"http://127.0.0.1:3000/game\"",
            tunnel, live LiveKeys::All, check check_tunnels;
        "listener", "Where connections come in, beside or instead of `listen` and `api_listen`. `name` is for people.",
            example "address = \"[::]:8000\"\nserves = \"clients\"", listener, check check_listeners;
        "objective",
            "How long publications may take. One that is missed is a line in the log, a metric and an event.",
            example "name = \"deliveries\"\nstage = \"last_write\"\np99 = \"500ms\"\nwindow = \"5m\"", objective;
    }
}
