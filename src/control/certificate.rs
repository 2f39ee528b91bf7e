//! A client's certificate as the backend gets to see it.

use serde::Serialize;

use crate::base::certificate::ClientCertificate;

#[derive(Serialize)]
pub struct Certificate<'c> {
    subject: &'c str,
    /// SHA-256 in hex.
    fingerprint: String,
}

impl Certificate<'_> {
    pub fn of(certificate: &ClientCertificate) -> Certificate<'_> {
        Certificate { subject: &certificate.subject, fingerprint: certificate.fingerprint_hex() }
    }
}
