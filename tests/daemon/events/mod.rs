//! What the backend is told: in order, until it accepts, and nothing silently lost.

mod backend;
mod kept;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::backend::{Backend, Manner, SECRET};
use crate::frame::Frame;
use crate::http::Response;
use crate::on_both_drivers;
use crate::process::{API_KEY, Daemon, Driver};
use crate::socket::Socket;
use crate::unidirectional::client::Events;
use trunkline::session::token::{ConnectToken, TokenBasis, sign_connect};

const EVERYTHING: &str = "connected,disconnected,subscribed,unsubscribed,occupied,vacated,message";

/// A daemon whose events are only kept.
fn keeping(driver: Driver, settings: &[(&str, &str)]) -> Daemon {
    let all = [&[("EVENTS_TYPES", EVERYTHING), ("EVENTS_VACATED_DELAY", "10ms")], settings].concat();
    Daemon::start_set(driver, &["--shards", "2"], &all)
}

/// A daemon that tells `backend`.
fn telling(driver: Driver, backend: &Backend, types: &str, settings: &[(&str, &str)]) -> Daemon {
    let endpoint = backend.endpoint();
    let own = [
        ("EVENTS_TYPES", types),
        ("EVENTS_ENDPOINT", &*endpoint),
        ("EVENTS_SECRET", SECRET),
        // Clients here say in a moment what others say in a minute.
        ("CLIENT_COMMANDS_PER_SECOND", "0"),
    ];
    Daemon::start_set(driver, &["--shards", "2"], &[&own, settings].concat())
}

fn read(daemon: &Daemon, query: &str) -> Response {
    Socket::raw(daemon).get_with(&format!("/api/events{query}"), &format!("X-API-Key: {API_KEY}\r\n"))
}

fn page(daemon: &Daemon, query: &str) -> Value {
    let response = read(daemon, query);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Waits until the log has events that satisfy `enough`; gives all of them.
fn await_events(daemon: &Daemon, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let end = std::time::Instant::now() + crate::process::DEADLINE;
    loop {
        let events = page(daemon, "?limit=10000")["events"].as_array().expect("events").clone();
        if enough(&events) {
            return events;
        }
        assert!(std::time::Instant::now() < end, "events did not come: {events:#?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn await_type(daemon: &Daemon, kind: &str, count: usize) -> Vec<Value> {
    let of =
        |events: &[Value]| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
    of(&await_events(daemon, |events| of(events).len() >= count))
}

/// A client that is connected; its id.
fn connect(daemon: &Daemon, token: &str) -> (Socket, String) {
    let mut socket = Socket::open(daemon, "/connection/websocket");
    socket.send(Frame::text(&json!({"id": 1, "connect": {"token": token}}).to_string()));
    let answer = socket.recv().expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    let client = answer["connect"]["client"].as_str().unwrap_or_else(|| panic!("{answer}"));
    (socket, client.to_string())
}

fn subscribe(socket: &mut Socket, channel: &str) {
    socket.send(Frame::text(&json!({"id": 2, "subscribe": {"channel": channel}}).to_string()));
    let answer = socket.recv().expect("an answer");
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"subscribe\""), "{answer:?}");
}

/// Sends `numbers` as messages to the backend, many in a frame.
fn send_messages(socket: &mut Socket, numbers: std::ops::Range<u64>) {
    let lines: Vec<String> =
        numbers.map(|number| json!({"send": {"data": {"n": number}}}).to_string()).collect();
    for frame in lines.chunks(500) {
        socket.send(Frame::text(&frame.join("\n")));
    }
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().expect("a number")
}

/// The numbers that an event stands for.
fn span(event: &Value) -> (u64, u64) {
    match event["type"] == "gap" {
        true => (event["from"].as_u64().unwrap(), event["to"].as_u64().unwrap()),
        false => (seq(event), seq(event)),
    }
}

/// Each goes on where the one before it ended.
fn assert_unbroken<'e>(events: impl IntoIterator<Item = &'e Value>, first: u64) -> u64 {
    let mut next = first;
    for event in events {
        let (from, to) = span(event);
        assert_eq!(from, next, "{event}");
        next = to + 1;
    }
    next - 1
}

