//! Codes that a node gives by itself and that are hard to come by: each comes about as it does in life, and the list of ends says
//! whose doing it was.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{await_end, close_code, closed, connect};
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{Api, DEADLINE, Daemon};
use crate::socket::Socket;
use crate::token::token;

/// A URL with a Connect request in it.
fn uni(connect: &serde_json::Value) -> String {
    let encoded: String = connect.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/connection/uni_websocket?cf_connect={encoded}")
}

fn explains(daemon: &Daemon, query: &str, code: u16, by: &str, reason: &str) {
    let end = await_end(daemon, &format!("?{query}&code={code}"));
    assert_eq!(end["by"], json!(by), "{end}");
    assert!(end["reason"].as_str().is_some_and(|found| found.contains(reason)), "{end}");
}

on_both_drivers! {
    fn rules_that_end_a_client_are_explained(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let (mut ended, _) = connect(&daemon, "ended");
        daemon.api("disconnect", r#"{"user":"ended"}"#);
        assert_eq!(close_code(&mut ended), 3503);
        explains(&daemon, "user=ended", 3503, "api", "force disconnect");

        // It has no words for a refusal but the code of a close.
        let mut bare = Socket::open(&daemon, "/ws?channel=live:c&bare");
        bare.send(Frame::text("subscribe closed:x"));
        assert_eq!(close_code(&mut bare), 3507);
        explains(&daemon, "user=", 3507, "rule", "permission denied");

        let old = token(&json!({ "sub": "late", "exp": 1_000_000_000 }));
        let mut late = Socket::open(&daemon, &uni(&json!({ "token": old })));
        assert_eq!(close_code(&mut late), 3005);
        explains(&daemon, "limit=100", 3005, "rule", "expired");

        // A subscription that the server made, whose client shows an old token to keep it.
        let mut renews = Socket::open(&daemon, "/connection/websocket");
        let shown = token(&json!({ "sub": "renews", "subs": { "live:c": { "expire_at": 4_000_000_000_u64 } } }));
        renews.send(Frame::text(&json!({ "id": 1, "connect": { "token": shown } }).to_string()));
        assert!(String::from_utf8_lossy(&renews.recv().expect("an answer").payload).contains("live:c"));
        let old = token(&json!({ "sub": "renews", "channel": "live:c", "exp": 1_000_000_000 }));
        renews.send(Frame::text(&json!({ "id": 2, "sub_refresh": { "channel": "live:c", "token": old } }).to_string()));
        assert_eq!(close_code(&mut renews), 3006);
        explains(&daemon, "user=renews", 3006, "rule", "subscription expired");
    }

    fn a_backend_that_is_away_is_explained(driver: Driver) {
        let hook = "\n[[hook]]\nname = \"who\"\nendpoint = \"http://127.0.0.1:1/connect\"\n";
        let settings = [("CLIENT_CONNECT_HOOK", "who")];
        let daemon = Daemon::start_written(driver, &["--shards", "1"], &settings, hook);
        let mut socket = Socket::open(&daemon, &uni(&json!({})));
        assert_eq!(close_code(&mut socket), 3004);
        explains(&daemon, "user=", 3004, "backend", "internal server error");
    }

    /// A subscription of the server's that has lost something: its client cannot subscribe again, and comes back.
    fn a_gap_that_a_client_cannot_heal_is_explained(driver: Driver) {
        let settings = [("CLIENT_SEND_BUFFER_BYTES", "16KiB")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let mut behind = Socket::open(&daemon, "/connection/websocket");
        let shown = token(&json!({ "sub": "behind", "channels": ["short:crowd"] }));
        behind.send(Frame::text(&json!({ "id": 1, "connect": { "token": shown } }).to_string()));
        let mut api = Api::new(&daemon);
        let large = json!({ "channel": "short:crowd", "data": "y".repeat(30_000) }).to_string();
        let lags = || (0..2).any(|shard| {
            daemon.metric(&format!("trunkline_lagging_connections{{shard=\"{shard}\"}}")) > 0
        });
        let end = Instant::now() + DEADLINE;
        // Far behind what the stream and the log keep, for some time: the kernel may find room for more at first.
        let mut rounds = 0;
        while rounds < 3 && closed(&daemon, "?user=behind").is_empty() {
            (0..20).for_each(|_| drop(api.call("publish", &large)));
            rounds = if lags() { rounds + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(50));
            assert!(Instant::now() < end, "a client that does not read does not lag: {:#?}", closed(&daemon, ""));
        }
        assert_eq!(close_code(&mut behind), 3010);
        explains(&daemon, "user=behind", 3010, "rule", "insufficient state");
    }
}
