//! What all connections of the TLS listeners share: certificates, versions, who may come.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, version};

use crate::layer::tls::certificates::{ByName, Served};
use crate::layer::tls::connection::Tls;
use crate::layer::tls::record::TlsVersion;
use crate::layer::tls::secrets::Capture;
use crate::layer::{Layer, LayerMaker};
use crate::record::LayerRecord;

/// The one protocol that is spoken here (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    #[default]
    None,
    /// Asked for. A client without one gets in, one with a bad one does not.
    Request,
    Require,
}

#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// At least one; the first is the default.
    pub certificates: Vec<Served>,
    pub min_version: TlsVersion,
    pub client_certificates: ClientCertificates,
    /// Those that the certificates of clients come from.
    pub client_authorities: Vec<CertificateDer<'static>>,
}

/// Makes the layers of TLS listeners. Its options can be exchanged while connections live: those keep what they have.
pub struct TlsMaker {
    pub(super) config: RwLock<Arc<ServerConfig>>,
}

impl TlsMaker {
    /// # Errors
    /// What cannot be used, in a sentence.
    pub fn new(options: TlsOptions) -> Result<TlsMaker, String> {
        let ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(TlsMaker { config: RwLock::new(Arc::new(server_config(options, ticketer)?)) })
    }

    /// New connections get these. Tickets stay good unless clients show certificates: those are in the tickets, and who is
    /// trusted may be another now.
    ///
    /// # Errors
    /// As [`TlsMaker::new`]; the old ones go on.
    pub fn exchange(&self, options: TlsOptions) -> Result<(), String> {
        let ticketer = match options.client_certificates {
            ClientCertificates::None => Arc::clone(&self.config.read().ticketer),
            _ => ring::Ticketer::new().map_err(|error| error.to_string())?,
        };
        let config = Arc::new(server_config(options, ticketer)?);
        *self.config.write() = config;
        Ok(())
    }
}

impl LayerMaker for TlsMaker {
    fn make(&self) -> Box<dyn Layer> {
        Box::new(Tls::new(Arc::clone(&self.config.read())))
    }

    fn restore(&self, record: &LayerRecord) -> Option<Box<dyn Layer>> {
        Some(Box::new(Tls::from_record(record)?))
    }
}

fn server_config(options: TlsOptions, ticketer: Arc<dyn ProducesTickets>) -> Result<ServerConfig, String> {
    server_config_of(options, ticketer, ring::default_provider())
}

pub(super) fn server_config_of(
    options: TlsOptions,
    ticketer: Arc<dyn ProducesTickets>,
    provider: CryptoProvider,
) -> Result<ServerConfig, String> {
    let provider = Arc::new(provider);
    let versions = match options.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12][..],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match options.client_certificates {
        ClientCertificates::None => builder.with_no_client_auth(),
        wanted => {
            let mut roots = RootCertStore::empty();
            for authority in options.client_authorities {
                roots.add(authority).map_err(|error| error.to_string())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match wanted {
                ClientCertificates::Request => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(options.certificates)));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.ticketer = ticketer;
    // Tickets hold their state themselves: nothing is stored for clients that may come again.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    // Early data could be sent again by others: none is taken.
    config.max_early_data_size = 0;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Capture);
    Ok(config)
}

/// Days before its end at which a certificate is warned about.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
