//! The command line: `trunkline [FLAGS]`, `trunkline config`, `trunkline check FILE`, `trunkline doctor`, and tokens made
//! and checked with the keys of a configuration: `trunkline gentoken`, `gensubtoken`, `checktoken`.
//!
//! Flags come from the table of settings. Exit codes: 0 done, 1 the checked file has faults, 2 the command line or the
//! configuration is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::base::address::Serves;
use crate::config::document;
use crate::config::fault::{Fault, Origin};
use crate::config::load::{self, ENVIRONMENT_FILE, ENVIRONMENT_PREFIX, Loaded, Row, Sources};
use crate::config::machine::Machine;
use crate::config::memory::MemoryPlan;
use crate::config::places::Listener;
use crate::config::sections::Config;
use crate::config::value::{Given, Setting as _};

/// Longest configuration file that is read, in bytes. A larger one is some other file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What variables of Centrifugo begin with.
const FOREIGN_PREFIX: &str = "CENTRIFUGO_";

/// What to serve with.
#[derive(Clone, Debug)]
pub struct Start {
    pub config: Config,
    /// To be logged at start.
    pub warnings: Vec<String>,
    pub plan: MemoryPlan,
}

/// Something to be done with tokens, and the configuration whose keys it is done with.
#[derive(Clone, Debug)]
pub struct TokenTask {
    pub config: Config,
    pub job: TokenJob,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TokenJob {
    /// Print a connection token.
    Connection {
        user: String,
        /// How long it holds; zero for ever.
        ttl: Duration,
        channels: Vec<String>,
        /// JSON.
        info: Option<String>,
        meta: Option<String>,
    },
    /// Print a subscription token.
    Subscription { user: String, channel: String, ttl: Duration, info: Option<String> },
    /// Print what a token of either kind says.
    Check { token: String },
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
    Serve(Start),
    Doctor(Start, Diagnosis),
    Token(Box<TokenTask>),
}

/// Reads the command line and the environment. A command that needs neither node nor clock is carried out here. `unix_s`:
/// seconds since 1970.
///
/// # Errors
/// The code to exit with; what there was to say has been printed.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    unix_s: u64,
) -> Result<Job, ExitCode> {
    match interpret(arguments, environment, unix_s) {
        Action::Serve(start) => Ok(Job::Serve(*start)),
        Action::Doctor(start, diagnosis) => Ok(Job::Doctor(*start, diagnosis)),
        Action::Token(task) => Ok(Job::Token(task)),
        Action::Print { text, code: 0 } => {
            // A reader that has seen enough (`| head`) is no failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Err(ExitCode::SUCCESS)
        }
        Action::Print { text, code } => {
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            Err(ExitCode::from(code))
        }
    }
}

