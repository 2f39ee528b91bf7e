//! What belongs to somebody else in a request (cookies, credentials, parameters of the query) hides nothing of ours.

use serde_json::json;

use crate::on_both_drivers;
use crate::process::{API_KEY, Daemon};
use crate::socket::Socket;
use crate::token::token;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Every way in, with its own fields and its body.
const WAYS: [(&str, &str, &str, &str); 7] = [
    ("GET", "/sse", "", ""),
    ("GET", "/stream", "", ""),
    ("GET", "/poll", "", ""),
    ("GET", "/history", "", ""),
    ("POST", "/publish", "Content-Length: 1\r\n", "1"),
    ("GET", "/ws", UPGRADE, ""),
    ("GET", "/connection/websocket", UPGRADE, ""),
];

const FOREIGN: [&[u8]; 7] = [
    b"",
    b"Authorization: Basic dXNlcjpwYXNz\r\n",
    b"Authorization: Bearer\r\n",
    b"Authorization: \xe9\r\n",
    b"Cookie: a=1\r\nCookie: b=2\r\n",
    b"Cookie: a=\xe9\r\n",
    b"Cookie: trunkline_token_of_another=1; trunkline_token=\r\n",
];

/// The status of one request on a connection of its own.
fn status(
    daemon: &Daemon,
    (method, path, own, body): (&str, &str, &str, &str),
    query: &[u8],
    extra: &[u8],
) -> u16 {
    let mut client = Socket::raw(daemon);
    let target = format!("{method} {path}?channel=open:c&wait=0");
    let head = format!(" HTTP/1.1\r\nHost: localhost\r\n{own}");
    client.send_bytes(&[target.as_bytes(), query, head.as_bytes(), extra, b"\r\n", body.as_bytes()].concat());
    let status = client.head().0;
    if path != "/connection/websocket" || status != 101 {
        return status;
    }
    // There, it is the connect command that needs the token.
    client.send(crate::frame::Frame::text("{\"id\":1,\"connect\":{}}"));
    match client.recv() {
        Some(reply) if String::from_utf8_lossy(&reply.payload).contains("\"client\":") => 101,
        _ => 401,
    }
}

on_both_drivers! {
    fn foreign_fields_and_parameters_hide_no_token(driver: Driver) {
        let daemon = Daemon::start_set(driver, &[], &[("CLIENT_ALLOW_ANONYMOUS", "false")]);
        let token = token(&json!({"sub": "ann"}));
        let cookie = format!("Cookie: x=y; trunkline_token={token}\r\n");
        let bearer = format!("Authorization: Bearer {token}\r\n");
        for way in WAYS {
            assert_eq!(status(&daemon, way, b"", b""), 401, "{way:?} needs a token");
            for foreign in FOREIGN {
                assert_eq!(status(&daemon, way, b"", foreign), 401, "{way:?} {foreign:?}");
                for own in [&cookie, &bearer] {
                    for extra in [[foreign, own.as_bytes()].concat(), [own.as_bytes(), foreign].concat()] {
                        assert!(matches!(status(&daemon, way, b"", &extra), 101 | 200), "{way:?} {foreign:?} {own}");
                    }
                }
                let others: [&[u8]; 6] = [b"", b"&utm=50%", b"&utm=caf%E9", b"&utm=%zz&%=1", b"&utm=caf\xe9", "&ü=é".as_bytes()];
                for other in others {
                    let own = format!("&token={token}");
                    for query in [[other, own.as_bytes()].concat(), [own.as_bytes(), other].concat()] {
                        assert!(matches!(status(&daemon, way, &query, foreign), 101 | 200), "{way:?} {foreign:?} {other:?}");
                    }
                }
            }
        }
    }

    fn a_parameter_of_ours_must_be_whole(driver: Driver) {
        let daemon = Daemon::start(driver);
        for query in [&b"&channel=%"[..], b"&channel=caf%E9", b"&channel=caf\xe9", b"&limit=%zz", b"&reverse=%"] {
            assert_eq!(status(&daemon, WAYS[2], query, b""), 400, "{query:?}");
        }
    }

    fn a_foreign_key_hides_no_key_of_the_api(driver: Driver) {
        let daemon = Daemon::start(driver);
        for foreign in ["", "Authorization: Basic dXNlcjpwYXNz\r\n", "X-API-Key: of-a-gateway\r\n", "Cookie: a=1\r\n"] {
            for (query, own) in [
                (format!("?utm=50%&api_key={API_KEY}&x=caf%E9"), String::new()),
                (format!("?utm=café&api_key={API_KEY}&x=<é>"), String::new()),
                (String::new(), format!("Authorization: apikey {API_KEY}\r\n")),
                (String::new(), format!("X-API-Key: {API_KEY}\r\n")),
            ] {
                let mut client = Socket::raw(&daemon);
                let head = format!("POST /api/info{query} HTTP/1.1\r\nHost: a\r\n{foreign}{own}Content-Length: 2\r\n\r\n{{}}");
                client.send_bytes(head.as_bytes());
                assert_eq!(client.response().status, 200, "{head}");
            }
            let mut client = Socket::raw(&daemon);
            client.send_bytes(format!("POST /api/info HTTP/1.1\r\nHost: a\r\n{foreign}Content-Length: 2\r\n\r\n{{}}").as_bytes());
            assert_eq!(client.response().status, 401, "{foreign}");
        }
    }
}
