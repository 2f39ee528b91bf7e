//! Where a node in development mode is, and its key, for the commands that ask it: the key is made up at each start and is in
//! no configuration. The node says it by the socket of upgrades, to its own user and to root.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::request::{DevelopmentApi, WhereIsTheApi, address, ensure_node, running_nodes, write_line};
use crate::base::address::{ListenAddress, Serves};
use crate::config::{Config, Secret};

/// How long a node may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// The node that a command without any configuration means.
#[derive(Clone, Debug)]
pub struct DevelopmentNode {
    pub api: ListenAddress,
    pub clients: ListenAddress,
    pub key: Secret,
}

impl DevelopmentApi {
    /// `None` where keys are configured. `clients` and `api` are bound there.
    pub fn new(config: &Config, clients: &[ListenAddress], api: &[ListenAddress]) -> Option<DevelopmentApi> {
        let key = config.api.key.as_ref().filter(|_| config.is_development())?;
        let listeners = config.shard_listeners();
        let mut plain =
            listeners.iter().zip(clients).filter(|(of, _)| of.is_plain() && of.serves != Serves::Api);
        let clients = plain.next()?.1.to_string();
        let api = api.first().map_or_else(|| clients.clone(), ToString::to_string);
        Some(DevelopmentApi { api, clients, key: key.reveal().into() })
    }
}

/// Finds it: the one at the address of `config`, or the only one where the address is the default.
///
/// # Errors
/// There is none, or there are several.
pub fn find(config: &Config) -> Result<DevelopmentNode, String> {
    let nodes = running_nodes()?;
    let found: Vec<DevelopmentNode> = nodes.into_iter().filter_map(|pid| ask(pid).ok().flatten()).collect();
    choose(&found, config)
}

fn choose(found: &[DevelopmentNode], config: &Config) -> Result<DevelopmentNode, String> {
    let of_clients = |config: &Config| {
        let listeners = config.listeners();
        listeners.iter().find(|of| of.serves != Serves::Api).map(|of| of.address.clone())
    };
    let wanted = of_clients(config);
    if let Some(node) = found.iter().find(|node| wanted.as_ref() == Some(&node.clients)) {
        return Ok(node.clone());
    }
    let at = wanted.as_ref().map(ToString::to_string).unwrap_or_default();
    match found {
        [only] if wanted == of_clients(&Config::default()) => Ok(only.clone()),
        [] | [_] => Err(format!(
            "no node in development mode is at {at}, and no configuration is named (--config, or TRUNKLINE_API_KEY)"
        )),
        several => {
            let all: Vec<String> = several.iter().map(|node| node.clients.to_string()).collect();
            Err(format!(
                "several nodes run here in development mode, name one with --listen: {}",
                all.join(", ")
            ))
        }
    }
}

/// `None` from a node that is not in development mode, or of another version.
fn ask(pid: u32) -> io::Result<Option<DevelopmentNode>> {
    let node = UnixStream::connect_addr(&address(pid)?)?;
    ensure_node(&node)?;
    node.set_read_timeout(Some(PATIENCE))?;
    write_line(&node, &WhereIsTheApi { development_api: true })?;
    let mut line = String::new();
    BufReader::new(node.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    let Ok(answer) = serde_json::from_str::<DevelopmentApi>(&line) else { return Ok(None) };
    let place = |text: &str| ListenAddress::parse(text).ok();
    let (Some(api), Some(clients)) = (place(&answer.api), place(&answer.clients)) else { return Ok(None) };
    Ok(Some(DevelopmentNode { api, clients, key: Secret::new(answer.key) }))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    #[test]
    fn the_node_that_is_meant_is_at_the_address_or_the_only_one() {
        let node = |port: u16| {
            let at = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            DevelopmentNode { api: at.clone(), clients: at, key: Secret::new("key") }
        };
        let at = |port: u16| {
            let mut config = Config::development(Secret::new("another"));
            config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
            config
        };
        let chosen = |found: &[DevelopmentNode], config: &Config| {
            choose(found, config).map(|node| node.clients.to_string()).map_err(|problem| problem.len() > 10)
        };
        let default = Config::development(Secret::new("another"));
        assert_eq!(chosen(&[node(4000)], &default), Ok("127.0.0.1:4000".into()));
        assert_eq!(chosen(&[node(4000), node(8000)], &default), Ok("127.0.0.1:8000".into()));
        assert_eq!(chosen(&[node(4000), node(5000)], &default), Err(true));
        assert_eq!(chosen(&[], &default), Err(true));
        assert_eq!(chosen(&[node(4000)], &at(5000)), Err(true), "that one is meant, and no other");
        assert_eq!(chosen(&[node(4000), node(5000)], &at(5000)), Ok("127.0.0.1:5000".into()));
    }
}
