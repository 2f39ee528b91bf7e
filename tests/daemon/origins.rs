//! Which pages may connect, and what their browsers let them read.

use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::{Socket, upgrade_request};

/// The status of an upgrade and of a poll that a page of `origin` asks `host` for.
fn asked(daemon: &Daemon, host: &str, origin: &str) -> (u16, u16) {
    let fields = format!("Origin: {origin}\r\n");
    let status = |request: String| {
        let mut socket = Socket::raw(daemon);
        socket.send_bytes(request.as_bytes());
        socket.head().0
    };
    let upgrade = upgrade_request("/connection/websocket", &fields)
        .replace("Host: localhost", &format!("Host: {host}"));
    assert!(upgrade.contains(&format!("Host: {host}\r\n")), "{upgrade}");
    (status(upgrade), status(format!("GET /poll?channel=c&wait=0 HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")))
}

fn with_origins(driver: Driver, origins: &str) -> Daemon {
    Daemon::start_set(driver, &[], &[("CLIENT_ALLOWED_ORIGINS", origins)])
}

on_both_drivers! {
    fn origins_are_compared_as_browsers_compute_them(driver: Driver) {
        let daemon = with_origins(driver, "https://a.example:443,https://*.b.example:*,https://bücher.example,null,file://");
        for (host, origin) in [
            ("rt.example", "https://rt.example:443"),
            ("rt.example", "wss://rt.example"),
            ("rt.example:80", "http://rt.example"),
            ("[2001:DB8::1]:443", "https://[2001:db8::1]"),
            ("rt.example", "https://a.example"),
            ("rt.example", "https://q.b.example:8443"),
            ("rt.example", "https://xn--bcher-kva.example"),
            ("rt.example", "null"),
            ("rt.example", "file://"),
        ] {
            assert_eq!(asked(&daemon, host, origin), (101, 200), "{host} {origin}");
        }
        for (host, origin) in [
            ("rt.example", "https://rt.example:8443"),
            ("rt.example:8443", "https://rt.example"),
            ("rt.example", "http://rt.example:443"),
            ("rt.example", "https://a.example:8443"),
            ("rt.example", "http://a.example"),
            ("rt.example", "https://b.example"),
            ("rt.example", "https://evil.example"),
            ("rt.example", "nonsense"),
        ] {
            assert_eq!(asked(&daemon, host, origin), (403, 403), "{host} {origin}");
        }
    }

    fn a_page_named_beside_the_star_keeps_its_credentials(driver: Driver) {
        let daemon = with_origins(driver, "*,https://app.example");
        for target in ["/poll?channel=c&wait=0", "/history?channel=open:c", "/sse?channel=c"] {
            let fields = |origin: &str| {
                let mut socket = Socket::raw(&daemon);
                socket.ask(target, &format!("Origin: {origin}\r\n"));
                socket.head().1
            };
            let named = fields("https://app.example");
            assert_eq!(named["access-control-allow-origin"], "https://app.example", "{target}");
            assert_eq!(named["access-control-allow-credentials"], "true", "{target}");
            let other = fields("https://app.example:8443");
            assert_eq!(other["access-control-allow-origin"], "*", "{target}");
            assert!(!other.contains_key("access-control-allow-credentials"), "{target}");
        }
    }

    fn a_preflight_allows_what_the_browser_asks_about(driver: Driver) {
        let daemon = with_origins(driver, "https://app.example");
        let mut socket = Socket::raw(&daemon);
        let mut preflight = |fields: &str| {
            socket.send_bytes(
                format!(
                    "OPTIONS /poll HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\n\
                     Access-Control-Request-Method: GET\r\n{fields}\r\n"
                )
                .as_bytes(),
            );
            let answer = socket.response();
            assert_eq!(answer.status, 204);
            answer.field("access-control-allow-headers").to_string()
        };
        assert_eq!(
            preflight("Access-Control-Request-Headers: baggage,sentry-trace, x-b\r\n"),
            "baggage, sentry-trace, x-b"
        );
        assert_eq!(
            preflight("Access-Control-Request-Headers: x-a\r\nAccess-Control-Request-Headers: x b, , x-c\r\n"),
            "x-a, x-c"
        );
        assert!(preflight("").contains("Authorization"));
    }

    fn every_refusal_can_be_read_by_the_page(driver: Driver) {
        let daemon = with_origins(driver, "https://app.example");
        let long = "x".repeat(20_000);
        for (status, request) in [
            (400, "GET /poll HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (400, "GET /poll HTTP/1.1\r\nHost: a\r\n{o}a b: c\r\n\r\n".to_string()),
            (400, "GET /health HTTP/1.1\r\n{o}\r\n".to_string()),
            (401, "GET /poll?channel=c&token=x HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (404, "GET /poll/?channel=c HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (405, "PUT /poll?channel=c HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (405, "POST /connection/websocket HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (413, "POST /publish?channel=open:c HTTP/1.1\r\nHost: a\r\n{o}Content-Length: 999999\r\n\r\n".to_string()),
            (413, "POST /publish?channel=open:c HTTP/1.1\r\nHost: a\r\n{o}Transfer-Encoding: chunked\r\n\r\nFFFFFF\r\n".to_string()),
            (426, "GET /connection/websocket HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (426, "GET /ws?channel=c HTTP/1.1\r\nHost: a\r\n{o}\r\n".to_string()),
            (431, format!("GET /poll HTTP/1.1\r\nHost: a\r\n{{o}}X-A: {long}\r\n\r\n")),
        ] {
            let fields = |origin: &str| {
                let mut socket = Socket::raw(&daemon);
                socket.send_bytes(request.replace("{o}", &format!("Origin: {origin}\r\n")).as_bytes());
                let (seen, fields) = socket.head();
                assert_eq!(seen, status, "{}", request.lines().next().unwrap_or_default());
                fields
            };
            let named = fields("https://app.example");
            assert_eq!(
                named.get("access-control-allow-origin").map(String::as_str),
                Some("https://app.example"),
                "{status} {}",
                request.lines().next().unwrap_or_default()
            );
            assert_eq!(named["access-control-allow-credentials"], "true");
            assert!(named["vary"].contains("Origin"), "a cache must not give it to another page");
        }
        // A page that may not ask learns nothing.
        for head in ["GET /poll/ HTTP/1.1\r\nHost: a\r\n", "GET /poll HTTP/1.1\r\nHost: a\r\na b: c\r\n"] {
            let mut socket = Socket::raw(&daemon);
            socket.send_bytes(format!("{head}Origin: https://evil.example\r\n\r\n").as_bytes());
            let (status, fields) = socket.head();
            assert!((400..500).contains(&status));
            assert!(!fields.contains_key("access-control-allow-origin"), "{head}");
        }
    }
}
