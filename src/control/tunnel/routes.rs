//! What a backend may call: to speak to a connection, to end it, to ask how it stands, to make a ticket.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::{HeaderValue, Request, StatusCode, header};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::ids::{ClientId, UserName};
use crate::base::json::object;
use crate::base::limits::WS_CLOSE_REASON_BYTES_MAX;
use crate::control::app::{App, without_key};
use crate::control::requests::ControlError;
use crate::control::responses::{busy, json, problem, read_body};
use crate::control::tunnel::tickets::{DATA_BYTES_MAX, Unissued};
use crate::control::tunnel::{USER_BYTES_MAX, is_user, payload};
use crate::shard::control_request::{ControlRequest, TunnelCommand, TunnelStanding, TunnelTold};

/// How long a ticket may be shown, in seconds, when the backend does not say.
const TICKET_TTL_S: u64 = 60;
/// Longest that a backend may say. A ticket is for a client that is about to connect.
const TICKET_TTL_S_MAX: u64 = 3600;

pub fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let connections = Router::new()
        .route("/api/connections/{id}", post(send).get(describe).delete(close))
        .route_layer(map_response_with_state(Arc::clone(app), count_connections));
    let tickets = Router::new()
        .route("/api/tunnel/{name}/tickets", post(issue))
        .route_layer(map_response_with_state(Arc::clone(app), count_tickets));
    connections.merge(tickets)
}

/// Whether something is posted to this path, which begins with `/api/`.
pub fn takes_body(path: &str) -> bool {
    path.starts_with("connections/") || path.starts_with("tunnel/")
}

async fn count_connections(State(app): State<Arc<App>>, response: Response) -> Response {
    app.counted("connections", response)
}

async fn count_tickets(State(app): State<Arc<App>>, response: Response) -> Response {
    app.counted("tickets", response)
}

