//! Listeners as tables: who is served where, and connections that come by a proxy.
//!
//! The daemon trusts 127.0.0.2 and its unix sockets: everybody else, 127.0.0.1 among them, is a stranger.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::on_both_drivers;
use crate::process::{API_KEY, DEADLINE, Daemon};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n";

/// A connection from an address of this machine.
fn from(address: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((address, 0)).into()).expect("an address of loopback");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()));
    socket.connect(&to.into()).expect("the daemon accepts");
    socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
    socket.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    socket.into()
}

/// All that comes until the end, which may be a reset.
fn rest(mut stream: impl Read) -> String {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn asked(mut stream: impl Read + Write, pieces: &[&[u8]]) -> String {
    for piece in pieces {
        // A refusal may come before all of it is sent.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    rest(stream)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

/// The counter of one cause, by a listener that serves the API.
fn faults(api: impl Read + Write, cause: &str) -> u64 {
    let head =
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n");
    let text = asked(api, &[head.as_bytes()]);
    let row = format!("trunkline_faults_total{{cause=\"{cause}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&row)).expect("the cause is listed");
    value.trim().parse().expect("a number")
}

/// Version 2 with something behind the addresses that nobody reads.
fn binary() -> Vec<u8> {
    let addresses =
        [&[192, 0, 2, 7, 10, 0, 0, 1][..], &4711u16.to_be_bytes(), &443u16.to_be_bytes()].concat();
    let more = b"\xe0\x00\x10GET / HTTP/1.1\r\n";
    let len = (addresses.len() + more.len()) as u16;
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &len.to_be_bytes(), &addresses, more].concat()
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the daemon accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream
}

on_both_drivers! {
    fn each_listener_serves_what_its_table_says(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let tables = format!(
            "[[listener]]\naddress = \"unix:{}\"\nmode = \"600\"\nserves = \"api\"\n\
             [[listener]]\naddress = \"[::]:0\"\nserves = \"both\"\n\
             [[listener]]\naddress = \"[::]:0\"\nipv6_only = true\n",
            path.display()
        );
        let daemon = Daemon::start_written(driver, &["--shards", "2"], &[("SHUTDOWN_DELAY", "1s")], &tables);
        daemon.wait_for_log("  API      ");
        let [clients, dual, six] = daemon.addresses()[..] else { panic!("{:?}", daemon.addresses()) };
        let ask = |to: SocketAddr, target: &str| {
            let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\n\
                                   Content-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            let stream = TcpStream::connect(to).expect("the daemon accepts");
            status(&asked(stream, &[request.as_bytes()])).to_string()
        };
        let by = |host: std::net::IpAddr, port: SocketAddr| SocketAddr::from((host, port.port()));
        assert_eq!(ask(clients, "/api/info"), "404", "another listener has the API");
        assert_eq!(ask(by(Ipv4Addr::LOCALHOST.into(), dual), "/api/info"), "200");
        assert_eq!(ask(by(Ipv6Addr::LOCALHOST.into(), dual), "/api/info"), "200");
        assert_eq!(ask(by(Ipv6Addr::LOCALHOST.into(), six), "/health"), "405");
        let four = TcpStream::connect(by(Ipv4Addr::LOCALHOST.into(), six));
        assert_eq!(four.expect_err("only for IPv6").kind(), ErrorKind::ConnectionRefused);

        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let metrics = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(status(&asked(unix(&path), &[metrics])), "200");
        let upgrade = b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut upgraded = TcpStream::connect(clients).unwrap();
        upgraded.write_all(upgrade).unwrap();
        let mut start = [0; 12];
        upgraded.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 101");
        let close = [&upgrade[..upgrade.len() - 2], b"Connection: close\r\n\r\n"].concat();
        assert_eq!(status(&asked(unix(&path), &[&close])), "404");

        // While the node is about to end, every one of them says so, and serves on.
        let stopping = std::thread::spawn(move || daemon.stop());
        let end = std::time::Instant::now() + DEADLINE;
        while status(&asked(unix(&path), &[HEALTH.as_bytes()])) != "503" {
            assert!(std::time::Instant::now() < end, "still ready");
        }
        for to in [clients, by(Ipv6Addr::LOCALHOST.into(), dual), by(Ipv6Addr::LOCALHOST.into(), six)] {
            assert_eq!(status(&asked(TcpStream::connect(to).unwrap(), &[HEALTH.as_bytes()])), "503");
        }
        drop(upgraded);
        assert!(stopping.join().unwrap().success());
        assert!(!path.exists(), "the file goes with the daemon");
    }

    fn a_proxy_says_whom_a_connection_is_of(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxied.sock");
        let tables = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\nserves = \"both\"\n\
             [[listener]]\naddress = \"unix:{}\"\nproxy_protocol = true\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\nserves = \"api\"\n",
            path.display()
        );
        let settings =
            [("TRUSTED_NETWORKS", "127.0.0.2,unix:"), ("CLIENT_CONNECT_TIMEOUT", "1s")];
        let daemon = Daemon::start_written(driver, &[], &settings, &tables);
        daemon.wait_for_log("  API      ");
        let addresses = daemon.addresses();
        let [ordinary, proxied, ..] = addresses[..] else { panic!("{addresses:?}") };
        let api = || {
            let mut stream = from(PROXY, proxied);
            stream.write_all(b"PROXY UNKNOWN\r\n").unwrap();
            stream
        };

        for header in [LINE, &binary(), b"PROXY UNKNOWN\r\n"] {
            assert_eq!(status(&asked(from(PROXY, proxied), &[header, HEALTH.as_bytes()])), "200");
            assert_eq!(status(&asked(unix(&path), &[header, HEALTH.as_bytes()])), "200");
            // Together with the request, and cut at every byte.
            let whole = [header, HEALTH.as_bytes()].concat();
            assert_eq!(status(&asked(from(PROXY, proxied), &[&whole])), "200");
            let cuts: Vec<_> = (1..=header.len()).map(|cut| {
                let mut stream = from(PROXY, proxied);
                stream.write_all(&whole[..cut]).unwrap();
                (stream, cut)
            }).collect();
            // The first parts are read before the second are sent.
            while faults(api(), "proxy_stranger") != 0 {}
            for (stream, cut) in cuts {
                assert_eq!(status(&asked(stream, &[&whole[cut..]])), "200", "cut at {cut}");
            }
            let octets: Vec<&[u8]> = whole.chunks(1).collect();
            assert_eq!(status(&asked(from(PROXY, proxied), &octets)), "200");
        }
        for cause in ["proxy_stranger", "proxy_header_missing", "proxy_header_malformed", "proxy_header_timeout"] {
            assert_eq!(faults(api(), cause), 0, "{cause}");
        }

        // Strangers and those without a header get nothing, each by its name.
        assert_eq!(asked(from(Ipv4Addr::LOCALHOST, proxied), &[LINE, HEALTH.as_bytes()]), "");
        assert_eq!(faults(api(), "proxy_stranger"), 1);
        assert_eq!(asked(from(PROXY, proxied), &[HEALTH.as_bytes()]), "");
        assert_eq!(asked(from(PROXY, proxied), &[b"\x16\x03\x01\x02\x00\x01"]), "");
        assert_eq!(faults(api(), "proxy_header_missing"), 2);
        assert_eq!(asked(from(PROXY, proxied), &[b"PROXY TCP4 192.0.2.700 10.0.0.1 1 2\r\n", HEALTH.as_bytes()]), "");
        assert_eq!(asked(unix(&path), &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"]), "");
        assert_eq!(faults(api(), "proxy_header_malformed"), 2);
        assert_eq!(rest(from(PROXY, proxied)), "");
        assert_eq!(asked(from(PROXY, proxied), &[&LINE[..LINE.len() - 1]]), "");
        assert_eq!(faults(api(), "proxy_header_timeout"), 2);
        // A second header is the client's own word: an ordinary bad request, as on a listener without proxies.
        assert_eq!(status(&asked(from(PROXY, proxied), &[LINE, LINE, HEALTH.as_bytes()])), "400");
        for header in [LINE, &binary()] {
            assert_eq!(status(&asked(from(PROXY, ordinary), &[header, HEALTH.as_bytes()])), "400");
        }
        assert_eq!(status(&asked(from(Ipv4Addr::LOCALHOST, ordinary), &[HEALTH.as_bytes()])), "200");
        // Nobody is left over.
        let end = std::time::Instant::now() + DEADLINE;
        loop {
            let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n");
            let text = asked(api(), &[head.as_bytes()]);
            if text.contains("trunkline_connections_active 1\n") {
                break;
            }
            assert!(std::time::Instant::now() < end, "{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(daemon.stop().success());
    }
}

/// What the backend has been told, and of which addresses.
fn told(api: impl Read + Write) -> Vec<String> {
    let head =
        format!("GET /api/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n");
    let answer = asked(api, &[head.as_bytes()]);
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let page: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let events = page["events"].as_array().expect("events");
    events.iter().map(|event| format!("{} {}", event["type"].as_str().unwrap(), event["address"])).collect()
}

on_both_drivers! {
    /// Of a stream, as a stream's head is all that it takes to be a client.
    fn the_backend_learns_whom_a_client_is_of(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let tables = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\nserves = \"both\"\n\
             [[listener]]\naddress = \"unix:{}\"\n",
            path.display()
        );
        let settings = [
            ("TRUSTED_NETWORKS", "127.0.0.2,10.0.0.0/8,unix:"),
            ("EVENTS_TYPES", "connected,disconnected"),
        ];
        let daemon = Daemon::start_written(driver, &["--shards", "1"], &settings, &tables);
        daemon.wait_for_log("  API      ");
        let [ordinary, proxied] = daemon.addresses()[..] else { panic!("{:?}", daemon.addresses()) };
        let stream = |fields: &str| format!("GET /sse?channel=open:a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let stranger = Ipv4Addr::new(127, 0, 0, 3);
        let cases: [(Connect, String, &str); 10] = [
            (Box::new(move || Box::new(from(stranger, ordinary))), stream(""), "127.0.0.3"),
            // Its claim is nobody's word.
            (Box::new(move || Box::new(from(stranger, ordinary))), stream("X-Forwarded-For: 192.0.2.9\r\n"), "127.0.0.3"),
            (Box::new(move || Box::new(from(PROXY, ordinary))), stream("X-Forwarded-For: 192.0.2.9\r\n"), "192.0.2.9"),
            (
                Box::new(move || Box::new(from(PROXY, ordinary))),
                stream("X-Forwarded-For: 1.1.1.1, 192.0.2.9\r\nX-Forwarded-For: 10.0.0.1\r\n"),
                "192.0.2.9",
            ),
            (Box::new(move || Box::new(from(PROXY, ordinary))), stream("Forwarded: for=192.0.2.9\r\n"), "127.0.0.2"),
            (Box::new(move || Box::new(from(PROXY, ordinary))), stream("X-Forwarded-For: unknown\r\n"), "127.0.0.2"),
            (
                Box::new({
                    let path = path.clone();
                    move || Box::new(unix(&path))
                }),
                stream("X-Forwarded-For: 2001:db8::9\r\n"),
                "2001:db8::9",
            ),
            (Box::new(move || Box::new(from(PROXY, proxied))), String::from_utf8_lossy(LINE).into_owned() + &stream(""), "192.0.2.7"),
            // Who is behind the PROXY header is no proxy, whatever it says.
            (
                Box::new(move || Box::new(from(PROXY, proxied))),
                String::from_utf8_lossy(LINE).into_owned() + &stream("X-Forwarded-For: 1.1.1.1\r\n"),
                "192.0.2.7",
            ),
            (
                Box::new(move || Box::new(from(PROXY, proxied))),
                "PROXY TCP4 10.0.0.9 10.0.0.1 1 2\r\n".to_string() + &stream("X-Forwarded-For: 1.1.1.1\r\n"),
                "1.1.1.1",
            ),
        ];
        let mut expected = Vec::new();
        for (connect, request, address) in cases {
            let mut client = connect();
            client.write_all(request.as_bytes()).unwrap();
            let mut start = [0; 15];
            client.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 OK");
            drop(client);
            for kind in ["connected", "disconnected"] {
                expected.push(format!("{kind} \"{address}\""));
                let end = std::time::Instant::now() + DEADLINE;
                let api = || {
                    let mut stream = from(PROXY, proxied);
                    stream.write_all(b"PROXY UNKNOWN\r\n").unwrap();
                    stream
                };
                while told(api()).len() < expected.len() {
                    assert!(std::time::Instant::now() < end, "{:?}", told(api()));
                    std::thread::sleep(Duration::from_millis(10));
                }
                assert_eq!(told(api())[..expected.len()], expected);
            }
        }
        // The stranger's claim, and that of the client behind the PROXY header.
        let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n");
        let mut stream = from(PROXY, proxied);
        stream.write_all(b"PROXY UNKNOWN\r\n").unwrap();
        let text = asked(stream, &[head.as_bytes()]);
        assert!(text.contains("trunkline_address_claims_ignored_total 2\n"), "{text}");
        assert!(daemon.stop().success());
    }
}

type Connect = Box<dyn FnOnce() -> Box<dyn ReadWrite>>;

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}
