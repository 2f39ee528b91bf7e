//! From arguments to a plan, with everything checked that can be before a socket is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use trunkline::base::prng::Prng;
use trunkline::proto::http1::{is_field_value, is_token};
use trunkline::proto::websocket::deflate::OFFER;

use super::address::Address;
use super::{Cli, LoadArgs, ProfileName, ProtocolArgs, Scenario, scenarios};
use crate::engine::{EngineOptions, Server};
use crate::floor::{FloorBy, FloorOptions};
use crate::net::{Sources, raise_descriptor_limit};
use crate::profile::{
    Centrifuge, Floor, Json, LongPoll, Mqtt, Nats, PlainWebSocket, Profile, Protobuf, Pusher, PusherKeys,
    SocketIo, Sse, Template, Tokens,
};
use crate::publish::{HttpPublishing, Publishing};
use crate::run::{Phase, Plan, read_scenario};
use crate::tls::{Tls, TlsOptions};

/// Why nothing was begun: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupFault(pub String);

/// What the command line asks for.
pub enum Asked {
    Serve(FloorOptions),
    Run {
        plan: Box<Plan>,
        phases: Vec<Phase>,
        floor: Option<FloorBeside>,
        outputs: Outputs,
        /// To be told before anything begins.
        notes: Vec<String>,
    },
}

/// How the floor is run beside the target.
#[derive(Clone, Copy, Debug)]
pub struct FloorBeside {
    pub by: FloorBy,
    pub ping: Option<Duration>,
    /// No more connections than the floor has descriptors for.
    pub connections: u32,
}

pub struct Outputs {
    pub json: Option<PathBuf>,
    pub hdr: Option<PathBuf>,
    pub html: Option<PathBuf>,
    pub quiet: bool,
}

/// Largest payload, in bytes: what servers take at most, and far below what one read of ours gathers at once.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Most connections. Each takes a slot from the start on, and 127.0.x.y has sources for more.
const CONNECTIONS_MAX: u32 = 16_000_000;
/// Connections for which another thread pays.
const CONNECTIONS_PER_THREAD_MIN: u32 = 100;
/// What a user of a chat reads.
const HISTORY_READ: &str = r#""history":{"channel":"{channel}","limit":20}"#;
/// What the floor's process needs beside its connections.
const FLOOR_DESCRIPTORS_SPARE: u32 = 200;
/// What the server is taken to ping by when the floor is to ping as well.
const FLOOR_PING: Duration = Duration::from_secs(25);

