//! What makes a node's surroundings: `trunkline init` writes a configuration, `completions` and `man` print what shells and
//! readers want.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

/// With places for where clients connect and for the secrets.
const CONFIGURATION: &str = include_str!("../../packaging/init.toml");

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
    CONFIGURATION
        .replace("{listen}", &toml_text(listen))
        .replace("{api_key}", api_key)
        .replace("{token_secret}", token_secret)
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
