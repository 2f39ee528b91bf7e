//! Plain WebSocket: no client protocol, a few words.

use serde_json::{Value, json};

use super::client::{await_subscribers, publish};
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;

fn next(socket: &mut Socket) -> Value {
    let frame = socket.recv().expect("the stream goes on");
    assert_eq!(frame.opcode, crate::frame::TEXT);
    serde_json::from_slice(&frame.payload).expect("JSON")
}

on_both_drivers! {
    fn envelopes_come_and_go_on_from_a_position(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut socket = Socket::open(&daemon, "/ws?channel=c");
        assert_eq!(next(&mut socket)["ready"], true);
        publish(&daemon, "c", 1..=3);
        let first = next(&mut socket);
        assert_eq!((&first["channel"], &first["offset"], &first["data"]), (&json!("c"), &json!(1), &json!(1)));
        let position = first["position"].as_str().unwrap().to_string();
        let mut again = Socket::open(&daemon, &format!("/ws?channel=c&position={position}"));
        assert_eq!(next(&mut again)["position"], position.as_str());
        assert_eq!((next(&mut again)["data"].clone(), next(&mut again)["data"].clone()), (json!(2), json!(3)));
        again.close();
    }

    fn bare_messages_are_the_payload(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::open(&daemon, "/ws?channel=c&bare");
        await_subscribers(&daemon, "c", 1);
        daemon.api("publish", "{\"channel\":\"c\",\"data\":{\"a\":[1]}}");
        socket.expect(&Frame::text("{\"a\":[1]}"));
        socket.send(Frame::text("subscribe closed:x"));
        socket.expect_failed_by(3507);
    }

    fn channels_are_added_and_left_by_a_word(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut socket = Socket::open(&daemon, "/ws");
        assert_eq!(next(&mut socket)["ready"], true);
        for channel in ["a", "b"] {
            socket.send(Frame::text(&format!("subscribe {channel}")));
            assert_eq!(next(&mut socket)["subscribed"], channel);
        }
        publish(&daemon, "a", [1]);
        assert_eq!(next(&mut socket)["data"], 1);
        publish(&daemon, "b", [2]);
        let last = next(&mut socket);
        assert_eq!(last["data"], 2);
        // Its position is one in both.
        let position = last["position"].as_str().unwrap();
        publish(&daemon, "a", [3]);
        publish(&daemon, "b", [4]);
        let mut again = Socket::open(&daemon, &format!("/ws?channel=a&channel=b&position={position}"));
        next(&mut again);
        assert_eq!((next(&mut again)["data"].clone(), next(&mut again)["data"].clone()), (json!(3), json!(4)));

        assert_eq!((next(&mut socket)["data"].clone(), next(&mut socket)["data"].clone()), (json!(3), json!(4)));
        socket.send(Frame::text("unsubscribe a"));
        assert_eq!(next(&mut socket)["unsubscribed"], "a");
        publish(&daemon, "a", [5]);
        publish(&daemon, "b", [6]);
        assert_eq!(next(&mut socket)["data"], 6);
        socket.send(Frame::text("ping"));
        assert_eq!(next(&mut socket)["pong"], true);
        socket.send(Frame::text("subscribe b"));
        assert_eq!(next(&mut socket)["error"]["code"], 105);
        socket.send(Frame::text("subscribe closed:x"));
        assert_eq!(next(&mut socket)["error"]["code"], 103);
        socket.send(Frame::text("subscribe nowhere:x"));
        assert_eq!(next(&mut socket)["error"]["code"], 102);
        socket.send(Frame::text("hello"));
        assert_eq!(next(&mut socket)["error"]["code"], 104);
        socket.send(Frame::ping("x"));
        socket.expect(&Frame::pong("x"));
        socket.close();
    }

    fn a_client_that_says_much_at_once_is_answered_in_order(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &[("CLIENT_COMMANDS_PER_SECOND", "0")]);
        let mut socket = Socket::open(&daemon, "/ws");
        assert_eq!(next(&mut socket)["ready"], true);
        // Several turns of it in one write, cut anywhere by the reads of the daemon.
        let rounds = 2_000;
        let mut frames = Vec::new();
        for _ in 0..rounds {
            frames.extend([Frame::text("ping"), Frame::text("unsubscribe a"), Frame::ping("x")]);
        }
        frames.push(Frame::text("subscribe a"));
        let mut writer = socket.writer();
        let bytes = crate::frame::masked(&frames);
        let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
        for _ in 0..rounds {
            assert_eq!(next(&mut socket)["pong"], true);
            assert_eq!(next(&mut socket)["unsubscribed"], "a");
            socket.expect(&Frame::pong("x"));
        }
        assert_eq!(next(&mut socket)["subscribed"], "a");
        writing.join().unwrap();
        // It is read from as before.
        publish(&daemon, "a", [1]);
        assert_eq!(next(&mut socket)["data"], 1);
        socket.send(Frame::text("ping"));
        assert_eq!(next(&mut socket)["pong"], true);
        socket.close();
    }

    fn what_is_no_upgrade_is_told_so(driver: Driver) {
        let daemon = Daemon::start(driver);
        let answer = Socket::raw(&daemon).get("/ws?channel=c");
        assert_eq!((answer.status, answer.field("upgrade")), (426, "websocket"));
        // Who may not read gets a status and no upgrade.
        let mut client = Socket::raw(&daemon);
        client.send_bytes(crate::socket::upgrade_request("/ws?channel=closed:c", "").as_bytes());
        assert_eq!(client.response().problem(), (403, 103));
        let mut client = Socket::raw(&daemon);
        client.send_bytes(crate::socket::upgrade_request("/ws?channel=c", "Origin: http://evil.example\r\n").as_bytes());
        assert_eq!(client.response().problem(), (403, 103));
    }

    fn commands_sent_with_the_request_are_heard(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let mut socket = Socket::raw(&daemon);
        let mut bytes = crate::socket::upgrade_request("/ws?channel=a", "").into_bytes();
        bytes.extend(Frame::text("subscribe b").masked());
        socket.send_bytes(&bytes);
        socket.recv_head();
        assert_eq!(next(&mut socket)["ready"], true);
        assert_eq!(next(&mut socket)["subscribed"], "b");
    }
}
