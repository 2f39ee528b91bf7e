//! Traces: what a publication, a connect and a hook call took, for a backend of traces (OpenTelemetry).
//!
//! Inputs: the API's requests, hook calls, and what shards say of stages and connects. Outputs: spans, by way of a bounded queue.
//! Must not know: how anything is done. Without a destination there is no tracer, and each place costs one comparison.
//!
//! A span of a connect has an id that is made of the client's, so that hook calls are below it without anybody keeping it. Stages
//! of a publication are found by the moment at which the node had it: shards say them of all, and those of traced ones are kept.

mod export;
mod otlp;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::HeaderMap;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;

use crate::base::ids::ClientId;
use crate::base::time::Time;
use crate::base::trace::{TRACEPARENT, TraceContext};
use crate::config::{self, Config};
use crate::control::process::shard_time;
use crate::control::traces::export::{Exporter, TraceDestination};
use crate::control::traces::otlp::{Attribute, Resource, Span, SpanKind, SpanMoment};
use crate::hub::requests::PublishRequest;
use crate::shard::control_request::trace::{TracedConnect, TracedStage};

/// Publications whose stages are waited for. What comes above has spans without them.
const PENDING_MAX: usize = 4096;
/// How long after the answer: by then the last subscriber has it, or lags.
const LINGER: Duration = Duration::from_secs(1);
/// Moments of one span: a broadcast to many channels has four for each of them and shard.
const MOMENTS_MAX: usize = 128;

tokio::task_local! {
    /// The request of the API that this task carries out.
    static REQUEST: ApiTrace;
}

/// Where spans go: as configured, or as the variable says that programs of this field share.
pub fn endpoint(config: &Config) -> Option<String> {
    let shared = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|text| !text.is_empty());
    config.traces.endpoint.clone().or_else(shared)
}

/// What a tracer is made of.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    pub endpoint: String,
    pub settings: config::Traces,
}

/// What a publication has come to, and when by the shards' clock.
type Moments = Mutex<Vec<(Time, SpanMoment)>>;

#[derive(Debug)]
pub struct Tracer {
    exporter: Exporter,
    sampled_per_million: u32,
    /// By the moment at which the node had the publication.
    /// Bound: `PENDING_MAX`.
    pending: Mutex<HashMap<Time, Arc<Moments>>>,
}

/// A request of the API under way.
#[derive(Clone, Debug)]
struct ApiTrace {
    context: TraceContext,
    moments: Arc<Moments>,
    tracer: Arc<Tracer>,
}

/// A span that has begun.
#[derive(Debug)]
pub struct Begun {
    pub context: TraceContext,
    parent: u64,
    start_ns: u64,
}

impl Tracer {
    /// Within a runtime.
    ///
    /// # Errors
    /// When the destination cannot be spoken to from this machine at all.
    pub fn start(options: &TraceOptions, node_name: &str, uid: &str) -> reqwest::Result<Arc<Tracer>> {
        let destination = TraceDestination::new(&options.endpoint, &options.settings)?;
        let resource = Resource { node_name: node_name.to_owned(), uid: uid.to_owned() };
        Ok(Arc::new(Tracer {
            exporter: Exporter::start(destination, resource),
            sampled_per_million: options.settings.sampled_per_million,
            pending: Mutex::default(),
        }))
    }

    /// Carries out a request of the API as a span, if it is traced.
    pub async fn request<T, E>(
        self: &Arc<Self>,
        name: &'static str,
        headers: &HeaderMap,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(begun) = self.begin(headers) else { return work.await };
        let moments = Arc::<Moments>::default();
        let trace =
            ApiTrace { context: begun.context, moments: Arc::clone(&moments), tracer: Arc::clone(self) };
        let outcome = REQUEST.scope(trace, work).await;
        if begun.context.sampled {
            let mut span = begun.end(name, SpanKind::Server);
            span.error = outcome.is_err().then(|| "refused".to_owned());
            let tracer = Arc::clone(self);
            // What shards say comes behind the answer.
            tokio::spawn(async move {
                tokio::time::sleep(LINGER).await;
                tracer.pending.lock().retain(|_, kept| !Arc::ptr_eq(kept, &moments));
                let mut reached = std::mem::take(&mut *moments.lock());
                // By the clock of shards: the wall clock was read for each.
                reached.sort_by_key(|&(at, _)| at);
                span.moments = reached.into_iter().map(|(_, moment)| moment).collect();
                let last = span.moments.last().map_or(0, |moment| moment.time_ns);
                span.end_ns = span.end_ns.max(last);
                tracer.exporter.take(span);
            });
        }
        outcome
    }

