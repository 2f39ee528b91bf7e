//! The engine of a node: made of its configuration, and what becomes of the node when it is away.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::config::Config;
use crate::config::engine::EngineKind;
use crate::control::{ControlOptions, NotReady, Readiness, encode_histogram};
use crate::engine::{
    EngineOptions, Limits, Place, RunningEngine, Stands, is_untrusted, start as start_engine,
};
use crate::node::incident::Incident;
use crate::shard::ShardOptions;
use crate::shard::router::Router;

/// How long an engine may take to be there before another process takes over: its servers are those of the process before.
const UP_MAX: Duration = Duration::from_secs(10);

/// The kind of the configuration's engine, by which two processes know that channels are at the same place.
pub fn kind_of(config: &Config) -> &'static str {
    match config.engine.kind {
        EngineKind::Memory => "",
        EngineKind::Redis => "redis",
        EngineKind::Nats => "nats",
    }
}

/// Waits until all servers are there.
///
/// # Errors
/// They are not.
pub fn await_up(engine: &RunningEngine) -> Result<(), String> {
    let until = Instant::now() + UP_MAX;
    while !engine.is_up() {
        if Instant::now() >= until {
            return Err("the engine is away".to_owned());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The engine of the configuration; `None`: channels live in this process. `arriving`: another process has members there.
///
/// # Errors
/// A file of it cannot be read, or no thread can be started.
pub fn start(
    config: &Config,
    router: &Router,
    uid: &str,
    options: &ShardOptions,
    arriving: bool,
) -> io::Result<Option<Arc<RunningEngine>>> {
    let engine = &config.engine;
    let place = match engine.kind {
        EngineKind::Memory => return Ok(None),
        EngineKind::Redis => {
            let tls = engine.tls().map_err(io::Error::other)?;
            Place::Redis(engine.addresses().map_err(io::Error::other)?, tls)
        }
        EngineKind::Nats => Place::Nats(engine.nats().map_err(io::Error::other)?),
    };
    let engine_options = EngineOptions {
        place,
        prefix: engine.prefix.clone(),
        connect_timeout: engine.connect_timeout,
        timeout: engine.timeout,
        limits: Limits {
            history_read_max: options.hub.history_read_max,
            recovery_max: options.hub.recovery_publications_max,
            subjects: engine.kind == EngineKind::Nats,
        },
        namespaces: (*options.namespaces).clone(),
        node_uid: uid.to_owned(),
        node_name: ControlOptions::new(config).node_name,
        arriving,
        blocks: Arc::clone(&options.blocks),
    };
    start_engine(engine_options, router.clone()).map(|engine| Some(Arc::new(engine)))
}

/// The node is ready while the engine is there, and ends when that does not let it in.
pub fn watch(engine: &RunningEngine, readiness: &Arc<Readiness>, incidents: &mpsc::SyncSender<Incident>) {
    let (readiness, incidents) = (Arc::clone(readiness), incidents.clone());
    engine.watch(move |stands| {
        readiness.set(NotReady::EngineAway, *stands != Stands::Up);
        if let Stands::Refused(why) = stands {
            let whose = match is_untrusted(why) {
                true => "this node does not trust the engine's server",
                false => "the engine does not let this node in",
            };
            // Without room there is an end of the node on its way.
            let _ = incidents.try_send(Incident::EngineRefused(format!("{whose}: {why}")));
        }
    });
}

/// What waits for an engine, and how long publishes take there.
pub struct EngineMetrics(pub Arc<RunningEngine>);

impl fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineMetrics")
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let backlog = self.0.backlog();
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        for (name, help, value) in [
            (
                "engine_inlet_events",
                "Requests and answers that the engine has not looked at yet",
                backlog.inlet_events as u64,
            ),
            ("engine_under_way", "What servers of the engine are to do and have not done", backlog.under_way),
        ] {
            let gauge = gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let help = "What was not sent to a server of the engine yet";
        let mut family = encoder.encode_descriptor("engine_waiting", help, None, MetricType::Gauge)?;
        for (server, waiting) in backlog.waiting.iter().enumerate() {
            gauge(*waiting as u64).encode(family.encode_family(&[("server", server)])?)?;
        }
        let help = "How long publishes took until the engine had them; those that it has not taken count with engine.timeout";
        let seconds = Some(&Unit::Seconds);
        let family = encoder.encode_descriptor("engine_publish", help, seconds, MetricType::Histogram)?;
        encode_histogram(family, &self.0.publishes())
    }
}