/// # Errors
/// What is wrong with the arguments.
pub fn prepare(cli: Cli) -> Result<Asked, SetupFault> {
    let (load, phases, recover, echo) = match &cli.scenario {
        Scenario::Floor(args) => {
            return Ok(Asked::Serve(FloorOptions { listen: args.listen, by: args.by, ping: args.ping }));
        }
        Scenario::Idle(args) => (&args.load, scenarios::idle(args), false, false),
        Scenario::Fanout(args) => (&args.load, scenarios::fanout(args), false, false),
        Scenario::Echo(args) => (&args.load, scenarios::requests(args, "echo"), false, true),
        Scenario::Rpc(args) => (&args.load, scenarios::requests(args, "rpc"), false, false),
        Scenario::ConnectStorm(args) => (&args.load, vec![scenarios::open(&args.load)], false, false),
        Scenario::ReconnectStorm(args) => (&args.load, scenarios::reconnect(args), args.recover, false),
        Scenario::SlowReaders(args) => (&args.load, scenarios::slow(args), false, false),
        Scenario::Chat(args) => (&args.load, scenarios::chat(args), true, false),
        Scenario::Mixed(args) => {
            let text = std::fs::read_to_string(&args.file)
                .map_err(|error| SetupFault(format!("{}: {error}", args.file.display())))?;
            let phases = read_scenario(&text)
                .map_err(|fault| SetupFault(format!("{}: {fault}", args.file.display())))?;
            (&args.load, phases, false, false)
        }
    };
    check(load, &phases)?;
    let mut load = load.clone();
    if matches!(cli.scenario, Scenario::Chat(_)) {
        if !matches!(load.profile, ProfileName::Centrifuge | ProfileName::CentrifugeProtobuf) {
            return Err(SetupFault("chat needs the Centrifuge protocol".into()));
        }
        load.protocol.request.get_or_insert_with(|| HISTORY_READ.into());
    }
    if load.personal_prefix.is_some() && load.output.with_floor {
        return Err(SetupFault("the floor knows no channels of one connection: no --personal-prefix".into()));
    }
    // An echo server has no channels, and speaks no protocol beyond WebSocket.
    if echo && matches!(load.profile, ProfileName::Centrifuge | ProfileName::CentrifugeProtobuf) {
        load.profile = ProfileName::Websocket;
    }
    // Brokers answer nothing themselves: their connections listen to their own requests instead of to channels.
    let broker = matches!(load.profile, ProfileName::Nats | ProfileName::Mqtt);
    if echo || (broker && matches!(cli.scenario, Scenario::Rpc(_))) {
        load.channels = 0;
    }
    let answers_nothing =
        matches!(load.profile, ProfileName::Sse | ProfileName::LongPoll | ProfileName::Pusher);
    if answers_nothing && phases.iter().any(|phase| phase.request > 0.0) {
        return Err(SetupFault("this profile has no requests: echo and rpc need another".into()));
    }
    let connections = phases.iter().filter_map(|phase| phase.open.map(|(total, _)| total)).max().unwrap_or(0);
    let (limit, before) = raise_descriptor_limit();
    let mut notes = Vec::new();
    if limit != before {
        notes.push(format!("RLIMIT_NOFILE raised from {before} to {limit}"));
    }
    let plan = plan(&load, connections, recover)?;
    if plan.tls.is_some() && load.output.with_floor {
        notes.push("the floor is plain: it speaks no TLS".into());
    }
    if u64::from(connections) > plan.sources.connections_max() {
        notes.push(format!(
            "{connections} connections may not find ports: name more --source addresses (about 28,000 each)"
        ));
    }
    let floor = load.output.with_floor.then(|| {
        let most = limit.saturating_sub(FLOOR_DESCRIPTORS_SPARE);
        if connections > most {
            notes.push(format!("the floor runs with {most} connections: it has a descriptor for each"));
        }
        let pings = phases.iter().any(|phase| phase.hold > FLOOR_PING && !phase.publishes());
        FloorBeside {
            by: load.output.floor_by,
            ping: pings.then_some(FLOOR_PING),
            connections: connections.min(most),
        }
    });
    let output = &load.output;
    let outputs = Outputs {
        json: output.json.clone(),
        hdr: output.hdr.clone(),
        html: output.html.clone(),
        quiet: output.quiet,
    };
    Ok(Asked::Run { plan: Box::new(plan), phases, floor, outputs, notes })
}

/// Numbers that would make no sense.
fn check(load: &LoadArgs, phases: &[Phase]) -> Result<(), SetupFault> {
    let positive = |value: f64| value >= 0.0 && value.is_finite();
    let rates = phases.iter().all(|phase| {
        positive(phase.publish)
            && positive(phase.request)
            && phase.storm.is_none_or(|(rate, _)| positive(rate))
    });
    let open_rates = load.open_rate.is_none_or(|rate| rate > 0.0 && rate.is_finite());
    let shares = phases.iter().all(|phase| phase.cut.is_none_or(|(share, _)| (0.0..=1.0).contains(&share)));
    let most = phases.iter().filter_map(|phase| phase.open).map(|(total, _)| total).max().unwrap_or(0);
    for (holds, problem) in [
        (most <= CONNECTIONS_MAX, "connections are at most 16 million"),
        (load.connections > 0, "--connections must be at least 1"),
        (load.in_flight > 0, "--in-flight must be at least 1"),
        (load.threads != Some(0), "--threads must be at least 1"),
        (load.payload <= PAYLOAD_BYTES_MAX, "--payload is at most 8 MiB"),
        (rates && open_rates, "rates are positive numbers"),
        (shares, "shares are from 0 to 1"),
        (load.per_connection <= load.channels, "--per-connection exceeds --channels"),
        // A connection's subscriptions are counted in 16 bits with its connect.
        (load.per_connection < 65_000, "--per-connection is at most 65,000"),
        (load.publishing.publishers != Some(0), "--publishers must be at least 1"),
    ] {
        if !holds {
            return Err(SetupFault(problem.into()));
        }
    }
    Ok(())
}

