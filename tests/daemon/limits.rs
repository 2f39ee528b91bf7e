//! Bounds of the whole node: what it holds, and what it says to those beyond.

use std::io::Read;
use std::net::TcpStream;

use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{Api, Daemon};
use crate::socket::Socket;

/// What a fresh connection hears when it asks for /health: 200, or what it is told instead.
fn knock(daemon: &Daemon) -> (Socket, u16, Option<String>) {
    let mut socket = Socket::raw(daemon);
    socket.send_bytes(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = socket.response();
    let retry_after = (answer.status == 503).then(|| answer.field("retry-after").to_string());
    (socket, answer.status, retry_after)
}

fn ended(mut stream: TcpStream) -> bool {
    stream.read_to_end(&mut Vec::new()).is_ok()
}

on_both_drivers! {
    /// A stranger with the right to publish makes channels without end: the backend keeps its own, and another client still
    /// gets one.
    fn clients_have_a_share_of_the_channels(driver: Driver) {
        let settings = [("LIMITS_CHANNELS_MAX", "200"), ("LIMITS_CLIENT_CHANNELS_PERCENT", "50")];
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
        let mut api = Api::new(&daemon);
        let mut own = |name: String| {
            let answer = api.call("publish", &format!(r#"{{"channel":"closed:{name}","data":1}}"#));
            answer["result"]["offset"].as_u64().unwrap_or_else(|| panic!("{answer}"))
        };
        for number in 0..60 {
            assert_eq!(own(format!("old-{number}")), 1);
        }
        let mut flood = Socket::raw(&daemon);
        let made = |socket: &mut Socket, name: &str| {
            let request = format!(
                "POST /publish?channel=open:{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1"
            );
            socket.send_bytes(request.as_bytes());
            assert_eq!(socket.response().status, 200, "{name}");
        };
        made(&mut Socket::raw(&daemon), "modest");
        for number in 0..1000 {
            made(&mut flood, &format!("flood-{number}"));
        }
        for number in 0..60 {
            assert_eq!(own(format!("old-{number}")), 2, "an offset of 1 would be that of a channel made again");
        }
        for number in 0..40 {
            assert_eq!(own(format!("new-{number}")), 1);
        }
        made(&mut Socket::raw(&daemon), "late");
        let metrics = Socket::raw(&daemon).get_with("/metrics", "X-API-Key: key-of-the-tests\r\n");
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        assert!(text.contains("trunkline_channels_active 200\n"), "{text}");
        for name in ["modest", "late", "flood-999"] {
            let history = api.call("history", &format!(r#"{{"channel":"open:{name}","limit":1}}"#));
            assert_eq!(history["result"]["offset"], 1, "{name}: {history}");
        }
    }

    fn connections_are_bounded_for_the_node_and_not_for_each_shard(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "3"], &[("CLIENT_CONNECTIONS_MAX", "20")]);
        let mut served = Vec::new();
        let mut refused = Vec::new();
        for _ in 0..60 {
            let (socket, status, retry_after) = knock(&daemon);
            match status {
                200 => served.push(socket),
                503 => {
                    let seconds: u32 = retry_after.expect("Retry-After").parse().expect("seconds");
                    assert!((1..10).contains(&seconds));
                    refused.push(socket);
                }
                other => panic!("answered {other}"),
            }
        }
        assert_eq!((served.len(), refused.len()), (20, 40));
        for socket in refused {
            assert!(ended(socket.into_stream()), "a refused connection ends in order");
        }
        daemon.wait_for_log("connections answered 503");
        // Who goes makes room, for as many newcomers and not more.
        drop(served.split_off(15));
        let mut again = Vec::new();
        while again.len() < 5 {
            let (socket, status, _) = knock(&daemon);
            if status == 200 {
                again.push(socket);
            }
        }
        assert_eq!(knock(&daemon).1, 503);
    }

    fn the_soft_limit_on_open_files_is_raised_at_start(driver: Driver) {
        let daemon = Daemon::start_limited(driver, 128, 4096);
        let sockets: Vec<_> = (0..400).map(|_| knock(&daemon)).collect();
        assert!(sockets.iter().all(|(_, status, _)| *status == 200));
        daemon.wait_for_log("raised from 128");
    }

    fn too_few_open_files_are_named_at_start_and_newcomers_are_answered(driver: Driver) {
        let daemon = Daemon::start_limited(driver, 128, 128);
        daemon.wait_for_log("because the limit on open files (RLIMIT_NOFILE) is 128");
        let first: Vec<_> = (0..300).map(|_| knock(&daemon)).collect();
        let count = |status| first.iter().filter(|(_, is, _)| *is == status).count();
        assert!(count(200) >= 32 && count(503) > 0 && count(200) + count(503) == 300, "{}", count(200));
        drop(first);
        while knock(&daemon).1 != 200 {}
    }
}

/// A client subscribed to `channel` that reads nothing from now on.
fn subscriber(daemon: &Daemon, channel: &str) -> Socket {
    let mut socket = Socket::open(daemon, "/connection/websocket");
    socket.send(Frame::text(&format!(
        "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
    )));
    let mut answers = String::new();
    while !answers.contains("\"id\":2") {
        answers += std::str::from_utf8(&socket.recv().expect("an answer").payload).expect("text");
    }
    socket
}

on_both_drivers! {
    /// Clients that are being closed still send up to their own Close frame. A crowd of these with half a message each is
    /// counted like any other.
    fn half_messages_behind_the_end_are_counted(driver: Driver) {
        let settings = [("LIMITS_CLIENT_BUFFERS_BYTES_MAX", "1MiB")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let mut modest = subscriber(&daemon, "live:modest");
        let whole = Frame::text(&"x".repeat(200_000)).masked();
        let half = &whole[..whole.len() - 1];
        let mut leaving = Vec::new();
        for _ in 0..12 {
            let mut socket = Socket::open(&daemon, "/connection/websocket");
            socket.send(Frame::text("no command"));
            let close = socket.recv().expect("a Close frame");
            assert_eq!(close.close_code(), Some(3501));
            socket.send_bytes(half);
            leaving.push(socket);
        }
        daemon.wait_for_log("limits.client_buffers_bytes_max");
        daemon.api("publish", "{\"channel\":\"live:modest\",\"data\":\"still here\"}");
        let heard = modest.recv().expect("a publication");
        assert!(String::from_utf8_lossy(&heard.payload).contains("still here"));
    }

    /// The bound leaves room for the kernel's buffers of five that do not read. Twelve do not.
    fn the_worst_debtors_pay_when_all_together_owe_too_much(driver: Driver) {
        let settings = [("LIMITS_CLIENT_BUFFERS_BYTES_MAX", "1MiB"), ("API_BODY_BYTES_MAX", "4MiB")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let greedy: Vec<Socket> = (0..12).map(|_| subscriber(&daemon, "live:greedy")).collect();
        let mut modest = subscriber(&daemon, "live:modest");
        let large = "x".repeat(900_000);
        for _ in 0..12 {
            daemon.api("publish", &format!("{{\"channel\":\"live:greedy\",\"data\":\"{large}\"}}"));
        }
        daemon.wait_for_log("limits.client_buffers_bytes_max");
        daemon.api("publish", "{\"channel\":\"live:modest\",\"data\":\"still here\"}");
        let heard = modest.recv().expect("a publication");
        assert!(String::from_utf8_lossy(&heard.payload).contains("still here"));
        drop(greedy);
    }
}
