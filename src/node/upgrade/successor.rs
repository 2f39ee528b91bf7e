//! The process that is to follow this one, from its start to its first or last word.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::config::load::ENVIRONMENT_HANDOVER as VARIABLE;

use super::request::UpgradeRequest;
use super::wire::{UpgradeWire, WireFault};

/// It is standard input: the number that a started process is given without unsafe code, and that the daemon never reads.
pub const DESCRIPTOR: &str = "0";
/// How long the end of a process is waited for whose socket has ended.
const END_MAX: Duration = Duration::from_secs(2);

/// What this process was started from, taken at its start: later the file may be another one.
#[derive(Clone, Debug)]
pub struct ProcessOrigin {
    binary: PathBuf,
    arguments: Vec<OsString>,
}

impl ProcessOrigin {
    /// # Errors
    /// When the path of the program cannot be found out.
    pub fn find() -> std::io::Result<ProcessOrigin> {
        Ok(ProcessOrigin {
            binary: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
        })
    }

    /// Runs the program of this process from its beginning, in its place.
    pub fn start_over(&self) -> std::io::Error {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).env_remove(VARIABLE).stdin(Stdio::null());
        std::os::unix::process::CommandExt::exec(&mut command)
    }

    /// The same command line, with another file for the configuration if one is named.
    fn arguments(&self, config: Option<&OsStr>) -> Vec<OsString> {
        let Some(config) = config else { return self.arguments.clone() };
        let mut arguments = Vec::new();
        let mut given = self.arguments.iter();
        while let Some(argument) = given.next() {
            let text = argument.to_string_lossy();
            if text == "--config" || text == "-c" {
                given.next();
            } else if !text.starts_with("--config=") && !text.starts_with("-c") {
                arguments.push(argument.clone());
            }
        }
        arguments.extend(["--config".into(), config.into()]);
        arguments
    }
}

/// A started process. Dropped before it has taken over, it is killed: there are never two daemons.
pub struct Successor {
    child: Option<Child>,
    pub wire: UpgradeWire,
}

impl Successor {
    /// # Errors
    /// When it cannot be started.
    pub fn start(origin: &ProcessOrigin, request: &UpgradeRequest) -> Result<Successor, String> {
        let binary = request.binary.as_ref().unwrap_or(&origin.binary);
        let (wire, other) =
            UpgradeWire::pair().map_err(|error| format!("no socket between the processes: {error}"))?;
        let child = Command::new(binary)
            .args(origin.arguments(request.config.as_deref().map(OsStr::new)))
            .env(VARIABLE, DESCRIPTOR)
            .stdin(Stdio::from(other))
            .spawn()
            .map_err(|error| {
                // What keeps it from being read may be the sandbox of this process.
                let hint = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => " (may this node read it? see sandbox.read)",
                    _ => "",
                };
                format!("{} cannot be started: {error}{hint}", binary.display())
            })?;
        Ok(Successor { child: Some(child), wire })
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// A process that has ended may have said why before: that is still to be read.
    pub fn last_word(&mut self, fault: WireFault) -> WireFault {
        if !matches!(fault, WireFault::Ended | WireFault::Io(_)) {
            return fault;
        }
        loop {
            match self.wire.try_receive() {
                Ok(Some(_)) => {}
                Err(refused @ WireFault::Refused(_)) => return refused,
                Ok(None) | Err(_) => return fault,
            }
        }
    }

    /// What is said of a fault: of a process that has ended, how.
    pub fn explain(&mut self, fault: &WireFault) -> String {
        match (fault, self.child.as_mut().and_then(ended)) {
            (WireFault::Ended, Some(status)) => {
                format!("the new process ended ({}): its own log says why", how(status))
            }
            _ => fault.to_string(),
        }
    }

    /// It has taken over, and outlives this process.
    pub fn let_go(&mut self) {
        self.child = None;
    }

    /// Waits until it has settled, or has ended. False: neither has happened by then.
    pub fn wait_settled(&mut self, until: Instant) -> bool {
        loop {
            match self.wire.wait_readable(until) {
                Ok(true) if self.wire.try_receive().is_ok() => {}
                Ok(false) => return false,
                Ok(true) | Err(_) => return true,
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + END_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => return None,
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for no known reason".into(),
    }
}

/// The socket to the process before this one, if there is one.
///
/// # Errors
/// It is no such socket, or that of another user.
pub fn inherited() -> Option<std::io::Result<UpgradeWire>> {
    let number = std::env::var_os(VARIABLE)?;
    Some(take(&number))
}

fn take(number: &OsStr) -> std::io::Result<UpgradeWire> {
    use rustix::net::SocketType;
    use rustix::net::sockopt::socket_type;
    let invalid = |problem: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
    if number != DESCRIPTOR {
        return Err(invalid(format!("{VARIABLE}: the socket of an upgrade is descriptor {DESCRIPTOR}")));
    }
    let input = std::io::stdin();
    let kind = socket_type(&input)
        .map_err(|error| invalid(format!("{VARIABLE}: standard input is no socket: {error}")))?;
    if kind != SocketType::SEQPACKET {
        return Err(invalid(format!("{VARIABLE}: standard input is not the socket of an upgrade")));
    }
    super::request::ensure_trusted(&input)?;
    Ok(UpgradeWire::new(input.as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(arguments: &[&str]) -> ProcessOrigin {
        ProcessOrigin { binary: "/bin/x".into(), arguments: arguments.iter().map(OsString::from).collect() }
    }

    #[test]
    fn another_configuration_takes_the_place_of_the_first() {
        for arguments in [
            &["--config", "a", "--echo"][..],
            &["-c", "a", "--echo"],
            &["--config=a", "--echo"],
            &["-ca", "--echo"],
            &["--echo"],
        ] {
            let origin = origin(arguments);
            assert_eq!(origin.arguments(None), arguments);
            assert_eq!(origin.arguments(Some(OsStr::new("b"))), ["--echo", "--config", "b"], "{arguments:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_start_or_ends_is_named() {
        let origin = origin(&["hello"]);
        let request =
            |binary: &str| UpgradeRequest { binary: Some(binary.into()), ..UpgradeRequest::of_signal() };
        let problem = Successor::start(&origin, &request("/nonexistent")).err().unwrap();
        assert!(problem.contains("/nonexistent"), "{problem}");
        let mut successor = Successor::start(&origin, &request("/bin/false")).unwrap();
        let fault = successor.wire.receive(Instant::now() + Duration::from_secs(30)).unwrap_err();
        assert_eq!(successor.explain(&fault), "the new process ended (exit code 1): its own log says why");
    }

    #[test]
    fn standard_input_that_is_no_such_socket_is_refused() {
        assert!(take(OsStr::new("7")).err().unwrap().to_string().contains("descriptor 0"));
        // Whatever the tests were started with.
        assert!(take(OsStr::new("0")).is_err());
    }
}
