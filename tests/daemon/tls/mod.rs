//! TLS in the daemon: every transport over it, resumption, who may come, what is no TLS, certificates that change.

mod authority;
mod client;
mod memory;
mod tools;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use self::authority::{Authority, Signed};
use self::client::{Secure, config, config_with, connect};
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{API_KEY, DEADLINE, Daemon, Driver};
use crate::unidirectional::client::{await_subscribers, publish};

pub fn start(driver: Driver, signed: &Signed, more: &str) -> Daemon {
    start_with(driver, signed, &[], more)
}

fn start_with(driver: Driver, signed: &Signed, arguments: &[&str], more: &str) -> Daemon {
    let arguments = [&["--listen-tls", "127.0.0.1:0"], arguments].concat();
    Daemon::start_written(driver, &arguments, &[], &(signed.table() + more))
}

/// The value of a metric; 0 when it is not there.
pub fn metric(daemon: &Daemon, name: &str) -> u64 {
    let mut socket = crate::socket::Socket::raw(daemon);
    let answer = socket.get_with("/metrics", &format!("X-API-Key: {API_KEY}\r\n"));
    let text = String::from_utf8(answer.body).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a number"))
}

pub fn fault(daemon: &Daemon, cause: &str) -> u64 {
    metric(daemon, &format!("trunkline_faults_total{{cause=\"{cause}\"}}"))
}

/// The daemon may still have to read what the client said last.
fn await_fault(daemon: &Daemon, cause: &str, count: u64) {
    let end = Instant::now() + DEADLINE;
    while fault(daemon, cause) < count && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fault(daemon, cause), count, "{cause}");
}

