//! How a running node is asked for an upgrade: a socket of its own, reached by those who may signal it.
//!
//! It is an abstract unix socket named after the process, so that it needs no folder, leaves no file, and a second node of
//! the machine has another one. Only the user that the node runs as, and root, are answered: an upgrade starts a program,
//! which a key of the API must not allow.
//!
//! One request a connection, a line of JSON; the answers are lines, the last one [`UpgradeSaid::Done`] or [`UpgradeSaid::Failed`].

use std::fs;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::cli::UpgradeTask;

/// What the names of these sockets begin with; the number of the process follows.
const NAME: &str = "trunkline-control-";
/// Longest request, in bytes: two paths.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// How long a caller may take for its line, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an upgrade may take unless the caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that may be asked for: a moving node answers nobody.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// What is to be started in the place of this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// The program; unset, the one that this process was started from, as its file is now.
    #[serde(default)]
    pub binary: Option<PathBuf>,
    /// Its configuration; unset, what this process was started with.
    #[serde(default)]
    pub config: Option<PathBuf>,
    pub timeout_ms: u64,
}

impl UpgradeRequest {
    /// What a signal asks for.
    pub fn of_signal() -> UpgradeRequest {
        UpgradeRequest { binary: None, config: None, timeout_ms: TIMEOUT.as_millis() as u64 }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The question, as a line of the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhereIsTheApi {
    pub development_api: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevelopmentApi {
    pub api: String,
    pub clients: String,
    pub key: String,
}

/// A line of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeSaid {
    Progress(String),
    Done(String),
    Failed(String),
}

/// Whether an upgrade runs: one at a time.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<AtomicBool>);

impl Running {
    /// # Errors
    /// One runs already.
    pub fn start(&self) -> Result<Started, &'static str> {
        let started = self.0.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        started.map(|_| Started(self.clone())).map_err(|_| "an upgrade is running already")
    }
}

/// Dropped, the next upgrade may start.
#[derive(Debug)]
pub struct Started(Running);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// An upgrade that somebody waits for.
#[derive(Debug)]
pub struct AskedUpgrade {
    pub request: UpgradeRequest,
    /// `None` for a signal.
    caller: Option<UnixStream>,
    _started: Started,
}

impl AskedUpgrade {
    pub fn by_signal(started: Started) -> AskedUpgrade {
        AskedUpgrade { request: UpgradeRequest::of_signal(), caller: None, _started: started }
    }

    /// Logs a step, and shows it to the caller. One that has gone is no reason to stop.
    pub fn progress(&self, text: &str) {
        tracing::info!("upgrade: {text}");
        self.say(&UpgradeSaid::Progress(text.into()));
    }

    pub fn done(&self, text: &str) {
        tracing::info!("upgrade: {text}");
        self.say(&UpgradeSaid::Done(text.into()));
    }

    pub fn failed(&self, text: &str) {
        tracing::error!("upgrade failed, this process serves on: {text}");
        self.say(&UpgradeSaid::Failed(text.into()));
    }

    fn say(&self, said: &UpgradeSaid) {
        if let Some(mut caller) = self.caller.as_ref() {
            let _ = write_line(&mut caller, said);
        }
    }
}

/// The socket: who asks from now on is answered when [`listen`] does.
///
/// # Errors
/// It cannot be bound.
pub fn bind() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&address(std::process::id())?)
}

/// Takes requests and gives them to `take`, from a thread of its own; `take` says no when the node ends. `development` is
/// said to those who ask for it.
///
/// # Errors
/// No thread can be started.
pub fn listen(
    listener: UnixListener,
    running: Running,
    development: Option<DevelopmentApi>,
    take: impl Fn(AskedUpgrade) -> bool + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("control-socket".into()).spawn(move || {
        for caller in listener.incoming() {
            let Ok(caller) = caller else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if let Err(problem) = hear(&caller, &running, development.as_ref(), &take) {
                tracing::warn!("control socket: {problem}");
                let _ = write_line(&mut &caller, &UpgradeSaid::Failed(problem));
            }
        }
    })?;
    Ok(())
}

