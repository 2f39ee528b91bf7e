//! Who is let in: by the network that a client comes from, and by what the node can take.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::frame::Frame;
use crate::http::Response;
use crate::on_both_drivers;
use crate::process::{API_KEY, DEADLINE, Daemon};
use crate::socket::{Socket, upgrade_request};

const NETWORK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

fn from(daemon: &Daemon, address: Ipv4Addr) -> Socket {
    Socket::over(daemon.connect_from(address))
}

/// What an upgrade is answered.
fn upgraded(mut socket: Socket) -> (Socket, Response) {
    socket.send_bytes(upgrade_request("/connection/websocket", "").as_bytes());
    let (status, fields) = socket.head();
    let length = fields.get("content-length").map_or(0, |length| length.parse().expect("a length"));
    let body = socket.recv_body(length);
    (socket, Response { status, fields, body })
}

/// A client that is connected, or how it was refused.
fn client(daemon: &Daemon, address: Ipv4Addr) -> Result<Socket, Response> {
    match upgraded(from(daemon, address)) {
        (mut socket, answer) if answer.status == 101 => {
            socket.send(Frame::text("{\"id\":1,\"connect\":{}}"));
            let answer = socket.recv().expect("an answer");
            assert!(String::from_utf8_lossy(&answer.payload).contains("\"connect\""), "{answer:?}");
            Ok(socket)
        }
        (_, answer) => Err(answer),
    }
}

fn get(daemon: &Daemon, address: Ipv4Addr, target: &str, extra: &str) -> Response {
    from(daemon, address).get_with(target, extra)
}

/// The status is as given, and the client is asked to wait some whole seconds.
fn is_refused(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    let seconds: u64 = answer.field("retry-after").parse().expect("Retry-After");
    assert!((1..=30).contains(&seconds), "{seconds}");
}

/// An event stream that ends at once, and says when to come back. At any status but 200 a browser would not.
fn is_event_of_refusal(mut socket: Socket) {
    let (status, fields) = socket.head();
    assert_eq!((status, fields["content-type"].as_str()), (200, "text/event-stream"));
    let text = String::from_utf8(socket.recv_rest()).expect("text");
    let retry = text.lines().find_map(|line| line.strip_prefix("retry: ")?.parse::<u64>().ok());
    assert!((1_000..=31_000).contains(&retry.expect("retry")) && text.contains("disconnect"), "{text}");
}

