//! The command line: a scenario with what it is run against.
//!
//! Inputs: arguments. Outputs: an [`Asked`] for `main` to carry out. Must not know: how it is carried out.

mod address;
mod plan;
mod scenarios;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::plan::{Asked, FloorBeside, Outputs, SetupFault, floor_plan, prepare};
use crate::engine::DriverChoice;
use crate::floor::FloorBy;
use crate::run::parse_duration;
use crate::tls::TlsVersion;

/// Load generator for servers of long connections: WebSocket and others.
///
/// Exit codes: 0 passed, 1 the server lost, refused or disordered something, 2 wrong arguments or no start,
/// 3 the generator itself was late and its figures do not hold, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "trunkline-loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Open connections, hold them, watch pings and memory.
    Idle(IdleArgs),
    /// Subscribers on channels, publications at a rate.
    Fanout(FanoutArgs),
    /// Requests on every connection in turn that the server sends back (plain WebSocket).
    Echo(RequestArgs),
    /// Requests that the server or its backend answers.
    Rpc(RequestArgs),
    /// Open everything as fast as it becomes ready.
    ConnectStorm(StormArgs),
    /// Cut everything at once, and measure until the last is back.
    ReconnectStorm(ReconnectArgs),
    /// A part of the subscribers stops reading: what do the others see?
    SlowReaders(SlowArgs),
    /// Users with a channel of their own and groups: messages, history reads and reconnects, each at a rate for a user.
    Chat(ChatArgs),
    /// Phases from a file.
    Mixed(MixedArgs),
    /// Serve as the least server that can do the same job.
    Floor(FloorArgs),
}

/// What every scenario has.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// The server: ws:// or wss://, http:// or https:// (SSE, long-poll), or tcp:// (MQTT, NATS), host, port, path.
    /// May be repeated, for nodes that share channels: connections go to them in turn, publications to the first unless --api
    /// names another. All have one scheme and one path.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000/connection/websocket")]
    pub urls: Vec<String>,
    /// The protocol.
    #[arg(long, value_enum, default_value_t)]
    pub profile: ProfileName,
    /// Connections.
    #[arg(short = 'n', long, default_value_t = 1000)]
    pub connections: u32,
    /// Channels.
    #[arg(short = 'c', long, default_value_t = 1)]
    pub channels: u32,
    /// Channels that each connection subscribes to.
    #[arg(long, default_value_t = 1, value_name = "CHANNELS")]
    pub per_connection: u32,
    /// Begin of channel names. Left out: one of this run's own.
    #[arg(long, value_name = "TEXT")]
    pub channel_prefix: Option<String>,
    /// Each connection subscribes besides to a channel of its own: this and the connection's number.
    #[arg(long, value_name = "TEXT")]
    pub personal_prefix: Option<String>,
    /// Connections opened a second. Left out: as fast as they become ready.
    #[arg(long, value_name = "RATE")]
    pub open_rate: Option<f64>,
    /// Offer compression (permessage-deflate) in each upgrade to WebSocket.
    #[arg(long)]
    pub compression: bool,
    /// Bytes of a publication's or request's data; at least 76.
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub payload: usize,
    /// Threads that hold connections. Left out: one for each cpu, at most one for 100 connections.
    #[arg(long)]
    pub threads: Option<u32>,
    /// Rings over all threads. Left out: as few as RLIMIT_NOFILE allows.
    #[arg(long, default_value_t = 0)]
    pub rings: u32,
    /// How sockets are driven.
    #[arg(long, value_enum, default_value_t)]
    pub driver: DriverChoice,
    /// Source addresses, separated by commas. Left out: 127.0.x.y for a loopback target, else the kernel's choice.
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub source: Vec<std::net::IpAddr>,
    /// SO_RCVBUF of each connection, in bytes. 0: as the kernel sizes it.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub receive_buffer: u32,
    /// Connections a thread has under way at a time.
    #[arg(long, default_value_t = 256, value_name = "CONNECTIONS")]
    pub in_flight: u32,
    /// How long a connection may take to become ready.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub handshake_timeout: Duration,
    /// A connection that hears nothing for so long is lost: the ping interval and 10 s. Left out: not watched.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub silence: Option<Duration>,
    /// How long after the last delivery the missing ones are given up.
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub drain: Duration,
    /// Run this by `sh -c` when half of the longest phase is over, and report what clients saw: closes, the longest silence, what
    /// was lost and repeated. The phase goes on for its other half when it has ended.
    #[arg(long, value_name = "COMMAND")]
    pub during: Option<String>,
    /// Own lag at p99 above this makes the run invalid. Left out: half of what was measured, at least 1 ms.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub lag_max: Option<Duration>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub protocol: ProtocolArgs,
    #[command(flatten)]
    pub publishing: PublishArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How wss:// and https:// are spoken.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Authorities that the server's certificate may come from (PEM).
    #[arg(long, default_value = "/etc/ssl/certs/ca-certificates.crt", value_name = "FILE")]
    pub tls_ca: PathBuf,
    /// Do not look at the server's certificate.
    #[arg(long)]
    pub insecure: bool,
    /// What the certificate has to be for, and what the server is asked for. Left out: the URL's host.
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// The only version that is offered.
    #[arg(long, value_enum, default_value_t)]
    pub tls_version: TlsVersion,
    /// Connections that come back show no ticket of an earlier one.
    #[arg(long)]
    pub no_resumption: bool,
}

