//! What an operator sees of a node: why clients were closed, who is connected, which channels there are, and the commands
//! that print it.

mod codes;
mod commands;
mod status;
mod tap;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frame::Frame;
use crate::http::Response;
use crate::on_both_drivers;
use crate::process::{API_KEY, Api, DEADLINE, Daemon};
use crate::socket::Socket;
use crate::token::token;

fn key() -> String {
    format!("X-API-Key: {API_KEY}\r\n")
}

fn get(daemon: &Daemon, target: &str) -> Response {
    Socket::raw(daemon).get_with(target, &key())
}

fn closed(daemon: &Daemon, query: &str) -> Vec<Value> {
    let response = get(daemon, &format!("/api/closed{query}"));
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["closed"].as_array().expect("a list").clone()
}

/// Waits for an end; gives the newest.
fn await_end(daemon: &Daemon, query: &str) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = closed(daemon, query).first() {
            return found.clone();
        }
        assert!(Instant::now() < end, "no end for {query}: {:#?}", closed(daemon, ""));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A client of the user that is connected, and its id.
fn connect(daemon: &Daemon, user: &str) -> (Socket, String) {
    let mut socket = Socket::open(daemon, "/connection/websocket");
    let shown = token(&json!({ "sub": user }));
    socket.send(Frame::text(&json!({ "id": 1, "connect": { "token": shown } }).to_string()));
    let answer = socket.recv().expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    let client = answer["connect"]["client"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (socket, client)
}

fn subscribe(socket: &mut Socket, channel: &str) {
    socket.send(Frame::text(&json!({ "id": 2, "subscribe": { "channel": channel } }).to_string()));
    let answer = socket.recv().expect("an answer");
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"subscribe\""), "{answer:?}");
}

/// The code of the Close frame that comes next, behind whatever else does.
fn close_code(socket: &mut Socket) -> u16 {
    loop {
        let frame = socket.recv().expect("a Close frame");
        if frame.opcode == 8 {
            return frame.close_code().expect("a code");
        }
    }
}

