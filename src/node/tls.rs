//! The certificates of a running node: made into layers, read again on SIGHUP, watched for their end.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::config::tls::{TlsFault, TlsFiles, expiry_warning};
use crate::config::{Config, TlsSettings};
use crate::layer::LayerMaker;
use crate::layer::tls::TlsMaker;
use crate::layer::tls::certificates::Served;
use crate::node::clock::unix_s;

/// How often a certificate that ends soon is warned about.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What the listeners that speak TLS serve with.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    settings: TlsSettings,
    maker: Arc<TlsMaker>,
    served: RwLock<Vec<Served>>,
}

impl Certificates {
    /// `None`: no listener speaks TLS. The warnings of this first reading have been said by the configuration.
    ///
    /// # Errors
    /// When a file that was good a moment ago is not any more.
    pub fn new(config: &Config) -> io::Result<Option<Certificates>> {
        if !config.listeners().iter().any(|listener| listener.tls) {
            return Ok(None);
        }
        let TlsFiles { options, .. } =
            config.tls.read(unix_s()).map_err(|faults| io::Error::other(sentence(&faults)))?;
        let served = RwLock::new(options.certificates.clone());
        let maker = Arc::new(TlsMaker::new(options).map_err(io::Error::other)?);
        let inner = Inner { settings: config.tls.clone(), maker, served };
        Ok(Some(Certificates(Arc::new(inner))))
    }

    pub fn maker(&self) -> Arc<dyn LayerMaker> {
        Arc::clone(&self.0.maker) as Arc<dyn LayerMaker>
    }

    /// Reads the files again. What is wrong with them is logged, and the old ones go on.
    pub fn reload(&self) {
        let files = match self.0.settings.read(unix_s()) {
            Ok(files) => files,
            Err(faults) => {
                tracing::error!("certificates stay as they were: {}", sentence(&faults));
                return;
            }
        };
        let certificates = files.options.certificates.clone();
        if let Err(problem) = self.0.maker.exchange(files.options) {
            tracing::error!("certificates stay as they were: {problem}");
            return;
        }
        for Served { path, subject, .. } in &certificates {
            tracing::info!("certificate read again: {path} ({subject}), for new connections");
        }
        for warning in files.warnings {
            tracing::warn!("{warning}");
        }
        *self.0.served.write() = certificates;
    }

    /// Warns of those that end soon, from a thread that lives as long as the process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&self) -> io::Result<()> {
        let own = self.clone();
        thread::Builder::new().name("certificates".into()).spawn(move || {
            loop {
                thread::sleep(WARNING_INTERVAL);
                let now_s = unix_s();
                for warning in own.0.served.read().iter().filter_map(|served| expiry_warning(served, now_s)) {
                    tracing::warn!("{warning}");
                }
            }
        })?;
        Ok(())
    }
}

fn sentence(faults: &[TlsFault]) -> String {
    let faults: Vec<String> = faults.iter().map(|(key, problem)| format!("{key}: {problem}")).collect();
    faults.join("; ")
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When a certificate ends, in seconds since 1970";
        let any = ConstGauge::new(0_i64);
        let mut family =
            encoder.encode_descriptor("tls_certificate_not_after_seconds", help, None, any.metric_type())?;
        for Served { path, subject, not_after, .. } in self.0.served.read().iter() {
            let labels = [("file", &**path), ("subject", &**subject)];
            let gauge = ConstGauge::new(i64::try_from(*not_after).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
