//! Several places to connect to: two ports and a unix socket of one daemon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use crate::on_both_drivers;
use crate::process::{API_KEY, DEADLINE, Daemon};

/// One request on its own connection, which the answer ends.
fn request(mut stream: impl Read + Write, head: &str) -> String {
    write!(stream, "{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the daemon accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream
}

/// A client of the SDK's protocol, as JSON over WebSocket.
struct Client<S>(S);

impl<S: Read + Write> Client<S> {
    fn connect(mut stream: S) -> Client<S> {
        let head = "GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut client = Client(stream);
        client.say(r#"{"id":1,"connect":{}}"#);
        client.hear("\"connect\"");
        client.say(r#"{"id":2,"subscribe":{"channel":"all"}}"#);
        client.hear("\"subscribe\"");
        client
    }

    /// A short masked frame; the mask is zero.
    fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short"), 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).expect("taken");
    }

    /// The next frame, which holds `text`.
    fn hear(&mut self, text: &str) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let mut len = usize::from(head[1]);
        if len == 126 {
            let mut longer = [0; 2];
            self.0.read_exact(&mut longer).expect("a length");
            len = usize::from(u16::from_be_bytes(longer));
        }
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload).expect("a payload");
        let payload = String::from_utf8_lossy(&payload);
        assert!(payload.contains(text), "{text} expected, not {payload}");
    }
}

/// Runs the binary to its end, for starts that are refused and for `check` and `doctor`.
fn trunkline(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRUNKLINE_"))
    {
        command.env_remove(name);
    }
    command.args(arguments).output().expect("the binary runs")
}

on_both_drivers! {
    fn every_listener_serves_the_same(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.sock");
        let socket = format!("unix:{}", path.display());
        let more = ["--listen", "127.0.0.1:0", "--listen", &socket, "--shards", "2"];
        let daemon = Daemon::start_with(driver, &more);
        daemon.wait_for_log(&format!("clients  {socket} /connection/websocket"));
        let second: SocketAddr = daemon.addresses()[1];
        let file = std::fs::symlink_metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o660, "unix_socket_mode");

        let mut by_port = Client::connect(daemon.connect());
        let mut by_second = Client::connect(TcpStream::connect(second).expect("the second port"));
        let mut by_socket: Vec<_> = (0..6).map(|_| Client::connect(unix(&path))).collect();
        daemon.api("publish", r#"{"channel":"all","data":{"n":"to everybody"}}"#);
        by_port.hear("to everybody");
        by_second.hear("to everybody");
        by_socket.iter_mut().for_each(|client| client.hear("to everybody"));

        // A proxy stands behind a unix socket: the API and the metrics need their key there as on any port.
        assert!(request(unix(&path), "GET /health HTTP/1.1").starts_with("HTTP/1.1 200"));
        assert!(request(unix(&path), "GET /metrics HTTP/1.1").starts_with("HTTP/1.1 401"));
        let with_key = format!("GET /metrics HTTP/1.1\r\nX-API-Key: {API_KEY}");
        assert!(request(unix(&path), &with_key).starts_with("HTTP/1.1 200"));

        // Beside it no other starts, and it has not lost its socket to the attempt.
        let refused = trunkline(&["--listen", &socket]);
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(&format!("listen: {socket} cannot be bound")), "{said}");
        assert!(request(unix(&path), "GET /health HTTP/1.1").starts_with("HTTP/1.1 200"));
        let doctor = trunkline(&["doctor", "--listen", &socket]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains(&format!("SHORT  listen: {socket} cannot be bound")), "{said}");

        drop((by_port, by_second, by_socket));
        assert!(daemon.stop().success());
        assert!(!path.exists(), "the file goes with the daemon");
    }

    /// What a killed daemon leaves behind does not keep the next one from starting; a file of somebody else does.
    fn a_socket_without_anybody_is_replaced(driver: Driver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.sock");
        let socket = format!("unix:{}", path.display());
        let killed = Daemon::start_with(driver, &["--listen", &socket]);
        drop(killed);
        assert!(path.exists(), "killed, it could not remove its file");
        let daemon = Daemon::start_with(driver, &["--listen", &socket]);
        assert!(request(unix(&path), "GET /health HTTP/1.1").starts_with("HTTP/1.1 200"));
        assert!(daemon.stop().success());

        std::fs::write(&path, "not a socket").unwrap();
        let refused = trunkline(&["--listen", &socket]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("something else than a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"not a socket");
        std::fs::remove_file(&path).unwrap();
        // A socket of another program that listens.
        let _other = UnixListener::bind(&path).unwrap();
        assert_eq!(trunkline(&["--listen", &socket]).status.code(), Some(1));
    }
}

#[test]
fn check_names_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.toml");
    let text = "listen = [\"127.0.0.1:1\", \"unix:/run/a.sock\"]\napi_listen = \"127.0.0.1:2\"\n[api]\nkey = \"k\"\n";
    std::fs::write(&file, text).unwrap();
    let checked = trunkline(&["check", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let (_, places) = said.split_once("clients  ").expect("places");
    let expected =
        format!("127.0.0.1:1\nclients  unix:/run/a.sock\nAPI      127.0.0.1:2\n{}: ok\n", file.display());
    assert_eq!(places, expected);
}
