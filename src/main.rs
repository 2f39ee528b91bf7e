//! The daemon: arguments → configuration → node.

use std::process::ExitCode;

use trunkline::config::cli::Job;
use trunkline::{config, node};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let refused = node::upgrade::refuse_start;
    match config::cli::run(std::env::args_os(), std::env::vars_os(), node::clock::unix_s(), refused) {
        Ok(Job::Serve(start)) => node::run(start),
        Ok(Job::Upgrade(task)) => node::upgrade::ask(task),
        Ok(Job::Doctor(start, diagnosis)) => node::doctor::run(&start, &diagnosis),
        Ok(Job::Token(task)) => node::tokens::run(&task),
        Ok(Job::Store(task)) => node::store::run(&task),
        Ok(Job::Order(task)) => node::orders::run(&task),
        Ok(Job::Look(task)) => node::look::run(&task),
        Ok(Job::Init(task)) => node::init::run(&task),
        Err(code) => code,
    }
}
