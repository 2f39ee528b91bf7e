//! The control plane: everything that answers ordinary HTTP. The server API, health, metrics, the console, the page of
//! development mode.
//!
//! Inputs: HTTP requests, from client ports by way of [`ControlPlane`] and from a listener of its own. Outputs: asks
//! to shards through their bounded inboxes, and HTTP responses. Must not know: sockets of clients, sessions, the
//! inside of the hub. It runs on tokio; nothing below it does.
//!
//! ```text
//!  shard ──Request<Bytes>──▶ ClientPort ─┬─ a publication ─▶ publish_here, on the shard's thread ─▶ inbox of a shard
//!                                        ├─▶ http::app ──▶ api ──▶ asks ──▶ Router ──▶ inbox of a shard
//!  the API's own ports ─▶ listener ────────┘                           ◀── oneshot, with a deadline ──┘
//! ```

mod answers;
mod api;
mod app;
mod arriving;
mod auth;
mod blocking;
pub mod blocks_kept;
mod centrifugo_names;
mod certificate;
mod channels;
mod compress;
mod console;
mod cursors;
mod deliver;
mod drain;
mod drain_routes;
pub mod events;
mod glob;
mod handover;
mod health;
pub mod hooks;
mod http;
pub mod jwks;
pub mod keeper;
mod legacy;
mod lines;
mod listener;
pub mod live;
mod metrics;
mod objectives;
mod objectives_met;
mod openapi;
mod options;
mod other_nodes;
pub mod outbound;
mod page;
mod presences;
mod process;
mod publish_here;
pub use process::random_id;
mod pushes;
mod rates;
mod readiness;
pub mod reload;
mod reload_routes;
mod requests;
mod responses;
mod seeing;
#[cfg(test)]
mod shelf;
mod tap;
mod taps;
pub mod traces;
mod tunnel;
mod wire;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use axum::body::Body;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::base::address::{ListenAddress, Serves};
use crate::base::bytes::Bytes;
use crate::base::event::Event;
use crate::control::app::App;
use crate::control::arriving::ArrivingApi;
use crate::control::blocks_kept::BlocksKept;
use crate::control::compress::Compressor;
use crate::control::deliver::deliver;
use crate::control::events::EventsPlace;
use crate::control::hooks::Hooks;
use crate::control::http::answer;
use crate::control::listener::{ApiPort, Gate};
use crate::control::live::Live;
use crate::control::publish_here::{PublicationHere, PublishHere};
use crate::control::tunnel::Tunnels;
use crate::session::hook_call::{HookCall, Waiting};
use crate::session::tunnel::TunnelCall;
use crate::shard::control_request::trace::{TracedConnect, TracedStage};
use crate::shard::control_request::{BackendReply, Busy, ControlPlane, HttpReply, TunnelReply};
use crate::shard::router::Router;
use crate::telemetry::sparing::log_peer_once_a_minute;

pub use crate::control::arriving::EventsHeld;
pub use crate::control::drain::DrainDefaults;
pub use crate::control::listener::ApiSocket;
pub use crate::control::metrics::encode_histogram;
pub use crate::control::options::{ControlOptions, OtherNodes, ReloadBox};
pub use crate::control::readiness::{NotReady, Readiness};

/// Threads of the runtime. What is done here waits for shards more than it computes; two keep one long answer from
/// holding up the rest.
const WORKER_THREADS: usize = 2;

/// The running control plane. Stopped by [`Control::stop`]; dropped, it ends at once.
pub struct Control {
    state: Arc<App>,
    live: Arc<Live>,
    client_port: Arc<ClientPort>,
    api_port: Option<Arc<ApiPort>>,
    api_addrs: Vec<ListenAddress>,
    stopping: watch::Sender<bool>,
    gate: watch::Sender<Gate>,
    arriving: ArrivingApi,
    blocks_kept: Option<BlocksKept>,
    runtime: Option<Runtime>,
}

