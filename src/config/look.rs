//! Commands that look at a running node, publish to it and listen: `trunkline status`, `top`, `why`, `connections`, `channels`,
//! `publish`, `subscribe`. They reach it by its API, with a key of the configuration.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use crate::config::sections::Config;
use crate::config::value::{Given, Setting as _};

/// A look at a running node.
#[derive(Clone, Debug)]
pub struct LookTask {
    /// Where the node is, and its keys.
    pub config: Config,
    pub look: Look,
    /// Print what the node says, for programs.
    pub json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    Status,
    Top {
        every: Duration,
        rounds: Option<u64>,
    },
    Why {
        user: Option<String>,
        client: Option<String>,
        code: Option<u16>,
        since: Option<Duration>,
        limit: usize,
    },
    Connections {
        user: Option<String>,
        channel: Option<String>,
        address: Option<String>,
        limit: usize,
    },
    Channels {
        pattern: String,
        limit: usize,
    },
    /// Without data it is read from standard input.
    Publish {
        channel: String,
        data: Option<String>,
    },
    Subscribe {
        channels: Vec<String>,
        user: String,
        count: Option<u64>,
    },
    /// `by` and `whom` are a parameter of the API and its value.
    Tap {
        by: &'static str,
        whom: String,
        payloads: bool,
        count: Option<u64>,
    },
}

/// The names of the commands.
pub const NAMES: [&str; 8] =
    ["status", "top", "why", "connections", "channels", "publish", "subscribe", "tap"];
/// What may be tapped: one of these.
const TAPPED: [(&str, &str, &str); 5] = [
    ("user", "USER", "All clients of this user"),
    ("client", "ID", "This client"),
    ("channel", "CHANNEL", "What is published to this channel, and who joins and leaves"),
    ("tunnel", "NAME", "All clients of this tunnel"),
    ("address", "ADDRESS", "All clients from this address or network"),
];

fn value(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).allow_hyphen_values(true)
}

fn time(name: &'static str, help: &'static str) -> Arg {
    value(name, "TIME", help).value_parser(read_time)
}

fn read_time(text: &str) -> Result<Duration, String> {
    Duration::read(&Given::Loose(text.to_owned()))
}

fn number(name: &'static str, help: &'static str) -> Arg {
    value(name, "N", help).value_parser(clap::value_parser!(u64).range(1..))
}

fn limit() -> Arg {
    number("limit", "Most lines that are printed").default_value("100")
}

/// The subcommands, without what says where the node is.
pub fn commands() -> [Command; 8] {
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print JSON, an object a line, for programs")
    };
    let commands = [
        Command::new("status")
            .about("Print how the running node is: clients, shards, memory, what was refused"),
        Command::new("top")
            .about(
                "Show what the running node does, again and again: rates, shards, busiest channels and users",
            )
            .arg(time("every", "How often").default_value("2s"))
            .arg(number("count", "End after so many times [default: never]")),
        Command::new("why")
            .about("Print how connections ended, the newest first: the code, the reason, whose doing it was")
            .arg(value("user", "USER", "Of this user"))
            .arg(value("client", "ID", "Of this client"))
            .arg(value("code", "CODE", "With this code").value_parser(clap::value_parser!(u16)))
            .arg(time("since", "Within this time, like 10m"))
            .arg(limit()),
        Command::new("connections")
            .about("Print clients that are connected")
            .arg(value("user", "USER", "Of this user"))
            .arg(value("channel", "CHANNEL", "Subscribed to this channel"))
            .arg(value("address", "ADDRESS", "From this address or network, like 10.0.0.0/8"))
            .arg(limit()),
        Command::new("channels")
            .about(
                "Print channels in the order of their names: subscribers, history, and rates of the busiest",
            )
            .arg(value("pattern", "GLOB", "Of such names, like 'chat:*'").default_value("*"))
            .arg(limit()),
        Command::new("publish")
            .about("Publish to a channel; prints offset and epoch")
            .arg(Arg::new("CHANNEL").required(true))
            .arg(Arg::new("DATA").help("JSON [default: standard input]").allow_negative_numbers(true)),
        Command::new("subscribe")
            .about(
                "Print what is published to channels, each message a line, until the end of it is asked for",
            )
            .arg(Arg::new("CHANNEL").required(true).num_args(1..))
            .arg(value("user", "USER", "As this user").default_value(""))
            .arg(number("count", "End after so many messages [default: never]")),
        Command::new("tap")
            .about("Show what somebody or a channel does, as it happens: messages in and out, hook calls, limits, ends")
            .args(TAPPED.map(|(name, what, help)| value(name, what, help)))
            .group(ArgGroup::new("whom").args(TAPPED.map(|(name, ..)| name)).required(true))
            .arg(
                Arg::new("payloads")
                    .long("payloads")
                    .action(ArgAction::SetTrue)
                    .help("Show what is in the messages, but for secrets"),
            )
            .arg(number("count", "End after so many lines [default: never]")),
    ];
    commands.map(|command| command.arg(json()))
}

