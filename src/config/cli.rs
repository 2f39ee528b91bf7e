//! The command line: `trunkline [FLAGS]`, `trunkline config`, `trunkline check FILE`, `trunkline import`, `trunkline doctor`,
//! `trunkline store`, and tokens made and checked with the keys of a configuration: `trunkline gentoken`, `gensubtoken`, `checktoken`.
//!
//! Flags come from the table of settings. Exit codes: 0 done, 1 the checked file has faults, 2 the command line or the
//! configuration is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::base::address::Serves;
use crate::config::centrifugo::{self, Imported, TheirFlags};
use crate::config::document;
use crate::config::fault::{Fault, SettingOrigin};
use crate::config::kit::{self, InitTask};
use crate::config::load::{self, ENVIRONMENT_FILE, ENVIRONMENT_PREFIX, Loaded, SettingRow, Sources};
use crate::config::look::{self, LookTask};
use crate::config::machine::Machine;
use crate::config::memory::MemoryPlan;
use crate::config::orders::{self, OrderTask};
use crate::config::places::Listener;
use crate::config::sections::Config;
pub use crate::config::store_command::{StoreJob, StoreTask};
pub use crate::config::token_command::{TokenJob, TokenTask};
pub use crate::config::upgrade_command::UpgradeTask;
use crate::config::{snapshot, store_command, storm, token_command, upgrade_command};

/// Longest configuration file that is read, in bytes. A larger one is some other file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What to serve with.
#[derive(Clone, Debug)]
pub struct Start {
    pub config: Config,
    /// To be logged at start.
    pub warnings: Vec<String>,
    pub plan: MemoryPlan,
    /// Where all of it came from.
    pub given: GivenToProcess,
    /// The file that was read for it.
    pub file: Option<PathBuf>,
}

/// The command line and the environment of this process, to read the configuration again with.
#[derive(Clone, Default)]
pub struct GivenToProcess {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl GivenToProcess {
    /// The configuration as it is by now: the file may be another.
    ///
    /// # Errors
    /// What is wrong with it, each fault in a line.
    pub fn read_again(&self, unix_s: u64) -> Result<Start, String> {
        match interpret(self.arguments.clone(), self.environment.clone(), unix_s) {
            CliAction::Serve(start) => Ok(*start),
            CliAction::Print { text, .. } => Err(text),
            _ => Err("these arguments serve nothing".to_string()),
        }
    }
}

impl std::fmt::Debug for GivenToProcess {
    /// Without values: there may be secrets among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GivenToProcess")
    }
}

/// What the host is to be examined for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Unset: as many as the configuration allows.
    pub connections: Option<u32>,
    /// Before /proc and /sys, to examine a made-up host; empty for this one.
    pub root: String,
}

/// Work for the node.
#[derive(Clone, Debug)]
pub enum Job {
    Store(StoreTask),
    Serve(Start),
    Upgrade(UpgradeTask),
    Doctor(Start, Diagnosis),
    Token(Box<TokenTask>),
    /// For a node that runs.
    Order(Box<OrderTask>),
    Look(Box<LookTask>),
    Init(InitTask),
}

/// Reads the command line and the environment. A command that needs neither node nor clock is carried out here. `unix_s`:
/// seconds since 1970. `refused`: for what is wrong with them, beside stderr.
///
/// # Errors
/// The code to exit with; what there was to say has been printed.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    unix_s: u64,
    refused: impl FnOnce(&str),
) -> Result<Job, ExitCode> {
    match interpret(arguments, environment, unix_s) {
        CliAction::Serve(start) => Ok(Job::Serve(*start)),
        CliAction::Upgrade(task) => Ok(Job::Upgrade(task)),
        CliAction::Doctor(start, diagnosis) => Ok(Job::Doctor(*start, diagnosis)),
        CliAction::Token(task) => Ok(Job::Token(task)),
        CliAction::Store(task) => Ok(Job::Store(task)),
        CliAction::Order(task) => Ok(Job::Order(task)),
        CliAction::Look(task) => Ok(Job::Look(task)),
        CliAction::Init(task) => Ok(Job::Init(task)),
        CliAction::Print { text, code: 0 } => {
            // A reader that has seen enough (`| head`) is no failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Err(ExitCode::SUCCESS)
        }
        CliAction::Print { text, code } => {
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            refused(&text);
            Err(ExitCode::from(code))
        }
    }
}

