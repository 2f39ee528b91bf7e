//! `trunkline gentoken`, `gensubtoken`, `checktoken`: tokens made and checked with the keys of a configuration.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::base::inboxes::DEVICE_BYTES_MAX;
use crate::config::fault::{Fault, SettingOrigin};
use crate::config::sections::Config;
use crate::config::value::{Given, Setting as _};

/// The subcommands of this module.
pub const NAMES: [&str; 3] = ["gentoken", "gensubtoken", "checktoken"];

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
        device: Option<String>,
        /// How long it holds; zero: it never expires.
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

/// The job that a subcommand for tokens names.
pub fn job(name: &str, matches: &ArgMatches) -> Result<TokenJob, Vec<Fault>> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    if name == "checktoken" {
        let token = text("TOKEN").unwrap_or_default().trim().to_string();
        return Ok(TokenJob::Check { token });
    }
    let fault = |flag: &str, problem: String| {
        vec![Fault { key: flag.to_string(), origin: SettingOrigin::Flag(format!("--{flag}")), problem }]
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
            device: device(text("device")).map_err(|problem| fault("device", problem))?,
            ttl,
            channels: matches.get_many::<String>("channel").unwrap_or_default().cloned().collect(),
            info,
            meta: json("meta")?,
        },
    })
}

/// What the daemon takes for the name of a device.
fn device(text: Option<String>) -> Result<Option<String>, String> {
    match &text {
        Some(device) if device.is_empty() || device.len() > DEVICE_BYTES_MAX => {
            Err(format!("must have 1 to {DEVICE_BYTES_MAX} bytes"))
        }
        _ => Ok(text),
    }
}

/// They take the file that `config` names, or that of `centrifugo`.
pub fn commands(config: &Arg, centrifugo: &[Arg]) -> [Command; NAMES.len()] {
    let option = |long: &'static str, short: char, value: &'static str, help: &'static str| {
        Arg::new(long).long(long).short(short).value_name(value).help(help).allow_hyphen_values(true)
    };
    let user = || option("user", 'u', "USER", "Whose token it is. None: nobody known");
    let ttl = || {
        option("ttl", 't', "TIME", "How long it holds, like 90s, 5m, 1h or 7d; 0s: it never expires")
            .default_value("7d")
    };
    let info = || option("info", 'i', "JSON", "What others see of the client");
    [
        Command::new("gentoken")
            .about("Print a connection token, signed with client.token.hmac_secret (HS256)")
            .args([config.clone(), user(), ttl(), info()])
            .args(centrifugo)
            .arg(
                option("channel", 's', "CHANNEL", "Subscribe the connection to this; can be repeated")
                    .action(ArgAction::Append),
            )
            .arg(option("device", 'd', "DEVICE", "Which of the user's devices connects, like phone:7c9e: for inboxes and cursors"))
            .arg(option("meta", 'm', "JSON", "What only the backend sees of the client")),
        Command::new("gensubtoken")
            .about("Print a subscription token, signed with the hmac_secret of client.subscription_token or client.token")
            .args([config.clone(), user(), ttl(), info()])
            .args(centrifugo)
            .arg(option("channel", 's', "CHANNEL", "What it lets the user subscribe to").required(true)),
        Command::new("checktoken")
            .about("Print what a token of either kind says; exits 1 when it is not valid")
            .arg(config.clone())
            .args(centrifugo)
            .arg(Arg::new("TOKEN").required(true).allow_hyphen_values(true)),
    ]
}