fn plan(load: &LoadArgs, connections: u32, recover: bool) -> Result<Plan, SetupFault> {
    let (address, servers) = servers(load)?;
    let target = servers[0].target;
    let run = Prng::new().u32(..);
    let channel_prefix = load.channel_prefix.clone().unwrap_or_else(|| format!("loadgen-{run:08x}-"));
    // They stand in JSON, paths and topics as they are.
    for prefix in [Some(&channel_prefix), load.personal_prefix.as_ref()].into_iter().flatten() {
        if !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/$@".contains(&byte)) {
            return Err(SetupFault("prefixes of channels: only letters, digits and -_.:/$@".into()));
        }
    }
    let threads = load.threads.unwrap_or_else(|| {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        cpus.min(connections.div_ceil(CONNECTIONS_PER_THREAD_MIN)).max(1)
    });
    let tls = tls(load, &address, connections)?;
    let publishing = publishing(load, &address, target)?;
    let publishers = load.publishing.publishers.unwrap_or(match publishing {
        Publishing::Http(_) => 8,
        // Without acknowledgements the order of one connection is all that can be held against the server.
        Publishing::Client => 1,
    });
    let mut headers = fields(&load.protocol.headers)?;
    if load.profile == ProfileName::Sse {
        headers.push(("Accept".into(), "text/event-stream".into()));
    }
    if load.compression {
        headers.push(("Sec-WebSocket-Extensions".into(), OFFER.into()));
    }
    Ok(Plan {
        name: "target".into(),
        profile: profile(load, &address, run)?,
        servers,
        tls,
        headers,
        compression: load.compression,
        sources: match &load.source[..] {
            [] => Sources::default_for(target, connections),
            list => Sources::List(list.to_vec()),
        },
        engine: EngineOptions {
            connections,
            threads: threads.min(connections.max(1)),
            rings: load.rings,
            driver: load.driver,
            receive_bytes: load.receive_buffer,
        },
        channels: load.channels,
        per_connection: load.per_connection,
        channel_prefix,
        personal_prefix: load.personal_prefix.clone(),
        recover,
        publishing,
        publishers,
        payload_bytes: load.payload,
        message_bytes_max: (load.payload * 2).max(1 << 20),
        handshake_timeout: load.handshake_timeout,
        in_flight_max: load.in_flight,
        silence_max: load.silence,
        drain: load.drain,
        lag_max: load.lag_max,
        during: load.during.clone(),
        pid: load.output.pid,
        run,
    })
}

/// Where connections go, and the first of them as it was written.
fn servers(load: &LoadArgs) -> Result<(Address, Arc<[Server]>), SetupFault> {
    let parsed: Result<Vec<Address>, String> = load.urls.iter().map(|url| Address::parse(url)).collect();
    let addresses = parsed.map_err(SetupFault)?;
    let first = addresses.first().ok_or_else(|| SetupFault("--url: no server".into()))?;
    for other in &addresses[1..] {
        if (&other.scheme, &other.path) != (&first.scheme, &first.path) {
            return Err(SetupFault("--url: all servers have one scheme and one path".into()));
        }
        if first.is_tls() && load.tls.tls_name.is_none() && other.name() != first.name() {
            return Err(SetupFault("--url: servers with several names need --tls-name".into()));
        }
    }
    let server =
        |address: &Address| address.resolve().map(|target| Server { target, host: address.host.clone() });
    let servers: Result<Vec<Server>, String> = addresses.iter().map(server).collect();
    Ok((first.clone(), servers.map_err(SetupFault)?.into()))
}

