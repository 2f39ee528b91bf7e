//! What is told and to whom.

use std::time::Duration;

use ::http::{HeaderName, HeaderValue};

use crate::config::{self, Authorities, Secret};

/// What is told and to whom.
#[derive(Clone, Debug)]
pub struct EventOptions {
    /// Where batches go; `None`: they are only kept for reading.
    pub endpoint: Option<String>,
    pub authorities: Option<Authorities>,
    pub secret: Option<Secret>,
    pub timeout: Duration,
    /// Most events of a batch.
    pub batch_max: usize,
    pub log_bytes_max: usize,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl EventOptions {
    /// `None`: nothing is told.
    pub fn new(config: &config::EventSettings) -> Option<EventOptions> {
        (!config.kinds().is_empty()).then(|| EventOptions {
            endpoint: config.endpoint.clone(),
            authorities: config.ca_file.clone(),
            secret: config.secret.clone(),
            timeout: config.timeout,
            batch_max: config.batch_max,
            log_bytes_max: config.log_bytes_max.bytes(),
            headers: config.headers(),
        })
    }
}