fn api_publish(daemon: &Daemon, address: Ipv4Addr, channel: &str) -> Response {
    let body = format!("{{\"channel\":\"{channel}\",\"data\":1}}");
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: {API_KEY}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = from(daemon, address);
    socket.send_bytes((head + &body).as_bytes());
    socket.response()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

on_both_drivers! {
    /// In the log and in metrics: whole, its network, or not at all.
    fn networks_are_named_as_far_as_the_mask_says(driver: Driver) {
        for (mask, named) in [("none", Some("127.0.0.2/32")), ("network", Some("127.0.0.0/24")), ("all", None)] {
            let settings = [("ADMISSION_NETWORK_CONNECTIONS_MAX", "1"), ("ADDRESS_MASK", mask)];
            let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
            let _one = client(&daemon, NETWORK).expect("there is room for one");
            assert_eq!(client(&daemon, NETWORK).err().expect("and no second").status, 429);
            match named {
                Some(network) => daemon.wait_for_log(&format!("clients answered 429, the last from {network}:")),
                None => daemon.wait_for_log("clients answered 429: too many"),
            }
            let answer = get(&daemon, OTHER, "/metrics", &format!("X-API-Key: {API_KEY}\r\n"));
            let text = String::from_utf8(answer.body).expect("text");
            let row = "trunkline_network_connections_active{network=\"";
            let networks: Vec<_> =
                text.lines().filter_map(|line| line.strip_prefix(row)?.split('"').next()).collect();
            // That of the scraper is one as well.
            match mask {
                "none" => assert_eq!(networks, ["127.0.0.2/32", "127.0.0.3/32"]),
                _ => assert_eq!(networks, named.into_iter().collect::<Vec<_>>()),
            }
            let has = |name: &str| text.lines().any(|line| line.starts_with(name));
            assert!(has("trunkline_unauthenticated_active ") && has("trunkline_shard_busy_percent{shard=\"0\"} "));
        }
    }

    fn a_network_has_its_share_of_connections(driver: Driver) {
        let settings = [("ADMISSION_NETWORK_CONNECTIONS_MAX", "5")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let mut clients: Vec<Socket> =
            (0..5).map(|_| client(&daemon, NETWORK).expect("within its share")).collect();
        is_refused(&client(&daemon, NETWORK).map(|_| ()).expect_err("one too many"), 429);
        for target in ["/poll?channel=live:a", "/stream?channel=live:a", "/history?channel=open:a"] {
            let answer = get(&daemon, NETWORK, target, "");
            is_refused(&answer, 429);
            assert_eq!(answer.problem(), (429, 111), "{target}");
        }
        let mut websocket = from(&daemon, NETWORK);
        websocket.send_bytes(upgrade_request("/ws?channel=live:a", "").as_bytes());
        is_refused(&websocket.response(), 429);
        let mut events = from(&daemon, NETWORK);
        events.ask("/sse?channel=live:a", "");
        is_event_of_refusal(events);
        // A page's browser may ask, and the node's own business goes on, a request for a connection.
        assert_eq!(get(&daemon, NETWORK, "/health", "").status, 200);
        let mut preflight = from(&daemon, NETWORK);
        preflight.send_bytes(b"OPTIONS /poll HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n");
        assert_eq!(preflight.response().status, 204);
        let called = api_publish(&daemon, NETWORK, "open:a");
        assert_eq!((called.status, called.field("connection")), (200, "close"));
        // Others have their own, and who is connected stays.
        drop(client(&daemon, OTHER).expect("another network"));
        clients[0].send(Frame::text("{\"id\":2,\"subscribe\":{\"channel\":\"live:a\"}}"));
        assert!(clients[0].recv().is_some());
        assert!(daemon.metric("trunkline_faults_total{cause=\"network_connections\"}") >= 6);
        daemon.wait_for_log("the last from 127.0.0.2/32");
        // Who goes makes room.
        clients.pop();
        until("there is room again", || client(&daemon, NETWORK).ok());
    }

    /// A thousand of one address that say nothing: they are bounded in number and ended, and others come in meanwhile.
    fn a_crowd_of_one_address_is_not_in_the_way_of_others(driver: Driver) {
        let settings = [("ADMISSION_NETWORK_UNAUTHENTICATED_MAX", "20"), ("CLIENT_CONNECT_TIMEOUT", "40s")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let mut reader = client(&daemon, OTHER).expect("another network");
        reader.send(Frame::text("{\"id\":2,\"subscribe\":{\"channel\":\"live:a\"}}"));
        assert!(reader.recv().is_some());
        let crowd: Vec<_> = (0..1_000).map(|_| daemon.connect_from(NETWORK)).collect();
        for _ in 0..5 {
            drop(client(&daemon, OTHER).expect("another network"));
            assert_eq!(api_publish(&daemon, OTHER, "live:a").status, 200);
            assert!(reader.recv().is_some());
        }
        // Of a thousand twenty stay for as long as a connection may say nothing.
        let active = || {
            let connections = daemon.metric("trunkline_connections_active ");
            (connections < 40).then_some(connections)
        };
        assert!(until("the crowd is ended", active) >= 20);
        assert_eq!(daemon.metric("trunkline_faults_total{cause=\"network_unauthenticated\"}"), 980);
        let mut refused = 0;
        for mut stream in crowd {
            stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
            let mut text = String::new();
            // A reset comes in place of an answer that was on its way behind it.
            match stream.read_to_string(&mut text) {
                Ok(_) => refused += u32::from(text.starts_with("HTTP/1.1 429 ") && text.contains("Retry-After: ")),
                Err(error) => assert!(text.is_empty(), "{error}: {text}"),
            }
        }
        assert!(refused >= 900, "{refused} heard that they were refused");
        until("room for those of the network that say who they are", || client(&daemon, NETWORK).ok());
    }

    fn who_says_who_it_is_is_no_stranger_any_more(driver: Driver) {
        let settings = [("ADMISSION_NETWORK_UNAUTHENTICATED_MAX", "2"), ("CLIENT_CONNECT_TIMEOUT", "2s")];
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &settings);
        let known: Vec<_> = (0..6).map(|_| client(&daemon, NETWORK).expect("each says who it is")).collect();
        let mut streams: Vec<_> = (0..3).map(|_| from(&daemon, NETWORK)).collect();
        for stream in &mut streams {
            stream.ask("/sse?channel=live:a", "");
            assert_eq!(stream.head().0, 200);
            stream.recv_until(b"\n\n");
        }
        let mut poll = from(&daemon, NETWORK);
        poll.ask("/poll?channel=live:a", "");
        // Answered, it is known.
        assert_eq!(api_publish(&daemon, NETWORK, "live:a").status, 200);
        assert_eq!(poll.response().status, 200);
        // Two that say nothing are all that there may be, until their time is over.
        let [mut first, second] = [(); 2].map(|()| upgraded(from(&daemon, NETWORK)));
        assert_eq!((first.1.status, second.1.status), (101, 101));
        is_refused(&client(&daemon, NETWORK).map(|_| ()).expect_err("one too many"), 429);
        drop(client(&daemon, OTHER).expect("another network"));
        assert_eq!(first.0.recv().and_then(|frame| frame.close_code()), Some(3502));
        drop((first, second));
        until("there is room again", || client(&daemon, NETWORK).ok());
        assert!(daemon.metric("trunkline_faults_total{cause=\"disconnect_3502\"}") >= 1);
        drop((known, streams));
    }

    /// All clients come by one proxy, whose connections may be those of one client after the other.
    fn behind_a_trusted_proxy_each_client_has_its_own_network(driver: Driver) {
        let settings = [
            ("TRUSTED_NETWORKS", "127.0.0.2"),
            ("CLIENT_ADDRESS_FIELD", "x-forwarded-for"),
            ("ADMISSION_NETWORK_CONNECTIONS_MAX", "2"),
        ];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let of = |client: u8| format!("X-Forwarded-For: 203.0.113.{client}\r\n");
        let upgrade = |extra: &str| {
            let mut socket = from(&daemon, NETWORK);
            socket.send_bytes(upgrade_request("/connection/websocket", extra).as_bytes());
            let status = socket.head().0;
            (socket, status)
        };
        let first: Vec<_> = (0..3).map(|_| upgrade(&of(1))).collect();
        assert_eq!(first.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [101, 101, 429]);
        assert_eq!(upgrade(&of(2)).1, 101);
        // One connection of the proxy serves many, and counts only while it does: each has two more beside.
        let mut polls = from(&daemon, NETWORK);
        for client in 3..20 {
            assert_eq!(polls.get_with("/history?channel=open:a", &of(client)).status, 200);
        }
        for client in 3..6 {
            let both = [(); 2].map(|()| upgrade(&of(client)));
            assert_eq!([both[0].1, both[1].1], [101, 101]);
        }
        assert_eq!(polls.get_with("/history?channel=open:a", &of(1)).status, 429);
        // The proxy itself is nobody's network; a stranger who claims an address has his own.
        let own: Vec<_> = (0..5).map(|_| upgrade("")).collect();
        assert!(own.iter().all(|(_, status)| *status == 101));
        let stranger = |client| get(&daemon, OTHER, "/history?channel=open:a", &of(client)).status;
        let held: Vec<_> = (0..2).map(|_| client(&daemon, OTHER).expect("within its share")).collect();
        assert_eq!(stranger(200), 429);
        drop((first, held));
    }

    fn a_network_connects_as_fast_as_it_may(driver: Driver) {
        let settings =
            [("ADMISSION_NETWORK_CONNECTS_PER_SECOND", "1"), ("ADMISSION_NETWORK_CONNECTS_BURST", "4")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        // Requests on one connection are one connect.
        let mut polls = from(&daemon, NETWORK);
        for _ in 0..20 {
            assert_eq!(polls.get("/history?channel=open:a").status, 200);
        }
        let answers: Vec<_> = (0..40).map(|_| client(&daemon, NETWORK)).collect();
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!((20..=37).contains(&refused.len()), "{}", refused.len());
        refused.iter().for_each(|answer| is_refused(answer, 429));
        assert!((0..4).all(|_| client(&daemon, OTHER).is_ok()));
        let refused = daemon.metric("trunkline_faults_total{cause=\"network_connects\"}");
        assert_eq!(api_publish(&daemon, NETWORK, "open:a").status, 200);
        assert!(refused >= 20);
        until("a second later", || client(&daemon, NETWORK).ok());
    }

    fn the_node_takes_newcomers_as_fast_as_it_may(driver: Driver) {
        let settings = [
            ("ADMISSION_CONNECTS_PER_SECOND", "1"),
            ("ADMISSION_CONNECTS_BURST", "5"),
            ("ADMISSION_RETRY_AFTER_MAX", "7s"),
        ];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let answers: Vec<_> = (2..42).map(|last| client(&daemon, Ipv4Addr::new(127, 0, 0, last))).collect();
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!((20..=35).contains(&refused.len()), "{}", refused.len());
        for answer in refused {
            is_refused(answer, 503);
            assert!(answer.field("retry-after").parse::<u64>().expect("seconds") <= 7);
        }
        assert!(daemon.metric("trunkline_faults_total{cause=\"node_connects\"}") >= 20);
        daemon.wait_for_log("clients answered 503: this node is busy, or they connect too fast");
        until("a second later", || client(&daemon, NETWORK).ok());
    }

    fn strangers_of_all_networks_are_bounded(driver: Driver) {
        let settings = [("ADMISSION_UNAUTHENTICATED_MAX", "6"), ("CLIENT_CONNECT_TIMEOUT", "40s")];
        let daemon = Daemon::start_set(driver, &["--shards", "2"], &settings);
        let _known = client(&daemon, NETWORK).expect("it says who it is");
        let stranger = |last| upgraded(from(&daemon, Ipv4Addr::new(127, 0, 0, last)));
        let mut strangers: Vec<_> = (10..16).map(stranger).collect();
        assert!(strangers.iter().all(|(_, answer)| answer.status == 101));
        is_refused(&client(&daemon, NETWORK).map(|_| ()).expect_err("one too many"), 503);
        assert_eq!(get(&daemon, NETWORK, "/health", "").status, 200);
        strangers.clear();
        until("there is room again", || client(&daemon, NETWORK).ok());
        assert!(daemon.metric("trunkline_faults_total{cause=\"node_unauthenticated\"}") >= 1);
    }

    /// Five percent are soon passed by a client that has much to say, and not by one that knocks now and then.
    fn nobody_new_comes_to_a_busy_shard(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &[("ADMISSION_BUSY_PERCENT_MAX", "5")]);
        let knock = |what| {
            until(what, || {
                std::thread::sleep(Duration::from_millis(500));
                client(&daemon, NETWORK).ok()
            })
        };
        let mut connected = knock("a quiet shard");
        let mut talker = Socket::open(&daemon, "/echo");
        let frames: Vec<Frame> = (0..50).map(|_| Frame::text(&"x".repeat(4096))).collect();
        let mut talk = || {
            for _ in 0..20 {
                talker.send_all(&frames);
                assert!(frames.iter().all(|_| talker.recv().is_some()));
            }
        };
        let refused = until("a busy shard", || {
            talk();
            client(&daemon, OTHER).err()
        });
        is_refused(&refused, 503);
        // Who is connected is served, and so is the backend.
        connected.send(Frame::text("{\"id\":7,\"subscribe\":{\"channel\":\"live:a\"}}"));
        assert!(connected.recv().is_some());
        talk();
        assert_eq!(api_publish(&daemon, OTHER, "live:a").status, 200);
        assert!(connected.recv().is_some());
        assert!(daemon.metric("trunkline_faults_total{cause=\"node_busy\"}") >= 1);
        knock("a quiet shard again");
    }

    /// Beyond the bound of connections an event stream ends as others that are refused for now: a browser comes back.
    fn event_streams_beyond_the_bound_of_connections_come_back(driver: Driver) {
        let daemon = Daemon::start_set(driver, &["--shards", "1"], &[("CLIENT_CONNECTIONS_MAX", "3")]);
        let kept: Vec<_> = (0..3).map(|_| client(&daemon, NETWORK).expect("room")).collect();
        let mut events = from(&daemon, NETWORK);
        events.ask("/sse?channel=live:a", "");
        is_event_of_refusal(events);
        is_refused(&get(&daemon, NETWORK, "/poll?channel=live:a", ""), 503);
        // One that says nothing hears it in the end.
        let silent = from(&daemon, NETWORK).recv_rest();
        assert!(silent.starts_with(b"HTTP/1.1 503 "), "{silent:?}");
        drop(kept);
    }
}
