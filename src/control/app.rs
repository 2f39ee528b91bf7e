//! What every handler of the HTTP surface shares.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request};
use axum::response::Response;
use parking_lot::Mutex;

use crate::base::address_mask::AddressMask;
use crate::base::event::{EventKind, EventKinds};
use crate::control::api::{Api, NodeIdentity};
use crate::control::auth::ApiKeys;
use crate::control::drain::{DrainDefaults, Drains};
use crate::control::events::{EventMetrics, EventsPlace};
use crate::control::hooks::Hooks;
use crate::control::metrics::{Metrics, SharedCollector};
use crate::control::objectives_met::ObjectivesMet;
use crate::control::options::{ControlOptions, OtherNodes};
use crate::control::page;
use crate::control::process::Process;
use crate::control::rates::ShardRates;
use crate::control::readiness::Readiness;
use crate::control::reload::Reload;
use crate::control::requests::Shards;
use crate::control::responses::problem;
use crate::control::taps::Taps;
use crate::control::traces::{SpanMetrics, Tracer};
use crate::control::tunnel::Tunnels;
use crate::shard::router::Router;

/// What every handler shares.
pub struct App {
    pub api: Api,
    pub tunnels: Arc<Tunnels>,
    pub body_bytes_max: usize,
    pub metrics: Metrics,
    pub keys: ApiKeys,
    pub metrics_need_key: bool,
    pub echo: bool,
    /// Serves the console.
    pub console: bool,
    /// The nodes that share channels with this one.
    pub others: Option<OtherNodes>,
    /// How clients' addresses are shown.
    pub address_mask: AddressMask,
    pub page: Option<page::Page>,
    pub events: EventsPlace,
    pub readiness: Arc<Readiness>,
    pub drains: Arc<Drains>,
    drain_defaults: Mutex<DrainDefaults>,
    pub reload: Option<Reload>,
    pub taps: Taps,
    pub objectives: ObjectivesMet,
    /// Where something is traced.
    pub tracer: Option<Arc<Tracer>>,
    event_kinds: Mutex<EventKinds>,
}

impl App {
    /// `api_addr` is where the API's own listener is bound, if it has one.
    ///
    /// # Errors
    /// When the operating system gives no randomness for the node's id, or no certificates to check a backend's.
    pub fn new(
        options: &ControlOptions,
        router: Router,
        api_addr: Option<SocketAddr>,
        hooks: &Hooks,
        events: EventsPlace,
    ) -> io::Result<App> {
        let mut metrics = Metrics::new(hooks);
        if options.centrifugo_metrics {
            metrics = metrics.with_names_of_centrifugo();
        }
        metrics.add(EventMetrics(events.clone()));
        options.collectors.iter().for_each(|collector| metrics.add(SharedCollector(Arc::clone(collector))));
        let objectives = ObjectivesMet::new(&options.objectives);
        metrics.add(objectives.clone());
        let mut process = Process::new()?;
        if let Some(uid) = &options.uid {
            process.uid.clone_from(uid);
        }
        let tracer = match &options.traces {
            Some(traces) => {
                Some(Tracer::start(traces, &options.node_name, &process.uid).map_err(io::Error::other)?)
            }
            None => None,
        };
        if let Some(tracer) = &tracer {
            metrics.add(SpanMetrics(Arc::clone(tracer)));
        }
        let node = NodeIdentity { name: options.node_name.clone(), process, rates: ShardRates::default() };
        let counts = metrics.tunnel_counts();
        let shards = Shards::new(router, options.ask_timeout);
        let readiness = Arc::<Readiness>::default();
        Ok(App {
            tunnels: Arc::new(Tunnels::new(&options.tunnels, options.answer_bytes_max, counts)?),
            api: Api::new(shards.clone(), node, options.others.clone(), Arc::clone(&options.blocks))
                .with_inboxes(options.inboxes.clone()),
            keys: ApiKeys::new(options.api_keys.clone()),
            metrics,
            body_bytes_max: options.body_bytes_max,
            metrics_need_key: options.metrics_need_key,
            echo: options.echo,
            console: options.console,
            others: options.others.clone(),
            address_mask: options.address_mask,
            page: options.page_key.as_ref().map(|key| page::Page::new(key, api_addr.map(|addr| addr.port()))),
            events,
            drains: Arc::new(Drains::new(shards, Arc::clone(&readiness))),
            readiness,
            drain_defaults: Mutex::new(options.drain),
            reload: options.reload.clone().map(|reload| reload.0),
            taps: Taps::default(),
            objectives,
            tracer,
            event_kinds: Mutex::new(options.event_kinds),
        })
    }

    /// Whether the request shows a right key.
    pub fn admits(&self, parts: &request::Parts) -> bool {
        self.keys.admit(&parts.headers, &parts.uri)
    }

    /// Events of this kind go to the backend.
    pub fn tells(&self, kind: EventKind) -> bool {
        self.event_kinds.lock().contains(kind)
    }

    pub fn set_event_kinds(&self, kinds: EventKinds) {
        *self.event_kinds.lock() = kinds;
    }

    /// What a drain takes where its order does not say.
    pub fn drain_defaults(&self) -> DrainDefaults {
        *self.drain_defaults.lock()
    }

    pub fn set_drain_defaults(&self, defaults: DrainDefaults) {
        *self.drain_defaults.lock() = defaults;
    }

    /// Counts a call that is none of [`ApiMethod`](crate::control::api::ApiMethod)'s: by its status, or 0 when it was done.
    pub fn counted(&self, method: &'static str, response: Response) -> Response {
        let code = if response.status().is_success() { 0 } else { response.status().as_u16() };
        self.metrics.count_api(method, code);
        response
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The response to give instead to a caller without a right key.
pub fn without_key(app: &App, headers: &HeaderMap, uri: &Uri) -> Option<Response> {
    if app.keys.admit(headers, uri) {
        return None;
    }
    let mut response = problem(StatusCode::UNAUTHORIZED, "show the API key as X-API-Key");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("apikey"));
    Some(response)
}
