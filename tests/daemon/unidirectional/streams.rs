//! Event streams, lines of JSON, an iframe's page.

use serde_json::{Value, json};

use super::client::{Events, await_subscribers, numbers, publish};
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;

on_both_drivers! {
    fn events_come_in_order_with_positions(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut events = Events::open(&daemon, "/sse?channel=c", "");
        assert!((1_000..=3_000).contains(&events.retry_ms), "{}", events.retry_ms);
        publish(&daemon, "c", 1..=50);
        for number in 1..=50 {
            let event = events.next();
            assert_eq!(event.data, json!({"channel": "c", "offset": number, "data": number}));
            assert!(event.id.is_some());
        }
    }

    fn the_last_id_resumes_without_loss_or_repeat(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "3"]);
        for target in ["/sse?channel=a", "/sse?channel=a&channel=b&channel=c"] {
            let mut events = Events::open(&daemon, target, "");
            let mut sent = 0;
            let mut got = Vec::new();
            // Cut at every number of messages read: the id of the last one read is where it goes on.
            for read in [0, 1, 5, 2, 9] {
                publish(&daemon, "a", sent + 1..=sent + 10);
                sent += 10;
                got.extend(events.messages(read));
                events = Events::open(&daemon, target, &events.last_id);
            }
            got.extend(events.messages(sent as usize - got.len()));
            assert_eq!(got, numbers(1..=sent), "{target}");
            daemon.api("history_remove", "{\"channel\":\"a\"}");
        }
    }

    fn one_id_stands_for_all_channels(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "3"]);
        let target = "/sse?channel=x&channel=y&channel=z";
        let mut events = Events::open(&daemon, target, "");
        let order = ["x", "y", "z", "y", "y", "x", "z"];
        for round in 0..6 {
            for (at, channel) in order.iter().enumerate() {
                publish(&daemon, channel, [round * 100 + at as u64]);
            }
            // Read a part, break, come back: each channel goes on by itself.
            let mut rest: Vec<(String, u64)> = Vec::new();
            let part = round as usize;
            for read in 0..order.len() {
                if read == part {
                    events = Events::open(&daemon, target, &events.last_id);
                }
                let event = events.next();
                assert_eq!(event.event, "message");
                rest.push((
                    event.data["channel"].as_str().unwrap().into(),
                    event.data["data"].as_u64().unwrap(),
                ));
            }
            for channel in ["x", "y", "z"] {
                let wanted: Vec<u64> = (0..order.len())
                    .filter(|&at| order[at] == channel)
                    .map(|at| round * 100 + at as u64)
                    .collect();
                let seen: Vec<u64> =
                    rest.iter().filter(|(name, _)| name == channel).map(|(_, data)| *data).collect();
                assert_eq!(seen, wanted, "{channel} in round {round}");
            }
        }
    }

    fn a_position_that_fell_off_the_log_is_a_reset(driver: Driver) {
        let daemon = Daemon::start(driver);
        let before = Events::open(&daemon, "/sse?channel=short:c", "").last_id;
        publish(&daemon, "short:c", 1..=5);
        let mut events = Events::open(&daemon, "/sse?channel=short:c", &before);
        let reset = events.next();
        assert_eq!((reset.event.as_str(), &reset.data["reset"]), ("reset", &json!("short:c")));
        assert_ne!(reset.id.as_deref(), Some(before.as_str()));
        publish(&daemon, "short:c", [6]);
        assert_eq!(events.messages(1), numbers([6]));
        // Two missed are still kept.
        publish(&daemon, "short:c", [7, 8]);
        let mut again = Events::open(&daemon, "/sse?channel=short:c", &events.last_id);
        assert_eq!(again.messages(2), numbers([7, 8]));
    }

    fn a_position_of_another_server_is_a_reset_on_every_way(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut client = Socket::raw(&daemon);
        let other = client.get("/poll?channel=other&wait=0").position();
        publish(&daemon, "c", [1]);
        for position in ["42", "urn:uuid:0a1b2c3d-0000-4000-8000-000000000000", "1669890000:0", "undefined", "%C3%A9", &other] {
            let mut events = Events::open(&daemon, "/sse?channel=c&channel=d", position);
            // Cut off before the loss was told, it is told again.
            events = Events::open(&daemon, "/sse?channel=c&channel=d", &events.last_id);
            for channel in ["c", "d"] {
                let reset = events.next();
                assert_eq!((reset.event.as_str(), &reset.data["reset"]), ("reset", &json!(channel)), "{position}");
            }
            publish(&daemon, "c", [2]);
            assert_eq!(events.messages(1), numbers([2]));
            let mut again = Events::open(&daemon, "/sse?channel=c&channel=d", &events.last_id);
            publish(&daemon, "d", [3]);
            assert_eq!(again.messages(1), numbers([3]), "nothing is lost twice");

            let poll = client.get(&format!("/poll?channel=c&position={position}")).json();
            assert_eq!((&poll["reset"], &poll["messages"]), (&json!(["c"]), &json!([])), "{position}");
            let mut lines = Lines::open(&daemon, &format!("/stream?channel=c&position={position}"));
            assert_eq!(lines.next()["ready"], true);
            assert_eq!(lines.next()["reset"], "c", "{position}");
        }
        // Of a part of the channels: the others are new to the client, and nothing of them is lost.
        let mut events = Events::open(&daemon, "/sse?channel=other&channel=c", &other);
        publish(&daemon, "c", [4]);
        assert_eq!(events.messages(1), numbers([4]));
    }

    fn the_last_id_may_stand_in_the_query(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut first = Events::open(&daemon, "/sse?channel=c", "");
        publish(&daemon, "c", [1]);
        first.messages(1);
        publish(&daemon, "c", [2]);
        for name in [
            "lastEventId",
            "lastEventID",
            "Last-Event-ID",
            "last-event-id",
            "last_event_id",
            "evs_last_event_id",
            "position",
            "since",
        ] {
            let target = format!("/sse?channel=c&{name}={}", first.last_id);
            assert_eq!(Events::open(&daemon, &target, "").messages(1), numbers([2]), "{name}");
        }
        // What a client adds when it comes back is newer than what its URL began with.
        let target = format!("/sse?channel=c&position=nonsense&lastEventId={}", first.last_id);
        assert_eq!(Events::open(&daemon, &target, "").messages(1), numbers([2]));
        let mut spoilt = Events::open(&daemon, "/sse?channel=c&lastEventId=%zz", "");
        assert_eq!(spoilt.next().event, "reset");
        // None yet.
        let mut empty = Events::open(&daemon, "/sse?channel=c&lastEventId=", "");
        publish(&daemon, "c", [3]);
        assert_eq!(empty.messages(1), numbers([3]));
    }

    fn a_client_without_chunks_gets_plain_events(driver: Driver) {
        let daemon = Daemon::start(driver);
        for target in ["/sse?channel=c", "/sse?channel=c&channel=d"] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes());
            let (status, fields) = client.head();
            assert_eq!((status, fields["connection"].as_str()), (200, "close"));
            assert!(!fields.contains_key("transfer-encoding"));
            assert!(client.recv_until(b"\n\n").starts_with(b"retry: "));
            publish(&daemon, "c", [1]);
            let event = String::from_utf8(client.recv_until(b"\n\n")).unwrap();
            assert!(event.starts_with("id: ") && event.contains("\ndata: {\"channel\":\"c\","), "{event}");
        }
    }

    fn a_silent_event_stream_has_comments_and_no_empty_blocks(driver: Driver) {
        let daemon = Daemon::start_set(driver, &[], &[("CLIENT_PING_INTERVAL", "1s"), ("CLIENT_PONG_TIMEOUT", "500ms")]);
        let mut events = Events::open(&daemon, "/sse?channel=c", "");
        // Chunks of one comment line, three times.
        for _ in 0..3 {
            assert_eq!(events.socket.recv_until(b"\r\n"), b"2\r\n");
            assert_eq!(events.socket.recv_until(b"\r\n"), b":\n\r\n");
        }
        publish(&daemon, "c", [1]);
        assert_eq!(events.messages(1), numbers([1]));
    }

    fn what_is_temporary_does_not_end_an_event_source(driver: Driver) {
        let tables = "[[hook]]\nname = \"away\"\nendpoint = \"http://127.0.0.1:1/\"\n";
        let daemon = Daemon::start_written(driver, &[], &[("CLIENT_CONNECT_HOOK", "away")], tables);
        let mut client = Socket::raw(&daemon);
        assert_eq!(client.get("/stream?channel=c").problem().0, 503);
        let answer = client.get("/sse?channel=c");
        assert_eq!((answer.status, answer.field("content-type")), (200, "text/event-stream"));
        let text = String::from_utf8(answer.body).unwrap();
        let (retry, end) = text.split_once('\n').unwrap();
        let retry_ms: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((5_000..=15_000).contains(&retry_ms), "{retry_ms}");
        let end: Value = serde_json::from_str(end.strip_prefix("event: disconnect\ndata: ").unwrap()).unwrap();
        assert_eq!((&end["disconnect"]["code"], &end["disconnect"]["reconnect"]), (&json!(3004), &json!(true)));
        // Not yet valid: the same request will do in a while. What never will keeps its status.
        let token = |claims: Value| crate::token::token(&claims);
        let early = token(json!({"sub": "ann", "nbf": 4_000_000_000_u64}));
        let answer = client.get(&format!("/sse?channel=c&token={early}"));
        assert!(answer.status == 200 && answer.body.starts_with(b"retry: "), "{answer:?}");
        for (token, status) in [(token(json!({"sub": "ann", "exp": 1})), 401), ("nonsense".into(), 401)] {
            assert_eq!(client.get(&format!("/sse?channel=c&token={token}")).status, status);
        }
    }

    fn events_may_have_names(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut events = Events::open(&daemon, "/sse?channel=c", "");
        daemon.api("publish", "{\"channel\":\"c\",\"data\":1,\"tags\":{\"event\":\"price\"}}");
        assert_eq!(events.next().event, "price");
    }

    fn a_daemon_that_ends_says_when_to_come_back(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut events = Events::open(&daemon, "/sse?channel=c", "");
        assert!(daemon.stop().success());
        let end = events.next();
        assert_eq!(end.event, "disconnect");
        assert_eq!(end.data["disconnect"], json!({"code": 3001, "reason": "shutdown", "reconnect": true}));
        assert!(events.retry_ms >= 5_000);
        events.expect_end();
    }

    fn lines_come_in_chunks_and_go_on_from_a_position(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        for target in ["/stream?channel=l1", "/stream?channel=l1&channel=l2"] {
            let mut lines = Lines::open(&daemon, target);
            let first = lines.next();
            assert_eq!(first["ready"], true);
            publish(&daemon, "l1", 1..=10);
            let mut position = String::new();
            for number in 1..=4 {
                let line = lines.next();
                assert_eq!((&line["channel"], &line["data"]), (&json!("l1"), &json!(number)));
                position = line["position"].as_str().unwrap().into();
            }
            let mut lines = Lines::open(&daemon, &format!("{target}&position={position}"));
            assert_eq!(lines.next()["position"], position.as_str());
            for number in 5..=10 {
                assert_eq!(lines.next()["data"], number);
            }
            // Live again, after what was missed.
            publish(&daemon, "l1", [11]);
            assert_eq!(lines.next()["data"], 11);
        }
    }

    fn a_client_without_chunks_gets_plain_lines(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.send_bytes(b"GET /stream?channel=c HTTP/1.0\r\n\r\n");
        let (status, fields) = client.head();
        assert_eq!((status, fields["connection"].as_str()), (200, "close"));
        assert!(!fields.contains_key("transfer-encoding"));
        client.recv_until(b"\n");
        publish(&daemon, "c", [1, 2]);
        for number in 1..=2 {
            let line: Value = serde_json::from_slice(&client.recv_until(b"\n")).unwrap();
            assert_eq!(line["data"], number);
        }
        assert!(daemon.stop().success());
        let rest = client.recv_rest();
        let end: Value = serde_json::from_slice(&rest).unwrap();
        assert_eq!(end["disconnect"]["code"], 3001);
    }

    fn an_iframe_gets_script_calls(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.ask("/stream?channel=c&callback=app.on_message", "");
        let (status, fields) = client.head();
        assert_eq!((status, fields["content-type"].as_str()), (200, "text/html; charset=utf-8"));
        assert_eq!(fields["content-security-policy"], "frame-ancestors 'self'");
        let head = String::from_utf8(client.recv_until(b"</script>\n")).unwrap();
        assert!(head.ends_with("<script>function t(m){parent.app.on_message(m)}</script>\n"), "{head}");
        client.recv_until(b"\"ready\":true})</script>\n");
        daemon.api("publish", "{\"channel\":\"c\",\"data\":\"</script><b>\"}");
        let call = String::from_utf8(client.recv_until(b"</script>\n")).unwrap();
        assert!(call.contains("\"data\":\"\\u003c/script>\\u003cb>\"})</script>"), "{call}");
        for bad in ["alert(1)", "a%20b", "%3Cscript%3E"] {
            let answer = Socket::raw(&daemon).get(&format!("/stream?channel=c&callback={bad}"));
            assert_eq!(answer.problem(), (400, 107));
        }
    }

    fn a_client_that_never_reads_is_cut_off_and_the_others_are_served(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut lazy = Socket::raw(&daemon);
        lazy.ask("/stream?channel=short:c", "");
        lazy.head();
        let mut events = Events::open(&daemon, "/sse?channel=short:c", "");
        await_subscribers(&daemon, "short:c", 2);
        let payload = "x".repeat(60_000);
        let mut api = crate::process::Api::new(&daemon);
        for _ in 0..300 {
            api.call("publish", &format!("{{\"channel\":\"short:c\",\"data\":\"{payload}\"}}"));
            assert_eq!(events.next().event, "message");
        }
        // It comes back to its socket: what it was owed, then the loss is told and it goes on.
        let mut lines = Lines { client: lazy, pending: Vec::new() };
        let mut last = lines.next();
        while last["reset"].is_null() {
            last = lines.next();
        }
        assert_eq!(last["reset"], "short:c");
        publish(&daemon, "short:c", [1]);
        while last["data"] != 1 {
            last = lines.next();
        }
    }
}

/// A client of lines in chunks.
struct Lines {
    client: Socket,
    pending: Vec<u8>,
}

impl Lines {
    fn open(daemon: &Daemon, target: &str) -> Lines {
        let mut client = Socket::raw(daemon);
        client.ask(target, "");
        let (status, fields) = client.head();
        assert_eq!((status, fields["content-type"].as_str()), (200, "application/x-ndjson"));
        assert_eq!(fields["transfer-encoding"], "chunked");
        Lines { client, pending: Vec::new() }
    }

    fn next(&mut self) -> Value {
        loop {
            if let Some(at) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                if line.len() > 1 {
                    return serde_json::from_slice(&line).expect("JSON");
                }
                continue;
            }
            let size = self.client.recv_until(b"\r\n");
            let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).expect("a size");
            assert!(size > 0, "the stream ends");
            let chunk = self.client.recv_body(size);
            assert_eq!(self.client.recv_body(2), b"\r\n");
            self.pending.extend(chunk);
        }
    }
}
