//! Certificates with their keys: from PEM files, and by the name that a client asks for.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use ring::digest;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::base::certificate::ClientCertificate;

/// Longest file that is read, in bytes: chains are a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest subject that is kept of a client's certificate, in bytes. It is kept as long as the connection.
const SUBJECT_BYTES_MAX: usize = 512;

/// What is wrong with one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    Certificate(String),
    Key(String),
}

/// A certificate chain with the key of its first.
#[derive(Clone, Debug)]
pub struct Served {
    /// As configured.
    pub path: Box<str>,
    pub subject: Box<str>,
    /// Seconds since 1970.
    pub not_after: u64,
    pub not_before: u64,
    /// In lower case, `*.` before those of one further label.
    names: Vec<Box<str>>,
    key: Arc<CertifiedKey>,
}

impl Served {
    /// # Errors
    /// What cannot be read or used, with the reason.
    pub fn read(certificate: &str, key: &str) -> Result<Served, CertificateFault> {
        let pem = read(certificate).map_err(CertificateFault::Certificate)?;
        let key_pem = read(key).map_err(CertificateFault::Key)?;
        Served::new(certificate, &pem, &key_pem)
    }

    /// From the texts of the files.
    ///
    /// # Errors
    /// As [`Served::read`].
    pub fn new(path: &str, pem: &[u8], key_pem: &[u8]) -> Result<Served, CertificateFault> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateFault::Certificate(format!("is not PEM: {error}")))?;
        let Some(first) = chain.first() else {
            let problem = "holds no certificate (PEM, \"-----BEGIN CERTIFICATE-----\")";
            return Err(CertificateFault::Certificate(problem.into()));
        };
        let parsed = Certificate::from_der(first).map_err(|error| {
            CertificateFault::Certificate(format!("its first certificate is none: {error}"))
        })?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| {
            CertificateFault::Key("holds no private key (PEM, PKCS #8, PKCS #1 or SEC1)".into())
        })?;
        let key = any_supported_type(&key).map_err(|_| {
            let problem = "its key is of no kind that is known: RSA, ECDSA P-256 or P-384, Ed25519";
            CertificateFault::Key(problem.into())
        })?;
        let subject = parsed.tbs_certificate().subject().to_string();
        let validity = parsed.tbs_certificate().validity();
        let (not_before, not_after) = (validity.not_before, validity.not_after);
        let names = names(&parsed);
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| {
            CertificateFault::Key(format!("its key does not belong to the certificate in {path}: {error}"))
        })?;
        Ok(Served {
            path: path.into(),
            subject: subject.into(),
            not_after: not_after.to_unix_duration().as_secs(),
            not_before: not_before.to_unix_duration().as_secs(),
            names,
            key: Arc::new(key),
        })
    }

    fn is_for(&self, server_name: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => server_name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
            None => name.eq_ignore_ascii_case(server_name),
        })
    }
}

/// Whether users of the machine who are none of the file's may read it.
pub fn is_open_to_others(path: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(Path::new(path)).is_ok_and(|file| file.mode() & 0o004 != 0)
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    match text.len() as u64 <= FILE_BYTES_MAX {
        true => Ok(text),
        false => Err("is longer than 1MiB".into()),
    }
}

fn names(certificate: &Certificate) -> Vec<Box<str>> {
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate().get_extension() else {
        return Vec::new();
    };
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase().into_boxed_str()),
        _ => None,
    });
    dns.collect()
}

/// Who the certificate of a client says it is. It has been verified already.
pub fn client_certificate(certificate: &[u8]) -> ClientCertificate {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    let parsed = Certificate::from_der(certificate);
    let mut subject = parsed.map_or(String::new(), |parsed| parsed.tbs_certificate().subject().to_string());
    subject.truncate(subject.floor_char_boundary(SUBJECT_BYTES_MAX));
    ClientCertificate { subject: subject.into(), fingerprint }
}

/// Which certificate a client gets: the first that is for the name it asks for, of those whose key it can check; the
/// first of all for a name that none is for, and for clients that ask for none.
#[derive(Debug)]
pub struct ByName(pub Vec<Served>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = |served: &&Served| hello.server_name().is_some_and(|name| served.is_for(name));
        let usable = |served: &&Served| served.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let all = self.0.iter();
        let found = all.clone().filter(named).find(usable).or_else(|| all.clone().find(usable));
        found.or(self.0.first()).map(|served| Arc::clone(&served.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tls::tests::authority::{Authority, pem};

    #[test]
    fn a_file_that_cannot_serve_is_named_with_its_reason() {
        let authority = Authority::new();
        let (certificate, key) = authority.server(&["a.test"]);
        let (_, other) = authority.server(&["a.test"]);
        let refused =
            |pem: &str, key: &str| Served::new("c.pem", pem.as_bytes(), key.as_bytes()).unwrap_err();
        let certificate_fault = |fault, starts: &str| match fault {
            CertificateFault::Certificate(text) => assert!(text.starts_with(starts), "{text}"),
            CertificateFault::Key(text) => panic!("{text}"),
        };
        let key_fault = |fault, contains: &str| match fault {
            CertificateFault::Key(text) => assert!(text.contains(contains), "{text}"),
            CertificateFault::Certificate(text) => panic!("{text}"),
        };
        certificate_fault(refused("", &key), "holds no certificate");
        certificate_fault(refused(&key, &key), "holds no certificate");
        certificate_fault(
            refused(&pem("CERTIFICATE", b"no certificate"), &key),
            "its first certificate is none",
        );
        certificate_fault(
            refused("-----BEGIN CERTIFICATE-----\n~\n-----END CERTIFICATE-----\n", &key),
            "is not PEM",
        );
        key_fault(refused(&certificate, ""), "holds no private key");
        key_fault(refused(&certificate, &certificate), "holds no private key");
        key_fault(refused(&certificate, &pem("PRIVATE KEY", b"no key")), "is of no kind that is known");
        key_fault(refused(&certificate, &other), "does not belong to the certificate in c.pem");
        let absent = Served::read("/nowhere.pem", "/nowhere.key").unwrap_err();
        certificate_fault(absent, "cannot be read: No such file");
        assert!(Served::new("c.pem", certificate.as_bytes(), key.as_bytes()).is_ok());
    }

    #[test]
    fn names_are_matched_whole_and_by_one_label() {
        let (certificate, key) = Authority::new().server(&["A.test", "*.b.test"]);
        let served = Served::new("c.pem", certificate.as_bytes(), key.as_bytes()).unwrap();
        for name in ["a.test", "A.TEST", "x.b.test", "x.B.test"] {
            assert!(served.is_for(name), "{name}");
        }
        for name in ["b.test", ".b.test", "x.y.b.test", "x.a.test", "test", ""] {
            assert!(!served.is_for(name), "{name}");
        }
    }

    #[test]
    fn a_certificate_says_until_when_it_holds_and_who_it_is() {
        let (certificate, key) = Authority::new().until(2035).server(&["a.test"]);
        let served = Served::new("c.pem", certificate.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(served.not_after, 2_051_222_400);
        assert!(served.not_before < served.not_after);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let shown = client_certificate(&der);
        assert_eq!((&*shown.subject, &*served.subject), ("CN=a.test", "CN=a.test"));
        assert_eq!(shown.fingerprint_hex().len(), 64);
        assert_ne!(shown, client_certificate(b"none"));
    }
}
