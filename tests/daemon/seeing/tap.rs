//! Taps: what is shown, to whom it is refused, and what a reader that stalls costs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{connect, key, subscribe};
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::Socket;

fn start(driver: Driver) -> Daemon {
    Daemon::start_with(driver, &["--shards", "2", "--api-listen", "127.0.0.1:0"])
}

/// The status of a tap, and its lines.
fn tap(daemon: &Daemon, query: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = daemon.connect_to_api();
    write!(stream, "GET /api/tap?{query} HTTP/1.1\r\nHost: t\r\n{}\r\n", key()).expect("a request");
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).expect("a status");
    let status = line.split(' ').nth(1).expect("a status").parse().expect("a number");
    while line != "\r\n" {
        line.clear();
        lines.read_line(&mut line).expect("a head");
    }
    (status, lines)
}

/// Lines up to one for which `last` holds.
fn lines_until(lines: &mut BufReader<TcpStream>, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("a line") > 0, "the tap ended: {seen:#?}");
        seen.push(serde_json::from_str::<Value>(&line).expect("JSON"));
        if last(&seen[seen.len() - 1]) {
            return seen;
        }
    }
}

on_both_drivers! {
    fn a_tap_shows_one_user_from_the_first_message_to_the_end(driver: Driver) {
        let daemon = start(driver);
        let (status, mut brief) = tap(&daemon, "user=ann");
        assert_eq!(status, 200);
        let (_, mut whole) = tap(&daemon, "user=ann&payloads=true");
        let (mut other, _) = connect(&daemon, "bob");
        let (mut ann, client) = connect(&daemon, "ann");
        subscribe(&mut other, "open:bobs");
        subscribe(&mut ann, "open:news");
        ann.send(Frame::text(&json!({ "id": 3, "publish": { "channel": "open:news", "data": { "token": "hush", "n": 41 } } }).to_string()));
        ann.send(Frame::close(1000, ""));
        let ended = |line: &Value| line["what"] == "ended";
        let seen = lines_until(&mut whole, ended);
        let what: Vec<&str> = seen.iter().map(|line| line["what"].as_str().expect("what")).collect();
        assert_eq!(what[0], "connected", "{what:?}");
        assert!(what.contains(&"in") && what.contains(&"out"), "{what:?}");
        assert!(seen.iter().all(|line| line["client"] == json!(client) && line["user"] == "ann"), "{seen:#?}");
        let text = Value::from(seen.clone()).to_string();
        assert!(text.contains("\"n\":41") && !text.contains("hush") && !text.contains("bobs"), "{text}");
        assert_eq!(seen[seen.len() - 1]["by"], "client");
        let text = Value::from(lines_until(&mut brief, ended)).to_string();
        // Ids and times are of any digits.
        let shows = ["payload", "\"n\"", "hush"].iter().any(|part| text.contains(part));
        assert!(text.contains("\"says\":[\"publish\"]") && !shows, "{text}");
    }

    fn a_tap_shows_what_happens_to_a_channel(driver: Driver) {
        let daemon = start(driver);
        let (_, mut lines) = tap(&daemon, "channel=open:news&payloads=true");
        let (mut ann, _) = connect(&daemon, "ann");
        subscribe(&mut ann, "open:news");
        let api = |body: &str| {
            let mut socket = Socket::over(daemon.connect_to_api());
            let head = format!("POST /api/publish HTTP/1.1\r\nHost: t\r\n{}Content-Length: {}\r\n\r\n", key(), body.len());
            socket.send_bytes(format!("{head}{body}").as_bytes());
            assert_eq!(socket.response().status, 200);
        };
        api(r#"{"channel":"open:else","data":{"n":1}}"#);
        api(r#"{"channel":"open:news","data":{"n":2}}"#);
        drop(ann);
        let seen = lines_until(&mut lines, |line| line["what"] == "left");
        let what: Vec<&str> = seen.iter().map(|line| line["what"].as_str().expect("what")).collect();
        assert_eq!(what, ["joined", "published", "left"]);
        assert_eq!(seen[1]["payload"], json!([{ "n": 2 }]), "{seen:#?}");
    }

    fn what_would_show_everything_or_nothing_is_refused(driver: Driver) {
        let daemon = start(driver);
        for wrong in [
            "", "payloads=true", "user=ann&channel=news", "user=", "channel=", "client=ann", "tunnel=none",
            "address=0.0.0.0/0", "address=%3A%3A/0", "address=x", "all=true",
        ] {
            assert_eq!(tap(&daemon, wrong).0, 400, "{wrong}");
        }
        let held: Vec<_> = (0..8).map(|number| tap(&daemon, &format!("user=user-{number}"))).collect();
        assert!(held.iter().all(|(status, _)| *status == 200));
        assert_eq!(tap(&daemon, "user=ann").0, 429);
        drop(held);
        let end = std::time::Instant::now() + crate::process::DEADLINE;
        while tap(&daemon, "user=ann").0 != 200 {
            assert!(std::time::Instant::now() < end, "readers have left, and their taps stay");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // A port of clients cannot stream; there it has the API only in development, and says where it could.
        let shared = Daemon::start_with(driver, &["--shards", "1"]);
        assert_eq!(Socket::raw(&shared).get_with("/api/tap?user=ann", &key()).status, 409);
        assert_eq!(Socket::raw(&shared).get("/api/tap?user=ann").status, 401);
    }

    fn a_reader_that_stalls_is_told_what_it_has_lost(driver: Driver) {
        let daemon = start(driver);
        let (_, mut lines) = tap(&daemon, "user=ann&payloads=true");
        let (mut ann, _) = connect(&daemon, "ann");
        subscribe(&mut ann, "open:news");
        // More than a socket's buffers and a mebibyte have room for, while nobody reads.
        let message = json!({ "send": { "data": "x".repeat(60_000) } }).to_string();
        for _ in 0..300 {
            ann.send(Frame::text(&message));
        }
        ann.send(Frame::text(&json!({ "id": 9, "publish": { "channel": "open:news", "data": 1 } }).to_string()));
        loop {
            let frame = ann.recv().expect("an answer: the client waits for nobody");
            if String::from_utf8_lossy(&frame.payload).contains("\"id\":9") {
                break;
            }
        }
        let seen = lines_until(&mut lines, |line| line["what"] == "lost");
        assert!(seen[seen.len() - 1]["lost"].as_u64().is_some_and(|lost| lost > 0));
        assert!(seen.len() < 300, "{}", seen.len());
    }
}