/// What a command line comes to.
#[derive(Clone, Debug)]
pub enum CliAction {
    Serve(Box<Start>),
    Upgrade(UpgradeTask),
    Token(Box<TokenTask>),
    Order(Box<OrderTask>),
    Look(Box<LookTask>),
    Init(InitTask),
    Store(StoreTask),
    /// Examine the host for what would be served.
    Doctor(Box<Start>, Diagnosis),
    /// Print `text`, to stderr if `code` is not 0, and exit.
    Print {
        text: String,
        code: u8,
    },
}

/// [`run`] without its effects; files are read.
pub fn interpret(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    unix_s: u64,
) -> CliAction {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    let of_process = GivenToProcess { arguments: arguments.clone(), environment: environment.clone() };
    let rows = Config::default().rows();
    let (arguments, their_flags) = match centrifugo::split(arguments.into_iter().collect()) {
        Ok(split) => split,
        Err(problem) => return CliAction::Print { text: format!("error: {problem}\n"), code: 2 },
    };
    let matches = match command(&rows).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return CliAction::Print { text: error.render().to_string(), code };
        }
    };
    let theirs = beginning(&environment, centrifugo::ENVIRONMENT_PREFIX);
    let foreign = theirs.keys().next().cloned();
    let environment = beginning(&environment, ENVIRONMENT_PREFIX);
    let environment = Surroundings { environment, theirs, their_flags, unix_s };
    match matches.subcommand() {
        Some(("config", _)) => CliAction::Print { text: document::documented(&Config::default()), code: 0 },
        Some(("init", matches)) => CliAction::Init(kit::init_task(matches)),
        Some(("completions", matches)) => {
            CliAction::Print { text: kit::completions(matches, command(&rows)), code: 0 }
        }
        Some(("man", matches)) => match kit::man(matches, &command(&rows)) {
            Ok(text) => CliAction::Print { text, code: 0 },
            Err(problem) => CliAction::Print { text: format!("error: {problem}\n"), code: 2 },
        },
        Some(("import", matches)) => {
            let matches = matches.subcommand_matches("centrifugo").unwrap_or(matches);
            let path = matches.get_one::<String>("FILE").cloned().unwrap_or_default();
            print_import(&rows, matches, &path, &environment)
        }
        Some(("check", matches)) => {
            let path = matches.get_one::<String>("FILE").cloned().unwrap_or_default();
            match read(&path).and_then(|file| prepare(&sources(&rows, matches, file, &environment))) {
                Ok(start) => {
                    let warnings: String =
                        start.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
                    let notes: String = storm::sentences(&start.config)
                        .iter()
                        .chain(&snapshot::sentences(&start.config))
                        .map(|note| format!("note: {note}\n"))
                        .collect();
                    let places = places(&start.config);
                    CliAction::Print { text: format!("{warnings}{notes}{places}{path}: ok\n"), code: 0 }
                }
                Err(faults) => refuse(&faults, 1),
            }
        }
        Some((name, matches)) if token_command::NAMES.contains(&name) => {
            // The node that a configuration describes need not fit this machine.
            let loaded = given(&rows, matches, &environment).and_then(|given| given.load());
            let job = token_command::job(name, matches);
            match loaded.and_then(|Loaded { config, .. }| job.map(|job| TokenTask { config, job })) {
                Ok(task) => CliAction::Token(Box::new(task)),
                Err(faults) => refuse(&faults, 2),
            }
        }
        Some((name @ ("reload" | "drain" | "reconnect"), matches)) => {
            let loaded = given(&rows, matches, &environment).and_then(|given| given.load());
            match (loaded, orders::order(name, matches)) {
                (Ok(Loaded { config, .. }), Some(order)) => {
                    CliAction::Order(Box::new(OrderTask { config, order }))
                }
                (Err(faults), _) => refuse(&faults, 2),
                (Ok(_), None) => unreachable!("these names are those of orders"),
            }
        }
        Some((name, matches)) if look::NAMES.contains(&name) => {
            let loaded = given(&rows, matches, &environment).and_then(|given| given.load());
            match (loaded, look::look(name, matches)) {
                (Ok(Loaded { config, .. }), Some((look, json))) => {
                    CliAction::Look(Box::new(LookTask { config, look, json }))
                }
                (Err(faults), _) => refuse(&faults, 2),
                (Ok(_), None) => unreachable!("these names are those of looks"),
            }
        }
        Some(("store", matches)) => CliAction::Store(store_command::task(matches)),
        Some(("upgrade", matches)) => match upgrade_command::task(matches) {
            Ok(task) => CliAction::Upgrade(task),
            Err(faults) => refuse(&faults, 2),
        },
        Some(("doctor", matches)) => {
            let diagnosis = Diagnosis {
                connections: matches.get_one::<u32>("connections").copied(),
                root: matches.get_one::<String>("root").cloned().unwrap_or_default(),
            };
            match configured(&rows, matches, &environment) {
                Ok(start) => CliAction::Doctor(Box::new(start), diagnosis),
                Err(faults) => refuse(&faults, 2),
            }
        }
        _ => match configured(&rows, &matches, &environment) {
            Ok(start) if start.config.is_development() && foreign.is_some() => {
                let name = foreign.unwrap_or_default();
                let text = format!(
                    "error: {name} is set, and nothing configures trunkline: its variables begin with \
                     {ENVIRONMENT_PREFIX}, and `trunkline config` prints them all. To serve from Centrifugo's \
                     configuration, variables included, name its file: --centrifugo FILE (/dev/null for none). \
                     Development mode, which lets everybody in, starts only where no variable begins with {}\n",
                    centrifugo::ENVIRONMENT_PREFIX
                );
                CliAction::Print { text, code: 2 }
            }
            Ok(start) => CliAction::Serve(Box::new(Start { given: of_process, ..start })),
            Err(faults) => refuse(&faults, 2),
        },
    }
}

