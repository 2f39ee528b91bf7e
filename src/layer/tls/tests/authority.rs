//! Certificates for tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const RSA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.private.pem");

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    until: i32,
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own: another one's certificates are of an authority that is not known.
        params.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..8]));
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate, until: 4000 }
    }

    /// What it signs from now on ends with the year before.
    pub fn until(mut self, year: i32) -> Authority {
        self.until = year;
        self
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).unwrap();
        roots
    }

    /// Certificate and key of a server with these names, in PEM.
    pub fn server(&self, names: &[&str]) -> (String, String) {
        self.sign(names, KeyPair::generate().unwrap())
    }

    pub fn rsa_server(&self, names: &[&str]) -> (String, String) {
        self.sign(names, KeyPair::from_pem(&std::fs::read_to_string(RSA).unwrap()).unwrap())
    }

    pub fn ed25519_server(&self, names: &[&str]) -> (String, String) {
        self.sign(names, KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn sign(&self, names: &[&str], key: KeyPair) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].to_ascii_lowercase());
        params.not_after = date_time_ymd(self.until, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

pub fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}
