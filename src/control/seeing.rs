//! What an operator asks: which connections there are, how others ended, what is busiest, how the node is.
//!
//! Shards are looked through in steps that are short for them; an answer that would take too many is a part, with a cursor.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::{HeaderValue, Request, StatusCode, header, request};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::address_mask::AddressMask;
use crate::base::bytes::Bytes;
use crate::base::histogram::{BOUNDS_US, Histogram};
use crate::base::ids::{ClientId, ConnId, ShardId};
use crate::base::json::object;
use crate::base::trusted::Trusted;
use crate::control::answers::NodeAnswer;
use crate::control::app::{App, without_key};
use crate::control::options::OtherNodes;
use crate::control::process;
use crate::control::readiness::NotReady;
use crate::control::requests::{ControlError, Shards};
use crate::control::responses::{busy, json, problem, read_body};
use crate::shard::control_request::seen::{
    Busiest, ClosedQuery, ConnectionSeen, ConnectionsQuery, End, EndPlace, Stage, kept,
};
use crate::shard::control_request::{ControlRequest, ShardStats};

/// Entries of a page when the caller does not say.
const PAGE: usize = 100;
/// Most of them.
const PAGE_MAX: usize = 1000;
/// Names of `busiest`.
const BUSIEST: usize = 20;

pub fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/api/closed", get(closed))
        .route("/api/connections", post(connections))
        .route("/api/busiest", get(busiest))
        .route("/api/status", get(status))
        .route_layer(map_response_with_state(Arc::clone(app), count))
}

/// Whether something is posted to this path, which begins with `/api/`.
pub fn takes_body(path: &str) -> bool {
    path == "connections"
}

async fn count(State(app): State<Arc<App>>, response: Response) -> Response {
    let mut response = app.counted("seeing", response);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn wrong(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, detail)
}

fn failed(error: ControlError) -> Response {
    match error {
        ControlError::Busy => busy(),
        ControlError::Refused(_) | ControlError::Invalid(_) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "a shard did not answer in time")
        }
    }
}

/// # Errors
/// What is wrong with it.
fn page_of(limit: Option<usize>) -> Result<usize, &'static str> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err("limit must be from 1 to 1000"),
    }
}

// --- ends of connections

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClosedParameters {
    user: Option<String>,
    client: Option<String>,
    code: Option<u16>,
    since_ms: Option<u64>,
    limit: Option<usize>,
    cursor: Option<String>,
    /// Read by the check of keys.
    #[serde(rename = "api_key")]
    _api_key: Option<String>,
}

#[derive(Serialize)]
struct ClosedAnswer {
    closed: Vec<ClosedBody>,
    /// `null` when there are no more.
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ClosedBody {
    time_ms: u64,
    client: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    transport: &'static str,
    code: u16,
    reason: String,
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    owed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping_ms: Option<u32>,
}

fn closed_body(client: ClientId, end: End, mask: AddressMask) -> ClosedBody {
    ClosedBody {
        time_ms: end.time_ms,
        client: client.to_string(),
        user: end.user.to_string(),
        address: end.address.and_then(|address| mask.address(address)),
        transport: end.transport,
        code: end.code,
        reason: end.reason.into_owned(),
        by: end.by.name(),
        duration_ms: end.duration_ms,
        received_bytes: end.bytes.map(|(received, _)| received),
        sent_bytes: end.bytes.map(|(_, sent)| sent),
        owed_bytes: end.owed_bytes,
        ping_ms: end.ping_ms,
    }
}

/// `GET /api/closed`: how connections ended, newest first.
async fn closed(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match try_closed(&app, request.into_parts().0).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(response) => response,
    }
}

/// The connection of this client. `None`: it is of another node, or of an earlier run.
fn connection_of(shards: &Shards, client: &str) -> Result<Option<ConnId>, &'static str> {
    let client = client.parse::<ClientId>().map_err(|()| "client is no id of a connection")?;
    Ok(shards.router().connection(client))
}

