//! Real servers and the real generator as processes.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use serde_json::Value;
use trunkline::proto::http1::{BodyLength, parse_head};

pub const LOADGEN: &str = env!("CARGO_BIN_EXE_trunkline-loadgen");

/// A process that ends with the test.
pub struct Server {
    pub child: Child,
    pub addr: String,
    // Read by a thread until its end: a full pipe would stop the server.
    _drain: std::thread::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The daemon, open to everybody, with history.
    pub fn trunkline() -> Server {
        Server::trunkline_with("", "")
    }

    /// With further lines of its configuration: below `[client]`, and at the end.
    pub fn trunkline_with(client: &str, more: &str) -> Server {
        Server::trunkline_of("", client, more, |line| line.split_once("listening on ").map(|(_, addr)| addr))
    }

    /// The daemon over TLS, with a certificate and its key (PEM).
    pub fn trunkline_tls(cert: &Path, key: &Path) -> Server {
        let tls = format!("\n[tls]\ncert = {cert:?}\nkey = {key:?}\n");
        Server::trunkline_of("listen_tls = \"127.0.0.1:0\"", "", &tls, |line| {
            line.split_once("listening on ").and_then(|(_, addr)| addr.strip_suffix(" (TLS)"))
        })
    }

    /// `address`: that of the listener, if a line of its log says it.
    fn trunkline_of(first: &str, client: &str, more: &str, address: impl Fn(&str) -> Option<&str>) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trunkline.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\n{first}\necho = true\nshards = 2\n[api]\nkey = \"k\"\n\
                    [limits]\nhistory_bytes_max = \"16MiB\"\n\
                    [client]\nallow_anonymous = true\nconnections_max = 5000\n{client}\n\
                    [channel]\nhistory_size = 1000\nhistory_ttl = \"60s\"\nallow_subscribe_for_client = true\n\
                    allow_publish_for_subscriber = true\nallow_recovery = true\nallow_positioning = true\n\
                    allow_history_for_subscriber = true\npresence = true\nallow_presence_for_subscriber = true\n{more}\n"
        );
        std::fs::write(&path, text).unwrap();
        let mut child = Command::new(daemon())
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let err: ChildStderr = child.stderr.take().unwrap();
        Server::wait(child, err, address)
    }

    pub fn floor(arguments: &[&str]) -> Server {
        let mut child = Command::new(LOADGEN)
            .args(["floor", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        Server::wait(child, out, |line| line.split_once("listening on ").map(|(_, addr)| addr))
    }

    /// Until it has said where it listens.
    fn wait(
        child: Child,
        says: impl std::io::Read + Send + 'static,
        address: impl Fn(&str) -> Option<&str>,
    ) -> Server {
        let mut lines = BufReader::new(says).lines();
        let mut heard = Vec::new();
        let addr = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the server ended: {heard:?}") };
            if let Some(addr) = address(line.trim()) {
                break addr.trim().to_string();
            }
            heard.push(line);
        };
        let drain = std::thread::spawn(move || for _ in lines.by_ref() {});
        Server { child, addr, _drain: drain }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.addr)
    }
}

/// The workspace's daemon, built once.
pub fn daemon() -> PathBuf {
    static DAEMON: OnceLock<PathBuf> = OnceLock::new();
    DAEMON
        .get_or_init(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            // As tests/run selects it: with other packages its dependencies would have other features, and all be compiled again.
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--workspace", "--bin", "trunkline", "--test", "cli"])
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .status()
                .unwrap();
            assert!(built.success(), "the daemon does not build");
            // This executable lies in target/PROFILE/; tests are always measured against the daemon of `cargo build`.
            let profile = PathBuf::from(LOADGEN).parent().unwrap().to_path_buf();
            profile.parent().unwrap().join("debug").join("trunkline")
        })
        .clone()
}

/// What one call of the generator came to.
pub struct Outcome {
    pub code: i32,
    pub json: Value,
    pub text: String,
}

/// Calls the generator with `--json -`; its table is on standard error then.
pub fn loadgen(arguments: &[&str]) -> Outcome {
    outcome(&Command::new(LOADGEN).args(arguments).args(["--quiet", "--json", "-"]).output().unwrap())
}

pub fn outcome(output: &Output) -> Outcome {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
    Outcome { code: output.status.code().unwrap_or(-1), json, text }
}

impl Outcome {
    pub fn phase(&self, name: &str) -> &Value {
        let phases = self.json["target"]["phases"].as_array().unwrap();
        let found = phases.iter().find(|phase| phase["name"] == name);
        found.unwrap_or_else(|| panic!("no phase {name} in {}", self.text))
    }

    pub fn counter(&self, phase: &str, name: &str) -> u64 {
        self.phase(phase)["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// How often a cause was counted, by a part of its text.
    pub fn failures(&self, part: &str) -> u64 {
        let failures = self.json["target"]["failures"].as_object().unwrap();
        failures
            .iter()
            .filter(|(cause, _)| cause.contains(part))
            .filter_map(|(_, count)| count.as_u64())
            .sum()
    }

    /// Passed, or passed but for a generator that was late: tests run on busy machines.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.code == 0 || self.code == 3, "code {}: {}", self.code, self.text);
        assert_eq!(self.json["target"]["shortfalls"], serde_json::json!([]), "{}", self.text);
    }
}

/// Serves each connection by `handle`, on a thread of its own. Where, is returned.
pub fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(stream));
        }
    });
    addr
}

/// Reads one request with its body: method, path, If-None-Match, body.
pub fn request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<(String, String, u64, Vec<u8>)> {
    let mut bytes = [0; 4096];
    loop {
        if let Ok(Some((head, len))) = parse_head(unread) {
            let body_len = match head.body_length() {
                BodyLength::Length(len) => len as usize,
                _ => 0,
            };
            if unread.len() >= len + body_len {
                let since = head.fields().get("If-None-Match").and_then(|tag| std::str::from_utf8(tag).ok());
                let since = since.and_then(|tag| tag.parse().ok()).unwrap_or(0);
                let taken =
                    (head.method.into(), head.path.into(), since, unread[len..len + body_len].to_vec());
                unread.drain(..len + body_len);
                return Some(taken);
            }
        }
        match stream.read(&mut bytes) {
            Ok(len) if len > 0 => unread.extend_from_slice(&bytes[..len]),
            _ => return None,
        }
    }
}