on_both_drivers! {
    /// Codes that only a backend gives are given by the API; the others come about as they do in life.
    fn each_code_is_explained_by_the_list_of_ends(driver: Driver) {
        let settings = [
            ("CLIENT_BYTES_PER_SECOND", "300KiB"),
            ("CLIENT_CONNECT_TIMEOUT", "1s"),
            ("CLIENT_MESSAGE_BYTES_MAX", "64KiB"),
            ("CLIENT_OUTBOX_BYTES_MAX", "64KiB"),
            ("CLIENT_SEND_BUFFER_BYTES", "16KiB"),
            ("CLIENT_USER_CONNECTIONS_MAX", "1"),
        ];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let mut stale = Socket::open(&daemon, "/connection/websocket");
        let (mut slow, _) = connect(&daemon, "slow");
        subscribe(&mut slow, "live:crowd");
        let explains = |user: &str, code: u16, by: &str, reason: &str| {
            let end = await_end(&daemon, &format!("?user={user}&code={code}"));
            assert_eq!((&end["by"], &end["transport"]), (&json!(by), &json!("websocket")), "{end}");
            assert!(end["reason"].as_str().is_some_and(|found| found.contains(reason)), "{end}");
            assert!(end["time_ms"].is_u64() && end["owed_bytes"].is_u64(), "{end}");
            end
        };

        let (mut leaves, client) = connect(&daemon, "leaves");
        leaves.send(Frame::close(1000, ""));
        leaves.expect_failed_by(1000);
        let end = explains("leaves", 3000, "client", "connection closed");
        assert_eq!(end["client"], json!(client));
        assert!(end["duration_ms"].is_u64(), "{end}");
        drop(connect(&daemon, "gone").0);
        explains("gone", 3000, "client", "connection closed");

        // By the API, with codes that are hard to come by: see `codes.rs` for those that this daemon gives by itself.
        for code in [3004_u16, 3006, 3009, 3010, 3014, 3503, 3505, 3506, 3507, 3508, 3509, 4000, 4500] {
            let user = format!("told-{code}");
            let (mut socket, _) = connect(&daemon, &user);
            let disconnect = json!({ "user": user, "disconnect": { "code": code, "reason": "of the backend" } });
            daemon.api("disconnect", &disconnect.to_string());
            assert_eq!(close_code(&mut socket), code);
            explains(&user, code, "api", "of the backend");
        }
        let (mut expires, _) = connect(&daemon, "expires");
        daemon.api("refresh", r#"{"user":"expires","expired":true}"#);
        assert_eq!(close_code(&mut expires), 3005);
        explains("expires", 3005, "api", "expired");

        // By rules of the protocol.
        let mut forged = Socket::open(&daemon, "/connection/websocket");
        forged.send(Frame::text(r#"{"id":1,"connect":{"token":"e30.e30.AA"}}"#));
        assert_eq!(close_code(&mut forged), 3500);
        explains("", 3500, "rule", "invalid token");
        let (mut confused, _) = connect(&daemon, "confused");
        confused.send(Frame::text("{"));
        assert_eq!(close_code(&mut confused), 3501);
        explains("confused", 3501, "rule", "bad request");
        assert_eq!(close_code(&mut stale), 3502);
        explains("", 3502, "rule", "stale");

        // By limits.
        let (_holds, _) = connect(&daemon, "twice");
        let mut second = Socket::open(&daemon, "/connection/websocket");
        let shown = token(&json!({ "sub": "twice" }));
        second.send(Frame::text(&json!({ "id": 1, "connect": { "token": shown } }).to_string()));
        assert_eq!(close_code(&mut second), 3504);
        explains("twice", 3504, "limit", "connection limit");
        let (mut floods, _) = connect(&daemon, "floods");
        let flood = json!({ "send": { "data": "x".repeat(60_000) } }).to_string();
        (0..40).for_each(|_| floods.send(Frame::text(&flood)));
        assert_eq!(close_code(&mut floods), 3013);
        explains("floods", 3013, "limit", "too many requests");
        let mut api = Api::new(&daemon);
        let large = json!({ "channel": "live:crowd", "data": "y".repeat(30_000) }).to_string();
        let end = Instant::now() + DEADLINE;
        while closed(&daemon, "?user=slow").is_empty() {
            assert!(Instant::now() < end, "a client that does not read is not closed");
            api.call("publish", &large);
        }
        let end = explains("slow", 3008, "limit", "slow");
        assert!(end["owed_bytes"].as_u64().is_some_and(|owed| owed > 0), "what it had not read: {end}");

        // By the node.
        let (mut moves, _) = connect(&daemon, "moves");
        daemon.api("reconnect", r#"{"user":"moves","over_ms":0}"#);
        assert_eq!(close_code(&mut moves), 3011);
        explains("moves", 3011, "node", "force reconnect");
        let (mut drained, _) = connect(&daemon, "drained");
        daemon.api("drain", r#"{"over_ms":0,"delay_ms":0}"#);
        assert_eq!(close_code(&mut drained), 3001);
        explains("drained", 3001, "node", "shutdown");
    }

    fn silence_and_replacement_are_explained_too(driver: Driver) {
        let settings = [
            ("CLIENT_PING_INTERVAL", "1s"),
            ("CLIENT_PONG_TIMEOUT", "500ms"),
            ("CLIENT_USER_CONNECTIONS_MAX", "1"),
            ("CLIENT_USER_CONNECTIONS_POLICY", "replace"),
            ("EVENTS_TYPES", "disconnected"),
        ];
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
        let (mut silent, _) = connect(&daemon, "silent");
        assert_eq!(close_code(&mut silent), 3012);
        let end = await_end(&daemon, "?user=silent&code=3012");
        assert_eq!(end["by"], "network", "{end}");
        // They are counted where events want them.
        assert!(end["received_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{end}");
        assert!(end["sent_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{end}");
        assert_eq!(end.get("ping_ms"), None, "no ping was answered: {end}");

        // One that answers its pings is known by how long that took.
        let (mut answers, client) = connect(&daemon, "answers");
        for _ in 0..2 {
            let ping = answers.recv().expect("a ping");
            assert_eq!(ping.payload, b"{}", "{ping:?}");
            answers.send(Frame::text("{}"));
        }
        let (_newer, _) = connect(&daemon, "answers");
        assert_eq!(close_code(&mut answers), 3510);
        let end = await_end(&daemon, &format!("?client={client}"));
        assert_eq!((&end["code"], &end["by"]), (&json!(3510), &json!("limit")), "{end}");
        assert!(end["ping_ms"].as_u64().is_some_and(|ms| ms < 500), "{end}");
        assert!(daemon.metric("trunkline_ping_round_trip_seconds_count") >= 2);
    }

    fn ends_come_in_pages_and_by_what_is_asked(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[("OBSERVE_CLOSED_KEPT", "20")]);
        for number in 0..30 {
            let (socket, _) = connect(&daemon, &format!("user-{number}"));
            socket.close();
            await_end(&daemon, &format!("?user=user-{number}"));
        }
        // Ten a shard are kept, and clients come to either.
        let all = closed(&daemon, "?limit=1000");
        assert!((10..=20).contains(&all.len()), "{}", all.len());
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(&daemon, &format!("/api/closed?limit=7{cursor}")).json();
            pages.extend(page["closed"].as_array().expect("a list").clone());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(pages, all);
        assert!(all.is_sorted_by_key(|end| std::cmp::Reverse(end["time_ms"].as_u64())));
        let newest = all[0]["time_ms"].as_u64().expect("a time");
        assert_eq!(closed(&daemon, &format!("?since_ms={}", newest + 1)).len(), 0);
        assert!(!closed(&daemon, &format!("?since_ms={newest}")).is_empty());
        for wrong in ["limit=0", "limit=1001", "cursor=x", "client=ann", "code=99999", "usr=ann"] {
            assert_eq!(get(&daemon, &format!("/api/closed?{wrong}")).status, 400, "{wrong}");
        }
        assert_eq!(Socket::raw(&daemon).get("/api/closed").status, 401);
    }

    fn no_end_is_kept_where_none_is_wanted(driver: Driver) {
        let daemon = Daemon::start_set(driver, &[], &[("OBSERVE_CLOSED_KEPT", "0")]);
        let (socket, _) = connect(&daemon, "ann");
        socket.close();
        let end = Instant::now() + DEADLINE;
        while daemon.metric("trunkline_clients_active") > 0 {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(closed(&daemon, ""), [Value::Null; 0]);
    }

    fn connections_are_found_by_user_channel_and_address(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[("ADMISSION_NETWORK_CONNECTIONS_MAX", "1000")]);
        let mut sockets: Vec<(Socket, String)> =
            (0..12).map(|number| connect(&daemon, if number % 3 == 0 { "ann" } else { "bob" })).collect();
        for (number, (socket, _)) in sockets.iter_mut().enumerate() {
            subscribe(socket, if number < 5 { "live:five" } else { "live:others" });
        }
        let all = |body: Value| {
            let (mut found, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
            loop {
                let mut asked = body.clone();
                asked["cursor"] = cursor;
                let page = daemon.api("connections", &asked.to_string());
                found.extend(page["connections"].as_array().expect("a list").clone());
                pages += 1;
                cursor = page["cursor"].clone();
                if cursor.is_null() {
                    return (found, pages);
                }
            }
        };
        let (everybody, _) = all(json!({}));
        let mut ids: Vec<&str> = everybody.iter().map(|seen| seen["client"].as_str().expect("an id")).collect();
        let mut own: Vec<&str> = sockets.iter().map(|(_, client)| client.as_str()).collect();
        ids.sort_unstable();
        own.sort_unstable();
        assert_eq!(ids, own);
        let (paged, pages) = all(json!({ "limit": 5 }));
        let clients = |seen: &[Value]| seen.iter().map(|seen| seen["client"].clone()).collect::<Vec<_>>();
        assert_eq!(clients(&paged), clients(&everybody));
        assert!(pages >= 3);
        assert_eq!(all(json!({ "user": "ann" })).0.len(), 4);
        assert_eq!(all(json!({ "channel": "live:five" })).0.len(), 5);
        assert_eq!(all(json!({ "channel": "live:five", "user": "ann" })).0.len(), 2);
        assert_eq!(all(json!({ "channel": "live:none" })).0.len(), 0);
        assert_eq!(all(json!({ "address": "127.0.0.0/8" })).0.len(), 12);
        assert_eq!(all(json!({ "address": "10.0.0.1" })).0.len(), 0);
        let one = &all(json!({ "user": "ann", "limit": 1 })).0[0];
        assert_eq!((&one["transport"], &one["num_channels"]), (&json!("websocket"), &json!(1)), "{one}");
        assert_eq!((&one["address"], one["since_ms"].is_u64()), (&json!("127.0.0.1"), true), "{one}");
        for wrong in [r#"{"limit":0}"#, r#"{"address":"x"}"#, r#"{"cursor":"1"}"#, r#"{"usr":"ann"}"#, "[]"] {
            let mut socket = Socket::raw(&daemon);
            let head = format!("POST /api/connections HTTP/1.1\r\nHost: t\r\n{}Content-Length: {}\r\n\r\n", key(), wrong.len());
            socket.send_bytes(format!("{head}{wrong}").as_bytes());
            assert_eq!(socket.response().status, 400, "{wrong}");
        }
    }

    fn channels_come_in_pages_with_their_sizes(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[]);
        let mut api = Api::new(&daemon);
        for number in 0..25 {
            let publish = json!({ "channel": format!("open:{number:02}"), "data": { "n": number } });
            (0..3).for_each(|_| drop(api.call("publish", &publish.to_string())));
        }
        let (mut reader, _) = connect(&daemon, "ann");
        subscribe(&mut reader, "open:07");
        let (mut names, mut cursor) = (Vec::new(), String::new());
        loop {
            let asked = json!({ "pattern": "open:*", "limit": 10, "cursor": cursor });
            let page = api.call("channels", &asked.to_string())["result"].take();
            let channels = page["channels"].as_object().expect("channels").clone();
            assert!(channels.len() <= 10);
            for (name, size) in channels {
                assert_eq!((&size["history"], &size["offset"]), (&json!(3), &json!(3)), "{size}");
                assert_eq!(size["num_clients"], json!(u32::from(name == "open:07")), "{name}");
                names.push(name);
            }
            match page["cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!(names, (0..25).map(|number| format!("open:{number:02}")).collect::<Vec<_>>());
        // Without a limit it is as ever: those with subscribers, and nothing else.
        let all = api.call("channels", "{}");
        assert_eq!(all["result"]["channels"], json!({ "open:07": { "num_clients": 1 } }));
        let wrong = api.call("channels", r#"{"limit":10001}"#);
        assert_eq!(wrong["error"]["code"], 107, "{wrong}");
    }
}
