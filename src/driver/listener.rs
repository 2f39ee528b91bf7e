//! Listeners: where clients come in, and how the shards share one place.
//!
//! Inputs: addresses. Outputs: what a driver accepts from. Must not know: rings, epoll, what comes of a client.
//!
//! **TCP**: every driver binds a socket of its own to the one address, and the kernel spreads clients by hash
//! (SO_REUSEPORT). **Unix sockets** have no SO_REUSEPORT: one listener is bound for all drivers ([`UnixSocket`]), and each of
//! them waits on it exclusively, takes one client and goes to the end of the queue. So clients that come one by one go to
//! the drivers in turn, and in a storm a driver gets as many as it has ticks. A driver that took all that are there would
//! take nearly all there are: the kernel wakes the first in the queue. One shard that listens and hands the sockets on would
//! be as even, at the price of moving each socket between two rings.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::sys;
use crate::base::address::ListenAddress;
use crate::base::ids::ListenerId;

/// One of the places where a driver's clients come in.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    pub bind: Bind,
    /// The addresses of its clients are wanted: io_uring then accepts them one by one, since only so the kernel says them.
    pub addresses: bool,
}

#[derive(Clone, Debug)]
pub enum Bind {
    /// Each driver binds a socket of its own here. Whether one of IPv6 is for that alone: `None` as the kernel has it.
    Tcp(SocketAddr, Option<bool>),
    /// All drivers accept from this one.
    Unix(Arc<UnixSocket>),
    /// Of the process before this one: its clients count as those of the listener at this place.
    Inherited(ListenerId, Arc<TcpListener>),
}

impl From<SocketAddr> for ListenOptions {
    fn from(address: SocketAddr) -> ListenOptions {
        ListenOptions { bind: Bind::Tcp(address, None), addresses: false }
    }
}

impl From<Arc<UnixSocket>> for ListenOptions {
    fn from(socket: Arc<UnixSocket>) -> ListenOptions {
        ListenOptions { bind: Bind::Unix(socket), addresses: false }
    }
}

impl ListenOptions {
    /// As asked for: port 0 stays 0.
    pub fn address(&self) -> ListenAddress {
        match &self.bind {
            Bind::Tcp(address, _) => ListenAddress::Tcp(*address),
            Bind::Unix(socket) => ListenAddress::Unix(socket.path.clone()),
            Bind::Inherited(_, socket) => {
                let address = socket.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
                ListenAddress::Tcp(address)
            }
        }
    }

    /// Which of the configured listeners it is, when it stands at `index` of a driver's list.
    pub(in crate::driver) fn place(&self, index: usize) -> ListenerId {
        match self.bind {
            Bind::Inherited(place, _) => place,
            Bind::Tcp(..) | Bind::Unix(_) => ListenerId(index as u8),
        }
    }
}

/// A unix socket that listens. Its file goes with it, unless another socket has taken its place.
///
/// Clients have no address there, and TCP's options ([`SocketOptions`](crate::driver::SocketOptions)) do not exist: what the
/// kernel keeps for a client that does not read is net.core.wmem_default, and a reset is an ordinary close.
#[derive(Debug)]
pub struct UnixSocket {
    listener: Socket,
    path: Arc<Path>,
    /// Device and inode of the file.
    file: (u64, u64),
    /// The file is another process's to remove.
    is_lent: AtomicBool,
}

/// Takes the sockets that the service manager has left open for this process, once.
///
/// # Errors
/// When one is not open, or they were taken before.
pub fn take_handed_over(count: u8) -> io::Result<Vec<OwnedFd>> {
    sys::take_handed_over(count)
}

/// What stands where a unix socket is to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    Nothing,
    /// A socket on which nobody listens: its process has ended and did not get to remove it.
    Stale,
}

/// Two starts that find the same stale file must not remove each other's socket: the first holds the folder's lock until it
/// listens, which takes microseconds.
const LOCK_TRIES_MAX: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

