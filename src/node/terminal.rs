//! What is written to a terminal, and why nothing could be. Names of users and channels are strangers' texts: what a terminal
//! would act on is escaped.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// Why a look came to nothing.
pub enum LookFault {
    /// The node refused it: exit code 1.
    Refused(String),
    /// The node could not be asked: exit code 2.
    Unasked(String),
}

/// For a query.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => all.push(byte.into()),
            _ => all.push_str(&format!("%{byte:02X}")),
        }
        all
    })
}

/// Without what a terminal would act on, or what changes the order of letters.
pub fn safe(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::new(), |mut all, c| {
        match acts(c) && c != '\n' {
            true => all.extend(c.escape_unicode()),
            false => all.push(c),
        }
        all
    })
}

/// Of one line.
pub fn text(value: &Value) -> String {
    safe(value.as_str().unwrap_or_default()).replace('\n', "\\n")
}

/// A line of a tap.
pub fn tap_line(said: &Value) -> String {
    let mut line = format!("{}  {:<11}", moment(said["time_ms"].as_u64().unwrap_or(0)), text(&said["what"]));
    let rest = said.as_object().into_iter().flatten();
    for (key, value) in rest.filter(|(key, _)| !matches!(key.as_str(), "time_ms" | "what" | "shard")) {
        let value = value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
        let _ = write!(line, "  {} {}", safe(key), safe(&value));
    }
    line + "\n"
}

/// "2026-11-28T01:02:03.004Z".
pub fn moment(ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(ms / 1000);
    let text =
        x509_cert::der::DateTime::from_system_time(at).map_or_else(|_| "?".into(), |time| time.to_string());
    format!("{}.{:03}Z", text.trim_end_matches('Z'), ms % 1000)
}
