//! Carries an order to a node that runs, by its API, and prints what it says.

use std::io::{self, Read as _, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use crate::base::address::{ListenAddress, Serves};
use crate::config::orders::{NodeCommand, OrderTask};
use crate::config::{Config, Secret};
use crate::node::upgrade::development;

/// How long the node may take. A reload waits for every shard.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes: a page of a thousand connections with their channels.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Exit code 1: the node has refused. 2: it could not be asked.
pub fn run(task: &OrderTask) -> ExitCode {
    match ask(&task.config, &task.order) {
        Ok((status, body)) => {
            // A reader that has seen enough is no failure.
            let _ = writeln!(io::stdout().lock(), "{}", body.trim_end());
            if (200..300).contains(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            let _ = writeln!(io::stderr().lock(), "error: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Status and body of the node's answer.
///
/// # Errors
/// Why there is none.
pub fn ask(config: &Config, order: &NodeCommand) -> Result<(u16, String), String> {
    let (address, key) = api_of(config)?;
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        order.method,
        order.path,
        key.reveal(),
        order.body.len(),
        order.body
    );
    let answer = exchange(&address, request.as_bytes());
    let answer = answer.map_err(|error| format!("no node answers at {address}: {error}"))?;
    let text = String::from_utf8_lossy(&answer);
    let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| format!("what answers at {address} does not speak HTTP"))
}

/// Where the API of the node is, and a key of it.
///
/// # Errors
/// Why it cannot be asked.
pub fn api_of(config: &Config) -> Result<(ListenAddress, Secret), String> {
    if config.is_development() {
        return development::find(config).map(|node| (node.api, node.key));
    }
    let listeners = config.listeners();
    let Some(listener) = listeners.iter().find(|l| l.serves != Serves::Clients && l.is_plain()) else {
        return Err(
            "the API is served nowhere without TLS or a proxy: a reload is asked for with SIGHUP as well"
                .into(),
        );
    };
    let Some(key) = config.api_keys().next() else {
        return Err("the configuration has no API key (api.key)".into());
    };
    Ok((listener.address.clone(), key.clone()))
}

fn exchange(address: &ListenAddress, request: &[u8]) -> io::Result<Vec<u8>> {
    match address {
        ListenAddress::Tcp(at) => {
            let stream = TcpStream::connect_timeout(&reachable(*at), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, request)
        }
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, request)
        }
    }
}

fn converse(mut stream: impl io::Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Who listens on all addresses is found on loopback.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
