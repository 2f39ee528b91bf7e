//! `ca_file`: the authorities that the certificate of an https endpoint must come from. The file is read together with
//! the setting, so that one which is of no use ends the start with the key's name.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use http::Uri;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::value::{Given, Setting};

/// Longest file that is read, in bytes: all the public authorities together are a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Certificates of authorities, from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    path: String,
    /// DER; at least one, and each can be trusted.
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Authorities {
    /// # Errors
    /// What is wrong with the file, as it stands behind its path.
    pub fn read(path: &str) -> Result<Authorities, String> {
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem))
            .map_err(|error| format!("cannot be read: {error}"))?;
        if pem.len() as u64 > FILE_BYTES_MAX {
            return Err("is longer than 1MiB".into());
        }
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("is not PEM: {error}"))?;
        if certificates.is_empty() {
            return Err("holds no certificate (PEM, \"-----BEGIN CERTIFICATE-----\")".into());
        }
        for (at, certificate) in certificates.iter().enumerate() {
            let added = RootCertStore::empty().add(certificate.clone());
            added.map_err(|error| format!("its certificate {} cannot be used: {error}", at + 1))?;
        }
        Ok(Authorities { path: path.to_string(), certificates: certificates.into() })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

impl Setting for Authorities {
    const KIND: &'static str = "a path";

    fn read(given: &Given) -> Result<Self, String> {
        let path = String::read(given)?;
        Authorities::read(&path).map_err(|problem| format!("{path:?} {problem}"))
    }

    fn write(&self) -> Option<String> {
        self.path.write()
    }
}

/// What is wrong with a `ca_file` that is for no TLS.
pub(super) const NO_TLS: &str = "is set, and its URL is not an https one: it would protect nothing";

/// Whether `ca_file` can serve for `endpoint`.
pub(super) fn fits(ca_file: &Option<Authorities>, endpoint: Option<&str>) -> bool {
    ca_file.is_none() || endpoint.is_some_and(|endpoint| endpoint.starts_with("https:"))
}

/// Whether `text` is a URL that can be asked.
pub(super) fn is_http(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::load::{Sources, load};

    const CERTIFICATE: &str = include_str!("../../tests/keys/certificate.pem");
    const KEY: &str = include_str!("../../tests/keys/ed25519.pem");

    fn read(text: &str) -> Result<Authorities, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Authorities::read(file.path().to_str().unwrap())
    }

    #[test]
    fn what_is_no_file_of_authorities_is_refused() {
        let count = |text: &str| read(text).map(|authorities| authorities.certificates().len());
        assert_eq!(count(CERTIFICATE), Ok(1));
        assert_eq!(count(&format!("# ours\n{CERTIFICATE}{KEY}{CERTIFICATE}")), Ok(2));
        let not_one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, problem) in [
            ("", "holds no certificate"),
            (KEY, "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\n~\n-----END CERTIFICATE-----\n", "is not PEM"),
            (&format!("{CERTIFICATE}{not_one}"), "its certificate 2 cannot be used"),
            (&format!("{CERTIFICATE}{}", " ".repeat(1 << 20)), "is longer than 1MiB"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.starts_with(problem), "{problem}: {found}");
        }
        assert!(Authorities::read("/nowhere.pem").unwrap_err().starts_with("cannot be read: No such file"));
        assert!(Authorities::read("/").unwrap_err().starts_with("cannot be read: "));
    }

    #[test]
    fn a_file_that_cannot_serve_is_named_by_its_key() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/certificate.pem");
        let faults = |text: String| -> Vec<String> {
            let sources = Sources { file: Some(("t.toml".to_string(), text)), ..Sources::default() };
            load(&sources).map_or_else(|all| all.iter().map(ToString::to_string).collect(), |_| Vec::new())
        };
        for (text, key, url, ca_file) in [
            ("[[hook]]\nname = \"b\"\n", "hook[0].ca_file", "endpoint", "ca_file"),
            ("[[tunnel]]\nname = \"b\"\n", "tunnel[0].ca_file", "endpoint", "ca_file"),
            ("[events]\ntypes = [\"connected\"]\n", "events.ca_file", "endpoint", "ca_file"),
            ("[client.token]\n", "client.token.jwks_ca_file", "jwks_url", "jwks_ca_file"),
            (
                "[client.subscription_token]\n",
                "client.subscription_token.jwks_ca_file",
                "jwks_url",
                "jwks_ca_file",
            ),
        ] {
            let set = |url_set: &str, path: &str| faults(format!("{text}{url_set}{ca_file} = \"{path}\"\n"));
            let https = format!("{url} = \"https://b/\"\n");
            assert_eq!(set(&https, file), [""; 0], "{key}");
            let absent = set(&https, "/nowhere.pem").join("\n");
            assert!(absent.contains(&format!("{key}: \"/nowhere.pem\" cannot be read")), "{key}: {absent}");
            let plain = set(&format!("{url} = \"http://b/\"\n"), file).join("\n");
            assert!(
                plain.contains(&format!("{key}: is set, and its URL is not an https one")),
                "{key}: {plain}"
            );
        }
    }
}
