//! One hook: how its backend is asked, and how it is kept from being asked too much.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use reqwest::{Client, Response, Url};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::base::time::Time;
use crate::base::trace::{TRACEPARENT, TraceContext};
use crate::config;
use crate::config::WhenUnavailable;
use crate::config::hooks::{DISCONNECT_CODES, StatusCode, static_header};
use crate::control::hooks::breaker::{Breaker, BreakerChange, BreakerOptions, Round};
use crate::control::hooks::fault::{HookFault, quoted};
use crate::control::hooks::gate::{GateSlot, HookBudget, HookGate, Share};
use crate::control::hooks::metrics::HookMetrics;
use crate::control::hooks::wire::{self, HookEncoding};
use crate::control::outbound::{self, Reach, read_body, read_body_while};
use crate::session::hook_call::{Answer, Denied, HookCall, HookRequest};
use crate::telemetry::LogLimit;

/// Longest answer, in bytes. A thousand subscriptions with a kilobyte of data each fit; what is longer belongs into an
/// API call, not into the answer that a client waits for.
pub const ANSWER_BYTES_MAX: usize = 2 << 20;
/// What the answers of one hook that are being read may weigh together, in bytes.
pub const ANSWERS_BYTES_MAX: usize = config::memory::HOOK_ANSWERS_BYTES as usize;
/// What the hook calls that wait for one hook may weigh together, in bytes.
pub const WAITING_BYTES_MAX: usize = config::memory::HOOK_WAITING_BYTES as usize;
/// Before a hook call is asked again: a server that restarts needs a moment.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What is read of the body of an error, in bytes, and for how long: nobody wants it, but a connection whose answer was
/// read to the end can be used again.
const DRAIN_BYTES_MAX: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

pub struct HookClient {
    /// What it was made of.
    pub settings: config::Hook,
    pub name: String,
    pub metrics: HookMetrics,
    client: Client,
    url: Url,
    encoding: HookEncoding,
    /// Of every hook call.
    headers: HeaderMap,
    /// Names of the client's fields that go along, in lower case.
    forwards: Vec<HeaderName>,
    statuses: Vec<StatusCode>,
    timeout: Duration,
    wait_timeout: Duration,
    retries: u32,
    slow: Option<Duration>,
    let_in: bool,
    breaker: Mutex<Breaker>,
    /// Wakes those in line when the breaker opens: they need not wait for their turn to be refused.
    opened: Notify,
    gate: Arc<HookGate>,
    /// Places in line, and what stands there, in bytes.
    line: Arc<HookBudget>,
    line_bytes: Arc<HookBudget>,
    /// Answers that are being read, in bytes.
    answers_bytes: Arc<HookBudget>,
    log: Mutex<LogLimit>,
    started: Instant,
}

/// The right to be asked, now or later.
pub enum HookTurn {
    Now(GateSlot),
    Waits(HookPlace),
}

/// A place in line.
pub struct HookPlace {
    hook: Arc<HookClient>,
    _place: Share,
    _bytes: Share,
}

impl Drop for HookPlace {
    fn drop(&mut self) {
        self.hook.metrics.waiting.dec();
    }
}

/// What the backend said, and with which HTTP status.
struct HookSaid {
    answer: Result<Answer, Denied>,
    status: u16,
}

