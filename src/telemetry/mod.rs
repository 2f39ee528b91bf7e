//! What the node says about itself while it runs: logs to stderr, and panics among them.
//!
//! Inputs: the log settings, events of `tracing`. Outputs: lines on stderr. Must not know: anything that logs.

pub mod limit;
pub mod sparing;

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat, LogLevel};

pub use limit::LogLimit;

/// Starts logging for the whole process and makes panics part of the log.
///
/// # Errors
/// When the process logs already: this is called once, first of all.
pub fn init(log: &Log) -> Result<(), String> {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Crates below us at debug level drown what is asked for.
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("trunkline", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init()
        .map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is a bug of ours: it is logged with all that finding it takes.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or(payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = panic.location().map(ToString::to_string).unwrap_or_default(),
        backtrace = %Backtrace::capture(),
        "panic: {}",
        message.unwrap_or("no message"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because a process has one subscriber and one hook.
    #[test]
    fn starts_once_and_survives_a_panic() {
        let log = Log { format: LogFormat::Json, ..Log::default() };
        assert_eq!(init(&log), Ok(()));
        assert!(init(&log).is_err());
        let panicked = std::thread::Builder::new().name("told".to_string()).spawn(|| panic!("on purpose"));
        assert!(panicked.unwrap().join().is_err());
        // Other tests of this process keep the usual report.
        let _ = std::panic::take_hook();
    }
}
