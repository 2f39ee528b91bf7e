//! Traces: which of them are sent, and where to.

use std::time::Duration;

use crate::config::authorities::{Authorities, NO_TLS, fits, is_http};
use crate::config::fault::Require;
use crate::config::hooks::static_header;
use crate::config::sections::Config;
use crate::config::table::settings;
use crate::config::value::Secret;

settings! {
    /// Traces of publications, connects and hook calls (W3C `traceparent`, OpenTelemetry).
    pub struct Traces {
        /// Where spans are sent, by OTLP over HTTP in JSON; "/v1/traces" is put behind it. Unset: what OTEL_EXPORTER_OTLP_ENDPOINT says,
        /// and without that nothing is traced.
        pub endpoint: Option<String> = None, example "\"http://127.0.0.1:4318\"";
        /// The authorities of its certificate. Unset: those that this machine trusts.
        pub ca_file: Option<Authorities> = None, example "\"/etc/trunkline/ca.pem\"";
        /// Further header fields for it, like "Authorization: Bearer …".
        pub static_headers: Vec<Secret> = Vec::new(), example "[\"Authorization: Bearer abc\"]";
        /// How many of a million publications and connects whose senders say nothing of a trace begin one. What comes with
        /// `traceparent` is traced when its flag says so.
        pub sampled_per_million: u32 = 0;
        /// The `traceparent` of clients is taken. Off where strangers must not decide what is traced.
        pub from_clients: bool = true;
        /// How long the backend of traces may take for a batch.
        pub timeout: Duration = Duration::from_secs(10);
    }
}

pub(super) fn check_traces(config: &Config, require: &mut Require<'_>) {
    let traces = &config.traces;
    let good = traces.endpoint.as_deref().is_none_or(is_http);
    require(good, "traces.endpoint", "must be a URL like \"http://127.0.0.1:4318\"");
    require(fits(&traces.ca_file, traces.endpoint.as_deref()), "traces.ca_file", NO_TLS);
    let share = traces.sampled_per_million <= 1_000_000;
    require(share, "traces.sampled_per_million", "must be at most 1000000");
    require(
        (Duration::from_millis(1)..=Duration::from_secs(600)).contains(&traces.timeout),
        "traces.timeout",
        "must be from 1ms to 10m",
    );
    for header in &traces.static_headers {
        if let Err(problem) = static_header(header.reveal()) {
            require(false, "traces.static_headers", problem);
        }
    }
}
