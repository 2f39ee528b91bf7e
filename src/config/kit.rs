//! What makes a node's surroundings: `trunkline init` writes a configuration, `completions` and `man` print what shells and
//! readers want.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

/// A configuration to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitTask {
    /// Unset: it is printed.
    pub output: Option<PathBuf>,
    /// Where clients connect.
    pub listen: String,
}

/// The subcommands.
pub fn commands() -> [Command; 3] {
    [
        Command::new("init")
            .about(
                "Write a commented configuration with random secrets; exits 1 when the file is there already",
            )
            .arg(
                Arg::new("output")
                    .long("output")
                    .short('o')
                    .value_name("FILE")
                    .help("Where to, readable by its owner alone [default: standard output]"),
            )
            .arg(
                Arg::new("listen")
                    .long("listen")
                    .value_name("ADDR")
                    .default_value("127.0.0.1:8000")
                    .help("Where clients connect"),
            ),
        Command::new("completions")
            .about("Print what a shell needs to complete commands and flags")
            .arg(Arg::new("SHELL").required(true).value_parser(clap::value_parser!(Shell))),
        Command::new("man")
            .about("Print the manual page (roff), of the program or of one command")
            .arg(Arg::new("COMMAND")),
    ]
}

pub fn init_task(matches: &ArgMatches) -> InitTask {
    InitTask {
        output: matches.get_one::<String>("output").map(PathBuf::from),
        listen: matches.get_one::<String>("listen").cloned().unwrap_or_default(),
    }
}

/// For a shell; `whole` is the whole command line.
pub fn completions(matches: &ArgMatches, mut whole: Command) -> String {
    let mut text = Vec::new();
    if let Some(shell) = matches.get_one::<Shell>("SHELL") {
        clap_complete::generate(*shell, &mut whole, "trunkline", &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// # Errors
/// When there is no such command.
pub fn man(matches: &ArgMatches, whole: &Command) -> Result<String, String> {
    let page = match matches.get_one::<String>("COMMAND") {
        None => clap_mangen::Man::new(whole.clone()),
        Some(name) => {
            let found = whole.get_subcommands().find(|command| command.get_name() == name);
            let command = found.ok_or_else(|| format!("there is no command {name}"))?;
            let title = format!("trunkline-{name}");
            let page = command.clone().display_name(title.clone()).bin_name(format!("trunkline {name}"));
            clap_mangen::Man::new(page.version(env!("CARGO_PKG_VERSION"))).title(title)
        }
    };
    let mut text = Vec::new();
    page.render(&mut text).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The text of a configuration with these secrets.
pub fn configuration(listen: &str, api_key: &str, token_secret: &str) -> String {
    let listen = toml_text(listen);
    format!(
        r#"# Configuration of trunkline, made by `trunkline init`. Its secrets are random and of this file alone.
# `trunkline config` prints every key with its default and meaning; `trunkline check FILE` checks a file.

# Where clients connect: 0.0.0.0:8000 for every network. For https and wss: listen_tls, with [tls] cert and key.
listen = {listen}
# The server API and /metrics, away from clients.
api_listen = "127.0.0.1:9000"

[api]
# What your backend shows as X-API-Key.
key = "{api_key}"

[client]
# Pages of other origins that may connect.
allowed_origins = []
# Let clients in that show no token. Without it they need one, or a connect hook.
allow_anonymous = false
# The hook that is asked who connects, by its name below.
# connect_hook = "backend"

[client.token]
# What your backend signs the tokens of clients with (HS256); `trunkline gentoken -u USER` makes one.
hmac_secret = "{token_secret}"

# Channels whose name has no namespace.
[channel]
allow_subscribe_for_client = true

# Channels named chat:...
# [[namespace]]
# name = "chat"
# allow_subscribe_for_client = true
# history_size = 100
# history_ttl = "10m"
# presence = true
# join_leave = true

# [[hook]]
# name = "backend"
# endpoint = "http://127.0.0.1:3000/trunkline/connect"

# [events]
# types = ["connected", "disconnected"]
# endpoint = "http://127.0.0.1:3000/trunkline/events"
# secret = "another long random text"
"#
    )
}

fn toml_text(text: &str) -> String {
    use crate::config::value::Setting as _;
    text.to_owned().write().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Command {
        Command::new("trunkline").version("1").subcommands(commands())
    }

    fn matches(words: &[&str]) -> ArgMatches {
        let all = whole().get_matches_from(std::iter::once("trunkline").chain(words.iter().copied()));
        all.subcommand().unwrap().1.clone()
    }

    #[test]
    fn shells_and_readers_get_what_they_want() {
        for shell in ["bash", "zsh", "fish"] {
            let text = completions(&matches(&["completions", shell]), whole());
            assert!(text.contains("trunkline") && text.contains("init"), "{shell}");
        }
        let page = man(&matches(&["man"]), &whole()).unwrap();
        assert!(page.contains(".TH trunkline 1") && page.contains("completions"), "{page}");
        let page = man(&matches(&["man", "init"]), &whole()).unwrap();
        assert!(page.contains(".TH trunkline-init 1") && page.contains("listen"), "{page}");
        assert!(man(&matches(&["man", "nothing"]), &whole()).is_err());
    }
}
