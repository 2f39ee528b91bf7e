//! The sections and lists of a configuration file, by the names that they have there.

use crate::config::sections::Config;
use crate::config::table::{Entries, Section};

/// A section of the file: its name, what it is for, and its rows.
pub struct Part<'c> {
    /// Empty for the keys that stand before any section.
    pub path: &'static str,
    pub doc: &'static str,
    pub section: &'c dyn Section,
}

/// A list of the file, like `[[namespace]]`.
pub struct List<'c> {
    pub name: &'static str,
    /// What it is for, and what its entries take.
    pub doc: &'static str,
    /// An entry to show while there is none.
    pub example: &'static str,
    pub entries: &'c dyn Entries,
}

impl Config {
    /// Every list, in the order of the documented file.
    pub fn lists(&self) -> [List<'_>; 6] {
        [
            List {
                name: "tls.certificate",
                doc: "Further certificates. A client gets the first that is for the name it asks for, and that of [tls] for any\n\
                      other name. The name of an entry is for its reader.",
                example: "name = \"other\"\ncert = \"/etc/trunkline/other.pem\"\nkey = \"/etc/trunkline/other.key\"",
                entries: &self.tls.certificate,
            },
            List {
                name: "namespace",
                doc: "Options of channels whose name begins with a namespace's name and a colon (\"chat:lobby\").\n\
                      They are not inherited from [channel]. Each namespace takes `name` and every key of [channel].",
                example: "name = \"chat\"\nhistory_size = 100\nhistory_ttl = \"10m\"",
                entries: &self.namespace,
            },
            List {
                name: "hook",
                doc: "Where the backend is asked. Who asks names it: client.connect_hook, subscribe_hook of a namespace.",
                example: "name = \"backend\"\nendpoint = \"http://127.0.0.1:3000/trunkline/connect\"",
                entries: &self.hook,
            },
            List {
                name: "tunnel",
                doc: "Any WebSocket client that connects to /tunnel/ and a tunnel's name speaks with the tunnel's endpoint:\n\
                      each message is a POST, each answer a message.",
                example: "name = \"game\"\nendpoint = \"http://127.0.0.1:3000/game\"",
                entries: &self.tunnel,
            },
            List {
                name: "listener",
                doc: "Where connections come in, beside or instead of `listen` and `api_listen`. `name` is for people.",
                example: "address = \"[::]:8000\"\nserves = \"clients\"",
                entries: &self.listener,
            },
            List {
                name: "objective",
                doc: "How long publications may take. One that is missed is a line in the log, a metric and an event.",
                example: "name = \"deliveries\"\nstage = \"last_write\"\np99 = \"500ms\"\nwindow = \"5m\"",
                entries: &self.objective,
            },
        ]
    }

    /// The list called `name`, as [`Config::lists`] names it.
    pub(super) fn list_mut(&mut self, name: &str) -> Option<&mut dyn Entries> {
        Some(match name {
            "tls.certificate" => &mut self.tls.certificate,
            "namespace" => &mut self.namespace,
            "hook" => &mut self.hook,
            "tunnel" => &mut self.tunnel,
            "listener" => &mut self.listener,
            "objective" => &mut self.objective,
            _ => return None,
        })
    }

    /// Every section but the namespaces, in the order of the documented file.
    pub fn parts(&self) -> [Part<'_>; 18] {
        let part = |path, doc, section| Part { path, doc, section };
        [
            part("", "The node.", self),
            part("log", "What is logged, and how. Logs go to stderr.", &self.log),
            part(
                "tls",
                "TLS of the listeners that speak it: their certificate, and who may come.",
                &self.tls,
            ),
            part("api", "The server API: what the backend calls to publish.", &self.api),
            part("client", "What a client connection may do and cost.", &self.client),
            part(
                "client.paths",
                "Where clients of the Centrifuge protocol connect. An empty path is not served.",
                &self.client.paths,
            ),
            part(
                "client.token",
                "Tokens (JWT) of connections, and of subscriptions unless they have keys of their own.",
                &self.client.token,
            ),
            part(
                "client.subscription_token",
                "Tokens of subscriptions, where they are signed with other keys than those of connections.",
                &self.client.subscription_token,
            ),
            part("channel", "Options of channels whose name has no namespace.", &self.channel),
            part("events", "Events for the backend, in batches and in order.", &self.events),
            part("limits", "Bounds of the whole node.", &self.limits),
            part("observe", "What an operator may look at.", &self.observe),
            part("store", "What durable channels are kept in.", &self.store),
            part(
                "admission",
                "Who of those that come is let in: by their network, and by what the node can take.",
                &self.admission,
            ),
            part("shutdown", "How the node ends.", &self.shutdown),
            part("engine", "Where channels live.", &self.engine),
            part(
                "traces",
                "Traces of publications, connects and hook calls (W3C traceparent, OpenTelemetry).",
                &self.traces,
            ),
            part("sandbox", "What the process gives up when it has read its configuration.", &self.sandbox),
        ]
    }

    /// The section at `path`, as [`Config::parts`] names it.
    pub(super) fn section_mut(&mut self, path: &str) -> Option<&mut dyn Section> {
        Some(match path {
            "" => self,
            "log" => &mut self.log,
            "tls" => &mut self.tls,
            "api" => &mut self.api,
            "client" => &mut self.client,
            "client.paths" => &mut self.client.paths,
            "client.token" => &mut self.client.token,
            "client.subscription_token" => &mut self.client.subscription_token,
            "channel" => &mut self.channel,
            "events" => &mut self.events,
            "limits" => &mut self.limits,
            "observe" => &mut self.observe,
            "store" => &mut self.store,
            "admission" => &mut self.admission,
            "shutdown" => &mut self.shutdown,
            "engine" => &mut self.engine,
            "traces" => &mut self.traces,
            "sandbox" => &mut self.sandbox,
            _ => return None,
        })
    }
}
