//! Long polls, short polls, history.

use super::client::{await_subscribers, numbers, publish};
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;
use std::time::{Duration, Instant};

on_both_drivers! {
    fn messages_already_there_are_answered_at_once(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut client = Socket::raw(&daemon);
        let start = client.get("/poll?channel=c&wait=0").position();
        publish(&daemon, "c", 1..=3);
        let answer = client.get(&format!("/poll?channel=c&position={start}"));
        assert_eq!((answer.status, answer.data()), (200, numbers(1..=3)));
        assert_ne!(answer.position(), start);
    }

    fn a_poll_that_nothing_comes_for_ends_empty_where_it_began(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        publish(&daemon, "c", 1..=3);
        let start = client.get("/poll?channel=c&wait=0").position();
        let began = Instant::now();
        let answer = client.get(&format!("/poll?channel=c&position={start}&wait=1"));
        assert!(began.elapsed() >= Duration::from_millis(950));
        assert_eq!((answer.status, answer.data(), answer.position()), (200, vec![], start.clone()));
        // The same request with the tag: the client has the answer already.
        let tag = format!("If-None-Match: {}\r\n", answer.field("etag"));
        let again = client.get_with(&format!("/poll?channel=c&position={start}&wait=1"), &tag);
        assert_eq!((again.status, again.field("etag")), (304, answer.field("etag")));
        await_subscribers(&daemon, "c", 0);
    }

    fn one_that_comes_while_a_poll_is_held_is_answered_at_once(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut clients: Vec<Socket> = (0..8).map(|_| Socket::raw(&daemon)).collect();
        for client in &mut clients {
            client.ask("/poll?channel=c", "");
        }
        await_subscribers(&daemon, "c", 8);
        publish(&daemon, "c", [7]);
        for client in &mut clients {
            let answer = client.response();
            assert_eq!(answer.data(), numbers([7]));
            assert_eq!(answer.json()["messages"][0]["channel"], "c");
            assert_eq!(answer.json()["messages"][0]["offset"], 1);
        }
        await_subscribers(&daemon, "c", 0);
    }

    fn one_that_comes_between_two_polls_is_kept_for_the_next(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.ask("/poll?channel=c", "");
        await_subscribers(&daemon, "c", 1);
        publish(&daemon, "c", [1]);
        let first = client.response();
        await_subscribers(&daemon, "c", 0);
        publish(&daemon, "c", [2]);
        let second = client.get(&format!("/poll?channel=c&position={}", first.position()));
        assert_eq!((first.data(), second.data()), (numbers([1]), numbers([2])));
    }

    fn a_loop_of_polls_misses_and_repeats_nothing(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut client = Socket::raw(&daemon);
        let mut position = client.get("/poll?channel=a&channel=b&wait=0").position();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=100 {
                    publish(&daemon, if number % 3 == 0 { "b" } else { "a" }, [number]);
                }
            });
            let mut got = (Vec::new(), Vec::new());
            while got.0.len() + got.1.len() < 100 {
                let answer = client.get(&format!("/poll?channel=a&channel=b&position={position}&limit=7"));
                let body = answer.json();
                assert!(body["reset"].is_null() && answer.data().len() <= 7, "{body}");
                for message in body["messages"].as_array().unwrap() {
                    let to = if message["channel"] == "a" { &mut got.0 } else { &mut got.1 };
                    to.push(message["data"].as_u64().unwrap());
                }
                position = answer.position();
            }
            assert_eq!(got.0, (1..=100).filter(|number| number % 3 != 0).collect::<Vec<_>>());
            assert_eq!(got.1, (1..=100).filter(|number| number % 3 == 0).collect::<Vec<_>>());
        });
    }

    fn a_long_absence_comes_in_batches_without_a_loss(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        let mut position = client.get("/poll?channel=c&wait=0").position();
        publish(&daemon, "c", 1..=700);
        let mut got = Vec::new();
        while got.len() < 700 {
            let answer = client.get(&format!("/poll?channel=c&position={position}&limit=1000"));
            assert!(answer.json()["reset"].is_null() && answer.data().len() <= 300);
            got.extend(answer.data());
            position = answer.position();
        }
        assert_eq!(got, numbers(1..=700));
    }

    fn a_position_that_is_no_longer_kept_is_told(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        for channel in ["short:c", "live:c"] {
            let start = client.get(&format!("/poll?channel={channel}&wait=0")).position();
            publish(&daemon, channel, 1..=5);
            let answer = client.get(&format!("/poll?channel={channel}&position={start}"));
            assert_eq!(answer.json()["reset"], serde_json::json!([channel]));
            assert!(answer.data().is_empty());
            // From there on it goes on.
            let next = client.get(&format!("/poll?channel={channel}&position={}&wait=0", answer.position()));
            assert!(next.json()["reset"].is_null() && next.data().is_empty());
        }
        // Another life of the channel: its epoch is another.
        let start = client.get("/poll?channel=c&wait=0").position();
        let other = Daemon::start(driver);
        let answer = Socket::raw(&other).get(&format!("/poll?channel=c&position={start}"));
        assert_eq!(answer.json()["reset"], serde_json::json!(["c"]));
    }

    fn a_tag_alone_is_a_position(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        let tag = client.get("/poll?channel=c&wait=0").field("etag").to_string();
        assert!(tag.starts_with("W/\""));
        let tag = format!("If-None-Match: {tag}\r\n");
        assert_eq!(client.get_with("/poll?channel=c&wait=0", &tag).status, 304);
        publish(&daemon, "c", [1]);
        assert_eq!(client.get_with("/poll?channel=c", &tag).data(), numbers([1]));
        let foreign = "If-None-Match: \"abc\", *\r\n";
        assert_eq!(client.get_with("/poll?channel=c&wait=0", foreign).status, 200);
    }

    fn history_is_read_forwards_and_backwards_and_on(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut client = Socket::raw(&daemon);
        publish(&daemon, "open:c", 1..=10);
        let first = client.get("/history?channel=open:c&limit=4");
        assert_eq!(first.data(), numbers(1..=4));
        let second = client.get(&format!("/history?channel=open:c&limit=4&since={}", first.position()));
        assert_eq!(second.data(), numbers(5..=8));
        let newest = client.get("/history?channel=open:c&limit=3&reverse=true");
        assert_eq!(newest.data(), numbers((8..=10).rev()));
        let before = client.get(&format!("/history?channel=open:c&limit=3&reverse&since={}", newest.position()));
        assert_eq!(before.data(), numbers((5..=7).rev()));
        let nothing = client.get("/history?channel=open:c&limit=0");
        assert_eq!(nothing.data(), numbers([]));

        let tag = format!("If-None-Match: {}\r\n", first.field("etag"));
        assert_eq!(client.get_with("/history?channel=open:c&limit=4", &tag).status, 304);
        assert_eq!(client.get_with("/history?channel=open:c&limit=5", &tag).data(), numbers(1..=5));
        // What a poll reads on from.
        let end = client.get(&format!("/history?channel=open:c&since={}", second.position())).position();
        publish(&daemon, "open:c", [11]);
        assert_eq!(client.get(&format!("/poll?channel=open:c&position={end}")).data(), numbers([11]));
        // A position of another life.
        let other = Daemon::start(driver);
        let answer = Socket::raw(&other).get(&format!("/history?channel=open:c&since={end}"));
        assert_eq!(answer.problem(), (416, 112));
    }

    fn heads_old_clients_and_packed_answers(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        publish(&daemon, "open:c", 1..=200);
        let whole = client.get("/history?channel=open:c&limit=200");
        client.send_bytes(b"HEAD /history?channel=open:c&limit=200 HTTP/1.1\r\nHost: a\r\n\r\n");
        let (status, fields) = client.head();
        assert_eq!((status, fields["content-length"].clone()), (200, whole.body.len().to_string()));
        client.send_bytes(b"HEAD /poll?channel=open:c HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().0, 200);
        let packed = client.get_with("/history?channel=open:c&limit=200", "Accept-Encoding: gzip\r\n");
        assert_eq!(packed.field("content-encoding"), "gzip");
        assert!(packed.body.len() * 3 < whole.body.len());
        assert_eq!(packed.field("cache-control"), "private, no-cache");
        client.send_bytes(b"GET /history?channel=open:c&limit=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let old = client.response();
        assert_eq!((old.data(), old.field("connection")), (numbers([1]), "keep-alive"));
        client.send_bytes(b"GET /poll?channel=open:c&wait=0 HTTP/1.0\r\n\r\n");
        assert_eq!(client.response().field("connection"), "close");
        assert!(client.recv_rest().is_empty());
    }

    fn a_daemon_that_ends_answers_the_polls_it_holds(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.ask("/poll?channel=c", "");
        await_subscribers(&daemon, "c", 1);
        assert!(daemon.stop().success());
        let answer = client.response();
        assert_eq!((answer.status, answer.data(), answer.field("connection")), (200, vec![], "close"));
    }

    fn a_held_poll_whose_client_goes_is_forgotten(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut client = Socket::raw(&daemon);
        client.ask("/poll?channel=c", "");
        await_subscribers(&daemon, "c", 1);
        drop(client);
        await_subscribers(&daemon, "c", 0);
    }
}