/// What a command line comes to.
#[derive(Clone, Debug)]
pub enum Action {
    Serve(Box<Start>),
    Token(Box<TokenTask>),
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
) -> Action {
    let rows = Config::default().rows();
    let matches = match command(&rows).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return Action::Print { text: error.render().to_string(), code };
        }
    };
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    let foreign = foreign(&environment);
    let environment = ours(environment);
    let environment = Surroundings { environment, unix_s };
    match matches.subcommand() {
        Some(("config", _)) => Action::Print { text: document::documented(&Config::default()), code: 0 },
        Some(("check", matches)) => {
            let path = matches.get_one::<String>("FILE").cloned().unwrap_or_default();
            match read(&path).and_then(|file| prepare(&sources(&rows, matches, file, environment))) {
                Ok(start) => {
                    let warnings: String =
                        start.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
                    let places = places(&start.config);
                    Action::Print { text: format!("{warnings}{places}{path}: ok\n"), code: 0 }
                }
                Err(faults) => refuse(&faults, 1),
            }
        }
        Some((name @ ("gentoken" | "gensubtoken" | "checktoken"), matches)) => {
            // The node that a configuration describes need not fit this machine.
            let loaded = given(&rows, matches, environment).and_then(|sources| load::load(&sources));
            let job = token_job(name, matches);
            match loaded.and_then(|Loaded { config, .. }| job.map(|job| TokenTask { config, job })) {
                Ok(task) => Action::Token(Box::new(task)),
                Err(faults) => refuse(&faults, 2),
            }
        }
        Some(("doctor", matches)) => {
            let diagnosis = Diagnosis {
                connections: matches.get_one::<u32>("connections").copied(),
                root: matches.get_one::<String>("root").cloned().unwrap_or_default(),
            };
            match configured(&rows, matches, environment) {
                Ok(start) => Action::Doctor(Box::new(start), diagnosis),
                Err(faults) => refuse(&faults, 2),
            }
        }
        _ => match configured(&rows, &matches, environment) {
            Ok(start) if start.config.is_development() && foreign.is_some() => {
                let name = foreign.unwrap_or_default();
                let text = format!(
                    "error: {name} is set, and nothing configures trunkline: its variables begin with \
                     {ENVIRONMENT_PREFIX}, and `trunkline config` prints them all. Development mode, which lets \
                     everybody in, starts only where no variable begins with {FOREIGN_PREFIX}\n"
                );
                Action::Print { text, code: 2 }
            }
            Ok(start) => Action::Serve(Box::new(start)),
            Err(faults) => refuse(&faults, 2),
        },
    }
}

/// What a configuration is read in.
struct Surroundings {
    environment: BTreeMap<String, String>,
    /// Seconds since 1970.
    unix_s: u64,
}

/// Where a node would listen.
fn places(config: &Config) -> String {
    let place = |listener: &Listener| {
        let who = if listener.serves == Serves::Api { "API    " } else { "clients" };
        let tls = if listener.tls { " (TLS)" } else { "" };
        format!("{who}  {}{tls}\n", listener.address)
    };
    config.listeners().iter().map(place).collect()
}

/// What the file that is named, the environment and the flags come to.
fn configured(rows: &[Row], matches: &ArgMatches, environment: Surroundings) -> Result<Start, Vec<Fault>> {
    prepare(&given(rows, matches, environment)?)
}

/// The sources themselves, the file read that `--config` or the environment names.
fn given(rows: &[Row], matches: &ArgMatches, environment: Surroundings) -> Result<Sources, Vec<Fault>> {
    let named = matches.get_one::<String>("config").or(environment.environment.get(ENVIRONMENT_FILE));
    let file = match named.filter(|path| !path.is_empty()) {
        Some(path) => read(path)?,
        None => None,
    };
    Ok(sources(rows, matches, file, environment))
}

/// The job that a subcommand for tokens names.
fn token_job(name: &str, matches: &ArgMatches) -> Result<TokenJob, Vec<Fault>> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    if name == "checktoken" {
        let token = text("TOKEN").unwrap_or_default().trim().to_string();
        return Ok(TokenJob::Check { token });
    }
    let fault = |flag: &str, problem: String| {
        vec![Fault { key: flag.to_string(), origin: Origin::Flag(format!("--{flag}")), problem }]
    };
    let ttl = Duration::read(&Given::Loose(text("ttl").unwrap_or_default()))
        .map_err(|problem| fault("ttl", problem))?;
    let json = |flag: &str| -> Result<Option<String>, Vec<Fault>> {
        let Some(text) = text(flag) else { return Ok(None) };
        match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            Ok(_) => Ok(Some(text.trim().to_string())),
            Err(error) => Err(fault(flag, format!("is not JSON: {error}"))),
        }
    };
    let user = text("user").unwrap_or_default();
    let info = json("info")?;
    Ok(match name {
        "gensubtoken" => {
            TokenJob::Subscription { user, channel: text("channel").unwrap_or_default(), ttl, info }
        }
        _ => TokenJob::Connection {
            user,
            ttl,
            channels: matches.get_many::<String>("channel").unwrap_or_default().cloned().collect(),
            info,
            meta: json("meta")?,
        },
    })
}

