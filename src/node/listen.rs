//! `trunkline subscribe`: a client in the terminal, by a stream of lines.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::base::address::{ListenAddress, Serves};
use crate::config::Config;
use crate::node::clock::unix_s;
use crate::node::orders::{api_of, reachable};
use crate::node::terminal::{LookFault, encoded, safe, tap_line};
use crate::node::upgrade::development;
use crate::session::token::{ConnectToken, TokenBasis, sign_connect};

/// A stream is silent for less: heartbeats come with the pings of other clients.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the token holds that is made for one connection.
const TOKEN_S: u64 = 24 * 3600;
/// Longest line that is read: no message is longer.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What one stream came to.
enum Ended {
    Enough,
    /// To be opened again.
    Broken,
}

/// Prints messages until there are `count`, or nobody reads them.
pub fn run(
    config: &Config,
    channels: &[String],
    user: &str,
    mut count: Option<u64>,
    json: bool,
) -> Result<(), LookFault> {
    let mut position = None;
    let mut opened = false;
    loop {
        match listen(config, channels, user, &mut position, &mut count, json) {
            Ok(Ended::Enough) => return Ok(()),
            Ok(Ended::Broken) => opened = true,
            // It was there: it may come back.
            Err(LookFault::Unasked(_)) if opened => {}
            Err(fault) => return Err(fault),
        }
        thread::sleep(PAUSE);
    }
}

fn listen(
    config: &Config,
    channels: &[String],
    user: &str,
    position: &mut Option<String>,
    count: &mut Option<u64>,
    json: bool,
) -> Result<Ended, LookFault> {
    let unasked = |problem: String| LookFault::Unasked(problem);
    let listeners = config.listeners();
    let mut plain = listeners.iter().filter(|l| l.serves != Serves::Api && l.is_plain());
    let Some(listener) = plain.next() else {
        return Err(unasked("clients are served nowhere without TLS or a proxy".into()));
    };
    let mut query: Vec<String> = channels.iter().map(|name| format!("channel={}", encoded(name))).collect();
    query.extend(position.iter().map(|position| format!("position={}", encoded(position))));
    let token = token(config, channels, user)?;
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    // Of this version, so that the stream comes as it is, without chunks.
    let request =
        format!("GET /stream?{} HTTP/1.0\r\nHost: localhost\r\n{authorization}\r\n", query.join("&"));
    let at = &match config.is_development() {
        true => development::find(config).map_err(unasked)?.clients,
        false => listener.address.clone(),
    };
    let failed = |error: io::Error| unasked(format!("no node answers at {at}: {error}"));
    match at {
        ListenAddress::Tcp(address) => {
            let stream = TcpStream::connect(reachable(*address)).map_err(failed)?;
            stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
            follow(stream, &request, position, count, json)
        }
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
            follow(stream, &request, position, count, json)
        }
    }
}

/// `trunkline tap`: prints what is seen until there are `count` lines, or the node ends it.
pub fn tap(
    config: &Config,
    by: &str,
    whom: &str,
    payloads: bool,
    count: Option<u64>,
    json: bool,
) -> Result<(), LookFault> {
    let (at, key) = api_of(config).map_err(LookFault::Unasked)?;
    let failed = |error: io::Error| LookFault::Unasked(format!("no node answers at {at}: {error}"));
    let request = format!(
        "GET /api/tap?{by}={}&payloads={payloads} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\n\r\n",
        encoded(whom),
        key.reveal()
    );
    match &at {
        ListenAddress::Tcp(address) => {
            watch(TcpStream::connect(reachable(*address)).map_err(failed)?, &request, count, json)
        }
        ListenAddress::Unix(path) => watch(UnixStream::connect(path).map_err(failed)?, &request, count, json),
    }
}

fn watch(
    stream: impl Read + Write,
    request: &str,
    mut count: Option<u64>,
    json: bool,
) -> Result<(), LookFault> {
    let mut lines = opened(stream, request)?;
    let mut line = String::new();
    while count != Some(0) && matches!(next(&mut lines, &mut line), Ok(true)) {
        let Ok(said) = serde_json::from_str::<Value>(line.trim()) else { continue };
        let shown = if json { format!("{said}\n") } else { tap_line(&said) };
        let mut out = io::stdout().lock();
        // A reader that has gone wants no more.
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            break;
        }
        count = count.map(|left| left - 1);
    }
    Ok(())
}