/// What a protocol needs to know.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Protocol")]
pub struct ProtocolArgs {
    /// Connection token, where the protocol has one.
    #[arg(long)]
    pub token: Option<String>,
    /// Signs a connection token (HS256) for each connection with this: the first is of the user "user0" (Centrifuge).
    #[arg(long, value_name = "SECRET", conflicts_with = "token")]
    pub token_secret: Option<String>,
    /// Asks for the joins and leaves of each channel (Centrifuge).
    #[arg(long)]
    pub join_leave: bool,
    /// Header field of the upgrade or GET, as "Name: value". May be repeated.
    #[arg(long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
    /// Sent once when the connection is open. Templates know {channel}, {index}, {number} and {data}.
    #[arg(long, value_name = "TEMPLATE")]
    pub hello: Option<String>,
    /// Sent once for each channel.
    #[arg(long, value_name = "TEMPLATE")]
    pub subscribe: Option<String>,
    /// The connection is ready when a message with this text has come for each channel. Left out: at once.
    #[arg(long, value_name = "TEXT")]
    pub ready_on: Option<String>,
    /// A request's text. Centrifuge, in either form: a command in JSON without its braces, as
    /// "rpc":{"method":"echo","data":{data}}.
    #[arg(long, value_name = "TEMPLATE")]
    pub request: Option<String>,
    /// A publication's text, to publish on the connection instead of by HTTP.
    #[arg(long, value_name = "TEMPLATE")]
    pub publish: Option<String>,
    /// User name, where the protocol has one (MQTT, NATS).
    #[arg(long)]
    pub user: Option<String>,
    /// Password.
    #[arg(long)]
    pub password: Option<String>,
    /// Application id, for publishing to a Pusher server.
    #[arg(long, default_value = "app-id")]
    pub pusher_app: String,
    /// Application key, which is in the path of a Pusher server.
    #[arg(long, default_value = "app-key")]
    pub pusher_key: String,
    /// Application secret.
    #[arg(long, default_value = "app-secret")]
    pub pusher_secret: String,
}

/// How publications reach the server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Publishing by HTTP")]
pub struct PublishArgs {
    /// The server's HTTP API; a publication is POSTed to it with /publish behind. Left out: /api of the first --url's host.
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
    /// Sent as X-API-Key.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// POST to this template instead.
    #[arg(long, value_name = "URL")]
    pub publish_url: Option<String>,
    /// With this body.
    #[arg(long, value_name = "TEMPLATE")]
    pub publish_body: Option<String>,
    /// Header field of the POST, as "Name: value". May be repeated.
    #[arg(long = "publish-header", value_name = "FIELD")]
    pub publish_headers: Vec<String>,
    /// Kept connections that publish.
    #[arg(long, value_name = "CONNECTIONS")]
    pub publishers: Option<u32>,
}

