//! The daemon as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::socket::Socket;

/// How long any wait of these tests may last. A bound on hanging, not on speed: two loaded cores, debug code.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const API_KEY: &str = "key-of-the-tests";
pub const TOKEN_SECRET: &str = "secret-of-the-tests-0123456789abcdef";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    Mio,
}

impl Driver {
    fn flag(self) -> &'static str {
        match self {
            Driver::IoUring => "io-uring",
            Driver::Mio => "mio",
        }
    }
}

/// A running daemon. Dropped, it is killed; [`Daemon::stop`] ends it the way an operator does.
pub struct Daemon {
    child: Child,
    output: Output,
    address: SocketAddr,
    /// Of the configuration, which may be read again.
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts the daemon with the echo endpoint, anonymous clients and the options of [`configuration`].
    pub fn start(driver: Driver) -> Daemon {
        Daemon::start_with(driver, &[])
    }

    pub fn start_with(driver: Driver, arguments: &[&str]) -> Daemon {
        Daemon::start_set(driver, arguments, &[])
    }

    /// With further settings, by the part of their variable's name behind `TRUNKLINE_`.
    pub fn start_set(driver: Driver, arguments: &[&str], settings: &[(&str, &str)]) -> Daemon {
        Daemon::start_written(driver, arguments, settings, "")
    }

    /// With further tables at the end of the configuration file.
    pub fn start_written(
        driver: Driver,
        arguments: &[&str],
        settings: &[(&str, &str)],
        tables: &str,
    ) -> Daemon {
        let binary = std::env::var_os("TRUNKLINE_TEST_BINARY");
        let command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_trunkline").into()));
        Daemon::start_command(command, driver, arguments, settings, tables)
    }

    /// With one shard and limits on open files.
    pub fn start_limited(driver: Driver, soft: u32, hard: u32) -> Daemon {
        let binary = std::env::var_os("TRUNKLINE_TEST_BINARY");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")])
            .arg(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_trunkline").into()));
        Daemon::start_command(shell, driver, &["--shards", "1"], &[], "")
    }

    /// Started by a line of a shell, in which `$0 $@` is the daemon with its arguments.
    pub fn start_by(line: &str, driver: Driver, arguments: &[&str], tables: &str) -> Daemon {
        let binary = std::env::var_os("TRUNKLINE_TEST_BINARY");
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).arg(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_trunkline").into()));
        Daemon::start_command(shell, driver, arguments, &[], tables)
    }

    fn start_command(
        mut command: Command,
        driver: Driver,
        arguments: &[&str],
        settings: &[(&str, &str)],
        tables: &str,
    ) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory for the configuration");
        let file = directory.path().join("trunkline.toml");
        std::fs::write(&file, configuration() + tables).expect("the configuration is written");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TRUNKLINE_") {
                command.env_remove(name);
            }
        }
        // Tests that are about a drain say over which time.
        command.env("TRUNKLINE_SHUTDOWN_DRAIN", "0s");
        command.envs(settings.iter().map(|(name, value)| (format!("TRUNKLINE_{name}"), value)));
        command
            .arg("--config")
            .arg(&file)
            .args(["--listen", "127.0.0.1:0", "--driver", driver.flag(), "--echo"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let output = Output::default();
        output.collect(child.stdout.take().expect("stdout is a pipe"));
        output.collect(child.stderr.take().expect("stderr is a pipe"));
        let Some(address) = output.wait_for(listening_address) else {
            child.kill().ok();
            panic!("the daemon did not say where it listens:\n{}", output.text());
        };
        Daemon { child, output, address, _directory: directory }
    }

    /// Every port that clients may connect to, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ready = self.output.wait_for(|text| {
            let found = addresses_of(&text[..text.rfind('\n')?], "clients  ws://");
            (!found.is_empty()).then_some(found)
        });
        ready.expect("a plain listener")
    }

    /// Those that speak TLS.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        let ready = self.output.wait_for(|text| {
            let found = addresses_of(&text[..text.rfind('\n')?], "clients  wss://");
            (!found.is_empty()).then_some(found)
        });
        ready.expect("a listener that speaks TLS")
    }

    /// A fresh connection with no delay of small writes, so that what is written apart travels apart.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the daemon accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        stream
    }

    /// The same from another address of this machine: 127.0.0.0/8 are as many clients' as a test needs.
    pub fn connect_from(&self, address: Ipv4Addr) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&client, &SocketAddr::from((address, 0))).expect("an address of this machine");
        connect(&client, &self.address).expect("the daemon accepts");
        let stream = TcpStream::from(client);
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        stream
    }

    /// A value of `/metrics`, asked for as the backend would.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = Socket::raw(self).get_with("/metrics", &format!("X-API-Key: {API_KEY}\r\n"));
        let text = String::from_utf8_lossy(&metrics.body);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// A fresh connection to `api_listen`, which must be set.
    pub fn connect_to_api(&self) -> TcpStream {
        let address = self.output.wait_for(|text| {
            let (_, after) = text[..text.rfind('\n')?].split_once("API listening on ")?;
            after.split_whitespace().next()?.parse::<SocketAddr>().ok()
        });
        let stream = TcpStream::connect(address.expect("an address of the API")).expect("the API accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Waits until the daemon has written `text`.
    pub fn wait_for_log(&self, text: &str) {
        let found = self.output.wait_for(|output| output.contains(text).then_some(()));
        assert!(found.is_some(), "not logged: {text:?}\n{}", self.output.text());
    }

    /// One call of the server API on its own connection.
    pub fn api(&self, method: &str, body: &str) -> serde_json::Value {
        Api::new(self).call(method, body)
    }

    /// SIGTERM, and the end of the process.
    pub fn stop(mut self) -> ExitStatus {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).expect("the daemon runs");
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < end, "the daemon ignores SIGTERM:\n{}", self.output.text());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- the daemon's output\n{}", self.output.text());
        }
    }
}

