//! One batch to the backend: POSTed, signed, tried again until it is accepted.

use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Client;

use crate::base::bytes::Bytes;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::config::Secret;
use crate::control::events::options::EventOptions;
use crate::control::events::signature;
use crate::control::outbound::{self, Reach};
use crate::control::process::wall_ms;
use crate::telemetry::limit::LogLimit;

/// The first pause after a failure. Doubles with each further one, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest: a backend that is well again hears of it within two seconds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What is read of an answer, in bytes, so that its connection can be used again. Nothing in it counts.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Events on their way. A batch that is tried again is the same: so is its key.
pub struct EventBatch {
    /// The number of its last event.
    pub last: u64,
    pub key: String,
    pub body: Bytes,
}

pub struct EventSender {
    client: Client,
    endpoint: String,
    headers: HeaderMap,
    secret: Option<Secret>,
    timeout: Duration,
    pause: Duration,
    prng: Prng,
    started: Instant,
    limit: LogLimit,
}

impl EventSender {
    /// `None`: events go nowhere.
    ///
    /// # Errors
    /// When the endpoint cannot be spoken to from this machine at all.
    pub fn new(options: &EventOptions) -> reqwest::Result<Option<EventSender>> {
        let Some(endpoint) = &options.endpoint else { return Ok(None) };
        let mut headers: HeaderMap = options.headers.iter().cloned().collect();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // One batch at a time needs one connection.
        let reach = Reach { endpoint, http2: false, authorities: options.authorities.as_ref(), idle_max: 1 };
        Ok(Some(EventSender {
            client: outbound::client(reach)?,
            endpoint: endpoint.to_string(),
            headers,
            secret: options.secret.clone(),
            timeout: options.timeout,
            pause: PAUSE_MIN,
            // For pauses: no secret.
            prng: Prng::new(),
            started: Instant::now(),
            limit: LogLimit::default(),
        }))
    }

    /// One attempt. False: it is to be tried again after [`EventSender::pause`].
    pub async fn deliver(&mut self, batch: &EventBatch) -> bool {
        let mut request = self
            .client
            .post(&self.endpoint)
            .timeout(self.timeout)
            .headers(self.headers.clone())
            .header("Idempotency-Key", &batch.key)
            .body(batch.body.clone());
        if let Some(secret) = &self.secret {
            let signed = signature::sign(secret.reveal().as_bytes(), wall_ms() / 1000, &batch.body);
            request = request.header(signature::SIGNATURE, signed);
        }
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                // The verdict is in the status; a body that breaks off changes nothing.
                let _ = outbound::read_body(response, ANSWER_BYTES_MAX).await;
                if status.is_success() {
                    self.pause = PAUSE_MIN;
                    return true;
                }
                self.warn("the backend does not accept events", status_text(status));
            }
            Err(error) => self.warn("the backend cannot be told events", outbound::deepest(&error)),
        }
        false
    }

    /// Waits before the next attempt: longer each time, and not in step with other nodes.
    pub async fn pause(&mut self) {
        let most = self.pause.as_millis() as u64;
        let pause = Duration::from_millis(most / 2 + self.prng.u64(0..=most / 2));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
    }

    fn warn(&mut self, cause: &'static str, problem: String) {
        let now = Time(self.started.elapsed().as_nanos() as u64);
        if let Some(silenced) = self.limit.allow(cause, now) {
            tracing::warn!(silenced, "{cause}: {problem}; it is tried again until it succeeds");
        }
    }
}

fn status_text(status: StatusCode) -> String {
    format!("it answers {status}")
}