/// Who listens, where the configuration can say it; else an anonymous client.
fn token(config: &Config, channels: &[String], user: &str) -> Result<Option<String>, LookFault> {
    let token = &config.client.token;
    let Some(secret) = &token.hmac_secret else {
        return match user {
            "" => Ok(None),
            _ => Err(LookFault::Unasked("a user needs client.token.hmac_secret, to sign a token".into())),
        };
    };
    let basis = TokenBasis {
        user,
        expires_at_s: Some(unix_s() + TOKEN_S),
        audience: token.audience.as_deref(),
        issuer: token.issuer.as_deref(),
        ..TokenBasis::default()
    };
    let connect = ConnectToken { basis, channels, ..ConnectToken::default() };
    let signed = sign_connect(secret.reveal().as_bytes(), &connect);
    signed.map(Some).map_err(|fault| LookFault::Unasked(format!("no token could be signed: {fault}")))
}

fn follow(
    stream: impl Read + Write,
    request: &str,
    position: &mut Option<String>,
    count: &mut Option<u64>,
    json: bool,
) -> Result<Ended, LookFault> {
    let mut lines = opened(stream, request)?;
    let mut line = String::new();
    // A stream that breaks is opened again where it was.
    while matches!(next(&mut lines, &mut line), Ok(true)) {
        let Ok(said) = serde_json::from_str::<Value>(line.trim()) else { continue };
        if let Some(now) = said["position"].as_str() {
            *position = Some(now.to_owned());
        }
        if said["disconnect"].is_object() {
            let why = &said["disconnect"];
            return match why["reconnect"] == true {
                true => Ok(Ended::Broken),
                false => Err(LookFault::Refused(format!("{}: {}", why["code"], why["reason"]))),
            };
        }
        if !show(&said, json) {
            return Ok(Ended::Enough);
        }
        if said["channel"].is_string()
            && let Some(left) = count
        {
            *left -= 1;
            if *left == 0 {
                return Ok(Ended::Enough);
            }
        }
    }
    Ok(Ended::Broken)
}

/// The lines behind the head of an answer.
///
/// # Errors
/// When it is none, or says anything but 200.
fn opened<S: Read + Write>(mut stream: S, request: &str) -> Result<BufReader<S>, LookFault> {
    let broken = |error: io::Error| LookFault::Unasked(format!("the connection broke: {error}"));
    stream.write_all(request.as_bytes()).map_err(broken)?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    let status = next(&mut lines, &mut line).map_err(broken)?.then(|| line.split(' ').nth(1)).flatten();
    let status = status.unwrap_or("no HTTP").to_owned();
    while next(&mut lines, &mut line).map_err(broken)? && !line.trim_end().is_empty() {}
    if status != "200" {
        let mut body = String::new();
        let _ = lines.take(1 << 16).read_to_string(&mut body);
        let problem = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().map_or(body, str::to_owned);
        return Err(LookFault::Refused(format!("{status}: {detail}")));
    }
    Ok(lines)
}

/// False at the end.
fn next(lines: &mut impl io::BufRead, line: &mut String) -> io::Result<bool> {
    line.clear();
    Ok(lines.take(LINE_BYTES_MAX).read_line(line)? > 0)
}

/// False when nobody reads.
fn show(said: &Value, json: bool) -> bool {
    let line = match (json, said["channel"].as_str(), said["reset"].as_str()) {
        (true, ..) => format!("{said}\n"),
        (false, Some(channel), _) => {
            let offset = said["offset"].as_u64().map_or_else(String::new, |offset| format!(" {offset}"));
            format!("{}{offset}  {}\n", safe(channel), safe(&said["data"].to_string()))
        }
        (false, None, Some(channel)) => format!("{}  something was missed\n", safe(channel)),
        (false, None, None) => return true,
    };
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
}
