//! The daemon: arguments → configuration → node.

use std::process::ExitCode;

use trunkline::{config, node};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match config::cli::run(std::env::args_os(), std::env::vars_os()) {
        Ok(order) => node::run(order),
        Err(code) => code,
    }
}
