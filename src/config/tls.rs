//! `[tls]` and `[[tls.certificate]]`: the settings, and the files that they name.

use std::time::Duration;

use crate::config::authorities::Authorities;
use crate::config::fault::Require;
use crate::config::table::{Named, settings};
use crate::config::value::word_settings;
use crate::layer::tls::certificates::{CertificateFault, Served, is_open_to_others};
use crate::layer::tls::{ClientCertificates, EXPIRY_WARNING, TlsOptions, TlsVersion};

word_settings!(TlsVersion, "\"1.2\" or \"1.3\"", "1.2" => TlsVersion::Tls12, "1.3" => TlsVersion::Tls13);
word_settings!(ClientCertificates, "\"none\", \"request\" or \"require\"",
    "none" => ClientCertificates::None, "request" => ClientCertificates::Request,
    "require" => ClientCertificates::Require);

settings! {
    /// TLS of the listeners that speak it.
    pub struct TlsSettings {
        /// A file of the certificate (PEM), behind it those of the authorities between it and one that clients know. Read
        /// again, with its key, on SIGHUP.
        pub cert: Option<String> = None, flag "tls-cert" "FILE", example "\"/etc/trunkline/fullchain.pem\"";
        /// A file of its private key (PEM): RSA, ECDSA with P-256 or P-384, or Ed25519.
        pub key: Option<String> = None, flag "tls-key" "FILE", example "\"/etc/trunkline/privkey.pem\"";
        /// The oldest version that is spoken: "1.2" or "1.3".
        pub min_version: TlsVersion = TlsVersion::Tls12;
        /// Whether clients have to show a certificate: "none" does not ask for one, "request" lets in who has none, "require"
        /// does not. One that is not of `client_ca_file`, or has expired, is always refused.
        pub client_certificates: ClientCertificates = ClientCertificates::None;
        /// A file of certificates (PEM): the authorities that certificates of clients come from.
        pub client_ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// How long a handshake may take before the connection is closed.
        pub handshake_timeout: Duration = Duration::from_secs(5);
    } with {
        pub certificate: Vec<TlsCertificate>,
    }
}

settings! {
    /// A certificate besides that of `[tls]`.
    pub struct CertificateFiles {
        /// As `tls.cert`.
        pub cert: Option<String> = None, example "\"/etc/trunkline/other.pem\"";
        /// As `tls.key`.
        pub key: Option<String> = None, example "\"/etc/trunkline/other.key\"";
    }
}

/// One for names of its own.
pub type TlsCertificate = Named<CertificateFiles>;

/// What the files of `[tls]` came to.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub options: TlsOptions,
    /// Odd but not wrong.
    pub warnings: Vec<String>,
}

/// What is wrong with a key.
pub type TlsFault = (String, String);

impl TlsSettings {
    fn files(&self) -> impl Iterator<Item = (String, &Option<String>, &Option<String>)> {
        let own = ("tls".to_string(), &self.cert, &self.key);
        let own = [own].into_iter().filter(|(_, cert, key)| cert.is_some() || key.is_some());
        own.chain(
            self.certificate.iter().enumerate().map(|(at, entry)| {
                (format!("tls.certificate[{at}]"), &entry.options.cert, &entry.options.key)
            }),
        )
    }

    pub fn has_certificates(&self) -> bool {
        self.files().next().is_some()
    }