/// What a configuration is read in.
struct Surroundings {
    environment: BTreeMap<String, String>,
    /// Variables and flags of Centrifugo.
    theirs: BTreeMap<String, String>,
    their_flags: TheirFlags,
    /// Seconds since 1970.
    unix_s: u64,
}

/// Where a node would listen.
fn places(config: &Config) -> String {
    let place = |listener: &Listener| {
        let who = if listener.serves == Serves::Api { "API    " } else { "clients" };
        format!("{who}  {}{}\n", listener.address, listener.note())
    };
    config.listeners().iter().map(place).collect()
}

/// Sources, and what they were made from if that is Centrifugo's configuration.
struct GivenSources {
    sources: Sources,
    imported: Option<Imported>,
}

impl GivenSources {
    fn load(&self) -> Result<Loaded, Vec<Fault>> {
        let mut loaded = load::load(&self.sources).map_err(|faults| self.blame(faults))?;
        if let Some(imported) = &self.imported {
            loaded.warnings.splice(..0, imported.warnings.iter().cloned());
        }
        Ok(loaded)
    }

    /// Faults of what was made, as faults of what it was made from.
    fn blame(&self, faults: Vec<Fault>) -> Vec<Fault> {
        match (&self.imported, &self.sources.file) {
            (Some(imported), Some((name, _))) => centrifugo::blame(name, &imported.sources, faults),
            _ => faults,
        }
    }
}

/// What the file that is named, the environment and the flags come to.
fn configured(
    rows: &[SettingRow],
    matches: &ArgMatches,
    environment: &Surroundings,
) -> Result<Start, Vec<Fault>> {
    let given = given(rows, matches, environment)?;
    let Loaded { config, warnings } = given.load()?;
    let plan = MemoryPlan::new(&config, Machine::find().bytes).map_err(|fault| given.blame(vec![fault]))?;
    let file = matches.get_one::<String>("centrifugo").or(file_named(matches, environment));
    Ok(Start { config, warnings, plan, given: GivenToProcess::default(), file: file.map(PathBuf::from) })
}

/// The configuration of ours that is named.
fn file_named<'m>(matches: &'m ArgMatches, environment: &'m Surroundings) -> Option<&'m String> {
    let named = matches.get_one::<String>("config").or(environment.environment.get(ENVIRONMENT_FILE));
    named.filter(|path| !path.is_empty())
}

