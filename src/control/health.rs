//! Whether the node lives, and whether it should get clients, for those who ask by HTTP.

use std::sync::Arc;

use ::http::{HeaderValue, StatusCode, header};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use crate::control::app::App;
use crate::control::readiness::NotReady;

/// `/health`, for those who balance load: 503 while the node ends or drains. Open connections are served on.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let leaves = app.readiness.has(NotReady::Ending) || app.readiness.has(NotReady::Draining);
    let status = if leaves { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    answer(status, "{}".into())
}

/// As [`health`], to load balancers that ask whether a server is up with OPTIONS: of a path, of `/`, or of `*`.
pub async fn health_options(state: State<Arc<App>>) -> Response {
    let response = health(state).await;
    if !response.status().is_success() {
        return response;
    }
    (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, OPTIONS"), (header::CACHE_CONTROL, "no-store")])
        .into_response()
}

/// `/health/live`: 503 when the process had better be started again.
pub async fn live(State(app): State<Arc<App>>) -> Response {
    match app.readiness.lives() {
        true => answer(StatusCode::OK, "{\"live\":true}".into()),
        false => {
            let reason = NotReady::Stuck.reason();
            answer(StatusCode::SERVICE_UNAVAILABLE, format!("{{\"live\":false,\"reason\":\"{reason}\"}}"))
        }
    }
}

/// `/health/ready`: 503 with the reason while the node should get no clients.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.readiness.why_not() {
        None => answer(StatusCode::OK, "{\"ready\":true}".into()),
        Some(reason) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, format!("{{\"ready\":false,\"reason\":\"{reason}\"}}"))
        }
    }
}

fn answer(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