impl UnixSocket {
    /// Listens at `path`; `mode` says who may connect, as permission bits of the file. A stale file is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there, `AlreadyExists` when there is something else than a socket; what the
    /// operating system says otherwise.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Arc<UnixSocket>> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Released when it is dropped.
        let _lock = lock(folder)?;
        if find_occupant(path)? == Occupant::Stale {
            fs::remove_file(path)?;
        }
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listener.set_nonblocking(true)?;
        listener.bind(&SockAddr::unix(path)?)?;
        // Before it listens: until then nobody can connect, whatever the umask has made of the mode.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let file = identity(&fs::symlink_metadata(path)?);
        listener.listen(sys::BACKLOG)?;
        Ok(Arc::new(UnixSocket { listener, path: path.into(), file, is_lent: AtomicBool::new(false) }))
    }

    /// The socket of the process before this one, which listens at `path`. Its file is still that one's: see
    /// [`UnixSocket::lend`].
    ///
    /// # Errors
    /// Its file is gone.
    pub fn inherit(listener: OwnedFd, path: &Path) -> io::Result<Arc<UnixSocket>> {
        let file = identity(&fs::symlink_metadata(path)?);
        let is_lent = AtomicBool::new(true);
        Ok(Arc::new(UnixSocket { listener: listener.into(), path: path.into(), file, is_lent }))
    }

    /// Says whether the file is another process's: then it stays when this socket goes.
    pub fn lend(&self, is_lent: bool) {
        self.is_lent.store(is_lent, Ordering::Relaxed);
    }

    /// The same socket for somebody else to accept from.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        Ok(self.listener.try_clone()?.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_lent.load(Ordering::Relaxed) {
            return;
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file) {
            // An error leaves a stale file, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a unix socket can be bound at `path`, without touching what is there.
///
/// # Errors
/// As [`UnixSocket::bind`].
pub fn find_occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is something else than a socket"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Occupant::Nothing),
        Err(error) => return Err(error),
    }
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.set_nonblocking(true)?;
    match client.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Occupant::Stale),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Occupant::Nothing),
        // A full backlog (EAGAIN) and a socket of another type (EPROTOTYPE) are somebody's too.
        Ok(()) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EPROTOTYPE)) => {
            Err(ErrorKind::AddrInUse.into())
        }
        Err(error) => Err(error),
    }
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    for _ in 0..LOCK_TRIES_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, format!("{} is locked by another program", folder.display())))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn refused(path: &Path) -> ErrorKind {
        UnixSocket::bind(path, 0o600).expect_err("refused").kind()
    }

    #[test]
    fn a_socket_has_its_mode_and_takes_its_file_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let socket = UnixSocket::bind(&path, 0o640).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
        assert_eq!(find_occupant(&path).unwrap(), Occupant::Nothing);
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        // Of a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(find_occupant(&path).unwrap(), Occupant::Stale);
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        assert_eq!(refused(&path), ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the refused one has left it alone");
        drop(socket);
        fs::write(&path, "a file").unwrap();
        assert_eq!(refused(&path), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(refused(&path), ErrorKind::AddrInUse);
        assert_eq!(refused(&folder.path().join("no/folder.sock")), ErrorKind::NotFound);
    }

    /// Both processes of an upgrade have the socket: one of them removes the file.
    #[test]
    fn a_file_that_is_lent_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let old = UnixSocket::bind(&path, 0o600).unwrap();
        let fd = || old.as_fd().try_clone_to_owned().unwrap();
        drop(UnixSocket::inherit(fd(), &path).unwrap());
        assert!(UnixStream::connect(&path).is_ok(), "an upgrade that failed changes nothing");
        let new = UnixSocket::inherit(fd(), &path).unwrap();
        old.lend(true);
        new.lend(false);
        drop(old);
        assert!(UnixStream::connect(&path).is_ok());
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_has_taken_the_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = UnixSocket::bind(&path, 0o600).unwrap();
        drop(socket);
        assert!(UnixStream::connect(&path).is_ok());
        drop(successor);
        assert!(!path.exists());
    }

    /// Many starts at a time beside a stale file: one of them listens, and it is the one that is reached.
    #[test]
    fn of_many_starts_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let bound: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| UnixSocket::bind(&path, 0o600))).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap().ok()).collect()
            });
            assert_eq!(bound.len(), 1);
            assert!(UnixStream::connect(&path).is_ok());
        }
    }
}