async fn try_closed(app: &App, head: request::Parts) -> Result<ClosedAnswer, Response> {
    if let Some(response) = without_key(app, &head.headers, &head.uri) {
        return Err(response);
    }
    let Query(asked) =
        Query::<ClosedParameters>::try_from_uri(&head.uri).map_err(|error| wrong(&error.body_text()))?;
    let limit = page_of(asked.limit).map_err(wrong)?;
    let before = match asked.cursor.as_deref() {
        None => None,
        Some(text) => Some(end_place(text).ok_or_else(|| wrong("cursor is none of an earlier page"))?),
    };
    let shards = app.api.shards();
    let client = asked.client.as_deref();
    let conn = client.map(|client| connection_of(shards, client)).transpose().map_err(wrong)?;
    if conn == Some(None) {
        return Ok(ClosedAnswer { closed: Vec::new(), cursor: None });
    }
    let query = ClosedQuery {
        user: asked.user.as_deref().map(|user| kept(user).into()),
        conn: conn.flatten(),
        code: asked.code,
        since_ms: asked.since_ms.unwrap_or(0),
        before,
        below: None,
        ends_max: limit,
    };
    let mut all = Vec::new();
    let mut more = false;
    for shard in shards.router().every_shard() {
        let (found, is_part) = closed_of(shards, shard, query.clone()).await.map_err(failed)?;
        all.extend(found);
        more |= is_part;
    }
    all.sort_unstable_by(|(one, ..), (other, ..)| other.cmp(one));
    more |= all.len() > limit;
    all.truncate(limit);
    let cursor = all
        .last()
        .filter(|_| more)
        .map(|(place, ..)| format!("{}-{}-{}", place.time_ms, place.shard.0, place.number));
    let mask = app.address_mask;
    let closed = all.into_iter().map(|(_, client, end)| closed_body(client, end, mask)).collect();
    Ok(ClosedAnswer { closed, cursor })
}

/// The first `ends_max` of one shard, and whether it has more.
async fn closed_of(
    shards: &Shards,
    shard: ShardId,
    mut query: ClosedQuery,
) -> Result<(Vec<(EndPlace, ClientId, End)>, bool), ControlError> {
    let mut all = Vec::new();
    let wanted = query.ends_max;
    loop {
        let ask = query.clone();
        let page = shards.ask(shard, |reply| ControlRequest::Closed(ask, reply)).await?;
        all.extend(page.ends);
        match page.next {
            Some(next) if all.len() < wanted => {
                query.below = Some(next);
                query.ends_max = wanted - all.len();
            }
            next => return Ok((all, next.is_some())),
        }
    }
}

fn end_place(text: &str) -> Option<EndPlace> {
    let mut parts = text.split('-');
    let mut part = || parts.next()?.parse::<u64>().ok();
    let place = EndPlace { time_ms: part()?, shard: ShardId(part()?.try_into().ok()?), number: part()? };
    parts.next().is_none().then_some(place)
}

