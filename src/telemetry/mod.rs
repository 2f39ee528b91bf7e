//! What the node says about itself while it runs: logs to stderr, and panics among them. Nobody who logs waits for
//! stderr: see [`queue`].
//!
//! Inputs: format and level of the log, events of `tracing`. Outputs: lines on stderr. Must not know: anything that logs, nor
//! where its settings come from.

pub mod limit;
pub mod queue;
pub mod sparing;

use std::backtrace::Backtrace;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use limit::LogLimit;
use queue::Lines;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What is logged: this and what is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Starts logging for the whole process and makes panics part of the log.
///
/// # Errors
/// When the process logs already: this is called once, first of all.
pub fn init(format: LogFormat, level: LogLevel) -> Result<(), String> {
    let (targets, handle) = reload::Layer::new(targets_of(level));
    // A descriptor of its own: a thread that stands still in a write must not hold the lock of std's stderr.
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let missing = match format {
        LogFormat::Text => missing_text,
        LogFormat::Json => missing_json,
    };
    let queue = Lines::start(File::from(stderr), missing).map_err(|error| error.to_string())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(queue.clone());
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init()
        .map_err(|error| error.to_string())?;
    let _ = QUEUE.set(queue);
    let _ = LEVEL.set(Box::new(move |level| {
        // Only a subscriber that is gone refuses, and this one is the process'.
        let _ = handle.reload(targets_of(level));
    }));
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn targets_of(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Crates below us at debug level drown what is asked for.
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("trunkline", level)
}

/// Logs from this level on, once the process logs.
pub fn set_level(level: LogLevel) {
    if let Some(set) = LEVEL.get() {
        set(level);
    }
}

/// Changes the level of the process' log.
static LEVEL: OnceLock<Box<dyn Fn(LogLevel) + Send + Sync>> = OnceLock::new();

/// The lines of this process, once it logs.
static QUEUE: OnceLock<Lines> = OnceLock::new();

/// Log lines that were dropped because stderr did not take them.
pub fn lines_dropped_total() -> u64 {
    QUEUE.get().map_or(0, Lines::dropped_total)
}

/// Before the process ends: waits for stderr, at most for `patience`.
pub fn flush(patience: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(patience);
    }
}

fn missing_text(dropped: u64) -> String {
    format!(" WARN trunkline: {dropped} lines of the log above are missing: stderr was not read\n")
}

fn missing_json(dropped: u64) -> String {
    let message = "lines of the log above are missing: stderr was not read";
    format!(
        "{{\"level\":\"WARN\",\"message\":\"{message}\",\"dropped\":{dropped},\"target\":\"trunkline\"}}\n"
    )
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
        let start = || init(LogFormat::Json, LogLevel::default());
        assert_eq!(start(), Ok(()));
        assert!(start().is_err());
        let panicked = std::thread::Builder::new().name("told".to_string()).spawn(|| panic!("on purpose"));
        assert!(panicked.unwrap().join().is_err());
        // Other tests of this process keep the usual report.
        let _ = std::panic::take_hook();
    }
}