fn command(rows: &[Row]) -> Command {
    let option = |long: &'static str, short: char, value: &'static str, help: &'static str| {
        Arg::new(long).long(long).short(short).value_name(value).help(help).allow_hyphen_values(true)
    };
    let user = || option("user", 'u', "USER", "Whose token it is. None: nobody known");
    let ttl = || {
        option("ttl", 't', "TIME", "How long it holds, like 90s, 5m, 1h or 7d; 0s for ever")
            .default_value("7d")
    };
    let info = || option("info", 'i', "JSON", "What others see of the client");
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
    Command::new("trunkline")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Holds long client connections (WebSocket) in front of a backend that speaks plain HTTP.")
        .after_help(
            "Every key of the configuration file can be set in the environment: `trunkline config` prints them all.\n\
             Without a file, an API key and a token secret the node runs in development mode on loopback only.",
        )
        .arg(config.clone())
        .args(flags.clone())
        .args_conflicts_with_subcommands(true)
        .subcommand(Command::new("config").about("Print the documented default configuration"))
        .subcommand(
            Command::new("check")
                .about("Check a configuration file, with the environment as it is; exits 1 on faults")
                .arg(Arg::new("FILE").required(true)),
        )
        .subcommand(
            Command::new("gentoken")
                .about("Print a connection token, signed with client.token.hmac_secret (HS256)")
                .args([config.clone(), user(), ttl(), info()])
                .arg(
                    option("channel", 's', "CHANNEL", "Subscribe the connection to this; can be repeated")
                        .action(ArgAction::Append),
                )
                .arg(option("meta", 'm', "JSON", "What only the backend sees of the client")),
        )
        .subcommand(
            Command::new("gensubtoken")
                .about("Print a subscription token, signed with the hmac_secret of client.subscription_token or client.token")
                .args([config.clone(), user(), ttl(), info()])
                .arg(option("channel", 's', "CHANNEL", "What it lets the user subscribe to").required(true)),
        )
        .subcommand(
            Command::new("checktoken")
                .about("Print what a token of either kind says; exits 1 when it is not valid")
                .arg(config.clone())
                .arg(Arg::new("TOKEN").required(true).allow_hyphen_values(true)),
        )
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
                .args(flags),
        )
}

fn sources(
    rows: &[Row],
    matches: &ArgMatches,
    file: Option<(String, String)>,
    Surroundings { environment, unix_s }: Surroundings,
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
    Sources { file, environment, flags: flags.collect(), unix_s }
}

/// A whole configuration or every fault of it, the memory plan included.
fn prepare(sources: &Sources) -> Result<Start, Vec<Fault>> {
    let Loaded { config, warnings } = load::load(sources)?;
    let plan = MemoryPlan::new(&config, Machine::find().bytes).map_err(|fault| vec![fault])?;
    Ok(Start { config, warnings, plan })
}

/// The file's name and text.
fn read(path: &str) -> Result<Option<(String, String)>, Vec<Fault>> {
    let fault = |problem: String| {
        vec![Fault { key: String::new(), origin: Origin::Default, problem: format!("{path}: {problem}") }]
    };
    let size = fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault(format!("{size} bytes are no configuration file")));
    }
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    Ok(Some((path.to_string(), text)))
}

/// The variables that begin with our prefix. One that is not UTF-8 is read with replacement characters and then fails
/// as a value, by its name.
/// A variable of the server whose clients ours are: set, it was meant to configure this one.
fn foreign(environment: &[(OsString, OsString)]) -> Option<String> {
    let names = environment.iter().map(|(name, _)| name.to_string_lossy());
    names.filter(|name| name.starts_with(FOREIGN_PREFIX)).min().map(Into::into)
}