fn hear(
    caller: &UnixStream,
    running: &Running,
    development: Option<&DevelopmentApi>,
    take: &(impl Fn(AskedUpgrade) -> bool + Send),
) -> Result<(), String> {
    let times = caller.set_read_timeout(Some(PATIENCE)).and(caller.set_write_timeout(Some(PATIENCE)));
    times.map_err(|error| error.to_string())?;
    ensure_trusted(caller).map_err(|error| error.to_string())?;
    let mut line = String::new();
    let read = BufReader::new(caller.take(REQUEST_BYTES_MAX)).read_line(&mut line);
    read.map_err(|error| format!("no request came: {error}"))?;
    if serde_json::from_str::<WhereIsTheApi>(&line).is_ok() {
        let development =
            development.ok_or("this node is not in development mode: its keys are configured")?;
        return write_line(caller, development).map_err(|error| error.to_string());
    }
    let request: UpgradeRequest =
        serde_json::from_str(&line).map_err(|error| format!("the request is not understood: {error}"))?;
    if request.timeout().is_zero() || request.timeout() > TIMEOUT_MAX {
        return Err(format!("the timeout must be from 1 ms to {TIMEOUT_MAX:?}"));
    }
    let started = running.start()?;
    let caller = caller.try_clone().map_err(|error| error.to_string())?;
    match take(AskedUpgrade { request, caller: Some(caller), _started: started }) {
        true => Ok(()),
        false => Err("the node is about to end".into()),
    }
}

/// Whether the process at the other end is of this user, or of root.
///
/// # Errors
/// It is another's, or cannot be found out.
pub fn ensure_trusted(socket: impl AsFd) -> io::Result<()> {
    let other = rustix::net::sockopt::socket_peercred(socket)?.uid;
    let own = rustix::process::geteuid();
    match other == own || other.is_root() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "refused: the process at the other end is of user {}, not {}",
                other.as_raw(),
                own.as_raw()
            ),
        )),
    }
}

pub(super) fn address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{NAME}{pid}"))
}

pub(super) fn write_line(mut to: impl io::Write, said: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// `trunkline upgrade`: asks the node and prints what it says.
pub fn ask(task: UpgradeTask) -> ExitCode {
    let UpgradeTask { pid, binary, config, timeout } = task;
    let mut request = UpgradeRequest { binary, config, timeout_ms: timeout.as_millis() as u64 };
    for path in [&mut request.binary, &mut request.config].into_iter().flatten() {
        match fs::canonicalize(&*path) {
            Ok(whole) => *path = whole,
            Err(error) => return fail(&format!("{}: {error}", path.display())),
        }
    }
    let pid = match pid.map_or_else(find, Ok) {
        Ok(pid) => pid,
        Err(problem) => return fail(&problem),
    };
    let caller = match address(pid).and_then(|address| UnixStream::connect_addr(&address)) {
        Ok(caller) => caller,
        Err(error) => return fail(&format!("process {pid} is no node that can be asked: {error}")),
    };
    // Somebody else might have taken the name of a process that does not run.
    if let Err(error) = ensure_node(&caller) {
        return fail(&error.to_string());
    }
    if let Err(error) = write_line(&caller, &request) {
        return fail(&error.to_string());
    }
    for line in BufReader::new(&caller).lines() {
        match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
            Some(UpgradeSaid::Progress(text)) => println!("{text}"),
            Some(UpgradeSaid::Done(text)) => {
                println!("{text}");
                return ExitCode::SUCCESS;
            }
            Some(UpgradeSaid::Failed(text)) => return fail(&text),
            None => break,
        }
    }
    fail("the node ended before it said how the upgrade went")
}

/// The caller may be root, the node never is more than the caller.
pub(super) fn ensure_node(socket: impl AsFd) -> io::Result<()> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => ensure_trusted(socket),
    }
}

fn fail(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {problem}");
    ExitCode::FAILURE
}

