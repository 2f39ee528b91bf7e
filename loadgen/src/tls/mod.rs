//! TLS from the client's side, sans-IO: [`rustls`] without buffers of its own, so that an idle connection costs the
//! generator no memory for records.
//!
//! Inputs: bytes of the socket, plain bytes to send. Outputs: plain bytes, bytes for the socket. Must not know: sockets,
//! protocols inside, what is measured.

mod tickets;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, InvalidMessage,
    PeerIncompatible, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use trunkline::base::time::Time;

use self::tickets::{Fresh, Pool, Returning};
use crate::measure::{Agreed, Cause, Suite};

/// Largest growth of an output buffer before what is needed is known: the largest handshake message that leaves at once.
const FLIGHT_BYTES: usize = 1024;

/// What is trusted, and how connections begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities (PEM).
    pub ca: PathBuf,
    /// The server's certificate is not looked at.
    pub insecure: bool,
    /// Connections that come back show a ticket of an earlier one.
    pub resumption: bool,
    pub version: TlsVersion,
}

/// Which versions are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    #[default]
    Any,
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// A server that is spoken to over TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For connections that are made for the first time: a user who was not here has no ticket.
    fresh: Arc<ClientConfig>,
    /// For those that come back.
    returning: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// `name`: what the server's certificate has to be for; a host's name or an IP address. At most `tickets_max` tickets
    /// are kept.
    ///
    /// # Errors
    /// What is wrong with the authorities or the name.
    pub fn new(options: &TlsOptions, name: &str, tickets_max: usize) -> Result<Tls, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&'static SupportedProtocolVersion] = match options.version {
            TlsVersion::Any => rustls::ALL_VERSIONS,
            TlsVersion::Tls12 => &[&rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| format!("TLS: {error}"))?;
        let mut fresh = if options.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustsAll(provider)))
        } else {
            builder.with_root_certificates(authorities(options)?)
        }
        .with_no_client_auth();
        let mut returning = fresh.clone();
        if options.resumption {
            let pool = Arc::new(Pool::new(tickets_max));
            fresh.resumption = Resumption::store(Arc::new(Fresh(Arc::clone(&pool))));
            returning.resumption = Resumption::store(Arc::new(Returning(pool)));
        } else {
            fresh.resumption = Resumption::disabled();
            returning.resumption = Resumption::disabled();
        }
        let name = ServerName::try_from(name.to_string())
            .map_err(|_| format!("{name:?} is no name that a certificate can be for"))?;
        Ok(Tls { fresh: Arc::new(fresh), returning: Arc::new(returning), name })
    }

    /// Begins a connection; `out` gets what is said first. `returns`: it was here before.
    ///
    /// # Errors
    /// As [`Secure::take`].
    pub fn begin(&self, returns: bool, now: Time, out: &mut Vec<u8>) -> Result<Secure, Cause> {
        let config = if returns { &self.returning } else { &self.fresh };
        let conn = UnbufferedClientConnection::new(Arc::clone(config), self.name.clone());
        let mut secure = Secure {
            conn: conn.map_err(|error| cause(&error))?,
            held: Vec::new(),
            since: now,
            is_agreed: false,
        };
        secure.take(&mut [], &mut Vec::new(), out)?;
        Ok(secure)
    }
}

fn authorities(options: &TlsOptions) -> Result<RootCertStore, String> {
    let path = options.ca.display();
    let pem = std::fs::read(&options.ca).map_err(|error| format!("--tls-ca: {path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("--tls-ca: {path} is not PEM: {error}"))?;
        // What one of a system's many authorities is not good for is none of ours.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(format!("--tls-ca: {path} holds no certificate that could be trusted"));
    }
    Ok(roots)
}

/// One connection.
pub struct Secure {
    conn: UnbufferedClientConnection,
    /// A record that is not whole.
    held: Vec<u8>,
    since: Time,
    is_agreed: bool,
}

/// What bytes of the socket came to, beside plain ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The handshake is over by them.
    pub agreed: Option<Agreed>,
    /// The server has said that nothing follows.
    pub ended: bool,
}

