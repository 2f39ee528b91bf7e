//! `GET /api/status`: clients by transport, times by stage, what waits in shards.

use std::time::Instant;

use serde_json::{Value, json};

use super::{connect, get, key, subscribe};
use crate::on_both_drivers;
use crate::process::{DEADLINE, Daemon};
use crate::socket::Socket;

fn status(daemon: &Daemon) -> Value {
    let response = get(daemon, "/api/status");
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Waits until the clients are these by transport.
fn await_transports(daemon: &Daemon, expected: &Value) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        let seen = status(daemon);
        if seen["transports"] == *expected {
            return seen;
        }
        assert!(Instant::now() < end, "{} instead of {expected}", seen["transports"]);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

on_both_drivers! {
    fn clients_are_counted_by_transport_as_they_come_and_go(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[]);
        let opened = |target: &str| {
            let mut socket = Socket::raw(&daemon);
            socket.send_bytes(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            assert!(socket.recv_head().contains(" 200 "), "{target}");
            socket
        };
        await_transports(&daemon, &json!({}));
        let (ann, client) = connect(&daemon, "ann");
        let bob = connect(&daemon, "bob").0;
        let events = opened("/sse?channel=live:x");
        let lines = opened("/stream?channel=live:x");
        let plain = Socket::open(&daemon, "/ws?channel=live:x");
        let all = json!({ "websocket": 2, "sse": 1, "http_stream": 1, "uni_websocket": 1 });
        let seen = await_transports(&daemon, &all);
        assert_eq!(seen["clients"], 5);

        // One is found by its id, and nobody by an id that has gone.
        let found = |client: &str| {
            let asked = json!({ "client": client }).to_string();
            let mut socket = Socket::raw(&daemon);
            let head = "POST /api/connections HTTP/1.1\r\nHost: t\r\n";
            let length = asked.len();
            socket.send_bytes(format!("{head}{}Content-Length: {length}\r\n\r\n{asked}", key()).as_bytes());
            socket.response()
        };
        let connections = |client: &str| found(client).json()["connections"].as_array().expect("a list").clone();
        let one = connections(&client);
        assert_eq!((one.len(), &one[0]["user"], &one[0]["client"]), (1, &json!("ann"), &json!(client)));
        assert_eq!(found("ann").status, 400);

        drop((ann, lines));
        await_transports(&daemon, &json!({ "websocket": 1, "sse": 1, "uni_websocket": 1 }));
        assert!(connections(&client).is_empty());
        drop((bob, events, plain));
        let seen = await_transports(&daemon, &json!({}));
        assert_eq!(seen["clients"], 0);
    }

    fn the_times_of_publications_and_what_waits_are_shown(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[]);
        let (mut ann, _) = connect(&daemon, "ann");
        subscribe(&mut ann, "live:times");
        let sum = |counts: &Value| counts.as_array().expect("buckets").iter().filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(sum(&status(&daemon)["stages"]["last_write"]), 0);
        for _ in 0..7 {
            daemon.api("publish", r#"{"channel":"live:times","data":1}"#);
            ann.recv().expect("a publication");
        }
        let end = Instant::now() + DEADLINE;
        let seen = loop {
            let seen = status(&daemon);
            if sum(&seen["stages"]["last_write"]) == 7 {
                break seen;
            }
            assert!(Instant::now() < end, "{}", seen["stages"]);
        };
        let buckets = seen["bounds_us"].as_array().expect("bounds").len() + 1;
        for stage in ["accepted", "appended", "first_write", "last_write"] {
            assert_eq!(sum(&seen["stages"][stage]), 7, "{stage}");
            assert_eq!(seen["stages"][stage].as_array().map(Vec::len), Some(buckets));
        }
        for shard in seen["shards"].as_array().expect("shards") {
            assert!(sum(&shard["turns"]) > 0, "{shard}");
            for waiting in ["inbox_messages", "mail_waiting", "undelivered_bytes", "lagging_connections"] {
                assert!(shard[waiting].is_u64(), "{waiting} of {shard}");
            }
        }
        assert_eq!((&seen["ready"], seen.get("not_ready"), seen.get("engine")), (&json!(true), None, None));
    }
}
