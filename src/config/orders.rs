//! Commands for a node that runs: `trunkline reload`, `drain`, `reconnect`. They reach it by its API, with a key of the
//! configuration.

use std::borrow::Cow;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use serde_json::{Map, Value};

use crate::config::sections::Config;
use crate::config::value::{Given, Setting as _};

/// One call of a running node's API.
#[derive(Clone, Debug)]
pub struct OrderTask {
    /// Where the API is served, and its keys.
    pub config: Config,
    pub order: NodeCommand,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCommand {
    pub method: &'static str,
    pub path: Cow<'static, str>,
    /// JSON.
    pub body: String,
}

fn time(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("TIME").help(help).value_parser(read_time)
}

fn read_time(text: &str) -> Result<Duration, String> {
    Duration::read(&Given::Loose(text.to_owned()))
}

/// The subcommands, without what says where the node is.
pub fn commands() -> [Command; 3] {
    let over = || time("over", "Over which time clients are closed [default: shutdown.drain of the node]");
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    [
        Command::new("reload")
            .about("Have the running node read its configuration again: prints what changed; exits 1 if it is refused"),
        Command::new("drain")
            .about("Have the running node send its clients away, evenly over a time, and let no others in")
            .arg(over())
            .arg(time("delay", "How long clients are let in before [default: shutdown.delay of the node]"))
            .arg(flag("stop", "Stop a drain: clients that are still there stay").conflicts_with_all(["over", "delay"]))
            .arg(flag("status", "Print how far a drain is").conflicts_with_all(["over", "delay", "stop"])),
        Command::new("reconnect")
            .about("Have some clients of the running node connect again, so that others take a part of them")
            .arg(over())
            .arg(
                Arg::new("percent")
                    .long("percent")
                    .value_name("N")
                    .value_parser(clap::value_parser!(u64).range(1..=100))
                    .help("This percentage of clients, chosen at random"),
            )
            .arg(Arg::new("user").long("user").value_name("USER").help("All of this user"))
            .arg(Arg::new("channel").long("channel").value_name("CHANNEL").help("All in this channel"))
            .group(ArgGroup::new("whom").args(["percent", "user", "channel"]).required(true)),
    ]
}

/// What one of them asks for. `None` for another command.
pub fn order(name: &str, matches: &ArgMatches) -> Option<NodeCommand> {
    let mut body = Map::new();
    let is_set = |flag: &str| matches.get_flag(flag);
    let (method, path) = match name {
        "reload" => ("POST", "/api/reload"),
        "reconnect" => ("POST", "/api/reconnect"),
        "drain" if is_set("stop") => ("DELETE", "/api/drain"),
        "drain" if is_set("status") => ("GET", "/api/drain"),
        "drain" => ("POST", "/api/drain"),
        _ => return None,
    };
    for (argument, key) in [("over", "over_ms"), ("delay", "delay_ms")] {
        if let Ok(Some(time)) = matches.try_get_one::<Duration>(argument) {
            body.insert(key.to_owned(), u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into());
        }
    }
    if let Ok(Some(percent)) = matches.try_get_one::<u64>("percent") {
        body.insert("percent".to_owned(), (*percent).into());
    }
    for key in ["user", "channel"] {
        if let Ok(Some(name)) = matches.try_get_one::<String>(key) {
            body.insert(key.to_owned(), name.as_str().into());
        }
    }
    Some(NodeCommand { method, path: path.into(), body: Value::Object(body).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(words: &[&str]) -> Option<NodeCommand> {
        let all = Command::new("t").subcommands(commands());
        let matches = all.try_get_matches_from(std::iter::once("t").chain(words.iter().copied())).ok()?;
        let (name, matches) = matches.subcommand()?;
        order(name, matches)
    }

    #[test]
    fn each_command_is_a_call() {
        for (words, method, path, body) in [
            (&["reload"][..], "POST", "/api/reload", "{}"),
            (&["drain"], "POST", "/api/drain", "{}"),
            (
                &["drain", "--over", "20s", "--delay", "1s"],
                "POST",
                "/api/drain",
                "{\"delay_ms\":1000,\"over_ms\":20000}",
            ),
            (&["drain", "--stop"], "DELETE", "/api/drain", "{}"),
            (&["drain", "--status"], "GET", "/api/drain", "{}"),
            (&["reconnect", "--percent", "5"], "POST", "/api/reconnect", "{\"percent\":5}"),
            (
                &["reconnect", "--user", "a\"b", "--over", "0s"],
                "POST",
                "/api/reconnect",
                "{\"over_ms\":0,\"user\":\"a\\\"b\"}",
            ),
        ] {
            assert_eq!(
                ordered(words),
                Some(NodeCommand { method, path: path.into(), body: body.to_owned() }),
                "{words:?}"
            );
        }
        for wrong in [
            &["reconnect"][..],
            &["reconnect", "--percent", "0"],
            &["reconnect", "--percent", "5", "--user", "a"],
            &["drain", "--stop", "--over", "1s"],
            &["drain", "--over", "soon"],
        ] {
            assert_eq!(ordered(wrong), None, "{wrong:?}");
        }
    }
}
