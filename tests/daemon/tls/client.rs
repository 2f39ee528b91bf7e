//! A client of TLS: rustls, and what these tests speak over it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};

use super::authority::{Authority, Signed};
use crate::frame::Frame;
use crate::process::{DEADLINE, Daemon};
use crate::socket::{ACCEPT, upgrade_request};

pub fn config(authority: &Authority) -> Arc<ClientConfig> {
    config_with(authority, rustls::ALL_VERSIONS, None)
}

pub fn config_with(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Signed>,
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(authority.roots());
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![own.der()], key).expect("they belong together")
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A TCP connection to the first port that speaks TLS.
pub fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(address(daemon)).expect("the daemon accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
    stream
}

pub fn address(daemon: &Daemon) -> SocketAddr {
    daemon.tls_addresses()[0]
}

pub struct Secure {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Secure {
    /// The handshake may fail: with what.
    pub fn try_open(daemon: &Daemon, config: &Arc<ClientConfig>, name: &str) -> Result<Secure, String> {
        let connection =
            ClientConnection::new(Arc::clone(config), name.to_string().try_into().expect("a name"));
        let mut stream = StreamOwned::new(connection.expect("a client"), connect(daemon));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
        }
        Ok(Secure { stream, received: Vec::new() })
    }

    pub fn open(daemon: &Daemon, config: &Arc<ClientConfig>) -> Secure {
        Secure::try_open(daemon, config, "localhost").expect("a handshake")
    }

    pub fn websocket(daemon: &Daemon, config: &Arc<ClientConfig>, path: &str) -> Secure {
        let mut secure = Secure::open(daemon, config);
        secure.send_bytes(upgrade_request(path, "").as_bytes());
        let head = secure.recv_until(b"\r\n\r\n");
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        assert!(String::from_utf8_lossy(&head).contains(ACCEPT));
        secure
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("the daemon reads");
    }

    pub fn send(&mut self, frame: Frame) {
        self.send_bytes(&frame.masked());
    }

    /// What has come, up to `mark` and with it.
    pub fn recv_until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(mark.len()).position(|bytes| bytes == mark) {
                return self.received.drain(..at + mark.len()).collect();
            }
            assert!(self.fill(), "the end before {:?}: {:?}", mark, String::from_utf8_lossy(&self.received));
        }
    }

    pub fn recv(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, len)) = Frame::parse(&self.received) {
                self.received.drain(..len);
                return Some(frame);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Everything up to an orderly end, close_notify before FIN.
    pub fn recv_rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.received)
    }

    /// False at the peer's close_notify.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                self.received.extend_from_slice(&bytes[..len]);
                true
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => panic!("an end without close_notify"),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn echo(&mut self, text: &str) {
        self.send(Frame::text(text));
        assert_eq!(self.recv(), Some(Frame::text(text)));
    }
}
