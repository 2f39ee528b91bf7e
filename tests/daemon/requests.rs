//! HTTP on the port of clients, as requests cost: what is kept of them, for how long, and what they are answered.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use crate::http::{Response, request};
use crate::on_both_drivers;
use crate::process::{API_KEY, Api, DEADLINE, Daemon};
use crate::socket::Socket;

/// What one connection may cost that sends requests and reads no answer, in bytes: its answer, two reads of input, and
/// what a debug build's tables grow by meanwhile.
const UNREAD_BYTES_MAX: f64 = 12e6;

fn resident(daemon: &Daemon) -> f64 {
    let info = daemon.api("info", "{}");
    info["result"]["nodes"][0]["process"]["rss"].as_f64().expect("bytes")
}

/// A channel with messages of this many bytes.
fn fill(daemon: &Daemon, channel: &str, messages: usize, bytes: usize) {
    let mut api = Api::new(daemon);
    for at in 0..messages {
        let text = format!("{at}:{}", "x".repeat(bytes));
        api.call("publish", &format!("{{\"channel\":\"{channel}\",\"data\":\"{text}\"}}"));
    }
}

fn post(target: &str, extra: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\n{extra}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The head of a request with a body of a million bytes that does not come.
fn announced(target: &str, extra: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\n{extra}Content-Length: 1000000\r\n\r\n")
}

/// One request on a connection of its own.
fn once(daemon: &Daemon, text: &str) -> Response {
    let mut client = Socket::raw(daemon);
    client.send_bytes(text.as_bytes());
    client.response()
}

/// The same connection answers another request.
fn goes_on(client: &mut Socket) {
    assert_eq!(client.get("/health").status, 200);
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    let mut client = Socket::raw(daemon);
    let text = String::from_utf8(client.get_with("/metrics", &format!("X-API-Key: {API_KEY}\r\n")).body)
        .expect("text");
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split(' ').next_back()?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

on_both_drivers! {
    /// Requests whose answers nobody reads: the daemon stops reading, keeps one answer, and goes on when it is read.
    fn a_client_that_reads_no_answers_is_not_read_from(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        fill(&daemon, "open:c", 100, 3_000);
        let kinds = [
            ("/history?channel=open:c&limit=100", 200, 8_000),
            ("/history?channel=open:c&position=!", 400, 400),
            ("/nothing", 404, 400),
            ("/health", 200, 400),
        ];
        for (target, status, padding) in kinds {
            // So that what the kernel holds of requests is not too many to be answered in a test.
            let text = request(target, &format!("X: {}\r\n", "x".repeat(padding)));
            let mut client = daemon.connect();
            client.set_nonblocking(true).expect("a socket");
            let before = resident(&daemon);
            // Whole requests until nothing is taken for a while: more than kernel buffers hold would be a flood.
            let (mut sent, mut quiet) = (0, Instant::now());
            while quiet.elapsed() < Duration::from_millis(700) {
                let at = sent % text.len();
                match client.write(&text.as_bytes()[at..]) {
                    Ok(len) => (sent, quiet) = (sent + len, Instant::now()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
                    Err(error) => panic!("{target}: {error}"),
                }
                assert!(sent < 64 << 20, "{target}: everything is read");
            }
            let grown = resident(&daemon) - before;
            assert!(grown < UNREAD_BYTES_MAX, "{target}: {grown} bytes more after {sent} bytes of requests");

            // Now it reads, and gets an answer for each request that it has sent whole. The last is whole, too.
            client.set_nonblocking(false).expect("a socket");
            let mut writer = client.try_clone().expect("a descriptor");
            let rest = text.as_bytes()[sent % text.len()..].to_vec();
            let total = sent / text.len() + 1;
            let writing = thread::spawn(move || writer.write_all(&rest).expect("the daemon reads"));
            let mut answers = Socket::over(client);
            for at in 0..total {
                assert_eq!(answers.response().status, status, "{target}: answer {at} of {total}");
            }
            writing.join().expect("a thread");
        }
    }

    /// A peer that takes nothing of an answer is given up, and its slot is free.
    fn one_slow_answer_does_not_hold_others(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        fill(&daemon, "open:c", 300, 3_000);
        let text = request("/history?channel=open:c&limit=300", "");
        let mut stalled: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
        for client in &mut stalled {
            client.write_all(text.repeat(200).as_bytes()).expect("within the kernel's buffers");
        }
        for _ in 0..50 {
            let mut client = Socket::raw(&daemon);
            assert_eq!(client.get("/history?channel=open:c&limit=300").data().len(), 300);
        }
        // They read after all: the answer that was begun goes on where it was.
        let mut client = Socket::over(stalled.remove(0));
        for _ in 0..200 {
            assert_eq!(client.response().data().len(), 300);
        }
    }

    fn what_a_request_may_do_is_known_before_its_body(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        for (target, extra, status) in [
            ("/api/publish", "", 401),
            ("/api/publish", "X-API-Key: wrong\r\n", 401),
            ("/api/publish", "X-API-Key: wrong\r\nExpect: 100-continue\r\n", 401),
            ("/api/nothing", "", 401),
            ("/api/nothing", &format!("X-API-Key: {API_KEY}\r\n"), 404),
            ("/api/connections/x", "", 401),
            ("/api/tunnel/x/tickets", "", 401),
            ("/nothing", "", 404),
            ("/health", "", 405),
            ("/sse?channel=c", "", 405),
        ] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(announced(target, extra).as_bytes());
            let answer = client.response();
            assert_eq!(answer.status, status, "{target} {extra}");
            assert_eq!(answer.field("connection"), "close", "{target} {extra}");
        }
        // What is too long is refused by its announcement, with a key or without.
        let long = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: {API_KEY}\r\nContent-Length: 1048577\r\n\r\n");
        assert_eq!(once(&daemon, &long).status, 413);
        // A body that is there already is passed over, and the connection goes on.
        for (text, status) in [
            (post("/api/publish", "", "{}"), 401),
            (post("/nothing", "", "{\"a\":1}"), 404),
            ("POST /nothing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\nX: y\r\n\r\n".to_string(), 404),
        ] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(text.as_bytes());
            assert_eq!(client.response().status, status, "{text}");
            goes_on(&mut client);
        }
        // With the key, the body is awaited and read.
        let mut client = Socket::raw(&daemon);
        let key = format!("X-API-Key: {API_KEY}\r\nExpect: 100-continue\r\n");
        let body = "{\"channel\":\"c\",\"data\":1}";
        let whole = post("/api/publish", &key, body);
        let (head, body) = whole.split_at(whole.len() - body.len());
        client.send_bytes(head.as_bytes());
        assert!(client.recv_head().starts_with("HTTP/1.1 100 "));
        client.send_bytes(body.as_bytes());
        assert_eq!(client.response().json()["result"]["offset"], 1);
        goes_on(&mut client);
    }

    /// A byte now and then does not keep a request.
    fn bodies_and_heads_have_a_deadline(driver: Driver) {
        let settings = [("CLIENT_CONNECT_TIMEOUT", "1s"), ("LIMITS_HTTP_BODY_TIMEOUT", "4s"), ("API_BODY_BYTES_MAX", "8MiB")];
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
        let key = format!("X-API-Key: {API_KEY}\r\n");
        let publish = announced("/publish?channel=open:c", "").replace("1000000", "60000");
        // The start, what follows it, again and again.
        for (start, more) in [
            ("GET /health HTTP/1.1\r\nHost: a\r\n", "X"),
            (&*announced("/api/publish", &key), "x"),
            // It came fast at first.
            (&(announced("/api/publish", &key) + &"x".repeat(900_000)), "x"),
            // Fast enough, and too long in all.
            (&announced("/api/publish", &key).replace("1000000", "8000000"), &"x".repeat(2_000)),
            (&publish, "x"),
        ] {
            let mut client = Socket::raw(&daemon);
            // Not the first request of its connection: that one has no more time than others.
            goes_on(&mut client);
            client.send_bytes(start.as_bytes());
            let mut writer = client.writer();
            let more = more.to_string();
            let writing = thread::spawn(move || {
                let end = Instant::now() + DEADLINE;
                while Instant::now() < end && writer.write_all(more.as_bytes()).is_ok() {
                    thread::sleep(Duration::from_millis(200));
                }
                assert!(Instant::now() < end, "a request that never ends is served for ever");
            });
            assert_eq!(client.response().status, 408, "{}", &start[..60.min(start.len())]);
            writing.join().expect("it ends");
        }
        // A body that takes longer than a stretch and brings enough is taken.
        let body = format!("{{\"channel\":\"c\",\"data\":\"{}\"}}", "x".repeat(12_000));
        let whole = post("/api/publish", &key, &body);
        let mut client = Socket::raw(&daemon);
        for piece in whole.as_bytes().chunks(1_000) {
            client.send_bytes(piece);
            thread::sleep(Duration::from_millis(150));
        }
        assert_eq!(client.response().status, 200);
    }

    /// What strangers leave unfinished is bounded in sum, costs those with a key nothing, and is free again when they go.
    fn unfinished_requests_are_bounded_in_sum(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &[("LIMITS_HTTP_INPUT_BYTES_MAX", "1MiB")]);
        let head = format!("GET /health HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(12_000));
        let body = announced("/publish?channel=open:c", "").replace("1000000", "60000") + &"x".repeat(40_000);
        for start in [head, body] {
            let mut held: Vec<Socket> = (0..150).map(|_| Socket::raw(&daemon)).collect();
            for client in &mut held {
                client.send_bytes(start.as_bytes());
            }
            // Whoever is refused has the answer; the others wait for the rest of their request. Read again until nothing
            // changes, since a busy machine answers late.
            let answered = |held: &[Socket]| {
                let answers = held.iter().filter_map(|client| {
                    let stream = client.writer();
                    stream.set_nonblocking(true).expect("a socket");
                    let mut answer = [0; 12];
                    let peeked = stream.peek(&mut answer);
                    stream.set_nonblocking(false).expect("a socket");
                    peeked.ok().map(|len| (len, answer))
                });
                answers.collect::<Vec<_>>()
            };
            let end = Instant::now() + DEADLINE;
            let mut refused = answered(&held);
            loop {
                assert!(Instant::now() < end, "{} of 150", refused.len());
                thread::sleep(Duration::from_millis(300));
                let before = std::mem::replace(&mut refused, answered(&held));
                if before.len() == refused.len() && refused.len() > 50 {
                    break;
                }
            }
            assert!(refused.len() < 150, "{} of 150", refused.len());
            assert!(refused.iter().all(|answer| *answer == (12, *b"HTTP/1.1 503")));
            let counted = metric(&daemon, "trunkline_faults_total{cause=\"http_input_full\"}");
            assert!(counted >= refused.len() as f64, "{counted}");
            // Whole requests need no room, and those with a key have their own.
            assert_eq!(once(&daemon, &request("/health", "")).status, 200);
            let key = format!("X-API-Key: {API_KEY}\r\n");
            let large = format!("{{\"channel\":\"c\",\"data\":\"{}\"}}", "x".repeat(500_000));
            assert_eq!(once(&daemon, &post("/api/publish", &key, &large)).status, 200);
            drop(held);
            // They have gone: there is room again.
            let end = Instant::now() + DEADLINE;
            let mut client = Socket::raw(&daemon);
            loop {
                client.send_bytes(start.as_bytes());
                let mut stream = client.writer();
                stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
                if stream.read(&mut [0; 12]).is_err() {
                    break;
                }
                assert!(Instant::now() < end, "the room is not given back");
                client = Socket::raw(&daemon);
            }
        }
    }

    fn malformed_framing_is_refused(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        let get = |fields: &str| format!("GET /health HTTP/1.1\r\n{fields}\r\n");
        let chunked = |body: &str| {
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
        };
        for text in [
            get(""),
            get("Host: a\r\nHost: a\r\n"),
            get("Host: a:8x\r\n"),
            get("Host: a b\r\n"),
            get("Host: [::1\r\n"),
            get("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n"),
            get("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n"),
            chunked("1;\0\r\nx\r\n0\r\n\r\n"),
            chunked("1;a=\"\0\"\r\nx\r\n0\r\n\r\n"),
            chunked("1;;\r\nx\r\n0\r\n\r\n"),
            chunked("1;a=\r\nx\r\n0\r\n\r\n"),
            chunked("1\r\nx\r\n0\r\nno colon\r\n\r\n"),
            chunked("1\r\nx\r\n0\r\nno-colon\r\n\r\n"),
        ] {
            let answer = once(&daemon, &text);
            assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{text:?}");
        }
        assert_eq!(once(&daemon, &chunked("1;a=\"b\";c\r\nx\r\n0\r\nX: y\r\n\r\n")).body, b"x");
    }

    /// HAProxy asks `OPTIONS /` or `OPTIONS *`, others OPTIONS of the path that they are given.
    fn load_balancers_may_ask_with_options(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        for (target, version) in [("*", "1.1"), ("*", "1.0"), ("/", "1.0"), ("/", "1.1"), ("/health", "1.0"), ("/health", "1.1")] {
            let host = if version == "1.1" { "Host: a\r\n" } else { "" };
            let answer = once(&daemon, &format!("OPTIONS {target} HTTP/{version}\r\n{host}\r\n"));
            assert_eq!((answer.status, answer.field("allow")), (204, "GET, HEAD, OPTIONS"), "{target} {version}");
        }
        assert_eq!(once(&daemon, "GET * HTTP/1.1\r\nHost: a\r\n\r\n").status, 400);
        assert_eq!(once(&daemon, "OPTIONS /nothing HTTP/1.1\r\nHost: a\r\n\r\n").status, 404);
    }

    fn idle_connections_are_kept_as_configured(driver: Driver) {
        let settings = [("CLIENT_CONNECT_TIMEOUT", "1s"), ("LIMITS_HTTP_KEEP_ALIVE", "8s")];
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
        for target in ["/health", "/history?channel=open:c"] {
            let mut client = Socket::raw(&daemon);
            client.get(target);
            // Longer than a new connection may be silent.
            thread::sleep(Duration::from_secs(2));
            client.get(target);
            // The end comes by itself.
            client.expect_end();
        }
    }

    fn long_answers_are_compressed_beside_the_shard(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        fill(&daemon, "open:c", 300, 3_000);
        let mut client = Socket::raw(&daemon);
        let gzip = "Accept-Encoding: gzip\r\n";
        for limit in [1, 3, 300] {
            let target = format!("/history?channel=open:c&limit={limit}");
            let plain = client.get(&target);
            let packed = client.get_with(&target, gzip);
            assert_eq!(packed.field("content-encoding"), "gzip", "{limit}");
            for name in ["etag", "cache-control", "vary", "content-type", "x-content-type-options"] {
                assert_eq!(packed.field(name), plain.field(name), "{name}");
            }
            let mut body = Vec::new();
            GzDecoder::new(&packed.body[..]).read_to_end(&mut body).expect("gzip");
            assert_eq!(body, plain.body, "{limit}");
        }
        // In turn with others, and the last of a connection.
        let long = request("/history?channel=open:c&limit=300", gzip);
        let last = request("/history?channel=open:c&limit=300", "Accept-Encoding: gzip\r\nConnection: close\r\n");
        client.send_bytes(format!("{long}{}{last}", request("/health", "")).as_bytes());
        assert_eq!(client.response().field("content-encoding"), "gzip");
        assert_eq!(client.response().body, b"{}");
        let answer = client.response();
        assert_eq!((answer.field("content-encoding"), answer.field("connection")), ("gzip", "close"));
        client.expect_end();

        // More than may wait: each has its answer, in one form or the other.
        let mut crowd: Vec<Socket> = (0..100).map(|_| Socket::raw(&daemon)).collect();
        for client in &mut crowd {
            client.send_bytes(long.as_bytes());
        }
        for client in &mut crowd {
            let answer = client.response();
            let body = match answer.field("content-encoding") {
                "gzip" => {
                    let mut body = Vec::new();
                    GzDecoder::new(&answer.body[..]).read_to_end(&mut body).expect("gzip");
                    body
                }
                _ => answer.body,
            };
            assert!(body.len() > 900_000, "{}", body.len());
        }
    }

    /// A client that ends its side after its request gets all of an answer that does not fit the kernel's buffers.
    fn a_half_closed_client_gets_its_answer(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        fill(&daemon, "open:c", 300, 3_000);
        for requests in [1, 20] {
            let mut client = Socket::raw(&daemon);
            client.send_bytes(request("/history?channel=open:c&limit=300", "").repeat(requests).as_bytes());
            if requests == 1 {
                client.finish_sending();
            }
            thread::sleep(Duration::from_millis(300));
            if requests > 1 {
                client.finish_sending();
            }
            for _ in 0..requests {
                assert_eq!(client.response().data().len(), 300);
            }
            client.expect_end();
        }
    }
}