/// Every node of this machine.
///
/// # Errors
/// The system does not say.
pub(super) fn running_nodes() -> Result<Vec<u32>, String> {
    let table = fs::read_to_string("/proc/net/unix").map_err(|error| format!("/proc/net/unix: {error}"))?;
    let mut nodes = nodes_of(&table);
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

/// The one node of this machine.
fn find() -> Result<u32, String> {
    match running_nodes()?[..] {
        [one] => Ok(one),
        [] => Err("no node runs here that can be asked".into()),
        ref nodes => {
            let all = nodes.iter().map(u32::to_string).collect::<Vec<_>>();
            Err(format!("several nodes run here, name one with --pid: {}", all.join(", ")))
        }
    }
}

/// Which processes listen for requests, as proc(5) has it: the path is the last field, '@' for an abstract name.
fn nodes_of(table: &str) -> Vec<u32> {
    /// The kernel's flag of a socket that listens (SO_ACCEPTCON).
    const LISTENS: &str = "00010000";
    let listening = table.lines().filter(|line| line.split_whitespace().nth(3) == Some(LISTENS));
    listening
        .filter_map(|line| {
            line.split_whitespace().last()?.strip_prefix('@')?.strip_prefix(NAME)?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_their_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     ffff8: 00000002 00000000 00010000 0001 01 22222 @trunkline-control-4711\n\
                     ffff9: 00000003 00000000 00000000 0001 03 22223 @trunkline-control-4711\n\
                     ffffa: 00000002 00000000 00010000 0001 01 22224 /run/trunkline-control-12\n\
                     ffffb: 00000002 00000000 00010000 0001 01 22225 @trunkline-control-x\n";
        assert_eq!(nodes_of(table), [4711]);
        assert!(nodes_of("").is_empty());
    }

    #[test]
    fn one_upgrade_runs_at_a_time() {
        let running = Running::default();
        let first = running.start().unwrap();
        assert!(running.start().is_err());
        drop(first);
        assert!(running.start().is_ok());
    }

    #[test]
    fn the_key_of_development_mode_is_said_where_there_is_one() {
        let answer = |development: Option<&DevelopmentApi>| {
            let (caller, node) = UnixStream::pair().unwrap();
            write_line(&caller, &WhereIsTheApi { development_api: true }).unwrap();
            let heard = hear(&node, &Running::default(), development, &|_| panic!("no upgrade"));
            drop(node);
            let mut line = String::new();
            BufReader::new(&caller).read_line(&mut line).unwrap();
            (heard.is_ok(), line)
        };
        let api = DevelopmentApi { api: "a".into(), clients: "c".into(), key: "k".into() };
        assert_eq!(answer(Some(&api)), (true, "{\"api\":\"a\",\"clients\":\"c\",\"key\":\"k\"}\n".into()));
        assert_eq!(answer(None), (false, String::new()));
    }

    #[test]
    fn a_request_is_heard_and_answered_to_its_end() {
        let (caller, node) = UnixStream::pair().unwrap();
        let request = UpgradeRequest { binary: Some("/a".into()), config: None, timeout_ms: 1 };
        write_line(&caller, &request).unwrap();
        let (given, taken) = std::sync::mpsc::sync_channel(1);
        let running = Running::default();
        hear(&node, &running, None, &|asked| given.send(asked).is_ok()).unwrap();
        let asked = taken.recv().unwrap();
        assert_eq!(asked.request, request);
        // Another one meanwhile, and others that are none.
        let wrong = |line: &str| {
            let (mut caller, node) = UnixStream::pair().unwrap();
            caller.write_all(line.as_bytes()).unwrap();
            hear(&node, &running, None, &|_| panic!("taken")).unwrap_err()
        };
        assert_eq!(wrong("{\"timeout_ms\":1}\n"), "an upgrade is running already");
        for line in ["{\"timeout_ms\":0}\n", "{\"timeout_ms\":1e9}\n", "{\"timeout_ms\":1,\"x\":1}\n", "\n"] {
            assert_ne!(wrong(line), "an upgrade is running already", "{line}");
        }
        asked.progress("one");
        asked.done("two");
        drop(asked);
        assert!(running.start().is_ok());
        let lines: Vec<UpgradeSaid> = BufReader::new(&caller)
            .lines()
            .take(2)
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        assert_eq!(lines, [UpgradeSaid::Progress("one".into()), UpgradeSaid::Done("two".into())]);
    }
}
