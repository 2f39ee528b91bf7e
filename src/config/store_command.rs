//! `trunkline store`: what is to be done with the files of a store.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// What is to be done with the files of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTask {
    pub job: StoreJob,
    pub path: String,
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreJob {
    /// Say whether all of it can be read.
    Check,
    /// Say what is in it.
    Stats,
    /// Print every publication.
    Export,
}

pub fn task(matches: &ArgMatches) -> StoreTask {
    let (name, matches) = matches.subcommand().unwrap_or(("check", matches));
    let job = match name {
        "stats" => StoreJob::Stats,
        "export" => StoreJob::Export,
        _ => StoreJob::Check,
    };
    let json = job != StoreJob::Export && matches.get_flag("json");
    StoreTask { job, path: matches.get_one::<String>("DIR").cloned().unwrap_or_default(), json }
}

pub fn command() -> Command {
    let dir = || Arg::new("DIR").required(true).help("store.path of the node, which may run meanwhile");
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object");
    Command::new("store")
        .about("Look into the files of durable channels")
        .subcommand_required(true)
        .subcommand(
            Command::new("check")
                .about("Say whether all of it can be read; exits 1 when something is damaged, 2 when it is no store")
                .args([dir(), json()]),
        )
        .subcommand(Command::new("stats").about("Print what is in it").args([dir(), json()]))
        .subcommand(
            Command::new("export").about("Print every publication that can be read, a JSON object a line").arg(dir()),
        )
}
