//! Spans on their way to a backend of traces: in batches, from a bounded queue, never tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use reqwest::Client;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded_channel};

use crate::base::time::Time;
use crate::config;
use crate::control::outbound::{self, Reach, read_body};
use crate::control::traces::otlp::{Resource, Span, encode};
use crate::telemetry::limit::LogLimit;

/// Spans that may wait: some seconds of a node that traces a thousand publications a second. What comes above is dropped and counted.
const QUEUE_SPANS_MAX: usize = 4096;
/// Spans of one request, as the collectors of this field have it.
const BATCH_SPANS_MAX: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_millis(500);
/// What is read of an answer, in bytes, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What has become of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    pub exported: AtomicU64,
    /// There was no room for them, or the backend has not taken them.
    pub dropped: AtomicU64,
}

/// Where finished spans go.
#[derive(Clone, Debug)]
pub struct Exporter {
    queue: Sender<Span>,
    pub counts: Arc<SpanCounts>,
}

/// How the backend of traces is reached.
#[derive(Debug)]
pub struct TraceDestination {
    client: Client,
    url: String,
    headers: HeaderMap,
    timeout: Duration,
    log: Mutex<LogLimit>,
    started: Instant,
}

impl TraceDestination {
    /// # Errors
    /// When the endpoint cannot be spoken to from this machine at all.
    pub fn new(endpoint: &str, settings: &config::Traces) -> reqwest::Result<TraceDestination> {
        let mut headers = HeaderMap::new();
        for text in &settings.static_headers {
            if let Ok((name, value)) = config::hooks::static_header(text.reveal()) {
                headers.append(name, value);
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let reach = Reach { endpoint, http2: false, authorities: settings.ca_file.as_ref(), idle_max: 1 };
        Ok(TraceDestination {
            client: outbound::client(reach)?,
            url: url(endpoint),
            headers,
            timeout: settings.timeout,
            log: Mutex::default(),
            started: Instant::now(),
        })
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let request = self.client.post(&self.url).timeout(self.timeout).headers(self.headers.clone());
        let response = request.body(body).send().await.map_err(|error| outbound::deepest(&error))?;
        let status = response.status();
        let _ = read_body(response, ANSWER_BYTES_MAX).await;
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }
}

/// As for OTEL_EXPORTER_OTLP_ENDPOINT: the path of the signal comes behind it.
fn url(endpoint: &str) -> String {
    const PATH: &str = "/v1/traces";
    if endpoint.ends_with(PATH) {
        endpoint.to_owned()
    } else {
        endpoint.trim_end_matches('/').to_owned() + PATH
    }
}

impl Exporter {
    /// Spans go out from now on. Within a runtime.
    pub fn start(destination: TraceDestination, resource: Resource) -> Exporter {
        let (queue, spans) = bounded_channel(QUEUE_SPANS_MAX);
        let counts = Arc::<SpanCounts>::default();
        tokio::spawn(run(destination, resource, spans, Arc::clone(&counts)));
        Exporter { queue, counts }
    }

    /// Never waits.
    pub fn take(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn run(
    destination: TraceDestination,
    resource: Resource,
    // Bound: `QUEUE_SPANS_MAX`.
    mut spans: Receiver<Span>,
    counts: Arc<SpanCounts>,
) {
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, BATCH_SPANS_MAX).await > 0 {
        if batch.len() < BATCH_SPANS_MAX {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH_SPANS_MAX
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        match destination.send(encode(&resource, &batch)).await {
            Ok(()) => counts.exported.fetch_add(count, Ordering::Relaxed),
            Err(problem) => {
                let now = Time(destination.started.elapsed().as_nanos() as u64);
                if let Some(silenced) = destination.log.lock().allow("traces", now) {
                    tracing::warn!(silenced, "traces: {}: {problem}: spans are dropped", destination.url);
                }
                counts.dropped.fetch_add(count, Ordering::Relaxed)
            }
        };
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::traces::otlp::SpanKind;

    #[test]
    fn the_path_of_traces_comes_behind_the_endpoint() {
        assert_eq!(url("http://a:4318"), "http://a:4318/v1/traces");
        assert_eq!(url("http://a:4318/otel/"), "http://a:4318/otel/v1/traces");
        assert_eq!(url("http://a:4318/v1/traces"), "http://a:4318/v1/traces");
    }

    #[test]
    fn what_finds_no_room_is_counted_and_nobody_waits() {
        let (queue, _spans) = bounded_channel(QUEUE_SPANS_MAX);
        let exporter = Exporter { queue, counts: Arc::default() };
        let span = Span {
            trace: 1,
            span: 2,
            parent: 0,
            name: "publish".into(),
            kind: SpanKind::Server,
            start_ns: 1,
            end_ns: 2,
            attributes: Vec::new(),
            moments: Vec::new(),
            error: None,
        };
        (0..QUEUE_SPANS_MAX + 3).for_each(|_| exporter.take(span.clone()));
        assert_eq!(exporter.counts.dropped.load(Ordering::Relaxed), 3);
    }
}
