//! Why a layer cannot go on with its peer. One counter each: see `trunkline_faults_total`.

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Fault { $($(#[doc = $doc])+ $name),+ }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$name),+];

            /// Its name in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$name => $text),+ }
            }
        }
    };
}

faults! {
    /// What came is no record of the layer, or not the next one.
    Broken = "layer_broken",
    /// A plain HTTP request.
    PlainHttp = "tls_plain_http",
    /// Neither TLS nor HTTP.
    NotTls = "tls_not_tls",
    /// A record is longer than the standard allows.
    RecordTooLong = "tls_record_too_long",
    /// A record was altered, or sealed with another key.
    BadRecord = "tls_bad_record",
    /// A message that has no place there.
    Unexpected = "tls_unexpected_message",
    /// A client that wants to negotiate once more.
    Renegotiation = "tls_renegotiation",
    /// Too many records in a row that carry nothing.
    EmptyRecords = "tls_empty_records",
    /// A key of TLS 1.2 has sealed as much as it may.
    KeyExhausted = "tls_key_exhausted",
    /// A handshake of more bytes than any sensible one has.
    HandshakeTooLarge = "tls_handshake_too_large",
    /// A handshake message that cannot be understood.
    Malformed = "tls_malformed",
    /// No version, cipher suite, group or signature scheme in common.
    Incompatible = "tls_incompatible",
    /// The client offers protocols, and http/1.1 is not among them.
    NoProtocol = "tls_no_application_protocol",
    /// Clients have to show one.
    ClientCertificateMissing = "tls_client_certificate_missing",
    /// Or not valid yet.
    ClientCertificateExpired = "tls_client_certificate_expired",
    /// Of an authority that is not trusted here.
    ClientCertificateUnknown = "tls_client_certificate_unknown",
    /// Any other fault of a client's certificate, or of its proof to own the key.
    ClientCertificateInvalid = "tls_client_certificate_invalid",
    /// The client does not accept our certificate.
    CertificateRefused = "tls_certificate_refused",
    /// The client has sent another fatal alert.
    AlertReceived = "tls_alert_received",
    /// No randomness, no key: a fault of ours.
    Internal = "tls_internal",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_name_and_place() {
        for (place, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, place);
            assert!(Fault::ALL[..place].iter().all(|earlier| earlier.name() != fault.name()));
        }
    }
}
