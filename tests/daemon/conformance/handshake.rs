//! Section 4: the opening handshake, over HTTP/1.1.

use super::expect_alive;
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::{ACCEPT, KEY, Socket, upgrade_request};

const PATH: &str = "/connection/websocket";

/// The response head to these bytes.
fn answer(daemon: &Daemon, request: &str) -> String {
    let mut socket = Socket::raw(daemon);
    socket.send_bytes(request.as_bytes());
    socket.recv_head()
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"))
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value.trim()))
}

on_both_drivers! {
    /// Section 4.2.2: 101, the Upgrade and Connection fields, and the accept value that section 1.3 works out.
    fn answers_with_the_accept_value_of_the_rfc(driver: Driver) {
        let daemon = Daemon::start(driver);
        for path in ["/echo", PATH] {
            let head = answer(&daemon, &upgrade_request(path, ""));
            assert_eq!(status(&head), 101, "{head}");
            assert!(header(&head, "Upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")), "{head}");
            assert!(header(&head, "Connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")), "{head}");
            assert_eq!(header(&head, "Sec-WebSocket-Accept"), Some(ACCEPT), "{head}");
            // Sections 4.2.2 and 9.1: nothing is chosen that the client did not offer.
            assert_eq!(header(&head, "Sec-WebSocket-Protocol"), None, "{head}");
            assert_eq!(header(&head, "Sec-WebSocket-Extensions"), None, "{head}");
        }
    }

    /// Section 4.2.1: names and tokens without regard to case, `Upgrade` one of several tokens.
    fn takes_every_spelling_of_a_correct_request(driver: Driver) {
        let daemon = Daemon::start(driver);
        let requests = [
            format!(
                "GET /echo HTTP/1.1\r\nHOST: localhost\r\nupgrade: WebSocket\r\n\
                 connection: keep-alive, Upgrade\r\nSEC-WEBSOCKET-KEY: {KEY}\r\n\
                 sec-websocket-version: 13\r\n\r\n"
            ),
            format!(
                "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade:websocket\r\nConnection: keep-alive\r\n\
                 Connection: upgrade\r\nSec-WebSocket-Key:\t{KEY} \r\nSec-WebSocket-Version: 13\r\n\r\n"
            ),
            upgrade_request("/echo?format=json", "Origin: http://localhost\r\n"),
            upgrade_request("/echo", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"),
        ];
        for request in requests {
            let head = answer(&daemon, &request);
            assert_eq!(status(&head), 101, "{request}\n{head}");
            assert_eq!(header(&head, "Sec-WebSocket-Extensions"), None, "{head}");
        }
    }

    /// Section 4.2.1: a key of anything but 16 bytes, no key, two keys.
    fn refuses_a_bad_key(driver: Driver) {
        let daemon = Daemon::start(driver);
        let good = upgrade_request(PATH, "");
        let line = format!("Sec-WebSocket-Key: {KEY}\r\n");
        for bad in ["", "Sec-WebSocket-Key: \r\n", "Sec-WebSocket-Key: dG9vIHNob3J0\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSB0aGF0IGlzIHRvbyBsb25n\r\n",
            "Sec-WebSocket-Key: ************************\r\n", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n"]
        {
            let head = answer(&daemon, &good.replace(&line, bad));
            assert_eq!(status(&head), 400, "{bad:?}: {head}");
        }
    }

    /// Section 4.4: another version is answered with the one we speak.
    fn names_its_version_to_another_one(driver: Driver) {
        let daemon = Daemon::start(driver);
        for version in ["8", "0", "14", "abc"] {
            let request = upgrade_request(PATH, "").replace("Version: 13", &format!("Version: {version}"));
            let head = answer(&daemon, &request);
            assert_eq!(status(&head), 426, "{version}: {head}");
            assert_eq!(header(&head, "Sec-WebSocket-Version"), Some("13"), "{version}: {head}");
        }
    }

    /// Section 4.2.1: not GET, no Upgrade, no Connection, no Host, HTTP/1.0.
    fn refuses_what_is_not_an_upgrade(driver: Driver) {
        let daemon = Daemon::start(driver);
        let good = upgrade_request(PATH, "");
        let cases = [
            (good.replace("GET ", "POST "), vec![405, 400]),
            (good.replace("Upgrade: websocket\r\n", ""), vec![400, 426]),
            (good.replace("Upgrade: websocket\r\n", "Upgrade: h2c\r\n"), vec![400, 426]),
            (good.replace("Connection: Upgrade\r\n", ""), vec![400, 426]),
            (good.replace("Connection: Upgrade\r\n", "Connection: close\r\n"), vec![400, 426]),
            (good.replace("Host: localhost\r\n", ""), vec![400]),
            (good.replace("HTTP/1.1", "HTTP/1.0"), vec![400, 426, 505]),
            (good.replace("HTTP/1.1", "HTTP/2.0"), vec![505]),
            (good.replace(PATH, "/nowhere"), vec![404]),
        ];
        for (request, wanted) in cases {
            let head = answer(&daemon, &request);
            assert!(wanted.contains(&status(&head)), "{request}\n{head}");
        }
    }

    /// A client may send frames before it has read the 101: they come in the same segment as the head.
    fn frames_behind_the_head_in_one_segment_are_served(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::raw(&daemon);
        let early = crate::frame::Frame::text("early");
        socket.send_bytes(&[upgrade_request("/echo", "").into_bytes(), early.masked()].concat());
        assert_eq!(status(&socket.recv_head()), 101);
        socket.expect(&early);
        socket.close();
    }

    /// The head in single bytes.
    fn a_head_in_octets_is_served(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::raw(&daemon);
        socket.send_in_octets(upgrade_request("/echo", "").as_bytes());
        assert_eq!(status(&socket.recv_head()), 101);
        expect_alive(&mut socket);
        socket.close();
    }

    /// `/echo` without an upgrade: the request's body comes back, on a connection that stays.
    fn plain_requests_to_echo_get_their_body_back(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::raw(&daemon);
        for body in ["", "x", "body of the request"] {
            socket.send_bytes(
                format!("POST /echo HTTP/1.1\r\nHost: l\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
            );
            let head = socket.recv_head();
            assert_eq!(status(&head), 200, "{head}");
            assert_eq!(header(&head, "Content-Length"), Some(body.len().to_string().as_str()), "{head}");
            assert_eq!(socket.recv_body(body.len()), body.as_bytes());
        }
        socket.send_bytes(b"POST /echo HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n");
        socket.send_bytes(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
        let head = socket.recv_head();
        assert_eq!(status(&head), 200, "{head}");
        assert_eq!(socket.recv_body(5), b"abcde");
        socket.send_bytes(b"GET /echo HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
        let head = socket.recv_head();
        assert_eq!(status(&head), 200, "{head}");
        socket.expect_end();
    }
}
