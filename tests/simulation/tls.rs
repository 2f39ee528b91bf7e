//! Connections over TLS: the shipped layer on the shard's side, rustls on the client's, with a key that is known to all.
//!
//! Its randomness is in bytes alone. What a run decides hangs on lengths, and those are always the same: signatures of
//! Ed25519 and numbers of X25519 have one, and so has the certificate, which is made once.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, KeyPair, SerialNumber};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore};
use trunkline::base::ids::ListenerId;
use trunkline::driver::sim::ClientEnd;
use trunkline::layer::LayerMaker;
use trunkline::layer::tls::certificates::Served;
use trunkline::layer::tls::{ClientCertificates, TlsMaker, TlsOptions, TlsVersion};

/// The listener whose connections speak TLS, in the runs that have it.
pub const TLS: ListenerId = ListenerId(2);

const KEY: &str = include_str!("../keys/ed25519.private.pem");

fn certificate() -> &'static str {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| {
        let key = KeyPair::from_pem(KEY).expect("a key of the tests");
        let mut params = CertificateParams::new(vec!["simulated.test".to_string()]).expect("a name");
        params.serial_number = Some(SerialNumber::from_slice(&[1]));
        params.self_signed(&key).expect("a certificate").pem()
    })
}

pub fn maker() -> Arc<dyn LayerMaker> {
    let served =
        Served::new("simulated", certificate().as_bytes(), KEY.as_bytes()).expect("they belong together");
    let options = TlsOptions {
        certificates: vec![served],
        min_version: TlsVersion::Tls12,
        client_certificates: ClientCertificates::None,
        client_authorities: Vec::new(),
    };
    Arc::new(TlsMaker::new(options).expect("options that can serve"))
}

/// What the clients of one run share: their tickets.
#[derive(Clone)]
pub struct Clients([Arc<ClientConfig>; 2]);

impl Clients {
    pub fn new() -> Clients {
        Clients([&TLS12, &TLS13].map(|version| {
            let mut roots = RootCertStore::empty();
            let der = CertificateDer::from_pem_slice(certificate().as_bytes()).expect("PEM");
            roots.add(der).expect("a certificate");
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_root_certificates(roots)
                .with_no_client_auth();
            Arc::new(config)
        }))
    }

    /// By turns of one version and the other.
    pub fn connect(&self, number: u64) -> TlsEnd {
        let config = &self.0[number as usize % 2];
        let name = "simulated.test".try_into().expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        connection.set_buffer_limit(None);
        TlsEnd { connection, alerted: false, over: false, served: false }
    }
}

/// A client's side of one connection.
pub struct TlsEnd {
    connection: ClientConnection,
    /// The shard's layer did not understand what it was sent.
    pub alerted: bool,
    /// It has said its own end.
    over: bool,
    /// The shard has said something behind the handshake, so that for the shard it is over as well.
    served: bool,
}

impl TlsEnd {
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn in_handshake(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// True as well before the shard has all of the handshake, whose last message of TLS 1.3 is the client's: rustls has no way
    /// to say an end before that.
    pub fn heard_end(&mut self) -> bool {
        !self.served || self.connection.process_new_packets().is_ok_and(|state| state.peer_has_closed())
    }

    pub fn send(&mut self, end: &mut ClientEnd, bytes: &[u8]) -> bool {
        // After an alert, nothing is sealed any more.
        self.alerted |= self.connection.writer().write_all(bytes).is_err();
        !self.alerted && self.flush(end)
    }

    fn flush(&mut self, end: &mut ClientEnd) -> bool {
        let mut sealed = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut sealed).expect("a vector takes everything");
        }
        sealed.is_empty() || end.send(&sealed)
    }

    pub fn recv_into(&mut self, end: &mut ClientEnd, out: &mut Vec<u8>) {
        let mut arrived = Vec::new();
        end.recv_into(&mut arrived);
        let mut rest = &arrived[..];
        while !rest.is_empty() && !self.alerted {
            self.served |= !self.connection.is_handshaking();
            if self.connection.read_tls(&mut rest).expect("memory") == 0 {
                panic!("bytes behind the end of a sealed connection");
            }
            match self.connection.process_new_packets() {
                Ok(state) => {
                    let from = out.len();
                    out.resize(from + state.plaintext_bytes_to_read(), 0);
                    self.connection.reader().read_exact(&mut out[from..]).expect("as many as there are");
                }
                Err(Error::AlertReceived(_)) => self.alerted = true,
                Err(error) => panic!("records of a shard are sound: {error}"),
            }
        }
        if !end.finished() && !self.over && !self.alerted {
            self.flush(end);
        }
    }

    /// Says that nothing follows.
    pub fn end(&mut self, end: &mut ClientEnd) {
        if !std::mem::replace(&mut self.over, true) && !self.alerted {
            self.connection.send_close_notify();
            self.flush(end);
        }
    }
}