/// Starts the control plane on threads of its own.
///
/// # Errors
/// When a listener of the API cannot be served, the operating system gives no randomness, or no thread can be started.
pub fn start(options: ControlOptions, router: Router, sockets: Vec<ApiSocket>) -> io::Result<Control> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let (stopping, stopped) = watch::channel(false);
    let (gate, held) = watch::channel(if options.held { Gate::Held } else { Gate::Open });
    let api_addrs: Vec<ListenAddress> = sockets.iter().map(|socket| socket.address().clone()).collect();
    let api_addr = api_addrs.iter().find_map(ListenAddress::tcp);
    let events = EventsPlace::new(options.events_kept.clone());
    if let Some(options) = &options.events {
        let _inside = runtime.enter();
        events.start(options)?;
    }
    let hooks = Arc::new(Hooks::new(&options.hooks)?);
    let state = {
        // A tracer sends from within it.
        let _inside = runtime.enter();
        Arc::new(App::new(&options, router, api_addr, &hooks, events.clone())?)
    };
    objectives::watch(runtime.handle(), &state, &options.objectives, options.others.as_ref());
    let live = Live::new(Arc::clone(&state), Arc::clone(&hooks), runtime.handle().clone(), &options.issuers);
    let app = |port| http::app(Arc::clone(&state), port);
    let api_port = match sockets.is_empty() {
        true => None,
        false => {
            let port =
                ApiPort::new(app(http::ServedPort::Api), Arc::clone(&state), options.api_port, stopped, held);
            let _inside = runtime.enter();
            for socket in sockets {
                port.serve(socket)?;
            }
            Some(port)
        }
    };
    runtime.spawn(blocks_kept::look_after(Arc::clone(&options.blocks), options.blocks_kept.clone()));
    let client_port = Arc::new(ClientPort {
        tunnels: Arc::clone(&state.tunnels),
        compressor: Compressor::start(runtime.handle().clone())?,
        shared: app(http::ServedPort::Shared),
        clients_only: app(http::ServedPort::ClientsOnly),
        api_only: app(http::ServedPort::Api),
        publish_here: PublishHere::start(Arc::clone(&state), runtime.handle().clone()),
        state: Arc::clone(&state),
        handle: runtime.handle().clone(),
        permits: Arc::new(Semaphore::new(options.requests_max as usize)),
        requests_max: options.requests_max,
        events,
        hooks,
    });
    let live = Arc::new(live);
    let arriving = ArrivingApi::new(options.events);
    let control = Control {
        state,
        live,
        client_port,
        api_port,
        api_addrs,
        stopping,
        gate,
        arriving,
        blocks_kept: options.blocks_kept,
        runtime: Some(runtime),
    };
    if options.held {
        control.start_held();
    }
    Ok(control)
}

impl Control {
    /// What shards hand the requests of client ports to.
    pub fn plane(&self) -> Arc<dyn ControlPlane> {
        Arc::clone(&self.client_port) as Arc<dyn ControlPlane>
    }

    /// Where the API's own listeners are bound: with port 0 asked for, the port that was given.
    pub fn api_addrs(&self) -> &[ListenAddress] {
        &self.api_addrs
    }

    /// What another configuration changes.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What keeps the node from getting clients.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.state.readiness
    }

    /// Clients are closed over that time, and no others let in: the node is about to end.
    pub fn drain(&self, over: Duration) {
        if let Some(runtime) = &self.runtime {
            self.state.drains.begin_end(runtime.handle(), over);
        }
    }

    /// Every client that was to leave has.
    pub fn is_drained(&self) -> bool {
        self.state.drains.is_done()
    }

    /// Takes no more connections and gives requests under way `grace` to end. Call it while shards still answer.
    pub fn quiet(&self, grace: Duration) {
        let _ = self.stopping.send(true);
        let Some(runtime) = &self.runtime else { return };
        let client_port = Arc::clone(&self.client_port);
        runtime.block_on(async {
            // Every permit is back when nothing is under way; while this waits, new requests are refused as busy.
            let all = async {
                let _ = client_port.permits.acquire_many(client_port.requests_max).await;
                if let Some(port) = &self.api_port {
                    port.finished().await;
                }
            };
            if tokio::time::timeout(grace, all).await.is_err() {
                tracing::warn!("requests were still under way when the control plane stopped");
            }
            client_port.permits.close();
        });
    }

    /// Ends the control plane when backends have accepted every event and what clients of tunnels said, or after `grace`.
    /// Call it when shards have ended: what they tell last is sent as well.
    pub fn stop(mut self, grace: Duration) {
        let Some(runtime) = self.runtime.take() else { return };
        let deadline = tokio::time::Instant::now() + grace;
        runtime.block_on(self.client_port.tunnels.finish(deadline));
        if let Some(events) = self.client_port.events.get()
            && runtime.block_on(async { tokio::time::timeout(grace, events.drained()).await }).is_err()
        {
            tracing::warn!("the backend has not accepted the last {} events", events.unaccepted());
        }
        if let Some(events) = self.client_port.events.get() {
            events.finish();
        }
        if let Some(kept) = &self.blocks_kept {
            kept.give(self.state.api.blocks());
        }
        runtime.shutdown_timeout(Duration::from_millis(100));
    }
}

