//! Arguments, then the run, then the reports, then the exit code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use trunkline_loadgen::cli::{Asked, Cli, FloorBeside, Outputs, SetupFault, floor_plan, prepare};
use trunkline_loadgen::floor::{Floor, FloorBy, FloorOptions};
use trunkline_loadgen::report::{Bar, HdrLog, html, json, text};
use trunkline_loadgen::run::{Phase, Plan, RunResult, run};

fn main() -> ExitCode {
    // What is late by a turn of another thread would be measured as the server's. Where it is forbidden, the run says how
    // late the generator was.
    let _ = trunkline::driver::take_short_turns();
    match carry_out(Cli::parse()) {
        Ok(code) => code,
        Err(SetupFault(problem)) => {
            eprintln!("trunkline-loadgen: {problem}");
            ExitCode::from(2)
        }
    }
}

fn carry_out(cli: Cli) -> Result<ExitCode, SetupFault> {
    match prepare(cli)? {
        Asked::Serve(options) => serve(&options),
        Asked::Run { plan, phases, floor, outputs, notes } => {
            for note in &notes {
                eprintln!("trunkline-loadgen: {note}");
            }
            measure(&plan, &phases, floor, &outputs, notes)
        }
    }
}

fn serve(options: &FloorOptions) -> Result<ExitCode, SetupFault> {
    let fault = |error: std::io::Error| SetupFault(format!("floor: {error}"));
    let mut floor = Floor::bind(options).map_err(fault)?;
    println!("listening on {}", floor.local_addr().map_err(fault)?);
    floor.run().map_err(fault)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(
    plan: &Plan,
    phases: &[Phase],
    floor: Option<FloorBeside>,
    outputs: &Outputs,
    notes: Vec<String>,
) -> Result<ExitCode, SetupFault> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once: its sender does not want to wait for the report.
        let at_once = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        at_once
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| SetupFault(format!("signals: {error}")))?;
    }
    let mut target = measure_one(plan, phases, &stop, outputs, outputs.hdr.as_deref())?;
    target.notes.extend(notes);
    let beside = match floor.filter(|_| !target.interrupted) {
        None => None,
        Some(beside) => match measure_floor(plan, phases, beside, &stop, outputs) {
            Ok(floor) => Some(floor),
            // The target's figures stand without it.
            Err(SetupFault(problem)) => {
                target.notes.push(format!("the floor was not measured: {problem}"));
                None
            }
        },
    };
    report(&target, beside.as_ref(), outputs)?;
    Ok(ExitCode::from(target.verdict().exit_code()))
}

fn measure_one(
    plan: &Plan,
    phases: &[Phase],
    stop: &AtomicBool,
    outputs: &Outputs,
    hdr: Option<&Path>,
) -> Result<RunResult, SetupFault> {
    let log = match hdr {
        Some(path) => Some(HdrLog::create(path, &plan.name).map_err(|error| at(path, &error))?),
        None => None,
    };
    let mut bar = Bar::new(outputs.quiet, log);
    let result = run(plan, phases, stop, &mut bar);
    let log_fault = bar.finish();
    let mut result = result.map_err(|error| SetupFault(error.to_string()))?;
    if let (Some(error), Some(path)) = (log_fault, hdr) {
        result.notes.push(format!("the log ends early: {}", at(path, &error).0));
    }
    Ok(result)
}

fn measure_floor(
    plan: &Plan,
    phases: &[Phase],
    beside: FloorBeside,
    stop: &AtomicBool,
    outputs: &Outputs,
) -> Result<RunResult, SetupFault> {
    let server = FloorProcess::start(beside)?;
    let plan = floor_plan(plan, beside, server.addr, server.child.id());
    let phases: Vec<Phase> = phases
        .iter()
        .map(|phase| Phase {
            open: phase.open.map(|(total, rate)| (total.min(beside.connections), rate)),
            ..phase.clone()
        })
        .collect();
    let hdr = outputs.hdr.as_ref().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".floor");
        name
    });
    measure_one(&plan, &phases, stop, outputs, hdr.as_deref().map(Path::new))
}

/// This program as the floor, for as long as this value lives.
struct FloorProcess {
    child: Child,
    addr: SocketAddr,
}

impl FloorProcess {
    fn start(beside: FloorBeside) -> Result<FloorProcess, SetupFault> {
        let fault = |error: std::io::Error| SetupFault(format!("cannot start the floor: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(fault)?);
        command.args(["floor", "--listen", "127.0.0.1:0", "--by"]);
        command.arg(match beside.by {
            FloorBy::Send => "send",
            FloorBy::Uring => "uring",
        });
        if let Some(ping) = beside.ping {
            command.args(["--ping", &format!("{}ms", ping.as_millis())]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(fault)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(fault)?;
        }
        match line.trim().strip_prefix("listening on ").and_then(|addr| addr.parse().ok()) {
            Some(addr) => Ok(FloorProcess { child, addr }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(SetupFault("the floor does not say where it listens".into()))
            }
        }
    }
}

impl Drop for FloorProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn report(target: &RunResult, floor: Option<&RunResult>, outputs: &Outputs) -> Result<(), SetupFault> {
    let text = text(target, floor);
    let to_stdout = outputs.json.as_deref() == Some(Path::new("-"));
    // A reader that has seen enough (`| head`) is no failure.
    if to_stdout {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    } else {
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    if let Some(path) = &outputs.json {
        let document = format!("{:#}\n", json(target, floor));
        if to_stdout {
            let _ = std::io::stdout().lock().write_all(document.as_bytes());
        } else {
            std::fs::write(path, document).map_err(|error| at(path, &error))?;
        }
    }
    if let Some(path) = &outputs.html {
        let page = html(target, floor).map_err(|error| SetupFault(format!("the report's plots: {error}")))?;
        std::fs::write(path, page).map_err(|error| at(path, &error))?;
    }
    Ok(())
}

fn at(path: &Path, error: &std::io::Error) -> SetupFault {
    SetupFault(format!("{}: {error}", path.display()))
}
