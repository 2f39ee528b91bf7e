//! The flags of Centrifugo, versions 5 and 6, among ours on the command line.

use std::ffi::OsString;

/// Names without dashes, and their values, in order.
pub type TheirFlags = Vec<(String, String)>;

/// Flags that take a value.
const VALUED: [&str; 32] = [
    "pid_file",
    "http_server.address",
    "http_server.port",
    "http_server.internal_address",
    "http_server.internal_port",
    "engine.type",
    "broker.type",
    "presence_manager.type",
    "map_broker.type",
    "log.level",
    "log.file",
    "grpc_api.port",
    "uni_grpc.port",
    "engine",
    "broker",
    "log_level",
    "log_file",
    "name",
    "address",
    "port",
    "internal_address",
    "internal_port",
    "tls_cert",
    "tls_key",
    "redis_address",
    "tarantool_address",
    "nats_url",
    "grpc_api_port",
    "grpc_api_tls_cert",
    "grpc_api_tls_key",
    "uni_grpc_port",
    "gomaxprocs",
];

/// Flags that are on when they are there.
const SWITCHES: [&str; 46] = [
    "broker.enabled",
    "presence_manager.enabled",
    "debug.enabled",
    "admin.enabled",
    "admin.external",
    "prometheus.enabled",
    "swagger.enabled",
    "health.enabled",
    "dev.enabled",
    "uni_websocket.enabled",
    "uni_sse.enabled",
    "uni_http_stream.enabled",
    "sse.enabled",
    "http_stream.enabled",
    "init.enabled",
    "client.insecure",
    "http_api.insecure",
    "http_api.external",
    "admin.insecure",
    "grpc_api.enabled",
    "uni_grpc.enabled",
    "debug",
    "admin",
    "admin_external",
    "client_insecure",
    "admin_insecure",
    "api_insecure",
    "api_external",
    "tls",
    "tls_external",
    "prometheus",
    "health",
    "grpc_api",
    "grpc_api_tls",
    "grpc_api_tls_disable",
    "sockjs",
    "uni_grpc",
    "uni_websocket",
    "uni_sse",
    "uni_http_stream",
    "sse",
    "http_stream",
    "swagger",
    "webtransport",
    "http3",
    "rpc_ping",
];

/// Takes the flags of Centrifugo out of a command line that has `--centrifugo`, or imports.
///
/// # Errors
/// The name of a flag without its value.
pub fn split(arguments: Vec<OsString>) -> Result<(Vec<OsString>, TheirFlags), String> {
    let text = |argument: &OsString| argument.to_str().map(str::to_string);
    let names_theirs = |argument: &OsString| {
        text(argument).is_some_and(|text| text.split('=').next() == Some("--centrifugo"))
    };
    let imports = arguments.get(1).and_then(text).as_deref() == Some("import");
    if !imports && !arguments.iter().any(names_theirs) {
        return Ok((arguments, TheirFlags::new()));
    }
    let (mut ours, mut theirs) = (Vec::new(), TheirFlags::new());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let whole = text(&argument).unwrap_or_default();
        let (name, value) = match whole.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (whole.as_str(), None),
        };
        let name = match name {
            "-a" => "address",
            "-p" => "port",
            name => name.strip_prefix("--").unwrap_or(""),
        };
        if SWITCHES.contains(&name) {
            theirs.push((name.to_string(), value.unwrap_or_else(|| "true".to_string())));
        } else if VALUED.contains(&name) {
            let value = value.or_else(|| rest.next().and_then(|value| text(&value)));
            theirs.push((name.to_string(), value.ok_or_else(|| format!("--{name} needs a value"))?));
        } else {
            // A value of ours is never taken for a flag of theirs.
            let takes_next = matches!(name, "centrifugo" | "allow-missing") && value.is_none();
            ours.push(argument);
            if takes_next {
                ours.extend(rest.next());
            }
        }
    }
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::centrifugo::keys::{KEYS, find};
    use crate::config::centrifugo::old_path;

    fn cut(line: &str) -> Result<(Vec<String>, TheirFlags), String> {
        let (ours, theirs) = split(line.split(' ').map(OsString::from).collect())?;
        Ok((ours.into_iter().map(|text| text.into_string().unwrap()).collect(), theirs))
    }

    #[test]
    fn their_flags_are_taken_out_of_a_line_that_names_them() {
        let line =
            "trunkline --centrifugo c.json --health --port 9000 --driver mio -a 127.0.0.1 --admin=false";
        let (ours, theirs) = cut(line).unwrap();
        assert_eq!(ours, ["trunkline", "--centrifugo", "c.json", "--driver", "mio"]);
        let pair = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
        let expected =
            [("health", "true"), ("port", "9000"), ("address", "127.0.0.1"), ("admin", "false")].map(pair);
        assert_eq!(theirs, expected);
        assert_eq!(cut("trunkline --port 1").unwrap().0.len(), 3, "without it they are none");
        let (ours, theirs) =
            cut("trunkline import centrifugo --port=1 c.json --allow-missing grpc_api").unwrap();
        assert_eq!(ours, ["trunkline", "import", "centrifugo", "c.json", "--allow-missing", "grpc_api"]);
        assert_eq!(theirs, [pair(("port", "1"))]);
        assert_eq!(cut("trunkline --centrifugo=c --port"), Err("--port needs a value".into()));
    }

    #[test]
    fn every_flag_is_a_key() {
        for name in VALUED.iter().chain(&SWITCHES) {
            assert!(find(KEYS, name).is_some() || old_path(name).is_some(), "{name}");
        }
    }
}
