//! The HTTP surface: paths, authentication, bodies, statuses.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Request, StatusCode, header, request};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::limits::ECHO_MESSAGE_BYTES_MAX;
use crate::control::answers::{ApiAnswer, ErrorBody, Response as ApiResponse};
use crate::control::api::{ApiMethod, ApiRequest, respond};
use crate::control::app::{App, without_key};
use crate::control::console;
use crate::control::drain_routes;
use crate::control::health::{health, health_options, live, ready};
use crate::control::legacy::legacy;
use crate::control::metrics;
use crate::control::openapi::openapi;
use crate::control::reload_routes;
use crate::control::requests::ControlError;
use crate::control::responses::{
    busy, json, outcome_code, problem, read_body, stored_nothing, unavailable, whole,
};
use crate::control::seeing;
use crate::control::tap;
use crate::control::tunnel;

/// Most events of one answer; few pages reach it, for they end by bytes as well.
const EVENTS_LIMIT_MAX: usize = 10_000;

/// Which port an app serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedPort {
    /// Clients and the API.
    Shared,
    /// Clients; the API has a listener of its own.
    ClientsOnly,
    /// The API's own listener.
    Api,
}

/// The paths of one port.
pub fn app(app: Arc<App>, port: ServedPort) -> Router {
    let mut routes = Router::new()
        .route("/health", get(health).options(health_options))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready));
    if port != ServedPort::ClientsOnly {
        let metrics = if port == ServedPort::Shared && app.metrics_need_key {
            get(metrics_with_key)
        } else {
            get(metrics_for_all)
        };
        routes = routes.route("/api/{method}", post(api)).route("/metrics", metrics);
        // With what it is behind, as callers write it either way.
        routes = routes.route("/api", post(legacy)).route("/api/", post(legacy));
        routes = routes.route("/api/openapi.json", get(openapi).post(not_found));
        routes = routes
            .merge(tunnel::routes::routes(&app))
            .merge(drain_routes::routes(&app))
            .merge(reload_routes::routes())
            .merge(seeing::routes(&app))
            .merge(tap::routes());
        routes = routes.route("/api/events", get(events).post(not_found));
    }
    // Where strangers are is no place to ask for the key.
    if app.console && (port == ServedPort::Api || port == ServedPort::Shared && app.page.is_some()) {
        routes = routes.merge(console::routes());
    }
    if port != ServedPort::Api {
        if app.echo {
            routes = routes.route("/echo", get(echo).post(echo));
        }
        if app.page.is_some() {
            routes = routes.route("/", get(index).options(health_options));
        }
    }
    routes.fallback(fallback).method_not_allowed_fallback(wrong_method).with_state(app)
}

/// Whether a request's body is read before it is answered: it shows a key and is for something that takes a body. All
/// others are answered by their head alone.
pub fn reads_body(app: &App, port: ServedPort, head: &request::Parts) -> bool {
    let path = head.uri.path();
    match path.strip_prefix("/api/").or_else(|| (path == "/api").then_some("")) {
        Some(name) => {
            port != ServedPort::ClientsOnly
                && head.method == ::http::Method::POST
                && (name.is_empty()
                    || ApiMethod::from_name(name).is_some()
                    || tunnel::routes::takes_body(name)
                    || drain_routes::takes_body(name)
                    || seeing::takes_body(name))
                && app.keys.admit(&head.headers, &head.uri)
        }
        None => app.echo && port != ServedPort::Api && head.uri.path() == "/echo",
    }
}

async fn api(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request<Body>) -> Response {
    match admitted(&app, &name, request).await {
        Ok((method, parts, body)) => call(&app, method, &parts, body).await,
        Err(response) => {
            // A call that came to no method is counted by its status.
            let method = ApiMethod::from_name(&name).map_or("unknown", ApiMethod::name);
            app.metrics.count_api(method, response.status().as_u16());
            response
        }
    }
}

/// A call that may be made: the right key, a method that exists, a body within its bound.
async fn admitted(
    app: &App,
    name: &str,
    request: Request<Body>,
) -> Result<(ApiMethod, request::Parts, Bytes), Response> {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(app, &parts.headers, &parts.uri) {
        return Err(response);
    }
    let method = ApiMethod::from_name(name)
        .ok_or_else(|| problem(StatusCode::NOT_FOUND, "the API has no such method"))?;
    let body = read_body(body, app.body_bytes_max).await?;
    Ok((method, parts, body))
}

