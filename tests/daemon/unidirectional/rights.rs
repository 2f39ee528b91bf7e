//! Who may read and publish what, and which pages may ask.

use serde_json::json;

use super::client::{Events, await_subscribers, numbers, publish};
use crate::http::Response;
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;
use crate::token::token;

fn post(client: &mut Socket, target: &str, extra: &str, body: &str) -> Response {
    let length = body.len();
    client.send_bytes(
        format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{extra}Content-Length: {length}\r\n\r\n{body}")
            .as_bytes(),
    );
    client.response()
}

on_both_drivers! {
    fn a_token_is_taken_from_header_cookie_and_query(driver: Driver) {
        let daemon = Daemon::start(driver);
        let token = token(&json!({"sub": "ann", "channels": ["closed:c"]}));
        let mut client = Socket::raw(&daemon);
        assert_eq!(client.get("/poll?channel=closed:c&wait=0").problem(), (403, 103));
        for (target, extra) in [
            ("/poll?channel=closed:c&wait=0".to_string(), format!("Authorization: Bearer {token}\r\n")),
            ("/poll?channel=closed:c&wait=0".to_string(), format!("Cookie: a=b; trunkline_token={token}\r\n")),
            (format!("/poll?channel=closed:c&wait=0&token={token}"), String::new()),
            // Without a channel, those of the token.
            (format!("/poll?wait=0&token={token}"), String::new()),
        ] {
            assert_eq!(client.get_with(&target, &extra).status, 200, "{target} {extra}");
        }
    }

    fn a_bad_token_is_worse_than_none(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        let expired = token(&json!({"sub": "ann", "exp": 1}));
        for (token, code) in [("nonsense", 101), ("a.b.c", 101), (&expired, 109)] {
            let answer = client.get(&format!("/poll?channel=c&wait=0&token={token}"));
            assert_eq!((answer.problem(), answer.field("www-authenticate")), ((401, code), "Bearer"));
        }
        // Another scheme is no token: a page behind a proxy that asks for a password sends it with every request.
        assert_eq!(client.get_with("/poll?channel=c&wait=0", "Authorization: Basic eDp5\r\n").status, 200);
    }

    fn a_unidirectional_client_is_its_users_connection(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let token = token(&json!({"sub": "ann"}));
        let mut events = Events::open(&daemon, &format!("/sse?channel=c&token={token}"), "");
        await_subscribers(&daemon, "c", 1);
        daemon.api("disconnect", "{\"user\":\"ann\",\"disconnect\":{\"code\":4501,\"reason\":\"enough\"}}");
        let end = events.next();
        assert_eq!(end.data["disconnect"], json!({"code": 4501, "reason": "enough", "reconnect": false}));
        events.expect_end();
        await_subscribers(&daemon, "c", 0);
    }

    fn an_expired_unidirectional_client_is_ended(driver: Driver) {
        let daemon = Daemon::start(driver);
        let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 2;
        let token = token(&json!({"sub": "ann", "exp": soon}));
        let mut events = Events::open(&daemon, &format!("/sse?channel=c&token={token}"), "");
        assert_eq!(events.next().data["disconnect"]["code"], 3005);
    }

    fn publishing_reaches_every_kind_of_unidirectional_client(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut events = Events::open(&daemon, "/sse?channel=open:c", "");
        let mut client = Socket::raw(&daemon);
        let first = post(&mut client, "/publish?channel=open:c", "", "{\"text\": \"hi\"}");
        assert_eq!((first.status, &first.json()["offset"]), (200, &json!(1)));
        assert_eq!(events.next().data["data"], json!({"text": "hi"}));
        // A repeat of a key is answered like the first.
        for _ in 0..2 {
            let answer = post(&mut client, "/publish?channel=open:c", "Idempotency-Key: k\r\n", "2");
            assert_eq!(answer.json()["offset"], 2);
        }
        post(&mut client, "/publish?channel=open:c", "", "3");
        assert_eq!(events.messages(2), numbers([2, 3]));
        // Chunks, and a client that asks first.
        client.send_bytes(
            b"POST /publish?channel=open:c HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(client.head().0, 100);
        client.send_bytes(b"1\r\n4\r\n0\r\n\r\n");
        assert_eq!(client.response().json()["offset"], 4);

        for (target, body, problem) in [
            ("/publish?channel=c", "1", (403, 103)),
            ("/publish?channel=nowhere:c", "1", (404, 102)),
            ("/publish", "1", (400, 107)),
            ("/publish?channel=open:c&channel=open:d", "1", (400, 107)),
            ("/publish?channel=open:c", "{", (400, 107)),
            ("/publish?channel=open:c", "", (400, 107)),
        ] {
            assert_eq!(post(&mut Socket::raw(&daemon), target, "", body).problem(), problem, "{target} {body}");
        }
        let mut big = Socket::raw(&daemon);
        big.send_bytes(b"POST /publish?channel=open:c HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        assert_eq!(big.response().status, 413);
    }

    fn pages_of_other_origins_are_refused(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        for target in ["/poll?channel=c&wait=0", "/sse?channel=c", "/stream?channel=c", "/history?channel=open:c"] {
            assert_eq!(client.get_with(target, "Origin: http://evil.example\r\n").problem(), (403, 103));
        }
        assert_eq!(post(&mut Socket::raw(&daemon), "/publish?channel=open:c", "Origin: null\r\n", "1").status, 403);
        let own = client.get_with("/poll?channel=c&wait=0", "Origin: http://localhost\r\n");
        assert_eq!(own.field("access-control-allow-origin"), "http://localhost");
        assert_eq!(own.field("access-control-allow-credentials"), "true");
        client.send_bytes(
            b"OPTIONS /publish HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
              Access-Control-Request-Method: POST\r\n\r\n",
        );
        let preflight = client.response();
        assert_eq!(preflight.status, 204);
        assert_eq!(preflight.field("access-control-allow-methods"), "POST, OPTIONS");
        assert!(preflight.field("access-control-allow-headers").contains("Authorization"));
    }

    fn history_is_a_right_of_its_own(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        publish(&daemon, "c", [1]);
        assert_eq!(client.get("/history?channel=c").problem(), (403, 103));
        assert_eq!(client.get("/history?channel=live:c").problem(), (404, 108));
    }
}