/// The sources themselves: the file read that `--config` or the environment names, or that of Centrifugo.
fn given(
    rows: &[SettingRow],
    matches: &ArgMatches,
    environment: &Surroundings,
) -> Result<GivenSources, Vec<Fault>> {
    let named = file_named(matches, environment);
    if let Some(path) = matches.get_one::<String>("centrifugo") {
        if let Some(own) = named {
            let problem =
                format!("cannot be beside a configuration of ours ({own}): only one of them can hold");
            let origin = SettingOrigin::Flag("--centrifugo".to_string());
            return Err(vec![Fault { key: String::new(), origin, problem }]);
        }
        let imported = imported(matches, path, environment)?;
        let file = Some((format!("{path}, as imported"), imported.text.clone()));
        let sources = sources(rows, matches, file, environment);
        return Ok(GivenSources { sources, imported: Some(imported) });
    }
    let file = match named {
        Some(path) => read(path)?,
        None => None,
    };
    Ok(GivenSources { sources: sources(rows, matches, file, environment), imported: None })
}

/// Centrifugo's configuration made into ours.
fn imported(matches: &ArgMatches, path: &str, environment: &Surroundings) -> Result<Imported, Vec<Fault>> {
    let allowed = matches.get_many::<String>("allow-missing").unwrap_or_default();
    centrifugo::import(&centrifugo::CentrifugoSources {
        file: read(path)?.unwrap_or_default(),
        environment: environment.theirs.clone(),
        flags: environment.their_flags.clone(),
        allowed: allowed.map(|key| key.trim_start_matches('-').to_string()).collect(),
    })
}

/// The configuration made from Centrifugo's, with the faults that keep it from being served.
fn print_import(
    rows: &[SettingRow],
    matches: &ArgMatches,
    path: &str,
    environment: &Surroundings,
) -> CliAction {
    let imported = match imported(matches, path, environment) {
        Ok(imported) => imported,
        Err(faults) => return refuse(&faults, 2),
    };
    let file = Some((format!("{path}, as imported"), imported.text.clone()));
    let given = GivenSources { sources: sources(rows, matches, file, environment), imported: Some(imported) };
    let notes: String = match given.load() {
        Ok(_) => String::new(),
        Err(faults) => faults.iter().map(|fault| format!("# does not start as it is: {fault}\n")).collect(),
    };
    let text = given.imported.map_or(String::new(), |imported| imported.text);
    CliAction::Print { text: format!("{notes}{text}"), code: 0 }
}