    /// Reads all files, those of `client_ca_file` as they are now as well. `unix_s`: for what has expired.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(&self, unix_s: u64) -> Result<TlsFiles, Vec<TlsFault>> {
        let (mut faults, mut warnings, mut certificates) = (Vec::new(), Vec::new(), Vec::new());
        for (path, cert, key) in self.files() {
            let (Some(cert), Some(key_file)) = (cert, key) else {
                let (is_set, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                let problem = format!("is missing: {path}.{is_set} is of no use without it");
                faults.push((format!("{path}.{missing}"), problem));
                continue;
            };
            match Served::read(cert, key_file) {
                Ok(served) => {
                    warnings.extend(expiry_warning(&served, unix_s));
                    if is_open_to_others(key_file) {
                        warnings.push(format!(
                            "{path}.key: {key_file} can be read by every user of this machine: take that right away \
                             (chmod o-r)"
                        ));
                    }
                    certificates.push(served);
                }
                Err(CertificateFault::Certificate(problem)) => {
                    faults.push((format!("{path}.cert"), format!("{cert:?} {problem}")));
                }
                Err(CertificateFault::Key(problem)) => {
                    faults.push((format!("{path}.key"), format!("{key_file:?} {problem}")));
                }
            }
        }
        let client_authorities = match self.client_ca_file.as_ref().map(|file| Authorities::read(file.path()))
        {
            None => Vec::new(),
            Some(Ok(authorities)) => authorities.certificates().to_vec(),
            Some(Err(problem)) => {
                faults.push(("tls.client_ca_file".to_string(), problem));
                Vec::new()
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let options = TlsOptions {
            certificates,
            min_version: self.min_version,
            client_certificates: self.client_certificates,
            client_authorities,
        };
        Ok(TlsFiles { options, warnings })
    }
}

/// What is wrong with the time of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    NotYet,
    Soon,
    Over,
}

/// `None`: it is good for more than [`EXPIRY_WARNING`].
pub fn expiry(served: &Served, unix_s: u64) -> Option<Expiry> {
    if unix_s >= served.not_after {
        return Some(Expiry::Over);
    }
    if unix_s < served.not_before {
        return Some(Expiry::NotYet);
    }
    (served.not_after - unix_s <= EXPIRY_WARNING.as_secs()).then_some(Expiry::Soon)
}

/// What is to be said about a certificate that ends soon, or has ended.
pub fn expiry_warning(served: &Served, unix_s: u64) -> Option<String> {
    let Served { path, subject, not_after, .. } = served;
    let days = not_after.abs_diff(unix_s) / (24 * 3600);
    Some(match expiry(served, unix_s)? {
        Expiry::Over => {
            format!("the certificate in {path} ({subject}) has expired {days} days ago: clients refuse it")
        }
        Expiry::NotYet => {
            format!("the certificate in {path} ({subject}) is not valid yet: clients refuse it")
        }
        Expiry::Soon => format!("the certificate in {path} ({subject}) expires in {days} days"),
    })
}

/// Odd but not wrong.
pub(super) fn warnings(tls: &TlsSettings, speaks_tls: bool, unix_s: u64) -> Vec<String> {
    let unused = tls.has_certificates() && !speaks_tls;
    let unused =
        unused.then(|| "[tls] has certificates, and no listener speaks TLS: set listen_tls".to_string());
    tls.read(unix_s).map_or(Vec::new(), |files| files.warnings).into_iter().chain(unused).collect()
}

pub(super) fn check_tls(tls: &TlsSettings, listen_tls: bool, require: &mut Require<'_>) {
    require(
        !listen_tls || tls.has_certificates(),
        "listen_tls",
        "needs a certificate and its key: set tls.cert and tls.key",
    );
    require(
        (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&tls.handshake_timeout),
        "tls.handshake_timeout",
        "must be from 100ms to 60s",
    );
    let asks = tls.client_certificates != ClientCertificates::None;
    require(
        !asks || tls.client_ca_file.is_some(),
        "tls.client_certificates",
        "needs tls.client_ca_file, or no certificate could be trusted",
    );
    require(
        asks || tls.client_ca_file.is_none(),
        "tls.client_ca_file",
        "is set, and tls.client_certificates = \"none\" asks clients for no certificate",
    );
    for (key, problem) in tls.read(0).err().unwrap_or_default() {
        require(false, &key, &problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::load::{Sources, load};
    use crate::layer::tls::tests::authority::Authority;
    use std::os::unix::fs::PermissionsExt as _;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            Files(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> String {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_string()
        }
    }

    fn loaded(text: &str) -> Result<(Config, Vec<String>), String> {
        let file = Some(("t.toml".to_string(), text.to_string()));
        let sources = Sources { file, unix_s: 1_800_000_000, ..Sources::default() };
        load(&sources)
            .map(|loaded| (loaded.config, loaded.warnings))
            .map_err(|faults| faults.iter().map(|fault| format!("{fault}\n")).collect())
    }

    #[test]
    fn a_short_form_and_further_certificates() {
        let (files, authority) = (Files::new(), Authority::new());
        let (a, b) = (authority.server(&["a.test"]), authority.server(&["b.test"]));
        let [a_cert, a_key, b_cert, b_key] =
            [("a.pem", &a.0), ("a.key", &a.1), ("b.pem", &b.0), ("b.key", &b.1)]
                .map(|(name, text)| files.write(name, text));
        let text = format!(
            "listen_tls = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[tls]\ncert = {a_cert:?}\nkey = {a_key:?}\n\
             min_version = \"1.3\"\n[[tls.certificate]]\ncert = {b_cert:?}\nkey = {b_key:?}\n"
        );
        let (config, warnings) = loaded(&text).unwrap();
        assert_eq!(warnings, [""; 0]);
        let listeners = config.listeners();
        let tls: Vec<(String, bool)> =
            listeners.iter().map(|one| (one.address.to_string(), one.tls)).collect();
        let expected = [("127.0.0.1:8000", false), ("127.0.0.1:1", true), ("127.0.0.1:2", true)];
        assert_eq!(tls, expected.map(|(address, tls)| (address.to_string(), tls)));
        let options = config.tls.read(0).unwrap().options;
        assert_eq!(options.certificates.len(), 2);
        assert_eq!(options.min_version, TlsVersion::Tls13);

        std::fs::set_permissions(&a_key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (_, warnings) = loaded(&text.replacen("listen_tls", "listen", 1)).unwrap();
        assert!(warnings[0].contains("a.key can be read by every user of this machine"), "{warnings:?}");
        assert!(warnings[1].contains("no listener speaks TLS"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_serve_is_refused_by_its_key() {
        let (files, authority) = (Files::new(), Authority::new());
        let (cert, key) = authority.server(&["a.test"]);
        let (cert, key) = (files.write("a.pem", &cert), files.write("a.key", &key));
        let other = files.write("b.key", &authority.server(&["a.test"]).1);
        let refused = |text: &str| loaded(&format!("listen_tls = \"127.0.0.1:1\"\n{text}")).unwrap_err();
        let tls = |cert: &str, key: &str| format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n");
        assert!(
            refused("").contains("t.toml:1: listen_tls: needs a certificate and its key"),
            "{}",
            refused("")
        );
        for (text, faults) in [
            (tls("/nowhere.pem", &key), "t.toml:3: tls.cert: \"/nowhere.pem\" cannot be read: No such file"),
            (tls(&cert, "/nowhere.key"), "t.toml:4: tls.key: \"/nowhere.key\" cannot be read: No such file"),
            (tls(&cert, &other), "b.key\" its key does not belong to the certificate in"),
            (format!("[tls]\ncert = {cert:?}\n"), "tls.key: is missing"),
            (format!("[tls]\nkey = {key:?}\n"), "tls.cert: is missing"),
            (
                format!("{}[[tls.certificate]]\ncert = {cert:?}\n", tls(&cert, &key)),
                "tls.certificate[0].key: is missing",
            ),
            (
                format!("{}handshake_timeout = \"2m\"\n", tls(&cert, &key)),
                "tls.handshake_timeout: must be from",
            ),
            (
                format!("{}min_version = \"1.1\"\n", tls(&cert, &key)),
                "tls.min_version: \"1.1\" is not \"1.2\" or \"1.3\"",
            ),
            (
                format!("{}client_certificates = \"require\"\n", tls(&cert, &key)),
                "tls.client_certificates: needs tls.client_ca_file",
            ),
            (format!("{}client_ca_file = {cert:?}\n", tls(&cert, &key)), "tls.client_ca_file: is set, and"),
        ] {
            let found = refused(&text);
            assert!(found.contains(faults), "{faults}: {found}");
        }
        let exposed = loaded(&format!("listen_tls = \"0.0.0.0:1\"\n{}", tls(&cert, &key))).unwrap_err();
        assert!(exposed.contains("listen_tls: 0.0.0.0:1 is not a loopback address"), "{exposed}");
        let twice = format!("listen = \"127.0.0.1:1\"\nlisten_tls = \"127.0.0.1:1\"\n{}", tls(&cert, &key));
        assert!(loaded(&twice).unwrap_err().contains("listen_tls: 127.0.0.1:1 is the same as listen"));
    }

    #[test]
    fn the_end_of_a_certificate_is_warned_about_in_time() {
        let (pem, key) = Authority::new().until(2035).server(&["a.test"]);
        let served = Served::new("a.pem", pem.as_bytes(), key.as_bytes()).unwrap();
        let day = 24 * 3600;
        let warning = |now_s| expiry_warning(&served, now_s);
        assert_eq!(warning(served.not_after - 15 * day), None);
        let soon = warning(served.not_after - 14 * day).unwrap();
        assert_eq!(soon, "the certificate in a.pem (CN=a.test) expires in 14 days");
        assert!(warning(served.not_after + 3 * day).unwrap().contains("has expired 3 days ago"));
        assert!(warning(served.not_before - 1).unwrap().contains("is not valid yet"));
    }
}
