//! What a node says when it serves.

use std::io::{self, Write as _};

use crate::base::address::{ListenAddress, Serves};
use crate::config::Config;

/// Says where everything is: for people on stdout, for machines in the log.
pub fn announce(config: &Config, all: &[ListenAddress], api: &[ListenAddress]) -> io::Result<()> {
    let listeners = config.shard_listeners();
    for (listener, address) in listeners.iter().zip(all) {
        tracing::info!("listening on {address}{}", listener.note());
    }
    for address in api {
        tracing::info!("API listening on {address}");
    }
    let of = |unserved: Serves| {
        let served = listeners.iter().zip(all).filter(move |(of, _)| of.serves != unserved);
        served.map(|(of, address)| (address.clone(), of.scheme_suffix())).collect::<Vec<_>>()
    };
    let clients = of(Serves::Api);
    let shared = of(Serves::Clients);
    let url = |scheme: &str, (address, suffix): &(ListenAddress, &str), path: &str| match address {
        ListenAddress::Tcp(address) => format!("{scheme}{suffix}://{address}{path}"),
        // No scheme of its own is in common use for it: the socket, and the path of the request.
        ListenAddress::Unix(_) => format!("{address} {path}"),
    };
    let plain: Vec<_> = api.iter().map(|address| (address.clone(), "")).collect();
    let api_at = {
        let all: Vec<_> = plain.iter().cloned().chain(shared).collect();
        let port = all.iter().find(|(address, _)| address.tcp().is_some());
        port.or(all.first()).unwrap_or(&clients[0]).clone()
    };
    let mut out = io::stdout().lock();
    writeln!(out, "trunkline {} is ready", env!("CARGO_PKG_VERSION"))?;
    for place in &clients {
        writeln!(out, "  clients  {}", url("ws", place, "/connection/websocket"))?;
    }
    for tunnel in &config.tunnel {
        writeln!(out, "  tunnel   {}", url("ws", &clients[0], &format!("/tunnel/{}", tunnel.name)))?;
    }
    writeln!(out, "  API      {}", url("http", &api_at, "/api"))?;
    // A browser does not come by a unix socket.
    let apart = listeners.iter().zip(all).filter(|(of, _)| of.serves == Serves::Api);
    let apart = plain.iter().cloned().chain(apart.map(|(of, at)| (at.clone(), of.scheme_suffix())));
    let console_at = apart.chain(config.is_development().then(|| clients[0].clone()));
    if config.api.console
        && let Some(place) = console_at.into_iter().find(|(address, _)| address.tcp().is_some())
    {
        writeln!(out, "  console  {}", url("http", &place, "/console"))?;
    }
    if config.is_development()
        && let Some(key) = &config.api.key
    {
        writeln!(out, "  page     {}", url("http", &clients[0], "/"))?;
        writeln!(out, "  key      {}   (development: a new one at each start)", key.reveal())?;
        writeln!(out, "Publish to everyone subscribed to the channel \"demo\", the page for one:")?;
        let publish = match &api_at.0 {
            ListenAddress::Tcp(_) => url("http", &api_at, "/api/publish"),
            ListenAddress::Unix(path) => {
                format!("--unix-socket {} http://localhost/api/publish", path.display())
            }
        };
        writeln!(
            out,
            "  curl -X POST {publish} -H 'X-API-Key: {}' -d '{{\"channel\":\"demo\",\"data\":{{\"text\":\"hello\"}}}}'",
            key.reveal()
        )?;
    }
    out.flush()
}