async fn call(app: &App, method: ApiMethod, parts: &request::Parts, body: Bytes) -> Response {
    // A call without parameters may come without a body.
    let body = match method {
        ApiMethod::Info | ApiMethod::Channels if body.is_empty() => Bytes::from_static(b"{}"),
        _ => body,
    };
    let request = match ApiRequest::read(method, &body) {
        Ok(request) => request,
        Err(error) => {
            app.metrics.count_api(method.name(), StatusCode::BAD_REQUEST.as_u16());
            return problem(StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    drop(body);
    match request {
        ApiRequest::One(command) => {
            let outcome = match &app.tracer {
                Some(tracer) => {
                    tracer.request(method.name(), &parts.headers, app.api.execute(*command)).await
                }
                None => app.api.execute(*command).await,
            };
            app.metrics.count_api(method.name(), outcome_code(&outcome));
            reply(outcome, transport_errors(&parts.headers))
        }
        ApiRequest::Batch { commands, parallel } => match app.api.batch(commands, parallel).await {
            Ok(outcomes) => {
                for (name, outcome) in &outcomes {
                    app.metrics.count_api(name, outcome_code(outcome));
                }
                let nothing_done = !outcomes.is_empty()
                    && outcomes.iter().all(|(_, outcome)| matches!(outcome, Err(ControlError::Busy)));
                if nothing_done {
                    return busy();
                }
                let replies = outcomes.into_iter().map(|(name, outcome)| BatchReply { name, outcome });
                json(StatusCode::OK, &BatchReplies { replies: replies.collect() })
            }
            Err(error) => reply(Err(error), transport_errors(&parts.headers)),
        },
    }
}

/// `{"publish": {…}}` or `{"error": {…}}`.
struct BatchReply {
    name: &'static str,
    outcome: Result<ApiAnswer, ControlError>,
}

impl Serialize for BatchReply {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.outcome {
            Ok(answer) => serializer.collect_map([(self.name, answer)]),
            Err(error) => serializer.collect_map([("error", error_body(*error))]),
        }
    }
}

#[derive(Serialize)]
struct BatchReplies {
    replies: Vec<BatchReply>,
}

pub(super) fn reply(outcome: Result<ApiAnswer, ControlError>, transport_errors: bool) -> Response {
    let status = match outcome {
        Err(ControlError::Busy) => return busy(),
        Err(ControlError::Refused(error_code)) if error_code.is_of_store() => {
            return stored_nothing(error_code);
        }
        Err(ControlError::Refused(ErrorCode::Unavailable)) => return unavailable(),
        Err(ControlError::Refused(error_code)) if transport_errors => status_of(error_code),
        Err(ControlError::Invalid(_)) if transport_errors => status_of(ErrorCode::BadRequest),
        _ => StatusCode::OK,
    };
    json(status, &respond(outcome))
}

fn error_body(error: ControlError) -> ErrorBody {
    match respond(Err(error)) {
        ApiResponse::Error(body) => body,
        ApiResponse::Result(_) => ErrorCode::Internal.into(),
    }
}

/// The caller wants errors as HTTP statuses.
pub(super) fn transport_errors(headers: &HeaderMap) -> bool {
    headers.get("x-centrifugo-error-mode").is_some_and(|mode| mode == "transport")
}

/// Statuses of transport error mode, as Centrifugo's server API documents them.
fn status_of(error_code: ErrorCode) -> StatusCode {
    match error_code {
        ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => StatusCode::NOT_FOUND,
        ErrorCode::BadRequest | ErrorCode::NotAvailable => StatusCode::BAD_REQUEST,
        ErrorCode::UnrecoverablePosition => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What the backend asks of the log of events.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    /// The last number it knows.
    #[serde(default)]
    after: u64,
    /// Most events of the answer.
    #[serde(default = "EventsQuery::limit")]
    limit: usize,
    /// Whose number `after` is; without, it is taken for this run's.
    epoch: Option<String>,
    /// As [`App::admits`] reads it.
    #[serde(rename = "api_key")]
    _api_key: Option<String>,
}

impl EventsQuery {
    fn limit() -> usize {
        500
    }
}

/// `GET /api/events?after=N&limit=M&epoch=E`
async fn events(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let response = read_events(&app, &request);
    let code = if response.status().is_success() { 0 } else { response.status().as_u16() };
    app.metrics.count_api("events", code);
    response
}

fn read_events(app: &App, request: &Request<Body>) -> Response {
    if let Some(response) = without_key(app, request.headers(), request.uri()) {
        return response;
    }
    let Some(events) = app.events.get() else {
        return problem(StatusCode::NOT_FOUND, "no events are told: events.types is empty");
    };
    let query = match Query::<EventsQuery>::try_from_uri(request.uri()) {
        Ok(Query(query)) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    if !(1..=EVENTS_LIMIT_MAX).contains(&query.limit) {
        return problem(StatusCode::BAD_REQUEST, &format!("limit must be from 1 to {EVENTS_LIMIT_MAX}"));
    }
    // Numbers of another run say nothing about this one.
    let reset = query.epoch.is_some_and(|epoch| epoch != events.epoch());
    let page = events.page(if reset { 0 } else { query.after }, query.limit);
    let mut body = format!(
        "{{\"epoch\":\"{}\",\"first\":{},\"last\":{},\"reset\":{reset},\"events\":[",
        events.epoch(),
        page.first,
        page.last,
    )
    .into_bytes();
    body.extend_from_slice(&page.events);
    body.extend_from_slice(b"]}");
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

async fn metrics_with_key(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    if app.keys.admit(request.headers(), request.uri()) {
        return metrics_for_all(State(app), request).await;
    }
    problem(
        StatusCode::UNAUTHORIZED,
        "metrics on a port of clients need the API key: set api_listen, or a [[listener]] that serves the API, to serve them apart",
    )
}

async fn metrics_for_all(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let accepts = request.headers().get_all(header::ACCEPT).iter();
    let wants_openmetrics = accepts.filter_map(|value| value.to_str().ok()).any(wants_openmetrics);
    drop(request);
    let stats = match app.api.stats().await {
        Ok(stats) => stats,
        Err(ControlError::Busy) => return busy(),
        Err(ControlError::Refused(_) | ControlError::Invalid(_)) => {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "a shard did not answer in time");
        }
    };
    match app.metrics.scrape(stats) {
        Ok(text) if wants_openmetrics => {
            ([(header::CONTENT_TYPE, metrics::OPENMETRICS)], text).into_response()
        }
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CLASSIC)], metrics::classic(&text)).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written"),
    }
}

/// Whether a value of `Accept` names OpenMetrics and does not refuse it.
fn wants_openmetrics(accept: &str) -> bool {
    accept.split(',').map(|range| range.split(';').map(str::trim)).any(|mut range| {
        let refused = |parameter: &str| {
            parameter.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
        };
        range.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
            && !range.any(refused)
    })
}

/// For measuring: the request's body comes back.
async fn echo(request: Request<Body>) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = match read_body(request.into_body(), ECHO_MESSAGE_BYTES_MAX).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    // Never a type that a browser would run: the body is a stranger's.
    let kind = kind
        .filter(|kind| matches!(kind.as_bytes(), b"application/json" | b"text/plain"))
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn index(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match &app.page {
        Some(page) => page.serve(headers.get(header::HOST)),
        None => not_found().await,
    }
}

async fn fallback(state: State<Arc<App>>, request: Request<Body>) -> Response {
    if request.method() == ::http::Method::OPTIONS && matches!(request.uri().path(), "/" | "*") {
        return health_options(state).await;
    }
    not_found().await
}

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "nothing is served at this path")
}

async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this path is served for other methods")
}

/// The app's response to one request, in one piece.
pub async fn answer(app: Router, request: Request<Body>) -> Response<Bytes> {
    let head_only = request.method() == ::http::Method::HEAD;
    let Ok(response) = app.oneshot(request).await;
    whole(response).map(|body| if head_only { Bytes::new() } else { body })
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
