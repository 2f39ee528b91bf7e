//! `trunkline upgrade`: another process in the place of a running node.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use crate::config::fault::{Fault, SettingOrigin};
use crate::config::value::{Given, Setting as _};

/// What is to take the place of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeTask {
    /// Which node; unset, the only one of this machine.
    pub pid: Option<u32>,
    /// Unset: what the node was started from.
    pub binary: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub timeout: Duration,
}

pub fn task(matches: &ArgMatches) -> Result<UpgradeTask, Vec<Fault>> {
    let path = |name: &str| matches.get_one::<String>(name).map(PathBuf::from);
    let given = matches.get_one::<String>("timeout").cloned().unwrap_or_default();
    let timeout = Duration::read(&Given::Loose(given)).and_then(|timeout| match timeout.is_zero() {
        true => Err("an upgrade takes some time".into()),
        false => Ok(timeout),
    });
    let timeout = timeout.map_err(|problem| {
        vec![Fault { key: "timeout".into(), origin: SettingOrigin::Flag("--timeout".into()), problem }]
    })?;
    Ok(UpgradeTask {
        pid: matches.get_one::<u32>("pid").copied(),
        binary: path("binary"),
        config: path("config"),
        timeout,
    })
}

pub fn command() -> Command {
    Command::new("upgrade")
        .about("Put another process in the place of a running node, with all its clients; exits 1 when it stays as it was")
        .arg(
            Arg::new("binary")
                .long("binary")
                .value_name("PATH")
                .help("Program to start [default: the file that the node was started from, as it is now]"),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .short('c')
                .value_name("FILE")
                .help("Its configuration [default: as the node was started]"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .default_value("30s")
                .help("Give up after this long; the node then serves on as before"),
        )
        .arg(
            Arg::new("pid")
                .long("pid")
                .value_name("PID")
                .value_parser(clap::value_parser!(u32).range(1..))
                .help("Which node [default: the only one that runs here]"),
        )
}