    fn begin(&self, headers: &HeaderMap) -> Option<Begun> {
        let remote = headers.get(TRACEPARENT).and_then(|value| TraceContext::parse(value.as_bytes()));
        let span = fastrand::u64(1..);
        let (context, parent) = match remote {
            Some(remote) => (remote.below(span), remote.span),
            None if fastrand::u32(..1_000_000) < self.sampled_per_million => {
                (TraceContext { trace: fastrand::u128(1..), span, sampled: true }, 0)
            }
            None => return None,
        };
        Some(Begun { context, parent, start_ns: wall_ns(shard_time()) })
    }

    /// The span of a client's connect, in the trace that it came with or one of its own. `None`: it is not traced.
    fn of_client(&self, client: ClientId, remote: Option<TraceContext>) -> Option<(TraceContext, u64)> {
        // Ids of clients are as random as those of traces, and told to nobody else either.
        let bits = client.0;
        let span = ((bits >> 64) as u64 ^ bits as u64).max(1);
        match remote {
            Some(remote) => Some((remote.below(span), remote.span)),
            None => {
                let share = (u128::from(span) * 1_000_000) >> 64;
                let sampled = share < u128::from(self.sampled_per_million);
                sampled.then_some((TraceContext { trace: bits, span, sampled }, 0))
            }
        }
    }

    /// A client is connected.
    pub fn connected(&self, connect: &TracedConnect) {
        let Some((context, parent)) = self.of_client(connect.client, connect.remote) else { return };
        if !context.sampled {
            return;
        }
        let begun = Begun { context, parent, start_ns: wall_ns(connect.since) };
        let mut span = begun.end("connect", SpanKind::Server);
        span.end_ns = wall_ns(connect.now);
        span.attributes = vec![
            ("trunkline.client", Attribute::Text(connect.client.to_string())),
            ("trunkline.transport", Attribute::Text(connect.transport.into())),
            ("trunkline.shard", Attribute::Number(connect.shard.0.into())),
        ];
        self.exporter.take(span);
    }

    /// A hook is about to be called for a client, which came with `remote`.
    pub fn begin_hook(&self, client: ClientId, remote: Option<TraceContext>) -> Option<Begun> {
        let (connect, _) = self.of_client(client, remote)?;
        let context = connect.below(fastrand::u64(1..));
        Some(Begun { context, parent: connect.span, start_ns: wall_ns(shard_time()) })
    }

    /// It was, with this outcome.
    pub fn end_hook(&self, begun: Begun, hook: &str, kind: &'static str, outcome: &'static str) {
        if !begun.context.sampled {
            return;
        }
        let mut span = begun.end("hook", SpanKind::Client);
        span.name = format!("hook {kind}");
        span.attributes = vec![
            ("trunkline.hook", Attribute::Text(hook.to_owned())),
            ("trunkline.outcome", Attribute::Text(outcome.into())),
        ];
        let went_well = matches!(outcome, "result" | "error" | "disconnect");
        span.error = (!went_well).then(|| outcome.to_owned());
        self.exporter.take(span);
    }

    /// Publications have reached stages, traced ones among them.
    pub fn reached(&self, stages: &[TracedStage]) {
        let pending = self.pending.lock();
        if pending.is_empty() {
            return;
        }
        for reached in stages {
            let Some(moments) = pending.get(&reached.accepted) else { continue };
            let mut moments = moments.lock();
            if moments.len() < MOMENTS_MAX {
                let moment = SpanMoment {
                    name: reached.stage.name(),
                    time_ns: wall_ns(reached.at),
                    attributes: vec![("trunkline.shard", Attribute::Number(reached.shard.0.into()))],
                };
                moments.push((reached.at, moment));
            }
        }
    }
}

/// A publication that the node has from now on, part of the request that this task carries out, if that is traced.
pub fn stamped(mut ask: PublishRequest) -> PublishRequest {
    ask.accepted = shard_time();
    let _ = REQUEST.try_with(|request| {
        ask.trace = Some(request.context);
        if request.context.sampled {
            let mut pending = request.tracer.pending.lock();
            if pending.len() < PENDING_MAX {
                pending.insert(ask.accepted, Arc::clone(&request.moments));
            }
        }
    });
    ask
}

impl Begun {
    fn end(&self, name: &str, kind: SpanKind) -> Span {
        Span {
            trace: self.context.trace,
            span: self.context.span,
            parent: self.parent,
            name: name.to_owned(),
            kind,
            start_ns: self.start_ns,
            end_ns: wall_ns(shard_time()),
            attributes: Vec::new(),
            moments: Vec::new(),
            error: None,
        }
    }
}

/// The wall clock at a time of shards.
fn wall_ns(at: Time) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = shard_time().since(at);
    u64::try_from(now.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
}

/// What has become of spans, for `/metrics`.
#[derive(Debug)]
pub struct SpanMetrics(pub Arc<Tracer>);

impl Collector for SpanMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = &self.0.exporter.counts;
        for (name, help, count) in [
            ("trace_spans_exported", "Spans that the backend of traces has taken", &counts.exported),
            ("trace_spans_dropped", "Spans without room, or that the backend has not taken", &counts.dropped),
        ] {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