// --- connections

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConnectionsBody {
    user: Option<String>,
    client: Option<String>,
    channel: Option<String>,
    /// One address, or a network.
    address: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ConnectionsAnswer {
    connections: Vec<ConnectionBody>,
    /// `null` when there are no more.
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ConnectionBody {
    client: String,
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    num_channels: usize,
    channels: Vec<String>,
    owed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping_ms: Option<u32>,
}

fn connection_body(seen: ConnectionSeen, mask: AddressMask) -> ConnectionBody {
    ConnectionBody {
        client: seen.client.to_string(),
        user: seen.user.to_string(),
        address: seen.address.and_then(|address| mask.address(address)),
        transport: seen.transport,
        since_ms: seen.since_ms,
        num_channels: seen.channels,
        channels: seen.names.iter().map(|name| name.to_string()).collect(),
        owed_bytes: seen.owed_bytes,
        ping_ms: seen.ping_ms,
    }
}

/// `POST /api/connections`: those of a user, of a channel, of an address, or all, page by page.
async fn connections(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    match try_connections(&app, request).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(response) => response,
    }
}

async fn try_connections(app: &App, request: Request<Body>) -> Result<ConnectionsAnswer, Response> {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(app, &parts.headers, &parts.uri) {
        return Err(response);
    }
    let body = read_body(body, app.body_bytes_max).await?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let asked: ConnectionsBody = object(&body).map_err(|error| wrong(&error.to_string()))?;
    let limit = page_of(asked.limit).map_err(wrong)?;
    let network = match asked.address.as_deref() {
        None => None,
        Some(text) => {
            Some(network(text).ok_or_else(|| wrong("address is neither an address nor a network"))?)
        }
    };
    let shards = app.api.shards();
    let client = asked.client.as_deref();
    let conn = client.map(|client| connection_of(shards, client)).transpose().map_err(wrong)?;
    if conn == Some(None) {
        return Ok(answer_of(app, Vec::new(), None));
    }
    let (mut shard, mut from) = match asked.cursor.as_deref() {
        None => (0, 0),
        Some(text) => slot_place(text).ok_or_else(|| wrong("cursor is none of an earlier page"))?,
    };
    let model = ConnectionsQuery {
        user: asked.user.as_deref().map(Into::into),
        conn: conn.flatten(),
        channel: asked.channel.as_deref().map(Into::into),
        network,
        ..ConnectionsQuery::default()
    };
    // A search through a crowd for one that is not there ends in time, with a cursor.
    let end = Instant::now() + shards.timeout() / 2;
    let mut found = Vec::new();
    while usize::from(shard) < shards.router().shards() {
        if found.len() == limit || Instant::now() >= end {
            return Ok(answer_of(app, found, Some(format!("{shard}-{from}"))));
        }
        let query = ConnectionsQuery { from, connections_max: limit - found.len(), ..model.clone() };
        let ask = |reply| ControlRequest::Connections(query, reply);
        let page = shards.ask(ShardId(shard), ask).await.map_err(failed)?;
        found.extend(page.connections);
        (shard, from) = match page.next {
            Some(next) => (shard, next),
            None => (shard + 1, 0),
        };
    }
    Ok(answer_of(app, found, None))
}

fn answer_of(app: &App, found: Vec<ConnectionSeen>, cursor: Option<String>) -> ConnectionsAnswer {
    let mask = app.address_mask;
    let connections = found.into_iter().map(|seen| connection_body(seen, mask)).collect();
    ConnectionsAnswer { connections, cursor }
}

/// As it is compared: an address of IPv4 is one, however it is written.
fn network(text: &str) -> Option<IpNet> {
    match Trusted::parse(text)? {
        Trusted::Network(network) => Some(network),
        Trusted::Unix => None,
    }
}

fn slot_place(text: &str) -> Option<(u16, u32)> {
    let (shard, slot) = text.split_once('-')?;
    Some((shard.parse().ok()?, slot.parse().ok()?))
}

// --- what is busiest

#[derive(Serialize)]
struct BusiestAnswer {
    channels: Vec<BusyChannel>,
    users: Vec<BusyUser>,
}

#[derive(Serialize)]
struct BusyChannel {
    channel: String,
    publications_per_second: f64,
}

#[derive(Serialize)]
struct BusyUser {
    user: String,
    commands_per_second: f64,
}

/// `GET /api/busiest`: channels by publications, users by frames of commands, of the last ten seconds.
async fn busiest(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    if let Some(response) = without_key(&app, request.headers(), request.uri()) {
        return response;
    }
    match app.api.shards().ask_every(ControlRequest::Busiest).await {
        Ok(all) => json(StatusCode::OK, &put_together(all)),
        Err(error) => failed(error),
    }
}

/// A channel has one owner; a user may have connections on several shards.
fn put_together(all: Vec<Busiest>) -> BusiestAnswer {
    let mut channels = Vec::new();
    let mut users: BTreeMap<String, f64> = BTreeMap::new();
    for busiest in all {
        channels.extend(busiest.channels);
        for (user, rate) in busiest.users {
            *users.entry(user.to_string()).or_default() += rate;
        }
    }
    channels.sort_by(|one, other| other.1.total_cmp(&one.1));
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_by(|one, other| other.1.total_cmp(&one.1));
    BusiestAnswer {
        channels: channels
            .into_iter()
            .take(BUSIEST)
            .map(|(channel, rate)| BusyChannel {
                channel: channel.to_string(),
                publications_per_second: rate,
            })
            .collect(),
        users: users
            .into_iter()
            .take(BUSIEST)
            .map(|(user, rate)| BusyUser { user, commands_per_second: rate })
            .collect(),
    }
}

// --- how the node is

#[derive(Serialize)]
struct StatusAnswer<'s> {
    name: &'s str,
    uid: &'s str,
    version: &'static str,
    uptime_s: u64,
    /// Of this moment, milliseconds since 1970.
    time_ms: u64,
    ready: bool,
    /// Why not, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<&'static str>,
    /// Where nodes share channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineBody>,
    connections: u64,
    clients: u64,
    /// The clients by transport.
    transports: BTreeMap<&'static str, u64>,
    users: u64,
    channels: u64,
    subscriptions: u64,
    client_buffers_bytes: u64,
    resident_bytes: u64,
    cpu_seconds: f64,
    shards: Vec<ShardBody>,
    /// Upper bounds of the buckets of `stages`, `pings` and `turns`; a last bucket has no bound.
    bounds_us: [u64; BOUNDS_US.len()],
    /// How many publications reached each stage within which time, since the start.
    stages: BTreeMap<&'static str, Vec<u64>>,
    /// The same of answers to pings.
    pings: Vec<u64>,
    /// All that only grows, as in `/metrics`.
    totals: BTreeMap<&'static str, u64>,
    /// What was refused, closed or dropped, by cause.
    faults: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct EngineBody {
    up: bool,
    /// As `info` has them.
    other_nodes: Vec<NodeAnswer>,
}

#[derive(Serialize)]
struct ShardBody {
    shard: u16,
    connections: u64,
    clients: u64,
    busy_percent: u32,
    /// How many turns of its loop took how long.
    turns: Vec<u64>,
    /// What waits in it.
    #[serde(flatten)]
    gauges: BTreeMap<&'static str, u64>,
}

/// `GET /api/status`: what a node has and has done, for people and their terminals.
async fn status(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    if let Some(response) = without_key(&app, request.headers(), request.uri()) {
        return response;
    }
    let stats = match app.api.stats().await {
        Ok(stats) => stats,
        Err(error) => return failed(error),
    };
    json(StatusCode::OK, &status_of(&app, &stats))
}

fn status_of<'s>(app: &'s App, stats: &[ShardStats]) -> StatusAnswer<'s> {
    let sum = |of: fn(&ShardStats) -> u64| stats.iter().map(of).sum();
    let mut totals = BTreeMap::new();
    let mut faults = BTreeMap::new();
    let mut transports = BTreeMap::new();
    let mut pings = Histogram::default();
    for shard in stats {
        shard.transports.iter().for_each(|(name, count)| *transports.entry(*name).or_default() += count);
        pings.add(&shard.pings);
        shard.counters.iter().for_each(|(name, _, value)| *totals.entry(*name).or_default() += value);
        let seen = shard.faults.iter().filter(|(_, value)| *value > 0);
        seen.for_each(|(name, value)| *faults.entry(*name).or_default() += value);
    }
    let engine = app.others.as_ref().map(|OtherNodes(engine)| EngineBody {
        up: !app.readiness.has(NotReady::EngineAway),
        other_nodes: engine.others().into_iter().map(NodeAnswer::from).collect(),
    });
    StatusAnswer {
        name: app.api.name(),
        uid: app.api.uid(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: app.api.uptime().as_secs(),
        time_ms: process::wall_ms(),
        ready: app.readiness.why_not().is_none(),
        not_ready: app.readiness.why_not(),
        engine,
        connections: sum(|shard| shard.connections),
        clients: sum(|shard| shard.clients),
        transports,
        users: sum(|shard| shard.users),
        channels: sum(|shard| shard.channels),
        subscriptions: sum(|shard| shard.subscriptions),
        client_buffers_bytes: sum(|shard| shard.client_buffers_bytes),
        resident_bytes: process::rss_bytes(),
        cpu_seconds: process::cpu_seconds(),
        shards: stats
            .iter()
            .map(|shard| ShardBody {
                shard: shard.shard.0,
                connections: shard.connections,
                clients: shard.clients,
                busy_percent: shard.busy_percent,
                turns: counts(&shard.turns),
                gauges: shard.gauges.iter().map(|(name, _, value)| (*name, *value)).collect(),
            })
            .collect(),
        bounds_us: BOUNDS_US,
        stages: stages_of(stats),
        pings: counts(&pings),
        totals,
        faults,
    }
}

