//! What the settings of traces must satisfy.

use std::time::Duration;

use crate::config::authorities::{NO_TLS, fits, is_http};
use crate::config::fault::Require;
use crate::config::hooks::static_header;
use crate::config::sections::Config;

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
