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

use crate::config::tls::{Expiry, TlsFault, TlsFiles, expiry, expiry_warning};
use crate::config::{Config, TlsSettings};
use crate::layer::LayerMaker;
use crate::layer::tls::TlsMaker;
use crate::layer::tls::certificates::Served;
use crate::node::clock::unix_s;

/// How often a certificate that ends soon, or has ended, is warned about.
const WARNING_INTERVAL_S: u64 = 24 * 3600;
/// How often the watch looks: what has become of a certificate is said at once.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// What the listeners that speak TLS serve with.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    maker: Arc<TlsMaker>,
    served: RwLock<Vec<Watched>>,
}

/// A certificate, and what was said of its time.
struct Watched {
    served: Served,
    said: Option<Expiry>,
    said_at_s: u64,
}

impl Watched {
    /// Its warning has been said by those who read it.
    fn new(served: Served, now_s: u64) -> Watched {
        let said = expiry(&served, now_s);
        Watched { served, said, said_at_s: now_s }
    }

    /// A warning is due when its time has come, and once a day from then on.
    fn warning(&mut self, now_s: u64) -> Option<String> {
        let is_now = expiry(&self.served, now_s);
        if is_now == self.said && now_s < self.said_at_s.saturating_add(WARNING_INTERVAL_S) {
            return None;
        }
        (self.said, self.said_at_s) = (is_now, now_s);
        expiry_warning(&self.served, now_s)
    }
}

impl Certificates {
    /// `None`: no listener speaks TLS. The warnings of this first reading have been said by the configuration.
    ///
    /// # Errors
    /// When a file that was good a moment ago is not any more.
    pub fn new(config: &Config) -> io::Result<Option<Certificates>> {
        if !config.speaks_tls() {
            return Ok(None);
        }
        let now_s = unix_s();
        let TlsFiles { options, .. } =
            config.tls.read(now_s).map_err(|faults| io::Error::other(sentence(&faults)))?;
        let certificates = options.certificates.iter().cloned();
        let served = RwLock::new(certificates.map(|served| Watched::new(served, now_s)).collect());
        let maker = Arc::new(TlsMaker::new(options).map_err(io::Error::other)?);
        let inner = Inner { maker, served };
        Ok(Some(Certificates(Arc::new(inner))))
    }

    pub fn maker(&self) -> Arc<dyn LayerMaker> {
        Arc::clone(&self.0.maker) as Arc<dyn LayerMaker>
    }

    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn prepare(&self, settings: &TlsSettings) -> Result<TlsFiles, String> {
        settings.read(unix_s()).map_err(|faults| sentence(&faults))
    }

    /// New connections get these. Says which.
    ///
    /// # Errors
    /// What is wrong with them: the old ones go on.
    pub fn exchange(&self, files: TlsFiles) -> Result<Vec<String>, String> {
        let certificates = files.options.certificates.clone();
        self.0.maker.exchange(files.options).map_err(|problem| problem.to_string())?;
        let read = certificates.iter().map(|Served { path, subject, .. }| {
            format!("certificate read again: {path} ({subject}), for new connections")
        });
        let read: Vec<String> = read.collect();
        let now_s = unix_s();
        *self.0.served.write() = certificates.into_iter().map(|served| Watched::new(served, now_s)).collect();
        Ok(read)
    }

    /// Warns of those that end soon, from a thread that lives as long as the process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&self) -> io::Result<()> {
        let own = self.clone();
        thread::Builder::new().name("certificates".into()).spawn(move || {
            loop {
                thread::sleep(WATCH_INTERVAL);
                let now_s = unix_s();
                let warnings: Vec<String> =
                    own.0.served.write().iter_mut().filter_map(|watched| watched.warning(now_s)).collect();
                for warning in warnings {
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
        for Watched { served: Served { path, subject, not_after, .. }, .. } in self.0.served.read().iter() {
            let labels = [("file", &**path), ("subject", &**subject)];
            let gauge = ConstGauge::new(i64::try_from(*not_after).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tls::tests::authority::Authority;

    #[test]
    fn what_becomes_of_a_certificate_is_said_when_it_happens_and_then_daily() {
        let day = 24 * 3600;
        let (pem, key) = Authority::new().until(2035).server(&["a.test"]);
        let served = Served::new("a.pem", pem.as_bytes(), key.as_bytes()).unwrap();
        let end = served.not_after;
        let soon = end - 14 * day;
        let mut watched = Watched::new(served.clone(), soon - 3 * day);
        let said: Vec<(u64, bool)> = [
            (soon - 3 * day + 5, false),
            // Good still, a day later and on.
            (soon - day, false),
            (soon - 1, false),
            (soon, true),
            (soon + 5, false),
            (soon + day - 1, false),
            (soon + day, true),
            (end - 5, true),
            // Less than a day after the last one: it has ended meanwhile.
            (end, true),
            (end + 5, false),
            (end + day, true),
        ]
        .to_vec();
        for (now_s, is_said) in said {
            assert_eq!(watched.warning(now_s).is_some(), is_said, "{}", now_s as i64 - end as i64);
        }
        // Who reads it has said the first one.
        let mut watched = Watched::new(served, end - day);
        assert_eq!(watched.warning(end - day + 5), None);
        assert!(watched.warning(end).unwrap().contains("has expired 0 days ago"));
    }
}
