//! Traces: which of them are sent, and where to.

use std::time::Duration;

use crate::config::authorities::Authorities;
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