impl Secure {
    /// Takes bytes of the socket: appends plain ones to `plain`, and what is to be sent in turn to `out`.
    ///
    /// # Errors
    /// Why the connection is of no use. The alert for the server is in `out`.
    pub fn take(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Taken, Cause> {
        let mut taken = Taken::default();
        if self.held.is_empty() {
            let used = self.drive(bytes, plain, out, &mut taken)?;
            self.held.extend_from_slice(&bytes[used..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let used = self.drive(&mut held, plain, out, &mut taken)?;
            if used < held.len() {
                held.drain(..used);
                self.held = held;
            }
        }
        if !self.is_agreed && !self.conn.is_handshaking() {
            self.is_agreed = true;
            taken.agreed = Some(self.agreed());
        }
        Ok(taken)
    }

    pub fn is_agreed(&self) -> bool {
        self.is_agreed
    }

    /// Appends `plain` as records to `out`.
    ///
    /// # Errors
    /// When the handshake is not over, or the keys are used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Cause> {
        self.write(out, |traffic, out| append(out, plain.len() + 64, |to| traffic.encrypt(plain, to)))
    }

    /// Appends that nothing follows.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // Before the handshake is over there is nothing to end.
        let _ = self.write(out, |traffic, out| append(out, 64, |to| traffic.queue_close_notify(to)));
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Traffic<'_>, &mut Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<(), Cause> {
        loop {
            let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut []);
            match state.map_err(|error| cause(&error))? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return write(&mut traffic, out).map_err(Cause::Tls);
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    append(out, FLIGHT_BYTES, |to| data.encode(to)).map_err(Cause::Tls)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Err(Cause::Tls("nothing can be sent now")),
            }
        }
    }

    /// Returns how many bytes were used.
    fn drive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        taken: &mut Taken,
    ) -> Result<usize, Cause> {
        let mut at = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.conn.process_tls_records(&mut bytes[at..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| cause(&error))?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, FLIGHT_BYTES, |to| data.encode(to)).map_err(Cause::Tls)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => taken.ended = true,
                Ok(ConnectionState::Closed) => {
                    taken.ended = true;
                    // Whatever comes behind the end is nothing.
                    return Ok(bytes.len());
                }
                Ok(_) => return Ok(at + discard),
                Err(error) => {
                    self.say_alert(out);
                    return Err(cause(&error));
                }
            }
            at += discard;
        }
    }

    /// With an alert the server can log what is wrong.
    fn say_alert(&mut self, out: &mut Vec<u8>) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = self.conn.process_tls_records(&mut []).state {
            let _ = append(out, FLIGHT_BYTES, |to| data.encode(to));
        }
    }

    fn agreed(&self) -> Agreed {
        Agreed {
            since: self.since,
            resumed: self.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            suite: Suite {
                version: self.conn.protocol_version().map_or(0, u16::from),
                suite: self.conn.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
            },
        }
    }
}

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::client::ClientConnectionData>;

/// How much room a write lacks, where that is what is wrong with it.
trait Room: std::fmt::Debug {
    fn required(&self) -> Option<usize>;
}

impl Room for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            EncodeError::AlreadyEncoded => None,
        }
    }
}

impl Room for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            EncryptError::EncryptExhausted => None,
        }
    }
}

/// Appends what `write` writes, with as much room as it asks for.
fn append<E: Room>(
    out: &mut Vec<u8>,
    expected: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), &'static str> {
    let start = out.len();
    out.resize(start + expected, 0);
    loop {
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(fault) => match fault.required() {
                Some(required) if required > out.len() - start => out.resize(start + required, 0),
                _ => {
                    out.truncate(start);
                    return Err("its keys are used up");
                }
            },
        }
    }
}

/// What rustls says, as something that can be counted.
fn cause(error: &Error) -> Cause {
    Cause::Tls(match error {
        Error::AlertReceived(alert) => return Cause::TlsAlert((*alert).into()),
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name"
            }
            CertificateError::UnknownIssuer => "the server's certificate comes from no authority of --tls-ca",
            CertificateError::BadSignature => "the server's certificate is not signed by whom it names",
            _ => "the server's certificate is of no use",
        },
        // The first byte of a record says what it is; plain text has a letter there.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the server does not speak TLS",
        Error::InvalidMessage(_) => "the server's TLS cannot be understood",
        Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig) => {
            "the server speaks another version"
        }
        Error::PeerIncompatible(_) => "the server has no version or suite of ours",
        Error::DecryptError => "a record of the server cannot be opened",
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "the server breaks the protocol of TLS",
        _ => "failed",
    })
}

/// Takes every certificate, but not every signature: the server must have its key.
#[derive(Debug)]
struct TrustsAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
