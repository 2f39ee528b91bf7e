//! The handshake: rustls' own state machine, fed with whole records, a step at a time.
//!
//! Records are given to it one by one, so that it is through as soon as the handshake is: what comes behind belongs to
//! [`Established`] alone.

use std::mem;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CertificateError, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use crate::base::certificate::ClientCertificate;
use crate::layer::tls::certificates::client_certificate;
use crate::layer::tls::established::{Established, alert_fault};
use crate::layer::tls::keys::RecordKey;
use crate::layer::tls::record::{self, TlsVersion, alert, plain_alert};
use crate::layer::tls::secrets::{self, Secrets};
use crate::layer::{Fault, StepKind};

/// Most bytes of a client's handshake. A ClientHello has 2 KiB at most with keys of post-quantum kind, a chain of
/// certificates seldom 8.
pub const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

/// What a client gets that speaks plain HTTP.
const PLAIN_HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\
    Connection: close\r\n\r\nThis port speaks TLS: connect with https:// or wss:// instead.\r\n";

pub struct TlsHandshake {
    config: Arc<ServerConfig>,
    /// From the first whole record on.
    connection: Option<Box<UnbufferedServerConnection>>,
    /// What has come and is not with rustls yet.
    incoming: Vec<u8>,
    /// What rustls has seen and wants to see again.
    seen: Vec<u8>,
    /// To be sent.
    outgoing: Vec<u8>,
    secrets: Secrets,
    /// Bytes of the records that rustls has been given.
    taken: usize,
    /// It has been said that a step is due.
    step_due: bool,
}

/// A handshake that is over.
pub struct AgreedTls {
    pub established: Established,
    pub certificate: Option<Arc<ClientCertificate>>,
    pub resumed: bool,
    /// To be sent before anything else: tickets.
    pub outgoing: Vec<u8>,
    /// What came behind it.
    pub rest: Vec<u8>,
}

/// A handshake that has failed.
pub struct Failed {
    pub fault: Fault,
    /// The reason, for the peer.
    pub outgoing: Vec<u8>,
}

impl TlsHandshake {
    pub fn new(config: Arc<ServerConfig>) -> TlsHandshake {
        TlsHandshake {
            config,
            connection: None,
            incoming: Vec::new(),
            seen: Vec::new(),
            outgoing: Vec::new(),
            secrets: Secrets::default(),
            taken: 0,
            step_due: false,
        }
    }