/// How `address` is spoken to, if over TLS. `connections`: how many may come back.
fn tls(load: &LoadArgs, address: &Address, connections: u32) -> Result<Option<Tls>, SetupFault> {
    if !address.is_tls() {
        return Ok(None);
    }
    let args = &load.tls;
    let options = TlsOptions {
        ca: args.tls_ca.clone(),
        insecure: args.insecure,
        resumption: !args.no_resumption,
        version: args.tls_version,
    };
    let name = args.tls_name.as_deref().unwrap_or(address.name());
    Tls::new(&options, name, connections as usize).map(Some).map_err(SetupFault)
}

fn profile(load: &LoadArgs, address: &Address, run: u32) -> Result<Arc<dyn Profile>, SetupFault> {
    let ProtocolArgs { token, hello, subscribe, ready_on, request, publish, user, password, .. } =
        &load.protocol;
    let framed = matches!(address.scheme.as_str(), "ws" | "wss");
    let spoken_over: &[&str] = match load.profile {
        ProfileName::Sse | ProfileName::LongPoll => &["http", "https"],
        ProfileName::Nats => &["ws", "wss", "tcp", "nats"],
        ProfileName::Mqtt => &["ws", "wss", "tcp", "mqtt"],
        // The floor speaks no TLS.
        ProfileName::Floor => &["ws"],
        _ => &["ws", "wss"],
    };
    if !spoken_over.contains(&address.scheme.as_str()) {
        let schemes = spoken_over.join(":// or ");
        return Err(SetupFault(format!("--url: this profile is spoken over {schemes}://")));
    }
    let key = &load.protocol.pusher_key;
    if !key
        .bytes()
        .chain(load.protocol.pusher_app.bytes())
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(SetupFault("--pusher-key, --pusher-app: only letters, digits and -_.".into()));
    }
    if let Some(token) = token
        && !token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    {
        return Err(SetupFault("--token: no token has such characters".into()));
    }
    let template = |text: &Option<String>| text.as_deref().map(Template::new);
    // A command of the Centrifuge protocol.
    let command = Template::new(request.as_deref().unwrap_or(r#""rpc":{"method":"echo","data":{data}}"#));
    Ok(match load.profile {
        ProfileName::Centrifuge => {
            let codec = Json { request: command };
            Arc::new(centrifuge(load, address, codec))
        }
        ProfileName::CentrifugeProtobuf => {
            let codec = Protobuf::new(command).map_err(|fault| SetupFault(format!("--request: {fault}")))?;
            Arc::new(centrifuge(load, address, codec))
        }
        ProfileName::Websocket => Arc::new(PlainWebSocket {
            target: Template::new(&address.path),
            hello: template(hello),
            subscribe: template(subscribe),
            ready_on: ready_on.clone(),
            request: Template::new(request.as_deref().unwrap_or("{data}")),
            publish: template(publish),
        }),
        ProfileName::Floor => Arc::new(Floor),
        ProfileName::Sse => {
            Arc::new(Sse { target: Template::new(&address.path), ready_on: ready_on.clone() })
        }
        ProfileName::LongPoll => Arc::new(LongPoll { target: Template::new(&address.path) }),
        ProfileName::Nats => Arc::new(Nats {
            path: framed.then(|| address.path.clone()),
            user: user.clone(),
            password: password.clone(),
            token: token.clone(),
        }),
        ProfileName::Mqtt => Arc::new(Mqtt {
            path: framed.then(|| address.path.clone()),
            user: user.clone(),
            password: password.clone(),
            run,
        }),
        ProfileName::SocketIo => Arc::new(SocketIo { path: address.path.clone() }),
        ProfileName::Pusher => Arc::new(Pusher { key: load.protocol.pusher_key.clone() }),
    })
}

fn centrifuge<C>(load: &LoadArgs, address: &Address, codec: C) -> Centrifuge<C> {
    let tokens = match (&load.protocol.token_secret, &load.protocol.token) {
        (Some(secret), _) => Tokens::Signed(secret.clone()),
        (None, Some(token)) => Tokens::One(token.clone()),
        (None, None) => Tokens::None,
    };
    let (path, join_leave) = (address.path.clone(), load.protocol.join_leave);
    Centrifuge { path, tokens, join_leave, codec, turn: AtomicU32::new(0) }
}

fn publishing(load: &LoadArgs, address: &Address, target: SocketAddr) -> Result<Publishing, SetupFault> {
    let args = &load.publishing;
    match load.profile {
        ProfileName::Websocket if load.protocol.publish.is_some() => return Ok(Publishing::Client),
        ProfileName::Nats | ProfileName::Mqtt => return Ok(Publishing::Client),
        _ => {}
    }
    if load.profile == ProfileName::Floor {
        return Ok(Publishing::Http(Box::new(floor_publishing(target, &address.host))));
    }
    let pusher = (load.profile == ProfileName::Pusher).then(|| PusherKeys {
        app: load.protocol.pusher_app.clone(),
        key: load.protocol.pusher_key.clone(),
        secret: load.protocol.pusher_secret.clone(),
    });
    let url = match (&args.publish_url, &args.api) {
        (Some(url), _) => url.clone(),
        (None, Some(api)) => format!("{}/publish", api.trim_end_matches('/')),
        (None, None) => {
            format!("{}://{}/api/publish", if address.is_tls() { "https" } else { "http" }, address.host)
        }
    };
    // Places may stand in the path only; the host is needed before they are filled.
    let api = Address::parse(&url).map_err(SetupFault)?;
    let mut headers = vec![("Content-Type".to_string(), "application/json".to_string())];
    if let Some(key) = &args.api_key {
        headers.push(("X-API-Key".into(), key.clone()));
    }
    headers.extend(fields(&args.publish_headers)?);
    if !headers.iter().all(|(_, value)| is_field_value(value.as_bytes())) {
        return Err(SetupFault("--api-key: no header field has such characters".into()));
    }
    let body = args.publish_body.as_deref().unwrap_or(match load.profile {
        ProfileName::Pusher => r#"{"name":"message","channels":["{channel}"],"data":{string}}"#,
        _ => r#"{"channel":"{channel}","data":{data}}"#,
    });
    Ok(Publishing::Http(Box::new(HttpPublishing {
        target: api.resolve().map_err(SetupFault)?,
        tls: tls(load, &api, 0)?,
        host: api.host,
        path: Template::new(&api.path),
        headers,
        body: Template::new(body),
        pusher,
    })))
}

/// The floor is given what the target would send: a publication of the Centrifuge protocol.
fn floor_publishing(target: SocketAddr, host: &str) -> HttpPublishing {
    HttpPublishing {
        target,
        tls: None,
        host: host.into(),
        path: Template::new("/publish?c={index}"),
        headers: Vec::new(),
        body: Template::new(r#"{"push":{"channel":"{channel}","pub":{"data":{data}}}}"#),
        pusher: None,
    }
}

/// The plan for the floor that runs at `target`: the same but for the protocol.
pub fn floor_plan(plan: &Plan, beside: FloorBeside, target: SocketAddr, pid: u32) -> Plan {
    let host = target.to_string();
    Plan {
        name: "floor".into(),
        profile: Arc::new(Floor),
        tls: None,
        publishing: Publishing::Http(Box::new(floor_publishing(target, &host))),
        servers: Arc::new([Server { target, host }]),
        headers: Vec::new(),
        compression: false,
        sources: Sources::default_for(target, beside.connections),
        engine: EngineOptions { connections: beside.connections, ..plan.engine },
        channel_prefix: plan.channel_prefix.clone(),
        personal_prefix: None,
        recover: false,
        publishers: plan.publishers,
        silence_max: None,
        pid: Some(pid),
        run: plan.run.wrapping_add(1),
        during: None,
        ..*plan
    }
}

fn fields(lines: &[String]) -> Result<Vec<(String, String)>, SetupFault> {
    lines
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.trim();
            if is_token(name.as_bytes()) && is_field_value(value.as_bytes()) && !value.is_empty() {
                Ok((name.to_string(), value.to_string()))
            } else {
                Err(SetupFault(format!("{line:?} is no header field; write it as \"Name: value\"")))
            }
        })
        .collect()
}
