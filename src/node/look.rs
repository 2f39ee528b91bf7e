//! Looks at a node that runs, by its API, and prints what is seen: for people, or as JSON.
//!
//! Names of users and channels are strangers' texts: what a terminal would act on is escaped.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::config::Config;
use crate::config::look::{Look, LookTask};
use crate::config::orders::NodeCommand;
use crate::node::terminal::{LookFault, encoded, moment, safe, text};
use crate::node::{listen, orders};

/// Most entries that are asked for at a time.
const PAGE: usize = 1000;

/// Exit code 0: done. 1: the node has refused. 2: it could not be asked.
pub fn run(task: &LookTask) -> ExitCode {
    let done = match &task.look {
        Look::Subscribe { channels, user, count } => {
            listen::run(&task.config, channels, user, *count, task.json)
        }
        Look::Tap { by, whom, payloads, count } => {
            listen::tap(&task.config, by, whom, *payloads, *count, task.json)
        }
        Look::Top { every, rounds } => top(task, *every, *rounds),
        _ => once(task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(LookFault::Refused(problem)) => {
            let _ = writeln!(io::stderr().lock(), "error: {}", safe(&problem));
            ExitCode::FAILURE
        }
        Err(LookFault::Unasked(problem)) => {
            let _ = writeln!(io::stderr().lock(), "error: {}", safe(&problem));
            ExitCode::from(2)
        }
    }
}

fn once(task: &LookTask) -> Result<(), LookFault> {
    let (config, json) = (&task.config, task.json);
    match &task.look {
        Look::Status => {
            let status = get(config, "/api/status")?;
            print(if json { format!("{status}\n") } else { status_text(&status) });
        }
        Look::Why { user, client, code, since, limit } => {
            let mut query = String::new();
            let mut add = |name: &str, value: &str| {
                let _ = write!(query, "&{name}={}", encoded(value));
            };
            user.iter().for_each(|user| add("user", user));
            client.iter().for_each(|client| add("client", client));
            code.iter().for_each(|code| add("code", &code.to_string()));
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let since = since.map(|since| now_ms.saturating_sub(since.as_millis()));
            since.iter().for_each(|since| add("since_ms", &since.to_string()));
            let page = |cursor: Option<&str>, limit: usize| {
                let cursor = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
                get(config, &format!("/api/closed?limit={limit}{cursor}{query}"))
            };
            pages("closed", *limit, page, |end| {
                print(if json { format!("{end}\n") } else { end_line(end) })
            })?;
        }
        Look::Connections { user, channel, address, limit } => {
            let page = |cursor: Option<&str>, limit: usize| {
                let body = json!({
                    "user": user, "channel": channel, "address": address, "limit": limit, "cursor": cursor,
                });
                post(config, "/api/connections", &body)
            };
            pages("connections", *limit, page, |seen| {
                print(if json { format!("{seen}\n") } else { connection_line(seen) });
            })?;
        }
        Look::Channels { pattern, limit } => {
            let page = |cursor: Option<&str>, limit: usize| {
                let body =
                    json!({ "pattern": pattern, "limit": limit, "cursor": cursor.unwrap_or_default() });
                let answer = result(post(config, "/api/channels", &body)?)?;
                let named = answer["channels"].as_object().into_iter().flatten().map(|(name, size)| {
                    let mut entry = size.clone();
                    entry["channel"] = name.as_str().into();
                    entry
                });
                Ok(json!({ "channels": named.collect::<Vec<_>>(), "cursor": answer["cursor"] }))
            };
            pages("channels", *limit, page, |seen| {
                print(if json { format!("{seen}\n") } else { channel_line(seen) });
            })?;
        }
        Look::Publish { channel, data } => {
            let data = match data {
                Some(data) => data.clone(),
                None => {
                    let mut data = String::new();
                    let read = io::stdin().lock().read_to_string(&mut data);
                    read.map_err(|error| LookFault::Unasked(format!("standard input: {error}")))?;
                    data
                }
            };
            let data: Value = serde_json::from_str(&data)
                .map_err(|error| LookFault::Unasked(format!("the data is not JSON: {error}")))?;
            let answer = post(config, "/api/publish", &json!({ "channel": channel, "data": data }))?;
            let position = result(answer)?;
            print(match json {
                true => format!("{position}\n"),
                false => format!("offset {} epoch {}\n", position["offset"], text(&position["epoch"])),
            });
        }
        Look::Top { .. } | Look::Subscribe { .. } | Look::Tap { .. } => unreachable!("these go on"),
    }
    Ok(())
}

/// Prints entries page by page until there are enough.
fn pages(
    name: &str,
    limit: usize,
    page: impl Fn(Option<&str>, usize) -> Result<Value, LookFault>,
    mut show: impl FnMut(&Value),
) -> Result<(), LookFault> {
    let (mut cursor, mut left) = (None, limit);
    while left > 0 {
        let answer = page(cursor.as_deref(), left.min(PAGE))?;
        let entries = answer[name].as_array().map_or(&[][..], Vec::as_slice);
        entries.iter().for_each(&mut show);
        left = left.saturating_sub(entries.len());
        match answer["cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    Ok(())
}

fn top(task: &LookTask, every: Duration, rounds: Option<u64>) -> Result<(), LookFault> {
    let mut before = get(&task.config, "/api/status")?;
    let mut round = 0;
    loop {
        thread::sleep(every);
        let now = get(&task.config, "/api/status")?;
        let busiest = get(&task.config, "/api/busiest")?;
        let screen = match task.json {
            true => {
                format!("{}\n", json!({ "rates": rates(&before, &now), "status": now, "busiest": busiest }))
            }
            false => format!("\x1b[H\x1b[J{}", top_text(&before, &now, &busiest)),
        };
        // A reader that has gone wants no more.
        if io::stdout().lock().write_all(screen.as_bytes()).is_err() {
            return Ok(());
        }
        let _ = io::stdout().flush();
        before = now;
        round += 1;
        if rounds == Some(round) {
            return Ok(());
        }
    }
}

// --- asking

fn get(config: &Config, path: &str) -> Result<Value, LookFault> {
    call(config, NodeCommand { method: "GET", path: path.to_owned().into(), body: String::new() })
}

fn post(config: &Config, path: &'static str, body: &Value) -> Result<Value, LookFault> {
    call(config, NodeCommand { method: "POST", path: path.into(), body: body.to_string() })
}

fn call(config: &Config, order: NodeCommand) -> Result<Value, LookFault> {
    let (status, body) = orders::ask(config, &order).map_err(LookFault::Unasked)?;
    let answer = serde_json::from_str::<Value>(&body);
    match (status, answer) {
        (200..300, Ok(answer)) => Ok(answer),
        (200..300, Err(error)) => Err(LookFault::Unasked(format!("the answer is not JSON: {error}"))),
        (status, answer) => {
            let detail = answer.ok().and_then(|answer| Some(answer["detail"].as_str()?.to_owned()));
            Err(LookFault::Refused(format!("{status}: {}", detail.unwrap_or(body))))
        }
    }
}

/// What stands in `result`.
fn result(mut answer: Value) -> Result<Value, LookFault> {
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => {
            let error = &answer["error"];
            Err(LookFault::Refused(format!("{}: {}", error["code"], text(&error["message"]))))
        }
    }
}

// --- printing

fn print(text: impl AsRef<str>) {
    // A reader that has seen enough is no failure.
    let _ = io::stdout().lock().write_all(text.as_ref().as_bytes());
}

fn end_line(end: &Value) -> String {
    let mut line = format!(
        "{}  {} {:?}  by {}",
        moment(end["time_ms"].as_u64().unwrap_or(0)),
        end["code"],
        text(&end["reason"]),
        text(&end["by"]),
    );
    let _ = write!(
        line,
        "  user {:?} client {} {}",
        text(&end["user"]),
        text(&end["client"]),
        text(&end["transport"])
    );
    if let Some(address) = end["address"].as_str() {
        let _ = write!(line, " from {}", safe(address));
    }
    if let Some(ms) = end["duration_ms"].as_u64() {
        let _ = write!(line, "  after {}", span(ms));
    }
    for (key, name) in [("received_bytes", "received"), ("sent_bytes", "sent")] {
        if let Some(bytes) = end[key].as_u64() {
            let _ = write!(line, "  {name} {bytes} B");
        }
    }
    if let Some(owed @ 1..) = end["owed_bytes"].as_u64() {
        let _ = write!(line, "  owed {owed} B");
    }
    if let Some(ms) = end["ping_ms"].as_u64() {
        let _ = write!(line, "  ping {ms} ms");
    }
    line + "\n"
}

fn connection_line(seen: &Value) -> String {
    let mut line =
        format!("{}  {:?}  {}", text(&seen["client"]), text(&seen["user"]), text(&seen["transport"]));
    if let Some(address) = seen["address"].as_str() {
        let _ = write!(line, "  {}", safe(address));
    }
    if let Some(since) = seen["since_ms"].as_u64() {
        let _ = write!(line, "  since {}", moment(since));
    }
    let _ = write!(line, "  {} channels", seen["num_channels"]);
    if let Some(owed @ 1..) = seen["owed_bytes"].as_u64() {
        let _ = write!(line, "  owes {owed} B");
    }
    if let Some(ms) = seen["ping_ms"].as_u64() {
        let _ = write!(line, "  ping {ms} ms");
    }
    line + "\n"
}

fn channel_line(seen: &Value) -> String {
    let rate = seen["publications_per_second"].as_f64();
    let rate = rate.map_or_else(String::new, |rate| format!("  {rate:.1}/s"));
    format!(
        "{}  {} clients  {} in history ({} B)  offset {}{rate}\n",
        text(&seen["channel"]),
        seen["num_clients"],
        seen["history"],
        seen["history_bytes"],
        seen["offset"],
    )
}

fn status_text(status: &Value) -> String {
    let mut all = format!(
        "{} ({})  up {}  {}\n",
        text(&status["name"]),
        text(&status["version"]),
        span(status["uptime_s"].as_u64().unwrap_or(0) * 1000),
        if status["ready"] == true { "ready" } else { "not ready" },
    );
    for key in ["clients", "connections", "users", "channels", "subscriptions"] {
        let _ = writeln!(all, "{key:>16}  {}", status[key]);
    }
    let mib = |key: &str| status[key].as_u64().unwrap_or(0) as f64 / f64::from(1 << 20);
    let _ = writeln!(all, "{:>16}  {:.1} MiB", "memory", mib("resident_bytes"));
    let _ = writeln!(all, "{:>16}  {:.1} MiB", "clients' buffers", mib("client_buffers_bytes"));
    for shard in status["shards"].as_array().into_iter().flatten() {
        let _ = writeln!(
            all,
            "{:>16}  {} connections, {} clients, busy {} %",
            format!("shard {}", shard["shard"]),
            shard["connections"],
            shard["clients"],
            shard["busy_percent"],
        );
    }
    let faults = status["faults"].as_object().filter(|faults| !faults.is_empty());
    if let Some(faults) = faults {
        all.push_str("refused, closed or dropped since the start:\n");
        for (cause, count) in faults {
            let _ = writeln!(all, "{count:>16}  {}", safe(cause));
        }
    }
    all
}

/// What is shown of the totals, a second.
const RATES: [(&str, &str); 8] = [
    ("publications", "publications_total"),
    ("deliveries", "deliveries_total"),
    ("messages received", "messages_received_total"),
    ("sent bytes", "sent_bytes_total"),
    ("received bytes", "received_bytes_total"),
    ("connects", "clients_connected_total"),
    ("closes", "connections_closed_total"),
    ("hook calls", "questions_asked_total"),
];

fn rates(before: &Value, now: &Value) -> Value {
    let ms =
        now["time_ms"].as_u64().unwrap_or(0).saturating_sub(before["time_ms"].as_u64().unwrap_or(0)).max(1);
    let of = |key: &str| {
        let value = |status: &Value| status["totals"][key].as_u64().unwrap_or(0);
        value(now).saturating_sub(value(before)) as f64 * 1000.0 / ms as f64
    };
    RATES
        .iter()
        .map(|(name, key)| ((*name).to_owned(), of(key).into()))
        .collect::<serde_json::Map<_, Value>>()
        .into()
}

fn top_text(before: &Value, now: &Value, busiest: &Value) -> String {
    let mut all = status_text(now).lines().take_while(|line| !line.starts_with("refused")).fold(
        String::new(),
        |mut all, line| {
            let _ = writeln!(all, "{line}");
            all
        },
    );
    let rates = rates(before, now);
    for (name, rate) in rates.as_object().into_iter().flatten() {
        let _ = writeln!(all, "{name:>20}  {:.0}/s", rate.as_f64().unwrap_or(0.0));
    }
    for (list, name, rate) in
        [("channels", "channel", "publications_per_second"), ("users", "user", "commands_per_second")]
    {
        let entries = busiest[list].as_array().map_or(&[][..], Vec::as_slice);
        if !entries.is_empty() {
            let _ = writeln!(all, "busiest {list}:");
        }
        for entry in entries.iter().take(10) {
            let _ = writeln!(all, "{:>10.1}/s  {}", entry[rate].as_f64().unwrap_or(0.0), text(&entry[name]));
        }
    }
    all
}

/// "3d 4h", "2m 5s", "0.4s".
fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => format!("{:.1}s", ms as f64 / 1000.0),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_texts_do_nothing_to_a_terminal() {
        assert_eq!(safe("a\x1b[2Jb\u{9b}c\u{202e}d"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d");
        assert_eq!(text(&json!("a\nb")), "a\\nb");
        let end = json!({ "time_ms": 1_795_828_496_007_u64, "code": 3008, "reason": "slow", "by": "limit", "user": "\x1b]0;x\x07",
            "client": "c", "transport": "websocket", "owed_bytes": 7, "duration_ms": 61_000 });
        let line = end_line(&end);
        assert!(!line.contains('\x1b') && line.contains("3008 \"slow\"  by limit"), "{line}");
        assert!(line.contains("owed 7 B") && line.contains("after 1m 1s"), "{line}");
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(
            [0, 9_960, 59_000, 3_661_000, 90_000_000].map(span),
            ["0.0s", "10.0s", "59s", "1h 1m", "1d 1h"]
        );
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let at = |time_ms: u64, publications: u64| json!({ "time_ms": time_ms, "totals": { "publications_total": publications } });
        assert_eq!(rates(&at(1000, 5), &at(3000, 105))["publications"], 50.0);
        assert_eq!(rates(&at(1000, 5), &at(1000, 5))["publications"], 0.0);
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }
}
