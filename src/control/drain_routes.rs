//! `/api/drain` and `/api/reconnect`: clients leave evenly over a time, all of them or some.

use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, StatusCode};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::json::object;
use crate::base::limits::DRAIN_MAX;
use crate::control::app::{App, without_key};
use crate::control::drain::RETRY;
use crate::control::readiness::NotReady;
use crate::control::responses::{busy, json, problem, read_body};
use crate::shard::control_request::{ControlRequest, Departure, Movers};

pub fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let drain = Router::new()
        .route("/api/drain", get(show).post(begin).delete(stop))
        .route_layer(map_response_with_state(Arc::clone(app), count_drain));
    let reconnect = Router::new()
        .route("/api/reconnect", post(reconnect))
        .route_layer(map_response_with_state(Arc::clone(app), count_reconnect));
    drain.merge(reconnect)
}

/// Whether something is posted to this path, which begins with `/api/`.
pub fn takes_body(path: &str) -> bool {
    matches!(path, "drain" | "reconnect")
}

async fn count_drain(State(app): State<Arc<App>>, response: Response) -> Response {
    app.counted("drain", response)
}

async fn count_reconnect(State(app): State<Arc<App>>, response: Response) -> Response {
    app.counted("reconnect", response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    over_ms: Option<u64>,
    delay_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReconnectBody {
    percent: Option<u64>,
    user: Option<String>,
    channel: Option<String>,
    over_ms: Option<u64>,
}

/// The body of a request that shows a right key. An empty one is `{}`.
async fn body_of(app: &App, request: Request<Body>) -> Result<Bytes, Response> {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(app, &parts.headers, &parts.uri) {
        return Err(response);
    }
    let body = read_body(body, app.body_bytes_max).await?;
    Ok(if body.is_empty() { Bytes::from_static(b"{}") } else { body })
}

/// What an order says, or the default.
///
/// # Errors
/// What is wrong with it.
fn time(name: &str, ms: Option<u64>, default: Duration) -> Result<Duration, String> {
    let time = ms.map_or(default, Duration::from_millis);
    match time <= DRAIN_MAX {
        true => Ok(time),
        false => Err(format!("{name} must be from 0 to {} (24 hours)", DRAIN_MAX.as_millis())),
    }
}

fn wrong(detail: String) -> Response {
    problem(StatusCode::BAD_REQUEST, &detail)
}

async fn show(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match without_key(&app, request.headers(), request.uri()) {
        Some(response) => response,
        None => json(StatusCode::OK, &app.drains.shown()),
    }
}

async fn begin(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match try_begin(&app, request).await {
        Ok(()) => json(StatusCode::OK, &app.drains.shown()),
        Err(response) => response,
    }
}

async fn try_begin(app: &Arc<App>, request: Request<Body>) -> Result<(), Response> {
    let body = body_of(app, request).await?;
    let body: DrainBody =
        object(&body).map_err(|error| problem(StatusCode::BAD_REQUEST, &error.to_string()))?;
    let over = time("over_ms", body.over_ms, app.drain_defaults().over).map_err(wrong)?;
    let delay = time("delay_ms", body.delay_ms, app.drain_defaults().delay).map_err(wrong)?;
    match app.drains.begin(&Handle::current(), delay, over) {
        true => Ok(()),
        false => {
            let detail = "this node drains already: GET shows how far it is, DELETE stops it";
            Err(problem(StatusCode::CONFLICT, detail))
        }
    }
}

async fn stop(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    if let Some(response) = without_key(&app, request.headers(), request.uri()) {
        return response;
    }
    if app.readiness.has(NotReady::Ending) {
        return problem(StatusCode::CONFLICT, "the node is about to end: its drain cannot be stopped");
    }
    match app.drains.stop().await {
        true => json(StatusCode::OK, &app.drains.shown()),
        false => problem(StatusCode::CONFLICT, "this node does not drain"),
    }
}

#[derive(Debug, Serialize)]
struct MovedClients {
    clients: u64,
}

async fn reconnect(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match try_reconnect(&app, request).await {
        Ok(clients) => json(StatusCode::OK, &MovedClients { clients }),
        Err(response) => response,
    }
}

async fn try_reconnect(app: &App, request: Request<Body>) -> Result<u64, Response> {
    let body = body_of(app, request).await?;
    let body: ReconnectBody = object(&body).map_err(|error| wrong(error.to_string()))?;
    let over = time("over_ms", body.over_ms, app.drain_defaults().over).map_err(wrong)?;
    let movers = match (body.percent, body.user, body.channel) {
        (Some(percent @ 1..=100), None, None) => Movers::Percent(percent as u8),
        (Some(_), None, None) => return Err(wrong("percent must be from 1 to 100".into())),
        (None, Some(user), None) if !user.is_empty() => Movers::User(user.as_str().into()),
        (None, None, Some(channel)) if !channel.is_empty() => Movers::Channel(channel.as_str().into()),
        _ => return Err(wrong("say whom: one of percent, user and channel, and only one".into())),
    };
    let departure = Departure::new(over);
    let shards = app.drains.shards.clone();
    let deadline = Instant::now() + shards.timeout();
    let mut sent = Vec::new();
    for shard in shards.router().every_shard() {
        let pending = loop {
            let order = |reply| ControlRequest::Reconnect(movers.clone(), departure.clone(), reply);
            match shards.send(shard, order) {
                Ok(pending) => break pending,
                Err(_) if sent.is_empty() => return Err(busy()),
                // A part is on its way: to call the whole busy would have it sent again.
                Err(_) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                Err(_) => {
                    return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "a shard did not take the order"));
                }
            }
        };
        sent.push(pending);
    }
    let mut clients = 0;
    for pending in sent {
        clients += pending.wait().await.map_err(|error_code| match error_code {
            ErrorCode::TooManyRequests => {
                problem(StatusCode::TOO_MANY_REQUESTS, "too many of these orders are under way")
            }
            _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "a shard did not answer in time"),
        })?;
    }
    Ok(clients)
}
