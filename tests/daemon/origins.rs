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
}