    /// Keeps what has come until there is time for it. Not to be given more while a step is due: what a client sends right
    /// behind its handshake may be long.
    ///
    /// # Errors
    /// It is no TLS.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.incoming.extend_from_slice(bytes);
        match record::whole(&self.incoming, None) {
            Ok(_) => Ok(()),
            Err(Fault::NotTls) if self.connection.is_none() && is_http(&self.incoming) => {
                Err(Failed { fault: Fault::PlainHttp, outgoing: PLAIN_HTTP_ANSWER.to_vec() })
            }
            Err(Fault::RecordTooLong) => Err(self.fail(Fault::RecordTooLong, alert::RECORD_OVERFLOW)),
            Err(fault) => Err(self.fail(fault, alert::DECODE_ERROR)),
        }
    }

    /// With what has been written already. Once keys are in use an alert in plain could not be read.
    fn fail(&mut self, fault: Fault, description: u8) -> Failed {
        let mut outgoing = mem::take(&mut self.outgoing);
        if self.connection.is_none() {
            outgoing.extend(plain_alert(alert::FATAL, description));
        }
        Failed { fault, outgoing }
    }

    pub fn wants_step(&mut self) -> Option<StepKind> {
        let due = !self.step_due && matches!(record::whole(&self.incoming, None), Ok(Some(_)));
        self.step_due |= due;
        due.then_some(if self.is_unanswered() { StepKind::First } else { StepKind::Further })
    }

    /// Works on every whole record that has come, until the handshake is over.
    ///
    /// # Errors
    /// It has failed, or is longer than any.
    pub fn step(&mut self) -> Result<Option<AgreedTls>, Failed> {
        self.step_due = false;
        loop {
            let len = match record::whole(&self.incoming, None) {
                Ok(Some(len)) => len,
                Ok(None) => return Ok(None),
                Err(fault) => return Err(self.fail(fault, alert::DECODE_ERROR)),
            };
            self.taken += len;
            if self.taken > HANDSHAKE_BYTES_MAX {
                return Err(self.fail(Fault::HandshakeTooLarge, alert::HANDSHAKE_FAILURE));
            }
            self.seen.extend(self.incoming.drain(..len));
            match self.advance() {
                Ok(false) => {}
                Ok(true) => return self.agree().map(Some),
                Err(fault) => {
                    self.write_alert();
                    return Err(Failed { fault, outgoing: mem::take(&mut self.outgoing) });
                }
            }
        }
    }

    /// Feeds rustls with what there is. True: the handshake is over.
    fn advance(&mut self) -> Result<bool, Fault> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            connection => {
                let new =
                    UnbufferedServerConnection::new(Arc::clone(&self.config)).map_err(|_| Fault::Internal)?;
                connection.insert(Box::new(new))
            }
        };
        loop {
            let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut self.seen);
            let over = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing)?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Ok(false)),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Ok(true)),
                // A close_notify within the handshake: it was given up.
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Err(Fault::AlertReceived)),
                // No application data is among the records that rustls gets, and early data is not taken.
                Ok(_) => Some(Err(Fault::Unexpected)),
                Err(error) => Some(Err(fault(&error))),
            };
            self.seen.drain(..discard);
            secrets::take(&mut self.secrets);
            if let Some(over) = over {
                return over;
            }
        }
    }

    /// What rustls has to say after a fault, the alert last. It must not be asked for more: it would read the same input again.
    fn write_alert(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        loop {
            let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut self.seen);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            match encode(&mut data, &mut self.outgoing) {
                Ok(record) if !record::may_be_alert(record) => {}
                _ => return,
            }
        }
    }

    fn agree(&mut self) -> Result<AgreedTls, Failed> {
        let agreed = self.extract();
        agreed.map_err(|fault| Failed { fault, outgoing: mem::take(&mut self.outgoing) })
    }

    fn extract(&mut self) -> Result<AgreedTls, Fault> {
        let connection = self.connection.take().ok_or(Fault::Internal)?;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => return Err(Fault::Internal),
        };
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let certificates = connection.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificates.map(|first| Arc::new(client_certificate(first)));
        let (secrets, _) = connection.dangerous_into_kernel_connection().map_err(|_| Fault::Internal)?;
        let tx = RecordKey::new(version, secrets.tx, self.secrets.server)?;
        let rx = RecordKey::new(version, secrets.rx, self.secrets.client)?;
        Ok(AgreedTls {
            established: Established::new(tx, rx),
            certificate,
            resumed,
            outgoing: mem::take(&mut self.outgoing),
            rest: mem::take(&mut self.incoming),
        })
    }

    pub fn take_outgoing(&mut self) -> Vec<u8> {
        mem::take(&mut self.outgoing)
    }

    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Nothing has been sent: what is said now can be read by anybody.
    pub fn is_unanswered(&self) -> bool {
        self.connection.is_none()
    }

    pub fn stored_bytes(&self) -> usize {
        self.incoming.capacity() + self.seen.capacity() + self.outgoing.capacity()
    }
}

/// The record that was written.
fn encode<'out>(
    data: &mut EncodeTlsData<'_, ServerConnectionData>,
    outgoing: &'out mut Vec<u8>,
) -> Result<&'out [u8], Fault> {
    let from = outgoing.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        outgoing.resize(from + size.required_size, 0);
        data.encode(&mut outgoing[from..]).map_err(|_| Fault::Internal)?;
    }
    Ok(&outgoing[from..])
}

/// A method begins with a capital letter, and with one that is no kind of record.
fn is_http(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_uppercase)
}

fn fault(error: &Error) -> Fault {
    match error {
        Error::NoCertificatesPresented => Fault::ClientCertificateMissing,
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Fault::ClientCertificateExpired,
            CertificateError::UnknownIssuer => Fault::ClientCertificateUnknown,
            _ => Fault::ClientCertificateInvalid,
        },
        Error::AlertReceived(description) => alert_fault(u8::from(*description)),
        Error::NoApplicationProtocol => Fault::NoProtocol,
        Error::PeerIncompatible(_) => Fault::Incompatible,
        Error::InvalidMessage(_) | Error::PeerMisbehaved(_) => Fault::Malformed,
        Error::DecryptError => Fault::BadRecord,
        Error::PeerSentOversizedRecord => Fault::RecordTooLong,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => Fault::Unexpected,
        _ => Fault::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_HTTP_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
