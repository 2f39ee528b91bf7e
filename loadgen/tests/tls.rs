//! TLS of the generator against servers of other make: good ones, and each kind of bad one.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{LOADGEN, Outcome, Server, loadgen, serve};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use trunkline::proto::http1::parse_head;
use trunkline::proto::websocket::{Decoder, Message, Opcode, Role, accept, write_frame};

/// An authority of this test alone, and the file that the generator trusts it by.
struct Authority {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // By its name an authority is found among others.
        params.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..8]));
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { folder, certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's own, for `name`. `ended`: it was valid until some years ago.
    fn leaf(&self, name: &str, ended: bool) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        if ended {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn config(&self, name: &str) -> ServerConfig {
        self.config_with(self.leaf(name, false), rustls::ALL_VERSIONS, false)
    }

    fn config_with(
        &self,
        (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
        versions: &[&'static SupportedProtocolVersion],
        asks_for_client: bool,
    ) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = if asks_for_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
        config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        config
    }
}

/// A WebSocket server that sends back what it gets. Where it is, is returned.
fn echo_server(config: ServerConfig) -> String {
    let config = Arc::new(config);
    serve(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let _ = echo(StreamOwned::new(connection, stream));
    })
}

fn echo(mut stream: StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
    let (mut unread, mut bytes) = (Vec::new(), [0; 4096]);
    let len = loop {
        if let Ok(Some((head, len))) = parse_head(&unread) {
            let mut out = Vec::new();
            accept(&head, &[]).unwrap().write(&mut out, &[]);
            stream.write_all(&out)?;
            break len;
        }
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => unread.extend_from_slice(&bytes[..len]),
        }
    };
    unread.drain(..len);
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    loop {
        let (mut at, mut out) = (0, Vec::new());
        loop {
            let (used, message) = decoder.decode(&mut unread[at..]).unwrap();
            at += used;
            match message {
                None => break,
                Some(Message::Text(text)) => write_frame(&mut out, Opcode::Text, text.as_bytes()),
                Some(Message::Close { .. }) => return Ok(()),
                Some(_) => {}
            }
        }
        unread.clear();
        stream.write_all(&out)?;
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => unread.extend_from_slice(&bytes[..len]),
        }
    }
}

/// Eight connections, opened at once, to the host `localhost`.
fn storm(address: &str, ca: &Path, more: &[&str]) -> Outcome {
    let port = address.rsplit_once(':').unwrap().1;
    let url = format!("wss://localhost:{port}/");
    let mut arguments = vec!["connect-storm", "--profile", "websocket", "--url", &url, "-n", "8"];
    arguments.extend(["--tls-ca", ca.to_str().unwrap()]);
    arguments.extend_from_slice(more);
    loadgen(&arguments)
}

#[test]
fn requests_are_answered_over_both_versions_and_drivers() {
    let authority = Authority::new();
    let address = echo_server(authority.config("127.0.0.1"));
    let ca = authority.file();
    for (version, suite) in
        [("1.2", "TLS 1.2 TLS_ECDHE_"), ("1.3", "TLS 1.3 TLS13_"), ("any", "TLS 1.3 TLS13_")]
    {
        for driver in ["auto", "mio"] {
            let outcome = loadgen(&[
                "echo",
                "--url",
                &format!("wss://{address}/"),
                "--tls-ca",
                ca.to_str().unwrap(),
                "--tls-version",
                version,
                "--driver",
                driver,
                "-n",
                "20",
                "--rate",
                "200",
                "--seconds",
                "1s",
                // A request fills more than one record.
                "--payload",
                "40000",
            ]);
            outcome.assert_passed();
            assert!(outcome.counter("echo", "replies") > 100, "{}", outcome.text);
            assert_eq!(outcome.counter("open", "tls_handshakes"), 20);
            assert_eq!(outcome.counter("open", "tls_resumed"), 0, "who was not here has no ticket");
            let suites = outcome.phase("open")["tls_suites"].as_object().unwrap();
            assert!(suites.keys().all(|name| name.starts_with(suite)) && !suites.is_empty(), "{suites:?}");
            let handshakes = &outcome.phase("open")["latencies"]["tls_handshake"];
            assert_eq!(handshakes["count"], 20, "{}", outcome.text);
            assert!(
                outcome.text.contains("20 TLS handshakes, 0 of them (0 %) resumed; 20 with"),
                "{}",
                outcome.text
            );
        }
    }
}

#[test]
fn who_comes_back_shows_a_ticket() {
    let authority = Authority::new();
    let address = echo_server(authority.config("127.0.0.1"));
    let ca = authority.file();
    for version in ["1.2", "1.3"] {
        for (more, resumed) in [(None, 10), (Some("--no-resumption"), 0)] {
            let url = format!("wss://{address}/");
            let mut arguments = vec!["reconnect-storm", "--profile", "websocket", "--url", &url, "-n", "10"];
            arguments.extend(["--tls-ca", ca.to_str().unwrap(), "--tls-version", version]);
            arguments.extend(more);
            let outcome = loadgen(&arguments);
            outcome.assert_passed();
            assert_eq!(outcome.counter("storm 1", "tls_handshakes"), 10);
            assert_eq!(outcome.counter("storm 1", "tls_resumed"), resumed, "{version}: {}", outcome.text);
        }
    }
}

