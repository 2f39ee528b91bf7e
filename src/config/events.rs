//! What the settings of events must satisfy, and what they say.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::base::event::{EventKind, EventKinds};
use crate::config::authorities::{NO_TLS, fits, is_http};
use crate::config::fault::Require;
use crate::config::hooks::static_header;
use crate::config::sections::{Config, EventSettings};
use crate::config::value::Size;

/// Longest a batch may take, and a channel may be empty untold: the log fills meanwhile.
const PATIENCE_MAX: Duration = Duration::from_secs(600);
/// Most events of a batch: it is a request body, and tried again whole.
const BATCH_MAX: usize = 10_000;
/// Below it a single event might not fit.
const LOG_BYTES_MIN: Size = Size::kib(4);

impl EventSettings {
    pub fn kinds(&self) -> EventKinds {
        self.types.iter().filter_map(|name| EventKind::from_name(name)).collect()
    }

    /// The further fields of every batch.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.static_headers.iter().filter_map(|header| static_header(header.reveal()).ok()).collect()
    }
}

/// Fields that every batch has of its own.
const OURS: [&str; 2] = ["idempotency-key", "x-trunkline-signature"];

pub(super) fn check_events(config: &Config, require: &mut Require<'_>) {
    let events = &config.events;
    for name in &events.types {
        let known = EventKind::ALL.map(EventKind::name).join(", ");
        let problem = format!("{name:?} is none of {known}");
        require(EventKind::from_name(name).is_some(), "events.types", &problem);
    }
    require(
        events.endpoint.is_none() || !events.types.is_empty(),
        "events.types",
        "is empty, and events.endpoint is set: name the events to be sent, or none is",
    );
    require(
        events.endpoint.as_deref().is_none_or(is_http),
        "events.endpoint",
        "must be a URL like \"http://127.0.0.1:3000/trunkline/events\"",
    );
    require(fits(&events.ca_file, events.endpoint.as_deref()), "events.ca_file", NO_TLS);
    require(
        (Duration::from_millis(1)..=PATIENCE_MAX).contains(&events.timeout),
        "events.timeout",
        "must be from 1ms to 10m",
    );
    require((1..=BATCH_MAX).contains(&events.batch_max), "events.batch_max", "must be from 1 to 10000");
    require(events.log_bytes_max >= LOG_BYTES_MIN, "events.log_bytes_max", "must be at least 4KiB");
    require(events.vacated_delay <= PATIENCE_MAX, "events.vacated_delay", "must be at most 10m");
    require(events.user_offline_delay <= PATIENCE_MAX, "events.user_offline_delay", "must be at most 10m");
    for header in &events.static_headers {
        match static_header(header.reveal()) {
            Ok((name, _)) => require(
                !OURS.contains(&name.as_str()),
                "events.static_headers",
                "must not name a field that every batch has of its own",
            ),
            Err(problem) => require(false, "events.static_headers", problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn problems(change: impl FnOnce(&mut EventSettings)) -> Vec<String> {
        let mut events = EventSettings {
            types: vec!["connected".into(), "message".into()],
            endpoint: Some("https://b.example.com/e?x=1".into()),
            ..EventSettings::default()
        };
        change(&mut events);
        let mut problems = Vec::new();
        check_events(&Config { events, ..Config::default() }, &mut |holds, key, problem| {
            if !holds {
                problems.push(format!("{key}: {problem}"));
            }
        });
        problems
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_name() {
        assert_eq!(problems(|_| {}), [""; 0]);
        assert_eq!(problems(|events| *events = EventSettings::default()), [""; 0], "off");
        type Change = fn(&mut EventSettings);
        let wrong: [(Change, &str); 11] = [
            (|e| e.types = vec!["connect".into()], "\"connect\" is none of connected, disconnected"),
            (|e| e.types = Vec::new(), "events.types: is empty"),
            (|e| e.endpoint = Some("backend:3000/x".into()), "events.endpoint: must be a URL"),
            (|e| e.timeout = Duration::ZERO, "events.timeout"),
            (|e| e.batch_max = 0, "events.batch_max"),
            (|e| e.log_bytes_max = Size(100), "events.log_bytes_max"),
            (|e| e.vacated_delay = Duration::from_secs(1000), "events.vacated_delay"),
            (|e| e.user_offline_delay = Duration::from_secs(1000), "events.user_offline_delay"),
            (|e| e.static_headers = vec![Secret::new("Content-Length: 1")], "must not name"),
            (|e| e.static_headers = vec![Secret::new("Idempotency-Key: 1")], "must not name"),
            (|e| e.static_headers = vec![Secret::new("hunter2")], "must be written like"),
        ];
        for (change, problem) in wrong {
            let found = problems(change);
            assert!(found.len() == 1 && found[0].contains(problem), "{problem}: {found:?}");
            assert!(!found[0].contains("hunter2"));
        }
    }

    #[test]
    fn settings_say_what_is_told_and_what_every_batch_carries() {
        let events = EventSettings {
            types: vec!["message".into(), "vacated".into()],
            static_headers: vec![Secret::new("Authorization:  Bearer a:b ")],
            ..EventSettings::default()
        };
        let kinds: Vec<_> =
            EventKind::ALL.into_iter().filter(|&kind| events.kinds().contains(kind)).collect();
        assert_eq!(kinds, [EventKind::Vacated, EventKind::Message]);
        let headers = events.headers();
        assert_eq!((headers[0].0.as_str(), headers[0].1.to_str().unwrap()), ("authorization", "Bearer a:b"));
    }
}