fn ours(environment: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

fn refuse(faults: &[Fault], code: u8) -> Action {
    Action::Print { text: faults.iter().map(|fault| format!("error: {fault}\n")).collect(), code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(arguments: &[&str], environment: &[(&str, &str)]) -> Action {
        let arguments = ["trunkline"].iter().chain(arguments).map(OsString::from);
        interpret(arguments, environment.iter().map(|(name, value)| (name.into(), value.into())), 0)
    }

    fn printed(action: Action) -> (String, u8) {
        match action {
            Action::Print { text, code } => (text, code),
            Action::Serve(start) | Action::Doctor(start, _) => panic!("serves with {:?}", start.config),
            Action::Token(task) => panic!("makes {:?}", task.job),
        }
    }

    fn served(action: Action) -> Config {
        match action {
            Action::Serve(start) => start.config,
            Action::Doctor(..) => panic!("examines"),
            Action::Print { text, code } => panic!("exits {code}: {text}"),
            Action::Token(task) => panic!("makes {:?}", task.job),
        }
    }

    #[test]
    fn variables_of_another_server_do_not_start_an_open_node() {
        let foreign = ("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", "secret");
        let (text, code) = printed(act(&[], &[foreign]));
        assert_eq!(code, 2);
        assert!(text.contains(foreign.0) && text.contains("TRUNKLINE_"), "{text}");
        // Beside a configuration of ours they may stay.
        assert!(!served(act(&[], &[foreign, ("TRUNKLINE_API_KEY", "a key of sixteen")])).is_development());
        assert!(served(act(&[], &[])).is_development());
    }

    fn job(arguments: &[&str]) -> TokenJob {
        match act(arguments, &[]) {
            Action::Token(task) => task.job,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tokens_are_made_of_what_the_command_line_says() {
        let made = job(&["gentoken", "-u", "42", "--ttl", "1h", "-s", "a", "--channel=b", "--info", "{}"]);
        let expected = TokenJob::Connection {
            user: "42".into(),
            ttl: Duration::from_secs(3600),
            channels: vec!["a".into(), "b".into()],
            info: Some("{}".into()),
            meta: None,
        };
        assert_eq!(made, expected);
        let made = job(&["gensubtoken", "-u", "42", "-s", "news"]);
        let ttl = Duration::from_secs(7 * 24 * 3600);
        let expected = TokenJob::Subscription { user: "42".into(), channel: "news".into(), ttl, info: None };
        assert_eq!(made, expected);
        assert_eq!(job(&["checktoken", " x "]), TokenJob::Check { token: "x".into() });
        for wrong in [
            &["gensubtoken", "-u", "42"][..],
            &["gentoken", "--ttl", "soon"],
            &["gentoken", "--info", "{"],
            &["gentoken", "--meta", "nothing"],
            &["checktoken"],
            &["checktoken", "x", "--config", "/nonexistent.toml"],
        ] {
            assert_eq!(printed(act(wrong, &[])).1, 2, "{wrong:?}");
        }
    }

    #[test]
    fn flags_reach_their_settings() {
        let config = served(act(
            &[
                "--listen",
                "127.0.0.1:0",
                "--api-listen=127.0.0.1:1",
                "--driver",
                "mio",
                "--shards",
                "3",
                "--echo",
            ],
            &[("TRUNKLINE_LISTEN", "127.0.0.1:7"), ("TRUNKLINE_LOG_FORMAT", "json"), ("HOME", "/")],
        ));
        let listen = |config: &Config| config.listen.addresses().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(listen(&config), ["127.0.0.1:0"]);
        assert_eq!(config.api_listen.unwrap().port(), 1);
        assert_eq!((config.driver, config.shards, config.echo), (crate::config::DriverChoice::Mio, 3, true));
        assert_eq!(config.log.format, crate::config::LogFormat::Json);
        let config = served(act(&["--api-key", "-k-", "--log", "json", "--log-level", "debug"], &[]));
        assert_eq!(config.api.key.unwrap().reveal(), "-k-");
        assert_eq!(config.log.level, crate::config::LogLevel::Debug);
        assert!(served(act(&[], &[])).is_development());
        let several = ["127.0.0.1:1", "[::1]:1", "unix:/a.sock"];
        let [one, two, three] = several;
        assert_eq!(
            listen(&served(act(&["--listen", one, "--listen", two, "--listen", three], &[]))),
            several
        );
        let variable = ("TRUNKLINE_LISTEN", &*several.join(","));
        assert_eq!(listen(&served(act(&[], &[variable]))), several);
        assert_eq!(printed(act(&["--shards", "1", "--shards", "2"], &[])).1, 2, "no list");
    }

    #[test]
    fn exit_codes_tell_help_usage_and_configuration_apart() {
        let (help, code) = printed(act(&["--help"], &[]));
        assert_eq!(code, 0);
        for mentioned in ["--api-key", "TRUNKLINE_API_KEY", "[key: api.key", "check", "config"] {
            assert!(help.contains(mentioned), "{mentioned} is missing in {help}");
        }
        assert_eq!(printed(act(&["--version"], &[])).1, 0);
        assert_eq!(printed(act(&["--sharks", "3"], &[])).1, 2);
        assert_eq!(printed(act(&["--shards", "many"], &[])).1, 2);
        assert_eq!(printed(act(&["--config", "/nonexistent.toml"], &[])).1, 2);
        assert_eq!(printed(act(&[], &[("TRUNKLINE_CONFIG", "/nonexistent.toml")])).1, 2);
        assert_eq!(printed(act(&["check"], &[])).1, 2);
    }

    #[test]
    fn the_doctor_takes_what_serving_takes() {
        let action = act(&["doctor", "--connections", "500000", "--shards", "3", "--root", "/r"], &[]);
        let Action::Doctor(start, diagnosis) = action else { panic!("{action:?}") };
        assert_eq!(start.config.shards, 3);
        assert_eq!(diagnosis, Diagnosis { connections: Some(500_000), root: "/r".into() });
        assert_eq!(printed(act(&["doctor", "--connections", "0"], &[])).1, 2);
        assert_eq!(printed(act(&["doctor", "--config", "/nonexistent.toml"], &[])).1, 2);
    }

    #[test]
    fn check_says_ok_or_names_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let name = path.to_str().unwrap();
        fs::write(&path, document::documented(&Config::default())).unwrap();
        assert_eq!(
            printed(act(&["check", name], &[])),
            (format!("clients  127.0.0.1:8000\n{name}: ok\n"), 0)
        );
        let served = served(act(&["--config", name], &[]));
        assert_eq!(served, Config::default(), "the documented file is what it says: the defaults");
        fs::write(&path, "[client]\n\nping_intervall = \"5s\"\n").unwrap();
        let (text, code) = printed(act(&["check", name], &[]));
        let expected = format!(
            "error: {name}:3: client.ping_intervall: unknown key; did you mean client.ping_interval?\n"
        );
        assert_eq!((text, code), (expected, 1));
        assert_eq!(printed(act(&["--config", name], &[])).1, 2);
        fs::write(&path, "[client]\nallowed_origins = [\"null\", \"https://a.example/app\"]\n").unwrap();
        let (text, code) = printed(act(&["check", name], &[]));
        let reason = "\"https://a.example/app\" has a path: an origin ends with its host or port";
        assert_eq!((text, code), (format!("error: {name}:2: client.allowed_origins: {reason}\n"), 1));
        assert_eq!(printed(act(&["check", "/nonexistent.toml"], &[])).1, 1);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(printed(act(&["check", name], &[])).1, 1);
    }

    #[test]
    fn config_prints_what_parses() {
        let (text, code) = printed(act(&["config"], &[]));
        assert_eq!(code, 0);
        assert!(text.contains("# How often a silent client is pinged.\nping_interval = \"25s\"\n"), "{text}");
    }
}
