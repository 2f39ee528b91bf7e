//! `trunkline doctor`: what of this host keeps the daemon from holding what its configuration asks for, and what each
//! miss costs.
//!
//! The kernel's settings are compared by `tuning/host.sh` itself, which this program carries: what the doctor finds and
//! what `host.sh --apply` sets cannot differ. Its lines have one form: `ok`, `SHORT` with the cost below, or `note`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::config::cli::{Diagnosis, Start};
use crate::config::places::Listener;
use crate::driver::choose::{DriverChosen, DriverKind};
use crate::node::limits::{Descriptors, Room};
use crate::node::{absences, choose_driver, driver_kind, listener};

const HOST_SCRIPT: &str = include_str!("../../tuning/host.sh");

/// Linux from which on a shard wakes another without an eventfd of its own.
const WAKE_WITHOUT_EVENTFD: (u32, u32) = (6, 13);

/// For how long the cpus are watched: long enough to meet a pause of some milliseconds that comes a few times a second.
const WATCHED: Duration = Duration::from_secs(1);
/// A cpu that is away for this share of its time shows in the p99 of what it serves.
const ABSENT_MAX: f64 = 0.005;

/// Examines the host, prints what it finds. Exit code 0: nothing is short; 1: something is; 2: it could not be found out.
pub fn run(start: &Start, diagnosis: &Diagnosis) -> ExitCode {
    let connections = diagnosis.connections.unwrap_or(start.plan.connections_max);
    let mut report = DoctorReport::default();
    examine(start, connections, &mut report);
    let host = host_settings(connections, &diagnosis.root);
    let (text, short) = match &host {
        Ok((text, short)) => (text.as_str(), *short),
        Err(_) => ("", false),
    };
    let mut out = io::stdout().lock();
    // A reader that has seen enough (`| head`) is no failure.
    let _ = write!(out, "For {connections} connections:\n{}{text}", report.text);
    if let Err(problem) = host {
        eprintln!("trunkline: the kernel's settings could not be compared: {problem}");
        return ExitCode::from(2);
    }
    if report.short || short {
        let _ = writeln!(
            out,
            "Settings of the kernel: tuning/host.sh --apply sets them, --revert puts them back."
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct DoctorReport {
    text: String,
    short: bool,
}

impl DoctorReport {
    fn say(&mut self, holds: bool, what: &str, cost: &str) {
        let _ = if holds {
            writeln!(self.text, "ok     {what}")
        } else {
            writeln!(self.text, "SHORT  {what}\n       {cost}")
        };
        self.short |= !holds;
    }

    /// What nobody can set, but who measures should know.
    fn note(&mut self, what: &str, meaning: &str) {
        let _ = writeln!(self.text, "note   {what}\n       {meaning}");
    }
}

/// What the daemon finds out by itself.
fn examine(start: &Start, connections: u32, report: &mut DoctorReport) {
    let config = &start.config;
    let shards = config.shard_count();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let limit = Descriptors::raise();
    let chosen = match choose_driver(config, start.plan.connections_max, limit) {
        Ok((chosen, reason)) => {
            let wanted = chosen == DriverChosen::IoUring || driver_kind(config.driver) == DriverKind::Mio;
            report.say(
                wanted,
                &format!("driver: {reason}"),
                "epoll costs a descriptor a connection, so that RLIMIT_NOFILE bounds them, and a system call a send: \
                 about 1.4 times the cpu of a delivery",
            );
            chosen
        }
        Err(error) => {
            report.say(
                false,
                &format!("driver: {error}"),
                "the daemon does not start: set driver = \"auto\"",
            );
            DriverChosen::Mio
        }
    };
    let room = Room::new(config, chosen, connections, limit.limit);
    descriptors(chosen, shards, room, connections, limit, report);
    if chosen == DriverChosen::IoUring {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        report.say(
            version_of(&release).is_none_or(|version| version >= WAKE_WITHOUT_EVENTFD),
            &format!("kernel: {release}"),
            "before Linux 6.13 one shard wakes another by an eventfd: about 4 us more cpu for each wake-up",
        );
    }
    report.say(
        usize::from(shards) >= cpus,
        &format!("shards: {shards} on {cpus} cpus"),
        "cpus without a shard serve nobody: leave `shards` at 0, or raise it",
    );
    report.say(
        connections <= start.plan.connections_max,
        &format!("{}; {} connections", start.plan, start.plan.connections_max),
        "more are answered 503: raise client.connections_max, or give it more memory",
    );
    let absence = absences::worst(WATCHED);
    let share = absence.total.as_secs_f64() / WATCHED.as_secs_f64();
    let what =
        format!("cpus: one is away for {:.1} % of its time, {:.1?} at once", share * 100.0, absence.longest);
    if share < ABSENT_MAX {
        report.say(true, &what, "");
    } else {
        report.note(
            &what,
            "to other programs, or to the host that this machine is a guest of: that share of deliveries waits for it",
        );
    }
    for Listener { key, address, .. } in &config.listeners() {
        let free = listener::ensure_free(key, address);
        let what = match &free {
            Ok(()) => format!("{key}: {address} is free"),
            Err(error) => error.to_string(),
        };
        report.say(
            free.is_ok(),
            &what,
            "the daemon does not start; unless it is the daemon that runs there already",
        );
    }
}

fn descriptors(
    chosen: DriverChosen,
    shards: u16,
    room: Room,
    connections: u32,
    descriptors: Descriptors,
    report: &mut DoctorReport,
) {
    let limit = descriptors.limit;
    let each = match chosen {
        DriverChosen::IoUring => ", and as much again for each shard",
        DriverChosen::Mio => "",
    };
    let raised =
        descriptors.raised_from.map(|from| format!(" (raised from {from} at start)")).unwrap_or_default();
    // The kernel spreads connections over shards by hash: never quite evenly.
    let wanted = u64::from(connections) + u64::from(connections) / 10;
    let shards_wanted = wanted.div_ceil(limit.saturating_sub(256).max(1));
    report.say(
        room.connections_max >= connections,
        &format!(
            "RLIMIT_NOFILE = {limit}{raised}{each}: room for {} of {connections} connections",
            room.connections_max
        ),
        &format!(
            "more are answered 503: set LimitNOFILE={} in the systemd unit{}",
            wanted.saturating_add(1024),
            match chosen {
                DriverChosen::IoUring if shards_wanted > u64::from(shards) =>
                    format!(", or run --shards {shards_wanted}"),
                _ => String::new(),
            }
        ),
    );
}

/// What the script says, and whether it finds something short.
fn host_settings(connections: u32, root: &str) -> io::Result<(String, bool)> {
    let connections = connections.to_string();
    let mut arguments = vec!["-s", "--", "--connections", &connections];
    if !root.is_empty() {
        arguments.extend(["--root", root]);
    }
    let mut shell =
        Command::new("sh").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut input) = shell.stdin.take() {
        input.write_all(HOST_SCRIPT.as_bytes())?;
    }
    let output = shell.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Descriptors have been judged above, for this program and its driver.
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("note ") && !line.starts_with("       or run more shards"));
    let text = lines.map(|line| format!("{line}\n")).collect();
    match output.status.code() {
        Some(0) => Ok((text, false)),
        Some(1) => Ok((text, true)),
        _ => Err(io::Error::other(format!("sh ended with {}", output.status))),
    }
}

/// The first two numbers of a kernel's release.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_kernels_write_them() {
        assert_eq!(version_of("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version_of("5.10.0"), Some((5, 10)));
        assert_eq!(version_of("weird"), None);
        assert!((6, 9) < WAKE_WITHOUT_EVENTFD && (6, 13) >= WAKE_WITHOUT_EVENTFD);
    }

    #[test]
    fn a_miss_has_its_cost_below_it() {
        let mut report = DoctorReport::default();
        report.say(true, "one", "nothing");
        report.say(false, "two = 1, wanted 2", "is slow");
        assert_eq!(report.text, "ok     one\nSHORT  two = 1, wanted 2\n       is slow\n");
        assert!(report.short);
    }
}