/// A keep-alive connection to the server API.
pub struct Api {
    socket: Socket,
}

impl Api {
    pub fn new(daemon: &Daemon) -> Api {
        Api { socket: Socket::raw(daemon) }
    }

    /// The whole JSON answer. Panics on any status but 200.
    pub fn call(&mut self, method: &str, body: &str) -> serde_json::Value {
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.send_bytes(request.as_bytes());
        let answer = self.socket.response();
        assert_eq!(answer.status, 200, "{method}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }
}

/// What a child has written so far, on both of its streams.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<String>, Condvar)>);

impl Output {
    fn collect(&self, stream: impl Read + Send + 'static) {
        let output = self.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                let (text, changed) = &*output.0;
                text.lock().expect("no writer panics").push_str(&String::from_utf8_lossy(&line));
                changed.notify_all();
                line.clear();
            }
        });
    }

    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (text, changed) = &*self.0;
        let end = Instant::now() + DEADLINE;
        let mut text = text.lock().expect("no writer panics");
        loop {
            if let Some(found) = find(&text) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            text = changed.wait_timeout(text, left).expect("no writer panics").0;
        }
    }

    fn text(&self) -> String {
        self.0.0.lock().expect("no writer panics").clone()
    }
}

fn addresses_of(text: &str, before: &str) -> Vec<SocketAddr> {
    let places = text.split(before).skip(1).filter_map(|place| place.split('/').next());
    places.filter_map(|place| place.parse().ok()).collect()
}

/// Finds the address in a line that has ended: a cut line could hold a cut port.
fn listening_address(output: &str) -> Option<SocketAddr> {
    let complete = &output[..output.rfind('\n')?];
    let (_, after) = complete.split_once("listening on ")?;
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(after.len());
    after[..end].parse().ok()
}

fn configuration() -> String {
    format!(
        "[api]\nkey = \"{API_KEY}\"\n\n\
         [client]\nallow_anonymous = true\n\n\
         [client.token]\nhmac_secret = \"{TOKEN_SECRET}\"\n\n\
         [channel]\nhistory_size = 1000\nhistory_ttl = \"10m\"\nallow_subscribe_for_client = true\n\n\
         [[namespace]]\nname = \"open\"\nhistory_size = 1000\nhistory_ttl = \"10m\"\n\
         allow_subscribe_for_client = true\nallow_publish_for_client = true\nallow_history_for_client = true\n\n\
         [[namespace]]\nname = \"short\"\nhistory_size = 3\nhistory_ttl = \"10m\"\n\
         allow_subscribe_for_client = true\n\n\
         [[namespace]]\nname = \"live\"\nallow_subscribe_for_client = true\n\n\
         [[namespace]]\nname = \"closed\"\nhistory_size = 10\nhistory_ttl = \"10m\"\n"
    )
}