#[test]
fn a_storm_beside_requests() {
    let authority = Authority::new();
    let address = echo_server(authority.config("127.0.0.1"));
    let ca = authority.file();
    let scenario = authority.folder.path().join("storm.toml");
    let text = "[[phase]]\nname = 'open'\nopen = 10\n[[phase]]\nname = 'storm'\nstorm = 100\nstorm_hold = '50ms'\n\
                request = 50\nhold = '1s'\n";
    std::fs::write(&scenario, text).unwrap();
    for driver in ["auto", "mio"] {
        let outcome = loadgen(&[
            "mixed",
            scenario.to_str().unwrap(),
            "--profile",
            "websocket",
            "--url",
            &format!("wss://{address}/"),
            "--tls-ca",
            ca.to_str().unwrap(),
            "--driver",
            driver,
        ]);
        outcome.assert_passed();
        let storm = &outcome.phase("storm")["storm"];
        let made = storm["counters"]["ready"].as_u64().unwrap();
        assert!((50..=101).contains(&made), "{}", outcome.text);
        assert_eq!(storm["counters"]["tls_handshakes"], made);
        assert_eq!(storm["counters"]["started"], made, "all that were begun were made");
        assert_eq!(storm["latencies"]["connect_to_made"]["count"], made);
        // The connections of the run are others.
        assert_eq!(outcome.counter("storm", "tls_handshakes"), 0);
        assert!(outcome.counter("storm", "replies") > 20, "{}", outcome.text);
    }
}

#[test]
fn certificates_that_cannot_be_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = authority.file();
    let both = rustls::ALL_VERSIONS;
    for (config, why) in [
        (authority.config("other.test"), "the server's certificate is for another name"),
        (
            authority.config_with(authority.leaf("localhost", true), both, false),
            "the server's certificate has expired",
        ),
        (other.config("localhost"), "the server's certificate comes from no authority of --tls-ca"),
    ] {
        let address = echo_server(config);
        let outcome = storm(&address, &ca, &[]);
        assert_eq!((outcome.code, outcome.failures(why)), (1, 8), "{}", outcome.text);
        assert!(outcome.text.contains(&format!("TLS: {why}")), "{}", outcome.text);
        let outcome = storm(&address, &ca, &["--insecure"]);
        outcome.assert_passed();
    }
    // The name may be given, where the address is not what the certificate is for.
    let address = echo_server(authority.config("other.test"));
    storm(&address, &ca, &["--tls-name", "other.test"]).assert_passed();
}

#[test]
fn servers_that_speak_no_tls_or_another() {
    let authority = Authority::new();
    let ca = authority.file();
    let plain = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read(&mut [0; 4096]);
    });
    let outcome = storm(&plain, &ca, &[]);
    assert_eq!(
        (outcome.code, outcome.failures("TLS: the server does not speak TLS")),
        (1, 8),
        "{}",
        outcome.text
    );

    let silent = serve(|mut stream| while matches!(stream.read(&mut [0; 4096]), Ok(len) if len > 0) {});
    let outcome = storm(&silent, &ca, &["--handshake-timeout", "500ms"]);
    assert_eq!((outcome.code, outcome.failures("no answer in time")), (1, 8), "{}", outcome.text);

    let gone = serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    let outcome = storm(&gone, &ca, &[]);
    let ended = outcome.failures("ended by the server") + outcome.failures("reset");
    assert_eq!((outcome.code, ended), (1, 8), "{}", outcome.text);

    let leaf = authority.leaf("localhost", false);
    let old = echo_server(authority.config_with(leaf, &[&rustls::version::TLS12], false));
    let outcome = storm(&old, &ca, &["--tls-version", "1.3"]);
    assert_eq!((outcome.code, outcome.failures("ProtocolVersion")), (1, 8), "{}", outcome.text);

    let leaf = authority.leaf("localhost", false);
    let asks = echo_server(authority.config_with(leaf, rustls::ALL_VERSIONS, true));
    let outcome = storm(&asks, &ca, &[]);
    assert_eq!((outcome.code, outcome.failures("CertificateRequired")), (1, 8), "{}", outcome.text);
}

