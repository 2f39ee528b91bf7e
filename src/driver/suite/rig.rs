//! The rig of the real drivers: clients on loopback sockets of this process.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Client, Heard, Rig};
use crate::base::address::ListenAddress;
use crate::base::ids::ListenerId;
use crate::driver::{Driver, DriverOptions};

/// How a real driver is made.
pub(in crate::driver) trait Bind: Driver + Sized {
    fn bind(options: &DriverOptions) -> io::Result<Self>;
}

pub(in crate::driver) struct SocketRig<D> {
    driver: D,
    /// `None` after a reset.
    clients: Vec<Option<Socket>>,
}

impl<D> SocketRig<D> {
    pub(in crate::driver) fn into_driver(self) -> D {
        self.driver
    }
}

impl<D: Bind> SocketRig<D> {
    /// A socket to one of the driver's listeners.
    pub(in crate::driver) fn client(
        &self,
        listener: ListenerId,
        from: Option<Ipv4Addr>,
    ) -> io::Result<Socket> {
        let (socket, address) = match self.driver.local_addr(listener) {
            ListenAddress::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                socket.set_tcp_nodelay(true)?;
                (socket, address.into())
            }
            ListenAddress::Unix(path) => {
                (Socket::new(Domain::UNIX, Type::STREAM, None)?, SockAddr::unix(path)?)
            }
        };
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect(&address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl<D: Bind> Rig for SocketRig<D> {
    type Driver = D;
    const REAL_TIME: bool = true;

    fn try_new(options: DriverOptions) -> Option<Self> {
        match D::bind(&options) {
            Ok(driver) => Some(SocketRig { driver, clients: Vec::new() }),
            // What io_uring says where it is forbidden, too old, or missing.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                eprintln!("{error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn succeed(&mut self, mut options: DriverOptions) -> D {
        let inherited = self.driver.listeners().expect("a descriptor");
        options.listeners = inherited
            .into_iter()
            .map(|(place, fd)| super::super::ListenOptions {
                bind: super::super::Bind::Inherited(place, std::sync::Arc::new(fd.into())),
                addresses: false,
            })
            .collect();
        std::mem::replace(&mut self.driver, D::bind(&options).expect("a second driver"))
    }

    fn take_back(&mut self, old: D) -> D {
        std::mem::replace(&mut self.driver, old)
    }

    fn connect_by(&mut self, listener: ListenerId) -> Client {
        self.clients.push(Some(self.client(listener, None).expect("connect")));
        Client(self.clients.len() - 1)
    }

    fn connect_from(&mut self, listener: ListenerId, address: Ipv4Addr) -> Client {
        self.clients.push(Some(self.client(listener, Some(address)).expect("connect")));
        Client(self.clients.len() - 1)
    }

    fn is_refused_by(&mut self, listener: ListenerId) -> bool {
        // The file of a unix socket is gone with it.
        let gone = [ErrorKind::ConnectionRefused, ErrorKind::NotFound];
        self.client(listener, None).is_err_and(|error| gone.contains(&error.kind()))
    }

    fn client_send(&mut self, client: Client, bytes: &[u8]) -> usize {
        self.clients[client.0].as_mut().map_or(0, |stream| stream.write(bytes).unwrap_or(0))
    }

    fn client_recv(&mut self, client: Client, into: &mut Vec<u8>) -> Heard {
        let Some(stream) = &mut self.clients[client.0] else { return Heard::Broken };
        let mut bytes = [0; 64 * 1024];
        match stream.read(&mut bytes) {
            Ok(0) => Heard::Finished,
            Ok(len) => {
                into.extend_from_slice(&bytes[..len]);
                Heard::Bytes(len)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::Broken,
        }
    }

    fn client_finish(&mut self, client: Client) {
        if let Some(stream) = &self.clients[client.0] {
            // An error is a connection already broken, which is an end too.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn client_reset(&mut self, client: Client) {
        if let Some(stream) = self.clients[client.0].take() {
            // A close without lingering sends RST.
            stream.set_linger(Some(Duration::ZERO)).expect("linger");
        }
    }

    fn pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}
