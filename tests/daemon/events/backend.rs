//! A backend that is told events: a real HTTP server, which can be killed and started again at the same address.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::runtime::Runtime;

use crate::process::DEADLINE;

pub const SECRET: &str = "what the backend and the daemon know";

/// What it does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Accept,
    /// Takes it and never answers.
    Swallow,
    Status(u16),
    /// Names another place.
    Redirect,
}

/// A batch as it came.
#[derive(Clone, Debug)]
pub struct Batch {
    pub manner: Manner,
    pub key: String,
    pub text: String,
    pub events: Vec<Value>,
}

pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    state: Mutex<(Manner, Vec<Batch>)>,
    changed: Condvar,
}

impl Backend {
    pub fn start() -> Backend {
        let state = Mutex::new((Manner::Accept, Vec::new()));
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let mut backend = Backend { address: ([127, 0, 0, 1], 0).into(), shared, runtime: None };
        backend.restart();
        backend
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Cuts every connection off, answered or not.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Serves again, with all that it knew.
    pub fn restart(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind(self.address)).expect("its address");
        self.address = listener.local_addr().expect("an address");
        let app = Router::new()
            .route("/events", post(take))
            .route("/elsewhere", post(followed))
            .with_state(Arc::clone(&self.shared));
        runtime.spawn(async move { axum::serve(listener, app).await });
        self.runtime = Some(runtime);
    }

    pub fn set(&self, manner: Manner) {
        self.shared.state.lock().expect("no test panics inside").0 = manner;
    }

    /// Waits until what has come satisfies `find`.
    pub fn wait_for<T>(&self, wanted: &str, find: impl Fn(&[Batch]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut state = self.shared.state.lock().expect("no test panics inside");
        loop {
            if let Some(found) = find(&state.1) {
                return found;
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                let last = state.1.last().map(|batch| &batch.text);
                panic!("{wanted} did not come; {} batches, the last one {last:?}", state.1.len());
            };
            state = self.shared.changed.wait_timeout(state, left).expect("no test panics inside").0;
        }
    }

    pub fn batches(&self) -> Vec<Batch> {
        self.shared.state.lock().expect("no test panics inside").1.clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if field("content-type") != "application/json" || !verify(field("x-trunkline-signature"), &body) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    let manner = {
        let mut state = shared.state.lock().expect("no test panics inside");
        let manner = state.0;
        state.1.push(Batch {
            manner,
            key: field("idempotency-key").to_string(),
            text: String::from_utf8(body.to_vec()).expect("UTF-8"),
            events: json["events"].as_array().expect("events").clone(),
        });
        shared.changed.notify_all();
        manner
    };
    match manner {
        Manner::Accept => StatusCode::NO_CONTENT.into_response(),
        Manner::Swallow => std::future::pending().await,
        Manner::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Manner::Redirect => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/elsewhere")]).into_response()
        }
    }
}

/// A redirect was followed, which nobody should: it shows as a batch of its own.
async fn followed(State(shared): State<Arc<Shared>>) {
    let batch = Batch {
        manner: Manner::Redirect,
        key: "followed".into(),
        text: String::new(),
        events: vec![Value::Null],
    };
    shared.state.lock().expect("no test panics inside").1.push(batch);
}

/// As the documentation says it to authors of backends.
fn verify(signature: &str, body: &[u8]) -> bool {
    let part = |name: &str| {
        signature.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let (time, signed) = (part("t"), part("v1"));
    let fresh = time.parse().is_ok_and(|time: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        now.as_secs().abs_diff(time) < 300
    });
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    let signed: Option<Vec<u8>> =
        (0..signed.len()).step_by(2).map(|at| u8::from_str_radix(signed.get(at..at + 2)?, 16).ok()).collect();
    fresh && signed.is_some_and(|signed| mac.verify_slice(&signed).is_ok())
}
