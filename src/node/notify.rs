//! What systemd is told of this process (sd_notify(3)): datagrams of `KEY=value` lines to the socket named by
//! `NOTIFY_SOCKET`. Without that variable nothing is sent.
//!
//! The order: READY once, then RELOADING … READY around each reload, MAINPID when another process takes over, STOPPING at
//! the end. A few lines of std: a crate would do the same with one dependency more.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, or to nobody.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How long the manager waits for a sign of life before it kills and starts again.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says. What is wrong with it is logged: a daemon serves without being able to say so.
    pub fn from_env() -> Notify {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Notify::default() };
        // WATCHDOG_PID is not looked at: after an upgrade it names the process before this one.
        let microseconds = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = microseconds.filter(|&us| us > 0).map(Duration::from_micros);
        match open(&path) {
            Ok(socket) => Notify { socket: Some(socket), watchdog },
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET: {} cannot be used: {error}", path.display());
                Notify::default()
            }
        }
    }

    /// How often [`Notify::alive`] must be called, twice as often as the manager asks for; `None`: never.
    pub fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }

    /// The node serves: after the start, and again after each reload.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload begins; [`Notify::ready`] must follow, whatever comes of it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = Duration::try_from(now).unwrap_or_default().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reloading the configuration"));
    }

    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// A sign of life for the watchdog, if there is one.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// The service is that process from now on. This one may end without the service ending.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// Lost when nobody listens: whether the node serves does not depend on it.
    fn send(&self, lines: &str) {
        if let Some((socket, to)) = &self.socket
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), to)
        {
            tracing::debug!("the service manager was not told {lines:?}: {error}");
        }
    }
}

/// A path, or a name in the abstract namespace that is written with an "@" before it.
fn open(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(path)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop this process.
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

/// A line's end in it would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: &SocketAddr) -> UnixDatagram {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn read(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let read = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[test]
    fn each_word_is_a_datagram_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("trunkline-notify-{}", std::process::id());
        for (name, address) in [
            (path.as_os_str().to_owned(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{abstract_name}").into(), SocketAddr::from_abstract_name(&abstract_name).unwrap()),
        ] {
            let manager = listen(&address);
            let notify =
                Notify { socket: Some(open(&name).unwrap()), watchdog: Some(Duration::from_secs(20)) };
            notify.ready("serves\nMAINPID=1");
            assert_eq!(read(&manager), "READY=1\nSTATUS=serves MAINPID=1");
            notify.reloading();
            let told = read(&manager);
            let since: u64 =
                told.lines().nth(1).unwrap().strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
            assert!(told.starts_with("RELOADING=1\n") && since > 0, "{told}");
            notify.alive();
            assert_eq!(read(&manager), "WATCHDOG=1");
            notify.main_pid(77);
            assert_eq!(read(&manager), "MAINPID=77");
            notify.status("drains");
            assert_eq!(read(&manager), "STATUS=drains");
            notify.stopping("ends");
            assert_eq!(read(&manager), "STOPPING=1\nSTATUS=ends");
            assert_eq!(notify.alive_interval(), Some(Duration::from_secs(10)));
            // Nobody listens any more: nothing happens.
            drop(manager);
            notify.alive();
        }
        assert!(open(OsStr::new("vsock:2:1")).is_err());
        Notify::default().ready("to nobody");
    }
}
