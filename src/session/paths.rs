//! Where clients of the Centrifuge protocol connect, by the path of their request.

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPath {
    WebSocket,
    HttpStream,
    Sse,
    /// Commands of the clients of the last two.
    Emulation,
    UniWebSocket,
    UniHttpStream,
    UniSse,
}

impl ClientPath {
    /// Every one, with the path that SDKs know it by.
    pub const ALL: [(ClientPath, &str); 7] = [
        (ClientPath::WebSocket, "/connection/websocket"),
        (ClientPath::HttpStream, "/connection/http_stream"),
        (ClientPath::Sse, "/connection/sse"),
        (ClientPath::Emulation, "/emulation"),
        (ClientPath::UniWebSocket, "/connection/uni_websocket"),
        (ClientPath::UniHttpStream, "/connection/uni_http_stream"),
        (ClientPath::UniSse, "/connection/uni_sse"),
    ];

    /// It leads to WebSocket.
    pub fn upgrades(self) -> bool {
        matches!(self, ClientPath::WebSocket | ClientPath::UniWebSocket)
    }

    /// For `Allow` (RFC 9110 section 10.2.1).
    pub fn methods(self) -> &'static [u8] {
        match self {
            ClientPath::WebSocket | ClientPath::UniWebSocket => b"GET",
            ClientPath::HttpStream | ClientPath::UniHttpStream | ClientPath::Emulation => b"POST, OPTIONS",
            ClientPath::Sse | ClientPath::UniSse => b"GET, POST, OPTIONS",
        }
    }

    pub fn allows(self, method: &str) -> bool {
        match self {
            ClientPath::WebSocket | ClientPath::UniWebSocket => method == "GET",
            ClientPath::HttpStream | ClientPath::UniHttpStream | ClientPath::Emulation => method == "POST",
            ClientPath::Sse | ClientPath::UniSse => matches!(method, "GET" | "POST"),
        }
    }
}

/// The paths of a node. What is not served has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPaths(Vec<(Box<str>, ClientPath)>);

impl Default for ClientPaths {
    fn default() -> ClientPaths {
        ClientPaths::new(ClientPath::ALL.map(|(client, path)| (path, client)))
    }
}

impl ClientPaths {
    /// An empty path is none.
    pub fn new<'p>(paths: impl IntoIterator<Item = (&'p str, ClientPath)>) -> ClientPaths {
        let paths = paths.into_iter().filter(|(path, _)| !path.is_empty());
        ClientPaths(paths.map(|(path, client)| (path.into(), client)).collect())
    }

    pub fn at(&self, path: &str) -> Option<ClientPath> {
        self.0.iter().find(|(known, _)| **known == *path).map(|(_, client)| *client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_it_was_configured_to() {
        let paths = ClientPaths::default();
        for (client, path) in ClientPath::ALL {
            assert_eq!(paths.at(path), Some(client));
        }
        assert_eq!(paths.at("/connection/websocket/"), None);
        let paths = ClientPaths::new([("", ClientPath::Sse), ("/rt/ws", ClientPath::WebSocket)]);
        assert_eq!(paths.at("/rt/ws"), Some(ClientPath::WebSocket));
        assert_eq!((paths.at(""), paths.at("/connection/sse")), (None, None));
    }
}