on_both_drivers! {
    fn twenty_thousand_events_outlive_three_ends_of_the_backend(driver: Driver) {
        const MESSAGES: u64 = 20_000;
        let mut backend = Backend::start();
        let daemon = telling(driver, &backend, "connected,message", &[]);
        let (mut socket, client) = connect(&daemon, "");
        for part in 0..4 {
            let half = MESSAGES / 8;
            let begin = part * half * 2;
            send_messages(&mut socket, begin..begin + half);
            if part > 0 {
                // It takes a batch in, and is gone before it has said so.
                let before = backend.batches().len();
                backend.set(Manner::Swallow);
                send_messages(&mut socket, begin + half..begin + half + 1);
                backend.wait_for("a batch to swallow", |batches| {
                    batches[before..].iter().find(|batch| batch.manner == Manner::Swallow).map(drop)
                });
                backend.kill();
                send_messages(&mut socket, begin + half + 1..begin + half * 2);
                backend.set(Manner::Accept);
                backend.restart();
            } else {
                send_messages(&mut socket, begin + half..begin + half * 2);
            }
        }
        let all = MESSAGES + 1;
        let batches = backend.wait_for("the last event", |batches| {
            batches.last().filter(|batch| batch.events.last().is_some_and(|last| seq(last) == all))?;
            Some(batches.to_vec())
        });

        let (mut next, mut repeated) = (1, 0);
        let mut previous: Option<&backend::Batch> = None;
        for batch in &batches {
            if let Some(previous) = previous.filter(|previous| previous.key == batch.key) {
                assert_eq!(previous.text, batch.text, "the same key, and another batch");
                repeated += 1;
                continue;
            }
            let last = assert_unbroken(&batch.events, next);
            assert!(batch.key.ends_with(&format!("-{next}-{last}")), "{}", batch.key);
            next = last + 1;
            previous = Some(batch);
        }
        assert!(repeated >= 3, "each batch that was swallowed has come again");
        let told: BTreeMap<u64, &Value> =
            batches.iter().flat_map(|batch| &batch.events).map(|event| (seq(event), event)).collect();
        assert_eq!(told.len() as u64, all);
        assert_eq!((&told[&1]["type"], &told[&1]["client"]), (&json!("connected"), &json!(client)));
        for number in 0..MESSAGES {
            let event = told[&(number + 2)];
            assert_eq!((&event["type"], &event["data"]["n"]), (&json!("message"), &json!(number)));
            assert_eq!(event["client"], client.as_str());
        }
        assert!(daemon.stop().success());
    }

    fn a_batch_is_tried_again_until_it_is_accepted(driver: Driver) {
        let backend = Backend::start();
        backend.set(Manner::Status(500));
        let daemon = telling(driver, &backend, "message", &[]);
        let (mut socket, _) = connect(&daemon, "");
        send_messages(&mut socket, 0..1);
        for manner in [Manner::Status(404), Manner::Redirect, Manner::Status(304), Manner::Accept] {
            backend.wait_for("another attempt", |batches| (batches.len() >= 2).then_some(()));
            backend.set(manner);
            backend.wait_for("that answer", |batches| batches.iter().find(|b| b.manner == manner).map(drop));
        }
        send_messages(&mut socket, 1..2);
        let batches = backend.wait_for("the next batch", |batches| {
            batches.iter().find(|batch| seq(&batch.events[0]) == 2)?;
            Some(batches.to_vec())
        });
        let first = &batches[0];
        let again = batches.iter().take_while(|batch| batch.key == first.key);
        assert!(again.clone().all(|batch| batch.text == first.text));
        let accepted = again.clone().filter(|batch| batch.manner == Manner::Accept).count();
        assert_eq!((again.count(), accepted), (batches.len() - 1, 1), "accepted once, and then the next");
    }

    fn what_falls_off_the_log_is_told_as_a_gap(driver: Driver) {
        let mut backend = Backend::start();
        backend.kill();
        let daemon = telling(driver, &backend, "message", &[("EVENTS_LOG_BYTES_MAX", "4KiB")]);
        let (mut socket, _) = connect(&daemon, "");
        send_messages(&mut socket, 0..2000);
        // Read meanwhile, it says so as well.
        let events = await_events(&daemon, |events| events.last().is_some_and(|last| seq(last) == 2000));
        assert_eq!((&events[0]["type"], &events[0]["from"]), (&json!("gap"), &json!(1)));
        assert!(events.len() < 100);
        assert_eq!(assert_unbroken(&events, 1), 2000);
        backend.restart();
        let batches = backend.wait_for("the last event", |batches| {
            batches.last()?.events.last().filter(|last| seq(last) == 2000)?;
            Some(batches.to_vec())
        });
        // What was on its way when the log overflowed, and behind it the gap and the rest.
        let told: Vec<&Value> = batches.iter().flat_map(|batch| &batch.events).collect();
        assert_eq!(assert_unbroken(told.iter().copied(), 1), 2000);
        let gaps: Vec<_> = told.iter().filter(|event| event["type"] == "gap").collect();
        let lost: u64 = gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum();
        // What an attempt under way holds is told whatever the log does meanwhile: there may be a gap behind it too.
        assert!(!gaps.is_empty() && lost > 1000, "{lost} of 2000 lost, in a log for some thirty");
        assert_eq!(lost + (told.len() - gaps.len()) as u64, 2000);
        for event in told.iter().filter(|event| event["type"] == "message") {
            assert_eq!(event["data"]["n"], seq(event) - 1);
        }
        let metrics = Socket::raw(&daemon).get(&format!("/metrics?api_key={API_KEY}"));
        let metrics = String::from_utf8(metrics.body).expect("text");
        assert!(metrics.contains(&format!("trunkline_events_fallen_total {lost}\n")), "{metrics}");
        assert!(metrics.contains("trunkline_events_total{type=\"message\"} 2000\n"), "{metrics}");
    }

    fn the_log_is_read_in_pages(driver: Driver) {
        let daemon = keeping(driver, &[]);
        let empty = page(&daemon, "");
        assert_eq!((&empty["first"], &empty["last"], &empty["events"]), (&json!(1), &json!(0), &json!([])));
        let epoch = empty["epoch"].as_str().expect("an epoch").to_string();
        let (mut socket, _) = connect(&daemon, "");
        send_messages(&mut socket, 0..100);
        await_events(&daemon, |events| events.len() == 101);
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = page(&daemon, &format!("?after={after}&limit=7&epoch={epoch}"));
            assert_eq!((&page["reset"], &page["last"]), (&json!(false), &json!(101)));
            let events = page["events"].as_array().expect("events");
            let Some(last) = events.last() else { break };
            assert!(events.len() <= 7);
            after = seq(last);
            seen.extend(events.clone());
        }
        assert_eq!((seen.len(), assert_unbroken(&seen, 1)), (101, 101));
        // Numbers of another run are no numbers here.
        let other = page(&daemon, "?after=90&epoch=another");
        assert_eq!((&other["reset"], seq(&other["events"][0])), (&json!(true), 1));
        for query in ["?limit=0", "?limit=10001", "?after=-1", "?after=x", "?afterr=1"] {
            assert_eq!(read(&daemon, query).problem().0, 400, "{query}");
        }
        assert_eq!(Socket::raw(&daemon).get("/api/events").problem().0, 401);
        let off = Daemon::start(driver);
        assert_eq!(read(&off, "").problem().0, 404);
    }

    fn every_kind_of_client_is_told_of(driver: Driver) {
        let daemon = keeping(driver, &[]);
        let (mut socket, client) = connect(&daemon, "");
        subscribe(&mut socket, "live:a");
        socket.send(Frame::text(r#"{"send":{"data":[1, 2]}}"#));
        let types = |events: &[Value], client: &str| -> Vec<String> {
            let of = events.iter().filter(|event| event["client"] == client);
            of.map(|event| event["type"].as_str().unwrap().to_string()).collect()
        };
        let events = await_events(&daemon, |events| types(events, &client).len() == 3);
        assert_eq!(types(&events, &client), ["connected", "subscribed", "message"]);
        let own: Vec<&Value> = events.iter().filter(|event| event["client"] == client.as_str()).collect();
        assert!(own.iter().all(|event| event["transport"] == "websocket" && event["user"] == ""));
        assert_eq!((&own[1]["channel"], &own[2]["data"]), (&json!("live:a"), &json!([1, 2])));

        // Unsubscribed by itself, by the API, and with its connection.
        socket.send(Frame::text(r#"{"id":3,"unsubscribe":{"channel":"live:a"}}"#));
        socket.recv().expect("an answer");
        subscribe(&mut socket, "live:b");
        daemon.api("unsubscribe", &json!({"user": "", "client": client, "channel": "live:b"}).to_string());
        socket.recv().expect("a push");
        subscribe(&mut socket, "live:c");
        socket.close();
        await_type(&daemon, "disconnected", 1);
        let left = await_type(&daemon, "unsubscribed", 3);
        let codes: Vec<_> = left.iter().map(|event| (&event["channel"], &event["code"])).collect();
        assert_eq!(
            codes,
            [
                (&json!("live:a"), &json!(0)),
                (&json!("live:b"), &json!(2000)),
                (&json!("live:c"), &json!(1))
            ]
        );

        // Unidirectional clients.
        let sse = Events::open(&daemon, "/sse?channel=live:d", "");
        let ws = Socket::open(&daemon, "/ws?channel=live:d&bare");
        let connected = await_type(&daemon, "connected", 3);
        let mut transports: Vec<_> = connected[1..].iter().map(|event| &event["transport"]).collect();
        transports.sort_by_key(|transport| transport.to_string());
        assert_eq!(transports, ["sse", "uni_websocket"]);
        drop((sse, ws));
        await_type(&daemon, "disconnected", 3);
        // A held poll is no client, and a subscriber all the same.
        Socket::raw(&daemon).ask("/poll?channel=live:e&wait=20", "");
        let is_of = |event: &Value, kind: &str| event["type"] == kind && event["channel"] == "live:e";
        let events = await_events(&daemon, |events| events.iter().any(|event| is_of(event, "vacated")));
        assert_eq!(events.iter().filter(|event| is_of(event, "occupied")).count(), 1);
        assert!(!events.iter().any(|event| is_of(event, "subscribed")));
        for channel in ["live:a", "live:b", "live:c", "live:d"] {
            let of = events.iter().filter(|event| event["channel"] == channel);
            let changes: Vec<_> = of
                .map(|event| event["type"].as_str().unwrap())
                .filter(|kind| ["occupied", "vacated"].contains(kind))
                .collect();
            assert_eq!(changes, ["occupied", "vacated"], "{channel}");
        }
    }

    fn the_end_of_a_client_has_its_code(driver: Driver) {
        let fast = [("CLIENT_PING_INTERVAL", "1s"), ("CLIENT_PONG_TIMEOUT", "300ms")];
        let daemon = keeping(driver, &fast);
        let mut count = 0;
        let mut ended = |client: &str, code: u16, reason: &str| {
            count += 1;
            let all = await_type(&daemon, "disconnected", count);
            let own: Vec<_> = all.iter().filter(|event| event["client"] == client).collect();
            assert_eq!(own.len(), 1, "{all:?}");
            assert_eq!((&own[0]["code"], &own[0]["reason"]), (&json!(code), &json!(reason)));
            // The upgrade and the commands, and what was answered to them.
            assert!(own[0]["received_bytes"].as_u64().unwrap() > 100, "{}", own[0]);
            assert!(own[0]["sent_bytes"].as_u64().unwrap() > 100, "{}", own[0]);
            own[0].clone()
        };

        let (socket, client) = connect(&daemon, "");
        socket.close();
        ended(&client, 3000, "connection closed");

        let (socket, client) = connect(&daemon, "");
        drop(socket);
        ended(&client, 3000, "connection closed");

        let (mut socket, client) = connect(&daemon, "");
        socket.send(Frame::text("no command"));
        socket.expect_failed_by(3501);
        ended(&client, 3501, "bad request");

        let (mut socket, client) = connect(&daemon, "");
        socket.send(Frame::text("{}").with_rsv(1));
        socket.expect_failed(1002);
        let all = await_type(&daemon, "disconnected", 4);
        assert_eq!((&all[3]["client"], &all[3]["code"]), (&json!(client), &json!(1002)));
        ended(&client, 1002, all[3]["reason"].as_str().unwrap());

        let (mut socket, client) = connect(&daemon, "");
        let order = json!({"user": "", "client": client, "disconnect": {"code": 4123, "reason": "not now"}});
        daemon.api("disconnect", &order.to_string());
        socket.expect_failed_by(4123);
        ended(&client, 4123, "not now");

        let (mut socket, client) = connect(&daemon, "");
        // Its pings are not answered.
        while socket.recv().is_some_and(|frame| frame.opcode != crate::frame::CLOSE) {}
        let event = ended(&client, 3012, "no pong");
        // The ping comes after half an interval at the earliest. Both of its times are counted from the start of a millisecond.
        assert!(event["duration_ms"].as_u64().unwrap() >= 799, "a ping and its patience: {event}");
    }

    fn the_end_of_a_slow_client_has_its_code(driver: Driver) {
        const KEY: &str = "secret-of-the-slow-client";
        let settings = [("CLIENT_OUTBOX_BYTES_MAX", "256KiB"), ("CLIENT_TOKEN_HMAC_SECRET", KEY)];
        let daemon = keeping(driver, &settings);
        let basis = TokenBasis { user: "ann", ..TokenBasis::default() };
        let token = sign_connect(KEY.as_bytes(), &ConnectToken { basis, ..ConnectToken::default() });
        let (_socket, client) = connect(&daemon, &token.expect("a token"));
        // More than the kernel holds and the connection may owe, and none of it is read.
        let message = json!({"users": ["ann"], "data": "x".repeat(60 * 1024)}).to_string();
        for _ in 0..200 {
            daemon.api("push", &message);
        }
        let end = await_type(&daemon, "disconnected", 1).remove(0);
        assert_eq!((&end["client"], &end["code"], &end["reason"]), (&json!(client), &json!(3008), &json!("slow")));
    }

    fn the_events_of_the_shutdown_are_sent(driver: Driver) {
        let backend = Backend::start();
        let daemon = telling(driver, &backend, EVERYTHING, &[]);
        let clients: Vec<(Socket, String)> = (0..50)
            .map(|number| {
                let (mut socket, client) = connect(&daemon, "");
                subscribe(&mut socket, &format!("live:{}", number % 7));
                (socket, client)
            })
            .collect();
        let closers: Vec<_> = clients
            .into_iter()
            .map(|(mut socket, client)| {
                let closer = std::thread::spawn(move || socket.expect_failed_by(3001));
                (closer, client)
            })
            .collect();
        assert!(daemon.stop().success());
        let told: Vec<Value> = backend.batches().into_iter().flat_map(|batch| batch.events).collect();
        let of = |kind: &str| told.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
        let mut ended: Vec<&str> =
            of("disconnected").iter().map(|event| event["client"].as_str().unwrap()).collect();
        let mut known: Vec<&str> = closers.iter().map(|(_, client)| &**client).collect();
        ended.sort_unstable();
        known.sort_unstable();
        assert_eq!(ended, known);
        assert!(of("disconnected").iter().all(|event| event["code"] == 3001));
        assert_eq!((of("subscribed").len(), of("unsubscribed").len()), (50, 50));
        assert_eq!((of("occupied").len(), of("vacated").len()), (7, 7));
        for (closer, _) in closers {
            closer.join().expect("it was told why");
        }
    }
}