/// The daemon itself: what is published by https reaches everybody who is connected by wss, also while others come and go.
#[test]
fn fan_out_of_the_daemon_in_a_storm() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority.issuer).unwrap();
    let file = |name: &str, text: &str| {
        let path = authority.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let server = Server::trunkline_tls(&file("a.pem", &leaf.pem()), &file("a.key", &key.serialize_pem()));
    let (ca, pid) = (authority.file(), server.child.id().to_string());
    let url = format!("wss://{}/connection/websocket", server.addr);
    for (driver, profile, version) in [
        ("auto", "centrifuge", "1.3"),
        ("mio", "centrifuge", "1.2"),
        ("auto", "centrifuge-protobuf", "1.2"),
        ("mio", "centrifuge-protobuf", "1.3"),
    ] {
        let mut arguments = vec!["fanout", "--profile", profile, "--url", &url, "--api-key", "k", "-n", "30"];
        arguments.extend(["--tls-ca", ca.to_str().unwrap(), "--tls-version", version, "--driver", driver]);
        arguments.extend(["-c", "3", "--rate", "50", "--seconds", "1s", "--warm-up", "0s", "--storm", "20"]);
        arguments.extend(["--storm-hold", "20ms", "--pid", &pid]);
        let outcome = loadgen(&arguments);
        outcome.assert_passed();
        assert_eq!(outcome.counter("open", "tls_handshakes"), 30);
        for phase in ["fan-out", "fan-out in a storm"] {
            let published = outcome.phase(phase)["published"].as_u64().unwrap();
            assert!(published >= 25, "{}", outcome.text);
            assert_eq!(outcome.counter(phase, "deliveries"), published * 10);
        }
        assert_eq!(outcome.phase("fan-out")["storm"], serde_json::Value::Null);
        let storm = &outcome.phase("fan-out in a storm")["storm"]["counters"];
        assert!(storm["ready"].as_u64().unwrap() >= 10, "{}", outcome.text);
        assert_eq!(storm["failed"], 0, "{}", outcome.text);
        let figures = outcome.json["figures"].as_array().unwrap();
        let has = |name: &str| figures.iter().any(|figure| figure["name"] == name);
        assert!(has("fan-out: server cpu a delivery"), "{}", outcome.text);
        assert!(
            !has("fan-out in a storm: server cpu a delivery"),
            "the storm's cpu is in it: {}",
            outcome.text
        );
    }
    // Streams and their publications.
    let sse = format!("https://{}/sse?channel={{channel}}", server.addr);
    let publish = format!("https://{}/api/publish", server.addr);
    let mut arguments =
        vec!["fanout", "--profile", "sse", "--url", &sse, "--publish-url", &publish, "-n", "20"];
    arguments.extend([
        "--publish-header",
        "X-API-Key: k",
        "--publish-body",
        r#"{"channel":"{channel}","data":{data}}"#,
    ]);
    arguments.extend([
        "--tls-ca",
        ca.to_str().unwrap(),
        "--rate",
        "50",
        "--seconds",
        "1s",
        "--warm-up",
        "0s",
    ]);
    let outcome = loadgen(&arguments);
    outcome.assert_passed();
    let published = outcome.phase("fan-out")["published"].as_u64().unwrap();
    assert_eq!(outcome.counter("fan-out", "deliveries"), published * 20, "{}", outcome.text);
    // They come back with tickets, and the daemon takes them.
    let mut arguments = vec!["reconnect-storm", "--url", &url, "-n", "30", "--tls-ca", ca.to_str().unwrap()];
    arguments.extend(["--api-key", "k"]);
    let outcome = loadgen(&arguments);
    outcome.assert_passed();
    assert_eq!(outcome.counter("storm 1", "tls_resumed"), 30, "{}", outcome.text);
}

/// Half a record, then nothing; a record that was changed on its way.
#[test]
fn records_that_are_cut_or_changed() {
    let authority = Authority::new();
    let ca = authority.file();
    let config = Arc::new(authority.config("localhost"));
    for (cut, why) in [(true, "no answer in time"), (false, "TLS: a record of the server cannot be opened")] {
        let config = Arc::clone(&config);
        let address = serve(move |mut stream| {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            while connection.is_handshaking() {
                if connection.complete_io(&mut stream).is_err() {
                    return;
                }
            }
            let mut record = Vec::new();
            connection.writer().write_all(b"HTTP/1.1 101 Switching Protocols\r\n").unwrap();
            connection.write_tls(&mut record).unwrap();
            if cut {
                record.truncate(record.len() / 2);
            } else {
                *record.last_mut().unwrap() ^= 1;
            }
            let _ = stream.write_all(&record);
            while matches!(stream.read(&mut [0; 4096]), Ok(len) if len > 0) {}
        });
        let outcome = storm(&address, &ca, &["--handshake-timeout", "1s"]);
        assert_eq!((outcome.code, outcome.failures(why)), (1, 8), "{}", outcome.text);
    }
}

#[test]
fn settings_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for (arguments, why) in [
        (&["--tls-ca", "/nowhere.pem"][..], "--tls-ca: /nowhere.pem: No such file"),
        (&["--tls-ca", empty.to_str().unwrap()], "holds no certificate that could be trusted"),
        (&["--insecure", "--tls-name", "a b"], "is no name that a certificate can be for"),
        (&["--profile", "floor"], "this profile is spoken over ws://"),
    ] {
        let output = std::process::Command::new(LOADGEN)
            .args(["connect-storm", "--url", "wss://127.0.0.1:1/"])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