impl HookClient {
    /// # Errors
    /// What is wrong with the hook's settings; the configuration's own checks have found it before.
    pub fn new(hook: &config::Hook, metrics: HookMetrics, started: Instant) -> Result<HookClient, String> {
        let options = &hook.options;
        let url: Url = options.endpoint.parse().map_err(|error| format!("endpoint: {error}"))?;
        let mut headers = HeaderMap::new();
        for text in &options.static_headers {
            let (name, value) = static_header(text.reveal())?;
            headers.append(name, value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Without this field any coding would be acceptable (RFC 9110 section 12.5.3), and answers are read as they come.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let forwards = options.forward_headers.iter().map(|name| name.parse());
        let reach = Reach {
            endpoint: url.as_str(),
            http2: options.http2,
            authorities: options.ca_file.as_ref(),
            idle_max: options.in_flight_max as usize,
        };
        metrics.limit.set(i64::from(options.in_flight_max));
        Ok(HookClient {
            settings: hook.clone(),
            name: hook.name.clone(),
            metrics,
            client: outbound::client(reach).map_err(|error| outbound::deepest(&error))?,
            url,
            encoding: HookEncoding {
                include_connection_meta: options.include_connection_meta,
                binary: options.binary_encoding,
            },
            headers,
            forwards: forwards.collect::<Result<_, _>>().map_err(|_| "forward_headers: not a name")?,
            statuses: options.status_codes.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            timeout: options.timeout,
            wait_timeout: options.wait_timeout,
            retries: options.retries,
            slow: options.breaker_slow,
            let_in: options.when_unavailable == WhenUnavailable::LetIn,
            breaker: Mutex::new(Breaker::new(BreakerOptions {
                percent: options.breaker_percent,
                probe_interval: options.probe_interval,
            })),
            opened: Notify::new(),
            gate: HookGate::new(options.in_flight_max),
            line: HookBudget::new(options.wait_max as usize),
            line_bytes: HookBudget::new(WAITING_BYTES_MAX),
            answers_bytes: HookBudget::new(ANSWERS_BYTES_MAX),
            log: Mutex::new(LogLimit::default()),
            started,
        })
    }

    /// What becomes of a hook call that the backend does not answer.
    pub fn unavailable(&self) -> Denied {
        Denied::Unavailable { let_in: self.let_in }
    }

    pub fn lets_in(&self) -> bool {
        self.let_in
    }

    /// Lets a hook call in, to be asked at once or to wait in line; `None` when the line is full.
    pub fn enter(self: &Arc<Self>, hook_call: &HookCall) -> Option<HookTurn> {
        if let Some(slot) = self.gate.try_enter() {
            return Some(HookTurn::Now(slot));
        }
        let place = self.line.take(1)?;
        let bytes = self.line_bytes.take(wire::weight(hook_call))?;
        self.metrics.waiting.inc();
        Some(HookTurn::Waits(HookPlace { hook: Arc::clone(self), _place: place, _bytes: bytes }))
    }

    /// Waits for the hook call's turn, asks it, and tells breaker and gate how it went.
    pub async fn ask(
        self: &Arc<Self>,
        hook_call: &HookCall,
        turn: HookTurn,
        trace: Option<TraceContext>,
    ) -> Result<Result<Answer, Denied>, HookFault> {
        let (slot, round) = self.turn(turn).await?;
        let asked = self.now();
        let mut under_way = HookUnderWay { hook: Arc::clone(self), round, asked, over: false, _slot: slot };
        self.metrics.in_flight.inc();
        let outcome = match tokio::time::timeout(self.timeout, self.exchange(hook_call, trace)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HookFault::Timeout),
        };
        let (trouble, strain) = match &outcome {
            Ok(said) => {
                let status = HookFault::Status(said.status);
                (said.status != 200 && status.is_trouble(), status.is_strain())
            }
            Err(fault) => (fault.is_trouble(), fault.is_strain()),
        };
        under_way.end(trouble, strain);
        outcome.map(|said| said.answer)
    }

    /// The right to ask now: with a slot, or as the probe of an open breaker. A probe needs no slot: those that are out
    /// may be held by hook calls that hang.
    async fn turn(&self, turn: HookTurn) -> Result<(Option<GateSlot>, Round), HookFault> {
        // Made before the breaker is looked at, so that no opening is missed.
        let opened = self.opened.notified();
        {
            let mut breaker = self.breaker.lock();
            if breaker.is_open() {
                return breaker.admit(self.now()).map(|round| (None, round)).ok_or(HookFault::BreakerOpen);
            }
        }
        let since = self.now();
        let slot = match turn {
            HookTurn::Now(slot) => slot,
            HookTurn::Waits(_place) => tokio::select! {
                slot = self.gate.enter() => slot,
                () = opened => return Err(HookFault::BreakerOpen),
                () = tokio::time::sleep(self.wait_timeout) => return Err(HookFault::WaitTimeout),
            },
        };
        let now = self.now();
        self.metrics.waited.observe(now.since(since).as_secs_f64());
        let round = self.breaker.lock().admit(now).ok_or(HookFault::BreakerOpen)?;
        Ok((Some(slot), round))
    }

    /// The hook call and its answer over HTTP, asked again where that is safe.
    async fn exchange(
        &self,
        hook_call: &HookCall,
        trace: Option<TraceContext>,
    ) -> Result<HookSaid, HookFault> {
        let body = Bytes::from(wire::encode(hook_call, self.encoding));
        let mut headers = self.headers_for(hook_call);
        if let Some(trace) = trace
            && let Ok(value) = HeaderValue::from_str(&trace.to_string())
        {
            headers.insert(TRACEPARENT, value);
        }
        let mut retries = self.retries;
        loop {
            let outcome = self.post(body.clone(), headers.clone(), &hook_call.hook_request).await;
            let again = match &outcome {
                // Nothing was sent.
                Err(HookFault::Unreachable(_)) => true,
                Err(HookFault::Closed(_)) => wire::is_repeatable(&hook_call.hook_request),
                _ => false,
            };
            if !again || retries == 0 {
                return outcome;
            }
            retries -= 1;
            self.metrics.retries.inc();
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn post(
        &self,
        body: Bytes,
        headers: HeaderMap,
        hook_request: &HookRequest,
    ) -> Result<HookSaid, HookFault> {
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let response = request.send().await.map_err(|error| HookFault::of_request(&error))?;
        let status = response.status().as_u16();
        if status == 200 {
            let coding = response.headers().get(header::CONTENT_ENCODING);
            if let Some(coding) = coding.filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
            {
                let coding = quoted(&String::from_utf8_lossy(coding.as_bytes()));
                drain(response).await;
                let what =
                    format!("is compressed ({coding}), which was not asked for: Accept-Encoding is identity");
                return Err(HookFault::WrongShape(what));
            }
            let mut share = self.answers_bytes.take(0).ok_or(HookFault::TooLong)?;
            let body = read_body_while(response, ANSWER_BYTES_MAX, |more| share.grow(more)).await;
            let body = body.map_err(|fault| HookFault::of_body(&fault))?;
            return Ok(HookSaid { answer: wire::decode(hook_request, &body)?, status });
        }
        drain(response).await;
        match self.statuses.iter().find(|rule| rule.status == status) {
            Some(rule) => Ok(HookSaid { answer: Err(denied(rule)), status }),
            None if (300..400).contains(&status) => Err(HookFault::Redirect(status)),
            None => Err(HookFault::Status(status)),
        }
    }

    fn headers_for(&self, hook_call: &HookCall) -> HeaderMap {
        let mut headers = self.headers.clone();
        let Some(own) = &hook_call.caller.headers else { return headers };
        for forward in &self.forwards {
            let values = own.iter().filter(|(name, _)| name.eq_ignore_ascii_case(forward.as_str()));
            let mut first = true;
            // A value that no header may have was none when it came in.
            for value in values.filter_map(|(_, value)| HeaderValue::from_bytes(value).ok()) {
                if std::mem::take(&mut first) {
                    headers.insert(forward, value);
                } else {
                    headers.append(forward, value);
                }
            }
        }
        headers
    }

    /// Logs `fault`, once for each cause and minute.
    pub fn log(&self, kind: &'static str, fault: &HookFault) {
        if let Some(held_back) = self.log.lock().allow(fault.cause(), self.now()) {
            let (hook, cause) = (&self.name, fault.cause());
            tracing::warn!(hook, kind, cause, held_back, "hook: {fault}");
        }
    }

    fn take_change(&self, change: BreakerChange) {
        let (cause, open) = match change {
            BreakerChange::Opened => ("breaker opened", true),
            BreakerChange::Closed => ("breaker closed", false),
        };
        self.metrics.open.set(i64::from(open));
        if open {
            self.metrics.opened.inc();
            self.opened.notify_waiters();
        }
        if let Some(held_back) = self.log.lock().allow(cause, self.now()) {
            let hook = &self.name;
            if open {
                tracing::warn!(
                    hook,
                    held_back,
                    "hook: the backend is taken for down; it is asked now and then"
                );
            } else {
                tracing::info!(hook, held_back, "hook: the backend answers again");
            }
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }
}

/// A hook call that the backend has. Dropped early, it was cancelled.
struct HookUnderWay {
    hook: Arc<HookClient>,
    round: Round,
    asked: Time,
    over: bool,
    _slot: Option<GateSlot>,
}

impl HookUnderWay {
    fn end(&mut self, trouble: bool, strain: bool) {
        self.over = true;
        let hook = &self.hook;
        let now = hook.now();
        let took = now.since(self.asked);
        hook.metrics.answered.observe(took.as_secs_f64());
        let slow = self.is_slow(took);
        let change = hook.breaker.lock().record(self.round, !trouble && !slow, now);
        if let Some(change) = change {
            hook.take_change(change);
        }
        if strain || slow {
            hook.gate.strained(self.asked, now);
        } else if !trouble {
            hook.gate.well();
        }
        hook.metrics.limit.set(i64::from(hook.gate.limit()));
    }

    fn is_slow(&self, took: Duration) -> bool {
        self.hook.slow.is_some_and(|slow| took > slow)
    }
}

impl Drop for HookUnderWay {
    fn drop(&mut self) {
        let hook = &self.hook;
        hook.metrics.in_flight.dec();
        let now = hook.now();
        // A client that lost its patience says nothing about the backend, unless the backend was slow by then already.
        if !self.over && self.is_slow(now.since(self.asked)) {
            let change = hook.breaker.lock().record(self.round, false, now);
            if let Some(change) = change {
                hook.take_change(change);
            }
        }
    }
}

fn denied(rule: &StatusCode) -> Denied {
    if DISCONNECT_CODES.contains(&rule.code) {
        return Denied::Disconnect(Disconnect { code: rule.code, reason: rule.message.clone().into() });
    }
    Denied::Error { code: rule.code, message: rule.message.as_str().into(), temporary: rule.temporary }
}

async fn drain(response: Response) {
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, read_body(response, DRAIN_BYTES_MAX)).await;
}