/// What is served where the request came in.
fn port_of(extensions: &::http::Extensions) -> http::ServedPort {
    match extensions.get::<Serves>().copied().unwrap_or_default() {
        Serves::Both => http::ServedPort::Shared,
        Serves::Clients => http::ServedPort::ClientsOnly,
        Serves::Api => http::ServedPort::Api,
    }
}

/// The requests of client ports: bounded in number, answered through the same app as the API's own listener.
struct ClientPort {
    shared: axum::Router,
    clients_only: axum::Router,
    api_only: axum::Router,
    state: Arc<App>,
    publish_here: Arc<PublishHere>,
    compressor: Compressor,
    tunnels: Arc<Tunnels>,
    handle: tokio::runtime::Handle,
    permits: Arc<Semaphore>,
    requests_max: u32,
    events: EventsPlace,
    hooks: Arc<Hooks>,
}

impl ControlPlane for ClientPort {
    fn tell_backend(&self, event: Event) -> Result<(), Busy> {
        self.events.get().map_or(Ok(()), |events| events.tell(event))
    }

    fn tell(&self, cause: &'static str, what: &'static str, address: Option<IpAddr>) {
        log_peer_once_a_minute(cause, what, || self.state.address_mask.address(address?));
    }

    fn handle(&self, request: Request<Bytes>, mut reply: HttpReply) -> Result<(), Busy> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Busy)?;
        let port = port_of(request.extensions());
        if let Some(publication) = PublicationHere::of(&self.state, port, &request) {
            self.publish_here.pass_on(publication, reply, permit);
            return Ok(());
        }
        let app = match port {
            http::ServedPort::Shared => &self.shared,
            http::ServedPort::ClientsOnly => &self.clients_only,
            http::ServedPort::Api => &self.api_only,
        }
        .clone();
        self.handle.spawn(async move {
            let response = answer(app, request.map(Body::from)).await;
            // First the permit: who has the answer may ask again at once.
            drop(permit);
            let mut response = Some(response);
            deliver(move || {
                reply.send(&mut response);
                response.is_none()
            })
            .await;
        });
        Ok(())
    }

    fn wants_body(&self, head: &::http::request::Parts) -> bool {
        http::reads_body(&self.state, port_of(&head.extensions), head)
    }

    fn compress(&self, response: &mut Option<Response<Bytes>>, reply: HttpReply) -> Result<(), Busy> {
        self.compressor.take(response, reply)
    }

    fn ask_backend(&self, hook_call: HookCall, reply: BackendReply) -> Result<Waiting, Busy> {
        self.hooks.ask(&self.handle, hook_call, self.state.tracer.as_ref(), reply)
    }

    fn traced(&self, stages: &[TracedStage]) {
        if let Some(tracer) = &self.state.tracer {
            tracer.reached(stages);
        }
    }

    fn trace_connected(&self, connect: TracedConnect) {
        if let Some(tracer) = &self.state.tracer {
            tracer.connected(&connect);
        }
    }

    fn ask_tunnel(&self, hook_call: TunnelCall, reply: TunnelReply) -> Result<Waiting, Busy> {
        self.tunnels.ask(&self.handle, hook_call, reply)
    }
}
