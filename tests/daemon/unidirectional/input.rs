//! Requests in every cut, one behind the other, and wrong ones.

use super::client::{await_subscribers, numbers, publish};
use crate::http::request;
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;

on_both_drivers! {
    fn requests_may_be_cut_at_every_byte(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        publish(&daemon, "open:c", [1]);
        let body = "POST /publish?channel=open:d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\n\"x\"\r\n0\r\n\r\n";
        let requests = format!("{}{body}{}", request("/history?channel=open:c", ""), request("/poll?channel=open:c&wait=0", ""));
        for cut in 1..requests.len() {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(&requests.as_bytes()[..cut]);
            // Long enough, as a rule, for the daemon to see the first part alone.
            std::thread::sleep(std::time::Duration::from_micros(300));
            client.send_bytes(&requests.as_bytes()[cut..]);
            assert_eq!(client.response().data(), numbers([1]), "cut at {cut}");
            assert_eq!(client.response().json()["offset"], cut, "cut at {cut}");
            assert_eq!(client.response().data(), numbers([]), "cut at {cut}");
        }
        let mut client = Socket::raw(&daemon);
        for byte in requests.as_bytes() {
            client.send_bytes(std::slice::from_ref(byte));
        }
        assert_eq!(client.response().data(), numbers([1]));
        assert_eq!(client.response().status, 200);
        assert_eq!(client.response().status, 200);
    }

    fn requests_sent_at_once_are_answered_in_order(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        publish(&daemon, "open:c", 1..=9);
        let mut client = Socket::raw(&daemon);
        let mut all = String::new();
        for round in 0..200 {
            all += &match round % 4 {
                0 => request(&format!("/history?channel=open:c&limit={}", round % 9 + 1), ""),
                1 => request("/poll?channel=open:c&wait=0", ""),
                2 => request("/poll?channel=open:c&limit=!", ""),
                _ => format!("POST /publish?channel=open:p{} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n7", round % 3),
            };
        }
        client.send_bytes(all.as_bytes());
        for round in 0..200u64 {
            let answer = client.response();
            match round % 4 {
                0 => assert_eq!(answer.data(), numbers(1..=round % 9 + 1), "{round}"),
                1 => assert_eq!((answer.status, answer.data().len()), (200, 0), "{round}"),
                2 => assert_eq!(answer.problem(), (400, 107), "{round}"),
                _ => assert!(answer.json()["offset"].is_u64(), "{round}"),
            }
        }
    }

    fn a_request_behind_a_held_poll_waits_for_it(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.send_bytes(format!("{}{}", request("/poll?channel=open:c", ""), request("/history?channel=open:c", "")).as_bytes());
        await_subscribers(&daemon, "open:c", 1);
        publish(&daemon, "open:c", [5]);
        assert_eq!(client.response().data(), numbers([5]));
        assert_eq!(client.response().data(), numbers([5]));
    }

    fn what_cannot_be_served_is_told_with_a_status(driver: Driver) {
        let daemon = Daemon::start(driver);
        let many: String = (0..200).map(|number| format!("&channel=c{number}")).collect();
        let long = format!("/poll?channel={}", "x".repeat(300));
        for (target, problem) in [
            ("/poll", (400, 107)),
            ("/poll?channel=", (400, 107)),
            ("/poll?channel=nowhere:c", (404, 102)),
            ("/poll?channel=closed:c", (403, 103)),
            ("/history?channel=open:c&since=nonsense", (400, 107)),
            ("/history?channel=open:c&since=AUvHvEZr8ayJAQ", (400, 107)),
            ("/poll?channel=c&limit=x", (400, 107)),
            ("/poll?channel=c&wait=-1", (400, 107)),
            ("/history?channel=open:c&reverse=maybe", (400, 107)),
            ("/poll?channel=%ff", (400, 107)),
            ("/poll?channel=a%0ab", (400, 107)),
            (&format!("/poll?{many}"), (400, 106)),
            (&long, (400, 107)),
            ("/stream", (400, 107)),
        ] {
            let mut client = Socket::raw(&daemon);
            assert_eq!(client.get(target).problem(), problem, "{target}");
            // It was a whole request: the connection serves the next one.
            assert_eq!(client.get("/poll?channel=c&wait=0").status, 200, "after {target}");
        }
    }

    fn a_wrong_method_or_a_body_where_none_belongs(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.send_bytes(b"DELETE /poll?channel=c HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response();
        assert_eq!((answer.problem().0, answer.field("allow")), (405, "GET, HEAD, OPTIONS"));
        client.send_bytes(b"GET /publish?channel=open:c HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().problem().0, 405);
        for request in [
            "GET /poll?channel=c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "GET /sse?channel=c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(request.as_bytes());
            let answer = client.response();
            assert_eq!((answer.problem(), answer.field("connection")), ((400, 107), "close"));
            assert!(client.recv_rest().is_empty());
        }
    }

    fn shapes_that_two_readers_could_take_for_two_things_end_the_connection(driver: Driver) {
        let daemon = Daemon::start(driver);
        for (fields, body) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ("Content-Length: 1\r\nContent-Length: 2\r\n", "11"),
            ("Content-Length: +1\r\n", "1"),
            ("Content-Length: 1, 1\r\n", "1"),
            ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\n", "x\r\n1\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\n", "1\n1\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\n", "1\r\n111\r\n0\r\n\r\n"),
            ("X: a\r\n folded: b\r\nContent-Length: 1\r\n", "1"),
            ("Content-Length : 1\r\n", "1"),
            ("X: a\nContent-Length: 1\r\n", "1"),
        ] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(format!("POST /publish?channel=open:c HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}").as_bytes());
            client.send_bytes(request("/poll?channel=c&wait=0", "").as_bytes());
            let answer = client.response();
            assert!(matches!(answer.status, 400 | 501), "{fields:?}: {answer:?}");
            answer.problem();
            assert!(client.recv_rest().is_empty(), "nothing is read behind {fields:?}");
        }
        let stats = daemon.api("info", "{}");
        assert!(stats["error"].is_null());
    }

    fn a_head_of_no_end_is_not_waited_for(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.send_bytes(format!("GET /sse?channel=c HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(20_000)).as_bytes());
        assert_eq!(client.response().status, 431);
    }
}