fn command(rows: &[SettingRow]) -> Command {
    let flags = rows.iter().filter_map(|row| {
        let (flag, value) = row.key.flag?;
        let doc: Vec<&str> = row.key.doc_lines().collect();
        let help = format!("{} [key: {}, env: {}]", doc.join(" "), row.path(), row.variable());
        let arg = Arg::new(flag).long(flag).help(help);
        Some(match (value, row.key.list) {
            ("", _) => arg.action(ArgAction::SetTrue),
            (value, false) => arg.value_name(value).allow_hyphen_values(true),
            (value, true) => arg.value_name(value).action(ArgAction::Append),
        })
    });
    let flags: Vec<Arg> = flags.collect();
    let config = Arg::new("config")
        .long("config")
        .short('c')
        .value_name("FILE")
        .help(format!("Configuration file (TOML) [env: {ENVIRONMENT_FILE}]"));
    let allow_missing = Arg::new("allow-missing")
        .long("allow-missing")
        .value_name("KEY")
        .action(ArgAction::Append)
        .help("Go on without a key of Centrifugo that has no counterpart; can be repeated");
    let centrifugo = [
        Arg::new("centrifugo").long("centrifugo").value_name("FILE").help(
            "Serve from Centrifugo's configuration (JSON, YAML or TOML), its environment and its flags",
        ),
        allow_missing.clone(),
    ];
    Command::new("trunkline")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Holds long client connections (WebSocket) in front of a backend that speaks plain HTTP.")
        .after_help(
            "Every key of the configuration file can be set in the environment: `trunkline config` prints them all.\n\
             Without a file, an API key and a token secret the node runs in development mode on loopback only.",
        )
        .arg(config.clone())
        .args(centrifugo.clone())
        .args(flags.clone())
        .args_conflicts_with_subcommands(true)
        .subcommand(
            Command::new("import")
                .about("Print the configuration of another server as one of ours, with the origin of each line")
                .subcommand_required(true)
                .subcommand(
                    Command::new("centrifugo")
                        .about("From Centrifugo (5 and 6): JSON, YAML or TOML, with its environment and its flags")
                        .arg(Arg::new("FILE").required(true).help("Its file; /dev/null for none"))
                        .arg(allow_missing.clone()),
                ),
        )
        .subcommand(Command::new("config").about("Print the documented default configuration"))
        .subcommand(
            Command::new("check")
                .about("Check a configuration file, with the environment as it is; exits 1 on faults")
                .arg(Arg::new("FILE").required(true)),
        )
        .subcommands(token_command::commands(&config, &centrifugo))
        .subcommands(
            orders::commands()
                .map(|order| order.arg(config.clone()).args(centrifugo.clone()).args(flags.clone())),
        )
        .subcommands(kit::commands())
        .subcommands(
            look::commands()
                .map(|look| look.arg(config.clone()).args(centrifugo.clone()).args(flags.clone())),
        )
        .subcommand(store_command::command())
        .subcommand(upgrade_command::command())
        .subcommand(
            Command::new("doctor")
                .about("Examine this host for what would be served: what is short, and what it costs; exits 1 if anything is")
                .arg(
                    Arg::new("connections")
                        .long("connections")
                        .value_name("N")
                        .value_parser(clap::value_parser!(u32).range(1..))
                        .help("Connections to examine it for [default: as many as the configuration allows]"),
                )
                .arg(
                    Arg::new("root")
                        .long("root")
                        .value_name("DIR")
                        .help("Take DIR/proc/sys and DIR/sys for /proc/sys and /sys"),
                )
                .arg(config)
                .args(centrifugo)
                .args(flags),
        )
}

fn sources(
    rows: &[SettingRow],
    matches: &ArgMatches,
    file: Option<(String, String)>,
    Surroundings { environment, unix_s, .. }: &Surroundings,
) -> Sources {
    let flags = rows.iter().filter_map(|row| {
        let (flag, value) = row.key.flag?;
        let text = if value.is_empty() {
            // The flags of "serve" are unknown to a subcommand's matches.
            let given = matches.try_get_one::<bool>(flag).ok().flatten().copied().unwrap_or_default();
            given.then(|| "true".to_string())
        } else {
            // More than one only where a list is taken.
            let given = matches.try_get_many::<String>(flag).ok().flatten();
            given.map(|texts| texts.cloned().collect::<Vec<_>>().join(","))
        };
        Some((row.path(), text?))
    });
    Sources { file, environment: environment.clone(), flags: flags.collect(), unix_s: *unix_s }
}

/// A whole configuration or every fault of it, the memory plan included.
fn prepare(sources: &Sources) -> Result<Start, Vec<Fault>> {
    let Loaded { config, warnings } = load::load(sources)?;
    let plan = MemoryPlan::new(&config, Machine::find().bytes).map_err(|fault| vec![fault])?;
    Ok(Start { config, warnings, plan, given: GivenToProcess::default(), file: None })
}

/// The file's name and text.
fn read(path: &str) -> Result<Option<(String, String)>, Vec<Fault>> {
    let fault = |problem: String| {
        vec![Fault {
            key: String::new(),
            origin: SettingOrigin::Default,
            problem: format!("{path}: {problem}"),
        }]
    };
    let size = fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault(format!("{size} bytes are no configuration file")));
    }
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    Ok(Some((path.to_string(), text)))
}

/// The variables that begin with `prefix`. One that is not UTF-8 is read with replacement characters and then fails
/// as a value, by its name.
fn beginning(environment: &[(OsString, OsString)], prefix: &str) -> BTreeMap<String, String> {
    let environment = environment.iter().filter_map(|(name, value)| Some((name.to_str()?, value)));
    environment
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, value)| (name.to_string(), value.to_string_lossy().into_owned()))
        .collect()
}

fn refuse(faults: &[Fault], code: u8) -> CliAction {
    CliAction::Print { text: faults.iter().map(|fault| format!("error: {fault}\n")).collect(), code }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
