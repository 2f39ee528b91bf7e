//! Certificates for tests, in files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    directory: tempfile::TempDir,
    until: i32,
    /// The moment at which certificates end, in place of that year.
    until_s: Option<u64>,
}

/// The files of a certificate and its key, and their texts.
#[derive(Clone)]
pub struct Signed {
    pub cert: String,
    pub key: String,
    pub pem: String,
    pub key_pem: String,
}

impl Signed {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")
    }

    pub fn table(&self) -> String {
        format!("\n[tls]\ncert = {:?}\nkey = {:?}\n", self.cert, self.key)
    }

    /// This one's files get what another has.
    pub fn replace(&self, other: &Signed) {
        std::fs::write(&self.cert, &other.pem).expect("a file");
        std::fs::write(&self.key, &other.key_pem).expect("a file");
    }
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("{:x?}", &key.public_key_raw()[..8]));
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let directory = tempfile::tempdir().expect("a directory");
        let authority =
            Authority { issuer: Issuer::new(params, key), pem, directory, until: 4000, until_s: None };
        std::fs::write(authority.file(), &authority.pem).expect("a file");
        authority
    }

    pub fn until(mut self, year: i32) -> Authority {
        self.until = year;
        self
    }

    /// Certificates end so long after now.
    pub fn ending_in(mut self, left: Duration) -> Authority {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        self.until_s = Some((now + left).as_secs());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn file(&self) -> String {
        self.path("ca.pem").to_str().expect("UTF-8").to_string()
    }

    pub fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        roots
    }

    /// A certificate for `name`, in files that begin with `file`.
    pub fn sign(&self, file: &str, name: &str) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = match self.until_s {
            Some(seconds) => date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds),
            None => date_time_ymd(self.until, 1, 1),
        };
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let key_pem = key.serialize_pem();
        let write = |name: String, text: &str| {
            let path = self.path(&name);
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a file of ours");
            path.to_str().expect("UTF-8").to_string()
        };
        Signed {
            cert: write(format!("{file}.pem"), &pem),
            key: write(format!("{file}.key"), &key_pem),
            pem,
            key_pem,
        }
    }
}
