//! One tunnel's backend: its connections, how many requests it gets at a time, what is tried again.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::config::TunnelEntry;
use crate::config::hooks::static_header;
use crate::control::outbound::{self, BodyFault, Reach, deepest, read_body};

/// The pause before the second try; it doubles from try to try up to the longest. Short enough for a backend that is
/// being restarted, long enough not to be what keeps it down.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub struct Backend {
    /// What it was made of.
    pub settings: TunnelEntry,
    pub name: String,
    pub timeout: Duration,
    /// Of every request.
    pub headers: HeaderMap,
    pub subprotocols: Vec<String>,
    endpoint: String,
    answer_bytes_max: usize,
    turns: Semaphore,
    client: reqwest::Client,
}

/// How long and against what one request is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub deadline: Instant,
    /// One try.
    pub each: Duration,
    /// Tries again when the backend answers 5xx: for what may arrive twice.
    pub server_errors: bool,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub kind: Option<HeaderValue>,
    /// Empty unless the status is 2xx: what a refusal says is not for the client.
    pub body: Bytes,
}

/// Why there is no answer that can be used.
#[derive(Debug)]
pub enum TunnelFault {
    /// Too many others had their turn first.
    NoTurn,
    /// Nothing came in time.
    Late,
    /// No connection, or it broke before an answer, until the deadline.
    Unreachable(String),
    /// The answer's body is too long, or broke off.
    Body(BodyFault),
    Status(StatusCode),
    /// The body says that it is text, and is not UTF-8.
    NotText,
    /// JSON that is not as it should be.
    NotOurs(&'static str),
}

impl TunnelFault {
    /// For the log, which tells each once a minute.
    pub fn cause(&self) -> &'static str {
        match self {
            TunnelFault::NoTurn => "no_turn",
            TunnelFault::Late => "late",
            TunnelFault::Unreachable(_) => "unreachable",
            TunnelFault::Body(_) => "body",
            TunnelFault::Status(_) => "status",
            TunnelFault::NotText => "not_text",
            TunnelFault::NotOurs(_) => "not_ours",
        }
    }
}

impl fmt::Display for TunnelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelFault::NoTurn => {
                f.write_str("it answers too slowly for all who wait (in_flight_max, timeout)")
            }
            TunnelFault::Late => f.write_str("no answer in time"),
            TunnelFault::Unreachable(why) => write!(f, "no connection: {why}"),
            TunnelFault::Body(fault) => write!(f, "its answer cannot be used: {fault}"),
            TunnelFault::Status(status) => write!(f, "it answered {status}"),
            TunnelFault::NotText => f.write_str("its answer calls itself text and is not UTF-8"),
            TunnelFault::NotOurs(why) => f.write_str(why),
        }
    }
}

impl Backend {
    pub fn new(tunnel: &TunnelEntry, answer_bytes_max: usize) -> std::io::Result<Backend> {
        let options = &tunnel.options;
        let reach = Reach {
            endpoint: &options.endpoint,
            http2: options.http2,
            authorities: options.ca_file.as_ref(),
            idle_max: options.in_flight_max as usize,
        };
        let client = outbound::client(reach)
            .map_err(|error| std::io::Error::other(format!("tunnel {}: {}", tunnel.name, deepest(&error))))?;
        // Checked with the configuration.
        let headers = options.static_headers.iter().filter_map(|text| static_header(text.reveal()).ok());
        Ok(Backend {
            settings: tunnel.clone(),
            name: tunnel.name.clone(),
            timeout: options.timeout,
            headers: headers.collect(),
            subprotocols: options.subprotocols.clone(),
            endpoint: options.endpoint.clone(),
            answer_bytes_max,
            turns: Semaphore::new(options.in_flight_max as usize),
            client,
        })
    }

    /// The right to ask. Whoever has waited longest is next.
    pub async fn turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, TunnelFault> {
        match tokio::time::timeout_at(deadline, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(TunnelFault::NoTurn),
        }
    }

    /// POSTs until there is an answer, whatever it is, other than 429 and 503.
    pub async fn post(
        &self,
        body: Bytes,
        headers: &HeaderMap,
        patience: Patience,
    ) -> Result<Answered, TunnelFault> {
        let mut pause = PAUSE_FIRST;
        loop {
            let until = patience.deadline.min(Instant::now() + patience.each);
            let request = self.client.post(&self.endpoint).headers(headers.clone()).body(body.clone());
            let fault = match tokio::time::timeout_at(until, self.exchange(request)).await {
                Ok(Ok(answered)) if !is_tried_again(answered.status, patience) => return Ok(answered),
                Ok(Ok(answered)) => TunnelFault::Status(answered.status),
                Ok(Err(fault @ TunnelFault::Unreachable(_))) => fault,
                // There was an answer: asking again would be asking twice.
                Ok(Err(fault)) => return Err(fault),
                Err(_) => TunnelFault::Late,
            };
            if Instant::now() + pause >= patience.deadline {
                return Err(fault);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Answered, TunnelFault> {
        let response = request.send().await.map_err(|error| TunnelFault::Unreachable(deepest(&error)))?;
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).cloned();
        let body = match status.is_success() {
            true => read_body(response, self.answer_bytes_max).await.map_err(TunnelFault::Body)?,
            false => Bytes::new(),
        };
        Ok(Answered { status, kind, body })
    }
}

fn is_tried_again(status: StatusCode, patience: Patience) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        || patience.server_errors && status.is_server_error()
}