/// What one of them asks for. `None` for another command.
pub fn look(name: &str, matches: &ArgMatches) -> Option<(Look, bool)> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let limit = || number("limit").map_or(100, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let look = match name {
        "status" => Look::Status,
        "top" => Look::Top { every: *matches.get_one::<Duration>("every")?, rounds: number("count") },
        "why" => Look::Why {
            user: text("user"),
            client: text("client"),
            code: matches.get_one::<u16>("code").copied(),
            since: matches.get_one::<Duration>("since").copied(),
            limit: limit(),
        },
        "connections" => Look::Connections {
            user: text("user"),
            channel: text("channel"),
            address: text("address"),
            limit: limit(),
        },
        "channels" => Look::Channels { pattern: text("pattern")?, limit: limit() },
        "publish" => Look::Publish { channel: text("CHANNEL")?, data: text("DATA") },
        "subscribe" => Look::Subscribe {
            channels: matches.get_many::<String>("CHANNEL")?.cloned().collect(),
            user: text("user").unwrap_or_default(),
            count: number("count"),
        },
        "tap" => {
            let by = TAPPED.iter().find_map(|(name, ..)| Some((*name, text(name)?)));
            let (by, whom) = by?;
            Look::Tap { by, whom, payloads: matches.get_flag("payloads"), count: number("count") }
        }
        _ => return None,
    };
    Some((look, matches.get_flag("json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(words: &[&str]) -> Option<(Look, bool)> {
        let all = Command::new("t").subcommands(commands());
        let matches = all.try_get_matches_from(std::iter::once("t").chain(words.iter().copied())).ok()?;
        let (name, matches) = matches.subcommand()?;
        look(name, matches)
    }

    #[test]
    fn every_command_is_known_by_its_name() {
        for command in commands() {
            assert!(NAMES.contains(&command.get_name()), "{}", command.get_name());
        }
    }

    #[test]
    fn commands_are_read() {
        let why = Look::Why {
            user: Some("ann".into()),
            client: None,
            code: Some(3008),
            since: Some(Duration::from_secs(600)),
            limit: 100,
        };
        assert_eq!(looked(&["why", "--user", "ann", "--code", "3008", "--since", "10m"]), Some((why, false)));
        assert_eq!(looked(&["status", "--json"]), Some((Look::Status, true)));
        let publish = Look::Publish { channel: "a".into(), data: Some("-1".into()) };
        assert_eq!(looked(&["publish", "a", "-1"]), Some((publish, false)));
        let channels = vec!["a".to_owned(), "b".to_owned()];
        let subscribe = Look::Subscribe { channels, user: "".into(), count: Some(2) };
        assert_eq!(looked(&["subscribe", "--count", "2", "a", "b"]), Some((subscribe, false)));
        for wrong in
            [&["publish"][..], &["subscribe"], &["why", "--code", "x"], &["channels", "--limit", "0"]]
        {
            assert_eq!(looked(wrong), None, "{wrong:?}");
        }
    }
}
