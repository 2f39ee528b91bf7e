//! Our end and a client of rustls, joined in memory.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ServerConfig;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};

use crate::base::bytes::{Bytes, BytesMut};
use crate::base::certificate::ClientCertificate;
use crate::layer::tls::certificates::Served;
use crate::layer::tls::record::TlsVersion;
use crate::layer::tls::settings::server_config_of;
use crate::layer::tls::{ClientCertificates, Tls, TlsOptions};
use crate::layer::{Fault, Layer as _, LayerStep, OpenedBytes};

use super::authority::{Authority, der};

pub fn options(served: &[(String, String)]) -> TlsOptions {
    let served = served.iter().map(|(pem, key)| Served::new("c", pem.as_bytes(), key.as_bytes()).unwrap());
    TlsOptions {
        certificates: served.collect(),
        min_version: TlsVersion::Tls12,
        client_certificates: ClientCertificates::None,
        client_authorities: Vec::new(),
    }
}

pub fn server(options: TlsOptions) -> Arc<ServerConfig> {
    let ticketer = ring::Ticketer::new().unwrap();
    Arc::new(server_config_of(options, ticketer, ring::default_provider()).unwrap())
}

pub fn simple() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let authority = Authority::new();
    (server(options(&[authority.server(&["a.test"])])), client(authority.roots(), None))
}

/// A client, of one suite only.
pub fn client(roots: RootCertStore, suite: Option<SupportedCipherSuite>) -> Arc<ClientConfig> {
    client_with(roots, suite, None)
}

pub fn client_with(
    roots: RootCertStore,
    suite: Option<SupportedCipherSuite>,
    own: Option<&(String, String)>,
) -> Arc<ClientConfig> {
    let all = ring::default_provider();
    let suites = suite.map_or(all.cipher_suites.clone(), |suite| vec![suite]);
    let versions = match suite.map(|suite| suite.version() == &TLS13) {
        Some(true) => vec![&TLS13],
        Some(false) => vec![&TLS12],
        None => vec![&TLS13, &TLS12],
    };
    let builder =
        ClientConfig::builder_with_provider(Arc::new(CryptoProvider { cipher_suites: suites, ..all }))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((pem, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![der(pem)], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

pub struct Pair {
    pub tls: Tls,
    pub client: ClientConnection,
    /// Bytes of the client come in pieces of this many.
    pub cut: usize,
    pub heard: Vec<u8>,
    pub heard_by_client: Vec<u8>,
    pub ended: bool,
    pub fault: Option<Fault>,
    pub client_fault: Option<rustls::Error>,
    pub resumed: bool,
    pub certificate: Option<Arc<ClientCertificate>>,
    pub steps: usize,
}

impl Pair {
    pub fn new(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Pair {
        Pair {
            tls: Tls::new(Arc::clone(server)),
            client: ClientConnection::new(Arc::clone(client), name.to_string().try_into().unwrap()).unwrap(),
            cut: usize::MAX,
            heard: Vec::new(),
            heard_by_client: Vec::new(),
            ended: false,
            fault: None,
            client_fault: None,
            resumed: false,
            certificate: None,
            steps: 0,
        }
    }

    /// What the shard does with bytes of the socket.
    pub fn receive(&mut self, bytes: &mut [u8]) {
        let cut = self.cut.clamp(1, bytes.len().max(1));
        for piece in bytes.chunks_mut(cut) {
            self.receive_piece(piece);
            if self.tls.wants_step().is_some() {
                self.steps += 1;
                match self.tls.step() {
                    LayerStep::Nothing => {}
                    LayerStep::Ready { resumed, certificate, mut rest } => {
                        self.certificate = certificate;
                        self.resumed = resumed;
                        self.receive_piece(&mut rest);
                    }
                    LayerStep::Fault(fault) => self.fault = Some(fault),
                }
            }
        }
    }

    fn receive_piece(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let (consumed, opened) = self.tls.open(bytes);
            match opened {
                OpenedBytes::Plain(plain) => {
                    assert!(!plain.is_empty());
                    self.heard.extend_from_slice(plain);
                }
                OpenedBytes::Nothing => {}
                OpenedBytes::End => self.ended = true,
                OpenedBytes::Fault(fault) => {
                    assert_eq!(self.fault.replace(fault), None, "after a fault nothing comes");
                }
            }
            assert!(consumed > 0);
            bytes = &mut bytes[consumed..];
        }
        self.tls.release();
    }

    pub fn say(&mut self, plain: &[&[u8]], last: bool) -> Vec<u8> {
        let plain: Vec<Bytes> = plain.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        let mut sealed = BytesMut::new();
        self.tls.seal(&plain, last, &mut sealed);
        sealed.to_vec()
    }

    /// Gives the client what we said.
    pub fn give(&mut self, sealed: &[u8]) {
        let mut sealed = sealed;
        while !sealed.is_empty() && self.client_fault.is_none() {
            if self.client.read_tls(&mut sealed).is_err() {
                break;
            }
            if let Err(fault) = self.client.process_new_packets() {
                self.client_fault = Some(fault);
            }
            let mut plain = vec![0; 1 << 16];
            while let Ok(len @ 1..) = self.client.reader().read(&mut plain) {
                self.heard_by_client.extend_from_slice(&plain[..len]);
            }
        }
    }

    /// Until neither has anything to say.
    pub fn run(&mut self) -> &mut Pair {
        loop {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).unwrap();
            }
            let quiet = bytes.is_empty();
            self.receive(&mut bytes);
            let speaks = self.tls.wants_to_speak();
            let sealed = if speaks { self.say(&[], false) } else { Vec::new() };
            self.give(&sealed);
            if quiet && !speaks {
                return self;
            }
        }
    }

    pub fn client_says(&mut self, plain: &[u8]) -> &mut Pair {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(plain).unwrap();
        self.run()
    }

    pub fn server_says(&mut self, plain: &[&[u8]], last: bool) {
        let sealed = self.say(plain, last);
        self.give(&sealed);
        self.run();
    }
}