/// Where results go, and what is measured beside the connections.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measuring and output")]
pub struct OutputArgs {
    /// The server's process on this host: its memory and cpu are measured.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Run the floor server in the same way afterwards, for ratios.
    #[arg(long)]
    pub with_floor: bool,
    /// How the floor sends.
    #[arg(long, value_enum, default_value_t)]
    pub floor_by: FloorBy,
    /// Write the results as JSON; "-" for standard output, and then the table goes to standard error.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write latencies second by second as an HdrHistogram log; the floor's gets ".floor" behind its name.
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Write a report as one HTML page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress bar.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProfileName {
    /// Centrifuge client protocol, JSON over WebSocket.
    #[default]
    Centrifuge,
    /// Centrifuge client protocol, Protobuf over WebSocket.
    CentrifugeProtobuf,
    /// Plain WebSocket with message templates.
    Websocket,
    /// Server-sent events.
    Sse,
    /// HTTP long-polling.
    LongPoll,
    /// NATS, over WebSocket or TCP.
    Nats,
    /// Pusher channels.
    Pusher,
    /// MQTT 3.1.1, over WebSocket or TCP.
    Mqtt,
    /// Socket.IO, to a server whose rooms are joined by the event "subscribe".
    #[value(name = "socketio")]
    SocketIo,
    /// The floor server of this program.
    Floor,
}

#[derive(Debug, Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// How long the connections are held.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub hold: Duration,
    /// Then publish one message to every channel, and count that it reaches everybody.
    #[arg(long)]
    pub broadcast: bool,
}

#[derive(Debug, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publications a second, over all channels.
    #[arg(short, long, default_value_t = 5.0)]
    pub rate: f64,
    /// How long.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub seconds: Duration,
    /// The first so long enters no histogram.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub warm_up: Duration,
    /// Then the same again beside so many new connections a second, each with all its handshakes.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub storm: f64,
    /// How long each of these stays.
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub storm_hold: Duration,
}

#[derive(Debug, Args)]
pub struct RequestArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Requests a second, over all connections.
    #[arg(short, long, default_value_t = 1000.0)]
    pub rate: f64,
    /// How long.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
pub struct StormArgs {
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Args)]
pub struct ReconnectArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Share of the connections that is cut.
    #[arg(long, default_value_t = 1.0)]
    pub share: f64,
    /// They come back at random times up to this, as SDKs with jitter do. 0s: at once.
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    pub spread: Duration,
    /// Publications a second meanwhile; they are recovered.
    #[arg(short, long, default_value_t = 0.0)]
    pub rate: f64,
    /// Ask for recovery of what was missed; the channels must allow it.
    #[arg(long)]
    pub recover: bool,
    /// How often everything is cut.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
}

#[derive(Debug, Args)]
pub struct SlowArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Connections that stop reading.
    #[arg(long, default_value_t = 10)]
    pub slow: u32,
    /// Publications a second, over all channels.
    #[arg(short, long, default_value_t = 100.0)]
    pub rate: f64,
    /// How long, without and then with the slow ones.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Messages published for each user in a minute, over all channels in turn.
    #[arg(long, default_value_t = 4.0)]
    pub messages: f64,
    /// Times a minute that each user reads the history of one of its channels.
    #[arg(long, default_value_t = 1.0)]
    pub reads: f64,
    /// Times an hour that each user's connection breaks. It comes back within 2 s and recovers what it missed.
    #[arg(long, default_value_t = 6.0)]
    pub reconnects: f64,
    /// How long nobody says anything before: what connecting took has gone back by then, and memory is read.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub settle: Duration,
    /// How long.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub seconds: Duration,
    /// The first so long enters no histogram.
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub warm_up: Duration,
}

#[derive(Debug, Args)]
pub struct MixedArgs {
    /// The phases, in TOML.
    pub file: PathBuf,
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Args)]
pub struct FloorArgs {
    /// Where to listen. Port 0: any; it is printed.
    #[arg(long, default_value = "127.0.0.1:8001")]
    pub listen: SocketAddr,
    /// How it sends.
    #[arg(long, value_enum, default_value_t)]
    pub by: FloorBy,
    /// Ping everybody so often.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub ping: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a time is written like 10s, 500ms, 2m".into())
}