/// The body becomes a message to the client.
async fn send(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(&app, &parts.headers, &parts.uri) {
        return response;
    }
    let kind = parts.headers.get(header::CONTENT_TYPE);
    // What HTTP clients say when nobody told them what the body is: it would arrive as binary, which nobody means.
    if kind.is_none_or(|kind| {
        kind.as_bytes().to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded")
    }) {
        return problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "say with Content-Type what the message is: text/plain or application/json for a text message, \
             application/octet-stream for a binary one",
        );
    }
    let bytes_max = app.body_bytes_max.min(app.tunnels.answer_bytes_max);
    let body = match read_body(body, bytes_max).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let Some(payload) = payload(kind, body) else {
        return problem(StatusCode::BAD_REQUEST, "the body calls itself text and is not UTF-8");
    };
    command(&app, &id, TunnelCommand::Send(payload)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseQuery {
    code: Option<u16>,
    reason: Option<String>,
    /// Read by the check of keys.
    #[serde(rename = "api_key")]
    _api_key: Option<String>,
}

async fn close(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request<Body>) -> Response {
    if let Some(response) = without_key(&app, request.headers(), request.uri()) {
        return response;
    }
    let query = match Query::<CloseQuery>::try_from_uri(request.uri()) {
        Ok(Query(query)) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let (code, reason) = (query.code.unwrap_or(1000), query.reason.unwrap_or_default());
    // Those that say something about the endpoint and are not the protocol's own business (RFC 6455 section 7.4.1).
    if !matches!(code, 1000 | 1001 | 1003 | 1008 | 1011..=1014 | 3000..=4999) {
        let detail = "code must be 1000, 1001, 1003, 1008, 1011 to 1014, or from 3000 to 4999";
        return problem(StatusCode::BAD_REQUEST, detail);
    }
    if reason.len() > WS_CLOSE_REASON_BYTES_MAX {
        return problem(StatusCode::BAD_REQUEST, "reason may have 123 bytes");
    }
    command(&app, &id, TunnelCommand::Close { code, reason: reason.into() }).await
}

async fn describe(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request<Body>) -> Response {
    if let Some(response) = without_key(&app, request.headers(), request.uri()) {
        return response;
    }
    command(&app, &id, TunnelCommand::Describe).await
}

async fn command(app: &App, id: &str, command: TunnelCommand) -> Response {
    let Ok(client) = id.parse::<ClientId>() else {
        return problem(StatusCode::BAD_REQUEST, "this is no id of a connection");
    };
    let shards = app.api.shards();
    let told = match shards.router().connection(client) {
        Some(conn) => {
            shards
                .ask(shards.router().peer_shard(conn), |reply| ControlRequest::Tunnel(conn, command, reply))
                .await
        }
        // Another node's, or of an earlier run: gone as well.
        None => Ok(TunnelTold::Gone),
    };
    match told {
        Ok(TunnelTold::Done) => StatusCode::NO_CONTENT.into_response(),
        Ok(TunnelTold::Standing(standing)) => json(StatusCode::OK, &described(app, id, &standing)),
        Ok(TunnelTold::Gone) => problem(StatusCode::GONE, "the connection has ended"),
        Ok(TunnelTold::NotATunnel) => {
            problem(StatusCode::NOT_FOUND, "the connection is a client's that is in no tunnel")
        }
        Ok(TunnelTold::Slow { owed_bytes }) => {
            let detail = format!(
                "the client does not read: {owed_bytes} bytes wait for it (client.outbox_bytes_max). Nothing was sent"
            );
            let mut response = problem(StatusCode::TOO_MANY_REQUESTS, &detail);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Err(ControlError::Busy) => busy(),
        Err(ControlError::Refused(_) | ControlError::Invalid(_)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the shard did not answer in time")
        }
    }
}

#[derive(Serialize)]
struct TunnelStandingAnswer<'s> {
    connection: &'s str,
    tunnel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    connected_at: u64,
    messages: u64,
    messages_waiting: usize,
    bytes_waiting: usize,
    bytes_owed: usize,
}

fn described<'s>(app: &App, id: &'s str, standing: &'s TunnelStanding) -> TunnelStandingAnswer<'s> {
    TunnelStandingAnswer {
        connection: id,
        tunnel: app.tunnels.backend(standing.tunnel).name.clone(),
        user: standing.user.as_deref(),
        address: standing.address.and_then(|address| app.address_mask.address(address)),
        connected_at: standing.opened_at_s,
        messages: standing.messages,
        messages_waiting: standing.messages_waiting,
        bytes_waiting: standing.bytes_waiting,
        bytes_owed: standing.owed_bytes,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketBody {
    user: String,
    ttl_s: Option<u64>,
    data: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct IssuedTicket<'i> {
    ticket: &'i str,
    url: String,
    /// Unix seconds.
    expires_at: u64,
}

async fn issue(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(&app, &parts.headers, &parts.uri) {
        return response;
    }
    let Some(place) = app.tunnels.place(&name) else {
        return problem(StatusCode::NOT_FOUND, "there is no tunnel of this name");
    };
    let body = match read_body(body, app.body_bytes_max).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let TicketBody { user, ttl_s, data } = match object(&body) {
        Ok(read) => read,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if !is_user(&user) {
        let detail = format!("user must have 1 to {USER_BYTES_MAX} bytes without control characters");
        return problem(StatusCode::BAD_REQUEST, &detail);
    }
    let ttl_s = ttl_s.unwrap_or(TICKET_TTL_S);
    if !(1..=TICKET_TTL_S_MAX).contains(&ttl_s) {
        return problem(StatusCode::BAD_REQUEST, "ttl_s must be from 1 to 3600 seconds");
    }
    if data.as_ref().is_some_and(|data| data.get().len() > DATA_BYTES_MAX) {
        return problem(StatusCode::BAD_REQUEST, &format!("data may have {DATA_BYTES_MAX} bytes"));
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match app.tunnels.tickets.issue(place, UserName::from(user), data, Duration::from_secs(ttl_s)) {
        Ok(ticket) => {
            let url = format!("/tunnel/{name}?ticket={ticket}");
            let mut response =
                json(StatusCode::OK, &IssuedTicket { ticket: &ticket, url, expires_at: now_s + ttl_s });
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(Unissued::Full) => {
            app.tunnels.counts.count("ticket", "full");
            let mut response =
                problem(StatusCode::SERVICE_UNAVAILABLE, "too many tickets are outstanding: try again later");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
        Err(Unissued::NoRandomness(error)) => {
            tracing::error!(%error, "no ticket could be made");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "no randomness for a ticket")
        }
    }
}