/// The times of each stage, of all namespaces together.
fn stages_of(stats: &[ShardStats]) -> BTreeMap<&'static str, Vec<u64>> {
    let of_stage = |stage: Stage| {
        let mut times = Histogram::default();
        let all = stats.iter().flat_map(|shard| &shard.stages);
        all.for_each(|namespace| times.add(&namespace.stages[stage as usize]));
        (stage.name(), counts(&times))
    };
    Stage::ALL.into_iter().map(of_stage).collect()
}

fn counts(times: &Histogram) -> Vec<u64> {
    times.buckets().map(|(_, count)| count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let place = EndPlace { time_ms: 1_700_000_000_123, shard: ShardId(3), number: 77 };
        assert_eq!(end_place("1700000000123-3-77"), Some(place));
        for wrong in ["", "1-2", "1-2-3-4", "a-2-3", "1-99999-3", "-1-2-3"] {
            assert_eq!(end_place(wrong), None, "{wrong}");
        }
        assert_eq!(slot_place("2-900"), Some((2, 900)));
        assert_eq!(slot_place("2"), None);
    }

    #[test]
    fn users_are_summed_over_shards_and_the_most_come_first() {
        let shard = |channel: &str, users: &[(&str, f64)]| Busiest {
            channels: vec![(channel.into(), users.len() as f64)],
            users: users.iter().map(|(name, rate)| ((*name).into(), *rate)).collect(),
        };
        let one = shard("a", &[("ann", 3.0)]);
        let other = shard("b", &[("bob", 5.0), ("ann", 4.0)]);
        let answer = put_together(vec![one, other]);
        let users: Vec<_> = answer.users.iter().map(|busy| (&*busy.user, busy.commands_per_second)).collect();
        assert_eq!(users, [("ann", 7.0), ("bob", 5.0)]);
        assert_eq!(answer.channels[0].channel, "b");
    }

    #[test]
    fn an_address_is_one_network_however_it_is_written() {
        assert_eq!(network("::ffff:10.1.2.3"), network("10.1.2.3/32"));
        assert_eq!(network("unix:"), None);
        assert_eq!(network("nobody"), None);
    }
}
