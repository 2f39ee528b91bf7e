//! What the settings of tunnels must satisfy.

use std::collections::BTreeSet;
use std::time::Duration;

use http::HeaderName;

use crate::config::authorities::{NO_TLS, fits, is_http};
use crate::config::fault::Require;
use crate::config::hooks::static_header;
use crate::config::sections::{Config, TunnelSettings};
use crate::config::value::Size;

/// Longest that one message may take. No backend that takes longer can be spoken with.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Tunnels of one node: each has a pool of connections of its own.
const TUNNELS_MAX: usize = 64;
/// Most that one client may have waiting, in bytes: a crowd of them must still fit into the machine.
const BYTES_WAITING_MAX: Size = Size::mib(16);

/// Checks every `[[tunnel]]`.
pub(super) fn check_tunnels(config: &Config, require: &mut Require<'_>) {
    require(config.tunnel.len() <= TUNNELS_MAX, "tunnel", &format!("at most {TUNNELS_MAX}"));
    let mut names = BTreeSet::new();
    for (at, tunnel) in config.tunnel.iter().enumerate() {
        let path = format!("tunnel[{at}]");
        let well_named = (1..=64).contains(&tunnel.name.len())
            && tunnel.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let name = format!("{path}.name");
        require(
            well_named,
            &name,
            "must be 1 to 64 letters, digits, \"-\", \"_\" and \".\": it stands in a path",
        );
        require(names.insert(&tunnel.name), &name, "is the name of an earlier tunnel too");
        let TunnelSettings {
            endpoint,
            timeout,
            http2: _,
            ca_file,
            forward_headers,
            static_headers,
            subprotocols,
            messages_waiting_max,
            bytes_waiting_max,
            in_flight_max,
        } = &tunnel.options;
        let mut require = |holds, key, problem: &str| require(holds, &format!("{path}.{key}"), problem);
        require(
            is_http(endpoint),
            "endpoint",
            "must be an http or https URL, like \"http://127.0.0.1:3000/game\"",
        );
        require(fits(ca_file, Some(endpoint)), "ca_file", NO_TLS);
        require(
            *timeout > Duration::ZERO && *timeout <= TIMEOUT_MAX,
            "timeout",
            "must be above 0s and at most 60s",
        );
        require(
            forward_headers.iter().all(|name| HeaderName::try_from(name).is_ok()),
            "forward_headers",
            "each must be the name of a header field",
        );
        for text in static_headers {
            match static_header(text.reveal()) {
                Ok((name, _)) => {
                    let ours = name.as_str().starts_with("x-trunkline-");
                    require(!ours, "static_headers", "must not name a field that this daemon sets itself");
                }
                Err(problem) => require(false, "static_headers", problem),
            }
        }
        require(
            // The same characters as in a field's name (RFC 6455 section 4.1).
            subprotocols.iter().all(|name| HeaderName::try_from(name).is_ok()),
            "subprotocols",
            "each must be one word without separators",
        );
        require((1..=4096).contains(messages_waiting_max), "messages_waiting_max", "must be from 1 to 4096");
        require(
            (Size(1)..=BYTES_WAITING_MAX).contains(bytes_waiting_max),
            "bytes_waiting_max",
            "must be from 1 to 16MiB",
        );
        require((1..=65_536).contains(in_flight_max), "in_flight_max", "must be from 1 to 65536");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load::{Sources, load};

    fn faults(entry: &str) -> Vec<String> {
        let text = format!("[[tunnel]]\nname = \"x\"\nendpoint = \"http://127.0.0.1:1/\"\n{entry}");
        let sources = Sources { file: Some(("t.toml".to_string(), text)), ..Sources::default() };
        load(&sources).map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn a_tunnel_needs_a_name_and_an_endpoint() {
        let well = "forward_headers = [\"Cookie\"]\nstatic_headers = [\"Authorization: Bearer x:y\"]\n\
                    subprotocols = [\"chat.v2\"]\ntimeout = \"60s\"\nhttp2 = true\n";
        assert_eq!(faults(well), [""; 0]);
        for (entry, key) in [
            ("[[tunnel]]\nname = \"x\"\nendpoint = \"http://h/\"", "tunnel[1].name"),
            ("[[tunnel]]\nname = \"a/b\"\nendpoint = \"http://h/\"", "tunnel[1].name"),
            ("[[tunnel]]\nendpoint = \"http://h/\"", "tunnel[1].name"),
            ("[[tunnel]]\nname = \"y\"", "tunnel[1].endpoint"),
            ("[[tunnel]]\nname = \"y\"\nendpoint = \"ftp://h/\"", "tunnel[1].endpoint"),
            ("[[tunnel]]\nname = \"y\"\nendpoint = \"/path\"", "tunnel[1].endpoint"),
            ("timeout = \"0s\"", "tunnel[0].timeout"),
            ("timeout = \"61s\"", "tunnel[0].timeout"),
            ("forward_headers = [\"a b\"]", "tunnel[0].forward_headers"),
            ("static_headers = [\"hunter2\"]", "tunnel[0].static_headers"),
            ("static_headers = [\"Host: hunter2\"]", "tunnel[0].static_headers"),
            ("static_headers = [\"X-Trunkline-User: hunter2\"]", "tunnel[0].static_headers"),
            ("static_headers = [\"x: hunter2\\u0001\"]", "tunnel[0].static_headers"),
            ("subprotocols = [\"a,b\"]", "tunnel[0].subprotocols"),
            ("messages_waiting_max = 0", "tunnel[0].messages_waiting_max"),
            ("bytes_waiting_max = \"17MiB\"", "tunnel[0].bytes_waiting_max"),
            ("in_flight_max = 0", "tunnel[0].in_flight_max"),
        ] {
            let faults = faults(entry).join("\n");
            assert!(faults.contains(key), "{entry}: {faults}");
            assert!(!faults.contains("hunter2"), "a secret is not shown: {faults}");
        }
    }
}
