//! Where clients of the Centrifuge protocol connect, and how those are refused that are answered over HTTP.

use std::collections::BTreeSet;

use crate::config::fault::Require;
use crate::config::table::settings;
use crate::session::paths::{ClientPath, ClientPaths};

settings! {
    /// The paths of clients of the Centrifuge protocol. An empty one is not served.
    pub struct Paths {
        /// WebSocket, in both directions.
        pub websocket: String = "/connection/websocket".to_string();
        /// A streamed response; what its client says comes by `emulation`.
        pub http_stream: String = "/connection/http_stream".to_string();
        /// An event stream; what its client says comes by `emulation`.
        pub sse: String = "/connection/sse".to_string();
        /// What clients of `http_stream` and `sse` say. SDKs expect `/emulation` unless `emulationEndpoint` says otherwise.
        pub emulation: String = "/emulation".to_string();
        /// WebSocket to clients that only listen.
        pub uni_websocket: String = "/connection/uni_websocket".to_string();
        /// A streamed response to clients that only listen.
        pub uni_http_stream: String = "/connection/uni_http_stream".to_string();
        /// An event stream to clients that only listen.
        pub uni_sse: String = "/connection/uni_sse".to_string();
    }
}

impl Paths {
    fn all(&self) -> [(&str, &str, ClientPath); 7] {
        [
            ("websocket", &self.websocket, ClientPath::WebSocket),
            ("http_stream", &self.http_stream, ClientPath::HttpStream),
            ("sse", &self.sse, ClientPath::Sse),
            ("emulation", &self.emulation, ClientPath::Emulation),
            ("uni_websocket", &self.uni_websocket, ClientPath::UniWebSocket),
            ("uni_http_stream", &self.uni_http_stream, ClientPath::UniHttpStream),
            ("uni_sse", &self.uni_sse, ClientPath::UniSse),
        ]
    }

    pub fn for_shards(&self) -> ClientPaths {
        ClientPaths::new(self.all().map(|(_, path, client)| (path, client)))
    }
}

/// Paths that are served otherwise.
const TAKEN: [&str; 11] =
    ["/", "/sse", "/poll", "/history", "/stream", "/ws", "/publish", "/echo", "/health", "/metrics", "/api"];

pub(super) fn check_paths(paths: &Paths, statuses: &[String], require: &mut Require<'_>) {
    let mut known = BTreeSet::new();
    for (key, path, _) in paths.all() {
        if path.is_empty() {
            continue;
        }
        let key = format!("client.paths.{key}");
        let fine = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#%".contains(&byte));
        require(fine, &key, "must be a path like \"/connection/sse\", without escapes, or empty");
        let free = !TAKEN.contains(&path) && !path.starts_with("/api/") && !path.starts_with("/tunnel/");
        require(free, &key, "is the path of something else that is served");
        require(known.insert(path), &key, "is the path of another kind of client as well");
    }
    let emulated = !paths.http_stream.is_empty() || !paths.sse.is_empty();
    require(
        !emulated || !paths.emulation.is_empty(),
        "client.paths.emulation",
        "must not be empty: clients of http_stream and sse speak by it",
    );
    for text in statuses {
        let problem = "must be written like \"3507=403\": a code of an error or of a disconnect, and a status from 400 to 599";
        require(connect_status(text).is_some(), "client.connect_statuses", &format!("{text:?} {problem}"));
    }
}

/// `3507=403`
pub fn connect_status(text: &str) -> Option<(u32, u16)> {
    let (code, status) = text.split_once('=')?;
    let (code, status) = (code.trim().parse().ok()?, status.trim().parse().ok()?);
    ((100..5000).contains(&code) && (400..600).contains(&status)).then_some((code, status))
}

#[cfg(test)]
mod tests {
    use crate::config::check::faults_of as faults;

    #[test]
    fn a_path_is_one_that_nothing_else_has() {
        for fine in ["sse = \"\"", "websocket = \"/rt\"", "http_stream = \"\"\nsse = \"\"\nemulation = \"\""]
        {
            assert_eq!(faults(&format!("[client.paths]\n{fine}\n")), [""; 0], "{fine}");
        }
        for (wrong, key) in [
            ("websocket = \"rt\"", "client.paths.websocket"),
            ("sse = \"/s se\"", "client.paths.sse"),
            ("sse = \"/sse\"", "client.paths.sse"),
            ("sse = \"/api/sse\"", "client.paths.sse"),
            ("sse = \"/connection/websocket\"", "client.paths.sse"),
            ("emulation = \"\"", "client.paths.emulation"),
        ] {
            let told = faults(&format!("[client.paths]\n{wrong}\n"));
            assert!(told.len() == 1 && told[0].contains(key), "{wrong}: {told:?}");
        }
    }

    #[test]
    fn a_status_belongs_to_a_code() {
        assert_eq!(faults("[client]\nconnect_statuses = [\"3507=403\", \"403 = 404\"]\n"), [""; 0]);
        for wrong in ["3507", "3507=200", "x=403", "7=403", "3507=600", "9999=403"] {
            let told = faults(&format!("[client]\nconnect_statuses = [\"{wrong}\"]\n"));
            assert!(told.len() == 1 && told[0].contains("connect_statuses"), "{wrong}: {told:?}");
        }
    }
}
