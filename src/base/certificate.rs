//! The certificate that a client has shown, as others get to see it.

/// Of a certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Distinguished name (RFC 4514).
    pub subject: Box<str>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

impl ClientCertificate {
    /// In hex, lower case.
    pub fn fingerprint_hex(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