on_both_drivers! {
    /// At start, when its last two weeks begin while the node runs, and when it ends; and as a metric.
    fn a_certificate_that_ends_soon_is_warned_about(driver: Driver) {
        let soon = Authority::new().ending_in(Duration::from_secs(14 * 24 * 3600 - 60));
        let signed = soon.sign("a", "soon.test");
        let daemon = start(driver, &signed, "");
        daemon.wait_for_log("(CN=soon.test) expires in 13 days");
        let not_after = metric(&daemon, &format!(
            "trunkline_tls_certificate_not_after_seconds{{file={:?},subject=\"CN=soon.test\"}}", signed.cert
        ));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let left = not_after - now;
        assert!((13 * 24 * 3600..14 * 24 * 3600).contains(&left), "{left}");

        // The window begins after the start, and another certificate ends.
        let begins = Authority::new().ending_in(Duration::from_secs(14 * 24 * 3600 + 10));
        let over = Authority::new().ending_in(Duration::from_secs(10));
        let (later, ends) = (begins.sign("b", "later.test"), over.sign("c", "ends.test"));
        let more = format!("[[tls.certificate]]\ncert = {:?}\nkey = {:?}\n", ends.cert, ends.key);
        let daemon = start(driver, &later, &more);
        daemon.wait_for_log("(CN=later.test) expires in 1");
        daemon.wait_for_log("(CN=ends.test) has expired 0 days ago: clients refuse it");
        assert!(daemon.stop().success());
    }

    fn every_transport_is_served_in_both_versions(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        for (version, is) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
            let config = config_with(&authority, &[version], None);
            let mut websocket = Secure::websocket(&daemon, &config, "/echo");
            assert_eq!(websocket.stream.conn.protocol_version(), Some(is));
            assert_eq!(websocket.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            let long: String = (0..100_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            websocket.echo("short");
            websocket.echo(&long);
            websocket.send(Frame::close(1000, ""));
            assert_eq!(websocket.recv().and_then(|frame| frame.close_code()), Some(1000));
            assert_eq!(websocket.recv_rest(), b"", "close_notify behind the Close frame");

            let channel = format!("over-{is:?}");
            let mut events = Secure::open(&daemon, &config);
            events.send_bytes(format!("GET /sse?channel={channel} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            events.recv_until(b"\"ready\":true}\n\n");
            let mut poll = Secure::open(&daemon, &config);
            poll.send_bytes(format!("GET /poll?channel={channel} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            await_subscribers(&daemon, &channel, 2);
            publish(&daemon, &channel, [7]);
            events.recv_until(b"7");
            poll.recv_until(b"7");

            // The API, and one connection for several requests.
            let mut http = Secure::open(&daemon, &config);
            for _ in 0..2 {
                let body = format!("{{\"channel\":\"{channel}\",\"data\":8}}");
                http.send_bytes(format!(
                    "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ).as_bytes());
                http.recv_until(b"\"offset\":");
                http.recv_until(b"}");
            }
        }
        assert!(daemon.stop().success());
    }

    /// What is written behind the handshake at once, and cut where it hurts.
    fn records_may_come_in_any_pieces(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        for version in [&TLS12, &TLS13] {
            let config = config_with(&authority, &[version], None);
            let connection = rustls::ClientConnection::new(config, "localhost".try_into().expect("a name"));
            let mut connection = connection.expect("a client");
            let mut stream = connect(&daemon);
            connection.writer().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("room");
            let mut heard = Vec::new();
            'all: loop {
                let mut bytes = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut bytes).expect("memory");
                }
                for piece in bytes.chunks(7) {
                    stream.write_all(piece).expect("the daemon reads");
                }
                if connection.read_tls(&mut stream).expect("bytes") == 0 {
                    break;
                }
                let state = connection.process_new_packets().expect("TLS");
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                connection.reader().read_exact(&mut plain).expect("as many as there are");
                heard.extend(plain);
                if state.peer_has_closed() {
                    break 'all;
                }
            }
            assert!(heard.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&heard));
        }
    }

    /// More than a handshake may be long, sent with its last message in one piece.
    fn what_comes_right_behind_the_handshake_may_be_long(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        let body = format!("{{\"channel\":\"open:a\",\"data\":\"{}\"}}", "x".repeat(200_000));
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        for version in [&TLS12, &TLS13] {
            let config = config_with(&authority, &[version], None);
            let connection = rustls::ClientConnection::new(config, "localhost".try_into().expect("a name"));
            let mut connection = connection.expect("a client");
            connection.set_buffer_limit(None);
            connection.writer().write_all(request.as_bytes()).expect("room");
            let mut stream = connect(&daemon);
            while connection.is_handshaking() || connection.wants_write() {
                let mut bytes = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut bytes).expect("memory");
                }
                stream.write_all(&bytes).expect("the daemon reads");
                if connection.is_handshaking() {
                    connection.read_tls(&mut stream).expect("bytes");
                    connection.process_new_packets().expect("TLS");
                }
            }
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut answer = [0; 15];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
        }
    }

    fn a_client_that_comes_again_resumes(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        for version in [&TLS12, &TLS13] {
            let config = config_with(&authority, &[version], None);
            let before = metric(&daemon, "trunkline_tls_handshakes_resumed_total");
            for time in 0..3 {
                let mut socket = Secure::websocket(&daemon, &config, "/echo");
                socket.echo("x");
                let kind = socket.stream.conn.handshake_kind();
                assert_eq!(kind == Some(HandshakeKind::Resumed), time > 0, "{time}: {kind:?}");
            }
            assert_eq!(metric(&daemon, "trunkline_tls_handshakes_resumed_total"), before + 2);
        }
        assert_eq!(metric(&daemon, "trunkline_tls_handshakes_total"), 6);
    }

    fn keys_change_while_a_connection_lives(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        let mut socket = Secure::websocket(&daemon, &config(&authority), "/echo");
        for round in 0..5 {
            socket.stream.conn.refresh_traffic_keys().expect("TLS 1.3");
            socket.echo(&format!("round {round}"));
        }
    }

    fn what_is_no_tls_is_refused_by_name(driver: Driver) {
        let authority = Authority::new();
        let daemon = start_with(driver, &authority.sign("a", "localhost"), &[], "handshake_timeout = \"500ms\"\n");
        // Plain HTTP gets a sentence.
        let mut plain = connect(&daemon);
        plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the daemon reads");
        let mut answer = String::new();
        plain.read_to_string(&mut answer).expect("text, and the end");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("This port speaks TLS"), "{answer}");
        await_fault(&daemon, "tls_plain_http", 1);
        // Neither.
        let mut garbage = connect(&daemon);
        garbage.write_all(&[0, 1, 2, 3]).expect("the daemon reads");
        let mut alert = Vec::new();
        garbage.read_to_end(&mut alert).expect("the end");
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 50], "decode_error");
        await_fault(&daemon, "tls_not_tls", 1);
        // A record that cannot be.
        let mut long = connect(&daemon);
        long.write_all(&[22, 3, 1, 0xff, 0xff]).expect("the daemon reads");
        let mut alert = Vec::new();
        long.read_to_end(&mut alert).expect("the end");
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 22], "record_overflow");
        // Half a hello, and nothing more.
        let mut slow = connect(&daemon);
        slow.write_all(&[22, 3, 1, 0, 200, 1, 0]).expect("the daemon reads");
        let mut alert = Vec::new();
        slow.read_to_end(&mut alert).expect("the end");
        assert_eq!(alert, [21, 3, 3, 0, 2, 1, 0], "close_notify");
        await_fault(&daemon, "tls_handshake_timeout", 1);
        // One that goes away.
        let gone = connect(&daemon);
        gone.shutdown(Shutdown::Both).expect("an open socket");
        while fault(&daemon, "tls_handshake_aborted") == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // TLS where there is none.
        let mut wrong = daemon.connect();
        wrong.write_all(&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]).expect("the daemon reads");
        let mut answer = String::new();
        wrong.read_to_string(&mut answer).expect("text, and the end");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("does not speak TLS"), "{answer}");
        await_fault(&daemon, "tls_on_plain_port", 1);
        // Those that failed count until their connection is closed.
        while metric(&daemon, "trunkline_tls_handshakes_active") > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Nobody else was disturbed.
        Secure::websocket(&daemon, &config(&authority), "/echo").echo("still there");
    }

    fn a_name_has_its_certificate(driver: Driver) {
        let authority = Authority::new();
        let (a, b) = (authority.sign("a", "localhost"), authority.sign("b", "b.test"));
        let more = format!("[[tls.certificate]]\ncert = {:?}\nkey = {:?}\n", b.cert, b.key);
        let daemon = start(driver, &a, &more);
        for (name, signed) in [("localhost", &a), ("b.test", &b)] {
            let secure = Secure::try_open(&daemon, &config(&authority), name).expect("a handshake");
            assert_eq!(secure.stream.conn.peer_certificates().expect("one")[0], signed.der());
        }
        // The first one, which is for another name.
        let refused = Secure::try_open(&daemon, &config(&authority), "unknown.test").err().expect("refused");
        assert!(refused.contains("certificate not valid for name"), "{refused}");
        await_fault(&daemon, "tls_certificate_refused", 1);
        let not_after = metric(&daemon, &format!(
            "trunkline_tls_certificate_not_after_seconds{{file={:?},subject=\"CN=b.test\"}}", b.cert
        ));
        assert_eq!(not_after, 64_060_588_800);
    }

    fn clients_show_certificates(driver: Driver) {
        let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
        let server = authority.sign("a", "localhost");
        let (known, unknown) = (clients.sign("c", "client-1"), strangers.sign("c", "client-1"));
        let clients = clients.until(2020);
        let old = clients.sign("old", "client-1");
        for kind in ["request", "require"] {
            let more = format!("client_certificates = \"{kind}\"\nclient_ca_file = {:?}\n", clients.file());
            let daemon = start(driver, &server, &more);
            for version in [&TLS12, &TLS13] {
                let come = |own: Option<&Signed>| {
                    let config = config_with(&authority, &[version], own);
                    // In TLS 1.3 the client learns of it with the first answer.
                    let mut secure = Secure::try_open(&daemon, &config, "localhost")?;
                    secure.stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").map_err(|error| error.to_string())?;
                    let mut answer = [0; 12];
                    secure.stream.read_exact(&mut answer).map_err(|error| error.to_string())?;
                    Ok::<_, String>(answer)
                };
                assert_eq!(come(Some(&known)).as_ref().map(|answer| &answer[..]), Ok(&b"HTTP/1.1 200"[..]));
                let without = come(None);
                match kind {
                    "request" => assert!(without.is_ok(), "{without:?}"),
                    _ => assert!(without.unwrap_err().contains("CertificateRequired") || version.version == ProtocolVersion::TLSv1_2),
                }
                assert!(come(Some(&unknown)).unwrap_err().contains("UnknownCA"));
                assert!(come(Some(&old)).unwrap_err().contains("CertificateExpired"));
            }
            await_fault(&daemon, "tls_client_certificate_unknown", 2);
            await_fault(&daemon, "tls_client_certificate_expired", 2);
            await_fault(&daemon, "tls_client_certificate_missing", if kind == "require" { 2 } else { 0 });
        }
    }

    fn a_certificate_changes_under_many_connections_and_none_closes(driver: Driver) {
        let authority = Authority::new();
        let (served, next) = (authority.sign("a", "localhost"), authority.sign("b", "localhost"));
        let daemon = start(driver, &served, "");
        let old = config(&authority);
        let mut all: Vec<Secure> = (0..1_000).map(|_| Secure::websocket(&daemon, &old, "/echo")).collect();
        let shown = || {
            // Without a ticket: whoever resumes is shown none.
            let secure = Secure::open(&daemon, &config(&authority));
            secure.stream.conn.peer_certificates().expect("one")[0].clone()
        };
        let hang_up = || rustix::process::kill_process(daemon.pid(), rustix::process::Signal::HUP).expect("it runs");
        assert_eq!(shown(), served.der());
        served.replace(&next);
        hang_up();
        daemon.wait_for_log("certificate read again");
        assert_eq!(shown(), next.der());
        // A key that does not fit is refused by name, and the one before goes on.
        std::fs::write(&served.key, &served.key_pem).expect("a file");
        hang_up();
        daemon.wait_for_log("the configuration stays as it was: ");
        daemon.wait_for_log("tls.key: ");
        assert_eq!(shown(), next.der());
        std::fs::remove_file(&served.cert).expect("a file");
        hang_up();
        daemon.wait_for_log("tls.cert: ");
        assert_eq!(shown(), next.der());
        for (number, secure) in all.iter_mut().enumerate() {
            secure.echo(&format!("still {number}"));
        }
        // Tickets are as good as before.
        let again = Secure::open(&daemon, &old);
        assert_eq!(again.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }

    /// Thousands that come and say nothing: no more of them than there may be, and those who are connected notice nothing.
    fn unfinished_handshakes_are_bounded(driver: Driver) {
        let authority = Authority::new();
        let more = "handshake_timeout = \"60s\"\n";
        let daemon = start_with(driver, &authority.sign("a", "localhost"), &["--shards", "1"], more);
        let mut connected = Secure::websocket(&daemon, &config(&authority), "/echo");
        let silent: Vec<_> = (0..4_096).map(|_| connect(&daemon)).collect();
        while metric(&daemon, "trunkline_tls_handshakes_active") < 4_096 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut one_more = connect(&daemon);
        let closed = one_more.read(&mut [0; 1]);
        assert!(matches!(closed, Ok(0)) || closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        assert_eq!(fault(&daemon, "tls_handshakes_full"), 1);
        connected.echo("still there");
        drop(silent);
        while metric(&daemon, "trunkline_tls_handshakes_active") > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Secure::websocket(&daemon, &config(&authority), "/echo").echo("room again");
    }

    /// A line so long that its clients would give up before their turn is not begun.
    fn a_line_of_handshakes_has_an_end(driver: Driver) {
        const HELLOS: u64 = 1_500;
        let authority = Authority::new();
        let daemon = start_with(driver, &authority.sign("a", "localhost"), &["--shards", "1"], "");
        let client = config(&authority);
        let mut connected = Secure::websocket(&daemon, &client, "/echo");
        let connection = rustls::ClientConnection::new(client, "localhost".try_into().expect("a name"));
        let mut hello = Vec::new();
        connection.expect("a client").write_tls(&mut hello).expect("memory");
        let mut crowd: Vec<_> = (0..HELLOS).map(|_| connect(&daemon)).collect();
        for stream in &mut crowd {
            stream.write_all(&hello).expect("the daemon reads");
        }
        connected.echo("between them");
        let (mut answered, mut refused) = (0, 0);
        for stream in &mut crowd {
            let mut header = [0; 5];
            stream.read_exact(&mut header).expect("a record");
            match header[0] {
                22 => answered += 1,
                21 => refused += 1,
                other => panic!("a record of kind {other}"),
            }
        }
        assert_eq!((answered + refused, refused), (HELLOS, fault(&daemon, "tls_handshakes_full")));
        assert!(answered >= 512 && refused > 0, "{answered} answered, {refused} refused");
        connected.echo("still there");
    }

    /// More at once than one turn takes: the others wait in line, and each gets its turn.
    fn a_crowd_of_handshakes_waits_its_turn(driver: Driver) {
        let authority = Authority::new();
        let daemon = start_with(driver, &authority.sign("a", "localhost"), &["--shards", "1"], "");
        let mut connected = Secure::websocket(&daemon, &config(&authority), "/echo");
        let mut crowd: Vec<_> = (0..200).map(|_| {
            let connection = rustls::ClientConnection::new(config(&authority), "localhost".try_into().expect("a name"));
            (connection.expect("a client"), connect(&daemon))
        }).collect();
        let hellos: Vec<Vec<u8>> = crowd.iter_mut().map(|(connection, _)| {
            let mut hello = Vec::new();
            connection.write_tls(&mut hello).expect("memory");
            hello
        }).collect();
        for ((_, stream), hello) in crowd.iter_mut().zip(&hellos) {
            stream.write_all(hello).expect("the daemon reads");
        }
        connected.echo("between them");
        for (connection, stream) in &mut crowd {
            while connection.is_handshaking() {
                connection.complete_io(stream).expect("a handshake");
            }
        }
        while metric(&daemon, "trunkline_tls_handshakes_total") < 201 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(metric(&daemon, "trunkline_tls_handshakes_delayed_total") > 0);
        assert_eq!(metric(&daemon, "trunkline_tls_handshakes_active"), 0);
    }
}
