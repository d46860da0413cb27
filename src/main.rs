//! `pghc`: see `pghc --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pghc::cli;

/// A consensus-ordered write layer over plain PostgreSQL with a verifiable hash chain.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole parade on this machine: databases, coordinators and API nodes in every zone.
    Dev(cli::dev::Arguments),
    /// Show how a running parade is doing. Exit code 0: healthy, 1: something is wrong, 2: nothing
    /// answers.
    Status(cli::status::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pghc: the system gives no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => cli::dev::run(arguments).await,
            Command::Status(arguments) => cli::status::run(arguments).await,
        }
    })
}
